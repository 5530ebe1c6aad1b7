//! The planner: it goes from a model to a partitioning of its program among the devices of a fleet.
//!
//! A plan is made in four steps: *bind* the model to shapes, *rewrite* the program with passes,
//! *split* batches and large products, and *divide* the nodes among the devices.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_costs::CostModel;
use hetero_hal::{Allowance, Attribute, DeviceId, Graph, Node, NodeId, OperatorSet, Program, Tensor};
use hetero_onnx::Binding;
use hetero_scheduler::{Partition, Partitioner, Partitioning, Problem, Schedule, Tiles};

use crate::annotated::Annotated;
use crate::config::{Config, Strategy};
use crate::covered::Covered;
use crate::fleet::Fleet;
use crate::passes::batch::BatchSplit;
use crate::passes::tile::Tiling;
use crate::passes::{self, Pass, PassContext};
use crate::place::Placement;
use crate::policy::Policy;
use crate::problem::{self, Constraints};
use crate::slow::SlowNodes;
use crate::{Error, Model, Result};

/// The number of rows and of columns of tiles, unless the configuration says otherwise.
const TILE: usize = 512;

/// The parts that plan models: a partitioner, a cost model, definitions of operators, passes, a
/// placement by hand and a configuration.
pub(crate) struct Planner {
    pub(crate) partitioner: Arc<dyn Partitioner>,
    /// Whether the partitioner is one of the engine's, which on one device have nothing to decide.
    pub(crate) standard: bool,
    pub(crate) costs: Arc<dyn CostModel>,
    pub(crate) operators: Arc<dyn OperatorSet>,
    pub(crate) passes: Vec<Box<dyn Pass>>,
    pub(crate) placement: Placement,
    pub(crate) config: Config,
}

/// The result of the planner.
pub(crate) struct Planned {
    pub(crate) partitioning: Partitioning,
    /// The bound and rewritten program, split.
    pub(crate) annotated: Annotated,
    /// The same program before its batch was split and its products were cut into tiles.
    pub(crate) unsplit: Annotated,
    pub(crate) assumed: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// The inputs that were bound as constants.
    pub(crate) fixed: Vec<String>,
    /// The patterns of pins that no node matches.
    pub(crate) idle_pins: Vec<String>,
    /// The bytes that the program's constants hold on the host.
    pub(crate) held: u64,
    pub(crate) timing: PlanTiming,
}

/// The times that the steps of planning took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanTiming {
    /// The time of binding the model to shapes, with inference.
    pub bind: Duration,
    /// The time of the passes: rewriting the program, and splitting batches and products.
    pub passes: Duration,
    /// The time of dividing the program among the devices, with claims and costs.
    /// For a plan that was read, the time of checking it.
    pub divide: Duration,
}

impl Planner {
    /// Plans a model for given shapes.
    ///
    /// # Errors
    /// `Model` where the model is invalid or does not fit the shapes.
    /// `Plan` where there is no device or none takes a node.
    pub(crate) fn plan(&self, fleet: &Fleet, model: &Model, binding: &Binding) -> Result<Planned> {
        let began = Instant::now();
        let held = HeldConstants::of(model);
        let allowance = fleet.allowance_beside(held.bytes).and(&binding.allowance);
        let binding = &Binding { allowance: allowance.clone(), ..binding.clone() };
        let bound = hetero_onnx::bind(model, binding, &*self.operators)?;
        let bind = began.elapsed();
        let whole = Annotated::new(Arc::new(self.rewrite(bound.program, &allowance)?), vec![]);
        let (tile, (parts, mut notes)) = (self.tile_size(fleet), self.batch_parts(fleet, &whole, &allowance)?);
        notes.extend(fleet.absent().iter().map(ToString::to_string));
        notes.extend(bound.notes);
        let annotated = self.split(&whole, &parts, tile, &allowance)?;
        let passes = began.elapsed() - bind;
        allowance.check()?;
        let mut partitioning = self.divide(fleet, &annotated, &HashSet::new())?;
        partitioning.tile_size = (!annotated.tiles.is_empty()).then_some(tile as u64);
        partitioning.batch_parts = parts.iter().map(|&rows| rows as u64).collect();
        partitioning.bindings = bound.symbols.into_iter().map(|(name, size)| (name, size as u64)).collect();
        self.check_slow(fleet, &annotated.program, &partitioning)?;
        let timing = PlanTiming { bind, passes, divide: began.elapsed() - bind - passes };
        let (fixed, idle_pins) = (binding.constants.keys().cloned().collect(), self.idle_pins(&annotated));
        let (unsplit, assumed, held) = (whole, bound.assumed, held.with(&annotated.program));
        Ok(Planned { partitioning, annotated, unsplit, assumed, notes, fixed, idle_pins, held, timing })
    }

