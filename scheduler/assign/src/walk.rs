//! A walk from one assignment to the next: some jobs of some devices are placed anew, as well as
//! possible.

use super::core_problem::Core;
use super::patterns::Patterns;
use super::table::Table;
use crate::random::Random;

/// The number of jobs that a step frees at first, and the fewest and the most that it may free.
const FREE: (f64, f64, f64) = (14.0, 5.0, 36.0);
/// The factors by which the number grows after a complete search, and shrinks after an incomplete
/// one.
const GROWTH: (f64, f64) = (1.005, 0.99);
/// The largest excess of the jobs on a step's devices over the freed jobs, as a share of the freed
/// jobs.
const SPREAD: f64 = 1.0;
/// The number of nodes that a step may look at.
const NODES: u64 = 3000;
/// The rounds in which a step's prices are found.
const ROUNDS: usize = 12;

/// An assignment on its way to better ones.
///
/// A step frees jobs of a few devices and places them anew with an exact search.
/// Ejection chains (Yagiura, Ibaraki and Glover, "An ejection chain approach for the generalized
/// assignment problem", INFORMS Journal on Computing 16, 2004), with branches and cycles, are among
/// the possible results, so a step can move jobs past full devices without ever overloading them.
/// The number of freed jobs follows from the number that the search can handle within its limits.
pub(super) struct Walk<const K: usize> {
    pub(super) table: Table<K>,
    pub(super) random: Random,
    /// The devices that each job may go to, with their excess, the least first.
    ranked: Vec<Vec<(f64, usize)>>,
    prices: Vec<[f64; K]>,
    pub(super) of: Vec<usize>,
    pub(super) members: Vec<Vec<usize>>,
    pub(super) loads: Vec<[f64; K]>,
    /// The regret of each device: how much better its jobs could be.
    /// Of two devices, a step takes the one with more to gain.
    pub(super) regret: Vec<f64>,
    /// The number of jobs to free: where one is forced to move, and where none is.
    free: [f64; 2],
    core: Core<K>,
    /// The devices and jobs of the current step.
    devices: Vec<usize>,
    jobs: Vec<usize>,
}

/// The instructions for a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The job that may not stay on its device, if any.
    pub(super) forced: Option<usize>,
    /// The two devices that take part from the beginning.
    pub(super) from: usize,
    pub(super) to: usize,
    /// The additional cost that the jobs' new places have to stay below, compared with the old
    /// ones.
    pub(super) spare: f64,
    /// Whether the first way that is found suffices; else the cheapest is searched for.
    pub(super) first: bool,
}

impl<const K: usize> Walk<K> {
    /// Creates a walk from an assignment, and from prices of the devices.
    pub(super) fn new(table: Table<K>, prices: &[[f64; K]], of: Vec<usize>, seed: u64) -> Self {
        let mut members = vec![Vec::new(); table.devices];
        of.iter().enumerate().for_each(|(job, &device)| members[device].push(job));
        Self {
            random: Random::new(seed),
            ranked: Vec::new(),
            prices: prices.to_vec(),
            loads: table.loads(&of),
            members,
            of,
            regret: vec![0.0; table.devices],
            free: [FREE.0; 2],
            core: Core::new(Vec::new()),
            devices: Vec::new(),
            jobs: Vec::new(),
            table,
        }
    }

    /// Keeps for each job the devices whose excess over the job's least is not above `most`;
    /// `excess` has a row for each job.
    pub(super) fn rank(&mut self, excess: &[f64], most: f64) {
        let rank = |row: &[f64]| {
            let least = row.iter().copied().fold(f64::INFINITY, f64::min);
            let mut ranked: Vec<(f64, usize)> =
                row.iter().enumerate().map(|(device, excess)| (excess - least, device)).collect();
            ranked.retain(|&(excess, _)| excess <= most);
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
            ranked
        };
        self.ranked = excess.chunks(self.table.devices).map(rank).collect();
    }

    /// Returns a device for a job other than its own; devices early in rank are more probable than
    /// late ones.
    pub(super) fn target(&mut self, job: usize) -> Option<usize> {
        let here = self.of[job];
        let ranked = &self.ranked[job];
        let count = ranked.len() - usize::from(ranked.iter().any(|&(_, device)| device == here));
        if count == 0 {
            return None;
        }
        let at = self.random.next().trailing_ones() as usize % count;
        ranked.iter().map(|&(_, device)| device).filter(|&device| device != here).nth(at)
    }

    /// Chooses the devices of a step, and the jobs on them to place anew.
    fn choose(&mut self, step: &Step) {
        let free = self.free[usize::from(step.forced.is_none())];
        self.devices.clear();
        self.devices.extend([step.from, step.to]);
        // The step takes either all jobs of few devices, or some jobs of more devices.
        let wanted = free * (1.0 + SPREAD * self.random.unit());
        let mut jobs = self.members[step.from].len() + self.members[step.to].len();
        for _ in 0..2 * self.table.devices {
            if jobs as f64 >= wanted || self.devices.len() >= self.table.devices.min(Patterns::LIMIT) {
                break;
            }
            // A further device is one that a job of the chosen devices would move to.
            let near = self.devices[self.random.below(self.devices.len())];
            if self.members[near].is_empty() {
                continue;
            }
            let other = self.members[near][self.random.below(self.members[near].len())];
            let (Some(one), Some(two)) = (self.target(other), self.target(other)) else { continue };
            let device = if self.regret[two] > self.regret[one] { two } else { one };
            if !self.devices.contains(&device) {
                self.devices.push(device);
                jobs += self.members[device].len();
            }
        }
        let mut jobs: Vec<(f64, usize)> = Vec::new();
        for &device in &self.devices {
            for &other in self.members[device].iter().filter(|&&other| Some(other) != step.forced) {
                // The key is the least cost of moving the job within these devices, scaled at
                // random.
                let moved = self.ranked[other].iter().find(|(_, at)| *at != device && self.devices.contains(at));
                if let Some((excess, _)) = moved {
                    jobs.push((excess * self.random.unit(), other));
                }
            }
        }
        jobs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let most = free as usize - usize::from(step.forced.is_some());
        jobs.truncate(most);
        self.jobs.clear();
        self.jobs.extend(step.forced);
        self.jobs.extend(jobs.iter().map(|&(_, job)| job));
    }

