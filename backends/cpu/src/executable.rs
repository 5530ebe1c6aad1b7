//! Compiled programs: a list of steps over an arena.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use foldhash::{HashMap, HashMapExt, HashSet};
use hetero_hal::{
    Allowance, BindingInfo, Buffer, BufferLayout, CompileOptions, DeviceId, Direction, Error, ErrorKind, Executable,
    Execution, HostMemory, Node, NodeId, Program, Result, Tensor, TraceKind, ValueId, Weight, distinct_weights,
};
use hetero_kit::{Budget, Held, Tracer, Weights};

use crate::arena::{self, Arena, Steps};
use crate::device::Shared;
use crate::floats::Floats;
use crate::image::Layout;
use crate::kernels::recipe::Recipe;
use crate::kernels::{self, Kernel, Packed, Runtime, Site};
use crate::lower::wide::Wide;
use crate::lower::{self, Draft, Form};
use crate::memory::{ALIGNMENT, Account, CpuMemory};
use crate::operand::{Arguments, Operand};
use crate::region::{Families, Region};
use crate::saved::{self, Packer, Saved};
use crate::simd::floats;

/// The place of a value while the program runs.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The buffer that is bound at this position.
    Binding(usize),
    /// A part of the scratch buffer.
    Scratch { offset: usize, bytes: usize },
    /// A constant that is read where the model has it.
    Constant(usize),
    /// A constant that the device has copied.
    Copy(usize),
}

/// The weights of a device.
pub(crate) struct DeviceWeights {
    /// The constants in the forms that kernels read.
    packed: Weights<Floats>,
    /// The constants whose bytes were not aligned for their elements.
    copies: Weights<Tensor>,
}

impl DeviceWeights {
    pub(crate) fn new(device: &DeviceId) -> Self {
        DeviceWeights { packed: Weights::new(device.clone()), copies: Weights::new(device.clone()) }
    }
}

/// The size in bytes up to which a copy of a constant is the executable's own.
pub(crate) const SMALL: usize = 4096;

/// One compiled step, of one node or of several.
/// Its lists are ranges of the lists of all steps, as very many steps would else take an allocation
/// for each.
struct Step {
    /// The node that errors name.
    node: Named,
    /// The position of that node in the program.
    last: u32,
    /// The nodes that it does: a range of [`CpuExecutable::nodes`] and of [`CpuExecutable::done`].
    nodes: Range<u32>,
    kernel: Box<dyn Kernel>,
    /// A range of [`CpuExecutable::places`].
    inputs: Range<u32>,
    /// A range of [`CpuExecutable::places`].
    outputs: Range<u32>,
    workspace: Option<Place>,
}

/// A node by its name and operator, as errors show them.
struct Named {
    name: Arc<str>,
    domain: Arc<str>,
    operator: Arc<str>,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { name, domain, operator } = self;
        let dot = if domain.is_empty() { "" } else { "." };
        write!(f, "{name} ({domain}{dot}{operator})")
    }
}

/// The nodes that an executable does for another program than its own, which is the same but for
/// names.
#[derive(Clone, Copy)]
pub(crate) struct Alias<'a> {
    pub(crate) program: &'a Program,
    /// The position there of each node of the executable's own program.
    pub(crate) nodes: &'a [usize],
}

impl<'a> Alias<'a> {
    fn node(self, own: u32) -> Option<&'a Node> {
        self.program.nodes().get(*self.nodes.get(own as usize)?)
    }
}

/// Adds entries to a list, and returns their range.
fn append<T>(list: &mut Vec<T>, entries: impl IntoIterator<Item = T>) -> Result<Range<u32>> {
    let start = list.len();
    list.extend(entries);
    let end = |length: usize| u32::try_from(length).map_err(|_| Error::unsupported("a program with 2³² operands"));
    Ok(end(start)?..end(list.len())?)
}

/// Returns the part of a list that a range names.
fn part<'a, T>(list: &'a [T], range: &Range<u32>) -> &'a [T] {
    &list[range.start as usize..range.end as usize]
}

