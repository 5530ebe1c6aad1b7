//! The best lower bound within an effort, found by cases over the devices of a few tasks.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{Bounds, PROOF};
use crate::effort::{Effort, Remaining};
use crate::problem::{Arrays, Problem, Schedule};

/// A case: a choice of devices for some tasks, and a bound that no schedule of that kind falls
/// below.
struct Case {
    bound: f64,
    allowed: Vec<bool>,
    fixed: Vec<usize>,
}

impl PartialEq for Case {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Case {}
impl PartialOrd for Case {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Case {
    /// Orders cases by descending bound, so that a heap returns the least bound first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.bound.total_cmp(&self.bound)
    }
}

impl Problem {
    /// Returns a lower bound on the makespan of all schedules of the problem, in seconds.
    /// It is at most the makespan of `schedule`, which is a schedule of this problem, so the two
    /// say how far from the best `schedule` may be.
    /// The bound is tighter with more effort.
    /// It ignores the limits of memory and energy.
    #[must_use]
    pub fn lower_bound(&self, schedule: &Schedule, effort: Effort) -> f64 {
        lower_bound(self.arrays(), schedule.makespan(), &mut Remaining::of(effort))
    }
}

/// Returns a makespan that no schedule falls below; `high` is the makespan of a known schedule.
/// As far as the effort allows, it distinguishes cases by the devices of the tasks with the
/// heaviest transfers.
/// The least bound of all cases holds for the problem.
pub(crate) fn lower_bound(arrays: &Arrays, high: f64, remaining: &mut Remaining) -> f64 {
    let bounds = Bounds::new(arrays);
    let all = bounds.all();
    let root = bounds.between(&all, 0.0, high);
    let weight = weights(arrays);
    let twins = twins(arrays);
    let mut cases = BinaryHeap::from([Case { bound: root, allowed: all, fixed: Vec::new() }]);
    let mut closed = high;
    while let Some(case) = cases.pop() {
        if case.bound >= high * (1.0 - PROOF) {
            return high.min(closed);
        }
        let open = (0..arrays.tasks).filter(|task| !case.fixed.contains(task));
        let next = open.max_by(|&a, &b| weight[a].total_cmp(&weight[b]));
        let Some(task) = next.filter(|_| remaining.step()) else {
            return case.bound.min(closed);
        };
        let row = task * arrays.devices;
        let used = |device: usize| case.fixed.iter().any(|&fixed| case.allowed[fixed * arrays.devices + device]);
        for device in (0..arrays.devices).filter(|&device| case.allowed[row + device]) {
            // Of devices that nothing distinguishes yet, one stands for all.
            if (0..device).any(|other| twins[other * arrays.devices + device] && !used(other) && !used(device)) {
                continue;
            }
            let mut allowed = case.allowed.clone();
            for other in (0..arrays.devices).filter(|&other| other != device) {
                allowed[row + other] = false;
            }
            let bound = bounds.between(&allowed, case.bound, high);
            let fixed = case.fixed.iter().copied().chain([task]).collect();
            if bound >= high * (1.0 - PROOF) {
                closed = closed.min(bound);
            } else {
                cases.push(Case { bound, allowed, fixed });
            }
        }
    }
    closed
}

/// Returns the weight of each task: the seconds of the slowest transfer of each value that it sends
/// or receives, added up.
fn weights(arrays: &Arrays) -> Vec<f64> {
    let far = |bytes: f64| {
        let pairs = (0..arrays.devices).flat_map(|from| (0..arrays.devices).map(move |to| (from, to)));
        let seconds = pairs.map(|(from, to)| arrays.transfer(from, to, bytes)).filter(|seconds| seconds.is_finite());
        seconds.fold(0.0, f64::max)
    };
    let of = |task: usize| {
        let edges = arrays.before.of(task).iter().chain(arrays.after.of(task));
        edges.map(|&(_, bytes)| far(bytes)).sum::<f64>()
    };
    (0..arrays.tasks).map(of).collect()
}

/// Returns the pairs of devices that can change places without changing the problem.
fn twins(arrays: &Arrays) -> Vec<bool> {
    let count = arrays.devices;
    let same_link = |a: (usize, usize), b: (usize, usize)| {
        [0.0, 1.0].iter().all(|&bytes| {
            let seconds = |(from, to): (usize, usize)| arrays.transfer(from, to, bytes);
            seconds(a).total_cmp(&seconds(b)) == Ordering::Equal
        })
    };
    let mut twins = vec![false; count * count];
    for a in 0..count {
        for b in 0..count {
            // A device that shares its processor is no twin, because the devices that it shares
            // with tell it apart.
            let shares = |device: usize| {
                (0..count).any(|other| other != device && arrays.processor[other] == arrays.processor[device])
            };
            let tasks =
                (0..arrays.tasks).all(|task| arrays.seconds(task, a).total_cmp(&arrays.seconds(task, b)).is_eq());
            let others = (0..count).filter(|&other| other != a && other != b);
            let links =
                others.into_iter().all(|other| same_link((a, other), (b, other)) && same_link((other, a), (other, b)));
            twins[a * count + b] = !shares(a) && !shares(b) && tasks && links && same_link((a, b), (b, a));
        }
    }
    twins
}
