//! Time in which a device worked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time in which at least one piece of work was under way.
/// Pieces of work that wait in a driver for one another overlap, and count once.
#[derive(Debug)]
pub struct Busy {
    opened: Instant,
    /// The time so far, in nanoseconds.
    spent: AtomicU64,
    /// When the last piece of work ended, in nanoseconds since the device was opened.
    last_end: AtomicU64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Busy {
    /// Makes a counter of which no time is spent yet.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it begins to count when it is made")]
    pub fn new() -> Self {
        Busy { opened: Instant::now(), spent: AtomicU64::new(0), last_end: AtomicU64::new(0) }
    }

    /// Counts work that ran from `began` to `ended`.
    /// Where work ends in the order in which it was given, it can overlap only with the piece that
    /// ended before it.
    pub fn add(&self, began: Instant, ended: Instant) {
        let [began, ended] = [began, ended].map(|at| nanos(at.saturating_duration_since(self.opened)));
        let before = self.last_end.fetch_max(ended, Ordering::AcqRel);
        self.spent.fetch_add(ended.saturating_sub(began.max(before)), Ordering::Relaxed);
    }

    /// Returns the time so far.
    #[must_use]
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_work_counts_once() {
        let busy = Busy::new();
        let at = |ms: u64| busy.opened + Duration::from_millis(ms);
        for (began, ended) in [(10, 20), (11, 30), (12, 25), (40, 45)] {
            busy.add(at(began), at(ended));
        }
        assert_eq!(busy.spent(), Duration::from_millis(25));
    }
}
