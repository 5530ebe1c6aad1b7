//! The gate on Loom's atomics, locks and threads: Loom tries the orders of its steps.

use std::time::Duration;

use gate::Gate;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

// The file is compiled a second time on purpose: `sync` means Loom's types to it here.
#[allow(clippy::duplicate_mod)]
#[path = "gate.rs"]
mod gate;
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}

/// Runs an owner with two regions and one worker, and the data on the owner's stack.
/// Loom fails where a visit overlaps a change of that data, where a thread sleeps on for ever,
/// and where a visit does not see what the owner wrote before it opened the gate.
fn regions(sleeps: bool) {
    struct Shared {
        gate: Gate,
        stack: UnsafeCell<u64>,
    }
    let shared = Arc::new(Shared { gate: Gate::new(), stack: UnsafeCell::new(0) });
    let worker = {
        let shared = shared.clone();
        thread::spawn(move || {
            let mut last = 0;
            loop {
                if sleeps {
                    shared.gate.sleep_until_called(last);
                } else {
                    while !shared.gate.calls(last) {
                        thread::yield_now();
                    }
                }
                if shared.gate.is_stopped() {
                    return;
                }
                if let Some(number) = shared.gate.enter() {
                    last = number;
                    // SAFETY: this is what the test checks: nobody writes while a worker is
                    // inside.
                    shared.stack.with(|value| assert_ne!(unsafe { *value }, 0));
                    shared.gate.leave();
                }
            }
        })
    };
    for region in 1..=2 {
        // SAFETY: this is what the test checks: the gate is shut and empty.
        shared.stack.with_mut(|value| unsafe { *value = region });
        shared.gate.open();
        if !shared.gate.shut() {
            if sleeps {
                while !shared.gate.sleep_until_empty(Duration::MAX) {}
            } else {
                while !shared.gate.is_empty() {
                    thread::yield_now();
                }
            }
        }
        // SAFETY: as above.
        shared.stack.with_mut(|value| unsafe { *value = 0 });
    }
    shared.gate.stop();
    worker.join().unwrap();
}

/// Tries every order in which threads are interrupted at most three times between their steps;
/// more interruptions take hours, and errors of this kind need two.
fn model(sleeps: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || regions(sleeps));
}

#[test]
fn no_visit_outlives_its_region() {
    model(false);
}

#[test]
fn nobody_sleeps_for_ever() {
    model(true);
}
