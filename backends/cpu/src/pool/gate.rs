//! The lock-free part of the pool: how a region is published to the workers, and how its owner
//! knows that all of them have left.
//!
//! The gate's state holds the region's number, whether it is open, and how many workers are inside.
//! A worker enters by raising that count with a compare-and-swap that succeeds only while the gate
//! is open.
//! So the data that the region's owner has on its stack outlives the visit: the owner shuts the
//! gate, then waits until the count is 0.
//! Sleepers are counted before they look at the gate a last time, and the owner looks at that count
//! after it has opened the gate, so that one of the two sees the other.
//! The same holds for an owner that is about to sleep and the last worker that leaves.
//!
//! `cargo xtask test loom` tries every order of these steps: see `model.rs`, which compiles this
//! file once more, on Loom's atomics, locks and threads.

use std::sync::PoisonError;
use std::time::Duration;

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, fence};

/// The lowest bits, which count the workers inside.
const INSIDE: u64 = 0xFFFF;
/// A bit that is set while the region takes workers in.
const OPEN: u64 = 1 << 16;
/// The step from the number of one region to that of the next.
const NUMBER: u64 = 1 << 17;

pub(super) struct Gate {
    state: AtomicU64,
    /// The number of workers that sleep, or are about to.
    sleepers: AtomicUsize,
    /// Whether the owner sleeps until the last worker has left, or is about to.
    waiting: AtomicBool,
    stopped: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
    emptied: Condvar,
}

impl Gate {
    /// Makes a gate that is shut.
    pub(super) fn new() -> Self {
        Gate {
            state: AtomicU64::new(NUMBER),
            sleepers: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    fn locked(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the gate for the next region.
    /// The region's owner calls this, once the gate is shut and empty.
    pub(super) fn open(&self) {
        // Nobody else writes the state of a gate that is shut and empty.
        let number = self.state.load(Ordering::Relaxed) / NUMBER + 1;
        self.state.store((number * NUMBER) | OPEN, Ordering::Release);
        // Either this thread sees the sleeper, or the sleeper sees the gate.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(self.locked());
            self.opened.notify_all();
        }
    }

    /// Tells whether the gate is open for a region other than `last`, or is stopped.
    pub(super) fn calls(&self, last: u64) -> bool {
        let state = self.state.load(Ordering::Acquire);
        (state & OPEN != 0 && state / NUMBER != last) || self.is_stopped()
    }

    /// Sleeps until [`Gate::calls`] holds.
    pub(super) fn sleep_until_called(&self, last: u64) {
        let mut guard = self.locked();
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !self.calls(last) {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Enters while the gate is open, and returns the number of the region.
    /// A worker that has entered must call [`Gate::leave`].
    pub(super) fn enter(&self) -> Option<u64> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN != 0 {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(state / NUMBER),
                Err(now) => state = now,
            }
        }
        None
    }

    pub(super) fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::Release);
        let emptied = before & INSIDE == 1 && before & OPEN == 0;
        // As in `open`: either this thread sees that the owner waits, or the owner sees that the
        // gate is empty.
        fence(Ordering::SeqCst);
        if emptied && self.waiting.load(Ordering::Relaxed) {
            drop(self.locked());
            self.emptied.notify_all();
        }
    }

    /// Shuts the gate, and returns whether nobody is inside.
    pub(super) fn shut(&self) -> bool {
        self.state.fetch_and(!OPEN, Ordering::Acquire) & INSIDE == 0
    }

    /// Tells whether all workers have left a gate that is shut.
    pub(super) fn is_empty(&self) -> bool {
        self.state.load(Ordering::Acquire) & INSIDE == 0
    }

    /// Sleeps until a gate that is shut is empty, or for `most` at the longest; returns whether the
    /// gate is empty.
    pub(super) fn sleep_until_empty(&self, most: Duration) -> bool {
        let guard = self.locked();
        self.waiting.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !self.is_empty() {
            drop(self.emptied.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner));
        }
        self.waiting.store(false, Ordering::Relaxed);
        self.is_empty()
    }

    /// Calls the workers for the last time.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        drop(self.locked());
        self.opened.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
