//! The ceiling of the host's processor, beside which a run is shown.

use std::time::Duration;

/// The most that the host's processor does, as the CPU backend measures it.
#[cfg_attr(not(feature = "cpu"), allow(dead_code))]
pub(super) struct Ceiling {
    /// Operations per second.
    pub(super) flops: f64,
    /// Bytes per second.
    pub(super) bandwidth: f64,
    /// The time of an empty parallel region that follows another one.
    pub(super) hot_region: Duration,
    /// The same time after a pause.
    pub(super) cold_region: Duration,
}

impl Ceiling {
    /// Measures what so many threads reach, or returns `None` in a build without the CPU backend.
    #[cfg(feature = "cpu")]
    pub(super) fn measure(threads: usize) -> hetero::Result<Option<Ceiling>> {
        let hetero_cpu::Ceiling { flops, bandwidth, hot_region, cold_region } = hetero_cpu::Ceiling::measure(threads)?;
        Ok(Some(Ceiling { flops, bandwidth, hot_region, cold_region }))
    }

    /// Returns `None`: this build is without the CPU backend, which measures the ceiling.
    #[cfg(not(feature = "cpu"))]
    pub(super) fn measure(_threads: usize) -> hetero::Result<Option<Ceiling>> {
        Ok(None)
    }
}