/// A program compiled for the CPU.
pub(crate) struct CpuExecutable {
    bindings: Vec<BindingInfo>,
    steps: Vec<Step>,
    /// The places of all steps' operands.
    places: Vec<Option<Place>>,
    /// The names of the nodes that the steps do.
    nodes: Vec<Arc<str>>,
    /// The positions of these nodes in the program.
    done: Vec<u32>,
    constants: Vec<Tensor>,
    copies: Vec<Arc<Held<Tensor>>>,
    scratch: usize,
    /// What the caller of the device holds beside; see [`CompileOptions::reserved`].
    reserved: u64,
    /// Whether a run needs extents.
    is_open: bool,
    shared: Arc<Shared>,
    /// Frames of earlier runs, which are used again.
    frames: Mutex<Vec<Frame>>,
}

/// The lists that a run fills.
/// A run takes the lists that an earlier run left, so that it allocates nothing.
#[derive(Default)]
struct Frame {
    /// The bound memory, which is kept alive.
    held: Vec<HostMemory>,
    /// The values of [`CpuExecutable::copies`].
    copies: Vec<Arc<Tensor>>,
    bound: Vec<Operand>,
    inputs: Vec<Option<Operand>>,
    outputs: Vec<Option<Operand>>,
}

impl CpuExecutable {
    pub(crate) fn compile(program: &Program, options: &CompileOptions, device: &Arc<Shared>) -> Result<Self> {
        Self::compile_by(program, options, device, false)
    }

    /// Compiles a program whose weights are mostly packed already, on this thread.
    pub(crate) fn compile_again(program: &Program, options: &CompileOptions, device: &Arc<Shared>) -> Result<Self> {
        Self::compile_by(program, options, device, true)
    }

