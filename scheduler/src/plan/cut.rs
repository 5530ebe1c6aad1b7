//! The cut of a schedule into partitions.
//!
//! A partition is compiled and run as a whole.
//! It starts when everything that feeds it from elsewhere has arrived, and its results leave when
//! its last task has finished.
//! Few partitions are good, since each costs a launch and hides fusions from its device.
//! Two things can go wrong where tasks are joined: partitions may wait for each other in a circle,
//! and work that was parallel may become serial.
//!
//! The cut avoids both at once.
//! It first brings the tasks into a linear order by start, in which each task stands behind the
//! tasks that feed it, and starts each as early as the order and the devices allow.
//! Then it walks along that order and appends each task to the last partition of its device where
//! the *rule* still holds, and else opens a partition.
//! The rule holds for all edges from a partition X to a partition Y on another device: X finishes
//! early enough for its transfer to arrive before Y starts.
//! A partition starts with its first task and finishes with its last, so this keeps every start of
//! the schedule: the makespan does not grow.
//! No partition starts before the partitions that feed it have finished, so there is no cycle.
//! Where times are equal, because tasks and transfers take no time, positions in the linear order
//! decide.
//!
//! A tile is a partition of its own, so that another device may take it.
//! A task that feeds a group of tiles does not join a task that reads the group
//! ([`levels`](crate::levels)).
//! The level comes before the start in the linear order, as a session too begins a group as a
//! whole.
//! Where the schedule began tiles, or the tasks that read them, earlier, this may lengthen the
//! makespan.
//!
//! The cut takes O(e + v log v) time for v tasks and e edges.
//! It is greedy: it does not always find the fewest partitions that the rule allows, and it does
//! not trade slack that the makespan would leave for fewer partitions.

use crate::problem::{DeviceIndex, Problem, Schedule, TaskId, by_start};

/// A partition in the making: tasks that one device runs as a whole, in the order in which it runs
/// them.
pub(crate) struct Group {
    pub(crate) device: DeviceIndex,
    pub(crate) tasks: Vec<TaskId>,
    first: Moment,
    last: Moment,
    /// The moment that `last` has to lie before, for transfers to arrive in time.
    deadline: Moment,
}

impl Group {
    /// Returns the start, in seconds from the beginning.
    pub(crate) fn start(&self) -> f64 {
        self.first.seconds
    }

    /// Returns the finish, in seconds from the beginning.
    pub(crate) fn finish(&self) -> f64 {
        self.last.seconds
    }
}

/// A moment: a time, and among equal times a position in the linear order of the tasks.
#[derive(Clone, Copy)]
struct Moment {
    seconds: f64,
    position: usize,
}

impl Moment {
    const NEVER: Self = Self { seconds: f64::INFINITY, position: usize::MAX };

    fn before(self, other: Self) -> bool {
        self.seconds < other.seconds || (self.seconds == other.seconds && self.position < other.position)
    }

    fn earlier_by(self, seconds: f64) -> Self {
        Self { seconds: self.seconds - seconds, ..self }
    }

    fn min(self, other: Self) -> Self {
        if other.before(self) { other } else { self }
    }
}

/// Returns the partitions of a valid schedule, each behind the partitions that feed it.
pub(crate) fn cut(problem: &Problem, schedule: &Schedule) -> Vec<Group> {
    let graph = problem.graph();
    let order = by_start(problem, schedule);
    let starts = earliest_starts(problem, schedule, &order);
    let device_of = |id: TaskId| schedule.slots()[id.0].device;
    let transfer = |from: TaskId, to: TaskId, bytes| seconds_between(problem, device_of(from), device_of(to), bytes);

    let mut groups: Vec<Group> = Vec::new();
    let mut group_of = vec![0_usize; graph.len()];
    let mut open: Vec<Option<usize>> = vec![None; problem.devices().len()];
    for &id in &order {
        let (device, (first, last)) = (device_of(id), starts[id.0]);
        let abroad = || graph.predecessors(id).filter(|&(from, _)| device_of(from) != device);
        let joins = |group: &Group| {
            let arrives = |(from, bytes): (TaskId, u64)| {
                let sent = groups[group_of[from.0]].last;
                sent.before(group.first.earlier_by(transfer(from, id, bytes)))
            };
            let like = group
                .tasks
                .last()
                .is_some_and(|&other| graph.known(other).tiles.is_none() && graph.level(other) == graph.level(id));
            like && graph.known(id).tiles.is_none() && last.before(group.deadline) && abroad().all(arrives)
        };
        let processor = problem.devices().processor(device);
        let joined = open[processor.0].filter(|&index| groups[index].device == device && joins(&groups[index]));
        let index = joined.unwrap_or(groups.len());
        if joined.is_none() {
            groups.push(Group { device, tasks: Vec::new(), first, last, deadline: Moment::NEVER });
            open[processor.0] = Some(index);
        }
        group_of[id.0] = index;
        // The tasks that read this one are still to come, and start no earlier than on their own.
        // Where one joins a group that starts earlier, the deadline is lowered then.
        let ahead = graph.successors(id).filter(|&(to, _)| device_of(to) != device);
        let deadline = ahead.map(|(to, bytes)| starts[to.0].0.earlier_by(transfer(id, to, bytes)));
        let group = &mut groups[index];
        group.tasks.push(id);
        group.last = last;
        group.deadline = deadline.fold(group.deadline, Moment::min);
        let starts_at = group.first;
        for (from, bytes) in abroad() {
            let source = &mut groups[group_of[from.0]];
            source.deadline = source.deadline.min(starts_at.earlier_by(transfer(from, id, bytes)));
        }
    }
    groups.sort_by(|a, b| a.start().total_cmp(&b.start()).then(a.first.position.cmp(&b.first.position)));
    groups
}

