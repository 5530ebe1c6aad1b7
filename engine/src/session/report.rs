//! Reports: what became of a plan, and how values pass between devices.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The name that stands for the caller's side in [`Traffic`].
pub(super) const HOST: &str = "host";

/// The report of what a session did with its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of parts that the program was cut into, each compiled and submitted as a whole.
    pub partitions: usize,
    /// The device of each node.
    /// The names are shared with the program and not copied.
    pub placement: BTreeMap<Arc<str>, Arc<str>>,
    /// A line for each node that runs on another device than the plan's, and for each device that
    /// was lost, with the reason.
    pub moved: Vec<String>,
    /// The bytes of all arenas: values between partitions, and the partitions' scratch.
    /// Weights, inputs and outputs do not count, but for outputs that another device reads in
    /// place.
    pub arena_bytes: usize,
    /// The bytes of the weights that the devices keep in a form of their own.
    /// A weight that several partitions share counts once.
    pub resident_bytes: usize,
    /// The traffic of a run, by sender and receiver: inputs, then values between devices, then
    /// outputs.
    pub edges: Vec<Traffic>,
    /// The share of each device in each group of tiles that devices take from each other, by the
    /// last run that ended.
    /// Where all tiles are one device's alone, it does them as one product.
    pub tiles: Vec<TileShare>,
}

/// The tiles of a group that a device did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TileShare {
    /// The name of the node that the tiles were cut from.
    pub group: String,
    /// The device's id.
    pub device: String,
    /// The number of tiles that the plan gives the device.
    pub planned: usize,
    /// The number of tiles that the device did.
    pub done: usize,
    /// The number of these tiles that the plan gives to others.
    pub stolen: usize,
}

impl std::fmt::Display for TileShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TileShare { group, device, planned, done, stolen } = self;
        write!(f, "{group}: {device} did {done} tiles, {stolen} of them of others; planned were {planned}")
    }
}

/// The traffic from one device to another in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The id of the device that sends; `host` for inputs.
    pub from: String,
    /// The id of the device that receives; `host` for outputs.
    pub to: String,
    /// The number of values.
    pub values: usize,
    /// The names of the transports that carry the values, each once, in the order of their first
    /// values: `zero-copy`, `peer-copy`, `staged`, or the name of a registered one.
    pub transports: Vec<String>,
    /// The bytes that the receiver reads where the sender wrote them.
    pub zero_copy_bytes: u64,
    /// The bytes that are copied.
    pub staged_bytes: u64,
    /// The number of times in a run that the receiver waits for the sender by its driver, while the
    /// host does nothing in between.
    pub native_waits: usize,
    /// The number of times in a run that the receiver waits for the sender through the host.
    pub host_waits: usize,
    /// The reason why something is copied, or several reasons with semicolons between them.
    /// There is none where nothing is copied.
    pub reason: Option<String>,
}

/// Returns the edge from one device to another.
pub(super) fn edge<'a>(edges: &'a mut Vec<Traffic>, from: &str, to: &str) -> &'a mut Traffic {
    let known = edges.iter().position(|edge| edge.from == from && edge.to == to);
    let index = known.unwrap_or_else(|| {
        edges.push(Traffic { from: from.to_owned(), to: to.to_owned(), ..Traffic::default() });
        edges.len() - 1
    });
    &mut edges[index]
}

/// Adds a value to the edge that it passes by a transport; `staged` says why it is copied.
pub(super) fn add(edges: &mut Vec<Traffic>, from: &str, to: &str, bytes: u64, transport: &str, staged: Option<&str>) {
    let edge = edge(edges, from, to);
    edge.values += 1;
    if !edge.transports.iter().any(|known| known == transport) {
        edge.transports.push(transport.to_owned());
    }
    let Some(reason) = staged else {
        edge.zero_copy_bytes += bytes;
        return;
    };
    edge.staged_bytes += bytes;
    edge.reason = Some(match edge.reason.take() {
        None => reason.to_owned(),
        Some(known) if known.split("; ").any(|part| part == reason) => known,
        Some(known) => format!("{known}; {reason}"),
    });
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Traffic { from, to, values, transports, zero_copy_bytes, staged_bytes, native_waits, host_waits, reason } =
            self;
        let plural = if *values == 1 { "value" } else { "values" };
        write!(f, "{from} -> {to}: {values} {plural}")?;
        if !transports.is_empty() {
            write!(f, " by {}", transports.join(" and "))?;
        }
        write!(f, ", {zero_copy_bytes} bytes in place, {staged_bytes} copied")?;
        if let Some(reason) = reason {
            write!(f, " ({reason})")?;
        }
        let waits = |count: usize| if count == 1 { "wait" } else { "waits" };
        if *native_waits > 0 {
            write!(f, ", {native_waits} {} by the driver", waits(*native_waits))?;
        }
        if *host_waits > 0 {
            write!(f, ", {host_waits} {} through the host", waits(*host_waits))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_sum_up_and_say_each_reason_once() {
        let mut edges = Vec::new();
        add(&mut edges, "a", "b", 8, "zero-copy", None);
        for reason in ["it rains", "it rains", "it pours"] {
            add(&mut edges, "a", "b", 1, "staged", Some(reason));
        }
        add(&mut edges, "b", "a", 4, "zero-copy", None);
        let both = "a -> b: 4 values by zero-copy and staged, 8 bytes in place, 3 copied (it rains; it pours)";
        assert_eq!(edges[0].to_string(), both);
        assert_eq!(edges[1].to_string(), "b -> a: 1 value by zero-copy, 4 bytes in place, 0 copied");
        (edges[1].native_waits, edges[1].host_waits) = (1, 2);
        let waits = ", 1 wait by the driver, 2 waits through the host";
        assert_eq!(edges[1].to_string(), format!("b -> a: 1 value by zero-copy, 4 bytes in place, 0 copied{waits}"));
    }
}
