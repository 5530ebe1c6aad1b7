//! Numbers at their limits on the first adapter: NaN, infinities, zeros and the largest numbers
//! must be of the oracle's kind in each element.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use hetero_conformance::{DeviceTest, Expectations, SuiteReport};

#[test]
fn numbers_at_their_limits_are_of_the_oracles_kinds() {
    let Some(device) = common::device(&[]) else { return };
    let mut report = SuiteReport::default();
    for test in DeviceTest::all(1, 0).unwrap().iter().filter(|test| test.is_of_limits()) {
        report.weigh(&Expectations::default(), &test.name(), &test.run(&*device, &[]));
    }
    println!("{} passed, {} unsupported", report.passed, report.unsupported);
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    assert!(report.passed > 1500);
}
