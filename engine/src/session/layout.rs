//! The layout: which memory each value has on each device, and how it gets from one device to
//! another.
//!
//! A value that only one device touches lies in that device's arena.
//! A value may cross to a device that can, like its producer, import host memory.
//! It then lies in the *shared* arena: host memory that each of these devices imports as a whole.
//! The one device writes and the other reads the same bytes, and no step is needed in between.
//! For other devices the value is copied by a transfer, which is a transport's work
//! ([`ways`](super::ways)).
//! Inputs are the caller's memory, and outputs that nobody shares are buffers of their own.
//!
//! Arenas use room again.
//! In a device's arena a step may have to wait for a transfer that reads the value that lay there
//! before.
//! In the shared arena room is given only to steps that come behind its former users anyway, as
//! devices would otherwise wait for each other over nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use hetero_arena::Request;
use hetero_comm::{Carriage, Transport as _, ZeroCopy};
use hetero_hal::{BufferLayout, Direction, Error as HalError, Program, ValueId};

use super::partition::{Group, Partition, Unit};
use super::report::{self, Traffic};
use super::steps::{Access, Order, Place, Step, Task};
use super::tiles::LANES;
use super::ways::{Way, Ways};
use crate::Result;

/// The least alignment of everything in an arena.
const ALIGNMENT: usize = 64;

/// The bytes from which an output has a buffer of its own.
/// Devices take whole pages for one.
const SMALL: usize = 4096;

/// The source of a slot's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// The caller's memory, which each run brings: the position among the inputs.
    Input(usize),
    /// A buffer of its own, with the given number of bytes.
    Own(usize),
    /// A place in the device's arena, which other values have before and behind this one.
    Arena(Place),
    /// A place at the end of the device's arena, which nothing else has: a small output, for which
    /// a buffer of its own would take a whole page.
    Output(Place),
    /// A place in the shared arena.
    Shared(Place),
}

/// A value on a device, with its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) value: ValueId,
    pub(super) device: usize,
    pub(super) storage: Storage,
}

/// The properties of a device that the layout has to know.
pub(super) struct Side {
    pub(super) id: String,
    /// The alignment of the first byte of a binding.
    pub(super) alignment: usize,
    /// The number of which address and length of imported memory have to be multiples.
    pub(super) import_alignment: usize,
    /// The reason why the device imports no host memory; `None` where it does.
    pub(super) refusal: Option<String>,
}

/// Host memory that some devices import.
#[derive(Default)]
pub(super) struct Shared {
    /// The bytes of the memory; 0 where nothing is shared.
    pub(super) bytes: usize,
    /// The number of which its address has to be a multiple.
    pub(super) alignment: usize,
    /// The positions of the devices that import it.
    pub(super) devices: Vec<usize>,
}

/// The decisions about memory and order.
pub(super) struct Layout {
    pub(super) slots: Vec<Slot>,
    pub(super) steps: Vec<Step>,
    /// The bytes and the alignment of each device's arena.
    pub(super) arenas: Vec<(usize, usize)>,
    pub(super) shared: Shared,
    /// The slot in which each value is made.
    pub(super) homes: HashMap<ValueId, usize>,
    /// The traffic between devices.
    pub(super) edges: Vec<Traffic>,
}

/// A step while its places are not known yet.
struct Draft {
    device: usize,
    task: Task,
}

/// The parts of a compiled plan that are laid out.
pub(super) struct Parts<'a> {
    pub(super) partitions: &'a [Partition],
    pub(super) groups: &'a [Group],
    /// The units, in the order of replay.
    pub(super) units: &'a [Unit],
}

