//! Queues: work goes to the driver as soon as what it waits for is reached, or is sure to be over before.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{
    Buffer, Direction, Error, ErrorKind, Executable, Point, Queue, QueueOptions, Result, Work, copy_through_host,
};

use crate::device::Shared;
use crate::executable::OpenClExecutable;
use crate::handle::{CommandQueue, Event};
use crate::memory::OpenClMemory;

/// Submissions that may be under way, where the caller names no number.
const CAPACITY: usize = 1024;

pub(crate) struct OpenClQueue {
    core: Arc<Core>,
    /// To the queue's own thread, which begins when there is something that would block the caller.
    ready: OnceLock<Sender<Job>>,
    name: String,
}

/// What the queue, its thread and the driver's callbacks share.
struct Core {
    commands: CommandQueue,
    /// Runs kernels on the calling thread, where the driver can.
    on_caller: Option<CommandQueue>,
    shared: Arc<Shared>,
    /// Submissions under way.
    taken: AtomicUsize,
    capacity: usize,
    /// Points that commands already given to the driver will reach, in order.
    given: Mutex<Vec<Point>>,
}

/// Work whose turn it is.
struct Job {
    work: Result<Work>,
    signal: Vec<Point>,
}

/// Work that waits for points.
struct Pending {
    left: AtomicUsize,
    job: Mutex<Option<Job>>,
    ready: Sender<Job>,
}

impl Pending {
    /// One of the points is reached, or will not be.
    fn reached(&self, outcome: Result<()>) {
        let mut slot = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = outcome.is_err();
        if let (Err(error), Some(job)) = (outcome, slot.as_mut()) {
            job.work = Err(error);
        }
        let last = self.left.fetch_sub(1, Ordering::AcqRel) == 1;
        if (last || failed)
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

impl OpenClQueue {
    pub(crate) fn new(shared: Arc<Shared>, options: &QueueOptions) -> Result<Self> {
        let commands =
            CommandQueue::new(&shared.context, shared.handle).map_err(|error| error.on(shared.id.clone()))?;
        let capacity = options.capacity.unwrap_or(CAPACITY);
        let on_caller = CommandQueue::on_caller(&shared.context, shared.handle);
        let core =
            Core { commands, on_caller, shared, taken: AtomicUsize::new(0), capacity, given: Mutex::new(Vec::new()) };
        let name = if options.name.is_empty() { "hetero-opencl-queue".to_owned() } else { options.name.clone() };
        Ok(OpenClQueue { core: Arc::new(core), ready: OnceLock::new(), name })
    }

    /// The way to the queue's thread.
    fn ready(&self) -> Result<&Sender<Job>> {
        if let Some(ready) = self.ready.get() {
            return Ok(ready);
        }
        let (ready, jobs) = channel::<Job>();
        let core = self.core.clone();
        let started = std::thread::Builder::new().name(self.name.clone()).spawn(move || serve(&core, &jobs));
        started.map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "cannot start a queue's thread")
                .on(self.core.shared.id.clone())
                .caused_by(error)
        })?;
        // Where another caller was first, this thread's sender is dropped, and the thread ends.
        Ok(self.ready.get_or_init(|| ready))
    }
}

/// The queue's thread; it ends when the queue and everything that waits for it are dropped.
fn serve(core: &Arc<Core>, jobs: &Receiver<Job>) {
    while let Ok(Job { work, signal }) = jobs.recv() {
        match work {
            Ok(work) => core.start(work, &[], signal),
            Err(error) => core.end(&signal, Err(error)),
        }
    }
}

