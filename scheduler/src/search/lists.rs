//! List scheduling with priorities that are disturbed at random.

use super::Random;
use crate::effort::Remaining;
use crate::list::{Draft, by_priority, optimistic, upward_ranks};
use crate::problem::{Problem, Schedule};

/// HEFT and PEFT with ranks that are changed at random by some per cent.
/// Where many tasks are alike, list schedulers are as good as the order in which they happen to
/// take them, and the best of many orders is better than any one.
pub(super) struct Lists<'a> {
    problem: &'a Problem,
    ranks: Vec<f64>,
    optimistic: Vec<f64>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(problem: &'a Problem) -> Self {
        Self { problem, ranks: upward_ranks(problem), optimistic: optimistic(problem.arrays()) }
    }

    /// Returns the shortest of `count` schedules; `None` where none was found, or there was no time
    /// for one.
    pub(super) fn best_of(&self, count: usize, random: &mut Random, remaining: &mut Remaining) -> Option<Schedule> {
        let devices = self.problem.arrays().devices;
        let mut best: Option<Schedule> = None;
        for _ in 0..count {
            if !remaining.step() {
                break;
            }
            let noise = 0.3 * random.unit() * random.unit();
            let looks_ahead = random.below(2) == 0;
            let priority: Vec<f64> =
                self.ranks.iter().map(|rank| rank * (1.0 + noise * (2.0 * random.unit() - 1.0))).collect();
            let mut draft = Draft::new(self.problem).ok()?;
            let placed = by_priority(self.problem.arrays(), &priority).into_iter().try_for_each(|task| {
                let left = |device: usize| if looks_ahead { self.optimistic[task * devices + device] } else { 0.0 };
                draft.place(task, |_, slot| slot.finish + left(slot.device.0)).map(|_| ())
            });
            let Ok(()) = placed else { continue };
            let schedule = draft.finish();
            if best.as_ref().is_none_or(|best| schedule.makespan() < best.makespan()) {
                best = Some(schedule);
            }
        }
        best
    }
}
