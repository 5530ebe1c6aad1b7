//! List scheduling: tasks are taken one after the other, and each gets a slot that it keeps.

use super::{Domains, Load, Timetable};
use crate::error::Error;
use crate::problem::{Arrays, DeviceIndex, Problem, Schedule, Slot, TaskId};

/// A schedule in the making.
/// A device is passed over where its memory is full, where it spends more energy than the budget
/// has left, or where choosing it would leave another task without a way to its neighbours.
pub(crate) struct Draft<'a> {
    problem: &'a Problem,
    arrays: &'a Arrays,
    domains: Domains<'a>,
    load: Load<'a>,
    /// The timetable of each processor.
    timetables: Vec<Timetable>,
    slots: Vec<Slot>,
    options: Vec<(f64, Slot)>,
}

impl<'a> Draft<'a> {
    /// Creates a draft with no task placed.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where links are missing so that there is no schedule at all.
    pub(crate) fn new(problem: &'a Problem) -> Result<Self, Error> {
        let arrays = problem.arrays();
        Ok(Self {
            problem,
            arrays,
            domains: Domains::new(problem)?,
            load: Load::new(problem),
            timetables: vec![Timetable::default(); arrays.devices],
            slots: vec![Slot { device: DeviceIndex(0), start: 0.0, finish: 0.0 }; arrays.tasks],
            options: Vec::with_capacity(arrays.devices),
        })
    }

    /// Returns the time at which everything that a task waits for has arrived on a device.
    /// The tasks that feed it have their slots already.
    pub(crate) fn ready(&self, task: usize, device: usize) -> f64 {
        let feeding = self.arrays.before.of(task).iter();
        feeding.map(|&(feeding, bytes)| self.arrival(feeding, device, bytes)).fold(0.0, f64::max)
    }

    /// Returns the time at which the output of a task that has its slot arrives on a device.
    pub(crate) fn arrival(&self, from: usize, device: usize, bytes: f64) -> f64 {
        let source = self.slots[from];
        source.finish + self.arrays.transfer(source.device.0, device, bytes)
    }

    /// Returns the first slot for a task on a device, in an idle span between other tasks where one
    /// is long enough.
    pub(crate) fn earliest(&self, task: usize, device: usize, ready: f64) -> Slot {
        let seconds = self.arrays.seconds(task, device);
        let start = self.timetables[self.arrays.processor[device]].earliest(ready, seconds);
        Slot { device: DeviceIndex(device), start, finish: start + seconds }
    }

    /// Gives a task the slot with the least key, among the earliest slots on each device.
    /// Of slots with equal keys it takes the one on the device with the lower number.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Unreachable`] where no device is left for the task.
    pub(crate) fn place(&mut self, task: usize, key: impl Fn(&Self, &Slot) -> f64) -> Result<Slot, Error> {
        let id = TaskId(task);
        let mut options = std::mem::take(&mut self.options);
        options.clear();
        let mut lacks_memory = false;
        for device in 0..self.arrays.devices {
            if !self.domains.allows(id, DeviceIndex(device)) || !self.load.has_energy(task, device) {
                continue;
            }
            if !self.load.has_memory(task, device) {
                lacks_memory = true;
                continue;
            }
            let ready = self.ready(task, device);
            if ready.is_finite() {
                let slot = self.earliest(task, device, ready);
                options.push((key(self, &slot), slot));
            }
        }
        // The sort is stable, so the lower device number comes first among equal keys.
        options.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let chosen = options.iter().map(|(_, slot)| *slot).find(|slot| self.domains.fix(id, slot.device));
        self.options = options;
        let Some(slot) = chosen else {
            let known = self.problem.graph().known(id);
            return Err(if lacks_memory {
                Error::OutOfMemory { task: known.name.clone(), bytes: known.memory }
            } else {
                Error::Unreachable(known.name.clone())
            });
        };
        self.timetables[self.arrays.processor[slot.device.0]].occupy(slot.start, slot.finish);
        self.load.put(task, slot.device.0);
        self.slots[task] = slot;
        Ok(slot)
    }

