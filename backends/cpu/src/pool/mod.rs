//! The device's threads: regions of tasks, made for inference.
//!
//! A region runs a function for task 0, 1, … on the calling thread and on the device's workers, which take the next task from one counter
//! whenever they are free. It is over once every task has been done, not once every worker has come: a worker whose core another process
//! holds takes no task, and nobody waits for it. Between regions a worker watches for the next one for [`SPIN`], then sleeps.
//!
//! # How a region is published
//! `gate` holds the region's number, whether it is open, and how many workers are inside. A worker enters by raising that count with a
//! compare-and-swap that succeeds only while the gate is open, so the region's data, which lie on the caller's stack, outlive its visit: the
//! caller closes the gate, then waits until the count is 0. Sleepers are counted before they look at the gate a last time, and the caller
//! looks at that count after it has opened the gate; one of the two sees the other.

mod affinity;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread watches before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// The gate's lowest bits count the workers inside.
const INSIDE: u64 = 0xFFFF;
/// Set while the region takes workers in.
const OPEN: u64 = 1 << 16;
/// What one region adds to the number of the next.
const NUMBER: u64 = 1 << 17;

type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What a region's visitors share. It lies on the caller's stack.
struct Region<'a> {
    body: &'a Body<'a>,
    tasks: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Region<'_> {
    /// Does tasks until none is left, as the thread of that number.
    fn work(&self, thread: usize) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            (self.body)(task, thread);
        }
    }
}

struct Shared {
    gate: AtomicU64,
    region: AtomicPtr<()>,
    /// Workers that sleep, or are about to.
    sleepers: AtomicUsize,
    /// The caller that waits for the last worker sleeps.
    waiting: AtomicBool,
    stop: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
    emptied: Condvar,
    /// The workers' numbers in the system, and the cores that they are kept on; none where there are more threads than cores.
    seats: Vec<Seat>,
    /// All cores that the process may use.
    cores: Vec<usize>,
    /// The core that no worker is kept on.
    free: AtomicUsize,
}

/// A worker's place.
struct Seat {
    thread: AtomicI32,
    core: AtomicUsize,
    /// Is it at a region?
    inside: AtomicBool,
    /// May it use any core for now?
    loose: AtomicBool,
}

impl Shared {
    /// Each worker is kept on a core of its own, so that two threads never share one while another is idle: the system takes milliseconds to
    /// notice that. The caller goes where it likes; a worker on whose core it is found moves to the one that is free.
    fn make_room(&self) {
        if self.seats.is_empty() {
            return;
        }
        let Some(here) = affinity::current() else { return };
        let taken = self.seats.iter().find(|seat| seat.core.load(Ordering::Relaxed) == here);
        if let Some(seat) = taken {
            let free = self.free.swap(here, Ordering::Relaxed);
            seat.core.store(free, Ordering::SeqCst);
            let thread = seat.thread.load(Ordering::SeqCst);
            // A worker that has not begun sits down by itself; 0 would be this thread.
            if thread != 0 {
                affinity::keep(thread, &[free]);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches until the condition holds; `false` where that took too long.
    fn watch(condition: impl Fn() -> bool) -> bool {
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
            if began.elapsed() > SPIN {
                return false;
            }
        }
    }

    /// A worker's life.
    fn serve(&self, thread: usize) {
        if let Some(seat) = self.seats.get(thread - 1) {
            seat.thread.store(affinity::thread(), Ordering::SeqCst);
            affinity::keep(affinity::thread(), &[seat.core.load(Ordering::SeqCst)]);
        }
        let mut last = 0;
        loop {
            let fresh = || {
                let gate = self.gate.load(Ordering::SeqCst);
                (gate & OPEN != 0 && gate / NUMBER != last) || self.stop.load(Ordering::Relaxed)
            };
            if !Self::watch(fresh) {
                let mut guard = self.locked();
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !fresh() {
                    guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(number) = self.enter() {
                last = number;
                let inside = |inside| {
                    if let Some(seat) = self.seats.get(thread - 1) {
                        seat.inside.store(inside, Ordering::Relaxed);
                    }
                };
                inside(true);
                self.visit(thread);
                inside(false);
                self.leave();
            }
        }
    }

    /// Goes in while the gate is open, and says which region it is.
    fn enter(&self) -> Option<u64> {
        let enter = |gate: u64| (gate & OPEN != 0).then_some(gate + 1);
        self.gate.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).ok().map(|gate| gate / NUMBER)
    }

    fn visit(&self, thread: usize) {
        let region = self.region.load(Ordering::Acquire).cast::<Region<'_>>();
        // SAFETY: this thread is counted inside, so the caller that owns the region waits for it; see the module's text.
        let region = unsafe { &*region };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| region.work(thread)));
        if done.is_err() {
            region.panicked.store(true, Ordering::Relaxed);
        }
    }

    fn leave(&self) {
        let before = self.gate.fetch_sub(1, Ordering::SeqCst);
        let emptied = before & INSIDE == 1 && before & OPEN == 0;
        if emptied && self.waiting.load(Ordering::SeqCst) {
            drop(self.locked());
            self.emptied.notify_all();
        }
    }

    /// Closes the gate, and waits until nobody is inside.
    fn close(&self) {
        let gate = self.gate.fetch_and(!OPEN, Ordering::SeqCst);
        let empty = || self.gate.load(Ordering::SeqCst) & INSIDE == 0;
        if gate & INSIDE == 0 || Self::watch(empty) {
            return;
        }
        // Some worker has lost its core to another process in the middle of a task, for milliseconds. It may use any core now, and this thread
        // sleeps, so that the system moves it here at once.
        let late = || self.seats.iter().filter(|seat| seat.loose.load(Ordering::Relaxed));
        for seat in self.seats.iter().filter(|seat| seat.inside.load(Ordering::Relaxed)) {
            seat.loose.store(true, Ordering::Relaxed);
            affinity::keep(seat.thread.load(Ordering::SeqCst), &self.cores);
        }
        let mut guard = self.locked();
        self.waiting.store(true, Ordering::SeqCst);
        while !empty() {
            guard = self.emptied.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::SeqCst);
        drop(guard);
        for seat in late() {
            seat.loose.store(false, Ordering::Relaxed);
            affinity::keep(seat.thread.load(Ordering::SeqCst), &[seat.core.load(Ordering::SeqCst)]);
        }
    }
}

/// The threads of one device. With one thread there is no worker, and regions are loops.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the caller whose region it is.
    busy: AtomicBool,
}

