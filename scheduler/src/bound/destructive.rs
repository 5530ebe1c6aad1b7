//! Lower bounds: makespans that no schedule of a problem falls below.
//!
//! All of them are *destructive* (Klein and Scholl, "Computing lower bounds by destructive
//! improvement", European Journal of Operational Research 112, 1999).
//! They suppose that a schedule takes no longer than some time, draw conclusions about which task
//! may run where, and look for a contradiction.
//! Where they find one, every schedule takes longer.
//!
//! - **Windows.**
//!   A task's head on a device is the least time before it starts there, its tail the least time
//!   after it finishes.
//!   A task that feeds it either ran elsewhere, and its result had to travel, or ran on the same
//!   device, one after the other: the head is the least over all such divisions.
//!   (With duplicates of tasks this is the bound of Papadimitriou and Yannakakis, "Towards an
//!   architecture-independent analysis of parallel algorithms", SIAM Journal on Computing 19,
//!   1990.)
//! - **Area.**
//!   Of tasks with long heads and tails, a device can do only those that fit between its earliest
//!   head and its earliest tail.
//!   Whether fractions of tasks would fit is a linear program, of which any dual solution gives a
//!   bound.

use crate::problem::{Arrays, Edges};

/// The largest number of neighbours that are taken onto a task's own device in the search for its
/// head; further neighbours count as free.
const MOST_LOCAL: usize = 48;
/// The largest number of tasks for which windows and areas are refined; for more tasks there is one
/// round of each.
const LARGE: usize = 600;
/// The number of thresholds of heads, and of tails, that areas are tried for.
const THRESHOLDS: usize = 24;
/// The relative difference up to which a makespan counts as equal to its bound, and so as proven to
/// be the least.
pub(crate) const PROOF: f64 = 1e-9;
/// The number of rounds in which the prices of devices are adjusted.
const PRICES: usize = 12;

/// The heads and tails: the devices on which each task may run, and its earliest and latest times
/// there.
/// They are in a row for each task, and infinite where the task may not run.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    pub(crate) head: Vec<f64>,
    pub(crate) tail: Vec<f64>,
}

