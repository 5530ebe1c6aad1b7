//! Tiles in a run: devices take them from their own shares, then from each other's.
//!
//! A device has two *lanes*, so that it always has a tile to go on with; each lane has one tile
//! under way.
//! When that tile is done, the lane takes the next one: from the device's own share, then from the
//! longest of the others.
//! It takes another device's tile only where the tile is done sooner that way than by its owner.
//! A lane that finds no tile leaves, and the last one to leave reaches the group's point.
//! Where a tile fails, each lane leaves as soon as its tile is done, and the group's timeline
//! fails.
//!
//! Nothing here allocates once the group is made.
//! No device waits for another's lock: a lane touches its own timeline, and atomic counters.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use hetero_hal::{
    BindingTable, Buffer, DeviceId, Error as HalError, ErrorKind, Executable, Execution, Point, Queue, Result,
    Timeline, TraceSink, Watcher, Work,
};
use hetero_kit::Shares;

/// The number of tiles that a device has under way at once.
pub(super) const LANES: usize = 2;

/// The tiles of a group that a device has done in the last run.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) done: AtomicUsize,
    /// The number of these tiles that are of other devices' shares.
    pub(super) stolen: AtomicUsize,
}

/// A device that takes part in a group.
pub(super) struct Member {
    pub(super) id: DeviceId,
    pub(super) queue: Arc<dyn Queue>,
    /// The number of tiles in its share.
    pub(super) share: usize,
    /// The seconds that the plan expects of a tile.
    pub(super) seconds: f64,
    /// Whether the host's processor computes for the device.
    pub(super) hosted: bool,
    /// The executable of each tile.
    pub(super) executables: Vec<Arc<dyn Executable>>,
    /// The binding table of each tile.
    pub(super) bindings: Vec<Arc<BindingTable>>,
    /// The scratch of each lane.
    pub(super) scratch: [Option<Buffer>; LANES],
    pub(super) timelines: [Timeline; LANES],
}

/// The settings that change from run to run.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) trace: Option<Arc<dyn TraceSink>>,
    pub(super) deadline: Option<Instant>,
}

/// A group of tiles with memory for one run at a time.
pub(super) struct Group {
    work: Arc<Shared>,
    lanes: Arc<[Arc<Lane>]>,
    entry: Arc<Entry>,
}

/// The state that the lanes share.
struct Shared {
    members: Vec<Member>,
    shares: Shares,
    progress: Vec<Progress>,
    /// The number of lanes that have not left, plus one while they are being started.
    active: AtomicUsize,
    failure: OnceLock<HalError>,
    given_up: AtomicBool,
    end: Timeline,
    /// The value that the end's timeline reaches.
    last: AtomicU64,
    /// The time at which the group was made.
    epoch: Instant,
    /// The nanoseconds from the epoch to the beginning of the run.
    began: AtomicU64,
    tally: Arc<[Tally]>,
}

/// The progress of a device in a run.
#[derive(Default)]
struct Progress {
    done: AtomicUsize,
    stolen: AtomicUsize,
    under_way: AtomicUsize,
}

impl Group {
    /// Makes a group whose end is told by `end`.
    /// Tiles are numbered by the members' shares, one behind the other.
    pub(super) fn new(members: Vec<Member>, end: Timeline, tally: Arc<[Tally]>) -> Group {
        let work = Arc::new(Shared {
            shares: Shares::new(members.len()),
            progress: members.iter().map(|_| Progress::default()).collect(),
            active: AtomicUsize::new(0),
            failure: OnceLock::new(),
            given_up: AtomicBool::new(false),
            end,
            last: AtomicU64::new(0),
            epoch: Instant::now(),
            began: AtomicU64::new(0),
            tally,
            members,
        });
        // The first lanes of all devices begin before the second ones: where tiles are few, each
        // device has one.
        let places = (0..LANES).flat_map(|lane| (0..work.members.len()).map(move |member| (member, lane)));
        let lane = |(member, lane): (usize, usize)| {
            Arc::new_cyclic(|me| Lane {
                me: me.clone(),
                timeline: work.members[member].timelines[lane].clone(),
                scratch: work.members[member].scratch[lane].clone(),
                work: work.clone(),
                member,
                submitted: AtomicU64::new(0),
                events: AtomicUsize::new(0),
                settings: Mutex::default(),
            })
        };
        let lanes: Arc<[Arc<Lane>]> = places.map(lane).collect();
        let entry = Arc::new(Entry { lanes: lanes.clone(), work: work.clone(), left: AtomicUsize::new(0) });
        Group { work, lanes, entry }
    }

