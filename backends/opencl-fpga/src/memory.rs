//! Memory of an OpenCL device: its own, or the host's in place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_hal::{Buffer, Error, ErrorKind, HostMemory, Memory, MemoryKind, Result, check_range};

use crate::handle::{Context, Mem};
use crate::shared::Shared;

/// The number of ranges of an allocation beyond which those that nobody uses are forgotten.
/// It is larger than the number of ranges that the launches of usual programs bind.
const MOST_PARTS: usize = 4096;

/// An allocation.
pub(crate) struct OpenClMemory {
    // The fields are dropped in this order: parts, the whole, the memory under it, the device.
    parts: Mutex<HashMap<(usize, usize), Arc<Mem>>>,
    whole: Arc<Mem>,
    /// The host memory under it, where the memory was imported.
    host: Option<HostMemory>,
    bytes: usize,
    /// The bytes that count against the device's limit.
    owned: u64,
    shared: Arc<Shared>,
}

/// Rounds a size up: kernels touch whole words, and a range of 0 bytes cannot be bound.
fn rounded(bytes: usize) -> usize {
    bytes.max(4).next_multiple_of(4)
}

impl OpenClMemory {
    /// Allocates fresh memory of the device.
    pub(crate) fn allocate(shared: &Arc<Shared>, bytes: usize) -> Result<Buffer> {
        let size = bytes.checked_next_multiple_of(4).ok_or_else(|| too_large(shared, bytes))?.max(4);
        if size as u64 > shared.largest {
            return Err(too_large(shared, bytes));
        }
        shared.budget.take(&shared.id, size as u64)?;
        let whole = Mem::allocate(&shared.context, size).inspect_err(|_| shared.budget.give(size as u64));
        let whole = whole.map_err(|error| error.on(shared.id.clone()))?;
        Ok(Self::buffer(shared, whole, None, bytes, size as u64))
    }

    /// Imports host memory in place.
    pub(crate) fn import(shared: &Arc<Shared>, host: HostMemory, constant: bool) -> Result<Buffer> {
        let bytes = host.len();
        let pointer = host.as_mut_ptr().unwrap_or(host.as_ptr().cast_mut());
        // SAFETY: the result's owner also keeps the host memory; constant memory is passed as
        // constant.
        let whole = unsafe { Mem::over(&shared.context, pointer, bytes.max(1), constant) };
        let whole = whole.map_err(|error| error.on(shared.id.clone()))?;
        Ok(Self::buffer(shared, whole, Some(host), bytes, 0))
    }

    fn buffer(shared: &Arc<Shared>, whole: Mem, host: Option<HostMemory>, bytes: usize, owned: u64) -> Buffer {
        let kind = if host.is_some() { MemoryKind::Shared } else { MemoryKind::Device };
        let (parts, whole) = (Mutex::new(HashMap::new()), Arc::new(whole));
        let memory = OpenClMemory { parts, whole, host, bytes, owned, shared: shared.clone() };
        Buffer::new(shared.id.clone(), kind, bytes, Arc::new(memory))
    }

    /// Returns the object for a range, which is kept because runs bind the same ranges again.
    pub(crate) fn range(&self, offset: usize, bytes: usize) -> Result<Arc<Mem>> {
        // An imported range cannot be longer than the imported memory.
        let room = if self.host.is_some() { self.bytes.max(1) } else { rounded(self.bytes) };
        let bytes = rounded(bytes).min(room.saturating_sub(offset)).max(1);
        if offset == 0 && bytes == room {
            return Ok(self.whole.clone());
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&(offset, bytes)) {
            return Ok(part.clone());
        }
        if parts.len() >= MOST_PARTS {
            // Commands that the driver has keep the parts that they use.
            parts.retain(|_, part| Arc::strong_count(part) > 1);
        }
        let part = Arc::new(self.whole.part(offset, bytes)?);
        parts.insert((offset, bytes), part.clone());
        Ok(part)
    }

    pub(crate) fn whole(&self) -> &Mem {
        &self.whole
    }

    /// Tells whether the memory belongs to this device object.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// Tells whether the memory belongs to this context, perhaps as another device's memory.
    pub(crate) fn is_within(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.shared.context, context)
    }

    /// Tells whether the memory was imported as memory that nobody writes.
    pub(crate) fn is_constant(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.as_mut_ptr().is_none())
    }
}

fn too_large(shared: &Shared, bytes: usize) -> Error {
    Error::new(ErrorKind::OutOfMemory, "the device allocates no such amount at once")
        .on(shared.id.clone())
        .with_sizes(bytes as u64, Some(shared.largest))
        .with_remedy("bind smaller shapes, or divide the model among more devices")
}

impl Drop for OpenClMemory {
    fn drop(&mut self) {
        self.shared.budget.give(self.owned);
    }
}

impl Memory for OpenClMemory {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        check_range(offset, into.len(), self.bytes)?;
        if into.is_empty() {
            return Ok(());
        }
        if let Some(host) = &self.host {
            // SAFETY: the range was checked to lie inside memory that `host` keeps alive, `into` is
            // exclusive, and by the contract of `Memory` nothing writes the range now.
            // The device was seen to share host memory when it was opened.
            unsafe { std::ptr::copy(host.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
            return Ok(());
        }
        self.shared.transfers.read(&self.whole, offset, into).map_err(|error| error.on(self.shared.id.clone()))
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        check_range(offset, from.len(), self.bytes)?;
        if from.is_empty() {
            return Ok(());
        }
        if let Some(host) = &self.host {
            let target = host
                .as_mut_ptr()
                .ok_or_else(|| Error::invalid_argument("this memory was imported as constant and cannot be written"))?;
            // SAFETY: as in `read`; the memory is writable, and by the contract of `Memory` nothing
            // else accesses the range now.
            unsafe { std::ptr::copy(from.as_ptr(), target.add(offset), from.len()) };
            return Ok(());
        }
        self.shared.transfers.write(&self.whole, offset, from).map_err(|error| error.on(self.shared.id.clone()))
    }
}
