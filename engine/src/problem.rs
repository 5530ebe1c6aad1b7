//! From programs to tasks: the cost of each node on each device, and the bytes that pass between
//! nodes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use hetero_costs::CostModel;
use hetero_hal::{Device, DeviceInfo, Edge, Node, NodeId, Program, Quality, ValueId};
use hetero_scheduler::{DeviceIndex, DeviceSpec, Devices, Link, Problem, Task, TaskGraph};

use crate::annotated::Annotated;
use crate::covered::Covered;
use crate::fleet::Fleet;
use crate::place::Placement;
use crate::{Error, Result};

/// What is settled before the partitioner looks at costs.
pub(crate) struct Constraints<'a> {
    /// The nodes that a device is denied, each with the device's position.
    pub(crate) denied: &'a HashSet<(usize, NodeId)>,
    /// The positions of the devices on which nothing runs; pins to them are void.
    pub(crate) lost: &'a [usize],
    /// The placement by hand: the nodes that run where the caller says.
    pub(crate) placement: &'a Placement,
    /// The positions of the devices that keep the nodes that they take, and a share of a node's
    /// time: another device gets such a node only where it is quicker by a larger share.
    pub(crate) wanted: (&'a [usize], f64),
    /// The joules that all nodes may spend together.
    pub(crate) energy: Option<f64>,
    /// The watts of devices, by id.
    pub(crate) watts: &'a BTreeMap<String, f64>,
}

/// The processor that computes for devices that have no chip of their own: emulators, and drivers
/// of the host's processor.
const HOST: &str = "host";

fn target(info: &DeviceInfo, memory: Option<u64>) -> DeviceSpec {
    let target = DeviceSpec::new(info.id.to_string());
    let target = if info.runs_on_host() { target.with_processor(HOST) } else { target };
    match memory {
        Some(bytes) => target.with_memory(bytes),
        None => target,
    }
}

/// Returns the joules of a node on each device, where something is known of all devices that take
/// it.
/// Returns nothing where there is no budget.
fn energy(
    program: &Program,
    node: &Node,
    seconds: &[Option<f64>],
    devices: &[Arc<dyn Device>],
    costs: &dyn CostModel,
    constraints: &Constraints<'_>,
) -> Result<Vec<f64>> {
    let Some(budget) = constraints.energy else { return Ok(Vec::new()) };
    let joules = |(device, seconds): (&Arc<dyn Device>, &Option<f64>)| {
        let info = device.info();
        let Some(seconds) = *seconds else { return Ok(0.0) };
        let watts = || constraints.watts.get(&info.id.to_string()).map(|watts| watts * seconds);
        let known = costs.joules(program, node, info, seconds).or_else(watts);
        known.ok_or_else(|| Error::UnknownEnergy { device: info.id.to_string(), budget })
    };
    devices.iter().zip(seconds).map(joules).collect()
}

/// Returns, for each node, the bytes of the constants that it is the first to use: its device holds
/// them as long as the plan stands.
/// Constants at one place, such as that of a function which is called often, are one, and
/// those that overlap count for what they take together.
fn held(program: &Program) -> Vec<u64> {
    let mut counted = vec![false; program.values().len()];
    let mut covered = Covered::default();
    let mut of = |node: &Node| {
        let mut fresh = |id: &ValueId| counted.get_mut(id.index()).is_some_and(|seen| !std::mem::replace(seen, true));
        let fresh = node.uses().filter(|id| fresh(id)).filter_map(|id| program.values().get(id.index()));
        fresh.filter_map(|value| value.constant.as_ref()).map(|content| covered.add(content) as u64).sum()
    };
    program.nodes().iter().map(&mut of).collect()
}

/// The bytes that a node gets from the caller, and gives back.
/// A node counts the bytes that no other node before it did; `begins` marks the first node that
/// reads an input, and `ends` the last one that makes an output.
#[derive(Clone, Copy, Default)]
struct Outside {
    begins: bool,
    read: u64,
    ends: bool,
    written: u64,
}

impl Outside {
    /// Returns the bytes of each node.
    /// A run gets all inputs at once, and gives all outputs at once.
    fn of(program: &Program) -> Vec<Outside> {
        let mut all = vec![Outside::default(); program.nodes().len()];
        let bytes = |id: &ValueId| program.values().get(id.index()).map_or(0, |value| value.bytes() as u64);
        let mut unread = vec![false; program.values().len()];
        program.inputs().iter().for_each(|id| unread[id.index()] = true);
        let mut begun = false;
        for (node, outside) in program.nodes().iter().zip(&mut all) {
            for id in node.uses().filter(|id| std::mem::take(&mut unread[id.index()])) {
                outside.begins |= !begun;
                begun = true;
                outside.read = outside.read.saturating_add(bytes(&id));
            }
        }
        let producers = program.producers();
        let made = program.outputs().iter().filter_map(|id| Some((producers.get(id.index()).copied().flatten()?, id)));
        let made: Vec<(NodeId, &ValueId)> = made.collect();
        for (node, id) in &made {
            all[node.index()].written = all[node.index()].written.saturating_add(bytes(id));
        }
        if let Some(last) = made.iter().map(|(node, _)| node.index()).max() {
            all[last].ends = true;
        }
        all
    }

