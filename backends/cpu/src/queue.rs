//! The queue: work waits for its points, then for a thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hetero_hal::{
    Backlog, Buffer, Capacity, DeviceId, Error, Point, Queue, QueueOptions, Result, Work, copy_through_host,
    fill_through_host, run_on_host, submit_and_wait,
};

use crate::executable::CpuExecutable;
use crate::memory::CpuMemory;

/// Submissions under way where nobody says how many.
const CAPACITY: usize = 4096;

pub(crate) struct CpuQueue {
    /// Its thread begins with the first submission: whoever only calls [`Queue::run`] needs none.
    backlog: Backlog,
    /// For work on a caller's thread.
    here: Worker,
}

impl CpuQueue {
    pub(crate) fn new(device: DeviceId, options: &QueueOptions, busy: Arc<AtomicU64>) -> Self {
        let backlog = Backlog::new(device.clone(), options);
        CpuQueue { backlog, here: Worker { device, busy, capacity: Arc::new(Capacity::new(options, CAPACITY)) } }
    }

    /// Checks what a caller can get wrong.
    fn check(&self, work: &Work) -> Result<()> {
        takes(work).and_then(|()| work.check()).map_err(|error| error.or_on(&self.here.device))
    }
}

/// Is it all of this device?
fn takes(work: &Work) -> Result<()> {
    let own = |buffer: &Buffer| match buffer.memory::<CpuMemory>() {
        Some(_) => Ok(()),
        None => Err(Error::invalid_argument(format!("{buffer:?} is another device's memory"))),
    };
    match work {
        Work::Execute(execution) => {
            let executable: &dyn Any = &*execution.executable;
            let executable = executable
                .downcast_ref::<CpuExecutable>()
                .ok_or_else(|| Error::invalid_argument("the executable is another device's"))?;
            execution.bindings.iter().chain(&execution.scratch).try_for_each(own)?;
            executable.check(execution)
        }
        Work::Fill { target, .. } => own(target),
        _ => Ok(()),
    }
}

impl Queue for CpuQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        self.check(&work)?;
        self.backlog.start(|| {
            let worker = self.here.clone();
            // The waiters hear of it through the points.
            move |job| drop(worker.finish(job.work, &job.signal))
        })?;
        self.here.capacity.take(&self.here.device)?;
        self.backlog.push(wait, work, signal);
        Ok(())
    }

    /// On the calling thread, where nothing else is under way and nothing has to be waited for.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        self.check(&work)?;
        if wait.iter().all(Point::is_reached) && self.here.capacity.take_alone() {
            return self.here.finish(Ok(work), signal);
        }
        submit_and_wait(self, wait, work, signal, deadline)
    }
}

/// Does work, on the queue's thread or on a caller's. Parallelism is inside the work.
#[derive(Clone)]
struct Worker {
    device: DeviceId,
    busy: Arc<AtomicU64>,
    /// Submissions under way.
    capacity: Arc<Capacity>,
}

impl Worker {
    /// Does the work and reaches the points, or fails their timelines.
    fn finish(&self, work: Result<Work>, signal: &[Point]) -> Result<()> {
        let began = Instant::now();
        let outcome = work.and_then(|work| {
            // A kernel does not panic; if one does, its waiters are told rather than left behind.
            catch_unwind(AssertUnwindSafe(|| perform(&work)))
                .unwrap_or_else(|_| Err(Error::internal("a kernel panicked").with_remedy("report this model")))
        });
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.busy.fetch_add(nanos, Ordering::Relaxed);
        self.capacity.give();
        let outcome = outcome.map_err(|error| error.or_on(&self.device));
        Point::settle(signal, &outcome);
        outcome
    }
}

fn perform(work: &Work) -> Result<()> {
    match work {
        Work::Copy { source, target } => copy_through_host(source, target),
        Work::Fill { target, pattern } => fill_through_host(target, pattern),
        Work::Host(task) => run_on_host(&**task),
        Work::Execute(execution) => {
            let executable: &dyn Any = &*execution.executable;
            match executable.downcast_ref::<CpuExecutable>() {
                Some(executable) => executable.run(execution),
                None => Err(Error::internal("the executable is another device's")),
            }
        }
        other => Err(Error::unsupported(format!("{other:?}"))),
    }
}
