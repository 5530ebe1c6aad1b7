//! Branch and bound that solves the generalised assignment problem exactly.

use super::answer::Incumbent;
use super::core_problem::Core;
use super::knapsack::Knapsack;
use super::table::Table;

/// The rounds of subgradient steps at the root, and at each node below it.
const ROOT_ROUNDS: usize = 600;
const ROUNDS: usize = 6;

/// A depth-first search with a Lagrangian bound, in the manner of Posta, Ferland and Michelon ("An
/// exact method with variable fixing for solving the generalized assignment problem", Computational
/// Optimization and Applications 52, 2012).
///
/// The condition that each job is placed once is relaxed at a multiplier for each job; a
/// [`Knapsack`] for each device is left (Fisher, Jaikumar and Van Wassenhove, Management Science
/// 32, 1986).
/// Where the bound with a job forced onto a device reaches the best known value, the device is
/// closed to the job.
/// Where the bound with a job kept off a device does so, the other devices are closed to it.
/// A node costs `ROUNDS` times a knapsack for each device.
pub(super) struct Tree<'a> {
    gap: &'a Table<1>,
    /// The devices that each job may still go to, in a row for each job, and the number of these
    /// devices.
    open: Vec<bool>,
    left: Vec<usize>,
    placed: Vec<Option<usize>>,
    room: Vec<f64>,
    /// The cost of the placed jobs.
    cost: f64,
    multipliers: Vec<f64>,
    knapsacks: Vec<Knapsack>,
    trail: Vec<Change>,
    frames: Vec<Frame>,
    /// The jobs with one device left, which are to be placed there.
    forced: Vec<usize>,
    /// The bound of the current node, which at first is the root.
    bound: f64,
    /// The division of the root, once it is bounded, and the increase of the root's bound by
    /// forcing each job onto each device.
    root: Option<Node>,
    losses: Vec<f64>,
    /// The root's bound and multipliers, and the values of its knapsacks.
    root_bound: f64,
    root_multipliers: Vec<f64>,
    root_values: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Closed(usize, usize),
    Placed(usize, usize),
}

/// A job placed on trial: the changes to undo, and the state to go on with when the device is
/// closed to the job instead.
#[derive(Clone, Debug)]
struct Frame {
    job: usize,
    device: usize,
    mark: usize,
    bound: f64,
    multipliers: Vec<f64>,
}

/// The result of bounding a node.
#[derive(Clone, Copy, Debug)]
enum Node {
    /// No better assignment is below the node.
    Closed,
    /// The node is divided by placing this job on this device, or not.
    Divide(usize, usize),
}

impl<'a> Tree<'a> {
    /// Creates a tree with the multipliers that belong to the core's prices.
    pub(super) fn new(gap: &'a Table<1>, priced: &Core<1>) -> Self {
        let open: Vec<bool> = gap.costs.iter().map(|cost| cost.is_finite()).collect();
        let left: Vec<usize> = open.chunks(gap.devices).map(|row| row.iter().filter(|open| **open).count()).collect();
        let multipliers = (0..gap.jobs)
            .map(|job| {
                priced
                    .of(job)
                    .first()
                    .map_or(0.0, |choice| choice.cost + priced.prices()[choice.device][0] * choice.weights[0])
            })
            .collect();
        Self {
            gap,
            forced: (0..gap.jobs).filter(|&job| left[job] == 1).collect(),
            open,
            left,
            placed: vec![None; gap.jobs],
            room: gap.capacities.iter().map(|capacity| capacity[0]).collect::<Vec<f64>>(),
            cost: 0.0,
            multipliers,
            knapsacks: vec![Knapsack::default(); gap.devices],
            trail: Vec::new(),
            frames: Vec::new(),
            bound: f64::NEG_INFINITY,
            root: None,
            losses: Vec::new(),
            root_bound: f64::NEG_INFINITY,
            root_multipliers: Vec::new(),
            root_values: Vec::new(),
        }
    }

