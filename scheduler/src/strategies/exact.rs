//! Branch and bound: the least makespan, with a proof.

use std::collections::HashMap;

use crate::bound::{Bounds, PROOF};
use crate::effort::{Effort, Remaining};
use crate::error::Error;
use crate::list::{Cpop, Heft, Load, Peft};
use crate::problem::{Arrays, DeviceIndex, Partitioner, Problem, Schedule, Slot};
use crate::search::improve;

/// The largest number of tasks, which is the number of bits in a word.
const MOST_TASKS: usize = 64;
/// The largest number of states that are remembered.
const MOST_STATES: usize = 1 << 20;
/// The steps of local search for each task, before the tree is searched.
const STEPS: u64 = 30;

/// A schedule with a lower bound on the makespan of all schedules.
#[derive(Clone, Debug, PartialEq)]
pub struct Solved {
    /// The schedule that was found.
    pub schedule: Schedule,
    /// The seconds that no schedule of the problem falls below.
    pub bound: f64,
}

impl Solved {
    /// Tells whether there is provably no shorter schedule.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.gap() <= PROOF
    }

    /// Returns how much longer the schedule may be than the shortest, as a share of the bound;
    /// infinite where the bound is zero and the makespan is not.
    #[must_use]
    pub fn gap(&self) -> f64 {
        let excess = self.schedule.makespan() - self.bound;
        if excess <= 0.0 { 0.0 } else { excess / self.bound }
    }
}

/// The strategy that finds the shortest schedule, by depth-first branch and bound over the tasks in
/// the order in which they start.
///
/// Every schedule in which no task could start earlier without another being moved can be made by
/// appending tasks by ascending start, so the shortest is among them.
/// A branch is cut where the windows of the tasks that are left, or their area, exceed the best
/// known schedule.
/// It is also cut where a state with the same tasks done was seen that is worse in no respect
/// (Jouglet and Carlier, "Dominance rules in combinatorial optimization problems", European Journal
/// of Operational Research 212, 2011).
/// The strategy is for small graphs of up to 64 tasks: graphs of some 15 tasks are solved with a
/// proof in seconds, and larger ones where bounds are tight.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// The effort of the search, in which a step is a branch.
    /// Where it does not suffice, the result is the best schedule found, with a bound below it.
    pub effort: Effort,
}

impl Exact {
    /// Returns the shortest schedule with its proof, as far as the effort allows.
    ///
    /// # Errors
    /// [`Error::TooMany`] for more than 64 tasks, [`Error::Unreachable`] or [`Error::OutOfMemory`]
    /// where no schedule keeps to links and limits, and [`Error::Strategy`] where none was found
    /// within the effort.
    pub fn solve(&self, problem: &Problem) -> Result<Solved, Error> {
        let arrays = problem.arrays();
        if arrays.tasks > MOST_TASKS {
            return Err(Error::TooMany { what: "tasks for exact search", count: arrays.tasks, limit: MOST_TASKS });
        }
        let mut best: Option<Schedule> = None;
        let mut keep = |schedule: Schedule| {
            if best.as_ref().is_none_or(|best| schedule.makespan() < best.makespan()) {
                best = Some(schedule);
            }
        };
        let strategies: [&dyn Partitioner; 3] = [&Heft, &Peft, &Cpop];
        let mut starts: Vec<Schedule> = strategies.iter().filter_map(|it| it.partition(problem).ok()).collect();
        starts.sort_by(|a, b| a.makespan().total_cmp(&b.makespan()));
        let mut remaining = Remaining::of(self.effort);
        starts.iter().cloned().for_each(&mut keep);
        let bounds = Bounds::new(arrays);
        let high = starts.first().map_or(f64::INFINITY, Schedule::makespan);
        let all = bounds.all();
        let steps = self.effort.steps.min(STEPS * arrays.tasks as u64);
        let root = if high.is_finite() { bounds.between(&all, 0.0, high) } else { 0.0 };
        improve(problem, &starts, root, &mut Remaining::of(Effort { steps, ..self.effort }), 1, &mut keep);
        let mut tree = Tree::new(problem, best.as_ref().map_or(f64::INFINITY, Schedule::makespan));
        let finished = tree.high <= root * (1.0 + PROOF) || tree.search(&mut remaining);
        if let Some(slots) = tree.best {
            best = Some(Schedule::new(slots));
        }
        let Some(schedule) = best else {
            // The error of a list scheduler names the obstacle; only a finished search proves that
            // there is one.
            return Err(match Heft.partition(problem) {
                Err(error) if finished => error,
                _ => Error::Strategy {
                    strategy: "exact".into(),
                    reason: "none was found in the time; allow more, or relax limits".into(),
                },
            });
        };
        let bound = if finished { schedule.makespan() } else { root.min(schedule.makespan()) };
        Ok(Solved { schedule, bound })
    }
}

