//! The replay of a run by the estimates of its problem.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::error::Error;
use crate::problem::{DeviceIndex, Devices, Problem, Schedule, Slot, TaskId, by_start};

/// A run of a problem's tasks in partitions, with the time at which each partition runs.
///
/// A device takes the partitions one after the other, in the order of their numbers, each as soon
/// as it is free and all inputs have arrived.
/// Devices that share a processor take turns.
/// Times are estimates, by the costs of the problem.
///
/// ```
/// use hetero_scheduler::sim::{Change, Replay};
/// use hetero_scheduler::{DeviceIndex, DeviceSpec, Devices, Heft, Link, Partitioner, Problem, Task, TaskGraph};
///
/// let link = Link { latency: 1e-3, bandwidth: 1e6 };
/// let devices = Devices::uniform(["cpu:0", "gpu:0"].map(DeviceSpec::new), link)?;
/// let mut graph = TaskGraph::builder(devices.len());
/// let decode = graph.task(Task::new("decode", [Some(2e-3), None]))?;
/// let classify = graph.task(Task::new("classify", [Some(50e-3), Some(10e-3)]))?;
/// graph.edge(decode, classify, 4000)?;
/// let problem = Problem::new(graph.build()?, devices)?;
///
/// // The run takes 2 ms, a transfer of 5 ms, and 10 ms.
/// let replay = Replay::of_schedule(&problem, &Heft.partition(&problem)?)?;
/// assert!((replay.makespan() - 17e-3).abs() < 1e-9);
///
/// // What would it take if the GPU were twice as fast, or if the transfer cost nothing?
/// let faster = replay.with(Change::Speed { device: DeviceIndex(1), factor: 2.0 })?;
/// assert!((faster.makespan() - 12e-3).abs() < 1e-9);
/// let dropped = replay.with(Change::Transfer { from: decode, to: classify, seconds: 0.0 })?;
/// assert!((dropped.makespan() - 12e-3).abs() < 1e-9);
/// # Ok::<(), hetero_scheduler::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Replay<'a> {
    problem: &'a Problem,
    pub(super) devices: Cow<'a, Devices>,
    /// How many times as fast each device is as the problem says.
    pub(super) speed: Vec<f64>,
    /// The seconds of the transfers that take other times than their links say.
    pub(super) transfers: BTreeMap<(TaskId, TaskId), f64>,
    pub(super) partitions: Arc<[Vec<TaskId>]>,
    partition_of: Arc<[usize]>,
    pub(super) device: Vec<DeviceIndex>,
    start: Vec<f64>,
    finish: Vec<f64>,
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

impl<'a> Replay<'a> {
    /// Replays partitions: for each the device that runs it, and its tasks in the order in which
    /// they run.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`] and [`Error::UnknownTask`] for a number that the problem has not,
    /// and [`Error::Plan`] unless each task is in one partition, on a device that claims it, and
    /// behind the tasks that feed it.
    pub fn new(problem: &'a Problem, partitions: Vec<(DeviceIndex, Vec<TaskId>)>) -> Result<Self, Error> {
        let mut replay = Self {
            problem,
            devices: Cow::Borrowed(problem.devices()),
            speed: vec![1.0; problem.devices().len()],
            transfers: BTreeMap::new(),
            partitions: Arc::new([]),
            partition_of: Arc::new([]),
            device: Vec::new(),
            start: Vec::new(),
            finish: Vec::new(),
        };
        replay.divide(partitions)?;
        replay.run();
        Ok(replay)
    }

    /// Replays a schedule, with each task as a partition of its own.
    /// It takes no longer than the schedule, unless that begins tiles of a group before all that
    /// feeds the group is done.
    ///
    /// # Errors
    /// [`Error::Schedule`] where the schedule is not valid for the problem.
    pub fn of_schedule(problem: &'a Problem, schedule: &Schedule) -> Result<Self, Error> {
        schedule.validate(problem)?;
        let order = by_start(problem, schedule).into_iter();
        Self::new(problem, order.map(|task| (schedule.slots()[task.0].device, vec![task])).collect())
    }

