//! The portfolio of several strategies, which returns the best schedule that any of them finds.

use std::time::Duration;

use super::{Clusters, Exact};
use crate::bound::{PROOF, alone, lower_bound};
use crate::effort::{Effort, Remaining};
use crate::error::Error;
use crate::list::{Cpop, Heft, Lookahead, Peft, at_homes};
use crate::problem::{Partitioner, Problem, Schedule};
use crate::search::improve;

/// The largest number of tasks for which the lookahead runs, as it takes long for more.
const FEW: usize = 2000;

/// The default strategy: the least makespan that several strategies find within an effort, which is
/// never more than HEFT's.
///
/// HEFT answers first.
/// Then come the other list schedulers, each device alone, and tabu search from the best of their
/// schedules, until the effort is spent or a lower bound is met.
/// Half of the effort goes to clusters of tasks that belong together.
/// Where limits or links leave list schedulers in a dead end, exact search is the last resort on
/// graphs that are small enough.
#[derive(Clone, Copy, Debug)]
pub struct LatencyAware {
    /// The effort of the search.
    pub effort: Effort,
    /// The seed of the random choices.
    pub seed: u64,
}

impl Default for LatencyAware {
    fn default() -> Self {
        Self { effort: Effort::time(Duration::from_secs(1)), seed: 1 }
    }
}

impl LatencyAware {
    /// Finds a schedule as [`Partitioner::partition`] does, and passes each schedule that is better
    /// than the ones before to `better`, the first answer first.
    ///
    /// # Errors
    /// The errors of [`Partitioner::partition`].
    pub fn improve(&self, problem: &Problem, mut better: impl FnMut(&Schedule)) -> Result<Schedule, Error> {
        let mut best = f64::INFINITY;
        let mut offer = |schedule: &Schedule| {
            if schedule.makespan() < best {
                best = schedule.makespan();
                better(schedule);
            }
        };
        let first = Heft.partition(problem);
        first.iter().for_each(&mut offer);
        if let Some(schedule) = alone(problem, PROOF) {
            offer(&schedule);
            // Both schedules are the best possible, but for the last bits of sums.
            return Ok(first.ok().filter(|first| first.makespan() <= schedule.makespan()).unwrap_or(schedule));
        }
        let Some(clusters) = Clusters::new(problem) else { return self.search(problem, first, &[], offer) };
        let half = Effort { time: self.effort.time / 2, steps: self.effort.steps / 2, ..self.effort };
        let half = Self { effort: half, ..*self };
        let coarse = clusters.problem();
        let found =
            half.search(coarse, Heft.partition(coarse), &[], |schedule| offer(&clusters.expand(problem, schedule)));
        let starts: Vec<Schedule> = found.iter().map(|schedule| clusters.expand(problem, schedule)).collect();
        half.search(problem, first, &starts, offer)
    }

    /// Returns the best schedule of HEFT's answer, of `starts`, of all other strategies, and of the
    /// local search that begins with these.
    fn search(
        &self,
        problem: &Problem,
        first: Result<Schedule, Error>,
        starts: &[Schedule],
        mut better: impl FnMut(&Schedule),
    ) -> Result<Schedule, Error> {
        let mut remaining = Remaining::of(self.effort);
        let mut best: Option<Schedule> = None;
        let mut offer = |schedule: &Schedule| {
            if best.as_ref().is_none_or(|best| schedule.makespan() < best.makespan()) {
                best = Some(schedule.clone());
                better(schedule);
            }
        };
        let mut starts: Vec<Schedule> = first.iter().chain(starts).cloned().collect();
        starts.iter().for_each(&mut offer);
        let bound = |high: f64| lower_bound(problem.arrays(), high, &mut Remaining::of(Effort::steps(0)));
        starts.sort_by(|a, b| a.makespan().total_cmp(&b.makespan()));
        if let Some(schedule) = starts.first()
            && schedule.makespan() <= bound(schedule.makespan()) * (1.0 + PROOF)
        {
            return Ok(schedule.clone());
        }
        let mut others: Vec<Box<dyn Partitioner>> = vec![Box::new(Peft), Box::new(Cpop)];
        if problem.graph().len() <= FEW {
            others.push(Box::new(Lookahead));
        }
        others.extend((0..problem.devices().len()).map(|home| Box::new(OnOne(home)) as Box<dyn Partitioner>));
        for other in others {
            // Where there is no schedule yet, one is searched for whatever the effort.
            if !remaining.step() && !starts.is_empty() {
                break;
            }
            if let Ok(schedule) = other.partition(problem) {
                offer(&schedule);
                starts.push(schedule);
            }
        }
        starts.sort_by(|a, b| a.makespan().total_cmp(&b.makespan()));
        match starts.first() {
            Some(start) => {
                let least = bound(start.makespan());
                improve(problem, &starts, least, &mut remaining, self.seed, |schedule| offer(&schedule));
            }
            // List schedulers never go back, and may have run into a dead end.
            None => offer(&Exact { effort: self.effort }.partition(problem).or(first.clone())?),
        }
        best.map_or(first, Ok)
    }
}

/// The strategy that places on one device all tasks that it claims and has room for, and each other
/// task where it finishes first.
struct OnOne(usize);

impl Partitioner for OnOne {
    fn name(&self) -> &str {
        "on-one"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        at_homes(problem, |_| self.0)
    }
}

impl Partitioner for LatencyAware {
    fn name(&self) -> &str {
        "latency_aware"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        self.improve(problem, |_| {})
    }
}
