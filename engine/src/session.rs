//! Sessions: a plan, compiled, and replayed.
//!
//! Every decision is made when the session is: which buffer each value has on which device, where it lies in that device's arena, and
//! the list of submissions. A run takes a context (buffers and a timeline), submits the list and waits for its last point. Each
//! submission waits for the one before; the order is the plan's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_arena::Request;
use hetero_hal::{
    BindingInfo, Buffer, BufferLayout, CompileOptions, DType, Device, Direction, Error as HalError, ErrorKind,
    Executable, Execution, Extents, ExternalMemory, HandleKind, HostMemory, HostSemantics, NodeId, Probe, Program,
    Queue, QueueOptions, Source, Tensor, Timeline, ValueId, Work,
};

use crate::{Error, HeteroEngine, Result};

/// Alignment of everything in an arena.
const ALIGNMENT: usize = 64;

/// An input or output of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name.
    pub name: Arc<str>,
    /// Element type.
    pub dtype: DType,
    /// Sizes of the dimensions; bounds where a size depends on data.
    pub shape: Vec<usize>,
}

/// What a session did with its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Device of each node.
    pub placement: BTreeMap<String, String>,
    /// A line for each node that runs on another device than the plan's, with the reason.
    pub moved: Vec<String>,
    /// Bytes of all devices' arenas: values between partitions, and the partitions' scratch; no weights, inputs and outputs.
    pub arena_bytes: usize,
    /// Bytes of compiled weights and code.
    pub resident_bytes: usize,
}

/// The outputs of a run, by name and in the model's order.
#[derive(Clone, Debug)]
pub struct Outputs(Vec<(Arc<str>, Tensor)>);

impl Outputs {
    /// An output.
    ///
    /// # Errors
    /// `Output` where the model has none of that name, with those that it has.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.0.iter().find(|(known, _)| &**known == name).map(|(_, tensor)| tensor);
        found.ok_or_else(|| Error::Output {
            name: name.to_owned(),
            known: self.0.iter().map(|(known, _)| &**known).collect::<Vec<_>>().join("', '"),
        })
    }

    /// All outputs, in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (&**name, tensor))
    }
}

/// A value on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Slot {
    value: ValueId,
    device: usize,
}

/// One submission.
enum Step {
    /// Brings a value from one device to another, on the second one's queue.
    Transfer { from: usize, to: usize, device: usize },
    /// Runs a partition.
    Execute { executable: Arc<dyn Executable>, bindings: Vec<usize>, device: usize, scratch: Option<Place> },
}

/// A range of a device's arena.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    bytes: usize,
}

/// Where a slot's memory comes from.
#[derive(Clone, Copy)]
enum Storage {
    /// The caller, at each run: the position among the inputs.
    Input(usize),
    /// A buffer of its own, of so many bytes.
    Own(usize),
    /// The device's arena.
    Arena(Place),
}

/// Where an output is found after a run.
enum OutputSource {
    /// In a slot.
    Slot(usize),
    /// It is an input.
    Input(usize),
    /// It is a constant.
    Constant(Tensor),
}

/// Memory that a run writes an output into; runs use its room again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputBuffer {
    /// The elements' bytes.
    pub bytes: Vec<u8>,
    /// The true sizes of the dimensions.
    pub shape: Vec<usize>,
}

/// What a run needs for itself; contexts are pooled.
struct Context {
    buffers: Vec<Option<Buffer>>,
    /// For each step, what it binds; made anew where an input's buffer changes.
    bound: Vec<Option<Arc<[Buffer]>>>,
    scratch: Vec<Option<Buffer>>,
    timeline: Timeline,
    /// Value of the timeline before the run.
    base: u64,
}

/// A plan, compiled. May be run from several threads at once; runs share nothing that changes.
pub struct Session {
    program: Arc<Program>,
    devices: Vec<Arc<dyn Device>>,
    queues: Vec<Arc<dyn Queue>>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    sources: Vec<OutputSource>,
    slots: Vec<(Slot, Storage)>,
    steps: Vec<Step>,
    arenas: Vec<usize>,
    report: Report,
    deadline: Duration,
    contexts: Mutex<Vec<Context>>,
}

