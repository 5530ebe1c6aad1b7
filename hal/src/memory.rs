//! Buffers: memory that a device reads and writes, and host memory that it may share.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

use crate::driver::DeviceId;
use crate::error::{Error, ErrorKind, Result};

/// The size and the alignment of an allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BufferLayout {
    /// The size in bytes.
    pub bytes: usize,
    /// The alignment of the first byte, a power of two; 0 leaves it to the device.
    pub alignment: usize,
}

impl BufferLayout {
    /// Returns a layout of `bytes` bytes, aligned as the device likes best.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        BufferLayout { bytes, alignment: 0 }
    }
}

/// The place of a buffer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryKind {
    /// Ordinary host memory.
    Host,
    /// The device's own memory, which the host reaches by copying only.
    Device,
    /// Memory that host and device both address.
    Shared,
}

/// A backend's allocation, behind a [`Buffer`].
///
/// `read` and `write` block until the bytes are moved, and take no account of queues: the caller
/// has waited for the points that order them against the device's work.
/// Two accesses that nothing orders, one of them a write, are a bug of the caller, and the bytes
/// that are read then are unspecified.
pub trait Memory: Any + Send + Sync {
    /// Copies bytes from the allocation into host memory.
    ///
    /// # Errors
    /// `InvalidArgument` for a range outside the allocation, `DeviceLost` where the device is gone.
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()>;

    /// Copies bytes from host memory into the allocation.
    ///
    /// # Errors
    /// The errors of [`Memory::read`]; `InvalidArgument` too for memory that was imported
    /// read-only.
    fn write(&self, offset: usize, from: &[u8]) -> Result<()>;

    /// Copies bytes from the allocation behind those that `into` has.
    /// A backend whose memory the host reads directly does so without filling the room first.
    ///
    /// # Errors
    /// The errors of [`Memory::read`], after which `into` is as it was.
    /// `OutOfMemory` where the host has no room for them.
    fn append(&self, offset: usize, bytes: usize, into: &mut Vec<u8>) -> Result<()> {
        reserve_bytes(into, bytes)?;
        let start = into.len();
        into.resize(start + bytes, 0);
        self.read(offset, &mut into[start..]).inspect_err(|_| into.truncate(start))
    }
}

/// Makes room for `bytes` more bytes, and no more.
///
/// # Errors
/// `OutOfMemory` where the host has no room for them.
pub fn reserve_bytes(into: &mut Vec<u8>, bytes: usize) -> Result<()> {
    into.try_reserve_exact(bytes).map_err(|source| refused(bytes, source))
}

/// Returns the error of host memory that cannot be had.
fn refused(bytes: usize, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::OutOfMemory, "the operating system refuses host memory")
        .with_sizes(bytes as u64, None)
        .with_remedy("close other programs, or bind smaller shapes")
        .caused_by(source)
}

/// Checks that a range of bytes lies in memory of the given length.
/// It is for a backend's [`Memory`], which trusts no caller with its addresses.
///
/// # Errors
/// `InvalidArgument` with the numbers.
pub fn check_range(offset: usize, bytes: usize, length: usize) -> Result<()> {
    match offset.checked_add(bytes) {
        Some(end) if end <= length => Ok(()),
        _ => Err(Error::invalid_argument(format!(
            "bytes {offset} to {offset}+{bytes} are outside memory of {length} bytes"
        ))),
    }
}

/// A range of a device's memory.
///
/// Clones and parts share the allocation, and the last of them frees it.
#[derive(Clone)]
pub struct Buffer {
    device: DeviceId,
    kind: MemoryKind,
    memory: Arc<dyn Memory>,
    offset: usize,
    bytes: usize,
}

impl Buffer {
    /// Makes a buffer of a whole allocation of `bytes` bytes.
    /// It is for backends.
    #[must_use]
    pub fn new(device: DeviceId, kind: MemoryKind, bytes: usize, memory: Arc<dyn Memory>) -> Self {
        Buffer { device, kind, memory, offset: 0, bytes }
    }

