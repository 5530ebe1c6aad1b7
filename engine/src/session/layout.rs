//! Layout: which memory each value has on each device, and how it gets from one to another.
//!
//! A value that only one device touches lies in that device's arena. One that crosses to a device that can, like its producer, import host
//! memory lies in the *shared* arena: host memory that each of these devices imports as a whole, so that the one writes and the
//! other reads the same bytes, and no step is needed in between. For other devices it is copied by a transfer. Inputs are the caller's memory,
//! and outputs that nobody shares are buffers of their own.
//!
//! Arenas use room again. In a device's arena a step may have to wait for a transfer that reads what lay there before; in the shared arena room
//! is given only to steps that come behind its former users anyway, as devices would otherwise wait for each other over nothing.

use std::collections::{HashMap, HashSet};

use hetero_arena::Request;
use hetero_hal::{Access as Reach, Direction, Error as HalError, Program, ValueId};

use super::partition::Partition;
use super::report::{self, Traffic};
use super::steps::{Access, Order, Step, Task, Way};
use crate::Result;

/// Least alignment of everything in an arena.
const ALIGNMENT: usize = 64;

/// A range of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// Where a slot's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// The caller, at each run: the position among the inputs.
    Input(usize),
    /// A buffer of its own, of so many bytes.
    Own(usize),
    /// The device's arena.
    Arena(Place),
    /// The shared arena.
    Shared(Place),
}

/// A value on a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) value: ValueId,
    pub(super) device: usize,
    pub(super) storage: Storage,
}

/// What the layout has to know of a device.
pub(super) struct Side {
    pub(super) id: String,
    /// What the first byte of a binding must be aligned to.
    pub(super) alignment: usize,
    /// What address and length of imported memory must be multiples of.
    pub(super) import_alignment: usize,
    /// Why it imports no host memory; `None` where it does.
    pub(super) refusal: Option<String>,
}

/// Host memory that some devices import.
#[derive(Default)]
pub(super) struct Shared {
    /// Bytes; 0 where nothing is shared.
    pub(super) bytes: usize,
    /// What its address must be a multiple of.
    pub(super) alignment: usize,
    /// The devices.
    pub(super) devices: Vec<usize>,
}

/// All that is decided about memory and order.
pub(super) struct Layout {
    pub(super) slots: Vec<Slot>,
    pub(super) steps: Vec<Step>,
    /// Bytes and alignment of each device's arena.
    pub(super) arenas: Vec<(usize, usize)>,
    pub(super) shared: Shared,
    /// The slot in which each value is made.
    pub(super) homes: HashMap<ValueId, usize>,
    /// What passes between devices.
    pub(super) edges: Vec<Traffic>,
}

/// A step while its places are not known yet.
struct Draft {
    device: usize,
    task: Task,
}

/// What is known of the ways between two devices, by their numbers.
pub(super) struct Ways<'a> {
    /// How the first device reads, and writes, the second one's memory.
    pub(super) reach: &'a dyn Fn(usize, usize) -> (Reach, Reach),
    /// Why so many bytes are rather copied from the first to the second, though both could use the same memory; `None` where they are not.
    pub(super) copied: &'a dyn Fn(usize, usize, usize) -> Option<String>,
}

struct Planner<'a> {
    program: &'a Program,
    sides: &'a [Side],
    ways: &'a Ways<'a>,
    /// The device that makes each value.
    makers: HashMap<ValueId, usize>,
    /// Values that several devices touch in place.
    shared: HashSet<ValueId>,
    slots: Vec<Slot>,
    index: HashMap<(ValueId, usize), usize>,
    drafts: Vec<Draft>,
    /// First and last step that touches each slot.
    lifetimes: Vec<(usize, usize)>,
    edges: Vec<Traffic>,
}

/// Lays out what the partitions pass to each other.
///
/// # Errors
/// `Internal` where the arenas cannot be planned: sizes that overflow.
pub(super) fn lay_out(program: &Program, partitions: &[Partition], sides: &[Side], ways: &Ways<'_>) -> Result<Layout> {
    let mut planner = Planner {
        program,
        sides,
        ways,
        makers: HashMap::new(),
        shared: HashSet::new(),
        slots: vec![],
        index: HashMap::new(),
        drafts: vec![],
        lifetimes: vec![],
        edges: vec![],
    };
    planner.find_shared(partitions)?;
    for (number, partition) in partitions.iter().enumerate() {
        planner.add(number, partition)?;
    }
    planner.finish(partitions)
}

