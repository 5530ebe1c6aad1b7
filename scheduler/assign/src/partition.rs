//! Set partitioning: jobs are shared out among devices, each of which takes one of the sets listed
//! for it.

/// The rounds in which multipliers are improved at the root, and at each node below it that has
/// more than `FEW` sets.
const ROUNDS: (usize, usize) = (30, 8);
const FEW: usize = 100;
/// The number of sets looked at before a search ends.
const WORK: usize = 500_000;
/// The number of rounds after which sets that have become too dear are dropped.
const DROP: usize = 4;
/// The number of rounds without a better bound after which steps become shorter, and the factor by
/// which they do.
const PATIENCE: usize = 3;
const SHORTER: f64 = 0.7;

/// A set of jobs that one device could take, as bits, and its loss against the best set for the
/// device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Set {
    pub(super) jobs: u128,
    pub(super) loss: f64,
}

/// A device, and the range of its sets.
#[derive(Clone, Copy, Debug)]
struct Part {
    device: usize,
    first: usize,
    end: usize,
}

/// A problem of up to 128 jobs, and the sets of them that each device may take: set partitioning,
/// with a set for each device.
///
/// It is solved by depth-first search.
/// At each node a multiplier for each job makes a bound of the cheapest set for each device
/// (Fisher, Jaikumar and Van Wassenhove, Management Science 32, 1986).
/// Sets that cannot be part of a better solution are dropped.
/// The method is branch and price (Savelsbergh, "A branch-and-price algorithm for the generalized
/// assignment problem", Operations Research 45, 1997) with all columns at hand from the beginning,
/// and subgradients in place of linear programs.
#[derive(Clone, Debug, Default)]
pub(super) struct Partition {
    /// The sets of each node of the search, which lie behind the sets of the node above.
    /// The devices that are still to take a set are kept in the same way.
    sets: Vec<Set>,
    parts: Vec<Part>,
    prices: Prices,
    /// The loss that a solution has to stay below.
    limit: f64,
    work: usize,
    /// The jobs that each device takes on the way to the node, and the jobs that it takes in the
    /// best solution.
    taken: Vec<u128>,
    best: Option<Vec<u128>>,
}

impl Partition {
    /// The largest number of jobs.
    pub(super) const JOBS: usize = 128;

