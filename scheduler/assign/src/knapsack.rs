//! An exact solver of the 0-1 knapsack problem.

/// The largest number of states kept at once before the answer is only a bound.
const STATES: usize = 1 << 15;

#[derive(Clone, Copy, Debug)]
struct Item {
    profit: f64,
    weight: f64,
    /// The profit for each unit of weight.
    rate: f64,
    /// The number by which the caller knows the item.
    id: usize,
}

/// A partial choice: its weight and profit, and the last item in which it differs from the choice
/// that it comes from.
#[derive(Clone, Copy, Debug)]
struct State {
    weight: f64,
    profit: f64,
    trace: u32,
}

/// A solver that solves one knapsack after the other, in the same memory.
///
/// It uses dynamic programming over an expanding core (Pisinger, "A minimal algorithm for the 0-1
/// knapsack problem", Operations Research 45, 1997).
/// From the greedy choice on, items around the first one that does not fit are added or removed,
/// nearest first.
/// States that another state dominates, or whose bound does not pass the best value, are dropped.
/// Usually a few items and states suffice; memory depends on states, never on the capacity.
/// Where there would be too many states, [`Knapsack::solve`] returns the bound by linear relaxation
/// instead.
#[derive(Clone, Debug, Default)]
pub(super) struct Knapsack {
    /// The items that fit and bring a profit, by falling profit per weight.
    items: Vec<Item>,
    /// The weight and profit of the items before each item.
    sums: Vec<(f64, f64)>,
    capacity: f64,
    value: f64,
    states: Vec<State>,
    next: Vec<State>,
    /// The step before each kept step, and the item that the kept step changed.
    traces: Vec<(u32, u32)>,
    chosen: Vec<bool>,
    /// The position among the items for each id, or `u32::MAX`.
    positions: Vec<u32>,
}

impl Knapsack {
    /// Finds the greatest profit of items (id, profit, weight) that together weigh no more than the
    /// capacity, or a bound of it.
    /// Ids are small numbers.
    /// Weights and capacity are whole numbers and not negative.
    pub(super) fn solve(&mut self, items: impl Iterator<Item = (usize, f64, f64)>, capacity: f64) -> f64 {
        self.capacity = capacity;
        self.items.clear();
        self.positions.clear();
        for (id, profit, weight) in items {
            if profit > 0.0 && weight <= capacity {
                self.items.push(Item { profit, weight, rate: profit / weight, id });
            }
        }
        self.items.sort_unstable_by(|a, b| b.rate.total_cmp(&a.rate).then(a.id.cmp(&b.id)));
        self.sums.clear();
        let mut sum = (0.0, 0.0);
        self.sums.push(sum);
        for (position, item) in self.items.iter().enumerate() {
            sum = (sum.0 + item.weight, sum.1 + item.profit);
            self.sums.push(sum);
            if self.positions.len() <= item.id {
                self.positions.resize(item.id + 1, u32::MAX);
            }
            self.positions[item.id] = position as u32;
        }
        self.chosen.clear();
        self.chosen.resize(self.items.len(), false);
        let broken = self.breaking(capacity, usize::MAX);
        self.chosen[..broken].fill(true);
        self.value = self.sums[broken].1;
        if broken < self.items.len() && !self.expand(broken) {
            self.value = self.relaxed(capacity, usize::MAX);
        }
        self.value
    }

    /// Returns the last result of [`Knapsack::solve`].
    pub(super) fn value(&self) -> f64 {
        self.value
    }

    /// Returns the ids of the chosen items.
    /// Where [`Knapsack::solve`] found a bound only, the items fit, and bring less than the bound.
    pub(super) fn chosen(&self) -> impl Iterator<Item = usize> {
        self.items.iter().zip(&self.chosen).filter(|(_, chosen)| **chosen).map(|(item, _)| item.id)
    }

    /// Returns how much less than the best any choice brings that contains this item, at least;
    /// infinite where the item does not fit.
    pub(super) fn loss_with(&self, id: usize, profit: f64, weight: f64) -> f64 {
        if weight > self.capacity {
            return f64::INFINITY;
        }
        (self.value - profit - self.relaxed(self.capacity - weight, self.position(id))).max(0.0)
    }

    /// Returns how much less than the best any choice brings that lacks this item, at least.
    pub(super) fn loss_without(&self, id: usize) -> f64 {
        match self.position(id) {
            usize::MAX => 0.0,
            position => (self.value - self.relaxed(self.capacity, position)).max(0.0),
        }
    }

    fn position(&self, id: usize) -> usize {
        match self.positions.get(id) {
            Some(&position) if position != u32::MAX => position as usize,
            _ => usize::MAX,
        }
    }