impl Planner<'_> {
    fn bytes(&self, value: ValueId) -> Result<usize> {
        Ok(self.program.value(value)?.bytes())
    }

    /// Why so many bytes do not pass from one device to another in place; `None` where they do.
    fn obstacle(&self, from: usize, to: usize, bytes: usize) -> Option<String> {
        let refusal = self.sides[from].refusal.as_ref().or(self.sides[to].refusal.as_ref());
        refusal.cloned().or_else(|| (self.ways.copied)(from, to, bytes))
    }

    fn find_shared(&mut self, partitions: &[Partition]) -> Result<()> {
        for partition in partitions {
            for &(value, direction) in &partition.bindings {
                if direction == Direction::Output {
                    self.makers.insert(value, partition.device);
                } else if let Some(&maker) = self.makers.get(&value)
                    && maker != partition.device
                {
                    let bytes = self.bytes(value)?;
                    if bytes > 0 && self.obstacle(maker, partition.device, bytes).is_none() {
                        self.shared.insert(value);
                    }
                }
            }
        }
        Ok(())
    }

    /// The slot of a value on a device, which the next step touches.
    fn slot(&mut self, value: ValueId, device: usize) -> Result<usize> {
        let step = self.drafts.len();
        if let Some(&slot) = self.index.get(&(value, device)) {
            self.lifetimes[slot].1 = step;
            return Ok(slot);
        }
        let (bytes, maker) = (self.bytes(value)?, self.makers.get(&value).copied());
        let place = Place { offset: 0, bytes };
        let storage = match self.program.inputs().iter().position(|&id| id == value) {
            Some(position) => Storage::Input(position),
            None if bytes == 0 => Storage::Own(0),
            None if self.shared.contains(&value) && maker.is_some_and(|maker| self.in_place(maker, device, bytes)) => {
                Storage::Shared(place)
            }
            None if maker == Some(device) && self.program.outputs().contains(&value) => Storage::Own(bytes),
            None => Storage::Arena(place),
        };
        self.slots.push(Slot { value, device, storage });
        self.lifetimes.push((step, step));
        self.index.insert((value, device), self.slots.len() - 1);
        Ok(self.slots.len() - 1)
    }

    /// Do two devices touch a shared value in the same memory?
    fn in_place(&self, maker: usize, reader: usize, bytes: usize) -> bool {
        maker == reader || self.obstacle(maker, reader, bytes).is_none()
    }

    /// Adds a partition, behind the transfers of what it reads.
    fn add(&mut self, number: usize, partition: &Partition) -> Result<()> {
        let here = partition.device;
        for &(value, direction) in &partition.bindings {
            let Some(&maker) = self.makers.get(&value).filter(|&&maker| maker != here) else { continue };
            if direction == Direction::Output || self.index.contains_key(&(value, here)) {
                continue;
            }
            let bytes = self.bytes(value)?;
            let obstacle = self.obstacle(maker, here, bytes);
            let (from, to) = (&self.sides[maker].id, &self.sides[here].id);
            report::add(&mut self.edges, from, to, bytes as u64, obstacle.as_deref());
            if bytes == 0 || obstacle.is_none() {
                continue;
            }
            let (from, to) = (self.slot(value, maker)?, self.slot(value, here)?);
            let (device, way) = match ((self.ways.reach)(here, maker).0, (self.ways.reach)(maker, here).1) {
                (Reach::None, Reach::None) => (here, Way::ThroughHost),
                (Reach::None, _) => (maker, Way::Copy),
                _ => (here, Way::Copy),
            };
            self.drafts.push(Draft { device, task: Task::Transfer { from, to, way } });
        }
        let bindings = partition.bindings.iter().map(|&(value, _)| self.slot(value, here)).collect::<Result<_>>()?;
        self.drafts.push(Draft { device: here, task: Task::Execute { partition: number, bindings, scratch: None } });
        Ok(())
    }

    fn finish(mut self, partitions: &[Partition]) -> Result<Layout> {
        let alignments: Vec<usize> = self.sides.iter().map(|side| side.alignment.max(ALIGNMENT)).collect();
        let mut arenas = Vec::with_capacity(self.sides.len());
        for (device, &alignment) in alignments.iter().enumerate() {
            arenas.push((self.lay_out_arena(device, alignment, partitions)?, alignment));
        }
        let shared = self.lay_out_shared(partitions, &alignments)?;
        let order = self.order(partitions, true);
        let mut positions = Vec::with_capacity(self.drafts.len());
        let mut counts = vec![0u64; self.sides.len()];
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

    /// Lays out a device's arena: its slots, and its partitions' scratch. Gives the size.
    fn lay_out_arena(&mut self, device: usize, alignment: usize, partitions: &[Partition]) -> Result<usize> {
        let mut requests = Vec::new();
        let mut owners = Vec::new();
        for (index, (slot, &(first, last))) in self.slots.iter().zip(&self.lifetimes).enumerate() {
            if let (Storage::Arena(place), true) = (slot.storage, slot.device == device) {
                requests.push(request(place.bytes, alignment, first, last)?);
                owners.push((index, place.bytes));
            }
        }
        let slots = owners.len();
        for (step, draft) in self.drafts.iter().enumerate() {
            if let Task::Execute { partition, .. } = &draft.task
                && draft.device == device
            {
                let layout = partitions[*partition].executable.scratch();
                if layout.bytes > 0 {
                    requests.push(request(layout.bytes, alignment.max(layout.alignment), step, step)?);
                    owners.push((step, layout.bytes));
                }
            }
        }
        let plan = plan(&requests)?;
        for (number, ((owner, bytes), offset)) in owners.into_iter().zip(plan.offsets).enumerate() {
            let place = Place { offset, bytes };
            if number < slots {
                self.slots[owner].storage = Storage::Arena(place);
            } else if let Task::Execute { scratch, .. } = &mut self.drafts[owner].task {
                *scratch = Some(place);
            }
        }
        Ok(plan.bytes)
    }

    /// Lays out the shared arena: a range for each shared value, which all its slots have.
    fn lay_out_shared(&mut self, partitions: &[Partition], alignments: &[usize]) -> Result<Shared> {
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
        let order = self.order(partitions, false);
        let end = self.drafts.len().saturating_sub(1);
        let first = |value: &ValueId| of(value).iter().map(|&slot| self.lifetimes[slot].0).min().unwrap_or(0);
        let makes: Vec<usize> = values.iter().map(first).collect();
        let mut requests = Vec::with_capacity(values.len());
        for (value, &made) in values.iter().zip(&makes) {
            let users: Vec<usize> = (made..=end).filter(|&step| self.touches(step, of(value))).collect();
            let mut last = users.last().copied().unwrap_or(made);
            if self.program.outputs().contains(value) {
                last = end;
            }
            // A step that is not behind all users must not get their room.
            let behind = |step: usize| users.iter().all(|&user| order.is_before(user, step));
            let beside = makes.iter().copied().filter(|&step| step > made && !behind(step));
            last = beside.fold(last, usize::max);
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

    fn touches(&self, step: usize, slots: &[usize]) -> bool {
        match &self.drafts[step].task {
            Task::Transfer { from, to, .. } => slots.contains(from) || slots.contains(to),
            Task::Execute { bindings, .. } => bindings.iter().any(|slot| slots.contains(slot)),
        }
    }

    /// The order of the steps by what they touch. Before the shared arena is laid out, each value there is a place of its own.
    fn order(&self, partitions: &[Partition], shared_is_placed: bool) -> Order {
        let arenas = self.sides.len();
        let access = |slot: usize, writes: bool| {
            let Slot { value, device, storage } = self.slots[slot];
            let range =
                |space, place: Place| Access { space, start: place.offset, end: place.offset + place.bytes, writes };
            match storage {
                Storage::Input(_) => None,
                Storage::Arena(place) => Some(range(device, place)),
                Storage::Shared(place) if shared_is_placed => Some(range(arenas, place)),
                // Buffers of their own; values without bytes too are made before they are read.
                Storage::Shared(_) | Storage::Own(_) => {
                    Some(Access { space: arenas + 1 + value.index(), start: 0, end: 1, writes })
                }
            }
        };
        let accesses: Vec<Vec<Access>> = self
            .drafts
            .iter()
            .map(|draft| match &draft.task {
                Task::Transfer { from, to, .. } => access(*from, false).into_iter().chain(access(*to, true)).collect(),
                Task::Execute { partition, bindings, scratch } => {
                    let directions = partitions[*partition].bindings.iter().map(|binding| binding.1);
                    let bound = bindings.iter().zip(directions);
                    let mut list: Vec<Access> =
                        bound.filter_map(|(&slot, direction)| access(slot, direction == Direction::Output)).collect();
                    list.extend(scratch.map(|place| Access {
                        space: draft.device,
                        start: place.offset,
                        end: place.offset + place.bytes,
                        writes: true,
                    }));
                    list
                }
            })
            .collect();
        let devices: Vec<usize> = self.drafts.iter().map(|draft| draft.device).collect();
        Order::new(&devices, &accesses)
    }
}

/// Room for `bytes`, up to the next multiple of the alignment, so that a device may write whole words.
fn request(bytes: usize, alignment: usize, first: usize, last: usize) -> Result<Request> {
    let overflow = || HalError::internal(format!("{bytes} bytes overflow when they are aligned"));
    let bytes = bytes.checked_next_multiple_of(alignment).ok_or_else(overflow)?;
    Ok(Request { alignment, ..Request::new(bytes, first, last) })
}

fn plan(requests: &[Request]) -> Result<hetero_arena::Layout> {
    let plan = hetero_arena::plan(requests);
    Ok(plan.map_err(|error| HalError::internal("the arena cannot be planned").caused_by(error))?)
}
