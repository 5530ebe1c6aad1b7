//! Trace events: what devices did, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::driver::DeviceId;

/// Receives the trace events of the work that it was given to; see
/// [`Work::traced`](crate::Work::traced).
///
/// Events come from any thread, in no particular order, and all of them before the work's points
/// are reached.
/// A device that cannot tell the parts of an execution apart tells of it as a whole.
pub trait TraceSink: Send + Sync {
    /// Something is over.
    /// This is called on the way to the next work: it returns soon and does not block.
    fn event(&self, event: &TraceEvent<'_>);
}

/// What a device, or the host for it, did from one moment to another.
///
/// Times are the host's: a device with a clock of its own maps it to the host's once, and adds the
/// difference.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TraceEvent<'a> {
    /// The device.
    pub device: &'a DeviceId,
    /// The queue's name: what has one lane does one thing at a time.
    pub lane: &'a str,
    /// What sort of thing was done.
    pub kind: TraceKind,
    /// The kernel or other step, in the device's own words.
    pub name: &'a str,
    /// Names of the nodes that it did; none where it only changed a layout, moved bytes or waited.
    pub nodes: &'a [Arc<str>],
    /// When it began.
    pub begin: Instant,
    /// When it ended.
    pub end: Instant,
    /// Bytes that were moved, for a transfer.
    pub bytes: u64,
}

impl<'a> TraceEvent<'a> {
    /// An event without nodes and bytes.
    #[must_use]
    pub fn new(
        device: &'a DeviceId,
        lane: &'a str,
        kind: TraceKind,
        name: &'a str,
        (begin, end): (Instant, Instant),
    ) -> Self {
        TraceEvent { device, lane, kind, name, nodes: &[], begin, end, bytes: 0 }
    }

    /// The same, of these nodes.
    #[must_use]
    pub fn of(self, nodes: &'a [Arc<str>]) -> Self {
        TraceEvent { nodes, ..self }
    }

    /// The same, with so many bytes moved.
    #[must_use]
    pub fn moving(self, bytes: u64) -> Self {
        TraceEvent { bytes, ..self }
    }
}

/// What sort of thing a device did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TraceKind {
    /// A kernel computed, or a layout was changed.
    Kernel,
    /// Bytes were copied or filled.
    Transfer,
    /// Work was there, and had to wait for its points.
    Wait,
    /// A host function ran.
    Host,
}

impl fmt::Display for TraceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TraceKind::Kernel => "kernel",
            TraceKind::Transfer => "transfer",
            TraceKind::Wait => "wait",
            TraceKind::Host => "host",
        })
    }
}
