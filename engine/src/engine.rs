//! The facade: devices, plans, runs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hetero_comm::Profile;
use hetero_hal::{
    Device, DeviceId, Driver, Error as HalError, ErrorKind, NodeId, OpenOptions, OperatorSet, Program, Tensor,
    Topology, Unavailable,
};
use hetero_onnx::Binding;
use hetero_reference::Standard;
use hetero_scheduler::{Cautious, Effort, Explanation, LatencyAware, Partitioner, Problem, Throughput};

use crate::config::{Config, Strategy};
use crate::costs::Calibrated;
use crate::join::{self, Joined};
use crate::lost::{takeover, uses};
use crate::passes::batch::BatchSplit;
use crate::passes::tile::Tiling;
use crate::passes::{self, Pass, PassContext};
use crate::place::Placement;
use crate::plan::{Inner, Plan, fingerprint};
use crate::problem::{self, Constraints, CostModel, Roofline};
use crate::session::{OutputBuffer, Outputs, Session};
use crate::{Error, Model, Result};

/// How often a device may turn down at compile time what it claimed, before the engine gives up.
const MOST_REPLANS: usize = 3;
/// Time that a strategy may take for a plan, unless the configuration says otherwise. Where a bound proves a plan to be the best, it takes less.
const PLANNING: Duration = Duration::from_millis(300);
/// Sides of tiles, unless the configuration says otherwise.
const TILE: usize = 512;
/// Longest that a run may take, unless the builder says otherwise.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The drivers that this build contains.
#[must_use]
pub fn builtin_drivers() -> Vec<Arc<dyn Driver>> {
    vec![
        #[cfg(feature = "cpu")]
        Arc::new(hetero_cpu::CpuDriver),
        #[cfg(feature = "opencl")]
        Arc::new(hetero_opencl::OpenClDriver::processors()),
        #[cfg(feature = "fpga")]
        Arc::new(hetero_opencl::OpenClDriver::accelerators()),
        #[cfg(feature = "wgpu")]
        Arc::new(hetero_wgpu::WgpuDriver),
    ]
}

/// The partitioner of a configuration, for costs that may be off by a share.
fn strategy(config: &Config, uncertainty: f64) -> Arc<dyn Partitioner> {
    let effort = Effort::time(config.scheduling.time_limit.unwrap_or(PLANNING));
    match config.scheduling.strategy {
        Strategy::LatencyAware => {
            Arc::new(Cautious { strategy: LatencyAware { effort, ..LatencyAware::default() }, margin: uncertainty })
        }
        Strategy::Throughput => Arc::new(Throughput { effort, ..Throughput::default() }),
    }
}

/// Makes a [`HeteroEngine`] out of parts of your own.
pub struct Builder {
    drivers: Vec<Arc<dyn Driver>>,
    partitioner: Option<Arc<dyn Partitioner>>,
    costs: Option<Arc<dyn CostModel>>,
    profile: Option<Arc<Profile>>,
    operators: Arc<dyn OperatorSet>,
    passes: Vec<Box<dyn Pass>>,
    placement: Placement,
    config: Config,
    memory_limit: Option<u64>,
    deadline: Duration,
}

impl Builder {
    /// Registers a driver, in front of those of the same name.
    #[must_use]
    pub fn driver(mut self, driver: Arc<dyn Driver>) -> Self {
        self.drivers.insert(0, driver);
        self
    }

    /// Replaces the partitioner, which is otherwise that of the configuration's strategy.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Arc<dyn Partitioner>) -> Self {
        self.partitioner = Some(partitioner);
        self
    }

    /// Replaces the cost model.
    #[must_use]
    pub fn cost_model(mut self, costs: Arc<dyn CostModel>) -> Self {
        self.costs = Some(costs);
        self
    }

    /// Plans with what was measured: the edges between devices, and, where no cost model is set, what operators take. Measurements of another
    /// product or driver version than a device's are not used for it; see [`Profile::usability`].
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = Some(Arc::new(profile));
        self
    }

    /// Replaces the definitions of operators, for inference and folding.
    #[must_use]
    pub fn operators(mut self, operators: Arc<dyn OperatorSet>) -> Self {
        self.operators = operators;
        self
    }

    /// Adds a pass behind the others.
    #[must_use]
    pub fn pass(mut self, pass: Box<dyn Pass>) -> Self {
        self.passes.push(pass);
        self
    }

    /// Pins nodes to devices; the partitioner places the others.
    #[must_use]
    pub fn place(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Limits the bytes that folded constants, and each device's intermediate values, may take. Without it, the devices' memory is the limit.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Limits the time of a run; without it, an hour.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The engine, without devices yet.
    #[must_use]
    pub fn build(self) -> HeteroEngine {
        let operators = self.operators.clone();
        let costs = self.costs.unwrap_or_else(|| match &self.profile {
            Some(profile) => Arc::new(Calibrated::new(profile.clone(), operators)),
            None => Arc::new(Roofline { operators }),
        });
        HeteroEngine {
            drivers: self.drivers,
            devices: Vec::new(),
            topology: Topology::default(),
            partitioner: self.partitioner.unwrap_or_else(|| strategy(&self.config, costs.uncertainty())),
            costs,
            profile: self.profile,
            operators: self.operators,
            passes: self.passes,
            placement: self.placement,
            config: self.config,
            memory_limit: self.memory_limit,
            deadline: self.deadline,
            lost: Mutex::new(Vec::new()),
        }
    }
}

