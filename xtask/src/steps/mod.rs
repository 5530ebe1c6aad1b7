//! The steps of the tests, and the benchmarks.

mod bench;
mod code;
mod lint;
mod models;
mod publish;
mod sanitize;

use std::time::{Duration, Instant};

pub(crate) use bench::{
    bench, bench_assign, bench_handover, bench_pipeline, bench_placement, bench_schedule, bench_shapes, bench_sweep,
    bench_tiles, bench_trees, bench_types, reported,
};
pub(crate) use code::{build, cuda, fault_streams, features, fuzz, loom, neon, release, unit};
pub(crate) use lint::{docs, lint, write_api};
pub(crate) use models::{conformance, kills, models, mutations, oracle, placements, trained};
pub(crate) use publish::publish;
pub(crate) use sanitize::sanitize;

use crate::devices::Sample;
use crate::workspace::{Result, Workspace};

/// A step's name, and the function that does the step.
type Step = (&'static str, fn(&Workspace) -> Result<()>);

const SEED: u64 = 1;
/// Of the generated cases, devices other than the CPU run one in this number; a night runs all.
pub(crate) const EVERY: u32 = 4;
const MUTATIONS: u64 = 2000;
/// The number of times that a night kills commands in each phase.
const NIGHTLY_KILLS: u32 = 100;
/// The number of mutations for which a night has time.
const NIGHTLY_MUTATIONS: u64 = 20_000;
const NIGHTLY_SECONDS: u64 = 300;

/// Runs every step, and prints a summary.
/// It goes on after a failed step, so that one run shows all failures.
///
/// Downloads wait for the network, so they come beside the steps that need none of them and keep
/// the processor busy.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    const DOWNLOADS: [(&str, &str); 2] = [("setup", "setup"), ("packages", "models")];
    const BESIDE: [Step; 2] = [("lint", lint), ("build", build)];
    const STEPS: [Step; 10] = [
        ("unit", unit),
        ("neon", neon),
        ("features", features),
        ("cuda", cuda),
        ("conformance", |workspace| conformance(workspace, &Sample { every: EVERY, seed: SEED })),
        ("oracle", |workspace| oracle(workspace, SEED)),
        ("models", |workspace| models(workspace, SEED, &[])),
        ("placements", |workspace| placements(workspace, SEED)),
        ("mutations", |workspace| mutations(workspace, MUTATIONS, SEED)),
        ("release", release),
    ];
    let began = Instant::now();
    println!("setup and packages run beside the next steps, and are shown when they are over");
    let mut done: Vec<Done> = std::thread::scope(|scope| {
        let downloads = scope.spawn(|| DOWNLOADS.map(|(name, task)| apart(workspace, name, task)));
        let beside = BESIDE.map(|(name, step)| here(workspace, name, step));
        let downloads = downloads.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let downloads = downloads.into_iter().map(|(done, output)| {
            println!("\n=== {}, beside the steps above ===\n{output}", done.name);
            done
        });
        downloads.chain(beside).collect()
    });
    done.extend(STEPS.map(|(name, step)| here(workspace, name, step)));
    println!("\n{}", summary(&done, began.elapsed()));
    together(done.into_iter().map(|step| (step.name, step.outcome)))
}

/// A step that has run.
struct Done {
    name: &'static str,
    took: Duration,
    outcome: Result<()>,
}

/// Runs a step, which prints what it does.
fn here(workspace: &Workspace, name: &'static str, step: fn(&Workspace) -> Result<()>) -> Done {
    println!("\n=== {name} ===");
    let began = Instant::now();
    let outcome = step(workspace);
    if let Err(error) = &outcome {
        println!("{name}: {error}");
    }
    Done { name, took: began.elapsed(), outcome }
}

/// Runs a task of this program as a process of its own, and returns what it printed too.
fn apart(workspace: &Workspace, name: &'static str, task: &str) -> (Done, String) {
    let began = Instant::now();
    let output = std::env::current_exe().and_then(|program| workspace.command(program, &[task]).output());
    let (printed, outcome) = match output {
        Ok(output) => {
            let printed = [output.stdout, output.stderr].concat();
            let failed =
                (!output.status.success()).then(|| format!("`cargo xtask {task}` ended with {}", output.status));
            (String::from_utf8_lossy(&printed).into_owned(), failed.map_or(Ok(()), Err))
        }
        Err(error) => (String::new(), Err(format!("cannot start `cargo xtask {task}`: {error}"))),
    };
    (Done { name, took: began.elapsed(), outcome }, printed)
}

/// Returns a line for each step, and one for all of them, which took less than their sum where some
/// ran side by side.
fn summary(steps: &[Done], took: Duration) -> String {
    let line = |step: &Done| {
        let word = if step.outcome.is_ok() { "passed" } else { "FAILED" };
        format!("{:>7.1} s  {word}  {}\n", step.took.as_secs_f64(), step.name)
    };
    let lines: String = steps.iter().map(line).collect();
    let failed = steps.iter().filter(|step| step.outcome.is_err()).count();
    format!("{lines}{:>7.1} s  in all: {} passed, {failed} failed", took.as_secs_f64(), steps.len() - failed)
}

/// Returns one outcome of several parts, all of which have run.
/// An error names each part that failed, and says why.
pub(crate) fn together<'a>(parts: impl IntoIterator<Item = (&'a str, Result<()>)>) -> Result<()> {
    let (mut count, mut failed) = (0, Vec::new());
    for (name, outcome) in parts {
        count += 1;
        if let Err(error) = outcome {
            failed.push(format!("\n    {name}: {}", error.replace('\n', "\n    ")));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} of {count} failed{}", failed.len(), failed.concat())) }
}

/// Runs what every night runs: all generated cases on every device, long streams under faults, more
/// mutations, commands killed in each phase, and fuzzing.
pub(crate) fn nightly(workspace: &Workspace, seed: u64) -> Result<()> {
    together([
        ("conformance", conformance(workspace, &Sample { every: 1, seed })),
        ("streams under faults", fault_streams(workspace)),
        ("mutations", mutations(workspace, NIGHTLY_MUTATIONS, seed)),
        ("kills", kills(workspace, NIGHTLY_KILLS)),
        ("fuzzing", fuzz(workspace, NIGHTLY_SECONDS)),
        ("sanitizers", sanitize(workspace)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_that_failed_are_named_with_their_reasons() {
        let parts =
            [("a", Ok(())), ("b", Err("broken".to_owned())), ("c", Err("1 of 2 failed\n    d: gone".to_owned()))];
        let error = together(parts).unwrap_err();
        assert_eq!(error, "2 of 3 failed\n    b: broken\n    c: 1 of 2 failed\n        d: gone");
        assert_eq!(together([("a", Ok(())), ("b", Ok(()))]), Ok(()));
    }

    #[test]
    fn the_summary_has_a_line_for_each_step_and_says_which_failed() {
        let step = |name, outcome| Done { name, took: Duration::from_millis(1500), outcome };
        let said = summary(&[step("lint", Ok(())), step("unit", Err("broken".into()))], Duration::from_secs(2));
        assert_eq!(said, "    1.5 s  passed  lint\n    1.5 s  FAILED  unit\n    2.0 s  in all: 1 passed, 1 failed");
    }
}
