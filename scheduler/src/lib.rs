//! Scheduling: which task runs on which device, and when. Graphs and costs in, plans out.
//!
//! The crate is pure. It knows tasks, devices and links by their costs; it knows no backend, no model format and no thread. A
//! [`TaskGraph`] with a cost per task and device, and the [`Links`] between devices, make a [`Problem`]; a [`Partitioner`] finds a
//! [`Schedule`] for it; [`Plan::from_schedule`] cuts the graph into partitions that can be compiled and replayed.
//!
//! ```
//! use hetero_scheduler::{Heft, Link, Links, Partitioner, Problem, Task, TaskGraph};
//!
//! // Two tasks in a row: the first is faster on device 0, the second on device 1.
//! let mut graph = TaskGraph::new(2);
//! let a = graph.add_task(Task { name: "a".into(), costs: vec![Some(1.0), Some(9.0)] })?;
//! let b = graph.add_task(Task { name: "b".into(), costs: vec![Some(9.0), Some(1.0)] })?;
//! graph.add_edge(a, b, 1e6)?;
//! // A gigabyte per second each way: the megabyte takes a millisecond.
//! let links = Links::uniform(2, Link { latency: 0.0, bandwidth: 1e9 });
//! let schedule = Heft.partition(&Problem::new(graph, links)?)?;
//! assert_eq!((schedule.device_of(a), schedule.device_of(b)), (0, 1));
//! assert!((schedule.makespan() - 2.001).abs() < 1e-9);
//! # Ok::<(), hetero_scheduler::Error>(())
//! ```

#![forbid(unsafe_code)]

mod graph;
mod heft;
mod plan;
mod schedule;

pub use graph::{Link, Links, Problem, Task, TaskGraph, TaskId};
pub use heft::Heft;
pub use plan::{PLAN_VERSION, Partition, Plan, Transfer};
pub use schedule::{Partitioner, Schedule, Slot};

/// Why there is no schedule or plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to run on.
    #[error("there is no device; add one to the engine")]
    NoDevice,
    /// A cost, size, latency or bandwidth is negative, infinite or not a number.
    #[error("{what} is {value}; it must be finite and not negative")]
    Cost {
        /// Of what.
        what: String,
        /// The value.
        value: f64,
    },
    /// A task has costs for another number of devices.
    #[error("task '{task}' has {found} costs for {devices} devices")]
    CostRow {
        /// The task.
        task: String,
        /// Costs that it has.
        found: usize,
        /// Devices there are.
        devices: usize,
    },
    /// No device takes a task.
    #[error("no device takes task '{0}'; add a device that does")]
    Unclaimed(String),
    /// A task id of another graph.
    #[error("there is no task {0}")]
    UnknownTask(usize),
    /// The graph has a cycle.
    #[error("the task graph has a cycle through '{0}'")]
    Cycle(String),
    /// The devices that could run a task cannot be reached from those that feed it.
    #[error("no device that takes task '{0}' can be reached from the devices that feed it")]
    Unreachable(String),
    /// A plan is of another version, is not JSON, or contradicts itself.
    #[error("invalid plan: {0}")]
    Plan(String),
}
