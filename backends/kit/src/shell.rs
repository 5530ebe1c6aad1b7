//! The queue shell: everything about a queue that is the same on every device.
//!
//! Work is checked when it is submitted, and downcast once.
//! It is given to the backend as a [`Command`] when its points are reached, or earlier where the
//! backend's driver can order it behind commands that it has already.
//! A [`Job`] ends exactly once, whatever happens: its points are reached, or their timelines fail.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{
    BindingInfo, Buffer, DeviceId, Direction, Error, Executable, Execution, HostTask, Memory, Operation, Point, Queue,
    QueueOptions, Result, Timeline, TraceEvent, TraceKind, TraceSink, Work, submit_and_wait,
};

use crate::{Backlog, Capacity, Pace, copy_through_host, fill_through_host, run_on_host};

/// How a backend does the work of its queues: it says what a piece of work becomes on its driver.
pub trait Backend: Send + Sync + Sized + 'static {
    /// The type of the backend's executables.
    type Executable: Executable;
    /// The type of the backend's memory.
    type Memory: Memory;

    /// Returns the device's id.
    fn device(&self) -> &DeviceId;

    /// Tells whether the memory belongs to this device object.
    fn owns(&self, memory: &Self::Memory) -> bool;

    /// Tells whether the device may write the memory.
    fn writable(&self, memory: &Self::Memory) -> bool;

    /// Tells whether the executable was compiled for this device object.
    fn compiled(&self, executable: &Self::Executable) -> bool;

    /// Checks the parts of an execution that only the backend knows.
    /// The shell has already checked that buffers and scratch are large enough, belong to this
    /// device and are writable where the run writes.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong.
    fn check(&self, executable: &Self::Executable, execution: &Execution, buffers: &[Buffer]) -> Result<()> {
        let _ = (executable, execution, buffers);
        Ok(())
    }

    /// Checks that the device is in a state to take work.
    ///
    /// # Errors
    /// `DeviceLost`, or the reason why the device takes no work.
    fn alive(&self) -> Result<()> {
        Ok(())
    }

    /// Tells whether [`Backend::begin`] returns at once for this command, so that the submitting
    /// thread may call it.
    fn is_quick(&self, command: &Command<Self::Executable>) -> bool;

    /// Tells what [`Backend::begin`] does to the thread of the crew that calls it for this command.
    /// The default says of an execution that is not quick that it may wait.
    fn pace(&self, command: &Command<Self::Executable>) -> Pace {
        match command {
            Command::Execute { .. } if !self.is_quick(command) => Pace::Waits,
            command => command.pace(),
        }
    }

    /// Tells whether a command that waits for these points may begin.
    /// Where not all of them are reached, the driver then orders the command behind them.
    fn is_ordered(&self, wait: &[Point]) -> bool {
        wait.iter().all(Point::is_reached)
    }

    /// Begins a job whose points, `wait`, are reached or are ordered by the driver.
    /// The implementation ends the job, in the call or later.
    fn begin(&self, job: Job<Self::Executable>, wait: &[Point]);

    /// Does a job on the thread that waits for it, and returns when the job has ended.
    /// The default begins the job and waits for its points.
    ///
    /// # Errors
    /// The job's failure, or `Timeout` where the deadline passes first.
    fn run(&self, job: Job<Self::Executable>, wait: &[Point], deadline: Instant) -> Result<()> {
        let points = job.signal.clone();
        self.begin(job, wait);
        points.iter().try_for_each(|point| point.wait(deadline))
    }

    /// Tells the backend that its queue is being dropped, while the driver's objects of the queue
    /// may live on.
    fn closing(&self) {}

    /// Whether [`Backend::run`] may be called only while nothing else is under way in the queue.
    const RUNS_ALONE: bool = false;

    /// The longest time that dropping a queue waits for threads and callbacks to let go of it.
    /// Drivers were seen to crash where threads and callbacks release the driver's objects only
    /// while the process ends: by then the driver has shut itself down.
    const FAREWELL: Duration = Duration::ZERO;
}

/// A whole queue of a backend, which implements [`Queue`] by the backend's methods.
pub struct Shell<B: Backend> {
    core: Arc<Core<B>>,
    /// The jobs that would block the caller, or that have to wait for their points.
    backlog: Backlog<Pending<B::Executable>>,
}

struct Core<B> {
    account: Arc<Account>,
    backend: B,
}

/// The data that a queue's jobs share.
struct Account {
    device: DeviceId,
    /// The queue's name.
    lane: String,
    capacity: Capacity,
}

/// A job on its way to the crew.
struct Pending<E> {
    job: Job<E>,
    reached: Result<()>,
}

