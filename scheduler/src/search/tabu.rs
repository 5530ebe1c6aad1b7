//! Tabu search over sequences.

use super::Random;
use super::sequences::{Place, Sequences, Without};
use crate::list::Load;
use crate::problem::{Arrays, Problem};

/// The largest number of critical tasks that a step looks at; of more, it takes a random selection.
/// The number is smaller for large graphs, because the work for each task grows with the graph.
const MOST_TASKS: usize = 24;
const LEAST_TASKS: usize = 4;
const WORK: usize = 50_000;

/// Tabu search: it moves one task of a critical path at a time to the place that is best for it, on
/// any device, and does not let the task go back for some steps.
///
/// Only moves of critical tasks can shorten a schedule.
/// The places are those of [`Without`].
/// The way to forbid moves and the aspiration are those of Mastrolilli and Gambardella; by the
/// aspiration, a forbidden move is allowed where it gives the best schedule yet.
/// A step takes O(c·(e + v)) time for c critical tasks.
pub(crate) struct Tabu<'a> {
    problem: &'a Problem,
    pub(super) arrays: &'a Arrays,
    pub(super) current: Sequences,
    pub(super) load: Load<'a>,
    /// The step until which a task may not go to a device, in a row for each task.
    forbidden: Vec<u64>,
    step: u64,
    without: Without,
    critical: Vec<usize>,
}

impl<'a> Tabu<'a> {
    pub(crate) fn new(problem: &'a Problem, start: Sequences) -> Self {
        let arrays = problem.arrays();
        let mut tabu = Self {
            problem,
            arrays,
            load: Load::new(problem),
            forbidden: vec![0; arrays.tasks * arrays.devices],
            step: 0,
            without: Without::default(),
            critical: Vec::new(),
            current: start,
        };
        tabu.account();
        tabu
    }

    fn account(&mut self) {
        self.load = Load::new(self.problem);
        for (task, &device) in self.current.device.iter().enumerate() {
            self.load.put(task, device);
        }
    }

    /// Continues from another state.
    pub(crate) fn go_to(&mut self, state: Sequences) {
        self.current = state;
        self.account();
    }

    /// Continues from another state, and forgets the forbidden moves.
    pub(crate) fn restart(&mut self, from: &Sequences) {
        self.go_to(from.clone());
        self.forbidden.fill(0);
    }

    /// Makes the best move that is allowed; returns false where there is none.
    pub(crate) fn advance(&mut self, best: f64, random: &mut Random) -> bool {
        self.step += 1;
        self.current.critical_path(self.arrays, random, &mut self.critical);
        random.select(&mut self.critical, (WORK / self.arrays.tasks.max(1)).clamp(LEAST_TASKS, MOST_TASKS));
        let mut chosen: Option<(usize, Place)> = None;
        let mut equal = 0;
        for index in 0..self.critical.len() {
            let task = self.critical[index];
            let from = self.current.device[task];
            let in_front = self.current.in_front_of(task);
            self.without.compute(&self.current, self.arrays, task);
            for device in (0..self.arrays.devices).filter(|&device| self.load.lets_move(task, from, device)) {
                let forbidden = self.forbidden[task * self.arrays.devices + device] > self.step;
                let here = if device != from {
                    usize::MAX
                } else {
                    in_front.map_or(0, |ahead| {
                        1 + self
                            .current
                            .on(self.arrays.processor[device])
                            .iter()
                            .position(|&other| other == ahead)
                            .unwrap_or(0)
                    })
                };
                self.without.places(&self.current, self.arrays, task, device, |place| {
                    if place.place == here || (forbidden && place.makespan >= best) {
                        return;
                    }
                    let order = chosen.map_or(std::cmp::Ordering::Less, |(_, than)| {
                        let by_through = || place.through.total_cmp(&than.through);
                        place.makespan.total_cmp(&than.makespan).then_with(by_through)
                    });
                    equal = match order {
                        std::cmp::Ordering::Less => 1,
                        std::cmp::Ordering::Equal => equal + 1,
                        std::cmp::Ordering::Greater => return,
                    };
                    // Each of the equal moves is as likely as the others.
                    if random.below(equal) == 0 {
                        chosen = Some((task, place));
                    }
                });
            }
        }
        let Some((task, place)) = chosen else { return false };
        let tenure = 6 + random.below(4 + self.critical.len().min(24)) as u64;
        let from = self.current.device[task];
        self.forbidden[task * self.arrays.devices + from] = self.step + tenure;
        self.relocate(task, place);
        true
    }

    /// Moves random tasks to random devices, each to the best place there.
    pub(crate) fn shake(&mut self, moves: usize, random: &mut Random) {
        for _ in 0..moves {
            if self.arrays.tasks == 0 {
                return;
            }
            let task = random.below(self.arrays.tasks);
            let from = self.current.device[task];
            let device = random.below(self.arrays.devices);
            if !self.load.lets_move(task, from, device) {
                continue;
            }
            self.without.compute(&self.current, self.arrays, task);
            let mut best: Option<Place> = None;
            self.without.places(&self.current, self.arrays, task, device, |place| {
                if best.is_none_or(|best| place.through < best.through) {
                    best = Some(place);
                }
            });
            if let Some(place) = best {
                self.relocate(task, place);
            }
        }
    }

    fn relocate(&mut self, task: usize, place: Place) {
        let from = self.current.device[task];
        self.load.take(task, from);
        self.load.put(task, place.device);
        self.current.relocate(self.arrays, task, place.device, place.place);
        // A place behind all tasks that lead to the task and before all tasks that follow it makes
        // no circle.
        let sound = self.current.evaluate(self.arrays);
        debug_assert!(sound);
    }
}
