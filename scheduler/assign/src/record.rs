//! The walk that finds assignments of least total cost.

use super::answer::Incumbent;
use super::core_problem::Core;
use super::exchange::Exchange;
use super::patterns::Patterns;
use super::pool::Pool;
use super::table::Table;
use super::tree::Tree;
use super::walk::{Step, Walk};

/// The share of the distance between bound and best by which a step may be worse than the best.
const HEAT: f64 = 0.1;
/// The steps without a better assignment after which that share is twice as large, and after which
/// it is as small as at first.
const PATIENCE: f64 = 250.0;
const CYCLE: u32 = 1000;
/// The jobs per device above which sets of jobs are too many to be listed: the sets that one step
/// may need, and the sets that any step may need, which are listed once.
const FEW: usize = 12;
const FEWER: usize = 7;
/// The loss that one device may have in the listed sets, as a multiple of its fair share of the
/// loss of all devices.
const SHARE: f64 = 4.0;
/// The steps without a better assignment after which sets are listed.
const EARLY: u32 = 200;
/// The number of steps of which one, on average, looks beyond the listed sets, in a smaller
/// neighbourhood.
const OTHERS: usize = 4;
/// The number of random jobs of which the one on the worst device is picked.
const PICKS: usize = 3;

/// A walk that goes on from every assignment within a threshold of the best (record-to-record
/// travel; Dueck, Journal of Computational Physics 104, 1993).
///
/// Half of the steps look for an improvement near a device, the other half force a job off its
/// device.
/// Devices that lose much against their best knapsack, at the multipliers of the relaxation, are
/// chosen more often, because only there something can be gained.
/// With few jobs per device, once the walk stays without success, most steps are those of an
/// [`Exchange`], whose neighbourhoods are larger.
pub(super) struct Record {
    walk: Walk<1>,
    patterns: Option<Patterns>,
    exchange: Option<Exchange>,
    cost: f64,
    /// The number of steps since the best assignment was found.
    stale: u32,
    bound: f64,
    losses: Vec<f64>,
    multipliers: Vec<f64>,
    /// The value of each device's best knapsack.
    values: Vec<f64>,
}

impl Record {
    /// Creates a walk that begins with the given assignment.
    /// The tree has bounded its root already.
    pub(super) fn new(table: &Table<1>, core: &Core<1>, tree: &Tree<'_>, of: Vec<usize>, seed: u64) -> Self {
        let (cost, bound) = (table.total(&of), tree.root_bound().max(core.bound()));
        let mut walk = Walk::new(table.clone(), core.prices(), of, seed);
        walk.rank(tree.losses(), cost - bound);
        Self {
            patterns: (table.jobs <= FEW * table.devices).then(Patterns::default),
            exchange: None,
            cost,
            stale: 0,
            bound,
            losses: tree.losses().to_vec(),
            multipliers: tree.root_multipliers().to_vec(),
            values: tree.root_values().to_vec(),
            walk,
        }
    }

    /// Continues from the best assignment, which another search found.
    pub(super) fn restart(&mut self, best: &Incumbent) {
        if let Some(of) = &best.of {
            of.iter().enumerate().for_each(|(job, &device)| self.walk.relocate(job, device));
            self.cost = best.cost;
            self.walk.rank(&self.losses, best.cost - self.bound);
            self.stale = 0;
        }
    }

    /// Makes one step; an assignment that is better than `best` replaces it.
    pub(super) fn step(&mut self, best: &mut Incumbent, stop: &mut dyn FnMut() -> bool) {
        let few = self.walk.table.jobs <= FEWER * self.walk.table.devices;
        if few && self.exchange.is_none() && self.stale >= EARLY {
            let most = SHARE * (best.cost - self.bound) / self.walk.table.devices as f64;
            let pool = Pool::new(&self.walk.table, &self.multipliers, &self.values, most, stop);
            self.exchange = pool.map(|pool| Exchange::new(pool, self.walk.table.jobs));
        }
        let walk = &mut self.walk;
        let grain = walk.table.grain;
        walk.regret.clone_from(&self.values);
        for (job, &device) in walk.of.iter().enumerate() {
            walk.regret[device] -= self.multipliers[job] - walk.table.cost(job, device);
        }
        let mut job = walk.random.below(walk.table.jobs);
        for _ in 1..PICKS {
            let other = walk.random.below(walk.table.jobs);
            if walk.regret[walk.of[other]] > walk.regret[walk.of[job]] {
                job = other;
            }
        }
        let Some(to) = walk.target(job) else { return };
        let from = walk.of[job];
        let step = if walk.random.below(2) == 0 {
            Step { forced: None, from, to, spare: grain.better_than(self.cost) - self.cost, first: false }
        } else {
            let heat = HEAT * (1.0 + f64::from(self.stale % CYCLE) / PATIENCE);
            let worse = heat * (best.cost - self.bound) * walk.random.unit();
            Step { forced: Some(job), from, to, spare: best.cost + worse - self.cost, first: false }
        };
        let exchange = self.exchange.as_mut().filter(|_| walk.random.below(OTHERS) > 0);
        let shared = exchange.and_then(|exchange| exchange.step(walk, &step));
        let moved = match (shared, &mut self.patterns) {
            (Some(moved), _) => moved,
            (None, Some(patterns)) => walk.exchange(&step, patterns, &self.multipliers),
            (None, None) => walk.step(&step, |_, capacity| *capacity),
        };
        self.stale += 1;
        if moved {
            self.cost = walk.table.total(&walk.of);
            if self.cost <= grain.better_than(best.cost) {
                *best = Incumbent { of: Some(walk.of.clone()), cost: self.cost };
                walk.rank(&self.losses, self.cost - self.bound);
                self.stale = 0;
            }
        }
    }
}
