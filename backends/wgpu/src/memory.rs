//! Buffers: the device's own, mapped or staged, and host memory in place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use hetero_hal::{Buffer, Error, ErrorKind, HostMemory, Memory, MemoryKind, Result, check_range};

use crate::context::Context;
use crate::gpu::{Gpu, PATIENCE};

/// How the host reaches memory.
enum Reach {
    /// The host maps it.
    Mapped,
    /// The device copies it through staging memory.
    Staged,
    /// The memory is the host's own.
    /// The range begins `lead` bytes after the buffer.
    Host { memory: HostMemory, lead: usize },
}

/// Memory of a wgpu device.
pub(crate) struct WgpuMemory {
    context: Arc<Context>,
    /// A number that is never used again, so that data prepared for this memory is not taken for
    /// another's.
    pub(crate) identity: u64,
    pub(crate) buffer: wgpu::Buffer,
    bytes: usize,
    /// The bytes that the budget counts.
    counted: u64,
    reach: Reach,
    /// A lock that is held for writing while the host has the memory mapped, when no work may be
    /// submitted that uses it, and for reading while work is submitted.
    mapping: RwLock<()>,
}

/// The bytes that are moved at once through staging memory.
const PIECE: usize = 16 << 20;

static IDENTITIES: AtomicU64 = AtomicU64::new(0);

impl WgpuMemory {
    /// Allocates fresh memory that counts against the budget.
    pub(crate) fn allocate(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        let gpu = &context.gpu;
        // A buffer must not be empty, and kernels touch whole words.
        let size = bytes.max(4).next_multiple_of(4) as u64;
        let most = gpu.device.limits().max_buffer_size;
        if size > most {
            return Err(Error::new(ErrorKind::OutOfMemory, "a buffer of the device cannot be that large")
                .on(gpu.id.clone())
                .with_sizes(bytes as u64, Some(most))
                .with_remedy("bind smaller shapes"));
        }
        let counted = (bytes as u64).next_multiple_of(4);
        context.budget.take(&gpu.id, counted)?;
        let mut usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        if context.mapped {
            usage |= wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE;
        }
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let made = gpu.checked("allocating memory", || gpu.device.create_buffer(&descriptor));
        let buffer = made.map_err(|error| {
            context.budget.give(counted);
            error.with_sizes(bytes as u64, None)
        })?;
        let reach = if context.mapped { Reach::Mapped } else { Reach::Staged };
        Ok(WgpuMemory::new(context, buffer, bytes, counted, reach))
    }

    fn new(context: &Arc<Context>, buffer: wgpu::Buffer, bytes: usize, counted: u64, reach: Reach) -> Self {
        let identity = IDENTITIES.fetch_add(1, Ordering::Relaxed);
        WgpuMemory { context: context.clone(), identity, buffer, bytes, counted, reach, mapping: RwLock::new(()) }
    }

    /// Imports host memory in place.
    pub(crate) fn import(context: &Arc<Context>, host: HostMemory) -> Result<Buffer> {
        let gpu = &context.gpu;
        let Some(importer) = &context.importer else {
            return Err(Error::unsupported("import of host memory without a copy").on(gpu.id.clone()));
        };
        let misplaced = !(host.as_ptr() as usize).is_multiple_of(context.alignment);
        if misplaced || host.is_empty() {
            return Err(Error::invalid_argument(format!("cannot import {host:?}"))
                .on(gpu.id.clone())
                .with_remedy(format!("give it memory at a multiple of {} bytes, or copy it", context.alignment)));
        }
        let (buffer, lead) = importer.import(gpu, &host)?;
        let bytes = host.len();
        let reach = Reach::Host { memory: host, lead };
        let memory = WgpuMemory::new(context, buffer, bytes, 0, reach);
        Ok(memory.into_buffer(MemoryKind::Shared))
    }

    /// Allocates memory that holds a copy of the host's bytes.
    pub(crate) fn copy_of(context: &Arc<Context>, host: &HostMemory) -> Result<Self> {
        let own = WgpuMemory::allocate(context, host.len())?;
        // SAFETY: the bytes are `host`'s, which lives through the call, and by the contract of
        // importing nobody writes them now.
        own.write(0, unsafe { std::slice::from_raw_parts(host.as_ptr(), host.len()) })?;
        Ok(own)
    }

