//! Explanations: why a plan is as it is, and which other plans there could be.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Partitioning, seconds_between};
use crate::effort::Effort;
use crate::error::Error;
use crate::problem::{DeviceIndex, Problem, TaskId};
use crate::sim::{Change, Leg, Replay, Wait};

/// An explanation of a plan: its times, the reasons for them, and the alternatives.
/// All times are estimates, by the costs of the problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The name of the strategy that made the plan.
    pub strategy: String,
    /// The seconds of one run.
    pub makespan: f64,
    /// The seconds that no plan for this problem falls below.
    pub bound: f64,
    /// The seconds from one input of a stream to the next, at best.
    pub period: f64,
    /// The joules of one run, where tasks say what they spend.
    pub joules: Option<f64>,
    /// The use of each device.
    pub devices: Vec<DeviceUse>,
    /// The partitions, in the order of the plan.
    pub partitions: Vec<PartitionReason>,
    /// The edges from one partition to another, on the same device or not.
    pub edges: Vec<PartitionEdge>,
    /// The critical path from the beginning to the end of a run: none of its legs can take longer
    /// without the run taking longer.
    pub critical_path: Vec<Leg>,
    /// The transfers, one for each edge between tasks on different devices, the longest first.
    pub transfers: Vec<TransferPrice>,
    /// The other placements, the quickest first: each partition moved to each other device, and
    /// everything on one device.
    pub alternatives: Vec<Alternative>,
}

/// The use of a device in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceUse {
    /// The id of the device.
    pub device: String,
    /// The number of tasks that the device runs.
    pub tasks: usize,
    /// The seconds that the device is busy.
    pub busy: f64,
    /// The busy seconds as a share of the makespan.
    pub share: f64,
    /// The bytes that the tasks of the device hold as long as the plan stands.
    pub memory: u64,
    /// The bytes that the tasks may hold; `None` where nothing limits them.
    pub memory_limit: Option<u64>,
    /// The seconds that everything would take on this device; `None` where the device does not
    /// claim all tasks or has no room for them.
    pub alone: Option<f64>,
    /// The reason why the device cannot take everything, where it cannot.
    pub lacks: Option<String>,
}

/// The reasons why a partition is where and when it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionReason {
    /// The number of the partition in the plan.
    pub partition: usize,
    /// The device of the partition.
    pub device: String,
    /// The first and the last task, and the number of tasks.
    pub tasks: (String, String, usize),
    /// The start, in seconds from the beginning.
    pub start: f64,
    /// The finish, in seconds from the beginning.
    pub finish: f64,
    /// The reason why the partition starts no earlier.
    pub waits_for: Wait,
    /// The seconds by which the partition could finish later without the run taking longer.
    pub slack: f64,
    /// The partition on each other device.
    pub elsewhere: Vec<Elsewhere>,
}

/// A partition on another device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Elsewhere {
    /// The name of the device.
    pub device: String,
    /// The seconds that the tasks of the partition take there; `None` where the device does not
    /// claim one of them.
    pub seconds: Option<f64>,
    /// The seconds of a run with the partition there and everything else as it is; `None` where
    /// that is not possible or was not tried.
    pub makespan: Option<f64>,
    /// The reason why the partition cannot be there, or why it was not tried.
    pub obstacle: Option<String>,
}

/// A transfer between devices, and its cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TransferPrice {
    /// The task that sends, and its device.
    pub from: (String, String),
    /// The task that receives, and its device.
    pub to: (String, String),
    /// The number of bytes.
    pub bytes: u64,
    /// The seconds that the transfer takes.
    pub seconds: f64,
    /// Whether the run waits for the transfer.
    pub critical: bool,
}

/// The values that pass from one partition to another, taken together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartitionEdge {
    /// The partition that sends.
    pub from: usize,
    /// The partition that receives.
    pub to: usize,
    /// The bytes of all values together.
    pub bytes: u64,
    /// The seconds of the longest transfer; zero within a device.
    pub seconds: f64,
}

/// Another placement, and the time that it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// The difference to the plan, in words.
    pub change: String,
    /// The seconds of one run.
    pub makespan: f64,
}

