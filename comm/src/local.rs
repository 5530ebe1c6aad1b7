//! The transports inside one process.

use std::sync::{Arc, Mutex, PoisonError};

use hetero_hal::{
    Buffer, BufferLayout, Device, Error, ExternalMemory, HandleKind, HostMemory, HostSemantics, HostTask, Point, Queue,
    QueueOptions, Reach, Result, Work,
};

use crate::host::{HostBytes, HostPages};
use crate::transport::{Channel, Endpoint, Inapplicable, Transport};

/// The most bytes of host memory that a staged transfer goes through at once.
const PIECE: usize = 1 << 20;

fn differ(from: &Endpoint, to: &Endpoint) -> Result<(), Inapplicable> {
    if from.id() == to.id() { Err(Inapplicable::SameEnd(from.id())) } else { Ok(()) }
}

fn refused(why: Inapplicable) -> Error {
    Error::invalid_argument(why.to_string())
}

fn queue(device: &dyn Device, name: &str) -> Result<Arc<dyn Queue>> {
    device.queue(&QueueOptions { name: name.to_owned(), capacity: None })
}

/// The transport of two ends that use the same pages of host memory.
/// Nothing is moved: the cost of a hand-over is that the receiver's work begins behind the
/// sender's.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroCopy;

impl Transport for ZeroCopy {
    fn name(&self) -> &str {
        crate::cost::IN_PLACE
    }

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<(), Inapplicable> {
        differ(from, to)?;
        for device in [from, to].into_iter().filter_map(Endpoint::device) {
            if !device.capabilities().imports.contains(&HandleKind::Host) {
                return Err(Inapplicable::NoImport(device.info().id.clone()));
            }
        }
        Ok(())
    }

    fn connect(&self, from: &Endpoint, to: &Endpoint, bytes: usize) -> Result<Box<dyn Channel>> {
        self.applies(from, to).map_err(refused)?;
        let pages = HostMemory::allocate(bytes)?;
        let end = |endpoint: &Endpoint| match endpoint.device() {
            None => Ok(HostPages::buffer(pages.clone())),
            Some(device) => device.import(ExternalMemory::Host(pages.clone()), HostSemantics::Shared),
        };
        Ok(Box::new(SharedPages { source: end(from)?, target: end(to)? }))
    }
}

struct SharedPages {
    source: Buffer,
    target: Buffer,
}

impl Channel for SharedPages {
    fn source(&self) -> &Buffer {
        &self.source
    }

    fn target(&self) -> &Buffer {
        &self.target
    }

    fn copied_bytes(&self) -> usize {
        0
    }

    fn transfer(&self, after: &Point, done: &Point) -> Result<()> {
        let done = done.clone();
        let pass_on = move |outcome: Result<()>| Point::settle(&[done], &outcome);
        after.timeline.on_reach(after.value, Box::new(pass_on));
        Ok(())
    }
}

/// The transport by which one device copies straight from or to the other's memory: the receiver
/// copies where it can read there, else the sender where it can write there.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerCopy;

impl PeerCopy {
    /// Returns the device that copies.
    fn copier<'a>(from: &'a Endpoint, to: &'a Endpoint) -> Result<&'a Arc<dyn Device>, Inapplicable> {
        differ(from, to)?;
        let (Some(sender), Some(receiver)) = (from.device(), to.device()) else { return Err(Inapplicable::Host) };
        if receiver.edge_to(sender.info()).read >= Reach::Copy {
            return Ok(receiver);
        }
        if sender.edge_to(receiver.info()).write >= Reach::Copy {
            return Ok(sender);
        }
        Err(Inapplicable::NoPeerAccess { from: from.id(), to: to.id() })
    }
}

impl Transport for PeerCopy {
    fn name(&self) -> &str {
        "peer-copy"
    }

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<(), Inapplicable> {
        PeerCopy::copier(from, to).map(|_| ())
    }

    fn connect(&self, from: &Endpoint, to: &Endpoint, bytes: usize) -> Result<Box<dyn Channel>> {
        let copier = PeerCopy::copier(from, to).map_err(refused)?;
        let (source, target) = (allocate(from, bytes)?, allocate(to, bytes)?);
        let work = Work::copy(source.clone(), target.clone());
        Ok(Box::new(Queued { source, target, work, queue: queue(&**copier, "peer-copy")? }))
    }
}

/// The transport through a bounded piece of host memory, or straight from or to the host where that
/// is one of the ends.
/// It is always possible.
#[derive(Clone, Copy, Debug, Default)]
pub struct Staged;

impl Transport for Staged {
    fn name(&self) -> &str {
        "staged"
    }

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<(), Inapplicable> {
        differ(from, to)
    }

    fn connect(&self, from: &Endpoint, to: &Endpoint, bytes: usize) -> Result<Box<dyn Channel>> {
        self.applies(from, to).map_err(refused)?;
        // The ends differ, so that one of them is a device.
        let device = to.device().or(from.device()).ok_or_else(|| refused(Inapplicable::Host))?;
        let (source, target) = (allocate(from, bytes)?, allocate(to, bytes)?);
        let piece = if from.device().is_some() && to.device().is_some() { bytes.min(PIECE) } else { 0 };
        let copy = StagedCopy { source: source.clone(), target: target.clone(), piece: Mutex::new(vec![0; piece]) };
        let queue = queue(&**device, "staged")?;
        Ok(Box::new(Queued { source, target, work: Work::host(Arc::new(copy)), queue }))
    }
}

fn allocate(endpoint: &Endpoint, bytes: usize) -> Result<Buffer> {
    match endpoint.device() {
        None => HostBytes::buffer(bytes),
        Some(device) => device.allocate(BufferLayout::new(bytes)),
    }
}

/// A copy as [`copy_through_host`](hetero_hal::copy_through_host) does it, with memory that is kept
/// from transfer to transfer.
struct StagedCopy {
    source: Buffer,
    target: Buffer,
    piece: Mutex<Vec<u8>>,
}

impl HostTask for StagedCopy {
    fn run(&self) -> Result<()> {
        if let Some(host) = self.source.memory::<HostBytes>() {
            return host.write_to(&self.target);
        }
        if let Some(host) = self.target.memory::<HostBytes>() {
            return host.read_from(&self.source);
        }
        let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offset = 0;
        while offset < self.source.len() {
            let bytes = piece.len().min(self.source.len() - offset);
            self.source.read(offset, &mut piece[..bytes])?;
            self.target.write(offset, &piece[..bytes])?;
            offset += bytes;
        }
        Ok(())
    }
}

/// A transfer that is a piece of work for a queue.
struct Queued {
    source: Buffer,
    target: Buffer,
    work: Work,
    queue: Arc<dyn Queue>,
}

impl Channel for Queued {
    fn source(&self) -> &Buffer {
        &self.source
    }

    fn target(&self) -> &Buffer {
        &self.target
    }

    fn copied_bytes(&self) -> usize {
        self.source.len()
    }

    fn transfer(&self, after: &Point, done: &Point) -> Result<()> {
        self.queue.submit(std::slice::from_ref(after), self.work.clone(), std::slice::from_ref(done))
    }
}
