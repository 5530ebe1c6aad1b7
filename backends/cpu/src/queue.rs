//! The queue: a thread of the device's crew does the work, or the thread that waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hetero_hal::{Buffer, DeviceId, Error, Execution, Point, Result};
use hetero_kit::{Backend, Command, Job, Pace, Shell};

use crate::executable::CpuExecutable;
use crate::memory::CpuMemory;

/// The number of submissions that may be under way where the options name none.
pub(crate) const CAPACITY: usize = 4096;

pub(crate) type CpuQueue = Shell<CpuBackend>;

/// The part of a queue that does work on the thread that begins it.
/// Parallelism is inside the work.
pub(crate) struct CpuBackend {
    pub(crate) device: DeviceId,
    /// The time of work done, in nanoseconds.
    pub(crate) busy: Arc<AtomicU64>,
}

impl CpuBackend {
    fn finish(&self, job: Job<CpuExecutable>) -> Result<()> {
        let begin = Instant::now();
        // A kernel does not panic; if one does all the same, its waiters are told and not left
        // behind.
        let outcome = catch_unwind(AssertUnwindSafe(|| perform(&job)));
        let outcome =
            outcome.unwrap_or_else(|_| Err(Error::internal("a kernel panicked").with_remedy("report this model")));
        let nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.busy.fetch_add(nanos, Ordering::Relaxed);
        job.end(outcome)
    }
}

fn perform(job: &Job<CpuExecutable>) -> Result<()> {
    match job.command()? {
        Command::Execute { executable, execution } => executable.run(execution, job.tracer().as_ref()),
        other => job.on_host().unwrap_or_else(|| Err(Error::unsupported(other.described().1))),
    }
}

impl Backend for CpuBackend {
    type Executable = CpuExecutable;
    type Memory = CpuMemory;
    const RUNS_ALONE: bool = true;

    fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Returns `true`, because all host memory counts as one device's.
    fn owns(&self, _: &CpuMemory) -> bool {
        true
    }

    fn writable(&self, memory: &CpuMemory) -> bool {
        memory.host().as_mut_ptr().is_some()
    }

    fn compiled(&self, _: &CpuExecutable) -> bool {
        true
    }

    fn check(&self, executable: &CpuExecutable, execution: &Execution, _: &[Buffer]) -> Result<()> {
        executable.check(execution)
    }

    fn is_quick(&self, _: &Command<CpuExecutable>) -> bool {
        false
    }

    /// Says that an execution computes, and waits for nothing but the device's own threads.
    fn pace(&self, command: &Command<CpuExecutable>) -> Pace {
        command.pace()
    }

    fn begin(&self, job: Job<CpuExecutable>, _: &[Point]) {
        // The waiters hear of the outcome through the points.
        drop(self.finish(job));
    }

    fn run(&self, job: Job<CpuExecutable>, _: &[Point], _: Instant) -> Result<()> {
        self.finish(job)
    }
}
