//! Timelines: the one way to synchronise.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// The function that a waiter hands to [`Timeline::on_reach`].
pub type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// An object that is told of points as often as it asks to be, without an allocation for each; see
/// [`Timeline::watch`].
pub trait Watcher: Send + Sync {
    /// Tells the watcher that the value is reached, or that the timeline has failed.
    /// The method is short and does not block.
    fn reached(&self, outcome: Result<()>);
}

/// A callback or watcher that is to be told.
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

/// A waiter, ordered by the value that it waits for, and then by when it came.
struct Due {
    key: (u64, u64),
    waiter: Waiter,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// A counter that only grows, and that can fail.
///
/// Work waits for values of it and signals values of it; see [`Queue`](crate::Queue).
/// A failed timeline reaches nothing any more: everyone who waits for a value that was not reached
/// gets the error, now and later.
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
/// A queue that is to wait for a point looks for the native side of the point's timeline.
/// If it finds one, its driver waits; else the queue waits on the host.
/// Either way the host's value tells the truth: whoever reaches a point natively also advances the
/// timeline.
pub trait NativeTimeline: Any + Send + Sync {}

struct Shared {
    /// The device's own side of the timeline.
    native: Option<Arc<dyn NativeTimeline>>,
    /// A copy of `State::value`, so that a value reached long ago is seen without the lock.
    value: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    value: u64,
    failure: Option<Error>,
    /// Who is to be told, the least value first: a step that is over looks at those that it lets
    /// go on, however many wait for later ones.
    told: BinaryHeap<Reverse<Due>>,
    /// The number of those that came so far.
    came: u64,
    /// The number of threads that wait on the condition.
    /// Waking nobody is a system call too, and most points are reached before anybody waits.
    waiters: usize,
}

impl Timeline {
    /// Makes a timeline that stands at `initial`.
    #[must_use]
    pub fn new(initial: u64) -> Self {
        Timeline::made(initial, None)
    }

    /// Makes a timeline that stands at `initial`, with a device's own side.
    #[must_use]
    pub fn with_native(initial: u64, native: Arc<dyn NativeTimeline>) -> Self {
        Timeline::made(initial, Some(native))
    }

    /// Returns the device's own side, where it is the backend's type `T`.
    #[must_use]
    pub fn native<T: NativeTimeline>(&self) -> Option<&T> {
        let native: &dyn Any = &**self.0.native.as_ref()?;
        native.downcast_ref()
    }

    fn made(initial: u64, native: Option<Arc<dyn NativeTimeline>>) -> Self {
        Timeline(Arc::new(Shared {
            native,
            value: AtomicU64::new(initial),
            state: Mutex::new(State { value: initial, failure: None, told: BinaryHeap::new(), came: 0, waiters: 0 }),
            changed: Condvar::new(),
        }))
    }

    /// Locks the state, which stays sound whatever a panicking callback does, because none runs
    /// under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value that the timeline stands at.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.value.load(Ordering::Acquire)
    }