/// Returns the seconds of a transfer of a valid schedule, in which a value only passes between
/// linked devices.
pub(crate) fn seconds_between(problem: &Problem, from: DeviceIndex, to: DeviceIndex, bytes: u64) -> f64 {
    problem.devices().seconds(from, to, bytes).unwrap_or(0.0)
}

/// Returns the moments at which each task starts and finishes if its device keeps to the order.
fn earliest_starts(problem: &Problem, schedule: &Schedule, order: &[TaskId]) -> Vec<(Moment, Moment)> {
    let graph = problem.graph();
    let mut free = vec![0.0_f64; problem.devices().len()];
    let mut times = vec![(Moment::NEVER, Moment::NEVER); graph.len()];
    for (position, &id) in order.iter().enumerate() {
        let device = schedule.slots()[id.0].device;
        let processor = problem.devices().processor(device);
        let start = graph.predecessors(id).fold(free[processor.0], |start, (from, bytes)| {
            let sent = times[from.0].1.seconds;
            start.max(sent + seconds_between(problem, schedule.slots()[from.0].device, device, bytes))
        });
        let finish = start + graph.known(id).seconds_on(device).unwrap_or(0.0);
        free[processor.0] = finish;
        times[id.0] = (Moment { seconds: start, position }, Moment { seconds: finish, position });
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Heft;
    use crate::problem::{DeviceSpec, Devices, Link, Partitioner, Slot, Task, TaskGraph};

    /// Returns the partitions of tasks, given as (device, seconds), and of edges without bytes,
    /// over links with the given latency.
    /// HEFT schedules the tasks and has no choice.
    fn groups(latency: f64, tasks: &[(usize, f64)], edges: &[(usize, usize)]) -> Vec<(usize, Vec<usize>)> {
        let devices =
            Devices::uniform(["a", "b"].map(DeviceSpec::new), Link { latency, bandwidth: f64::INFINITY }).unwrap();
        let mut graph = TaskGraph::builder(2);
        for (index, &(device, seconds)) in tasks.iter().enumerate() {
            let mut row = [None, None];
            row[device] = Some(seconds);
            graph.task(Task::new(index.to_string(), row)).unwrap();
        }
        for &(from, to) in edges {
            graph.edge(TaskId(from), TaskId(to), 0).unwrap();
        }
        let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
        let schedule = Heft.partition(&problem).unwrap();
        let groups = cut(&problem, &schedule);
        assert_eq!(groups.iter().map(Group::finish).fold(0.0, f64::max), schedule.makespan());
        groups.iter().map(|group| (group.device.0, group.tasks.iter().map(|id| id.0).collect())).collect()
    }

    #[test]
    fn what_runs_on_one_device_is_one_partition() {
        assert_eq!(groups(1.0, &[(0, 1.0), (0, 1.0), (0, 1.0)], &[(0, 1), (0, 2)]), [(0, vec![0, 1, 2])]);
    }

    #[test]
    fn a_detour_makes_three() {
        let expected = [(0, vec![0, 1]), (1, vec![2, 3]), (0, vec![4])];
        let tasks = [(0, 1.0), (0, 1.0), (1, 1.0), (1, 1.0), (0, 1.0)];
        assert_eq!(groups(1.0, &tasks, &[(0, 1), (1, 2), (2, 3), (3, 4)]), expected);
    }

    /// Checks that there is no circle: joined, tasks 0 and 2 would wait for task 1 in a circle;
    /// apart, they do not, even where nothing takes any time.
    #[test]
    fn no_circle_even_where_nothing_takes_time() {
        let expected = [(0, vec![0]), (1, vec![1]), (0, vec![2])];
        assert_eq!(groups(0.0, &[(0, 0.0), (1, 0.0), (0, 0.0)], &[(0, 1), (1, 2), (0, 2)]), expected);
        assert_eq!(groups(1.0, &[(0, 1.0), (1, 1.0), (0, 1.0)], &[(0, 1), (1, 2), (0, 2)]), expected);
    }

    /// Checks a task that is not joined: task 1 could run in one partition with task 0, and task 2
    /// would then start a second later.
    #[test]
    fn what_is_parallel_stays_parallel() {
        let expected = [(0, vec![0]), (0, vec![1]), (1, vec![2])];
        assert_eq!(groups(0.5, &[(0, 1.0), (0, 1.0), (1, 9.0)], &[(0, 1), (0, 2)]), expected);
    }

    /// Checks a wait that costs nothing: task 3 occupies the device of task 2 for so long that task
    /// 2 does not wait for task 1.
    #[test]
    fn a_wait_that_hurts_nobody_is_fine() {
        let expected = [(0, vec![0, 1]), (1, vec![3, 2])];
        assert_eq!(groups(0.5, &[(0, 1.0), (0, 1.0), (1, 1.0), (1, 9.0)], &[(0, 1), (0, 2)])[0], expected[0]);
    }

    /// Checks that tasks are started as early as their order allows, whatever idle time a strategy
    /// leaves.
    #[test]
    fn idle_time_is_taken_out() {
        let devices = Devices::new([DeviceSpec::new("a")]).unwrap();
        let mut graph = TaskGraph::builder(1);
        graph.task(Task::new("x", [Some(1.0)])).unwrap();
        let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
        let late = Schedule::new(vec![Slot { device: DeviceIndex(0), start: 5.0, finish: 6.0 }]);
        assert_eq!(late.validate(&problem), Ok(()));
        assert_eq!(cut(&problem, &late)[0].finish(), 1.0);
    }
}
