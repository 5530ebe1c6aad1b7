//! A core: jobs, the choices that each has, and a search among them that prices the devices.
//!
//! A price on a device's resource makes a lower bound of the cheapest choices, and gives each other
//! choice an excess over it.
//! Any set of choices then costs the bound, plus the excesses, plus the price of the resources that
//! stay free.
//! So a search only has to spend the difference between the bound and the best known value, and
//! that difference is small.
//! With few jobs it is done in microseconds, on which the neighbourhood searches of this module
//! rely.
//! With many jobs it still ends, and proves the optimum, where the bound is close.

/// A choice: one way to place a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<const K: usize> {
    pub(super) device: usize,
    pub(super) cost: f64,
    /// The amount that the choice takes of each of the device's `K` resources.
    pub(super) weights: [f64; K],
    /// The cost above that of the job's cheapest choice, with resources at their prices.
    excess: f64,
}

/// Jobs to place on devices, of which `K` resources are limited.
#[derive(Clone, Debug)]
pub(super) struct Core<const K: usize> {
    /// The choices of job `j` are those from `starts[j]` up to `starts[j + 1]`.
    starts: Vec<usize>,
    choices: Vec<Choice<K>>,
    free: Vec<[f64; K]>,
    prices: Vec<[f64; K]>,
    bound: f64,
    work: Work<K>,
}

/// The memory of the search, which is kept from one search to the next.
#[derive(Clone, Debug, Default)]
struct Work<const K: usize> {
    /// The jobs in the order of the depths at which they are placed, then the jobs still to place.
    order: Vec<usize>,
    /// The taken choice, the next choice to try, the excess spent above, and the bound without the
    /// job's own excess, for each depth.
    taken: Vec<usize>,
    next: Vec<usize>,
    spent: Vec<f64>,
    others: Vec<f64>,
    /// The free resources of the choice's device before the choice, which are restored so that no
    /// rounding adds up.
    before: Vec<[f64; K]>,
    least: Vec<f64>,
    fill: Vec<[f64; K]>,
}

/// The rounds without a better bound after which steps become shorter.
const PATIENCE: usize = 20;

/// The nodes between two calls of `stop`.
const POLL: u64 = 1024;

/// The way in which a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was searched.
    Exhausted,
    /// The search was told to stop, or had no nodes left.
    Cut,
}

fn fits<const K: usize>(weights: &[f64; K], free: &[f64; K]) -> bool {
    weights.iter().zip(free).all(|(weight, free)| weight <= free)
}

