//! Native timelines: the events by which the driver orders commands of different queues, and the
//! clock of a traced queue.
//!
//! Queues whose devices share a context wait for each other's events.
//! A timeline notes which event will reach which of its points as soon as the command is in the
//! driver's queue.
//! So another command may be given to the driver behind it, and the host does nothing in between.
//!
//! Commands wait in this way only for events of commands that the driver has already.
//! The host waits for a point that the host is to reach.
//! A command that waits for a user event would hold up all commands behind it in its queue,
//! although the contract lets these come first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{NativeTimeline, Point, Result, Timeline};

use crate::handle::{CommandQueue, Context, Event, Mem};

/// The native side of a timeline, on the devices of a context.
pub(crate) struct OpenClTimeline {
    context: Arc<Context>,
    /// The commands that will reach points, by the point's value and the event's address.
    ahead: Mutex<BTreeMap<(u64, usize), Ahead>>,
}

/// A command in a driver's queue that will reach a point.
#[derive(Clone)]
struct Ahead {
    event: Arc<Event>,
    queue: usize,
}

impl NativeTimeline for OpenClTimeline {}

impl OpenClTimeline {
    /// Makes a timeline of the contract with this native side.
    pub(crate) fn make(initial: u64, context: &Arc<Context>) -> Timeline {
        let native = OpenClTimeline { context: context.clone(), ahead: Mutex::default() };
        Timeline::with_native(initial, Arc::new(native))
    }

    /// Returns the native side of a point's timeline, where it belongs to the same context.
    fn of<'a>(point: &'a Point, context: &Arc<Context>) -> Option<&'a OpenClTimeline> {
        point.timeline.native::<OpenClTimeline>().filter(|native| Arc::ptr_eq(&native.context, context))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u64, usize), Ahead>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(point: &Point, event: &Arc<Event>) -> (u64, usize) {
        (point.value, Arc::as_ptr(event).addr())
    }

    /// Returns the command that will reach a value first.
    fn find(&self, value: u64) -> Option<Ahead> {
        self.lock().range((value, 0)..).next().map(|(_, first)| first.clone())
    }

    /// Notes that a command of a queue will reach points.
    pub(crate) fn note(context: &Arc<Context>, signal: &[Point], event: &Arc<Event>, queue: &CommandQueue) {
        for point in signal {
            if let Some(native) = Self::of(point, context) {
                let ahead = Ahead { event: event.clone(), queue: queue.number() };
                native.lock().insert(Self::key(point, event), ahead);
            }
        }
    }

    /// Forgets points that are reached or have failed.
    pub(crate) fn forget(context: &Arc<Context>, signal: &[Point], event: &Arc<Event>) {
        for point in signal {
            if let Some(native) = Self::of(point, context) {
                native.lock().remove(&Self::key(point, event));
            }
        }
    }

    /// Returns the events of other queues that will reach the points, for which a command in
    /// `queue` has to wait.
    /// Returns `None` where a point is neither reached nor sure to be reached by a command that the
    /// driver has.
    pub(crate) fn events(context: &Arc<Context>, wait: &[Point], queue: &CommandQueue) -> Option<Vec<Arc<Event>>> {
        let mut events: Vec<Arc<Event>> = Vec::new();
        for point in wait.iter().filter(|point| !point.is_reached()) {
            match Self::of(point, context).and_then(|native| native.find(point.value)) {
                // Commands of one queue run in their order, so they need no event.
                Some(ahead) if ahead.queue == queue.number() => {}
                Some(ahead) if !events.iter().any(|event| Arc::ptr_eq(event, &ahead.event)) => events.push(ahead.event),
                Some(_) => {}
                // The point may have been reached meanwhile, and its event forgotten.
                None if point.is_reached() => {}
                None => return None,
            }
        }
        Some(events)
    }
}

/// The relation of a queue's clock to the host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The same moment on both clocks, the device's in nanoseconds.
    host: Instant,
    device: u64,
}

impl Clock {
    /// Compares the clocks by small commands: the quickest one ended between its submission and the
    /// moment at which the host heard of it.
    pub(crate) fn compare(queue: &CommandQueue, scrap: &Mem) -> Result<Clock> {
        const ROUNDS: usize = 5;
        let round = || {
            let begin = Instant::now();
            let event = queue.fill(scrap, &[0], 0, 4, &[])?;
            queue.finish()?;
            let took = begin.elapsed();
            Ok((took, Clock { host: begin + took, device: event.span()?.1 }))
        };
        let mut best: (Duration, Clock) = round()?;
        for _ in 1..ROUNDS {
            let next = round()?;
            if next.0 < best.0 {
                best = next;
            }
        }
        Ok(best.1)
    }

    /// Returns the host's time of a moment on the device's clock.
    pub(crate) fn host(&self, device: u64) -> Instant {
        match device.checked_sub(self.device) {
            Some(later) => self.host + Duration::from_nanos(later),
            None => self.host.checked_sub(Duration::from_nanos(self.device - device)).unwrap_or(self.host),
        }
    }
}
