//! The steps of the tests, and the benchmarks.

mod bench;
mod code;
mod conformance;
mod devices;
mod lint;
mod models;
mod mutants;
mod release;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(crate) use bench::{
    bench, bench_assign, bench_handover, bench_pipeline, bench_placement, bench_schedule, bench_tiles,
};
pub(crate) use code::{cuda, features, fuzz, loom, neon, unit};
pub(crate) use conformance::{conformance, oracle};
pub(crate) use lint::{docs, lint, write_api};
pub(crate) use models::{models, mutations, placements};
pub(crate) use mutants::mutants;
pub(crate) use release::release;

use crate::workspace::{Result, Workspace};

/// A step's name, and the function that does the step.
type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// The steps that need nothing of set-up, which is done beside them.
const BEFORE_SETUP: [Step; 5] =
    [("lint", lint), ("features", features), ("build", code::build), ("loom", loom), ("neon", neon)];
/// The steps that run on drivers, or compare with what set-up installs.
const AFTER_SETUP: [Step; 8] = [
    ("unit", unit),
    ("cuda", cuda),
    ("conformance", |workspace| conformance(workspace, EVERY)),
    ("oracle", |workspace| oracle(workspace, SEED)),
    ("models", |workspace| models(workspace, Build::Tested, SEED, &[])),
    ("placements", |workspace| placements(workspace, Build::Tested, SEED)),
    ("mutations", |workspace| mutations(workspace, Build::Tested, MUTATIONS, SEED)),
    ("release", |workspace| release(workspace, false)),
];

const SEED: u64 = 1;
/// Of the generated cases, one in this number is run on devices other than the CPU, because their
/// drivers take up to half a second to compile a case.
/// `nightly` runs all of them.
pub(crate) const EVERY: u32 = 2;
const MUTATIONS: u64 = 2000;
/// The number of mutations for which a night has time.
const NIGHTLY_MUTATIONS: u64 = 20_000;
const NIGHTLY_SECONDS: u64 = 300;

/// A way in which the code that a step runs is built.
#[derive(Clone, Copy)]
pub(crate) enum Build {
    /// As tests are: it checks its own assertions and overflows.
    Tested,
    /// As users get it.
    Release,
}

impl Build {
    /// Builds the binary, and returns its path.
    fn hetero(self, workspace: &Workspace) -> Result<PathBuf> {
        match self {
            Build::Tested => workspace.tested_hetero(),
            Build::Release => workspace.hetero(),
        }
    }
}

/// Runs every step, and prints a summary.
/// It goes on after a failed step, so that one run shows all failures.
/// Set-up, which mostly waits for downloads, is done beside the steps that do not need it.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    let began = Instant::now();
    let done = std::thread::scope(|scope| {
        let installing = scope.spawn(|| install(workspace));
        let mut done: Vec<Done> = BEFORE_SETUP.iter().map(|step| perform(workspace, step)).collect();
        println!("\n=== setup ===");
        let (said, installed) = installing.join().unwrap_or_else(|_| {
            let outcome = Err("its thread panicked".to_owned());
            (String::new(), Done { name: "setup", took: Duration::ZERO, outcome })
        });
        print!("{said}");
        done.push(installed);
        done.extend(AFTER_SETUP.iter().map(|step| perform(workspace, step)));
        done
    });
    println!("\n{}", summary(&done, began.elapsed()));
    together(done.into_iter().map(|step| (step.name, step.outcome)))
}

/// Runs a step.
fn perform(workspace: &Workspace, (name, step): &Step) -> Done {
    println!("\n=== {name} ===");
    let began = Instant::now();
    let outcome = step(workspace);
    if let Err(error) = &outcome {
        println!("{name}: {error}");
    }
    Done { name, took: began.elapsed(), outcome }
}

/// Installs everything and downloads the packages, in other processes.
/// Returns what they said, so that it does not stand between the lines of other steps.
fn install(workspace: &Workspace) -> (String, Done) {
    let began = Instant::now();
    let mut said = String::new();
    let parts = ["setup", "models"].map(|part| {
        let output = std::env::current_exe().and_then(|program| workspace.command(program, &[part]).output());
        let outcome = output.map_err(|error| format!("cannot start it: {error}")).and_then(|output| {
            said += &String::from_utf8_lossy(&output.stdout);
            said += &String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(format!("it ended with {}", output.status)) }
        });
        (part, outcome)
    });
    let outcome = together(parts);
    (said, Done { name: "setup", took: began.elapsed(), outcome })
}

/// A step that has run.
struct Done {
    name: &'static str,
    took: Duration,
    outcome: Result<()>,
}

/// Returns a line for each step, and one for all of them, which took `total` together.
fn summary(steps: &[Done], total: Duration) -> String {
    let line = |step: &Done| {
        let word = if step.outcome.is_ok() { "passed" } else { "FAILED" };
        format!("{:>7.1} s  {word}  {}\n", step.took.as_secs_f64(), step.name)
    };
    let lines: String = steps.iter().map(line).collect();
    let failed = steps.iter().filter(|step| step.outcome.is_err()).count();
    format!("{lines}{:>7.1} s  in all: {} passed, {failed} failed", total.as_secs_f64(), steps.len() - failed)
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

/// Runs what every night runs: what continuous integration samples whole, more mutations, and
/// fuzzing.
/// Models run on the binary that users get.
pub(crate) fn nightly(workspace: &Workspace, seed: u64) -> Result<()> {
    together([
        ("conformance", conformance(workspace, 1)),
        ("models", models(workspace, Build::Release, seed, &[])),
        ("placements", placements(workspace, Build::Release, seed)),
        ("mutations", mutations(workspace, Build::Release, NIGHTLY_MUTATIONS, seed)),
        ("release", release(workspace, true)),
        ("fuzzing", fuzz(workspace, NIGHTLY_SECONDS)),
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
        let steps = [step("lint", Ok(())), step("unit", Err("broken".into()))];
        let said = summary(&steps, Duration::from_millis(2500));
        assert_eq!(said, "    1.5 s  passed  lint\n    1.5 s  FAILED  unit\n    2.5 s  in all: 1 passed, 1 failed");
    }
}
