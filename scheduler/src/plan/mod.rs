//! Plans: schedules in the form in which sessions replay them, and the reasons for them.
//!
//! A schedule is cut into partitions, and an explanation says why each is where and when it is.
//! This wing holds data; what people read of it is made by who shows it.

mod apportion;
mod cut;
mod explanation;
mod partitioning;
mod takers;

pub use apportion::apportion;
use cut::{Group, cut, seconds_between};
pub use explanation::{Alternative, DeviceUse, Elsewhere, Explanation, PartitionEdge, PartitionReason, TransferPrice};
pub use partitioning::{Partition, Partitioning, Tiles, Transfer};
use takers::takers;
