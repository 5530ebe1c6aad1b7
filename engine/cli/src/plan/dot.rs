//! A plan as a graph in Graphviz's language.

use std::fmt::Write as _;

use hetero::scheduler::Explanation;

use super::reasons::{bytes_text, is_critical, seconds_text};
use crate::output::shown;

/// Returns the plan as a graph in Graphviz's language: partitions by device, and the values
/// that pass between them.
pub(crate) fn graph(explanation: &Explanation, title: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", shown(text).replace('\\', "\\\\").replace('"', "\\\""));
    let mut dot =
        format!("digraph {} {{\n  rankdir=LR; node [shape=box, style=filled, fillcolor=\"#dbe6f3\"];\n", quoted(title));
    for (index, device) in explanation.devices.iter().enumerate().filter(|(_, device)| device.tasks > 0) {
        let _ = writeln!(dot, "  subgraph cluster_{index} {{\n    label={};", quoted(&device.device));
        for partition in explanation.partitions.iter().filter(|partition| partition.device == device.device) {
            let label = format!(
                "{}: {} tasks, {}",
                partition.partition,
                partition.tasks.2,
                seconds_text(partition.finish - partition.start)
            );
            let color = if is_critical(explanation, partition.partition) { ", fillcolor=\"#f3c99b\"" } else { "" };
            let _ = writeln!(dot, "    p{} [label={}{color}];", partition.partition, quoted(&label));
        }
        dot.push_str("  }\n");
    }
    for edge in &explanation.edges {
        let label = if edge.bytes > 0 {
            format!(" [label={}]", quoted(&format!("{}, {}", bytes_text(edge.bytes), seconds_text(edge.seconds))))
        } else {
            String::new()
        };
        let _ = writeln!(dot, "  p{} -> p{}{label};", edge.from, edge.to);
    }
    dot.push_str("}\n");
    dot
}
