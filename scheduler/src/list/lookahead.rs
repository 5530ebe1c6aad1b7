//! HEFT that also looks at the tasks behind the task that it places.

use super::{Draft, by_rank};
use crate::error::Error;
use crate::problem::{Partitioner, Problem, Schedule, Slot};

/// The lookahead strategy: it takes tasks in HEFT's order, and gives each to the device for which
/// the last of the tasks that it feeds finishes first, if each of these were placed next where it
/// finishes first.
///
/// The source is Bittencourt, Sakellariou and Madeira, "DAG scheduling using a lookahead variant of
/// the heterogeneous earliest finish time algorithm", 18th Euromicro Conference on Parallel,
/// Distributed and Network-based Processing, 2010.
/// The tasks behind are looked at one by one, as if they did not get in each other's way.
/// It takes O(e·d·p²) time for e edges, p devices and at most d tasks that feed another, besides
/// the search of idle spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookahead;

impl Partitioner for Lookahead {
    fn name(&self) -> &str {
        "lookahead"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        let arrays = problem.arrays();
        let mut placed = vec![false; arrays.tasks];
        let mut draft = Draft::new(problem)?;
        for task in by_rank(problem) {
            let behind = |draft: &Draft<'_>, slot: &Slot| {
                let finish = |&(next, bytes): &(usize, f64)| {
                    let on = |device: usize| {
                        let others = arrays.before.of(next).iter().filter(|(feeding, _)| placed[*feeding]);
                        let arrival = others.map(|&(feeding, bytes)| draft.arrival(feeding, device, bytes));
                        let own = slot.finish + arrays.transfer(slot.device.0, device, bytes);
                        let ready = arrival.fold(own, f64::max);
                        if !ready.is_finite() || !arrays.seconds(next, device).is_finite() {
                            return f64::INFINITY;
                        }
                        // On the same device, `ready` is behind this slot, so the spans that are
                        // free from `ready` on stay free.
                        draft.earliest(next, device, ready).finish
                    };
                    (0..arrays.devices).map(on).fold(f64::INFINITY, f64::min)
                };
                let last = arrays.after.of(task).iter().map(finish).fold(slot.finish, f64::max);
                if last.is_finite() { last } else { f64::MAX }
            };
            draft.place(task, behind)?;
            placed[task] = true;
        }
        Ok(draft.finish())
    }
}