/// Reads a plan into slots and steps.
struct Layout<'a> {
    program: &'a Program,
    slots: Vec<(Slot, Storage)>,
    index: HashMap<Slot, usize>,
    /// First and last step that touches each slot.
    lifetime: Vec<(usize, usize)>,
}

impl Layout<'_> {
    fn slot(&mut self, slot: Slot, step: usize) -> Result<usize> {
        if let Some(&index) = self.index.get(&slot) {
            self.lifetime[index].1 = step;
            return Ok(index);
        }
        let bytes = self.program.value(slot.value)?.bytes();
        let storage = match self.program.inputs().iter().position(|&id| id == slot.value) {
            Some(position) => Storage::Input(position),
            None if self.program.outputs().contains(&slot.value) => Storage::Own(bytes),
            None => Storage::Arena(Place { offset: 0, bytes }),
        };
        let index = self.slots.len();
        self.slots.push((slot, storage));
        self.lifetime.push((step, step));
        self.index.insert(slot, index);
        Ok(index)
    }
}

impl Session {
    pub(crate) fn new(
        engine: &HeteroEngine,
        program: Arc<Program>,
        plan: &hetero_scheduler::Plan,
        moved: Vec<String>,
    ) -> Result<Session> {
        let devices = engine.devices().to_vec();
        let node_of: HashMap<&str, NodeId> = program.node_ids().map(|(id, node)| (&*node.name, id)).collect();
        let value_of: HashMap<&str, ValueId> =
            (0u32..).map(ValueId).zip(program.values()).map(|(id, value)| (&*value.name, id)).collect();
        let mut layout = Layout { program: &program, slots: vec![], index: HashMap::new(), lifetime: vec![] };
        let mut steps: Vec<Step> = Vec::new();
        let mut scratch_requests: Vec<(usize, usize, BufferLayout)> = Vec::new();
        let mut home: HashMap<ValueId, usize> = HashMap::new();
        let mut resident_bytes = 0;
        for (number, partition) in plan.partitions.iter().enumerate() {
            let device = engine.position(&partition.device).ok_or_else(|| Error::UnknownDevice {
                device: partition.device.clone(),
                reason: "the plan uses it, but it was not added".to_owned(),
            })?;
            let nodes: Vec<NodeId> = partition.tasks.iter().filter_map(|task| node_of.get(&**task).copied()).collect();
            let part = program.extract(&format!("{}#{number}", program.name()), &nodes)?;
            let executable = compile(&devices[device], &part, engine.run_deadline())?;
            resident_bytes += executable.resident_bytes();
            let mut bindings = Vec::new();
            for info in executable.bindings() {
                let value = *value_of.get(&*info.name).ok_or_else(|| {
                    HalError::internal(format!("a partition binds the unknown value '{}'", info.name))
                })?;
                let here = Slot { value, device };
                if info.direction == Direction::Input {
                    if let Some(&other) = home.get(&value).filter(|&&other| other != device)
                        && !layout.index.contains_key(&here)
                    {
                        let from = layout.slot(Slot { value, device: other }, steps.len())?;
                        let to = layout.slot(here, steps.len())?;
                        steps.push(Step::Transfer { from, to, device });
                    }
                } else {
                    home.insert(value, device);
                }
                // The lifetime is set below, once the step's number is known.
                bindings.push(layout.slot(here, steps.len())?);
            }
            let step = steps.len();
            for &slot in &bindings {
                layout.lifetime[slot].1 = step;
            }
            if executable.scratch().bytes > 0 {
                scratch_requests.push((step, device, executable.scratch()));
            }
            steps.push(Step::Execute { executable, bindings, device, scratch: None });
        }
        let Layout { mut slots, index, lifetime, .. } = layout;
        let mut arenas = vec![0; devices.len()];
        for (device, arena) in arenas.iter_mut().enumerate() {
            let limit = engine.memory_limit(&*devices[device]);
            *arena = lay_out(device, &mut slots, &lifetime, &scratch_requests, &mut steps)?;
            let held = ports_bytes(&program, device, &slots)?.saturating_add(*arena as u64);
            if let Some(limit) = limit.filter(|&limit| held > limit) {
                return Err(HalError::new(
                    ErrorKind::OutOfMemory,
                    "inputs, outputs and intermediate values do not fit the memory",
                )
                .on(devices[device].info().id.clone())
                .with_sizes(held, Some(limit))
                .with_remedy("bind smaller shapes, or raise the memory limit")
                .into());
            }
        }
        let sources = program
            .outputs()
            .iter()
            .map(|&id| {
                let value = program.value(id)?;
                if let Some(content) = &value.constant {
                    return Ok(OutputSource::Constant(content.clone()));
                }
                if let Some(position) = program.inputs().iter().position(|&input| input == id) {
                    return Ok(OutputSource::Input(position));
                }
                let slot = home.get(&id).and_then(|&device| index.get(&Slot { value: id, device }).copied());
                slot.map(OutputSource::Slot)
                    .ok_or_else(|| HalError::internal(format!("nothing produces the output '{}'", value.name)).into())
            })
            .collect::<Result<Vec<_>>>()?;
        let queues = devices
            .iter()
            .map(|device| device.queue(&QueueOptions { name: format!("hetero-{}", device.info().id), capacity: None }))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let ports = |ids: &[ValueId]| -> Result<Vec<Port>> {
            ids.iter()
                .map(|&id| {
                    let value = program.value(id)?;
                    Ok(Port { name: value.name.clone(), dtype: value.dtype, shape: value.shape.clone() })
                })
                .collect()
        };
        let owned = |(task, device): (&str, &str)| (task.to_owned(), device.to_owned());
        let placement = plan.placement().into_iter().map(owned).collect();
        let report = Report { placement, moved, arena_bytes: arenas.iter().sum(), resident_bytes };
        Ok(Session {
            inputs: ports(program.inputs())?,
            outputs: ports(program.outputs())?,
            deadline: engine.run_deadline(),
            contexts: Mutex::new(Vec::new()),
            program: program.clone(),
            devices,
            queues,
            sources,
            slots,
            steps,
            arenas,
            report,
        })
    }