impl Core {
    fn check(&self, work: &Work) -> Result<()> {
        let id = &self.shared.id;
        let own = |buffer: &Buffer| match buffer.memory::<OpenClMemory>() {
            Some(memory) if memory.is_of(&self.shared) => Ok(()),
            _ => Err(Error::invalid_argument(format!("{buffer:?} is another device's memory")).on(id.clone())),
        };
        // Others rely on constant memory staying as it is, and it may be a mapped file's.
        let writable = |buffer: &Buffer| match buffer.memory::<OpenClMemory>() {
            Some(memory) if memory.is_constant() => {
                Err(Error::invalid_argument(format!("{buffer:?} was imported as constant and cannot be written"))
                    .on(id.clone()))
            }
            _ => Ok(()),
        };
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                let executable = executable.downcast_ref::<OpenClExecutable>().filter(|own| own.is_of(&self.shared));
                let executable = executable
                    .ok_or_else(|| Error::invalid_argument("the executable is another device's").on(id.clone()))?;
                execution.bindings.iter().try_for_each(own)?;
                execution.scratch.iter().try_for_each(own)?;
                executable.check(execution).map_err(|error| error.on(id.clone()))?;
                let bound = executable.bindings().iter().zip(execution.bindings.iter());
                bound
                    .filter(|(info, _)| info.direction == Direction::Output)
                    .try_for_each(|(_, buffer)| writable(buffer))
            }
            Work::Fill { target, pattern } => {
                own(target)?;
                writable(target)?;
                if pattern.is_empty() || pattern.len() > 16 || !target.len().is_multiple_of(pattern.len()) {
                    return Err(Error::invalid_argument(format!(
                        "a pattern of {} bytes does not fill {} bytes",
                        pattern.len(),
                        target.len()
                    ))
                    .on(id.clone()));
                }
                Ok(())
            }
            Work::Copy { source, target } if source.len() != target.len() => Err(Error::invalid_argument(format!(
                "cannot copy {} bytes into a buffer of {}",
                source.len(),
                target.len()
            ))
            .on(id.clone())),
            Work::Copy { target, .. } => writable(target),
            _ => Ok(()),
        }
    }

    fn take(&self) -> Result<()> {
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.capacity {
            return Ok(());
        }
        self.taken.fetch_sub(1, Ordering::AcqRel);
        Err(Error::new(ErrorKind::Execution, format!("{} submissions are under way already", self.capacity))
            .on(self.shared.id.clone())
            .with_remedy("wait for some of them")
            .retryable())
    }

    /// Would the work hold up the thread that starts it?
    fn blocks(&self, work: &Work) -> bool {
        match work {
            Work::Execute(execution) => execution.probe.is_some(),
            Work::Copy { source, target } => !self.own(source) || !self.own(target),
            Work::Fill { .. } => false,
            _ => true,
        }
    }

    fn own(&self, buffer: &Buffer) -> bool {
        buffer.memory::<OpenClMemory>().is_some_and(|memory| memory.is_of(&self.shared))
    }

    /// Where work goes that the caller waits for at once: to the caller's own thread, if one thread would do all of it anyway. That saves two
    /// hand-overs between threads, which take longer than such work.
    fn awaited(&self, work: &Work) -> &CommandQueue {
        let Work::Execute(execution) = work else { return &self.commands };
        let executable: &dyn Any = &*execution.executable;
        let single = executable.downcast_ref::<OpenClExecutable>().is_some_and(OpenClExecutable::single);
        self.on_caller.as_ref().filter(|_| single).unwrap_or(&self.commands)
    }

    /// Gives work to the driver, or does it here where it is the host's. `None` where it is over already.
    fn enqueue(&self, work: &Work, commands: &CommandQueue) -> Result<Option<Event>> {
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                match executable.downcast_ref::<OpenClExecutable>() {
                    Some(executable) => executable.enqueue(execution, commands),
                    None => Err(Error::internal("the executable is another device's")),
                }
            }
            Work::Copy { source, target } => {
                let (from, to) = (source.memory::<OpenClMemory>(), target.memory::<OpenClMemory>());
                match (from, to) {
                    (Some(from), Some(to)) if self.own(source) && self.own(target) && !source.is_empty() => {
                        let (from, to) = ((from.whole(), source.offset()), (to.whole(), target.offset()));
                        commands.copy(from, to, source.len()).map(Some)
                    }
                    _ => copy_through_host(source, target).map(|()| None),
                }
            }
            Work::Fill { target, .. } if target.is_empty() => Ok(None),
            Work::Fill { target, pattern } => {
                let memory = target.memory::<OpenClMemory>().ok_or_else(|| Error::internal("foreign memory"))?;
                // The standard knows patterns whose lengths are powers of two only, at multiples of their length.
                if pattern.len().is_power_of_two() && target.offset().is_multiple_of(pattern.len()) {
                    return commands.fill(memory.whole(), pattern, target.offset(), target.len()).map(Some);
                }
                let piece: Vec<u8> = pattern.iter().copied().cycle().take(pattern.len() * 4096).collect();
                let mut offset = 0;
                while offset < target.len() {
                    let bytes = piece.len().min(target.len() - offset);
                    target.write(offset, &piece[..bytes])?;
                    offset += bytes;
                }
                Ok(None)
            }
            Work::Host(task) => task.run().map(|()| None),
            other => Err(Error::unsupported(format!("{other:?}"))),
        }
    }

    /// Starts work whose turn it is; its end reaches the points. `wait` are points that commands before it in the driver's queue reach.
    fn start(self: &Arc<Self>, work: Work, wait: &[Point], signal: Vec<Point>) {
        let began = Instant::now();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match self.enqueue(&work, &self.commands) {
            Ok(Some(event)) => event,
            Ok(None) => {
                drop(given);
                return self.end(&signal, Ok(()));
            }
            Err(error) => {
                drop(given);
                return self.end(&signal, Err(error));
            }
        };
        given.extend(signal.iter().cloned());
        drop(given);
        let (core, wait, points) = (self.clone(), wait.to_vec(), signal.clone());
        // Owns the work until the driver is done with it.
        let done = Box::new(move |outcome: Result<()>| {
            let _kept = work;
            let earlier = wait
                .iter()
                .find_map(|point| (point.timeline.value() < point.value).then(|| point.timeline.failure()).flatten());
            core.shared.busy.add(began, Instant::now());
            core.end(&points, earlier.map_or(outcome, Err));
        });
        let started = event.on_complete(done).and_then(|()| self.commands.flush());
        if let Err(error) = started {
            // Nobody will tell when it is over, so it has to be now.
            let _ = self.commands.finish();
            self.end(&signal, Err(error));
        }
    }

    /// Ends work that was started: forgets that its points will be reached, and reaches them, or fails their timelines.
    fn end(&self, signal: &[Point], outcome: Result<()>) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).retain(|point| {
            !signal.iter().any(|ended| ended.value == point.value && ended.timeline.is(&point.timeline))
        });
        self.reach(signal, outcome);
    }

    /// Reaches points, or fails their timelines.
    fn reach(&self, signal: &[Point], outcome: Result<()>) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        match outcome {
            Ok(()) => signal.iter().for_each(Point::signal),
            Err(error) => {
                let error = if error.device().is_none() { error.on(self.shared.id.clone()) } else { error };
                signal.iter().for_each(|point| point.timeline.fail(error.clone()));
            }
        }
    }

    /// Are all points reached, or sure to be by commands that the driver has already?
    fn ordered(&self, wait: &[Point]) -> bool {
        let mut given = None;
        wait.iter().all(|point| {
            if point.timeline.value() >= point.value {
                return true;
            }
            let given = given.get_or_insert_with(|| self.given.lock().unwrap_or_else(PoisonError::into_inner));
            given.iter().any(|ahead| ahead.value >= point.value && ahead.timeline.is(&point.timeline))
        })
    }
}

