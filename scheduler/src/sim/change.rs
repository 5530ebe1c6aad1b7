//! The changes that a replay can be made with.

use crate::error::{Error, check_seconds};
use crate::problem::{DeviceIndex, Link, TaskId};

use super::Replay;

/// A change of one thing in a [`Replay`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// A task runs on another device.
    /// It leaves its partition, and is one of its own at the same place in the order.
    Task {
        /// The task that moves.
        task: TaskId,
        /// The device that it moves to.
        device: DeviceIndex,
    },
    /// A partition runs on another device.
    Partition {
        /// The number of the partition.
        partition: usize,
        /// The device that it moves to.
        device: DeviceIndex,
    },
    /// A link is faster or slower, or there is one where there was none.
    Link {
        /// The device that sends.
        from: DeviceIndex,
        /// The device that receives.
        to: DeviceIndex,
        /// The link that takes the place of the one before.
        link: Link,
    },
    /// A device is faster or slower than it was.
    Speed {
        /// The device.
        device: DeviceIndex,
        /// How many times as fast it is: 2 halves the seconds of all tasks.
        factor: f64,
    },
    /// The values that pass from one task to another arrive after the given time, whatever the link
    /// says.
    /// Where both tasks are on one device, values take no time in any case.
    Transfer {
        /// The task that sends.
        from: TaskId,
        /// The task that receives.
        to: TaskId,
        /// The seconds of the transfer; with 0, it is dropped.
        seconds: f64,
    },
}

impl<'a> Replay<'a> {
    /// Returns the same run with one thing changed.
    /// Memory limits are not checked; [`Replay::held`] says what a device then holds.
    ///
    /// # Errors
    /// [`Error::UnknownTask`], [`Error::UnknownDevice`] and [`Error::UnknownPartition`] for a
    /// number that there is not, [`Error::Number`] for a number that is not possible, and
    /// [`Error::Plan`] where the device does not claim a task that moves to it, or where no value
    /// passes between the two tasks.
    pub fn with(&self, change: Change) -> Result<Self, Error> {
        let mut changed = self.clone();
        match change {
            Change::Task { task, device } => {
                changed.check_device(device)?;
                let partition = self.partition_of(task).ok_or_else(|| self.unknown_task(task))?;
                changed.move_task(partition, task, device)?;
            }
            Change::Partition { partition, device } => {
                changed.check_device(device)?;
                changed.move_partition(partition, device)?;
            }
            Change::Link { from, to, link } => changed.devices.to_mut().connect(from, to, link)?,
            Change::Speed { device, factor } => {
                changed.check_device(device)?;
                let speed = self.speed[device.0] * factor;
                if !(speed.is_finite() && speed > 0.0) {
                    let what = format!("the change of the speed of device number {}", device.0);
                    return Err(Error::Number { what, value: factor, wanted: "a factor, finite and positive" });
                }
                changed.speed[device.0] = speed;
            }
            Change::Transfer { from, to, seconds } => {
                let graph = self.problem().graph();
                let [sender, receiver] = [from, to]
                    .map(|task| graph.get(task).map(|task| &*task.name).ok_or_else(|| self.unknown_task(task)));
                let (sender, receiver) = (sender?, receiver?);
                if !graph.successors(from).any(|(next, _)| next == to) {
                    let reason = format!("nothing passes from '{sender}' to it");
                    return Err(Error::Plan { at: format!("task '{receiver}'"), reason });
                }
                check_seconds(seconds, || format!("the transfer from '{sender}' to '{receiver}'"))?;
                changed.transfers.insert((from, to), seconds);
            }
        }
        changed.run();
        Ok(changed)
    }

    fn check_device(&self, device: DeviceIndex) -> Result<(), Error> {
        let count = self.devices.len();
        if device.0 < count { Ok(()) } else { Err(Error::UnknownDevice { index: device.0, count }) }
    }

    fn unknown_task(&self, task: TaskId) -> Error {
        Error::UnknownTask { index: task.0, count: self.problem().graph().len() }
    }

    fn move_partition(&mut self, partition: usize, device: DeviceIndex) -> Result<(), Error> {
        let count = self.device.len();
        let Some(place) = self.device.get_mut(partition) else {
            return Err(Error::UnknownPartition { index: partition, count });
        };
        *place = device;
        self.check_claims(partition)
    }

    /// Moves a task of a partition to a device, and what stands before and behind it in the
    /// partition into partitions of their own.
    fn move_task(&mut self, partition: usize, task: TaskId, device: DeviceIndex) -> Result<(), Error> {
        let home = self.device[partition];
        if home == device {
            return Ok(());
        }
        let tasks = &self.partitions[partition];
        let at = tasks.iter().position(|&other| other == task).unwrap_or(0);
        let pieces = [(home, &tasks[..at]), (device, &tasks[at..=at]), (home, &tasks[at + 1..])];
        let pieces: Vec<(DeviceIndex, Vec<TaskId>)> = pieces
            .into_iter()
            .filter(|(_, tasks)| !tasks.is_empty())
            .map(|(device, tasks)| (device, tasks.to_vec()))
            .collect();
        let all = self.device.iter().copied().zip(self.partitions.iter().cloned());
        let mut all: Vec<(DeviceIndex, Vec<TaskId>)> = all.collect();
        all.splice(partition..=partition, pieces);
        self.divide(all)
    }
}
