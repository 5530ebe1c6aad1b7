//! Contexts: the memory and the timelines of one run at a time. They are pooled.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

use hetero_hal::{
    Buffer, BufferLayout, Device, Error as HalError, ErrorKind, Extents, ExternalMemory, HandleKind, HostMemory,
    HostSemantics, Point, Result, Tensor, Timeline, Work, copy_through_host,
};

use super::layout::{Place, Shared, Storage};
use super::partition::named;
use super::steps::{Task, Way};
use super::tiles::Group;
use super::{Frozen, Session};

/// What a run needs for itself.
pub(super) struct Context {
    /// Of each slot, but for inputs.
    pub(super) buffers: Vec<Option<Buffer>>,
    /// Of each slot that is an input.
    pub(super) inputs: Vec<InputBuffer>,
    /// For each step, what a partition binds; made anew where an input's buffer changes.
    pub(super) bound: Vec<Option<Arc<[Buffer]>>>,
    /// For each step, the scratch of a partition.
    pub(super) scratch: Vec<Option<Buffer>>,
    /// Of each device, its arena.
    pub(super) arenas: Vec<Option<Buffer>>,
    /// For each step, the work of a transfer.
    pub(super) transfers: Vec<Option<Work>>,
    /// For each step, the points that it waits for; their values are set by each run.
    pub(super) waits: Vec<Vec<Point>>,
    /// Of each group of tiles; made anew where an input's buffer changes.
    pub(super) groups: Vec<Option<Group>>,
    /// Of each device, then of each group of tiles.
    pub(super) timelines: Vec<Timeline>,
    /// Of each of these, its timeline's value before the run.
    pub(super) base: Vec<u64>,
    /// Of each of these, steps that the run has submitted.
    pub(super) submitted: Vec<u64>,
    /// True sizes of the run; `None` where none depends on data.
    pub(super) extents: Option<Arc<Extents>>,
    /// When the run gives up.
    pub(super) deadline: Instant,
}

/// The shared arena as each of the session's devices sees it.
pub(super) type Views = Vec<Option<Buffer>>;

/// Allocates the shared arena and imports it into its devices.
///
/// # Errors
/// The position of the device that refuses, with its error; `None` where the host itself has no memory.
pub(super) fn share(shared: &Shared, devices: &[Arc<dyn Device>]) -> Result<Views, (Option<usize>, HalError)> {
    let mut views = vec![None; devices.len()];
    if shared.bytes == 0 {
        return Ok(views);
    }
    let host = aligned_memory(shared).map_err(|error| (None, error))?;
    for &device in &shared.devices {
        let view = devices[device].import(ExternalMemory::Host(host.clone()), HostSemantics::Shared);
        views[device] = Some(view.map_err(|error| (Some(device), named(error, &*devices[device])))?);
    }
    Ok(views)
}

/// Host memory whose address is a multiple of what the devices ask for, which may be more than a page.
fn aligned_memory(shared: &Shared) -> Result<HostMemory> {
    let host = HostMemory::allocate(shared.bytes)?;
    let alignment = shared.alignment.max(1);
    if (host.as_ptr() as usize).is_multiple_of(alignment) {
        return Ok(host);
    }
    drop(host);
    let roomy = HostMemory::allocate(shared.bytes.saturating_add(alignment))?;
    let start = (roomy.as_ptr() as usize).next_multiple_of(alignment) - roomy.as_ptr() as usize;
    roomy.slice(start..start + shared.bytes)
}

impl Context {
    /// Memory and timelines for one run at a time.
    pub(super) fn new(frozen: &Frozen, devices: &[Arc<dyn Device>], views: &Views) -> Result<Context> {
        let layout = &frozen.layout;
        let mut arenas = Vec::with_capacity(devices.len());
        for (device, &(bytes, alignment)) in devices.iter().zip(&layout.arenas) {
            let wanted = BufferLayout { bytes, alignment };
            arenas.push(if bytes > 0 { Some(allocate(&**device, wanted)?) } else { None });
        }
        let mut buffers = Vec::with_capacity(layout.slots.len());
        for slot in &layout.slots {
            buffers.push(match slot.storage {
                Storage::Input(_) => None,
                Storage::Own(bytes) => Some(allocate(&*devices[slot.device], BufferLayout::new(bytes))?),
                Storage::Arena(place) => Some(part(&arenas[slot.device], place)?),
                Storage::Shared(place) => Some(part(&views[slot.device], place)?),
            });
        }
        let mut scratch = Vec::with_capacity(layout.steps.len());
        let mut transfers = Vec::with_capacity(layout.steps.len());
        for step in &layout.steps {
            let (room, work) = match &step.task {
                Task::Execute { scratch, .. } => (scratch.map(|place| part(&arenas[step.device], place)), None),
                Task::Transfer { from, to, way } => (None, Some(transfer(&buffers[*from], &buffers[*to], *way)?)),
                Task::Tiles { .. } => (None, None),
            };
            scratch.push(room.transpose()?);
            transfers.push(work);
        }
        let mut timelines = devices
            .iter()
            .map(|device| device.timeline(0).map_err(|error| named(error, &**device)))
            .collect::<Result<Vec<_>>>()?;
        timelines.extend(frozen.groups.iter().map(|_| Timeline::new(0)));
        let points = |wait: &Vec<(usize, u64)>| wait.iter().map(|&(device, at)| timelines[device].at(at)).collect();
        Ok(Context {
            bound: vec![None; layout.steps.len()],
            waits: layout.steps.iter().map(|step| points(&step.wait)).collect(),
            base: vec![0; timelines.len()],
            submitted: vec![0; timelines.len()],
            groups: frozen.groups.iter().map(|_| None).collect(),
            arenas,
            inputs: layout.slots.iter().map(|_| InputBuffer::default()).collect(),
            buffers,
            scratch,
            transfers,
            timelines,
            extents: None,
            deadline: Instant::now(),
        })
    }
}

