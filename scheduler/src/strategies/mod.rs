//! The strategies that put list scheduling, bounds and search together.

mod caution;
mod cluster;
mod exact;
mod pipeline;
mod portfolio;

pub use caution::Cautious;
use cluster::Clusters;
pub use exact::{Exact, Solved};
pub use pipeline::Throughput;
pub use portfolio::LatencyAware;
