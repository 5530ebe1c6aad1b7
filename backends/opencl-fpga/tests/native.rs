//! Tests that two devices of one platform wait for each other through the driver.
//! Intel's FPGA emulator plays two devices where a variable says so when it starts, so the test
//! starts itself again with the variable set.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_conformance::{contract_cases, run_contract_cases};
use hetero_hal::{
    BindingTable, Buffer, Device, Driver, Error, ErrorKind, Execution, OpenOptions, QueueOptions, Reach, Result,
    SyncMode, Timeline, Work,
};
use hetero_opencl::OpenClDriver;

/// A variable that is set where the test runs as the child.
const INSIDE: &str = "HETERO_TEST_TWO_DEVICES";
/// The variable that says how many devices Intel's emulators play.
const DEVICES: &str = "CL_CONFIG_CPU_EMULATE_DEVICES";

/// The number of elements of the buffers.
const COUNT: usize = 1024;
/// A kernel that adds one to each element, after a while.
const ADD: &str = "__kernel void add(__global float *y) { float v = y[get_global_id(0)]; \
     for (int i = 0; i < 1000; i++) v = v * 0.5f + 0.5f * y[get_global_id(0)]; y[get_global_id(0)] = v + 1.0f; }";

/// Runs one of the parts below in a process whose drivers play two devices.
fn start_again(name: &str, part: fn(&[Arc<dyn Device>; 2])) {
    if std::env::var_os(INSIDE).is_some() {
        let driver = OpenClDriver::accelerators();
        let found = driver.probe().unwrap();
        let open = |ordinal| driver.open(ordinal, &OpenOptions::default()).unwrap();
        assert!(found.len() >= 2, "{DEVICES} has no effect: {found:?}");
        part(&[open(0), open(1)]);
        return eprintln!("the child has done its part");
    }
    if let Err(why) = OpenClDriver::accelerators().probe() {
        assert!(std::env::var("HETERO_REQUIRE_DRIVERS").as_deref() != Ok("1"), "{why}");
        return eprintln!("skipped: {why}");
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .env(DEVICES, "2")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    eprintln!("{said}");
    assert!(output.status.success() && said.contains("the child has done its part"), "{}", output.status);
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// Returns work that adds one to each element of a buffer.
fn adder(device: &Arc<dyn Device>) -> impl Fn(&Buffer) -> Work + use<> {
    let executable = common::compile(&**device, ADD, COUNT, None).unwrap();
    move |buffer| Work::execute(Execution::new(executable.clone(), BindingTable::new([buffer.clone()])))
}

fn zeros(device: &Arc<dyn Device>) -> Buffer {
    common::zeros(&**device, COUNT)
}

fn floats(buffer: &Buffer) -> Vec<f32> {
    let mut bytes = vec![0; buffer.len()];
    buffer.read(0, &mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn lost() -> Error {
    Error::new(ErrorKind::DeviceLost, "lost on purpose")
}

#[test]
fn a_chain_over_both_devices_computes_right() {
    start_again("a_chain_over_both_devices_computes_right", |devices| {
        const ROUNDS: u64 = 30;
        for (one, other) in [(0, 1), (1, 0)] {
            let edge = devices[one].edge_to(devices[other].info());
            assert!(edge.wait == SyncMode::Native && edge.signal == SyncMode::Native, "{edge:?}");
            assert!(edge.read >= Reach::Copy && edge.write >= Reach::Copy, "{edge:?}");
        }
        let add = [adder(&devices[0]), adder(&devices[1])];
        let buffers = [zeros(&devices[0]), zeros(&devices[1])];
        let queues = [0, 1].map(|at: usize| devices[at].queue(&QueueOptions::default()).unwrap());
        for gated in [true, false] {
            buffers.iter().for_each(|buffer| buffer.write(0, &[0; COUNT * 4]).unwrap());
            let lines = [0, 1].map(|at: usize| devices[at].timeline(0).unwrap());
            let gate = Timeline::new(u64::from(!gated));
            let mut before = gate.at(1);
            for round in 1..=ROUNDS {
                for at in 0..2 {
                    // One is added here, and the result moves to the device where the next one is
                    // added.
                    let (added, moved) = (lines[at].at(2 * round - 1), lines[at].at(2 * round));
                    queues[at].submit(&[before], add[at](&buffers[at]), std::slice::from_ref(&added)).unwrap();
                    let copy = Work::copy(buffers[at].clone(), buffers[1 - at].clone());
                    queues[at].submit(&[added], copy, std::slice::from_ref(&moved)).unwrap();
                    before = moved;
                }
            }
            if gated {
                assert!(lines.iter().all(|line| line.value() == 0), "{lines:?}");
                gate.advance(1);
            }
            before.wait(deadline()).unwrap();
            // Both devices have added one in each round.
            for (line, buffer) in lines.iter().zip(&buffers) {
                assert_eq!((line.value(), floats(buffer)), (2 * ROUNDS, vec![2.0 * ROUNDS as f32; COUNT]));
            }
        }
    });
}

#[test]
fn work_that_waits_for_the_other_device_is_taken_while_that_is_under_way() {
    start_again("work_that_waits_for_the_other_device_is_taken_while_that_is_under_way", |devices| {
        let add = [adder(&devices[0]), adder(&devices[1])];
        let buffers = [zeros(&devices[0]), zeros(&devices[1])];
        let queues = [0, 1].map(|at: usize| devices[at].queue(&QueueOptions::default()).unwrap());
        let lines = [0, 1].map(|at: usize| devices[at].timeline(0).unwrap());
        for round in 1..=200 {
            queues[0].submit(&[], add[0](&buffers[0]), &[lines[0].at(round)]).unwrap();
            // The point may be under way or reached, and both are fine.
            let both = [lines[0].at(round), lines[1].at(round - 1)];
            queues[1].submit(&both, add[1](&buffers[1]), &[lines[1].at(round)]).unwrap();
            if round % 10 == 0 {
                lines[1].wait(round, deadline()).unwrap();
                assert!(lines[0].at(round).is_reached(), "the second is ahead of the first");
            }
        }
        assert_eq!([floats(&buffers[0]), floats(&buffers[1])], [vec![200.0; COUNT], vec![200.0; COUNT]]);
    });
}

#[test]
fn a_failure_of_the_first_device_reaches_the_second_ones_points() {
    start_again("a_failure_of_the_first_device_reaches_the_second_ones_points", |devices| {
        let add = [adder(&devices[0]), adder(&devices[1])];
        let queues = [0, 1].map(|at: usize| devices[at].queue(&QueueOptions::default()).unwrap());
        for begun in [false, true] {
            let buffers = [zeros(&devices[0]), zeros(&devices[1])];
            let [failing, behind, first, second] = [0, 0, 1, 1].map(|at: usize| devices[at].timeline(0).unwrap());
            let gate = Timeline::new(u64::from(begun));
            let task = Arc::new(|| -> Result<()> { Err(lost()) });
            queues[0].submit(&[gate.at(1)], Work::host(task), &[failing.at(1)]).unwrap();
            queues[0].submit(&[failing.at(1)], add[0](&buffers[0]), &[behind.at(1)]).unwrap();
            queues[1].submit(&[behind.at(1)], add[1](&buffers[1]), &[first.at(1)]).unwrap();
            queues[1].submit(&[first.at(1)], add[1](&buffers[1]), &[second.at(1)]).unwrap();
            gate.advance(1);
            for line in [&failing, &behind, &first, &second] {
                let error = line.wait(1, deadline()).unwrap_err();
                assert!(error.kind() == ErrorKind::DeviceLost && error.message().contains("on purpose"), "{error}");
                assert_eq!(error.device(), Some(&devices[0].info().id), "{error}");
            }
            assert!(buffers.iter().all(|buffer| floats(buffer) == [0.0; COUNT]), "work behind a failure has run");
        }
        // Where a timeline fails while the driver has the work, the work behind it ends with that
        // failure.
        for _ in 0..20 {
            let buffers = [zeros(&devices[0]), zeros(&devices[1])];
            let lines = [0, 1].map(|at: usize| devices[at].timeline(0).unwrap());
            queues[0].submit(&[], add[0](&buffers[0]), &[lines[0].at(1)]).unwrap();
            queues[1].submit(&[lines[0].at(1)], add[1](&buffers[1]), &[lines[1].at(1)]).unwrap();
            lines[0].fail(lost());
            let outcomes = [0, 1].map(|at: usize| lines[at].wait(1, deadline()).map_err(|error| error.kind()));
            assert_eq!(outcomes[0], outcomes[1]);
        }
    });
}

#[test]
fn queues_are_dropped_in_any_order() {
    start_again("queues_are_dropped_in_any_order", |devices| {
        let add = [adder(&devices[0]), adder(&devices[1])];
        for first_to_go in [0, 1] {
            for gated in [false, true] {
                let buffers = [zeros(&devices[0]), zeros(&devices[1])];
                let mut queues = [0, 1].map(|at: usize| Some(devices[at].queue(&QueueOptions::default()).unwrap()));
                let lines = [0, 1].map(|at: usize| devices[at].timeline(0).unwrap());
                let gate = Timeline::new(u64::from(!gated));
                let submit = |at: usize, wait, signal| {
                    queues[at].as_ref().unwrap().submit(&[wait], add[at](&buffers[at]), &[signal]).unwrap();
                };
                submit(0, gate.at(1), lines[0].at(1));
                submit(1, lines[0].at(1), lines[1].at(1));
                drop(queues[first_to_go].take());
                drop(queues[1 - first_to_go].take());
                gate.advance(1);
                // The work that the driver had ends well, and the work that waited in a queue that
                // is gone says so.
                // Nothing hangs.
                let done = [0, 1].map(|at: usize| lines[at].wait(1, deadline()));
                for (at, outcome) in done.iter().enumerate() {
                    let added = if outcome.is_ok() { 1.0 } else { 0.0 };
                    assert_eq!(floats(&buffers[at]), [added; COUNT], "{outcome:?}");
                    let hung = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Timeout);
                    assert!(!hung, "{outcome:?}");
                }
                assert!(gated || done.iter().all(Result::is_ok), "{done:?}");
            }
        }
    });
}

#[test]
fn each_keeps_the_contract_beside_the_other() {
    start_again("each_keeps_the_contract_beside_the_other", |devices| {
        for device in devices {
            let report = run_contract_cases(&**device, &devices[..]);
            assert!(report.wrong.is_empty(), "{}:\n{}", device.info().id, report.wrong.join("\n"));
            assert_eq!(report.passed, contract_cases().len(), "{:?}", report.reasons);
        }
    });
}
