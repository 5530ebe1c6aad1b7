//! The conformance suite on the null device: each case is a test of its own.

use std::process::ExitCode;

use hetero_conformance::DeviceTests;
use hetero_hal::{Driver, OpenOptions};
use hetero_null::NullDriver;

fn main() -> ExitCode {
    DeviceTests::new(|| NullDriver.open(0, &OpenOptions::default())).main()
}
