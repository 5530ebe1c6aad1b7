//! Stages of a pipeline: placements for streams of inputs.

use std::time::Duration;

use crate::bound::alone_in_stream;
use crate::effort::{Effort, Remaining};
use crate::error::Error;
use crate::list::{Heft, Load, at_homes};
use crate::problem::{Arrays, Partitioner, Problem, Schedule};
use crate::search::Random;

/// The largest numbers of devices that the dynamic program chooses from, and of places where it may
/// cut.
const MOST_STAGES: usize = 6;
const MOST_CUTS: usize = 160;

/// The strategy that finds the least period, and so the most inputs per second of a stream, in
/// which each device and each link is busy with one thing at a time and works on several inputs in
/// turn.
///
/// The period is the longest time that any device or link is busy with one input; how long one
/// input takes from end to end does not matter.
/// A dynamic program finds stages: tasks in topological order are cut into intervals, at most one
/// for each device and within its memory (Benoit and Robert, "Mapping pipeline skeletons onto
/// heterogeneous platforms", Journal of Parallel and Distributed Computing 68, 2008).
/// From these stages, from each device alone and from HEFT's placement, single tasks are moved as
/// long as that shortens the period or spreads the work more evenly.
/// The best placement is then disturbed at random and improved in the same way, until the effort is
/// spent.
///
/// The dynamic program takes O(c²·s·2^s) time for c cuts and s devices, of which there are at most
/// 160 and 6.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// The effort of the search, in which a step is one pass over all tasks.
    pub effort: Effort,
    /// The seed of the random choices.
    pub seed: u64,
}

impl Default for Throughput {
    fn default() -> Self {
        Self { effort: Effort::time(Duration::from_secs(1)), seed: 1 }
    }
}

impl Partitioner for Throughput {
    fn name(&self) -> &str {
        "throughput"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        if let Some(schedule) = alone_in_stream(problem) {
            return Ok(schedule);
        }
        let arrays = problem.arrays();
        let mut remaining = Remaining::of(self.effort);
        let mut random = Random::new(self.seed);
        let mut starts: Vec<Vec<usize>> = Vec::new();
        let heft = Heft.partition(problem);
        if let Ok(schedule) = &heft {
            starts.push(schedule.slots().iter().map(|slot| slot.device.0).collect());
        }
        starts.extend((0..arrays.devices).map(|device| vec![device; arrays.tasks]));
        starts.extend(stages(arrays, &limits(problem)));
        let mut best: Option<Stream<'_>> = None;
        for start in starts {
            let Some(mut stream) = Stream::new(problem, start) else { continue };
            stream.descend(&mut remaining, &mut random);
            if best.as_ref().is_none_or(|best| stream.cost() < best.cost()) {
                best = Some(stream);
            }
        }
        let Some(mut best) = best else { return heft };
        while arrays.tasks > 0 && remaining.step() {
            let mut other = best.clone();
            for _ in 0..1 + random.below(1 + arrays.tasks.min(40) / 4) {
                other.try_move(random.below(arrays.tasks), random.below(arrays.devices), true);
            }
            other.descend(&mut remaining, &mut random);
            if other.cost() < best.cost() {
                best = other;
            }
        }
        at_homes(problem, |task| best.device[task])
    }
}

/// Returns the bytes that each device may hold.
fn limits(problem: &Problem) -> Vec<u64> {
    problem.devices().iter().map(|device| device.memory.unwrap_or(u64::MAX)).collect()
}

/// A placement, and how long it keeps devices and links busy.
#[derive(Clone)]
struct Stream<'a> {
    arrays: &'a Arrays,
    device: Vec<usize>,
    load: Load<'a>,
    /// The busy seconds of each processor, then of each link in a row for each sender.
    busy: Vec<f64>,
}

impl<'a> Stream<'a> {
    /// Creates a stream of a placement; `None` where the placement breaks a limit.
    fn new(problem: &'a Problem, device: Vec<usize>) -> Option<Self> {
        let arrays = problem.arrays();
        let mut load = Load::new(problem);
        let mut busy = vec![0.0; arrays.devices * (arrays.devices + 1)];
        for (task, &on) in device.iter().enumerate() {
            if !load.has_memory(task, on) || !load.has_energy(task, on) {
                return None;
            }
            load.put(task, on);
            busy[arrays.processor[on]] += arrays.seconds(task, on);
            for &(next, bytes) in arrays.after.of(task) {
                busy[arrays.devices * (on + 1) + device[next]] += arrays.transfer(on, device[next], bytes);
            }
        }
        busy.iter().all(|seconds| seconds.is_finite()).then_some(Self { arrays, device, load, busy })
    }

    /// Returns the period and, to compare equal periods, the sum of the squared busy times, which
    /// grows with their unevenness.
    fn cost(&self) -> (f64, f64) {
        (self.busy.iter().copied().fold(0.0, f64::max), self.busy.iter().map(|seconds| seconds * seconds).sum())
    }

    /// Adds the seconds for which a task keeps its processor and links busy, `sign` times.
    fn count(&mut self, task: usize, sign: f64) {
        let (arrays, on) = (self.arrays, self.device[task]);
        self.busy[arrays.processor[on]] += sign * arrays.seconds(task, on);
        for &(next, bytes) in arrays.after.of(task) {
            let there = self.device[next];
            self.busy[arrays.devices * (on + 1) + there] += sign * arrays.transfer(on, there, bytes);
        }
        for &(feeding, bytes) in arrays.before.of(task) {
            let there = self.device[feeding];
            self.busy[arrays.devices * (there + 1) + on] += sign * arrays.transfer(there, on, bytes);
        }
    }

