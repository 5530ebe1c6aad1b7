//! The multiple-choice knapsack problem: least total cost within one budget.

use super::answer::{Answer, Incumbent};
use super::table::Table;

/// The largest numbers of states kept at once and of choices remembered; where more would be
/// needed, the answer has a gap.
const STATES: usize = 1 << 16;
const TRACES: usize = 1 << 22;
/// The trace without a choice, at which all traces end.
const START: u32 = u32::MAX;

/// A choice for a job, with the part of the budget that it takes and its cost.
#[derive(Clone, Copy, Debug)]
struct Choice {
    device: usize,
    weight: f64,
    cost: f64,
    /// The cost above that of the job's cheapest choice, at the budget's price.
    excess: f64,
}

/// A state: some jobs are decided, the others are as in the relaxation.
#[derive(Clone, Copy, Debug)]
struct State {
    weight: f64,
    cost: f64,
    trace: u32,
}

/// Finds the cheapest assignment that takes no more than the budget in all; returns no assignment
/// and an infinite bound where there is none.
///
/// The linear relaxation (Sinha and Zoltners, "The multiple-choice knapsack problem", Operations
/// Research 27, 1979) gives the budget's price, a bound and a first assignment in O(N log N) time
/// for N choices.
/// Dynamic programming then decides the jobs one by one, first the jobs whose second choice costs
/// least at that price (Pisinger, "A minimal algorithm for the multiple-choice knapsack problem",
/// European Journal of Operational Research 83, 1995).
/// States that another state dominates, or that cannot become better than the best assignment, are
/// dropped.
/// Memory depends on the states kept, never on the budget.
pub(super) fn solve(table: &Table<1>, budget: f64, stop: &mut dyn FnMut() -> bool) -> Answer {
    let mut jobs: Vec<Vec<Choice>> = (0..table.jobs).map(|job| efficient(table, job)).collect();
    let relaxed = relax(&jobs, budget);
    let Some(Relaxed { price, base, first }) = relaxed else {
        return Answer { best: Incumbent::NONE, bound: f64::INFINITY };
    };
    let devices =
        |picks: &[usize]| -> Vec<usize> { jobs.iter().zip(picks).map(|(row, &pick)| row[pick].device).collect() };
    let (mut of, base_of) = (devices(&first), devices(&base));
    let mut cost = table.total(&of);
    let mut weight = 0.0;
    let mut bound = -price * budget;
    for (row, &pick) in jobs.iter_mut().zip(&base) {
        let least = row.iter().map(|choice| choice.cost + price * choice.weight).fold(f64::INFINITY, f64::min);
        row.iter_mut().for_each(|choice| choice.excess = choice.cost + price * choice.weight - least);
        bound += least;
        weight += row[pick].weight;
    }
    if table.grain.proves(bound, cost) {
        return Answer { best: Incumbent { of: Some(of), cost }, bound: cost };
    }

    // The second choice of a job is the one with the least excess other than the base.
    // Jobs for which that excess is too large are decided.
    let second = |job: usize| {
        let others = jobs[job].iter().filter(|choice| choice.device != base_of[job]);
        others.map(|choice| choice.excess).fold(f64::INFINITY, f64::min)
    };
    let mut order: Vec<(f64, usize)> = (0..table.jobs).map(|job| (second(job), job)).collect();
    order.retain(|&(excess, _)| bound + excess <= table.grain.better_than(cost));
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));

    let mut states = vec![State { weight, cost: table.total(&base_of), trace: START }];
    let mut traces: Vec<(u32, u32, u32)> = Vec::new();
    let mut best_trace = None;
    // This is the least bound of all states that were dropped for want of room.
    let mut lost = f64::INFINITY;
    let (mut merged, mut next): (Vec<State>, Vec<State>) = (Vec::new(), Vec::new());
    for (position, &(_, job)) in order.iter().enumerate() {
        let further = order.get(position + 1).map_or(f64::INFINITY, |next| next.0);
        let base = jobs[job].iter().find(|choice| choice.device == base_of[job]).copied();
        let Some(base) = base else { continue };
        // Unchanged, every state is itself a state of the job's base choice.
        merged.clone_from(&states);
        for choice in jobs[job].iter().filter(|choice| choice.device != base.device) {
            next.clear();
            let (mut kept, mut changed, mut least) = (0, 0, f64::INFINITY);
            loop {
                let copy = states.get(changed).map(|state| State {
                    weight: state.weight - base.weight + choice.weight,
                    cost: state.cost - base.cost + choice.cost,
                    ..*state
                });
                let state = match (merged.get(kept), copy) {
                    (Some(state), copy)
                        if copy.is_none_or(|copy| (state.weight, state.cost) <= (copy.weight, copy.cost)) =>
                    {
                        kept += 1;
                        *state
                    }
                    (_, Some(mut copy)) => {
                        changed += 1;
                        let allowed = table.grain.better_than(cost);
                        let reachable = copy.cost + price * (copy.weight - budget);
                        if copy.cost >= least || reachable > allowed {
                            continue;
                        }
                        traces.push((copy.trace, job as u32, choice.device as u32));
                        copy.trace = (traces.len() - 1) as u32;
                        if copy.weight <= budget && copy.cost <= allowed {
                            (cost, best_trace) = (copy.cost, Some(copy.trace));
                        }
                        copy
                    }
                    (None, None) => break,
                    // This arm is not reached: where there is no copy, the first arm takes the
                    // state.
                    (Some(_), None) => break,
                };
                if state.cost < least {
                    least = state.cost;
                    next.push(state);
                }
            }
            std::mem::swap(&mut merged, &mut next);
        }
        // An assignment that comes of a state from now on changes a further job, unless it is the
        // state itself.
        let allowed = table.grain.better_than(cost);
        let bound_of = |state: &State| state.cost + price * (state.weight - budget) + further;
        merged.retain(|state| bound_of(state) <= allowed);
        if merged.len() > STATES {
            let mut bounds: Vec<f64> = merged.iter().map(bound_of).collect();
            let (_, &mut most, _) = bounds.select_nth_unstable_by(STATES / 2, f64::total_cmp);
            lost = lost.min(most);
            merged.retain(|state| bound_of(state) < most);
        }
        std::mem::swap(&mut states, &mut merged);
        if states.is_empty() {
            break;
        }
        if traces.len() > TRACES || stop() {
            lost = states.iter().map(bound_of).fold(lost, f64::min);
            break;
        }
    }
    if let Some(mut trace) = best_trace {
        of = base_of;
        while trace != START {
            let (before, job, device) = traces[trace as usize];
            of[job as usize] = device as usize;
            trace = before;
        }
        cost = table.total(&of);
    }
    let bound = if lost.is_finite() { lost.max(bound).min(cost) } else { cost };
    Answer { best: Incumbent { of: Some(of), cost }, bound }
}

