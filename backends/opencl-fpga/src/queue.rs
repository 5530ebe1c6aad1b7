//! Queues: work goes to the driver as soon as what it waits for is reached, or is sure to be over before.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{
    Backlog, Buffer, Capacity, Direction, Error, Executable, Job, Point, Queue, QueueOptions, Result, Work,
    copy_through_host, fill_through_host, run_on_host, submit_and_wait,
};

use crate::device::Shared;
use crate::executable::OpenClExecutable;
use crate::handle::{CommandQueue, Event};
use crate::memory::OpenClMemory;

/// Submissions that may be under way, where the caller names no number.
const CAPACITY: usize = 1024;

pub(crate) struct OpenClQueue {
    core: Arc<Core>,
    /// Its thread begins when there is something that would block the caller, or that it is to wait for.
    backlog: Backlog,
}

/// What the queue, its thread and the driver's callbacks share.
struct Core {
    commands: CommandQueue,
    /// Runs kernels on the calling thread, where the driver can.
    on_caller: Option<CommandQueue>,
    shared: Arc<Shared>,
    /// Submissions under way.
    capacity: Capacity,
    /// Points that commands already given to the driver will reach, in order.
    given: Mutex<Vec<Point>>,
}

impl OpenClQueue {
    pub(crate) fn new(shared: Arc<Shared>, options: &QueueOptions) -> Result<Self> {
        let commands =
            CommandQueue::new(&shared.context, shared.handle).map_err(|error| error.on(shared.id.clone()))?;
        let capacity = Capacity::new(options, CAPACITY);
        let backlog = Backlog::new(shared.id.clone(), options);
        let on_caller = CommandQueue::on_caller(&shared.context, shared.handle);
        let core = Core { commands, on_caller, shared, capacity, given: Mutex::new(Vec::new()) };
        Ok(OpenClQueue { core: Arc::new(core), backlog })
    }
}

impl Core {
    /// Checks what a caller can get wrong.
    fn check(&self, work: &Work) -> Result<()> {
        self.takes(work).and_then(|()| work.check()).map_err(|error| error.or_on(&self.shared.id))
    }

    /// Is it all of this device, and may it be written where it is?
    fn takes(&self, work: &Work) -> Result<()> {
        let own = |buffer: &Buffer| match self.own(buffer) {
            true => Ok(()),
            false => Err(Error::invalid_argument(format!("{buffer:?} is another device's memory"))),
        };
        // Others rely on constant memory staying as it is, and it may be a mapped file's.
        let writable = |buffer: &Buffer| match buffer.memory::<OpenClMemory>() {
            Some(memory) if memory.is_constant() => {
                Err(Error::invalid_argument(format!("{buffer:?} was imported as constant and cannot be written")))
            }
            _ => Ok(()),
        };
        match work {
            Work::Execute(execution) => {
                let executable: &dyn Any = &*execution.executable;
                let executable = executable.downcast_ref::<OpenClExecutable>().filter(|own| own.is_of(&self.shared));
                let executable =
                    executable.ok_or_else(|| Error::invalid_argument("the executable is another device's"))?;
                execution.bindings.iter().chain(&execution.scratch).try_for_each(own)?;
                executable.check(execution)?;
                let bound = executable.bindings().iter().zip(execution.bindings.iter());
                bound
                    .filter(|(info, _)| info.direction == Direction::Output)
                    .try_for_each(|(_, buffer)| writable(buffer))
            }
            Work::Fill { target, .. } => own(target).and_then(|()| writable(target)),
            Work::Copy { target, .. } => writable(target),
            _ => Ok(()),
        }
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
                    // What was given before the launch that failed must not run on into memory that is free then.
                    Some(executable) => executable.enqueue(execution, commands).inspect_err(|_| {
                        let _ = commands.finish();
                    }),
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
                fill_through_host(target, pattern).map(|()| None)
            }
            Work::Host(task) => run_on_host(&**task).map(|()| None),
            other => Err(Error::unsupported(format!("{other:?}"))),
        }
    }

    /// Does work whose turn it is, and waits for its end, which reaches the points.
    fn perform(&self, work: &Work, signal: &[Point]) -> Result<()> {
        let (began, commands) = (Instant::now(), self.awaited(work));
        let outcome = self.enqueue(work, commands).and_then(|event| match event {
            // The queue has finished also where the command has failed.
            Some(event) => commands.finish().and_then(|()| event.outcome()),
            None => Ok(()),
        });
        self.shared.busy.add(began, Instant::now());
        // Nothing was noted as given: nobody else can have counted on these points' order.
        self.reach(signal, outcome)
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
            let earlier =
                wait.iter().find_map(|point| (!point.is_reached()).then(|| point.timeline.failure()).flatten());
            core.shared.busy.add(began, Instant::now());
            core.end(&points, earlier.map_or(outcome, Err));
        });
        match event.on_complete(done) {
            // A flush that fails leaves the command to the next one, or to the wait; its end is told all the same.
            Ok(()) => drop(self.commands.flush()),
            Err(error) => {
                // Nobody will tell when it is over, so it has to be now.
                let _ = self.commands.finish();
                self.end(&signal, Err(error));
            }
        }
    }

    /// Ends work that was started: forgets that its points will be reached, and reaches them, or fails their timelines.
    fn end(&self, signal: &[Point], outcome: Result<()>) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).retain(|point| {
            !signal.iter().any(|ended| ended.value == point.value && ended.timeline.is(&point.timeline))
        });
        // The waiters hear of it through the points.
        let _ = self.reach(signal, outcome);
    }

    /// Reaches points, or fails their timelines. Gives the outcome, with the device's id.
    fn reach(&self, signal: &[Point], outcome: Result<()>) -> Result<()> {
        self.capacity.give();
        let outcome = outcome.map_err(|error| error.or_on(&self.shared.id));
        Point::settle(signal, &outcome);
        outcome
    }

    /// Are all points reached, or sure to be by commands that the driver has already?
    fn ordered(&self, wait: &[Point]) -> bool {
        let mut given = None;
        wait.iter().all(|point| {
            if point.is_reached() {
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
        // A thread that only hands work over and goes is missed where waiting threads do the work.
        let finishes = core.shared.quirks.finishes;
        if !finishes && !core.blocks(&work) && core.ordered(wait) {
            core.capacity.take(&core.shared.id)?;
            core.start(work, wait, signal.to_vec());
            return Ok(());
        }
        self.backlog.start(|| {
            let core = core.clone();
            move |Job { work, signal }| match work {
                // The waiters hear of it through the points.
                Ok(work) if finishes => drop(core.perform(&work, &signal)),
                Ok(work) => core.start(work, &[], signal.to_vec()),
                Err(error) => core.end(&signal, Err(error)),
            }
        })?;
        core.capacity.take(&core.shared.id)?;
        self.backlog.push(wait, work, signal);
        Ok(())
    }

    /// On the calling thread, where nothing has to be waited for and the driver's own wait is the quickest.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        let core = &self.core;
        core.check(&work)?;
        if !wait.iter().all(Point::is_reached) || !core.shared.quirks.finishes {
            return submit_and_wait(self, wait, work, signal, deadline);
        }
        core.capacity.take(&core.shared.id)?;
        core.perform(&work, signal)
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
        self.backlog.close();
        let began = Instant::now();
        while Arc::strong_count(&self.core) > 1 && began.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}
