//! The jobs of a queue on their way to the device's crew.

use std::sync::{Arc, OnceLock};

use hetero_hal::{DeviceId, Error, ErrorKind, Point, QueueOptions, Result};

use crate::Pace;
use crate::crew::{self, Line};

/// The right to hand jobs over to a line; dropping the last one closes the line.
struct End<J: Send + 'static>(Arc<Line<J>>);

impl<J: Send + 'static> Drop for End<J> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Jobs that wait for their points, and are then done one after the other by the device's crew.
///
/// A queue that starts work on its caller's thread wherever that does not block needs a backlog for
/// the remaining work.
/// The crew is the threads that serve all backlogs of a device.
/// At any time it has a thread for each backlog with a job of [`Pace::Waits`] under way, a fixed
/// number of threads for all jobs of [`Pace::Computes`], and idle threads, which end after seconds.
pub struct Backlog<J: Send + 'static> {
    device: DeviceId,
    name: String,
    jobs: OnceLock<Arc<End<J>>>,
}

impl<J: Send + 'static> Backlog<J> {
    /// Makes a backlog that takes no jobs yet.
    #[must_use]
    pub fn new(device: DeviceId, options: &QueueOptions) -> Self {
        let named = !options.name.is_empty();
        let name = if named { options.name.clone() } else { format!("hetero-{}-queue", device.driver()) };
        Backlog { device, name, jobs: OnceLock::new() }
    }

    /// Returns the queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets the backlog take jobs, unless it does already.
    /// `serve` returns the function that is called with each job; it is dropped once the backlog is
    /// closed and its jobs are done.
    pub fn start<F: FnMut(J) + Send + 'static>(&self, serve: impl FnOnce() -> F) {
        self.jobs.get_or_init(|| Arc::new(End(Line::new(crew::of(&self.device), Box::new(serve())))));
    }

    /// Hands the job that `make` returns to the crew once all points are reached, or as soon as the
    /// first one fails.
    /// `make` is told which of the two happened, and `pace` says whether the job may wait for other
    /// jobs.
    /// A job that nobody does is handed to `closed`, with `DeviceLost` where the backlog takes no
    /// jobs, and with `OutOfMemory` where the system cannot start a thread.
    pub fn push(
        &self,
        wait: &[Point],
        pace: Pace,
        make: impl FnOnce(Result<()>) -> J + Send + 'static,
        closed: impl FnOnce(J, Error) + Send + 'static,
    ) {
        let (jobs, device) = (self.jobs.get().cloned(), self.device.clone());
        let send = move |outcome: Result<()>| {
            let job = make(outcome);
            let refused = match &jobs {
                Some(jobs) => jobs.0.push(pace, job).err().map(|(job, error)| {
                    let refused = Error::new(ErrorKind::OutOfMemory, "cannot start a thread for a queue's work");
                    (job, refused.with_remedy("allow the process more threads").caused_by(error).retryable())
                }),
                None => Some((job, Error::new(ErrorKind::DeviceLost, "the queue is closed"))),
            };
            if let Some((job, error)) = refused {
                closed(job, error.on(device));
            }
        };
        // A job that need not wait needs no memory to wait in.
        if wait.iter().all(Point::is_reached) {
            return send(Ok(()));
        }
        Point::when_all(wait, Box::new(send));
    }

    /// Takes no more jobs; those that wait are still done.
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
        backlog.push(wait, Pace::Computes, move |outcome| (outcome, done), settle);
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
        backlog.start(serve);
        let done = Timeline::new(0);
        push(&backlog, &[], done.at(1));
        push(&backlog, &[], done.at(2));
        done.wait(2, soon()).unwrap();
    }

    /// Of several functions to serve with, one is kept.
    #[test]
    fn a_second_start_lets_go_of_what_it_would_serve_with() {
        let backlog: Arc<Backlog<Told>> = Arc::new(Backlog::new(DeviceId::new("null", 0), &QueueOptions::default()));
        let held = Arc::new(());
        let barrier = Arc::new(std::sync::Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (backlog, held, barrier) = (backlog.clone(), held.clone(), barrier.clone());
                scope.spawn(move || {
                    barrier.wait();
                    backlog.start(|| move |_: Told| drop(held.clone()));
                });
            }
        });
        assert_eq!(Arc::strong_count(&held), 2);
        drop(backlog);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn jobs_come_when_all_points_are_reached_and_failures_come_with_them() {
        let mut backlog: Backlog<Told> = Backlog::new(DeviceId::new("null", 0), &QueueOptions::default());
        let serve = || |(outcome, point): Told| Point::settle(&[point], &outcome);
        backlog.start(serve);
        backlog.start(serve);
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
