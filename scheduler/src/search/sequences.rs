//! The order in which each processor runs its tasks, and the times that follow: the state that
//! local search changes.

use super::Random;
use crate::problem::{Arrays, DeviceIndex, Problem, Schedule, Slot, by_start};

const NONE: usize = usize::MAX;

/// The sequences of tasks, one for each processor.
/// Each task starts as early as the task in front of it and the tasks that feed it allow, so the
/// sequences determine the schedule.
/// They are a selection in the disjunctive graph of the problem (Roy and Sussmann, 1964).
///
/// A task's *head* is the longest way to its start, its *tail* the longest way from its finish to
/// the end.
#[derive(Clone, Debug)]
pub(crate) struct Sequences {
    pub(crate) device: Vec<usize>,
    /// The tasks of each processor, in the order in which they run.
    sequence: Vec<Vec<usize>>,
    /// The seconds of each task on its device, and of the transfer along each edge.
    seconds: Vec<f64>,
    transfer: Vec<f64>,
    /// The tasks in front of and behind each task on its processor; `NONE` at the ends.
    in_front: Vec<usize>,
    behind: Vec<usize>,
    pub(crate) head: Vec<f64>,
    pub(crate) tail: Vec<f64>,
    /// All tasks, each behind the tasks that it waits for.
    order: Vec<usize>,
    makespan: f64,
}

impl Sequences {
    /// Returns the sequences of a valid schedule.
    pub(crate) fn of(problem: &Problem, schedule: &Schedule) -> Self {
        let order: Vec<usize> = by_start(problem, schedule).into_iter().map(|id| id.0).collect();
        let device = schedule.slots().iter().map(|slot| slot.device.0).collect();
        Self::in_order(problem.arrays(), device, &order)
    }

    /// Returns the sequences in which each processor runs its tasks in the given order, in which
    /// each task stands behind the tasks that feed it.
    pub(crate) fn in_order(arrays: &Arrays, device: Vec<usize>, order: &[usize]) -> Self {
        let mut sequence = vec![Vec::new(); arrays.devices];
        for &task in order {
            sequence[arrays.processor[device[task]]].push(task);
        }
        let mut sequences = Self {
            seconds: device.iter().enumerate().map(|(task, &device)| arrays.seconds(task, device)).collect(),
            transfer: vec![0.0; arrays.after.len()],
            device,
            sequence,
            in_front: vec![NONE; arrays.tasks],
            behind: vec![NONE; arrays.tasks],
            head: vec![0.0; arrays.tasks],
            tail: vec![0.0; arrays.tasks],
            order: Vec::with_capacity(arrays.tasks),
            makespan: 0.0,
        };
        for processor in 0..arrays.devices {
            sequences.link(processor);
        }
        for task in 0..arrays.tasks {
            sequences.price(arrays, task);
        }
        sequences.evaluate(arrays);
        sequences
    }

    /// Returns the sequences with some tasks on another device, and all tasks in the order in which
    /// they start now.
    pub(crate) fn with_group(&self, arrays: &Arrays, group: &[usize], to: usize) -> Self {
        let mut device = self.device.clone();
        group.iter().for_each(|&task| device[task] = to);
        let mut order = self.order.clone();
        order.sort_by(|&a, &b| self.head[a].total_cmp(&self.head[b]));
        Self::in_order(arrays, device, &order)
    }

    /// Returns the schedule in which each task starts as early as the sequences allow.
    pub(crate) fn schedule(&self, arrays: &Arrays) -> Schedule {
        let slot = |(task, (&device, &start)): (usize, (&usize, &f64))| Slot {
            device: DeviceIndex(device),
            start,
            finish: start + arrays.seconds(task, device),
        };
        Schedule::new(self.device.iter().zip(&self.head).enumerate().map(slot).collect())
    }

    pub(crate) fn makespan(&self) -> f64 {
        self.makespan
    }

    /// Returns the tasks of a processor in the order in which it runs them.
    pub(crate) fn on(&self, processor: usize) -> &[usize] {
        &self.sequence[processor]
    }

    /// Returns the task in front of a task on its processor.
    pub(crate) fn in_front_of(&self, task: usize) -> Option<usize> {
        Some(self.in_front[task]).filter(|&other| other != NONE)
    }