    /// Forgets devices and sets, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.sets.clear();
        self.parts.clear();
        self.taken.clear();
    }

    /// Adds a device and the sets that it may take; the sets that lose less come first.
    pub(super) fn device(&mut self, sets: impl Iterator<Item = Set>) {
        let (device, first) = (self.parts.len(), self.sets.len());
        self.sets.extend(sets);
        self.parts.push(Part { device, first, end: self.sets.len() });
        self.taken.push(0);
    }

    /// Searches for the sets that make up all these jobs, lose less than `limit`, and lose least.
    /// `next` returns the loss that the next solution has to stay below, from the loss of a found
    /// one.
    /// The result is a set for each device, and whether the search was cut short.
    pub(super) fn solve(&mut self, jobs: u128, limit: f64, next: &impl Fn(f64) -> f64) -> (Option<Vec<u128>>, bool) {
        (self.limit, self.work, self.best) = (limit, WORK, None);
        if self.parts.iter().any(|part| part.first == part.end) {
            return (None, false);
        }
        if let Some(bound) = self.price(0, jobs, limit, ROUNDS.0) {
            self.search(0, jobs, bound, next);
        }
        (self.best.take(), self.work == 0)
    }

    /// Gives the jobs that are left to the devices from part `start` on.
    fn search(&mut self, start: usize, left: u128, mut lost: f64, next: &impl Fn(f64) -> f64) {
        if start == self.parts.len() {
            if left == 0 && lost < self.limit {
                self.best = Some(self.taken.clone());
                self.limit = self.limit.min(next(lost));
            }
            return;
        }
        if start > 0 && self.parts[start..].iter().map(|part| part.end - part.first).sum::<usize>() > FEW {
            match self.price(start, left, self.limit - lost, ROUNDS.1) {
                Some(bound) => lost += bound,
                None => return,
            }
        }
        let mut pick = self.parts[start];
        let mut others = lost;
        for part in &self.parts[start..] {
            others += self.sets[part.first].loss;
            if part.end - part.first < pick.end - pick.first {
                pick = *part;
            }
        }
        others -= self.sets[pick.first].loss;
        for index in pick.first..pick.end {
            let set = self.sets[index];
            if others + set.loss >= self.limit || self.work == 0 {
                return;
            }
            let (sets, parts) = (self.sets.len(), self.parts.len());
            self.taken[pick.device] = set.jobs;
            if self.take(start..parts, pick.device, left & !set.jobs, self.limit - others - set.loss) {
                self.search(parts, left & !set.jobs, lost + set.loss, next);
            }
            self.sets.truncate(sets);
            self.parts.truncate(parts);
        }
    }

    /// Makes the parts below a node where the device `taken` has its set.
    /// Of the other devices' sets it keeps those that have only jobs that are left and lose less
    /// than `spare` more than the least.
    /// It returns false where a device has no set or a job is in none.
    fn take(&mut self, parts: std::ops::Range<usize>, taken: usize, left: u128, spare: f64) -> bool {
        let mut reached = 0;
        for at in parts {
            let part = self.parts[at];
            if part.device == taken {
                continue;
            }
            let (first, most) = (self.sets.len(), self.sets[part.first].loss + spare);
            let mut index = part.first;
            while index < part.end && self.sets[index].loss < most {
                let set = self.sets[index];
                if set.jobs & !left == 0 {
                    reached |= set.jobs;
                    self.sets.push(set);
                }
                index += 1;
            }
            self.work = self.work.saturating_sub(index - part.first + 1);
            if self.sets.len() == first {
                return false;
            }
            self.parts.push(Part { device: part.device, first, end: self.sets.len() });
        }
        reached == left
    }

    /// Finds multipliers of the jobs by subgradient steps, and takes them out of the losses.
    /// The result is a bound of the least loss of the sets of the parts from `start` on, above
    /// which losses then count from zero.
    /// Sets that no choice below `limit` can contain are dropped.
    /// The result is `None` where there is no such choice.
    fn price(&mut self, start: usize, left: u128, limit: f64, rounds: usize) -> Option<f64> {
        let mut now = [0.0; Self::JOBS];
        let mut best = (f64::NEG_INFINITY, now);
        let (mut length, mut stale, mut dropped) = (1.0, 0, f64::NEG_INFINITY);
        for round in 0..=rounds {
            let (bound, unmet) = self.bound(start, left, &now);
            if bound > best.0 {
                (best, stale) = ((bound, now), 0);
                if bound >= limit {
                    return None;
                }
            } else {
                stale += 1;
                if stale == PATIENCE {
                    (stale, length, now) = (0, length * SHORTER, best.1);
                    continue;
                }
            }
            let square: i32 = unmet.iter().map(|unmet| unmet * unmet).sum();
            if square == 0 || round == rounds {
                break;
            }
            if round % DROP == DROP - 1 && best.0 > dropped {
                self.drop(start, left, limit - best.0, &best.1, false);
                dropped = best.0;
            }
            let step = length * (limit - bound) / f64::from(square);
            now.iter_mut().zip(&unmet).for_each(|(now, unmet)| *now += step * f64::from(*unmet));
        }
        self.drop(start, left, limit - best.0, &best.1, true).then_some(best.0)
    }

    /// Returns the bound at these multipliers, and how often each job is missing in the sets that
    /// attain the bound.
    fn bound(&mut self, start: usize, left: u128, multipliers: &[f64; Self::JOBS]) -> (f64, [i32; Self::JOBS]) {
        self.prices.set(multipliers, left);
        let mut bound = 0.0;
        let mut unmet = [0; Self::JOBS];
        ones(left).for_each(|job| {
            bound += multipliers[job];
            unmet[job] = 1;
        });
        for part in &self.parts[start..] {
            let mut least = (f64::INFINITY, 0);
            for set in &self.sets[part.first..part.end] {
                let loss = set.loss - self.prices.of(set.jobs);
                if loss < least.0 {
                    least = (loss, set.jobs);
                }
            }
            self.work = self.work.saturating_sub(part.end - part.first);
            bound += least.0;
            ones(least.1).for_each(|job| unmet[job] -= 1);
        }
        (bound, unmet)
    }

    /// Drops the sets that lose at least `spare` more than their device's least, at these
    /// multipliers.
    /// At the end, losses become the losses above the least, and sets are sorted by them.
    /// It returns false where a device has no set left.
    fn drop(&mut self, start: usize, left: u128, spare: f64, multipliers: &[f64; Self::JOBS], end: bool) -> bool {
        self.prices.set(multipliers, left);
        let Some(mut kept) = self.parts.get(start).map(|part| part.first) else { return true };
        for part in &mut self.parts[start..] {
            let sets = &self.sets[part.first..part.end];
            let least = sets.iter().map(|set| set.loss - self.prices.of(set.jobs)).fold(f64::INFINITY, f64::min);
            let first = kept;
            for index in part.first..part.end {
                let set = self.sets[index];
                let loss = set.loss - self.prices.of(set.jobs) - least;
                if loss < spare {
                    self.sets[kept] = if end { Set { loss, ..set } } else { set };
                    kept += 1;
                }
            }
            (part.first, part.end) = (first, kept);
            if end {
                self.sets[first..kept].sort_unstable_by(|a, b| a.loss.total_cmp(&b.loss).then(a.jobs.cmp(&b.jobs)));
            }
        }
        self.sets.truncate(kept);
        self.parts[start..].iter().all(|part| part.first < part.end)
    }
}