    /// Returns the patterns of pins that no node matches.
    fn idle_pins(&self, annotated: &Annotated) -> Vec<String> {
        self.placement.unmatched(&annotated.program).into_iter().map(str::to_owned).collect()
    }

    /// Reads a plan that was made for this model, and checks that it still fits.
    ///
    /// # Errors
    /// `Plan` where the text is no plan, is for another model, or names a device that was not
    /// added.
    /// Otherwise the errors of [`Planner::plan`].
    pub(crate) fn load(&self, fleet: &Fleet, model: &Model, json: &str) -> Result<Planned> {
        let partitioning = Partitioning::from_json(json)?;
        let wrong = |at: &str, reason: String| Error::Plan(hetero_scheduler::Error::Plan { at: at.to_owned(), reason });
        let another = |how: String| {
            let made = "it was made for another model, or for another version of this one";
            wrong("its model", format!("{made}: {how}"))
        };
        let held = HeldConstants::of(model);
        let mut binding = Binding { allowance: fleet.allowance_beside(held.bytes), ..Binding::default() };
        for (name, shape) in &partitioning.input_shapes {
            let shape: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
            let shape = shape.ok_or_else(|| wrong(name, "its shape overflows".to_owned()))?;
            binding.shapes.insert(name.clone(), shape);
        }
        // Where the plan is of another model, an error of binding would name that model's inputs.
        let known: Vec<&str> = model.graph.inputs.iter().map(|id| &*model.graph.values[id.index()].name).collect();
        if let Some(name) = partitioning.input_shapes.keys().find(|name| !known.contains(&name.as_str())) {
            let known = known.join("', '");
            return Err(another(format!("the plan is for inputs such as '{name}', and this model has '{known}'")));
        }
        let began = Instant::now();
        let bound = hetero_onnx::bind(model, &binding, &*self.operators)?;
        let bind = began.elapsed();
        let tile = partitioning.tile_size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let whole = Annotated::new(Arc::new(self.rewrite(bound.program, &binding.allowance)?), vec![]);
        let annotated = self.split(&whole, &parts(&partitioning), tile, &binding.allowance)?;
        binding.allowance.check()?;
        let passes = began.elapsed() - bind;
        let (program, found) = (&annotated.program, annotated.program.fingerprint().to_string());
        if found != partitioning.model {
            return Err(another(format!("its fingerprint is {}, and this model's is {found}", partitioning.model)));
        }
        if let Some(device) = partitioning.devices.iter().find(|id| fleet.position_of(id).is_none()) {
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
        self.check_required(fleet, &annotated, &HashSet::new(), &partitioning)?;
        self.check_slow(fleet, program, &partitioning)?;
        let timing = PlanTiming { bind, passes, divide: began.elapsed() - bind - passes };
        let notes = fleet.absent().iter().map(ToString::to_string).chain(bound.notes).collect();
        let (unsplit, assumed, idle_pins) = (whole, bound.assumed, self.idle_pins(&annotated));
        let held = held.with(&annotated.program);
        Ok(Planned { partitioning, annotated, unsplit, assumed, notes, fixed: vec![], idle_pins, held, timing })
    }

    /// Divides a program among the devices that are not lost.
    /// Nodes that a device is denied do not run there.
    ///
    /// # Errors
    /// `Plan` where there is no device or none takes a node.
    /// `Placement` where a pin cannot be kept.
    /// `Required` where a required device gets nothing.
    pub(crate) fn divide(
        &self,
        fleet: &Fleet,
        annotated: &Annotated,
        denied: &HashSet<(usize, NodeId)>,
    ) -> Result<Partitioning> {
        if let Some(plan) = self.divide_alone(fleet, annotated, denied)? {
            return Ok(plan);
        }
        let problem = self.problem(fleet, annotated, denied)?;
        let lost = fleet.lost_positions();
        let wanted: Vec<usize> = (0..fleet.devices().len())
            .filter(|position| fleet.policy(*position) != Policy::Allow && !lost.contains(position))
            .collect();
        // With one device, or with all of them wanted, no wish can change the plan.
        let kept = if wanted.is_empty() || wanted.len() == fleet.devices().len() {
            None
        } else {
            let kept = self.problem_with(fleet, annotated, denied, &wanted)?;
            // Where memory or energy do not suffice for such a plan, the wish is void.
            self.partitioner.partition(&kept).ok().map(|schedule| (kept, schedule))
        };
        let free = self.partitioner.partition(&problem);
        let (problem, schedule) = match (kept, free) {
            (Some(kept), Ok(free)) if !self.prefers(fleet, &kept, (&problem, &free)) => (problem, free),
            (Some(kept), _) => kept,
            (None, free) => (problem, free?),
        };
        let (model, program) = (annotated.program.fingerprint().to_string(), &annotated.program);
        let mut plan = Partitioning::from_schedule(&problem, &schedule, model, self.partitioner.name())?;
        plan.input_shapes = input_shapes(program)?;
        self.check_required(fleet, annotated, denied, &plan)?;
        Ok(plan)
    }

    /// Gives all nodes to the only device that there is, as any partitioner would.
    /// Returns `None` where there is more to look at.
    fn divide_alone(
        &self,
        fleet: &Fleet,
        annotated: &Annotated,
        denied: &HashSet<(usize, NodeId)>,
    ) -> Result<Option<Partitioning>> {
        let [device] = fleet.devices() else { return Ok(None) };
        let settled = self.placement != Placement::default() || self.config.scheduling.energy_budget.is_some();
        let changed = !denied.is_empty() || fleet.is_lost(&device.info().id) || !annotated.tiles.is_empty();
        if !self.standard || settled || changed {
            return Ok(None);
        }
        let Some(seconds) = problem::alone(annotated, fleet, &*self.costs) else { return Ok(None) };
        // The nodes run one after the other: their times are added in the order in which a schedule
        // adds them.
        let finish = seconds.into_iter().fold(0.0, |now, seconds| now + seconds);
        let (id, program) = (device.info().id.to_string(), &annotated.program);
        let partition = Partition {
            device: id.clone(),
            tasks: program.nodes().iter().map(|node| node.name.to_string()).collect(),
            estimated_start: 0.0,
            estimated_finish: finish,
            tiles: None,
        };
        Ok(Some(Partitioning {
            version: Partitioning::VERSION,
            model: annotated.program.fingerprint().to_string(),
            strategy: self.partitioner.name().to_owned(),
            devices: vec![id],
            bindings: BTreeMap::new(),
            input_shapes: input_shapes(program)?,
            partitions: vec![partition],
            transfers: vec![],
            estimated_makespan: finish,
            tile_size: None,
            batch_parts: vec![],
        }))
    }

    /// Tells whether to take the plan in which wanted devices keep the nodes that they take, in
    /// place of the free plan.
    /// It is taken where the free plan leaves out a required device that it uses, and otherwise
    /// unless the free plan is shorter by a larger share than costs may be off.
    fn prefers(&self, fleet: &Fleet, kept: &(Problem, Schedule), free: (&Problem, &Schedule)) -> bool {
        let takes = |(problem, schedule): (&Problem, &Schedule)| match self.config.scheduling.strategy {
            Strategy::LatencyAware => schedule.makespan(),
            Strategy::Throughput => schedule.period(problem),
        };
        let used = |schedule: &Schedule, position: usize| schedule.slots().iter().any(|slot| slot.device.0 == position);
        let required = (0..fleet.devices().len()).filter(|&position| fleet.policy(position) == Policy::Require);
        let saved = required.into_iter().any(|position| used(&kept.1, position) && !used(free.1, position));
        saved || takes((&kept.0, &kept.1)) * (1.0 - self.costs.uncertainty()) <= takes(free)
    }

    /// Checks that every required device has a part in a plan.
    ///
    /// # Errors
    /// `Required` with the reason.
    pub(crate) fn check_required(
        &self,
        fleet: &Fleet,
        annotated: &Annotated,
        denied: &HashSet<(usize, NodeId)>,
        plan: &Partitioning,
    ) -> Result<()> {
        for (position, device) in fleet.devices().iter().enumerate() {
            let id = &device.info().id;
            if fleet.policy(position) != Policy::Require || uses(plan, id) {
                continue;
            }
            let nodes = annotated.program.nodes();
            let lost = fleet.lost().into_iter().find(|(lost, _)| lost == id);
            let claims = fleet.claims(position, &annotated.program);
            let claimed: Vec<NodeId> = claims.iter().flat_map(|claim| claim.nodes.iter().copied()).collect();
            let pinned = |id: &&NodeId| {
                let place = nodes.get(id.index()).and_then(|node| self.placement.device_of(node));
                denied.contains(&(position, **id)) || place.is_some_and(|place| *place != device.info().id)
            };
            let reason = match (lost, claimed.len()) {
                (Some((_, error)), _) => format!("it was lost: {error}"),
                (None, 0) => format!("it takes none of the model's {} nodes", nodes.len()),
                (None, count) if claimed.iter().filter(pinned).count() == count => {
                    format!("the {count} nodes that it takes are pinned to others, or it turned them down")
                }
                (None, count) => format!(
                    "it takes {count} of the model's {} nodes, and the plan gives it none, as others do them clearly sooner; \
                     pin some to it, or do not require it",
                    nodes.len()
                ),
            };
            return Err(Error::Required { device: id.to_string(), reason });
        }
        Ok(())
    }

    /// Checks that a plan has no slow nodes, where the configuration forbids them.
    ///
    /// # Errors
    /// `Slow` with the nodes.
    fn check_slow(&self, fleet: &Fleet, program: &Program, plan: &Partitioning) -> Result<()> {
        if !self.config.scheduling.deny_slow {
            return Ok(());
        }
        let slow = SlowNodes::of(program, plan, fleet, &*self.costs);
        if slow.is_empty() { Ok(()) } else { Err(Error::Slow(slow)) }
    }

    /// Returns the scheduling problem of a program, on the devices that are not lost.
    pub(crate) fn problem(
        &self,
        fleet: &Fleet,
        annotated: &Annotated,
        denied: &HashSet<(usize, NodeId)>,
    ) -> Result<Problem> {
        self.problem_with(fleet, annotated, denied, &[])
    }

    /// Returns the problem of [`Planner::problem`], where wanted devices keep the nodes that they
    /// take.
    fn problem_with(
        &self,
        fleet: &Fleet,
        annotated: &Annotated,
        denied: &HashSet<(usize, NodeId)>,
        wanted: &[usize],
    ) -> Result<Problem> {
        let constraints = Constraints {
            denied,
            lost: &fleet.lost_positions(),
            placement: &self.placement,
            wanted: (wanted, self.costs.uncertainty()),
            energy: self.config.scheduling.energy_budget,
            watts: &self.config.device_params.watts,
        };
        problem::problem(annotated, fleet, &*self.costs, &constraints)
    }

    /// Returns the number of rows and of columns of the tiles that products are cut into, or 0
    /// where none is cut.
    fn tile_size(&self, fleet: &Fleet) -> usize {
        self.config.scheduling.tile_size.unwrap_or_else(|| {
            // Devices that compute on the host's processor gain nothing by sharing.
            let hosted = fleet.devices().iter().any(|device| device.info().runs_on_host());
            let others = fleet.devices().iter().filter(|device| !device.info().runs_on_host()).count();
            if others + usize::from(hosted) > 1 { TILE } else { 0 }
        })
    }

    /// Returns the number of rows of each part that a batch is split into, none where it stays
    /// whole.
    /// Returns also the reason why it stays whole, where the configuration asks for a split.
    fn batch_parts(
        &self,
        fleet: &Fleet,
        whole: &Annotated,
        allowance: &Allowance,
    ) -> Result<(Vec<usize>, Vec<String>)> {
        let Some(most) = self.config.scheduling.batch_split_size else { return Ok((vec![], vec![])) };
        if whole.program.nodes().iter().any(|node| self.placement.device_of(node).is_some()) {
            return Ok((vec![], vec!["the batch is not split: nodes are pinned to devices".to_owned()]));
        }
        let batch = match passes::batch::batch(&whole.program) {
            Ok(batch) if batch > most => batch,
            Ok(_) => return Ok((vec![], vec![])),
            Err(reason) => return Ok((vec![], vec![format!("the batch is not split: {reason}")])),
        };
        passes::batch::allow_parts(allowance, &whole.program, batch.div_ceil(most))?;
        let problem = self.problem(fleet, whole, &HashSet::new())?;
        let parts = hetero_scheduler::apportion(batch, &problem.speeds());
        // Each device's share is split evenly.
        let even = |share: usize| hetero_scheduler::apportion(share, &vec![1.0; share.div_ceil(most)]);
        Ok((parts.into_iter().flat_map(even).collect(), vec![]))
    }

    fn rewrite(&self, program: Program, allowance: &Allowance) -> Result<Program> {
        Ok(passes::run(program, &self.passes, &PassContext { operators: &*self.operators, allowance })?)
    }

    /// Splits a batch into parts of the given numbers of rows, and products into tiles of the given
    /// size.
    /// No parts leave the batch whole, and a size of 0 leaves products whole.
    pub(crate) fn split(
        &self,
        whole: &Annotated,
        parts: &[usize],
        tile: usize,
        allowance: &Allowance,
    ) -> Result<Annotated> {
        let tiling = Tiling { size: tile, placement: self.placement.clone() };
        if parts.is_empty() && !tiling.may_cut(&whole.program) {
            return Ok(whole.clone());
        }
        let program = &whole.program;
        let context = PassContext { operators: &*self.operators, allowance };
        let mut graph = program.to_graph();
        if !parts.is_empty() {
            BatchSplit { parts: parts.to_vec() }.run(&mut graph, &context)?;
        }
        let tiles = tiling.cut(&mut graph, allowance)?;
        if graph.nodes.len() == program.nodes().len() {
            return Ok(whole.clone());
        }
        let split = Program::new(graph, program.extents().to_vec())?;
        // Slices of constants are constants.
        Ok(Annotated::new(Arc::new(passes::run(split, &passes::standard(), &context)?), tiles))
    }
}

/// Returns the shapes of a program's inputs, by name.
fn input_shapes(program: &Program) -> Result<BTreeMap<String, Vec<u64>>> {
    let shape = |&id: &hetero_hal::ValueId| {
        let value = program.value(id)?;
        Ok((value.name.to_string(), value.shape.iter().map(|&size| size as u64).collect()))
    };
    program.inputs().iter().map(shape).collect()
}

/// The constants that a model holds on the host, in the bodies of its nodes too, and the bytes that
/// they take.
/// Constants of mapped files take none.
struct HeldConstants {
    covered: Covered,
    bytes: usize,
}

impl HeldConstants {
    fn of(model: &Model) -> HeldConstants {
        let mut held = HeldConstants { covered: Covered::default(), bytes: 0 };
        held.add_graph(&model.graph);
        if model.mapped {
            held.bytes = 0;
        }
        held
    }

