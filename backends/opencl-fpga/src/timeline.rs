//! Native timelines: the events by which the driver orders commands of different queues, and the
//! clock of a traced queue.
//!
//! Queues whose devices have a context in common wait for each other's events.
//! A timeline notes which event will reach which of its points as soon as the command is in the
//! driver's queue, so that another command may be given to the driver behind it, and the host does
//! nothing in between.
//!
//! Only events of commands that the driver has already are waited for so.
//! A point that the host is to reach is waited for on the host: a command that waits for a user
//! event would hold up all commands behind it in its queue, while the contract lets these come
//! first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{NativeTimeline, Point, Result, Timeline};

use crate::handle::{CommandQueue, Context, Event, Mem};

/// A timeline's side on the devices of a context.
pub(crate) struct OpenClTimeline {
    context: Arc<Context>,
    ahead: Mutex<Vec<Ahead>>,
}

/// A point that a command in the driver's queues will reach.
#[derive(Clone)]
struct Ahead {
    value: u64,
    event: Arc<Event>,
    queue: usize,
}

impl NativeTimeline for OpenClTimeline {}

impl OpenClTimeline {
    /// A timeline of the contract's with this side.
    pub(crate) fn make(initial: u64, context: &Arc<Context>) -> Timeline {
        let native = OpenClTimeline { context: context.clone(), ahead: Mutex::default() };
        Timeline::with_native(initial, Arc::new(native))
    }

    /// A point's native side, where it is of the same context.
    fn of<'a>(point: &'a Point, context: &Arc<Context>) -> Option<&'a OpenClTimeline> {
        point.timeline.native::<OpenClTimeline>().filter(|native| Arc::ptr_eq(&native.context, context))
    }

    /// The command that will reach a value first.
    fn find(&self, value: u64) -> Option<Ahead> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.iter().filter(|ahead| ahead.value >= value).min_by_key(|ahead| ahead.value).cloned()
    }

    /// Notes that a command of a queue will reach points.
    pub(crate) fn note(context: &Arc<Context>, signal: &[Point], event: &Arc<Event>, queue: &CommandQueue) {
        for point in signal {
            if let Some(native) = Self::of(point, context) {
                let (event, queue) = (event.clone(), queue.number());
                let ahead = Ahead { value: point.value, event, queue };
                native.ahead.lock().unwrap_or_else(PoisonError::into_inner).push(ahead);
            }
        }
    }

    /// Forgets points that are reached or have failed.
    pub(crate) fn forget(context: &Arc<Context>, signal: &[Point], event: &Arc<Event>) {
        for native in signal.iter().filter_map(|point| Self::of(point, context)) {
            let mut ahead = native.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            ahead.retain(|ahead| !Arc::ptr_eq(&ahead.event, event));
        }
    }

    /// What a command in `queue` has to wait for: the events of other queues that will reach the
    /// points.
    /// `None` where a point is neither reached nor sure to be by a command that the driver has.
    pub(crate) fn events(context: &Arc<Context>, wait: &[Point], queue: &CommandQueue) -> Option<Vec<Arc<Event>>> {
        let mut events: Vec<Arc<Event>> = Vec::new();
        for point in wait.iter().filter(|point| !point.is_reached()) {
            match Self::of(point, context).and_then(|native| native.find(point.value)) {
                // Commands of one queue run in their order.
                Some(ahead) if ahead.queue == queue.number() => {}
                Some(ahead) if !events.iter().any(|event| Arc::ptr_eq(event, &ahead.event)) => events.push(ahead.event),
                Some(_) => {}
                // It may have been reached meanwhile, and been forgotten.
                None if point.is_reached() => {}
                None => return None,
            }
        }
        Some(events)
    }
}

/// How a queue's clock stands to the host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The same moment on both clocks; the device's in nanoseconds.
    host: Instant,
    device: u64,
}

impl Clock {
    /// Compares the clocks by small commands: the quickest one ended between its submission and the
    /// host's hearing of it.
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

    /// The host's time of a moment of the device's.
    pub(crate) fn host(&self, device: u64) -> Instant {
        match device.checked_sub(self.device) {
            Some(later) => self.host + Duration::from_nanos(later),
            None => self.host.checked_sub(Duration::from_nanos(self.device - device)).unwrap_or(self.host),
        }
    }
}
