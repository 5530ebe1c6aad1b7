//! The pool of a session's contexts: how many runs may be under way at once.
//!
//! A context is memory for one run.
//! The pool makes one when none is idle, up to a number that the configuration names or that the
//! devices' memory has room for.
//! A caller that runs beyond that number waits for a context.
//! A caller that only begins a run gets an error, as waiting for itself would not end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hetero_hal::{Error as HalError, ErrorKind, Result};

/// The number of contexts that are there, idle or in use, and the most that there may be.
#[derive(Debug)]
struct Count {
    there: Mutex<usize>,
    changed: Condvar,
    most: usize,
}

impl Count {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be one of the pool's contexts; it is given back when the context is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Count>);

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.changed.notify_one();
    }
}

/// The contexts that no run uses, and the number of all contexts.
pub(super) struct Pool<C> {
    count: Arc<Count>,
    idle: Mutex<Vec<C>>,
}

/// The pool's answer to a run that needs a context.
pub(super) enum Place<C> {
    /// A context that an earlier run has left.
    Idle(C),
    /// Room for a new context.
    Room(Permit),
}

impl<C> Pool<C> {
    /// Makes a pool of at most `most` contexts, at least one.
    pub(super) fn new(most: usize) -> Self {
        let count = Count { there: Mutex::new(0), changed: Condvar::new(), most: most.max(1) };
        Pool { count: Arc::new(count), idle: Mutex::new(Vec::new()) }
    }

    /// Returns the most contexts at once.
    pub(super) fn most(&self) -> usize {
        self.count.most
    }

    /// Takes a context, or room for one.
    /// Where all are in use, waits for one until `deadline`, or not at all where there is no
    /// deadline.
    ///
    /// # Errors
    /// `Execution`, retryable, where there is no deadline.
    /// `Timeout` when the deadline passes.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Result<Place<C>> {
        if let Some(context) = self.idle().pop() {
            return Ok(Place::Idle(context));
        }
        let mut there = self.count.lock();
        loop {
            // The idle contexts are looked at under the lock: a run that gives one back tells of it
            // under the same lock.
            if let Some(context) = self.idle().pop() {
                return Ok(Place::Idle(context));
            }
            if *there < self.count.most {
                *there += 1;
                return Ok(Place::Room(Permit(self.count.clone())));
            }
            let most = self.count.most;
            let Some(deadline) = deadline else {
                return Err(HalError::new(ErrorKind::Execution, format!("{most} runs are under way already"))
                    .with_remedy("finish one of them, or raise scheduling.max_in_flight")
                    .retryable());
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HalError::new(ErrorKind::Timeout, format!("{most} runs were under way all the time"))
                    .with_remedy("allow the engine more time, or raise scheduling.max_in_flight")
                    .retryable());
            }
            there = self.count.changed.wait_timeout(there, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Keeps a context for another run.
    pub(super) fn give(&self, context: C) {
        self.idle().push(context);
        // The lock is held, so that nobody looks and goes to sleep in between.
        let _told = self.count.lock();
        self.count.changed.notify_one();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<C>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn room(pool: &Pool<Permit>) -> Permit {
        match pool.take(None).unwrap() {
            Place::Room(permit) | Place::Idle(permit) => permit,
        }
    }

    #[test]
    fn no_more_contexts_are_made_than_allowed_and_idle_ones_are_used_again() {
        let pool = Pool::new(2);
        let (first, second) = (room(&pool), room(&pool));
        let refused = pool.take(None).err().unwrap();
        assert!(refused.is_retryable() && refused.message().contains("2 runs"), "{refused}");
        let late = pool.take(Some(Instant::now() + Duration::from_millis(1))).err().unwrap();
        assert_eq!(late.kind(), ErrorKind::Timeout);
        pool.give(first);
        assert!(matches!(pool.take(None).unwrap(), Place::Idle(_)), "the permit of an idle context is not given twice");
        drop(second);
        assert!(matches!(pool.take(None).unwrap(), Place::Room(_)));
    }

    #[test]
    fn a_waiting_run_gets_the_context_that_another_gives_back() {
        let pool = Arc::new(Pool::new(1));
        let held = room(&pool);
        let waiting = pool.clone();
        let waiter = std::thread::spawn(move || waiting.take(Some(Instant::now() + Duration::from_secs(60))).is_ok());
        pool.give(held);
        assert!(waiter.join().unwrap());
    }
}
