//! `Scan`: a body runs once for each element of its sequences.

use std::sync::Arc;

use hetero_hal::{Buffer, CompileOptions, DType, Error, ProgramValue, Result, element_count};
use hetero_onnx::{BodyOutput, Given};
use hetero_reference::{check_state, scan_axes};

use super::collect::{Collection, Stacking};
use super::repeat::Slots;
use super::{
    Body, Frame, Frames, Held, Kernel, Kind, Operand, Outer, Packed, Place, Places, Planned, Runtime, Site, along,
    bind_carrying, body_of, captured, given,
};
use crate::executable::NOTHING;
use crate::memory::{self, CpuMemory};
use crate::operand::Arguments;

/// The numbers and directions of a `Scan`'s sequences.
pub(super) struct Axes {
    /// The position of the node's first state: version 8 has the lengths of sequences before.
    first: usize,
    /// The number of states.
    states: usize,
    /// The position of the operand of the first captured value, and their number.
    captured: (usize, usize),
    /// For each scanned input, its axis, and whether its last element comes first.
    inputs: Vec<(i64, bool)>,
    /// For each collected output, its axis, and whether its last element comes first.
    outputs: Vec<(i64, bool)>,
    /// The dimensions of the batch, over which version 8 goes.
    batch: Option<usize>,
    /// The shapes of the rows that the file declares.
    declared: Vec<Option<Vec<usize>>>,
}

