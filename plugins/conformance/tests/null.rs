//! The null device passes what it claims, and the suite sees what it does not.

#![allow(clippy::unwrap_used)]

#[path = "../../../hal/tests/null/mod.rs"]
mod null;

use hetero_conformance::{Case, Expectations, Outcome, check, run_suite, run_weight_cases, suite, weight_cases};
use hetero_hal::{DType, Driver, OpenOptions};
use null::NullDriver;

/// The null device's types: f32.
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
    // Neither an unclaimed case that nobody listed nor a pass that was listed goes unnoticed.
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