    fn compile_by(program: &Program, options: &CompileOptions, device: &Arc<Shared>, here: bool) -> Result<Self> {
        let Shared { budget, pool, weights, isa, filters, .. } = &**device;
        let isa = *isa;
        let folded = lower::quantised::folded(program, isa)?;
        let program = folded.as_ref().unwrap_or(program);
        let bindings = BindingInfo::of(program);
        let mut places: HashMap<Form, Place> = HashMap::new();
        let plain = |value: ValueId| Form { value, layout: Layout::Plain };
        for (position, &id) in program.inputs().iter().chain(program.outputs()).enumerate() {
            let value = program.value(id)?;
            if places.insert(plain(id), Place::Binding(position)).is_some() {
                return Err(Error::unsupported(format!("'{}' is bound twice, as an input or output", value.name)));
            }
            if value.constant.is_some() {
                return Err(Error::unsupported(format!("the constant '{}' as an input or output", value.name)));
            }
        }
        let wide = Wide::of(program);
        let mut drafts = lower::lower(program, wide.as_ref(), isa, *filters)?;
        let key = saved::key(isa);
        let saved = options.cached.as_ref().and_then(|bytes| Saved::read(bytes.clone(), key));
        let reserved = options.reserved;
        let account = Account { device: device.id.clone(), budget: budget.clone(), reserved };
        let packer = Packer { weights: &weights.packed, saved: saved.as_ref(), account: &account };
        let kernels = make((program, wide.as_ref()), &mut drafts, options, device, (packer, here))?;
        let (mut constants, mut copies) = (Vec::new(), Vec::new());
        for (draft, kernel) in drafts.iter().zip(&kernels) {
            for (index, form) in draft.inputs.iter().enumerate() {
                let Some(form) = form.filter(|form| kernel.reads(index) && !places.contains_key(form)) else {
                    continue;
                };
                let value = program.value(form.value)?;
                let Some(content) = value.constant.as_ref().filter(|_| !matches!(form.layout, Layout::Blocked(_)))
                else {
                    continue;
                };
                if form.layout == Layout::Wide {
                    if content.len() * size_of::<f32>() <= SMALL {
                        places.insert(form, Place::Constant(constants.len()));
                        constants.push(widened(content)?);
                    } else {
                        places.insert(form, Place::Copy(copies.len()));
                        let (account, bytes) = (account.clone(), content.len() * size_of::<f32>());
                        let copy = move |sources: &[Tensor]| account.keep(bytes, || widened(&sources[0]));
                        copies.push(weights.copies.get(&value.name, std::slice::from_ref(content), "f32", copy)?);
                    }
                } else if content.dtype().bits() == 0 {
                    // Kernels have such constants themselves, as they are no bytes.
                    places.insert(form, Place::Scratch { offset: 0, bytes: 0 });
                } else if is_aligned(content) || content.bytes().len() <= SMALL {
                    places.insert(form, Place::Constant(constants.len()));
                    constants.push(for_kernels(content)?);
                } else {
                    places.insert(form, Place::Copy(copies.len()));
                    let (account, bytes) = (account.clone(), content.bytes().len());
                    let copy = move |sources: &[Tensor]| account.keep(bytes, || aligned(&sources[0]));
                    copies.push(weights.copies.get(&value.name, std::slice::from_ref(content), "aligned", copy)?);
                }
            }
        }
        let steps = Steps { program, isa, drafts: &drafts, kernels: &kernels, threads: pool.threads() };
        let arena = Arena::plan(&steps, |form| places.contains_key(form))?;
        let limit = budget.limit();
        if arena.bytes as u64 > limit {
            return Err(Error::new(ErrorKind::OutOfMemory, "the intermediate values do not fit the device's memory")
                .with_sizes(arena.bytes as u64, Some(limit))
                .with_remedy("bind smaller shapes, or raise the device's memory limit"));
        }
        let scratch = |range: arena::Range| Place::Scratch { offset: range.offset, bytes: range.bytes };
        places.extend(arena.values.into_iter().map(|(form, range)| (form, scratch(range))));
        let mut steps = Vec::with_capacity(kernels.len());
        let mut operands = Vec::new();
        let count = program.nodes().len();
        let (mut nodes, mut done) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for ((draft, kernel), workspace) in drafts.into_iter().zip(kernels).zip(arena.workspaces) {
            let last = program.nodes().get(draft.node).ok_or_else(|| Error::internal("a step is of no node"))?;
            let find = |form: &Option<Form>| form.and_then(|form| places.get(&form).copied());
            let names = draft.nodes.iter().filter_map(|&node| Some(program.nodes().get(node)?.name.clone()));
            done.extend(draft.nodes.iter().map(|&node| node as u32));
            steps.push(Step {
                node: Named {
                    name: last.name.clone(),
                    domain: last.operator.domain.clone(),
                    operator: last.operator.name.clone(),
                },
                last: draft.node as u32,
                nodes: append(&mut nodes, names)?,
                kernel,
                inputs: append(&mut operands, draft.inputs.iter().map(find))?,
                outputs: append(&mut operands, draft.outputs.iter().map(find))?,
                workspace: workspace.map(scratch),
            });
        }
        let (scratch, is_open, shared) = (arena.bytes, program.is_open(), device.clone());
        let (places, frames) = (operands, Mutex::new(Vec::new()));
        Ok(CpuExecutable {
            bindings,
            steps,
            places,
            nodes,
            done,
            constants,
            copies,
            scratch,
            reserved,
            is_open,
            shared,
            frames,
        })
    }

    /// Checks for a caller's mistakes.
    pub(crate) fn check(&self, execution: &Execution) -> Result<()> {
        if self.is_open && execution.extents.is_none() {
            return Err(Error::invalid_argument("the program has sizes that depend on data, but no extents are given"));
        }
        Ok(())
    }

    /// Runs the steps one after the other; each is parallel inside.
    pub(crate) fn run(&self, execution: &Execution, tracer: Option<&Tracer>) -> Result<()> {
        let mut frame = self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let outcome = self.run_in(execution, &mut frame, tracer);
        // The memory that the run held is released; the lists keep their room.
        frame.held.clear();
        frame.copies.clear();
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
        outcome
    }

