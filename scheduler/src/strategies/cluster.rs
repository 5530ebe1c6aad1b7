//! Clusters: groups of tasks that no sensible plan takes apart, each planned as one task.

use std::cell::OnceCell;

use crate::error::Error;
use crate::problem::{Arrays, Problem, Schedule, Task, TaskGraph, TaskId, by_start};
use crate::search::in_order;

/// The share of a transfer that may be lost by keeping two tasks together.
const TOLERANCE: f64 = 0.02;

/// A problem with fewer tasks, each of which stands for a chain of tasks of another problem.
///
/// A task joins the task that feeds it on three conditions.
/// The feeding task feeds no other task.
/// Both run on the same devices.
/// Changing the device between the two never saves more than a small share of the transfer over
/// changing it behind both: the time gained on the other device is not worth the higher cost of the
/// transfer.
/// This contracts edges as in linear clustering (Kim and Browne, "A general approach to mapping of
/// parallel computations upon multiprocessor architectures", International Conference on Parallel
/// Processing, 1988), but with the costs of both devices instead of a mean.
/// It takes O(e·p²) time for e edges and p devices.
pub(crate) struct Clusters {
    problem: Problem,
    /// The tasks of each cluster, in the order in which they run.
    members: Vec<Vec<usize>>,
}

impl Clusters {
    /// Returns the clusters of a problem; `None` where there are more than nine clusters for ten
    /// tasks.
    pub(crate) fn new(fine: &Problem) -> Option<Self> {
        let arrays = fine.arrays();
        let mut cluster_of = vec![usize::MAX; arrays.tasks];
        let mut members: Vec<Vec<usize>> = Vec::new();
        for &task in &arrays.order {
            // The feeding task ends its cluster, as it feeds no other task.
            let mut ends = arrays.before.of(task).iter().filter(|(feeding, _)| arrays.after.of(*feeding).len() == 1);
            let behind = OnceCell::new();
            let behind = || behind.get_or_init(|| sent(arrays, task)).as_slice();
            let joins = ends.find(|&&(feeding, bytes)| stay_together(arrays, feeding, task, bytes, behind));
            match joins {
                Some(&(feeding, _)) => cluster_of[task] = cluster_of[feeding],
                None => {
                    cluster_of[task] = members.len();
                    members.push(Vec::new());
                }
            }
            members[cluster_of[task]].push(task);
        }
        if members.len() * 10 > arrays.tasks * 9 {
            return None;
        }
        let problem = contracted(fine, &cluster_of, &members).ok()?;
        Some(Self { problem, members })
    }

    /// Returns the problem whose tasks are the clusters.
    pub(crate) fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Returns the schedule of the tasks, from a schedule of the clusters.
    pub(crate) fn expand(&self, fine: &Problem, coarse: &Schedule) -> Schedule {
        let mut device = vec![0; fine.arrays().tasks];
        let mut order = Vec::with_capacity(device.len());
        for cluster in by_start(&self.problem, coarse) {
            for &task in &self.members[cluster.0] {
                device[task] = coarse.slots()[cluster.0].device.0;
                order.push(task);
            }
        }
        // Times are computed anew, because sums of the same numbers in another order differ in
        // their last bits.
        in_order(fine, device, &order)
    }
}

/// Tells whether a change of device between these two tasks is never better than a change behind
/// both.
/// The second task is the only one that the first feeds, and `behind` says what it [`sent`].
fn stay_together<'a>(arrays: &Arrays, first: usize, second: usize, bytes: f64, behind: impl Fn() -> &'a [f64]) -> bool {
    let claims = |task: usize| arrays.row(task).iter().map(|seconds| seconds.is_finite());
    if !claims(first).eq(claims(second)) {
        return false;
    }
    let claimed = || (0..arrays.devices).filter(|&device| arrays.seconds(second, device).is_finite());
    claimed().all(|from| {
        claimed().filter(|&to| to != from).all(|to| {
            let before = arrays.transfer(from, to, bytes);
            let behind = behind()[from * arrays.devices + to];
            let (here, there) = (arrays.seconds(second, from) + behind, before + arrays.seconds(second, to));
            // Where there is no link at all, the device cannot change.
            !before.is_finite() || here <= there + TOLERANCE * before
        })
    })
}

