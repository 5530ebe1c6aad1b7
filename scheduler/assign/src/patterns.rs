//! Small generalised assignment problems, solved through the sets of jobs that suit each device.

use super::knapsack::Knapsack;

/// The largest number of sets for a device; where there would be more, only the sets that lose
/// least are considered.
const SETS: usize = 1500;
/// The steps in the search for a device's sets, and the steps in joining the sets of all devices.
const STEPS: usize = 20_000;
const JOINS: usize = 8_000;
/// The rounds in which multipliers are improved.
const ROUNDS: usize = 4;
/// The loss that one device may have, as a multiple of its fair share of the loss that all devices
/// may have.
const SHARE: f64 = 2.0;

/// A set of jobs that one device could take, as bits, and its loss against the best set for the
/// device.
#[derive(Clone, Copy, Debug)]
struct Set {
    jobs: u64,
    loss: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) job: usize,
    pub(super) profit: f64,
    pub(super) weight: f64,
}

impl Item {
    /// Sorts items by profit per weight, the greatest first; items without a profit come last, by
    /// profit.
    pub(super) fn sort(items: &mut [Item]) {
        let rate = |item: &Item| if item.profit > 0.0 { item.profit / item.weight } else { item.profit };
        items.sort_unstable_by(|a, b| rate(b).total_cmp(&rate(a)).then(a.job.cmp(&b.job)));
    }

    /// Returns the most that a profit can become with sorted items, where these may be cut
    /// (Dantzig, Operations Research 5, 1957).
    pub(super) fn most(items: &[Item], profit: f64, room: f64) -> f64 {
        let (mut room, mut bound) = (room, profit);
        for item in items.iter().take_while(|item| item.profit > 0.0) {
            if item.weight > room {
                bound += room * item.profit / item.weight;
                break;
            }
            (room, bound) = (room - item.weight, bound + item.profit);
        }
        bound
    }
}

/// A problem of up to 64 jobs, and of devices that are to share them all.
///
/// Multipliers of the jobs make a bound of one knapsack for each device, as in
/// [`Tree`](super::tree::Tree).
/// The cost of an assignment above the bound is the loss of its devices against their best
/// knapsacks.
/// So only sets of jobs that lose little matter.
/// These are enumerated, and a depth-first search joins one for each device so that each job is in
/// one set.
/// This is the set partitioning by which branch and price solves this problem (Savelsbergh, "A
/// branch-and-price algorithm for the generalized assignment problem", Operations Research 45,
/// 1997), with all columns that matter at hand.
/// Where devices hold few jobs, as they have to here, this bound is far above that of the linear
/// relaxation.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    /// The room that each device has.
    pub(super) room: Vec<f64>,
    /// The multiplier of each job: the cost of placing it, in the relaxation.
    pub(super) multipliers: Vec<f64>,
    /// The cost, infinite where closed, and the weight of each choice, in a row for each job.
    pub(super) choices: Vec<(f64, f64)>,
    knapsack: Knapsack,
    items: Vec<Item>,
    /// The sets of each device, sorted by loss, and the same sets sorted by jobs.
    sets: Vec<Vec<Set>>,
    by_jobs: Vec<Vec<Set>>,
    taken: Vec<u64>,
}

/// The best result of a search for sets that belong together, and the limits of the search.
struct Goal {
    /// The loss against the bound that a result has to stay below.
    limit: f64,
    best: Option<Vec<u64>>,
    steps: usize,
}

impl Patterns {
    /// The largest number of jobs, and of devices.
    pub(super) const LIMIT: usize = 64;

