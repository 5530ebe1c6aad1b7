//! Queues: work goes to the driver as soon as its points are reached, or are sure to be reached by
//! commands that the driver has.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{Buffer, DeviceId, Error, Point, QueueOptions, Result, TraceKind};
use hetero_kit::{Backend, Backlog, Command, Job, Pace, Shell, Tracer};

use crate::executable::{Launched, OpenClExecutable};
use crate::handle::{CommandQueue, Event, Mem};
use crate::memory::OpenClMemory;
use crate::shared::Shared;
use crate::timeline::{Clock, OpenClTimeline};

/// The number of submissions that may be under way, where the caller names none.
pub(crate) const CAPACITY: usize = 1024;

pub(crate) type OpenClQueue = Shell<OpenClBackend>;

/// The part of a queue that gives work to the driver.
pub(crate) struct OpenClBackend {
    core: Arc<Core>,
    /// The backlog that waits for the end of given work, on drivers where only a waiting thread
    /// works or hears of the end soon.
    ends: Backlog<Given>,
}

/// The state that a queue and the driver's callbacks share.
struct Core {
    commands: CommandQueue,
    /// A queue that runs kernels on the calling thread, where the driver can do that.
    on_caller: Option<CommandQueue>,
    /// A queue for traced work, whose commands say when they ran.
    profiled: OnceLock<Result<(CommandQueue, Clock)>>,
    shared: Arc<Shared>,
}

/// A job that the driver has been given.
struct Given {
    job: Job<OpenClExecutable>,
    began: Instant,
    event: Arc<Event>,
    /// The commands of a traced job.
    launched: Vec<Launched>,
    /// The points that commands before it reach, and that the driver waits for.
    wait: Vec<Point>,
    /// The buffers that the commands use, which live on even where the job's table changes.
    held: Vec<Buffer>,
    /// The word of the run's faults, where its kernels find any.
    word: Option<Buffer>,
    /// Whether timelines have noted which of their points the event will reach.
    noted: bool,
}

impl OpenClBackend {
    pub(crate) fn new(shared: Arc<Shared>, options: &QueueOptions) -> Result<Self> {
        let commands = CommandQueue::new(&shared.context, shared.handle, false);
        let commands = commands.map_err(|error| error.on(shared.id.clone()))?;
        let on_caller = CommandQueue::on_caller(&shared.context, shared.handle);
        let name = if options.name.is_empty() { String::new() } else { format!("{}-ends", options.name) };
        let ends = Backlog::new(shared.id.clone(), &QueueOptions { name, capacity: None });
        Ok(OpenClBackend { core: Arc::new(Core { commands, on_caller, profiled: OnceLock::new(), shared }), ends })
    }

    /// Lets the backlog wait for the ends of given work.
    fn watch(&self) {
        self.ends.start(|| {
            let core = self.core.clone();
            move |given: Given| {
                let outcome = given.event.wait().and_then(|()| given.event.outcome());
                // The waiters hear of the outcome through the points.
                drop(core.end(given, outcome));
            }
        });
    }

    /// Has the driver call back when the work ends.
    fn call_back(&self, given: Given, queue: &CommandQueue) {
        let (core, event) = (self.core.clone(), given.event.clone());
        let slot = Arc::new(Mutex::new(Some(given)));
        let told = slot.clone();
        let take = |slot: &Mutex<Option<Given>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let done = move |outcome: Result<()>| {
            if let Some(given) = take(&told) {
                drop(core.end(given, outcome));
            }
        };
        if let Err(error) = event.on_complete(Box::new(done)) {
            // Nobody will tell when the work is over, so it has to end now.
            let _ = queue.finish();
            if let Some(given) = take(&slot) {
                drop(self.core.end(given, Err(error)));
            }
        }
    }
}

impl Core {
    /// Returns the driver's queue for work that is traced, or for work that is not.
    fn queue(&self, traced: bool) -> Result<&CommandQueue> {
        if traced { self.profiled().map(|(queue, _)| queue) } else { Ok(&self.commands) }
    }

    fn profiled(&self) -> Result<&(CommandQueue, Clock)> {
        let make = || {
            let queue = CommandQueue::new(&self.shared.context, self.shared.handle, true)?;
            let clock = Clock::compare(&queue, &Mem::allocate(&self.shared.context, 4)?)?;
            Ok((queue, clock))
        };
        self.profiled.get_or_init(make).as_ref().map_err(Error::clone)
    }

    /// Tells whether the device reaches the buffer, which may be another device's of the same
    /// context.
    fn reaches(&self, buffer: &Buffer) -> bool {
        buffer.memory::<OpenClMemory>().is_some_and(|memory| memory.is_within(&self.shared.context))
    }

    /// Tells whether the driver does the command, so that it can be ordered behind events.
    /// The host does all other commands, once their points are reached.
    fn is_driven(&self, command: &Command<OpenClExecutable>) -> bool {
        match command {
            Command::Execute { executable, .. } => executable.launches(),
            Command::Copy { source, target, .. } => self.reaches(source) && self.reaches(target) && !source.is_empty(),
            // The standard allows only patterns whose lengths are powers of two, at multiples of
            // their length.
            Command::Fill { target, pattern } => {
                let whole = pattern.len().is_power_of_two() && target.offset().is_multiple_of(pattern.len());
                whole && !target.is_empty()
            }
            Command::Host(_) => false,
        }
    }

