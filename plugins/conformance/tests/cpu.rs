//! Tests that the CPU backend passes the whole suite, with one thread and with several.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use hetero_conformance::{
    Expectations, contract_cases, run_contract_cases, run_suite, run_weight_cases, suite, weight_cases,
};
use hetero_hal::{Driver, OpenOptions};

fn passes(threads: usize, seed: u64) {
    let options = OpenOptions { threads: Some(threads), ..OpenOptions::default() };
    let device = hetero_cpu::CpuDriver.open(0, &options).unwrap();
    let cases = suite(seed);
    let report = run_suite(&*device, &cases, &Expectations::default());
    println!("cpu:0, {threads} threads, seed {seed}: {} of {} cases passed", report.passed, cases.len());
    assert!(report.wrong.is_empty(), "{} wrong:\n{}", report.wrong.len(), report.wrong.join("\n"));
    assert_eq!(report.passed, cases.len());
}

#[test]
fn weights_are_shared_evicted_and_restored() {
    for threads in [1, 3] {
        let options = OpenOptions { threads: Some(threads), ..OpenOptions::default() };
        let device = hetero_cpu::CpuDriver.open(0, &options).unwrap();
        let report = run_weight_cases(&*device);
        assert!(report.wrong.is_empty(), "{threads} threads:\n{}", report.wrong.join("\n"));
        assert_eq!(report.passed, weight_cases().len());
    }
}

#[test]
fn one_thread() {
    passes(1, 1);
}

#[test]
fn three_threads() {
    passes(3, 2);
}

#[test]
fn the_contract_is_kept() {
    for threads in [1, 3] {
        let options = OpenOptions { threads: Some(threads), ..OpenOptions::default() };
        let device = hetero_cpu::CpuDriver.open(0, &options).unwrap();
        let report = run_contract_cases(&*device, &[]);
        assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
        // The device does not tell why it refuses a node, and there is no other device.
        assert_eq!(report.passed, contract_cases().len() - 3, "{:?}", report.reasons);
    }
}
