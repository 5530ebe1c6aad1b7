//! Scheduling on unrelated machines, R||Cmax: the least makespan, with or without a budget for each
//! device.

use super::answer::{Answer, Incumbent};
use super::core_problem::Core;
use super::gap::{self, First};
use super::table::{Grain, Table};
use super::walk::{Step, Walk};

/// The rounds in which the relaxation is solved, and the number of deadlines that are tried to
/// raise its bound.
const ROUNDS: usize = 400;
const DEADLINES: usize = 12;
/// The steps of the walk for each turn of the exact search, and the nodes of that search's first
/// turn.
const STEPS: usize = 2000;
const NODES: u64 = 20_000;

/// Finds the assignment with the least makespan; `table` has seconds as costs, and budgets as
/// capacities.
///
/// The bound is that of the linear relaxation with a deadline.
/// Jobs are closed to devices on which they take longer than the deadline (Lenstra, Shmoys and
/// Tardos, Mathematical Programming 46, 1990), and subgradient steps improve multipliers of the
/// devices' loads that add up to 1.
/// An assignment better than the best is one in which no device passes a deadline just below the
/// best makespan, so improving it is a question of limits alone.
/// The steps of a [`Walk`] bring one late device after the other below the deadline, and the search
/// of a [`Core`] over all jobs proves the result where the search ends.
pub(super) fn solve(table: &Table<1>, seed: u64, stop: &mut dyn FnMut() -> bool) -> Answer {
    let first = match greedy(table) {
        Some(of) => First::Found(of),
        None => {
            let mut core = table.core();
            core.price(ROUNDS, table.most());
            gap::first(table, &core, seed, stop)
        }
    };
    let mut of = match first {
        First::Found(of) => of,
        First::None => return Answer { best: Incumbent::NONE, bound: f64::INFINITY },
        First::Stopped => return Answer { best: Incumbent::NONE, bound: 0.0 },
    };
    let mut best = Incumbent { cost: makespan(table, &of), of: Some(of.clone()) };
    let mut dual = Dual::new(table);
    let mut bound = lower_bound(table, &mut dual, best.cost, stop);
    let mut nodes = NODES;
    'deadline: while !table.grain.proves(bound, best.cost) {
        // A device on which a job takes longer than the deadline is no choice for the job.
        let deadline = table.grain.better_than(best.cost);
        let Some(mut core) = dual.core(table, deadline) else {
            bound = best.cost;
            break;
        };
        dual.improve(&core, deadline, ROUNDS / 4);
        dual.settle(&mut core);
        if core.bound() > tolerance(deadline) {
            bound = best.cost;
            break;
        }
        let relaxed = deadline_table(table, deadline);
        let mut walk = Walk::new(relaxed, core.prices(), of.clone(), seed ^ nodes);
        let excess: Vec<f64> = (0..table.jobs * table.devices)
            .map(|entry| {
                let [price, other] = core.prices()[entry % table.devices];
                // A device that is closed by the deadline is no choice.
                if table.costs[entry] > deadline {
                    f64::INFINITY
                } else {
                    price * table.costs[entry] + other * table.weights[entry][0]
                }
            })
            .collect();
        walk.rank(&excess, -core.bound() + tolerance(deadline));
        loop {
            for _ in 0..STEPS {
                if stop() {
                    break 'deadline;
                }
                step(&mut walk, deadline);
                if walk.loads.iter().all(|load| load[0] <= deadline) {
                    of.clone_from(&walk.of);
                    let cost = makespan(table, &of);
                    if cost >= best.cost {
                        // The difference is rounding alone, so there is nothing to gain.
                        break 'deadline;
                    }
                    best = Incumbent { cost, of: Some(of.clone()) };
                    continue 'deadline;
                }
            }
            let mut turn = nodes;
            let mut found = None;
            let mut stopped = false;
            // The search runs in slices, so that the time is kept.
            let end = core.search(
                tolerance(deadline),
                &mut turn,
                &mut || {
                    stopped = stop();
                    stopped
                },
                |chosen| {
                    let mut of = vec![0; table.jobs];
                    chosen.for_each(|(job, choice)| of[job] = choice.device);
                    found = Some(of);
                    None
                },
            );
            if let Some(better) = found {
                let cost = makespan(table, &better);
                if cost >= best.cost {
                    break 'deadline;
                }
                best = Incumbent { cost, of: Some(better.clone()) };
                of = better;
                continue 'deadline;
            }
            if end == super::core_problem::End::Exhausted {
                bound = best.cost;
                break 'deadline;
            }
            if stopped {
                break 'deadline;
            }
            nodes = nodes.saturating_mul(2);
        }
    }
    Answer { bound: bound.min(best.cost), best }
}