    /// Returns the error, once the timeline has failed.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Moves the timeline on to `value`, and wakes everyone who waits for it.
    /// A smaller value changes nothing, and neither does any value on a failed timeline.
    pub fn advance(&self, value: u64) {
        let mut state = self.lock();
        if value <= state.value || state.failure.is_some() {
            return;
        }
        state.value = value;
        self.0.value.store(value, Ordering::Release);
        // Mostly there is one waiter, and a list of one would be an allocation.
        let mut first = None;
        let mut others = Vec::new();
        while let Some(next) = state.told.peek_mut().filter(|next| next.0.key.0 <= value) {
            let waiter = PeekMut::pop(next).0.waiter;
            match first {
                None => first = Some(waiter),
                Some(_) => others.push(waiter),
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

    /// Fails the timeline for good: every value that is not reached yet answers with `error`.
    /// The first failure stays.
    pub fn fail(&self, error: Error) {
        let mut state = self.lock();
        if state.failure.is_some() {
            return;
        }
        state.failure = Some(error.clone());
        let told = std::mem::take(&mut state.told).into_sorted_vec();
        let waited_for = state.waiters > 0;
        drop(state);
        if waited_for {
            self.0.changed.notify_all();
        }
        for Reverse(due) in told.into_iter().rev() {
            due.waiter.call(Err(error.clone()));
        }
    }

    /// Blocks until the timeline reaches `value`.
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
            // Counted under the lock that the wait gives up, so that whoever advances later sees
            // it.
            state.waiters += 1;
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiters -= 1;
        }
    }

    /// Calls `callback` once, when `value` is reached or the timeline fails.
    /// The call is made at once where that is so already, and else on the thread that advances or
    /// fails the timeline.
    /// Callbacks for smaller values come first, and those for the same value in the order in which
    /// they came.
    /// A callback is short and does not block.
    pub fn on_reach(&self, value: u64, callback: Callback) {
        self.tell(value, Waiter::Once(callback));
    }

    /// Tells `watcher` once of `value`, as [`Timeline::on_reach`] tells a callback.
    /// It is for an object that waits again and again, and asks with one call for each time.
    pub fn watch(&self, value: u64, watcher: Arc<dyn Watcher>) {
        self.tell(value, Waiter::Again(watcher));
    }

    fn tell(&self, value: u64, waiter: Waiter) {
        let mut state = self.lock();
        let outcome = match &state.failure {
            _ if state.value >= value => Ok(()),
            Some(error) => Err(error.clone()),
            None => {
                let key = (value, state.came);
                state.came += 1;
                state.told.push(Reverse(Due { key, waiter }));
                return;
            }
        };
        drop(state);
        waiter.call(outcome);
    }

    /// Tells whether this is the same timeline as `other`, or a clone of it.
    #[must_use]
    pub fn is(&self, other: &Timeline) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the point of this timeline with the given value.
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
    /// The timeline that the point is on.
    pub timeline: Timeline,
    /// The value at which the point is reached.
    pub value: u64,
}

impl Point {
    /// Blocks until the point is reached.
    ///
    /// # Errors
    /// The errors of [`Timeline::wait`].
    pub fn wait(&self, deadline: Instant) -> Result<()> {
        self.timeline.wait(self.value, deadline)
    }

    /// Tells whether the point is reached.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.timeline.value() >= self.value
    }

    /// Reaches the point.
    pub fn signal(&self) {
        self.timeline.advance(self.value);
    }

    /// Reaches the points where the outcome is good, and fails their timelines where it is not.
    pub fn settle(points: &[Point], outcome: &Result<()>) {
        match outcome {
            Ok(()) => points.iter().for_each(Point::signal),
            Err(error) => points.iter().for_each(|point| point.timeline.fail(error.clone())),
        }
    }

    /// Calls `then` once: when all points are reached, or as soon as one fails, with its error.
    /// The call is made at once where that is so already.
    /// Like a callback of [`Timeline::on_reach`], `then` is short and does not block.
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
                // Taken out before the call, so that no lock is held: the call may reach points
                // itself.
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

    /// A step that is over does not go through all that wait for later ones, which would be 10^10
    /// looks here.
    #[test]
    fn very_many_callbacks_for_later_values_cost_nothing_now() {
        const STEPS: u64 = 200_000;
        let (timeline, heard) = (Timeline::new(0), Arc::new(AtomicU64::new(0)));
        for value in (1..=STEPS).rev() {
            let heard = heard.clone();
            timeline.on_reach(value, Box::new(move |_| heard.store(value, Ordering::Relaxed)));
        }
        for value in 1..=STEPS {
            timeline.advance(value);
            assert_eq!(heard.load(Ordering::Relaxed), value);
        }
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
        for (value, name) in [(3u64, 'c'), (2, 'b'), (1, 'a'), (2, 'B'), (4, 'd'), (5, 'e')] {
            let sender = sender.clone();
            timeline.on_reach(value, Box::new(move |outcome| sender.send((name, outcome.is_ok())).unwrap()));
        }
        timeline.advance(2);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [('a', true), ('b', true), ('B', true)]);
        timeline.advance(3);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [('c', true)]);
        timeline.fail(Error::internal("gone"));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [('d', false), ('e', false)]);
    }
}
