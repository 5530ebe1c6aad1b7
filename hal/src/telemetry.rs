//! Telemetry and clock control. What a device does not tell is `None`, never 0.

use std::time::Duration;

/// A device's state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Telemetry {
    /// Share of the time in which it computed, 0 to 1, over the driver's own window.
    pub utilization: Option<f64>,
    /// Bytes allocated through this device object.
    pub allocated_bytes: Option<u64>,
    /// Bytes in use on the device by everybody.
    pub used_bytes: Option<u64>,
    /// Watts.
    pub power: Option<f64>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    /// Hertz.
    pub clock: Option<f64>,
    /// Time that it has computed since it was opened.
    pub busy: Option<Duration>,
}

/// What clock is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClockRequest {
    /// The driver's own choice.
    Default,
    /// At most so many hertz.
    Limit(f64),
    /// So large a share of the highest clock, 0 to 1.
    Share(f64),
}

/// What clock was set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockState {
    /// Hertz now in force.
    pub current: f64,
    /// Lowest that the device offers, in hertz.
    pub lowest: f64,
    /// Highest that the device offers, in hertz.
    pub highest: f64,
}