pub(super) fn plan(site: Site<'_>, options: &CompileOptions) -> Result<Option<Planned>> {
    let operator = site.operator();
    let (body, position) = body_of(site, "body")?;
    let is_batched = operator.version < 9;
    let first = usize::from(is_batched);
    let inputs = site.node.inputs.len().saturating_sub(first);
    let scanned = usize::try_from(operator.int("num_scan_inputs")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let Some(states) = inputs.checked_sub(scanned).filter(|_| scanned > 0) else { return Ok(None) };
    let collects = body.outputs.len().saturating_sub(states);
    let fits = body.inputs.len() == inputs
        && body.outputs.len() >= states
        && site.node.outputs.len() <= body.outputs.len()
        && (first..first + inputs).all(|index| site.input(index).is_some())
        && (0..site.node.outputs.len()).all(|index| site.output(index).is_none_or(|value| value.dtype.bits() > 0));
    if !fits {
        return Ok(None);
    }
    let ways = |axes: &str, directions: &str, count: usize| -> Result<Vec<(i64, bool)>> {
        let reversed = scan_axes(operator, directions, count)?.into_iter().map(|way| way != 0);
        Ok(scan_axes(operator, axes, count)?.into_iter().zip(reversed).collect())
    };
    let (in_ways, out_ways) = if is_batched {
        (ways("", "directions", scanned)?, vec![(0, false); collects])
    } else {
        let inputs = ways("scan_input_axes", "scan_input_directions", scanned)?;
        (inputs, ways("scan_output_axes", "scan_output_directions", collects)?)
    };
    let values = (first..first + inputs).filter_map(|index| site.input(index));
    // The first dimension of all values of version 8 is the batch.
    let batch = site.input(first).and_then(|value| value.shape.first().copied()).filter(|_| is_batched);
    let is_exact = |value: &ProgramValue| !value.is_dynamic() && value.shape.first().copied() == batch;
    let outputs = (0..site.node.outputs.len()).filter_map(|index| site.output(index));
    if is_batched && (batch.is_none_or(|batch| batch == 0) || !values.clone().chain(outputs).all(is_exact)) {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(inputs + body.captures.len());
    for (index, value) in values.enumerate() {
        let mut known = Given { constant: None, ..given(value) };
        if let Some(dims) = &mut known.ty.dims {
            if is_batched {
                dims.remove(0);
            }
            if let Some((axis, _)) = index.checked_sub(states).and_then(|index| in_ways.get(index)) {
                dims.remove(along(*axis, dims.len())?);
            }
        }
        all.push(known);
    }
    all.extend(captured(site, body)?);
    let wanted = |index: usize| index < states || site.output(index).is_some();
    let wanted: Vec<bool> = (0..body.outputs.len()).map(wanted).collect();
    let Some(bound) = bind_carrying(body, all, (0..states, 0), &wanted, options)? else { return Ok(None) };
    let axes = Axes {
        first,
        states,
        captured: (position, body.captures.len()),
        inputs: in_ways,
        outputs: out_ways,
        batch,
        declared: body.outputs[states..].iter().map(|id| body.values[id.index()].ty.shape()).collect(),
    };
    Ok(Some(Planned { kind: Kind::Scan(axes), bodies: vec![bound] }))
}

/// What becomes of something that the body makes.
#[derive(Clone, Copy)]
enum Role {
    /// The run finds the memory.
    Late,
    /// It is a state, in slots of this class.
    State(usize),
    /// It is a row of the collection of this output; the place is for rows that are not in one
    /// piece.
    Collected(usize, Place),
}

/// The kernel of a `Scan`.
pub(super) struct Scan {
    outer: Outer,
    body: Body,
    axes: Axes,
    roles: Vec<Role>,
    slots: Slots,
    /// The places of elements that are not in one piece, where their size is known.
    elements: Vec<Option<Place>>,
    scratch: Place,
    workspace: usize,
    frames: Frames,
}

/// A sequence in a run.
struct Sequence {
    held: Held,
    /// The shape of an element.
    shape: Arc<[usize]>,
    length: usize,
    /// The bytes of an element behind the axis, and the number of such parts.
    part: usize,
    parts: usize,
    reversed: bool,
    /// Memory for an element that is not in one piece.
    room: Operand,
    /// The owner of that memory, where it is no place of the workspace.
    _owner: Option<Buffer>,
}

impl Sequence {
    /// Returns an element.
    fn element(&self, step: usize) -> Held {
        let position = if self.reversed { self.length - 1 - step } else { step };
        let source = self.held.operand();
        if self.parts == 1 {
            return Held::Bytes(source.part(position * self.part, self.part), self.shape.clone());
        }
        for number in 0..self.parts {
            let from = source.part((number * self.length + position) * self.part, self.part);
            // SAFETY: the sequence is not written while it is held, and the room is this sequence's
            // alone, whose last element nobody reads any more.
            unsafe { self.room.part(number * self.part, self.part).copy_from(from) };
        }
        Held::Bytes(self.room.part(0, self.parts * self.part), self.shape.clone())
    }
}

impl Scan {
    pub(super) fn new(mut outer: Outer, body: Body, axes: Axes) -> Result<Scan> {
        let (states, inputs) = (axes.states, axes.states + axes.inputs.len());
        outer.reads_captured(axes.captured.0, axes.captured.1, &body, inputs);
        let mut places = Places::default();
        let mut elements = Vec::with_capacity(axes.inputs.len());
        for (index, (axis, _)) in axes.inputs.iter().enumerate() {
            let port = outer.inputs.get(axes.first + states + index).and_then(Option::as_ref);
            let port = port.filter(|port| port.is_exact());
            let size = port.and_then(|port| {
                let shape = &port.shape[usize::from(axes.batch.is_some())..];
                let length = shape[along(*axis, shape.len()).ok()?];
                port.bytes.checked_div(length.checked_mul(axes.batch.unwrap_or(1))?)
            });
            elements.push(size.map(|bytes| places.add(bytes)).transpose()?);
        }
        let (state, collected) = (body.first_outputs(0..states), body.first_outputs(states..body.outputs.len()));
        // An element of a sequence may become a state, and its memory is another one's by then.
        let moved = body.outputs.iter().take(states).filter(|output| matches!(output, BodyOutput::Given(_))).count();
        let made = body.made.iter().zip(&state);
        let sizes = made.filter(|(made, state)| made.late.is_none() && state.is_some()).map(|(made, _)| made.bytes);
        let slots = Slots::new(sizes.collect(), moved, &mut places)?;
        let mut roles = Vec::with_capacity(body.made.len());
        for (number, made) in body.made.iter().enumerate() {
            let missing = || Error::internal("a scan has no use for what its body makes");
            roles.push(if made.late.is_some() {
                Role::Late
            } else if state[number].is_some() {
                Role::State(slots.class(made.bytes).ok_or_else(missing)?)
            } else {
                let index = collected[number].ok_or_else(missing)?;
                Role::Collected(index, places.add(made.bytes)?)
            });
        }
        let scratch = places.add(body.scratch())?;
        let (workspace, frames) = (places.bytes, Frames::default());
        Ok(Scan { outer, body, axes, roles, slots, elements, scratch, workspace, frames })
    }

    /// Returns a sequence of a run.
    fn sequence(
        &self,
        index: usize,
        held: Held,
        (dtype, workspace): (DType, Operand),
        runtime: &Runtime<'_>,
    ) -> Result<Sequence> {
        let (axis, reversed) = self.axes.inputs[index];
        let shape = held.shape();
        let axis = along(axis, shape.len())?;
        let overflows = || Error::internal("the size of a sequence overflows");
        let count = |sizes: &[usize]| element_count(sizes).ok_or_else(overflows);
        let (length, parts) = (shape[axis], count(&shape[..axis])?);
        let part = dtype.bytes_for(count(&shape[axis + 1..])?).ok_or_else(overflows)?;
        let element: Arc<[usize]> = [&shape[..axis], &shape[axis + 1..]].concat().into();
        let bytes = part.checked_mul(parts).ok_or_else(overflows)?;
        let (room, owner) = match self.elements[index] {
            Some(place) => (place.of(workspace), None),
            None if parts == 1 => (NOTHING, None),
            None => {
                let buffer = CpuMemory::allocate(&runtime.shared.id, bytes, &runtime.shared.budget)?;
                (memory::operand(&buffer)?, Some(buffer))
            }
        };
        if parts != 1 && room.bytes < bytes {
            return Err(Error::internal("an element of a sequence is larger than its place"));
        }
        Ok(Sequence { held, shape: element, length, part, parts, reversed, room, _owner: owner })
    }

    /// Runs the body over sequences; the states, which the frame has first, become the last ones.
    fn sweep(
        &self,
        frame: &mut Frame,
        sequences: &[Sequence],
        collections: &mut [Option<Collection>],
        (arguments, runtime): (&Arguments<'_>, &Runtime<'_>),
    ) -> Result<()> {
        let (states, workspace) = (self.axes.states, arguments.workspace);
        frame.given.extend(sequences.iter().map(|_| None));
        let (first, count) = self.axes.captured;
        for position in first..first + count {
            frame.given.push(self.outer.captured(position, arguments, runtime)?);
        }
        let mut next: Vec<Held> = Vec::with_capacity(states);
        for step in 0..sequences.first().map_or(0, |sequence| sequence.length) {
            for (given, sequence) in frame.given[states..].iter_mut().zip(sequences) {
                *given = Some(sequence.element(step));
            }
            frame.targets.clear();
            self.slots.begin(&mut frame.turn, workspace, &frame.given[..states]);
            for (made, role) in self.body.made.iter().zip(&self.roles) {
                let target = match *role {
                    Role::Late => NOTHING,
                    Role::State(class) => self.slots.take(&mut frame.turn, class, workspace)?,
                    Role::Collected(index, place) => {
                        let collection = collections[index - states].as_mut().filter(|_| made.is_exact());
                        let row = collection.map(|collection| collection.next(&made.shape, runtime)).transpose()?;
                        row.flatten().unwrap_or_else(|| place.of(workspace))
                    }
                };
                frame.targets.push(target);
            }
            self.body.run(frame, self.scratch.of(workspace), runtime)?;
            next.clear();
            for (index, output) in self.body.outputs.iter().enumerate().take(states) {
                let held = self.body.output(index, frame)?;
                let scanned =
                    matches!(output, BodyOutput::Given(from) if (states..states + sequences.len()).contains(from));
                let dtype = self.outer.inputs[self.axes.first + index].as_ref().map(|port| port.dtype);
                next.push(match (scanned, dtype) {
                    // The next element may be gathered where this one is.
                    (true, Some(dtype)) => Held::Whole(held.tensor(dtype, runtime)?),
                    _ => held,
                });
            }
            for (index, collection) in collections.iter_mut().enumerate() {
                if let Some(collection) = collection {
                    collection.keep(&self.body.output(states + index, frame)?, runtime)?;
                }
            }
            for (state, (given, next)) in frame.given.iter_mut().zip(next.drain(..)).enumerate() {
                if let Some(before) = given {
                    check_state(state, before.shape(), next.shape())?;
                }
                *given = Some(next);
            }
        }
        Ok(())
    }

    /// Begins the collections; `place` returns the memory of an output.
    fn collections(&self, length: usize, place: impl Fn(usize) -> Option<Operand>) -> Vec<Option<Collection>> {
        let begin = |(index, &(axis, reversed)): (usize, &(i64, bool))| {
            let output = self.axes.states + index;
            let port = self.outer.outputs.get(output)?.as_ref()?;
            let stacking = Stacking { axis, reversed, rows: Some(length), most: length };
            Some(Collection::new(output, port.dtype, stacking, place(output)))
        };
        self.axes.outputs.iter().enumerate().map(begin).collect()
    }

    /// Runs over whole sequences.
    fn run_whole(&self, frame: &mut Frame, arguments: &Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let states = self.axes.states;
        let missing = || Error::internal("a scan lacks an input");
        for index in 0..states {
            frame.given.push(Some(self.outer.input(index, arguments, runtime)?.ok_or_else(missing)?));
        }
        let sequence = |index: usize| {
            let held = self.outer.input(states + index, arguments, runtime)?.ok_or_else(missing)?;
            let dtype = self.outer.inputs[states + index].as_ref().map(|port| port.dtype).ok_or_else(missing)?;
            self.sequence(index, held, (dtype, arguments.workspace), runtime)
        };
        let sequences = (0..self.axes.inputs.len()).map(sequence).collect::<Result<Vec<_>>>()?;
        let length = same_length(&sequences)?;
        let mut collections = self.collections(length, |output| self.outer.place(output, arguments));
        self.sweep(frame, &sequences, &mut collections, (arguments, runtime))?;
        for index in 0..states {
            if self.outer.outputs.get(index).is_some_and(Option::is_some) {
                let held = frame.given[index].clone().ok_or_else(missing)?;
                self.outer.give(index, &held, arguments, runtime)?;
            }
        }
        for (index, collection) in collections.into_iter().enumerate() {
            let Some(collection) = collection else { continue };
            let row = self.row(index, length);
            collection.finish(&row, &self.outer, (arguments, runtime))?;
        }
        Ok(())
    }

    /// Returns the shape of a row of a collection that has none.
    fn row(&self, index: usize, length: usize) -> Vec<usize> {
        let output = self.axes.states + index;
        let made = match self.body.outputs.get(output) {
            Some(BodyOutput::Made(made)) => self.body.made.get(*made).filter(|made| made.is_exact()),
            _ => None,
        };
        let laid_out = || {
            let port = self.outer.outputs.get(output)?.as_ref().filter(|port| port.is_exact())?;
            let mut shape = port.shape.get(usize::from(self.axes.batch.is_some())..)?.to_vec();
            let axis = along(self.axes.outputs[index].0, shape.len()).ok()?;
            (shape.remove(axis) == length).then_some(shape)
        };
        let made = made.map(|made| made.shape.to_vec()).or_else(laid_out);
        made.or_else(|| self.axes.declared.get(index).cloned().flatten()).unwrap_or_default()
    }

    /// Runs over the sequences of each item of a batch.
    fn run_batch(
        &self,
        batch: usize,
        frame: &mut Frame,
        arguments: &Arguments<'_>,
        runtime: &Runtime<'_>,
    ) -> Result<()> {
        let (states, missing) = (self.axes.states, || Error::internal("a scan lacks an input"));
        let item_of = |item: usize, held: &Held| {
            let (operand, shape) = (held.operand(), held.shape());
            let bytes = operand.bytes / batch;
            Held::Bytes(operand.part(item * bytes, bytes), shape.get(1..).unwrap_or_default().into())
        };
        let lengths = self.outer.input(0, arguments, runtime)?;
        for item in 0..batch {
            frame.clear();
            for index in 0..states {
                let held = self.outer.input(1 + index, arguments, runtime)?.ok_or_else(missing)?;
                frame.given.push(Some(item_of(item, &held)));
            }
            let sequence = |index: usize| {
                let held = self.outer.input(1 + states + index, arguments, runtime)?.ok_or_else(missing)?;
                let dtype = self.outer.inputs[1 + states + index].as_ref().map(|port| port.dtype);
                let own = (dtype.ok_or_else(missing)?, arguments.workspace);
                self.sequence(index, item_of(item, &held), own, runtime)
            };
            let sequences = (0..self.axes.inputs.len()).map(sequence).collect::<Result<Vec<_>>>()?;
            let length = same_length(&sequences)?;
            if let Some(lengths) = &lengths {
                // SAFETY: what is held is alive and not written.
                let (own, _) = unsafe { lengths.operand().read() }.as_chunks::<8>();
                if own.iter().any(|own| usize::try_from(i64::from_le_bytes(*own)) != Ok(length)) {
                    return Err(Error::unsupported("Scan of version 8 over sequences of different lengths"));
                }
            }
            let place = |output: usize| {
                let whole = self.outer.place(output, arguments)?;
                let bytes = self.outer.outputs[output].as_ref()?.bytes / batch;
                Some(whole.part(item * bytes, bytes))
            };
            let mut collections = self.collections(length, place);
            self.sweep(frame, &sequences, &mut collections, (arguments, runtime))?;
            for index in 0..states {
                let (Some(place), Some(held)) = (place(index), &frame.given[index]) else { continue };
                if held.operand().bytes != place.bytes {
                    return Err(Error::internal("a state of a scan changes its size"));
                }
                // SAFETY: what is held is alive and not written, and the output is this node's.
                unsafe { place.copy_from(held.operand()) };
            }
            for (index, collection) in collections.iter().enumerate() {
                let output = states + index;
                let port = collection.as_ref().and_then(|_| self.outer.outputs[output].as_ref());
                let shape = [&[batch, length][..], &self.row(index, length)].concat();
                port.map_or(Ok(()), |port| port.check(port.dtype, &shape))?;
            }
        }
        Ok(())
    }
}

/// Returns the length of all sequences.
fn same_length(sequences: &[Sequence]) -> Result<usize> {
    let length = sequences.first().map_or(0, |sequence| sequence.length);
    if sequences.iter().any(|sequence| sequence.length != length) {
        return Err(Error::invalid_model("the sequences of Scan differ in length"));
    }
    Ok(length)
}

impl Kernel for Scan {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        self.frames.with(|frame| match self.axes.batch {
            Some(batch) => self.run_batch(batch, frame, arguments, runtime),
            None => self.run_whole(frame, arguments, runtime),
        })
    }

    fn workspace(&self, _: usize) -> usize {
        self.workspace
    }

    fn weights(&self) -> Vec<&Packed> {
        self.body.packed().collect()
    }

    fn name(&self) -> &'static str {
        "control::Scan"
    }

    fn reads(&self, input: usize) -> bool {
        self.outer.reads.get(input).copied().unwrap_or(true)
    }
}
