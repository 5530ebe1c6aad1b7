//! The core that each worker is kept on, and the remedy for a worker that has lost its core to
//! another process.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use super::affinity;

/// The place of a worker.
struct Seat {
    /// The worker's number in the system; 0 before it has begun.
    thread: AtomicI32,
    core: AtomicUsize,
    /// Whether the worker is at a region.
    inside: AtomicBool,
    /// The nanoseconds that the worker had run when [`Seats::fetch`] looked last.
    ran: AtomicU64,
    /// Whether the worker has been moved from its core for this visit.
    moved: AtomicBool,
}

/// The workers' places.
/// Each worker is on a core of its own, so that two threads never share a core while another is
/// idle: the system takes milliseconds to notice that.
/// There are no places where there are more threads than cores; then the system decides.
pub(super) struct Seats {
    seats: Vec<Seat>,
    /// The core that no worker is kept on.
    free: AtomicUsize,
}

impl Seats {
    pub(super) fn new(threads: NonZeroUsize) -> Self {
        let cores = affinity::cores();
        let seat = |&core: &usize| Seat {
            thread: AtomicI32::new(0),
            core: AtomicUsize::new(core),
            inside: AtomicBool::new(false),
            ran: AtomicU64::new(0),
            moved: AtomicBool::new(false),
        };
        let seated = cores.len() >= threads.get() && threads.get() > 1;
        let seats = if seated { cores[1..threads.get()].iter().map(seat).collect() } else { vec![] };
        Seats { seats, free: AtomicUsize::new(cores.first().copied().unwrap_or(0)) }
    }

    /// Seats a worker on its core; numbers begin at 0.
    pub(super) fn sit(&self, worker: usize) {
        let Some(seat) = self.seats.get(worker) else { return };
        seat.thread.store(affinity::thread(), Ordering::SeqCst);
        affinity::keep(affinity::thread(), seat.core.load(Ordering::SeqCst));
    }

    /// Makes room for the caller, which runs where the system puts it: a worker on the caller's
    /// core moves to the free one.
    pub(super) fn make_room(&self) {
        if self.seats.is_empty() {
            return;
        }
        let Some(here) = affinity::current() else { return };
        if let Some(seat) = self.seats.iter().find(|seat| seat.core.load(Ordering::Relaxed) == here) {
            let free = self.free.swap(here, Ordering::Relaxed);
            seat.core.store(free, Ordering::SeqCst);
            let thread = seat.thread.load(Ordering::SeqCst);
            // A worker that has not begun seats itself later; the number 0 would mean this thread.
            if thread != 0 {
                affinity::keep(thread, free);
            }
        }
    }

    /// Notes that a worker begins a visit.
    pub(super) fn enter(&self, worker: usize) {
        if let Some(seat) = self.seats.get(worker) {
            seat.inside.store(true, Ordering::SeqCst);
        }
    }

    /// Notes that a worker has ended a visit, but has not left yet.
    pub(super) fn leave(&self, worker: usize) {
        if let Some(seat) = self.seats.get(worker) {
            seat.inside.store(false, Ordering::SeqCst);
        }
    }

    /// Sends a worker back to its own core, once it has left.
    pub(super) fn go_back(&self, worker: usize) {
        if let Some(seat) = self.seats.get(worker) {
            seat.go_back();
        }
    }

    /// Sends all workers back to their own cores, after a region.
    pub(super) fn all_back(&self) {
        self.seats.iter().for_each(Seat::go_back);
    }

    /// Notes how long each worker at the region has run; [`Seats::fetch`] compares.
    pub(super) fn look(&self) {
        for seat in self.inside() {
            seat.ran.store(seat.runtime(), Ordering::Relaxed);
        }
    }

    /// Brings workers that have not run at all since the last look to this thread's core, and
    /// returns whether there were any.
    /// The core is theirs as soon as this thread sleeps.
    /// Without this, the system would let them wait for milliseconds, even beside an idle core.
    pub(super) fn fetch(&self) -> bool {
        let Some(here) = affinity::current() else { return false };
        let mut any = false;
        for seat in self.inside() {
            let ran = seat.runtime();
            if seat.ran.swap(ran, Ordering::Relaxed) == ran && ran > 0 {
                seat.moved.store(true, Ordering::SeqCst);
                affinity::keep(seat.thread.load(Ordering::SeqCst), here);
                any = true;
            }
        }
        any
    }

    fn inside(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(|seat| seat.inside.load(Ordering::SeqCst))
    }
}

impl Seat {
    /// Returns the nanoseconds that the worker has run, or 0 where the system does not tell them.
    fn runtime(&self) -> u64 {
        affinity::runtime(self.thread.load(Ordering::SeqCst))
    }

    fn go_back(&self) {
        if self.moved.swap(false, Ordering::SeqCst) {
            affinity::keep(self.thread.load(Ordering::SeqCst), self.core.load(Ordering::SeqCst));
        }
    }
}