impl Partitioner for Exact {
    fn name(&self) -> &str {
        "exact"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        self.solve(problem).map(|solved| solved.schedule)
    }
}

/// The key that states share which can be compared: the tasks that are done, and the devices of the
/// done tasks that still have results to send.
#[derive(PartialEq, Eq, Hash)]
struct Key(u64, Box<[u8]>);

struct Tree<'a> {
    arrays: &'a Arrays,
    tail: Vec<f64>,
    /// The price of each processor in the bound by area.
    price: Vec<f64>,
    work: Vec<f64>,
    slots: Vec<Slot>,
    done: u64,
    /// The time at which each processor is free.
    free: Vec<f64>,
    load: Load<'a>,
    high: f64,
    best: Option<Vec<Slot>>,
    seen: HashMap<Key, Vec<Box<[f64]>>>,
    states: usize,
    /// The least starts of the tasks that are left, in a row for each task.
    starts: Vec<f64>,
}

impl<'a> Tree<'a> {
    fn new(problem: &'a Problem, high: f64) -> Self {
        let arrays = problem.arrays();
        let bounds = Bounds::new(arrays);
        let tail = bounds.windows(&bounds.all()).tail;
        let on = |processor: usize| (0..arrays.devices).filter(move |&device| arrays.processor[device] == processor);
        // The price is zero for a device whose processor another device stands for.
        let price: Vec<f64> = (0..arrays.devices)
            .map(|processor| {
                let pairs = on(processor).flat_map(|device| (0..arrays.tasks).map(move |task| (task, device)));
                let timed = pairs.filter(|&(task, device)| arrays.seconds(task, device) > 0.0);
                let speeds: Vec<f64> =
                    timed.map(|(task, device)| arrays.least(task) / arrays.seconds(task, device)).collect();
                match (on(processor).next(), speeds.is_empty()) {
                    (None, _) => 0.0,
                    (_, true) => 1.0,
                    _ => speeds.iter().sum::<f64>() / speeds.len() as f64,
                }
            })
            .collect();
        let work = |task: usize| {
            let claimed = arrays.row(task).iter().enumerate().filter(|(_, seconds)| seconds.is_finite());
            claimed.map(|(device, seconds)| price[arrays.processor[device]] * seconds).fold(f64::INFINITY, f64::min)
        };
        Self {
            arrays,
            tail,
            work: (0..arrays.tasks).map(work).collect(),
            price,
            slots: vec![Slot { device: DeviceIndex(0), start: 0.0, finish: 0.0 }; arrays.tasks],
            done: 0,
            free: vec![0.0; arrays.devices],
            load: Load::new(problem),
            high,
            best: None,
            seen: HashMap::new(),
            states: 0,
            starts: vec![0.0; arrays.tasks * arrays.devices],
        }
    }

    /// Searches the whole tree; returns false where the effort ended first.
    fn search(&mut self, remaining: &mut Remaining) -> bool {
        self.descend(0, 0.0, remaining)
    }

    fn is_done(&self, task: usize) -> bool {
        self.done >> task & 1 == 1
    }

