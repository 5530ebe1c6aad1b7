//! Explanations: why a plan is as it is, and which other plans there could be.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::partition::seconds_between;
use crate::{DeviceIndex, Effort, Error, Partitioning, Problem, Schedule, Slot, TaskId};

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

/// The reason why a partition starts no earlier.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Nothing keeps the partition: it starts at the beginning.
    Nothing,
    /// The partition's device, or a device that shares its processor, is busy with the given
    /// partition.
    Device(usize),
    /// A value that another partition sends is awaited.
    Value {
        /// The partition that sends the value.
        from: usize,
        /// The seconds that the value is on its way.
        transfer: f64,
    },
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
    /// that is not possible.
    pub makespan: Option<f64>,
    /// The reason why the partition cannot be there.
    pub obstacle: Option<String>,
}

/// A piece of the critical path.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// A partition runs.
    Partition {
        /// The number of the partition.
        partition: usize,
        /// The seconds that the partition runs.
        seconds: f64,
    },
    /// A value is on its way.
    Transfer {
        /// The partition that sends.
        from: usize,
        /// The partition that receives.
        to: usize,
        /// The seconds that the transfer takes.
        seconds: f64,
    },
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

/// A plan as the partitions of a problem's tasks, with the time at which each runs.
struct Replay<'a> {
    problem: &'a Problem,
    partitions: Vec<Vec<TaskId>>,
    partition_of: Vec<usize>,
    device: Vec<DeviceIndex>,
    start: Vec<f64>,
    finish: Vec<f64>,
}

impl<'a> Replay<'a> {
    fn new(problem: &'a Problem, plan: &Partitioning) -> Result<Self, Error> {
        let graph = problem.graph();
        let names: Vec<&str> = graph.tasks().map(|(_, task)| task.name.as_str()).collect();
        plan.check(&names)?;
        plan.check_order(graph.edges().map(|(from, to, _)| (names[from.0], names[to.0])))?;
        let by_name: HashMap<&str, TaskId> = names.iter().enumerate().map(|(id, &name)| (name, TaskId(id))).collect();
        let mut partition_of = vec![0; graph.len()];
        let mut partitions = Vec::with_capacity(plan.partitions.len());
        let mut device = Vec::with_capacity(plan.partitions.len());
        for (number, partition) in plan.partitions.iter().enumerate() {
            let wrong = |reason: String| Error::Plan { at: format!("partition number {number}"), reason };
            let found = problem.devices().iter().position(|device| device.id == partition.device);
            let on = DeviceIndex(found.ok_or_else(|| wrong(format!("there is no device '{}'", partition.device)))?);
            let tasks: Vec<TaskId> =
                partition.tasks.iter().filter_map(|task| by_name.get(task.as_str()).copied()).collect();
            if let Some(&task) = tasks.iter().find(|&&task| graph.known(task).seconds_on(on).is_none()) {
                let task = &graph.known(task).name;
                return Err(wrong(format!("device '{}' does not claim '{task}'", partition.device)));
            }
            tasks.iter().for_each(|task| partition_of[task.0] = number);
            partitions.push(tasks);
            device.push(on);
        }
        let count = partitions.len();
        let mut replay =
            Self { problem, partitions, partition_of, device, start: vec![0.0; count], finish: vec![0.0; count] };
        replay.run();
        Ok(replay)
    }

    fn processor(&self, partition: usize) -> DeviceIndex {
        self.problem.devices().processor(self.device[partition])
    }

    fn seconds(&self, partition: usize, device: DeviceIndex) -> Result<f64, TaskId> {
        let tasks = self.partitions[partition].iter();
        tasks.map(|&task| self.problem.graph().known(task).seconds_on(device).ok_or(task)).sum()
    }

    /// Returns the transfers into a partition, each with the partition that sends and its seconds.
    /// Transfers within a device take no time.
    fn arrivals(&self, partition: usize) -> impl Iterator<Item = (usize, f64)> {
        let graph = self.problem.graph();
        self.partitions[partition].iter().flat_map(move |&task| {
            graph.predecessors(task).filter_map(move |(feeding, bytes)| {
                let from = self.partition_of[feeding.0];
                let seconds = self.problem.devices().seconds(self.device[from], self.device[partition], bytes);
                (from != partition).then(|| (from, seconds.unwrap_or(f64::INFINITY)))
            })
        })
    }

    /// Runs the partitions one after the other, each as soon as its device is free and all of its
    /// inputs have arrived, and returns the makespan.
    fn run(&mut self) -> f64 {
        let mut free = vec![0.0_f64; self.problem.devices().len()];
        let mut makespan = 0.0_f64;
        for partition in 0..self.partitions.len() {
            let device = self.device[partition];
            let arrivals = self.arrivals(partition).map(|(from, seconds)| self.finish[from] + seconds);
            let processor = self.problem.devices().processor(device).0;
            let start = arrivals.fold(free[processor], f64::max);
            let finish = start + self.seconds(partition, device).unwrap_or(f64::INFINITY);
            self.start[partition] = start;
            self.finish[partition] = finish;
            free[processor] = finish;
            makespan = makespan.max(finish);
        }
        makespan
    }

