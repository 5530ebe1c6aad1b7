//! Memory under watch: which bytes a buffer stands for, and accesses of the host to them.

use std::sync::Arc;

use hetero_hal::{Buffer, DeviceId, Memory, Result};

use super::ledger::Ledger;

/// A range of bytes in a space in which ranges can overlap: an allocation, or the host's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// The number of the allocation; 0 stands for the host's address space.
    space: u64,
    begin: usize,
    end: usize,
}

impl Region {
    /// Tells whether the two have a byte in common.
    pub(super) fn overlaps(&self, other: &Region) -> bool {
        self.space == other.space && self.begin.max(other.begin) < self.end.min(other.end)
    }
}

/// An allocation of the inner device, whose accesses are watched.
pub(super) struct Watched {
    inner: Buffer,
    /// The region of the whole allocation.
    whole: Region,
    /// Whether the memory was imported as immutable.
    pub(super) constant: bool,
    ledger: Arc<Ledger>,
}

impl Watched {
    /// Wraps a whole buffer of the inner device.
    /// `address` is that of host memory that was imported in place.
    pub(super) fn wrap(ledger: &Arc<Ledger>, inner: Buffer, address: Option<usize>, constant: bool) -> Buffer {
        let (space, begin) = address.map_or_else(|| (ledger.number(), 0), |address| (0, address));
        let whole = Region { space, begin, end: begin.saturating_add(inner.len()) };
        let (device, kind, bytes) = (inner.device().clone(), inner.kind(), inner.len());
        Buffer::new(device, kind, bytes, Arc::new(Watched { inner, whole, constant, ledger: ledger.clone() }))
    }

    /// Returns the inner device's buffer of the same bytes, or the buffer itself where it is not
    /// watched.
    pub(super) fn unwrap(buffer: &Buffer) -> Result<Buffer> {
        match buffer.memory::<Watched>() {
            Some(watched) => watched.inner.slice(buffer.offset()..buffer.offset() + buffer.len()),
            None => Ok(buffer.clone()),
        }
    }

    /// Returns the region of a buffer's first bytes; `None` where the buffer is not watched.
    pub(super) fn region(buffer: &Buffer, bytes: usize) -> Option<Region> {
        buffer.memory::<Watched>().map(|watched| watched.part(buffer.offset(), bytes))
    }

    fn part(&self, offset: usize, bytes: usize) -> Region {
        let begin = self.whole.begin.saturating_add(offset);
        Region { space: self.whole.space, begin, end: begin.saturating_add(bytes) }
    }

    fn device(&self) -> &DeviceId {
        self.inner.device()
    }
}

impl Memory for Watched {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        self.ledger.host_access(self.device(), self.part(offset, into.len()), false)?;
        self.inner.read(offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        self.ledger.host_access(self.device(), self.part(offset, from.len()), true)?;
        self.inner.write(offset, from)
    }

    fn append(&self, offset: usize, bytes: usize, into: &mut Vec<u8>) -> Result<()> {
        self.ledger.host_access(self.device(), self.part(offset, bytes), false)?;
        self.inner.append(offset..offset.saturating_add(bytes), into)
    }
}