    fn run_in(&self, execution: &Execution, frame: &mut Frame, tracer: Option<&Tracer>) -> Result<()> {
        let Frame { held, copies, bound, inputs, outputs } = frame;
        for copy in &self.copies {
            copies.push(copy.value()?);
        }
        let copies = &copies[..];
        bound.clear();
        {
            // The bindings are checked again under the lock, because a table may have changed since
            // the submission.
            let table = execution.bindings.lock();
            BindingInfo::check(&self.bindings, &table)?;
            for buffer in table.iter().chain(&execution.scratch) {
                let host = memory(buffer)?.host();
                let address = host.as_ptr().cast_mut().wrapping_add(buffer.offset());
                bound.push(Operand { address, bytes: buffer.len() });
                held.push(host.clone());
            }
        }
        for (info, host) in self.bindings.iter().zip(&*held) {
            if info.direction == Direction::Output && host.as_mut_ptr().is_none() {
                return Err(Error::invalid_argument(format!("the output '{}' is bound to constant memory", info.name)));
            }
        }
        let scratch = execution.scratch.as_ref().and_then(|_| bound.last().copied());
        // No plan has the memory that the oracle needs on the way.
        // The oracle takes what the device has left.
        let allowance = Allowance::new(left(&self.shared.budget, self.reserved)).until(execution.deadline);
        let runtime = Runtime::new(execution.extents.as_deref(), &self.shared, allowance).told(tracer);
        self.perform((bound, scratch), copies, (inputs, outputs), &runtime, None)
    }

    /// Runs inside a run of another executable, on operands and a buffer of its own, and calls the
    /// nodes by their names there.
    pub(crate) fn run_on(
        &self,
        operands: &[Operand],
        scratch: Option<Operand>,
        outer: &Runtime<'_>,
        alias: Alias<'_>,
    ) -> Result<()> {
        let runtime = Runtime::new(None, &self.shared, outer.allowance.clone()).told(outer.tracer);
        self.run_inside(operands, scratch, &runtime, Some(alias))
    }

    /// Runs inside a run of another executable, on operands and a buffer of its own.
    pub(crate) fn run_inside(
        &self,
        operands: &[Operand],
        scratch: Option<Operand>,
        runtime: &Runtime<'_>,
        alias: Option<Alias<'_>>,
    ) -> Result<()> {
        for (info, operand) in self.bindings.iter().zip(operands) {
            let is_open = info.direction == Direction::Input && !info.extents.is_empty();
            if operand.bytes < info.bytes && !is_open {
                return Err(Error::internal(format!("the operand '{}' is too small", info.name))
                    .with_sizes(info.bytes as u64, Some(operand.bytes as u64)));
            }
        }
        let mut frame = self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let Frame { copies, inputs, outputs, .. } = &mut frame;
        let outcome = self.copies.iter().try_for_each(|copy| {
            copies.push(copy.value()?);
            Ok(())
        });
        let lists = (inputs, outputs);
        let outcome = outcome.and_then(|()| self.perform((operands, scratch), copies, lists, runtime, alias));
        frame.copies.clear();
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
        outcome
    }

