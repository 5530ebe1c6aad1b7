//! The effort of a search, and the clock that measures its time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A clock: a function that returns the time since a moment that stays the same.
/// Its time never goes back.
pub type Clock = fn() -> Duration;

/// Returns the time by the system's monotonic clock, since the first call.
#[must_use]
pub fn system_clock() -> Duration {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGINNING.elapsed()
}

/// The effort of a search: how long it may go on.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The time that the search takes at most.
    pub time: Duration,
    /// The steps that the search makes at most.
    /// With these alone, the same problem and seed give the same schedule on every machine.
    pub steps: u64,
    /// The clock that the time is measured with.
    /// No clock is asked where the time is [`Duration::MAX`].
    pub clock: Clock,
}

impl Effort {
    /// Returns an effort that is limited by time alone, on the system's clock.
    #[must_use]
    pub fn time(time: Duration) -> Self {
        Self { time, steps: u64::MAX, clock: system_clock }
    }

    /// Returns an effort that is limited by steps alone, however long they take.
    #[must_use]
    pub fn steps(steps: u64) -> Self {
        Self { time: Duration::MAX, steps, clock: system_clock }
    }

    /// Returns the same effort with its time measured by another clock.
    ///
    /// A clock that counts how often it is asked ends a search at the same step on every machine.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use std::time::Duration;
    ///
    /// use hetero_scheduler::Effort;
    ///
    /// fn counted() -> Duration {
    ///     static ASKED: AtomicU64 = AtomicU64::new(0);
    ///     Duration::from_millis(ASKED.fetch_add(1, Ordering::Relaxed))
    /// }
    ///
    /// let effort = Effort::time(Duration::from_millis(500)).with_clock(counted);
    /// assert_eq!((effort.clock)(), Duration::ZERO);
    /// assert_eq!((effort.clock)(), Duration::from_millis(1));
    /// ```
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }
}

impl PartialEq for Effort {
    /// Compares time, steps, and the addresses of the clocks.
    fn eq(&self, other: &Self) -> bool {
        let same_clock = std::ptr::fn_addr_eq(self.clock, other.clock);
        (self.time, self.steps) == (other.time, other.steps) && same_clock
    }
}

impl Eq for Effort {}

/// The part of an [`Effort`] that is left.
#[derive(Debug)]
pub(crate) struct Remaining {
    /// The time at which the search ends; `None` where time does not limit it.
    end: Option<Duration>,
    steps: u64,
    clock: Clock,
}

impl Remaining {
    pub(crate) fn of(effort: Effort) -> Self {
        let Effort { time, steps, clock } = effort;
        let limited = time < Duration::MAX;
        Self { end: limited.then(|| clock().checked_add(time)).flatten(), steps, clock }
    }

    /// Takes a step; returns false where none is left.
    pub(crate) fn step(&mut self) -> bool {
        if self.steps == 0 || self.end.is_some_and(|end| (self.clock)() >= end) {
            return false;
        }
        self.steps -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static ASKED: Cell<u64> = const { Cell::new(0) };
    }

    /// Returns how often this thread has asked before, in seconds.
    fn counted() -> Duration {
        ASKED.with(|asked| Duration::from_secs(asked.replace(asked.get() + 1)))
    }

    fn steps_of(effort: Effort) -> usize {
        let mut remaining = Remaining::of(effort);
        std::iter::from_fn(|| remaining.step().then_some(())).count()
    }

    #[test]
    fn time_is_measured_by_the_clock_that_is_passed() {
        // The first reading is the beginning, and the sixth is five seconds later.
        assert_eq!(steps_of(Effort::time(Duration::from_secs(5)).with_clock(counted)), 4);
        assert_eq!(steps_of(Effort::time(Duration::ZERO).with_clock(counted)), 0);
        let both = Effort { steps: 3, ..Effort::time(Duration::from_secs(5)).with_clock(counted) };
        assert_eq!(steps_of(both), 3);
    }

    #[test]
    fn steps_alone_ask_no_clock() {
        assert_eq!(steps_of(Effort::steps(7).with_clock(counted)), 7);
        assert_eq!(ASKED.get(), 0);
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let before = system_clock();
        assert!(system_clock() >= before);
    }
}