impl Session {
    /// A context that no run uses.
    pub(super) fn take_context(&self) -> Result<Context> {
        if let Some(context) = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(context);
        }
        let views = share(&self.frozen.layout.shared, &self.devices).map_err(|(_, error)| error)?;
        Context::new(&self.frozen, &self.devices, &views)
    }

    /// Keeps a context whose run went well for another. One whose run failed is dropped: its timelines have failed for good.
    pub(super) fn give_context(&self, context: Context) {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).push(context);
    }
}

/// A part of an arena.
pub(super) fn part(arena: &Option<Buffer>, place: Place) -> Result<Buffer> {
    let arena = arena.as_ref().ok_or_else(|| HalError::internal("a value lies in an arena that is not there"))?;
    arena.slice(place.offset..place.offset + place.bytes)
}

fn allocate(device: &dyn Device, layout: BufferLayout) -> Result<Buffer> {
    device.allocate(layout).map_err(|error| named(error, device))
}

fn transfer(from: &Option<Buffer>, to: &Option<Buffer>, way: Way) -> Result<Work> {
    let (Some(source), Some(target)) = (from.clone(), to.clone()) else {
        return Err(HalError::internal("a transfer from or to a value that has no memory"));
    };
    Ok(match way {
        Way::Copy => Work::Copy { source, target },
        Way::ThroughHost => Work::Host(Arc::new(move || copy_through_host(&source, &target))),
    })
}

/// How an input came to a device in the last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// No run has brought one.
    Unknown,
    /// The device reads the caller's bytes.
    InPlace,
    /// By a copy: the device imports no host memory.
    NoImport,
    /// By a copy: address or length of the caller's bytes are not the multiples that the device needs.
    Unaligned,
    /// By a copy: the device refused to import them, and is not asked again.
    Refused,
}

/// What is remembered of an input's way to a device.
#[derive(Default)]
pub(super) struct Arrivals {
    last: AtomicU8,
    /// The device's refusal to import.
    pub(super) refusal: OnceLock<HalError>,
}

impl Arrivals {
    pub(super) fn last(&self) -> Arrival {
        let all = [Arrival::InPlace, Arrival::NoImport, Arrival::Unaligned, Arrival::Refused];
        let last = self.last.load(Ordering::Relaxed);
        all.into_iter().find(|&arrival| arrival as u8 == last).unwrap_or(Arrival::Unknown)
    }

    fn set(&self, arrival: Arrival) {
        self.last.store(arrival as u8, Ordering::Relaxed);
    }
}

/// An input's buffer on a device.
#[derive(Default)]
pub(super) struct InputBuffer {
    /// It is the caller's memory, which nobody may write.
    imported: bool,
    buffer: Option<Buffer>,
}

impl InputBuffer {
    pub(super) fn buffer(&self) -> Option<&Buffer> {
        self.buffer.as_ref()
    }

    /// Makes it the input: in place where the device can import host memory and the bytes are aligned for it, else by a copy. `true` where it is
    /// the same buffer as before.
    ///
    /// # Errors
    /// The device's, with its id; a refusal to import is none, unless the device is lost.
    pub(super) fn bring_in(&mut self, device: &dyn Device, tensor: &Tensor, arrivals: &Arrivals) -> Result<bool> {
        let capabilities = device.capabilities();
        let bytes = tensor.bytes();
        let address = bytes.as_ptr() as usize;
        let fits = match capabilities.import_alignment {
            0 => address.is_multiple_of(capabilities.alignment.max(1)),
            step => address.is_multiple_of(step) && bytes.len().is_multiple_of(step),
        };
        let arrival = if !capabilities.imports.contains(&HandleKind::Host) {
            Arrival::NoImport
        } else if !fits {
            Arrival::Unaligned
        } else if arrivals.refusal.get().is_some() {
            Arrival::Refused
        } else {
            match self.import(device, tensor) {
                Ok(same) => {
                    arrivals.set(Arrival::InPlace);
                    return Ok(same);
                }
                Err(error) if error.kind() == ErrorKind::DeviceLost => return Err(named(error, device)),
                Err(error) => {
                    let _ = arrivals.refusal.set(named(error, device));
                    Arrival::Refused
                }
            }
        };
        arrivals.set(arrival);
        let own = self.buffer.as_ref().filter(|former| !self.imported && former.len() == bytes.len());
        if let Some(former) = own {
            former.write(0, bytes).map_err(|error| named(error, device))?;
            return Ok(true);
        }
        let fresh = allocate(device, BufferLayout::new(bytes.len()))?;
        fresh.write(0, bytes).map_err(|error| named(error, device))?;
        *self = InputBuffer { imported: false, buffer: Some(fresh) };
        Ok(false)
    }

    /// Imports the tensor; `true` where into the same buffer.
    fn import(&mut self, device: &dyn Device, tensor: &Tensor) -> Result<bool> {
        let memory = ExternalMemory::Host(HostMemory::constant(tensor.bytes().clone()));
        if let Some(former) = self.buffer.as_ref().filter(|_| self.imported)
            && device.import_over(&memory, former)?
        {
            return Ok(true);
        }
        let buffer = device.import(memory, HostSemantics::Immutable)?;
        *self = InputBuffer { imported: true, buffer: Some(buffer) };
        Ok(false)
    }
}
