//! Who waits for the device when nobody else does: one thread of a device, for the submissions of all its queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use hetero_hal::{Error, ErrorKind, Point, Result, Work};

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
    pub(crate) taken: Arc<AtomicUsize>,
}

impl Done {
    /// Reaches the points, or fails their timelines.
    pub(crate) fn tell(self, gpu: &Gpu, outcome: Result<()>) -> Result<()> {
        let Done { work, signal, taken } = self;
        // Whoever hears of the end may count on the memory being free.
        drop(work);
        taken.fetch_sub(1, Ordering::AcqRel);
        let outcome = outcome.map_err(|error| if error.device().is_none() { error.on(gpu.id.clone()) } else { error });
        match &outcome {
            Ok(()) => signal.iter().for_each(Point::signal),
            Err(error) => signal.iter().for_each(|point| point.timeline.fail(error.clone())),
        }
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

/// Starts the thread. It ends when the sender is dropped.
///
/// # Errors
/// `OutOfMemory` where the system has no thread.
pub(crate) fn start(gpu: &Arc<Gpu>) -> Result<Sender<Ticket>> {
    let (sender, tickets): (Sender<Ticket>, Receiver<Ticket>) = channel();
    let own = gpu.clone();
    let run = move || {
        while let Ok(ticket) = tickets.recv() {
            // The waiters hear of it through the points.
            let _ = ticket.finish(&own);
        }
    };
    let started = std::thread::Builder::new().name(format!("hetero-{}", gpu.id)).spawn(run);
    started.map(|_| sender).map_err(|error| {
        Error::new(ErrorKind::OutOfMemory, "cannot start the thread that waits for the device")
            .on(gpu.id.clone())
            .caused_by(error)
    })
}
