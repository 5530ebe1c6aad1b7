//! The scheduler: it decides which device runs which task, and when.
//! It takes graphs and costs, and returns plans and the reasons for them.
//!
//! It depends on no backend and no model format, and starts no thread.
//! A [`TaskGraph`] holds the tasks and the bytes that pass along its edges.
//! [`Devices`] holds the devices that run the tasks, and the links between the devices.
//! Together they are a [`Problem`].
//! A [`Partitioner`] finds a [`Schedule`], and a [`Partitioning`] is that schedule as a session
//! replays it: partitions, transfers and estimates, as JSON.
//! An [`Explanation`] says why a plan is as it is.
//!
//! | strategy | what it minimises | how |
//! |---|---|---|
//! | [`Heft`], [`Peft`], [`Cpop`], [`Lookahead`] | makespan | list scheduling, in milliseconds |
//! | [`LatencyAware`] | makespan | the best of the list schedulers' schedules, improved by tabu search within an [`Effort`]; the default |
//! | [`Cautious`] | as the strategy in it | leaves the fastest device only for a gain larger than the error of the estimates |
//! | [`Exact`] | makespan | branch and bound, with a proof, for small graphs |
//! | [`Throughput`] | period of a stream | stages by dynamic programming, then local search |
//!
//! Where nothing passes between tasks, an [`Assignment`] balances load within budgets and proves a
//! lower bound.
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
//! Another strategy is another implementation of [`Partitioner`].
//! A strategy outside this crate reports the problems that it cannot solve as [`Error::Strategy`].

#![forbid(unsafe_code)]

mod alone;
mod apportion;
mod arrays;
mod assign;
mod bounds;
mod caution;
mod cluster;
mod cpop;
mod devices;
mod domains;
mod error;
mod exact;
mod explain;
mod gantt;
mod graph;
mod heft;
mod list;
mod load;
mod lookahead;
mod lower_bound;
mod partition;
mod peft;
mod pipeline;
mod plan;
mod portfolio;
mod problem;
mod random;
mod schedule;
mod search;
mod tiles;
mod timetable;

pub use apportion::apportion;
pub use assign::{Aim, Assigned, Assignment, Ended};
pub use caution::Cautious;
pub use cpop::Cpop;
pub use devices::{DeviceIndex, DeviceSpec, Devices, Link};
pub use error::Error;
pub use exact::{Exact, Solved};
pub use explain::{
    Alternative, DeviceUse, Elsewhere, Explanation, Leg, PartitionEdge, PartitionReason, TransferPrice, Wait,
};
pub use gantt::{bytes_text, difference_text, seconds_text};
pub use graph::{Task, TaskGraph, TaskGraphBuilder, TaskId};
pub use heft::Heft;
pub use lookahead::Lookahead;
pub use peft::Peft;
pub use pipeline::Throughput;
pub use plan::{Partition, Partitioning, Tiles, Transfer};
pub use portfolio::LatencyAware;
pub use problem::Problem;
pub use schedule::{Partitioner, Schedule, Slot};
pub use search::Effort;
pub use tiles::levels;
