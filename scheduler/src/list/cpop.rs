//! CPOP: critical path on a processor.

use super::{Draft, by_priority, downward_ranks, upward_ranks};
use crate::error::Error;
use crate::problem::{Partitioner, Problem, Schedule};

/// The CPOP strategy: it runs the critical path, at mean costs, on the one device that takes least
/// for all of it, and gives each other task to the device on which it finishes first.
/// Ready tasks are taken by the length of the longest way through them.
///
/// The source is Topcuoglu, Hariri and Wu, "Performance-effective and low-complexity task
/// scheduling for heterogeneous computing", IEEE Transactions on Parallel and Distributed Systems
/// 13(3), 2002.
/// Beyond the paper, a task that the path's device does not claim, or has no room for, goes where
/// it finishes first.
/// It takes O(e·p) time for e edges and p devices, besides the search of idle spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpop;

impl Partitioner for Cpop {
    fn name(&self) -> &str {
        "cpop"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        let arrays = problem.arrays();
        let (up, down) = (upward_ranks(problem), downward_ranks(problem));
        let priority: Vec<f64> = up.iter().zip(&down).map(|(up, down)| up + down).collect();
        let longest = priority.iter().copied().fold(0.0, f64::max);
        // Sums of the same numbers in another order differ in their last bits.
        let on_path = |task: usize| priority[task] >= longest * (1.0 - 1e-9);
        let mut path = Vec::new();
        let begins = |task: &usize| arrays.before.of(*task).is_empty() && on_path(*task);
        let mut next = (0..arrays.tasks).find(begins);
        while let Some(task) = next {
            path.push(task);
            next = arrays.after.of(task).iter().map(|&(after, _)| after).find(|&after| on_path(after));
        }
        let total = |device: usize| -> (usize, f64) {
            let claimed =
                || path.iter().map(|&task| arrays.seconds(task, device)).filter(|seconds| seconds.is_finite());
            (path.len() - claimed().count(), claimed().sum())
        };
        let order = |&a: &usize, &b: &usize| {
            let (a, b) = (total(a), total(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        };
        let home = (0..arrays.devices).min_by(order);
        let mut critical = vec![false; arrays.tasks];
        path.iter().for_each(|&task| critical[task] = true);

        let mut draft = Draft::new(problem)?;
        for task in by_priority(arrays, &priority) {
            match home.filter(|_| critical[task]) {
                Some(home) => draft.place_at(task, home)?,
                None => draft.place(task, |_, slot| slot.finish)?,
            };
        }
        Ok(draft.finish())
    }
}
