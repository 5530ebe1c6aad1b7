//! The queue: work waits for its points, then for a thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hetero_hal::{Buffer, DeviceId, Error, ErrorKind, Point, Queue, QueueOptions, Result, Work, copy_through_host};

use crate::executable::CpuExecutable;
use crate::memory::CpuMemory;

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
            send(&self.ready, job);
        }
    }
}

/// A queue whose thread has gone fails what it is given, so that no waiter is left behind.
fn send(ready: &Sender<Job>, job: Job) {
    if let Err(returned) = ready.send(job) {
        let error = Error::new(ErrorKind::DeviceLost, "the queue is closed");
        returned.0.signal.iter().for_each(|point| point.timeline.fail(error.clone()));
    }
}

pub(crate) struct CpuQueue {
    device: DeviceId,
    name: String,
    /// To the queue's own thread, which begins with the first submission: whoever only calls [`Queue::run`] needs none.
    ready: OnceLock<Sender<Job>>,
    /// For work on a caller's thread.
    here: Worker,
    /// Submissions under way.
    taken: Arc<AtomicUsize>,
    capacity: usize,
}

impl CpuQueue {
    pub(crate) fn new(device: DeviceId, options: &QueueOptions, busy: Arc<AtomicU64>) -> Self {
        let taken = Arc::new(AtomicUsize::new(0));
        let here = Worker { device: device.clone(), busy, taken: taken.clone() };
        let name = if options.name.is_empty() { "hetero-cpu-queue".to_owned() } else { options.name.clone() };
        CpuQueue { device, name, ready: OnceLock::new(), here, taken, capacity: options.capacity.unwrap_or(CAPACITY) }
    }

    /// The way to the queue's thread.
    fn ready(&self) -> Result<&Sender<Job>> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let (ready, jobs) = channel();
        let worker = self.here.clone();
        let started = std::thread::Builder::new().name(self.name.clone()).spawn(move || worker.run(&jobs));
        started.map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "cannot start a queue's thread").on(self.device.clone()).caused_by(error)
        })?;
        // Where another caller was first, this thread's sender is dropped, and the thread ends.
        Ok(self.ready.get_or_init(|| ready))
    }

    fn check(&self, work: &Work) -> Result<()> {
        let own = |buffer: &Buffer| {
            if buffer.memory::<CpuMemory>().is_some() {
                return Ok(());
            }
            Err(Error::invalid_argument(format!("{buffer:?} is another device's memory")).on(self.device.clone()))
        };
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                let executable = executable.downcast_ref::<CpuExecutable>().ok_or_else(|| {
                    Error::invalid_argument("the executable is another device's").on(self.device.clone())
                })?;
                execution.bindings.iter().try_for_each(own)?;
                execution.scratch.iter().try_for_each(own)?;
                executable.check(execution).map_err(|error| error.on(self.device.clone()))
            }
            Work::Fill { target, pattern } => {
                own(target)?;
                if pattern.is_empty() || pattern.len() > 16 || !target.len().is_multiple_of(pattern.len()) {
                    return Err(Error::invalid_argument(format!(
                        "a pattern of {} bytes does not fill {} bytes",
                        pattern.len(),
                        target.len()
                    )));
                }
                Ok(())
            }
            Work::Copy { source, target } if source.len() != target.len() => Err(Error::invalid_argument(format!(
                "cannot copy {} bytes into a buffer of {}",
                source.len(),
                target.len()
            ))
            .on(self.device.clone())),
            _ => Ok(()),
        }
    }
}

impl Queue for CpuQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        self.check(&work)?;
        let ready = self.ready()?;
        if self.taken.fetch_add(1, Ordering::AcqRel) >= self.capacity {
            self.taken.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::new(
                ErrorKind::Execution,
                format!("{} submissions are under way already", self.capacity),
            )
            .on(self.device.clone())
            .with_remedy("wait for some of them")
            .retryable());
        }
        let job = Job { work: Ok(work), signal: signal.to_vec() };
        if wait.iter().all(|point| point.timeline.value() >= point.value) {
            send(ready, job);
            return Ok(());
        }
        let pending =
            Arc::new(Pending { left: AtomicUsize::new(wait.len()), job: Mutex::new(Some(job)), ready: ready.clone() });
        for point in wait {
            let pending = pending.clone();
            point.timeline.on_reach(point.value, Box::new(move |outcome| pending.reached(outcome)));
        }
        Ok(())
    }

    /// On the calling thread, where nothing else is under way and nothing has to be waited for.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let ready = wait.iter().all(|point| point.timeline.value() >= point.value);
        let alone = || self.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.check(&work)?;
        if self.capacity > 0 && ready && alone() {
            return self.here.finish(Ok(work), signal);
        }
        self.submit(wait, work, signal)?;
        signal.iter().try_for_each(|point| point.wait(deadline))
    }
}

/// Does work, on the queue's thread or on a caller's. Parallelism is inside the work.
#[derive(Clone)]
struct Worker {
    device: DeviceId,
    busy: Arc<AtomicU64>,
    taken: Arc<AtomicUsize>,
}

impl Worker {
    /// Ends when the queue and everything that waits for it are dropped.
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(Job { work, signal }) = jobs.recv() {
            // The waiters hear of it through the points.
            let _ = self.finish(work, &signal);
        }
    }

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
        self.taken.fetch_sub(1, Ordering::AcqRel);
        let outcome =
            outcome.map_err(|error| if error.device().is_none() { error.on(self.device.clone()) } else { error });
        match &outcome {
            Ok(()) => signal.iter().for_each(Point::signal),
            Err(error) => signal.iter().for_each(|point| point.timeline.fail(error.clone())),
        }
        outcome
    }
}

fn perform(work: &Work) -> Result<()> {
    match work {
        Work::Copy { source, target } => copy_through_host(source, target),
        Work::Fill { target, pattern } => {
            let bytes = target.len().min(pattern.len() * 4096);
            let piece: Vec<u8> = pattern.iter().copied().cycle().take(bytes).collect();
            let mut offset = 0;
            while offset < target.len() {
                let bytes = piece.len().min(target.len() - offset);
                target.write(offset, &piece[..bytes])?;
                offset += bytes;
            }
            Ok(())
        }
        Work::Host(task) => task.run(),
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