    /// Moves a task to a device, where the move is allowed and, unless `anyway`, better; tells
    /// whether it moved.
    fn try_move(&mut self, task: usize, to: usize, anyway: bool) -> bool {
        let arrays = self.arrays;
        let from = self.device[task];
        let linked = |&(other, bytes): &(usize, f64), sends: bool| {
            let there = self.device[other];
            let seconds = if sends { arrays.transfer(to, there, bytes) } else { arrays.transfer(there, to, bytes) };
            seconds.is_finite()
        };
        if from == to
            || !arrays.seconds(task, to).is_finite()
            || !self.load.lets_move(task, from, to)
            || !arrays.after.of(task).iter().all(|edge| linked(edge, true))
            || !arrays.before.of(task).iter().all(|edge| linked(edge, false))
        {
            return false;
        }
        let before = self.cost();
        let busy = self.busy.clone();
        self.count(task, -1.0);
        self.device[task] = to;
        self.count(task, 1.0);
        let after = self.cost();
        let better = after.0 < before.0 * (1.0 - 1e-12) || (after.0 <= before.0 && after.1 < before.1 * (1.0 - 1e-12));
        if anyway || better {
            self.load.take(task, from);
            self.load.put(task, to);
            return true;
        }
        self.device[task] = from;
        self.busy = busy;
        false
    }

    /// Moves single tasks until no move is better.
    fn descend(&mut self, remaining: &mut Remaining, random: &mut Random) {
        let mut improved = true;
        while improved && remaining.step() {
            improved = false;
            let first = random.below(self.arrays.tasks);
            for index in 0..self.arrays.tasks {
                let task = (first + index) % self.arrays.tasks;
                for device in 0..self.arrays.devices {
                    improved |= self.try_move(task, device, false);
                }
            }
        }
    }
}

/// Returns intervals of the topological order, at most one for each device, with the least period
/// as far as transfers are known.
/// The transfers into an interval count, each over the quickest link.
/// The result is `None` where the devices claim no such division or it does not fit them.
fn stages(arrays: &Arrays, memory: &[u64]) -> Option<Vec<usize>> {
    let count = arrays.tasks;
    // These are the devices that would be the quickest alone.
    let mut devices: Vec<usize> = (0..arrays.devices).collect();
    let total = |device: usize| -> f64 {
        (0..count)
            .map(|task| arrays.seconds(task, device))
            .map(|seconds| if seconds.is_finite() { seconds } else { 0.0 })
            .sum()
    };
    devices.sort_by(|&a, &b| total(a).total_cmp(&total(b)));
    devices.truncate(MOST_STAGES);
    let step = count.div_ceil(MOST_CUTS).max(1);
    let cuts: Vec<usize> = (0..count).step_by(step).chain([count]).collect();
    let mut place = vec![0; count];
    for (index, &task) in arrays.order.iter().enumerate() {
        place[task] = index;
    }
    let ends = cuts.len();
    let sets = 1_usize << devices.len();
    // The least period is that of the tasks before a cut with a set of devices; beside it stands
    // the stage that it ends with.
    let mut least = vec![f64::INFINITY; sets * ends];
    let mut last = vec![(0, 0); sets * ends];
    least.iter_mut().step_by(ends).for_each(|period| *period = 0.0);
    for from in 0..ends {
        for (bit, &device) in devices.iter().enumerate() {
            // The stage begins at this cut and grows in each turn by the tasks before the next cut.
            let (mut seconds, mut arrives, mut held) = (0.0_f64, 0.0_f64, 0_u64);
            for to in from + 1..ends {
                for &task in &arrays.order[cuts[to - 1]..cuts[to]] {
                    seconds += arrays.seconds(task, device);
                    held = held.saturating_add(arrays.memory[task]);
                    let earlier = arrays.before.of(task).iter().filter(|(other, _)| place[*other] < cuts[from]);
                    arrives += earlier.map(|&(other, bytes)| quickest(arrays, other, device, bytes)).sum::<f64>();
                }
                let busy = seconds.max(arrives);
                if !busy.is_finite() || held > memory[device] {
                    break;
                }
                for set in (0..sets).filter(|set| set >> bit & 1 == 0) {
                    let period = least[set * ends + from].max(busy);
                    let entry = (set | 1 << bit) * ends + to;
                    if period < least[entry] {
                        least[entry] = period;
                        last[entry] = (from, bit);
                    }
                }
            }
        }
    }
    let whole = |set: &usize| least[set * ends + ends - 1];
    let mut set = (0..sets).min_by(|a, b| whole(a).total_cmp(&whole(b)))?;
    if !whole(&set).is_finite() {
        return None;
    }
    let mut placement = vec![0; count];
    let mut end = ends - 1;
    while end > 0 {
        let (from, bit) = last[set * ends + end];
        for &task in &arrays.order[cuts[from]..cuts[end]] {
            placement[task] = devices[bit];
        }
        set &= !(1 << bit);
        end = from;
    }
    Some(placement)
}

/// Returns the least seconds of a transfer to a device, from any other device that claims the
/// sending task.
fn quickest(arrays: &Arrays, sender: usize, device: usize, bytes: f64) -> f64 {
    let from = (0..arrays.devices).filter(|&other| other != device && arrays.seconds(sender, other).is_finite());
    from.map(|other| arrays.transfer(other, device, bytes)).fold(f64::INFINITY, f64::min)
}
