//! HEFT: heterogeneous earliest finish time.

use super::{Draft, by_rank};
use crate::error::Error;
use crate::problem::{Partitioner, Problem, Schedule};

/// The HEFT strategy: it takes tasks by descending upward rank and gives each to the device on
/// which it finishes first, in an idle span between other tasks where one is long enough.
/// The upward rank is the length of the longest way from a task to the end at mean costs.
///
/// The source is Topcuoglu, Hariri and Wu, "Performance-effective and low-complexity task
/// scheduling for heterogeneous computing", IEEE Transactions on Parallel and Distributed Systems
/// 13(3), 2002.
/// Means are over the devices that claim a task and over the existing links.
/// Beyond the paper, a device is passed over where its memory is full, or where choosing it would
/// leave another task without a way to its neighbours.
///
/// It takes O(e·p) time for e edges and p devices, besides the search of idle spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heft;

impl Partitioner for Heft {
    fn name(&self) -> &str {
        "heft"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        let mut draft = Draft::new(problem)?;
        for task in by_rank(problem) {
            draft.place(task, |_, slot| slot.finish)?;
        }
        Ok(draft.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::upward_ranks;
    use crate::problem::{DeviceIndex, DeviceSpec, Devices, Link, Task, TaskGraph, TaskId};

    /// Returns the example of the paper: costs of ten tasks on three processors, and seconds
    /// between them.
    fn paper() -> Problem {
        const COSTS: [[u8; 3]; 10] = [
            [14, 16, 9],
            [13, 19, 18],
            [11, 13, 19],
            [13, 8, 17],
            [12, 13, 10],
            [13, 16, 9],
            [7, 15, 11],
            [5, 11, 14],
            [18, 12, 20],
            [21, 7, 16],
        ];
        const EDGES: [(usize, usize, u64); 15] = [
            (1, 2, 18),
            (1, 3, 12),
            (1, 4, 9),
            (1, 5, 11),
            (1, 6, 14),
            (2, 8, 19),
            (2, 9, 16),
            (3, 7, 23),
            (4, 8, 27),
            (4, 9, 23),
            (5, 9, 13),
            (6, 8, 15),
            (7, 10, 17),
            (8, 10, 11),
            (9, 10, 13),
        ];
        let devices =
            Devices::uniform(["p1", "p2", "p3"].map(DeviceSpec::new), Link { latency: 0.0, bandwidth: 1.0 }).unwrap();
        let mut graph = TaskGraph::builder(3);
        let ids: Vec<TaskId> = COSTS
            .iter()
            .enumerate()
            .map(|(index, costs)| {
                graph.task(Task::new(format!("n{}", index + 1), costs.map(|cost| Some(f64::from(cost))))).unwrap()
            })
            .collect();
        for (from, to, seconds) in EDGES {
            graph.edge(ids[from - 1], ids[to - 1], seconds).unwrap();
        }
        Problem::new(graph.build().unwrap(), devices).unwrap()
    }

    #[test]
    fn the_example_of_the_paper_takes_eighty() {
        let problem = paper();
        let schedule = Heft.partition(&problem).unwrap();
        assert_eq!(schedule.validate(&problem), Ok(()));
        assert_eq!(schedule.makespan(), 80.0);
    }

    #[test]
    fn ranks_are_those_of_the_paper() {
        let expected = [108.0, 77.0, 80.0, 80.0, 69.0, 63.333, 42.667, 35.667, 44.333, 14.667];
        for (rank, expected) in upward_ranks(&paper()).into_iter().zip(expected) {
            assert!((rank - expected).abs() < 1e-3, "{rank} {expected}");
        }
    }

    #[test]
    fn one_device_is_the_smallest_case() {
        let mut graph = TaskGraph::builder(1);
        let a = graph.task(Task::new("a", [Some(0.0)])).unwrap();
        let b = graph.task(Task::new("b", [Some(2.0)])).unwrap();
        let c = graph.task(Task::new("c", [Some(0.5)])).unwrap();
        graph.edge(a, b, 1 << 40).unwrap();
        graph.edge(a, c, 0).unwrap();
        let problem = Problem::new(graph.build().unwrap(), Devices::new([DeviceSpec::new("cpu:0")]).unwrap()).unwrap();
        let schedule = Heft.partition(&problem).unwrap();
        assert_eq!(schedule.validate(&problem), Ok(()));
        assert_eq!(schedule.makespan(), 2.5);
        let nothing = Problem::new(TaskGraph::builder(1).build().unwrap(), problem.devices().clone()).unwrap();
        assert_eq!(Heft.partition(&nothing).unwrap().makespan(), 0.0);
    }

    fn chosen(problem: &Problem) -> Vec<usize> {
        let schedule = Heft.partition(problem).unwrap();
        schedule.validate(problem).unwrap();
        schedule.slots().iter().map(|slot| slot.device.0).collect()
    }

    #[test]
    fn full_devices_are_passed_over() {
        let devices = [DeviceSpec::new("gpu:0").with_memory(15), DeviceSpec::new("cpu:0").with_memory(15)];
        let devices = Devices::uniform(devices, Link { latency: 0.0, bandwidth: f64::INFINITY }).unwrap();
        let problem = |tasks: usize| {
            let mut graph = TaskGraph::builder(2);
            for index in 0..tasks {
                graph.task(Task::new(format!("t{index}"), [Some(1.0), Some(9.0)]).with_memory(10)).unwrap();
            }
            Problem::new(graph.build().unwrap(), devices.clone()).unwrap()
        };
        assert_eq!(chosen(&problem(2)), [0, 1]);
        let error = Heft.partition(&problem(3)).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { bytes: 10, .. }), "{error}");
    }

    /// Checks a problem of two GPUs that only the CPU reaches.
    /// Each of the first two tasks would be fastest on a GPU of its own, and the third, which reads
    /// both, runs on GPUs only.
    #[test]
    fn no_task_is_cut_off_where_links_are_missing() {
        let mut devices = Devices::new(["cpu:0", "gpu:0", "gpu:1"].map(DeviceSpec::new)).unwrap();
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
            devices.connect(DeviceIndex(from), DeviceIndex(to), Link { latency: 0.1, bandwidth: 1e9 }).unwrap();
        }
        let mut graph = TaskGraph::builder(3);
        let a = graph.task(Task::new("a", [Some(9.0), Some(1.0), Some(8.0)])).unwrap();
        let b = graph.task(Task::new("b", [Some(9.0), Some(8.0), Some(1.0)])).unwrap();
        let c = graph.task(Task::new("c", [None, Some(1.0), Some(1.0)])).unwrap();
        graph.edge(a, c, 1).unwrap();
        graph.edge(b, c, 1).unwrap();
        let graph = graph.build().unwrap();
        let linked = Problem::new(graph.clone(), devices.clone()).unwrap();
        assert_eq!(chosen(&linked)[0], chosen(&linked)[2]);

        let mut apart = TaskGraph::builder(3);
        let a = apart.task(Task::new("a", [None, Some(1.0), None])).unwrap();
        let b = apart.task(Task::new("b", [None, None, Some(1.0)])).unwrap();
        apart.edge(a, b, 0).unwrap();
        let apart = Problem::new(apart.build().unwrap(), devices).unwrap();
        assert!(matches!(Heft.partition(&apart), Err(Error::Unreachable(_))));
    }
}
