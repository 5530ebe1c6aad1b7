//! Sessions: compiled plans that are replayed.
//!
//! Every decision is made when the session is made.
//! [`partition`] compiles the plan.
//! [`layout`] gives each value its memory on each device, and finds out which values cross without
//! a copy, and [`ways`] says which transport carries the others.
//! [`steps`] puts the submissions in order, as a graph in which devices wait for each other only
//! where they touch the same memory.
//! A group of tiles, which devices take from each other ([`tiles`]), is one step.
//! A run takes a [`context`] from a bounded [`pool`]: memory, binding tables and a timeline for
//! each device.
//! It submits the list ([`run`]); several runs make a [`stream`].

mod context;
mod layout;
mod partition;
mod pool;
mod report;
mod results;
mod run;
mod steps;
mod stream;
mod tiles;
mod ways;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use hetero_comm::{ResultPages, Staged, Transport as _, ZeroCopy};
use hetero_hal::{
    DType, Device, Error as HalError, ErrorKind, ExtentId, HandleKind, HostMemory, LateId, Program, Queue,
    QueueOptions, SyncMode, Tensor, Topology, TraceSink, ValueId, Weight, distinct_weights, element_count,
};

use crate::fleet::Fleet;
use crate::names::NodesByName;
use crate::share::PlacementShares;
use crate::{Error, Result};
use context::{Arrival, Arrivals, Context, Views};
use layout::{Layout, Parts, Side, Slot, Storage};
use partition::{Compiled, Group, Partition, named};
use pool::{Place, Pool};
pub use report::{Report, TileShare, Traffic};
pub use run::Run;
pub use stream::Stream;
use tiles::Tally;
use ways::Ways;

/// An input or output of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name of the input or output.
    pub name: Arc<str>,
    /// The element type.
    pub dtype: DType,
    /// The sizes of the dimensions; bounds where a size depends on data.
    pub shape: Vec<usize>,
}

/// The outputs of a run, by name and in the model's order.
#[derive(Clone, Debug)]
pub struct Outputs(Vec<(Arc<str>, Tensor)>);

impl Outputs {
    /// Returns an output.
    ///
    /// # Errors
    /// `Output` where the model has no output of that name, with the names that it has.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.0.iter().find(|(known, _)| &**known == name).map(|(_, tensor)| tensor);
        found.ok_or_else(|| Error::Output {
            name: name.to_owned(),
            known: self.0.iter().map(|(known, _)| &**known).collect::<Vec<_>>().join("', '"),
        })
    }

    /// Returns all outputs, in the model's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (&**name, tensor))
    }
}

/// The place where an output is found after a run.
enum OutputSource {
    /// The output is in a slot.
    Slot(usize),
    /// The output is an input.
    Input(usize),
    /// The output is a constant.
    Constant(Tensor),
}

/// Memory that a run writes an output into; later runs use its room again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputBuffer {
    /// The bytes of the elements.
    pub bytes: Vec<u8>,
    /// The true sizes of the dimensions.
    pub shape: Vec<usize>,
    /// The output itself where its elements are no bytes, such as strings; `bytes` and `shape` are
    /// empty then.
    pub object: Option<Tensor>,
}

/// Host memory that a run writes an output into; see [`Session::run_to`].
#[derive(Clone, Debug)]
pub struct HostOutput {
    /// The pages, at least as long as the output's bytes.
    pub memory: HostMemory,
    /// The true sizes of the dimensions, once a run has ended.
    pub shape: Vec<usize>,
    /// Whether the device writes the output there in the run that is under way.
    placed: bool,
}

impl HostOutput {
    /// Makes an output of these pages, which is still to be written.
    #[must_use]
    pub fn new(memory: HostMemory) -> Self {
        HostOutput { memory, shape: Vec::new(), placed: false }
    }
}

/// The parts that never change once the session is made.
struct Frozen {
    layout: Layout,
    partitions: Vec<Partition>,
    groups: Vec<Group>,
}