/// Returns the seconds in which all that a task sends passes from one device to another, in a row
/// for each device that sends.
fn sent(arrays: &Arrays, task: usize) -> Vec<f64> {
    let all = |from, to| arrays.after.of(task).iter().map(|&(_, bytes)| arrays.transfer(from, to, bytes)).sum();
    let pairs = (0..arrays.devices).flat_map(|from| (0..arrays.devices).map(move |to| (from, to)));
    pairs.map(|(from, to)| all(from, to)).collect()
}

fn contracted(fine: &Problem, cluster_of: &[usize], members: &[Vec<usize>]) -> Result<Problem, Error> {
    let (arrays, graph) = (fine.arrays(), fine.graph());
    let mut coarse = TaskGraph::builder(arrays.devices);
    let mut ids = Vec::with_capacity(members.len());
    for (number, tasks) in members.iter().enumerate() {
        let seconds = (0..arrays.devices).map(|device| {
            let sum: f64 = tasks.iter().map(|&task| arrays.seconds(task, device)).sum();
            sum.is_finite().then_some(sum)
        });
        let known = || tasks.iter().map(|&task| graph.known(TaskId(task)));
        let mut task = Task::new(number.to_string(), seconds.collect::<Vec<_>>());
        task.memory = known().map(|task| task.memory).fold(0, u64::saturating_add);
        if known().any(|task| !task.joules.is_empty()) {
            let of = |device: usize| known().map(|task| task.joules.get(device).copied().unwrap_or(0.0)).sum();
            task.joules = (0..arrays.devices).map(of).collect();
        }
        ids.push(coarse.task(task)?);
    }
    for (from, to, bytes) in graph.edges() {
        let (from, to) = (cluster_of[from.0], cluster_of[to.0]);
        if from != to {
            coarse.edge(ids[from], ids[to], bytes)?;
        }
    }
    let problem = Problem::new(coarse.build()?, fine.devices().clone())?;
    match fine.energy_budget() {
        Some(joules) => problem.with_energy_budget(joules),
        None => Ok(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Heft;
    use crate::problem::{DeviceSpec, Devices, Link, Partitioner};

    /// Returns a problem for two devices with two heavy tasks, light ones behind them, and a light
    /// one that both feed.
    fn problem(latency: f64) -> Problem {
        let link = Link { latency, bandwidth: 1e9 };
        let devices = Devices::uniform(["a", "b"].map(DeviceSpec::new), link).unwrap();
        let mut graph = TaskGraph::builder(2);
        let costs = [(10.0, 5.0), (0.1, 0.2), (8.0, 9.0), (0.1, 0.3), (0.2, 0.1)];
        for (index, (a, b)) in costs.into_iter().enumerate() {
            graph.task(Task::new(index.to_string(), [Some(a), Some(b)])).unwrap();
        }
        for (from, to) in [(0, 1), (2, 3), (1, 4), (3, 4)] {
            graph.edge(TaskId(from), TaskId(to), 1000).unwrap();
        }
        Problem::new(graph.build().unwrap(), devices).unwrap()
    }

    #[test]
    fn light_tasks_stay_with_what_feeds_them_where_a_transfer_is_dear() {
        let fine = problem(10.0);
        let clusters = Clusters::new(&fine).unwrap();
        assert_eq!(clusters.members, [vec![0, 1, 4], vec![2, 3]]);
        let schedule = Heft.partition(clusters.problem()).unwrap();
        let expanded = clusters.expand(&fine, &schedule);
        assert_eq!(expanded.validate(&fine), Ok(()));
        assert!((expanded.makespan() - schedule.makespan()).abs() < 1e-9);
    }

    #[test]
    fn tasks_that_gain_elsewhere_stay_apart() {
        assert!(Clusters::new(&problem(1e-4)).is_none());
    }
}