/// The sum of the multipliers of any set of jobs, looked up in a table for each byte of the set.
#[derive(Clone, Debug)]
struct Prices {
    tables: Box<[[f64; 256]; Partition::JOBS / 8]>,
    /// The number of bytes in use.
    bytes: usize,
}

impl Default for Prices {
    fn default() -> Self {
        Self { tables: Box::new([[0.0; 256]; Partition::JOBS / 8]), bytes: 0 }
    }
}

impl Prices {
    /// Computes the tables for sets of the jobs in `left`, the only sets that are looked up
    /// afterwards.
    fn set(&mut self, multipliers: &[f64; Partition::JOBS], left: u128) {
        self.bytes = (u128::BITS - left.leading_zeros()).div_ceil(8) as usize;
        for ((table, jobs), left) in self.tables.iter_mut().zip(multipliers.chunks(8)).zip(left.to_le_bytes()) {
            // These are the subsets of the jobs that are left, in rising order.
            let mut set = 0_u8;
            loop {
                set = set.wrapping_sub(left) & left;
                if set == 0 {
                    break;
                }
                table[usize::from(set)] = table[usize::from(set & (set - 1))] + jobs[set.trailing_zeros() as usize];
            }
        }
    }

    fn of(&self, jobs: u128) -> f64 {
        let bytes = jobs.to_le_bytes();
        self.tables[..self.bytes].iter().zip(bytes).map(|(table, byte)| table[usize::from(byte)]).sum()
    }
}

/// Returns the jobs of a set.
pub(super) fn ones(mut jobs: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let job = (jobs != 0).then(|| jobs.trailing_zeros() as usize)?;
        jobs &= jobs - 1;
        Some(job)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Returns the loss of the best choice, found by trying all choices.
    fn least(devices: &[Vec<Set>], left: u128) -> f64 {
        match devices.split_first() {
            Some((sets, rest)) => sets
                .iter()
                .filter(|set| set.jobs & !left == 0)
                .map(|set| set.loss + least(rest, left & !set.jobs))
                .fold(f64::INFINITY, f64::min),
            None if left == 0 => 0.0,
            None => f64::INFINITY,
        }
    }

    #[test]
    fn partitions_are_as_good_as_trying_all() {
        let mut random = Random::new(3);
        let mut partition = Partition::default();
        let mut found = 0;
        for round in 0..300 {
            // The jobs are of both halves and of several bytes; in every other round there is
            // certainly a choice.
            let jobs: Vec<usize> = (0..2 + random.below(8)).map(|job| 15 * job).collect();
            let all = jobs.iter().fold(0, |all, job| all | 1 << job);
            let mut devices: Vec<Vec<Set>> = (0..1 + random.below(4))
                .map(|_| {
                    let any = |random: &mut Random| {
                        jobs.iter().filter(|_| random.below(3) == 0).fold(0, |set, job| set | 1 << job)
                    };
                    (0..1 + random.below(40))
                        .map(|_| Set { jobs: any(&mut random), loss: random.unit() * 9.0 })
                        .collect()
                })
                .collect();
            if round % 2 == 0 {
                let mut shares = vec![0_u128; devices.len()];
                jobs.iter().for_each(|job| shares[random.below(devices.len())] |= 1 << job);
                devices.iter_mut().zip(shares).for_each(|(sets, jobs)| sets.push(Set { jobs, loss: 8.0 }));
            }
            partition.clear();
            for sets in &mut devices {
                sets.sort_by(|a, b| a.loss.total_cmp(&b.loss));
                partition.device(sets.iter().copied());
            }
            let (chosen, cut) = partition.solve(all, 1e3, &|lost| lost - 1e-9);
            let best = least(&devices, all);
            assert!(!cut && chosen.is_some() == best.is_finite());
            if let Some(chosen) = chosen {
                found += 1;
                assert_eq!(chosen.iter().fold((0, 0), |(any, twice), set| (any | set, twice | any & set)), (all, 0));
                let lost = chosen.iter().zip(&devices).map(|(&jobs, sets)| {
                    sets.iter().filter(|set| set.jobs == jobs).map(|set| set.loss).fold(f64::INFINITY, f64::min)
                });
                assert!((lost.sum::<f64>() - best).abs() < 1e-6);
            }
        }
        assert!(found >= 150);
    }
}
