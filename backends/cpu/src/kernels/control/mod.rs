//! Control flow: `If`, `Loop` and `Scan`, whose bodies are compiled as programs of their own.
//!
//! A body is compiled once, with all fusions and packed weights, for the types that the node gives
//! it; see [`BoundBody`].
//! Sizes that differ from one iteration to the next are open in its program, whose regions are
//! compiled for the sizes of an iteration; see [`crate::region`].
//! What a body reads of the graph around it is an input of its program, and is not copied.
//! Its outputs are written where the node's outputs lie, where that place is known before, and
//! else in memory that the node has for them: no iteration of known sizes allocates anything.
//!
//! The oracle interprets the bodies that cannot be compiled: those that collect texts or sequences,
//! that pass on elements of less than a byte, or whose types only a run tells.

mod branch;
mod collect;
mod repeat;
mod scan;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_hal::{
    Allowance, Attribute, Bool, CompileOptions, DType, Dim, Error, ErrorKind, ExtentId, Extents, Graph, LateId,
    Program, ProgramValue, Result, Tensor, TensorType, element_count,
};
use hetero_onnx::{BodyOutput, BoundBody, Given, unchanged};
use hetero_reference::{Standard, joined_dims};

use self::repeat::Turn;
use super::{Kernel, Packed, Runtime, Site};
use crate::device::Shared;
use crate::executable::{self, CpuExecutable, NOTHING};
use crate::memory::{self, ALIGNMENT, CpuMemory};
use crate::operand::{Arguments, Operand};

/// The most times that the types of what a loop carries are inferred.
/// Each time some size turns out to differ between iterations, or all stay.
const MOST_TRIES: usize = 16;

/// Makes the kernel of a node with bodies, or `None` where the oracle has to interpret them.
///
/// # Errors
/// `Timeout` and `Cancelled`, and `OutOfMemory` where a weight of a body has no room.
pub(crate) fn compile(
    site: Site<'_>,
    device: &Arc<Shared>,
    options: &CompileOptions,
) -> Result<Option<Box<dyn Kernel>>> {
    let ends = |error: &Error| matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Cancelled);
    let Planned { kind, bodies } = match plan(site, options) {
        Ok(Some(planned)) => planned,
        Err(error) if ends(&error) => return Err(error),
        // Whatever is wrong, the oracle says it in a run, where the body may never be reached.
        Ok(None) | Err(_) => return Ok(None),
    };
    let bodies = bodies.into_iter().map(|bound| Body::new(bound, device, options)).collect::<Result<Vec<_>>>();
    match bodies.and_then(|bodies| kind.kernel(site, Outer::of(site)?, bodies)) {
        Ok(kernel) => Ok(Some(kernel)),
        Err(error) if ends(&error) || error.kind() == ErrorKind::OutOfMemory => Err(error),
        Err(_) => Ok(None),
    }
}

/// Tells whether the bodies of a node can be compiled.
pub(crate) fn suits(site: Site<'_>) -> bool {
    matches!(plan(site, &CompileOptions::default()), Ok(Some(_)))
}

/// The kinds of nodes with bodies.
enum Kind {
    If,
    Loop,
    Scan(scan::Axes),
}

impl Kind {
    fn kernel(self, site: Site<'_>, outer: Outer, bodies: Vec<Body>) -> Result<Box<dyn Kernel>> {
        Ok(match self {
            Kind::If => Box::new(branch::If::new(site, outer, bodies)?),
            Kind::Loop => Box::new(repeat::Loop::new(site, outer, only(bodies)?)?),
            Kind::Scan(axes) => Box::new(scan::Scan::new(outer, only(bodies)?, axes)?),
        })
    }
}

fn only(mut bodies: Vec<Body>) -> Result<Body> {
    bodies.pop().ok_or_else(|| Error::internal("a node lost its body"))
}

/// A node whose bodies are bound.
struct Planned {
    kind: Kind,
    bodies: Vec<BoundBody>,
}

/// Binds the bodies of a node, where a kernel can run them.
fn plan(site: Site<'_>, options: &CompileOptions) -> Result<Option<Planned>> {
    if !site.operator().domain.is_empty() || !site.values().all(|value| is_whole(value.dtype)) {
        return Ok(None);
    }
    let planned = match &*site.operator().name {
        "If" => branch::plan(site, options)?,
        "Loop" => repeat::plan(site, options)?,
        "Scan" => scan::plan(site, options)?,
        _ => None,
    };
    Ok(planned.filter(|planned| {
        let values = planned.bodies.iter().flat_map(|body| {
            let (inputs, outputs) = (body.program.inputs().iter(), body.program.outputs().iter());
            inputs.chain(outputs).filter_map(|id| body.program.values().get(id.index()))
        });
        values.into_iter().all(|value| is_whole(value.dtype))
    }))
}

