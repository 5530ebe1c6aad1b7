//! Topology: how devices reach each other's memory, and at what cost.

use std::collections::HashMap;
use std::time::Duration;

use crate::driver::DeviceId;

/// The manner in which a device uses another's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// The device cannot reach the memory, and bytes go through the host.
    #[default]
    None,
    /// The device copies the bytes.
    Copy,
    /// The device uses the bytes in place, once it has imported them.
    Import,
    /// The device uses the bytes in place, as they stand.
    Native,
}

/// The manner in which a device's queues wait for points of another, or reach points for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SyncMode {
    /// The host learns that a point is reached, and lets the waiting device begin.
    #[default]
    Host,
    /// The driver lets the waiting device begin, and the host does nothing in between.
    Native,
}

/// One direction between two devices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Edge {
    /// The manner in which the first device reads the second's memory.
    pub read: Reach,
    /// The manner in which the first device writes the second's memory.
    pub write: Reach,
    /// The manner in which the first device's queues wait for points that the second one's queues
    /// reach.
    pub wait: SyncMode,
    /// The manner in which the first device's queues reach points that the second one's queues wait
    /// for.
    pub signal: SyncMode,
    /// The bytes per second of a large transfer; `None` until measured or told.
    pub bandwidth: Option<f64>,
    /// The time of an empty transfer; `None` until measured or told.
    pub latency: Option<Duration>,
}

impl Edge {
    /// Returns a device's way to its own memory.
    #[must_use]
    pub fn own(bandwidth: Option<f64>) -> Self {
        let (read, write) = (Reach::Native, Reach::Native);
        Edge { read, write, wait: SyncMode::Host, signal: SyncMode::Host, bandwidth, latency: Some(Duration::ZERO) }
    }
}

/// An edge for each ordered pair of devices.
/// A pair without an edge goes through the host.
#[derive(Clone, Debug, Default)]
pub struct Topology(HashMap<(DeviceId, DeviceId), Edge>);

impl Topology {
    /// Sets the edge from `from` to `to`.
    pub fn insert(&mut self, from: DeviceId, to: DeviceId, edge: Edge) {
        self.0.insert((from, to), edge);
    }

    /// Returns the edge from `from` to `to`; the default, which reaches nothing, where none is set.
    #[must_use]
    pub fn edge(&self, from: &DeviceId, to: &DeviceId) -> Edge {
        self.0.get(&(from.clone(), to.clone())).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_directed_and_absent_ones_reach_nothing() {
        let (a, b) = (DeviceId::new("cpu", 0), DeviceId::new("wgpu", 0));
        let mut topology = Topology::default();
        topology.insert(a.clone(), b.clone(), Edge { read: Reach::Import, ..Edge::default() });
        assert_eq!(topology.edge(&a, &b).read, Reach::Import);
        assert_eq!(topology.edge(&b, &a), Edge::default());
        assert!(Reach::Native > Reach::Import && Reach::Copy > Reach::None);
    }
}
