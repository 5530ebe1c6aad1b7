//! Assignment problems in the numbers that the algorithms compute with.

use super::core_problem::Core;

/// A table of jobs, devices, and `K` limited resources of each device.
/// Resources are whole numbers below 2^53, so that their sums are exact, or seconds.
#[derive(Clone, Debug)]
pub(super) struct Table<const K: usize> {
    pub(super) jobs: usize,
    pub(super) devices: usize,
    /// The cost of each job on each device, in a row for each job; infinite where the device does
    /// not claim the job, or is too small for it.
    pub(super) costs: Vec<f64>,
    /// The resources of each job on each device, in a row for each job.
    pub(super) weights: Vec<[f64; K]>,
    pub(super) capacities: Vec<[f64; K]>,
    pub(super) grain: Grain,
}

impl<const K: usize> Table<K> {
    pub(super) fn cost(&self, job: usize, device: usize) -> f64 {
        self.costs[job * self.devices + device]
    }

    pub(super) fn weights(&self, job: usize, device: usize) -> &[f64; K] {
        &self.weights[job * self.devices + device]
    }

    pub(super) fn total(&self, of: &[usize]) -> f64 {
        of.iter().enumerate().map(|(job, &device)| self.cost(job, device)).sum()
    }

    /// Returns a cost that no assignment exceeds.
    pub(super) fn most(&self) -> f64 {
        let finite = |row: &[f64]| row.iter().copied().filter(|cost| cost.is_finite()).fold(0.0, f64::max);
        self.costs.chunks(self.devices).map(finite).sum()
    }

    /// Returns the resources that the jobs of each device take.
    pub(super) fn loads(&self, of: &[usize]) -> Vec<[f64; K]> {
        let mut loads = vec![[0.0; K]; self.devices];
        for (job, &device) in of.iter().enumerate() {
            loads[device].iter_mut().zip(self.weights(job, device)).for_each(|(load, weight)| *load += weight);
        }
        loads
    }

    /// Returns a core with all jobs and all of their choices.
    pub(super) fn core(&self) -> Core<K> {
        let mut core = Core::new(self.capacities.clone());
        for job in 0..self.jobs {
            for device in (0..self.devices).filter(|&device| self.cost(job, device).is_finite()) {
                core.choice(device, self.cost(job, device), *self.weights(job, device));
            }
            core.end_job();
        }
        core
    }
}

/// The least difference between two different values of the objective, and the error that rounding
/// may have made in a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grain {
    /// Whether all values are whole numbers.
    whole: bool,
    /// The largest error of sums of floating-point numbers.
    slack: f64,
}

impl Grain {
    /// The error as a share of the largest sum: more than rounding makes in a million terms, and
    /// less than a user would notice.
    const SLACK: f64 = 1e-10;

    /// Creates the grain of values that are sums of the given costs, of which no sum is above
    /// `most`.
    pub(super) fn new(mut costs: impl Iterator<Item = f64>, most: f64) -> Self {
        let slack = most * Self::SLACK;
        Self { whole: slack < 0.25 && costs.all(|cost| cost == cost.trunc()), slack }
    }

    /// Returns a bound that holds in spite of rounding, and is a whole number where values are.
    pub(super) fn lift(self, bound: f64) -> f64 {
        if self.whole { (bound - self.slack).ceil() } else { bound - self.slack }
    }

    /// Returns a limit that no value better than the given one exceeds.
    pub(super) fn better_than(self, value: f64) -> f64 {
        if self.whole { value - 1.0 + self.slack } else { value - self.slack }
    }

    /// Tells whether a value is as good as any that this bound, which is not lifted, allows.
    pub(super) fn proves(self, bound: f64, value: f64) -> bool {
        self.lift(bound) >= value - 2.0 * self.slack
    }
}