/// Tells whether elements are bytes and share none, or are no bytes at all.
fn is_whole(dtype: DType) -> bool {
    dtype.bits().is_multiple_of(8)
}

/// Returns the graph under an attribute's name, with the position of the operand of the first value
/// that it captures; those operands stand behind the node's inputs.
fn body_of<'a>(site: Site<'a>, name: &str) -> Result<(&'a Arc<Graph>, usize)> {
    let mut position = site.node.inputs.len();
    for (key, value) in &site.operator().attributes {
        match value {
            Attribute::Graph(graph) if &**key == name => return Ok((graph, position)),
            Attribute::Graph(graph) => position += graph.captures.len(),
            Attribute::Graphs(graphs) => position += graphs.iter().map(|graph| graph.captures.len()).sum::<usize>(),
            _ => {}
        }
    }
    Err(Error::invalid_model(format!("{} lacks the graph '{name}'", site.operator())))
}

/// Returns what is known of the values that a body captures.
fn captured(site: Site<'_>, body: &Graph) -> Result<Vec<Given>> {
    body.captures.iter().map(|capture| site.program.value(capture.outer).map(given)).collect()
}

/// Returns what is known of a value of the program around a body.
fn given(value: &ProgramValue) -> Given {
    Given { ty: open_type(value), constant: value.constant.clone() }
}

/// Returns the type of a value, whose extents mean nothing in another program.
fn open_type(value: &ProgramValue) -> TensorType {
    // Of most late values not even the rank is known.
    if value.late.is_some() && value.shape.is_empty() {
        return TensorType { dtype: Some(value.dtype), dims: None };
    }
    let dim = |(axis, &size): (usize, &usize)| match value.extents.get(axis).copied().flatten() {
        Some(_) if value.late.is_some() => Dim::Unknown,
        Some(_) => Dim::Data { bound: size, extent: None },
        None => Dim::Known(size),
    };
    TensorType { dtype: Some(value.dtype), dims: Some(value.shape.iter().enumerate().map(dim).collect()) }
}

/// Returns the type of an output of a bound body.
fn output_type(bound: &BoundBody, given: &[Given], output: &BodyOutput) -> Result<TensorType> {
    Ok(match output {
        BodyOutput::Unwanted => TensorType::default(),
        BodyOutput::Constant(content) => TensorType::exact(content.dtype(), content.shape()),
        BodyOutput::Given(position) => given.get(*position).map(|given| given.ty.clone()).unwrap_or_default(),
        BodyOutput::Made(index) => {
            let id = bound.program.outputs().get(*index).copied();
            open_type(bound.program.value(id.ok_or_else(|| Error::internal("a body lost its output"))?)?)
        }
    })
}

/// Binds a body whose inputs `carried` are, from the second iteration on, what its outputs from
/// `first` on were: their sizes are known where no iteration changes them.
fn bind_carrying(
    body: &Graph,
    mut all: Vec<Given>,
    (carried, first): (std::ops::Range<usize>, usize),
    wanted: &[bool],
    options: &CompileOptions,
) -> Result<Option<BoundBody>> {
    let allowance = allowance(options);
    // What no iteration changes, such as the weights that some exporters carry along, is as good as
    // a captured value.
    let unchanged = unchanged(body, carried.clone(), first);
    for (value, _) in all[carried.clone()].iter_mut().zip(&unchanged).filter(|(_, unchanged)| !**unchanged) {
        value.constant = None;
        // One extent cannot be both the size before an iteration and the one behind it.
        value.ty.dims.iter_mut().flatten().for_each(|dim| *dim = dim.known().map_or(Dim::Unknown, Dim::Known));
    }
    for _ in 0..MOST_TRIES {
        let bound = BoundBody::bind(body, &all, wanted, &Standard, &allowance)?;
        let mut changed = false;
        for (index, position) in carried.clone().enumerate().filter(|(index, _)| !unchanged[*index]) {
            let Some(output) = bound.outputs.get(first + index) else { return Ok(None) };
            let made = output_type(&bound, &all, output)?;
            let before = &mut all[position].ty;
            if made.dtype != before.dtype {
                return Ok(None);
            }
            let joined = joined_dims(before.dims.as_deref(), made.dims.as_deref());
            changed |= joined != before.dims;
            before.dims = joined;
        }
        if !changed {
            return Ok(Some(bound));
        }
    }
    Ok(None)
}

