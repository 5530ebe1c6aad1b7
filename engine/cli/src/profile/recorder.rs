//! What a traced run tells, kept part by part.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hetero::hal::{DeviceId, TraceEvent, TraceKind, TraceSink};

/// The times of one part of a run, run after run.
pub(super) struct Part {
    pub(super) device: DeviceId,
    pub(super) nodes: Vec<Arc<str>>,
    pub(super) kernel: String,
    pub(super) times: Vec<Duration>,
}

/// A collector of trace events.
/// The kernels of a run come in the same order every time, device by device.
#[derive(Default)]
pub(crate) struct Recorder(pub(super) Mutex<Recorded>);

#[derive(Default)]
pub(super) struct Recorded {
    pub(super) parts: Vec<Part>,
    /// The kernels of each device that the run has told of: the places of their parts, and how many
    /// have come so far.
    told: Vec<(DeviceId, Vec<usize>, usize)>,
    /// The time and the bytes of the work beside kernels, in all runs: transfers, waits and host
    /// functions.
    beside: Vec<(TraceKind, DeviceId, Duration, u64)>,
}

impl Recorder {
    pub(crate) fn begin(&self) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.told.iter_mut().for_each(|(_, _, next)| *next = 0);
    }

    /// Calls `make` with the names of each part's nodes and with the part's times in each run, and
    /// returns what it makes.
    pub(crate) fn parts<T>(&self, mut make: impl FnMut(&[Arc<str>], &[Duration]) -> Option<T>) -> Vec<T> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.parts.iter().filter_map(|part| make(&part.nodes, &part.times)).collect()
    }

    /// Returns the time of a run on each device that was no kernel's, and the bytes that were
    /// moved, by kind of work.
    pub(super) fn beside(&self, runs: usize) -> Vec<(TraceKind, DeviceId, f64, u64)> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = |(kind, device, time, bytes): &(TraceKind, DeviceId, Duration, u64)| {
            (*kind, device.clone(), time.as_secs_f64() / runs.max(1) as f64, bytes / runs.max(1) as u64)
        };
        recorded.beside.iter().map(each).collect()
    }
}

impl TraceSink for Recorder {
    fn event(&self, event: &TraceEvent<'_>) {
        let took = event.end.saturating_duration_since(event.begin);
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Recorded { parts, told, beside } = &mut *recorded;
        if event.kind != TraceKind::Kernel {
            let of = |(kind, device, ..): &&mut (TraceKind, DeviceId, Duration, u64)| {
                *kind == event.kind && device == event.device
            };
            match beside.iter_mut().find(of) {
                Some((_, _, time, bytes)) => (*time, *bytes) = (*time + took, *bytes + event.bytes),
                None => beside.push((event.kind, event.device.clone(), took, event.bytes)),
            }
            return;
        }
        let device = told.iter().position(|(device, ..)| device == event.device).unwrap_or_else(|| {
            told.push((event.device.clone(), Vec::new(), 0));
            told.len() - 1
        });
        let (_, places, next) = &mut told[device];
        match places.get(*next).and_then(|&place| parts.get_mut(place)) {
            Some(part) => part.times.push(took),
            None => {
                places.push(parts.len());
                let (nodes, kernel) = (event.nodes.to_vec(), event.name.to_owned());
                parts.push(Part { device: event.device.clone(), nodes, kernel, times: vec![took] });
            }
        }
        *next += 1;
    }
}
