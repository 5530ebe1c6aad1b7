//! The queue: work goes to the device as soon as its points are reached, on the thread that submits it where that does not block.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{
    Backlog, Buffer, Capacity, Error, ErrorKind, Point, Queue, QueueOptions, Result, Work, copy_through_host,
    fill_through_host, run_on_host, submit_and_wait,
};

use crate::completion::{Done, Ticket, farewell};
use crate::device::Context;
use crate::executable::WgpuExecutable;
use crate::gpu::PATIENCE;
use crate::memory::WgpuMemory;

/// Submissions under way where nobody says how many.
const CAPACITY: usize = 4096;

/// Gives work to the device.
#[derive(Clone)]
struct Hand {
    context: Arc<Context>,
    /// Submissions under way.
    capacity: Arc<Capacity>,
}

/// What became of work that was begun.
enum Begun {
    /// The device has it.
    Given(Ticket),
    /// It is done.
    Over(Result<()>),
}

impl Hand {
    /// Gives work to the device, or does it.
    fn begin(&self, work: Result<Work>, signal: Vec<Point>) -> Begun {
        let began = Instant::now();
        let done = |work| Done { work, signal, capacity: self.capacity.clone() };
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
            Work::Fill { target, pattern } => fill_through_host(target, pattern).map(|()| None),
            Work::Host(task) => run_on_host(&**task).map(|()| None),
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
            Work::Execute(execution) => execution.probe.is_none(),
            Work::Copy { source, target } => self.inside(source, target).is_some(),
            _ => false,
        }
    }
}

/// A queue of a wgpu device. All queues share the device's own.
pub(crate) struct WgpuQueue {
    hand: Hand,
    /// Its thread begins with the first work that has to wait or blocks.
    backlog: Backlog,
}

impl WgpuQueue {
    pub(crate) fn new(context: &Arc<Context>, options: &QueueOptions) -> Self {
        let hand = Hand { context: context.clone(), capacity: Arc::new(Capacity::new(options, CAPACITY)) };
        WgpuQueue { hand, backlog: Backlog::new(context.gpu.id.clone(), options) }
    }

    /// Checks what a caller can get wrong.
    fn check(&self, work: &Work) -> Result<()> {
        self.takes(work).and_then(|()| work.check()).map_err(|error| error.or_on(&self.hand.context.gpu.id))
    }

    /// Is it all of this device?
    fn takes(&self, work: &Work) -> Result<()> {
        let context = &self.hand.context;
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                executable
                    .downcast_ref::<WgpuExecutable>()
                    .filter(|executable| executable.is_of(context))
                    .ok_or_else(|| Error::invalid_argument("the executable is another device's"))?
                    .check(execution)
            }
            Work::Fill { target, .. } => context.memory(target).map(|_| ()),
            _ => Ok(()),
        }
    }
}

impl Drop for WgpuQueue {
    fn drop(&mut self) {
        self.backlog.close();
        farewell(&self.hand.capacity);
    }
}

impl Queue for WgpuQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        let hand = &self.hand;
        hand.context.gpu.alive()?;
        self.check(&work)?;
        if wait.iter().all(Point::is_reached) && hand.is_quick(&work) {
            hand.capacity.take(&hand.context.gpu.id)?;
            if let Begun::Given(ticket) = hand.begin(Ok(work), signal.to_vec()) {
                hand.context.wait_for(ticket);
            }
            return Ok(());
        }
        self.backlog.start(|| {
            let hand = hand.clone();
            move |job| {
                if let Begun::Given(ticket) = hand.begin(job.work, job.signal.to_vec()) {
                    hand.context.wait_for(ticket);
                }
            }
        })?;
        hand.capacity.take(&hand.context.gpu.id)?;
        self.backlog.push(wait, work, signal);
        Ok(())
    }

    /// The calling thread gives the work to the device and waits for it, which saves two hand-overs between threads.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let hand = &self.hand;
        if !wait.iter().all(Point::is_reached) {
            return submit_and_wait(self, wait, work, signal, deadline);
        }
        hand.context.gpu.alive()?;
        self.check(&work)?;
        hand.capacity.take(&hand.context.gpu.id)?;
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
