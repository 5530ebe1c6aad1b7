//! The conformance suite on the first adapter.

mod common;

use std::collections::BTreeMap;

use hetero_conformance::{Outcome, check, suite};

#[test]
fn every_claimed_case_passes() {
    let Some(device) = common::device(&[]) else { return };
    let (mut passed, mut unclaimed, mut wrong) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    for case in suite(1) {
        match check(&*device, &case) {
            Outcome::Passed(_) => passed += 1,
            Outcome::Unclaimed => *unclaimed.entry(case.operator.name.to_string()).or_default() += 1,
            Outcome::Failed(reason) => wrong.push(format!("{}: {reason}", case.name)),
        }
    }
    println!("{passed} passed, unclaimed: {unclaimed:?}");
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(passed >= 1500, "{passed} passed");
}