    /// What runs must supply, in order.
    #[must_use]
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// What runs give, in order.
    #[must_use]
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// What became of the plan.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Runs once, with inputs by name.
    ///
    /// # Errors
    /// `Input` where one is missing, unknown, or of another type or shape; `Device` where a device fails.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        let names = || self.inputs.iter().map(|port| &*port.name).collect::<Vec<_>>().join("', '");
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !self.inputs.iter().any(|port| &*port.name == *name)) {
            let reason = match self.inputs.len() {
                0 => "the model takes no inputs".to_owned(),
                _ => format!("the model has no such input; it takes '{}'", names()),
            };
            return Err(Error::Input { name: (*name).to_owned(), reason });
        }
        let ordered = self
            .inputs
            .iter()
            .map(|port| {
                let mut given = inputs.iter().filter(|(name, _)| *name == &*port.name);
                match (given.next(), given.next()) {
                    (Some((_, tensor)), None) => Ok(tensor.clone()),
                    (None, _) => Err(Error::Input {
                        name: port.name.to_string(),
                        reason: format!("it is missing; the model takes '{}'", names()),
                    }),
                    (Some(_), Some(_)) => {
                        Err(Error::Input { name: port.name.to_string(), reason: "it is given twice".to_owned() })
                    }
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let mut buffers = vec![OutputBuffer::default(); self.outputs.len()];
        self.run_into(&ordered, &mut buffers)?;
        let tensors = self.outputs.iter().zip(buffers).zip(&self.sources).map(|((port, buffer), source)| {
            let tensor = match source {
                OutputSource::Constant(tensor) => tensor.clone(),
                OutputSource::Input(position) => ordered[*position].clone(),
                OutputSource::Slot(_) => Tensor::from_bytes(port.dtype, &buffer.shape, buffer.bytes.into())?,
            };
            Ok((port.name.clone(), tensor))
        });
        Ok(Outputs(tensors.collect::<Result<Vec<_>>>()?))
    }

    /// Runs once, with inputs in the order of [`Session::inputs`], into memory of the caller's, whose capacity is used again: after the first run
    /// with the same buffers, nothing of the engine's allocates, nor of the CPU device's fast kernels.
    ///
    /// # Errors
    /// As [`Session::run`]; `Input` too where the number of inputs or outputs is not the model's.
    pub fn run_into(&self, inputs: &[Tensor], outputs: &mut [OutputBuffer]) -> Result<()> {
        self.run_probed(inputs, outputs, None)
    }

    /// [`Session::run_into`] with a probe, which is told how long each kernel took, on devices that can tell.
    ///
    /// # Errors
    /// As [`Session::run_into`].
    pub fn run_probed(
        &self,
        inputs: &[Tensor],
        outputs: &mut [OutputBuffer],
        probe: Option<&Arc<dyn Probe>>,
    ) -> Result<()> {
        self.check(inputs, outputs.len())?;
        let pooled = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut context = match pooled {
            Some(context) => context,
            None => self.context()?,
        };
        self.replay(inputs, outputs, &mut context, probe)?;
        // A context whose run failed is dropped: its timeline has failed for good.
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner).push(context);
        Ok(())
    }

    fn check(&self, inputs: &[Tensor], outputs: usize) -> Result<()> {
        if inputs.len() != self.inputs.len() || outputs != self.outputs.len() {
            return Err(Error::Input {
                name: "*".to_owned(),
                reason: format!(
                    "the model has {} inputs and {} outputs, not {} and {outputs}",
                    self.inputs.len(),
                    self.outputs.len(),
                    inputs.len()
                ),
            });
        }
        for (port, tensor) in self.inputs.iter().zip(inputs) {
            if tensor.dtype() != port.dtype || tensor.shape() != port.shape {
                return Err(Error::Input {
                    name: port.name.to_string(),
                    reason: format!(
                        "it is {}{:?}, but {}{:?} was given; plan the model for that shape, or convert the input",
                        port.dtype,
                        port.shape,
                        tensor.dtype(),
                        tensor.shape()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Buffers for one run at a time.
    fn context(&self) -> Result<Context> {
        let mut arenas = Vec::with_capacity(self.devices.len());
        for (device, &bytes) in self.devices.iter().zip(&self.arenas) {
            let layout = BufferLayout { bytes, alignment: ALIGNMENT };
            arenas.push(if bytes > 0 { Some(device.allocate(layout)?) } else { None });
        }
        let part = |device: usize, place: Place| {
            let arena: Option<&Buffer> = arenas[device].as_ref();
            arena.map(|arena| arena.slice(place.offset..place.offset + place.bytes)).transpose()
        };
        let mut buffers = Vec::with_capacity(self.slots.len());
        for (slot, storage) in &self.slots {
            buffers.push(match *storage {
                Storage::Input(_) => None,
                Storage::Own(bytes) => Some(self.devices[slot.device].allocate(BufferLayout::new(bytes))?),
                // Nothing lies in an arena of no bytes; an empty buffer stands for what does.
                Storage::Arena(Place { bytes: 0, .. }) => {
                    Some(self.devices[slot.device].allocate(BufferLayout::new(0))?)
                }
                Storage::Arena(place) => part(slot.device, place)?,
            });
        }
        let mut scratch = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            scratch.push(match step {
                Step::Execute { device, scratch: Some(place), .. } => part(*device, *place)?,
                _ => None,
            });
        }
        let timeline = match self.devices.first() {
            Some(device) => device.timeline(0)?,
            None => Timeline::new(0),
        };
        let bound = vec![None; self.steps.len()];
        Ok(Context { buffers, bound, scratch, timeline, base: 0 })
    }

    fn replay(
        &self,
        inputs: &[Tensor],
        outputs: &mut [OutputBuffer],
        context: &mut Context,
        probe: Option<&Arc<dyn Probe>>,
    ) -> Result<()> {
        let Context { buffers, bound, scratch, timeline, base } = context;
        for (buffer, (slot, storage)) in buffers.iter_mut().zip(&self.slots) {
            if let Storage::Input(position) = storage
                && !bring_in(&*self.devices[slot.device], &inputs[*position], buffer)?
            {
                bound.iter_mut().for_each(|bound| *bound = None);
            }
        }
        let sizes = self.program.extents().len();
        let extents = (sizes > 0).then(|| Arc::new(Extents::new(sizes)));
        let buffer = |slot: usize| buffers[slot].clone().ok_or_else(|| HalError::internal("a value has no memory"));
        let deadline = Instant::now() + self.deadline;
        for (number, step) in self.steps.iter().enumerate() {
            let wait = timeline.at(*base + number as u64);
            let signal = timeline.at(*base + number as u64 + 1);
            let (device, work) = match step {
                Step::Transfer { from, to, device } => {
                    (*device, Work::Copy { source: buffer(*from)?, target: buffer(*to)? })
                }
                Step::Execute { executable, bindings, device, .. } => {
                    let bindings = match &bound[number] {
                        Some(bound) => bound.clone(),
                        None => {
                            let made = bindings.iter().map(|&slot| buffer(slot));
                            let made = made.collect::<std::result::Result<Arc<[Buffer]>, _>>()?;
                            bound[number].insert(made).clone()
                        }
                    };
                    let execution = Execution {
                        executable: executable.clone(),
                        bindings,
                        scratch: scratch[number].clone(),
                        extents: extents.clone(),
                        probe: probe.cloned(),
                        deadline: Some(deadline),
                    };
                    (*device, Work::Execute(execution))
                }
            };
            let (queue, wait, signal) = (&self.queues[device], [wait], [signal]);
            // Whoever waits for the last step may as well do it.
            let last = number + 1 == self.steps.len();
            let outcome =
                if last { queue.run(&wait, work, &signal, deadline) } else { queue.submit(&wait, work, &signal) };
            if let Err(error) = outcome {
                // What was submitted before must not run on into memory that the caller thinks free.
                let submitted = *base + number as u64;
                let _ = timeline.wait(submitted, Instant::now() + self.deadline);
                timeline.fail(error.clone());
                return Err(error.into());
            }
        }
        let end = *base + self.steps.len() as u64;
        timeline.wait(end, deadline)?;
        *base = end;
        for ((port, source), into) in self.outputs.iter().zip(&self.sources).zip(outputs) {
            let OutputBuffer { bytes, shape } = into;
            shape.clear();
            match source {
                OutputSource::Constant(tensor) => {
                    bytes.clear();
                    bytes.extend_from_slice(tensor.bytes());
                    shape.extend_from_slice(tensor.shape());
                }
                OutputSource::Input(position) => {
                    bytes.clear();
                    bytes.extend_from_slice(inputs[*position].bytes());
                    shape.extend_from_slice(inputs[*position].shape());
                }
                OutputSource::Slot(slot) => {
                    let value = self.program.value(self.slots[*slot].0.value)?;
                    shape.extend_from_slice(&value.shape);
                    for (size, extent) in shape.iter_mut().zip(&value.extents) {
                        if let (Some(extent), Some(extents)) = (extent, &extents) {
                            *size = extents.get(*extent)?;
                        }
                    }
                    let count = hetero_hal::element_count(shape).and_then(|count| port.dtype.bytes_for(count));
                    bytes.resize(count.unwrap_or(0), 0);
                    buffers[*slot].as_ref().map_or(Ok(()), |buffer| buffer.read(0, bytes))?;
                }
            }
        }
        Ok(())
    }
}

/// Compiles a partition. An error says which device it is of.
fn compile(device: &Arc<dyn Device>, program: &Program, deadline: Duration) -> Result<Arc<dyn Executable>> {
    let options = CompileOptions { deadline: Some(Instant::now() + deadline), ..CompileOptions::default() };
    let executable = device.compile(Source::Program(program), &options).map_err(|error| {
        let id = device.info().id.clone();
        if error.device().is_none() { error.on(id) } else { error }
    })?;
    let expected = BindingInfo::of(program);
    if executable.bindings() != expected {
        return Err(HalError::internal("the executable's bindings are not the program's")
            .on(device.info().id.clone())
            .into());
    }
    Ok(executable)
}

/// Makes `buffer` the input: in place where the device can import host memory and the bytes are aligned for it, else by a copy. `false` where
/// it is another buffer than before.
fn bring_in(device: &dyn Device, tensor: &Tensor, buffer: &mut Option<Buffer>) -> Result<bool> {
    let capabilities = device.capabilities();
    let bytes = tensor.bytes();
    let aligned = (bytes.as_ptr() as usize).is_multiple_of(capabilities.alignment.max(1));
    if aligned && capabilities.imports.contains(&HandleKind::Host) {
        let memory = ExternalMemory::Host(HostMemory::constant(bytes.clone()));
        if let Some(former) = buffer
            && device.import_over(&memory, former)?
        {
            return Ok(true);
        }
        *buffer = Some(device.import(memory, HostSemantics::Immutable)?);
        return Ok(false);
    }
    // Memory that was imported by an earlier run cannot be written.
    if let Some(former) = buffer
        && former.len() == bytes.len()
        && former.write(0, bytes).is_ok()
    {
        return Ok(true);
    }
    let fresh = device.allocate(BufferLayout::new(bytes.len()))?;
    fresh.write(0, bytes)?;
    *buffer = Some(fresh);
    Ok(false)
}

/// Bytes of the inputs and outputs that a device holds during a run.
fn ports_bytes(program: &Program, device: usize, slots: &[(Slot, Storage)]) -> Result<u64> {
    let mut sum = 0u64;
    for (slot, storage) in slots {
        if slot.device == device && !matches!(storage, Storage::Arena(_)) {
            sum = sum.saturating_add(program.value(slot.value)?.bytes() as u64);
        }
    }
    Ok(sum)
}

/// Lays out a device's arena: its slots, and its partitions' scratch. Gives the size.
fn lay_out(
    device: usize,
    slots: &mut [(Slot, Storage)],
    lifetime: &[(usize, usize)],
    scratch: &[(usize, usize, BufferLayout)],
    steps: &mut [Step],
) -> Result<usize> {
    let mine: Vec<usize> = (0..slots.len())
        .filter(|&index| slots[index].0.device == device && matches!(slots[index].1, Storage::Arena(_)))
        .collect();
    let own_scratch: Vec<&(usize, usize, BufferLayout)> = scratch.iter().filter(|entry| entry.1 == device).collect();
    let mut requests: Vec<Request> = Vec::with_capacity(mine.len() + own_scratch.len());
    for &index in &mine {
        if let Storage::Arena(place) = slots[index].1 {
            requests.push(Request {
                alignment: ALIGNMENT,
                ..Request::new(place.bytes, lifetime[index].0, lifetime[index].1)
            });
        }
    }
    for (step, _, layout) in &own_scratch {
        let alignment = layout.alignment.max(ALIGNMENT);
        requests.push(Request { alignment, ..Request::new(layout.bytes, *step, *step) });
    }
    let plan = hetero_arena::plan(&requests)
        .map_err(|error| HalError::internal("the arena cannot be planned").caused_by(error))?;
    let places = plan.offsets.iter().zip(&requests).map(|(&offset, request)| Place { offset, bytes: request.bytes });
    let (of_slots, of_scratch): (Vec<_>, Vec<_>) = places.enumerate().partition(|(index, _)| *index < mine.len());
    for (index, (_, place)) in mine.into_iter().zip(of_slots) {
        slots[index].1 = Storage::Arena(place);
    }
    for ((step, ..), (_, place)) in own_scratch.into_iter().zip(of_scratch) {
        if let Step::Execute { scratch, .. } = &mut steps[*step] {
            *scratch = Some(place);
        }
    }
    Ok(plan.bytes)
}
