//! Assignments of jobs to devices, so that load is balanced within budgets of memory, energy or
//! money.
//!
//! Nothing passes between the jobs: where it does, they are tasks, and planning them is the
//! scheduler's work.
//! Jobs and devices are numbered from 0, and this crate knows nothing else of them.
//! An [`Assignment`] is a problem with its [`Aim`]; [`Assigned`] is what was found, with a bound
//! that no assignment falls below.
//!
//! | aim | in the literature | how |
//! |---|---|---|
//! | [`Aim::TotalWithin`] | multiple-choice knapsack | dynamic programming over the few jobs that matter |
//! | [`Aim::TotalWithinEach`] | generalised assignment | a neighbourhood search, and branch and bound |
//! | [`Aim::Makespan`], [`Aim::MakespanWithinEach`] | unrelated machines, R\|\|Cmax | a neighbourhood search under a deadline, and an exact one |
//!
//! ```
//! use std::time::Duration;
//!
//! use hetero_assign::{Aim, Assignment, Ended};
//!
//! // Three jobs, of which the second runs on the first device only; the devices hold 4 and 3.
//! let costs = [vec![Some(2.5), Some(1.0)], vec![Some(3.0), None], vec![Some(1.0), Some(4.0)]];
//! let held = [vec![2, 1], vec![3, 1], vec![1, 2]];
//! let problem = Assignment::new(&costs, &held, Aim::TotalWithinEach(vec![4, 3]))?;
//! let found = problem.solve(1, Duration::from_secs(1))?;
//! assert_eq!(found.devices, [1, 0, 0]);
//! assert_eq!((found.objective, found.ended), (5.0, Ended::Proved));
//! # Ok::<(), hetero_assign::Error>(())
//! ```

#![forbid(unsafe_code)]

mod answer;
mod budget;
mod core_problem;
mod error;
mod exchange;
mod gap;
mod knapsack;
mod makespan;
mod outcome;
mod partition;
mod patterns;
mod pool;
mod problem;
mod random;
mod record;
mod start;
mod table;
mod text;
mod tree;
mod walk;

use std::time::{Duration, Instant};

pub use error::Error;
pub use outcome::{Assigned, Ended};
pub use problem::{Aim, Assignment};

impl Assignment {
    /// Searches for the best assignment, for the given time at most.
    /// The search ends earlier where it proves that there is no better assignment.
    /// With one budget for all devices it always does, except for problems that are made to be
    /// hard.
    /// Otherwise it does where there are few jobs, or bounds are close.
    /// The same seed gives the same result, as far as the result does not depend on how much is
    /// done in the time.
    ///
    /// # Errors
    /// [`Error::Infeasible`] where no assignment keeps the budgets, [`Error::Unfinished`] where the
    /// time was over before an assignment was found.
    pub fn solve(&self, seed: u64, time: Duration) -> Result<Assigned, Error> {
        let began = Instant::now();
        self.solve_until(seed, &mut || began.elapsed() >= time)
    }

    /// Searches as [`Assignment::solve`] does, until `stop` returns true.
    /// `stop` is called often, every few milliseconds on a fast processor, and always at the same
    /// points for the same problem and seed.
    /// So a `stop` that counts its calls makes a search that ends the same everywhere.
    /// Once it has returned true, it has to return true from then on.
    ///
    /// # Errors
    /// The errors of [`Assignment::solve`].
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
        let lifted = table.grain.lift(answer.bound).max(0.0);
        // A bound counts as equal to the objective where they differ by rounding only.
        let bound = if ended == Ended::Proved { answer.best.cost } else { lifted.min(answer.best.cost) };
        let result = Assigned { devices: of, objective: answer.best.cost, bound, ended };
        self.check(&result)?;
        Ok(result)
    }
}
