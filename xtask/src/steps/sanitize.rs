//! The `sanitize` step: tests under AddressSanitizer and under ThreadSanitizer.
//!
//! Both are nightly features of the compiler, which the stable one has too once
//! `RUSTC_BOOTSTRAP=1` is set.
//! AddressSanitizer watches all allocations, and all accesses of the code that is compiled here;
//! the toolchain's standard library, which is compiled without it, does not mind.
//! ThreadSanitizer would take the locks and fences inside such a library for races, so the standard
//! library is compiled anew with it, from rustup's component `rust-src`.
//! No report is left out.
//!
//! The models for Loom are: it switches stacks by itself, which ThreadSanitizer cannot follow, and
//! it finds more of them than one execution would.

use super::together;
use crate::setup;
use crate::workspace::{Result, Workspace, run};

/// The target; with one, build scripts and macros are compiled without a sanitizer.
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

/// The tests under AddressSanitizer: kernels, and all else that reads or writes memory that is not
/// its own, such as the pages of results, into which sessions let devices write.
const ADDRESS: [&[&str]; 4] = [
    &["--package", "hetero-kit", "--package", "hetero-arena", "--lib", "--tests"],
    &["--package", "hetero-cpu", "--lib", "--tests"],
    &["--package", "hetero-onnx", "--package", "hetero-null", "--package", "hetero-comm", "--lib", "--tests"],
    &["--package", "hetero", "--lib", "--test", "sessions", "--test", "handles"],
];

/// The tests under ThreadSanitizer: the pool with the kernels on it, queues, sessions and streams.
const THREAD: [&[&str]; 3] = [
    &["--package", "hetero-kit", "--package", "hetero-hal", "--lib"],
    &["--package", "hetero-cpu", "--lib", "--test", "kernels", "--test", "weights", "--test", "trees"],
    &["--package", "hetero", "--lib", "--test", "handles", "--test", "faults", "--test", "sessions", "--test", "late"],
];

/// Runs the tests of both sanitizers, each of which fails where there is a report.
pub(crate) fn sanitize(workspace: &Workspace) -> Result<()> {
    let address = ADDRESS.map(|tests| {
        // The compiler refuses a standard library that was compiled otherwise, unless it is told.
        let flags = "-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer";
        ("address", under(workspace, ("address", flags), &["test"], tests, ("ASAN_OPTIONS", "detect_leaks=0")))
    });
    let thread = setup::std_source(workspace).and_then(|()| {
        let of = |tests: &&[&str]| {
            let tests = [*tests, &["--", "--skip", "model::"]].concat();
            under(workspace, ("thread", "-Zsanitizer=thread"), &["-Zbuild-std", "test"], &tests, ("TSAN_OPTIONS", ""))
        };
        together(THREAD.iter().map(|tests| ("thread", of(tests))))
    });
    together(address.into_iter().chain([("thread", thread)]))
}

fn under(
    workspace: &Workspace,
    (sanitizer, flags): (&str, &str),
    command: &[&str],
    tests: &[&str],
    (key, value): (&str, &str),
) -> Result<()> {
    let folder = workspace.root.join("target").join(format!("sanitize-{sanitizer}"));
    let folder = folder.to_string_lossy();
    let arguments = [command, &["--no-fail-fast", "--target", TARGET, "--target-dir", &folder], tests].concat();
    run(workspace.command("cargo", &arguments).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags).env(key, value))
}