    /// Returns the seconds of handing over, by the ways from the host and to it.
    /// A way that was not measured adds nothing.
    fn seconds(self, to: Edge, from: Edge) -> f64 {
        let way = |counts: bool, bytes: u64, edge: Edge| {
            let latency = edge.latency.filter(|_| counts).map_or(0.0, |latency| latency.as_secs_f64());
            latency + edge.bandwidth.map_or(0.0, |bandwidth| bytes as f64 / bandwidth)
        };
        way(self.begins, self.read, to) + way(self.ends, self.written, from)
    }
}

/// Returns the scheduling problem of a program on the devices of a fleet.
/// The tasks are the nodes, in order.
///
/// # Errors
/// An error where no device takes a node, where a pinned node's device does not take it, or where a
/// cost is not a number.
pub(crate) fn problem(
    annotated: &Annotated,
    fleet: &Fleet,
    costs: &dyn CostModel,
    constraints: &Constraints<'_>,
) -> Result<Problem> {
    let (program, devices, topology) = (&*annotated.program, fleet.devices(), fleet.topology());
    let mut rows = vec![vec![None; devices.len()]; program.nodes().len()];
    let denied = constraints.denied;
    for (number, device) in devices.iter().enumerate().filter(|(number, _)| !constraints.lost.contains(number)) {
        let claims = fleet.claims(number, program);
        let nodes = claims.iter().flat_map(|claim| claim.nodes.iter().map(|&id| (id, &claim.quality)));
        let nodes: Vec<(NodeId, &Quality)> = nodes.filter(|(id, _)| !denied.contains(&(number, *id))).collect();
        for (&(id, _), seconds) in nodes.iter().zip(costs.all(program, &nodes, device.info())) {
            if let Some(row) = rows.get_mut(id.index()) {
                row[number] = Some(seconds);
            }
        }
    }
    let host = hetero_comm::host_id();
    let ways = devices.iter().map(|device| &device.info().id);
    let ways: Vec<(Edge, Edge)> = ways.map(|id| (topology.edge(&host, id), topology.edge(id, &host))).collect();
    for ((node, row), outside) in program.nodes().iter().zip(&mut rows).zip(Outside::of(program)) {
        for (seconds, &(to, from)) in row.iter_mut().zip(&ways) {
            *seconds = seconds.map(|seconds| seconds + outside.seconds(to, from));
        }
        pin(node, row, devices, constraints)?;
        keep(row, constraints.wanted);
    }
    let specs = devices.iter().map(|device| target(device.info(), fleet.memory_limit(device.info())));
    let mut targets = Devices::new(specs)?;
    for (from, source) in devices.iter().enumerate() {
        for (to, target) in devices.iter().enumerate().filter(|(to, _)| *to != from) {
            let edge = topology.edge(&source.info().id, &target.info().id);
            // An edge that was not measured counts as a way through the host.
            let latency = edge.latency.map_or(20e-6, |latency| latency.as_secs_f64());
            let link = Link { latency, bandwidth: edge.bandwidth.unwrap_or(5e9) };
            targets.connect(DeviceIndex(from), DeviceIndex(to), link)?;
        }
    }
    let mut graph = TaskGraph::builder(targets.len());
    let mut tasks = Vec::with_capacity(rows.len());
    let groups = annotated.groups();
    for (((id, node), seconds), bytes) in program.node_ids().zip(rows).zip(held(program)) {
        let joules = energy(program, node, &seconds, devices, costs, constraints)?;
        let task = Task::new(&*node.name, seconds).with_memory(bytes).with_energy(joules);
        // A pinned tile stays where it is.
        let group = groups.get(&id).filter(|_| constraints.placement.device_of(node).is_none());
        let added = graph.task(match group {
            Some(group) => task.with_tiles(&*group.product),
            None => task,
        });
        tasks.push(added.map_err(|error| match error {
            hetero_scheduler::Error::Unclaimed(_) => unclaimed(program, id, devices, constraints),
            other => other.into(),
        })?);
    }
    let producers = program.producers();
    for (value, readers) in program.consumers().into_iter().enumerate() {
        let Some(producer) = producers[value] else { continue };
        for reader in readers {
            let bytes = program.values()[value].bytes() as u64;
            graph.edge(tasks[producer.index()], tasks[reader.index()], bytes)?;
        }
    }
    let problem = Problem::new(graph.build()?, targets)?;
    Ok(match constraints.energy {
        Some(joules) => problem.with_energy_budget(joules)?,
        None => problem,
    })
}

/// The driver whose devices take every operator that hetero defines.
const TAKES_ALL: &str = "cpu";

