//! `hetero plan --explain`: says why a plan is as it is.

use std::path::Path;
use std::time::Duration;

use hetero::scheduler::{Effort, Explanation, Leg, bytes_text, difference_text, seconds_text};
use hetero::{HeteroEngine, Plan};

use crate::arguments::PlanOptions;
use crate::failure::{Failure, Result};

/// The time that the lower bound may take.
const BOUND: Duration = Duration::from_secs(1);
/// The most lines of a list; further ones are only counted.
const MOST: usize = 12;

/// Explains a plan, and writes the pages that were asked for.
pub(crate) fn explain(engine: &HeteroEngine, plan: &Plan, options: &PlanOptions) -> Result<Explanation> {
    let explanation = engine.explain(plan, Effort::time(BOUND))?;
    let title = options.model.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let write =
        |path: &Path, text: String| std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error));
    if let Some(path) = &options.html {
        write(path, explanation.to_html(&title))?;
    }
    if let Some(path) = &options.dot {
        write(path, explanation.to_dot(&title))?;
    }
    Ok(explanation)
}

/// Prints at most `MOST` lines of a list.
fn list(heading: &str, lines: impl ExactSizeIterator<Item = String>) {
    let count = lines.len();
    if count == 0 {
        return;
    }
    println!("{heading}");
    lines.take(MOST).for_each(|line| println!("    {line}"));
    if count > MOST {
        println!("    and {} more", count - MOST);
    }
}

/// Prints the explanation for people.
pub(crate) fn print(explanation: &Explanation) {
    let gap = if explanation.bound > 0.0 { explanation.makespan / explanation.bound - 1.0 } else { 0.0 };
    println!(
        "a run takes {}; no plan takes less than {} ({:.1} % less); inputs of a stream follow each other after {} at best",
        seconds_text(explanation.makespan),
        seconds_text(explanation.bound),
        gap / (1.0 + gap) * 100.0,
        seconds_text(explanation.period)
    );
    if let Some(joules) = explanation.joules {
        println!("a run spends {joules:.3} J");
    }
    list(
        "devices",
        explanation.devices.iter().map(|device| {
            let alone = match (&device.alone, &device.lacks) {
                (Some(seconds), _) => format!("everything on it would take {}", seconds_text(*seconds)),
                (None, lacks) => format!("it cannot take everything: {}", lacks.as_deref().unwrap_or("unknown")),
            };
            format!(
                "{}: {} tasks, busy {} ({:.0} %), holds {}; {alone}",
                device.device,
                device.tasks,
                seconds_text(device.busy),
                device.share * 100.0,
                bytes_text(device.memory)
            )
        }),
    );
    list("partitions", explanation.partitions.iter().map(|partition| explanation.reason(partition)));
    list(
        "critical path",
        explanation.critical_path.iter().map(|leg| match leg {
            Leg::Partition { partition, seconds } => format!("partition {partition}: {}", seconds_text(*seconds)),
            Leg::Transfer { from, to, seconds } => {
                format!("transfer from partition {from} to {to}: {}", seconds_text(*seconds))
            }
        }),
    );
    let price: f64 = explanation.transfers.iter().map(|transfer| transfer.seconds).sum();
    list(
        &format!("transfers, {} in all, longest first", seconds_text(price)),
        explanation.transfers.iter().map(|transfer| {
            format!(
                "{} ({}) to {} ({}): {} in {}{}",
                transfer.from.0,
                transfer.from.1,
                transfer.to.0,
                transfer.to.1,
                bytes_text(transfer.bytes),
                seconds_text(transfer.seconds),
                if transfer.critical { ", and the run waits for it" } else { "" }
            )
        }),
    );
    list(
        "other placements, quickest first",
        explanation.alternatives.iter().map(|other| {
            let difference = difference_text(other.makespan - explanation.makespan);
            format!("{}: {} ({difference})", other.change, seconds_text(other.makespan))
        }),
    );
}
