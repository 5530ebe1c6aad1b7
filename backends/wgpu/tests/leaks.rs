//! A test that nothing is left behind.
//! It is in a file of its own, because allocations of other tests would count.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::time::Duration;

use common::{compile, execution, filled, floats, program, soon};
use hetero_hal::{QueueOptions, Timeline, Work};

/// Returns the kilobytes of memory that the process has, where the system tells them.
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn many_submissions_and_executables_leak_nothing() {
    let Some(device) = common::device(&[]) else { return };
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let many = |executables: usize, submissions: usize| {
        for number in 0..executables {
            let executable = compile(&*device, &program(&["Add", "Relu", "Mul"], 1000 + number));
            let count = 1000 + number;
            let [a, b, c] = [1.0, 2.0, 0.0].map(|value| filled(&*device, std::iter::repeat_n(value, count)));
            let work = Work::execute(execution(&executable, &*device, &[a, b, c.clone()]));
            let line = Timeline::new(0);
            for value in 1..=submissions as u64 {
                queue.submit(&[line.at(value - 1)], work.clone(), &[line.at(value)]).unwrap();
            }
            line.wait(submissions as u64, soon()).unwrap();
            assert_eq!(floats(&c), vec![6.0; count]);
        }
    };
    many(20, 50);
    let before = resident();
    many(200, 50);
    assert_eq!(device.telemetry().allocated_bytes, Some(0));
    if let (Some(before), Some(after)) = (before, resident()) {
        println!("{before} KiB before, {after} KiB after");
        assert!(after < before + 64 * 1024, "{before} KiB before, {after} KiB after");
    }
    assert!(device.telemetry().busy.unwrap() > Duration::ZERO);
}