    /// Returns the reason why a partition starts no earlier.
    fn waits_for(&self, partition: usize) -> Wait {
        let start = self.start[partition];
        let close = |seconds: f64| seconds >= start - 1e-9 * start.abs();
        if start <= 0.0 {
            return Wait::Nothing;
        }
        let last =
            self.arrivals(partition).max_by(|a, b| (self.finish[a.0] + a.1).total_cmp(&(self.finish[b.0] + b.1)));
        if let Some((from, transfer)) = last.filter(|&(from, seconds)| close(self.finish[from] + seconds)) {
            return Wait::Value { from, transfer };
        }
        let ahead = (0..partition).rev().find(|&other| self.processor(other) == self.processor(partition));
        ahead.map_or(Wait::Nothing, Wait::Device)
    }

    /// Returns the critical path, found from the end back to the beginning along the partition or
    /// value that each partition waits for.
    fn critical_path(&self) -> Vec<Leg> {
        let mut path = Vec::new();
        let mut at = (0..self.partitions.len()).max_by(|&a, &b| self.finish[a].total_cmp(&self.finish[b]));
        while let Some(partition) = at {
            path.push(Leg::Partition { partition, seconds: self.finish[partition] - self.start[partition] });
            at = match self.waits_for(partition) {
                Wait::Nothing => None,
                Wait::Device(ahead) => Some(ahead),
                Wait::Value { from, transfer } => {
                    if self.device[from] != self.device[partition] {
                        path.push(Leg::Transfer { from, to: partition, seconds: transfer });
                    }
                    Some(from)
                }
            };
        }
        path.reverse();
        path
    }

    /// Returns the latest time at which each partition can finish without the run taking longer.
    fn latest(&self, makespan: f64) -> Vec<f64> {
        let mut latest = vec![makespan; self.partitions.len()];
        let mut next_start: Vec<f64> = vec![makespan; self.problem.devices().len()];
        for partition in (0..self.partitions.len()).rev() {
            let device = self.processor(partition).0;
            latest[partition] = latest[partition].min(next_start[device]);
            let start = latest[partition] - (self.finish[partition] - self.start[partition]);
            next_start[device] = start;
            for (from, seconds) in self.arrivals(partition) {
                latest[from] = latest[from].min(start - seconds);
            }
        }
        latest
    }

    /// Returns what a run would be with one partition on another device, and everything else as it
    /// is.
    fn elsewhere(&mut self, partition: usize, device: DeviceIndex) -> Elsewhere {
        let devices = self.problem.devices();
        let name = |device: DeviceIndex| devices.get(device).map_or_else(String::new, |device| device.id.clone());
        let seconds = match self.seconds(partition, device) {
            Ok(seconds) => seconds,
            Err(task) => {
                let obstacle = format!("'{}' may not run there", self.problem.graph().known(task).name);
                return Elsewhere { device: name(device), seconds: None, makespan: None, obstacle: Some(obstacle) };
            }
        };
        let home = std::mem::replace(&mut self.device[partition], device);
        let makespan = self.run();
        let held: u64 = self.memory(device);
        let limit = devices.get(device).and_then(|device| device.memory);
        self.device[partition] = home;
        self.run();
        let obstacle = match limit.filter(|&limit| held > limit) {
            Some(limit) => Some(format!("its tasks would hold {held} bytes, and it has {limit}")),
            None if !makespan.is_finite() => Some("a value has no way to or from it".to_owned()),
            None => None,
        };
        let makespan = obstacle.is_none().then_some(makespan);
        Elsewhere { device: name(device), seconds: Some(seconds), makespan, obstacle }
    }

    /// Returns the bytes that the tasks of a device hold.
    fn memory(&self, device: DeviceIndex) -> u64 {
        let tasks = self.partitions.iter().zip(&self.device).filter(|(_, on)| **on == device);
        tasks.flat_map(|(tasks, _)| tasks).map(|&task| self.problem.graph().known(task).memory).sum()
    }

    fn schedule(&self) -> Schedule {
        let mut slots = vec![Slot { device: DeviceIndex(0), start: 0.0, finish: 0.0 }; self.partition_of.len()];
        for (partition, tasks) in self.partitions.iter().enumerate() {
            let (mut now, device) = (self.start[partition], self.device[partition]);
            for &task in tasks {
                let finish = now + self.problem.graph().known(task).seconds_on(device).unwrap_or(0.0);
                slots[task.0] = Slot { device, start: now, finish };
                now = finish;
            }
        }
        Schedule::new(slots)
    }
}

