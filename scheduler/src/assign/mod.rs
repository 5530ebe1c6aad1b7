//! Jobs to devices, so that load is balanced within budgets of memory, energy or money.

mod budget;
mod core;
mod exchange;
mod gap;
mod knapsack;
mod makespan;
mod outcome;
mod partition;
mod patterns;
mod pool;
mod problem;
mod record;
mod start;
mod table;
mod text;
mod tree;
mod walk;

use std::time::{Duration, Instant};

pub use outcome::{Assigned, Ended};
pub use problem::{Aim, Assignment};

use crate::{DeviceIndex, Error};

impl Assignment {
    /// Looks for the best assignment, for so long at most. Ends before where it is proven that there is no better one: always, with one
    /// budget for all (but for problems made to be hard), and otherwise where there are few jobs, or bounds are close. The same seed gives the same result, as far as
    /// it depends on how much is done in that time.
    ///
    /// # Errors
    /// [`Error::Infeasible`] where no assignment keeps the budgets, [`Error::Unfinished`] where the time was over before one was found.
    pub fn solve(&self, seed: u64, time: Duration) -> Result<Assigned, Error> {
        let began = Instant::now();
        self.solve_until(seed, &mut || began.elapsed() >= time)
    }

    /// The same, until `stop` says so. It is asked often, every few milliseconds on a fast processor, and always at the same
    /// points for the same problem and seed; so one that counts makes a search that ends the same everywhere. Once true, it is to stay so.
    ///
    /// # Errors
    /// As [`Assignment::solve`].
    pub fn solve_until(&self, seed: u64, stop: &mut dyn FnMut() -> bool) -> Result<Assigned, Error> {
        let clamp = |budget: u64| budget.min(Self::RESOURCES) as f64;
        let budgets: Vec<f64> = match self.aim() {
            Aim::TotalWithin(budget) => vec![clamp(*budget); self.devices()],
            Aim::TotalWithinEach(budgets) | Aim::MakespanWithinEach(budgets) => {
                budgets.iter().copied().map(clamp).collect()
            }
            Aim::Makespan => vec![clamp(u64::MAX); self.devices()],
        };
        let table = self.table(&budgets)?;
        let answer = match self.aim() {
            Aim::TotalWithin(budget) => budget::solve(&table, clamp(*budget), stop),
            Aim::TotalWithinEach(_) => gap::solve(&table, seed, stop),
            Aim::Makespan | Aim::MakespanWithinEach(_) => makespan::solve(&table, seed, stop),
        };
        let Some(of) = answer.best.of else {
            let reason = "the jobs do not fit into the budgets in any way".to_owned();
            return Err(if answer.bound == f64::INFINITY { Error::Infeasible(reason) } else { Error::Unfinished });
        };
        let ended = if table.grain.proves(answer.bound, answer.best.cost) { Ended::Proved } else { Ended::Stopped };
        let devices = of.into_iter().map(DeviceIndex).collect();
        let lifted = table.grain.lift(answer.bound).max(0.0);
        // A bound is as good as the objective where the difference is rounding.
        let bound = if ended == Ended::Proved { answer.best.cost } else { lifted.min(answer.best.cost) };
        let result = Assigned { devices, objective: answer.best.cost, bound, ended };
        self.check(&result)?;
        Ok(result)
    }
}
