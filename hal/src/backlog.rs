//! What queues of most backends are made of: a thread that takes work whose points are reached, a bound on submissions, and one on bytes.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::driver::DeviceId;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{QueueOptions, Work};
use crate::timeline::Point;

/// Work whose points are reached, or that is to fail because one never will be.
#[derive(Debug)]
pub struct Job {
    /// The work, or why it is not to run.
    pub work: Result<Work>,
    /// What it reaches.
    pub signal: Signal,
}

/// Points that work reaches. One, as is usual, takes no memory of its own.
#[derive(Clone, Debug)]
pub struct Signal(Held);

#[derive(Clone, Debug)]
enum Held {
    One([Point; 1]),
    Several(Vec<Point>),
}

impl From<&[Point]> for Signal {
    fn from(points: &[Point]) -> Self {
        Signal(match points {
            [one] => Held::One([one.clone()]),
            several => Held::Several(several.to_vec()),
        })
    }
}

impl Deref for Signal {
    type Target = [Point];

    fn deref(&self) -> &[Point] {
        match &self.0 {
            Held::One(one) => one,
            Held::Several(several) => several,
        }
    }
}

/// Jobs on their way to a thread. Their room is used again: handing over allocates nothing once as many have waited before.
#[derive(Debug, Default)]
struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LineState {
    jobs: VecDeque<Job>,
    /// Nobody hands over any more, or nobody takes.
    closed: bool,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over; gives the job back where nobody takes it.
    fn push(&self, job: Job) -> Option<Job> {
        let mut state = self.lock();
        if state.closed {
            return Some(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// The next job; `None` once there is none and none will come.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One end of a line, which closes when it is dropped: the thread's when a job panics.
#[derive(Debug)]
struct End(Arc<Line>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// Work that waits for its points, and the thread that takes it then. For backends: a queue that starts work on its caller's thread wherever that does not block has one for
/// the rest. The thread begins with [`Backlog::start`], and ends when the backlog and everything that waits in it are dropped.
#[derive(Debug)]
pub struct Backlog {
    device: DeviceId,
    name: String,
    jobs: OnceLock<Arc<End>>,
}

impl Backlog {
    /// A backlog without a thread yet.
    #[must_use]
    pub fn new(device: DeviceId, options: &QueueOptions) -> Self {
        let named = !options.name.is_empty();
        let name = if named { options.name.clone() } else { format!("hetero-{}-queue", device.driver()) };
        Backlog { device, name, jobs: OnceLock::new() }
    }

    /// Starts the thread, unless it runs. `serve` makes what is called there with each job.
    ///
    /// # Errors
    /// `OutOfMemory` where the system has no thread.
    pub fn start<F: FnMut(Job) + Send + 'static>(&self, serve: impl FnOnce() -> F) -> Result<()> {
        if self.jobs.get().is_some() {
            return Ok(());
        }
        let line = Arc::new(Line::default());
        let jobs = End(line.clone());
        let mut serve = serve();
        let run = move || {
            while let Some(job) = jobs.0.next() {
                serve(job);
            }
        };
        let started = std::thread::Builder::new().name(self.name.clone()).spawn(run);
        started.map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "cannot start a queue's thread").on(self.device.clone()).caused_by(error)
        })?;
        // Where another caller was first, this thread's line is closed, and the thread ends.
        self.jobs.get_or_init(|| Arc::new(End(line)));
        Ok(())
    }

    /// Hands work to the thread when all points are reached, or, as a job that is to fail, when the first one fails. Where there is no thread, the signals fail.
    pub fn push(&self, wait: &[Point], work: Work, signal: &[Point]) {
        let (jobs, device, signal) = (self.jobs.get().cloned(), self.device.clone(), Signal::from(signal));
        let send = move |outcome: Result<()>| {
            let job = Job { work: outcome.map(|()| work), signal };
            let unsent = match jobs {
                Some(jobs) => jobs.0.push(job),
                None => Some(job),
            };
            if let Some(job) = unsent {
                let closed = Error::new(ErrorKind::DeviceLost, "the queue is closed").on(device);
                Point::settle(&job.signal, &Err(closed));
            }
        };
        // What need not wait needs no memory to wait in.
        if wait.iter().all(Point::is_reached) {
            return send(Ok(()));
        }
        Point::when_all(wait, Box::new(send));
    }

    /// Lets the thread end once what waits is over.
    pub fn close(&mut self) {
        drop(self.jobs.take());
    }
}

/// How many submissions a queue takes at once.
#[derive(Debug)]
pub struct Capacity {
    taken: AtomicUsize,
    most: usize,
}

impl Capacity {
    /// As many as the options say, or `default`.
    #[must_use]
    pub fn new(options: &QueueOptions, default: usize) -> Self {
        Capacity { taken: AtomicUsize::new(0), most: options.capacity.unwrap_or(default) }
    }

    /// Counts one more, which [`Capacity::give`] ends.
    ///
    /// # Errors
    /// `Execution`, retryable, where there are that many already.
    pub fn take(&self, device: &DeviceId) -> Result<()> {
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.most {
            return Ok(());
        }
        self.taken.fetch_sub(1, Ordering::AcqRel);
        Err(Error::new(ErrorKind::Execution, format!("{} submissions are under way already", self.most))
            .on(device.clone())
            .with_remedy("wait for some of them")
            .retryable())
    }

    /// Counts the only one; `false` where others are under way, or none may be.
    #[must_use]
    pub fn take_alone(&self) -> bool {
        self.most > 0 && self.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A submission is over.
    pub fn give(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Bytes that a device has allocated, and may.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Nothing allocated yet, of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Budget { used: AtomicU64::new(0), limit }
    }

    /// Bytes allocated now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Most bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes bytes, which [`Budget::give`] gives back.
    ///
    /// # Errors
    /// `OutOfMemory` with both sizes.
    pub fn take(&self, device: &DeviceId, bytes: u64) -> Result<()> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.limit)
        });
        taken.map(|_| ()).map_err(|used| {
            Error::new(ErrorKind::OutOfMemory, "cannot allocate memory")
                .on(device.clone())
                .with_sizes(bytes, Some(self.limit.saturating_sub(used)))
                .with_remedy("bind smaller shapes, or raise the device's memory limit")
        })
    }

    /// Gives bytes back.
    pub fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::timeline::Timeline;

    fn host() -> Work {
        Work::Host(Arc::new(|| Ok(())))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn jobs_come_when_all_points_are_reached_and_failures_come_with_them() {
        let mut backlog = Backlog::new(DeviceId::new("null", 0), &QueueOptions::default());
        let serve = || |job: Job| Point::settle(&job.signal, &job.work.map(|_| ()));
        backlog.start(serve).unwrap();
        backlog.start(serve).unwrap();
        let (first, second, done) = (Timeline::new(0), Timeline::new(0), Timeline::new(0));
        backlog.push(&[first.at(1), second.at(1)], host(), &[done.at(1)]);
        first.advance(1);
        assert!(done.wait(1, Instant::now()).is_err());
        second.advance(1);
        done.wait(1, soon()).unwrap();
        backlog.push(&[first.at(2), second.at(2)], host(), &[done.at(2)]);
        second.fail(Error::internal("gone"));
        assert!(done.wait(2, soon()).unwrap_err().message().contains("gone"));
        backlog.close();
        let late = Timeline::new(0);
        backlog.push(&[], host(), &[late.at(1)]);
        assert_eq!(late.wait(1, soon()).unwrap_err().kind(), ErrorKind::DeviceLost);
    }

    #[test]
    fn capacity_and_budget_end_where_they_say() {
        let id = DeviceId::new("null", 0);
        let capacity = Capacity::new(&QueueOptions { capacity: Some(2), ..QueueOptions::default() }, 9);
        assert!(capacity.take_alone() && !capacity.take_alone());
        capacity.take(&id).unwrap();
        assert!(capacity.take(&id).unwrap_err().is_retryable());
        capacity.give();
        capacity.take(&id).unwrap();
        assert!(!Capacity::new(&QueueOptions { capacity: Some(0), ..QueueOptions::default() }, 9).take_alone());
        let budget = Budget::new(10);
        budget.take(&id, 7).unwrap();
        let sizes = budget.take(&id, 4).unwrap_err().sizes().unwrap();
        assert_eq!((sizes.requested, sizes.available), (4, Some(3)));
        assert!(budget.take(&id, u64::MAX).is_err());
        budget.give(7);
        assert_eq!((budget.used(), budget.limit()), (0, 10));
    }
}
