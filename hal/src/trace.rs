//! Trace events: what devices did, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::driver::DeviceId;

/// A receiver of the trace events of the work that it was given to; see
/// [`Work::traced`](crate::Work::traced).
///
/// Events come from any thread, in no particular order, and all of them before the work's points
/// are reached.
/// A device that cannot tell the parts of an execution apart reports the execution as a whole.
pub trait TraceSink: Send + Sync {
    /// Tells the sink of an event that is over.
    /// The method is called on the way to the next work, so it returns soon and does not block.
    fn event(&self, event: &TraceEvent<'_>);
}

/// A record of what a device, or the host for it, did from one moment to another.
///
/// Times are the host's: a device with a clock of its own maps it to the host's once, and adds the
/// difference.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TraceEvent<'a> {
    /// The device that did it.
    pub device: &'a DeviceId,
    /// The name of the queue; one lane does one thing at a time.
    pub lane: &'a str,
    /// The sort of thing that was done.
    pub kind: TraceKind,
    /// The name of the kernel or other step, in the device's own words.
    pub name: &'a str,
    /// The names of the nodes that it computed; none where it only changed a layout, moved bytes or
    /// waited.
    pub nodes: &'a [Arc<str>],
    /// The moment at which it began.
    pub begin: Instant,
    /// The moment at which it ended.
    pub end: Instant,
    /// The bytes that were moved, for a transfer.
    pub bytes: u64,
}

impl<'a> TraceEvent<'a> {
    /// Returns an event without nodes and bytes.
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

    /// Returns the same event with these nodes.
    #[must_use]
    pub fn of(self, nodes: &'a [Arc<str>]) -> Self {
        TraceEvent { nodes, ..self }
    }

    /// Returns the same event with a number of bytes moved.
    #[must_use]
    pub fn moving(self, bytes: u64) -> Self {
        TraceEvent { bytes, ..self }
    }
}

/// The sort of thing that a device did.
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
    /// A program, or a part of one, was compiled for the sizes of the run.
    Compile,
}

impl fmt::Display for TraceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TraceKind::Kernel => "kernel",
            TraceKind::Transfer => "transfer",
            TraceKind::Wait => "wait",
            TraceKind::Host => "host",
            TraceKind::Compile => "compile",
        })
    }
}