    /// Lists the tasks of a critical path, which is chosen at random where there are several.
    pub(crate) fn critical_path(&self, arrays: &Arrays, random: &mut Random, path: &mut Vec<usize>) {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * self.makespan;
        path.clear();
        let mut ends = 0;
        let mut at = None;
        let mut choose = |task: usize, at: &mut Option<usize>, among: &mut usize| {
            *among += 1;
            if random.below(*among) == 0 {
                *at = Some(task);
            }
        };
        for task in 0..arrays.tasks {
            if close(self.head[task] + self.seconds[task], self.makespan) {
                choose(task, &mut at, &mut ends);
            }
        }
        while let Some(task) = at.take() {
            path.push(task);
            let head = self.head[task];
            let mut among = 0;
            if let Some(ahead) =
                self.in_front_of(task).filter(|&ahead| close(self.head[ahead] + self.seconds[ahead], head))
            {
                choose(ahead, &mut at, &mut among);
            }
            for (feeding, edge) in arrays.before.numbered(task) {
                if close(self.head[feeding] + self.seconds[feeding] + self.transfer[edge], head) {
                    choose(feeding, &mut at, &mut among);
                }
            }
            // Tasks without duration may be at the beginning and in front of one another, so the
            // path is cut at its longest possible length.
            if path.len() > arrays.tasks {
                return;
            }
        }
    }

    /// Looks up the seconds of a task on its device, and those of the transfers to and from it.
    fn price(&mut self, arrays: &Arrays, task: usize) {
        let device = self.device[task];
        self.seconds[task] = arrays.seconds(task, device);
        for (&(other, bytes), (_, edge)) in arrays.before.of(task).iter().zip(arrays.before.numbered(task)) {
            self.transfer[edge] = arrays.transfer(self.device[other], device, bytes);
        }
        for (&(other, bytes), (_, edge)) in arrays.after.of(task).iter().zip(arrays.after.numbered(task)) {
            self.transfer[edge] = arrays.transfer(device, self.device[other], bytes);
        }
    }

    fn link(&mut self, processor: usize) {
        let sequence = &self.sequence[processor];
        for (index, &task) in sequence.iter().enumerate() {
            self.in_front[task] = if index > 0 { sequence[index - 1] } else { NONE };
            self.behind[task] = sequence.get(index + 1).copied().unwrap_or(NONE);
        }
    }

    /// Computes heads, tails and makespan anew.
    /// It returns false where tasks wait for each other in a circle; then the state is not valid.
    pub(crate) fn evaluate(&mut self, arrays: &Arrays) -> bool {
        let mut waits: Vec<u32> = (0..arrays.tasks)
            .map(|task| arrays.before.of(task).len() as u32 + u32::from(self.in_front[task] != NONE))
            .collect();
        self.order.clear();
        self.order.extend((0..arrays.tasks).filter(|&task| waits[task] == 0));
        let mut at = 0;
        while let Some(&task) = self.order.get(at) {
            at += 1;
            for &(next, _) in arrays.after.of(task) {
                waits[next] -= 1;
                if waits[next] == 0 {
                    self.order.push(next);
                }
            }
            if let Some(next) = Some(self.behind[task]).filter(|&next| next != NONE) {
                waits[next] -= 1;
                if waits[next] == 0 {
                    self.order.push(next);
                }
            }
        }
        if self.order.len() < arrays.tasks {
            return false;
        }
        for &task in &self.order {
            let mut head = match self.in_front[task] {
                NONE => 0.0,
                other => self.head[other] + self.seconds[other],
            };
            for (other, edge) in arrays.before.numbered(task) {
                head = head.max(self.head[other] + self.seconds[other] + self.transfer[edge]);
            }
            self.head[task] = head;
        }
        self.makespan = 0.0;
        for &task in self.order.iter().rev() {
            let mut tail = match self.behind[task] {
                NONE => 0.0,
                other => self.seconds[other] + self.tail[other],
            };
            for (other, edge) in arrays.after.numbered(task) {
                tail = tail.max(self.transfer[edge] + self.seconds[other] + self.tail[other]);
            }
            self.tail[task] = tail;
            self.makespan = self.makespan.max(self.head[task] + self.seconds[task] + tail);
        }
        true
    }

    /// Moves a task to a device, to a place among the other tasks of its processor, counted without
    /// the task.
    pub(crate) fn relocate(&mut self, arrays: &Arrays, task: usize, device: usize, place: usize) {
        let (from, to) = (arrays.processor[self.device[task]], arrays.processor[device]);
        self.sequence[from].retain(|&other| other != task);
        if from != to {
            self.link(from);
        }
        let place = place.min(self.sequence[to].len());
        self.sequence[to].insert(place, task);
        self.device[task] = device;
        self.link(to);
        self.price(arrays, task);
    }
}

