//! The generalised assignment problem: least total cost within a budget for each device.

use super::answer::{Answer, Incumbent};
use super::core_problem::Core;
use super::record::Record;
use super::start::start;
use super::table::Table;
use super::tree::Tree;

/// The number of rounds in which prices are found.
const ROUNDS: usize = 2000;
/// The steps of the walk in a turn, and the product of the tree's nodes in a turn and the number of
/// devices.
/// A node takes time for each device, so with many devices it is the walk that makes progress.
const STEPS: usize = 1000;
const NODES: usize = 2000;
/// The steps for each job, and the nodes, in which a first assignment is searched for in the first
/// turn; each further turn has twice as many of both.
const FIRST_STEPS: usize = 20;
const FIRST_NODES: u64 = 100;

/// The result of the search for a first assignment: one that keeps the limits, the proof that there
/// is none, or a stop before either.
pub(super) enum First {
    Found(Vec<usize>),
    None,
    Stopped,
}

/// Finds an assignment within the budgets by a search that mends overload and by an exact search,
/// in turns.
pub(super) fn first(table: &Table<1>, core: &Core<1>, seed: u64, stop: &mut dyn FnMut() -> bool) -> First {
    let mut tree = Tree::new(table, core);
    let mut best = Incumbent::NONE;
    for turn in 0_u32.. {
        let scale = 1_usize << turn.min(20);
        if let Some(of) = start(table, core, FIRST_STEPS * scale * table.jobs, seed.wrapping_add(u64::from(turn)), stop)
        {
            return First::Found(of);
        }
        let done = tree.search(FIRST_NODES * scale as u64, &mut best, stop);
        if let Some(of) = best.of {
            return First::Found(of);
        }
        if done {
            return First::None;
        }
        if stop() {
            break;
        }
    }
    First::Stopped
}

/// Finds the cheapest assignment within the budgets.
/// It finds prices by linear relaxation and then a first assignment, which a walk and an exact
/// search improve in turns.
pub(super) fn solve(table: &Table<1>, seed: u64, stop: &mut dyn FnMut() -> bool) -> Answer {
    let mut core = table.core();
    core.price(ROUNDS / 4, table.most());
    let of = match first(table, &core, seed, stop) {
        First::Found(of) => of,
        First::None => return Answer { best: Incumbent::NONE, bound: f64::INFINITY },
        First::Stopped => return Answer { best: Incumbent::NONE, bound: core.bound() },
    };
    let cost = table.total(&of);
    core.price(ROUNDS, cost);
    let relaxed = core.bound();
    let mut best = Incumbent { of: Some(of.clone()), cost };
    let mut tree = Tree::new(table, &core);
    tree.bound_root(&mut best, stop);
    let mut record = Record::new(table, &core, &tree, best.of.clone().unwrap_or(of), seed);
    let done = 'search: loop {
        if table.grain.proves(relaxed, best.cost) {
            break true;
        }
        let before = best.cost;
        if tree.search((NODES / table.devices).max(1) as u64, &mut best, stop) {
            break true;
        }
        if best.cost < before {
            record.restart(&best);
        }
        for _ in 0..STEPS {
            if stop() {
                break 'search false;
            }
            record.step(&mut best, stop);
        }
    };
    let bound = if done { best.cost } else { relaxed.max(tree.bound()).min(best.cost) };
    Answer { best, bound }
}
