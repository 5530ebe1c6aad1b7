//! A problem as plain arrays, for strategies that walk it many times.

use crate::{Devices, Task, TaskGraph};

/// Neighbours of each task in one direction, all in one list.
#[derive(Clone, Default)]
pub(crate) struct Edges {
    /// Where the neighbours of each task begin; one more than there are tasks.
    first: Vec<usize>,
    list: Vec<(usize, f64)>,
    /// The edge of each neighbour, by the number that it has in both directions.
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

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The neighbours of a task, with the numbers of the edges.
    pub(crate) fn numbered(&self, task: usize) -> impl Iterator<Item = (usize, usize)> {
        let range = self.first[task]..self.first[task + 1];
        self.list[range.clone()].iter().map(|(other, _)| *other).zip(self.numbers[range].iter().copied())
    }

    /// The neighbours of a task, with the bytes that pass.
    pub(crate) fn of(&self, task: usize) -> &[(usize, f64)] {
        &self.list[self.first[task]..self.first[task + 1]]
    }
}

/// Costs, links and edges of a problem. What cannot be takes infinitely long.
#[derive(Clone)]
pub(crate) struct Arrays {
    pub(crate) tasks: usize,
    pub(crate) devices: usize,
    /// By row of the task; infinite where a device does not claim it.
    seconds: Vec<f64>,
    /// Latency and bandwidth, by row of the sender; the latency is infinite where there is no link.
    links: Vec<(f64, f64)>,
    /// The device that stands for the processor of each; see [`Devices::processor`].
    pub(crate) processor: Vec<usize>,
    pub(crate) before: Edges,
    pub(crate) after: Edges,
    /// The tasks, each behind those that feed it.
    pub(crate) order: Vec<usize>,
    /// Bytes that each task holds.
    pub(crate) memory: Vec<u64>,
    /// Joules beyond those on the thriftiest device, by row of the task; empty where no task says what it spends.
    pub(crate) excess: Vec<f64>,
}

impl std::fmt::Debug for Arrays {
    /// The problem itself says all of it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrays").finish_non_exhaustive()
    }
}

/// Joules of a task on each device beyond the least; zero where it is not claimed, or says nothing of energy.
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

    /// Seconds of a task on each device.
    pub(crate) fn row(&self, task: usize) -> &[f64] {
        &self.seconds[task * self.devices..][..self.devices]
    }

    /// Seconds of a task on a device.
    pub(crate) fn seconds(&self, task: usize, device: usize) -> f64 {
        self.seconds[task * self.devices + device]
    }

    /// Seconds that so many bytes take from one device to another; nothing where they stay.
    pub(crate) fn transfer(&self, from: usize, to: usize, bytes: f64) -> f64 {
        let (latency, bandwidth) = self.links[from * self.devices + to];
        latency + bytes / bandwidth
    }

    /// The least seconds of a task, over the devices that claim it.
    pub(crate) fn least(&self, task: usize) -> f64 {
        self.row(task).iter().copied().fold(f64::INFINITY, f64::min)
    }
}
