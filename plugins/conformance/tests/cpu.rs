//! The suite on the CPU device, with one thread and with several: each case is a test of its own.

use std::process::ExitCode;

use hetero_conformance::{DeviceTests, Expectations};
use hetero_hal::{Driver, OpenOptions};

/// Makes the tests of the CPU device with one thread or three.
/// Each number of threads has a seed of its own, so that more cases are tried.
fn with_threads(threads: usize) -> DeviceTests {
    let options = OpenOptions { threads: Some(threads), ..OpenOptions::default() };
    let open = move || hetero_cpu::CpuDriver.open(0, &options);
    let seed = if threads == 1 { 1 } else { 2 };
    let unsupported = vec![
        ("Edge::wait", "there is no other device"),
        ("CompileOptions::cached is ignored where it is another device's", "there is no other device"),
        ("Device::refusal", "the device does not tell why it refuses a node"),
    ];
    DeviceTests::new(open)
        .on(if threads == 1 { "one thread" } else { "three threads" })
        .with_seed(seed)
        .expecting(Expectations { unsupported, failing: vec![] })
        .taking_all_else()
}

fn main() -> ExitCode {
    DeviceTests::main_of([with_threads(1), with_threads(3)])
}
