//! Plans that do not rely on small differences between estimates.

use crate::alone::alone;
use crate::list::at_homes;
use crate::search::settle;
use crate::{Error, Partitioner, Problem, Schedule};

/// A strategy that leaves the fastest device only for a gain that estimates can be trusted with.
///
/// Of many placements the one with the least estimate is one whose estimate is too low, more likely than not (Smith and Winkler, "The optimizer's curse",
/// Management Science 52, 2006): a plan that moves each task to where it seems one percent faster loses in truth. So connected tasks that the strategy sends away
/// from their *home*, the device that would do everything soonest, come back where that lengthens the plan by less than
/// [`margin`](Cautious::margin) of what they take at home, and all of them do unless the plan is shorter than home alone by that share. Work that devices do at
/// the same time stays divided: to take some of it back lengthens the plan by all of that.
#[derive(Clone, Copy, Debug)]
pub struct Cautious<P> {
    /// What plans.
    pub strategy: P,
    /// By what share estimates may be off: 0.1 for ten percent. With 0, the strategy plans as it likes.
    pub margin: f64,
}

/// The device on which everything that it claims, and the rest where that is fastest, takes the least time.
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
        // Whatever the strategy finds, it would not be followed.
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
    use crate::{DeviceSpec, Devices, LatencyAware, Link, Task, TaskGraph, TaskId};

    /// A chain of tasks with so many seconds on each of two devices that share a processor, or have one each.
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
        // Of two moves, that which is worth it.
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