/// The heads and tails of all tasks but one, computed as if that task did not exist, and the places
/// where it may go.
#[derive(Debug, Default)]
pub(crate) struct Without {
    head: Vec<f64>,
    tail: Vec<f64>,
    /// Whether each task comes behind the omitted task, or before it, along edges and sequences.
    follows: Vec<bool>,
    leads: Vec<bool>,
    makespan: f64,
}

/// A place for a task, with the makespan that it leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) device: usize,
    /// The position among the other tasks of the device's processor.
    pub(crate) place: usize,
    pub(crate) makespan: f64,
    /// The length of the longest way through the task.
    pub(crate) through: f64,
}

impl Without {
    /// Takes a task out and computes the heads and tails without it.
    pub(crate) fn compute(&mut self, sequences: &Sequences, arrays: &Arrays, task: usize) {
        let count = arrays.tasks;
        for list in [&mut self.head, &mut self.tail] {
            list.resize(count, 0.0);
        }
        for list in [&mut self.follows, &mut self.leads] {
            list.clear();
            list.resize(count, false);
        }
        self.makespan = 0.0;
        let (front, back) = (sequences.in_front[task], sequences.behind[task]);
        for &other in &sequences.order {
            if other == task {
                continue;
            }
            let ahead = if other == back { front } else { sequences.in_front[other] };
            let (mut head, mut follows) = match ahead {
                NONE => (0.0, false),
                ahead => (self.head[ahead] + sequences.seconds[ahead], self.follows[ahead]),
            };
            for (feeding, edge) in arrays.before.numbered(other) {
                if feeding == task {
                    follows = true;
                    continue;
                }
                head = head.max(self.head[feeding] + sequences.seconds[feeding] + sequences.transfer[edge]);
                follows |= self.follows[feeding];
            }
            self.head[other] = head;
            self.follows[other] = follows;
        }
        for &other in sequences.order.iter().rev() {
            if other == task {
                continue;
            }
            let next = if other == front { back } else { sequences.behind[other] };
            let (mut tail, mut leads) = match next {
                NONE => (0.0, false),
                next => (sequences.seconds[next] + self.tail[next], self.leads[next]),
            };
            for (fed, edge) in arrays.after.numbered(other) {
                if fed == task {
                    leads = true;
                    continue;
                }
                tail = tail.max(sequences.transfer[edge] + sequences.seconds[fed] + self.tail[fed]);
                leads |= self.leads[fed];
            }
            self.tail[other] = tail;
            self.leads[other] = leads;
            self.makespan = self.makespan.max(self.head[other] + sequences.seconds[other] + tail);
        }
    }

    /// Calls `visit` with each place that a device has for the task.
    /// The makespans are exact, as every way either leads through the task or exists without it.
    ///
    /// (With estimates for heads and tails this is the neighbourhood of Mastrolilli and
    /// Gambardella, "Effective neighbourhood functions for the flexible job shop problem", Journal
    /// of Scheduling 3, 2000.)
    pub(crate) fn places(
        &self,
        sequences: &Sequences,
        arrays: &Arrays,
        task: usize,
        device: usize,
        mut visit: impl FnMut(Place),
    ) {
        let seconds = arrays.seconds(task, device);
        if !seconds.is_finite() {
            return;
        }
        let mut arrival = 0.0_f64;
        for &(feeding, bytes) in arrays.before.of(task) {
            let from = sequences.device[feeding];
            arrival =
                arrival.max(self.head[feeding] + arrays.seconds(feeding, from) + arrays.transfer(from, device, bytes));
        }
        let mut departure = 0.0_f64;
        for &(fed, bytes) in arrays.after.of(task) {
            let to = sequences.device[fed];
            departure = departure.max(arrays.transfer(device, to, bytes) + sequences.seconds[fed] + self.tail[fed]);
        }
        if !(arrival + departure).is_finite() {
            return;
        }
        // The places are behind all tasks that lead to the task, and before all tasks that follow
        // it.
        let mut ahead: Option<usize> = None;
        let others = || sequences.sequence[arrays.processor[device]].iter().copied().filter(|&other| other != task);
        for (place, next) in others().map(Some).chain([None]).enumerate() {
            if !next.is_some_and(|next| self.leads[next]) {
                let head = ahead.map_or(0.0, |ahead| self.head[ahead] + sequences.seconds[ahead]);
                let tail = next.map_or(0.0, |next| sequences.seconds[next] + self.tail[next]);
                let through = head.max(arrival) + seconds + tail.max(departure);
                visit(Place { device, place, makespan: through.max(self.makespan), through });
            }
            if next.is_some_and(|next| self.follows[next]) {
                return;
            }
            ahead = next;
        }
    }
}