    /// Takes partitions in the place of those that there were, once they are seen to be right.
    pub(super) fn divide(&mut self, partitions: Vec<(DeviceIndex, Vec<TaskId>)>) -> Result<(), Error> {
        let graph = self.problem.graph();
        let (count, devices) = (graph.len(), self.devices.len());
        let wrong = |task: TaskId, reason: &str| {
            let at = format!("task '{}'", graph.known(task).name);
            Err(Error::Plan { at, reason: reason.to_owned() })
        };
        // The partition of each task, and its position in all of them.
        let mut places: Vec<Option<(usize, usize)>> = vec![None; count];
        let mut position = 0;
        for (number, (device, tasks)) in partitions.iter().enumerate() {
            if device.0 >= devices {
                return Err(Error::UnknownDevice { index: device.0, count: devices });
            }
            for &task in tasks {
                let place = places.get_mut(task.0).ok_or(Error::UnknownTask { index: task.0, count })?;
                if place.replace((number, position)).is_some() {
                    return wrong(task, "it is in the partitions twice");
                }
                position += 1;
            }
        }
        if let Some(missing) = places.iter().position(Option::is_none) {
            return wrong(TaskId(missing), "it is in no partition");
        }
        for (from, to, _) in graph.edges() {
            if places[to.0] <= places[from.0] {
                return wrong(to, &format!("it runs before '{}', which feeds it", graph.known(from).name));
            }
        }
        self.partition_of = places.into_iter().flatten().map(|(number, _)| number).collect();
        let (device, partitions): (Vec<_>, Vec<_>) = partitions.into_iter().unzip();
        (self.device, self.partitions) = (device, partitions.into());
        self.start = vec![0.0; self.device.len()];
        self.finish = vec![0.0; self.device.len()];
        (0..self.device.len()).try_for_each(|partition| self.check_claims(partition))
    }

    /// Checks that the device of a partition claims all of its tasks.
    pub(super) fn check_claims(&self, partition: usize) -> Result<(), Error> {
        let device = self.device[partition];
        let claims = |task: TaskId| self.problem.graph().known(task).seconds_on(device).is_some();
        match self.partitions[partition].iter().find(|&&task| !claims(task)) {
            None => Ok(()),
            Some(&task) => {
                let name = self.devices.get(device).map_or("", |device| &device.id);
                let reason = format!("device '{name}' does not claim '{}'", self.problem.graph().known(task).name);
                Err(Error::Plan { at: format!("partition number {partition}"), reason })
            }
        }
    }

    /// Runs the partitions one after the other, each as soon as its device is free and all of its
    /// inputs have arrived.
    pub(super) fn run(&mut self) {
        let mut free = vec![0.0_f64; self.devices.len()];
        for partition in 0..self.partitions.len() {
            let device = self.device[partition];
            let arrivals = self.arrivals(partition).map(|(from, seconds)| self.finish[from] + seconds);
            let processor = self.devices.processor(device).0;
            let start = arrivals.fold(free[processor], f64::max);
            let finish = start + self.seconds_on(partition, device).unwrap_or(f64::INFINITY);
            self.start[partition] = start;
            self.finish[partition] = finish;
            free[processor] = finish;
        }
    }

    /// Returns the transfers into a partition, each with the partition that sends and its seconds.
    /// Transfers within a device take no time.
    fn arrivals(&self, partition: usize) -> impl Iterator<Item = (usize, f64)> {
        self.partitions[partition].iter().flat_map(move |&task| {
            self.problem.graph().predecessors(task).filter_map(move |(feeding, bytes)| {
                let from = self.partition_of[feeding.0];
                let seconds = || self.transfer(feeding, task, bytes).unwrap_or(f64::INFINITY);
                (from != partition).then(|| (from, seconds()))
            })
        })
    }

    /// Returns the seconds of the transfer from one task to another; `None` where there is no link.
    fn transfer(&self, from: TaskId, to: TaskId, bytes: u64) -> Option<f64> {
        let [sender, receiver] = [from, to].map(|task| self.device[self.partition_of[task.0]]);
        let changed = self.transfers.get(&(from, to)).copied().filter(|_| sender != receiver);
        changed.or_else(|| self.devices.seconds(sender, receiver, bytes))
    }

