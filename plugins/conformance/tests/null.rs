//! Tests that the null device passes what it claims, and that the suite sees what it does not
//! claim.

#![allow(clippy::unwrap_used)]

#[path = "../../../hal/tests/null/mod.rs"]
mod null;

use hetero_conformance::{
    Case, Expectations, Outcome, check, contract_cases, run_contract_cases, run_suite, run_weight_cases, suite,
    weight_cases,
};
use hetero_hal::{DType, Driver, OpenOptions};
use null::NullDriver;

/// Tells whether a case has only the null device's type, f32.
fn plain(case: &Case) -> bool {
    case.inputs.iter().flatten().all(|tensor| tensor.dtype() == DType::F32)
}

#[test]
fn claimed_cases_pass_and_the_others_are_seen() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let (own, other): (Vec<_>, Vec<_>) =
        suite(3).into_iter().partition(|case| ["Relu", "Identity"].contains(&&*case.operator.name) && plain(case));
    let report = run_suite(&*device, &own, &Expectations::default());
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    assert_eq!(report.passed, own.len());
    assert!(other.iter().all(|case| matches!(check(&*device, case), Outcome::Unclaimed(None))));
    // The suite notices an unclaimed case that is not listed, and a pass that is listed as
    // unsupported.
    assert_eq!(run_suite(&*device, &other[..5], &Expectations::default()).wrong.len(), 5);
    let listed = Expectations { unsupported: vec![("Relu", "says the list")], failing: vec![] };
    assert!(!run_suite(&*device, &own, &listed).wrong.is_empty());
}

#[test]
fn a_device_without_weights_is_held_to_no_rule_about_them() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let report = run_weight_cases(&*device);
    assert_eq!((report.passed, report.unsupported, report.wrong.len()), (0, weight_cases().len(), 0));
}

#[test]
fn the_null_device_keeps_the_contract_and_what_it_leaves_out_is_counted() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let report = run_contract_cases(&*device, &[NullDriver.open(1, &OpenOptions::default()).unwrap()]);
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    // The terms are traces, imports, telemetry, refusals, native waits and serial forms.
    assert_eq!(report.unsupported, 4 + 6 + 2 + 1 + 1 + 4, "{:?}", report.reasons);
    assert_eq!(report.passed, contract_cases().len() - report.unsupported);
}
