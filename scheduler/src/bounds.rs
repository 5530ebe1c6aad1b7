//! Lower bounds: makespans that no schedule of a problem falls below.
//!
//! All of it is *destructive* (Klein and Scholl, "Computing lower bounds by destructive improvement", European Journal of Operational Research 112,
//! 1999): suppose that a schedule takes no longer than some time, draw conclusions about which task may run where, and find a contradiction; then every
//! schedule takes longer.
//!
//! - **Windows.** A task's head on a device is the least time before it starts there, its tail the least time after it finishes. What feeds a task either
//!   ran elsewhere, and its result had to travel, or ran on the same device, one after the other: the head is the least over all such
//!   divisions. (With duplicates of tasks this is the bound of Papadimitriou and Yannakakis, "Towards an architecture-independent analysis of parallel
//!   algorithms", SIAM Journal on Computing 19, 1990.)
//! - **Area.** Of tasks with long heads and tails, a device can do only what fits between its earliest head and its earliest tail. Whether fractions of
//!   tasks would fit is a linear program, of which any dual solution gives a bound.

use crate::arrays::{Arrays, Edges};

/// Neighbours that may be taken onto a task's own device, in the search for its head; more are taken as if for free.
const MOST_LOCAL: usize = 48;
/// Tasks beyond which windows and areas are not refined: one round of each.
const LARGE: usize = 600;
/// Thresholds of heads and of tails that areas are tried for.
const THRESHOLDS: usize = 24;
/// Share of a makespan that counts as nothing, where it is proven to be the least.
pub(crate) const PROOF: f64 = 1e-9;
/// Rounds of prices for devices.
const PRICES: usize = 12;

/// Which task may run where, and when at the earliest and latest. By row of the task; infinite where it may not.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    pub(crate) head: Vec<f64>,
    pub(crate) tail: Vec<f64>,
}

/// A problem of which a bound is sought.
pub(crate) struct Bounds<'a> {
    arrays: &'a Arrays,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(arrays: &'a Arrays) -> Self {
        Self { arrays }
    }

    /// Every claimed pair of task and device.
    pub(crate) fn all(&self) -> Vec<bool> {
        (0..self.arrays.tasks)
            .flat_map(|task| self.arrays.row(task).iter().map(|seconds| seconds.is_finite()))
            .collect()
    }

    /// A makespan that no schedule within `allowed` falls below, sought between `low`, which is one, and `high`. Not more than `high`.
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

    /// The longest way through any task, on the device where that is shortest.
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

    /// Does every schedule within `allowed` take longer? `false` says nothing.
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

    /// Heads and tails.
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
        // Of each neighbour: when it is there from elsewhere; from when on, and how long, it runs on the device itself.
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
                        // It must be elsewhere, and so must those that are there sooner.
                        break;
                    }
                    if index >= MOST_LOCAL {
                        // Larger sets take as long as this one at least.
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

    /// Is there a set of tasks that the devices cannot do between their heads and their tails?
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

    /// Do these tasks exceed what the devices have time for?
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
            // What is asked for more than it can give becomes dearer.
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

/// When a machine is done that does these one after the other, none before its time. They are sorted by that.
fn one_by_one(tasks: &[(f64, f64)]) -> f64 {
    tasks.iter().fold(0.0, |now: f64, &(begins, seconds)| now.max(begins) + seconds)
}

/// Values to try as a least head or tail: of those that occur, the ones that lie furthest above the next lower one. What lies close together gives
/// nearly the same bound, and the lowest of it takes in the most tasks.
fn thresholds(values: &[f64], tasks: usize) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    let mut jumps: Vec<(f64, f64)> = sorted.windows(2).map(|pair| (pair[1] - pair[0], pair[1])).collect();
    jumps.sort_by(|a, b| b.0.total_cmp(&a.0));
    jumps.truncate(if tasks > LARGE { 4 } else { THRESHOLDS });
    sorted.first().copied().into_iter().chain(jumps.into_iter().map(|(_, value)| value)).collect()
}
