//! Assignment problems: the jobs to assign, and the limits to keep.

use crate::error::{Error, check_cost};

use super::table::{Grain, Table};

/// The aim of an assignment: what is minimised, and which resources limit it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aim {
    /// The least sum of all costs, where the resources of all jobs together stay within one budget:
    /// the multiple-choice knapsack problem (MCKP).
    TotalWithin(u64),
    /// The least sum of all costs, where the resources of the jobs of each device stay within its
    /// budget: the generalised assignment problem (GAP).
    TotalWithinEach(Vec<u64>),
    /// The least makespan, which is the greatest sum of costs of any device: scheduling on
    /// unrelated machines, R||Cmax.
    Makespan,
    /// The least makespan, where the resources of the jobs of each device also stay within its
    /// budget.
    MakespanWithinEach(Vec<u64>),
}

/// A problem of jobs, each of which goes to one device, with the cost and the resources that it
/// takes there, and an aim with its limits.
///
/// Costs are seconds, or any other quantity that adds up; where all are whole numbers, bounds are
/// rounded up to the next whole number.
/// Resources are whole numbers: bytes, or the smallest unit that matters of another resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    jobs: usize,
    devices: usize,
    /// The cost of each job on each device, in a row for each job; infinite where the device does
    /// not claim the job.
    costs: Vec<f64>,
    /// The resources of each job on each device, in a row for each job.
    resources: Vec<u64>,
    aim: Aim,
}

impl Assignment {
    /// The largest number of entries of the table of costs: 16 million.
    pub const LIMIT: usize = 1 << 24;
    /// The largest sum of all resources: up to this number [`f64`] counts exactly, and in bytes it
    /// is eight petabytes.
    pub const RESOURCES: u64 = 1 << 53;

    /// Creates a problem from its tables.
    /// They have for each job its cost on each device, `None` where the device does not claim it,
    /// and the resources that it takes there.
    /// Where nothing limits resources, there may be no rows of them.
    ///
    /// # Errors
    /// [`Error::NoDevice`] and [`Error::NoJob`] where there is no device or no job;
    /// [`Error::CostRow`], [`Error::ResourceRows`] and [`Error::Budgets`] where there are too few
    /// or too many of them; [`Error::Number`] where a cost is negative or not finite;
    /// [`Error::Unclaimed`] where no device claims a job; [`Error::TooMany`] above
    /// [`Assignment::LIMIT`]; [`Error::Overflow`] where costs or resources add up to more than can
    /// be counted.
    pub fn new(costs: &[Vec<Option<f64>>], resources: &[Vec<u64>], aim: Aim) -> Result<Self, Error> {
        let jobs = costs.len();
        let devices = costs.first().ok_or(Error::NoJob)?.len();
        if devices == 0 {
            return Err(Error::NoDevice);
        }
        let entries = jobs.saturating_mul(devices);
        if entries > Self::LIMIT {
            return Err(Error::TooMany { what: "costs", count: entries, limit: Self::LIMIT });
        }
        let row = |what: String, found: usize| match found == devices {
            true => Ok(()),
            false => Err(Error::CostRow { job: what, found, devices }),
        };
        let mut table = Vec::with_capacity(entries);
        let mut most = 0.0;
        for (job, costs) in costs.iter().enumerate() {
            row(name(job), costs.len())?;
            for (device, cost) in costs.iter().enumerate() {
                if let Some(cost) = *cost {
                    check_cost(cost, || format!("the cost of {} on device {device}", name(job)))?;
                }
            }
            most += costs.iter().flatten().copied().fold(0.0, f64::max);
            if costs.iter().all(Option::is_none) {
                return Err(Error::Unclaimed(name(job)));
            }
            table.extend(costs.iter().map(|cost| cost.unwrap_or(f64::INFINITY)));
        }
        // The sum is doubled, because bounds are made of differences.
        if !(2.0 * most).is_finite() {
            return Err(Error::Overflow("the costs of all jobs"));
        }
        check_budgets(&aim, devices)?;
        let mut held = Vec::with_capacity(entries);
        let mut sum = Some(0_u64);
        if !resources.is_empty() && resources.len() != jobs {
            return Err(Error::ResourceRows { found: resources.len(), jobs });
        }
        for (job, resources) in resources.iter().enumerate() {
            row(name(job), resources.len())?;
            let most = resources.iter().copied().max().unwrap_or(0);
            sum = sum.and_then(|sum| sum.checked_add(most)).filter(|sum| *sum <= Self::RESOURCES);
            held.extend_from_slice(resources);
        }
        sum.ok_or(Error::Overflow("the resources of all jobs"))?;
        held.resize(entries, 0);
        Ok(Self { jobs, devices, costs: table, resources: held, aim })
    }