impl Explanation {
    /// Explains a plan by the costs of a problem, which may be the problem that the plan was made
    /// for or one with costs measured since.
    /// `effort` limits the search for the lower bound.
    /// For some thousand tasks and more, only the longest are tried on other devices.
    ///
    /// # Errors
    /// [`Error::Plan`] where the plan does not fit the problem's tasks, devices and claims.
    pub fn new(problem: &Problem, plan: &Partitioning, effort: Effort) -> Result<Self, Error> {
        let replay = plan.replay(problem)?;
        let makespan = replay.makespan();
        let schedule = replay.schedule();
        let critical_path = replay.critical_path();
        let mut partitions = Vec::with_capacity(plan.partitions.len());
        let mut alternatives = Vec::new();
        let tried = tried(&replay);
        for (partition, (slot, slack)) in replay.slots().zip(replay.slack()).enumerate() {
            let others = problem.devices().ids().filter(|&device| device != slot.device);
            let elsewhere: Vec<Elsewhere> =
                others.map(|device| elsewhere(&replay, partition, device, tried[partition])).collect();
            for other in &elsewhere {
                if let Some(makespan) = other.makespan {
                    alternatives
                        .push(Alternative { change: format!("partition {partition} on {}", other.device), makespan });
                }
            }
            let tasks = &plan.partitions[partition].tasks;
            let end = |task: Option<&String>| task.cloned().unwrap_or_default();
            partitions.push(PartitionReason {
                partition,
                device: id(problem, slot.device),
                tasks: (end(tasks.first()), end(tasks.last()), tasks.len()),
                start: slot.start,
                finish: slot.finish,
                waits_for: replay.waits_for(partition),
                slack,
                elsewhere,
            });
        }
        let devices: Vec<DeviceUse> =
            problem.devices().ids().map(|device| device_use(&replay, device, makespan)).collect();
        for device in devices.iter().filter(|device| device.tasks < problem.graph().len()) {
            if let Some(makespan) = device.alone {
                alternatives.push(Alternative { change: format!("everything on {}", device.device), makespan });
            }
        }
        alternatives.sort_by(|a, b| a.makespan.total_cmp(&b.makespan));
        let joules = problem.graph().tasks().any(|(_, task)| !task.joules.is_empty()).then(|| schedule.joules(problem));
        Ok(Self {
            strategy: plan.strategy.clone(),
            makespan,
            bound: problem.lower_bound(&schedule, effort),
            period: schedule.period(problem),
            joules,
            devices,
            partitions,
            edges: edges(&replay),
            transfers: transfers(&replay, &critical_path),
            critical_path,
            alternatives,
        })
    }
}

/// Returns the id of a device; nothing for a number that no device has.
fn id(problem: &Problem, device: DeviceIndex) -> String {
    problem.devices().get(device).map_or_else(String::new, |device| device.id.clone())
}

/// The tasks that all replays for an explanation go through together, about.
/// Each replay goes through all tasks of the plan.
const STEPS: usize = 20_000_000;

/// Tells of each partition whether it is tried on other devices: the longest are, as many as
/// [`STEPS`] allows.
fn tried(replay: &Replay<'_>) -> Vec<bool> {
    let lengths: Vec<f64> = replay.slots().map(|slot| slot.finish - slot.start).collect();
    let others = replay.problem().devices().len().saturating_sub(1).max(1);
    let most = (STEPS / others / replay.problem().graph().len().max(1)).max(1);
    let mut longest: Vec<usize> = (0..lengths.len()).collect();
    longest.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]));
    let mut tried = vec![false; lengths.len()];
    longest.into_iter().take(most).for_each(|partition| tried[partition] = true);
    tried
}

/// Returns what a run would be with one partition on another device, and everything else as it is.
fn elsewhere(replay: &Replay<'_>, partition: usize, device: DeviceIndex, tried: bool) -> Elsewhere {
    let problem = replay.problem();
    let known = |task: &&TaskId| problem.graph().known(**task);
    if let Some(task) = replay.tasks(partition).iter().find(|task| known(task).seconds_on(device).is_none()) {
        let obstacle = Some(format!("'{}' may not run there", known(&task).name));
        return Elsewhere { device: id(problem, device), seconds: None, makespan: None, obstacle };
    }
    let seconds = replay.seconds_on(partition, device);
    if !tried {
        let obstacle = Some("it was not tried, as the plan has many longer partitions".to_owned());
        return Elsewhere { device: id(problem, device), seconds, makespan: None, obstacle };
    }
    let limit = problem.devices().get(device).and_then(|device| device.memory);
    let (makespan, obstacle) = match replay.with(Change::Partition { partition, device }) {
        Err(error) => (None, Some(error.to_string())),
        Ok(moved) => match limit.filter(|&limit| moved.held(device) > limit) {
            Some(limit) => {
                (None, Some(format!("its tasks would hold {} bytes, and it has {limit}", moved.held(device))))
            }
            None if !moved.makespan().is_finite() => (None, Some("a value has no way to or from it".to_owned())),
            None => (Some(moved.makespan()), None),
        },
    };
    Elsewhere { device: id(problem, device), seconds, makespan, obstacle }
}

