//! The crew's list and its threads, and the lanes that they take.
//!
//! Two locks are ever held at once, the crew's and then a lane's or a seat's, in that order.
//! No job, and nothing that a job holds, is called or dropped under a lock.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::sync::{Condvar, Mutex, MutexGuard, start};

/// What a job may do to the thread that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The job never waits for a point, or for anything else that another job has to do first.
    /// It may wait for a driver that has all that it needs.
    /// Such jobs of one device share a fixed number of threads.
    Computes,
    /// The job may wait for other jobs, as a function of the caller's may.
    /// It always has a thread, however many others wait.
    Waits,
}

/// Jobs that are done one after the other.
trait Lane: Send + Sync {
    /// Does the lane's next job.
    /// It is called by one thread at a time, and without a lock.
    fn serve(&self);

    /// Tells what comes behind the job that was done.
    /// It is called under the crew's lock.
    fn next(&self) -> Next;
}

enum Next {
    /// The next job is of this pace.
    Job(Pace),
    /// There is no job for now, and the lane is on no list.
    Nothing,
    /// There will never be a job again; this is what the lane served with, and is to be dropped
    /// without a lock.
    Over(Box<dyn Send>),
}

/// A lane whose next job a thread is to do.
#[derive(Clone)]
struct Task {
    pace: Pace,
    lane: Arc<dyn Lane>,
}

/// The threads that serve lanes; see the module's description.
pub(crate) struct Crew {
    name: String,
    /// The number of places for jobs that compute.
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The lanes whose next job may wait, but for which no thread could be started.
    waits: VecDeque<Task>,
    /// The lanes whose next job computes, but for which there is no place yet.
    computes: VecDeque<Task>,
    /// The threads that sleep; the one that fell asleep last is at the end.
    idle: Vec<Arc<Seat>>,
    threads: usize,
    /// The numbers of tasks that threads have.
    computing: usize,
    waiting: usize,
    /// The time after which an idle thread ends.
    linger: Duration,
}

/// The place where an idle thread sleeps.
#[derive(Default)]
struct Seat {
    task: Mutex<Option<Task>>,
    called: Condvar,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand(&self, task: Task) {
        *self.lock() = Some(task);
        self.called.notify_one();
    }

    /// Sleeps until there is a task, or for `most` at the longest.
    fn sleep(&self, most: Duration) -> Option<Task> {
        let began = Instant::now();
        let mut task = self.lock();
        loop {
            let left = most.saturating_sub(began.elapsed());
            if task.is_some() || left.is_zero() {
                return task.take();
            }
            let (guard, _) = self.called.wait_timeout(task, left).unwrap_or_else(PoisonError::into_inner);
            task = guard;
        }
    }
}

impl State {
    fn list(&mut self, task: Task) {
        match task.pace {
            Pace::Waits => self.waits.push_back(task),
            Pace::Computes => self.computes.push_back(task),
        }
    }

    /// Takes the next task that a thread may begin.
    fn pick(&mut self, places: usize) -> Option<Task> {
        if let Some(task) = self.waits.pop_front() {
            self.waiting += 1;
            return Some(task);
        }
        if self.computing >= places {
            return None;
        }
        let task = self.computes.pop_front()?;
        self.computing += 1;
        Some(task)
    }

    /// Puts a task back that was picked.
    fn put_back(&mut self, task: Task) {
        self.ended(task.pace);
        match task.pace {
            Pace::Waits => self.waits.push_front(task),
            Pace::Computes => self.computes.push_front(task),
        }
    }

    fn ended(&mut self, pace: Pace) {
        match pace {
            Pace::Waits => self.waiting -= 1,
            Pace::Computes => self.computing -= 1,
        }
    }
}

