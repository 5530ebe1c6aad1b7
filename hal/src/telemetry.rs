//! Telemetry: what a device tells of its state.

use std::time::Duration;

/// A device's state at one moment.
/// What a device does not tell is `None`, never 0; more may come in later versions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Telemetry {
    /// Bytes allocated through this device object.
    pub allocated_bytes: Option<u64>,
    /// Time that it has computed since it was opened.
    pub busy: Option<Duration>,
}