struct Planner<'a> {
    program: &'a Program,
    partitions: &'a [Partition],
    groups: &'a [Group],
    sides: &'a [Side],
    ways: &'a Ways<'a>,
    /// The position of each input.
    inputs: HashMap<ValueId, usize>,
    outputs: HashSet<ValueId>,
    /// The device that makes each value.
    makers: HashMap<ValueId, usize>,
    /// The values that several devices touch in place.
    shared: HashSet<ValueId>,
    /// The values that tiles make: any device that takes part may make them, in the same memory.
    tiled: HashSet<ValueId>,
    slots: Vec<Slot>,
    index: HashMap<(ValueId, usize), usize>,
    drafts: Vec<Draft>,
    /// The first and the last step that touches each slot.
    lifetimes: Vec<(usize, usize)>,
    edges: Vec<Traffic>,
}

/// Lays out the values that the partitions pass to each other.
///
/// # Errors
/// `Internal` where the arenas cannot be planned, as sizes overflow.
pub(super) fn lay_out(program: &Program, parts: &Parts<'_>, sides: &[Side], ways: &Ways<'_>) -> Result<Layout> {
    let mut planner = Planner {
        program,
        partitions: parts.partitions,
        groups: parts.groups,
        sides,
        ways,
        inputs: program.inputs().iter().enumerate().map(|(position, &id)| (id, position)).collect(),
        outputs: program.outputs().iter().copied().collect(),
        makers: HashMap::new(),
        shared: HashSet::new(),
        tiled: HashSet::new(),
        slots: vec![],
        index: HashMap::new(),
        drafts: vec![],
        lifetimes: vec![],
        edges: vec![],
    };
    planner.find_shared(parts.units)?;
    for unit in parts.units {
        match *unit {
            Unit::Partition(number) => planner.add(number)?,
            Unit::Group(number) => planner.add_group(number)?,
        }
    }
    planner.finish()
}

