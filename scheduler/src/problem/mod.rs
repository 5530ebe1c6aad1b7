//! What is to be planned, and what a plan of it is: tasks, devices, their problem, and schedules.
//!
//! This wing knows no strategy: it says which schedules are right, and not how one is found.
//! Every other wing stands on it.

mod arrays;
mod devices;
mod graph;
mod levels;
mod schedule;

pub(crate) use arrays::{Arrays, Edges};
use devices::Affine;
pub use devices::{DeviceIndex, DeviceSpec, Devices, Link};
pub use graph::{Task, TaskGraph, TaskGraphBuilder, TaskId};
pub use levels::levels;
pub(crate) use schedule::by_start;
pub use schedule::{Partitioner, Schedule, Slot};

use crate::error::Error;

/// Tasks, the devices that they can run on, and the energy that they may spend together: the input
/// of a [`Partitioner`](crate::Partitioner).
#[derive(Clone, Debug)]
pub struct Problem {
    graph: TaskGraph,
    devices: Devices,
    mean_transfer: Affine,
    arrays: Arrays,
    /// The joules that all tasks may spend together; infinite without a budget.
    energy: f64,
}

impl Problem {
    /// Creates a problem from a graph and devices.
    /// It checks that no sum of costs overflows in any schedule of the problem.
    ///
    /// # Errors
    /// [`Error::CostRow`] where the graph was made for another number of devices,
    /// [`Error::Overflow`] where the seconds, the bytes held or the joules of all tasks add up to
    /// more than can be counted.
    pub fn new(graph: TaskGraph, devices: Devices) -> Result<Self, Error> {
        if graph.devices() != devices.len() {
            let task = graph.tasks().next().map_or_else(String::new, |(_, task)| task.name.clone());
            return Err(Error::CostRow { task, found: graph.devices(), devices: devices.len() });
        }
        let worst = devices.worst();
        let longest = |row: &[Option<f64>]| row.iter().flatten().copied().fold(0.0, f64::max);
        let work: f64 = graph.tasks().map(|(_, task)| longest(&task.seconds)).sum();
        let transfers: f64 = graph.edges().map(|(_, _, bytes)| worst.seconds(bytes as f64)).sum();
        if !(work + transfers).is_finite() {
            return Err(Error::Overflow("the seconds of all tasks and transfers"));
        }
        graph
            .tasks()
            .try_fold(0_u64, |sum, (_, task)| sum.checked_add(task.memory))
            .ok_or(Error::Overflow("the bytes that tasks hold"))?;
        let joules = graph.tasks().map(|(_, task)| task.joules.iter().copied().fold(0.0, f64::max)).sum::<f64>();
        if !joules.is_finite() {
            return Err(Error::Overflow("the joules of all tasks"));
        }
        let mean_transfer = devices.mean();
        let arrays = Arrays::new(&graph, &devices);
        Ok(Self { graph, devices, mean_transfer, arrays, energy: f64::INFINITY })
    }

    /// Limits the joules that all tasks spend together.
    /// A task that does not say what it spends counts as spending none.
    ///
    /// # Errors
    /// [`Error::Number`] unless `joules` is finite and not negative, [`Error::EnergyBudget`] where
    /// the tasks spend more than the budget wherever they run.
    pub fn with_energy_budget(mut self, joules: f64) -> Result<Self, Error> {
        if !(joules.is_finite() && joules >= 0.0) {
            let wanted = "joules that are finite and not negative";
            return Err(Error::Number { what: "the energy budget".into(), value: joules, wanted });
        }
        let least = self.least_energy();
        if least > joules {
            return Err(Error::EnergyBudget { least, budget: joules });
        }
        self.energy = joules;
        Ok(self)
    }

    /// Returns the joules that all tasks may spend together; `None` without a budget.
    #[must_use]
    pub fn energy_budget(&self) -> Option<f64> {
        self.energy.is_finite().then_some(self.energy)
    }

    /// Returns the least joules that all tasks can spend, each on its thriftiest device.
    fn least_energy(&self) -> f64 {
        self.graph.tasks().map(|(_, task)| task.least_joules()).sum()
    }

    /// Returns the joules that the budget leaves beyond the least that the tasks can spend;
    /// infinite without a budget.
    pub(crate) fn spare_energy(&self) -> f64 {
        if self.energy.is_finite() { self.energy - self.least_energy() } else { f64::INFINITY }
    }

    /// Returns the joules of a task on a device beyond its joules on the thriftiest one.
    pub(crate) fn excess_energy(&self, task: usize, device: usize) -> f64 {
        self.arrays.excess.get(task * self.arrays.devices + device).copied().unwrap_or(0.0)
    }

    /// Returns how fast each device does all tasks alone, in graphs per second.
    /// The speed is 0 for a device that does not claim all tasks, and for a device that shares its
    /// processor with a faster one.
    #[must_use]
    pub fn speeds(&self) -> Vec<f64> {
        let speed = |device: usize| {
            let seconds = self.graph.tasks().map(|(_, task)| task.seconds_on(DeviceIndex(device)));
            seconds.sum::<Option<f64>>().map_or(0.0, |seconds| 1.0 / seconds.max(f64::MIN_POSITIVE))
        };
        let all: Vec<f64> = (0..self.devices.len()).map(speed).collect();
        let processor = |device: usize| self.devices.processor(DeviceIndex(device));
        let beaten = |device: usize| {
            let others = (0..all.len()).filter(|&other| other != device && processor(other) == processor(device));
            others.into_iter().any(|other| all[other] > all[device] || (all[other] >= all[device] && other < device))
        };
        (0..all.len()).map(|device| if beaten(device) { 0.0 } else { all[device] }).collect()
    }

    pub(crate) fn arrays(&self) -> &Arrays {
        &self.arrays
    }

    /// Returns the graph of the tasks.
    #[must_use]
    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// Returns the devices and their links.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Returns the mean seconds of a transfer over all links between different devices, which list
    /// schedulers use before they know where tasks go.
    /// It is zero where there is no link.
    #[must_use]
    pub fn mean_seconds(&self, bytes: u64) -> f64 {
        self.mean_transfer(bytes as f64)
    }

    pub(crate) fn mean_transfer(&self, bytes: f64) -> f64 {
        self.mean_transfer.seconds(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_to_fit() {
        let graph = |tasks: &[Task]| {
            let mut graph = TaskGraph::builder(2);
            for task in tasks {
                graph.task(task.clone()).unwrap();
            }
            graph.build().unwrap()
        };
        let devices = |ids: &[&str]| {
            Devices::uniform(ids.iter().map(|&id| DeviceSpec::new(id)), Link { latency: 0.0, bandwidth: 1.0 }).unwrap()
        };
        let task = |name: &str, seconds: f64| Task::new(name, [Some(seconds), None]);
        let one = Problem::new(graph(&[task("a", 1.0)]), devices(&["cpu:0"])).unwrap_err();
        assert_eq!(one, Error::CostRow { task: "a".into(), found: 2, devices: 1 });
        let long = Problem::new(graph(&[task("a", f64::MAX), task("b", f64::MAX)]), devices(&["x", "y"])).unwrap_err();
        assert!(matches!(long, Error::Overflow(_)));
        let large = [task("a", 1.0).with_memory(u64::MAX), task("b", 1.0).with_memory(1)];
        assert!(matches!(Problem::new(graph(&large), devices(&["x", "y"])), Err(Error::Overflow(_))));
        assert!(Problem::new(graph(&[]), devices(&["x", "y"])).is_ok());
    }
}