    /// Creates a problem whose costs are quotients: the work of each job by the speed of each
    /// device, which claims all jobs.
    /// A job takes the same resources on every device.
    ///
    /// # Errors
    /// [`Error::Number`] where work is negative, a speed is not positive, or either is not finite;
    /// and the errors of [`Assignment::new`].
    pub fn of_work(work: &[f64], speeds: &[f64], resources: &[u64], aim: Aim) -> Result<Self, Error> {
        for (device, &value) in speeds.iter().enumerate() {
            if !(value.is_finite() && value > 0.0) {
                let what = format!("the speed of device {device}");
                return Err(Error::Number { what, value, wanted: "a speed that is finite and positive" });
            }
        }
        for (job, &value) in work.iter().enumerate() {
            check_cost(value, || format!("the work of {}", name(job)))?;
        }
        let entries = work.len().saturating_mul(speeds.len());
        if entries > Self::LIMIT {
            return Err(Error::TooMany { what: "costs", count: entries, limit: Self::LIMIT });
        }
        let costs: Vec<Vec<Option<f64>>> =
            work.iter().map(|work| speeds.iter().map(|speed| Some(work / speed)).collect()).collect();
        let resources: Vec<Vec<u64>> = resources.iter().map(|&held| vec![held; speeds.len()]).collect();
        Self::new(&costs, &resources, aim)
    }

    /// Returns the same jobs with another aim.
    ///
    /// # Errors
    /// [`Error::Budgets`] where the aim has budgets for another number of devices.
    pub fn with_aim(self, aim: Aim) -> Result<Self, Error> {
        check_budgets(&aim, self.devices)?;
        Ok(Self { aim, ..self })
    }

    /// Returns the number of jobs, which are numbered from 0.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// Returns the number of devices, which are numbered from 0.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.devices
    }

    /// Returns the aim: what is minimised, and within which limits.
    #[must_use]
    pub fn aim(&self) -> &Aim {
        &self.aim
    }

    /// Returns the cost of a job on a device; `None` where the device does not claim the job, or
    /// either is not of this problem.
    #[must_use]
    pub fn cost(&self, job: usize, device: usize) -> Option<f64> {
        let entry = self.entry(job, device)?;
        Some(self.costs[entry]).filter(|cost| cost.is_finite())
    }

    /// Returns the resources that a job takes on a device; `None` where either is not of this
    /// problem.
    #[must_use]
    pub fn resource(&self, job: usize, device: usize) -> Option<u64> {
        self.entry(job, device).map(|entry| self.resources[entry])
    }

    fn entry(&self, job: usize, device: usize) -> Option<usize> {
        (job < self.jobs && device < self.devices).then_some(job * self.devices + device)
    }

    /// Returns costs and resources in the form that the algorithms use: within these budgets, with
    /// each job closed to the devices that are too small for it.
    pub(super) fn table(&self, budgets: &[f64]) -> Result<Table<1>, Error> {
        let mut costs = self.costs.clone();
        for (entry, cost) in costs.iter_mut().enumerate() {
            if self.resources[entry] as f64 > budgets[entry % self.devices] {
                *cost = f64::INFINITY;
            }
        }
        if let Some(job) = costs.chunks(self.devices).position(|row| row.iter().all(|cost| cost.is_infinite())) {
            return Err(Error::Infeasible(format!(
                "{} holds more than the budget of any device that claims it",
                name(job)
            )));
        }
        let finite = || costs.iter().copied().filter(|cost| cost.is_finite());
        let rows = costs.chunks(self.devices);
        let most = rows.map(|row| row.iter().copied().filter(|cost| cost.is_finite()).fold(0.0, f64::max)).sum();
        Ok(Table {
            jobs: self.jobs,
            devices: self.devices,
            grain: Grain::new(finite(), most),
            weights: self.resources.iter().map(|&held| [held as f64]).collect(),
            capacities: budgets.iter().map(|&budget| [budget]).collect(),
            costs,
        })
    }
}

