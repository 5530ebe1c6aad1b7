//! Telemetry: what a device tells of its state.

use std::time::Duration;

/// The state of a device at one moment.
/// A number that the device does not tell is `None`, never 0.
/// More fields may come in later versions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Telemetry {
    /// The bytes that are allocated through this device object.
    pub allocated_bytes: Option<u64>,
    /// The time that the device has computed since it was opened.
    pub busy: Option<Duration>,
}