    /// Forgets jobs and devices, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.room.clear();
        self.multipliers.clear();
        self.choices.clear();
    }

    /// Searches for the cheapest assignment that costs less than `below`.
    /// `better` returns the cost that the next assignment has to stay below.
    /// The result is the device of each job, and whether limits ended the search before all sets
    /// within the usual share of the loss were tried.
    pub(super) fn solve(&mut self, below: f64, better: impl Fn(f64) -> f64) -> (Option<Vec<usize>>, bool) {
        let (jobs, devices) = (self.multipliers.len(), self.room.len());
        if jobs == 0 || jobs > Self::LIMIT || devices == 0 || devices > Self::LIMIT {
            return (None, true);
        }
        let (values, bound) = self.price(below);
        let spare = below - bound;
        if spare <= 0.0 {
            return (None, false);
        }
        let mut cut = false;
        self.sets.resize(self.sets.len().max(devices), Vec::new());
        self.by_jobs.resize(self.sets.len(), Vec::new());
        for (device, &value) in values.iter().enumerate() {
            let mut most = spare * (SHARE / devices as f64).min(1.0);
            while !self.enumerate(device, value, most) {
                cut = true;
                most *= 0.5;
            }
            let (sets, by_jobs) = (&mut self.sets[device], &mut self.by_jobs[device]);
            if sets.is_empty() {
                return (None, cut);
            }
            by_jobs.clone_from(sets);
            by_jobs.sort_unstable_by_key(|set| set.jobs);
            sets.sort_unstable_by(|a, b| a.loss.total_cmp(&b.loss).then(a.jobs.cmp(&b.jobs)));
        }
        self.taken.clear();
        self.taken.resize(devices, 0);
        let mut goal = Goal { limit: spare, best: None, steps: JOINS };
        let next = |lost: f64| better(bound + lost) - bound;
        self.join(u64::MAX >> (64 - devices), u64::MAX >> (64 - jobs), 0.0, &mut goal, &next);
        let of = goal
            .best
            .map(|taken| (0..jobs).map(|job| taken.iter().position(|set| set >> job & 1 == 1).unwrap_or(0)).collect());
        (of, cut || goal.steps == 0)
    }

    /// Gives the jobs that are left to the devices that are left, both as bits.
    /// Each device loses at least as much as the best of its sets that are still possible; the
    /// device that loses most is decided next.
    fn join(&mut self, devices: u64, left: u64, lost: f64, goal: &mut Goal, next: &impl Fn(f64) -> f64) {
        if devices.count_ones() == 1 {
            let device = devices.trailing_zeros() as usize;
            let sets = &self.by_jobs[device];
            if let Ok(found) = sets.binary_search_by_key(&left, |set| set.jobs)
                && lost + sets[found].loss < goal.limit
            {
                self.taken[device] = left;
                goal.best = Some(self.taken.clone());
                goal.limit = goal.limit.min(next(lost + sets[found].loss));
            }
            return;
        }
        let (mut total, mut pick) = (lost, (f64::NEG_INFINITY, 0, 0));
        for device in (0..self.taken.len()).filter(|device| devices >> device & 1 == 1) {
            let sets = &self.sets[device];
            let Some(first) = sets.iter().position(|set| set.jobs & !left == 0) else { return };
            total += sets[first].loss;
            if total >= goal.limit {
                return;
            }
            if sets[first].loss > pick.0 {
                pick = (sets[first].loss, device, first);
            }
        }
        let (least, device, first) = pick;
        for index in first..self.sets[device].len() {
            let set = self.sets[device][index];
            if total - least + set.loss >= goal.limit || goal.steps == 0 {
                return;
            }
            if set.jobs & !left == 0 {
                goal.steps -= 1;
                self.taken[device] = set.jobs;
                self.join(devices & !(1 << device), left & !set.jobs, lost + set.loss, goal, next);
            }
        }
    }

    /// Improves the multipliers by subgradient steps towards `aim`; returns the value of each
    /// device's knapsack, and the bound.
    fn price(&mut self, aim: f64) -> (Vec<f64>, f64) {
        let devices = self.room.len();
        let mut kept = self.multipliers.clone();
        let (mut values, mut highest) = (vec![0.0; devices], f64::NEG_INFINITY);
        let mut count = vec![0_i32; kept.len()];
        let mut now = values.clone();
        let mut length = 0.7;
        for _ in 0..=ROUNDS {
            count.fill(0);
            let mut bound: f64 = self.multipliers.iter().sum();
            for (device, value) in now.iter_mut().enumerate() {
                let row = self.choices.iter().skip(device).step_by(devices);
                let items =
                    row.zip(&self.multipliers).enumerate().map(|(job, (choice, u))| (job, u - choice.0, choice.1));
                *value = self.knapsack.solve(items, self.room[device]);
                bound -= *value;
                self.knapsack.chosen().for_each(|job| count[job] += 1);
            }
            if bound > highest {
                highest = bound;
                kept.clone_from(&self.multipliers);
                values.clone_from(&now);
            } else {
                length *= 0.7;
                self.multipliers.clone_from(&kept);
            }
            let square: i32 = count.iter().map(|count| (1 - count).pow(2)).sum();
            if square == 0 || highest >= aim {
                break;
            }
            let step = length * (aim - bound).max(0.0) / f64::from(square);
            self.multipliers.iter_mut().zip(&count).for_each(|(u, count)| *u += step * f64::from(1 - count));
        }
        self.multipliers = kept;
        (values, highest)
    }

    /// Lists the sets of a device that lose less than `most`; returns false where there are too
    /// many.
    fn enumerate(&mut self, device: usize, value: f64, most: f64) -> bool {
        let (devices, room) = (self.room.len(), self.room[device]);
        self.items.clear();
        for (job, (u, &(cost, weight))) in
            self.multipliers.iter().zip(self.choices.iter().skip(device).step_by(devices)).enumerate()
        {
            if weight <= room && u - cost > -most {
                self.items.push(Item { job, profit: u - cost, weight });
            }
        }
        Item::sort(&mut self.items);
        let mut listing = Listing { value, least: value - most, sets: &mut self.sets[device], steps: STEPS };
        listing.sets.clear();
        listing.list(&self.items, 0, 0.0, room)
    }
}

/// A search for the sets of a device whose profit is more than `least`.
struct Listing<'a> {
    value: f64,
    least: f64,
    sets: &'a mut Vec<Set>,
    steps: usize,
}

impl Listing<'_> {
    /// Lists the sets with the first item and those without it; returns false where there are too
    /// many sets.
    fn list(&mut self, items: &[Item], jobs: u64, profit: f64, room: f64) -> bool {
        if Item::most(items, profit, room) <= self.least {
            return true;
        }
        if self.steps == 0 || self.sets.len() >= SETS {
            return false;
        }
        self.steps -= 1;
        let Some((item, rest)) = items.split_first() else {
            self.sets.push(Set { jobs, loss: (self.value - profit).max(0.0) });
            return true;
        };
        (item.weight > room || self.list(rest, jobs | 1 << item.job, profit + item.profit, room - item.weight))
            && self.list(rest, jobs, profit, room)
    }
}
