//! PEFT: predict earliest finish time.

use super::{Draft, by_priority};
use crate::error::Error;
use crate::problem::{Arrays, Partitioner, Problem, Schedule};

/// The PEFT strategy: it gives each task to the device for which the sum of its finish and of the
/// time that is left behind it is least.
/// The time that is left comes from the optimistic cost table: for each task and device the longest
/// way to the end, if every later task went to the device that suits it best and no device were
/// busy.
/// Ready tasks are taken by the mean of their table entries over the devices.
///
/// The source is Arabnejad and Barbosa, "List scheduling algorithm for heterogeneous systems by an
/// optimistic cost table", IEEE Transactions on Parallel and Distributed Systems 25(3), 2014.
/// The paper has mean transfers in the table; here the transfers are between the two devices, which
/// are known.
/// It takes O(e·p²) time for e edges and p devices, besides the search of idle spans.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peft;

impl Partitioner for Peft {
    fn name(&self) -> &str {
        "peft"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        let arrays = problem.arrays();
        let table = optimistic(arrays);
        let row = |task: usize| &table[task * arrays.devices..][..arrays.devices];
        let mean = |task: usize| {
            let known = || row(task).iter().filter(|seconds| seconds.is_finite());
            known().sum::<f64>() / known().count().max(1) as f64
        };
        let priority: Vec<f64> = (0..arrays.tasks).map(mean).collect();
        let mut draft = Draft::new(problem)?;
        for task in by_priority(arrays, &priority) {
            draft.place(task, |_, slot| slot.finish + row(task)[slot.device.0])?;
        }
        Ok(draft.finish())
    }
}

/// Returns the optimistic cost table, in a row for each task.
/// An entry is infinite where a later task cannot be reached.
pub(crate) fn optimistic(arrays: &Arrays) -> Vec<f64> {
    let count = arrays.devices;
    let mut table = vec![0.0; arrays.tasks * count];
    for &task in arrays.order.iter().rev() {
        for device in 0..count {
            let after = arrays.after.of(task).iter().map(|&(next, bytes)| {
                let ways = (0..count).map(|there| {
                    arrays.transfer(device, there, bytes) + arrays.seconds(next, there) + table[next * count + there]
                });
                ways.fold(f64::INFINITY, f64::min)
            });
            table[task * count + device] = after.fold(0.0, f64::max);
        }
    }
    table
}
