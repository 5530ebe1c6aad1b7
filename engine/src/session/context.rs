//! Contexts: the memory and the timelines of one run at a time.
//! They are pooled.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hetero_comm::Endpoint;
use hetero_hal::{
    BindingTable, Buffer, BufferLayout, Capabilities, Device, Error as HalError, ErrorKind, Extents, ExternalMemory,
    HandleKind, HostMemory, HostSemantics, Point, Queue, Result, Tensor, Timeline, Work,
};

use super::layout::{Shared, Slot, Storage};
use super::partition::{self, named};
use super::pool::{self, Permit};
use super::steps::{Place, Step, Task};
use super::tiles::{Group, LANES, Member, Tally};
use super::{Frozen, Session};

/// The memory, the timelines and the state of a run.
pub(super) struct Context {
    /// The buffer of each slot that is not an input.
    pub(super) buffers: Vec<Option<Buffer>>,
    /// The buffer of each slot that is an input.
    pub(super) inputs: Vec<InputBuffer>,
    /// The binding table of each step that runs a partition.
    pub(super) tables: Vec<Option<Arc<BindingTable>>>,
    /// The scratch of each step that runs a partition.
    pub(super) scratch: Vec<Option<Buffer>>,
    /// The arena of each device.
    pub(super) arenas: Vec<Option<Buffer>>,
    /// The work of each step that is a transfer.
    pub(super) transfers: Vec<Option<Work>>,
    /// The points that each step waits for; their values are set by each run.
    pub(super) waits: Vec<Vec<Point>>,
    /// The groups of tiles.
    pub(super) groups: Vec<Group>,
    /// The timeline of each device, then of each group of tiles.
    pub(super) timelines: Vec<Timeline>,
    /// The value of each timeline before the run.
    pub(super) base: Vec<u64>,
    /// The number of steps that the run has submitted on each timeline.
    pub(super) submitted: Vec<u64>,
    /// The true sizes of the run; `None` where none depends on data.
    pub(super) extents: Option<Arc<Extents>>,
    /// The time at which the run gives up.
    pub(super) deadline: Instant,
    /// The place of each slot that is an output with a buffer of its own.
    outputs: Vec<Option<OutputPlace>>,
    /// The right to be one of the session's contexts.
    _permit: Permit,
}

/// An output's buffer, and where it is bound.
#[derive(Default)]
struct OutputPlace {
    /// The tables that bind the output, each with the position there.
    /// There are none where a transfer reads the output too, as transfers read the output's own
    /// buffer.
    bound: Vec<(Arc<BindingTable>, usize)>,
    /// The caller's memory as the device sees it, where this run writes the output there.
    there: Option<Buffer>,
}

/// Tells whether host memory has an address and a length that the device can import.
fn is_aligned(capabilities: &Capabilities, address: usize, bytes: usize) -> bool {
    match capabilities.import_alignment {
        0 => address.is_multiple_of(capabilities.alignment.max(1)),
        step => address.is_multiple_of(step) && bytes.is_multiple_of(step),
    }
}

/// The views of the shared arena: the buffer by which each of the session's devices sees it.
pub(super) type Views = Vec<Option<Buffer>>;

/// Allocates the shared arena and imports it into its devices.
///
/// # Errors
/// The position of the device that refuses, with its error.
/// The position is `None` where the host itself has no memory.
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

/// Allocates host memory whose address is a multiple of what the devices ask for, which may be more
/// than a page.
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

impl Frozen {
    /// Tells whether nothing else has the slot's memory, as with an output that nobody shares.
    fn is_own_output(&self, slot: &Slot) -> bool {
        matches!(slot.storage, Storage::Own(bytes) if bytes > 0) || matches!(slot.storage, Storage::Output(_))
    }
}

