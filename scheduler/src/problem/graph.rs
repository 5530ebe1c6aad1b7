//! Task graphs: the tasks to run and the bytes that pass between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{DeviceIndex, levels};
use crate::error::{Error, check_seconds};

/// The number of a task in its [`TaskGraph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub usize);

/// A piece of work that one device does without interruption.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// The name of the task in plans.
    pub name: String,
    /// The seconds that the task takes on each device; `None` where a device does not claim it.
    pub seconds: Vec<Option<f64>>,
    /// The bytes that the task's device holds for it as long as the plan stands, such as weights.
    pub memory: u64,
    /// The joules that the task spends on each device; empty where nothing is known.
    /// The joules on a device that does not claim the task are ignored.
    pub joules: Vec<f64>,
    /// The group of tiles that the task belongs to; see [`Tiles`](crate::Tiles).
    /// It is `None` for a task that only its own device runs.
    pub tiles: Option<String>,
}

impl Task {
    /// Creates a task that holds no memory.
    #[must_use]
    pub fn new(name: impl Into<String>, seconds: impl Into<Vec<Option<f64>>>) -> Self {
        Self { name: name.into(), seconds: seconds.into(), memory: 0, joules: Vec::new(), tiles: None }
    }

    /// Sets the bytes that the task holds.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets the joules that the task spends on each device.
    #[must_use]
    pub fn with_energy(mut self, joules: impl Into<Vec<f64>>) -> Self {
        self.joules = joules.into();
        self
    }

    /// Makes the task a tile of a group: devices may take it from each other while the plan runs.
    #[must_use]
    pub fn with_tiles(mut self, group: impl Into<String>) -> Self {
        self.tiles = Some(group.into());
        self
    }

    /// Returns the least joules that the task can spend, over the devices that claim it; zero where
    /// nothing is known.
    #[must_use]
    pub fn least_joules(&self) -> f64 {
        let claimed = self.joules.iter().zip(&self.seconds).filter(|(_, seconds)| seconds.is_some());
        let least = claimed.map(|(&joules, _)| joules).fold(f64::INFINITY, f64::min);
        if least.is_finite() { least } else { 0.0 }
    }

    /// Returns the seconds of the task on a device; `None` where the device does not claim it.
    #[must_use]
    pub fn seconds_on(&self, device: DeviceIndex) -> Option<f64> {
        self.seconds.get(device.0).copied().flatten()
    }
}

/// Tasks and the bytes that pass between them: a directed acyclic graph, made by a
/// [`TaskGraphBuilder`].
#[derive(Clone, Debug)]
pub struct TaskGraph {
    graph: DiGraph<Task, u64>,
    order: Vec<TaskId>,
    devices: usize,
    /// The level of each task; see [`levels`](crate::levels).
    levels: Vec<usize>,
}

impl TaskGraph {
    /// Returns a builder of a graph whose tasks have costs for the given number of devices.
    #[must_use]
    pub fn builder(devices: usize) -> TaskGraphBuilder {
        TaskGraphBuilder { devices, tasks: Vec::new(), names: HashSet::new(), edges: BTreeMap::new() }
    }

    /// Returns the number of devices that the tasks have costs for.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// Returns the number of tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    /// Tells whether the graph has no task.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns all tasks with their numbers, in the order in which they were added.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.graph.node_weights().enumerate().map(|(index, task)| (TaskId(index), task))
    }

    /// Returns a task, where the number is one of this graph's.
    #[must_use]
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.graph.node_weight(NodeIndex::new(id.0))
    }

    /// Returns the numbers of all tasks, each behind the tasks that feed it and otherwise in the
    /// order in which they were added.
    #[must_use]
    pub fn order(&self) -> &[TaskId] {
        &self.order
    }

    /// Returns all edges: the sending task, the receiving task and the bytes.
    pub fn edges(&self) -> impl Iterator<Item = (TaskId, TaskId, u64)> {
        self.graph
            .edge_references()
            .map(|edge| (TaskId(edge.source().index()), TaskId(edge.target().index()), *edge.weight()))
    }

    /// Returns the tasks that feed a task, with the bytes that it gets from each.
    pub fn predecessors(&self, id: TaskId) -> impl Iterator<Item = (TaskId, u64)> {
        let edges = self.graph.edges_directed(NodeIndex::new(id.0), Direction::Incoming);
        edges.map(|edge| (TaskId(edge.source().index()), *edge.weight()))
    }

    /// Returns the tasks that a task feeds, with the bytes that each gets.
    pub fn successors(&self, id: TaskId) -> impl Iterator<Item = (TaskId, u64)> {
        let edges = self.graph.edges_directed(NodeIndex::new(id.0), Direction::Outgoing);
        edges.map(|edge| (TaskId(edge.target().index()), *edge.weight()))
    }

    /// Returns the numbers of all tasks, each behind the tasks that feed it.
    /// Of the tasks that could come next, the one with the least key comes first.
    pub(crate) fn order_by<K: Ord>(&self, key: impl Fn(TaskId) -> K) -> Vec<TaskId> {
        let ids = || (0..self.len()).map(TaskId);
        let entry = |id| Reverse((key(id), id));
        let mut waits_for: Vec<usize> = ids().map(|id| self.predecessors(id).count()).collect();
        let mut ready: BinaryHeap<_> = ids().filter(|id| waits_for[id.0] == 0).map(entry).collect();
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for (next, _) in self.successors(id) {
                waits_for[next.0] -= 1;
                if waits_for[next.0] == 0 {
                    ready.push(entry(next));
                }
            }
        }
        order
    }

    /// Returns the level of a task: the number of groups of tiles that lie before it.
    /// Tasks of different levels are not joined in one partition.
    pub(crate) fn level(&self, id: TaskId) -> usize {
        self.levels.get(id.0).copied().unwrap_or(0)
    }

    /// Returns a task that is known to be one of this graph's.
    pub(crate) fn known(&self, id: TaskId) -> &Task {
        &self.graph[NodeIndex::new(id.0)]
    }
}

