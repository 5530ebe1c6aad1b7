//! The devices that are still open to each task where not all devices are linked.

use crate::error::Error;
use crate::problem::{DeviceIndex, Problem, TaskId};

/// The devices that each task can still take without cutting off a neighbour.
/// They are kept by arc consistency (Mackworth, "Consistency in networks of relations", 1977) while
/// a strategy fixes one task after the other.
/// Arc consistency looks no further than from neighbour to neighbour.
/// So a strategy that never goes back can still run into a dead end, but only where the graph has
/// undirected cycles.
///
/// Where all devices are linked there is nothing to keep.
pub(crate) struct Domains<'a> {
    problem: &'a Problem,
    all_linked: bool,
    /// Whether each device is open to each task, in a row for each task.
    open: Vec<bool>,
    /// The entries that have been closed since the last task was fixed, to open them again.
    closed: Vec<usize>,
}

impl<'a> Domains<'a> {
    /// Creates the domains: the devices that claim each task, less those on which its neighbours
    /// could not reach it.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where a task is left with no device: then there is no schedule at
    /// all.
    pub(crate) fn new(problem: &'a Problem) -> Result<Self, Error> {
        let open = problem.graph().tasks().flat_map(|(_, task)| task.seconds.iter().map(Option::is_some)).collect();
        let mut domains = Self { problem, all_linked: problem.devices().all_linked(), open, closed: Vec::new() };
        if !domains.all_linked {
            domains
                .propagate(problem.graph().order().to_vec())
                .map_err(|task| Error::Unreachable(problem.graph().known(task).name.clone()))?;
            domains.closed.clear();
        }
        Ok(domains)
    }

    fn entry(&self, task: TaskId, device: DeviceIndex) -> usize {
        task.0 * self.problem.devices().len() + device.0
    }

    /// Tells whether a device is open to a task.
    pub(crate) fn allows(&self, task: TaskId, device: DeviceIndex) -> bool {
        self.open[self.entry(task, device)]
    }

    /// Gives a task to a device, unless that would leave some other task with no device, and tells
    /// whether it did.
    pub(crate) fn fix(&mut self, task: TaskId, device: DeviceIndex) -> bool {
        if self.all_linked {
            return true;
        }
        for other in self.problem.devices().ids().filter(|&other| other != device) {
            self.close(task, other);
        }
        let consistent = self.propagate(vec![task]).is_ok();
        for entry in self.closed.drain(..) {
            self.open[entry] |= !consistent;
        }
        consistent
    }

    fn close(&mut self, task: TaskId, device: DeviceIndex) {
        let entry = self.entry(task, device);
        if std::mem::take(&mut self.open[entry]) {
            self.closed.push(entry);
        }
    }

    /// Closes to the neighbours of the given tasks, and on to their neighbours, each device that is
    /// linked with none of the devices open to those tasks.
    /// It fails with a task to which no device is open any more.
    fn propagate(&mut self, mut changed: Vec<TaskId>) -> Result<(), TaskId> {
        let problem = self.problem;
        let (graph, devices) = (problem.graph(), problem.devices());
        while let Some(task) = changed.pop() {
            let after = graph.successors(task).map(|(other, _)| (other, true));
            let before = graph.predecessors(task).map(|(other, _)| (other, false));
            for (other, receives) in after.chain(before) {
                let cut_off: Vec<DeviceIndex> = devices
                    .ids()
                    .filter(|&there| self.allows(other, there))
                    .filter(|&there| {
                        let linked =
                            |here| if receives { devices.reaches(here, there) } else { devices.reaches(there, here) };
                        !devices.ids().any(|here| self.allows(task, here) && linked(here))
                    })
                    .collect();
                if cut_off.is_empty() {
                    continue;
                }
                for there in cut_off {
                    self.close(other, there);
                }
                if !devices.ids().any(|there| self.allows(other, there)) {
                    return Err(other);
                }
                changed.push(other);
            }
        }
        Ok(())
    }
}