fn dot<const K: usize>(a: &[f64; K], b: &[f64; K]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl<const K: usize> Core<K> {
    /// Creates a core of devices with the given free resources, and no job yet.
    pub(super) fn new(free: Vec<[f64; K]>) -> Self {
        let prices = vec![[0.0; K]; free.len()];
        Self { starts: vec![0], choices: Vec::new(), free, prices, bound: f64::NEG_INFINITY, work: Work::default() }
    }

    /// Forgets jobs and devices, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.starts.truncate(1);
        self.choices.clear();
        self.free.clear();
        self.prices.clear();
    }

    /// Adds a device with its free resources, and a first guess of its prices.
    pub(super) fn device(&mut self, free: [f64; K], prices: [f64; K]) {
        self.free.push(free);
        self.prices.push(prices);
    }

    /// Adds a choice to the current job, where the device has room for it.
    pub(super) fn choice(&mut self, device: usize, cost: f64, weights: [f64; K]) {
        if fits(&weights, &self.free[device]) {
            self.choices.push(Choice { device, cost, weights, excess: 0.0 });
        }
    }

    /// Ends the current job; returns false where it has no choice.
    pub(super) fn end_job(&mut self) -> bool {
        self.starts.push(self.choices.len());
        self.choices_of(self.jobs() - 1).start < self.choices.len()
    }

    pub(super) fn jobs(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn bound(&self) -> f64 {
        self.bound
    }

    /// Returns the free resources of a device.
    pub(super) fn free(&self, device: usize) -> &[f64; K] {
        &self.free[device]
    }

    pub(super) fn prices(&self) -> &[[f64; K]] {
        &self.prices
    }

    /// Returns the choices of a job, the one with the least excess first once they are priced.
    pub(super) fn of(&self, job: usize) -> &[Choice<K>] {
        &self.choices[self.choices_of(job)]
    }

    fn choices_of(&self, job: usize) -> std::ops::Range<usize> {
        self.starts[job]..self.starts[job + 1]
    }

    /// Improves the prices in at most `rounds` rounds, and sets bound and excesses by the best
    /// prices.
    /// It makes subgradient steps of Polyak's length (Held, Wolfe and Crowder, "Validation of
    /// subgradient optimization", Mathematical Programming 6, 1974).
    /// `aim` is a value that the bound is not expected to pass; where the bound reaches it, the
    /// search ends.
    /// Each round looks at each choice once.
    pub(super) fn price(&mut self, rounds: usize, aim: f64) {
        let devices = self.free.len();
        let mut prices = self.prices.clone();
        let mut load = vec![[0.0; K]; devices];
        let (mut length, mut stale) = (1.0, 0);
        self.bound = f64::NEG_INFINITY;
        for round in 0..=rounds {
            let free: f64 = prices.iter().zip(&self.free).map(|(price, free)| dot(price, free)).sum();
            let bound = self.cheapest(&prices, &mut load) - free;
            if bound > self.bound {
                self.bound = bound;
                self.prices.clone_from(&prices);
                stale = 0;
            } else {
                stale += 1;
                if stale >= PATIENCE {
                    (stale, length) = (0, length * 0.7);
                    prices.clone_from(&self.prices);
                }
            }
            if round == rounds || self.bound >= aim || length < 1e-5 {
                break;
            }
            // Loads are measured in capacities, so that devices of different size move alike.
            let mut square = 0.0;
            for device in 0..devices {
                for k in 0..K {
                    let free = self.free[device][k];
                    let over = if free > 0.0 { load[device][k] / free - 1.0 } else { 0.0 };
                    let blocked = over < 0.0 && prices[device][k] <= 0.0;
                    load[device][k] = if blocked { 0.0 } else { over };
                    square += load[device][k] * load[device][k];
                }
            }
            if square <= 0.0 {
                break;
            }
            let step = length * (aim - bound).max(0.0) / square;
            for device in 0..devices {
                for k in 0..K {
                    let free = self.free[device][k];
                    if free > 0.0 {
                        prices[device][k] = (prices[device][k] + step * load[device][k] / free).max(0.0);
                    }
                }
            }
        }
        self.settle();
    }

    /// Returns the total cost of the cheapest choices at these prices, and sets `load` to their
    /// loads of the devices.
    pub(super) fn cheapest(&self, prices: &[[f64; K]], load: &mut [[f64; K]]) -> f64 {
        load.fill([0.0; K]);
        let mut total = 0.0;
        for job in 0..self.jobs() {
            let (mut least, mut cheapest) = (f64::INFINITY, None);
            for choice in self.of(job) {
                let cost = choice.cost + dot(&prices[choice.device], &choice.weights);
                if cost < least {
                    (least, cheapest) = (cost, Some(choice));
                }
            }
            total += least;
            if let Some(choice) = cheapest {
                load[choice.device].iter_mut().zip(&choice.weights).for_each(|(load, weight)| *load += weight);
            }
        }
        total
    }

    /// Takes the given prices, and sets bound and excesses by them.
    pub(super) fn set_prices(&mut self, prices: &[[f64; K]]) {
        self.prices.clear();
        self.prices.extend_from_slice(prices);
        self.settle();
    }

    /// Sets bound and excesses by the current prices, and sorts each job's choices.
    fn settle(&mut self) {
        let prices = &self.prices;
        self.bound = -prices.iter().zip(&self.free).map(|(price, free)| dot(price, free)).sum::<f64>();
        for job in 0..self.starts.len() - 1 {
            let choices = &mut self.choices[self.starts[job]..self.starts[job + 1]];
            for choice in choices.iter_mut() {
                choice.excess = choice.cost + dot(&prices[choice.device], &choice.weights);
            }
            choices.sort_unstable_by(|a, b| a.excess.total_cmp(&b.excess).then(a.device.cmp(&b.device)));
            let least = choices.first().map_or(f64::INFINITY, |choice| choice.excess);
            self.bound += least;
            choices.iter_mut().for_each(|choice| choice.excess -= least);
        }
    }

    /// Searches depth first for choices that keep the limits and cost less than `below`.
    /// Each set of choices that is found is handed to `found` as jobs with their choices.
    /// `found` returns the cost that the next set has to be less than, or `None` to stop the
    /// search.
    /// The nodes that the search uses are taken from `nodes`.
    ///
    /// Each node looks at every open job.
    /// Its bound is made of the cheapest choices that still fit, and of the price of the resources
    /// that no job can fill any more.
    /// The job with the most regret is placed next.
    pub(super) fn search(
        &mut self,
        below: f64,
        nodes: &mut u64,
        stop: &mut dyn FnMut() -> bool,
        mut found: impl FnMut(&mut dyn Iterator<Item = (usize, &Choice<K>)>) -> Option<f64>,
    ) -> End {
        let jobs = self.jobs();
        let mut work = std::mem::take(&mut self.work);
        work.order.clear();
        work.order.extend(0..jobs);
        for (list, length) in [(&mut work.taken, jobs), (&mut work.next, jobs)] {
            list.clear();
            list.resize(length, 0);
        }
        for list in [&mut work.spent, &mut work.others, &mut work.least] {
            list.clear();
            list.resize(jobs + 1, 0.0);
        }
        work.before.clear();
        work.before.resize(jobs, [0.0; K]);
        let mut limit = below - self.bound;
        let mut end = End::Exhausted;
        let mut depth = 0;
        if self.look(&mut work, 0, limit) {
            'all: loop {
                let job = work.order[depth];
                let last = self.starts[job + 1];
                let mut deeper = false;
                while work.next[depth] < last {
                    let index = work.next[depth];
                    let Choice { device, weights, excess, .. } = self.choices[index];
                    if work.others[depth] + excess >= limit {
                        break;
                    }
                    work.next[depth] += 1;
                    if !fits(&weights, &self.free[device]) {
                        continue;
                    }
                    if *nodes == 0 || (*nodes).is_multiple_of(POLL) && stop() {
                        end = End::Cut;
                        break 'all;
                    }
                    *nodes -= 1;
                    work.taken[depth] = index;
                    work.before[depth] = self.free[device];
                    self.free[device].iter_mut().zip(&weights).for_each(|(free, weight)| *free -= weight);
                    work.spent[depth + 1] = work.spent[depth] + excess;
                    if depth + 1 == jobs {
                        let idle: f64 = self.prices.iter().zip(&self.free).map(|(price, free)| dot(price, free)).sum();
                        if work.spent[jobs] + idle < limit {
                            let choices = &self.choices;
                            let mut chosen = work.order.iter().zip(&work.taken).map(|(&job, &at)| (job, &choices[at]));
                            match found(&mut chosen) {
                                Some(below) => limit = limit.min(below - self.bound),
                                None => end = End::Cut,
                            }
                        }
                    } else if self.look(&mut work, depth + 1, limit) {
                        deeper = true;
                        break;
                    }
                    self.free[device] = work.before[depth];
                    if end == End::Cut {
                        break 'all;
                    }
                }
                if deeper {
                    depth += 1;
                } else if depth == 0 {
                    break;
                } else {
                    depth -= 1;
                    self.free[self.choices[work.taken[depth]].device] = work.before[depth];
                }
            }
        }
        // Where the search was cut, the choices above are still taken.
        if end == End::Cut {
            for (&index, &before) in work.taken[..depth].iter().zip(&work.before).rev() {
                self.free[self.choices[index].device] = before;
            }
        }
        self.work = work;
        end
    }

    /// Computes the bound of a node, and chooses the job to place there; returns false where the
    /// bound reaches the limit.
    fn look(&self, work: &mut Work<K>, depth: usize, limit: f64) -> bool {
        let mut total = work.spent[depth];
        let (mut pick, mut most) = (depth, f64::NEG_INFINITY);
        for position in depth..work.order.len() {
            let job = work.order[position];
            let (mut least, mut second) = (f64::INFINITY, f64::INFINITY);
            for choice in self.of(job) {
                if fits(&choice.weights, &self.free[choice.device]) {
                    if least == f64::INFINITY {
                        least = choice.excess;
                    } else {
                        second = choice.excess;
                        break;
                    }
                }
            }
            total += least;
            if total >= limit {
                return false;
            }
            work.least[job] = least;
            if second - least > most {
                (pick, most) = (position, second - least);
            }
        }
        work.fill.clone_from(&self.free);
        for &job in &work.order[depth..] {
            let rest = total - work.least[job];
            for choice in self.of(job) {
                if rest + choice.excess >= limit {
                    break;
                }
                let free = &self.free[choice.device];
                if fits(&choice.weights, free) {
                    work.fill[choice.device].iter_mut().zip(&choice.weights).for_each(|(fill, weight)| *fill -= weight);
                }
            }
        }
        for (fill, price) in work.fill.iter().zip(&self.prices) {
            total += fill.iter().zip(price).map(|(fill, price)| fill.max(0.0) * price).sum::<f64>();
        }
        if total >= limit {
            return false;
        }
        work.order.swap(depth, pick);
        let job = work.order[depth];
        work.next[depth] = self.starts[job];
        work.others[depth] = total - work.least[job];
        true
    }
}
