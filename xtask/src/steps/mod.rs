//! The steps of the tests, and the benchmarks.

mod bench;
mod code;
mod lint;
mod models;

use std::time::{Duration, Instant};

pub(crate) use bench::{
    bench, bench_assign, bench_handover, bench_pipeline, bench_placement, bench_schedule, bench_tiles, reported,
};
pub(crate) use code::{cuda, features, fuzz, loom, neon, unit};
pub(crate) use lint::{docs, lint, write_api};
pub(crate) use models::{conformance, models, mutations, oracle, placements};

use crate::setup;
use crate::workspace::{Result, Workspace};

/// A step's name, and the function that does the step.
type Step = (&'static str, fn(&Workspace) -> Result<()>);

const SEED: u64 = 1;
const MUTATIONS: u64 = 2000;
/// The number of mutations for which a night has time.
const NIGHTLY_MUTATIONS: u64 = 20_000;
const NIGHTLY_SECONDS: u64 = 300;

/// Runs every step, and prints a summary.
/// It goes on after a failed step, so that one run shows all failures.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    const STEPS: [Step; 13] = [
        ("setup", setup::setup),
        ("packages", |workspace| setup::models(workspace, &[])),
        ("lint", lint),
        ("unit", unit),
        ("loom", loom),
        ("neon", neon),
        ("features", features),
        ("cuda", cuda),
        ("conformance", conformance),
        ("oracle", |workspace| oracle(workspace, SEED)),
        ("models", |workspace| models(workspace, SEED, &[])),
        ("placements", |workspace| placements(workspace, SEED)),
        ("mutations", |workspace| mutations(workspace, MUTATIONS, SEED)),
    ];
    let mut done = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name} ===");
        let began = Instant::now();
        let outcome = step(workspace);
        if let Err(error) = &outcome {
            println!("{name}: {error}");
        }
        done.push(Done { name, took: began.elapsed(), outcome });
    }
    println!("\n{}", summary(&done));
    together(done.into_iter().map(|step| (step.name, step.outcome)))
}

/// A step that has run.
struct Done {
    name: &'static str,
    took: Duration,
    outcome: Result<()>,
}

/// Returns a line for each step, and one for all of them.
fn summary(steps: &[Done]) -> String {
    let line = |step: &Done| {
        let word = if step.outcome.is_ok() { "passed" } else { "FAILED" };
        format!("{:>7.1} s  {word}  {}\n", step.took.as_secs_f64(), step.name)
    };
    let lines: String = steps.iter().map(line).collect();
    let total: Duration = steps.iter().map(|step| step.took).sum();
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

/// Runs what every night runs: more mutations, and fuzzing.
pub(crate) fn nightly(workspace: &Workspace, seed: u64) -> Result<()> {
    together([
        ("mutations", mutations(workspace, NIGHTLY_MUTATIONS, seed)),
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
        let said = summary(&[step("lint", Ok(())), step("unit", Err("broken".into()))]);
        assert_eq!(said, "    1.5 s  passed  lint\n    1.5 s  FAILED  unit\n    3.0 s  in all: 1 passed, 1 failed");
    }
}