    /// Returns a buffer of no bytes, which belongs to no device.
    /// It fills a [`BindingTable`](crate::BindingTable) before the first run.
    #[must_use]
    pub fn nothing() -> Self {
        struct Nothing;
        impl Memory for Nothing {
            fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
                check_range(offset, into.len(), 0)
            }
            fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
                check_range(offset, from.len(), 0)
            }
        }
        Buffer::new(DeviceId::new("none", 0), MemoryKind::Host, 0, Arc::new(Nothing))
    }

    /// Makes a whole allocation of other bytes out of a buffer that nobody else holds.
    /// `change` gets the allocation, and answers with its new length, or with `None` where it
    /// cannot be changed.
    /// It is for [`Device::reimport`](crate::Device::reimport).
    ///
    /// # Errors
    /// The buffer as it was, where others hold it too, where its allocation is no `T`, or where
    /// `change` declines.
    pub fn reuse<T: Memory>(mut self, change: impl FnOnce(&mut T) -> Option<usize>) -> Result<Buffer, Buffer> {
        let memory = Arc::get_mut(&mut self.memory).and_then(|memory| (memory as &mut dyn Any).downcast_mut());
        match memory.and_then(change) {
            Some(bytes) => Ok(Buffer { offset: 0, bytes, ..self }),
            None => Err(self),
        }
    }

    /// Returns the device that the buffer belongs to.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Returns the place of the buffer's bytes.
    #[must_use]
    pub fn kind(&self) -> MemoryKind {
        self.kind
    }

    /// Returns the position of this range's first byte within the allocation.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the length of this range in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Tells whether the range is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns the allocation, where it is the backend's type `T`.
    #[must_use]
    pub fn memory<T: Memory>(&self) -> Option<&T> {
        (&*self.memory as &dyn Any).downcast_ref()
    }

    /// Tells whether the buffer shares its allocation with `other`.
    #[must_use]
    pub fn same_allocation(&self, other: &Buffer) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
    }

    fn check(&self, range: &Range<usize>, verb: &str) -> Result<()> {
        if range.start <= range.end && range.end <= self.bytes {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "cannot {verb} bytes {}..{} of a buffer of {} bytes",
            range.start, range.end, self.bytes
        ))
        .on(self.device.clone()))
    }

    /// Returns a part of this range.
    ///
    /// # Errors
    /// `InvalidArgument` where the part reaches outside this range.
    pub fn slice(&self, range: Range<usize>) -> Result<Buffer> {
        self.check(&range, "slice")?;
        Ok(Buffer { offset: self.offset + range.start, bytes: range.end - range.start, ..self.clone() })
    }

    /// Copies bytes out of the buffer, and blocks until that is done; see [`Memory`] for what the
    /// caller has to order.
    ///
    /// # Errors
    /// `InvalidArgument` where the range reaches outside the buffer, and the device's own errors.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        self.check(&(offset..offset.saturating_add(into.len())), "read")?;
        self.memory.read(self.offset + offset, into)
    }

    /// Copies bytes of the buffer behind those that `into` has, and blocks until that is done; see
    /// [`Memory`] for what the caller has to order.
    ///
    /// # Errors
    /// The errors of [`Buffer::read`], after which `into` is as it was.
    /// `OutOfMemory` where the host has no room for them.
    pub fn append(&self, range: Range<usize>, into: &mut Vec<u8>) -> Result<()> {
        self.check(&range, "read")?;
        self.memory.append(self.offset + range.start, range.len(), into)
    }

    /// Copies bytes into the buffer, and blocks until that is done; see [`Memory`] for what the
    /// caller has to order.
    ///
    /// # Errors
    /// `InvalidArgument` where the range reaches outside the buffer, and the device's own errors.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        self.check(&(offset..offset.saturating_add(from.len())), "write")?;
        self.memory.write(self.offset + offset, from)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.offset + self.bytes;
        write!(f, "Buffer({} {:?} {}..{end})", self.device, self.kind, self.offset)
    }
}

#[derive(Clone)]
enum Pages {
    Shared(Arc<MmapRaw>),
    Constant(Bytes),
}

/// A range of host memory that devices can import without a copy.
///
/// It is one of two things: zero-filled, page-aligned pages of its own, which host and devices may
/// both write through raw pointers, or constant bytes that nobody writes.
/// The address stays valid as long as a clone lives.
/// To get at the bytes safely, import them into a device and use [`Buffer::read`] and
/// [`Buffer::write`].
#[derive(Clone)]
pub struct HostMemory {
    pages: Pages,
    offset: usize,
    bytes: usize,
}

impl HostMemory {
    /// Allocates fresh anonymous pages.
    ///
    /// # Errors
    /// `OutOfMemory` where the operating system refuses.
    pub fn allocate(bytes: usize) -> Result<Self> {
        let pages = MmapOptions::new().len(bytes.max(1)).map_anon().map_err(|source| refused(bytes, source))?;
        Ok(HostMemory { pages: Pages::Shared(Arc::new(pages.into())), offset: 0, bytes })
    }

