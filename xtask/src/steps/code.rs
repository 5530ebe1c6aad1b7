//! The steps that build and test the code itself.

use super::together;
use crate::workspace::{Result, Workspace, drivers_required, run, succeeds};
use crate::{drivers, setup};

/// Packages of which only the CPU's crate has a library.
/// The others are named for the features that they ask of dependencies, so that these need not be
/// built again for that crate alone.
const OF_THE_CPU: [&str; 6] = ["--package", "hetero-cpu", "--package", "hetero-cli", "--package", "xtask"];

/// Builds all tests, and the command line that later steps run.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    workspace.cargo(&["test", "--workspace", "--no-run"])
}

pub(crate) fn unit(workspace: &Workspace) -> Result<()> {
    // One failure must not hide others.
    const ALL: &str = "--no-fail-fast";
    if !succeeds(&mut workspace.command("cargo", &["nextest", "--version"])) {
        return workspace.cargo(&["test", "--workspace", ALL]);
    }
    together([
        ("tests", workspace.cargo(&["nextest", "run", "--workspace", ALL])),
        ("examples in docs", workspace.cargo(&["test", "--workspace", "--doc", ALL])),
    ])
}

/// Runs the README's first command and conformance on a release build, with the CPU alone: with the
/// other devices it takes three times as long to build.
///
/// The other steps run a build with assertions and overflow checks.
/// This one is optimised as a whole, so it may behave differently where code is not sound.
pub(crate) fn release(workspace: &Workspace) -> Result<()> {
    let run = ["run", "--release", "--package", "hetero-cli", "--no-default-features", "--features", "cpu", "--"];
    let hetero = |arguments: &[&str]| workspace.cargo(&[&run[..], arguments].concat());
    together([
        ("the README's first command", hetero(&["demo"])),
        ("conformance", hetero(&["conformance", "--device", "cpu:0"])),
    ])
}

/// Checks every combination of the engine's features, with the lints that `lint` has for all of
/// them together.
pub(crate) fn features(workspace: &Workspace) -> Result<()> {
    let names = features_of(workspace, "hetero")?;
    let sets = (0..1u32 << names.len()).map(|set| {
        let chosen: Vec<&str> = (0..names.len()).filter(|at| set >> at & 1 == 1).map(|at| &*names[at]).collect();
        ("hetero", features_compile(workspace, "hetero", &chosen))
    });
    // The command line passes its features on to the engine, so one combination that leaves devices
    // out shows that it compiles without them.
    let cli = std::iter::once_with(|| ("hetero-cli", features_compile(workspace, "hetero-cli", &["cpu"])));
    together(sets.chain(cli))
}

/// Returns the names of a package's features but `default`, which is one of the combinations of the
/// others.
fn features_of(workspace: &Workspace, package: &str) -> Result<Vec<String>> {
    let packages = workspace.packages(&["--no-deps"])?;
    let features =
        packages.iter().find(|found| found["name"] == package).and_then(|found| found["features"].as_object());
    let features = features.ok_or_else(|| format!("`cargo metadata` names no package {package}"))?;
    Ok(features.keys().filter(|name| *name != "default").cloned().collect())
}

fn features_compile(workspace: &Workspace, package: &str, features: &[&str]) -> Result<()> {
    let chosen = features.join(",");
    let arguments = ["clippy", "--quiet", "--package", package, "--no-default-features", "--features", &chosen];
    workspace.cargo(&[&arguments[..], &["--", "-D", "warnings"]].concat())
}

/// Compiles the kernels that devices share as CUDA C, for GPUs that need not be there, and does not
/// run them.
pub(crate) fn cuda(workspace: &Workspace) -> Result<()> {
    if !drivers::WHEELS_RUN {
        let why = "CUDA's compilers are not for this system";
        println!("skipped: {why}");
        return if drivers_required() { Err(why.to_owned()) } else { Ok(()) };
    }
    drivers::cuda(workspace)?;
    let sources = workspace.root.join("target").join("kernels-cuda");
    // A kernel that no longer exists would be compiled too.
    if sources.exists() {
        std::fs::remove_dir_all(&sources).map_err(|error| format!("cannot remove {}: {error}", sources.display()))?;
    }
    let sources = sources.to_string_lossy();
    // As in `Workspace::tested_hetero`, the whole workspace is named.
    workspace.cargo(&["test", "--quiet", "--workspace", "--example", "emit", "--no-run"])?;
    workspace.run(workspace.debug_folder().join("examples").join("emit"), &["cuda", &sources])?;
    let script = workspace.script("nvrtc.py");
    workspace.run(drivers::cuda_python(workspace), &[&*script.to_string_lossy(), &*sources])
}

