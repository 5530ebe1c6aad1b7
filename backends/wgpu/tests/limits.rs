//! Numbers at their limits on the first adapter: NaN, infinities, zeros and the largest numbers
//! must be of the oracle's kind in each element.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use hetero_conformance::{DeviceTest, Expectations, SuiteReport};

/// Tells whether a test is of limits, of small programs, or of many operands.
fn is_of_interest(test: &DeviceTest) -> bool {
    let many = |name: &str| name.contains(" of 40 ") || name.contains(" of 3000 ");
    matches!(test, DeviceTest::Limit(_) | DeviceTest::Program(_)) || many(&test.name())
}

#[test]
fn numbers_at_their_limits_are_of_the_oracles_kinds() {
    let Some(device) = common::device(&[]) else { return };
    let mut report = SuiteReport::default();
    for test in DeviceTest::all(1, 0).unwrap().iter().filter(|test| is_of_interest(test)) {
        report.weigh(&Expectations::default(), &test.name(), &test.run(&*device, &[]));
    }
    println!("{} passed, {} unsupported", report.passed, report.unsupported);
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    assert!(report.passed > 1500);
}