    /// Returns a bound of the whole problem's optimum, given the best known value.
    pub(super) fn bound(&self) -> f64 {
        self.frames.iter().map(|frame| frame.bound).fold(self.bound, f64::min)
    }

    /// Continues the search for `nodes` nodes, or until `stop` returns true.
    /// It returns true once no assignment better than `best` is left: then `best` is the optimum,
    /// or there is none.
    pub(super) fn search(&mut self, nodes: u64, best: &mut Incumbent, stop: &mut dyn FnMut() -> bool) -> bool {
        for _ in 0..nodes {
            if stop() {
                return false;
            }
            self.bound_root(best, stop);
            let node = match self.root.take() {
                Some(node) => node,
                None => self.node(ROUNDS, best, stop),
            };
            match node {
                Node::Divide(job, device) => {
                    let multipliers = self.multipliers.clone();
                    self.frames.push(Frame { job, device, mark: self.trail.len(), bound: self.bound, multipliers });
                    self.place(job, device);
                }
                Node::Closed => {
                    let Some(frame) = self.frames.pop() else {
                        self.bound = best.cost;
                        return true;
                    };
                    self.undo(frame.mark);
                    self.multipliers = frame.multipliers;
                    self.bound = frame.bound;
                    self.close(frame.job, frame.device);
                }
            }
        }
        false
    }

    /// Bounds the root, the first time that it is called.
    pub(super) fn bound_root(&mut self, best: &mut Incumbent, stop: &mut dyn FnMut() -> bool) {
        if self.losses.is_empty() {
            self.losses = vec![f64::INFINITY; self.open.len()];
            self.root = Some(self.node(ROOT_ROUNDS, best, stop));
            self.root_bound = self.bound;
            self.root_multipliers.clone_from(&self.multipliers);
            self.root_values = self.knapsacks.iter().map(Knapsack::value).collect();
        }
    }

    /// Returns the least increase of the root's bound by forcing each job onto each device, in a
    /// row for each job.
    pub(super) fn losses(&self) -> &[f64] {
        &self.losses
    }

    pub(super) fn root_bound(&self) -> f64 {
        self.root_bound
    }

    pub(super) fn root_multipliers(&self) -> &[f64] {
        &self.root_multipliers
    }

    pub(super) fn root_values(&self) -> &[f64] {
        &self.root_values
    }

    fn close(&mut self, job: usize, device: usize) {
        let entry = job * self.gap.devices + device;
        if std::mem::take(&mut self.open[entry]) {
            self.trail.push(Change::Closed(job, device));
            self.left[job] -= 1;
            if self.left[job] <= 1 {
                self.forced.push(job);
            }
        }
    }

    fn place(&mut self, job: usize, device: usize) {
        let gap = self.gap;
        for other in (0..gap.devices).filter(|&other| other != device) {
            self.close(job, other);
        }
        self.placed[job] = Some(device);
        self.trail.push(Change::Placed(job, device));
        self.room[device] -= gap.weights(job, device)[0];
        self.cost += gap.cost(job, device);
        for other in 0..gap.jobs {
            if self.placed[other].is_none()
                && self.open[other * gap.devices + device]
                && gap.weights(other, device)[0] > self.room[device]
            {
                self.close(other, device);
            }
        }
    }

    /// Places the jobs with one device left; returns false where a job has none.
    fn propagate(&mut self) -> bool {
        while let Some(job) = self.forced.pop() {
            if self.placed[job].is_some() {
                continue;
            }
            let row = &self.open[job * self.gap.devices..][..self.gap.devices];
            let Some(device) = row.iter().position(|open| *open) else {
                self.forced.clear();
                return false;
            };
            self.place(job, device);
        }
        true
    }