/// Returns the weights of all executables, each once.
fn weights(partitions: &[Partition], groups: &[Group]) -> Vec<Arc<dyn Weight>> {
    let members = groups.iter().flat_map(|group| &group.members).flat_map(|member| &member.executables);
    let executables = partitions.iter().map(|partition| &partition.executable).chain(members);
    distinct_weights(executables.flat_map(|executable| executable.weights()))
}

/// The history of a plan before its session.
pub(crate) struct History {
    /// A line for each node and each device that moved.
    pub(crate) moved: Vec<String>,
    /// The tiles that run as one product.
    pub(crate) tiles: Vec<TileShare>,
    /// The share of each device.
    pub(crate) shares: PlacementShares,
    /// The bytes that the program's constants hold on the host.
    pub(crate) held: u64,
}

/// A compiled plan.
/// It may be run from several threads at once; runs share nothing that changes.
pub struct Session {
    program: Arc<Program>,
    /// The devices that the plan uses.
    devices: Vec<Arc<dyn Device>>,
    queues: Vec<Arc<dyn Queue>>,
    inputs: Vec<Port>,
    /// The extents of each input's dimensions; empty where its sizes are exact.
    open: Vec<Vec<Option<ExtentId>>>,
    /// The place of each input that is late.
    late: Vec<Option<LateId>>,
    outputs: Vec<Port>,
    sources: Vec<OutputSource>,
    frozen: Frozen,
    /// The slots that are inputs, each with the position of the input.
    input_slots: Vec<(usize, usize)>,
    /// The manner in which each slot's input came in the last run, where the slot is an input.
    arrivals: Vec<Arrivals>,
    /// The tiles that each device did in the last run, by group.
    tallies: Vec<Arc<[Tally]>>,
    /// The report without the placement and the edges from and to the host.
    /// Of tiles it has only those that run as one.
    report: Report,
    /// The position of the device of each node.
    placed: Vec<Option<u32>>,
    shares: PlacementShares,
    deadline: Duration,
    contexts: Pool<Context>,
    /// Whether the last run wrote each output where the caller finds it.
    delivered: Vec<AtomicBool>,
    /// The pages of large results.
    results: Arc<ResultPages>,
}

impl Session {
    pub(crate) fn new(
        fleet: &Fleet,
        program: Arc<Program>,
        plan: &hetero_scheduler::Partitioning,
        history: History,
    ) -> Result<Session> {
        let History { moved, tiles: joined, shares, held } = history;
        let compiled = partition::compile(fleet, &program, plan, held)?;
        let (layout, groups, views, most) = lay_out(fleet, &program, &compiled, held)?;
        let Compiled { devices, partitions, .. } = compiled;
        let sources = sources(&program, &layout)?;
        let queues = devices
            .iter()
            .map(|device| {
                let options = QueueOptions { name: format!("hetero-{}", device.info().id), capacity: None };
                device.queue(&options).map_err(|error| named(error, &**device))
            })
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let ports = |ids: &[ValueId]| -> Result<Vec<Port>> {
            ids.iter()
                .map(|&id| {
                    let value = program.value(id)?;
                    Ok(Port { name: value.name.clone(), dtype: value.dtype, shape: value.shape.clone() })
                })
                .collect()
        };
        let placed = placed(&program, plan, &devices);
        let report = Report {
            partitions: partitions.len(),
            placement: BTreeMap::new(),
            moved,
            arena_bytes: layout.arenas.iter().map(|arena| arena.0).sum::<usize>() + layout.shared.bytes,
            resident_bytes: weights(&partitions, &groups).iter().map(|weight| weight.bytes()).sum(),
            edges: with_waits(layout.edges.clone(), &layout, &devices, fleet.topology()),
            tiles: joined,
        };
        let tallies: Vec<Arc<[Tally]>> =
            groups.iter().map(|group| group.members.iter().map(|_| Tally::default()).collect()).collect();
        let inputs = layout.slots.iter().enumerate().filter_map(|(index, slot)| match slot.storage {
            Storage::Input(position) => Some((index, position)),
            _ => None,
        });
        let input_slots = inputs.collect();
        let arrivals = layout.slots.iter().map(|_| Arrivals::default()).collect();
        let frozen = Frozen { layout, partitions, groups };
        // The shared arena was imported to see whether the devices do it; the first run uses that
        // import.
        let contexts = Pool::new(most);
        if frozen.layout.shared.bytes > 0
            && let Place::Room(permit) = contexts.take(None)?
        {
            contexts.give(Context::new(&frozen, &devices, &queues, &tallies, &views, permit)?);
        }
        Ok(Session {
            inputs: ports(program.inputs())?,
            late: program.inputs().iter().map(|&id| Ok(program.value(id)?.late)).collect::<Result<_>>()?,
            open: program.inputs().iter().map(|&id| Ok(program.value(id)?.extents.clone())).collect::<Result<_>>()?,
            outputs: ports(program.outputs())?,
            deadline: fleet.deadline(),
            contexts,
            delivered: program.outputs().iter().map(|_| AtomicBool::new(false)).collect(),
            // Of those who feed results back, one generation is held while the next is made.
            results: ResultPages::new(2 * program.outputs().len()),
            program: program.clone(),
            devices,
            queues,
            sources,
            frozen,
            input_slots,
            arrivals,
            tallies,
            report,
            placed,
            shares,
        })
    }