    /// Returns the problem, as it is without changes.
    #[must_use]
    pub fn problem(&self) -> &'a Problem {
        self.problem
    }

    /// Returns the device of each partition, and the span of time in which it runs.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = Slot> {
        (0..self.device.len()).map(|partition| Slot {
            device: self.device[partition],
            start: self.start[partition],
            finish: self.finish[partition],
        })
    }

    /// Returns the tasks of a partition, in the order in which they run; none for a number that no
    /// partition has.
    #[must_use]
    pub fn tasks(&self, partition: usize) -> &[TaskId] {
        self.partitions.get(partition).map_or(&[], Vec::as_slice)
    }

    /// Returns the partition of a task, where the task is one of the problem's.
    #[must_use]
    pub fn partition_of(&self, task: TaskId) -> Option<usize> {
        self.partition_of.get(task.0).copied()
    }

    /// Returns the time at which the last partition finishes, in seconds from the beginning.
    /// It is infinite where a value has to pass between devices without a link.
    #[must_use]
    pub fn makespan(&self) -> f64 {
        self.finish.iter().copied().fold(0.0, f64::max)
    }

    /// Returns the seconds that the tasks of a partition take on a device; `None` where the device
    /// does not claim one of them, or there is no such partition.
    #[must_use]
    pub fn seconds_on(&self, partition: usize, device: DeviceIndex) -> Option<f64> {
        let tasks = self.partitions.get(partition)?.iter();
        let seconds: Option<f64> = tasks.map(|&task| self.problem.graph().known(task).seconds_on(device)).sum();
        Some(seconds? / self.speed.get(device.0)?)
    }

    /// Returns the bytes that the tasks of a device hold.
    #[must_use]
    pub fn held(&self, device: DeviceIndex) -> u64 {
        let tasks = self.partitions.iter().zip(&self.device).filter(|(_, on)| **on == device);
        tasks.flat_map(|(tasks, _)| tasks).map(|&task| self.problem.graph().known(task).memory).sum()
    }

    /// Returns the reason why a partition starts no earlier.
    #[must_use]
    pub fn waits_for(&self, partition: usize) -> Wait {
        let Some(&start) = self.start.get(partition).filter(|start| **start > 0.0) else { return Wait::Nothing };
        let close = |seconds: f64| seconds >= start - 1e-9 * start.abs();
        let last =
            self.arrivals(partition).max_by(|a, b| (self.finish[a.0] + a.1).total_cmp(&(self.finish[b.0] + b.1)));
        if let Some((from, transfer)) = last.filter(|&(from, seconds)| close(self.finish[from] + seconds)) {
            return Wait::Value { from, transfer };
        }
        let ahead = (0..partition).rev().find(|&other| self.processor(other) == self.processor(partition));
        ahead.map_or(Wait::Nothing, Wait::Device)
    }

    /// Returns the device that stands for the processor of a partition.
    fn processor(&self, partition: usize) -> DeviceIndex {
        self.devices.processor(self.device[partition])
    }

    /// Returns the critical path, found from the end back to the beginning along the partition or
    /// value that each partition waits for.
    #[must_use]
    pub fn critical_path(&self) -> Vec<Leg> {
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

    /// Returns the seconds by which each partition could finish later without the run taking
    /// longer.
    #[must_use]
    pub fn slack(&self) -> Vec<f64> {
        let makespan = self.makespan();
        let mut latest = vec![makespan; self.partitions.len()];
        let mut next_start: Vec<f64> = vec![makespan; self.devices.len()];
        for partition in (0..self.partitions.len()).rev() {
            let device = self.processor(partition).0;
            latest[partition] = latest[partition].min(next_start[device]);
            let start = latest[partition] - (self.finish[partition] - self.start[partition]);
            next_start[device] = start;
            for (from, seconds) in self.arrivals(partition) {
                latest[from] = latest[from].min(start - seconds);
            }
        }
        latest.iter().zip(&self.finish).map(|(latest, finish)| (latest - finish).max(0.0)).collect()
    }

    /// Returns the run as a schedule of its tasks.
    /// After a change of costs or links it need not be valid for the problem without that change.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let mut slots = vec![Slot { device: DeviceIndex(0), start: 0.0, finish: 0.0 }; self.partition_of.len()];
        for (partition, tasks) in self.partitions.iter().enumerate() {
            let (mut now, device) = (self.start[partition], self.device[partition]);
            for &task in tasks {
                let seconds = self.problem.graph().known(task).seconds_on(device).unwrap_or(0.0);
                // Added one by one, seconds may differ from their sum in the last bits.
                // No task may reach beyond its partition, as the next one begins there.
                let finish = (now + seconds / self.speed[device.0]).min(self.finish[partition]);
                slots[task.0] = Slot { device, start: now, finish };
                now = finish;
            }
        }
        Schedule::new(slots)
    }
}