impl<B: Backend> Shell<B> {
    /// Makes a queue that takes `capacity` submissions at once, unless the options say otherwise.
    #[must_use]
    pub fn new(backend: B, options: &QueueOptions, capacity: usize) -> Self {
        let backlog = Backlog::new(backend.device().clone(), options);
        let account = Account {
            device: backend.device().clone(),
            lane: backlog.name().to_owned(),
            capacity: Capacity::new(options, capacity),
        };
        Shell { core: Arc::new(Core { account: Arc::new(account), backend }), backlog }
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.core.backend
    }
}

impl<B: Backend> Drop for Shell<B> {
    fn drop(&mut self) {
        self.core.backend.closing();
        self.backlog.close();
        let began = Instant::now();
        let held = || Arc::strong_count(&self.core) > 1 || Arc::strong_count(&self.core.account) > 1;
        while began.elapsed() < B::FAREWELL && held() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl<B: Backend> Core<B> {
    /// Makes a job of work that fits the device, after `take` has counted it.
    fn job(
        &self,
        work: Work,
        signal: &[Point],
        take: impl FnOnce(&Capacity) -> Result<()>,
    ) -> Result<Job<B::Executable>> {
        let trace = work.trace.clone();
        let command = self.command(work).map_err(|error| error.or_on(&self.account.device))?;
        take(&self.account.capacity)?;
        let (account, signal) = (self.account.clone(), Signal::from(signal));
        let submitted = trace.is_some().then(Instant::now);
        Ok(Job { command: Some(command), trace, account, signal, submitted })
    }

    /// Checks for a caller's mistakes, and downcasts to the backend's own types.
    fn command(&self, work: Work) -> Result<Command<B::Executable>> {
        work.check()?;
        Ok(match work.operation {
            Operation::Copy { source, target } => {
                if let Some(memory) = target.memory::<B::Memory>() {
                    self.writable(&target, memory)?;
                }
                let inside = self.own(&source).is_ok() && self.own(&target).is_ok();
                Command::Copy { source, target, inside }
            }
            Operation::Fill { target, pattern } => {
                self.writable(&target, self.own(&target)?)?;
                Command::Fill { target, pattern }
            }
            Operation::Host(task) => Command::Host(task),
            Operation::Execute(execution) => {
                let executable: Arc<dyn Any + Send + Sync> = execution.executable.clone();
                let executable = executable.downcast::<B::Executable>().ok();
                let executable = executable.filter(|executable| self.backend.compiled(executable));
                let executable =
                    executable.ok_or_else(|| Error::invalid_argument("the executable is another device's"))?;
                self.check(&executable, &execution)?;
                Command::Execute { executable, execution }
            }
            other => return Err(Error::unsupported(format!("{other:?}"))),
        })
    }

    fn own<'a>(&self, buffer: &'a Buffer) -> Result<&'a B::Memory> {
        let memory = buffer.memory::<B::Memory>().filter(|memory| self.backend.owns(memory));
        memory.ok_or_else(|| Error::invalid_argument(format!("{buffer:?} is another device's memory")))
    }

    /// Checks that memory may be written: others rely on constant memory staying as it is, and it
    /// may be a mapped file's.
    fn writable(&self, buffer: &Buffer, memory: &B::Memory) -> Result<()> {
        if self.backend.writable(memory) {
            return Ok(());
        }
        Err(Error::invalid_argument(format!("{buffer:?} was imported as constant and cannot be written")))
    }

    fn check(&self, executable: &B::Executable, execution: &Execution) -> Result<()> {
        let (infos, buffers) = (executable.bindings(), execution.bindings.lock());
        let owns = |memory: &B::Memory| self.backend.owns(memory);
        check_bound(infos, &buffers, owns, |memory| self.backend.writable(memory))?;
        if let Some(scratch) = &execution.scratch {
            self.writable(scratch, self.own(scratch)?)?;
        }
        let (needed, room) = (executable.scratch().bytes, execution.scratch.as_ref().map_or(0, Buffer::len));
        if room < needed {
            return Err(
                Error::invalid_argument("the scratch buffer is too small").with_sizes(needed as u64, Some(room as u64))
            );
        }
        self.backend.check(executable, execution, &buffers)
    }
}

