//! Host memory as a device's: pages of its own, or imported ones.

use std::sync::{Arc, PoisonError, RwLock};

use hetero_hal::{Budget, Buffer, DeviceId, Error, HostMemory, Memory, MemoryKind, Result, check_range};

/// Memory of the CPU device.
pub(crate) struct CpuMemory {
    /// Replaced where something else is imported into the same buffer.
    host: RwLock<HostMemory>,
    bytes: usize,
    /// Present for memory that counts against the device's limit.
    owned: Option<Arc<Budget>>,
}

impl CpuMemory {
    /// Fresh memory that counts against the budget.
    pub(crate) fn allocate(device: &DeviceId, bytes: usize, budget: &Arc<Budget>) -> Result<Buffer> {
        budget.take(device, bytes as u64)?;
        let memory = HostMemory::allocate(bytes).map(|host| CpuMemory {
            host: RwLock::new(host),
            bytes,
            owned: Some(budget.clone()),
        });
        match memory {
            Ok(memory) => Ok(Buffer::new(device.clone(), MemoryKind::Host, bytes, Arc::new(memory))),
            Err(error) => {
                budget.give(bytes as u64);
                Err(error.on(device.clone()))
            }
        }
    }

    /// Memory of somebody else's, in place.
    pub(crate) fn import(device: &DeviceId, host: HostMemory) -> Buffer {
        let bytes = host.len();
        Buffer::new(
            device.clone(),
            MemoryKind::Host,
            bytes,
            Arc::new(CpuMemory { host: RwLock::new(host), bytes, owned: None }),
        )
    }

    /// The memory; the clone keeps it alive whatever is imported meanwhile.
    pub(crate) fn host(&self) -> HostMemory {
        self.host.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other memory in place of what was imported; `false` where this is the device's own, or of another size.
    pub(crate) fn replace(&self, host: HostMemory) -> bool {
        let fits = self.owned.is_none() && host.len() == self.bytes;
        if fits {
            *self.host.write().unwrap_or_else(PoisonError::into_inner) = host;
        }
        fits
    }
}

impl Drop for CpuMemory {
    fn drop(&mut self) {
        if let Some(budget) = &self.owned {
            budget.give(self.bytes as u64);
        }
    }
}

impl Memory for CpuMemory {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        check_range(offset, into.len(), self.bytes)?;
        let host = self.host();
        // SAFETY: the range was checked to lie inside memory that `host` keeps alive, `into` is exclusive, and by the contract of `Memory`
        // nothing writes the range now.
        unsafe { std::ptr::copy(host.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        check_range(offset, from.len(), self.bytes)?;
        let host = self.host();
        let target = host
            .as_mut_ptr()
            .ok_or_else(|| Error::invalid_argument("this memory was imported as constant and cannot be written"))?;
        // SAFETY: as in `read`; the memory is writable, and by the contract of `Memory` nothing else accesses the range now.
        unsafe { std::ptr::copy(from.as_ptr(), target.add(offset), from.len()) };
        Ok(())
    }
}
