//! The transports inside one process.

use std::cell::Cell;
use std::sync::Arc;

use hetero_hal::{Buffer, Error, HandleKind, HostTask, Reach, Result, Work};

use crate::host::HostBytes;
use crate::transport::{Carriage, Endpoint, Inapplicable, Transport};

/// The most bytes of host memory that a staged transfer goes through at once.
const PIECE: usize = 1 << 20;

fn differ(from: &Endpoint, to: &Endpoint) -> Result<(), Inapplicable> {
    if from.id() == to.id() { Err(Inapplicable::SameEnd(from.id())) } else { Ok(()) }
}

fn refused(why: Inapplicable) -> Error {
    Error::invalid_argument(why.to_string())
}

/// The transport of two ends that use the same pages of host memory.
/// Nothing is moved: the cost of a hand-over is that the receiver's work begins behind the
/// sender's.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroCopy;

impl Transport for ZeroCopy {
    fn name(&self) -> &str {
        "zero-copy"
    }

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<Carriage, Inapplicable> {
        differ(from, to)?;
        for device in [from, to].into_iter().filter_map(Endpoint::device) {
            if !device.capabilities().imports.contains(&HandleKind::Host) {
                return Err(Inapplicable::NoImport(device.info().id.clone()));
            }
        }
        Ok(Carriage::InPlace)
    }

    fn carry(&self, _: &Endpoint, _: &Endpoint, _: &Buffer, _: &Buffer) -> Result<Work> {
        Err(Error::invalid_argument("zero-copy moves nothing: both ends use the same pages"))
    }
}

/// The transport by which one device copies straight from or to the other's memory: the receiver
/// copies where it can read there, else the sender where it can write there.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerCopy;

impl Transport for PeerCopy {
    fn name(&self) -> &str {
        "peer-copy"
    }

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<Carriage, Inapplicable> {
        differ(from, to)?;
        let (Some(sender), Some(receiver)) = (from.device(), to.device()) else { return Err(Inapplicable::Host) };
        if receiver.edge_to(sender.info()).read >= Reach::Copy {
            return Ok(Carriage::ByReceiver);
        }
        if sender.edge_to(receiver.info()).write >= Reach::Copy {
            return Ok(Carriage::BySender);
        }
        Err(Inapplicable::NoPeerAccess { from: from.id(), to: to.id() })
    }

    fn carry(&self, from: &Endpoint, to: &Endpoint, source: &Buffer, target: &Buffer) -> Result<Work> {
        self.applies(from, to).map_err(refused)?;
        let work = Work::copy(source.clone(), target.clone());
        work.check()?;
        Ok(work)
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

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<Carriage, Inapplicable> {
        differ(from, to)?;
        // The ends differ, so that one of them is a device.
        Ok(if to.device().is_some() { Carriage::ByReceiver } else { Carriage::BySender })
    }

    fn carry(&self, from: &Endpoint, to: &Endpoint, source: &Buffer, target: &Buffer) -> Result<Work> {
        self.applies(from, to).map_err(refused)?;
        Work::copy(source.clone(), target.clone()).check()?;
        Ok(Work::host(Arc::new(StagedCopy { source: source.clone(), target: target.clone() })))
    }
}

thread_local! {
    /// The piece of host memory that staged copies on this thread go through.
    /// A thread does one at a time, so that no copy allocates after the first one of its size.
    static STAGE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A copy by the host, between any two buffers of the same length.
struct StagedCopy {
    source: Buffer,
    target: Buffer,
}

impl HostTask for StagedCopy {
    /// Says that a copy waits for drivers alone.
    fn may_wait(&self) -> bool {
        false
    }

    fn run(&self) -> Result<()> {
        if let Some(host) = self.source.memory::<HostBytes>() {
            return host.write_to(&self.target);
        }
        if let Some(host) = self.target.memory::<HostBytes>() {
            return host.read_from(&self.source);
        }
        let mut stage = STAGE.take();
        let needed = self.source.len().min(PIECE);
        if stage.len() < needed {
            stage.resize(needed, 0);
        }
        let outcome = self.through(&mut stage[..needed]);
        STAGE.set(stage);
        outcome
    }
}

impl StagedCopy {
    fn through(&self, stage: &mut [u8]) -> Result<()> {
        let mut offset = 0;
        while offset < self.source.len() {
            let bytes = stage.len().min(self.source.len() - offset);
            self.source.read(offset, &mut stage[..bytes])?;
            self.target.write(offset, &stage[..bytes])?;
            offset += bytes;
        }
        Ok(())
    }
}
