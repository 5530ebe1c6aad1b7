//! `Loop`: a body runs until its condition fails or the trips are done.
//!
//! What an iteration makes for the next one is written to slots that take turns: the body reads
//! from one and writes to another, so that nothing is copied.

use std::ops::Range;
use std::sync::Arc;

use hetero_hal::{CompileOptions, DType, Error, ErrorKind, Result, Tensor, TensorType};
use hetero_onnx::{BodyOutput, Given};

use super::collect::{Collection, Stacking};
use super::{
    Body, Frame, Frames, Held, Kernel, Kind, Operand, Outer, Packed, Place, Places, Planned, Runtime, Site,
    bind_carrying, body_of, captured, condition, given, write,
};
use crate::executable::NOTHING;
use crate::operand::Arguments;

/// The most iterations of a loop whose own bound is larger or absent; a model that needs more does
/// not end.
const MOST_ITERATIONS: i64 = 1 << 32;
/// The values that a body is given before the carried ones: the iteration and the condition.
const LEAD: usize = 2;

pub(super) fn plan(site: Site<'_>, options: &CompileOptions) -> Result<Option<Planned>> {
    let (body, _) = body_of(site, "body")?;
    let carried = site.node.inputs.len().saturating_sub(LEAD);
    let is_flag = |value: &hetero_hal::ProgramValue| value.dtype == DType::Bool && value.late.is_none();
    let is_count = |value: &hetero_hal::ProgramValue| value.dtype == DType::I64 && value.late.is_none();
    let fits = body.inputs.len() == LEAD + carried
        && body.outputs.len() > carried
        && site.node.outputs.len() < body.outputs.len()
        && site.input(0).is_none_or(is_count)
        && site.input(1).is_none_or(is_flag)
        && (LEAD..LEAD + carried).all(|index| site.input(index).is_some());
    // The oracle collects texts, and says that sequences cannot be.
    let collects_bytes =
        (carried..site.node.outputs.len()).all(|index| site.output(index).is_none_or(|value| value.dtype.bits() > 0));
    if !fits || !collects_bytes {
        return Ok(None);
    }
    let mut all = vec![Given { ty: TensorType::exact(DType::I64, &[]), constant: None }, condition()];
    all.extend((LEAD..LEAD + carried).filter_map(|index| site.input(index)).map(given));
    all.extend(captured(site, body)?);
    // The condition and what is carried are always wanted, as the next iteration may read them.
    let wanted = |index: usize| index <= carried || site.output(index - 1).is_some();
    let wanted: Vec<bool> = (0..body.outputs.len()).map(wanted).collect();
    let bound = bind_carrying(body, all, (1..LEAD + carried, 0), &wanted, options)?;
    let Some(bound) = bound else { return Ok(None) };
    Ok(Some(Planned { kind: Kind::Loop, bodies: vec![bound] }))
}

/// What becomes of something that the body makes.
#[derive(Clone, Copy)]
enum Role {
    /// The run finds the memory.
    Late,
    /// It is carried, in slots of this class; `output` is that of the node which has the last one.
    Carried { class: usize, output: Option<usize> },
    /// It is a row of this collection; the place is for rows that are not in one piece.
    Collected { number: usize, place: Place },
}

/// Slots of one size: a range of all slots.
struct Class {
    bytes: usize,
    slots: Range<usize>,
}

/// Slots in which what is carried from one iteration to the next takes turns.
pub(super) struct Slots {
    /// The classes, by their bytes.
    classes: Vec<Class>,
    /// All slots, by where they lie.
    places: Vec<Place>,
}

/// The slots that are taken in an iteration.
#[derive(Default)]
pub(super) struct Turn {
    /// Whether each slot holds something, or is a target.
    busy: Vec<bool>,
    /// For each class, the slots before which all are busy.
    next: Vec<usize>,
}

impl Slots {
    /// Makes the slots for what a body makes and carries; `sizes` has the bytes of each value.
    /// A slot is busy while something that is carried lies there, and `moved` values are carried
    /// under another number than that under which they were made.
    pub(super) fn new(mut sizes: Vec<usize>, moved: usize, places: &mut Places) -> Result<Slots> {
        sizes.sort_unstable();
        let mut slots = Slots { classes: Vec::new(), places: Vec::new() };
        for alike in sizes.chunk_by(|one, other| one == other) {
            let (bytes, first) = (alike[0], slots.places.len());
            for _ in 0..2 * alike.len() + moved {
                slots.places.push(places.add(bytes)?);
            }
            slots.classes.push(Class { bytes, slots: first..slots.places.len() });
        }
        Ok(slots)
    }

    pub(super) fn class(&self, bytes: usize) -> Option<usize> {
        self.classes.binary_search_by_key(&bytes, |class| class.bytes).ok()
    }