fn device_use(replay: &Replay<'_>, device: DeviceIndex, makespan: f64) -> DeviceUse {
    let problem = replay.problem();
    let graph = problem.graph();
    let own = || replay.slots().enumerate().filter(|(_, slot)| slot.device == device);
    let busy = own().map(|(_, slot)| slot.finish - slot.start).fold(0.0, |sum, it| sum + it);
    let all: Result<f64, &str> = graph.tasks().map(|(_, task)| task.seconds_on(device).ok_or(task.name.as_str())).sum();
    let held: u64 = graph.tasks().map(|(_, task)| task.memory).sum();
    let limit = problem.devices().get(device).and_then(|device| device.memory);
    let lacks = match (&all, limit.filter(|&limit| held > limit)) {
        (Err(task), _) => Some(format!("'{task}' may not run there")),
        (_, Some(limit)) => Some(format!("all tasks hold {held} bytes, and it has {limit}")),
        _ => None,
    };
    DeviceUse {
        device: id(problem, device),
        tasks: own().map(|(partition, _)| replay.tasks(partition).len()).sum(),
        busy,
        share: if makespan > 0.0 { busy / makespan } else { 0.0 },
        memory: replay.held(device),
        memory_limit: limit,
        alone: all.ok().filter(|_| lacks.is_none()),
        lacks,
    }
}

/// An edge between tasks, with the partitions and the devices that send and receive.
struct Passage {
    tasks: (TaskId, TaskId),
    partitions: (usize, usize),
    devices: (DeviceIndex, DeviceIndex),
    bytes: u64,
    seconds: f64,
}

/// Returns the edges between tasks of different partitions.
fn passages(replay: &Replay<'_>) -> Vec<Passage> {
    let problem = replay.problem();
    let device: Vec<DeviceIndex> = replay.slots().map(|slot| slot.device).collect();
    let edges = problem.graph().edges().filter_map(|(from, to, bytes)| {
        let partitions = (replay.partition_of(from)?, replay.partition_of(to)?);
        let devices = (device[partitions.0], device[partitions.1]);
        let seconds = seconds_between(problem, devices.0, devices.1, bytes);
        (partitions.0 != partitions.1).then_some(Passage { tasks: (from, to), partitions, devices, bytes, seconds })
    });
    edges.collect()
}

fn edges(replay: &Replay<'_>) -> Vec<PartitionEdge> {
    let mut sums: BTreeMap<(usize, usize), (u64, f64)> = BTreeMap::new();
    for Passage { partitions, bytes, seconds, .. } in passages(replay) {
        let sum = sums.entry(partitions).or_default();
        *sum = (sum.0.saturating_add(bytes), sum.1.max(seconds));
    }
    sums.into_iter().map(|((from, to), (bytes, seconds))| PartitionEdge { from, to, bytes, seconds }).collect()
}

fn transfers(replay: &Replay<'_>, critical_path: &[Leg]) -> Vec<TransferPrice> {
    let problem = replay.problem();
    // A path goes from one partition to another at most once.
    let legs = critical_path.iter().filter_map(|leg| match leg {
        Leg::Transfer { from, to, seconds } => Some(((*from, *to), *seconds)),
        Leg::Partition { .. } => None,
    });
    let longest: BTreeMap<(usize, usize), f64> = legs.collect();
    let awaited =
        |partitions: (usize, usize), seconds: f64| longest.get(&partitions).is_some_and(|longest| seconds >= *longest);
    let place = |task: TaskId, device| (problem.graph().known(task).name.clone(), id(problem, device));
    let mut transfers: Vec<TransferPrice> = passages(replay)
        .into_iter()
        .filter(|passage| passage.devices.0 != passage.devices.1)
        .map(|Passage { tasks, partitions, devices, bytes, seconds }| TransferPrice {
            from: place(tasks.0, devices.0),
            to: place(tasks.1, devices.1),
            bytes,
            seconds,
            critical: awaited(partitions, seconds),
        })
        .collect();
    transfers.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    transfers
}
