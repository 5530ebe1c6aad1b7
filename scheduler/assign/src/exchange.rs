//! Steps in which several devices share out their jobs anew.

use super::partition::{Partition, Set, ones};
use super::pool::Pool;
use super::walk::{Step, Walk};

/// The number of devices that take part at first, and the least number.
const DEVICES: (f64, f64) = (10.0, 3.0);
/// The factors by which the number grows after a complete search and shrinks after an incomplete
/// one, and the share of the number by which chance changes it.
const GROWTH: (f64, f64) = (1.01, 0.97);
const LUCK: f64 = 0.3;
/// The chance of a device to be chosen at random is one in this number; each other device is one
/// that a job of a chosen device would move to.
const CHANCE: usize = 4;

/// Moves of a [`Walk`] that free all jobs of several devices, and place them as well as the sets of
/// a [`Pool`] allow.
///
/// The number of devices that take part follows from the number that the search can handle within
/// its limits.
pub(super) struct Exchange {
    pool: Pool,
    partition: Partition,
    count: f64,
    /// The place of each job among the freed jobs.
    place: Vec<usize>,
}

impl Exchange {
    pub(super) fn new(pool: Pool, jobs: usize) -> Self {
        Self { pool, partition: Partition::default(), count: DEVICES.0, place: vec![0; jobs] }
    }

    /// Places jobs anew; returns false where no way was found, `None` where the pool has no sets
    /// for the step.
    /// The regret of a device of the walk is its loss against the value that the pool was made
    /// with.
    pub(super) fn step(&mut self, walk: &mut Walk<1>, step: &Step) -> Option<bool> {
        let devices = self.choose(walk, step);
        let jobs: Vec<usize> = devices.iter().flat_map(|&device| walk.members[device].iter().copied()).collect();
        let limit = devices.iter().map(|&device| walk.regret[device]).sum::<f64>() + step.spare;
        if !self.list(step, &devices, &jobs, limit) {
            return None;
        }
        let grain = walk.table.grain;
        let all = u128::MAX >> (Partition::JOBS - jobs.len());
        let (found, cut) = self.partition.solve(all, limit, &|lost| grain.better_than(lost));
        self.count = if cut {
            (self.count * GROWTH.1).max(DEVICES.1)
        } else {
            (self.count * GROWTH.0).min(walk.table.devices as f64)
        };
        let Some(found) = found else { return Some(false) };
        for (&device, set) in devices.iter().zip(found) {
            ones(set).for_each(|place| walk.relocate(jobs[place], device));
        }
        Some(true)
    }

    /// Chooses the devices that take part in a step.
    fn choose(&self, walk: &mut Walk<1>, step: &Step) -> Vec<usize> {
        let count = self.count * (1.0 + LUCK * (walk.random.unit() - 0.5));
        let mut devices = vec![step.from];
        let mut jobs = walk.members[step.from].len();
        let mut next = Some(step.to);
        for _ in 0..4 * walk.table.devices {
            if let Some(device) = next.filter(|device| !devices.contains(device)) {
                jobs += walk.members[device].len();
                if jobs > Partition::JOBS {
                    break;
                }
                devices.push(device);
            }
            if devices.len() as f64 >= count {
                break;
            }
            let near = devices[walk.random.below(devices.len())];
            next = if walk.random.below(CHANCE) == 0 || walk.members[near].is_empty() {
                Some(walk.random.below(walk.table.devices))
            } else {
                let job = walk.members[near][walk.random.below(walk.members[near].len())];
                walk.target(job)
            };
        }
        devices
    }

    /// Lists the sets of these jobs that each device may take if all devices together are to lose
    /// less than `limit`; returns false where that is impossible.
    fn list(&mut self, step: &Step, devices: &[usize], jobs: &[usize], limit: f64) -> bool {
        if jobs.is_empty() || jobs.len() > Partition::JOBS {
            return false;
        }
        let mut barred = vec![u64::MAX; self.place.len().div_ceil(64)];
        for (place, &job) in jobs.iter().enumerate() {
            self.place[job] = place;
            barred[job / 64] &= !(1 << (job % 64));
        }
        let mut origin = barred.clone();
        if let Some(job) = step.forced {
            origin[job / 64] |= 1 << (job % 64);
        }
        let barred = |device: usize| if device == step.from { &*origin } else { &*barred };
        // The difference is what one device may lose beyond its least where the others lose their
        // least.
        let least =
            devices.iter().map(|&device| self.pool.within(device, barred(device), limit).next().map(|set| set.1));
        let Some(least) = least.collect::<Option<Vec<f64>>>() else { return false };
        let spare = limit - least.iter().sum::<f64>();
        self.partition.clear();
        for (&device, least) in devices.iter().zip(least) {
            let place = |(at, &word): (usize, &u64)| ones(u128::from(word)).map(move |bit| 64 * at + bit);
            let sets = self.pool.within(device, barred(device), least + spare).map(|(set, loss)| Set {
                jobs: set.iter().enumerate().flat_map(place).fold(0, |jobs, job| jobs | 1 << self.place[job]),
                loss,
            });
            self.partition.device(sets);
        }
        spare > 0.0
    }
}
