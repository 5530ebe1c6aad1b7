//! The thread behind a queue, and the jobs on their way to it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use hetero_hal::{DeviceId, Error, ErrorKind, Point, QueueOptions, Result};

/// Jobs on their way to a thread.
/// Their room is used again: once as many jobs have waited before, a push allocates nothing.
struct Line<J> {
    state: Mutex<LineState<J>>,
    changed: Condvar,
}

struct LineState<J> {
    jobs: VecDeque<J>,
    /// True once nobody hands jobs over any more, or nobody takes them.
    closed: bool,
}

impl<J> Line<J> {
    fn new() -> Self {
        Line { state: Mutex::new(LineState { jobs: VecDeque::new(), closed: false }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, LineState<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the job over, and gives it back where nobody takes jobs any more.
    fn push(&self, job: J) -> Option<J> {
        let mut state = self.lock();
        if state.closed {
            return Some(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// Returns the next job, or `None` once there is none and none will come.
    fn next(&self) -> Option<J> {
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

/// One end of a line; dropping it closes the line, also where the thread's end goes because a job
/// panics.
struct End<J>(Arc<Line<J>>);

impl<J> Drop for End<J> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// Jobs that wait for their points, and the thread that takes them once the points are reached.
///
/// A queue that starts work on its caller's thread wherever that does not block needs a backlog for
/// the remaining work.
/// The thread begins with [`Backlog::start`], and ends when the backlog and everything that waits
/// in it are dropped.
pub struct Backlog<J> {
    device: DeviceId,
    name: String,
    jobs: OnceLock<Arc<End<J>>>,
}

impl<J: Send + 'static> Backlog<J> {
    /// Makes a backlog that has no thread yet.
    #[must_use]
    pub fn new(device: DeviceId, options: &QueueOptions) -> Self {
        let named = !options.name.is_empty();
        let name = if named { options.name.clone() } else { format!("hetero-{}-queue", device.driver()) };
        Backlog { device, name, jobs: OnceLock::new() }
    }

    /// Returns the thread's name, which is also the queue's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the thread, unless it runs already.
    /// `serve` returns the function that the thread calls with each job.
    ///
    /// # Errors
    /// `OutOfMemory` where the system cannot start a thread.
    pub fn start<F: FnMut(J) + Send + 'static>(&self, serve: impl FnOnce() -> F) -> Result<()> {
        if self.jobs.get().is_some() {
            return Ok(());
        }
        let line = Arc::new(Line::new());
        let jobs = End(line.clone());
        let mut serve = serve();
        let run = move || {
            while let Some(job) = jobs.0.next() {
                // Only foreign code panics here, such as a callback; the jobs behind it have their
                // turn all the same.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(job)));
            }
        };
        let started = std::thread::Builder::new().name(self.name.clone()).spawn(run);
        started.map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "cannot start a queue's thread").on(self.device.clone()).caused_by(error)
        })?;
        // Where another caller was first, dropping this end closes this thread's line, and the
        // thread ends.
        let end = Arc::new(End(line));
        self.jobs.get_or_init(|| end);
        Ok(())
    }

    /// Hands the job that `make` returns to the thread once all points are reached, or as soon as
    /// the first one fails.
    /// `make` is told which of the two happened.
    /// A job that no thread takes is handed to `closed`.
    pub fn push(
        &self,
        wait: &[Point],
        make: impl FnOnce(Result<()>) -> J + Send + 'static,
        closed: impl FnOnce(J, Error) + Send + 'static,
    ) {
        let (jobs, device) = (self.jobs.get().cloned(), self.device.clone());
        let send = move |outcome: Result<()>| {
            let job = make(outcome);
            let unsent = match jobs {
                Some(jobs) => jobs.0.push(job),
                None => Some(job),
            };
            if let Some(job) = unsent {
                closed(job, Error::new(ErrorKind::DeviceLost, "the queue is closed").on(device));
            }
        };
        // A job that need not wait needs no memory to wait in.
        if wait.iter().all(Point::is_reached) {
            return send(Ok(()));
        }
        Point::when_all(wait, Box::new(send));
    }

    /// Lets the thread end once the waiting jobs are done.
    pub fn close(&mut self) {
        drop(self.jobs.take());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use hetero_hal::Timeline;

    use super::*;

    type Told = (Result<()>, Point);

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn push(backlog: &Backlog<Told>, wait: &[Point], done: Point) {
        let settle = |(_, point): Told, error| Point::settle(&[point], &Err(error));
        backlog.push(wait, move |outcome| (outcome, done), settle);
    }

    #[test]
    fn a_job_that_panics_does_not_keep_others_waiting() {
        let backlog: Backlog<Told> = Backlog::new(DeviceId::new("null", 0), &QueueOptions::default());
        let serve = || {
            |(outcome, point): Told| {
                assert!(point.value != 1, "on purpose");
                Point::settle(&[point], &outcome);
            }
        };
        backlog.start(serve).unwrap();
        let done = Timeline::new(0);
        push(&backlog, &[], done.at(1));
        push(&backlog, &[], done.at(2));
        done.wait(2, soon()).unwrap();
    }

    /// A thread that a second caller starts ends at once, and drops all that it holds.
    #[test]
    fn the_thread_of_a_second_start_lets_go_of_what_it_serves_with() {
        let backlog: Arc<Backlog<Told>> = Arc::new(Backlog::new(DeviceId::new("null", 0), &QueueOptions::default()));
        let held = Arc::new(());
        let barrier = Arc::new(std::sync::Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (backlog, held, barrier) = (backlog.clone(), held.clone(), barrier.clone());
                scope.spawn(move || {
                    barrier.wait();
                    backlog.start(|| move |_: Told| drop(held.clone())).unwrap();
                });
            }
        });
        let deadline = soon();
        while Arc::strong_count(&held) > 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The test holds one, and the one thread that serves holds the other.
        assert_eq!(Arc::strong_count(&held), 2);
    }

    #[test]
    fn jobs_come_when_all_points_are_reached_and_failures_come_with_them() {
        let mut backlog: Backlog<Told> = Backlog::new(DeviceId::new("null", 0), &QueueOptions::default());
        let serve = || |(outcome, point): Told| Point::settle(&[point], &outcome);
        backlog.start(serve).unwrap();
        backlog.start(serve).unwrap();
        let (first, second, done) = (Timeline::new(0), Timeline::new(0), Timeline::new(0));
        push(&backlog, &[first.at(1), second.at(1)], done.at(1));
        first.advance(1);
        assert!(done.wait(1, Instant::now()).is_err());
        second.advance(1);
        done.wait(1, soon()).unwrap();
        push(&backlog, &[first.at(2), second.at(2)], done.at(2));
        second.fail(Error::internal("gone"));
        assert!(done.wait(2, soon()).unwrap_err().message().contains("gone"));
        backlog.close();
        let late = Timeline::new(0);
        push(&backlog, &[], late.at(1));
        assert_eq!(late.wait(1, soon()).unwrap_err().kind(), ErrorKind::DeviceLost);
    }
}
