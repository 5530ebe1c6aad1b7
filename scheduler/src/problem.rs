//! A graph and the devices to run it on.

use crate::devices::Affine;
use crate::{Devices, Error, TaskGraph};

/// Tasks, and the devices that they can run on: what a [`Partitioner`](crate::Partitioner) gets.
#[derive(Clone, Debug)]
pub struct Problem {
    graph: TaskGraph,
    devices: Devices,
    mean_transfer: Affine,
}

impl Problem {
    /// Puts both together. Once it has, no sum of costs overflows in any schedule.
    ///
    /// # Errors
    /// [`Error::CostRow`] where the graph was made for another number of devices, [`Error::Overflow`] where all seconds or all bytes held
    /// add up to more than can be counted.
    pub fn new(graph: TaskGraph, devices: Devices) -> Result<Self, Error> {
        if graph.devices() != devices.len() {
            let task = graph.tasks().next().map_or_else(String::new, |(_, task)| task.name.clone());
            return Err(Error::CostRow { task, found: graph.devices(), devices: devices.len() });
        }
        let worst = devices.worst();
        let longest = |row: &[Option<f64>]| row.iter().flatten().copied().fold(0.0, f64::max);
        let work: f64 = graph.tasks().map(|(_, task)| longest(&task.seconds)).sum();
        let transfers: f64 = graph.edges().map(|(_, _, bytes)| worst.seconds(bytes)).sum();
        if !(work + transfers).is_finite() {
            return Err(Error::Overflow("the seconds of all tasks and transfers"));
        }
        graph
            .tasks()
            .try_fold(0_u64, |sum, (_, task)| sum.checked_add(task.memory))
            .ok_or(Error::Overflow("the bytes that tasks hold"))?;
        let mean_transfer = devices.mean();
        Ok(Self { graph, devices, mean_transfer })
    }

    /// The tasks.
    #[must_use]
    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// The devices.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Seconds of a transfer, as the mean over all links between different devices: what list schedulers reckon with before they
    /// know where tasks go. Zero where there is no link.
    #[must_use]
    pub fn mean_seconds(&self, bytes: u64) -> f64 {
        self.mean_transfer.seconds(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Link, Task};

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
            Devices::uniform(ids.iter().map(|&id| Device::new(id)), Link { latency: 0.0, bandwidth: 1.0 }).unwrap()
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
