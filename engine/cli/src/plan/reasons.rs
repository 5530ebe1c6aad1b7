//! Explanations of plans in words: seconds, bytes, and why a partition is where and when it is.

use std::fmt::Write as _;

use hetero::scheduler::{Explanation, Leg, PartitionReason, Wait};

/// Returns seconds as text, in a unit that suits their size.
pub(crate) fn seconds_text(seconds: f64) -> String {
    match seconds.abs() {
        0.0 => "0 s".to_owned(),
        size if size < 1e-3 => format!("{:.1} µs", seconds * 1e6),
        size if size < 1.0 => format!("{:.3} ms", seconds * 1e3),
        _ => format!("{seconds:.3} s"),
    }
}

/// Returns a difference of seconds as text, with its sign.
pub(crate) fn difference_text(seconds: f64) -> String {
    format!("{}{}", if seconds >= 0.0 { "+" } else { "-" }, seconds_text(seconds.abs()))
}

/// Returns bytes as text, in a unit that suits their size.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Tells whether a partition is on the critical path.
pub(crate) fn is_critical(explanation: &Explanation, partition: usize) -> bool {
    explanation
        .critical_path
        .iter()
        .any(|leg| matches!(leg, Leg::Partition { partition: other, .. } if *other == partition))
}

/// Returns who is busy with another partition while this one waits: its device, or the
/// processor that both devices share.
fn whose<'a>(explanation: &'a Explanation, partition: &'a PartitionReason, ahead: usize) -> &'a str {
    let other = explanation.partitions.get(ahead).is_some_and(|ahead| ahead.device != partition.device);
    if other { "the processor that both share" } else { &partition.device }
}

/// Returns the reason why a partition is where and when it is, in a few sentences.
pub(crate) fn reason(explanation: &Explanation, partition: &PartitionReason) -> String {
    let (first, last, count) = &partition.tasks;
    let tasks = if *count == 1 { first.clone() } else { format!("{count} tasks, {first} to {last}") };
    let waits = match &partition.waits_for {
        Wait::Nothing => "starts at once".to_owned(),
        Wait::Device(ahead) => {
            format!("starts when {} is done with partition {ahead}", whose(explanation, partition, *ahead))
        }
        Wait::Value { from, transfer } if *transfer > 0.0 => {
            format!("starts when a value of partition {from} has arrived, which takes {}", seconds_text(*transfer))
        }
        Wait::Value { from, .. } => format!("starts when partition {from} is done"),
    };
    let mut text = format!(
        "partition {} on {} ({tasks}): {} from {}; {waits}; {}",
        partition.partition,
        partition.device,
        seconds_text(partition.finish - partition.start),
        seconds_text(partition.start),
        if is_critical(explanation, partition.partition) {
            "on the critical path".to_owned()
        } else {
            format!("could finish {} later", seconds_text(partition.slack))
        }
    );
    for other in &partition.elsewhere {
        let _ = match (&other.obstacle, other.seconds, other.makespan) {
            (Some(obstacle), ..) => write!(text, ". Not on {}: {obstacle}", other.device),
            (None, Some(seconds), Some(makespan)) => write!(
                text,
                ". On {}: {}, and the run {}",
                other.device,
                seconds_text(seconds),
                difference_text(makespan - explanation.makespan)
            ),
            _ => Ok(()),
        };
    }
    text
}