fn allowance(options: &CompileOptions) -> Allowance {
    Allowance { cancel: options.cancel.clone(), ..Allowance::default() }.until(options.deadline)
}

/// A value at the edge of a body, as its program has it.
struct Port {
    name: Arc<str>,
    dtype: DType,
    /// The sizes, and bounds of those that only a run tells.
    shape: Arc<[usize]>,
    extents: Vec<Option<ExtentId>>,
    late: Option<LateId>,
    /// The content, where it is constant and has no bytes.
    constant: Option<Tensor>,
    /// The bytes that the value is laid out with.
    bytes: usize,
}

impl Port {
    fn new(value: &ProgramValue) -> Port {
        Port {
            name: value.name.clone(),
            dtype: value.dtype,
            shape: value.shape.as_slice().into(),
            extents: value.extents.clone(),
            late: value.late,
            constant: value.constant.clone().filter(|_| value.dtype.bits() == 0),
            bytes: value.bytes(),
        }
    }

    fn is_exact(&self) -> bool {
        self.late.is_none() && self.extents.is_empty()
    }

    /// Returns the bytes of a shape.
    fn bytes_of(&self, shape: &[usize]) -> Result<usize> {
        let bytes = element_count(shape).and_then(|count| self.dtype.bytes_for(count));
        bytes.ok_or_else(|| Error::internal(format!("the size of '{}' overflows", self.name)))
    }

    /// Returns the sizes in a run that has these extents.
    fn sizes(&self, extents: Option<&Extents>) -> Result<Arc<[usize]>> {
        let Some(extents) = extents.filter(|_| !self.extents.is_empty()) else { return Ok(self.shape.clone()) };
        let size = |(axis, &bound): (usize, &usize)| match self.extents.get(axis).copied().flatten() {
            Some(extent) => Ok(extents.get(extent)?.min(bound)),
            None => Ok(bound),
        };
        self.shape.iter().enumerate().map(size).collect()
    }

    /// Notes the sizes of this value in a run.
    fn note(&self, shape: &[usize], extents: Option<&Extents>) -> Result<()> {
        let Some(extents) = extents else { return Ok(()) };
        shape.iter().zip(&self.extents).try_for_each(|(&size, extent)| match extent {
            Some(extent) => extents.set(*extent, size),
            None => Ok(()),
        })
    }

    /// Checks that the value may have a type.
    fn check(&self, dtype: DType, shape: &[usize]) -> Result<()> {
        let fits = |(axis, (&size, &bound)): (usize, (&usize, &usize))| match self.extents.get(axis) {
            Some(Some(_)) => size <= bound,
            _ => size == bound,
        };
        let is_open = self.late.is_some();
        let shapes =
            is_open || (shape.len() == self.shape.len() && shape.iter().zip(&*self.shape).enumerate().all(fits));
        if dtype == self.dtype && shapes {
            return Ok(());
        }
        Err(Error::internal(format!(
            "'{}' is {dtype}{shape:?}, which inference said to be {}{:?}",
            self.name, self.dtype, self.shape
        )))
    }
}

/// The content of a value in a run.
#[derive(Clone)]
enum Held {
    /// Memory of this node, or of the graph around it, and the true shape.
    Bytes(Operand, Arc<[usize]>),
    /// A tensor that holds its memory itself.
    Whole(Tensor),
}

impl Held {
    /// Returns the content of a value of the program around a body.
    fn outer(port: &Port, operand: Option<Operand>, runtime: &Runtime<'_>) -> Result<Held> {
        if let Some(content) = &port.constant {
            return Ok(Held::Whole(content.clone()));
        }
        if let Some(late) = port.late {
            return runtime.late(late).map(Held::Whole);
        }
        let operand = operand.ok_or_else(|| Error::internal(format!("the operand '{}' is missing", port.name)))?;
        let shape = port.sizes(runtime.extents)?;
        let bytes = port.bytes_of(&shape)?;
        if bytes > operand.bytes {
            return Err(Error::internal(format!("the operand '{}' is smaller than its value", port.name)));
        }
        Ok(Held::Bytes(operand.part(0, bytes), shape))
    }

