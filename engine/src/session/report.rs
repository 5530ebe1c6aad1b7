//! Reports: what became of a plan, and how values pass between devices.

use std::collections::BTreeMap;

/// What stands for the caller's side in [`Traffic`].
pub(super) const HOST: &str = "host";

/// What a session did with its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Parts that the program was cut into, each compiled and submitted as a whole.
    pub partitions: usize,
    /// Device of each node.
    pub placement: BTreeMap<String, String>,
    /// A line for each node that runs on another device than the plan's, and for each device that was lost, with the reason.
    pub moved: Vec<String>,
    /// Bytes of all arenas: values between partitions, and the partitions' scratch; no weights, inputs and outputs, but for outputs that
    /// another device reads in place.
    pub arena_bytes: usize,
    /// Bytes of the weights that the devices keep in a form of their own.
    /// A weight that several partitions share counts once.
    pub resident_bytes: usize,
    /// What passes in a run, by sender and receiver: inputs, then values between devices, then outputs.
    pub edges: Vec<Traffic>,
    /// Of each group of tiles that devices take from each other, what each device did of it in the last run that ended; where all tiles
    /// are one device's alone, it does them in one go.
    pub tiles: Vec<TileShare>,
}

/// What a device did of a group of tiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TileShare {
    /// The operator that the tiles were cut from.
    pub group: String,
    /// The device's id.
    pub device: String,
    /// Tiles that the plan gives it.
    pub planned: usize,
    /// Tiles that it did.
    pub done: usize,
    /// Of these, tiles that the plan gives to others.
    pub stolen: usize,
}

impl std::fmt::Display for TileShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TileShare { group, device, planned, done, stolen } = self;
        write!(f, "{group}: {device} did {done} tiles, {stolen} of them of others; planned were {planned}")
    }
}

/// What passes from one device to another in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Id of the device that sends; `host` for inputs.
    pub from: String,
    /// Id of the device that receives; `host` for outputs.
    pub to: String,
    /// Number of values.
    pub values: usize,
    /// Bytes that the receiver reads where the sender wrote them.
    pub zero_copy_bytes: u64,
    /// Bytes that are copied.
    pub staged_bytes: u64,
    /// How often the receiver waits for the sender in a run, where its driver waits and the host
    /// does nothing in between.
    pub native_waits: usize,
    /// How often the receiver waits for the sender in a run through the host.
    pub host_waits: usize,
    /// Why something is copied; several reasons are parted by semicolons, and none is there where nothing is copied.
    pub reason: Option<String>,
}

/// The edge from one device to another.
pub(super) fn edge<'a>(edges: &'a mut Vec<Traffic>, from: &str, to: &str) -> &'a mut Traffic {
    let known = edges.iter().position(|edge| edge.from == from && edge.to == to);
    let index = known.unwrap_or_else(|| {
        edges.push(Traffic { from: from.to_owned(), to: to.to_owned(), ..Traffic::default() });
        edges.len() - 1
    });
    &mut edges[index]
}

/// Adds a value to the edge that it passes; `staged` says why it is copied.
pub(super) fn add(edges: &mut Vec<Traffic>, from: &str, to: &str, bytes: u64, staged: Option<&str>) {
    let edge = edge(edges, from, to);
    edge.values += 1;
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
        let Traffic { from, to, values, zero_copy_bytes, staged_bytes, native_waits, host_waits, reason } = self;
        let plural = if *values == 1 { "value" } else { "values" };
        write!(f, "{from} -> {to}: {values} {plural}, {zero_copy_bytes} bytes in place, {staged_bytes} copied")?;
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
        add(&mut edges, "a", "b", 8, None);
        for reason in ["it rains", "it rains", "it pours"] {
            add(&mut edges, "a", "b", 1, Some(reason));
        }
        add(&mut edges, "b", "a", 4, None);
        assert_eq!(edges[0].to_string(), "a -> b: 4 values, 8 bytes in place, 3 copied (it rains; it pours)");
        assert_eq!(edges[1].to_string(), "b -> a: 1 value, 4 bytes in place, 0 copied");
        (edges[1].native_waits, edges[1].host_waits) = (1, 2);
        let waits = ", 1 wait by the driver, 2 waits through the host";
        assert_eq!(edges[1].to_string(), format!("b -> a: 1 value, 4 bytes in place, 0 copied{waits}"));
    }
}
