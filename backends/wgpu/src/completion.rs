//! The thread that waits for the device when no caller does: each device has one, for the
//! submissions of all its queues.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{Error, ErrorKind, Result};
use hetero_kit::{Command, Job};

use crate::executable::{Submitted, WgpuExecutable};
use crate::gpu::Gpu;

/// A job that the device has been given.
pub(crate) struct Ticket {
    pub(crate) submitted: Submitted,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    pub(crate) job: Job<WgpuExecutable>,
}

impl Ticket {
    /// Waits for the device, and ends the job.
    pub(crate) fn finish(self, gpu: &Gpu) -> Result<()> {
        let outcome = gpu.wait(&self.submitted.index, self.deadline);
        self.end(gpu, outcome)
    }

    /// Ends the job, which the device has finished or will not begin.
    pub(crate) fn end(self, gpu: &Gpu, outcome: Result<()>) -> Result<()> {
        gpu.worked(self.began);
        let Ticket { submitted: Submitted { stamps, held, word, .. }, began, job, .. } = self;
        let outcome = outcome.and_then(|()| match (word, job.command()) {
            (Some(word), Ok(Command::Execute { executable, .. })) => executable.examine(word),
            _ => Ok(()),
        });
        match (stamps, job.tracer()) {
            // A run that went well is no failure because its trace failed: then the trace is told
            // of the run as a whole.
            (Some((stamps, names)), Some(tracer)) if outcome.is_ok() => {
                stamps.tell(gpu, &tracer, &names).unwrap_or_else(|_| job.told(began, Instant::now()));
            }
            _ => job.told(began, Instant::now()),
        }
        drop(held);
        job.end(outcome)
    }
}

/// The thread of a device, once it is needed.
pub(crate) struct Waiting {
    gpu: Arc<Gpu>,
    waiter: Mutex<Option<Waiter>>,
}

impl Waiting {
    /// Returns a device's thread, which does not run yet.
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Arc<Self> {
        Arc::new(Waiting { gpu: gpu.clone(), waiter: Mutex::new(None) })
    }

    /// Hands work to the thread.
    pub(crate) fn wait_for(&self, ticket: Ticket) {
        let mut waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match &mut *waiter {
            Some(sender) => sender,
            none => match start(&self.gpu) {
                Ok(sender) => none.insert(sender),
                Err(error) => {
                    // A waiter that hears of the end may submit again, so the lock is released
                    // first.
                    drop(waiter);
                    let _ = ticket.end(&self.gpu, Err(error));
                    return;
                }
            },
        };
        if let Err(returned) = sender.tickets.send(ticket) {
            // The next ticket starts another thread.
            let dead = waiter.take();
            drop(waiter);
            drop(dead);
            let error = Error::internal("the thread that waits for the device has ended");
            let _ = returned.0.end(&self.gpu, Err(error));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            waiter.dismiss();
        }
    }
}

/// The channel to the thread, and a mark that the thread holds while it lives.
struct Waiter {
    tickets: Sender<Ticket>,
    alive: Arc<()>,
}

/// The longest time that a drop waits for threads to let go of the device.
pub(crate) const FAREWELL: Duration = Duration::from_millis(200);

/// Waits until nobody else holds `shared`, for a short time.
/// Drivers were seen to crash where threads release a driver's objects only while the process ends:
/// by then the driver has shut itself down.
fn farewell<T: ?Sized>(shared: &Arc<T>) {
    let began = Instant::now();
    while Arc::strong_count(shared) > 1 && began.elapsed() < FAREWELL {
        std::thread::sleep(Duration::from_micros(50));
    }
}

impl Waiter {
    /// Lets the thread end.
    fn dismiss(self) {
        drop(self.tickets);
        farewell(&self.alive);
    }
}

/// Starts the thread, which ends when the sender is dropped.
///
/// # Errors
/// `OutOfMemory` where the system cannot start a thread.
fn start(gpu: &Arc<Gpu>) -> Result<Waiter> {
    let (sender, tickets): (Sender<Ticket>, Receiver<Ticket>) = channel();
    let alive = Arc::new(());
    let (own, held) = (gpu.clone(), alive.clone());
    let run = move || {
        while let Ok(ticket) = tickets.recv() {
            // The waiters hear of the outcome through the points.
            let _ = ticket.finish(&own);
        }
        // The order matters: a caller that waits for the thread waits for the device's release.
        drop(own);
        drop(held);
    };
    let started = std::thread::Builder::new().name(format!("hetero-{}", gpu.id)).spawn(run);
    started.map(|_| Waiter { tickets: sender, alive }).map_err(|error| {
        Error::new(ErrorKind::OutOfMemory, "cannot start the thread that waits for the device")
            .on(gpu.id.clone())
            .caused_by(error)
    })
}