    fn undo(&mut self, mark: usize) {
        self.forced.clear();
        let gap = self.gap;
        for change in self.trail.drain(mark..).rev() {
            match change {
                Change::Closed(job, device) => {
                    self.open[job * gap.devices + device] = true;
                    self.left[job] += 1;
                }
                Change::Placed(job, device) => {
                    self.placed[job] = None;
                    self.room[device] += gap.weights(job, device)[0];
                }
            }
        }
        self.cost = (0..gap.jobs).filter_map(|job| self.placed[job].map(|device| gap.cost(job, device))).sum();
    }

    /// Bounds the node, closes choices that cannot be better, and returns how to go on.
    fn node(&mut self, rounds: usize, best: &mut Incumbent, stop: &mut dyn FnMut() -> bool) -> Node {
        let mut rounds = rounds;
        loop {
            if !self.propagate() {
                return Node::Closed;
            }
            if !self.relax(rounds, best, stop) {
                return Node::Closed;
            }
            let before = self.trail.len();
            let division = self.fix(best);
            if self.trail.len() == before {
                return division;
            }
            rounds = ROUNDS / 3;
        }
    }

    /// Improves the multipliers; returns false where the bound closes the node.
    /// It keeps the best multipliers, and the knapsacks solved with them.
    fn relax(&mut self, rounds: usize, best: &mut Incumbent, stop: &mut dyn FnMut() -> bool) -> bool {
        let gap = self.gap;
        let open: Vec<usize> = (0..gap.jobs).filter(|&job| self.placed[job].is_none()).collect();
        let mut count = vec![0_i32; gap.jobs];
        let mut kept = self.multipliers.clone();
        let mut highest = f64::NEG_INFINITY;
        let (mut length, mut stale) = (if rounds > ROUNDS { 1.5 } else { 0.7 }, 0);
        let patience = if rounds > ROUNDS { 12 } else { 3 };
        for round in 0..=rounds {
            let value = self.value(&open, &mut count);
            if gap.grain.proves(value, best.cost) {
                return false;
            }
            if value > highest {
                highest = value;
                kept.clone_from(&self.multipliers);
                stale = 0;
            } else {
                stale += 1;
                if stale >= patience {
                    (stale, length) = (0, length * 0.6);
                    self.multipliers.clone_from(&kept);
                }
            }
            let square: i32 = open.iter().map(|&job| (1 - count[job]).pow(2)).sum();
            if square == 0 {
                // Each job is placed once, so nothing better is below this node.
                let mut of: Vec<usize> = self.placed.iter().map(|device| device.unwrap_or(0)).collect();
                for (device, knapsack) in self.knapsacks.iter().enumerate() {
                    knapsack.chosen().for_each(|job| of[job] = device);
                }
                let cost = gap.total(&of);
                if cost <= gap.grain.better_than(best.cost) {
                    *best = Incumbent { of: Some(of), cost };
                }
                if gap.grain.proves(value, best.cost) {
                    return false;
                }
            }
            if rounds > ROUNDS && round % 4 == 0 {
                self.repair(&open, &count, best);
            }
            if round == rounds || length < 0.01 || square == 0 || round % 16 == 15 && stop() {
                break;
            }
            // Where no value is known, the aim is a value well above the bound.
            let aim = if best.cost.is_finite() { best.cost } else { highest + 0.05 * highest.abs() + 1e-9 };
            let step = length * (aim - value).max(0.0) / f64::from(square);
            for &job in &open {
                self.multipliers[job] += step * f64::from(1 - count[job]);
            }
        }
        self.multipliers = kept;
        self.bound = self.bound.max(self.value(&open, &mut count));
        true
    }