    fn shape(&self) -> &[usize] {
        match self {
            Held::Bytes(_, shape) => shape,
            Held::Whole(tensor) => tensor.shape(),
        }
    }

    /// Returns the bytes, of which texts and sequences have none.
    fn operand(&self) -> Operand {
        match self {
            Held::Bytes(operand, _) => *operand,
            Held::Whole(tensor) => Operand::constant(tensor),
        }
    }

    /// Returns the content as a tensor that holds its memory.
    fn tensor(&self, dtype: DType, runtime: &Runtime<'_>) -> Result<Tensor> {
        let (operand, shape) = match self {
            Held::Whole(tensor) => return Ok(tensor.clone()),
            Held::Bytes(operand, shape) => (*operand, shape),
        };
        let buffer = CpuMemory::allocate(&runtime.shared.id, operand.bytes, &runtime.shared.budget)?;
        // SAFETY: the memory is fresh, and an operand that is held is not written while it is.
        unsafe { memory::operand(&buffer)?.copy_from(operand) };
        Tensor::from_bytes(dtype, shape, memory::frozen(buffer))
    }

    /// Returns the one flag that the value is.
    fn flag(&self) -> Result<bool> {
        let operand = self.operand();
        // SAFETY: an operand that is held is alive and not written while it is.
        match unsafe { operand.read() } {
            [flag] => Ok(*flag != 0),
            _ => Err(Error::invalid_model("a condition is not one boolean")),
        }
    }

    /// Returns the first number of a list of them.
    fn number(&self, dtype: DType) -> Result<Option<i64>> {
        // SAFETY: as in `flag`.
        let bytes = unsafe { self.operand().read() };
        Ok(match dtype {
            DType::I32 => bytes.first_chunk().map(|bytes| i64::from(i32::from_le_bytes(*bytes))),
            DType::I64 => bytes.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)),
            other => return Err(Error::invalid_model(format!("a trip count of type {other}"))),
        })
    }
}

/// The edge of a node with bodies.
struct Outer {
    inputs: Vec<Option<Port>>,
    /// The values that bodies capture; their operands stand behind the inputs' operands.
    captured: Vec<Port>,
    outputs: Vec<Option<Port>>,
    /// Whether each operand is read in a run.
    reads: Vec<bool>,
}

impl Outer {
    fn of(site: Site<'_>) -> Result<Outer> {
        let inputs: Vec<_> = (0..site.node.inputs.len()).map(|index| site.input(index).map(Port::new)).collect();
        let captured = site.node.uses().skip(inputs.iter().flatten().count());
        let captured = captured.map(|id| site.program.value(id).map(Port::new)).collect::<Result<Vec<_>>>()?;
        let outputs = (0..site.node.outputs.len()).map(|index| site.output(index).map(Port::new)).collect();
        let reads = vec![true; inputs.len() + captured.len()];
        Ok(Outer { inputs, captured, outputs, reads })
    }

    /// Notes which of the values that a body captures are read; those are the `count` operands from
    /// `first`, and the body is given them behind `lead` other values.
    fn reads_captured(&mut self, first: usize, count: usize, body: &Body, lead: usize) {
        let uses = body.uses(lead + count);
        for (reads, uses) in self.reads.iter_mut().skip(first).zip(&uses[lead..]) {
            *reads = *uses;
        }
    }

    /// Returns the content of an input, where the node has it.
    fn input(&self, index: usize, arguments: &Arguments<'_>, runtime: &Runtime<'_>) -> Result<Option<Held>> {
        let Some(port) = self.inputs.get(index).and_then(Option::as_ref) else { return Ok(None) };
        Held::outer(port, arguments.inputs.get(index).copied().flatten(), runtime).map(Some)
    }

    /// Returns the content of the value whose operand stands at a position, where it is read.
    fn captured(&self, position: usize, arguments: &Arguments<'_>, runtime: &Runtime<'_>) -> Result<Option<Held>> {
        let port = position.checked_sub(self.inputs.len()).and_then(|index| self.captured.get(index));
        let Some(port) = port.filter(|_| self.reads[position]) else { return Ok(None) };
        Held::outer(port, arguments.inputs.get(position).copied().flatten(), runtime).map(Some)
    }