impl Crew {
    /// Makes a crew that has no thread yet.
    pub(crate) fn new(name: String, places: usize, linger: Duration) -> Arc<Self> {
        let state = State { linger, ..State::default() };
        Arc::new(Crew { name, places: places.max(1), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each lane on the list that may go on a thread.
    ///
    /// # Errors
    /// The system's error where it cannot start a thread; the lanes stay on the list then.
    fn staff(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        while let Some(task) = state.pick(self.places) {
            if let Some(seat) = state.idle.pop() {
                seat.hand(task);
                continue;
            }
            let (crew, first) = (self.clone(), task.clone());
            // The list keeps the lane while the thread's closure is dropped.
            if let Err(error) = start(&self.name, move || crew.work(first)) {
                state.put_back(task);
                return Err(error);
            }
            state.threads += 1;
        }
        Ok(())
    }

    /// Does tasks until there has been none for a while: the life of a thread.
    fn work(self: Arc<Self>, first: Task) {
        let seat = Arc::new(Seat::default());
        let mut next = Some(first);
        while let Some(task) = next {
            task.lane.serve();
            next = self.after(task, &seat);
        }
    }

    /// Gives a lane back, and returns the thread's next task.
    fn after(self: &Arc<Self>, Task { pace, lane }: Task, seat: &Arc<Seat>) -> Option<Task> {
        let mut state = self.lock();
        state.ended(pace);
        let mut rest = None;
        match lane.next() {
            Next::Job(pace) => state.list(Task { pace, lane: lane.clone() }),
            Next::Nothing => {}
            Next::Over(served_with) => rest = Some(served_with),
        }
        loop {
            // To drop what a lane served with may take long: a driver's objects are among it.
            let next = if rest.is_none() { state.pick(self.places) } else { None };
            // A thread that cannot be started leaves the lanes to the threads that come here next.
            let _ = self.staff(&mut state);
            if next.is_some() {
                return next;
            }
            let Some(served_with) = rest.take() else { break };
            drop(state);
            drop(served_with);
            state = self.lock();
        }
        let linger = state.linger;
        if linger.is_zero() {
            state.threads -= 1;
            return None;
        }
        state.idle.push(seat.clone());
        drop(state);
        drop(lane);
        self.rest(seat, linger)
    }

    /// Sleeps until there is a task, and returns `None` where there is none for so long that the
    /// thread ends.
    fn rest(&self, seat: &Arc<Seat>, linger: Duration) -> Option<Task> {
        if let Some(task) = seat.sleep(linger) {
            return Some(task);
        }
        let mut state = self.lock();
        // Tasks are handed over under the crew's lock.
        let late = seat.lock().take();
        if late.is_none() {
            state.idle.retain(|other| !Arc::ptr_eq(other, seat));
            state.threads -= 1;
        }
        late
    }
}

#[cfg(test)]
impl Crew {
    /// Returns the number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.lock().threads
    }

    /// Lets threads end as soon as they have nothing to do; those that sleep are woken for a task
    /// that is none.
    #[allow(dead_code, reason = "the model calls it, in which threads do not end by time")]
    pub(crate) fn dismiss(&self) {
        struct Empty;
        impl Lane for Empty {
            fn serve(&self) {}
            fn next(&self) -> Next {
                Next::Nothing
            }
        }
        let mut state = self.lock();
        state.linger = Duration::ZERO;
        while let Some(seat) = state.idle.pop() {
            state.waiting += 1;
            seat.hand(Task { pace: Pace::Waits, lane: Arc::new(Empty) });
        }
    }
}

/// The function that does a lane's jobs.
pub(crate) type Serve<J> = Box<dyn FnMut(J) + Send>;

/// A lane of jobs of one type, which all are done by one function.
/// The room of its jobs is used again: once as many have waited before, a push allocates nothing.
pub(crate) struct Line<J> {
    crew: Arc<Crew>,
    state: Mutex<LineState<J>>,
}

struct LineState<J> {
    jobs: VecDeque<(Pace, J)>,
    /// The function is not here while a thread uses it, or once the lane is over.
    serve: Option<Serve<J>>,
    /// Whether a thread has the lane or the crew's list does.
    /// It changes under the crew's lock.
    listed: bool,
    /// True once nobody hands jobs over any more.
    closed: bool,
}

impl<J: Send + 'static> Line<J> {
    pub(crate) fn new(crew: Arc<Crew>, serve: Serve<J>) -> Arc<Self> {
        let state = LineState { jobs: VecDeque::new(), serve: Some(serve), listed: false, closed: false };
        Arc::new(Line { crew, state: Mutex::new(state) })
    }

    /// Hands a job over.
    ///
    /// # Errors
    /// The job, and the system's error, where no thread does the job because none can be started.
    pub(crate) fn push(self: &Arc<Self>, pace: Pace, job: J) -> Result<(), (J, std::io::Error)> {
        let mut crew = self.crew.lock();
        {
            let mut state = self.lock();
            state.jobs.push_back((pace, job));
            if std::mem::replace(&mut state.listed, true) {
                return Ok(());
            }
        }
        crew.list(Task { pace, lane: self.clone() });
        let Err(error) = self.crew.staff(&mut crew) else { return Ok(()) };
        // A thread that is at no job that may wait looks at the list soon.
        if crew.threads > crew.waiting {
            return Ok(());
        }
        let refused = self.withdraw(&mut crew);
        drop(crew);
        refused.map_or(Ok(()), |job| Err((job, error)))
    }

    /// Takes back the only job of a lane that is on the list.
    fn withdraw(self: &Arc<Self>, crew: &mut State) -> Option<J> {
        let this = Arc::as_ptr(self).cast::<()>();
        let others = |task: &Task| Arc::as_ptr(&task.lane).cast::<()>() != this;
        let before = crew.waits.len() + crew.computes.len();
        crew.waits.retain(others);
        crew.computes.retain(others);
        if crew.waits.len() + crew.computes.len() == before {
            return None;
        }
        let mut state = self.lock();
        state.listed = false;
        state.jobs.pop_back().map(|(_, job)| job)
    }

    /// Says that no job will be handed over any more.
    /// What the lane serves with is dropped when its jobs are done, which may be now.
    pub(crate) fn close(&self) {
        let crew = self.crew.lock();
        let mut state = self.lock();
        state.closed = true;
        let over = if state.listed { None } else { state.serve.take() };
        drop(state);
        drop(crew);
        drop(over);
    }
}

impl<J> Line<J> {
    fn lock(&self) -> MutexGuard<'_, LineState<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Send + 'static> Lane for Line<J> {
    fn serve(&self) {
        let (job, serve) = {
            let mut state = self.lock();
            (state.jobs.pop_front(), state.serve.take())
        };
        let Some(mut serve) = serve else { return };
        if let Some((_, job)) = job {
            // Only foreign code panics here, such as a callback; the jobs behind it have their turn
            // all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| serve(job)));
        }
        self.lock().serve = Some(serve);
    }

    fn next(&self) -> Next {
        let mut state = self.lock();
        if let Some((pace, _)) = state.jobs.front() {
            return Next::Job(*pace);
        }
        state.listed = false;
        match if state.closed { state.serve.take() } else { None } {
            Some(serve) => Next::Over(Box::new(serve)),
            None => Next::Nothing,
        }
    }
}
