//! A part of the conformance suite on every OpenCL device that is there.
//! `hetero conformance --device ID` runs the whole suite.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use hetero_conformance::{
    Case, Expectations, Outcome, check, check_network, contract_cases, network, run_contract_cases, run_weight_cases,
    suite, weight_cases,
};
use hetero_hal::{Device, Driver, OpenOptions};

use common::opened;

fn pass(device: &dyn Device, cases: &[Case]) {
    let mut report = hetero_conformance::SuiteReport::default();
    for case in cases {
        let outcome = check(device, case);
        if let Outcome::Failed(why) = &outcome {
            eprintln!("{}: {}: {why}", device.info().id, case.name);
        }
        report.weigh(&Expectations::default(), &case.name, &outcome);
    }
    let (passed, declined) = (report.passed, report.unsupported);
    eprintln!("{}: {passed} passed, {declined} unsupported, {} wrong", device.info().id, report.wrong.len());
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    assert!(passed > 0);
}

#[test]
fn devices_pass_what_they_claim() {
    let cases: Vec<Case> = suite(2).unwrap().into_iter().step_by(67).collect();
    opened(&OpenOptions::default()).iter().for_each(|device| pass(&**device, &cases));
}

/// Checks tiles, which only devices with memory for work groups use by default.
#[test]
fn products_by_tiles_are_right() {
    let options = OpenOptions { extra: vec![("tiles".into(), "on".into())], ..OpenOptions::default() };
    let products = ["Conv ", "MatMul", "Gemm", "LSTM"];
    let chosen = |case: &Case| products.iter().any(|name| case.name.starts_with(name));
    let cases: Vec<Case> = suite(3).unwrap().into_iter().filter(chosen).step_by(7).collect();
    opened(&options).iter().for_each(|device| pass(&**device, &cases));
}

/// Checks fusing, folding, renaming and scratch memory, which only occur in networks.
#[test]
fn random_networks_agree_with_the_oracle() {
    for device in opened(&OpenOptions::default()) {
        for seed in 1000..1010 {
            let (program, inputs) = network(seed).unwrap();
            let outcome = check_network(&*device, &program, &inputs);
            assert!(matches!(outcome, Outcome::Passed(_)), "{}, seed {seed}: {outcome:?}", device.info().id);
        }
    }
}

#[test]
fn weights_are_shared_evicted_and_restored() {
    for device in opened(&OpenOptions::default()) {
        let report = run_weight_cases(&*device);
        assert!(report.wrong.is_empty(), "{}:\n{}", device.info().id, report.wrong.join("\n"));
        assert_eq!(report.passed, weight_cases().len(), "{}: {:?}", device.info().id, report.reasons);
    }
}

#[test]
fn the_contract_is_kept() {
    let mut peers = opened(&OpenOptions::default());
    peers.push(hetero_cpu::CpuDriver.open(0, &OpenOptions::default()).unwrap());
    for cache in ["off", ""] {
        let extra = if cache.is_empty() { vec![] } else { vec![("cache".into(), cache.into())] };
        for device in opened(&OpenOptions { extra, ..OpenOptions::default() }) {
            let report = run_contract_cases(&*device, &peers[..]);
            assert!(report.wrong.is_empty(), "{}:\n{}", device.info().id, report.wrong.join("\n"));
            let (id, reasons) = (&device.info().id, &report.reasons);
            eprintln!("{id}: {} passed, {} unsupported: {reasons:?}", report.passed, report.unsupported);
            // Each platform on a test machine has one device; drivers that copy host memory import
            // none.
            let imports = if device.capabilities().imports.is_empty() { 6 } else { 0 };
            assert!(report.unsupported <= 1 + imports, "{id}: {reasons:?}");
            assert_eq!(report.passed + report.unsupported, contract_cases().len());
        }
    }
}