    /// Returns the memory as a buffer of the contract.
    pub(crate) fn into_buffer(self, kind: MemoryKind) -> Buffer {
        let (device, bytes) = (self.context.gpu.id.clone(), self.bytes);
        Buffer::new(device, kind, bytes, Arc::new(self))
    }

    /// Returns the first byte of the memory within wgpu's buffer.
    pub(crate) fn lead(&self) -> usize {
        match self.reach {
            Reach::Host { lead, .. } => lead,
            _ => 0,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.context.gpu
    }

    /// Tells whether the device may write the memory.
    pub(crate) fn writable(&self) -> bool {
        match &self.reach {
            Reach::Host { memory, .. } => memory.as_mut_ptr().is_some(),
            _ => true,
        }
    }

    /// Keeps the host from mapping the memory; returns `None` where the host never maps it.
    pub(crate) fn submitting(&self) -> Option<RwLockReadGuard<'_, ()>> {
        matches!(self.reach, Reach::Mapped).then(|| self.mapping.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Maps the words around a range.
    /// `with` gets the slice, and where in it the range begins.
    fn mapped<T>(
        &self,
        (offset, bytes): (usize, usize),
        mode: wgpu::MapMode,
        with: impl FnOnce(wgpu::BufferSlice<'_>, usize) -> Result<T>,
    ) -> Result<T> {
        let _mapping = self.mapping.write().unwrap_or_else(PoisonError::into_inner);
        let (slice, lead) = words(&self.buffer, offset, bytes);
        self.gpu().map(slice, mode, || with(slice, lead))
    }

    /// Reads by a copy into a staging buffer.
    fn read_staged(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        let gpu = self.gpu();
        let (first, end) = (offset / 8 * 8, (offset + into.len()).next_multiple_of(4));
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: (end - first) as u64,
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        };
        let (staging, index) = gpu.checked("reading memory", || {
            let staging = gpu.device.create_buffer(&descriptor);
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&self.buffer, first as u64, &staging, 0, (end - first) as u64);
            let index = gpu.queue.submit([encoder.finish()]);
            (staging, index)
        })?;
        gpu.wait(&index, std::time::Instant::now() + PATIENCE)?;
        let slice = staging.slice(..);
        gpu.map(slice, wgpu::MapMode::Read, || {
            let view = slice.get_mapped_range().map_err(|error| unmapped(gpu, error))?;
            into.copy_from_slice(&view[offset - first..offset - first + into.len()]);
            Ok(())
        })
    }

    /// Writes by a copy out of staging memory of wgpu's.
    fn write_staged(&self, offset: usize, from: &[u8]) -> Result<()> {
        let gpu = self.gpu();
        let (first, end) = (offset / 4 * 4, (offset + from.len()).next_multiple_of(4));
        let mut widened = Vec::new();
        let content = if (first, end) == (offset, offset + from.len()) {
            from
        } else {
            // Words are written whole, so their other bytes are read first.
            widened.resize(end - first, 0);
            self.read_staged(first, &mut widened)?;
            widened[offset - first..offset - first + from.len()].copy_from_slice(from);
            &widened
        };
        let index = gpu.checked("writing memory", || {
            gpu.queue.write_buffer(&self.buffer, first as u64, content);
            gpu.queue.submit([])
        })?;
        // Small writes are ordered before later submissions.
        // Large ones are waited for, so that staging memory does not pile up.
        if from.len() < PIECE / 16 { Ok(()) } else { gpu.wait(&index, std::time::Instant::now() + PATIENCE) }
    }
}

/// Returns the words around a range, as mapping needs them, and where in them the range begins.
fn words(buffer: &wgpu::Buffer, offset: usize, bytes: usize) -> (wgpu::BufferSlice<'_>, usize) {
    let first = offset / wgpu::MAP_ALIGNMENT as usize * wgpu::MAP_ALIGNMENT as usize;
    let end = (offset + bytes).next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT as usize);
    (buffer.slice(first as u64..end as u64), offset - first)
}