    /// Returns the memory of an output that is laid out before the run.
    fn place(&self, index: usize, arguments: &Arguments<'_>) -> Option<Operand> {
        self.outputs.get(index)?.as_ref().filter(|port| port.late.is_none())?;
        arguments.outputs.get(index).copied().flatten()
    }

    /// Makes a value an output of the node, and copies it unless it lies there already.
    fn give(&self, index: usize, held: &Held, arguments: &Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Some(port) = self.outputs.get(index).and_then(Option::as_ref) else { return Ok(()) };
        if let Some(late) = port.late {
            let content = held.tensor(port.dtype, runtime)?;
            port.check(content.dtype(), content.shape())?;
            port.note(content.shape(), runtime.extents)?;
            let extents = runtime.extents.ok_or_else(|| Error::internal("a run has no room for late values"))?;
            return extents.put(late, content);
        }
        let dtype = if let Held::Whole(tensor) = held { tensor.dtype() } else { port.dtype };
        port.check(dtype, held.shape())?;
        let missing = || Error::internal(format!("the output '{}' has no memory", port.name));
        let target = self.place(index, arguments).ok_or_else(missing)?;
        let source = held.operand();
        if source.bytes > target.bytes {
            return Err(missing());
        }
        // SAFETY: what is held is alive and not written, and nobody else accesses an output.
        unsafe { target.copy_from(source) };
        port.note(held.shape(), runtime.extents)
    }
}

/// A body that is compiled.
struct Body {
    /// The program, where a run needs room for its sizes.
    open: Option<Program>,
    executable: CpuExecutable,
    /// The inputs of the program, each with its position among the values that are given.
    inputs: Vec<(usize, Port)>,
    /// The values that the program makes.
    made: Vec<Port>,
    outputs: Vec<BodyOutput>,
    /// The contents of the outputs that are constant.
    constants: Vec<Option<Held>>,
}

/// The lists of a run, which the next run takes again.
#[derive(Default)]
struct Frame {
    /// The values that the body is given.
    given: Vec<Option<Held>>,
    /// The memory of what the body makes.
    targets: Vec<Operand>,
    bound: Vec<Operand>,
    /// What the body has made.
    made: Vec<Held>,
    turn: Turn,
}

impl Frame {
    /// Releases what the run held; the lists keep their room.
    fn clear(&mut self) {
        self.given.clear();
        self.targets.clear();
        self.bound.clear();
        self.made.clear();
    }
}

/// The frames that no run has; as many runs as go on at once have one each.
#[derive(Default)]
struct Frames(Mutex<Vec<Frame>>);

impl Frames {
    /// Does something with a frame, which is cleared behind it.
    fn with<T>(&self, act: impl FnOnce(&mut Frame) -> T) -> T {
        let mut frame = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let made = act(&mut frame);
        frame.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
        made
    }
}

impl Body {
    fn new(bound: BoundBody, device: &Arc<Shared>, options: &CompileOptions) -> Result<Body> {
        let BoundBody { program, inputs, mut outputs } = bound;
        let port = |id: &hetero_hal::ValueId| program.value(*id).map(Port::new);
        let ports = program.inputs().iter().map(port).collect::<Result<Vec<_>>>()?;
        let made = program.outputs().iter().map(port).collect::<Result<_>>()?;
        let executable = CpuExecutable::compile(&program, options, device)?;
        let constant = |output: &mut BodyOutput| {
            let BodyOutput::Constant(content) = output else { return Ok(None) };
            if content.dtype().bits() == 0 {
                return Ok(Some(Held::Whole(content.clone())));
            }
            *content = executable::for_kernels(content)?;
            // The body keeps the tensor.
            Ok(Some(Held::Bytes(Operand::constant(content), content.shape().into())))
        };
        let constants = outputs.iter_mut().map(constant).collect::<Result<_>>()?;
        let inputs = inputs.into_iter().zip(ports).collect();
        // A program has the graphs of all bodies inside, so it is not kept for nothing.
        let open = Some(program).filter(Program::is_open);
        Ok(Body { open, executable, inputs, made, outputs, constants })
    }

    /// Tells of each of the first `count` values that are given whether the program reads it, or
    /// passes it on.
    fn uses(&self, count: usize) -> Vec<bool> {
        let mut uses = vec![false; count];
        let passed = self.outputs.iter().filter_map(|output| match output {
            BodyOutput::Given(position) => Some(*position),
            _ => None,
        });
        for position in self.inputs.iter().map(|(position, _)| *position).chain(passed) {
            if let Some(uses) = uses.get_mut(position) {
                *uses = true;
            }
        }
        uses
    }

