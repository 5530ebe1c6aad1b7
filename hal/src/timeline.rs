//! Timelines: the one way to synchronise.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// What a waiter hands to [`Timeline::on_reach`].
pub type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// Hears of points as often as it asks to, without an allocation for each; see [`Timeline::watch`].
pub trait Watcher: Send + Sync {
    /// The value is reached, or the timeline has failed. Short, and does not block.
    fn reached(&self, outcome: Result<()>);
}

/// Who waits for a value.
enum Waiter {
    Once(Callback),
    Again(Arc<dyn Watcher>),
}

impl Waiter {
    fn call(self, outcome: Result<()>) {
        match self {
            Waiter::Once(callback) => callback(outcome),
            Waiter::Again(watcher) => watcher.reached(outcome),
        }
    }
}

/// A counter that only grows. Work waits for values of it and signals values of it; see [`Queue`](crate::Queue).
///
/// A failed timeline reaches nothing any more: every waiter, present or future, for a value that was not reached gets the error.
/// Clones are the same timeline.
///
/// ```
/// use std::time::{Duration, Instant};
/// use hetero_hal::{ErrorKind, Timeline};
///
/// let timeline = Timeline::new(0);
/// timeline.advance(2);
/// timeline.wait(1, Instant::now())?;
/// let late = timeline.wait(3, Instant::now() + Duration::from_millis(1)).unwrap_err();
/// assert_eq!(late.kind(), ErrorKind::Timeout);
/// # Ok::<(), hetero_hal::Error>(())
/// ```
#[derive(Clone)]
pub struct Timeline(Arc<Shared>);

/// A device's own side of a [`Timeline`]: what its driver waits for in place of the host, such as
/// the events of commands that will reach the timeline's points.
///
/// Only queues of the same backend know the type.
/// A queue that finds the native side of a point that it is to wait for lets its driver wait; a
/// queue that does not waits on the host.
/// Either way the host's value tells the truth: whoever reaches a point natively also advances the
/// timeline.
pub trait NativeTimeline: Any + Send + Sync {}

struct Shared {
    /// The device's own side.
    native: Option<Arc<dyn NativeTimeline>>,
    /// Copy of `State::value`, so that a value reached long ago is seen without the lock.
    value: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    value: u64,
    failure: Option<Error>,
    callbacks: Vec<(u64, Waiter)>,
    /// Threads that wait on the condition: waking nobody is a system call too, and most points are reached before anybody waits.
    waiters: usize,
}

impl Timeline {
    /// A timeline that stands at `initial`.
    #[must_use]
    pub fn new(initial: u64) -> Self {
        Timeline::made(initial, None)
    }

    /// A timeline that stands at `initial`, with a device's own side.
    #[must_use]
    pub fn with_native(initial: u64, native: Arc<dyn NativeTimeline>) -> Self {
        Timeline::made(initial, Some(native))
    }

    /// The device's own side, where it is the backend's type `T`.
    #[must_use]
    pub fn native<T: NativeTimeline>(&self) -> Option<&T> {
        let native: &dyn Any = &**self.0.native.as_ref()?;
        native.downcast_ref()
    }

    fn made(initial: u64, native: Option<Arc<dyn NativeTimeline>>) -> Self {
        Timeline(Arc::new(Shared {
            native,
            value: AtomicU64::new(initial),
            state: Mutex::new(State { value: initial, failure: None, callbacks: Vec::new(), waiters: 0 }),
            changed: Condvar::new(),
        }))
    }

