//! Numbers at their limits on every OpenCL device that is there: NaN, infinities, zeros and the
//! largest numbers must be of the oracle's kind in each element.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use hetero_conformance::{DeviceTest, Expectations, SuiteReport};
use hetero_hal::OpenOptions;

#[test]
fn numbers_at_their_limits_are_of_the_oracles_kinds() {
    let tests: Vec<_> = DeviceTest::all(1, 0).unwrap().into_iter().filter(DeviceTest::is_of_limits).collect();
    let many = tests.iter().filter(|test| matches!(test, DeviceTest::Limit(_))).step_by(23);
    let others = tests.iter().filter(|test| !matches!(test, DeviceTest::Limit(_)));
    let tests: Vec<_> = many.chain(others).collect();
    for device in common::opened(&OpenOptions::default()) {
        let mut report = SuiteReport::default();
        for test in &tests {
            report.weigh(&Expectations::default(), &test.name(), &test.run(&*device, &[]));
        }
        let id = &device.info().id;
        eprintln!("{id}: {} passed, {} unsupported", report.passed, report.unsupported);
        assert!(report.wrong.is_empty(), "{id}:\n{}", report.wrong.join("\n"));
        assert!(report.passed > 100);
    }
}
