//! Host memory as a device's: pages of its own, or imported ones.

use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{Buffer, DeviceId, Error, HostMemory, Memory, MemoryKind, Result, Tensor, check_range, reserve_bytes};
use hetero_kit::Budget;

use crate::operand::Operand;

/// The alignment that this device prefers: a cache line, and the widest vector.
pub(crate) const ALIGNMENT: usize = 64;

/// Memory of the CPU device.
pub(crate) struct CpuMemory {
    host: HostMemory,
    /// The bytes of the budget, for memory that counts against the device's limit.
    owned: Option<Counted>,
}

impl CpuMemory {
    /// Allocates fresh memory that counts against the budget.
    pub(crate) fn allocate(device: &DeviceId, bytes: usize, budget: &Arc<Budget>) -> Result<Buffer> {
        let owned = Some(Counted::take(device, bytes as u64, budget, 0)?);
        let host = HostMemory::allocate(bytes).map_err(|error| error.on(device.clone()))?;
        Ok(Buffer::new(device.clone(), MemoryKind::Host, bytes, Arc::new(CpuMemory { host, owned })))
    }

    /// Imports memory of another owner, in place.
    pub(crate) fn import(device: &DeviceId, host: HostMemory) -> Buffer {
        let bytes = host.len();
        Buffer::new(device.clone(), MemoryKind::Host, bytes, Arc::new(CpuMemory { host, owned: None }))
    }

    /// Imports memory into a buffer that was imported before and that nobody uses any more, without
    /// allocating anything.
    pub(crate) fn reimport(device: &DeviceId, host: HostMemory, former: Buffer) -> Buffer {
        let other = host.clone();
        let reused = former.reuse(|memory: &mut CpuMemory| {
            let bytes = other.len();
            // Memory that counts against the limit must not be replaced in this way.
            memory.owned.is_none().then(|| memory.host = other)?;
            Some(bytes)
        });
        reused.unwrap_or_else(|_| Self::import(device, host))
    }

    pub(crate) fn host(&self) -> &HostMemory {
        &self.host
    }
}

/// Returns the address of a buffer's first byte.
///
/// # Errors
/// `Internal` where the memory is another device's, or constant.
pub(crate) fn operand(buffer: &Buffer) -> Result<Operand> {
    let start = buffer.memory::<CpuMemory>().and_then(|memory| memory.host.as_mut_ptr());
    let start = start.ok_or_else(|| Error::internal("a run's own memory cannot be written"))?;
    Ok(Operand { address: start.wrapping_add(buffer.offset()), bytes: buffer.len() })
}

/// The bytes of a buffer that nobody writes any more.
struct Frozen(Buffer);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        let Some(memory) = self.0.memory::<CpuMemory>() else { return &[] };
        // SAFETY: the buffer lies inside memory that it keeps alive, and `frozen` took the only
        // handle by which it could be written.
        unsafe { std::slice::from_raw_parts(memory.host.as_ptr().add(self.0.offset()), self.0.len()) }
    }
}

/// Returns the bytes of a buffer, which its caller has alone and which is not written any more.
pub(crate) fn frozen(buffer: Buffer) -> Bytes {
    Bytes::from_owner(Frozen(buffer))
}

/// Bytes of a budget that are taken for as long as this lives.
pub(crate) struct Counted {
    bytes: u64,
    budget: Arc<Budget>,
}

impl Counted {
    /// Takes bytes where others hold `beside` bytes; see [`Budget::take_beside`].
    fn take(device: &DeviceId, bytes: u64, budget: &Arc<Budget>, beside: u64) -> Result<Counted> {
        budget.take_beside(device, bytes, beside)?;
        Ok(Counted { bytes, budget: budget.clone() })
    }
}

/// The budget from which a compilation takes memory for what an executable keeps.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) device: DeviceId,
    pub(crate) budget: Arc<Budget>,
    /// The bytes that the caller holds beside; see [`hetero_hal::CompileOptions::reserved`].
    pub(crate) reserved: u64,
}

impl Account {
    /// Returns an account that allows everything.
    #[cfg(test)]
    pub(crate) fn unlimited() -> Account {
        Account { device: DeviceId::new("cpu", 0), budget: Arc::new(Budget::new(u64::MAX)), reserved: 0 }
    }

    /// Takes bytes for as long as the answer lives.
    ///
    /// # Errors
    /// `OutOfMemory` where the budget forbids it.
    pub(crate) fn take(&self, bytes: usize) -> Result<Counted> {
        Counted::take(&self.device, bytes as u64, &self.budget, self.reserved)
    }

    /// Returns the form of a constant that `make` makes, once there is room for its bytes.
    ///
    /// # Errors
    /// `OutOfMemory` where the budget forbids it, and the errors of `make`.
    pub(crate) fn keep(&self, bytes: usize, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let taken = self.take(bytes)?;
        Ok(make()?.kept_by(Arc::new(taken)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

/// Returns the same tensor, whose content counts against the budget for as long as anybody holds
/// it: bytes, texts, and the parts of sequences.
///
/// # Errors
/// `OutOfMemory` where the budget forbids it.
pub(crate) fn counted(content: Tensor, device: &DeviceId, budget: &Arc<Budget>) -> Result<Tensor> {
    let bytes = content.footprint() as u64;
    if bytes == 0 {
        return Ok(content);
    }
    Ok(content.kept_by(Arc::new(Counted::take(device, bytes, budget, 0)?)))
}

impl Memory for CpuMemory {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        check_range(offset, into.len(), self.host.len())?;
        let host = &self.host;
        // SAFETY: the range was checked to lie inside memory that `host` keeps alive, `into` is
        // exclusive, and by the contract of `Memory` nothing writes the range now.
        unsafe { std::ptr::copy(host.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        check_range(offset, from.len(), self.host.len())?;
        let target = self
            .host
            .as_mut_ptr()
            .ok_or_else(|| Error::invalid_argument("this memory was imported as constant and cannot be written"))?;
        // SAFETY: as in `read`; the memory is writable, and by the contract of `Memory` nothing
        // else accesses the range now.
        unsafe { std::ptr::copy(from.as_ptr(), target.add(offset), from.len()) };
        Ok(())
    }

    fn append(&self, offset: usize, bytes: usize, into: &mut Vec<u8>) -> Result<()> {
        check_range(offset, bytes, self.host.len())?;
        reserve_bytes(into, bytes)?;
        // SAFETY: as in `read`.
        // The pages are initialised, and a vector that is lent has no bytes in them.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(self.host.as_ptr().add(offset), bytes) });
        Ok(())
    }
}