    /// State stays sound whatever a panicking callback does, because none runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value that it stands at.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.value.load(Ordering::Acquire)
    }

    /// The error, once it has failed.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Moves on to `value` and wakes who waits for it. A smaller value, or a failed timeline, changes nothing.
    pub fn advance(&self, value: u64) {
        let mut state = self.lock();
        if value <= state.value || state.failure.is_some() {
            return;
        }
        state.value = value;
        self.0.value.store(value, Ordering::Release);
        // Mostly one waits, and a list of one would be an allocation.
        let mut first = None;
        let mut others = Vec::new();
        let mut index = 0;
        while index < state.callbacks.len() {
            if state.callbacks[index].0 <= value {
                let waiter = state.callbacks.swap_remove(index).1;
                match first {
                    None => first = Some(waiter),
                    Some(_) => others.push(waiter),
                }
            } else {
                index += 1;
            }
        }
        let waited_for = state.waiters > 0;
        drop(state);
        if waited_for {
            self.0.changed.notify_all();
        }
        for waiter in first.into_iter().chain(others) {
            waiter.call(Ok(()));
        }
    }

    /// Fails for good: every value that is not reached yet answers with `error`. The first failure stays.
    pub fn fail(&self, error: Error) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        state.failure = Some(error.clone());
        let callbacks = std::mem::take(&mut state.callbacks);
        let waited_for = state.waiters > 0;
        drop(state);
        if waited_for {
            self.0.changed.notify_all();
        }
        for (_, waiter) in callbacks {
            waiter.call(Err(error.clone()));
        }
    }

    /// Blocks until `value` is reached.
    ///
    /// # Errors
    /// The timeline's failure, or `Timeout` when `deadline` passes.
    pub fn wait(&self, value: u64, deadline: Instant) -> Result<()> {
        if self.value() >= value {
            return Ok(());
        }
        let mut state = self.lock();
        loop {
            if state.value >= value {
                return Ok(());
            }
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                let stood = state.value;
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("waited for value {value} of a timeline that stands at {stood}"),
                )
                .retryable());
            };
            // Counted under the lock that the wait gives up: who advances later sees it.
            state.waiters += 1;
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiters -= 1;
        }
    }

    /// Calls `callback` once, when `value` is reached or the timeline fails: at once where that is so already, else on the thread
    /// that advances it. A callback is short and does not block.
    pub fn on_reach(&self, value: u64, callback: Callback) {
        self.tell(value, Waiter::Once(callback));
    }

    /// As [`Timeline::on_reach`], for who waits again and again: the watcher is told once for each call of this.
    pub fn watch(&self, value: u64, watcher: Arc<dyn Watcher>) {
        self.tell(value, Waiter::Again(watcher));
    }

    fn tell(&self, value: u64, waiter: Waiter) {
        let mut state = self.lock();
        let outcome = match &state.failure {
            _ if state.value >= value => Ok(()),
            Some(error) => Err(error.clone()),
            None => {
                state.callbacks.push((value, waiter));
                return;
            }
        };
        drop(state);
        waiter.call(outcome);
    }

    /// Is it the same timeline as `other`, or a clone?
    #[must_use]
    pub fn is(&self, other: &Timeline) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A point of this timeline.
    #[must_use]
    pub fn at(&self, value: u64) -> Point {
        Point { timeline: self.clone(), value }
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        match &state.failure {
            None => write!(f, "Timeline({})", state.value),
            Some(error) => write!(f, "Timeline({}, failed: {error})", state.value),
        }
    }
}

/// A value of a timeline: a moment that work waits for or signals.
#[derive(Clone, Debug)]
pub struct Point {
    /// The timeline.
    pub timeline: Timeline,
    /// The value.
    pub value: u64,
}

impl Point {
    /// Blocks until the point is reached.
    ///
    /// # Errors
    /// See [`Timeline::wait`].
    pub fn wait(&self, deadline: Instant) -> Result<()> {
        self.timeline.wait(self.value, deadline)
    }

