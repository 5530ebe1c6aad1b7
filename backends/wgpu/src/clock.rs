//! The device's clock, as the host's clock tells its time.

use std::time::{Duration, Instant};

/// The relation of the device's clock to the host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The same moment on both clocks.
    pub(crate) host: Instant,
    pub(crate) device: u64,
    /// The nanoseconds of a tick.
    pub(crate) period: f64,
}

impl Clock {
    /// Returns the host's time of a timestamp.
    pub(crate) fn host(&self, stamp: u64) -> Instant {
        let nanos = |ticks: u64| Duration::from_nanos((ticks as f64 * self.period) as u64);
        match stamp.checked_sub(self.device) {
            Some(later) => self.host + nanos(later),
            None => self.host.checked_sub(nanos(self.device - stamp)).unwrap_or(self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_before_and_after_the_comparison_are_mapped() {
        let host = Instant::now();
        let clock = Clock { host, device: 1000, period: 2.0 };
        assert_eq!(clock.host(1500) - host, Duration::from_micros(1));
        assert_eq!(host - clock.host(500), Duration::from_micros(1));
    }
}
