//! Schedules, and what finds them.

use crate::{Error, Problem, TaskId};

/// Finds a schedule.
pub trait Partitioner: Send + Sync {
    /// Short name, as plans show it.
    fn name(&self) -> &str;

    /// A schedule for the problem. It passes [`Schedule::validate`].
    ///
    /// # Errors
    /// `Unreachable` where no assignment respects the links.
    fn partition(&self, problem: &Problem) -> Result<Schedule, Error>;
}

/// Where and when a task runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// The device's number.
    pub device: usize,
    /// Seconds from the beginning.
    pub start: f64,
    /// Seconds from the beginning.
    pub finish: f64,
}

/// A slot for each task.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// In the order of the tasks' ids.
    pub slots: Vec<Slot>,
}

impl Schedule {
    /// The device of a task of the problem that this is for.
    #[must_use]
    pub fn device_of(&self, task: TaskId) -> usize {
        self.slots[task.0].device
    }

    /// When the last task finishes, in seconds.
    #[must_use]
    pub fn makespan(&self) -> f64 {
        self.slots.iter().map(|slot| slot.finish).fold(0.0, f64::max)
    }

    /// Checks claims, durations, precedence with transfers, and that a device does one thing at a time.
    ///
    /// # Errors
    /// A sentence that names the tasks.
    pub fn validate(&self, problem: &Problem) -> Result<(), String> {
        // Sums of the same numbers in another order differ in their last bits.
        let slack = 1e-9 * self.makespan().max(f64::MIN_POSITIVE);
        let graph = problem.graph();
        if self.slots.len() != graph.len() {
            return Err(format!("{} slots for {} tasks", self.slots.len(), graph.len()));
        }
        for id in graph.ids() {
            let slot = self.slots[id.0];
            let name = &graph.task(id).name;
            let cost = graph.task(id).costs.get(slot.device).copied().flatten();
            let cost = cost.ok_or_else(|| format!("device {} does not take '{name}'", slot.device))?;
            if slot.start < 0.0 || (slot.finish - slot.start - cost).abs() > slack {
                return Err(format!("'{name}' takes {cost}, not from {} to {}", slot.start, slot.finish));
            }
            for (before, bytes) in graph.predecessors(id) {
                let source = self.slots[before.0];
                let transfer = problem.links().seconds(source.device, slot.device, bytes);
                let transfer = transfer.ok_or_else(|| format!("'{name}' cannot get its input"))?;
                if source.finish + transfer > slot.start + slack {
                    return Err(format!("'{name}' starts before '{}' has arrived", graph.task(before).name));
                }
            }
        }
        let mut order: Vec<&Slot> = self.slots.iter().collect();
        order.sort_by(|a, b| {
            a.device.cmp(&b.device).then(a.start.total_cmp(&b.start)).then(a.finish.total_cmp(&b.finish))
        });
        for pair in order.windows(2) {
            if pair[0].device == pair[1].device && pair[0].finish > pair[1].start + slack {
                return Err(format!("device {} does two things at {}", pair[1].device, pair[1].start));
            }
        }
        Ok(())
    }
}
