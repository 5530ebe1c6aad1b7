//! Simulated runs: a schedule or a partitioning, replayed by the estimates of its problem.
//!
//! A [`Replay`] says when each partition runs, what it waits for, and which path is critical.
//! [`Replay::with`] replays the same run with one thing changed, such as a task that runs on
//! another device or a link that is faster; the changes add up.
//! The order of the partitions stays as it is: a replay plans nothing.

mod change;
mod replay;

pub use change::Change;
pub use replay::{Leg, Replay, Wait};