impl<B: Backend> Queue for Shell<B> {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        let core = &self.core;
        core.backend.alive()?;
        let job = core.job(work, signal, |capacity| capacity.take(&core.account.device))?;
        let quick = job.command.as_ref().is_some_and(|command| core.backend.is_quick(command));
        if quick && core.backend.is_ordered(wait) {
            core.backend.begin(job, wait);
            return Ok(());
        }
        let serve = || {
            let core = core.clone();
            move |Pending { job, reached }: Pending<B::Executable>| match reached {
                Ok(()) => {
                    job.waited();
                    core.backend.begin(job, &[]);
                }
                // The waiters hear of the failure through the points.
                Err(error) => drop(job.end(Err(error))),
            }
        };
        self.backlog.start(serve);
        let pace = job.command.as_ref().map_or(Pace::Computes, |command| core.backend.pace(command));
        let closed = |pending: Pending<B::Executable>, error| drop(pending.job.end(Err(error)));
        self.backlog.push(wait, pace, move |reached| Pending { job, reached }, closed);
        Ok(())
    }

    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let core = &self.core;
        if !core.backend.is_ordered(wait) {
            return submit_and_wait(self, wait, work, signal, deadline);
        }
        // A backend that runs alone has ended the job when it returns, so it needs no point.
        if signal.is_empty() && !B::RUNS_ALONE {
            return self.run(wait, work, &[Timeline::new(0).at(1)], deadline);
        }
        core.backend.alive()?;
        let capacity = &core.account.capacity;
        let job = if !B::RUNS_ALONE {
            core.job(work, signal, |capacity| capacity.take(&core.account.device))?
        } else if capacity.take_alone() {
            core.job(work, signal, |_| Ok(())).inspect_err(|_| capacity.give())?
        } else {
            return submit_and_wait(self, wait, work, signal, deadline);
        };
        core.backend.run(job, wait, deadline)
    }
}

/// Checks that buffers fit bindings: one buffer for each, long enough, of the device, and writable
/// where the run writes.
///
/// The shell calls this when work is submitted.
/// The binding table may change after that.
/// So a backend whose driver trusts it with addresses calls this again, with the buffers that it
/// takes out of the table.
///
/// # Errors
/// `InvalidArgument`, naming the binding.
pub fn check_bound<M: Memory>(
    infos: &[BindingInfo],
    buffers: &[Buffer],
    owns: impl Fn(&M) -> bool,
    writable: impl Fn(&M) -> bool,
) -> Result<()> {
    BindingInfo::check(infos, buffers)?;
    for (info, buffer) in infos.iter().zip(buffers) {
        let wrong = |what: &str| Error::invalid_argument(format!("{buffer:?} {what}")).at(info.name.to_string());
        let own = buffer.memory::<M>().filter(|memory| owns(memory));
        let memory = own.ok_or_else(|| wrong("is another device's memory"))?;
        if info.direction == Direction::Output && !writable(memory) {
            return Err(wrong("was imported as constant and cannot be written"));
        }
    }
    Ok(())
}

/// Work that was found to fit a device; `E` is the type of the device's executables.
pub enum Command<E> {
    /// Copies bytes.
    Copy {
        /// The buffer to copy from.
        source: Buffer,
        /// The buffer to copy to, of the same length.
        target: Buffer,
        /// Whether both buffers belong to this device.
        inside: bool,
    },
    /// Repeats a pattern over memory of this device.
    Fill {
        /// The buffer to fill.
        target: Buffer,
        /// The pattern, of one to sixteen bytes, which fits into the target a whole number of
        /// times.
        pattern: Arc<[u8]>,
    },
    /// Runs a host function.
    Host(Arc<dyn HostTask>),
    /// Runs an executable.
    Execute {
        /// The executable, which is the same as the execution's.
        executable: Arc<E>,
        /// The execution, with its buffers and options.
        execution: Execution,
    },
}

impl<E> Command<E> {
    /// Does the command on the calling thread where any device can do that; `None` for an
    /// execution.
    pub fn on_host(&self) -> Option<Result<()>> {
        Some(match self {
            Command::Copy { source, target, .. } => copy_through_host(source, target),
            Command::Fill { target, pattern } => fill_through_host(target, pattern),
            Command::Host(task) => run_on_host(&**task),
            Command::Execute { .. } => return None,
        })
    }

    /// Returns the pace of the command where an execution waits for no other work.
    /// Copies and fills wait for drivers alone, and functions say whether they do.
    #[must_use]
    pub fn pace(&self) -> Pace {
        match self {
            Command::Host(task) if task.may_wait() => Pace::Waits,
            Command::Copy { .. } | Command::Fill { .. } | Command::Host(_) | Command::Execute { .. } => Pace::Computes,
        }
    }

    /// Returns what a trace says of the command: its kind, its name and the bytes that it moves.
    #[must_use]
    pub fn described(&self) -> (TraceKind, &'static str, u64) {
        match self {
            Command::Copy { target, .. } => (TraceKind::Transfer, "copy", target.len() as u64),
            Command::Fill { target, .. } => (TraceKind::Transfer, "fill", target.len() as u64),
            Command::Host(_) => (TraceKind::Host, "host", 0),
            Command::Execute { .. } => (TraceKind::Kernel, "execute", 0),
        }
    }
}

