//! The shares of a placement: what part of a model each device has.

use std::fmt;

use hetero_costs::bytes;
use hetero_hal::{DeviceId, Program};
use hetero_scheduler::Partitioning;

use crate::names::NodesByName;

/// The share of a model that a device has.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacementShare {
    /// The device's id.
    pub device: DeviceId,
    /// The number of nodes that it runs.
    pub nodes: usize,
    /// The share of all nodes, from 0 to 1.
    pub of_nodes: f64,
    /// The share of the time that all partitions are estimated to take, from 0 to 1.
    pub of_time: f64,
    /// The share of the bytes of all nodes' inputs, weights and outputs, from 0 to 1.
    pub of_bytes: f64,
}

/// The shares of all devices that a plan uses, the largest share of time first.
/// Displayed, they are one line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlacementShares {
    /// The number of nodes of the model.
    pub nodes: usize,
    /// The share of each device.
    pub devices: Vec<PlacementShare>,
}

impl PlacementShares {
    /// Returns the shares of a program's nodes by a plan.
    pub(crate) fn of(program: &Program, plan: &Partitioning) -> PlacementShares {
        let mut names = NodesByName::new(program.nodes());
        // The sums of nodes, seconds and bytes of each device.
        let mut sums: Vec<(DeviceId, usize, f64, f64)> = Vec::new();
        for partition in &plan.partitions {
            let Ok(id) = partition.device.parse::<DeviceId>() else { continue };
            let index = sums.iter().position(|sum| sum.0 == id).unwrap_or_else(|| {
                sums.push((id, 0, 0.0, 0.0));
                sums.len() - 1
            });
            let nodes = partition.tasks.iter().filter_map(|task| names.find(task));
            sums[index].1 += partition.tasks.len();
            sums[index].2 += partition.estimated_finish - partition.estimated_start;
            sums[index].3 += nodes.map(|(_, node)| bytes(program, node) as f64).sum::<f64>();
        }
        let whole = sums.iter().fold((0, 0.0, 0.0), |all, one| (all.0 + one.1, all.1 + one.2, all.2 + one.3));
        let part = |own: f64, all: f64| if all > 0.0 { own / all } else { 0.0 };
        let mut devices: Vec<PlacementShare> = sums
            .into_iter()
            .map(|(device, nodes, seconds, bytes)| PlacementShare {
                device,
                nodes,
                of_nodes: part(nodes as f64, whole.0 as f64),
                of_time: part(seconds, whole.1),
                of_bytes: part(bytes, whole.2),
            })
            .collect();
        devices.sort_by(|a, b| b.of_time.total_cmp(&a.of_time).then_with(|| a.device.cmp(&b.device)));
        PlacementShares { nodes: whole.0, devices }
    }
}

/// A share as a percentage: it says 0 % only of nothing, and 100 % only of everything.
pub(crate) struct Percent(pub(crate) f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            share if share > 0.0 && share < 0.01 => f.write_str("<1 %"),
            share if share < 1.0 && share > 0.99 => f.write_str(">99 %"),
            share => write!(f, "{:.0} %", share * 100.0),
        }
    }
}

impl fmt::Display for PlacementShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("placement: ")?;
        if self.devices.is_empty() {
            f.write_str("no node is left to run")?;
        }
        for (number, share) in self.devices.iter().enumerate() {
            let PlacementShare { device, of_nodes, of_time, of_bytes, .. } = share;
            let separator = if number > 0 { "; " } else { "" };
            let (nodes, time, bytes) = (Percent(*of_nodes), Percent(*of_time), Percent(*of_bytes));
            let plural = if self.nodes == 1 { "node" } else { "nodes" };
            write!(f, "{separator}{device} {nodes} of {} {plural}, ", self.nodes)?;
            write!(f, "{time} of the estimated time, {bytes} of bytes")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_in_one_line() {
        let share = |ordinal, nodes, of_nodes, of_time, of_bytes| PlacementShare {
            device: DeviceId::new("cpu", ordinal),
            nodes,
            of_nodes,
            of_time,
            of_bytes,
        };
        let devices = vec![share(0, 182, 182.0 / 209.0, 0.995, 0.8), share(1, 27, 27.0 / 209.0, 0.005, 0.2)];
        assert_eq!(
            PlacementShares { nodes: 209, devices }.to_string(),
            "placement: cpu:0 87 % of 209 nodes, >99 % of the estimated time, 80 % of bytes; \
             cpu:1 13 % of 209 nodes, <1 % of the estimated time, 20 % of bytes"
        );
        assert_eq!(PlacementShares::default().to_string(), "placement: no node is left to run");
    }
}
