//! The conformance suite on the first adapter: as it is, with staging buffers, and with values
//! bound in small pieces.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use hetero_conformance::{
    Expectations, Outcome, check_network, contract_cases, network, run_contract_cases, run_suite, run_weight_cases,
    suite, weight_cases,
};

/// Runs cases: the device claims each case or says why not, and its results for claimed cases are
/// right.
fn run(options: &[(&str, &str)], cases: fn(&str) -> bool) -> usize {
    let Some(device) = common::device(options) else { return usize::MAX };
    let cases: Vec<_> = suite(1).unwrap().into_iter().filter(|case| cases(&case.name)).collect();
    let report = run_suite(&*device, &cases, &Expectations::default());
    println!("{options:?}: {} cases, {} passed, {} unsupported", cases.len(), report.passed, report.unsupported);
    report.reasons.iter().for_each(|(reason, count)| println!("{count:>6}  {reason}"));
    assert!(report.wrong.is_empty(), "{} wrong\n{}", report.wrong.len(), report.wrong.join("\n"));
    assert_eq!(device.telemetry().allocated_bytes, Some(0));
    report.passed
}

#[test]
fn every_claimed_case_passes() {
    assert!(run(&[], |_| true) >= 1500);
}

#[test]
fn staging_buffers_give_the_same() {
    let some = |name: &str| ["Add", "Where", "Conv ", "Concat", "Cast"].iter().any(|start| name.starts_with(start));
    assert!(run(&[("memory", "staged")], some) >= 100);
}

#[test]
fn values_in_pieces_give_the_same() {
    // A value with more pieces than a kernel can bind is claimed, because a renaming mostly costs
    // nothing, and turned down when compiling.
    assert!(run(&[("binding_bytes", "1024")], |name| name != "Identity [70001]") >= 1500);
}

/// Checks fusing, folding, renaming and scratch memory, which only occur in networks.
#[test]
fn random_networks_agree_with_the_oracle() {
    let Some(device) = common::device(&[]) else { return };
    for seed in 1000..1010 {
        let (program, inputs) = network(seed).unwrap();
        let outcome = check_network(&*device, &program, &inputs);
        assert!(matches!(outcome, Outcome::Passed(_)), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn weights_are_shared_evicted_and_restored() {
    for options in [&[][..], &[("memory", "staged")]] {
        let Some(device) = common::device(options) else { return };
        let report = run_weight_cases(&*device);
        assert!(report.wrong.is_empty(), "{options:?}:\n{}", report.wrong.join("\n"));
        assert_eq!(report.passed, weight_cases().len(), "{options:?}: {:?}", report.reasons);
        assert_eq!(device.telemetry().allocated_bytes, Some(0));
    }
}

#[test]
fn the_contract_is_kept() {
    for options in [&[][..], &[("memory", "staged")]] {
        let Some(device) = common::device(options) else { return };
        let report = run_contract_cases(&*device, &[]);
        println!("{options:?}: {} passed, {} unsupported: {:?}", report.passed, report.unsupported, report.reasons);
        assert!(report.wrong.is_empty(), "{options:?}:\n{}", report.wrong.join("\n"));
        // The device has no serial form and no peer; it does not list imports that it cannot do.
        let imports = if device.capabilities().imports.is_empty() { 6 } else { 0 };
        assert!(report.unsupported <= 5 + imports, "{options:?}: {:?}", report.reasons);
        assert_eq!(report.passed + report.unsupported, contract_cases().len());
        assert_eq!(device.telemetry().allocated_bytes, Some(0));
    }
}