    /// Returns, for each value that is made, the first output in a range that it is.
    fn first_outputs(&self, range: Range<usize>) -> Vec<Option<usize>> {
        let mut first = vec![None; self.made.len()];
        for (index, output) in self.outputs.iter().enumerate().take(range.end).skip(range.start) {
            if let BodyOutput::Made(number) = output
                && let Some(first @ None) = first.get_mut(*number)
            {
                *first = Some(index);
            }
        }
        first
    }

    /// Runs the body on the values that are given; what it makes is written to the targets.
    fn run(&self, frame: &mut Frame, scratch: Operand, runtime: &Runtime<'_>) -> Result<()> {
        runtime.check()?;
        let Frame { given, targets, bound, made, .. } = frame;
        let open = self.open.as_ref().map(Extents::of);
        bound.clear();
        for (position, port) in &self.inputs {
            let held = given.get(*position).and_then(Option::as_ref);
            let held = held.ok_or_else(|| Error::internal(format!("a body lacks its input '{}'", port.name)))?;
            if let (Some(late), Some(open)) = (port.late, &open) {
                open.put(late, held.tensor(port.dtype, runtime)?)?;
                bound.push(NOTHING);
                continue;
            }
            port.check(port.dtype, held.shape())?;
            port.note(held.shape(), open.as_ref())?;
            bound.push(held.operand());
        }
        bound.extend_from_slice(targets);
        let inner = Runtime::new(open.as_ref(), runtime.shared, runtime.allowance.clone());
        let scratch = (self.executable.scratch_bytes() > 0).then_some(scratch);
        self.executable.run_inside(bound, scratch, &inner, None)?;
        made.clear();
        for (port, target) in self.made.iter().zip(&*targets) {
            made.push(match (port.late, &open) {
                (Some(late), Some(open)) => Held::Whole(open.late(late)?),
                _ => {
                    let shape = port.sizes(open.as_ref())?;
                    Held::Bytes(target.part(0, port.bytes_of(&shape)?), shape)
                }
            });
        }
        Ok(())
    }

    /// Returns an output of the body, once it has run.
    fn output(&self, index: usize, frame: &Frame) -> Result<Held> {
        let missing = || Error::internal("an output of a body is missing");
        match self.outputs.get(index).ok_or_else(missing)? {
            BodyOutput::Constant(_) => self.constants.get(index).cloned().flatten().ok_or_else(missing),
            BodyOutput::Given(position) => frame.given.get(*position).cloned().flatten().ok_or_else(missing),
            BodyOutput::Made(made) => frame.made.get(*made).cloned().ok_or_else(missing),
            BodyOutput::Unwanted => Err(missing()),
        }
    }

    fn packed(&self) -> impl Iterator<Item = &Packed> {
        self.executable.packed()
    }

    fn scratch(&self) -> usize {
        self.executable.scratch_bytes()
    }
}

/// The places in a kernel's workspace.
#[derive(Default)]
struct Places {
    bytes: usize,
}

impl Places {
    /// Adds a place, and returns its offset and size.
    fn add(&mut self, bytes: usize) -> Result<Place> {
        let offset = self.bytes;
        let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        self.bytes = end.ok_or_else(|| Error::internal("the size of a workspace overflows"))?;
        Ok(Place { offset, bytes })
    }
}

/// A place in a kernel's workspace.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    bytes: usize,
}

impl Place {
    fn of(self, workspace: Operand) -> Operand {
        workspace.part(self.offset, self.bytes)
    }
}

/// Returns the position of an axis, which counts from the end where it is negative.
fn along(axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    let position = usize::try_from(from_start).ok().filter(|&position| position < rank);
    position.ok_or_else(|| Error::invalid_model(format!("axis {axis} is outside a tensor of rank {rank}")))
}

/// Writes a number to the front of an operand of the kernel's own.
fn write(operand: Operand, bytes: &[u8]) {
    let count = bytes.len().min(operand.bytes);
    // SAFETY: a place of the workspace is alive for the step, and is this kernel's alone.
    unsafe { std::ptr::copy(bytes.as_ptr(), operand.address, count) };
}

/// Returns the type of a condition.
fn condition() -> Given {
    Given { ty: TensorType::exact(<Bool as hetero_hal::Element>::DTYPE, &[]), constant: None }
}
