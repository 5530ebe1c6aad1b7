//! The sets of jobs that suit each device.

use super::patterns::Item;
use super::table::Table;

/// The largest number of sets kept for each device, which are the sets that lose least.
const SETS: usize = 5000;
/// The steps in the search for a device's sets, and the steps between two calls of `stop`.
const STEPS: usize = 500_000;
const POLL: usize = 1024;

/// The sets of jobs, for each device, that it has room for and that lose least against its best
/// knapsack, at one multiplier for each job.
///
/// The cost of an assignment above the bound of the multipliers is the sum of the losses of its
/// devices.
/// So in a good assignment every device has a set that loses little, and where devices hold few
/// jobs, there are not many such sets.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// The number of words, each of 64 jobs, that make up a set.
    words: usize,
    devices: Vec<Sets>,
}

/// The sets of a device by rising loss: the words with the jobs of each set, and its loss.
#[derive(Clone, Debug, Default)]
struct Sets {
    jobs: Vec<u64>,
    losses: Vec<f64>,
}

impl Pool {
    /// Lists the sets that lose less than `most`, at the multipliers at which each device's best
    /// knapsack has the given value; returns `None` where the search was told to stop.
    pub(super) fn new(
        table: &Table<1>,
        multipliers: &[f64],
        values: &[f64],
        most: f64,
        stop: &mut dyn FnMut() -> bool,
    ) -> Option<Self> {
        let words = table.jobs.div_ceil(64);
        let mut devices = Vec::with_capacity(table.devices);
        for (device, &value) in values.iter().enumerate() {
            let mut items: Vec<Item> = (0..table.jobs)
                .filter(|&job| table.cost(job, device).is_finite())
                .map(|job| Item {
                    job,
                    profit: multipliers[job] - table.cost(job, device),
                    weight: table.weights(job, device)[0],
                })
                .collect();
            Item::sort(&mut items);
            let mut listing =
                Listing { value, most, taken: vec![0; words], found: Vec::new(), jobs: Vec::new(), steps: STEPS, stop };
            if !listing.list(&items, 0.0, table.capacities[device][0]) && listing.steps > 0 {
                return None;
            }
            devices.push(listing.sets());
        }
        Some(Self { words, devices })
    }

    /// Returns the jobs and losses of a device's sets that lose less than `most` and have none of
    /// the jobs in `barred`, by rising loss.
    pub(super) fn within(&self, device: usize, barred: &[u64], most: f64) -> impl Iterator<Item = (&[u64], f64)> {
        let sets = &self.devices[device];
        let losses = sets.losses.iter().copied().take_while(move |loss| *loss < most);
        let free = move |jobs: &[u64]| jobs.iter().zip(barred).all(|(jobs, barred)| jobs & barred == 0);
        sets.jobs.chunks_exact(self.words).zip(losses).filter(move |(jobs, _)| free(jobs))
    }
}

/// A search for the sets of a device that lose less than `most` against `value`.
struct Listing<'a> {
    value: f64,
    most: f64,
    taken: Vec<u64>,
    /// The loss of each set that was found, with the number of the set, and the jobs by that
    /// number.
    found: Vec<(f64, usize)>,
    jobs: Vec<u64>,
    steps: usize,
    stop: &'a mut dyn FnMut() -> bool,
}

impl Listing<'_> {
    /// Lists the sets that have some of the items beside the taken ones; returns false where the
    /// search was told to stop or has no steps left.
    fn list(&mut self, items: &[Item], profit: f64, room: f64) -> bool {
        for (at, item) in items.iter().enumerate() {
            if self.value - Item::most(&items[at..], profit, room) >= self.most {
                return true;
            }
            if item.profit <= 0.0 && self.value - profit - item.profit >= self.most {
                break;
            }
            if self.steps == 0 || self.steps.is_multiple_of(POLL) && (self.stop)() {
                return false;
            }
            self.steps -= 1;
            if item.weight <= room {
                self.taken[item.job / 64] ^= 1 << (item.job % 64);
                let go_on = self.list(&items[at + 1..], profit + item.profit, room - item.weight);
                self.taken[item.job / 64] ^= 1 << (item.job % 64);
                if !go_on {
                    return false;
                }
            }
        }
        self.keep(self.value - profit);
        true
    }

    /// Keeps the set of taken items.
    /// Where there are too many sets, it keeps only those that lose least, and takes no worse ones
    /// from then on.
    fn keep(&mut self, loss: f64) {
        if loss >= self.most {
            return;
        }
        self.found.push((loss.max(0.0), self.jobs.len() / self.taken.len()));
        self.jobs.extend_from_slice(&self.taken);
        if self.found.len() == 2 * SETS {
            let sets = self.sets();
            self.most = sets.losses.last().copied().unwrap_or(self.most);
            self.found = sets.losses.into_iter().zip(0..).collect();
            self.jobs = sets.jobs;
        }
    }

    /// Returns the best sets that were found, by rising loss.
    fn sets(&mut self) -> Sets {
        self.found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.found.truncate(SETS);
        let words = self.taken.len();
        Sets {
            jobs: self.found.iter().flat_map(|&(_, set)| &self.jobs[set * words..][..words]).copied().collect(),
            losses: self.found.iter().map(|found| found.0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Grain;
    use super::*;
    use crate::random::Random;

    #[test]
    fn all_sets_that_lose_little_are_listed() {
        let mut random = Random::new(5);
        for _ in 0..100 {
            let jobs = 1 + random.below(9);
            let mut numbers = |most: usize| (0..jobs).map(|_| random.below(most) as f64).collect::<Vec<f64>>();
            let (costs, weights, multipliers) = (numbers(20), numbers(30), numbers(30));
            let table = Table {
                jobs,
                devices: 1,
                grain: Grain::new(costs.iter().copied(), 180.0),
                weights: weights.iter().map(|&weight| [weight]).collect(),
                capacities: vec![[60.0]],
                costs,
            };
            let mut sets: Vec<(f64, u64)> = (0..1_u64 << jobs)
                .filter_map(|set| {
                    let sum = |value: &dyn Fn(usize) -> f64| {
                        (0..jobs).filter(|job| set >> job & 1 == 1).map(value).sum::<f64>()
                    };
                    (sum(&|job| weights[job]) <= 60.0).then(|| (sum(&|job| multipliers[job] - table.cost(job, 0)), set))
                })
                .collect();
            let value = sets.iter().map(|set| set.0).fold(0.0, f64::max);
            sets.iter_mut().for_each(|set| set.0 = value - set.0);
            sets.retain(|set| set.0 < 12.5);
            let pool = Pool::new(&table, &multipliers, &[value], 12.5, &mut || false);
            let mut listed: Vec<(f64, u64)> =
                pool.iter().flat_map(|pool| pool.within(0, &[0], 12.5)).map(|(jobs, loss)| (loss, jobs[0])).collect();
            assert!(listed.is_sorted_by(|a, b| a.0 <= b.0));
            [&mut sets, &mut listed].into_iter().for_each(|sets| sets.sort_by_key(|set| set.1));
            assert_eq!(listed, sets);
        }
    }
}