    /// Returns the bytes that they and a program's constants take.
    fn with(mut self, program: &Program) -> u64 {
        self.add_all(program.values().iter().filter_map(|value| value.constant.as_ref()), program.nodes());
        self.bytes as u64
    }

    fn add_graph(&mut self, graph: &Graph) {
        self.add_all(graph.values.iter().filter_map(|value| value.constant.as_ref()), &graph.nodes);
    }

    /// Adds the constants among values, and those that nodes hold.
    fn add_all<'a>(&mut self, constants: impl Iterator<Item = &'a Tensor>, nodes: &[Node]) {
        constants.for_each(|tensor| self.add(tensor));
        for node in nodes {
            for attribute in node.operator.attributes.values() {
                match attribute {
                    Attribute::Tensor(tensor) => self.add(tensor),
                    Attribute::Tensors(tensors) => tensors.iter().for_each(|tensor| self.add(tensor)),
                    _ => {}
                }
            }
            node.subgraphs().for_each(|graph| self.add_graph(graph));
        }
    }

    fn add(&mut self, constant: &Tensor) {
        self.bytes = self.bytes.saturating_add(self.covered.add(constant));
    }
}

/// Returns the number of rows of each part that the plan's batch was split into.
pub(crate) fn parts(partitioning: &Partitioning) -> Vec<usize> {
    partitioning.batch_parts.iter().map(|&rows| usize::try_from(rows).unwrap_or(usize::MAX)).collect()
}

/// Tells whether a plan runs anything on a device, or lets it take tiles.
pub(crate) fn uses(plan: &Partitioning, id: &DeviceId) -> bool {
    let is = |name: &str| name.parse().is_ok_and(|named: DeviceId| named == *id);
    let takes = |tiles: &Tiles| tiles.devices.keys().any(|name| is(name));
    plan.partitions.iter().any(|partition| is(&partition.device) || partition.tiles.as_ref().is_some_and(takes))
}