/// Tries the lock-free parts of the CPU device's pool, and of the work that devices take from each
/// other, in every order of their steps.
/// The pool's gate is tried in every order that three interruptions give.
/// So are the hand-overs of the crew that serves queues, with two interruptions.
/// See `model.rs` in `backends/cpu/src/pool`, and in `shares` and `crew` of `backends/kit/src`.
///
/// These are unit tests, so `unit` runs them too.
pub(crate) fn loom(workspace: &Workspace) -> Result<()> {
    let tests = ["--package", "hetero-kit", "--lib", "--no-fail-fast", "--", "model::"];
    workspace.cargo(&[&["test"][..], &OF_THE_CPU, &tests].concat())
}

/// Streams a thousand inputs through each device and each pair of devices, with each fault of the
/// fault layer.
pub(crate) fn fault_streams(workspace: &Workspace) -> Result<()> {
    workspace.cargo(&["test", "--workspace", "--test", "fault_streams", "--", "--ignored", "--nocapture"])
}

/// Tests the CPU device's NEON kernels where there is no such processor: its instructions are
/// emulated, so the times say nothing of speed.
pub(crate) fn neon(workspace: &Workspace) -> Result<()> {
    let tests = ["--lib", "--test", "kernels", "--no-fail-fast", "--", "--nocapture"];
    let arguments = [&["test", "--features", "hetero-cpu/emulated-neon"][..], &OF_THE_CPU, &tests].concat();
    run(workspace.command("cargo", &arguments).env("HETERO_ISA", "neon"))
}

/// Fuzzes each target of `fuzz`, beginning with the standard's smaller models.
pub(crate) fn fuzz(workspace: &Workspace, seconds: u64) -> Result<()> {
    setup::models(workspace, &["onnx".to_owned()])?;
    let cargo_fuzz = setup::cargo_fuzz(workspace)?;
    let data = workspace.cache.join("onnx-1.22.0/onnx/backend/test/data");
    let fuzz_target = |target: &str| {
        let corpus = workspace.cache.join("corpus").join(target);
        seeds(&data, &corpus).map_err(|error| format!("cannot fill {}: {error}", corpus.display()))?;
        let target_folder = workspace.root.join("target").join("fuzz");
        let target_folder = target_folder.to_string_lossy();
        let limits = [format!("-max_total_time={seconds}"), "-timeout=20".to_owned(), "-rss_limit_mb=4096".to_owned()];
        let mut arguments = vec!["fuzz", "run", "--fuzz-dir", "fuzz", "--target-dir", &*target_folder, target];
        let corpus = corpus.to_string_lossy();
        arguments.extend([&*corpus, "--", "-print_final_stats=1"]);
        arguments.extend(limits.iter().map(String::as_str));
        run(workspace.command(&cargo_fuzz, &arguments).env("RUSTUP_TOOLCHAIN", "nightly"))
    };
    together(["import", "run"].map(|target| (target, fuzz_target(target))))
}

/// Copies the standard's models of up to 4 KiB into a corpus, where they are not there yet.
fn seeds(data: &std::path::Path, corpus: &std::path::Path) -> std::io::Result<()> {
    const LARGEST: u64 = 4096;
    std::fs::create_dir_all(corpus)?;
    for family in ["node", "simple", "pytorch-operator", "pytorch-converted"] {
        for case in std::fs::read_dir(data.join(family))? {
            let case = case?;
            let (model, seed) = (case.path().join("model.onnx"), corpus.join(case.file_name()));
            if !seed.exists() && model.metadata().is_ok_and(|found| found.len() <= LARGEST) {
                std::fs::copy(model, seed)?;
            }
        }
    }
    Ok(())
}