impl Context {
    /// Makes memory and timelines for one run at a time.
    pub(super) fn new(
        frozen: &Frozen,
        devices: &[Arc<dyn Device>],
        queues: &[Arc<dyn Queue>],
        tallies: &[Arc<[Tally]>],
        views: &Views,
        permit: Permit,
    ) -> Result<Context> {
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
                Storage::Arena(place) | Storage::Output(place) => Some(part(&arenas[slot.device], place)?),
                Storage::Shared(place) => Some(part(&views[slot.device], place)?),
            });
        }
        let mut timelines = devices
            .iter()
            .map(|device| device.timeline(0).map_err(|error| named(error, &**device)))
            .collect::<Result<Vec<_>>>()?;
        timelines.extend(frozen.groups.iter().map(|_| Timeline::new(0)));
        let points = |wait: &Vec<(usize, u64)>| wait.iter().map(|&(device, at)| timelines[device].at(at)).collect();
        let mut context = Context {
            tables: vec![None; layout.steps.len()],
            scratch: vec![None; layout.steps.len()],
            transfers: vec![None; layout.steps.len()],
            waits: layout.steps.iter().map(|step| points(&step.wait)).collect(),
            base: vec![0; timelines.len()],
            submitted: vec![0; timelines.len()],
            groups: Vec::with_capacity(frozen.groups.len()),
            inputs: layout.slots.iter().map(|_| InputBuffer::default()).collect(),
            arenas,
            buffers,
            timelines,
            extents: None,
            deadline: Instant::now(),
            outputs: layout.slots.iter().map(|slot| frozen.is_own_output(slot).then(OutputPlace::default)).collect(),
            _permit: permit,
        };
        let mut groups: Vec<Option<Group>> = frozen.groups.iter().map(|_| None).collect();
        for (number, step) in layout.steps.iter().enumerate() {
            match &step.task {
                Task::Execute { bindings, scratch, .. } => {
                    let room = scratch.map(|place| part(&context.arenas[step.device], place));
                    context.scratch[number] = room.transpose()?;
                    context.tables[number] = Some(context.bind(bindings)?);
                }
                Task::Transfer { from, to, transport } => {
                    let end = |slot: usize| Endpoint::Device(devices[layout.slots[slot].device].clone());
                    let (Some(source), Some(target)) = (&context.buffers[*from], &context.buffers[*to]) else {
                        return Err(HalError::internal("a transfer from or to a value that has no memory"));
                    };
                    let work = transport.carry(&end(*from), &end(*to), source, target);
                    context.transfers[number] = Some(work.map_err(|error| named(error, &*devices[step.device]))?);
                }
                Task::Tiles { group, .. } => {
                    let members = context.members(step, &frozen.groups[*group], devices, queues)?;
                    let end = context.timelines[step.device].clone();
                    groups[*group] = Some(Group::new(members, end, tallies[*group].clone()));
                }
            }
        }
        // A transfer reads the output's own buffer.
        for step in &layout.steps {
            if let Task::Transfer { from, .. } = &step.task {
                context.outputs[*from] = None;
            }
        }
        // Each group is one step.
        context.groups = groups.into_iter().flatten().collect();
        Ok(context)
    }

    /// Makes a table of the slots' memory.
    /// Inputs are not there yet; each notes where it is bound.
    fn bind(&mut self, slots: &[usize]) -> Result<Arc<BindingTable>> {
        let buffer = |&slot: &usize| self.buffers[slot].clone().unwrap_or_else(|| self.inputs[slot].idle.clone());
        let table = BindingTable::new(slots.iter().map(buffer).collect::<Vec<_>>());
        for (position, &slot) in slots.iter().enumerate() {
            if let Some(output) = &mut self.outputs[slot] {
                output.bound.push((table.clone(), position));
            }
            if self.buffers[slot].is_none() {
                self.inputs[slot].bound.push((table.clone(), position));
            }
        }
        Ok(table)
    }

    /// Returns the devices that take part in a group of tiles, with this context's memory.
    fn members(
        &mut self,
        step: &Step,
        group: &partition::Group,
        devices: &[Arc<dyn Device>],
        queues: &[Arc<dyn Queue>],
    ) -> Result<Vec<Member>> {
        let Task::Tiles { bindings, scratch, .. } = &step.task else {
            return Err(HalError::internal("a step of tiles has none"));
        };
        let mut members = Vec::with_capacity(bindings.len());
        for ((of, bindings), places) in group.members.iter().zip(bindings).zip(scratch) {
            let device = &devices[of.device];
            let mut scratch = [const { None }; LANES];
            for (room, place) in scratch.iter_mut().zip(places) {
                *room = place.map(|place| part(&self.arenas[of.device], place)).transpose()?;
            }
            let mut timelines = [const { None }; LANES];
            for timeline in &mut timelines {
                *timeline = Some(device.timeline(0).map_err(|error| named(error, &**device))?);
            }
            members.push(Member {
                id: device.info().id.clone(),
                queue: queues[of.device].clone(),
                share: of.share,
                seconds: of.seconds,
                hosted: device.info().runs_on_host(),
                executables: of.executables.clone(),
                bindings: bindings.iter().map(|slots| self.bind(slots)).collect::<Result<_>>()?,
                scratch,
                timelines: timelines.map(|timeline| timeline.unwrap_or_else(|| Timeline::new(0))),
            });
        }
        Ok(members)
    }

    /// Makes the run that follows write an output into the caller's memory.
    /// Returns `false` where the device cannot do so, or the memory does not fit it; the output is
    /// then to be copied.
    ///
    /// # Errors
    /// `DeviceLost`, with the device's id; another refusal to import is no error.
    pub(super) fn place(&mut self, slot: usize, device: &dyn Device, memory: &HostMemory) -> Result<bool> {
        let Some(output) = &mut self.outputs[slot] else { return Ok(false) };
        let capabilities = device.capabilities();
        // Where an import needs no multiple, the device may still write whole multiples of its
        // alignment.
        let has_room = capabilities.import_alignment > 0 || {
            let needed = self.buffers[slot].as_ref().map_or(0, Buffer::len);
            memory.len() >= needed.next_multiple_of(capabilities.alignment.max(1))
        };
        let fits = has_room && is_aligned(capabilities, memory.as_ptr() as usize, memory.len());
        // A value that is two outputs is made once, and copied for the second.
        if !fits
            || output.there.is_some()
            || output.bound.is_empty()
            || !capabilities.imports.contains(&HandleKind::Host)
        {
            return Ok(false);
        }
        let buffer = match device.import(ExternalMemory::Host(memory.clone()), HostSemantics::Shared) {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == ErrorKind::DeviceLost => return Err(named(error, device)),
            Err(_) => return Ok(false),
        };
        for (table, position) in &output.bound {
            table.set(*position, buffer.clone())?;
        }
        output.there = Some(buffer);
        Ok(true)
    }

    /// Returns the memory that an output is in after this run: the caller's, or its own.
    pub(super) fn output(&self, slot: usize) -> Option<&Buffer> {
        let there = self.outputs[slot].as_ref().and_then(|output| output.there.as_ref());
        there.or(self.buffers[slot].as_ref())
    }

    /// Binds the outputs' own buffers again where outputs were in the caller's memory.
    pub(super) fn replace(&mut self) -> Result<()> {
        for (output, own) in self.outputs.iter_mut().zip(&self.buffers) {
            if let (Some(output), Some(own)) = (output.as_mut().filter(|output| output.there.is_some()), own) {
                for (table, position) in &output.bound {
                    table.set(*position, own.clone())?;
                }
                // From here on, nobody but the caller uses the caller's pages.
                output.there = None;
            }
        }
        Ok(())
    }

    /// Keeps tiles from beginning.
    pub(super) fn give_up(&self) {
        self.groups.iter().for_each(Group::give_up);
    }
}