/// A builder that takes tasks and edges, checks each, and makes a [`TaskGraph`] of them.
#[derive(Clone, Debug)]
pub struct TaskGraphBuilder {
    devices: usize,
    tasks: Vec<Task>,
    names: HashSet<String>,
    edges: BTreeMap<(TaskId, TaskId), u64>,
}

impl TaskGraphBuilder {
    /// The largest number of tasks, and of edges, that a graph may have.
    pub const LIMIT: usize = u32::MAX as usize - 1;

    /// Adds a task.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where the graph is for no device; [`Error::CostRow`] unless there is one
    /// cost for each device, and either one energy for each device or none at all;
    /// [`Error::Number`] for a cost or an energy that is negative, infinite or not a number;
    /// [`Error::Unclaimed`] where all costs are `None`; [`Error::TooMany`] beyond
    /// [`TaskGraphBuilder::LIMIT`]; [`Error::DuplicateTask`] where another task has the same name.
    pub fn task(&mut self, task: Task) -> Result<TaskId, Error> {
        if self.devices == 0 {
            return Err(Error::NoDevice);
        }
        if task.seconds.len() != self.devices {
            return Err(Error::CostRow { task: task.name, found: task.seconds.len(), devices: self.devices });
        }
        for (device, seconds) in task.seconds.iter().enumerate() {
            if let Some(seconds) = *seconds {
                check_seconds(seconds, || format!("the cost of task '{}' on device number {device}", task.name))?;
            }
        }
        if !task.joules.is_empty() && task.joules.len() != self.devices {
            return Err(Error::CostRow { task: task.name, found: task.joules.len(), devices: self.devices });
        }
        for (device, &joules) in task.joules.iter().enumerate() {
            if !(joules.is_finite() && joules >= 0.0) {
                let what = format!("the energy of task '{}' on device number {device}", task.name);
                return Err(Error::Number { what, value: joules, wanted: "joules that are finite and not negative" });
            }
        }
        if task.seconds.iter().all(Option::is_none) {
            return Err(Error::Unclaimed(task.name));
        }
        if self.tasks.len() >= Self::LIMIT {
            return Err(Error::TooMany { what: "tasks", count: self.tasks.len() + 1, limit: Self::LIMIT });
        }
        if !self.names.insert(task.name.clone()) {
            return Err(Error::DuplicateTask(task.name));
        }
        self.tasks.push(task);
        Ok(TaskId(self.tasks.len() - 1))
    }

    /// Adds an edge that passes bytes from one task to another; zero bytes where one only has to
    /// wait for the other.
    /// The bytes of edges between the same two tasks add up.
    ///
    /// # Errors
    /// [`Error::UnknownTask`] for a task of another graph; [`Error::Cycle`] where both are one
    /// task; [`Error::TooMany`] beyond [`TaskGraphBuilder::LIMIT`]; [`Error::Overflow`] where the
    /// sum of the bytes overflows.
    pub fn edge(&mut self, from: TaskId, to: TaskId, bytes: u64) -> Result<(), Error> {
        let count = self.tasks.len();
        for id in [from, to] {
            if id.0 >= count {
                return Err(Error::UnknownTask { index: id.0, count });
            }
        }
        if from == to {
            return Err(Error::Cycle(self.tasks[from.0].name.clone()));
        }
        if self.edges.len() >= Self::LIMIT {
            return Err(Error::TooMany { what: "edges", count: self.edges.len() + 1, limit: Self::LIMIT });
        }
        let sum = self.edges.entry((from, to)).or_default();
        *sum = sum.checked_add(bytes).ok_or(Error::Overflow("the bytes between two tasks"))?;
        Ok(())
    }

