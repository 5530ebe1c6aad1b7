//! Local search over schedules, which improves schedules that list scheduling has found.
//!
//! Tabu search moves one task of a critical path at a time, and islands of tasks as a whole.
//! It knows problems, list scheduling and the precision of proofs; strategies decide where it
//! begins and how long it goes on.

mod groups;
mod lists;
mod random;
mod sequences;
mod tabu;

use crate::bound::PROOF;
use crate::problem::{Problem, Schedule};
pub(crate) use random::Random;

use crate::effort::Remaining;
use lists::Lists;
use sequences::Sequences;
use tabu::Tabu;

/// Returns the schedule in which each device runs its tasks in the given order, and each task
/// starts as early as it can.
/// In the order each task stands behind the tasks that feed it.
pub(crate) fn in_order(problem: &Problem, device: Vec<usize>, order: &[usize]) -> Schedule {
    Sequences::in_order(problem.arrays(), device, order).schedule(problem.arrays())
}

/// Returns the schedule with the islands of tasks that are not worth their transfers moved to the
/// device `home`.
/// An island moves where that lengthens the schedule by no more than `share` of the seconds that it
/// takes at home.
pub(crate) fn settle(problem: &Problem, schedule: &Schedule, home: usize, share: f64) -> Schedule {
    let mut tabu = Tabu::new(problem, Sequences::of(problem, schedule));
    tabu.take_home(home, share, tries(problem));
    tabu.current.schedule(problem.arrays())
}

/// Returns the number of moves of whole groups that are worth trying, which are as much work as
/// some hundred moves of single tasks.
fn tries(problem: &Problem) -> usize {
    20 + 20_000 / problem.graph().len().max(1)
}

/// The steps without a better schedule after which the search goes on from elsewhere.
const PATIENCE: u64 = 300;
/// The number of randomly disturbed list schedules, of which the best is a new start.
const LISTS: usize = 30;

/// Improves schedules until the effort is spent or one takes no longer than `bound`, and passes
/// each better one to `better`.
/// The `starts` are valid, and the best of them comes first.
pub(crate) fn improve(
    problem: &Problem,
    starts: &[Schedule],
    bound: f64,
    remaining: &mut Remaining,
    seed: u64,
    mut better: impl FnMut(Schedule),
) {
    let arrays = problem.arrays();
    let starts: Vec<Sequences> = starts.iter().map(|start| Sequences::of(problem, start)).collect();
    let Some(first) = starts.first() else { return };
    let mut random = Random::new(seed);
    let mut tabu = Tabu::new(problem, first.clone());
    let tries = tries(problem);
    tabu.consolidate(tries, remaining);
    // Sequences may be tighter than the schedules that they come from.
    let mut best = tabu.current.clone();
    better(best.schedule(arrays));
    let lists = Lists::new(problem);
    let mut round = 0_usize;
    let done = |best: &Sequences| best.makespan() <= bound * (1.0 + PROOF);
    while !done(&best) {
        // The best state of this round, and the number of steps since it was found.
        let mut local = tabu.current.clone();
        let mut idle = 0;
        loop {
            if tabu.current.makespan() < local.makespan() * (1.0 - 1e-12) {
                local.clone_from(&tabu.current);
                idle = 0;
            }
            if local.makespan() < best.makespan() * (1.0 - 1e-12) {
                best.clone_from(&local);
                better(best.schedule(arrays));
            }
            if done(&best) || idle > PATIENCE {
                break;
            }
            if !remaining.step() {
                return;
            }
            idle += 1;
            if !tabu.advance(local.makespan() * (1.0 - 1e-12), &mut random) {
                break;
            }
        }
        round += 1;
        // The search goes on from the other starts in turn, and then from random changes of the
        // best schedule or from random list schedules.
        match starts.get(round / 2) {
            Some(start) if round.is_multiple_of(2) => tabu.restart(start),
            _ if random.below(3) == 0 || round == 1 => {
                let Some(start) = lists.best_of(LISTS, &mut random, remaining) else { continue };
                tabu.restart(&Sequences::of(problem, &start));
            }
            _ => {
                tabu.restart(&best);
                if random.below(3) == 0 {
                    tabu.shake_group(arrays.tasks / 2, &mut random);
                } else {
                    let moves = 2 + random.below(2 + arrays.tasks.min(60) / 4);
                    tabu.shake(moves, &mut random);
                }
                tabu.consolidate(tries, remaining);
            }
        }
        if !remaining.step() {
            return;
        }
    }
}
