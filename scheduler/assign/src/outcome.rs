//! The results of assignment problems.

use crate::Error;

use super::problem::{Aim, Assignment, name};

/// The result of a search: jobs on devices, the objective and a bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    /// The device of each job.
    pub devices: Vec<usize>,
    /// The objective that was minimised: the sum of costs, or the makespan.
    pub objective: f64,
    /// The bound that no assignment falls below.
    pub bound: f64,
    /// The reason why the search ended.
    pub ended: Ended,
}

/// The reason why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No better assignment exists: bound and objective are the same, or differ by less than a part
    /// in a thousand million of the costs.
    Proved,
    /// The search was told to stop, or its memory would not have sufficed to go on.
    Stopped,
}

impl Assigned {
    /// Returns how far the objective may be above the least possible, as a share of the objective:
    /// 0 where it is proven to be the least.
    #[must_use]
    pub fn gap(&self) -> f64 {
        if self.objective > self.bound { (self.objective - self.bound) / self.objective } else { 0.0 }
    }
}

impl Assignment {
    /// Returns the load of each device: the cost and the resources of its jobs.
    ///
    /// # Errors
    /// [`Error::Wrong`] unless there is one device for each job, and each device claims its
    /// jobs.
    pub fn loads(&self, devices: &[usize]) -> Result<Vec<(f64, u64)>, Error> {
        let wrong = |at: String, reason: String| Error::Wrong { at, reason };
        if devices.len() != self.jobs() {
            return Err(wrong("the assignment".into(), format!("{} devices for {} jobs", devices.len(), self.jobs())));
        }
        let mut loads = vec![(0.0, 0_u64); self.devices()];
        for (job, &device) in devices.iter().enumerate() {
            let (Some(cost), Some(held)) = (self.cost(job, device), self.resource(job, device)) else {
                return Err(wrong(name(job), format!("device {} does not claim it", device)));
            };
            loads[device].0 += cost;
            loads[device].1 += held;
        }
        Ok(loads)
    }

    /// Checks a result: all jobs are on devices that claim them, every limit is kept, the objective
    /// is the one that the jobs have, and the bound is not above it.
    ///
    /// # Errors
    /// [`Error::Wrong`] with the fault and its place.
    pub fn check(&self, result: &Assigned) -> Result<(), Error> {
        let wrong = |at: &str, reason: String| Err(Error::Wrong { at: at.to_owned(), reason });
        let loads = self.loads(&result.devices)?;
        let held: u64 = loads.iter().map(|load| load.1).sum();
        match self.aim() {
            Aim::TotalWithin(budget) if held > *budget => {
                return wrong("the assignment", format!("it holds {held} of a budget of {budget}"));
            }
            Aim::TotalWithinEach(budgets) | Aim::MakespanWithinEach(budgets) => {
                for (device, ((_, held), budget)) in loads.iter().zip(budgets).enumerate() {
                    if held > budget {
                        return wrong(&format!("device {device}"), format!("it holds {held} of a budget of {budget}"));
                    }
                }
            }
            _ => {}
        }
        let objective = match self.aim() {
            Aim::TotalWithin(_) | Aim::TotalWithinEach(_) => loads.iter().map(|load| load.0).sum(),
            Aim::Makespan | Aim::MakespanWithinEach(_) => loads.iter().map(|load| load.0).fold(0.0, f64::max),
        };
        let rounding = 1e-9 * f64::max(objective, 0.0);
        if (objective - result.objective).abs() > rounding {
            return wrong("the objective", format!("it is {objective}, and {} is said", result.objective));
        }
        if result.bound.is_nan() || result.bound > result.objective + rounding {
            return wrong("the bound", format!("{} is above the objective, {}", result.bound, result.objective));
        }
        Ok(())
    }
}