    /// Begins once all points are reached; the end's timeline reaches `last` when all tiles are
    /// done.
    /// The run before must be over.
    pub(super) fn start(&self, wait: &[Point], last: u64, settings: &Settings) {
        self.work.last.store(last, Ordering::Relaxed);
        for lane in &*self.lanes {
            *lane.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings.clone();
        }
        self.entry.left.store(wait.len() + 1, Ordering::Release);
        for point in wait {
            point.timeline.watch(point.value, self.entry.clone());
        }
        self.entry.reached(Ok(()));
    }

    /// Returns a device that has a tile under way: after a deadline has passed, this device keeps
    /// the run from ending.
    /// Of several, it is the one with the fewest tiles done.
    pub(super) fn laggard(&self) -> Option<&DeviceId> {
        let busy = |(_, progress): &(&Member, &Progress)| progress.under_way.load(Ordering::Relaxed) > 0;
        let all = self.work.members.iter().zip(&self.work.progress).filter(busy);
        all.min_by_key(|(_, progress)| progress.done.load(Ordering::Relaxed)).map(|(member, _)| &member.id)
    }

    /// Keeps lanes from taking any more tiles.
    pub(super) fn give_up(&self) {
        self.work.given_up.store(true, Ordering::Release);
    }
}

/// The watcher of the points that the group waits for.
struct Entry {
    lanes: Arc<[Arc<Lane>]>,
    work: Arc<Shared>,
    left: AtomicUsize,
}

impl Watcher for Entry {
    fn reached(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            // No tile has begun, and none will: a point that is waited for never comes.
            self.work.end.fail(error);
            return;
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let work = &self.work;
        work.shares.deal(work.members.iter().map(|member| member.share));
        work.began.store(work.now(), Ordering::Relaxed);
        for progress in &work.progress {
            progress.done.store(0, Ordering::Relaxed);
            progress.stolen.store(0, Ordering::Relaxed);
        }
        work.active.store(self.lanes.len() + 1, Ordering::Release);
        self.lanes.iter().for_each(|lane| lane.pump());
        // The starter leaves only now: the first lane may do all tiles while the others are still
        // to begin.
        work.leave();
    }
}

