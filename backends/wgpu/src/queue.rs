//! The queue: work goes to the device as soon as its points are reached, on the thread that submits it where that does not block.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hetero_hal::{Buffer, Error, ErrorKind, Point, Queue, QueueOptions, Result, Work, copy_through_host};

use crate::completion::{Done, Ticket, farewell};
use crate::device::Context;
use crate::executable::WgpuExecutable;
use crate::gpu::PATIENCE;
use crate::memory::WgpuMemory;

/// Submissions under way where nobody says how many.
const CAPACITY: usize = 4096;

/// Work whose points are reached, or that is to fail because one never will be.
struct Job {
    work: Result<Work>,
    signal: Vec<Point>,
}

/// Work that still waits for points.
struct Pending {
    left: AtomicUsize,
    job: Mutex<Option<Job>>,
    ready: Sender<Job>,
    hand: Hand,
}

impl Pending {
    fn reached(&self, outcome: Result<()>) {
        let mut slot = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Err(error), Some(job)) = (&outcome, slot.as_mut()) {
            job.work = Err(error.clone());
        }
        let last = self.left.fetch_sub(1, Ordering::AcqRel) == 1;
        if (last || outcome.is_err())
            && let Some(job) = slot.take()
        {
            drop(slot);
            self.hand.send(&self.ready, job);
        }
    }
}

/// Gives work to the device.
#[derive(Clone)]
struct Hand {
    context: Arc<Context>,
    /// Submissions under way.
    taken: Arc<AtomicUsize>,
}

/// What became of work that was begun.
enum Begun {
    /// The device has it.
    Given(Ticket),
    /// It is done.
    Over(Result<()>),
}

impl Hand {
    /// A queue whose thread has gone fails what it is given, so that no waiter is left behind.
    fn send(&self, ready: &Sender<Job>, job: Job) {
        if let Err(returned) = ready.send(job) {
            let error = Error::new(ErrorKind::DeviceLost, "the queue is closed");
            let done = Done { work: None, signal: returned.0.signal, taken: self.taken.clone() };
            let _ = done.tell(&self.context.gpu, Err(error));
        }
    }

    /// Ends when the queue and everything that waits for it are dropped.
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            if let Begun::Given(ticket) = self.begin(job.work, job.signal) {
                self.context.wait_for(ticket);
            }
        }
    }

    /// Gives work to the device, or does it.
    fn begin(&self, work: Result<Work>, signal: Vec<Point>) -> Begun {
        let began = Instant::now();
        let done = |work| Done { work, signal, taken: self.taken.clone() };
        let (work, begun) = match work {
            Ok(work) => {
                let begun = self.perform(&work);
                (Some(work), begun)
            }
            Err(error) => (None, Err(error)),
        };
        match begun {
            Ok(Some(index)) => {
                let deadline = match &work {
                    Some(Work::Execute(execution)) => execution.deadline,
                    _ => None,
                };
                let deadline = deadline.unwrap_or_else(|| began + PATIENCE);
                Begun::Given(Ticket { index, began, deadline, done: done(work) })
            }
            Ok(None) => Begun::Over(done(work).tell(&self.context.gpu, Ok(()))),
            Err(error) => Begun::Over(done(work).tell(&self.context.gpu, Err(error))),
        }
    }

    /// The device's number of the work, or `None` where it is done already.
    fn perform(&self, work: &Work) -> Result<Option<wgpu::SubmissionIndex>> {
        self.context.gpu.alive()?;
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                match executable.downcast_ref::<WgpuExecutable>() {
                    Some(executable) => executable.submit(execution),
                    None => Err(Error::internal("the executable is another device's")),
                }
            }
            Work::Copy { source, target } => match self.inside(source, target) {
                Some((from, to)) => {
                    let (at, to, bytes) = ((from, source.offset()), (to, target.offset()), source.len());
                    self.context.start_copy(at, to, bytes).map(Some)
                }
                None => copy_through_host(source, target).map(|()| None),
            },
            Work::Fill { target, pattern } => {
                let piece: Vec<u8> = pattern.iter().copied().cycle().take(pattern.len() * 65_536).collect();
                let mut offset = 0;
                while offset < target.len() {
                    let bytes = piece.len().min(target.len() - offset);
                    target.write(offset, &piece[..bytes])?;
                    offset += bytes;
                }
                Ok(None)
            }
            Work::Host(task) => {
                // A task that panics is told of rather than taking the queue along.
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.run()))
                    .unwrap_or_else(|_| Err(Error::new(ErrorKind::Execution, "a host task panicked")))
                    .map(|()| None)
            }
            other => Err(Error::unsupported(format!("{other:?}"))),
        }
    }

    /// Both sides, where the device can copy from the one to the other: both its own, different, and in whole words.
    fn inside<'a>(&self, source: &'a Buffer, target: &'a Buffer) -> Option<(&'a WgpuMemory, &'a WgpuMemory)> {
        let (from, to) = (self.context.memory(source).ok()?, self.context.memory(target).ok()?);
        let word = wgpu::COPY_BUFFER_ALIGNMENT as usize;
        let whole = |buffer: &Buffer, memory: &WgpuMemory| (buffer.offset() + memory.lead()).is_multiple_of(word);
        let fits = from.identity != to.identity
            && !source.is_empty()
            && source.len().is_multiple_of(word)
            && whole(source, from)
            && whole(target, to);
        fits.then_some((from, to))
    }

    /// Does it return at once?
    fn is_quick(&self, work: &Work) -> bool {
        match work {
            Work::Execute(_) => true,
            Work::Copy { source, target } => self.inside(source, target).is_some(),
            _ => false,
        }
    }
}

