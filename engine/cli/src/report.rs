//! What commands say of plans and runs.

use std::time::Duration;

use hetero::Plan;
use serde_json::{Value, json};

use crate::failure::Result;
use crate::output::say;

/// Prints the plan in a few lines.
pub(crate) fn summary(plan: &Plan) -> Result<()> {
    let partitioning = plan.partitioning();
    say!(
        "plan: {} partitions by {}, {} transfers, {:.3} ms estimated",
        partitioning.partitions.len(),
        partitioning.strategy,
        partitioning.transfers.len(),
        partitioning.estimated_makespan * 1e3
    )?;
    for partition in &partitioning.partitions {
        say!("    {}: {} nodes", partition.device, partition.tasks.len())?;
    }
    if !plan.assumed().is_empty() {
        say!("    open dimensions taken as 1: {}", plan.assumed().join(", "))?;
    }
    plan.notes().iter().try_for_each(|note| say!("    {note}"))
}

/// Returns the nodes that run slowly, for `--json`.
pub(crate) fn slow_json(slow: &hetero::SlowNodes) -> Value {
    let group = |group: &hetero::SlowGroup| {
        json!({
            "device": group.device.to_string(), "operator": group.operator, "reason": group.reason, "nodes": group.nodes.len(),
            "of_time": group.of_time,
        })
    };
    json!({
        "nodes": slow.len(), "of_nodes": slow.of_nodes, "of_time": slow.of_time(),
        "groups": slow.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

/// Prints the nodes that run slowly, where there are any.
pub(crate) fn print_slow(slow: &hetero::SlowNodes) -> Result<()> {
    if slow.is_empty() { Ok(()) } else { say!("{slow}") }
}

/// Returns what share of the model each device has, for `--json`.
pub(crate) fn shares_json(shares: &hetero::PlacementShares) -> Value {
    let share = |share: &hetero::PlacementShare| {
        json!({
            "device": share.device.to_string(), "nodes": share.nodes, "of_nodes": share.of_nodes, "of_time": share.of_time,
            "of_bytes": share.of_bytes,
        })
    };
    shares.devices.iter().map(share).collect()
}

/// Returns the device of each node, for `--json`.
pub(crate) fn placement(report: &hetero::Report) -> Value {
    report.placement.iter().map(|(node, device)| (node.to_string(), Value::from(&**device))).collect()
}

/// Returns what passes between devices, for `--json`.
pub(crate) fn edges(report: &hetero::Report) -> Value {
    let edge = |edge: &hetero::Traffic| {
        json!({
            "from": edge.from, "to": edge.to, "values": edge.values, "transports": edge.transports,
            "zero_copy_bytes": edge.zero_copy_bytes, "staged_bytes": edge.staged_bytes, "native_waits": edge.native_waits,
            "host_waits": edge.host_waits, "reason": edge.reason,
        })
    };
    report.edges.iter().map(edge).collect()
}

/// Returns what devices did of groups of tiles, for `--json`.
pub(crate) fn tiles(report: &hetero::Report) -> Value {
    let share = |share: &hetero::TileShare| {
        json!({
            "group": share.group, "device": share.device, "planned": share.planned, "done": share.done,
            "stolen": share.stolen,
        })
    };
    report.tiles.iter().map(share).collect()
}

/// Prints what moved, and what passes between devices in a run.
pub(crate) fn print_report(report: &hetero::Report) -> Result<()> {
    report.moved.iter().try_for_each(|line| say!("    {line}"))?;
    report.edges.iter().try_for_each(|edge| say!("    {edge}"))?;
    report.tiles.iter().try_for_each(|share| say!("    {share}"))
}

/// The times of runs, sorted.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Latencies(times)
    }

    /// Returns the time that this share of the runs do not exceed, in microseconds (nearest rank).
    pub(crate) fn microseconds(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil().max(1.0) as usize;
        self.0.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "min": self.microseconds(0.0),
            "p50": self.microseconds(0.5),
            "p90": self.microseconds(0.9),
            "p99": self.microseconds(0.99),
        })
    }
}