/// Checks that the aim has a budget for each device.
fn check_budgets(aim: &Aim, devices: usize) -> Result<(), Error> {
    match aim {
        Aim::TotalWithinEach(budgets) | Aim::MakespanWithinEach(budgets) if budgets.len() != devices => {
            Err(Error::Budgets { found: budgets.len(), devices })
        }
        _ => Ok(()),
    }
}

/// Returns the name of a job in messages.
pub(super) fn name(job: usize) -> String {
    format!("job {job}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn new(costs: &[&[f64]], resources: &[&[u64]], aim: Aim) -> Result<Assignment, Error> {
        let costs: Vec<Vec<Option<f64>>> =
            costs.iter().map(|row| row.iter().map(|&cost| Some(cost).filter(|cost| *cost != -1.0)).collect()).collect();
        let resources: Vec<Vec<u64>> = resources.iter().map(|row| row.to_vec()).collect();
        Assignment::new(&costs, &resources, aim)
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |costs: &[&[f64]], resources: &[&[u64]], aim| new(costs, resources, aim).unwrap_err();
        assert_eq!(refused(&[], &[], Aim::Makespan), Error::NoJob);
        assert_eq!(refused(&[&[]], &[], Aim::Makespan), Error::NoDevice);
        assert_eq!(refused(&[&[1.0], &[-1.0]], &[], Aim::Makespan), Error::Unclaimed("job 1".into()));
        assert_eq!(refused(&[&[1.0]], &[], Aim::TotalWithinEach(vec![])), Error::Budgets { found: 0, devices: 1 });
        assert_eq!(refused(&[&[1.0]], &[&[1], &[2]], Aim::Makespan), Error::ResourceRows { found: 2, jobs: 1 });
        for cost in [f64::NAN, f64::INFINITY, -2.0] {
            assert!(matches!(refused(&[&[cost]], &[], Aim::Makespan), Error::Number { .. }));
        }
        assert!(matches!(refused(&[&[1e308], &[1e308]], &[], Aim::Makespan), Error::Overflow(_)));
        assert!(matches!(refused(&[&[1.0], &[1.0]], &[&[u64::MAX], &[1]], Aim::Makespan), Error::Overflow(_)));
        let speeds = Assignment::of_work(&[1.0], &[f64::MIN_POSITIVE * 1e-9], &[], Aim::Makespan);
        assert!(matches!(speeds, Err(Error::Number { .. })), "{speeds:?}");
    }

    #[test]
    fn budgets_that_are_too_small_are_an_error() {
        for aim in [Aim::TotalWithin(2), Aim::TotalWithinEach(vec![2, 1]), Aim::MakespanWithinEach(vec![1, 1])] {
            let problem = new(&[&[1.0, 2.0], &[2.0, 1.0]], &[&[2, 2], &[1, 2]], aim).unwrap();
            assert!(matches!(problem.solve(1, Duration::from_secs(5)), Err(Error::Infeasible(_))));
        }
    }

    #[test]
    fn no_time_is_an_error_or_an_answer_with_a_gap() {
        let costs: Vec<Vec<f64>> =
            (0..40).map(|job| (0..4).map(|at| f64::from((job * 7 + at * 5) % 11 + 1)).collect()).collect();
        let rows: Vec<&[f64]> = costs.iter().map(Vec::as_slice).collect();
        for aim in [Aim::TotalWithin(100), Aim::TotalWithinEach(vec![11; 4]), Aim::Makespan] {
            let held = vec![[1_u64; 4]; 40];
            let held: Vec<&[u64]> = held.iter().map(<[u64; 4]>::as_slice).collect();
            let problem = new(&rows, &held, aim).unwrap();
            match problem.solve(1, Duration::ZERO) {
                Ok(result) => assert_eq!(problem.check(&result), Ok(())),
                Err(error) => assert_eq!(error, Error::Unfinished),
            }
        }
    }
}