    /// Does the steps on bound operands, with a scratch buffer.
    fn perform(
        &self,
        (bound, scratch): (&[Operand], Option<Operand>),
        copies: &[Arc<Tensor>],
        (inputs, outputs): (&mut Vec<Option<Operand>>, &mut Vec<Option<Operand>>),
        runtime: &Runtime<'_>,
        alias: Option<Alias<'_>>,
    ) -> Result<()> {
        let resolve = |place: Place| -> Option<Operand> {
            Some(match place {
                Place::Binding(position) => {
                    // A binding may be longer than the value, and an input shorter than its bound.
                    let bytes = self.bindings[position].bytes.min(bound[position].bytes);
                    Operand { bytes, ..bound[position] }
                }
                // Where no value takes memory, there may be no scratch buffer at all.
                Place::Scratch { bytes: 0, .. } => NOTHING,
                Place::Scratch { offset, bytes } => Operand { address: scratch?.address.wrapping_add(offset), bytes },
                Place::Constant(index) => Operand::constant(&self.constants[index]),
                Place::Copy(index) => Operand::constant(&copies[index]),
            })
        };
        for step in &self.steps {
            let at = |error: Error| match alias.and_then(|alias| alias.node(step.last)) {
                Some(node) => error.at(node.to_string()),
                None => error.at(step.node.to_string()),
            };
            runtime.check().map_err(at)?;
            inputs.clear();
            inputs.extend(part(&self.places, &step.inputs).iter().map(|place| place.and_then(resolve)));
            outputs.clear();
            outputs.extend(part(&self.places, &step.outputs).iter().map(|place| place.and_then(resolve)));
            let workspace = step.workspace.and_then(resolve).unwrap_or(NOTHING);
            let mut arguments = Arguments { inputs: &inputs[..], outputs: &outputs[..], workspace };
            let tracer = runtime.tracer.filter(|_| !step.kernel.traces_inside());
            let begin = tracer.map(|_| Instant::now());
            step.kernel.run(&mut arguments, runtime).and_then(|()| runtime.finish()).map_err(at)?;
            if let (Some(tracer), Some(begin)) = (tracer, begin) {
                let span = (begin, Instant::now());
                let names = alias.map(|alias| {
                    let nodes = part(&self.done, &step.nodes).iter().filter_map(|&node| alias.node(node));
                    nodes.map(|node| node.name.clone()).collect::<Vec<_>>()
                });
                let nodes = names.as_deref().unwrap_or_else(|| part(&self.nodes, &step.nodes));
                tracer.event(TraceKind::Kernel, step.kernel.name(), nodes, span, 0);
            }
        }
        Ok(())
    }

    /// Returns the bytes of the scratch buffer.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    /// Returns the packed weights of all steps.
    pub(crate) fn packed(&self) -> impl Iterator<Item = &Packed> {
        self.steps.iter().flat_map(|step| step.kernel.weights())
    }
}

/// Returns the bytes that are left of a device's memory, beside those that its caller holds.
fn left(budget: &Budget, reserved: u64) -> usize {
    let left = budget.limit().saturating_sub(budget.used()).saturating_sub(reserved);
    usize::try_from(left).unwrap_or(usize::MAX)
}

/// An operand of no bytes, at an address that is aligned for every element type.
pub(crate) const NOTHING: Operand = Operand { address: std::ptr::without_provenance_mut(ALIGNMENT), bytes: 0 };

impl Executable for CpuExecutable {
    fn bindings(&self) -> &[BindingInfo] {
        &self.bindings
    }

    fn scratch(&self) -> BufferLayout {
        BufferLayout { bytes: self.scratch, alignment: ALIGNMENT }
    }

    fn serialize(&self) -> Result<Vec<u8>> {
        let mut known = HashSet::default();
        let mut packed: Vec<&Packed> = self.steps.iter().flat_map(|step| step.kernel.weights()).collect();
        packed.retain(|weight| known.insert(Arc::as_ptr(weight)));
        saved::save(saved::key(self.shared.isa), &packed)
    }

    fn weights(&self) -> Vec<Arc<dyn Weight>> {
        let packed = self.steps.iter().flat_map(|step| step.kernel.weights());
        let packed = packed.cloned().map(|weight| weight as Arc<dyn Weight>);
        let copies = self.copies.iter().cloned().map(|weight| weight as Arc<dyn Weight>);
        distinct_weights(packed.chain(copies))
    }
}

fn memory(buffer: &Buffer) -> Result<&CpuMemory> {
    buffer.memory().ok_or_else(|| Error::internal(format!("{buffer:?} is another device's memory")))
}

/// Tells whether the tensor's bytes are aligned for its elements.
fn is_aligned(tensor: &Tensor) -> bool {
    const WIDEST: usize = 16;
    (tensor.bytes().as_ptr() as usize).is_multiple_of(WIDEST.min(tensor.dtype().bits().div_ceil(8).max(1)))
}

/// Returns the same tensor, or a copy where its bytes are not aligned for its elements.
pub(crate) fn for_kernels(tensor: &Tensor) -> Result<Tensor> {
    if is_aligned(tensor) { Ok(tensor.clone()) } else { aligned(tensor) }
}