/// Returns the error of a node that no device takes.
fn unclaimed(program: &Program, id: NodeId, devices: &[Arc<dyn Device>], constraints: &Constraints<'_>) -> Error {
    let node = &program.nodes()[id.index()];
    let touched = node.uses().chain(node.outputs.iter().flatten().copied());
    let mut types: Vec<String> = touched.filter_map(|id| Some(program.value(id).ok()?.dtype.to_string())).collect();
    types.sort_unstable();
    types.dedup();
    let general = devices.iter().position(|device| device.info().id.driver() == TAKES_ALL);
    let reason = match general {
        None => format!("add device {TAKES_ALL}:0, which takes all operators that hetero defines"),
        Some(at) if constraints.lost.contains(&at) => format!("{} is lost", devices[at].info().id),
        Some(at) if constraints.denied.contains(&(at, id)) => {
            format!("{} turned it down when it was compiled", devices[at].info().id)
        }
        Some(at) => format!(
            "not even {} does, so no device of hetero's has it; export the model with other types, or register a \
             driver that takes it",
            devices[at].info().id
        ),
    };
    Error::Unclaimed { node: node.to_string(), types: types.join(", "), reason }
}

/// Returns the seconds of each node on the only device of a fleet, where that device takes all of
/// them and has room for their constants.
/// Returns `None` otherwise, and leaves it to [`problem`] to say what is wrong.
pub(crate) fn alone(annotated: &Annotated, fleet: &Fleet, costs: &dyn CostModel) -> Option<Vec<f64>> {
    let ([device], program) = (fleet.devices(), &*annotated.program) else { return None };
    let info = device.info();
    let claims = fleet.claims(0, program);
    let nodes = claims.iter().flat_map(|claim| claim.nodes.iter().map(|&id| (id, &claim.quality)));
    let nodes: Vec<(NodeId, &Quality)> = nodes.collect();
    let mut row = vec![None; program.nodes().len()];
    for (&(id, _), seconds) in nodes.iter().zip(costs.all(program, &nodes, info)) {
        *row.get_mut(id.index())? = Some(seconds);
    }
    let (host, topology) = (hetero_comm::host_id(), fleet.topology());
    let (to, from) = (topology.edge(&host, &info.id), topology.edge(&info.id, &host));
    let seconds = row.into_iter().zip(Outside::of(program));
    let seconds = seconds.map(|(seconds, outside)| seconds.map(|seconds| seconds + outside.seconds(to, from)));
    let seconds: Vec<f64> = seconds.collect::<Option<_>>()?;
    let mut names: foldhash::HashSet<&str> =
        foldhash::HashSet::with_capacity_and_hasher(seconds.len(), Default::default());
    let sound = !seconds.is_empty()
        && seconds.iter().all(|seconds| *seconds >= 0.0)
        && seconds.iter().sum::<f64>().is_finite()
        && program.nodes().iter().all(|node| names.insert(&node.name));
    let held = held(program).into_iter().try_fold(0_u64, u64::checked_add)?;
    let fits = fleet.memory_limit(info).is_none_or(|limit| held <= limit);
    (sound && fits).then_some(seconds)
}

/// Keeps only those of a node's costs that are on wanted devices, or lower than theirs by a larger
/// share.
fn keep(row: &mut [Option<f64>], (wanted, share): (&[usize], f64)) {
    let best = wanted.iter().filter_map(|&position| row.get(position).copied().flatten()).reduce(f64::min);
    let Some(best) = best else { return };
    for (position, cost) in row.iter_mut().enumerate() {
        if !wanted.contains(&position) && cost.is_some_and(|cost| cost >= best * (1.0 - share)) {
            *cost = None;
        }
    }
}

/// Keeps only that one of a node's costs that is on the device to which it is pinned.
fn pin(node: &Node, row: &mut [Option<f64>], devices: &[Arc<dyn Device>], constraints: &Constraints<'_>) -> Result<()> {
    let Some(id) = constraints.placement.device_of(node) else { return Ok(()) };
    let wrong = |reason: String| Error::Placement {
        node: node.name.to_string(),
        operator: node.operator.name.to_string(),
        device: id.to_string(),
        reason,
    };
    let Some(position) = devices.iter().position(|device| device.info().id == *id) else {
        let known: Vec<String> = devices.iter().map(|device| device.info().id.to_string()).collect();
        return Err(wrong(format!("that device was not added; there are: {}", known.join(", "))));
    };
    if constraints.lost.contains(&position) {
        return Ok(());
    }
    if row[position].is_none() {
        let takers = devices.iter().zip(row.iter()).filter(|(_, cost)| cost.is_some());
        let takers: Vec<String> = takers.map(|(device, _)| device.info().id.to_string()).collect();
        let takers = if takers.is_empty() { "none".to_owned() } else { takers.join(", ") };
        return Err(wrong(format!("the device does not take it; devices that do: {takers}")));
    }
    for (other, cost) in row.iter_mut().enumerate() {
        if other != position {
            *cost = None;
        }
    }
    Ok(())
}
