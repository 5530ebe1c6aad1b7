//! Who waits for the device when nobody else does: one thread of a device, for the submissions of all its queues.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hetero_hal::{Capacity, Error, ErrorKind, Point, Result, Work};

use crate::gpu::Gpu;

/// Work that the device has been given.
pub(crate) struct Ticket {
    pub(crate) index: wgpu::SubmissionIndex,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    pub(crate) done: Done,
}

/// What is to be told when work is done, and what lives until then.
pub(crate) struct Done {
    /// Keeps buffers and executable.
    pub(crate) work: Option<Work>,
    pub(crate) signal: Vec<Point>,
    /// Submissions under way in the queue.
    pub(crate) capacity: Arc<Capacity>,
}

impl Done {
    /// Reaches the points, or fails their timelines.
    pub(crate) fn tell(self, gpu: &Gpu, outcome: Result<()>) -> Result<()> {
        let Done { work, signal, capacity } = self;
        // Whoever hears of the end may count on the memory being free.
        drop(work);
        capacity.give();
        let outcome = outcome.map_err(|error| error.or_on(&gpu.id));
        Point::settle(&signal, &outcome);
        outcome
    }
}

impl Ticket {
    /// Waits, and tells.
    pub(crate) fn finish(self, gpu: &Gpu) -> Result<()> {
        let outcome = gpu.wait(&self.index, self.deadline);
        gpu.worked(self.began);
        self.done.tell(gpu, outcome)
    }
}

/// The way to the thread, and what it holds while it lives.
pub(crate) struct Waiter {
    pub(crate) tickets: Sender<Ticket>,
    alive: Arc<()>,
}

/// Longest that a drop waits for threads to let go of the device.
const FAREWELL: Duration = Duration::from_millis(200);

/// Waits until nobody else holds `shared`, for a short time. Where threads release a driver's objects only while the process ends, drivers were seen to crash: they have
/// taken themselves down by then.
pub(crate) fn farewell<T: ?Sized>(shared: &Arc<T>) {
    let began = Instant::now();
    while Arc::strong_count(shared) > 1 && began.elapsed() < FAREWELL {
        std::thread::sleep(Duration::from_micros(50));
    }
}

impl Waiter {
    /// Lets the thread end.
    pub(crate) fn dismiss(self) {
        drop(self.tickets);
        farewell(&self.alive);
    }
}

/// Starts the thread. It ends when the sender is dropped.
///
/// # Errors
/// `OutOfMemory` where the system has no thread.
pub(crate) fn start(gpu: &Arc<Gpu>) -> Result<Waiter> {
    let (sender, tickets): (Sender<Ticket>, Receiver<Ticket>) = channel();
    let alive = Arc::new(());
    let (own, held) = (gpu.clone(), alive.clone());
    let run = move || {
        while let Ok(ticket) = tickets.recv() {
            // The waiters hear of it through the points.
            let _ = ticket.finish(&own);
        }
        // In this order: whoever waits for the thread waits for the device's release.
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