/// A problem whose lower bound is sought.
pub(crate) struct Bounds<'a> {
    arrays: &'a Arrays,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(arrays: &'a Arrays) -> Self {
        Self { arrays }
    }

    /// Returns every claimed pair of task and device.
    pub(crate) fn all(&self) -> Vec<bool> {
        (0..self.arrays.tasks)
            .flat_map(|task| self.arrays.row(task).iter().map(|seconds| seconds.is_finite()))
            .collect()
    }

    /// Returns a makespan that no schedule within `allowed` falls below, sought between `low`,
    /// which is such a makespan, and `high`.
    /// The result is at most `high`.
    pub(crate) fn between(&self, allowed: &[bool], low: f64, high: f64) -> f64 {
        let below = high * (1.0 - PROOF / 10.0);
        if self.refutes(allowed, below) {
            return below;
        }
        let windows = self.windows(allowed);
        let mut low = self.longest(&windows).max(low).min(high);
        let mut high = high;
        let rounds = if self.arrays.tasks > LARGE { 4 } else { 14 };
        for _ in 0..rounds {
            if high - low <= 1e-9 * high {
                break;
            }
            let middle = low + (high - low) / 2.0;
            if self.refutes(allowed, middle) { low = middle } else { high = middle }
        }
        low
    }

    /// Returns the longest way through any task, on the device where the way is shortest.
    fn longest(&self, windows: &Windows) -> f64 {
        let through = |task: usize| {
            let ways = (0..self.arrays.devices).map(|device| self.through(windows, task, device));
            ways.fold(f64::INFINITY, f64::min)
        };
        (0..self.arrays.tasks).map(through).fold(0.0, f64::max)
    }

    fn through(&self, windows: &Windows, task: usize, device: usize) -> f64 {
        let at = task * self.arrays.devices + device;
        windows.head[at] + self.arrays.seconds(task, device) + windows.tail[at]
    }

    /// Tells whether every schedule within `allowed` takes longer than `makespan`.
    /// The answer `false` proves nothing.
    pub(crate) fn refutes(&self, allowed: &[bool], makespan: f64) -> bool {
        let mut allowed = allowed.to_vec();
        let windows = loop {
            let windows = self.windows(&allowed);
            let mut changed = false;
            for task in 0..self.arrays.tasks {
                let row = task * self.arrays.devices;
                let mut left = 0;
                for device in 0..self.arrays.devices {
                    let open = &mut allowed[row + device];
                    if *open && self.through(&windows, task, device) > makespan * (1.0 + 1e-12) {
                        *open = false;
                        changed = true;
                    }
                    left += usize::from(*open);
                }
                if left == 0 {
                    return true;
                }
            }
            if !changed || self.arrays.tasks > LARGE {
                break windows;
            }
        };
        self.overfull(&windows, &allowed, makespan)
    }

    /// Returns the heads and tails of all tasks.
    pub(crate) fn windows(&self, allowed: &[bool]) -> Windows {
        let arrays = self.arrays;
        let forward = |from, to, bytes| arrays.transfer(from, to, bytes);
        let backward = |from, to, bytes| arrays.transfer(to, from, bytes);
        Windows {
            head: self.distances(allowed, arrays.order.iter().copied(), &arrays.before, forward),
            tail: self.distances(allowed, arrays.order.iter().rev().copied(), &arrays.after, backward),
        }
    }

    fn distances(
        &self,
        allowed: &[bool],
        order: impl Iterator<Item = usize>,
        edges: &Edges,
        transfer: impl Fn(usize, usize, f64) -> f64,
    ) -> Vec<f64> {
        let (arrays, count) = (self.arrays, self.arrays.devices);
        let mut distance = vec![f64::INFINITY; arrays.tasks * count];
        // These are, of each neighbour: the time at which its result is here from another device,
        // the time from which it runs on the device itself, and its seconds there.
        let mut neighbours: Vec<(f64, f64, f64)> = Vec::new();
        let mut local: Vec<(f64, f64)> = Vec::new();
        for task in order {
            for device in (0..count).filter(|device| allowed[task * count + device]) {
                neighbours.clear();
                for &(other, bytes) in edges.of(task) {
                    let done = |there: usize| distance[other * count + there] + arrays.seconds(other, there);
                    let away = (0..count).filter(|&there| there != device && allowed[other * count + there]);
                    let away = away.map(|there| done(there) + transfer(there, device, bytes));
                    let begins = distance[other * count + device];
                    neighbours.push((away.fold(f64::INFINITY, f64::min), begins, arrays.seconds(other, device)));
                }
                neighbours.sort_by(|a, b| b.0.total_cmp(&a.0));
                local.clear();
                let mut best = neighbours.first().map_or(0.0, |first| first.0);
                for (index, &(_, begins, seconds)) in neighbours.iter().enumerate() {
                    if !begins.is_finite() {
                        // The neighbour must be elsewhere, and so must the neighbours whose results
                        // are here sooner.
                        break;
                    }
                    if index >= MOST_LOCAL {
                        // Larger sets take at least as long as this one.
                        best = best.min(one_by_one(&local));
                        break;
                    }
                    let place = local.partition_point(|&(other, _)| other <= begins);
                    local.insert(place, (begins, seconds));
                    let here = one_by_one(&local);
                    if here >= best {
                        break;
                    }
                    best = best.min(here.max(neighbours.get(index + 1).map_or(0.0, |next| next.0)));
                }
                distance[task * count + device] = best;
            }
        }
        distance
    }

    /// Tells whether there is a set of tasks that the devices cannot do between their heads and
    /// their tails.
    fn overfull(&self, windows: &Windows, allowed: &[bool], makespan: f64) -> bool {
        let (arrays, count) = (self.arrays, self.arrays.devices);
        let least = |list: &[f64], task: usize| {
            let open = (0..count).filter(|device| allowed[task * count + device]);
            open.map(|device| list[task * count + device]).fold(f64::INFINITY, f64::min)
        };
        let heads: Vec<f64> = (0..arrays.tasks).map(|task| least(&windows.head, task)).collect();
        let tails: Vec<f64> = (0..arrays.tasks).map(|task| least(&windows.tail, task)).collect();
        let (from, to) = (thresholds(&heads, arrays.tasks), thresholds(&tails, arrays.tasks));
        let mut set = Vec::with_capacity(arrays.tasks);
        for &head in &from {
            for &tail in &to {
                set.clear();
                set.extend((0..arrays.tasks).filter(|&task| heads[task] >= head && tails[task] >= tail));
                if set.len() > 1 && self.exceeds(windows, allowed, makespan, &set) {
                    return true;
                }
            }
        }
        false
    }

    /// Tells whether the tasks of a set exceed the time that the devices have.
    fn exceeds(&self, windows: &Windows, allowed: &[bool], makespan: f64, set: &[usize]) -> bool {
        let (arrays, count) = (self.arrays, self.arrays.devices);
        let mut capacity = vec![0.0; count];
        let mut price = vec![0.0; count];
        for device in 0..count {
            let (mut head, mut tail) = (f64::INFINITY, f64::INFINITY);
            let (mut speed, mut runs) = (0.0, 0);
            for &task in set {
                let at = task * count + device;
                if allowed[at] {
                    head = head.min(windows.head[at]);
                    tail = tail.min(windows.tail[at]);
                    let seconds = arrays.seconds(task, device);
                    if seconds > 0.0 {
                        speed += arrays.least(task) / seconds;
                        runs += 1;
                    }
                }
            }
            if head.is_finite() {
                capacity[device] = (makespan - head - tail).max(0.0);
            }
            price[device] = if runs > 0 { speed / f64::from(runs) } else { 1.0 };
        }
        let mut load = vec![0.0; count];
        for _ in 0..PRICES {
            load.fill(0.0);
            let mut work = 0.0;
            for &task in set {
                let open = (0..count).filter(|device| allowed[task * count + device]);
                let (mut cheapest, mut at) = (f64::INFINITY, 0);
                for device in open {
                    let cost = price[device] * arrays.seconds(task, device);
                    if cost < cheapest {
                        (cheapest, at) = (cost, device);
                    }
                }
                work += cheapest;
                load[at] += arrays.seconds(task, at);
            }
            let room: f64 = price.iter().zip(&capacity).map(|(price, capacity)| price * capacity).sum();
            if work > room * (1.0 + 1e-9) {
                return true;
            }
            // A device that is asked for more time than it has becomes dearer.
            let total: f64 = capacity.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let asked: f64 = load.iter().sum::<f64>() / total;
            for device in 0..count {
                if capacity[device] > 0.0 {
                    let share = load[device] / capacity[device] - asked;
                    price[device] *= (0.2 * share).clamp(-0.2, 0.2).exp();
                }
            }
        }
        false
    }
}

/// Returns the time at which a machine is done that does these tasks one after the other, none
/// before its own time.
/// The tasks are sorted by these times.
fn one_by_one(tasks: &[(f64, f64)]) -> f64 {
    tasks.iter().fold(0.0, |now: f64, &(begins, seconds)| now.max(begins) + seconds)
}

/// Returns the values to try as a least head or tail: of the values that occur, those that lie
/// furthest above the next lower one.
/// Values that lie close together give nearly the same bound, and the lowest of them takes in the
/// most tasks.
fn thresholds(values: &[f64], tasks: usize) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    let mut jumps: Vec<(f64, f64)> = sorted.windows(2).map(|pair| (pair[1] - pair[0], pair[1])).collect();
    jumps.sort_by(|a, b| b.0.total_cmp(&a.0));
    jumps.truncate(if tasks > LARGE { 4 } else { THRESHOLDS });
    sorted.first().copied().into_iter().chain(jumps.into_iter().map(|(_, value)| value)).collect()
}