    fn descend(&mut self, depth: usize, last: f64, remaining: &mut Remaining) -> bool {
        if depth == self.arrays.tasks {
            let makespan = self.slots.iter().map(|slot| slot.finish).fold(0.0, f64::max);
            if makespan < self.high {
                self.high = makespan;
                self.best = Some(self.slots.clone());
            }
            return true;
        }
        if self.bound(last) >= self.high * (1.0 - 1e-12) || self.is_dominated(last) {
            return true;
        }
        if !remaining.step() {
            return false;
        }
        let mut branches: Vec<(f64, usize, Slot)> = Vec::new();
        for task in (0..self.arrays.tasks).filter(|&task| !self.is_done(task)) {
            if self.arrays.before.of(task).iter().any(|&(feeding, _)| !self.is_done(feeding)) {
                continue;
            }
            for device in 0..self.arrays.devices {
                let start = self.starts[task * self.arrays.devices + device];
                if start.is_finite() && self.load.has_memory(task, device) && self.load.has_energy(task, device) {
                    let finish = start + self.arrays.seconds(task, device);
                    let through = finish + self.tail[task * self.arrays.devices + device];
                    branches.push((through, task, Slot { device: DeviceIndex(device), start, finish }));
                }
            }
        }
        // The branch that starts soonest comes first, and of equal starts the most urgent task.
        let urgency = |(through, _, slot): &(f64, usize, Slot)| (slot.start, -through);
        branches.sort_by(|a, b| {
            let (a, b) = (urgency(a), urgency(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        for (through, task, slot) in branches {
            if through >= self.high * (1.0 - 1e-12) {
                continue;
            }
            let device = slot.device.0;
            let processor = self.arrays.processor[device];
            let free = std::mem::replace(&mut self.free[processor], slot.finish);
            self.slots[task] = slot;
            self.done |= 1 << task;
            self.load.put(task, device);
            let whole = self.descend(depth + 1, slot.start, remaining);
            self.load.take(task, device);
            self.done &= !(1 << task);
            self.free[processor] = free;
            if !whole {
                return false;
            }
        }
        true
    }

    /// Returns a makespan that no schedule that begins like this one falls below.
    /// It also computes the least starts of all tasks that are left.
    fn bound(&mut self, last: f64) -> f64 {
        let (arrays, count) = (self.arrays, self.arrays.devices);
        let mut bound = 0.0_f64;
        let mut work = 0.0;
        for &task in &arrays.order {
            if self.is_done(task) {
                bound = bound.max(self.slots[task].finish + self.tail[task * count + self.slots[task].device.0]);
                continue;
            }
            work += self.work[task];
            let mut shortest = f64::INFINITY;
            for device in 0..count {
                let mut start = if arrays.seconds(task, device).is_finite() {
                    self.free[arrays.processor[device]].max(last)
                } else {
                    f64::INFINITY
                };
                for &(feeding, bytes) in arrays.before.of(task) {
                    let arrival = if self.is_done(feeding) {
                        let slot = self.slots[feeding];
                        slot.finish + arrays.transfer(slot.device.0, device, bytes)
                    } else {
                        let from = |there: usize| {
                            let finish = self.starts[feeding * count + there] + arrays.seconds(feeding, there);
                            finish + arrays.transfer(there, device, bytes)
                        };
                        (0..count).map(from).fold(f64::INFINITY, f64::min)
                    };
                    start = start.max(arrival);
                }
                self.starts[task * count + device] = start;
                shortest = shortest.min(start + arrays.seconds(task, device) + self.tail[task * count + device]);
            }
            bound = bound.max(shortest);
        }
        let (mut occupied, mut total) = (0.0, 0.0);
        for (price, free) in self.price.iter().zip(&self.free) {
            occupied += price * free.max(last);
            total += price;
        }
        // The bound by area counts the time of each device from when it is free to the end of the
        // schedule.
        // So it holds only where no device is busy beyond that end.
        let area = if self.free.iter().all(|&free| free.max(last) <= bound) { (occupied + work) / total } else { 0.0 };
        bound.max(area)
    }

    /// Tells whether a state with the same tasks done was seen that is worse in no respect, and
    /// else remembers this state.
    fn is_dominated(&mut self, last: f64) -> bool {
        let count = self.arrays.devices;
        let waiting = |task: usize| self.arrays.after.of(task).iter().any(|&(next, _)| !self.is_done(next));
        let frontier: Vec<usize> = (0..self.arrays.tasks).filter(|&task| self.is_done(task) && waiting(task)).collect();
        let key = Key(self.done, frontier.iter().map(|&task| self.slots[task].device.0 as u8).collect());
        let mut state: Vec<f64> = self.free.iter().map(|free| free.max(last)).collect();
        state.push(last);
        state.extend(frontier.iter().map(|&task| self.slots[task].finish));
        state.push(
            (0..self.arrays.tasks)
                .filter(|&task| self.is_done(task))
                .map(|task| self.slots[task].finish)
                .fold(0.0, f64::max),
        );
        // Of the limits, having less left is worse.
        state.extend((0..count).map(|device| -self.load.memory_left(device)));
        state.push(-self.load.energy_left());
        let known = self.seen.entry(key).or_default();
        let better = |other: &[f64], than: &[f64]| other.iter().zip(than).all(|(a, b)| a <= b);
        if known.iter().any(|other| better(other, &state)) {
            return true;
        }
        let before = known.len();
        known.retain(|other| !better(&state, other));
        self.states -= before - known.len();
        if self.states < MOST_STATES {
            known.push(state.into());
            self.states += 1;
        }
        false
    }
}