impl Session {
    /// Takes a context that no run uses.
    /// Where all are in use, waits for one until the deadline, or not at all where there is none.
    pub(super) fn take_context(&self, deadline: Option<Instant>) -> Result<Context> {
        let permit = match self.contexts.take(deadline)? {
            pool::Place::Idle(context) => return Ok(context),
            pool::Place::Room(permit) => permit,
        };
        let views = share(&self.frozen.layout.shared, &self.devices).map_err(|(_, error)| error)?;
        Context::new(&self.frozen, &self.devices, &self.queues, &self.tallies, &views, permit)
    }

    /// Keeps a context whose run went well for another run.
    /// A context whose run failed is dropped: its timelines have failed for good.
    pub(super) fn give_context(&self, context: Context) {
        self.contexts.give(context);
    }
}

/// Returns a part of an arena.
pub(super) fn part(arena: &Option<Buffer>, place: Place) -> Result<Buffer> {
    let arena = arena.as_ref().ok_or_else(|| HalError::internal("a value lies in an arena that is not there"))?;
    arena.slice(place.offset..place.offset + place.bytes)
}

fn allocate(device: &dyn Device, layout: BufferLayout) -> Result<Buffer> {
    device.allocate(layout).map_err(|error| named(error, device))
}

/// The manner in which an input came to a device in the last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// No run has brought an input.
    Unknown,
    /// The device reads the caller's bytes in place.
    InPlace,
    /// The input is copied, as the device imports no host memory.
    NoImport,
    /// The input is copied, as address or length of the caller's bytes are not the multiples that
    /// the device needs.
    Unaligned,
    /// The input is copied, as the device refused to import the bytes, and is not asked again.
    Refused,
}