/// Returns a job's choices by rising weight and falling cost, without the choices that another
/// dominates.
fn efficient(table: &Table<1>, job: usize) -> Vec<Choice> {
    let mut row: Vec<Choice> = (0..table.devices)
        .map(|device| Choice {
            device,
            weight: table.weights(job, device)[0],
            cost: table.cost(job, device),
            excess: 0.0,
        })
        .filter(|choice| choice.cost.is_finite())
        .collect();
    row.sort_by(|a, b| a.weight.total_cmp(&b.weight).then(a.cost.total_cmp(&b.cost)));
    let mut least = f64::INFINITY;
    row.retain(|choice| {
        let keep = choice.cost < least;
        least = least.min(choice.cost);
        keep
    });
    row
}

/// The result of the linear relaxation.
struct Relaxed {
    /// The cost of a unit of the budget.
    price: f64,
    /// The choice of each job that is cheapest at this price.
    /// Together these are the choices of the relaxation but for the one job that is divided.
    base: Vec<usize>,
    /// A choice for each job; together they are an assignment within the budget.
    first: Vec<usize>,
}

/// Solves the relaxation by steps along each job's lower convex hull, the steepest first; returns
/// `None` where even the lightest choices are above the budget.
fn relax(jobs: &[Vec<Choice>], budget: f64) -> Option<Relaxed> {
    let mut steps: Vec<(f64, usize, usize, usize)> = Vec::new();
    let mut room = budget - jobs.iter().map(|row| row[0].weight).sum::<f64>();
    if room < 0.0 {
        return None;
    }
    let rate = |a: &Choice, b: &Choice| (a.cost - b.cost) / (b.weight - a.weight);
    for (job, row) in jobs.iter().enumerate() {
        let mut hull: Vec<usize> = Vec::new();
        for (index, choice) in row.iter().enumerate() {
            while let [.., before, last] = hull[..]
                && rate(&row[before], &row[last]) <= rate(&row[last], choice)
            {
                hull.pop();
            }
            hull.push(index);
        }
        steps.extend(hull.windows(2).map(|pair| (rate(&row[pair[0]], &row[pair[1]]), job, pair[0], pair[1])));
    }
    // The steps of one job fall in rate, so a stable sort keeps them in their order.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut first = vec![0; jobs.len()];
    let mut base = None;
    for (rate, job, from, to) in steps {
        let weight = jobs[job][to].weight - jobs[job][from].weight;
        if first[job] == from && weight <= room {
            room -= weight;
            first[job] = to;
        } else if base.is_none() {
            base = Some((rate, first.clone()));
        }
    }
    let (price, base) = base.unwrap_or_else(|| (0.0, first.clone()));
    Some(Relaxed { price, base, first })
}