/// Devices, and what plans and runs models on them. Plans and sessions may be used from any thread.
pub struct HeteroEngine {
    drivers: Vec<Arc<dyn Driver>>,
    devices: Vec<Arc<dyn Device>>,
    topology: Topology,
    partitioner: Arc<dyn Partitioner>,
    costs: Arc<dyn CostModel>,
    profile: Option<Arc<Profile>>,
    operators: Arc<dyn OperatorSet>,
    passes: Vec<Box<dyn Pass>>,
    placement: Placement,
    config: Config,
    memory_limit: Option<u64>,
    deadline: Duration,
    /// Devices that were lost, each with the error that told. Their place in `devices` stays, as plans count on it.
    pub(crate) lost: Mutex<Vec<(usize, HalError)>>,
}

impl HeteroEngine {
    /// An engine with the drivers of this build.
    ///
    /// # Errors
    /// None today; drivers that must be loaded may fail here.
    pub fn new() -> Result<Self> {
        Ok(HeteroEngine::builder().build())
    }

    /// An engine made of parts of your own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            drivers: builtin_drivers(),
            partitioner: None,
            costs: None,
            profile: None,
            operators: Arc::new(Standard),
            passes: passes::standard(),
            placement: Placement::default(),
            config: Config::default(),
            memory_limit: None,
            deadline: DEADLINE,
        }
    }

    /// The registered drivers.
    #[must_use]
    pub fn drivers(&self) -> &[Arc<dyn Driver>] {
        &self.drivers
    }

    /// The opened devices, in the order of adding.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    /// What was measured, where the engine plans with it.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_deref()
    }

    /// The edges between the devices: what they say of themselves, and what was measured.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens a device, such as `CPU:0`.
    ///
    /// # Errors
    /// `UnknownDevice` where no driver of that name is registered or it has no such device, with the reason and a remedy; `Device` where it
    /// cannot be opened.
    pub fn add_device(&mut self, id: &str, options: OpenOptions) -> Result<DeviceId> {
        let id: DeviceId = id.parse()?;
        let unknown = |reason: String| Error::UnknownDevice { device: id.to_string(), reason };
        let Some(driver) = self.drivers.iter().find(|driver| driver.name() == id.driver()) else {
            let names: Vec<&str> = self.drivers.iter().map(|driver| driver.name()).collect();
            return Err(unknown(format!(
                "no driver '{}' in this build; there are: {}; build with the feature of that name or register a driver",
                id.driver(),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )));
        };
        let infos = driver.probe().map_err(|why: Unavailable| unknown(why.to_string()))?;
        if !infos.iter().any(|info| info.id == id) {
            let names: Vec<String> = infos.iter().map(|info| info.id.to_string()).collect();
            return Err(unknown(format!("there is no such device; there are: {}", names.join(", "))));
        }
        if self.devices.iter().any(|device| device.info().id == id) {
            return Err(unknown("it has been added already".to_owned()));
        }
        let device = driver.open(id.ordinal(), &options)?;
        for other in self.devices.iter().chain([&device]) {
            let (a, b) = (device.info(), other.info());
            self.topology.insert(a.id.clone(), b.id.clone(), device.edge_to(b));
            self.topology.insert(b.id.clone(), a.id.clone(), other.edge_to(a));
        }
        self.devices.push(device);
        if let Some(profile) = &self.profile {
            let infos: Vec<_> = self.devices.iter().map(|device| device.info()).collect();
            profile.apply(&infos, &mut self.topology);
        }
        Ok(id)
    }

    /// Plans a model as it stands; open dimensions are taken as 1 and listed in [`Plan::assumed`].
    ///
    /// # Errors
    /// See [`HeteroEngine::analyze`].
    pub fn analyze_model(&self, model: &Model) -> Result<Plan> {
        self.analyze(model, &Binding { default_size: Some(1), ..Binding::default() })
    }

    /// Plans a model for given shapes: binds it, runs the passes, and divides it among the devices.
    ///
    /// # Errors
    /// `Model` where the model is invalid, uses operators that nobody defines (one report names them all) or does not fit the shapes;
    /// `Plan` where there is no device or none takes a node.
    pub fn analyze(&self, model: &Model, binding: &Binding) -> Result<Plan> {
        let bound = hetero_onnx::bind(model, binding, &*self.operators)?;
        let whole = self.rewrite(&bound.program)?;
        let (tile, (parts, notes)) = (self.tile_size(), self.batch_parts(&whole)?);
        let unsplit = Arc::new(whole);
        let program = self.split(&unsplit, &parts, tile)?;
        let mut partitioning = self.divide(&program, &HashSet::new())?;
        partitioning.tile_size = (!passes::tile::groups(&program).is_empty()).then_some(tile as u64);
        partitioning.batch_parts = parts.iter().map(|&rows| rows as u64).collect();
        partitioning.bindings = bound.symbols.into_iter().map(|(name, size)| (name, size as u64)).collect();
        Ok(self.plan(partitioning, program, unsplit, bound.assumed, notes))
    }

    /// Reads a plan that was made for this model, and checks that it still fits.
    ///
    /// # Errors
    /// `Plan` where the text is no plan, is for another model, or names a device that was not added; else as [`HeteroEngine::analyze`].
    pub fn load_plan(&self, model: &Model, json: &str) -> Result<Plan> {
        let partitioning = hetero_scheduler::Partitioning::from_json(json)?;
        let wrong = |at: &str, reason: String| Error::Plan(hetero_scheduler::Error::Plan { at: at.to_owned(), reason });
        let mut binding = Binding::default();
        for (name, shape) in &partitioning.input_shapes {
            let shape: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
            let shape = shape.ok_or_else(|| wrong(name, "its shape overflows".to_owned()))?;
            binding.shapes.insert(name.clone(), shape);
        }
        let bound = hetero_onnx::bind(model, &binding, &*self.operators)?;
        let tile = partitioning.tile_size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let parts = join::parts(&partitioning);
        let unsplit = Arc::new(self.rewrite(&bound.program)?);
        let program = self.split(&unsplit, &parts, tile)?;
        let found = fingerprint(&program);
        if found != partitioning.model {
            return Err(wrong("its model", format!("it is for the model {}, this is {found}", partitioning.model)));
        }
        if let Some(device) = partitioning.devices.iter().find(|id| self.position(id).is_none()) {
            return Err(wrong(&format!("device '{device}'"), "it was not added to the engine".to_owned()));
        }
        let names: Vec<&str> = program.nodes().iter().map(|node| &*node.name).collect();
        partitioning.check(&names)?;
        let producers = program.producers();
        let mut edges = Vec::new();
        for (value, readers) in program.consumers().into_iter().enumerate() {
            if let Some(producer) = producers[value] {
                edges.extend(readers.into_iter().map(|reader| (names[producer.index()], names[reader.index()])));
            }
        }
        partitioning.check_order(edges)?;
        Ok(self.plan(partitioning, program.clone(), unsplit, bound.assumed, vec![]))
    }

    /// Why a plan is as it is, by what things cost now: the reasons of each partition, the critical path, transfers, and other placements. `effort` is what
    /// the lower bound may take.
    ///
    /// # Errors
    /// `Plan` where a device of the plan is lost, or does not take a node any more.
    pub fn explain(&self, plan: &Plan, effort: Effort) -> Result<Explanation> {
        let problem = self.problem(plan.program(), &HashSet::new())?;
        Ok(Explanation::new(&problem, plan.partitioning(), effort)?)
    }

    /// Runs a plan once. The first run compiles it.
    ///
    /// Where a device is lost in the run, the plan is divided again without it and run again; [`Session::report`] says so.
    ///
    /// # Errors
    /// `Input` where the inputs are not the model's; `Device` where a device fails, or is lost and no other takes its nodes.
    pub fn run(&self, inputs: &[(&str, Tensor)], plan: &Plan) -> Result<Outputs> {
        self.with_session(plan, |session| session.run(inputs))
    }

    /// Runs a plan into memory of the caller's; see [`Session::run_into`].
    ///
    /// # Errors
    /// As [`HeteroEngine::run`].
    pub fn run_into(&self, inputs: &[Tensor], outputs: &mut [OutputBuffer], plan: &Plan) -> Result<()> {
        self.with_session(plan, |session| session.run_into(inputs, outputs))
    }

    /// The session of a plan: its partitions, compiled. Made once, shared by all threads, and made again where a device was lost.
    ///
    /// A node that its device claimed but turns down at compile time is given to another device, unless it was pinned there;
    /// [`Session::report`] says so.
    ///
    /// # Errors
    /// `Device` where a device cannot compile what it was given and no other takes it; `Plan` where a device was lost and no other
    /// takes its nodes.
    pub fn session(&self, plan: &Plan) -> Result<Arc<Session>> {
        let mut slot = plan.0.session.lock().unwrap_or_else(PoisonError::into_inner);
        let sound = |session: &&Arc<Session>| {
            !session.devices().iter().any(|device| self.is_lost(&device.info().id.to_string()))
        };
        if let Some(session) = slot.as_ref().filter(sound) {
            return Ok(session.clone());
        }
        // What a lost device holds is let go even where there is no session without it.
        *slot = None;
        let program = &plan.0.program;
        let mut partitioning = plan.0.partitioning.clone();
        let mut denied: HashSet<(usize, NodeId)> = HashSet::new();
        let mut moved: Vec<String> = Vec::new();
        let mut joins = true;
        let session = loop {
            let lost = self.lost();
            // The one lost last is news.
            let missing = lost.iter().rev().find(|(id, _)| uses(&partitioning, id));
            if let Some((_, error)) = missing {
                let now = self.divide(program, &denied).map_err(|obstacle| match obstacle {
                    Error::Plan(obstacle) => {
                        error.clone().with_remedy(format!("no other device can take over: {obstacle}")).into()
                    }
                    other => other,
                })?;
                moved.extend(lost.iter().filter_map(|(id, error)| takeover(id, error, &partitioning, &now)));
                partitioning = now;
            }
            let joined = if joins { self.joined(plan, &partitioning)? } else { None };
            let made = match &joined {
                Some(Joined { program, partitioning, tiles }) => {
                    Session::new(self, program.clone(), partitioning, moved.clone(), tiles.clone())
                }
                None => Session::new(self, program.clone(), &partitioning, moved.clone(), vec![]),
            };
            let refused = match made {
                Ok(session) => break Arc::new(session),
                // Lost while it compiled: the same without it.
                Err(Error::Device(error))
                    if error.device().is_some_and(|id| uses(&partitioning, id))
                        && self.lose(&Error::Device(error.clone())) =>
                {
                    continue;
                }
                // What is too large for the device as a whole may do in parts.
                Err(Error::Device(_)) if joined.is_some() => {
                    joins = false;
                    continue;
                }
                Err(Error::Device(error)) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Compile) => {
                    error
                }
                Err(error) => return Err(error),
            };
            let device = refused.device().and_then(|id| self.position(&id.to_string()));
            let node = program.node_ids().find(|(_, node)| refused.operator() == Some(&node.to_string()));
            let (Some(device), Some((id, node)), true) = (device, node, denied.len() < MOST_REPLANS) else {
                return Err(refused.into());
            };
            denied.insert((device, id));
            partitioning = match self.divide(program, &denied) {
                // The compiler's reason says more than that nobody else may take the node.
                Err(Error::Placement { .. }) => return Err(refused.into()),
                Err(Error::Plan(obstacle)) => {
                    let remedy = refused.remedy().map_or_else(String::new, |remedy| format!("{remedy}; "));
                    return Err(refused
                        .with_remedy(format!("{remedy}no other device can take over: {obstacle}"))
                        .into());
                }
                divided => divided?,
            };
            let now = partitioning.placement().get(&*node.name).map_or_else(String::new, ToString::to_string);
            moved.push(format!("{node} moved to {now}: {refused}"));
        };
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Bytes that constants and intermediate values may take.
    pub(crate) fn memory_limit(&self, device: &dyn Device) -> Option<u64> {
        let share = self.config.device_params.gpu_mem_threshold.unwrap_or(1.0);
        let memory = device.info().memory_bytes.map(|bytes| (bytes as f64 * share) as u64);
        match (memory, self.memory_limit) {
            (Some(memory), Some(limit)) => Some(memory.min(limit)),
            (memory, limit) => memory.or(limit),
        }
    }

    pub(crate) fn run_deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.devices.iter().position(|device| device.info().id.to_string() == id)
    }

    /// Sides of the tiles that products are cut into; 0 where none is.
    fn tile_size(&self) -> usize {
        self.config.scheduling.tile_size.unwrap_or_else(|| {
            // Those that compute on the host's processor gain nothing by sharing.
            let hosted = self.devices.iter().any(|device| device.info().runs_on_host());
            let others = self.devices.iter().filter(|device| !device.info().runs_on_host()).count();
            if others + usize::from(hosted) > 1 { TILE } else { 0 }
        })
    }

    /// Rows of the parts that a batch is split into, none where it stays whole; and why, where the configuration asks for it.
    fn batch_parts(&self, program: &Program) -> Result<(Vec<usize>, Vec<String>)> {
        let Some(most) = self.config.scheduling.batch_split_size else { return Ok((vec![], vec![])) };
        if program.nodes().iter().any(|node| self.placement.device_of(node).is_some()) {
            return Ok((vec![], vec!["the batch is not split: nodes are pinned to devices".to_owned()]));
        }
        let batch = match passes::batch::batch(program) {
            Ok(batch) if batch > most => batch,
            Ok(_) => return Ok((vec![], vec![])),
            Err(reason) => return Ok((vec![], vec![format!("the batch is not split: {reason}")])),
        };
        let problem = self.problem(program, &HashSet::new())?;
        let parts = hetero_scheduler::apportion(batch, &problem.speeds());
        // Even ones of each device's share.
        let even = |share: usize| hetero_scheduler::apportion(share, &vec![1.0; share.div_ceil(most)]);
        Ok((parts.into_iter().flat_map(even).collect(), vec![]))
    }

    fn pass_context(&self) -> PassContext<'_> {
        // Constants live on the host, whatever device uses them.
        let host = self.memory_limit.unwrap_or_else(|| {
            let known = self.devices.iter().filter_map(|device| device.info().memory_bytes);
            known.max().map_or(1 << 32, |bytes| bytes / 2)
        });
        PassContext { operators: &*self.operators, memory_limit: usize::try_from(host).unwrap_or(usize::MAX) }
    }

    fn rewrite(&self, program: &Program) -> Result<Program> {
        Ok(passes::run(program, &self.passes, &self.pass_context())?)
    }

    /// Splits a batch into parts of so many rows, and products into tiles; none of either where it is empty or 0.
    pub(crate) fn split(&self, program: &Arc<Program>, parts: &[usize], tile: usize) -> Result<Arc<Program>> {
        let mut splitting: Vec<Box<dyn Pass>> = Vec::new();
        if !parts.is_empty() {
            splitting.push(Box::new(BatchSplit { parts: parts.to_vec() }));
        }
        if tile > 0 {
            splitting.push(Box::new(Tiling { size: tile, placement: self.placement.clone() }));
        }
        if splitting.is_empty() {
            return Ok(program.clone());
        }
        let context = self.pass_context();
        let split = passes::run(program, &splitting, &context)?;
        if split.nodes().len() == program.nodes().len() {
            return Ok(program.clone());
        }
        // Slices of constants are constants.
        Ok(Arc::new(passes::run(&split, &passes::standard(), &context)?))
    }

    /// What there is to plan, on the devices that are not lost.
    fn problem(&self, program: &Program, denied: &HashSet<(usize, NodeId)>) -> Result<Problem> {
        let lost: Vec<usize> = {
            let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.iter().map(|(device, _)| *device).collect()
        };
        let memory: Vec<Option<u64>> = self.devices.iter().map(|device| self.memory_limit(&**device)).collect();
        let constraints = Constraints {
            denied,
            lost: &lost,
            placement: &self.placement,
            memory: &memory,
            energy: self.config.scheduling.energy_budget,
            watts: &self.config.device_params.watts,
        };
        problem::problem(program, &self.devices, &self.topology, &*self.costs, &constraints)
    }

    fn divide(&self, program: &Program, denied: &HashSet<(usize, NodeId)>) -> Result<hetero_scheduler::Partitioning> {
        let problem = self.problem(program, denied)?;
        let schedule = self.partitioner.partition(&problem)?;
        let mut plan = hetero_scheduler::Partitioning::from_schedule(
            &problem,
            &schedule,
            fingerprint(program),
            self.partitioner.name(),
        )?;
        for id in program.inputs() {
            let value = program.value(*id)?;
            plan.input_shapes.insert(value.name.to_string(), value.shape.iter().map(|&size| size as u64).collect());
        }
        Ok(plan)
    }

    fn plan(
        &self,
        partitioning: hetero_scheduler::Partitioning,
        program: Arc<Program>,
        unsplit: Arc<Program>,
        assumed: Vec<String>,
        notes: Vec<String>,
    ) -> Plan {
        Plan(Arc::new(Inner { partitioning, program, unsplit, assumed, notes, session: Mutex::new(None) }))
    }
}
