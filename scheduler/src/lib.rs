//! The scheduler: it decides which device runs which task, and when.
//! It takes graphs and costs, and returns plans and the reasons for them.
//!
//! It depends on no backend and no model format, and starts no thread.
//! A [`TaskGraph`] holds the tasks and the bytes that pass along its edges.
//! [`Devices`] holds the devices that run the tasks, and the links between the devices.
//! Together they are a [`Problem`].
//! A [`Partitioner`] finds a [`Schedule`], and a [`Partitioning`] is that schedule as a session
//! replays it: partitions, transfers and estimates, as JSON.
//! A [`Replay`] runs a plan by the estimates, also with one thing changed, and an [`Explanation`]
//! says why the plan is as it is.
//!
//! | strategy | what it minimises | how |
//! |---|---|---|
//! | [`Heft`], [`Peft`], [`Cpop`], [`Lookahead`] | makespan | list scheduling, in milliseconds |
//! | [`LatencyAware`] | makespan | the best of the list schedulers' schedules, improved by tabu search within an [`Effort`]; the default |
//! | [`Cautious`] | as the strategy in it | leaves the fastest device only for a gain larger than the error of the estimates |
//! | [`Exact`] | makespan | branch and bound, with a proof, for small graphs |
//! | [`Throughput`] | period of a stream | stages by dynamic programming, then local search |
//!
//! Time limits are part of an [`Effort`], and are measured by the clock that it names.
//!
//! ```
//! use hetero_scheduler::{DeviceSpec, Devices, Heft, Link, Partitioner, Partitioning, Problem, Task, TaskGraph};
//!
//! let devices = Devices::uniform(
//!     [DeviceSpec::new("cpu:0"), DeviceSpec::new("gpu:0")],
//!     Link { latency: 10e-6, bandwidth: 16e9 },
//! )?;
//!
//! // Decode runs on the CPU only; both can classify, the GPU in a tenth of the time.
//! let mut graph = TaskGraph::builder(devices.len());
//! let decode = graph.task(Task::new("decode", [Some(2e-3), None]))?;
//! let classify = graph.task(Task::new("classify", [Some(50e-3), Some(5e-3)]))?;
//! graph.edge(decode, classify, 600_000)?;
//! let problem = Problem::new(graph.build()?, devices)?;
//!
//! let schedule = Heft.partition(&problem)?;
//! schedule.validate(&problem)?;
//! let plan = Partitioning::from_schedule(&problem, &schedule, "sha256:4f2a", Heft.name())?;
//! assert_eq!(plan.placement()["classify"], "gpu:0");
//! assert_eq!(Partitioning::from_json(&plan.to_json()?)?, plan);
//! # Ok::<(), hetero_scheduler::Error>(())
//! ```
//!
//! The modules import each other in one direction, from the last line to the first:
//! - `error`, and `effort` with the clock;
//! - `problem`: what is to be planned, and what a schedule is;
//! - `list`, `bound` and [`sim`], which know problems: list scheduling, lower bounds, replays;
//! - `search`, which improves what list scheduling finds;
//! - `strategies`, which put these together, and `plan`, which cuts schedules and explains plans.
//!
//! Another strategy is another implementation of [`Partitioner`].
//! A strategy outside this crate reports the problems that it cannot solve as [`Error::Strategy`].

#![forbid(unsafe_code)]

mod bound;
mod effort;
mod error;
mod list;
mod plan;
mod problem;
mod search;
pub mod sim;
mod strategies;

pub use effort::{Clock, Effort, system_clock};
pub use error::Error;
pub use list::{Cpop, Heft, Lookahead, Peft};
pub use plan::{
    Alternative, DeviceUse, Elsewhere, Explanation, Partition, PartitionEdge, PartitionReason, Partitioning, Tiles,
    Transfer, TransferPrice, apportion,
};
pub use problem::{
    DeviceIndex, DeviceSpec, Devices, Link, Partitioner, Problem, Schedule, Slot, Task, TaskGraph, TaskGraphBuilder,
    TaskId, levels,
};
pub use sim::{Change, Leg, Replay, Wait};
pub use strategies::{Cautious, Exact, LatencyAware, Solved, Throughput};