/// A command that a queue has taken, and the points that its end reaches.
/// A job that is dropped without an end fails its points.
pub struct Job<E> {
    /// The command; the job's end drops it before the points are reached.
    command: Option<Command<E>>,
    trace: Option<Arc<dyn TraceSink>>,
    account: Arc<Account>,
    signal: Signal,
    /// When the job was submitted, where it is traced.
    submitted: Option<Instant>,
}

impl<E> Job<E> {
    /// Returns the command.
    ///
    /// # Errors
    /// `Internal` where the job no longer has its command.
    pub fn command(&self) -> Result<&Command<E>> {
        self.command.as_ref().ok_or_else(|| Error::internal("a job has lost its command"))
    }

    /// Returns the points that the job's end reaches.
    #[must_use]
    pub fn signal(&self) -> &[Point] {
        &self.signal
    }

    /// Returns when the job was submitted, or `None` where nobody asked for a trace.
    #[must_use]
    pub fn submitted(&self) -> Option<Instant> {
        self.submitted
    }

    /// Returns the tracer that is told of the job's work, or `None` where nobody asked for a trace.
    #[must_use]
    pub fn tracer(&self) -> Option<Tracer> {
        Some(Tracer { sink: self.trace.clone()?, account: self.account.clone() })
    }

    /// Does the command on the calling thread where any device can do that, and tells the trace of
    /// it; `None` for an execution.
    #[must_use]
    pub fn on_host(&self) -> Option<Result<()>> {
        let begin = Instant::now();
        let outcome = self.command.as_ref()?.on_host()?;
        self.told(begin, Instant::now());
        Some(outcome)
    }

    /// Tells the trace of the command as a whole.
    pub fn told(&self, begin: Instant, end: Instant) {
        if let (Some(tracer), Some(command)) = (self.tracer(), &self.command) {
            let (kind, name, bytes) = command.described();
            tracer.event(kind, name, &[], (begin, end), bytes);
        }
    }

    /// Tells the trace that the job waited for its points until now.
    fn waited(&self) {
        if let (Some(tracer), Some(submitted)) = (self.tracer(), self.submitted) {
            tracer.event(TraceKind::Wait, "wait", &[], (submitted, Instant::now()), 0);
        }
    }

    /// Ends the job: reaches its points, or fails their timelines.
    /// Returns the outcome, with the device's id in an error.
    ///
    /// # Errors
    /// The outcome's error.
    pub fn end(mut self, outcome: Result<()>) -> Result<()> {
        // A waiter that hears of the end may count on the command's memory being free.
        drop(self.command.take());
        self.settle(outcome)
    }

    fn settle(&mut self, outcome: Result<()>) -> Result<()> {
        let signal = std::mem::take(&mut self.signal);
        if matches!(signal, Signal::Settled) {
            return outcome;
        }
        self.account.capacity.give();
        let outcome = outcome.map_err(|error| error.or_on(&self.account.device));
        Point::settle(&signal, &outcome);
        outcome
    }
}

impl<E> Drop for Job<E> {
    fn drop(&mut self) {
        let lost = || Error::internal("a job was dropped before its end").with_remedy("report this");
        if !matches!(self.signal, Signal::Settled) {
            drop(self.command.take());
            // The waiters hear of it through the points.
            drop(self.settle(Err(lost())));
        }
    }
}

/// The sender of a queue's trace events: it tells a trace what the queue's device did.
#[derive(Clone)]
pub struct Tracer {
    sink: Arc<dyn TraceSink>,
    account: Arc<Account>,
}

impl Tracer {
    /// Tells the trace of something that is over.
    pub fn event(&self, kind: TraceKind, name: &str, nodes: &[Arc<str>], (begin, end): (Instant, Instant), bytes: u64) {
        let event = TraceEvent::new(&self.account.device, &self.account.lane, kind, name, (begin, end));
        self.sink.event(&event.of(nodes).moving(bytes));
    }
}

/// The points that a piece of work reaches.
/// The usual case, one point, takes no memory of its own.
#[derive(Clone, Debug, Default)]
pub enum Signal {
    /// One point.
    One([Point; 1]),
    /// No points, or several.
    Several(Vec<Point>),
    /// Points that have been settled already.
    #[default]
    Settled,
}

impl From<&[Point]> for Signal {
    fn from(points: &[Point]) -> Self {
        match points {
            [one] => Signal::One([one.clone()]),
            several => Signal::Several(several.to_vec()),
        }
    }
}

impl Deref for Signal {
    type Target = [Point];

    fn deref(&self) -> &[Point] {
        match self {
            Signal::One(one) => one,
            Signal::Several(several) => several,
            Signal::Settled => &[],
        }
    }
}