    /// Returns the events that a command in `queue` waits for.
    ///
    /// # Errors
    /// The failure of a point that will not be reached any more.
    fn events(&self, wait: &[Point], queue: &CommandQueue) -> Result<Vec<Arc<Event>>> {
        OpenClTimeline::events(&self.shared.context, wait, queue).ok_or_else(|| {
            let failure = wait.iter().filter(|point| !point.is_reached()).find_map(|point| point.timeline.failure());
            failure.unwrap_or_else(|| Error::internal("a point that was ordered is so no more"))
        })
    }

    /// Gives a job to the driver's queue.
    /// A job that the host has to do is done here and ended; the result is then `None`.
    ///
    /// # Errors
    /// The error with which the job has ended.
    fn give(
        &self,
        job: Job<OpenClExecutable>,
        queue: &CommandQueue,
        wait: &[Point],
        events: &[Arc<Event>],
    ) -> Result<Option<Given>> {
        let (began, traced) = (Instant::now(), job.tracer().is_some());
        let mut launched = Vec::new();
        let (mut held, mut word) = (Vec::new(), None);
        let outcome = match job.command() {
            Ok(Command::Execute { executable, execution }) => {
                held = execution.bindings.lock().iter().chain(&execution.scratch).cloned().collect();
                let trace = traced.then_some(&mut launched);
                let event = executable.word().and_then(|taken| {
                    word = taken;
                    executable.enqueue(execution, &held, word.as_ref(), queue, events, trace)
                });
                // The launches before the failed one must not run on into memory that is free by
                // then.
                event.inspect_err(|_| drop(queue.finish()))
            }
            Ok(command @ Command::Copy { source, target, .. }) if self.is_driven(command) => {
                copy(source, target, queue, events).map(|event| Some(Arc::new(event)))
            }
            Ok(command @ Command::Fill { target, pattern }) if self.is_driven(command) => {
                fill(target, pattern, queue, events).map(|event| Some(Arc::new(event)))
            }
            Ok(_) => job.on_host().unwrap_or(Ok(())).map(|()| None),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Some(event)) => {
                if let (true, Ok(command)) = (traced && launched.is_empty(), job.command()) {
                    launched.push(Launched::command(event.clone(), command));
                }
                Ok(Some(Given { job, began, event, launched, wait: wait.to_vec(), held, word, noted: false }))
            }
            Ok(None) => job.end(Ok(())).map(|()| None),
            Err(error) => job.end(Err(error)).map(|()| None),
        }
    }

    /// Ends a job whose commands are over.
    /// A failure of work that it waited for is its own failure.
    fn end(&self, given: Given, outcome: Result<()>) -> Result<()> {
        let Given { job, began, event, launched, wait, held, word, noted } = given;
        let outcome = outcome.and_then(|()| match (word, job.command()) {
            (Some(word), Ok(Command::Execute { executable, .. })) => executable.examine(word),
            _ => Ok(()),
        });
        self.shared.busy.add(began, Instant::now());
        if let (Some(tracer), Ok(())) = (job.tracer(), &outcome) {
            self.tell(&tracer, &job, &launched, !wait.is_empty());
        }
        drop(held);
        let noted = noted.then(|| (self.shared.context.clone(), job.signal().to_vec()));
        let forget = move || {
            if let Some((context, signal)) = noted {
                OpenClTimeline::forget(&context, &signal, &event);
            }
        };
        // The work that the job waited for ends before the job, and its failure fails the job.
        // The host has to see to this: the driver's order says nothing of failures, and the host
        // may hear of the commands in another order.
        if wait.iter().all(Point::is_reached) {
            let outcome = job.end(outcome);
            forget();
            return outcome;
        }
        let end = move |earlier: Result<()>| {
            drop(job.end(earlier.and(outcome)));
            forget();
        };
        Point::when_all(&wait, Box::new(end));
        Ok(())
    }

    /// Tells the trace of a job's commands, by the device's clock.
    fn tell(&self, tracer: &Tracer, job: &Job<OpenClExecutable>, launched: &[Launched], waited: bool) {
        let Ok((_, clock)) = self.profiled() else { return };
        for (number, launch) in launched.iter().enumerate() {
            let Ok((begin, end)) = launch.event.span() else { continue };
            let (begin, end) = (clock.host(begin), clock.host(end));
            if let (0, true, Some(submitted)) = (number, waited, job.submitted().filter(|submitted| begin > *submitted))
            {
                tracer.event(TraceKind::Wait, "wait", &[], (submitted, begin), 0);
            }
            tracer.event(launch.kind, &launch.name, &launch.nodes, (begin, end.max(begin)), launch.bytes);
        }
    }
}

fn own(buffer: &Buffer) -> Result<&OpenClMemory> {
    buffer.memory().ok_or_else(|| Error::internal("foreign memory"))
}