    /// Begins an iteration, in which the slots that hold one of the given values are busy.
    pub(super) fn begin(&self, turn: &mut Turn, workspace: Operand, given: &[Option<Held>]) {
        turn.busy.clear();
        turn.busy.resize(self.places.len(), false);
        turn.next.clear();
        turn.next.extend(self.classes.iter().map(|class| class.slots.start));
        for held in given.iter().flatten() {
            // A value without bytes may lie anywhere, also where a slot begins.
            let Held::Bytes(operand, _) = held else { continue };
            if operand.bytes == 0 {
                continue;
            }
            let offset = operand.address.addr().wrapping_sub(workspace.address.addr());
            // Slots without bytes lie where another slot begins, and before it.
            let behind = self.places.partition_point(|place| place.offset <= offset);
            if let Some(last) = behind.checked_sub(1).filter(|&last| self.places[last].offset == offset) {
                turn.busy[last] = true;
            }
        }
    }

    /// Takes a slot that holds none of the given values and is no target yet.
    pub(super) fn take(&self, turn: &mut Turn, class: usize, workspace: Operand) -> Result<Operand> {
        let missing = || Error::internal("all slots of a loop are in use");
        let (of, next) = self.classes.get(class).zip(turn.next.get_mut(class)).ok_or_else(missing)?;
        let slot = (*next..of.slots.end).find(|&slot| of.bytes == 0 || !turn.busy[slot]).ok_or_else(missing)?;
        turn.busy[slot] = true;
        *next = slot + usize::from(of.bytes > 0);
        Ok(self.places[slot].of(workspace))
    }
}

/// The kernel of a `Loop`.
pub(super) struct Loop {
    outer: Outer,
    body: Body,
    /// The number of carried values.
    carried: usize,
    /// The position of the operand of the first captured value, and their number.
    captured: (usize, usize),
    roles: Vec<Role>,
    slots: Slots,
    /// The shape of a row of each collection, where there is none, and the number of each output of
    /// the body that is collected.
    collected: Vec<(usize, Arc<[usize]>)>,
    iteration: Place,
    going: Place,
    scratch: Place,
    workspace: usize,
    frames: Frames,
}

impl Loop {
    pub(super) fn new(site: Site<'_>, mut outer: Outer, body: Body) -> Result<Loop> {
        let (graph, first) = body_of(site, "body")?;
        let carried = outer.inputs.len().saturating_sub(LEAD);
        let captured = (first, graph.captures.len());
        outer.reads_captured(first, graph.captures.len(), &body, LEAD + carried);
        let mut places = Places::default();
        let (iteration, going) = (places.add(size_of::<i64>())?, places.add(1)?);
        let mut collected = Vec::new();
        for index in carried..outer.outputs.len() {
            let Some(port) = &outer.outputs[index] else { continue };
            let made = match &body.outputs[index + 1] {
                BodyOutput::Made(made) => body.made.get(*made).filter(|made| made.is_exact()).map(|made| &*made.shape),
                BodyOutput::Constant(content) => Some(content.shape()),
                _ => None,
            };
            let declared = graph.values[graph.outputs[index + 1].index()].ty.shape();
            let laid_out = port.late.is_none().then(|| port.shape.get(1..)).flatten();
            let row = made.or(laid_out).map(Into::into).or_else(|| declared.map(Into::into));
            collected.push((index, row.unwrap_or_else(|| [].into())));
        }
        // The body's first output is the condition, and the carried values follow.
        let first_carried = body.first_outputs(0..1 + carried);
        let first = body.first_outputs(0..body.outputs.len());
        let moved = |(index, output): (usize, &BodyOutput)| match output {
            BodyOutput::Given(from) => *from != index + 1 && (1..LEAD + carried).contains(from),
            _ => false,
        };
        let moved = body.outputs.iter().enumerate().take(1 + carried).filter(|&each| moved(each)).count();
        let made = body.made.iter().zip(&first_carried);
        let sizes = made.filter(|(made, first)| made.late.is_none() && first.is_some()).map(|(made, _)| made.bytes);
        let slots = Slots::new(sizes.collect(), moved, &mut places)?;
        let mut roles = Vec::with_capacity(body.made.len());
        for (number, made) in body.made.iter().enumerate() {
            let missing = || Error::internal("a loop has no use for what its body makes");
            roles.push(match first_carried[number] {
                _ if made.late.is_some() => Role::Late,
                Some(index) => {
                    let class = slots.class(made.bytes).ok_or_else(missing)?;
                    let output = index.checked_sub(1).filter(|&output| {
                        let port = outer.outputs.get(output).and_then(Option::as_ref);
                        port.is_some_and(|port| port.late.is_none() && port.bytes >= made.bytes)
                    });
                    Role::Carried { class, output }
                }
                None => {
                    let index = first[number].ok_or_else(missing)?;
                    let number = collected.binary_search_by_key(&index, |(output, _)| output + 1);
                    Role::Collected { number: number.map_err(|_| missing())?, place: places.add(made.bytes)? }
                }
            });
        }
        let scratch = places.add(body.scratch())?;
        let (workspace, frames) = (places.bytes, Frames::default());
        Ok(Loop {
            outer,
            body,
            carried,
            captured,
            roles,
            slots,
            collected,
            iteration,
            going,
            scratch,
            workspace,
            frames,
        })
    }