    /// Gives a task its earliest slot on the device `home`, where that can have it; else the slot
    /// in which it finishes first.
    ///
    /// # Errors
    /// The errors of [`Draft::place`].
    pub(crate) fn place_at(&mut self, task: usize, home: usize) -> Result<Slot, Error> {
        // The home comes before every other device, however late its slot is.
        self.place(task, |_, slot| if slot.device.0 == home { f64::NEG_INFINITY } else { slot.finish })
    }

    /// Returns the schedule, once all tasks are placed.
    pub(crate) fn finish(self) -> Schedule {
        Schedule::new(self.slots)
    }
}

/// Returns the tasks in the order in which they are taken: of the tasks that are ready, the one
/// with the greatest priority comes first.
pub(crate) fn by_priority(arrays: &Arrays, priority: &[f64]) -> Vec<usize> {
    /// A ready task with its priority; the greatest priority comes first, and of equal ones the
    /// task that was added first.
    #[derive(PartialEq)]
    struct Ready(f64, usize);
    impl Eq for Ready {}
    impl Ord for Ready {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
        }
    }
    impl PartialOrd for Ready {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    let mut waits_for: Vec<usize> = (0..arrays.tasks).map(|task| arrays.before.of(task).len()).collect();
    let free = (0..arrays.tasks).filter(|&task| waits_for[task] == 0);
    let mut ready: std::collections::BinaryHeap<Ready> = free.map(|task| Ready(priority[task], task)).collect();
    let mut order = Vec::with_capacity(arrays.tasks);
    while let Some(Ready(_, task)) = ready.pop() {
        order.push(task);
        for &(next, _) in arrays.after.of(task) {
            waits_for[next] -= 1;
            if waits_for[next] == 0 {
                ready.push(Ready(priority[next], next));
            }
        }
    }
    order
}

/// Returns the schedule with the tasks taken in HEFT's order, and each task at its home where that
/// can have it.
///
/// # Errors
/// The errors of [`Draft::place`].
pub(crate) fn at_homes(problem: &Problem, home: impl Fn(usize) -> usize) -> Result<Schedule, Error> {
    let mut draft = Draft::new(problem)?;
    for task in by_rank(problem) {
        draft.place_at(task, home(task))?;
    }
    Ok(draft.finish())
}

/// Returns the upward ranks: the length of the longest way from each task to the end, at mean
/// costs.
pub(crate) fn upward_ranks(problem: &Problem) -> Vec<f64> {
    let arrays = problem.arrays();
    let mut ranks = vec![0.0; arrays.tasks];
    for &task in arrays.order.iter().rev() {
        let below = arrays.after.of(task).iter().map(|&(next, bytes)| problem.mean_transfer(bytes) + ranks[next]);
        ranks[task] = mean_seconds(arrays, task) + below.fold(0.0, f64::max);
    }
    ranks
}

/// Returns the tasks by descending upward rank.
/// Where tasks take no time, ranks are equal to those of their successors, and the topological
/// order decides: each task comes behind the tasks that feed it.
pub(crate) fn by_rank(problem: &Problem) -> Vec<usize> {
    let ranks = upward_ranks(problem);
    let mut order = problem.arrays().order.clone();
    order.sort_by(|&a, &b| ranks[b].total_cmp(&ranks[a]));
    order
}

/// Returns the downward ranks: the length of the longest way from the beginning to each task, at
/// mean costs and without the task itself.
pub(crate) fn downward_ranks(problem: &Problem) -> Vec<f64> {
    let arrays = problem.arrays();
    let mut ranks = vec![0.0; arrays.tasks];
    for &task in &arrays.order {
        let above = arrays
            .before
            .of(task)
            .iter()
            .map(|&(feeding, bytes)| ranks[feeding] + mean_seconds(arrays, feeding) + problem.mean_transfer(bytes));
        ranks[task] = above.fold(0.0, f64::max);
    }
    ranks
}

/// Returns the mean seconds of a task over the devices that claim it.
pub(crate) fn mean_seconds(arrays: &Arrays, task: usize) -> f64 {
    let claims = || arrays.row(task).iter().filter(|seconds| seconds.is_finite());
    // Each cost is divided before the sum, so that the sum cannot overflow.
    let count = claims().count().max(1) as f64;
    claims().map(|seconds| seconds / count).sum()
}
