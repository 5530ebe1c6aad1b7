//! The crew of a device: the threads that serve the backlogs of all its queues.
//!
//! A thread belongs to no queue.
//! A queue with jobs is a lane on the crew's list, and a thread takes the lane, does its next job,
//! and gives the lane back.
//! So a lane's jobs are done one after the other and in their order, by whichever thread is free.
//!
//! # Progress
//! A job may wait for something that another job does, so a job never waits behind such a job:
//! - a job that may wait ([`Pace::Waits`]) has a thread at once, and one more is started where none
//!   is idle;
//! - jobs that never wait for another job ([`Pace::Computes`]) share a fixed number of places, and
//!   one of these places is free as soon as one of these jobs ends.
//!
//! Where the system cannot start a thread, the jobs are left to the threads that are there.
//! Where each of these is at a job that may wait, nobody might come, and the job is refused.
//!
//! # Bounds
//! At any time a device has at most [`most_places`] threads at jobs that never wait, one for each
//! queue whose job may wait and is under way, and idle ones.
//! An idle thread ends after [`LINGER`].
//! The thread that became idle last gets the next lane, so that the threads that are not needed
//! are those that end.

#[cfg(test)]
mod model;
mod roster;
/// What the crew is made of; `model` has the same names of Loom's.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

    /// Starts a thread.
    pub(super) fn start(name: &str, life: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(life).map(drop)
    }
}

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hetero_hal::DeviceId;

pub use roster::Pace;
pub(crate) use roster::{Crew, Line};

/// The time after which an idle thread ends.
const LINGER: Duration = Duration::from_secs(3);

/// Returns the number of threads of one device at jobs that never wait.
/// It is larger than the number of cores, so that a short job need not wait for long ones.
fn most_places() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).saturating_mul(2).max(16)
}

/// Returns the crew of a device.
/// Device objects with the same id share it, so that the list grows with the machine's devices
/// only.
pub(crate) fn of(device: &DeviceId) -> Arc<Crew> {
    static CREWS: Mutex<Vec<(DeviceId, Arc<Crew>)>> = Mutex::new(Vec::new());
    let mut crews = CREWS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, crew)) = crews.iter().find(|(of, _)| of == device) {
        return crew.clone();
    }
    let crew = Crew::new(format!("hetero-{device}"), most_places(), LINGER);
    crews.push((device.clone(), crew.clone()));
    crew
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Sender, channel};
    use std::time::Instant;

    use super::*;

    type Task = Box<dyn FnOnce() + Send>;

    fn lane(crew: &Arc<Crew>) -> Arc<Line<Task>> {
        Line::new(crew.clone(), Box::new(|task: Task| task()))
    }

    fn push(lane: &Arc<Line<Task>>, pace: Pace, task: impl FnOnce() + Send + 'static) {
        assert!(lane.push(pace, Box::new(task)).is_ok());
    }

    /// Waits until the crew has at most so many threads.
    fn shrinks_to(crew: &Crew, threads: usize) -> bool {
        let began = Instant::now();
        while crew.threads() > threads && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        crew.threads() <= threads
    }

    #[test]
    fn lanes_without_number_have_few_threads_and_each_keeps_its_order() {
        const LANES: usize = 500;
        const JOBS: usize = 20;
        let crew = Crew::new("test".to_owned(), 4, Duration::from_millis(20));
        let (sender, receiver) = channel();
        let lanes: Vec<_> = (0..LANES).map(|_| lane(&crew)).collect();
        let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for job in 0..JOBS {
            for (number, lane) in lanes.iter().enumerate() {
                let (sender, under_way, most): (Sender<_>, _, _) = (sender.clone(), under_way.clone(), most.clone());
                push(lane, Pace::Computes, move || {
                    most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    sender.send((number, job)).unwrap();
                });
            }
            // A thread is at a job, on its way to the next or idle, and none is started beside an
            // idle one.
            assert!(crew.threads() <= 8, "{}", crew.threads());
        }
        let mut next = vec![0; LANES];
        for (number, job) in receiver.iter().take(LANES * JOBS) {
            assert_eq!(next[number], job);
            next[number] += 1;
        }
        assert!(most.load(Ordering::SeqCst) <= 4);
        assert!(shrinks_to(&crew, 0), "idle threads stay");
        push(&lanes[0], Pace::Computes, move || sender.send((0, JOBS)).unwrap());
        assert_eq!(receiver.recv(), Ok((0, JOBS)));
    }

    #[test]
    fn jobs_that_wait_for_each_other_all_have_a_thread() {
        let crew = Crew::new("test".to_owned(), 1, Duration::from_millis(20));
        let barrier = Arc::new(Barrier::new(40));
        let (sender, receiver) = channel();
        let lanes: Vec<_> = (0..40).map(|_| lane(&crew)).collect();
        // A job that computes is behind each job that waits, and one that waits behind that.
        for pace in [Pace::Waits, Pace::Computes, Pace::Waits] {
            for lane in &lanes {
                let (barrier, sender) = (barrier.clone(), sender.clone());
                push(lane, pace, move || {
                    if pace == Pace::Waits {
                        barrier.wait();
                    }
                    sender.send(()).unwrap();
                });
            }
        }
        (0..3 * lanes.len()).for_each(|_| receiver.recv_timeout(Duration::from_secs(60)).unwrap());
        assert!(shrinks_to(&crew, 0), "idle threads stay");
    }

    #[test]
    fn a_lane_that_is_closed_does_its_jobs_and_then_lets_go_of_what_it_serves_with() {
        for closes_first in [false, true] {
            let crew = Crew::new("test".to_owned(), 1, Duration::from_secs(60));
            let held = Arc::new(());
            let own = held.clone();
            let (sender, receiver) = channel();
            let (start, started) = channel::<()>();
            let serve = move |task: Task| {
                let _held = &own;
                task();
            };
            let line: Arc<Line<Task>> = Line::new(crew.clone(), Box::new(serve));
            push(&line, Pace::Waits, move || started.recv().unwrap());
            push(&line, Pace::Computes, move || sender.send(()).unwrap());
            if closes_first {
                line.close();
            }
            start.send(()).unwrap();
            receiver.recv().unwrap();
            if !closes_first {
                line.close();
            }
            let began = Instant::now();
            while Arc::strong_count(&held) > 1 && began.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            assert_eq!(Arc::strong_count(&held), 1);
        }
    }

    #[test]
    fn a_device_has_one_crew() {
        let (one, other) = (DeviceId::new("crew", 0), DeviceId::new("crew", 1));
        assert!(Arc::ptr_eq(&of(&one), &of(&one)));
        assert!(!Arc::ptr_eq(&of(&one), &of(&other)));
    }
}