impl Planner<'_> {
    fn bytes(&self, value: ValueId) -> Result<usize> {
        Ok(self.program.value(value)?.bytes())
    }

    /// Returns how the given number of bytes passes from one device to another.
    fn way(&self, from: usize, to: usize, bytes: usize) -> Result<Way> {
        let refusal = self.sides[from].refusal.as_ref().or(self.sides[to].refusal.as_ref());
        let way = self.ways.choose(from, to, bytes, refusal.is_none())?;
        Ok(Way { reason: refusal.cloned().or(way.reason), ..way })
    }

    fn find_shared(&mut self, units: &[Unit]) -> Result<()> {
        for unit in units {
            match *unit {
                Unit::Partition(number) => {
                    let partition = &self.partitions[number];
                    self.find_shared_of(&partition.bindings, partition.device, &[partition.device])?;
                }
                Unit::Group(number) => {
                    let group = &self.groups[number];
                    let devices: Vec<usize> = group.members.iter().map(|member| member.device).collect();
                    for &tile in &group.tiles {
                        let partition = &self.partitions[tile];
                        self.find_shared_of(&partition.bindings, partition.device, &devices)?;
                        for &(value, direction) in &partition.bindings {
                            if direction == Direction::Output && self.bytes(value)? > 0 {
                                self.shared.insert(value);
                                self.tiled.insert(value);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Records the values of a partition that other devices share with the devices that run it.
    /// Its outputs are made on `home`.
    fn find_shared_of(&mut self, bindings: &[(ValueId, Direction)], home: usize, devices: &[usize]) -> Result<()> {
        for &(value, direction) in bindings {
            if direction == Direction::Output {
                self.makers.insert(value, home);
            } else if let Some(&maker) = self.makers.get(&value) {
                let bytes = self.bytes(value)?;
                for &device in devices.iter().filter(|&&device| device != maker && bytes > 0) {
                    if self.way(maker, device, bytes)?.carriage == Carriage::InPlace {
                        self.shared.insert(value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the slot of a value on a device, which the next step touches.
    fn slot(&mut self, value: ValueId, device: usize) -> Result<usize> {
        let step = self.drafts.len();
        if let Some(&slot) = self.index.get(&(value, device)) {
            self.lifetimes[slot].1 = step;
            return Ok(slot);
        }
        let (bytes, maker) = (self.bytes(value)?, self.makers.get(&value).copied());
        let place = Place { offset: 0, bytes };
        let storage = match self.inputs.get(&value) {
            Some(&position) => Storage::Input(position),
            None if bytes == 0 => Storage::Own(0),
            None if self.shared.contains(&value) && self.in_place(value, maker, device, bytes)? => {
                Storage::Shared(place)
            }
            None if maker == Some(device) && self.outputs.contains(&value) => {
                if bytes < SMALL {
                    Storage::Output(place)
                } else {
                    Storage::Own(bytes)
                }
            }
            None => Storage::Arena(place),
        };
        self.slots.push(Slot { value, device, storage });
        self.lifetimes.push((step, step));
        self.index.insert((value, device), self.slots.len() - 1);
        Ok(self.slots.len() - 1)
    }

    /// Tells whether the maker of a shared value and its reader touch it in the same memory.
    fn in_place(&self, value: ValueId, maker: Option<usize>, reader: usize, bytes: usize) -> Result<bool> {
        let Some(maker) = maker else { return Ok(false) };
        Ok(maker == reader
            || self.is_tiled_in_place(value, reader)
            || self.way(maker, reader, bytes)?.carriage == Carriage::InPlace)
    }

    /// Tells whether a device uses a value of tiles in place, whether or not a copy would be
    /// quicker: a tile's result is written where the group's other devices would write it.
    fn is_tiled_in_place(&self, value: ValueId, reader: usize) -> bool {
        self.tiled.contains(&value) && self.sides[reader].refusal.is_none()
    }

    /// Adds a partition, behind the transfers of the values that it reads.
    fn add(&mut self, number: usize) -> Result<()> {
        let partitions = self.partitions;
        let partition = &partitions[number];
        self.bring(&partition.bindings, partition.device)?;
        let bindings = self.bind(&partition.bindings, partition.device)?;
        let task = Task::Execute { partition: number, bindings, scratch: None };
        self.drafts.push(Draft { device: partition.device, task });
        Ok(())
    }

    /// Adds a group of tiles, behind the transfers of the values that any device that takes part
    /// reads.
    fn add_group(&mut self, number: usize) -> Result<()> {
        let (partitions, group) = (self.partitions, &self.groups[number]);
        for member in &group.members {
            for &tile in &group.tiles {
                self.bring(&partitions[tile].bindings, member.device)?;
            }
        }
        let mut bindings = Vec::with_capacity(group.members.len());
        for member in &group.members {
            let slots = group.tiles.iter().map(|&tile| self.bind(&partitions[tile].bindings, member.device));
            bindings.push(slots.collect::<Result<Vec<_>>>()?);
        }
        let scratch = vec![[None; LANES]; group.members.len()];
        let task = Task::Tiles { group: number, bindings, scratch };
        self.drafts.push(Draft { device: self.sides.len() + number, task });
        Ok(())
    }

    /// Returns the slots of bindings on a device, for the next step.
    fn bind(&mut self, bindings: &[(ValueId, Direction)], here: usize) -> Result<Vec<usize>> {
        bindings.iter().map(|&(value, _)| self.slot(value, here)).collect()
    }

    /// Adds the transfers of the values that are read on a device.
    fn bring(&mut self, bindings: &[(ValueId, Direction)], here: usize) -> Result<()> {
        for &(value, direction) in bindings {
            let Some(&maker) = self.makers.get(&value).filter(|&&maker| maker != here) else { continue };
            if direction == Direction::Output || self.index.contains_key(&(value, here)) {
                continue;
            }
            let bytes = self.bytes(value)?;
            let way = self.way(maker, here, bytes)?;
            let carrier = way.carriage.carrier(maker, here).filter(|_| !self.is_tiled_in_place(value, here));
            let (from, to) = (&self.sides[maker].id, &self.sides[here].id);
            let Some(device) = carrier else {
                let name = if way.carriage == Carriage::InPlace { way.transport.name() } else { ZeroCopy.name() };
                report::add(&mut self.edges, from, to, bytes as u64, name, None);
                // The slot is known from here on, so that the edge counts the value once.
                self.slot(value, here)?;
                continue;
            };
            report::add(&mut self.edges, from, to, bytes as u64, way.transport.name(), way.reason.as_deref());
            if bytes == 0 {
                self.slot(value, here)?;
                continue;
            }
            let (from, to) = (self.slot(value, maker)?, self.slot(value, here)?);
            let transport = way.transport;
            self.drafts.push(Draft { device, task: Task::Transfer { from, to, transport } });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Layout> {
        let alignments: Vec<usize> = self.sides.iter().map(|side| side.alignment.max(ALIGNMENT)).collect();
        let mut arenas = Vec::with_capacity(self.sides.len());
        for (device, &alignment) in alignments.iter().enumerate() {
            let bytes = self.lay_out_arena(device, alignment)?;
            arenas.push((self.lay_out_small_outputs(device, alignment, bytes)?, alignment));
        }
        let shared = self.lay_out_shared(&alignments)?;
        let order = self.order(true);
        let mut positions = Vec::with_capacity(self.drafts.len());
        let mut counts = vec![0u64; self.sides.len() + self.groups.len()];
        for draft in &self.drafts {
            counts[draft.device] += 1;
            positions.push((draft.device, counts[draft.device]));
        }
        let steps = self.drafts.into_iter().zip(&order.waits).zip(&positions).map(|((draft, waits), position)| Step {
            device: draft.device,
            position: position.1,
            task: draft.task,
            wait: waits.iter().map(|&step| positions[step]).collect(),
        });
        let homes =
            self.makers.iter().filter_map(|(value, device)| Some((*value, *self.index.get(&(*value, *device))?)));
        Ok(Layout {
            homes: homes.collect(),
            steps: steps.collect(),
            slots: self.slots,
            arenas,
            shared,
            edges: self.edges,
        })
    }

    /// Lays out a device's arena: its slots, and its partitions' scratch.
    /// Returns the size.
    fn lay_out_arena(&mut self, device: usize, alignment: usize) -> Result<usize> {
        let mut requests = Vec::new();
        let mut owners = Vec::new();
        for (index, (slot, &(first, last))) in self.slots.iter().zip(&self.lifetimes).enumerate() {
            if let (Storage::Arena(place), true) = (slot.storage, slot.device == device) {
                requests.push(request(place.bytes, alignment, first, last)?);
                owners.push((index, place.bytes));
            }
        }
        let slots = owners.len();
        // For each scratch, the member and the lane of a group that it is for.
        let mut lanes = Vec::new();
        for (step, draft) in self.drafts.iter().enumerate() {
            let mut add = |layout: BufferLayout, lane: (usize, usize)| -> Result<()> {
                if layout.bytes > 0 {
                    requests.push(request(layout.bytes, alignment.max(layout.alignment), step, step)?);
                    owners.push((step, layout.bytes));
                    lanes.push(lane);
                }
                Ok(())
            };
            match &draft.task {
                Task::Execute { partition, .. } if draft.device == device => {
                    add(self.partitions[*partition].executable.scratch(), (0, 0))?;
                }
                Task::Tiles { group, .. } => {
                    let members = self.groups[*group].members.iter().enumerate();
                    for (number, member) in members.filter(|(_, member)| member.device == device) {
                        let each = || member.executables.iter().map(|executable| executable.scratch());
                        let layout = BufferLayout {
                            bytes: each().map(|layout| layout.bytes).max().unwrap_or(0),
                            alignment: each().map(|layout| layout.alignment).max().unwrap_or(0),
                        };
                        (0..LANES).try_for_each(|lane| add(layout, (number, lane)))?;
                    }
                }
                _ => {}
            }
        }
        let plan = plan(&requests)?;
        for (number, ((owner, bytes), offset)) in owners.into_iter().zip(plan.offsets).enumerate() {
            let place = Place { offset, bytes };
            if number < slots {
                self.slots[owner].storage = Storage::Arena(place);
                continue;
            }
            match &mut self.drafts[owner].task {
                Task::Execute { scratch, .. } => *scratch = Some(place),
                Task::Tiles { scratch, .. } => {
                    let (member, lane) = lanes[number - slots];
                    scratch[member][lane] = Some(place);
                }
                Task::Transfer { .. } => {}
            }
        }
        Ok(plan.bytes)
    }

    /// Places a device's small outputs behind what its arena has so far, and returns the new size.
    fn lay_out_small_outputs(&mut self, device: usize, alignment: usize, mut size: usize) -> Result<usize> {
        for slot in self.slots.iter_mut().filter(|slot| slot.device == device) {
            if let Storage::Output(place) = &mut slot.storage {
                let overflow = || HalError::internal("the size of the small outputs overflows");
                place.offset = size.checked_next_multiple_of(alignment).ok_or_else(overflow)?;
                let end = place.offset.checked_add(place.bytes).and_then(|end| end.checked_next_multiple_of(alignment));
                size = end.ok_or_else(overflow)?;
            }
        }
        Ok(size)
    }

    /// Lays out the shared arena: a range for each shared value, which all its slots have.
    fn lay_out_shared(&mut self, alignments: &[usize]) -> Result<Shared> {
        let mut devices: Vec<usize> = Vec::new();
        let mut slots_of: HashMap<ValueId, Vec<usize>> = HashMap::new();
        let mut values: Vec<ValueId> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Storage::Shared(_) = slot.storage {
                devices.push(slot.device);
                let slots = slots_of.entry(slot.value).or_default();
                if slots.is_empty() {
                    values.push(slot.value);
                }
                slots.push(index);
            }
        }
        devices.sort_unstable();
        devices.dedup();
        if devices.is_empty() {
            return Ok(Shared::default());
        }
        let of = |value: &ValueId| slots_of.get(value).map_or(&[][..], |slots| slots);
        let alignment = devices.iter().map(|&device| alignments[device]).max().unwrap_or(ALIGNMENT);
        let import = devices.iter().map(|&device| self.sides[device].import_alignment).max().unwrap_or(0).max(1);
        let order = self.order(false);
        let end = self.drafts.len().saturating_sub(1);
        let first = |value: &ValueId| of(value).iter().map(|&slot| self.lifetimes[slot].0).min().unwrap_or(0);
        let makes: Vec<usize> = values.iter().map(first).collect();
        // The steps that make shared values, in their order, for each device that they are on.
        let mut made_on: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &step in &makes {
            made_on.entry(self.drafts.get(step).map_or(0, |draft| draft.device)).or_default().push(step);
        }
        made_on.values_mut().for_each(|steps| steps.sort_unstable());
        let touching = self.touching();
        let mut requests = Vec::with_capacity(values.len());
        for (value, &made) in values.iter().zip(&makes) {
            let mut users: Vec<usize> = of(value).iter().flat_map(|&slot| touching[slot].iter().copied()).collect();
            users.retain(|&step| step >= made);
            users.sort_unstable();
            users.dedup();
            let mut last = users.last().copied().unwrap_or(made);
            if self.outputs.contains(value) {
                last = end;
            }
            // A step that is not behind all users must not get their room.
            // A device's steps follow each other: the first one behind a user tells of the later.
            for steps in made_on.values() {
                for &user in &users {
                    let not_behind = steps.partition_point(|&step| !order.is_before(user, step));
                    last = last.max(steps[..not_behind].last().copied().unwrap_or(0));
                }
            }
            requests.push(request(self.bytes(*value)?, alignment, made, last)?);
        }
        let plan = plan(&requests)?;
        for (value, offset) in values.iter().zip(plan.offsets) {
            let place = Place { offset, bytes: self.program.value(*value)?.bytes() };
            for &slot in slots_of.get(value).map_or(&[][..], |slots| slots) {
                self.slots[slot].storage = Storage::Shared(place);
            }
        }
        let overflow = || HalError::internal("the shared arena's size overflows");
        let bytes = plan.bytes.checked_next_multiple_of(import).ok_or_else(overflow)?;
        Ok(Shared { bytes, alignment: alignment.max(import), devices })
    }

    /// Returns the steps that touch each slot, in their order.
    fn touching(&self) -> Vec<Vec<usize>> {
        let mut touching = vec![Vec::new(); self.slots.len()];
        for (step, draft) in self.drafts.iter().enumerate() {
            match &draft.task {
                Task::Transfer { from, to, .. } => [from, to].iter().for_each(|&&slot| touching[slot].push(step)),
                Task::Execute { bindings, .. } => bindings.iter().for_each(|&slot| touching[slot].push(step)),
                Task::Tiles { bindings, .. } => {
                    bindings.iter().flatten().flatten().for_each(|&slot| touching[slot].push(step));
                }
            }
        }
        touching
    }

    /// Returns the order of the steps by the memory that they touch.
    /// Before the shared arena is laid out, each value there counts as a place of its own.
    fn order(&self, shared_is_placed: bool) -> Order {
        let arenas = self.sides.len();
        let access = |slot: usize, writes: bool| {
            let Slot { value, device, storage } = self.slots[slot];
            let range =
                |space, place: Place| Access { space, start: place.offset, end: place.offset + place.bytes, writes };
            match storage {
                Storage::Input(_) => None,
                Storage::Arena(place) => Some(range(device, place)),
                Storage::Shared(place) if shared_is_placed => Some(range(arenas, place)),
                // Nothing else has the memory of these.
                // Values without bytes too are made before they are read.
                Storage::Shared(_) | Storage::Own(_) | Storage::Output(_) => {
                    Some(Access { space: arenas + 1 + value.index(), start: 0, end: 1, writes })
                }
            }
        };
        let room = |space: usize, place: Place| Access {
            space,
            start: place.offset,
            end: place.offset + place.bytes,
            writes: true,
        };
        let accesses: Vec<Vec<Access>> = self
            .drafts
            .iter()
            .map(|draft| match &draft.task {
                Task::Transfer { from, to, .. } => access(*from, false).into_iter().chain(access(*to, true)).collect(),
                Task::Execute { partition, bindings, scratch } => {
                    let directions = self.partitions[*partition].bindings.iter().map(|binding| binding.1);
                    let bound = bindings.iter().zip(directions);
                    let mut list: Vec<Access> =
                        bound.filter_map(|(&slot, direction)| access(slot, direction == Direction::Output)).collect();
                    list.extend(scratch.map(|place| room(draft.device, place)));
                    list
                }
                Task::Tiles { group, bindings, scratch } => {
                    let group = &self.groups[*group];
                    let mut list = Vec::new();
                    for bindings in bindings {
                        for (&tile, bindings) in group.tiles.iter().zip(bindings) {
                            let directions = self.partitions[tile].bindings.iter().map(|binding| binding.1);
                            let bound = bindings.iter().zip(directions);
                            for access in
                                bound.filter_map(|(&slot, direction)| access(slot, direction == Direction::Output))
                            {
                                // Tiles read the same slices.
                                if !list.contains(&access) {
                                    list.push(access);
                                }
                            }
                        }
                    }
                    for (member, scratch) in group.members.iter().zip(scratch) {
                        list.extend(scratch.iter().flatten().map(|&place| room(member.device, place)));
                    }
                    list
                }
            })
            .collect();
        let devices: Vec<usize> = self.drafts.iter().map(|draft| draft.device).collect();
        Order::new(&devices, &accesses)
    }
}

/// Returns a request for `bytes`, up to the next multiple of the alignment, so that a device may
/// write whole words.
fn request(bytes: usize, alignment: usize, first: usize, last: usize) -> Result<Request> {
    let overflow = || HalError::internal(format!("{bytes} bytes overflow when they are aligned"));
    let bytes = bytes.checked_next_multiple_of(alignment).ok_or_else(overflow)?;
    Ok(Request { alignment, ..Request::new(bytes, first, last) })
}

fn plan(requests: &[Request]) -> Result<hetero_arena::Layout> {
    let plan = hetero_arena::plan(requests);
    Ok(plan.map_err(|error| HalError::internal("the arena cannot be planned").caused_by(error))?)
}
