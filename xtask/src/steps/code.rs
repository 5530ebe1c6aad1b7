//! The steps that build and test the code itself.

use super::release::metadata;
use super::together;
use crate::workspace::{Result, Workspace, drivers_required, run, succeeds};
use crate::{cfg, drivers, setup};

/// Builds all that tests need, once for all steps that run it.
pub(super) fn build(workspace: &Workspace) -> Result<()> {
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

/// Checks that every combination of the engine's features compiles, and the command line with the
/// CPU alone and with no device.
pub(crate) fn features(workspace: &Workspace) -> Result<()> {
    let check = |package: &str, features: &str| {
        workspace.cargo(&["check", "--quiet", "--package", package, "--no-default-features", "--features", features])
    };
    let engine = combinations(&features_of(workspace, "hetero")?).into_iter().map(|features| {
        let outcome = check("hetero", &features);
        (features, outcome)
    });
    let engine: Vec<_> = engine.collect();
    let engine = together(engine.iter().map(|(features, outcome)| (features.as_str(), outcome.clone())));
    // The command line passes its features on to the engine, so two combinations that leave devices
    // out show that it compiles without them.
    together([
        ("features of the engine", engine),
        ("the command line with the CPU alone", check("hetero-cli", "cpu")),
        ("the command line with no device", check("hetero-cli", "")),
    ])
}

/// Returns the names of a package's features.
/// `default` is left out, because it is one of the combinations of the others.
fn features_of(workspace: &Workspace, package: &str) -> Result<Vec<String>> {
    let document = metadata(workspace)?;
    let packages = document["packages"].as_array().ok_or("cargo metadata has no packages")?;
    let found = packages.iter().find(|found| found["name"] == package);
    let features = found.and_then(|found| found["features"].as_object());
    let features = features.ok_or_else(|| format!("cargo metadata has no features of {package}"))?;
    Ok(features.keys().filter(|name| *name != "default").cloned().collect())
}

/// Returns every combination of some names, each with commas between them.
fn combinations(names: &[String]) -> Vec<String> {
    names.iter().fold(vec![String::new()], |combinations, name| {
        let with = |without: &String| if without.is_empty() { name.clone() } else { format!("{without},{name}") };
        let with: Vec<_> = combinations.iter().map(with).collect();
        [combinations, with].concat()
    })
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
    workspace.tested_hetero()?;
    workspace.run(workspace.target().join("debug").join("examples").join("emit"), &["cuda", &sources])?;
    let script = workspace.script("nvrtc.py");
    workspace.run(drivers::cuda_python(workspace), &[&*script.to_string_lossy(), &*sources])
}

/// Tries the lock-free parts of the CPU device's pool, and of the work that devices take from each
/// other, in every order of their steps.
/// The pool's gate is tried in every order that three interruptions give.
/// See `backends/cpu/src/pool/gate.rs` and `backends/kit/src/shares.rs`.
pub(crate) fn loom(workspace: &Workspace) -> Result<()> {
    let packages = ["test", "--package", "hetero-kit", "--package", "hetero-cpu", "--lib", "--no-fail-fast"];
    let arguments = [&packages[..], &["--", "gate", "shares"]].concat();
    run(&mut cfg::cargo_with(workspace, "loom", &arguments)?)
}

/// Tests the CPU device's NEON kernels where there is no such processor: its instructions are
/// emulated, so the times say nothing of speed.
pub(crate) fn neon(workspace: &Workspace) -> Result<()> {
    let packages = ["test", "--package", "hetero-cpu", "--lib", "--test", "kernels", "--no-fail-fast"];
    let arguments = [&packages[..], &["--", "--nocapture"]].concat();
    run(cfg::cargo_with(workspace, "emulated_neon", &arguments)?.env("HETERO_ISA", "neon"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_features_is_there_once() {
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(combinations(&names), ["", "a", "b", "a,b", "c", "a,c", "b,c", "a,b,c"]);
    }
}