    /// Is it reached?
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.timeline.value() >= self.value
    }

    /// Reaches the point.
    pub fn signal(&self) {
        self.timeline.advance(self.value);
    }

    /// Reaches points where the outcome is good, and fails their timelines where it isn't.
    pub fn settle(points: &[Point], outcome: &Result<()>) {
        match outcome {
            Ok(()) => points.iter().for_each(Point::signal),
            Err(error) => points.iter().for_each(|point| point.timeline.fail(error.clone())),
        }
    }

    /// Calls `then` once: when all points are reached, or as soon as one fails, with its error; at once where that is so already. As for
    /// [`Timeline::on_reach`], it is short and does not block.
    pub fn when_all(points: &[Point], then: Callback) {
        if points.iter().all(Point::is_reached) {
            return then(Ok(()));
        }
        let left = Arc::new((AtomicUsize::new(points.len()), Mutex::new(Some(then))));
        for point in points {
            let left = left.clone();
            let heard = move |outcome: Result<()>| {
                let last = left.0.fetch_sub(1, Ordering::AcqRel) == 1;
                if !last && outcome.is_ok() {
                    return;
                }
                // Taken before the call, which may reach points itself.
                let then = left.1.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(then) = then {
                    then(outcome);
                }
            };
            point.timeline.on_reach(point.value, Box::new(heard));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_waiter_wakes_when_the_value_is_reached() {
        let timeline = Timeline::new(5);
        let other = timeline.clone();
        let waiter = std::thread::spawn(move || other.wait(7, soon()));
        timeline.advance(6);
        timeline.advance(3);
        assert_eq!(timeline.value(), 6);
        timeline.advance(8);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn failure_reaches_every_waiter_but_not_the_past() {
        let timeline = Timeline::new(1);
        let (sender, receiver) = mpsc::channel();
        let late = sender.clone();
        timeline.on_reach(2, Box::new(move |outcome| sender.send(outcome.is_err()).unwrap()));
        timeline.fail(Error::new(ErrorKind::DeviceLost, "unplugged"));
        timeline.fail(Error::internal("second"));
        timeline.advance(9);
        timeline.on_reach(1, Box::new(move |outcome| late.send(outcome.is_err()).unwrap()));
        assert_eq!(receiver.iter().take(2).collect::<Vec<_>>(), [true, false]);
        assert!(timeline.wait(1, soon()).is_ok());
        assert_eq!(timeline.wait(2, soon()).unwrap_err().kind(), ErrorKind::DeviceLost);
        assert_eq!(timeline.value(), 1);
    }

    #[test]
    fn a_watcher_is_told_once_for_each_time_it_asks() {
        struct Count(Mutex<Vec<bool>>);
        impl Watcher for Count {
            fn reached(&self, outcome: Result<()>) {
                self.0.lock().unwrap().push(outcome.is_ok());
            }
        }
        let (timeline, count) = (Timeline::new(0), Arc::new(Count(Mutex::default())));
        for value in [1, 2, 2, 3] {
            timeline.watch(value, count.clone());
        }
        timeline.advance(2);
        timeline.watch(1, count.clone());
        assert_eq!(*count.0.lock().unwrap(), [true; 4]);
        timeline.fail(Error::internal("gone"));
        assert_eq!(*count.0.lock().unwrap(), [true, true, true, true, false]);
    }

    #[test]
    fn only_the_backend_that_made_it_finds_the_native_side() {
        struct Own(u32);
        struct Foreign;
        impl NativeTimeline for Own {}
        impl NativeTimeline for Foreign {}
        let timeline = Timeline::with_native(3, Arc::new(Own(7)));
        assert_eq!(timeline.clone().native::<Own>().map(|own| own.0), Some(7));
        assert!(timeline.native::<Foreign>().is_none() && Timeline::new(0).native::<Own>().is_none());
        assert_eq!(timeline.value(), 3);
    }

    #[test]
    fn callbacks_run_once_and_only_when_due() {
        let timeline = Timeline::new(0);
        let (sender, receiver) = mpsc::channel();
        for value in [3u64, 1, 2] {
            let sender = sender.clone();
            timeline.on_reach(value, Box::new(move |_| sender.send(value).unwrap()));
        }
        timeline.advance(2);
        let mut due: Vec<u64> = receiver.try_iter().collect();
        due.sort_unstable();
        assert_eq!(due, [1, 2]);
        timeline.advance(4);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [3]);
    }
}
