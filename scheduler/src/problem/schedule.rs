//! Schedules, and the trait of the strategies that find them.

use super::{DeviceIndex, Problem, Task, TaskId};
use crate::error::Error;

/// A strategy that finds a schedule for a problem.
pub trait Partitioner: Send + Sync {
    /// Returns the short name of the strategy, as plans and configurations show it.
    fn name(&self) -> &str;

    /// Returns a schedule for the problem, which passes [`Schedule::validate`].
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::OutOfMemory`] where the strategy finds no device for a
    /// task, [`Error::Strategy`] for reasons of its own.
    fn partition(&self, problem: &Problem) -> Result<Schedule, Error>;
}

/// The device and the span of time in which a task runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// The device that runs the task.
    pub device: DeviceIndex,
    /// The start of the task, in seconds from the beginning.
    pub start: f64,
    /// The end of the task, in seconds from the beginning.
    pub finish: f64,
}

/// The slots of all tasks: a device and a span of time for each task.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    slots: Vec<Slot>,
    makespan: f64,
}

impl Schedule {
    /// Creates a schedule from slots in the order of the tasks' numbers.
    #[must_use]
    pub fn new(slots: Vec<Slot>) -> Self {
        let makespan = slots.iter().map(|slot| slot.finish).fold(0.0, f64::max);
        Self { slots, makespan }
    }

    /// Returns the slots, in the order of the tasks' numbers.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Returns the time at which the last task finishes, in seconds from the beginning.
    #[must_use]
    pub fn makespan(&self) -> f64 {
        self.makespan
    }

    /// Returns the seconds from one input of a stream to the next, at best: the longest time that a
    /// processor or a link is busy with one input.
    /// The period is infinite where a value has to pass between devices without a link.
    #[must_use]
    pub fn period(&self, problem: &Problem) -> f64 {
        let (graph, count) = (problem.graph(), problem.devices().len());
        let mut busy = vec![0.0_f64; count * (count + 1)];
        for slot in &self.slots {
            if let Some(seconds) = busy.get_mut(problem.devices().processor(slot.device).0) {
                *seconds += slot.finish - slot.start;
            }
        }
        for (from, to, bytes) in graph.edges() {
            let [Some(source), Some(target)] = [from, to].map(|task| self.slots.get(task.0)) else { continue };
            let seconds = problem.devices().seconds(source.device, target.device, bytes).unwrap_or(f64::INFINITY);
            if let Some(sum) = busy.get_mut(count * (source.device.0 + 1) + target.device.0) {
                *sum += seconds;
            }
        }
        busy.into_iter().fold(0.0, f64::max)
    }

    /// Checks that the schedule keeps to the rules of the problem.
    /// Each task runs on a device that claims it, for the seconds that it takes there, and not
    /// before the values that feed it have arrived.
    /// A processor does one thing at a time.
    /// The bytes that the tasks of a device hold fit its memory, and all tasks together keep to the
    /// energy budget.
    /// Times may be off by 1e-9 of the makespan, because sums of the same numbers in another order
    /// differ in their last bits.
    ///
    /// # Errors
    /// [`Error::Schedule`] with the first wrong task or device.
    pub fn validate(&self, problem: &Problem) -> Result<(), Error> {
        let (graph, devices) = (problem.graph(), problem.devices());
        if self.slots.len() != graph.len() {
            let reason = format!("it has {} slots for {} tasks", self.slots.len(), graph.len());
            return Err(Error::Schedule { at: "its length".into(), reason });
        }
        let slack = 1e-9 * self.makespan;
        for ((id, task), slot) in graph.tasks().zip(&self.slots) {
            let wrong = |reason| Err(Error::Schedule { at: format!("task '{}'", task.name), reason });
            let Some(seconds) = task.seconds_on(slot.device) else {
                return wrong(format!("device number {} does not claim it", slot.device.0));
            };
            if !(slot.start >= 0.0 && slot.finish.is_finite()) {
                return wrong(format!("it runs from {} to {}", slot.start, slot.finish));
            }
            if (slot.finish - slot.start - seconds).abs() > slack {
                return wrong(format!("it takes {seconds} s and runs from {} s to {} s", slot.start, slot.finish));
            }
            for (feeding, bytes) in graph.predecessors(id) {
                let source = self.slots[feeding.0];
                let name = &graph.known(feeding).name;
                let Some(seconds) = devices.seconds(source.device, slot.device, bytes) else {
                    return wrong(format!("there is no way to it from '{name}'"));
                };
                let arrival = source.finish + seconds;
                if slot.start < arrival - slack {
                    return wrong(format!("it starts at {} s, what '{name}' sends arrives at {arrival} s", slot.start));
                }
            }
        }
        self.check_devices(problem, slack)
    }

    /// Returns the joules that all tasks spend together; a task that does not say what it spends
    /// counts as none.
    #[must_use]
    pub fn joules(&self, problem: &Problem) -> f64 {
        let spent = |(task, slot): (&Task, &Slot)| task.joules.get(slot.device.0).copied().unwrap_or(0.0);
        problem.graph().tasks().map(|(_, task)| task).zip(&self.slots).map(spent).sum()
    }

    fn check_devices(&self, problem: &Problem, slack: f64) -> Result<(), Error> {
        let spent = self.joules(problem);
        // As with times, the order of a sum changes its last bits.
        if let Some(budget) = problem.energy_budget().filter(|budget| spent > budget * (1.0 + 1e-9)) {
            let reason = format!("its tasks spend {spent} J, and the budget is {budget} J");
            return Err(Error::Schedule { at: "its energy".into(), reason });
        }
        let mut held = vec![0_u64; problem.devices().len()];
        let mut occupied: Vec<(&Slot, &str)> = Vec::with_capacity(self.slots.len());
        for ((_, task), slot) in problem.graph().tasks().zip(&self.slots) {
            held[slot.device.0] += task.memory;
            occupied.push((slot, &task.name));
        }
        for (device, held) in problem.devices().iter().zip(held) {
            if let Some(memory) = device.memory.filter(|&memory| held > memory) {
                let reason = format!("its tasks hold {held} bytes, and it has {memory}");
                return Err(Error::Schedule { at: format!("device '{}'", device.id), reason });
            }
        }
        let processor = |slot: &Slot| problem.devices().processor(slot.device);
        occupied.sort_by(|(a, _), (b, _)| {
            let by_time = || a.start.total_cmp(&b.start).then(a.finish.total_cmp(&b.finish));
            processor(a).cmp(&processor(b)).then_with(by_time)
        });
        for pair in occupied.windows(2) {
            let [(earlier, running), (later, name)] = pair else { continue };
            if processor(earlier) == processor(later) && later.start < earlier.finish - slack {
                let reason = format!("it starts at {} s, while its processor runs '{running}'", later.start);
                return Err(Error::Schedule { at: format!("task '{name}'"), reason });
            }
        }
        Ok(())
    }
}

/// Returns the tasks by start, each behind the tasks that feed it even where times are equal or off
/// by a rounding error.
pub(crate) fn by_start(problem: &Problem, schedule: &Schedule) -> Vec<TaskId> {
    let mut rank = vec![0; problem.graph().len()];
    for (index, &id) in problem.graph().order().iter().enumerate() {
        rank[id.0] = index;
    }
    problem.graph().order_by(|id| {
        let slot = schedule.slots()[id.0];
        // The bits of non-negative floats are in the same order as the floats; the sum turns a
        // negative zero into a positive one.
        // A session begins a group of tiles when everything that feeds the group is done, and the
        // tasks that read it when all of the group is done.
        let level = problem.graph().level(id);
        (level, (slot.start + 0.0).to_bits(), (slot.finish + 0.0).to_bits(), rank[id.0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DeviceSpec, Devices, Link, TaskGraph};

    /// A problem in which `a` feeds `b`, and `c` is on its own.
    /// The second device has room for one task and does not claim `c`.
    fn problem() -> Problem {
        let devices = [DeviceSpec::new("cpu:0"), DeviceSpec::new("gpu:0").with_memory(10)];
        let devices = Devices::uniform(devices, Link { latency: 1.0, bandwidth: 1.0 }).unwrap();
        let mut graph = TaskGraph::builder(2);
        let a = graph.task(Task::new("a", [Some(2.0), Some(1.0)]).with_memory(10)).unwrap();
        let b = graph.task(Task::new("b", [Some(2.0), Some(1.0)]).with_memory(10)).unwrap();
        graph.task(Task::new("c", [Some(2.0), None])).unwrap();
        graph.edge(a, b, 3).unwrap();
        Problem::new(graph.build().unwrap(), devices).unwrap()
    }

    fn schedule(slots: [(usize, f64, f64); 3]) -> Schedule {
        let slot = |(device, start, finish)| Slot { device: DeviceIndex(device), start, finish };
        Schedule::new(slots.map(slot).to_vec())
    }

    #[test]
    fn each_broken_rule_is_named() {
        let good = [(0, 0.0, 2.0), (1, 6.0, 7.0), (0, 2.0, 4.0)];
        assert_eq!(schedule(good).validate(&problem()), Ok(()));
        assert_eq!(schedule(good).makespan(), 7.0);
        let said = |change: fn(&mut [(usize, f64, f64); 3])| {
            let mut slots = good;
            change(&mut slots);
            schedule(slots).validate(&problem()).unwrap_err().to_string()
        };
        for (change, expected) in [
            ((|slots| slots[2].0 = 1) as fn(&mut [(usize, f64, f64); 3]), "device number 1 does not claim it"),
            (|slots| slots[2].0 = 9, "device number 9 does not claim it"),
            (|slots| slots[1] = (1, 5.0, 6.0), "arrives at 6 s"),
            (|slots| slots[1] = (1, 6.0, 8.0), "it takes 1 s"),
            (|slots| slots[0] = (0, -1.0, 1.0), "it runs from -1"),
            (|slots| slots[0] = (0, f64::NAN, 1.0), "it runs from NaN"),
            (|slots| slots[2] = (0, 1.0, 3.0), "while its processor runs 'a'"),
            (|slots| slots[0] = (1, 0.0, 1.0), "its tasks hold 20 bytes, and it has 10"),
        ] {
            let said = said(change);
            assert!(said.contains(expected), "{said}");
        }
        let short = Schedule::new(vec![]).validate(&problem()).unwrap_err();
        assert!(short.to_string().contains("0 slots for 3 tasks"));
    }
}
