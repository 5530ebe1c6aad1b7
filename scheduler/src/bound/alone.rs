//! Problems that leave nothing to decide: one device does everything, and a bound proves that no
//! division gains.
//!
//! In contrast to the bounds of [`lower_bound`](super::lower_bound()), these bounds take time in
//! proportion to the number of tasks, edges and devices.

use super::PROOF;
use crate::problem::{Arrays, DeviceIndex, Problem, Schedule, Slot};

/// Returns the schedule with everything on one device, one task after the other in the order of the
/// graph.
/// It exists where a device claims all tasks, has room for them within the energy budget, and no
/// schedule is shorter by more than a share `margin` of its makespan.
pub(crate) fn alone(problem: &Problem, margin: f64) -> Option<Schedule> {
    let arrays = problem.arrays();
    let home = home(problem)?;
    let whole: f64 = (0..arrays.tasks).map(|task| arrays.seconds(task, home)).sum();
    let least = longest_way(arrays).max(busiest(arrays, home, whole));
    (least >= whole * (1.0 - margin)).then(|| in_list_order(problem, home))
}

/// Returns the same schedule for a stream, where no schedule has a shorter period.
pub(crate) fn alone_in_stream(problem: &Problem) -> Option<Schedule> {
    let arrays = problem.arrays();
    let home = home(problem)?;
    let whole: f64 = (0..arrays.tasks).map(|task| arrays.seconds(task, home)).sum();
    (busiest(arrays, home, whole) >= whole * (1.0 - PROOF)).then(|| in_list_order(problem, home))
}

/// Returns the device that does everything soonest of the devices that claim all tasks, where it
/// has the memory and the energy.
fn home(problem: &Problem) -> Option<usize> {
    let arrays = problem.arrays();
    let sum = |device: usize| (0..arrays.tasks).map(|task| arrays.seconds(task, device)).sum::<f64>();
    let fits = |device: usize| {
        let memory = problem.devices().get(DeviceIndex(device)).and_then(|spec| spec.memory);
        let held: u64 = arrays.memory.iter().sum();
        let spent: f64 = (0..arrays.tasks).map(|task| problem.excess_energy(task, device)).sum();
        memory.is_none_or(|memory| held <= memory) && spent <= problem.spare_energy()
    };
    let sums = (0..arrays.devices).map(|device| (device, sum(device))).filter(|(_, sum)| sum.is_finite());
    let (home, _) = sums.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    fits(home).then_some(home)
}

/// Returns the length of the longest way through the graph, with each task on its fastest device
/// and no cost between devices.
fn longest_way(arrays: &Arrays) -> f64 {
    let mut finish = vec![0.0_f64; arrays.tasks];
    for &task in &arrays.order {
        let ready = arrays.before.of(task).iter().map(|&(feeding, _)| finish[feeding]).fold(0.0, f64::max);
        finish[task] = ready + arrays.least(task);
    }
    finish.into_iter().fold(0.0, f64::max)
}

/// Returns seconds that no schedule falls below, because processors do one thing at a time.
/// The rate of a processor is the largest ratio of a task's seconds at home to its seconds there:
/// how much of the work at home the processor does in a second, at most.
/// All processors together have `whole` seconds of work at home to do, so the bound is `whole`
/// divided by the sum of the rates.
fn busiest(arrays: &Arrays, home: usize, whole: f64) -> f64 {
    let mut rates = vec![0.0_f64; arrays.devices];
    for task in 0..arrays.tasks {
        let at_home = arrays.seconds(task, home);
        for (device, &seconds) in arrays.row(task).iter().enumerate() {
            if seconds.is_finite() && at_home > 0.0 {
                let rate = &mut rates[arrays.processor[device]];
                *rate = rate.max(at_home / seconds);
            }
        }
    }
    let together: f64 = rates.into_iter().sum();
    if together > 0.0 { whole / together } else { whole }
}

/// Returns the schedule with everything on one device, in the order of the graph.
fn in_list_order(problem: &Problem, device: usize) -> Schedule {
    let arrays = problem.arrays();
    let mut slots = vec![Slot { device: DeviceIndex(device), start: 0.0, finish: 0.0 }; arrays.tasks];
    let mut now = 0.0;
    for &task in &arrays.order {
        let finish = now + arrays.seconds(task, device);
        slots[task] = Slot { device: DeviceIndex(device), start: now, finish };
        now = finish;
    }
    Schedule::new(slots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DeviceSpec, Devices, Link, Task, TaskGraph, TaskId};

    /// Returns a problem of tasks with costs on two devices, in a chain or side by side.
    fn problem(costs: &[[Option<f64>; 2]], devices: [DeviceSpec; 2], chained: bool) -> Problem {
        let devices = Devices::uniform(devices, Link { latency: 0.1, bandwidth: 1e9 }).unwrap();
        let mut graph = TaskGraph::builder(2);
        for (index, seconds) in costs.iter().enumerate() {
            graph.task(Task::new(index.to_string(), *seconds).with_memory(10)).unwrap();
            if index > 0 && chained {
                graph.edge(TaskId(index - 1), TaskId(index), 1).unwrap();
            }
        }
        Problem::new(graph.build().unwrap(), devices).unwrap()
    }

    fn apart() -> [DeviceSpec; 2] {
        ["a", "b"].map(DeviceSpec::new)
    }

    #[test]
    fn one_device_that_others_cannot_help_needs_no_search() {
        let only = problem(&[[Some(1.0), None]; 4], apart(), false);
        let schedule = alone(&only, 0.0).unwrap();
        assert_eq!((schedule.validate(&only), schedule.makespan()), (Ok(()), 4.0));
        // The first is a chain in which the other device is never faster; the second has the same
        // processor under another name.
        assert!(alone(&problem(&[[Some(1.0), Some(1.0)]; 4], apart(), true), 0.0).is_some());
        let shared = ["a", "b"].map(|id| DeviceSpec::new(id).with_processor("host"));
        assert!(alone(&problem(&[[Some(1.0), Some(1.5)]; 4], shared, false), 0.0).is_some());
    }

    /// Checks that streams gain where runs do not: a chain takes no less time on two devices, but
    /// inputs follow each other sooner.
    #[test]
    fn streams_gain_where_runs_do_not() {
        let chain = problem(&[[Some(1.0), Some(1.0)]; 4], apart(), true);
        assert!(alone(&chain, 0.0).is_some() && alone_in_stream(&chain).is_none());
        assert!(alone_in_stream(&problem(&[[Some(1.0), None]; 4], apart(), true)).is_some());
    }

    #[test]
    fn what_may_gain_is_left_to_the_search() {
        assert!(alone(&problem(&[[Some(1.0), Some(1.0)]; 4], apart(), false), 0.25).is_none());
        assert!(alone(&problem(&[[Some(1.0), Some(0.5)], [Some(1.0), Some(2.0)]], apart(), true), 0.1).is_none());
        assert!(alone(&problem(&[[Some(1.0), None], [None, Some(1.0)]], apart(), true), 0.5).is_none());
        let full = [DeviceSpec::new("a").with_memory(15), DeviceSpec::new("b")];
        assert!(alone(&problem(&[[Some(1.0), None], [Some(1.0), Some(9.0)]], full, true), 0.25).is_none());
        // The other device is nine times as slow and saves a tenth, which is within a margin of a
        // quarter and not of a twentieth.
        let slow = problem(&[[Some(1.0), Some(9.0)]; 10], apart(), false);
        assert!(alone(&slow, 0.25).is_some() && alone(&slow, 0.05).is_none());
    }
}
