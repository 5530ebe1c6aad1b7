//! Host memory as a device's: pages of its own, or imported ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hetero_hal::{Buffer, DeviceId, Error, ErrorKind, HostMemory, Memory, MemoryKind, Result};

/// Bytes that a device has allocated, and may.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) used: AtomicU64,
    pub(crate) limit: u64,
}

impl Budget {
    fn take(&self, device: &DeviceId, bytes: u64) -> Result<()> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.limit)
        });
        taken.map(|_| ()).map_err(|used| {
            Error::new(ErrorKind::OutOfMemory, "cannot allocate memory")
                .on(device.clone())
                .with_sizes(bytes, Some(self.limit.saturating_sub(used)))
                .with_remedy("bind smaller shapes, or raise the device's memory limit")
        })
    }
}

/// Memory of the CPU device.
pub(crate) struct CpuMemory {
    host: HostMemory,
    /// Present for memory that counts against the device's limit.
    owned: Option<Arc<Budget>>,
}

impl CpuMemory {
    /// Fresh memory that counts against the budget.
    pub(crate) fn allocate(device: &DeviceId, bytes: usize, budget: &Arc<Budget>) -> Result<Buffer> {
        budget.take(device, bytes as u64)?;
        let memory = HostMemory::allocate(bytes).map(|host| CpuMemory { host, owned: Some(budget.clone()) });
        match memory {
            Ok(memory) => Ok(Buffer::new(device.clone(), MemoryKind::Host, bytes, Arc::new(memory))),
            Err(error) => {
                budget.used.fetch_sub(bytes as u64, Ordering::Relaxed);
                Err(error.on(device.clone()))
            }
        }
    }

    /// Memory of somebody else's, in place.
    pub(crate) fn import(device: &DeviceId, host: HostMemory) -> Buffer {
        let bytes = host.len();
        Buffer::new(device.clone(), MemoryKind::Host, bytes, Arc::new(CpuMemory { host, owned: None }))
    }

    pub(crate) fn host(&self) -> &HostMemory {
        &self.host
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.host.len() => Ok(()),
            _ => Err(Error::invalid_argument(format!(
                "bytes {offset} to {offset}+{bytes} are outside memory of {} bytes",
                self.host.len()
            ))),
        }
    }
}

impl Drop for CpuMemory {
    fn drop(&mut self) {
        if let Some(budget) = &self.owned {
            budget.used.fetch_sub(self.host.len() as u64, Ordering::Relaxed);
        }
    }
}

impl Memory for CpuMemory {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        self.check(offset, into.len())?;
        // SAFETY: the range was checked to lie inside memory that `self.host` keeps alive, `into` is exclusive, and by the contract of
        // `Memory` nothing writes the range now.
        unsafe { std::ptr::copy(self.host.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        self.check(offset, from.len())?;
        let target = self
            .host
            .as_mut_ptr()
            .ok_or_else(|| Error::invalid_argument("this memory was imported as constant and cannot be written"))?;
        // SAFETY: as in `read`; the memory is writable, and by the contract of `Memory` nothing else accesses the range now.
        unsafe { std::ptr::copy(from.as_ptr(), target.add(offset), from.len()) };
        Ok(())
    }
}
