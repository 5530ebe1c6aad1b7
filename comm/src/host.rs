//! The host's end of a channel: memory of this process that no device owns.

use std::sync::{Arc, PoisonError, RwLock};

use hetero_hal::{Buffer, DeviceId, Error, HostMemory, Memory, MemoryKind, Result, check_range, reserve_bytes};

/// Returns the name of the host among devices, `host:0`; no driver has it.
#[must_use]
pub fn host_id() -> DeviceId {
    DeviceId::new("host", 0)
}

/// Checks a range of memory of this length.
fn check(offset: usize, bytes: usize, length: usize) -> Result<()> {
    check_range(offset, bytes, length).map_err(|error| error.on(host_id()))
}

/// Memory of the host's own, behind a lock.
pub(crate) struct HostBytes(RwLock<Vec<u8>>);

impl HostBytes {
    /// Allocates the given number of bytes, all 0.
    pub(crate) fn buffer(bytes: usize) -> Result<Buffer> {
        let mut content = Vec::new();
        reserve_bytes(&mut content, bytes)?;
        content.resize(bytes, 0);
        Ok(Buffer::new(host_id(), MemoryKind::Host, bytes, Arc::new(HostBytes(RwLock::new(content)))))
    }

    /// Writes all of the memory into a buffer of the same length, without another copy.
    pub(crate) fn write_to(&self, target: &Buffer) -> Result<()> {
        target.write(0, &self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fills all of the memory from a buffer of the same length, without another copy.
    pub(crate) fn read_from(&self, source: &Buffer) -> Result<()> {
        source.read(0, &mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Memory for HostBytes {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        check(offset, into.len(), content.len())?;
        into.copy_from_slice(&content[offset..offset + into.len()]);
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        check(offset, from.len(), content.len())?;
        content[offset..offset + from.len()].copy_from_slice(from);
        Ok(())
    }
}

/// Returns host memory as a buffer of the host's, which reads and writes it in place.
///
/// As for any buffer, the caller that reads or writes has waited for the points that order this
/// against devices.
#[must_use]
pub fn host_buffer(memory: HostMemory) -> Buffer {
    HostPages::buffer(memory)
}

/// Pages that the host shares with devices which imported them.
pub(crate) struct HostPages(HostMemory);

impl HostPages {
    /// Returns the pages as the host's buffer.
    pub(crate) fn buffer(pages: HostMemory) -> Buffer {
        Buffer::new(host_id(), MemoryKind::Shared, pages.len(), Arc::new(HostPages(pages)))
    }
}

impl Memory for HostPages {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        check(offset, into.len(), self.0.len())?;
        // SAFETY: the range was checked to lie inside pages that `self` keeps alive, `into` is
        // exclusive and no part of them, and by the contract of `Memory` nothing writes the range
        // now.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        check(offset, from.len(), self.0.len())?;
        let target = self.0.as_mut_ptr();
        let target =
            target.ok_or_else(|| Error::invalid_argument("constant memory cannot be written").on(host_id()))?;
        // SAFETY: as in `read`; the pages are writable, and by the contract of `Memory` nothing
        // else accesses the range now.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), target.add(offset), from.len()) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_keep_to_their_range() {
        for buffer in [HostBytes::buffer(64).unwrap(), HostPages::buffer(HostMemory::allocate(64).unwrap())] {
            buffer.write(60, &[1, 2, 3, 4]).unwrap();
            let mut seen = [9; 5];
            buffer.read(59, &mut seen).unwrap();
            assert_eq!(seen, [0, 1, 2, 3, 4]);
            assert!(buffer.write(61, &[0; 4]).is_err() && buffer.read(usize::MAX, &mut seen).is_err());
        }
        assert!(HostBytes::buffer(usize::MAX).is_err());
        let pages = HostPages(HostMemory::allocate(8).unwrap());
        assert!(pages.read(usize::MAX, &mut [0; 2]).is_err() && pages.write(7, &[0; 2]).is_err());
        let constant = HostPages::buffer(HostMemory::constant(vec![1u8; 8].into()));
        assert!(constant.write(0, &[2]).is_err());
    }
}
