//! The memory and energy that devices and the budget have left.

use crate::problem::Problem;

/// The memory and energy that are left while tasks are given to devices.
///
/// Energy is counted above the unavoidable part: each task spends at least its joules on its
/// thriftiest device, so only the joules that a choice spends beyond these are taken from the
/// budget.
/// A strategy that never exceeds the budget can always place the remaining tasks, as far as energy
/// goes.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    problem: &'a Problem,
    /// The bytes that each device has left; `None` where nothing limits them.
    memory: Vec<Option<u64>>,
    /// The joules that are left beyond the unavoidable ones.
    energy: f64,
}

impl<'a> Load<'a> {
    /// Creates the load with no task placed.
    pub(crate) fn new(problem: &'a Problem) -> Self {
        let memory = problem.devices().iter().map(|device| device.memory).collect();
        Self { problem, memory, energy: problem.spare_energy() }
    }

    fn bytes(&self, task: usize) -> u64 {
        self.problem.arrays().memory[task]
    }

    /// Tells whether a device has memory left for a task.
    pub(crate) fn has_memory(&self, task: usize, device: usize) -> bool {
        self.memory[device].is_none_or(|left| left >= self.bytes(task))
    }

    /// Tells whether there is energy left for a task on a device.
    pub(crate) fn has_energy(&self, task: usize, device: usize) -> bool {
        self.problem.excess_energy(task, device) <= self.energy
    }

    /// Tells whether a task could move from one device to another.
    pub(crate) fn lets_move(&self, task: usize, from: usize, to: usize) -> bool {
        let excess = |device| self.problem.excess_energy(task, device);
        from == to || (self.has_memory(task, to) && excess(to) - excess(from) <= self.energy)
    }

    /// Returns the bytes that a device has left; infinite where nothing limits them.
    pub(crate) fn memory_left(&self, device: usize) -> f64 {
        self.memory[device].map_or(f64::INFINITY, |left| left as f64)
    }

    /// Returns the joules that are left beyond the least that the tasks not placed yet can spend;
    /// infinite without a budget.
    pub(crate) fn energy_left(&self) -> f64 {
        self.energy
    }

    /// Gives a task to a device that has room for it.
    pub(crate) fn put(&mut self, task: usize, device: usize) {
        let bytes = self.bytes(task);
        if let Some(left) = &mut self.memory[device] {
            *left = left.saturating_sub(bytes);
        }
        self.energy -= self.problem.excess_energy(task, device);
    }

    /// Removes a task from its device.
    pub(crate) fn take(&mut self, task: usize, device: usize) {
        let bytes = self.bytes(task);
        if let Some(left) = &mut self.memory[device] {
            *left = left.saturating_add(bytes);
        }
        self.energy += self.problem.excess_energy(task, device);
    }
}