    /// Makes an assignment from the items that the knapsacks chose.
    /// A job that several chose stays where it costs least.
    /// A job that none chose goes where it costs least of the devices with room, and the jobs with
    /// most to lose go first.
    fn repair(&mut self, open: &[usize], count: &[i32], best: &mut Incumbent) {
        let gap = self.gap;
        let mut of: Vec<usize> = self.placed.iter().map(|device| device.unwrap_or(usize::MAX)).collect();
        let mut room = self.room.clone();
        for (device, knapsack) in self.knapsacks.iter().enumerate() {
            for job in knapsack.chosen() {
                if of[job] != usize::MAX {
                    let other = of[job];
                    if gap.cost(job, other) <= gap.cost(job, device) {
                        continue;
                    }
                    room[other] += gap.weights(job, other)[0];
                }
                of[job] = device;
                room[device] -= gap.weights(job, device)[0];
            }
        }
        let mut missing: Vec<usize> = open.iter().copied().filter(|&job| count[job] == 0).collect();
        while !missing.is_empty() {
            let mut pick = (f64::NEG_INFINITY, 0, 0);
            for (at, &job) in missing.iter().enumerate() {
                let (mut least, mut second) = ((f64::INFINITY, usize::MAX), f64::INFINITY);
                for (device, room) in room.iter().enumerate() {
                    let cost = gap.cost(job, device);
                    if self.open[job * gap.devices + device] && gap.weights(job, device)[0] <= *room {
                        if cost < least.0 {
                            (second, least) = (least.0, (cost, device));
                        } else {
                            second = second.min(cost);
                        }
                    }
                }
                if least.1 == usize::MAX {
                    return;
                }
                if second - least.0 > pick.0 {
                    pick = (second - least.0, at, least.1);
                }
            }
            let job = missing.swap_remove(pick.1);
            of[job] = pick.2;
            room[pick.2] -= gap.weights(job, pick.2)[0];
        }
        let cost = gap.total(&of);
        if cost <= gap.grain.better_than(best.cost) {
            *best = Incumbent { of: Some(of), cost };
        }
    }

    /// Returns the bound at these multipliers, and counts how often each job is placed in the
    /// solution that attains it.
    fn value(&mut self, open: &[usize], count: &mut [i32]) -> f64 {
        let gap = self.gap;
        count.fill(0);
        let mut value = self.cost + open.iter().map(|&job| self.multipliers[job]).sum::<f64>();
        for (device, knapsack) in self.knapsacks.iter_mut().enumerate() {
            let items = open
                .iter()
                .filter(|&&job| self.open[job * gap.devices + device])
                .map(|&job| (job, self.multipliers[job] - gap.cost(job, device), gap.weights(job, device)[0]));
            value -= knapsack.solve(items, self.room[device]);
            knapsack.chosen().for_each(|job| count[job] += 1);
        }
        value
    }

    /// Closes devices to jobs where the bound allows it, and picks the job and device to divide by:
    /// those where the job's other devices cost most.
    fn fix(&mut self, best: &Incumbent) -> Node {
        let gap = self.gap;
        let (mut pick, mut most) = (None, f64::NEG_INFINITY);
        for job in 0..gap.jobs {
            if self.placed[job].is_some() {
                continue;
            }
            let (mut least, mut second) = ((f64::INFINITY, 0), f64::INFINITY);
            for device in 0..gap.devices {
                let entry = job * gap.devices + device;
                if !self.open[entry] {
                    continue;
                }
                let knapsack = &self.knapsacks[device];
                let loss =
                    knapsack.loss_with(job, self.multipliers[job] - gap.cost(job, device), gap.weights(job, device)[0]);
                if gap.grain.proves(self.bound + loss, best.cost) {
                    self.close(job, device);
                    continue;
                }
                let without = knapsack.loss_without(job);
                if gap.grain.proves(self.bound + without, best.cost) {
                    for other in (0..gap.devices).filter(|&other| other != device) {
                        self.close(job, other);
                    }
                    break;
                }
                if self.frames.is_empty() {
                    self.losses[entry] = loss;
                }
                if loss - without < least.0 {
                    (second, least) = (least.0, (loss - without, device));
                } else {
                    second = second.min(loss - without);
                }
            }
            if self.left[job] > 1 && second - least.0 > most {
                (pick, most) = (Some((job, least.1)), second - least.0);
            }
        }
        match pick {
            Some((job, device)) => Node::Divide(job, device),
            // All jobs are placed, or about to be.
            None => Node::Closed,
        }
    }
}
