//! A problem as plain arrays, for strategies that read it many times.

use super::{Devices, Task, TaskGraph};

/// The neighbours of each task in one direction, all in one list.
#[derive(Clone, Default)]
pub(crate) struct Edges {
    /// The position in `list` at which each task's neighbours begin; it has one entry more than
    /// there are tasks.
    first: Vec<usize>,
    list: Vec<(usize, f64)>,
    /// The number of each neighbour's edge, which is the same in both directions.
    numbers: Vec<usize>,
}

impl Edges {
    fn new<I: Iterator<Item = (usize, usize, f64)>>(tasks: usize, edges: impl Fn() -> I) -> Self {
        let mut first = vec![0_usize; tasks + 1];
        for (at, _, _) in edges() {
            first[at + 1] += 1;
        }
        for task in 0..tasks {
            first[task + 1] += first[task];
        }
        let mut free = first.clone();
        let mut list = vec![(0, 0.0); first[tasks]];
        let mut numbers = vec![0; first[tasks]];
        for (number, (at, other, bytes)) in edges().enumerate() {
            list[free[at]] = (other, bytes);
            numbers[free[at]] = number;
            free[at] += 1;
        }
        Self { first, list, numbers }
    }

    /// Returns the number of edges.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns the neighbours of a task, with the numbers of the edges to them.
    pub(crate) fn numbered(&self, task: usize) -> impl Iterator<Item = (usize, usize)> {
        let range = self.first[task]..self.first[task + 1];
        self.list[range.clone()].iter().map(|(other, _)| *other).zip(self.numbers[range].iter().copied())
    }

    /// Returns the neighbours of a task, with the bytes that pass to or from each.
    pub(crate) fn of(&self, task: usize) -> &[(usize, f64)] {
        &self.list[self.first[task]..self.first[task + 1]]
    }
}

/// The costs, links and edges of a problem.
/// An impossible run or transfer takes infinitely long.
#[derive(Clone)]
pub(crate) struct Arrays {
    pub(crate) tasks: usize,
    pub(crate) devices: usize,
    /// The seconds of each task on each device, in a row for each task; infinite where a device
    /// does not claim it.
    seconds: Vec<f64>,
    /// The latency and bandwidth of each link, in a row for each sender; the latency is infinite
    /// where there is no link.
    links: Vec<(f64, f64)>,
    /// The device that stands for the processor of each device; see [`Devices::processor`].
    pub(crate) processor: Vec<usize>,
    pub(crate) before: Edges,
    pub(crate) after: Edges,
    /// The tasks, each behind the tasks that feed it.
    pub(crate) order: Vec<usize>,
    /// The bytes that each task holds.
    pub(crate) memory: Vec<u64>,
    /// The joules of each task on each device beyond its joules on the thriftiest one, in a row for
    /// each task; empty where no task says what it spends.
    pub(crate) excess: Vec<f64>,
}

impl std::fmt::Debug for Arrays {
    /// Writes the name alone, because the debug output of the problem itself holds all of the data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrays").finish_non_exhaustive()
    }
}

/// Returns the joules of a task on each device beyond its least; zero where a device does not claim
/// it, or where the task says nothing of energy.
fn excess(task: &Task) -> Vec<f64> {
    let least = task.least_joules();
    let joules = |device: usize| task.joules.get(device).copied().unwrap_or(least);
    let claimed = |device: usize| task.seconds[device].is_some();
    (0..task.seconds.len()).map(|device| if claimed(device) { joules(device) - least } else { 0.0 }).collect()
}

impl Arrays {
    pub(crate) fn new(graph: &TaskGraph, devices: &Devices) -> Self {
        let ids = || devices.ids();
        let links = ids().flat_map(|from| {
            ids().map(move |to| match devices.link(from, to) {
                _ if from == to => (0.0, f64::INFINITY),
                Some(link) => (link.latency, link.bandwidth),
                None => (f64::INFINITY, f64::INFINITY),
            })
        });
        let edges = || graph.edges().map(|(from, to, bytes)| (from.0, to.0, bytes as f64));
        Self {
            tasks: graph.len(),
            devices: devices.len(),
            seconds: graph
                .tasks()
                .flat_map(|(_, task)| task.seconds.iter().map(|seconds| seconds.unwrap_or(f64::INFINITY)))
                .collect(),
            links: links.collect(),
            processor: ids().map(|id| devices.processor(id).0).collect(),
            before: Edges::new(graph.len(), || edges().map(|(from, to, bytes)| (to, from, bytes))),
            after: Edges::new(graph.len(), edges),
            order: graph.order().iter().map(|id| id.0).collect(),
            memory: graph.tasks().map(|(_, task)| task.memory).collect(),
            excess: if graph.tasks().any(|(_, task)| !task.joules.is_empty()) {
                graph.tasks().flat_map(|(_, task)| excess(task)).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Returns the seconds of a task on each device.
    pub(crate) fn row(&self, task: usize) -> &[f64] {
        &self.seconds[task * self.devices..][..self.devices]
    }

    /// Returns the seconds of a task on a device.
    pub(crate) fn seconds(&self, task: usize, device: usize) -> f64 {
        self.seconds[task * self.devices + device]
    }

    /// Returns the seconds that a transfer takes from one device to another; zero where both are
    /// one device.
    pub(crate) fn transfer(&self, from: usize, to: usize, bytes: f64) -> f64 {
        let (latency, bandwidth) = self.links[from * self.devices + to];
        latency + bytes / bandwidth
    }

    /// Returns the least seconds of a task, over the devices that claim it.
    pub(crate) fn least(&self, task: usize) -> f64 {
        self.row(task).iter().copied().fold(f64::INFINITY, f64::min)
    }
}