    /// Wraps constant bytes: a tensor's, or a part of a mapped file.
    #[must_use]
    pub fn constant(bytes: Bytes) -> Self {
        HostMemory { offset: 0, bytes: bytes.len(), pages: Pages::Constant(bytes) }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Tells whether the range is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Tells whether somebody else has the same pages: a clone, or a part.
    /// Constant bytes count as shared.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match &self.pages {
            Pages::Shared(pages) => Arc::strong_count(pages) > 1,
            Pages::Constant(_) => true,
        }
    }

    /// Returns the address of the first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        match &self.pages {
            Pages::Shared(pages) => pages.as_ptr().wrapping_add(self.offset),
            Pages::Constant(bytes) => bytes.as_ptr().wrapping_add(self.offset),
        }
    }

    /// Returns the address of the first byte for writing; `None` for constant bytes.
    #[must_use]
    pub fn as_mut_ptr(&self) -> Option<*mut u8> {
        match &self.pages {
            Pages::Shared(pages) => Some(pages.as_mut_ptr().wrapping_add(self.offset)),
            Pages::Constant(_) => None,
        }
    }

    /// Returns a part of this range.
    ///
    /// # Errors
    /// `InvalidArgument` where the part reaches outside this range.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.bytes {
            return Err(Error::invalid_argument(format!(
                "cannot slice bytes {}..{} of {} bytes of host memory",
                range.start, range.end, self.bytes
            )));
        }
        let bytes = range.end - range.start;
        Ok(HostMemory { pages: self.pages.clone(), offset: self.offset + range.start, bytes })
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({:p}, {} bytes)", self.as_ptr(), self.bytes)
    }
}

/// A piece of memory that something else than the importing device owns.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ExternalMemory {
    /// Host memory of this process.
    Host(HostMemory),
}

/// The kinds of memory that a device can import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandleKind {
    /// Host memory of this process.
    Host,
}

/// The promise about host memory on which a device that imports it may rely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostSemantics {
    /// The bytes are valid during the call only, so the device copies them.
    Copy,
    /// Nobody writes the bytes while the buffer lives, and the device reads them in place.
    Immutable,
    /// The host and devices write the same bytes in place, ordered by points.
    /// Bytes that are written before a point is reached are seen by whoever waits for it, the host
    /// and every other device alike.
    Shared,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Plain(Mutex<Vec<u8>>);
    impl Memory for Plain {
        fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
            into.copy_from_slice(&self.0.lock().unwrap()[offset..offset + into.len()]);
            Ok(())
        }
        fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
            self.0.lock().unwrap()[offset..offset + from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    #[test]
    fn slices_share_the_allocation_and_stay_inside() {
        let memory = Arc::new(Plain(Mutex::new(vec![0; 16])));
        let whole = Buffer::new(DeviceId::new("null", 0), MemoryKind::Host, 16, memory);
        let part = whole.slice(4..12).unwrap().slice(2..6).unwrap();
        part.write(1, &[7, 8]).unwrap();
        let mut seen = [0; 4];
        whole.read(6, &mut seen).unwrap();
        assert_eq!(seen, [0, 7, 8, 0]);
        assert!(part.same_allocation(&whole) && part.memory::<Plain>().is_some());
        assert!(part.slice(0..5).is_err());
        assert!(part.write(3, &[0, 0]).is_err());
        assert!(part.read(usize::MAX, &mut seen).is_err());
    }

    #[test]
    fn appended_bytes_stand_behind_those_that_were_there() {
        let memory = Arc::new(Plain(Mutex::new((0..8).collect())));
        let buffer = Buffer::new(DeviceId::new("plain", 0), MemoryKind::Host, 8, memory);
        let part = buffer.slice(2..8).unwrap();
        let mut bytes = vec![9];
        part.append(1..3, &mut bytes).unwrap();
        assert_eq!(bytes, [9, 3, 4]);
        assert_eq!(part.append(5..7, &mut bytes).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(bytes, [9, 3, 4]);
    }

    #[test]
    fn only_a_buffer_that_nobody_else_holds_is_reused() {
        let id = DeviceId::new("null", 0);
        let buffer = Buffer::new(id, MemoryKind::Host, 2, Arc::new(Plain(Mutex::new(vec![1, 2]))));
        let grow = |memory: &mut Plain| {
            *memory = Plain(Mutex::new(vec![3; 4]));
            Some(4)
        };
        let held = buffer.clone();
        let buffer = buffer.reuse(grow).unwrap_err();
        drop(held);
        assert!(buffer.len() == 2 && Buffer::nothing().reuse(grow).is_err());
        let grown = buffer.slice(1..2).map(|part| (drop(buffer), part)).unwrap().1.reuse(grow).unwrap();
        let mut seen = [0; 4];
        grown.read(0, &mut seen).unwrap();
        assert_eq!((grown.len(), seen), (4, [3; 4]));
    }

    #[test]
    fn host_memory_is_page_aligned_and_constant_bytes_are_not_writable() {
        let memory = HostMemory::allocate(10).unwrap();
        assert_eq!(memory.as_ptr() as usize % 4096, 0);
        assert_eq!(memory.slice(3..10).unwrap().as_ptr() as usize, memory.as_ptr() as usize + 3);
        assert!(memory.slice(3..11).is_err());
        assert!(HostMemory::allocate(usize::MAX).is_err());
        assert!(HostMemory::constant(Bytes::from_static(b"abc")).as_mut_ptr().is_none());
    }
}
