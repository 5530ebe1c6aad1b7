//! `hetero plan --explain`: says why a plan is as it is.

use std::path::Path;
use std::time::Duration;

use hetero::scheduler::{Effort, Explanation, Leg};
use hetero::{HeteroEngine, Plan};

use super::reasons::{bytes_text, difference_text, reason, seconds_text};
use super::{dot, gantt};
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
    let write = |path: &Path, text: String| {
        hetero_files::replace(path, text).map_err(|error| Failure::file("write", path, &error))
    };
    if let Some(path) = &options.html {
        write(path, gantt::page(&explanation, &title))?;
    }
    if let Some(path) = &options.dot {
        write(path, dot::graph(&explanation, &title))?;
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
    list("partitions", explanation.partitions.iter().map(|partition| reason(explanation, partition)));
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

#[cfg(test)]
mod tests {
    use hetero::scheduler::{
        DeviceSpec, Devices, Heft, LatencyAware, Link, Partitioner, Partitioning, Problem, Task, TaskGraph, TaskId,
    };
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Returns the explanation of a plan with `decode` and `<head>` on the CPU and `net` on the
    /// GPU, which has no decoder and no room for everything.
    fn explained() -> Explanation {
        let devices = [DeviceSpec::new("cpu:0"), DeviceSpec::new("gpu:0").with_memory(100)];
        let devices = Devices::uniform(devices, Link { latency: 1e-3, bandwidth: 1e6 }).unwrap();
        let mut graph = TaskGraph::builder(2);
        let row = |cpu: f64, gpu: Option<f64>| [Some(cpu), gpu];
        graph.task(Task::new("decode", row(2e-3, None)).with_energy([1.0, 0.0])).unwrap();
        graph.task(Task::new("net", row(90e-3, Some(9e-3))).with_memory(90).with_energy([4.0, 2.0])).unwrap();
        graph.task(Task::new("<head>", row(1e-3, Some(1e-3))).with_memory(20).with_energy([1.0, 2.0])).unwrap();
        graph.edge(TaskId(0), TaskId(1), 4000).unwrap();
        graph.edge(TaskId(1), TaskId(2), 1000).unwrap();
        let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
        let strategy = LatencyAware { effort: Effort::steps(100), seed: 1 };
        explain_by(&problem, &strategy).unwrap().1
    }

    fn explain_by(problem: &Problem, strategy: &dyn Partitioner) -> Option<(Partitioning, Explanation)> {
        let schedule = strategy.partition(problem).ok()?;
        let plan = Partitioning::from_schedule(problem, &schedule, "model", strategy.name()).unwrap();
        let explanation = Explanation::new(problem, &plan, Effort::steps(1)).unwrap();
        Some((plan, explanation))
    }

    #[test]
    fn reasons_name_devices_times_and_obstacles() {
        let explanation = explained();
        let net = reason(&explanation, &explanation.partitions[1]);
        assert!(net.contains("On cpu:0: 90.000 ms, and the run +74.000 ms"), "{net}");
        let decode = reason(&explanation, &explanation.partitions[0]);
        assert!(decode.contains("Not on gpu:0: 'decode' may not run there"), "{decode}");
        let head = reason(&explanation, &explanation.partitions[2]);
        assert!(head.contains("Not on gpu:0: its tasks would hold 110 bytes, and it has 100"), "{head}");
    }

    #[test]
    fn pages_and_graphs_hold_whatever_names_there_are() {
        let explanation = explained();
        let page = gantt::page(&explanation, "a <b> & \"c\"");
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(
            page.contains("a &lt;b&gt; &amp; &quot;c&quot;")
                && page.contains("&lt;head&gt;")
                && !page.contains("<head>\"")
        );
        for outside in ["http:", "https:", "src=", "@import", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        let dot = dot::graph(&explanation, "a \"model\"");
        assert!(dot.starts_with("digraph \"a \\\"model\\\"\" {") && dot.matches("->").count() == 2, "{dot}");
    }

    /// Returns a problem of up to 20 tasks on up to three devices that are all linked; each task
    /// runs on one of them at least, and is fed by earlier tasks.
    fn any_problem() -> impl Strategy<Value = Problem> {
        (1..4_usize).prop_flat_map(|devices| {
            let task = (vec(proptest::option::of(0.0..1.0_f64), devices), 0..devices, 0.0..1.0_f64);
            (vec(task, 1..20), vec((any::<u16>(), any::<u16>(), 0..10_000_u64), 0..40)).prop_map(
                move |(tasks, edges)| {
                    let specs = (0..devices).map(|device| DeviceSpec::new(device.to_string()));
                    let all = Devices::uniform(specs, Link { latency: 0.1, bandwidth: 1e4 }).unwrap();
                    let mut graph = TaskGraph::builder(devices);
                    let count = tasks.len();
                    for (index, (mut row, home, seconds)) in tasks.into_iter().enumerate() {
                        row[home] = Some(seconds);
                        graph.task(Task::new(index.to_string(), row)).unwrap();
                    }
                    for (a, b, bytes) in edges {
                        let (a, b) = (usize::from(a) % count, usize::from(b) % count);
                        if a != b {
                            graph.edge(TaskId(a.min(b)), TaskId(a.max(b)), bytes).unwrap();
                        }
                    }
                    Problem::new(graph.build().unwrap(), all).unwrap()
                },
            )
        })
    }

    proptest! {
        #[test]
        fn each_partition_has_one_bar(problem in any_problem()) {
            let Some((plan, explanation)) = explain_by(&problem, &Heft) else { return Ok(()) };
            prop_assert_eq!(gantt::page(&explanation, "x").matches("<g>").count(), plan.partitions.len());
        }
    }
}