/// Returns the largest error of sums of prices and loads.
fn tolerance(deadline: f64) -> f64 {
    deadline * 1e-9 + f64::MIN_POSITIVE
}

/// Makes one step: it brings a late device below the deadline, or else moves a job so that the next
/// steps begin from another place.
fn step(walk: &mut Walk<2>, deadline: f64) {
    let devices = walk.table.devices;
    let (loads, spare) = (walk.loads.clone(), tolerance(deadline));
    let late: Vec<usize> = (0..devices).filter(|&device| walk.loads[device][0] > deadline).collect();
    let moved = walk.random.below(3) == 0;
    if moved || late.is_empty() {
        let job = walk.random.below(walk.table.jobs);
        let from = walk.of[job];
        if let Some(to) = walk.target(job) {
            walk.step(&Step { forced: Some(job), from, to, spare, first: true }, |device, capacity| {
                [loads[device][0].max(capacity[0]), capacity[1]]
            });
        }
        return;
    }
    let from = late[walk.random.below(late.len())];
    let job = walk.members[from][walk.random.below(walk.members[from].len())];
    if let Some(to) = walk.target(job) {
        walk.step(&Step { forced: None, from, to, spare, first: true }, |device, capacity| {
            [if device == from { capacity[0] } else { loads[device][0].max(capacity[0]) }, capacity[1]]
        });
    }
}

/// Returns the greatest load of an assignment, in seconds.
pub(super) fn makespan(table: &Table<1>, of: &[usize]) -> f64 {
    let mut loads = vec![0.0; table.devices];
    of.iter().enumerate().for_each(|(job, &device)| loads[device] += table.cost(job, device));
    loads.into_iter().fold(0.0, f64::max)
}

