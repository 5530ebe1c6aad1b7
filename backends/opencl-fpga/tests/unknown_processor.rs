//! Tests that Intel's drivers compute right on a processor that they do not know, and that the
//! examination of devices finds what they do without hetero's remedy.
//! QEMU plays such a processor where the machine has none; the part of a test that uses the drivers
//! then runs in QEMU.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::process::Command;
use std::sync::Arc;

use hetero_conformance::{Case, Expectations, run_suite, suite};
use hetero_examine::{Examination, FailureKind, answer_examination, is_examination};
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
        let found = driver.probe().unwrap_or_default();
        // PoCL has another vendor name, and is not concerned.
        for info in found.iter().filter(|info| info.vendor.starts_with("Intel(R) Corporation")) {
            let told = info.notice.as_ref().unwrap();
            assert!(told.contains("AMD family 0x1A") && told.contains("compiled for core-avx2"), "{told}");
            let device = driver.open(info.id.ordinal(), &options).unwrap();
            let report = run_suite(&*device, &cases, &Expectations::default());
            assert!(report.wrong.is_empty() && report.passed > 0, "{}: {:?}", info.id, report.wrong);
            eprintln!("{told}: {} passed", report.passed);
        }
    }
}

#[test]
fn the_examination_finds_what_drivers_do_without_the_remedy() {
    let name = "the_examination_finds_what_drivers_do_without_the_remedy";
    if is_examination() {
        let _ = answer_examination(&[
            Arc::new(OpenClDriver::processors()) as Arc<dyn Driver>,
            Arc::new(OpenClDriver::accelerators()),
        ]);
        return;
    }
    let here = std::env::current_exe().unwrap().to_string_lossy().into_owned();
    let qemu = ["qemu-x86_64", "-cpu", PROCESSOR].map(str::to_owned);
    let test = [here, name.to_owned(), "--exact".to_owned(), "--nocapture".to_owned()];
    match std::env::var(INSIDE).as_deref() {
        Ok("here") => return examine(&test),
        Ok(_) => return examine(&[&qemu[..], &test].concat()),
        Err(_) => {}
    }
    let run = |value: &str, words: &[String]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env(INSIDE, value).env("HETERO_OPENCL_REMEDIES", "off");
        let output = command.env_remove("CL_CONFIG_CPU_TARGET_ARCH").output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success() && said.contains("1 passed"), "{}\n{said}", output.status);
        said
    };
    let mut said = run("here", &test);
    // The drivers know this processor, or are not there.
    if !said.contains("found:") && Command::new(&qemu[0]).arg("--version").output().is_ok() {
        said = run("qemu", &[&qemu[..], &test].concat());
    }
    eprintln!("{said}");
    if !said.contains("found:") {
        eprintln!("skipped: Intel's drivers know this processor or are absent, and there is no qemu-x86_64");
    }
}

/// Examines each of Intel's devices by this program, started by these words.
fn examine(words: &[String]) {
    // Nothing that was compiled before is used.
    let options = OpenOptions { extra: vec![("cache".into(), "off".into())], ..OpenOptions::default() };
    let examination = Examination::here().kept_in(None).by(&words[0], words[1..].to_vec());
    let drivers: [Arc<dyn Driver>; 2] = [Arc::new(OpenClDriver::processors()), Arc::new(OpenClDriver::accelerators())];
    for driver in drivers {
        for info in driver.probe().unwrap_or_default().iter().filter(|info| info.notice.is_some()) {
            let verdict = examination.examine(&driver, info, &options);
            let failure = verdict.failure.clone().unwrap_or_else(|| panic!("{}: {verdict}", info.id));
            assert!(matches!(failure.kind, FailureKind::Wrong | FailureKind::Crashed), "{}: {failure}", info.id);
            let why = verdict.unavailable(info).unwrap();
            assert!(why.remedy.contains("CL_CONFIG_CPU_TARGET_ARCH"), "{why}");
            eprintln!("found: {}: {why}", info.id);
        }
    }
}
