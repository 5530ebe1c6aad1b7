//! The problem: tasks, what passes between them, and what both cost.

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::Error;

/// A task of a [`TaskGraph`]: its position in the order of adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub usize);

/// A piece of work that one device does without interruption.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Name, as plans show it.
    pub name: String,
    /// Seconds on each device; `None` where the device does not take it.
    pub costs: Vec<Option<f64>>,
}

/// A directed acyclic graph of tasks. An edge carries the bytes that pass.
#[derive(Clone, Debug)]
pub struct TaskGraph {
    graph: DiGraph<Task, f64>,
    devices: usize,
}

fn checked(value: f64, what: impl FnOnce() -> String) -> Result<f64, Error> {
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err(Error::Cost { what: what(), value }) }
}

impl TaskGraph {
    /// An empty graph for so many devices.
    #[must_use]
    pub fn new(devices: usize) -> Self {
        TaskGraph { graph: DiGraph::new(), devices }
    }

    /// Adds a task.
    ///
    /// # Errors
    /// Where its costs are not one per device, are not finite and positive, or no device takes it.
    pub fn add_task(&mut self, task: Task) -> Result<TaskId, Error> {
        if task.costs.len() != self.devices {
            return Err(Error::CostRow { task: task.name, found: task.costs.len(), devices: self.devices });
        }
        for cost in task.costs.iter().flatten() {
            checked(*cost, || format!("a cost of task '{}'", task.name))?;
        }
        if task.costs.iter().all(Option::is_none) {
            return Err(if self.devices == 0 { Error::NoDevice } else { Error::Unclaimed(task.name) });
        }
        Ok(TaskId(self.graph.add_node(task).index()))
    }

    /// Lets so many bytes pass from one task to another. Edges between the same tasks add up.
    ///
    /// # Errors
    /// For a task of another graph, or bytes that are not finite and positive.
    pub fn add_edge(&mut self, from: TaskId, to: TaskId, bytes: f64) -> Result<(), Error> {
        for id in [from, to] {
            if id.0 >= self.graph.node_count() {
                return Err(Error::UnknownTask(id.0));
            }
        }
        let bytes = checked(bytes, || "the size of an edge".into())?;
        let (from, to) = (NodeIndex::new(from.0), NodeIndex::new(to.0));
        match self.graph.find_edge(from, to).and_then(|edge| self.graph.edge_weight_mut(edge)) {
            Some(sum) => *sum += bytes,
            None => {
                self.graph.add_edge(from, to, bytes);
            }
        }
        Ok(())
    }

    /// Number of devices that tasks have costs for.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// Number of tasks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    /// Has the graph no task?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tasks.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + use<> {
        (0..self.len()).map(TaskId)
    }

    /// A task. Ids come from this graph.
    #[must_use]
    pub fn task(&self, id: TaskId) -> &Task {
        &self.graph[NodeIndex::new(id.0)]
    }

    fn neighbours(&self, id: TaskId, direction: Direction) -> impl Iterator<Item = (TaskId, f64)> + '_ {
        self.graph.edges_directed(NodeIndex::new(id.0), direction).map(move |edge| {
            let other = if direction == Direction::Outgoing { edge.target() } else { edge.source() };
            (TaskId(other.index()), *edge.weight())
        })
    }

    /// Tasks that feed a task, with the bytes.
    pub fn predecessors(&self, id: TaskId) -> impl Iterator<Item = (TaskId, f64)> + '_ {
        self.neighbours(id, Direction::Incoming)
    }

    /// Tasks that a task feeds, with the bytes.
    pub fn successors(&self, id: TaskId) -> impl Iterator<Item = (TaskId, f64)> + '_ {
        self.neighbours(id, Direction::Outgoing)
    }

    /// All tasks, each after those that feed it.
    ///
    /// # Errors
    /// `Cycle`, naming a task on it.
    pub fn topological(&self) -> Result<Vec<TaskId>, Error> {
        match petgraph::algo::toposort(&self.graph, None) {
            Ok(order) => Ok(order.into_iter().map(|node| TaskId(node.index())).collect()),
            Err(cycle) => Err(Error::Cycle(self.graph[cycle.node_id()].name.clone())),
        }
    }
}

/// The way from one device to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Seconds before the first byte arrives.
    pub latency: f64,
    /// Bytes per second.
    pub bandwidth: f64,
}

/// A link per ordered pair of devices. What stays on a device costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    devices: usize,
    links: Vec<Option<Link>>,
}

impl Links {
    /// No device reaches another.
    #[must_use]
    pub fn none(devices: usize) -> Self {
        Links { devices, links: vec![None; devices * devices] }
    }

    /// Every device reaches every other in the same way.
    #[must_use]
    pub fn uniform(devices: usize, link: Link) -> Self {
        Links { devices, links: vec![Some(link); devices * devices] }
    }

    /// Sets the way from one device to another. Devices out of range are ignored.
    pub fn set(&mut self, from: usize, to: usize, link: Option<Link>) {
        if from < self.devices && to < self.devices {
            self.links[from * self.devices + to] = link;
        }
    }

    /// Seconds that so many bytes take; `None` where there is no way.
    #[must_use]
    pub fn seconds(&self, from: usize, to: usize, bytes: f64) -> Option<f64> {
        if from == to {
            return Some(0.0);
        }
        let link = self.links.get(from * self.devices + to).copied().flatten()?;
        Some(link.latency + bytes / link.bandwidth)
    }

    /// Mean over all pairs of different devices that reach each other.
    #[must_use]
    pub fn mean_seconds(&self, bytes: f64) -> f64 {
        let pairs = (0..self.devices).flat_map(|from| (0..self.devices).map(move |to| (from, to)));
        let known: Vec<f64> =
            pairs.filter(|(from, to)| from != to).filter_map(|(from, to)| self.seconds(from, to, bytes)).collect();
        if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
    }
}

/// Tasks, and links between the devices that they may run on.
#[derive(Clone, Debug)]
pub struct Problem {
    graph: TaskGraph,
    links: Links,
    order: Vec<TaskId>,
}

impl Problem {
    /// Checks that both belong together.
    ///
    /// # Errors
    /// `NoDevice`, `Cycle`, `CostRow` where the links are for another number of devices, `Cost` for a link that is not finite.
    pub fn new(graph: TaskGraph, links: Links) -> Result<Self, Error> {
        if graph.devices == 0 {
            return Err(Error::NoDevice);
        }
        if links.devices != graph.devices {
            return Err(Error::CostRow { task: "links".into(), found: links.devices, devices: graph.devices });
        }
        for link in links.links.iter().flatten() {
            checked(link.latency, || "the latency of a link".into())?;
            checked(link.bandwidth, || "the bandwidth of a link".into())?;
            if link.bandwidth == 0.0 {
                return Err(Error::Cost { what: "the bandwidth of a link".into(), value: 0.0 });
            }
        }
        let order = graph.topological()?;
        Ok(Problem { graph, links, order })
    }

    /// The tasks.
    #[must_use]
    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// All tasks, each after those that feed it.
    #[must_use]
    pub fn order(&self) -> &[TaskId] {
        &self.order
    }
}