impl Queue for OpenClQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        let core = &self.core;
        core.check(&work)?;
        let blocks = core.blocks(&work);
        if !blocks && core.ordered(wait) {
            core.take()?;
            core.start(work, wait, signal.to_vec());
            return Ok(());
        }
        let ready = self.ready()?;
        core.take()?;
        let job = Job { work: Ok(work), signal: signal.to_vec() };
        if wait.is_empty() {
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

    /// On the calling thread, where nothing has to be waited for and the driver's own wait is the quickest.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let core = &self.core;
        core.check(&work)?;
        let reached = wait.iter().all(|point| point.timeline.value() >= point.value);
        if !reached || !core.shared.quirks.finishes {
            self.submit(wait, work, signal)?;
            return signal.iter().try_for_each(|point| point.wait(deadline));
        }
        core.take()?;
        let (began, commands) = (Instant::now(), core.awaited(&work));
        let outcome = core.enqueue(&work, commands).and_then(|event| match event {
            // The queue has finished also where the command has failed.
            Some(event) => commands.finish().and_then(|()| event.outcome()),
            None => Ok(()),
        });
        core.shared.busy.add(began, Instant::now());
        let outcome =
            outcome.map_err(|error| if error.device().is_none() { error.on(core.shared.id.clone()) } else { error });
        // Nothing was noted as given: nobody else can have counted on these points' order.
        core.reach(signal, outcome.clone());
        outcome
    }
}

/// Longest that dropping a queue waits for others to let go of it.
const FAREWELL: Duration = Duration::from_millis(200);

impl Drop for OpenClQueue {
    fn drop(&mut self) {
        // What the driver has still owns its memory; it ends by itself.
        let _ = self.core.commands.flush();
        // The queue's thread and the driver's callbacks hold the driver's objects. Where they release them only while the process ends, drivers were seen to crash:
        // they have taken themselves down by then.
        drop(self.ready.take());
        let began = Instant::now();
        while Arc::strong_count(&self.core) > 1 && began.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