    /// Returns the position of the first item, in order, that does not fit any more where the item
    /// `without` is left out.
    fn breaking(&self, capacity: f64, without: usize) -> usize {
        let out = self.items.get(without).map_or(0.0, |item| item.weight);
        let fits = |count: usize| self.sums[count].0 - if count > without { out } else { 0.0 } <= capacity;
        let (mut low, mut high) = (0, self.items.len());
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// Returns the greatest profit where items may be cut, and the item `without` is left out
    /// (Dantzig, Operations Research 5, 1957).
    fn relaxed(&self, capacity: f64, without: usize) -> f64 {
        let broken = self.breaking(capacity, without);
        let (mut weight, mut profit) = self.sums[broken];
        if broken > without {
            let item = &self.items[without];
            (weight, profit) = (weight - item.weight, profit - item.profit);
        }
        match self.items.get(broken) {
            Some(item) => profit + (capacity - weight) * item.rate,
            None => profit,
        }
    }

    /// Improves the greedy choice to the best; returns false where that takes too many states.
    fn expand(&mut self, broken: usize) -> bool {
        const START: u32 = u32::MAX;
        let capacity = self.capacity;
        let (weight, profit) = self.sums[broken];
        self.traces.clear();
        self.states.clear();
        self.states.push(State { weight, profit, trace: START });
        // The greedy choice goes on behind the item that does not fit; choices that are found later
        // have to be better.
        let (mut best, mut best_trace) = (profit, START);
        let mut left = capacity - weight;
        for (item, chosen) in self.items.iter().zip(&mut self.chosen).skip(broken) {
            if item.weight <= left {
                left -= item.weight;
                best += item.profit;
                *chosen = true;
            }
        }
        let (mut low, mut high) = (broken, broken);
        let mut add = true;
        while !self.states.is_empty() && (low > 0 || high < self.items.len()) {
            // Items are added and removed in turn, as far as there are items on either side.
            add = if high == self.items.len() {
                false
            } else if low == 0 {
                true
            } else {
                add
            };
            let (item, index, sign) = if add {
                high += 1;
                (self.items[high - 1], high - 1, 1.0)
            } else {
                low -= 1;
                (self.items[low], low, -1.0)
            };
            add = !add;
            let gain = self.items.get(high).map_or(0.0, |item| item.rate);
            let pay = low.checked_sub(1).map_or(f64::INFINITY, |low| self.items[low].rate);
            self.next.clear();
            // Two lists by rising weight, the states and their changed copies, are merged into one
            // list of rising weight and profit.
            let (mut kept, mut changed) = (0, 0);
            let mut top = f64::NEG_INFINITY;
            while kept < self.states.len() || changed < self.states.len() {
                let copy = self
                    .states
                    .get(changed)
                    .map(|state| (state.weight + sign * item.weight, state.profit + sign * item.profit));
                let state = match (self.states.get(kept), copy) {
                    (Some(state), Some(copy)) if (state.weight, -state.profit) <= (copy.0, -copy.1) => {
                        kept += 1;
                        *state
                    }
                    (Some(state), None) => {
                        kept += 1;
                        *state
                    }
                    (_, Some((weight, profit))) => {
                        let from = self.states[changed].trace;
                        changed += 1;
                        if profit <= top {
                            continue;
                        }
                        let bound = profit
                            + if weight <= capacity { (capacity - weight) * gain } else { (capacity - weight) * pay };
                        let better = weight <= capacity && profit > best;
                        if !better && bound <= best {
                            continue;
                        }
                        self.traces.push((from, index as u32));
                        let trace = (self.traces.len() - 1) as u32;
                        if better {
                            (best, best_trace) = (profit, trace);
                        }
                        State { weight, profit, trace }
                    }
                    (None, None) => break,
                };
                let left = capacity - state.weight;
                let bound = state.profit + left * if left >= 0.0 { gain } else { pay };
                if state.profit > top && bound > best {
                    top = state.profit;
                    self.next.push(state);
                }
            }
            std::mem::swap(&mut self.states, &mut self.next);
            if self.states.len() > STATES || self.traces.len() > 32 * STATES {
                return false;
            }
        }
        self.value = best;
        if best_trace != START {
            self.chosen[..broken].fill(true);
            self.chosen[broken..].fill(false);
        }
        while best_trace != START {
            let (before, item) = self.traces[best_trace as usize];
            self.chosen[item as usize] = !self.chosen[item as usize];
            best_trace = before;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn knapsacks_are_as_good_as_trying_all() {
        let mut random = Random::new(7);
        let mut knapsack = Knapsack::default();
        for round in 0..400 {
            let count = random.below(11);
            // In every third round, profit follows weight closely, so that bounds say little.
            let items: Vec<(usize, f64, f64)> = (0..count)
                .map(|id| {
                    let weight = random.below(30);
                    let profit =
                        if round % 3 == 0 { weight as f64 + random.unit() } else { random.unit() * 20.0 - 4.0 };
                    (2 * id, profit, weight as f64)
                })
                .collect();
            let capacity = random.below(120) as f64;
            let best = |forced: Option<usize>, barred: Option<usize>| {
                (0..1_usize << count)
                    .filter(|set| {
                        forced.is_none_or(|at| set >> at & 1 == 1) && barred.is_none_or(|at| set >> at & 1 == 0)
                    })
                    .filter_map(|set| {
                        let chosen = items.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1);
                        let (profit, weight) =
                            chosen.fold((0.0, 0.0), |sum, (_, item)| (sum.0 + item.1, sum.1 + item.2));
                        (weight <= capacity).then_some(profit)
                    })
                    .fold(f64::NEG_INFINITY, f64::max)
            };
            let value = knapsack.solve(items.iter().copied(), capacity);
            let least = best(None, None);
            assert!((value - least).abs() < 1e-9, "{value} instead of {least}: {items:?} in {capacity}");
            let chosen: Vec<usize> = knapsack.chosen().collect();
            let picked = || items.iter().filter(|item| chosen.contains(&item.0));
            assert!((picked().map(|item| item.1).sum::<f64>() - value).abs() < 1e-9);
            assert!(picked().map(|item| item.2).sum::<f64>() <= capacity);
            for (at, &(id, profit, weight)) in items.iter().enumerate() {
                assert!(knapsack.loss_with(id, profit, weight) <= value - best(Some(at), None) + 1e-9);
                assert!(knapsack.loss_without(id) <= value - best(None, Some(at)) + 1e-9);
            }
        }
    }

    #[test]
    fn a_budget_may_be_huge() {
        let mut knapsack = Knapsack::default();
        let unit = (1_u64 << 45) as f64;
        let items = (0..100).map(|id| (id, 1.0 + id as f64, unit * (1 + id % 7) as f64 + id as f64));
        assert!(knapsack.solve(items, 50.0 * unit) > 0.0);
    }
}