/// The record of an input's way to a device.
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

/// An input's buffer on a device, and where it is bound.
pub(super) struct InputBuffer {
    /// Whether the buffer is the caller's memory, which nobody may write.
    imported: bool,
    buffer: Option<Buffer>,
    /// The buffer that stands in the tables while there is no input.
    idle: Buffer,
    /// The tables that bind the input, each with the position there.
    bound: Vec<(Arc<BindingTable>, usize)>,
}

impl Default for InputBuffer {
    fn default() -> Self {
        InputBuffer { imported: false, buffer: None, idle: Buffer::nothing(), bound: Vec::new() }
    }
}

impl InputBuffer {
    /// Makes the tensor the input: in place where the device can import host memory and the bytes
    /// are aligned for it, else by a copy.
    ///
    /// # Errors
    /// The device's error, with its id; a refusal to import is no error, unless the device is lost.
    pub(super) fn bring_in(&mut self, device: &dyn Device, tensor: &Tensor, arrivals: &Arrivals) -> Result<()> {
        let capabilities = device.capabilities();
        let bytes = tensor.bytes();
        let arrival = if !capabilities.imports.contains(&HandleKind::Host) {
            Arrival::NoImport
        } else if !is_aligned(capabilities, bytes.as_ptr() as usize, bytes.len()) {
            Arrival::Unaligned
        } else if arrivals.refusal.get().is_some() {
            Arrival::Refused
        } else {
            match self.import(device, tensor) {
                Ok(()) => {
                    arrivals.set(Arrival::InPlace);
                    return Ok(());
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
            return former.write(0, bytes).map_err(|error| named(error, device));
        }
        let fresh = allocate(device, BufferLayout::new(bytes.len()))?;
        fresh.write(0, bytes).map_err(|error| named(error, device))?;
        self.imported = false;
        self.put(fresh)
    }

    /// Imports the tensor.
    /// Where the buffer before was imported too, the device may use its bookkeeping again: nobody
    /// else holds it then.
    fn import(&mut self, device: &dyn Device, tensor: &Tensor) -> Result<()> {
        let memory = ExternalMemory::Host(HostMemory::constant(tensor.bytes().clone()));
        let former = self.take()?.filter(|_| self.imported);
        let buffer = match former {
            Some(former) => device.reimport(memory, former)?,
            None => device.import(memory, HostSemantics::Immutable)?,
        };
        self.imported = true;
        self.put(buffer)
    }

    /// Takes the buffer out of the tables.
    fn take(&mut self) -> Result<Option<Buffer>> {
        let former = self.buffer.take();
        if former.is_some() {
            for (table, position) in &self.bound {
                table.set(*position, self.idle.clone())?;
            }
        }
        Ok(former)
    }

    fn put(&mut self, buffer: Buffer) -> Result<()> {
        for (table, position) in &self.bound {
            table.set(*position, buffer.clone())?;
        }
        self.buffer = Some(buffer);
        Ok(())
    }
}