/// Places the jobs one by one, the longest first, each on the device that is done with it first and
/// has room for it; returns `None` where no device has room for a job.
fn greedy(table: &Table<1>) -> Option<Vec<usize>> {
    let shortest = |job: usize| (0..table.devices).map(|device| table.cost(job, device)).fold(f64::INFINITY, f64::min);
    let mut order: Vec<(f64, usize)> = (0..table.jobs).map(|job| (shortest(job), job)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut of = vec![0; table.jobs];
    let mut loads = vec![(0.0, 0.0); table.devices];
    for (_, job) in order {
        let room = |device: usize| loads[device].1 + table.weights(job, device)[0] <= table.capacities[device][0];
        let fitting = (0..table.devices).filter(|&device| table.cost(job, device).is_finite() && room(device));
        let done = |device: usize| loads[device].0 + table.cost(job, device);
        let device = fitting.min_by(|&a, &b| done(a).total_cmp(&done(b)))?;
        loads[device].0 += table.cost(job, device);
        loads[device].1 += table.weights(job, device)[0];
        of[job] = device;
    }
    Some(of)
}

/// Returns a table with costs of zero and two limits: no device passes the deadline, or its budget.
fn deadline_table(table: &Table<1>, deadline: f64) -> Table<2> {
    Table {
        jobs: table.jobs,
        devices: table.devices,
        costs: table.costs.iter().map(|&cost| if cost <= deadline { 0.0 } else { f64::INFINITY }).collect(),
        weights: table.costs.iter().zip(&table.weights).map(|(&cost, weight)| [cost, weight[0]]).collect(),
        capacities: table.capacities.iter().map(|capacity| [deadline, capacity[0]]).collect(),
        grain: Grain::new([0.5].into_iter(), 0.0),
    }
}

/// Returns a bound of the makespan: the bound of the relaxation, raised by the deadlines that the
/// relaxation refutes.
fn lower_bound(table: &Table<1>, dual: &mut Dual, best: f64, stop: &mut dyn FnMut() -> bool) -> f64 {
    let Some(core) = dual.core(table, best) else { return 0.0 };
    dual.improve(&core, best, ROUNDS);
    let mut low = dual.value;
    let mut high = best;
    for _ in 0..DEADLINES {
        let middle = 0.5 * (low + high);
        if stop() || high - low <= 1e-6 * high || table.grain.proves(low, best) {
            break;
        }
        let refuted = match dual.core(table, middle) {
            None => true,
            Some(core) => {
                let mut dual = dual.clone();
                dual.improve(&core, middle * (1.0 + 1e-6), ROUNDS / 4);
                dual.value > middle + tolerance(middle)
            }
        };
        if refuted { low = middle } else { high = middle }
    }
    low
}

/// The multipliers of the devices' loads, which add up to 1, and of their budgets.
#[derive(Clone, Debug)]
struct Dual {
    prices: Vec<[f64; 2]>,
    /// The bound that the multipliers make.
    value: f64,
}

impl Dual {
    fn new(table: &Table<1>) -> Self {
        Self { prices: vec![[1.0 / table.devices as f64, 0.0]; table.devices], value: f64::NEG_INFINITY }
    }

    /// Returns a core of all choices that keep a deadline; `None` where a job has no such choice.
    fn core(&self, table: &Table<1>, deadline: f64) -> Option<Core<2>> {
        let mut core = Core::new(table.capacities.iter().map(|capacity| [deadline, capacity[0]]).collect());
        for job in 0..table.jobs {
            for device in (0..table.devices).filter(|&device| table.cost(job, device) <= deadline) {
                core.choice(device, 0.0, [table.cost(job, device), table.weights(job, device)[0]]);
            }
            if !core.end_job() {
                return None;
            }
        }
        Some(core)
    }

    /// Improves the multipliers for these choices.
    /// It makes subgradient steps of Polyak's length towards `aim`, as in [`Core::price`].
    fn improve(&mut self, core: &Core<2>, aim: f64, rounds: usize) {
        let devices = self.prices.len();
        let mut prices = self.prices.clone();
        self.value = f64::NEG_INFINITY;
        let (mut length, mut stale) = (1.0, 0);
        let scale = aim.max(f64::MIN_POSITIVE);
        for round in 0..=rounds {
            let mut loads = vec![[0.0; 2]; devices];
            let budgets: f64 = (0..devices).map(|device| prices[device][1] * core.free(device)[1]).sum();
            let value = core.cheapest(&prices, &mut loads) - budgets;
            if value > self.value {
                self.value = value;
                self.prices.clone_from(&prices);
                stale = 0;
            } else {
                stale += 1;
                if stale >= 6 {
                    (stale, length) = (0, length * 0.6);
                }
            }
            if round == rounds || length < 1e-4 || self.value > aim {
                break;
            }
            let mean = loads.iter().map(|load| load[0]).sum::<f64>() / devices as f64;
            let mut square = 0.0;
            for (device, load) in loads.iter_mut().enumerate() {
                let free = core.free(device)[1];
                load[0] = (load[0] - mean) / scale;
                load[1] = if free > 0.0 { load[1] / free - 1.0 } else { 0.0 };
                for k in 0..2 {
                    if load[k] < 0.0 && prices[device][k] <= 0.0 {
                        load[k] = 0.0;
                    }
                    square += load[k] * load[k];
                }
            }
            if square <= 0.0 {
                break;
            }
            let step = length * (aim - value).max(0.0) / square;
            let mut sum = 0.0;
            for (device, load) in loads.iter().enumerate() {
                let free = core.free(device)[1];
                prices[device][0] = (prices[device][0] + step * load[0] / scale).max(0.0);
                sum += prices[device][0];
                if free > 0.0 {
                    prices[device][1] = (prices[device][1] + step * load[1] / free).max(0.0);
                }
            }
            if sum <= 0.0 {
                break;
            }
            prices.iter_mut().flatten().for_each(|price| *price /= sum);
        }
    }

    /// Prices a core by these multipliers.
    fn settle(&self, core: &mut Core<2>) {
        core.set_prices(&self.prices);
    }
}