impl Shared {
    /// Returns the nanoseconds since the epoch.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn fail(&self, error: HalError) {
        // The first error stays here, though a later one may tell of a lost device: that is settled
        // where errors are weighed.
        let _ = self.failure.set(error);
    }

    /// Returns the seconds that a device needs for a tile, by the tiles that it has done in this
    /// run.
    /// Before it has done one, the plan's estimate counts, or the time since the beginning where
    /// that is longer.
    fn seconds(&self, member: usize) -> f64 {
        let run = self.now().saturating_sub(self.began.load(Ordering::Relaxed)) as f64 / 1e9;
        match self.progress[member].done.load(Ordering::Relaxed) {
            0 => self.members[member].seconds.max(run),
            done => run / done as f64,
        }
    }

    /// Returns the next tile for a device, with `true` where it is another device's.
    fn next(&self, member: usize) -> Option<(usize, bool)> {
        if self.failure.get().is_some() || self.given_up.load(Ordering::Acquire) {
            return None;
        }
        if let Some(tile) = self.shares.take_first(member) {
            return Some((tile, false));
        }
        let under_way = |member: usize| self.progress[member].under_way.load(Ordering::Relaxed) as f64;
        let worth = |victim: usize| {
            let (own, theirs) = (&self.members[member], &self.members[victim]);
            if own.hosted && theirs.hosted && own.seconds >= theirs.seconds {
                // Both compute on the host's processor, so they take their time from one another.
                return false;
            }
            let here = self.seconds(member) * (1.0 + under_way(member));
            here <= self.seconds(victim) * (self.shares.left(victim) as f64 + under_way(victim))
        };
        loop {
            // The victim is the longest of the shares of which a tile is worth taking.
            let others = (0..self.members.len()).filter(|&other| other != member && self.shares.left(other) > 0);
            let victim = others.filter(|&victim| worth(victim)).max_by_key(|&other| self.shares.left(other))?;
            if let Some(tile) = self.shares.take_last(victim) {
                return Some((tile, true));
            }
        }
    }

    /// Records that a lane is done, or that all lanes are started.
    /// The last to leave ends the run.
    fn leave(&self) {
        if self.active.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        for (tally, progress) in self.tally.iter().zip(&self.progress) {
            tally.done.store(progress.done.load(Ordering::Relaxed), Ordering::Relaxed);
            tally.stolen.store(progress.stolen.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        match self.failure.get() {
            Some(error) => self.end.fail(error.clone()),
            None if self.given_up.load(Ordering::Acquire) => {
                self.end.fail(HalError::new(ErrorKind::Cancelled, "the run was given up"));
            }
            None => self.end.advance(self.last.load(Ordering::Relaxed)),
        }
    }
}

/// A lane, which does one tile after the other on a device.
struct Lane {
    me: Weak<Lane>,
    work: Arc<Shared>,
    member: usize,
    timeline: Timeline,
    scratch: Option<Buffer>,
    /// The number of tiles submitted in all runs; only the thread that handles events touches it.
    submitted: AtomicU64,
    /// The number of events that are still to be handled.
    events: AtomicUsize,
    /// The settings of this lane alone, so that no other lane waits for them.
    settings: Mutex<Settings>,
}

impl Watcher for Lane {
    fn reached(&self, outcome: Result<()>) {
        let progress = &self.work.progress[self.member];
        progress.under_way.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Ok(()) => drop(progress.done.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.work.fail(error.or_on(&self.work.members[self.member].id)),
        }
        self.pump();
    }
}

impl Lane {
    /// Handles an event: the start, or the end of the lane's tile.
    fn pump(&self) {
        // A device that does work at once calls back from inside the submission: that event is left
        // to the loop below on the stack.
        if self.events.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        loop {
            self.step();
            if self.events.fetch_sub(1, Ordering::AcqRel) == 1 {
                return;
            }
        }
    }

    fn step(&self) {
        // The lane counts as active meanwhile, so that no new run begins while it works.
        let Some((tile, stolen)) = self.work.next(self.member) else { return self.work.leave() };
        if stolen {
            self.work.progress[self.member].stolen.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(error) = self.submit(tile) {
            self.work.fail(error.or_on(&self.work.members[self.member].id));
            self.work.leave();
        }
    }

    fn submit(&self, tile: usize) -> Result<()> {
        let member = &self.work.members[self.member];
        let missing = || HalError::internal("a tile is not there");
        let me = self.me.upgrade().ok_or_else(missing)?;
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let executable = member.executables.get(tile).ok_or_else(missing)?.clone();
        let table = member.bindings.get(tile).ok_or_else(missing)?.clone();
        let mut execution = Execution::new(executable, table).with_scratch(self.scratch.clone());
        execution.deadline = settings.deadline;
        let work = Work::execute(execution).traced(settings.trace);
        let end = self.submitted.load(Ordering::Relaxed) + 1;
        member.queue.submit(&[], work, &[self.timeline.at(end)])?;
        self.submitted.store(end, Ordering::Relaxed);
        self.work.progress[self.member].under_way.fetch_add(1, Ordering::Relaxed);
        self.timeline.watch(end, me);
        Ok(())
    }
}
