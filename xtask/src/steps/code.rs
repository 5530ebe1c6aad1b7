//! The steps that build and test the code itself.

use super::together;
use crate::workspace::{Result, Workspace, drivers_required, run, succeeds};
use crate::{drivers, setup};

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

pub(crate) fn features(workspace: &Workspace) -> Result<()> {
    // The default features are those of one of the combinations; as a feature of their own, they
    // would have the rest checked twice.
    let combinations = ["--feature-powerset", "--exclude-features", "default", "--keep-going"];
    let arguments = [&["hack", "check", "--package", "hetero"][..], &combinations].concat();
    // A binary of the cache gets the subcommand's name first, as from cargo.
    let binary = setup::cargo_hack_binary(workspace);
    let engine = if binary.exists() { workspace.run(binary, &arguments) } else { workspace.cargo(&arguments) };
    // The command line passes its features on to the engine, so one combination that leaves devices
    // out shows that it compiles without them.
    let cli = ["check", "--package", "hetero-cli", "--no-default-features", "--features", "cpu"];
    together([("features of the engine", engine), ("the command line with the CPU alone", workspace.cargo(&cli))])
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
    workspace.cargo(&["run", "--quiet", "--package", "hetero-kernels", "--example", "emit", "--", "cuda", &sources])?;
    let script = workspace.script("nvrtc.py");
    workspace.run(drivers::cuda_python(workspace), &[&*script.to_string_lossy(), &*sources])
}

/// Tries the lock-free parts of the CPU device's pool, and of the work that devices take from each
/// other, in every order of their steps.
/// The pool's gate is tried in every order that three interruptions give.
/// See `backends/cpu/src/pool/gate.rs` and `backends/kit/src/shares.rs`.
pub(crate) fn loom(workspace: &Workspace) -> Result<()> {
    let target = workspace.root.join("target").join("loom");
    let target = target.to_string_lossy();
    // The build has a folder of its own, because the flag would have everything else built again.
    let packages = ["test", "--package", "hetero-kit", "--package", "hetero-cpu", "--lib", "--no-fail-fast"];
    let arguments = [&packages[..], &["--target-dir", &*target, "--", "gate", "shares"]].concat();
    run(workspace.command("cargo", &arguments).env("RUSTFLAGS", "--cfg loom"))
}

/// Tests the CPU device's NEON kernels where there is no such processor: its instructions are
/// emulated, so the times say nothing of speed.
pub(crate) fn neon(workspace: &Workspace) -> Result<()> {
    let target = workspace.root.join("target").join("neon");
    let target = target.to_string_lossy();
    let arguments =
        ["test", "--package", "hetero-cpu", "--lib", "--test", "kernels", "--no-fail-fast", "--target-dir", &*target];
    run(workspace
        .command("cargo", &[&arguments[..], &["--", "--nocapture"]].concat())
        .env("RUSTFLAGS", "--cfg emulated_neon")
        .env("HETERO_ISA", "neon"))
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
