//! The `sanitize` step: tests under AddressSanitizer and under ThreadSanitizer.
//!
//! Both are nightly features of the compiler, which the stable one has too once
//! `RUSTC_BOOTSTRAP=1` is set.
//! The standard library of the toolchain is compiled without them.
//! AddressSanitizer does not mind: it watches all allocations, and all accesses of the code that is
//! compiled here.
//! ThreadSanitizer does not see the fences and locks inside the standard library, so reports whose
//! stacks lead through the parts of [`OUTSIDE`] are left out.
//! Most stacks of tests do, so that it finds little until the standard library is instrumented too,
//! for which the toolchain needs its source; races in lock-free code are for Loom to find.

use super::together;
use crate::workspace::{Result, Workspace, run};

/// The target; with one, build scripts and macros are compiled without a sanitizer.
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

/// The functions through which reports of ThreadSanitizer say nothing: the last owner of shared
/// memory frees it after a fence, which ThreadSanitizer does not know, and the test harness and
/// `std::thread` hand over results under locks that are not watched.
const OUTSIDE: [&str; 6] = ["drop_in_place", "drop_slow", "alloc::dealloc", "__rust_dealloc", "std::thread", "test::"];

/// The tests under AddressSanitizer: kernels, and all else that reads or writes memory that is not
/// its own.
const ADDRESS: [&[&str]; 3] = [
    &["--package", "hetero-kit", "--package", "hetero-arena", "--lib", "--tests"],
    &["--package", "hetero-cpu", "--lib", "--tests"],
    &["--package", "hetero-onnx", "--package", "hetero-null", "--lib", "--tests"],
];

/// The tests under ThreadSanitizer: the pool, queues, sessions and streams.
const THREAD: [&[&str]; 3] = [
    &["--package", "hetero-kit", "--package", "hetero-hal", "--lib"],
    &["--package", "hetero-cpu", "--lib", "--", "pool::", "queue::", "executable::"],
    &["--package", "hetero", "--test", "handles", "--test", "faults"],
];

/// Runs the tests of both sanitizers, and counts what they report.
pub(crate) fn sanitize(workspace: &Workspace) -> Result<()> {
    let suppressions = workspace.cache.join("thread-sanitizer.supp");
    let lines: String = OUTSIDE.iter().map(|name| format!("race:{name}\n")).collect();
    std::fs::write(&suppressions, lines)
        .map_err(|error| format!("cannot write {}: {error}", suppressions.display()))?;
    let options = format!("suppressions={} halt_on_error=0", suppressions.display());
    let address =
        ADDRESS.map(|tests| ("address", under(workspace, "address", tests, ("ASAN_OPTIONS", "detect_leaks=0"))));
    let thread = THREAD.map(|tests| ("thread", under(workspace, "thread", tests, ("TSAN_OPTIONS", &options))));
    together(address.into_iter().chain(thread))
}

fn under(workspace: &Workspace, sanitizer: &str, tests: &[&str], (key, options): (&str, &str)) -> Result<()> {
    let folder = workspace.root.join("target").join(format!("sanitize-{sanitizer}"));
    let folder = folder.to_string_lossy();
    let arguments = [&["test", "--no-fail-fast", "--target", TARGET, "--target-dir", &folder], tests].concat();
    // Without the second flag the compiler refuses a standard library that was compiled otherwise.
    let flags = format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer");
    run(workspace.command("cargo", &arguments).env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags).env(key, options))
}
