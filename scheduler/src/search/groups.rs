//! Moves of several tasks at once.
//!
//! A chain of tasks that is worth moving is often not worth moving task by task: each task that
//! moves alone pays for two transfers.

use super::Random;
use super::sequences::Sequences;
use super::tabu::Tabu;
use crate::effort::Remaining;
use crate::problem::Arrays;

/// Returns the islands of a placement: tasks of one device that are connected through tasks of that
/// device.
/// The islands are in the topological order of their first tasks.
fn islands(arrays: &Arrays, device: &[usize]) -> Vec<Vec<usize>> {
    let mut island = vec![usize::MAX; arrays.tasks];
    let mut islands: Vec<Vec<usize>> = Vec::new();
    let mut open = Vec::new();
    for &first in &arrays.order {
        if island[first] != usize::MAX {
            continue;
        }
        let number = islands.len();
        let mut members = Vec::new();
        island[first] = number;
        open.push(first);
        while let Some(task) = open.pop() {
            members.push(task);
            let near = arrays.before.of(task).iter().chain(arrays.after.of(task));
            for &(other, _) in near {
                if island[other] == usize::MAX && device[other] == device[first] {
                    island[other] = number;
                    open.push(other);
                }
            }
        }
        islands.push(members);
    }
    islands
}

/// Returns the number of transfers between devices.
fn crossings(arrays: &Arrays, device: &[usize]) -> usize {
    let crosses = |task: usize| arrays.after.of(task).iter().filter(|(next, _)| device[*next] != device[task]).count();
    (0..arrays.tasks).map(crosses).sum()
}

impl Tabu<'_> {
    /// Moves whole islands to other devices where that shortens the schedule, or keeps its length
    /// and saves transfers.
    /// The islands that then remain on other devices are worth their transfers.
    ///
    /// It tries at most `tries` moves, each of which takes O(e + v log v) time.
    pub(crate) fn consolidate(&mut self, mut tries: usize, remaining: &mut Remaining) {
        let mut improved = true;
        while improved {
            improved = false;
            for island in islands(self.arrays, &self.current.device) {
                let home = self.current.device[island[0]];
                // An earlier move may have taken part of the island along.
                if island.iter().any(|&task| self.current.device[task] != home) {
                    continue;
                }
                for device in (0..self.arrays.devices).filter(|&device| device != home) {
                    if tries == 0 || !remaining.step() {
                        return;
                    }
                    tries -= 1;
                    let Some(moved) = self.with_group(&island, device) else { continue };
                    let (now, then) = (self.current.makespan(), moved.makespan());
                    let fewer = || crossings(self.arrays, &moved.device) < crossings(self.arrays, &self.current.device);
                    if then < now * (1.0 - 1e-12) || (then <= now * (1.0 + 1e-12) && fewer()) {
                        self.go_to(moved);
                        improved = true;
                        break;
                    }
                }
            }
        }
    }

    /// Moves islands to the device `home`, the shortest first, where that lengthens the schedule by
    /// no more than `share` of the seconds that they take there.
    /// It tries at most `tries` moves.
    pub(crate) fn take_home(&mut self, home: usize, share: f64, mut tries: usize) {
        let at_home = |arrays: &Arrays, island: &[usize]| island.iter().map(|&task| arrays.seconds(task, home)).sum();
        let mut moved = true;
        while moved {
            moved = false;
            let mut away: Vec<(f64, Vec<usize>)> = islands(self.arrays, &self.current.device)
                .into_iter()
                .filter(|island| self.current.device[island[0]] != home)
                .map(|island| (at_home(self.arrays, &island), island))
                .filter(|(seconds, _): &(f64, _)| seconds.is_finite())
                .collect();
            away.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            for (seconds, island) in away {
                if tries == 0 {
                    return;
                }
                tries -= 1;
                let Some(state) = self.with_group(&island, home) else { continue };
                if state.makespan() <= self.current.makespan() + share * seconds {
                    self.go_to(state);
                    moved = true;
                }
            }
        }
    }

    /// Moves a random connected group of up to `most` tasks of one device to another device.
    pub(crate) fn shake_group(&mut self, most: usize, random: &mut Random) {
        let first = random.below(self.arrays.tasks);
        let home = self.current.device[first];
        let size = 1 + random.below(most.max(1));
        let mut taken = vec![false; self.arrays.tasks];
        taken[first] = true;
        let mut group = vec![first];
        let mut at = 0;
        while at < group.len() && group.len() < size {
            let near = self.arrays.after.of(group[at]).iter().chain(self.arrays.before.of(group[at]));
            for &(other, _) in near {
                if !taken[other] && self.current.device[other] == home && group.len() < size {
                    taken[other] = true;
                    group.push(other);
                }
            }
            at += 1;
        }
        if let Some(moved) = self.with_group(&group, random.below(self.arrays.devices)) {
            self.go_to(moved);
        }
    }

    /// Returns the state with a group of tasks on another device; `None` where a limit, a claim or
    /// a link forbids it.
    fn with_group(&self, group: &[usize], device: usize) -> Option<Sequences> {
        let mut load = self.load.clone();
        for &task in group {
            load.take(task, self.current.device[task]);
        }
        for &task in group {
            let fits = self.arrays.seconds(task, device).is_finite()
                && load.has_memory(task, device)
                && load.has_energy(task, device);
            if !fits {
                return None;
            }
            load.put(task, device);
        }
        Some(self.current.with_group(self.arrays, group, device)).filter(|moved| moved.makespan().is_finite())
    }
}