impl Explanation {
    /// Explains a plan by the costs of a problem, which may be the problem that the plan was made
    /// for or one with costs measured since.
    /// `effort` limits the search for the lower bound.
    ///
    /// # Errors
    /// [`Error::Plan`] where the plan does not fit the problem's tasks, devices and claims.
    pub fn new(problem: &Problem, plan: &Partitioning, effort: Effort) -> Result<Self, Error> {
        let mut replay = Replay::new(problem, plan)?;
        let makespan = replay.finish.iter().copied().fold(0.0, f64::max);
        let schedule = replay.schedule();
        let critical_path = replay.critical_path();
        let latest = replay.latest(makespan);
        let ids: Vec<String> = problem.devices().iter().map(|device| device.id.clone()).collect();
        let mut partitions = Vec::with_capacity(plan.partitions.len());
        let mut alternatives = Vec::new();
        for (partition, &latest) in latest.iter().enumerate() {
            let home = replay.device[partition];
            let others: Vec<DeviceIndex> = problem.devices().ids().filter(|&device| device != home).collect();
            let elsewhere: Vec<Elsewhere> =
                others.into_iter().map(|device| replay.elsewhere(partition, device)).collect();
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
                device: ids[home.0].clone(),
                tasks: (end(tasks.first()), end(tasks.last()), tasks.len()),
                start: replay.start[partition],
                finish: replay.finish[partition],
                waits_for: replay.waits_for(partition),
                slack: (latest - replay.finish[partition]).max(0.0),
                elsewhere,
            });
        }
        let devices: Vec<DeviceUse> =
            problem.devices().ids().map(|device| device_use(problem, &replay, device, makespan)).collect();
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
            edges: edges(problem, &replay),
            transfers: transfers(problem, &replay, &critical_path),
            critical_path,
            alternatives,
        })
    }
}

fn device_use(problem: &Problem, replay: &Replay<'_>, device: DeviceIndex, makespan: f64) -> DeviceUse {
    let graph = problem.graph();
    let known = problem.devices().get(device);
    let on = |partition: &usize| replay.device[*partition] == device;
    let own = || (0..replay.partitions.len()).filter(on);
    let busy = own().map(|partition| replay.finish[partition] - replay.start[partition]).fold(0.0, |sum, it| sum + it);
    let all: Result<f64, &str> = graph.tasks().map(|(_, task)| task.seconds_on(device).ok_or(task.name.as_str())).sum();
    let held: u64 = graph.tasks().map(|(_, task)| task.memory).sum();
    let limit = known.and_then(|device| device.memory);
    let lacks = match (&all, limit.filter(|&limit| held > limit)) {
        (Err(task), _) => Some(format!("'{task}' may not run there")),
        (_, Some(limit)) => Some(format!("all tasks hold {held} bytes, and it has {limit}")),
        _ => None,
    };
    DeviceUse {
        device: known.map_or_else(String::new, |device| device.id.clone()),
        tasks: own().map(|partition| replay.partitions[partition].len()).sum(),
        busy,
        share: if makespan > 0.0 { busy / makespan } else { 0.0 },
        memory: replay.memory(device),
        memory_limit: limit,
        alone: all.ok().filter(|_| lacks.is_none()),
        lacks,
    }
}

fn edges(problem: &Problem, replay: &Replay<'_>) -> Vec<PartitionEdge> {
    let mut sums: BTreeMap<(usize, usize), (u64, f64)> = BTreeMap::new();
    for (from, to, bytes) in problem.graph().edges() {
        let (sender, receiver) = (replay.partition_of[from.0], replay.partition_of[to.0]);
        if sender != receiver {
            let seconds = seconds_between(problem, replay.device[sender], replay.device[receiver], bytes);
            let sum = sums.entry((sender, receiver)).or_default();
            *sum = (sum.0.saturating_add(bytes), sum.1.max(seconds));
        }
    }
    sums.into_iter().map(|((from, to), (bytes, seconds))| PartitionEdge { from, to, bytes, seconds }).collect()
}

fn transfers(problem: &Problem, replay: &Replay<'_>, critical_path: &[Leg]) -> Vec<TransferPrice> {
    let graph = problem.graph();
    let awaited = |from: usize, to: usize, seconds: f64| {
        critical_path.iter().any(|leg| {
            matches!(leg, Leg::Transfer { from: sender, to: receiver, seconds: longest }
                if (*sender, *receiver) == (from, to) && seconds >= *longest)
        })
    };
    let place = |task: TaskId| {
        let device = replay.device[replay.partition_of[task.0]];
        (graph.known(task).name.clone(), problem.devices().get(device).map_or_else(String::new, |it| it.id.clone()))
    };
    let mut transfers: Vec<TransferPrice> = graph
        .edges()
        .filter_map(|(from, to, bytes)| {
            let (sender, receiver) = (replay.partition_of[from.0], replay.partition_of[to.0]);
            let (a, b) = (replay.device[sender], replay.device[receiver]);
            let seconds = seconds_between(problem, a, b, bytes);
            let critical = awaited(sender, receiver, seconds);
            (a != b).then(|| TransferPrice { from: place(from), to: place(to), bytes, seconds, critical })
        })
        .collect();
    transfers.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    transfers
}