    fn iterate(&self, frame: &mut Frame, arguments: &Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let workspace = arguments.workspace;
        let missing = || Error::internal("a loop lacks a value that it carries");
        let trips = match self.outer.input(0, arguments, runtime)? {
            Some(trips) => trips.number(DType::I64)?.unwrap_or(0),
            None => i64::MAX,
        };
        let mut going = self.outer.input(1, arguments, runtime)?.map(|held| held.flag()).transpose()?.unwrap_or(true);
        let (iteration, flag) = (self.iteration.of(workspace), self.going.of(workspace));
        write(flag, &[u8::from(going)]);
        let scalar: Arc<[usize]> = [].into();
        frame.given.push(Some(Held::Bytes(iteration, scalar.clone())));
        frame.given.push(Some(Held::Bytes(flag, scalar)));
        for index in LEAD..LEAD + self.carried {
            frame.given.push(Some(self.outer.input(index, arguments, runtime)?.ok_or_else(missing)?));
        }
        let (first, count) = self.captured;
        for position in first..first + count {
            frame.given.push(self.outer.captured(position, arguments, runtime)?);
        }
        let stacking = Stacking { most: usize::try_from(trips).unwrap_or(0), ..Stacking::default() };
        let collection = |&(output, _): &(usize, Arc<[usize]>)| {
            let port = self.outer.outputs[output].as_ref().ok_or_else(missing)?;
            Ok(Collection::new(output, port.dtype, stacking, self.outer.place(output, arguments)))
        };
        let mut collections = self.collected.iter().map(collection).collect::<Result<Vec<_>>>()?;
        let mut next: Vec<Held> = Vec::with_capacity(1 + self.carried);
        let mut trip = 0;
        while going && trip < trips {
            if trip >= MOST_ITERATIONS {
                return Err(Error::new(ErrorKind::Execution, "Loop does not end"));
            }
            write(iteration, &trip.to_le_bytes());
            frame.targets.clear();
            self.slots.begin(&mut frame.turn, workspace, &frame.given[1..LEAD + self.carried]);
            for (made, role) in self.body.made.iter().zip(&self.roles) {
                let target = match *role {
                    Role::Late => NOTHING,
                    // The last iteration writes where the node's output lies.
                    Role::Carried { output: Some(output), .. } if trip + 1 == trips => {
                        self.outer.place(output, arguments).ok_or_else(missing)?
                    }
                    Role::Carried { class, .. } => self.slots.take(&mut frame.turn, class, workspace)?,
                    Role::Collected { number, place } => {
                        let row = if made.is_exact() { collections[number].next(&made.shape, runtime)? } else { None };
                        row.unwrap_or_else(|| place.of(workspace))
                    }
                };
                frame.targets.push(target);
            }
            self.body.run(frame, self.scratch.of(workspace), runtime)?;
            next.clear();
            for (index, output) in self.body.outputs.iter().enumerate().take(1 + self.carried) {
                next.push(match output {
                    // The number of the iteration is written over by the next one.
                    BodyOutput::Given(0) => Held::Whole(Tensor::scalar(trip)),
                    _ => self.body.output(index, frame)?,
                });
            }
            for ((index, _), collection) in self.collected.iter().zip(&mut collections) {
                collection.keep(&self.body.output(index + 1, frame)?, runtime)?;
            }
            going = next.first().ok_or_else(missing)?.flag()?;
            for (given, next) in frame.given[1..].iter_mut().zip(next.drain(..)) {
                *given = Some(next);
            }
            trip += 1;
        }
        for index in 0..self.carried {
            if self.outer.outputs.get(index).is_some_and(Option::is_some) {
                let held = frame.given[LEAD + index].clone().ok_or_else(missing)?;
                self.outer.give(index, &held, arguments, runtime)?;
            }
        }
        for ((_, row), collection) in self.collected.iter().zip(collections) {
            collection.finish(row, &self.outer, (arguments, runtime))?;
        }
        Ok(())
    }
}

impl Kernel for Loop {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        self.frames.with(|frame| self.iterate(frame, arguments, runtime))
    }

    fn workspace(&self, _: usize) -> usize {
        self.workspace
    }

    fn weights(&self) -> Vec<&Packed> {
        self.body.packed().collect()
    }

    fn name(&self) -> &'static str {
        "control::Loop"
    }

    fn reads(&self, input: usize) -> bool {
        self.outer.reads.get(input).copied().unwrap_or(true)
    }
}