impl Pool {
    /// So many threads, the caller's among them.
    ///
    /// # Errors
    /// The system's, where it gives no thread.
    pub(crate) fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let cores = affinity::cores();
        let seat = |&core: &usize| Seat {
            thread: AtomicI32::new(0),
            core: AtomicUsize::new(core),
            inside: AtomicBool::new(false),
            loose: AtomicBool::new(false),
        };
        let seated = cores.len() >= threads.get() && threads.get() > 1;
        let seats = if seated { cores[1..threads.get()].iter().map(seat).collect() } else { vec![] };
        let shared = Arc::new(Shared {
            seats,
            cores: cores.clone(),
            free: AtomicUsize::new(cores.first().copied().unwrap_or(0)),
            gate: AtomicU64::new(NUMBER),
            region: AtomicPtr::new(std::ptr::null_mut()),
            sleepers: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            emptied: Condvar::new(),
        });
        let mut pool = Pool { shared, workers: Vec::new(), busy: AtomicBool::new(false) };
        for index in 1..threads.get() {
            let shared = pool.shared.clone();
            let name = format!("hetero-cpu-{index}");
            pool.workers.push(std::thread::Builder::new().name(name).spawn(move || shared.serve(index))?);
        }
        Ok(pool)
    }

    /// Threads that work on a region.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body` for each task below `tasks`, in any order and at the same time. Its second argument is the number of the thread, below
    /// [`Pool::threads`], for what each thread has of its own. A caller that finds the workers at another's region, and a
    /// body that calls this again, do their tasks alone.
    ///
    /// # Panics
    /// Where `body` does, once every thread has left it.
    pub(crate) fn for_each(&self, tasks: usize, body: impl Fn(usize, usize) + Sync) {
        let alone = tasks < 2 || self.workers.is_empty();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let region = Region { body: &body, tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        /// Closes the region even where its body panics on the calling thread.
        struct Close<'a>(&'a Pool);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.shared.close();
                self.0.busy.store(false, Ordering::Release);
            }
        }
        let shared = &*self.shared;
        shared.make_room();
        shared.region.store(std::ptr::from_ref(&region).cast_mut().cast(), Ordering::Release);
        let close = Close(self);
        // The gate is shut and empty, so nobody else writes it.
        let number = shared.gate.load(Ordering::Relaxed) / NUMBER + 1;
        shared.gate.store((number * NUMBER) | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(shared.locked());
            shared.opened.notify_all();
        }
        region.work(0);
        drop(close);
        assert!(!region.panicked.load(Ordering::Relaxed), "a task of a parallel region panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.locked());
        self.shared.opened.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks throw, so it ends well.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
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
                        // Long enough for the workers to fall asleep.
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
