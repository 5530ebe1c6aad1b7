//! Plans that do not rely on small differences between estimates.

use crate::bound::alone;
use crate::error::Error;
use crate::list::at_homes;
use crate::problem::{Partitioner, Problem, Schedule};
use crate::search::settle;

/// A strategy that leaves the fastest device only for a gain that estimates can be trusted with.
///
/// Of many placements, the one with the least estimate is more likely than not one whose estimate
/// is too low (Smith and Winkler, "The optimizer's curse", Management Science 52, 2006).
/// So a plan that moves each task to the device where it seems one percent faster is in truth
/// slower.
/// The *home* is the device that would do everything soonest.
/// Connected tasks that the strategy sends away from the home come back where their return
/// lengthens the plan by no more than [`margin`](Cautious::margin) of the time that they take at
/// home.
/// All tasks come back unless the plan is shorter by that share than one that runs everything at
/// home.
/// Work that devices do at the same time stays divided, because taking some of it back lengthens
/// the plan by all of that work.
#[derive(Clone, Copy, Debug)]
pub struct Cautious<P> {
    /// The strategy that makes the plan.
    pub strategy: P,
    /// The share by which estimates may be off: 0.1 for ten percent.
    /// With 0, the plan of the strategy is left as it is.
    pub margin: f64,
}

/// Returns the device with the least total time, if it runs all tasks that it claims and each other
/// task runs where it is fastest.
fn home(problem: &Problem) -> usize {
    let arrays = problem.arrays();
    let total = |device: usize| -> f64 {
        let least = |row: &[f64]| row.iter().copied().fold(f64::INFINITY, f64::min);
        let seconds = |row: &[f64]| if row[device].is_finite() { row[device] } else { least(row) };
        (0..arrays.tasks).map(|task| seconds(arrays.row(task))).sum()
    };
    let totals = (0..arrays.devices).map(total).enumerate();
    totals.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(device, _)| device)
}

impl<P: Partitioner> Partitioner for Cautious<P> {
    fn name(&self) -> &str {
        self.strategy.name()
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        // No plan of the strategy would be followed in that case.
        if let Some(schedule) = alone(problem, self.margin.max(0.0)) {
            return Ok(schedule);
        }
        if self.margin <= 0.0 || problem.devices().len() < 2 {
            return self.strategy.partition(problem);
        }
        let home = home(problem);
        let found = settle(problem, &self.strategy.partition(problem)?, home, self.margin);
        let alone =
            at_homes(problem, |_| home).ok().filter(|alone| found.makespan() > alone.makespan() * (1.0 - self.margin));
        Ok(alone.unwrap_or(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DeviceSpec, Devices, Link, Task, TaskGraph, TaskId};
    use crate::strategies::LatencyAware;

    /// Returns the problem of tasks with the given seconds on each of two devices, which share a
    /// processor or have one each.
    /// Unless `parallel`, the tasks are a chain.
    fn problem(costs: &[(f64, f64)], shared: bool, parallel: bool) -> Problem {
        let device = |id: &str| if shared { DeviceSpec::new(id).with_processor("host") } else { DeviceSpec::new(id) };
        let devices = Devices::uniform(["a", "b"].map(device), Link { latency: 1e-3, bandwidth: 1e9 }).unwrap();
        let mut graph = TaskGraph::builder(2);
        for (index, &(a, b)) in costs.iter().enumerate() {
            graph.task(Task::new(index.to_string(), [Some(a), Some(b)])).unwrap();
            if index > 0 && !parallel {
                graph.edge(TaskId(index - 1), TaskId(index), 1000).unwrap();
            }
        }
        Problem::new(graph.build().unwrap(), devices).unwrap()
    }

    fn devices(problem: &Problem, margin: f64) -> Vec<usize> {
        let schedule = Cautious { strategy: LatencyAware::default(), margin }.partition(problem).unwrap();
        assert_eq!(schedule.validate(problem), Ok(()));
        schedule.slots().iter().map(|slot| slot.device.0).collect()
    }

    #[test]
    fn small_gains_are_left_and_large_ones_taken() {
        let small = problem(&[(1.0, 1.2), (1.0, 0.95), (1.0, 1.2)], true, false);
        assert_eq!(devices(&small, 0.0), [0, 1, 0]);
        assert_eq!(devices(&small, 0.1), [0, 0, 0]);
        let large = problem(&[(1.0, 1.2), (1.0, 0.3), (1.0, 1.2)], true, false);
        assert_eq!(devices(&large, 0.1), [0, 1, 0]);
        // Only the move that is worth it is kept.
        let both = problem(&[(1.0, 0.2), (1.0, 1.5), (1.0, 0.97), (1.0, 1.5)], true, false);
        assert_eq!(devices(&both, 0.1), [1, 0, 0, 0]);
    }

    #[test]
    fn equal_devices_share_what_is_parallel() {
        let both = devices(&problem(&[(1.0, 1.0); 10], false, true), 0.1);
        assert_eq!(both.iter().filter(|&&device| device == 1).count(), 5);
    }

    #[test]
    fn what_home_cannot_do_goes_elsewhere() {
        let devices =
            Devices::uniform(["a", "b"].map(DeviceSpec::new), Link { latency: 1e-3, bandwidth: 1e9 }).unwrap();
        let mut graph = TaskGraph::builder(2);
        graph.task(Task::new("x", [Some(1.0), Some(1.5)])).unwrap();
        graph.task(Task::new("y", [None, Some(0.5)])).unwrap();
        graph.edge(TaskId(0), TaskId(1), 1000).unwrap();
        let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
        let schedule = Cautious { strategy: LatencyAware::default(), margin: 0.1 }.partition(&problem).unwrap();
        assert_eq!(schedule.validate(&problem), Ok(()));
        assert_eq!(schedule.slots().iter().map(|slot| slot.device.0).collect::<Vec<_>>(), [0, 1]);
    }
}
