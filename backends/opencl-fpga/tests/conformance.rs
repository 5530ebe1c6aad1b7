//! The conformance suite on every OpenCL device that is there.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use hetero_conformance::{Expectations, Outcome, check, suite};
use hetero_hal::{Driver, OpenOptions};
use hetero_opencl::OpenClDriver;

/// Fails where drivers are required and there are none.
fn absent(why: &str) {
    assert!(std::env::var("HETERO_REQUIRE_DRIVERS").as_deref() != Ok("1"), "{why}");
    eprintln!("skipped: {why}");
}

#[test]
fn every_device_passes_what_it_claims() {
    for driver in [OpenClDriver::processors(), OpenClDriver::accelerators()] {
        let devices = match driver.probe() {
            Ok(devices) => devices,
            Err(why) => {
                absent(&format!("{}: {why}", driver.name()));
                continue;
            }
        };
        let only = std::env::var("HETERO_CASES").unwrap_or_default();
        let id = std::env::var("HETERO_DEVICE").unwrap_or_default();
        for info in devices.into_iter().filter(|info| info.id.to_string().contains(&id)) {
            let device = driver.open(info.id.ordinal(), &OpenOptions::default()).unwrap();
            let mut report = hetero_conformance::Report::default();
            for case in suite(1).iter().filter(|case| case.name.contains(&only)) {
                if !only.is_empty() {
                    eprintln!("{} {:?}", case.name, case.operator);
                }
                let outcome = check(&*device, case);
                if let Outcome::Failed(why) = &outcome {
                    eprintln!("{}: {}: {why}", info.id, case.name);
                }
                report.weigh(&Expectations::default(), &case.name, &outcome);
            }
            eprintln!(
                "{}: {} passed, {} unsupported, {} wrong",
                info.id,
                report.passed,
                report.unsupported,
                report.wrong.len()
            );
            assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
        }
    }
}