    /// Returns the share of the nodes, of the estimated time and of the bytes that each device has.
    #[must_use]
    pub fn placement(&self) -> &PlacementShares {
        &self.shares
    }

    /// Returns the inputs that runs must supply, in order.
    #[must_use]
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Returns the outputs that runs give, in order.
    #[must_use]
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Returns the weights of the session's executables, each once.
    /// Sessions of one device share them.
    /// A caller that manages memory may evict the weights that no run needs soon; a run restores
    /// what it needs.
    #[must_use]
    pub fn weights(&self) -> Vec<Arc<dyn Weight>> {
        weights(&self.frozen.partitions, &self.frozen.groups)
    }

    /// Returns the devices that the plan uses.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    /// Returns the report: what became of the plan, and what passes between devices.
    /// It tells how inputs came in the last run; before the first run, it tells what the devices'
    /// capabilities allow.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut edges = Vec::new();
        // Between a device and the host, bytes are either shared or copied.
        let by = |copied: bool| if copied { Staged.name() } else { ZeroCopy.name() };
        for &(index, _) in &self.input_slots {
            let device = &*self.devices[self.frozen.layout.slots[index].device];
            let id = device.info().id.to_string();
            let capabilities = device.capabilities();
            let imports = capabilities.imports.contains(&HandleKind::Host);
            let reason = match self.arrivals[index].last() {
                Arrival::Unknown if imports => None,
                Arrival::InPlace => None,
                Arrival::Unknown | Arrival::NoImport => Some(no_import(&id)),
                Arrival::Unaligned if capabilities.import_alignment > 0 => {
                    let step = capabilities.import_alignment;
                    Some(format!(
                        "{id} imports what begins and ends at multiples of {step} bytes, and the input doesn't"
                    ))
                }
                Arrival::Unaligned => {
                    Some(format!("the input is not aligned to the {} bytes that {id} needs", capabilities.alignment))
                }
                Arrival::Refused => {
                    let refusal = self.arrivals[index].refusal.get();
                    Some(refusal.map_or_else(|| no_import(&id), |error| format!("the import failed: {error}")))
                }
            };
            report::add(&mut edges, report::HOST, &id, self.slot_bytes(index), by(reason.is_some()), reason.as_deref());
        }
        edges.extend(self.report.edges.iter().cloned());
        for (number, source) in self.sources.iter().enumerate() {
            if let OutputSource::Slot(index) = source {
                let id = self.devices[self.frozen.layout.slots[*index].device].info().id.to_string();
                let placed = self.delivered.get(number).is_some_and(|placed| placed.load(Ordering::Relaxed));
                let reason = (!placed).then_some("outputs are copied into the caller's memory");
                report::add(&mut edges, &id, report::HOST, self.slot_bytes(*index), by(!placed), reason);
            }
        }
        let ids: Vec<Arc<str>> = self.devices.iter().map(|device| device.info().id.to_string().into()).collect();
        let nodes = self.program.nodes().iter().zip(&self.placed);
        let placement =
            nodes.filter_map(|(node, &device)| Some((node.name.clone(), ids.get(device? as usize)?.clone())));
        Report { placement: placement.collect(), edges, tiles: self.tile_shares(), ..self.report.clone() }
    }

    fn tile_shares(&self) -> Vec<TileShare> {
        let mut all = self.report.tiles.clone();
        for (group, tallies) in self.frozen.groups.iter().zip(&self.tallies) {
            all.extend(group.members.iter().zip(&**tallies).map(|(member, tally)| TileShare {
                group: group.name.clone(),
                device: self.devices[member.device].info().id.to_string(),
                planned: member.share,
                done: tally.done.load(Ordering::Relaxed),
                stolen: tally.stolen.load(Ordering::Relaxed),
            }));
        }
        all
    }

    fn slot_bytes(&self, slot: usize) -> u64 {
        let value = self.program.value(self.frozen.layout.slots[slot].value);
        value.map_or(0, |value| value.bytes() as u64)
    }

    fn input_slots(&self) -> impl Iterator<Item = (usize, usize)> + use<'_> {
        self.input_slots.iter().copied()
    }

    /// Runs once, with inputs by name.
    ///
    /// # Errors
    /// `Input` where an input is missing, unknown, or of another type or shape.
    /// `Device` where a device fails.
    pub fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
        let names = || self.inputs.iter().map(|port| &*port.name).collect::<Vec<_>>().join("', '");
        let wrong = |name: &str, reason: String| Error::Input { name: name.to_owned(), reason };
        let mut given: HashMap<&str, (Option<&Tensor>, bool)> =
            self.inputs.iter().map(|port| (&*port.name, (None, false))).collect();
        for (name, tensor) in inputs {
            let Some(slot) = given.get_mut(name) else {
                let reason = match self.inputs.len() {
                    0 => "the model takes no inputs".to_owned(),
                    _ => format!("the model has no such input; it takes '{}'", names()),
                };
                return Err(wrong(name, reason));
            };
            *slot = (Some(tensor), slot.0.is_some());
        }
        let ordered = self
            .inputs
            .iter()
            .map(|port| match given.get(&*port.name) {
                Some((Some(tensor), false)) => Ok((*tensor).clone()),
                Some((Some(_), true)) => Err(wrong(&port.name, "it is given twice".to_owned())),
                _ => Err(wrong(&port.name, format!("it is missing; the model takes '{}'", names()))),
            })
            .collect::<Result<Vec<_>>>()?;
        self.run_ordered(&ordered)
    }

    /// Runs once, with inputs in the order of [`Session::inputs`], into memory of the caller's,
    /// whose capacity is used again.
    /// After the first run with the same buffers, nothing of the engine's allocates, and neither do
    /// the CPU device's fast kernels.
    ///
    /// # Errors
    /// The errors of [`Session::run`].
    /// `Input` too where the number of inputs or outputs is not the model's.
    pub fn run_into(&self, inputs: &[Tensor], outputs: &mut [OutputBuffer]) -> Result<()> {
        self.run_traced(inputs, outputs, None)
    }

    /// Runs as [`Session::run_into`] does, and tells `trace` what devices did, from when to when.
    /// A traced run overlaps with others as an untraced one does.
    ///
    /// # Errors
    /// The errors of [`Session::run_into`].
    pub fn run_traced(
        &self,
        inputs: &[Tensor],
        outputs: &mut [OutputBuffer],
        trace: Option<&Arc<dyn TraceSink>>,
    ) -> Result<()> {
        self.check(inputs, outputs.len())?;
        let mut context = self.take_context(Some(Instant::now() + self.deadline))?;
        self.launch(inputs, &mut context, trace, true)?;
        self.settle(&mut context)?;
        self.collect(inputs, outputs, &[], &context)?;
        self.give_context(context);
        Ok(())
    }

    /// Runs once, with inputs in the order of [`Session::inputs`], into host memory of the
    /// caller's.
    /// Where the device that computes an output imports host memory, it writes the caller's pages
    /// itself, and nothing is copied; else the output is copied there.
    /// [`Session::report`] says which.
    /// A device that imports memory at any address writes whole multiples of its alignment: pages
    /// that are as long as that are written in place.
    ///
    /// [`host_buffer`](crate::comm::host_buffer) reads the pages.
    /// Nobody may touch clones of them while the run is under way.
    ///
    /// ```
    /// # fn run(session: &hetero::Session, inputs: &[hetero::Tensor]) -> hetero::Result<()> {
    /// use hetero::{HostOutput, comm::host_buffer, hal::HostMemory};
    ///
    /// let mut outputs = [HostOutput::new(HostMemory::allocate(4096)?)];
    /// session.run_to(inputs, &mut outputs)?;
    /// let mut first = [0; 4];
    /// host_buffer(outputs[0].memory.clone()).read(0, &mut first)?;
    /// println!("{:?}: {}", outputs[0].shape, f32::from_le_bytes(first));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`Session::run_into`].
    /// `Device` where memory is too small or constant.
    pub fn run_to(&self, inputs: &[Tensor], outputs: &mut [HostOutput]) -> Result<()> {
        self.check(inputs, outputs.len())?;
        for (port, output) in self.outputs.iter().zip(&*outputs) {
            let needed = element_count(&port.shape).and_then(|count| port.dtype.bytes_for(count)).unwrap_or(usize::MAX);
            if output.memory.len() < needed || output.memory.as_mut_ptr().is_none() {
                let what = format!("the memory for output '{}' is constant or too small", port.name);
                let sizes = (needed as u64, Some(output.memory.len() as u64));
                return Err(HalError::invalid_argument(what).with_sizes(sizes.0, sizes.1).into());
            }
        }
        if let Some(number) = overlapping(outputs) {
            let what = format!("the memory for output '{}' is another output's too", self.outputs[number].name);
            return Err(HalError::invalid_argument(what).with_remedy("give each output pages of its own").into());
        }
        let mut context = self.take_context(Some(Instant::now() + self.deadline))?;
        for ((source, output), told) in self.sources.iter().zip(&mut *outputs).zip(&self.delivered) {
            output.placed = match source {
                OutputSource::Slot(slot) => {
                    let device = &*self.devices[self.frozen.layout.slots[*slot].device];
                    context.place(*slot, device, &output.memory)?
                }
                _ => false,
            };
            told.store(output.placed, Ordering::Relaxed);
        }
        self.launch(inputs, &mut context, None, true)?;
        self.settle(&mut context)?;
        self.deliver(inputs, outputs, &context)?;
        context.replace()?;
        self.give_context(context);
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
        for (((port, open), late), tensor) in self.inputs.iter().zip(&self.open).zip(&self.late).zip(inputs) {
            let any = late.is_some() && (port.shape.is_empty() || port.shape == tensor.shape());
            if any && tensor.dtype() == port.dtype {
                continue;
            }
            if !open.is_empty() && tensor.dtype() == port.dtype && fits(port, open, tensor.shape()) {
                continue;
            }
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
}

/// Tells whether a shape is one of those that an input with open dimensions may have.
fn fits(port: &Port, open: &[Option<ExtentId>], shape: &[usize]) -> bool {
    let each = || port.shape.iter().zip(open).zip(shape);
    shape.len() == port.shape.len()
        && each().all(|((bound, open), size)| if open.is_some() { size <= bound } else { size == bound })
}

/// Returns an output whose memory is another output's too.
fn overlapping(outputs: &[HostOutput]) -> Option<usize> {
    let range = |(number, output): (usize, &HostOutput)| {
        let start = output.memory.as_ptr() as usize;
        (start, start + output.memory.len(), number)
    };
    let mut ranges: Vec<_> = outputs.iter().enumerate().map(range).filter(|(start, end, _)| start < end).collect();
    ranges.sort_unstable();
    let overlap = |pair: &&[(usize, usize, usize)]| pair[1].0 < pair[0].1;
    ranges.windows(2).find(overlap).map(|pair| pair[0].2.max(pair[1].2))
}

/// Returns the position of the device on which each node runs by a plan.
fn placed(program: &Program, plan: &hetero_scheduler::Partitioning, devices: &[Arc<dyn Device>]) -> Vec<Option<u32>> {
    let mut placed = vec![None; program.nodes().len()];
    let mut names = NodesByName::new(program.nodes());
    let ids: Vec<String> = devices.iter().map(|device| device.info().id.to_string()).collect();
    for partition in &plan.partitions {
        let device = (0u32..).zip(&ids).find(|(_, id)| **id == partition.device).map(|(device, _)| device);
        for (node, _) in partition.tasks.iter().filter_map(|task| names.find(task)) {
            placed[node.index()] = device;
        }
    }
    placed
}

fn no_import(id: &str) -> String {
    format!("{id} imports no host memory")
}

/// Lays the plan out.
/// Where a device says that it imports host memory, and then refuses the shared arena, the plan is
/// laid out again as if the device did not import it; the report's edges say so.
/// Returns also how many runs may be under way.
fn lay_out(
    fleet: &Fleet,
    program: &Program,
    compiled: &Compiled,
    held: u64,
) -> Result<(Layout, Vec<Group>, Views, usize)> {
    let Compiled { devices, partitions, .. } = compiled;
    let side = |device: &Arc<dyn Device>| {
        let (id, capabilities) = (device.info().id.to_string(), device.capabilities());
        Side {
            alignment: capabilities.alignment,
            import_alignment: capabilities.import_alignment,
            refusal: (!capabilities.imports.contains(&HandleKind::Host)).then(|| no_import(&id)),
            id,
        }
    };
    let mut sides: Vec<Side> = devices.iter().map(side).collect();
    let ways = Ways::new(fleet, devices);
    loop {
        let (units, groups) = compiled.units(|device| sides[device].refusal.is_none());
        let parts = Parts { partitions, groups: &groups, units: &units };
        let layout = layout::lay_out(program, &parts, &sides, &ways)?;
        let most = check_memory(fleet, program, compiled, &layout, held)?;
        match context::share(&layout.shared, devices) {
            Ok(views) => return Ok((layout, groups, views, most)),
            Err((Some(device), error)) if error.kind() != ErrorKind::DeviceLost && sides[device].refusal.is_none() => {
                sides[device].refusal = Some(format!("the import failed: {error}"));
            }
            Err((_, error)) => return Err(error.into()),
        }
    }
}

/// Counts on each edge how its receiver waits for its sender: by its driver where both ends can do
/// that, else through the host.
fn with_waits(
    mut edges: Vec<Traffic>,
    layout: &Layout,
    devices: &[Arc<dyn Device>],
    topology: &Topology,
) -> Vec<Traffic> {
    for step in &layout.steps {
        let Some(receiver) = devices.get(step.device).map(|device| &device.info().id) else { continue };
        // Groups of tiles stand behind the devices: the host starts and ends them.
        let senders = step.wait.iter().filter(|(device, _)| *device != step.device);
        for sender in senders.filter_map(|&(device, _)| devices.get(device)).map(|device| &device.info().id) {
            let native = topology.edge(receiver, sender).wait == SyncMode::Native
                && topology.edge(sender, receiver).signal == SyncMode::Native;
            let edge = report::edge(&mut edges, &sender.to_string(), &receiver.to_string());
            *(if native { &mut edge.native_waits } else { &mut edge.host_waits }) += 1;
        }
    }
    edges
}

/// The most runs under way where nobody says how many, and memory has room for more.
const MOST_IN_FLIGHT: usize = 64;

/// Returns how many runs may be under way.
/// These are as many as the configuration says, which have to fit each device's memory together, or
/// else as many as fit.
/// Beside the runs there are the weights that executables keep, and on the host the program's
/// constants.
fn check_memory(
    fleet: &Fleet,
    program: &Program,
    compiled: &Compiled,
    layout: &Layout,
    constants: u64,
) -> Result<usize> {
    let Compiled { devices, partitions, .. } = compiled;
    let wanted = fleet.max_in_flight();
    let mut most = wanted.unwrap_or(MOST_IN_FLIGHT);
    for (number, device) in devices.iter().enumerate() {
        let Some(limit) = fleet.memory_limit(device.info()) else { continue };
        let mut held = layout.arenas[number].0 as u64;
        if layout.shared.devices.contains(&number) {
            held = held.saturating_add(layout.shared.bytes as u64);
        }
        for Slot { value, device, storage } in &layout.slots {
            if *device == number && matches!(storage, Storage::Input(_) | Storage::Own(_)) {
                held = held.saturating_add(program.value(*value)?.bytes() as u64);
            }
        }
        if let Some(most) = device.capabilities().max_allocation.filter(|most| layout.arenas[number].0 as u64 > *most) {
            return Err(HalError::new(ErrorKind::OutOfMemory, "the device allocates no arena of that size at once")
                .on(device.info().id.clone())
                .with_sizes(layout.arenas[number].0 as u64, Some(most))
                .with_remedy("bind smaller shapes, or divide the model among more devices")
                .into());
        }
        let own = partitions.iter().filter(|partition| partition.device == number);
        let kept = distinct_weights(own.flat_map(|partition| partition.executable.weights()));
        let kept = kept.iter().map(|weight| weight.bytes() as u64).sum::<u64>();
        let kept = kept.saturating_add(if device.info().runs_on_host() { constants } else { 0 });
        let all = held.saturating_mul(wanted.unwrap_or(1) as u64).saturating_add(kept);
        if all > limit {
            let what = "weights, inputs, outputs and intermediate values do not fit the memory";
            let (what, remedy) = match wanted {
                Some(runs) if runs > 1 => (
                    format!("{what} for {runs} runs at once"),
                    "bind smaller shapes, lower scheduling.max_in_flight, or raise the memory limit",
                ),
                _ => (what.to_owned(), "bind smaller shapes, or raise the memory limit"),
            };
            return Err(HalError::new(ErrorKind::OutOfMemory, what)
                .on(device.info().id.clone())
                .with_sizes(all, Some(limit))
                .with_remedy(remedy)
                .into());
        }
        if wanted.is_none() {
            let room = limit.saturating_sub(kept);
            most = most.min(usize::try_from(room.checked_div(held).unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
        }
    }
    Ok(most.max(1))
}

/// Returns the place where each output is found.
fn sources(program: &Program, layout: &Layout) -> Result<Vec<OutputSource>> {
    let inputs: HashMap<ValueId, usize> =
        program.inputs().iter().enumerate().map(|(position, &input)| (input, position)).collect();
    let source = |&id: &ValueId| {
        let value = program.value(id)?;
        if let Some(content) = &value.constant {
            return Ok(OutputSource::Constant(content.clone()));
        }
        if let Some(&position) = inputs.get(&id) {
            return Ok(OutputSource::Input(position));
        }
        let slot = layout.homes.get(&id).copied().map(OutputSource::Slot);
        slot.ok_or_else(|| HalError::internal(format!("nothing produces the output '{}'", value.name)).into())
    };
    program.outputs().iter().map(source).collect()
}
