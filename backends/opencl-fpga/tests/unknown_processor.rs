//! A test that Intel's drivers compute right on a processor that they do not know, which QEMU
//! plays.
//! The part of the test that uses the drivers runs in QEMU.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::process::Command;

use hetero_conformance::{Case, Expectations, run_suite, suite};
use hetero_hal::{Driver, OpenOptions};
use hetero_opencl::OpenClDriver;

/// A variable that is set where the test runs in QEMU.
const INSIDE: &str = "HETERO_TEST_UNKNOWN_PROCESSOR";
/// A processor of AMD's Zen 5, as far as its name goes.
const PROCESSOR: &str = "max,vendor=AuthenticAMD,family=26,model=68";

#[test]
fn drivers_compute_right_on_a_processor_that_they_do_not_know() {
    if std::env::var_os(INSIDE).is_some() {
        return compute();
    }
    if Command::new("qemu-x86_64").arg("--version").output().is_err() {
        eprintln!("skipped: there is no qemu-x86_64 (Debian: qemu-user)");
        return;
    }
    let name = "drivers_compute_right_on_a_processor_that_they_do_not_know";
    let output = Command::new("qemu-x86_64")
        .args(["-cpu", PROCESSOR])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .env_remove("CL_CONFIG_CPU_TARGET_ARCH")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    eprintln!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{}", output.status);
}

/// Runs convolutions on each of Intel's devices, which come out wrong without the remedy.
fn compute() {
    let options = OpenOptions { extra: vec![("cache".into(), "off".into())], ..OpenOptions::default() };
    let cases: Vec<Case> =
        suite(1).unwrap().into_iter().filter(|case| case.name.starts_with("Conv ")).step_by(60).collect();
    for driver in [OpenClDriver::processors(), OpenClDriver::accelerators()] {
        let notices = driver.notices();
        let found = driver.probe().unwrap_or_default();
        // PoCL has another vendor name, and is not concerned.
        for info in found.iter().filter(|info| info.vendor.starts_with("Intel(R) Corporation")) {
            let told = notices.iter().find(|notice| notice.starts_with(&format!("{}: ", info.id))).unwrap();
            assert!(told.contains("AMD family 0x1A") && told.contains("compiled for core-avx2"), "{told}");
            let device = driver.open(info.id.ordinal(), &options).unwrap();
            let report = run_suite(&*device, &cases, &Expectations::default());
            assert!(report.wrong.is_empty() && report.passed > 0, "{}: {:?}", info.id, report.wrong);
            eprintln!("{told}: {} passed", report.passed);
        }
    }
}
