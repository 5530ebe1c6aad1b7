//! The queue: work goes to the device as soon as its points are reached, and on the submitting
//! thread where that does not block.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{Buffer, DeviceId, ErrorKind, Execution, Point, Result};
use hetero_kit::{Backend, Command, Job, Shell};

use crate::completion::{FAREWELL, Ticket, Waiting};
use crate::context::Context;
use crate::executable::{Submitted, WgpuExecutable};
use crate::gpu::PATIENCE;
use crate::memory::WgpuMemory;

/// The number of submissions that may be under way where the options name none.
pub(crate) const CAPACITY: usize = 4096;

/// A queue of a wgpu device.
/// All of these queues share the device's own queue.
pub(crate) type WgpuQueue = Shell<WgpuBackend>;

/// The part of a queue that gives work to the device.
pub(crate) struct WgpuBackend {
    waiting: Arc<Waiting>,
    context: Arc<Context>,
}

/// The state of a job that was begun.
#[allow(clippy::large_enum_variant, reason = "it is looked at where it is made, and moved once")]
enum Begun {
    /// The device has the job.
    Given(Ticket),
    /// The job has ended.
    Over(Result<()>),
}

impl WgpuBackend {
    pub(crate) fn new(context: &Arc<Context>, waiting: &Arc<Waiting>) -> Self {
        WgpuBackend { waiting: waiting.clone(), context: context.clone() }
    }

    /// Gives a job to the device, or does it on the host.
    fn give(&self, job: Job<WgpuExecutable>) -> Begun {
        let began = Instant::now();
        match self.perform(&job) {
            Ok(Some(submitted)) => {
                let deadline = match job.command() {
                    Ok(Command::Execute { execution, .. }) => execution.deadline,
                    _ => None,
                };
                Begun::Given(Ticket { submitted, began, deadline: deadline.unwrap_or(began + PATIENCE), job })
            }
            Ok(None) => Begun::Over(job.end(Ok(()))),
            Err(error) => Begun::Over(job.end(Err(error))),
        }
    }

    /// Returns what the device was given, or `None` where the job is done already.
    fn perform(&self, job: &Job<WgpuExecutable>) -> Result<Option<Submitted>> {
        self.context.gpu.alive()?;
        match job.command()? {
            Command::Execute { executable, execution } => executable.submit(execution, job.tracer().is_some()),
            Command::Copy { source, target, .. } if let Some((from, to)) = self.inside(source, target) => {
                let (at, to, bytes) = ((from, source.offset()), (to, target.offset()), source.len());
                let index = self.context.start_copy(at, to, bytes)?;
                Ok(Some(Submitted { index, stamps: None, held: vec![], word: None }))
            }
            _ => job.on_host().unwrap_or(Ok(())).map(|()| None),
        }
    }

    /// Returns both sides where the device can copy from one to the other: both are its own, they
    /// are different, and the range is of whole words.
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
}

impl Backend for WgpuBackend {
    type Executable = WgpuExecutable;
    type Memory = WgpuMemory;
    const FAREWELL: Duration = FAREWELL;

    fn device(&self) -> &DeviceId {
        &self.context.gpu.id
    }

    fn owns(&self, memory: &WgpuMemory) -> bool {
        self.context.owns(memory)
    }

    fn writable(&self, memory: &WgpuMemory) -> bool {
        memory.writable()
    }

    fn compiled(&self, executable: &WgpuExecutable) -> bool {
        executable.is_of(&self.context)
    }

    fn check(&self, executable: &WgpuExecutable, execution: &Execution, buffers: &[Buffer]) -> Result<()> {
        executable.check(execution, buffers)
    }

    fn alive(&self) -> Result<()> {
        self.context.gpu.alive()
    }

    fn is_quick(&self, command: &Command<WgpuExecutable>) -> bool {
        match command {
            Command::Execute { .. } => true,
            Command::Copy { source, target, .. } => self.inside(source, target).is_some(),
            _ => false,
        }
    }

    fn begin(&self, job: Job<WgpuExecutable>, _: &[Point]) {
        if let Begun::Given(ticket) = self.give(job) {
            self.waiting.wait_for(ticket);
        }
    }

    /// Gives the work to the device and waits for it on the calling thread, which saves two
    /// hand-overs between threads.
    fn run(&self, job: Job<WgpuExecutable>, _: &[Point], deadline: Instant) -> Result<()> {
        let ticket = match self.give(job) {
            Begun::Given(ticket) => ticket,
            Begun::Over(outcome) => return outcome,
        };
        match self.context.gpu.wait(&ticket.submitted.index, deadline.min(ticket.deadline)) {
            // The work goes on without this thread.
            Err(error) if error.kind() == ErrorKind::Timeout && deadline < ticket.deadline => {
                self.waiting.wait_for(ticket);
                Err(error)
            }
            outcome => ticket.end(&self.context.gpu, outcome),
        }
    }
}