/// A queue of a wgpu device. All queues share the device's own.
pub(crate) struct WgpuQueue {
    hand: Hand,
    name: String,
    capacity: usize,
    /// To the queue's own thread, which begins with the first work that has to wait or blocks.
    ready: OnceLock<Sender<Job>>,
}

impl WgpuQueue {
    pub(crate) fn new(context: &Arc<Context>, options: &QueueOptions) -> Self {
        let name = if options.name.is_empty() { "hetero-wgpu-queue".to_owned() } else { options.name.clone() };
        let hand = Hand { context: context.clone(), taken: Arc::default() };
        WgpuQueue { hand, name, capacity: options.capacity.unwrap_or(CAPACITY), ready: OnceLock::new() }
    }

    /// The way to the queue's thread.
    fn ready(&self) -> Result<&Sender<Job>> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let (ready, jobs) = channel();
        let hand = self.hand.clone();
        let started = std::thread::Builder::new().name(self.name.clone()).spawn(move || hand.run(&jobs));
        started.map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "cannot start a queue's thread")
                .on(self.hand.context.gpu.id.clone())
                .caused_by(error)
        })?;
        // Where another caller was first, this thread's sender is dropped, and the thread ends.
        Ok(self.ready.get_or_init(|| ready))
    }

    fn check(&self, work: &Work) -> Result<()> {
        let context = &self.hand.context;
        let on = |error: Error| error.on(context.gpu.id.clone());
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                let executable = executable
                    .downcast_ref::<WgpuExecutable>()
                    .filter(|executable| executable.is_of(context))
                    .ok_or_else(|| on(Error::invalid_argument("the executable is another device's")))?;
                executable.check(execution).map_err(on)
            }
            Work::Fill { target, pattern } => {
                context.memory(target)?;
                if pattern.is_empty() || pattern.len() > 16 || !target.len().is_multiple_of(pattern.len()) {
                    return Err(on(Error::invalid_argument(format!(
                        "a pattern of {} bytes does not fill {} bytes",
                        pattern.len(),
                        target.len()
                    ))));
                }
                Ok(())
            }
            Work::Copy { source, target } if source.len() != target.len() => Err(on(Error::invalid_argument(format!(
                "cannot copy {} bytes into a buffer of {}",
                source.len(),
                target.len()
            )))),
            _ => Ok(()),
        }
    }

    /// Counts one more submission.
    fn take(&self) -> Result<()> {
        let taken = &self.hand.taken;
        if taken.fetch_add(1, Ordering::AcqRel) < self.capacity {
            return Ok(());
        }
        taken.fetch_sub(1, Ordering::AcqRel);
        Err(Error::new(ErrorKind::Execution, format!("{} submissions are under way already", self.capacity))
            .on(self.hand.context.gpu.id.clone())
            .with_remedy("wait for some of them")
            .retryable())
    }
}

fn reached(wait: &[Point]) -> bool {
    wait.iter().all(|point| point.timeline.value() >= point.value)
}

impl Drop for WgpuQueue {
    fn drop(&mut self) {
        drop(self.ready.take());
        farewell(&self.hand.taken);
    }
}

impl Queue for WgpuQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        let hand = &self.hand;
        hand.context.gpu.alive()?;
        self.check(&work)?;
        if reached(wait) && hand.is_quick(&work) {
            self.take()?;
            if let Begun::Given(ticket) = hand.begin(Ok(work), signal.to_vec()) {
                hand.context.wait_for(ticket);
            }
            return Ok(());
        }
        let ready = self.ready()?;
        self.take()?;
        let job = Job { work: Ok(work), signal: signal.to_vec() };
        if reached(wait) {
            hand.send(ready, job);
            return Ok(());
        }
        let pending = Arc::new(Pending {
            left: AtomicUsize::new(wait.len()),
            job: Mutex::new(Some(job)),
            ready: ready.clone(),
            hand: hand.clone(),
        });
        for point in wait {
            let pending = pending.clone();
            point.timeline.on_reach(point.value, Box::new(move |outcome| pending.reached(outcome)));
        }
        Ok(())
    }

    /// The calling thread gives the work to the device and waits for it, which saves two hand-overs between threads.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let hand = &self.hand;
        if !reached(wait) {
            self.submit(wait, work, signal)?;
            return signal.iter().try_for_each(|point| point.wait(deadline));
        }
        hand.context.gpu.alive()?;
        self.check(&work)?;
        self.take()?;
        let ticket = match hand.begin(Ok(work), signal.to_vec()) {
            Begun::Given(ticket) => ticket,
            Begun::Over(outcome) => return outcome,
        };
        match hand.context.gpu.wait(&ticket.index, deadline.min(ticket.deadline)) {
            // The work goes on without this thread.
            Err(error) if error.kind() == ErrorKind::Timeout && deadline < ticket.deadline => {
                hand.context.wait_for(ticket);
                Err(error)
            }
            outcome => {
                hand.context.gpu.worked(ticket.began);
                ticket.done.tell(&hand.context.gpu, outcome)
            }
        }
    }
}
