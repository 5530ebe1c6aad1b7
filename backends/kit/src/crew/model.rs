//! The crew on Loom's locks and threads: Loom tries the orders of their steps.

use std::sync::PoisonError;
use std::time::Duration;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use roster::{Crew, Line, Pace};

// The file is compiled a second time on purpose: `sync` means Loom's types to it here.
#[allow(clippy::duplicate_mod, dead_code, unreachable_pub)]
#[path = "roster.rs"]
mod roster;
mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};

    pub(super) fn start(_: &str, life: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        drop(loom::thread::spawn(life));
        Ok(())
    }
}

/// A number that one may wait for.
#[derive(Default)]
struct Count(Mutex<usize>, Condvar);

impl Count {
    fn add(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.1.notify_all();
    }

    fn wait_for(&self, value: usize) {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *count < value {
            count = self.1.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The longest that a thread sleeps; Loom's threads sleep until they are woken.
const FOREVER: Duration = Duration::MAX;

/// Tries every order in which threads are interrupted at most `interruptions` times between their
/// steps.
fn model(interruptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(run);
}

/// A job that waits for the job of another lane, and one behind it: whatever the order, both lanes
/// end, though there is one place for jobs that compute.
#[test]
fn a_job_that_waits_for_another_lane_holds_up_nobody() {
    model(2, || {
        let crew = Crew::new(String::new(), 1, FOREVER);
        let (other, done) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let serve = {
            let (other, done) = (other.clone(), done.clone());
            let mut last = 0;
            move |job: usize| {
                assert_eq!(job, last + 1);
                last = job;
                if job == 1 {
                    other.wait_for(1);
                }
                done.add();
            }
        };
        let first = Line::new(crew.clone(), Box::new(serve));
        let second = Line::new(
            crew.clone(),
            Box::new({
                let (other, done) = (other.clone(), done.clone());
                move |()| {
                    other.add();
                    done.add();
                }
            }),
        );
        assert!(first.push(Pace::Waits, 1).is_ok());
        assert!(first.push(Pace::Computes, 2).is_ok());
        assert!(second.push(Pace::Computes, ()).is_ok());
        done.wait_for(3);
        crew.dismiss();
    });
}

/// Two threads hand over to a lane each, so many times one after the other, while the crew's
/// threads fall asleep or end: no job is left behind, and jobs that compute have one place.
fn hand_over(linger: Duration, times: usize) {
    model(2, move || {
        let crew = Crew::new(String::new(), 1, linger);
        let busy = Arc::new(AtomicUsize::new(0));
        let pushing = |crew: std::sync::Arc<Crew>| {
            let done = Arc::new(Count::default());
            let (told, busy) = (done.clone(), busy.clone());
            let line = Line::new(
                crew,
                Box::new(move |()| {
                    assert_eq!(busy.fetch_add(1, Ordering::Relaxed), 0);
                    busy.fetch_sub(1, Ordering::Relaxed);
                    told.add();
                }),
            );
            move || {
                for job in 1..=times {
                    assert!(line.push(Pace::Computes, ()).is_ok());
                    done.wait_for(job);
                }
            }
        };
        let other = thread::spawn(pushing(crew.clone()));
        pushing(crew.clone())();
        other.join().unwrap();
        crew.dismiss();
    });
}

#[test]
fn no_job_is_left_behind_where_threads_fall_asleep() {
    hand_over(FOREVER, 2);
}

#[test]
fn no_job_is_left_behind_where_threads_end() {
    // Loom has room for two threads of the crew.
    hand_over(Duration::ZERO, 1);
}

/// A lane that is closed while a thread is at its last job: what it serves with is dropped once.
#[test]
fn a_lane_that_is_closed_lets_go_of_what_it_serves_with() {
    struct Held(Arc<Count>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.add();
        }
    }
    model(3, || {
        let crew = Crew::new(String::new(), 1, FOREVER);
        let (served, dropped) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (told, held) = (served.clone(), Held(dropped.clone()));
        let line = Line::new(
            crew.clone(),
            Box::new(move |()| {
                let _held = &held;
                told.add();
            }),
        );
        assert!(line.push(Pace::Computes, ()).is_ok());
        line.close();
        dropped.wait_for(1);
        served.wait_for(1);
        crew.dismiss();
    });
}