/// Returns a copy of the tensor whose bytes are aligned for its elements.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    // A vector of the widest elements is aligned for every type.
    let bytes = tensor.bytes();
    let count = bytes.len().div_ceil(8);
    let mut words: Vec<u64> = Vec::new();
    words.try_reserve_exact(count).map_err(|error| {
        Error::new(ErrorKind::OutOfMemory, "cannot allocate memory for a constant")
            .with_sizes(bytes.len() as u64, None)
            .with_remedy("evict other weights, or divide the model among more devices")
            .caused_by(error)
    })?;
    words.resize(count, 0);
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_ne_bytes(*chunk);
    }
    if let Some(last) = words.last_mut()
        && !rest.is_empty()
    {
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        *last = u64::from_ne_bytes(padded);
    }
    let whole = Tensor::from_vec(&[count], words)?;
    Tensor::from_bytes(tensor.dtype(), tensor.shape(), whole.bytes().slice(..bytes.len()))
}

/// Returns a constant of 16 bits as f32.
fn widened(tensor: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(tensor.shape(), floats(tensor)?.into_owned())
}

/// A kernel on its way: the recipe until a thread takes it, then the outcome.
enum Making {
    Recipe(Recipe),
    Taken,
    Made(Result<Box<dyn Kernel>>),
}

/// Makes the kernel of a node with bodies, where these can be compiled.
fn control(
    program: &Program,
    node: usize,
    device: &Arc<Shared>,
    options: &CompileOptions,
) -> Result<Option<Box<dyn Kernel>>> {
    let Some(node) = program.nodes().get(node).filter(|node| node.subgraphs().next().is_some()) else {
        return Ok(None);
    };
    kernels::control::compile(Site { program, node, isa: device.isa, weights: None }, device, options)
}

/// Makes the steps' kernels on all threads, because packing weights takes as long as reading them
/// from memory, or on this thread where little is left to pack.
/// The recipes are taken out of the drafts, as kernels are made of their parts.
fn make(
    (program, wide): (&Program, Option<&Wide>),
    drafts: &mut [Draft],
    options: &CompileOptions,
    device: &Arc<Shared>,
    (weights, here): (Packer<'_>, bool),
) -> Result<Vec<Box<dyn Kernel>>> {
    // The pool's threads make kernels, and a region makes its own by them.
    let mut families = Families::default();
    let recipe = |draft: &mut Draft| {
        Ok(Mutex::new(match std::mem::replace(&mut draft.recipe, Recipe::Node) {
            Recipe::Region(part) => Making::Made(Ok(Box::new(Region::new(*part, device, options, &mut families)?))),
            Recipe::Node => match control(program, draft.node, device, options)? {
                Some(kernel) => Making::Made(Ok(kernel)),
                None => Making::Recipe(Recipe::Node),
            },
            recipe => Making::Recipe(recipe),
        }))
    };
    let slots: Vec<Mutex<Making>> = drafts.iter_mut().map(recipe).collect::<Result<_>>()?;
    let one = |index: usize| {
        let mut slot = slots[index].lock().unwrap_or_else(PoisonError::into_inner);
        let recipe = match std::mem::replace(&mut *slot, Making::Taken) {
            Making::Recipe(recipe) => recipe,
            other => return *slot = other,
        };
        let node = drafts[index].node;
        let named = |error: Error| match program.nodes().get(node) {
            Some(of) => error.at_node(NodeId(node as u32), of.to_string()),
            None => error,
        };
        let made = options.check().and_then(|()| lower::make((program, wide), device.isa, (node, recipe), weights));
        let kernel = made.map_err(named);
        *slot = Making::Made(kernel);
    };
    if here {
        (0..slots.len()).for_each(one);
    } else {
        device.pool.for_each(slots.len(), |index, _| one(index));
    }

    let made = |slot: Mutex<Making>| match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Making::Made(kernel) => kernel,
        _ => Err(Error::internal("a kernel was not made")),
    };
    slots.into_iter().map(made).collect()
}
