//! Assignments next to one that is there: some jobs of some devices are placed anew, as well as can be.

use super::core::{Choice, Core};
use super::random::Random;
use super::table::Table;

/// Jobs that a step frees at first, and the fewest and most that it may.
const FREE: (f64, f64, f64) = (14.0, 4.0, 200.0);
/// Devices among which a step exchanges jobs, at least and at most.
const DEVICES: (usize, usize) = (2, 5);
/// Nodes that a step may look at.
const NODES: u64 = 3000;
/// Rounds in which a step's prices are found.
const ROUNDS: usize = 12;

/// An assignment on its way to better ones.
///
/// A step frees jobs of a few devices and places them anew with the exact search of a [`Core`]. Ejection chains (Yagiura, Ibaraki and Glover,
/// INFORMS Journal on Computing 16, 2004), with branches and cycles, are among the answers, so that full devices are passed without ever
/// being overloaded. How many jobs are freed follows from how many the search can do with its nodes.
pub(super) struct Walk<const K: usize> {
    pub(super) table: Table<K>,
    pub(super) random: Random,
    /// Per job: the devices it may go to and their excess at the prices, the least first.
    ranked: Vec<Vec<(f64, usize)>>,
    prices: Vec<[f64; K]>,
    pub(super) of: Vec<usize>,
    pub(super) members: Vec<Vec<usize>>,
    pub(super) loads: Vec<[f64; K]>,
    free: f64,
    core: Core<K>,
    /// The devices and jobs of the step under way.
    devices: Vec<usize>,
    jobs: Vec<usize>,
    pub stats: [u64; 4],
}

impl<const K: usize> Walk<K> {
    /// Begins with an assignment, and prices at which devices are ranked.
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
            free: FREE.0,
            core: Core::new(Vec::new()),
            devices: Vec::new(),
            jobs: Vec::new(),
            table,
            stats: [0; 4],
        }
    }

    /// Keeps per job the devices whose excess is not above this, and the one where it is.
    pub(super) fn rank(&mut self, most: f64) {
        let table = &self.table;
        self.ranked = (0..table.jobs)
            .map(|job| {
                let priced = |device: usize| {
                    let weights = table.weights(job, device).iter().zip(&self.prices[device]);
                    table.cost(job, device) + weights.map(|(weight, price)| weight * price).sum::<f64>()
                };
                let mut ranked: Vec<(f64, usize)> = (0..table.devices).map(|device| (priced(device), device)).collect();
                ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
                let least = ranked.first().map_or(0.0, |first| first.0);
                ranked.iter_mut().for_each(|(excess, _)| *excess -= least);
                ranked.retain(|&(excess, device)| excess <= most || device == self.of[job]);
                ranked
            })
            .collect();
    }

    /// A device for a job other than the one where it is, more probably an early than a late one in rank.
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

    /// Chooses devices, among them these two, and jobs of theirs to place anew, among them `job` where one is given.
    fn choose(&mut self, job: Option<usize>, from: usize, to: usize) -> bool {
        self.devices.clear();
        self.devices.extend([from, to]);
        let wanted = (DEVICES.0 + self.random.below(DEVICES.1 - DEVICES.0 + 1)).min(self.table.devices);
        for _ in 0..3 * wanted {
            if self.devices.len() >= wanted {
                break;
            }
            // A further device is one where a job of these would like to be.
            let near = self.devices[self.random.below(self.devices.len())];
            if self.members[near].is_empty() {
                continue;
            }
            let other = self.members[near][self.random.below(self.members[near].len())];
            if let Some(device) = self.target(other)
                && !self.devices.contains(&device)
            {
                self.devices.push(device);
            }
        }
        let mut jobs: Vec<(f64, usize)> = Vec::new();
        for &device in &self.devices {
            for &other in self.members[device].iter().filter(|&&other| Some(other) != job) {
                // What it would cost least to move it within these devices; luck decides among the rest.
                let moved = self.ranked[other].iter().find(|(_, at)| *at != device && self.devices.contains(at));
                if let Some((excess, _)) = moved {
                    jobs.push((excess * self.random.unit(), other));
                }
            }
        }
        jobs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let most = self.free as usize - usize::from(job.is_some());
        let limited = jobs.len() > most;
        jobs.truncate(most);
        self.jobs.clear();
        self.jobs.extend(job);
        self.jobs.extend(jobs.iter().map(|&(_, job)| job));
        limited
    }

    /// Frees `job`, which may not stay where it is, or else any jobs of `from`, and others; places them within what `limit` says that a
    /// device may be loaded with, at less than `spare` above what they cost now: in the first way found, or in
    /// the cheapest. False where none was found.
    pub(super) fn step(
        &mut self,
        job: Option<usize>,
        from: usize,
        to: usize,
        spare: f64,
        first: bool,
        limit: impl Fn(usize, &[f64; K]) -> [f64; K],
    ) -> bool {
        self.stats[0] += 1;
        let limited = self.choose(job, from, to);
        let table = &self.table;
        let mut room: Vec<[f64; K]> = self.devices.iter().map(|&device| self.loads[device]).collect();
        let mut cost = 0.0;
        for &job in &self.jobs {
            let device = self.of[job];
            cost += table.cost(job, device);
            for (room, &at) in room.iter_mut().zip(&self.devices) {
                if at == device {
                    room.iter_mut().zip(table.weights(job, device)).for_each(|(room, weight)| *room -= weight);
                }
            }
        }
        self.core.clear();
        for (room, &device) in room.iter_mut().zip(&self.devices) {
            let limit = limit(device, &table.capacities[device]);
            room.iter_mut().zip(limit).for_each(|(room, limit)| *room = limit - *room);
            self.core.device(*room, self.prices[device]);
        }
        for &other in &self.jobs {
            for &(_, device) in &self.ranked[other] {
                if let Some(local) = self.devices.iter().position(|&at| at == device)
                    && (Some(other) != job || device != from)
                {
                    self.core.choice(local, table.cost(other, device), *table.weights(other, device));
                }
            }
            if !self.core.end_job() {
                return false;
            }
        }
        let below = cost + spare;
        self.core.price(ROUNDS, below);
        if self.core.bound() >= below {
            self.stats[1] += 1;
            return false;
        }
        let mut nodes = NODES;
        let mut placed: Vec<(usize, usize)> = Vec::new();
        let (jobs, devices) = (&self.jobs, &self.devices);
        self.core.search(below, &mut nodes, &mut || false, |chosen: &mut dyn Iterator<Item = (usize, &Choice<K>)>| {
            placed.clear();
            let mut cost = 0.0;
            for (job, choice) in chosen {
                cost += choice.cost;
                placed.push((jobs[job], devices[choice.device]));
            }
            if first { None } else { Some(table.grain.better_than(cost)) }
        });
        self.stats[3] += NODES - nodes;
        if nodes == 0 {
            self.stats[2] += 1;
            self.free = (self.free * 0.99).max(FREE.1);
        } else if limited {
            self.free = (self.free * 1.002).min(FREE.2);
        }
        for &(job, device) in &placed {
            self.relocate(job, device);
        }
        !placed.is_empty()
    }

    fn relocate(&mut self, job: usize, device: usize) {
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