    /// Returns the present cost of the freed jobs, and the loads of the devices without them.
    fn freed(&self) -> (f64, Vec<[f64; K]>) {
        let mut loads: Vec<[f64; K]> = self.devices.iter().map(|&device| self.loads[device]).collect();
        let mut cost = 0.0;
        for &job in &self.jobs {
            let device = self.of[job];
            cost += self.table.cost(job, device);
            if let Some(local) = self.devices.iter().position(|&at| at == device) {
                loads[local].iter_mut().zip(self.table.weights(job, device)).for_each(|(load, weight)| *load -= weight);
            }
        }
        (cost, loads)
    }

    /// Tells whether a job of this step may go to a device.
    fn open(&self, step: &Step, job: usize, device: usize) -> bool {
        let here = self.of[job] == device;
        if here { step.forced != Some(job) } else { self.ranked[job].iter().any(|&(_, at)| at == device) }
    }

    /// Frees jobs, and places them anew within the limits that `limit` returns for a device and its
    /// capacity; returns false where no way was found.
    pub(super) fn step(&mut self, step: &Step, limit: impl Fn(usize, &[f64; K]) -> [f64; K]) -> bool {
        self.choose(step);
        let (cost, loads) = self.freed();
        self.core.clear();
        for (&device, load) in self.devices.iter().zip(&loads) {
            let mut room = limit(device, &self.table.capacities[device]);
            room.iter_mut().zip(load).for_each(|(room, load)| *room -= load);
            self.core.device(room, self.prices[device]);
        }
        for index in 0..self.jobs.len() {
            let job = self.jobs[index];
            for (local, &device) in self.devices.iter().enumerate() {
                if self.open(step, job, device) {
                    self.core.choice(local, self.table.cost(job, device), *self.table.weights(job, device));
                }
            }
            if !self.core.end_job() {
                return false;
            }
        }
        let below = cost + step.spare;
        self.core.price(ROUNDS, below);
        if self.jobs.is_empty() || self.core.bound() >= below {
            return false;
        }
        let mut nodes = NODES;
        let mut placed: Vec<(usize, usize)> = Vec::new();
        let (jobs, devices, grain) = (&self.jobs, &self.devices, self.table.grain);
        self.core.search(below, &mut nodes, &mut || false, |chosen| {
            placed.clear();
            let mut cost = 0.0;
            for (job, choice) in chosen {
                cost += choice.cost;
                placed.push((jobs[job], devices[choice.device]));
            }
            if step.first { None } else { Some(grain.better_than(cost)) }
        });
        self.adapt(step, nodes == 0);
        placed.iter().for_each(|&(job, device)| self.relocate(job, device));
        !placed.is_empty()
    }

    /// Adapts the number of jobs to free from now on.
    fn adapt(&mut self, step: &Step, cut: bool) {
        let free = &mut self.free[usize::from(step.forced.is_none())];
        if cut {
            *free = (*free * GROWTH.1).max(FREE.1);
        } else {
            *free = (*free * GROWTH.0).min(FREE.2);
        }
    }

    /// Puts a job on a device.
    pub(super) fn relocate(&mut self, job: usize, device: usize) {
        let at = std::mem::replace(&mut self.of[job], device);
        if at != device {
            self.members[at].retain(|&other| other != job);
            self.members[device].push(job);
            for k in 0..K {
                self.loads[at][k] -= self.table.weights(job, at)[k];
                self.loads[device][k] += self.table.weights(job, device)[k];
            }
        }
    }
}

impl Walk<1> {
    /// Makes a step as [`Walk::step`] does, but by sets of jobs; `multipliers` are those of all
    /// jobs.
    pub(super) fn exchange(&mut self, step: &Step, patterns: &mut Patterns, multipliers: &[f64]) -> bool {
        self.choose(step);
        let (cost, loads) = self.freed();
        patterns.clear();
        let room = self.devices.iter().zip(&loads).map(|(&device, load)| self.table.capacities[device][0] - load[0]);
        patterns.room.extend(room);
        for &job in &self.jobs {
            patterns.multipliers.push(multipliers[job]);
            for &device in &self.devices {
                let cost = if self.open(step, job, device) { self.table.cost(job, device) } else { f64::INFINITY };
                patterns.choices.push((cost, self.table.weights(job, device)[0]));
            }
        }
        let grain = self.table.grain;
        let (of, cut) = patterns.solve(cost + step.spare, |cost| grain.better_than(cost));
        self.adapt(step, cut);
        let Some(of) = of else { return false };
        for (index, local) in of.into_iter().enumerate() {
            self.relocate(self.jobs[index], self.devices[local]);
        }
        true
    }
}
