//! The device's threads: regions of tasks, made for inference.
//!
//! A region runs a function for task 0, 1, … on the calling thread and on the device's workers.
//! Each thread has a share of the tasks, and takes from the others' shares where it is done early;
//! see [`Shares`].
//! The region is over once every task has been done, even where some worker has not come: a worker
//! whose core another process holds takes no task, and nobody waits for it.
//! Between regions a worker watches for the next one for [`SPIN`], then sleeps.
//!
//! A worker may lose its core in the middle of a task.
//! The region's owner sees that the worker's clock stands still, brings the worker to its own core,
//! and sleeps until the task is done; see [`seats`].

mod affinity;
mod gate;
#[cfg(test)]
mod model;
mod seats;
/// What the gate is made of; `model` has the same names of Loom's.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gate::Gate;
use hetero_kit::Shares;
use seats::Seats;

/// The time for which a thread watches before it sleeps.
const SPIN: Duration = Duration::from_micros(200);

/// The time between an owner's looks at whether a worker that it waits for is running.
const LOOK: Duration = Duration::from_micros(10);

/// The same time once the owner sleeps.
const REST: Duration = Duration::from_millis(1);

type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The data that a region's visitors share.
/// It lies on the caller's stack.
struct Region<'a> {
    body: &'a Body<'a>,
    panicked: AtomicBool,
}

impl Region<'_> {
    /// Does tasks until none is left, as the thread with the given number.
    fn work(&self, shares: &Shares, thread: usize) {
        while let Some(task) = shares.take(thread) {
            (self.body)(task, thread);
        }
    }
}

/// Watches until the condition holds; returns `false` where that takes longer than `most`.
fn watch(most: Duration, condition: impl Fn() -> bool) -> bool {
    if condition() {
        return true;
    }
    let began = Instant::now();
    loop {
        for _ in 0..32 {
            std::hint::spin_loop();
            if condition() {
                return true;
            }
        }
        if began.elapsed() > most {
            return false;
        }
    }
}

struct Shared {
    gate: Gate,
    seats: Seats,
    shares: Shares,
    region: AtomicPtr<()>,
}

impl Shared {
    /// Serves regions until the pool ends: the life of a worker.
    fn serve(&self, thread: usize) {
        let worker = thread - 1;
        self.seats.sit(worker);
        let mut last = 0;
        loop {
            if !watch(SPIN, || self.gate.calls(last)) {
                self.gate.sleep_until_called(last);
            }
            if self.gate.is_stopped() {
                return;
            }
            if let Some(number) = self.gate.enter() {
                last = number;
                self.seats.enter(worker);
                self.visit(thread);
                self.seats.leave(worker);
                self.gate.leave();
                self.seats.go_back(worker);
            }
        }
    }

    fn visit(&self, thread: usize) {
        let region = self.region.load(Ordering::Acquire).cast::<Region<'_>>();
        // SAFETY: this thread is counted inside, so the caller that owns the region waits for it;
        // see `gate`.
        let region = unsafe { &*region };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| region.work(&self.shares, thread)));
        if done.is_err() {
            region.panicked.store(true, Ordering::Relaxed);
        }
    }

    /// Shuts the gate, and waits until nobody is inside.
    fn close(&self) {
        let empty = || self.gate.is_empty();
        if self.gate.shut() || watch(LOOK, empty) {
            return;
        }
        let began = Instant::now();
        self.seats.look();
        while began.elapsed() < SPIN {
            if watch(LOOK, empty) {
                return;
            }
            if self.seats.fetch() {
                break;
            }
        }
        while !self.gate.sleep_until_empty(REST) {
            self.seats.fetch();
        }
        self.seats.all_back();
    }
}

/// The threads of one device.
/// With one thread there is no worker, and regions are loops.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Whether a caller's region holds the workers.
    busy: AtomicBool,
}

impl Pool {
    /// Makes a pool of the given number of threads, the caller's among them.
    ///
    /// # Errors
    /// The system's error, where it cannot start a thread.
    pub(crate) fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: Gate::new(),
            seats: Seats::new(threads),
            shares: Shares::new(threads.get()),
            region: AtomicPtr::new(std::ptr::null_mut()),
        });
        let mut pool = Pool { shared, workers: Vec::new(), busy: AtomicBool::new(false) };
        for index in 1..threads.get() {
            let shared = pool.shared.clone();
            let name = format!("hetero-cpu-{index}");
            pool.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.serve(index))?);
        }
        Ok(pool)
    }

    /// Returns the number of threads that work on a region.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` for each task below `tasks`, in any order and at the same time.
    /// Its second argument is the number of the thread, below [`Pool::threads`], for data that each
    /// thread has of its own.
    /// A caller that finds the workers at another region does its tasks alone, and so does a body
    /// that calls this again.
    ///
    /// # Panics
    /// Panics where `body` does, once every thread has left it.
    pub(crate) fn for_each(&self, tasks: usize, body: impl Fn(usize, usize) + Sync) {
        let alone = !(2..=Shares::MOST).contains(&tasks) || self.workers.is_empty();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let region = Region { body: &body, panicked: AtomicBool::new(false) };
        /// A guard that closes the region even where its body panics on the calling thread.
        struct Close<'a>(&'a Pool);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.shared.close();
                self.0.busy.store(false, Ordering::Release);
            }
        }
        let shared = &*self.shared;
        shared.seats.make_room();
        // The gate opens after this, and that orders it before the takes.
        shared.shares.deal_evenly(tasks);
        shared.region.store(std::ptr::from_ref(&region).cast_mut().cast(), Ordering::Release);
        let close = Close(self);
        shared.gate.open();
        region.work(&shared.shares, 0);
        drop(close);
        assert!(!region.panicked.load(Ordering::Relaxed), "a task of a parallel region panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.gate.stop();
        for worker in self.workers.drain(..) {
            // A worker catches panics of its tasks, so it ends without one.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    #[test]
    fn every_task_is_done_once() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            for tasks in [0, 1, 2, 3, 7, 100] {
                for round in 0..200 {
                    let seen: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.for_each(tasks, |task, _| {
                        seen[task].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                    if round % 50 == 0 {
                        // The pause is long enough for the workers to fall asleep.
                        std::thread::sleep(SPIN * 3);
                    }
                }
            }
        }
    }

    #[test]
    fn regions_nest_and_callers_share() {
        let pool = pool(3);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.for_each(5, |outer, _| {
                            pool.for_each(3, |inner, _| {
                                sum.fetch_add(outer * 3 + inner, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 100 * (0..15).sum::<usize>());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(2);
        for guilty in 0..20 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.for_each(20, |task, _| assert_ne!(task, guilty, "on purpose"));
            }));
            assert!(outcome.is_err());
            let done = AtomicUsize::new(0);
            pool.for_each(20, |_, _| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 20);
        }
    }
}