fn copy(source: &Buffer, target: &Buffer, queue: &CommandQueue, events: &[Arc<Event>]) -> Result<Event> {
    let (from, to) = ((own(source)?.whole(), source.offset()), (own(target)?.whole(), target.offset()));
    queue.copy(from, to, source.len(), events)
}

fn fill(target: &Buffer, pattern: &[u8], queue: &CommandQueue, events: &[Arc<Event>]) -> Result<Event> {
    queue.fill(own(target)?.whole(), pattern, target.offset(), target.len(), events)
}

/// The longest time that dropping a queue waits for others to let go of it.
const FAREWELL: Duration = Duration::from_millis(200);

impl Backend for OpenClBackend {
    type Executable = OpenClExecutable;
    type Memory = OpenClMemory;
    const FAREWELL: Duration = FAREWELL;

    fn device(&self) -> &DeviceId {
        &self.core.shared.id
    }

    fn owns(&self, memory: &OpenClMemory) -> bool {
        memory.is_of(&self.core.shared)
    }

    fn writable(&self, memory: &OpenClMemory) -> bool {
        !memory.is_constant()
    }

    fn compiled(&self, executable: &OpenClExecutable) -> bool {
        executable.is_of(&self.core.shared)
    }

    fn is_quick(&self, command: &Command<OpenClExecutable>) -> bool {
        self.core.is_driven(command)
    }

    fn is_ordered(&self, wait: &[Point]) -> bool {
        let reached = wait.iter().all(Point::is_reached);
        reached || OpenClTimeline::events(&self.core.shared.context, wait, &self.core.commands).is_some()
    }

    fn begin(&self, job: Job<OpenClExecutable>, wait: &[Point]) {
        let core = &self.core;
        let finishes = core.shared.quirks.finishes;
        let queue = match core.queue(job.tracer().is_some()) {
            Ok(queue) => queue,
            Err(error) => return drop(job.end(Err(error))),
        };
        let events = match core.events(wait, queue) {
            Ok(events) => events,
            Err(error) => return drop(job.end(Err(error))),
        };
        // The waiters hear of a failure through the points.
        let Ok(Some(mut given)) = core.give(job, queue, wait, &events) else { return };
        given.noted = true;
        OpenClTimeline::note(&core.shared.context, given.job.signal(), &given.event, queue);
        // The flush is there because other queues may wait for the command.
        // A flush that fails leaves the command to the next flush, or to the wait.
        let _ = queue.flush();
        // A driver's callback must not wait, as reading the word of faults does.
        if !finishes && given.word.is_none() {
            return self.call_back(given, queue);
        }
        self.watch();
        let core = core.clone();
        let closed = move |given: Given, error| {
            // The driver uses the job's memory until then.
            let _ = given.event.wait();
            drop(core.end(given, Err(error)));
        };
        // The end of a command hangs on commands alone, which the driver has.
        self.ends.push(&[], Pace::Computes, move |_| given, closed);
    }

    /// Does the job on the calling thread, where the driver's own wait is the quickest.
    fn run(&self, job: Job<OpenClExecutable>, wait: &[Point], deadline: Instant) -> Result<()> {
        let core = &self.core;
        let traced = job.tracer().is_some();
        let behind = !wait.iter().all(Point::is_reached);
        // Where the job waits for no other, its end is known when it returns.
        let points = if behind || !core.shared.quirks.finishes { job.signal().to_vec() } else { Vec::new() };
        if !core.shared.quirks.finishes {
            self.begin(job, wait);
            return points.iter().try_for_each(|point| point.wait(deadline));
        }
        let queue = match core.queue(traced) {
            Ok(queue) => queue,
            Err(error) => return job.end(Err(error)),
        };
        // A command that the host does has to wait for the points themselves.
        let reached = match job.command() {
            Ok(command) if core.is_driven(command) => Ok(()),
            _ => wait.iter().try_for_each(|point| point.wait(deadline)),
        };
        let events = match reached.and_then(|()| core.events(wait, queue)) {
            Ok(events) => events,
            Err(error) => return job.end(Err(error)),
        };
        // Work that one thread would do anyway is done by the caller, which saves two hand-overs
        // between threads that take longer.
        let single = matches!(job.command(), Ok(Command::Execute { executable, .. }) if executable.single());
        let caller = core.on_caller.as_ref().filter(|_| single && !traced && !behind);
        let queue = caller.unwrap_or(queue);
        if let Some(given) = core.give(job, queue, wait, &events)? {
            // The queue has finished also where the command has failed.
            let outcome = queue.finish().and_then(|()| given.event.outcome());
            core.end(given, outcome)?;
        }
        points.iter().try_for_each(|point| point.wait(deadline))
    }

    /// Flushes the queue: work that the driver has still owns its memory, and ends by itself.
    fn closing(&self) {
        let _ = self.core.commands.flush();
    }
}

impl Drop for OpenClBackend {
    fn drop(&mut self) {
        self.ends.close();
        let began = Instant::now();
        while Arc::strong_count(&self.core) > 1 && began.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