fn unmapped(gpu: &Gpu, error: wgpu::MapRangeError) -> Error {
    Error::new(ErrorKind::Execution, "memory is not mapped").on(gpu.id.clone()).caused_by(error)
}

impl Context {
    /// Tells whether memory is this device's.
    pub(crate) fn owns(&self, memory: &WgpuMemory) -> bool {
        std::ptr::eq(memory.gpu(), &*self.gpu)
    }

    /// Returns a buffer's memory, where it is this device's.
    pub(crate) fn memory<'a>(&self, buffer: &'a Buffer) -> Result<&'a WgpuMemory> {
        let own = buffer.memory::<WgpuMemory>().filter(|memory| self.owns(memory));
        own.ok_or_else(|| {
            Error::invalid_argument(format!("{buffer:?} is another device's memory")).on(self.gpu.id.clone())
        })
    }

    /// Starts a copy of whole words between two allocations.
    pub(crate) fn start_copy(
        &self,
        (from, source): (&WgpuMemory, usize),
        (to, target): (&WgpuMemory, usize),
        bytes: usize,
    ) -> Result<wgpu::SubmissionIndex> {
        let gpu = &self.gpu;
        let at = |memory: &WgpuMemory, offset: usize| (memory.lead() + offset) as u64;
        gpu.checked("copying", || {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&from.buffer, at(from, source), &to.buffer, at(to, target), bytes as u64);
            let commands = encoder.finish();
            // The locks are taken in the order that all submissions use.
            let (first, second) = if from.identity < to.identity { (from, to) } else { (to, from) };
            let _unmapped = (first.submitting(), second.submitting());
            gpu.queue.submit([commands])
        })
    }
}

impl Drop for WgpuMemory {
    fn drop(&mut self) {
        self.context.budget.give(self.counted);
    }
}

impl Memory for WgpuMemory {
    fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
        check_range(offset, into.len(), self.bytes).map_err(|error| error.or_on(&self.gpu().id))?;
        self.gpu().alive()?;
        if into.is_empty() {
            return Ok(());
        }
        match &self.reach {
            Reach::Mapped => self.mapped((offset, into.len()), wgpu::MapMode::Read, |slice, lead| {
                let view = slice.get_mapped_range().map_err(|error| unmapped(self.gpu(), error))?;
                into.copy_from_slice(&view[lead..lead + into.len()]);
                Ok(())
            }),
            Reach::Staged => {
                let mut pieces = into.chunks_mut(PIECE).enumerate();
                pieces.try_for_each(|(number, piece)| self.read_staged(offset + number * PIECE, piece))
            }
            Reach::Host { memory, .. } => {
                // SAFETY: the range was checked to lie inside memory that `memory` keeps alive,
                // `into` is exclusive, and by the contract of `Memory` nothing writes the range
                // now.
                unsafe { std::ptr::copy(memory.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
                Ok(())
            }
        }
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        check_range(offset, from.len(), self.bytes).map_err(|error| error.or_on(&self.gpu().id))?;
        self.gpu().alive()?;
        if from.is_empty() {
            return Ok(());
        }
        match &self.reach {
            Reach::Mapped => self.mapped((offset, from.len()), wgpu::MapMode::Write, |slice, lead| {
                let mut view = slice.get_mapped_range_mut().map_err(|error| unmapped(self.gpu(), error))?;
                view.slice(lead..lead + from.len()).copy_from_slice(from);
                Ok(())
            }),
            Reach::Staged => {
                let mut pieces = from.chunks(PIECE).enumerate();
                pieces.try_for_each(|(number, piece)| self.write_staged(offset + number * PIECE, piece))
            }
            Reach::Host { memory, .. } => {
                let target = memory.as_mut_ptr().ok_or_else(|| {
                    Error::invalid_argument("this memory was imported as constant and cannot be written")
                })?;
                // SAFETY: as in `read`; the memory is writable, and by the contract of `Memory`
                // nothing else accesses the range now.
                unsafe { std::ptr::copy(from.as_ptr(), target.add(offset), from.len()) };
                Ok(())
            }
        }
    }
}
