//! Channels: memory at both ends of a transport, for a fixed number of bytes.

use std::sync::Arc;

use hetero_hal::{
    Buffer, BufferLayout, Error, ExternalMemory, HostMemory, HostSemantics, Point, Queue, QueueOptions, Result, Work,
};

use crate::host::{HostBytes, HostPages};
use crate::transport::{Endpoint, Transport};

/// A transport between two endpoints with memory of its own at both, and a queue that carries.
/// It moves a fixed number of bytes, again and again.
///
/// Transports are measured over channels.
/// A session has memory and queues already, and submits the same work by itself.
pub struct Channel {
    source: Buffer,
    target: Buffer,
    /// The work, and the queue that does it; `None` where both ends are the same memory.
    carrier: Option<(Work, Arc<dyn Queue>)>,
}

impl Channel {
    /// Prepares to move `bytes` bytes: allocates or imports the memory of both ends, and makes the
    /// work.
    ///
    /// # Errors
    /// `InvalidArgument` where the transport does not serve the pair.
    /// Otherwise the errors of the devices.
    pub fn connect(transport: &dyn Transport, from: &Endpoint, to: &Endpoint, bytes: usize) -> Result<Channel> {
        let carriage = transport.applies(from, to).map_err(|why| Error::invalid_argument(why.to_string()))?;
        let Some(carrier) = carriage.carrier(from, to) else {
            let pages = HostMemory::allocate(bytes)?;
            let end = |endpoint: &Endpoint| match endpoint.device() {
                None => Ok(HostPages::buffer(pages.clone())),
                Some(device) => device.import(ExternalMemory::Host(pages.clone()), HostSemantics::Shared),
            };
            return Ok(Channel { source: end(from)?, target: end(to)?, carrier: None });
        };
        let device = carrier.device().ok_or_else(|| {
            Error::internal(format!("{} is to be carried by the host, which has no queue", transport.name()))
        })?;
        let (source, target) = (allocate(from, bytes)?, allocate(to, bytes)?);
        let work = transport.carry(from, to, &source, &target)?;
        let queue = device.queue(&QueueOptions { name: transport.name().to_owned(), capacity: None })?;
        Ok(Channel { source, target, carrier: Some((work, queue)) })
    }

    /// Returns the buffer that the sender writes: its own memory, or memory that it has imported.
    #[must_use]
    pub fn source(&self) -> &Buffer {
        &self.source
    }

    /// Returns the buffer that the receiver reads.
    #[must_use]
    pub fn target(&self) -> &Buffer {
        &self.target
    }

    /// Returns the bytes that each [`Channel::transfer`] copies; 0 where both ends are the same
    /// memory.
    #[must_use]
    pub fn copied_bytes(&self) -> usize {
        if self.carrier.is_some() { self.source.len() } else { 0 }
    }

    /// Once `after` is reached, brings the bytes over, then reaches `done`; does not block.
    /// Where the transfer fails, or `after` does, fails the timeline of `done`.
    /// The caller orders transfers of one channel by their points.
    ///
    /// # Errors
    /// An error where the transfer could not be begun; `done` then stays as it is.
    pub fn transfer(&self, after: &Point, done: &Point) -> Result<()> {
        if let Some((work, queue)) = &self.carrier {
            return queue.submit(std::slice::from_ref(after), work.clone(), std::slice::from_ref(done));
        }
        let done = done.clone();
        let pass_on = move |outcome: Result<()>| Point::settle(&[done], &outcome);
        after.timeline.on_reach(after.value, Box::new(pass_on));
        Ok(())
    }
}

fn allocate(endpoint: &Endpoint, bytes: usize) -> Result<Buffer> {
    match endpoint.device() {
        None => HostBytes::buffer(bytes),
        Some(device) => device.allocate(BufferLayout::new(bytes)),
    }
}
