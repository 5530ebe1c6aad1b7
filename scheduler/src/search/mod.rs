//! Local search on schedules.

mod groups;
mod lists;
mod sequences;
mod tabu;

use std::time::{Duration, Instant};

use crate::bounds::PROOF;
use crate::random::Random;
use crate::{Problem, Schedule};
use lists::Lists;
use sequences::Sequences;
use tabu::Tabu;

/// How long a search goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Time that it takes at most.
    pub time: Duration,
    /// Steps that it makes at most: with these alone, the same problem and seed give the same schedule on every machine.
    pub steps: u64,
}

impl Effort {
    /// So much time.
    #[must_use]
    pub fn time(time: Duration) -> Self {
        Self { time, steps: u64::MAX }
    }

    /// So many steps, however long they take.
    #[must_use]
    pub fn steps(steps: u64) -> Self {
        Self { time: Duration::MAX, steps }
    }
}

/// What is left of an [`Effort`].
#[derive(Debug)]
pub(crate) struct Remaining {
    end: Option<Instant>,
    steps: u64,
}

impl Remaining {
    pub(crate) fn of(effort: Effort) -> Self {
        Self { end: Instant::now().checked_add(effort.time), steps: effort.steps }
    }

    /// Takes a step; false where there is none left.
    pub(crate) fn step(&mut self) -> bool {
        if self.steps == 0 || self.end.is_some_and(|end| Instant::now() >= end) {
            return false;
        }
        self.steps -= 1;
        true
    }
}

/// The schedule in which each device runs its tasks in this order, in which each stands behind those that feed it, as early as it can.
pub(crate) fn in_order(problem: &Problem, device: Vec<usize>, order: &[usize]) -> Schedule {
    Sequences::in_order(problem.arrays(), device, order).schedule(problem.arrays())
}

/// The schedule with what is not worth its way taken to the device `home`: where that lengthens it by no more than a share of what is taken.
pub(crate) fn settle(problem: &Problem, schedule: &Schedule, home: usize, share: f64) -> Schedule {
    let mut tabu = Tabu::new(problem, Sequences::of(problem, schedule));
    tabu.take_home(home, share, tries(problem));
    tabu.current.schedule(problem.arrays())
}

/// Moves of whole groups that are worth trying: as much work as some hundred moves of single tasks.
fn tries(problem: &Problem) -> usize {
    20 + 20_000 / problem.graph().len().max(1)
}

/// Steps without a better schedule after which the search goes on from elsewhere.
const PATIENCE: u64 = 300;
/// Lists that chance disturbs, of which the best is a new start.
const LISTS: usize = 30;

/// Improves schedules until the effort is spent or one takes no longer than `bound`, and tells each better one. `starts` are valid, the best of
/// them first.
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
        // The best state of this round, and when it was found.
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
        // From the other starts in turn, and then from schedules that chance makes out of the best one, or out of nothing.
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