    /// Returns the graph of all tasks and edges that were added.
    ///
    /// # Errors
    /// [`Error::Cycle`], naming a task on the cycle, or the group of tiles that is on it; a group
    /// counts as one task.
    pub fn build(self) -> Result<TaskGraph, Error> {
        let mut graph = DiGraph::with_capacity(self.tasks.len(), self.edges.len());
        for task in self.tasks {
            graph.add_node(task);
        }
        for ((from, to), bytes) in self.edges {
            graph.add_edge(NodeIndex::new(from.0), NodeIndex::new(to.0), bytes);
        }
        if let Err(cycle) = petgraph::algo::toposort(&graph, None) {
            return Err(Error::Cycle(graph[cycle.node_id()].name.clone()));
        }
        let groups: Vec<Option<&str>> = graph.node_weights().map(|task| task.tiles.as_deref()).collect();
        let ends = |edge: petgraph::graph::EdgeReference<'_, u64>| (edge.source().index(), edge.target().index());
        let edges: Vec<(usize, usize)> = graph.edge_references().map(ends).collect();
        let levels = levels(&edges, &groups)?;
        let mut graph = TaskGraph { graph, order: Vec::new(), devices: self.devices, levels };
        graph.order = graph.order_by(|id| id);
        Ok(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (TaskGraphBuilder, TaskId, TaskId) {
        let mut graph = TaskGraph::builder(2);
        let a = graph.task(Task::new("a", [Some(1.0), None])).unwrap();
        let b = graph.task(Task::new("b", [Some(1.0), Some(0.0)])).unwrap();
        (graph, a, b)
    }

    #[test]
    fn edges_between_the_same_tasks_add_up() {
        let (mut graph, a, b) = two();
        graph.edge(a, b, 3).unwrap();
        graph.edge(a, b, 4).unwrap();
        let too_many = graph.clone().edge(a, b, u64::MAX);
        assert_eq!(too_many, Err(Error::Overflow("the bytes between two tasks")));
        let graph = graph.build().unwrap();
        assert_eq!(graph.edges().collect::<Vec<_>>(), [(a, b, 7)]);
        assert_eq!(graph.successors(a).collect::<Vec<_>>(), [(b, 7)]);
        assert_eq!(graph.predecessors(b).collect::<Vec<_>>(), [(a, 7)]);
        assert_eq!(graph.predecessors(TaskId(9)).count(), 0);
        assert_eq!(graph.get(TaskId(9)), None);
        assert_eq!(graph.order(), [a, b]);
    }

    #[test]
    fn the_order_of_adding_decides_where_edges_do_not() {
        let mut graph = TaskGraph::builder(1);
        let ids: Vec<_> = (0..5).map(|index| graph.task(Task::new(index.to_string(), [Some(1.0)])).unwrap()).collect();
        graph.edge(ids[3], ids[1], 0).unwrap();
        assert_eq!(graph.build().unwrap().order(), [0, 2, 3, 1, 4].map(TaskId));
    }

    #[test]
    fn cycles_are_named() {
        let (mut graph, a, b) = two();
        assert_eq!(graph.edge(a, a, 0), Err(Error::Cycle("a".into())));
        graph.edge(a, b, 0).unwrap();
        graph.edge(b, a, 0).unwrap();
        assert!(matches!(graph.build(), Err(Error::Cycle(name)) if name == "a" || name == "b"));
    }

    #[test]
    fn a_group_on_a_cycle_is_named_and_no_other() {
        let mut graph = TaskGraph::builder(1);
        let groups = [Some("first"), Some("round"), None, Some("round")];
        let ids = groups.iter().enumerate().map(|(index, group)| {
            let task = Task::new(index.to_string(), [Some(1.0)]);
            graph.task(group.map_or(task.clone(), |group| task.with_tiles(group))).unwrap()
        });
        let ids: Vec<TaskId> = ids.collect();
        for pair in ids.windows(2) {
            graph.edge(pair[0], pair[1], 1).unwrap();
        }
        assert_eq!(graph.build().unwrap_err(), Error::Cycle("round".into()));
    }

    #[test]
    fn bad_tasks_are_named() {
        let (mut graph, a, _) = two();
        assert_eq!(graph.edge(a, TaskId(2), 0), Err(Error::UnknownTask { index: 2, count: 2 }));
        let row = Error::CostRow { task: "c".into(), found: 1, devices: 2 };
        assert_eq!(graph.task(Task::new("c", [Some(1.0)])), Err(row));
        assert_eq!(graph.task(Task::new("c", [None, None])), Err(Error::Unclaimed("c".into())));
        assert_eq!(graph.task(Task::new("a", [Some(1.0), None])), Err(Error::DuplicateTask("a".into())));
        for cost in [-1.0, f64::NAN, f64::INFINITY] {
            let refused = graph.task(Task::new("c", [None, Some(cost)])).unwrap_err();
            assert!(refused.to_string().contains("'c'"), "{refused}");
        }
        assert_eq!(TaskGraph::builder(0).task(Task::new("c", [])), Err(Error::NoDevice));
    }
}
