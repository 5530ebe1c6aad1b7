//! Everything from a model's file to its first run takes effort in proportion to the model, however
//! the model is large.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod counting;
mod grown;
mod synthetic;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use counting::{Counting, Effort, PHASES, measure, measure_on};
use grown::FAMILIES;
use hetero::hal::{Definition, Operator, OperatorSet};
use hetero::passes::{self, PassContext};
use hetero::{Binding, Model};
use hetero_reference::Standard;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The lock by which tests run alone: tests that count would count each other's allocations.
static ALONE: Mutex<()> = Mutex::new(());

/// The sizes that are compared for allocations: the larger is four times the smaller.
/// Lists that double come to the same share of their room at both.
const SIZES: [usize; 2] = [4096, 16_384];
/// The sizes where planning divides them among several devices, which takes longer.
const SIZES_ON_THREE: [usize; 2] = [2048, 8192];
/// The most that four times the nodes may take.
const MOST: f64 = 4.4;
/// The allocations and bytes that count as none: a phase may have a few that depend on threads.
const NOTHING: [usize; 2] = [64, 65536];

#[test]
fn four_times_the_nodes_take_four_times_the_allocations_and_bytes_in_each_phase() {
    grows_in_proportion(SIZES, measure);
}

/// Devices of equal speed, among which planning divides whatever can be divided.
fn measure_on_three(model: Model) -> Vec<Effort> {
    measure_on(model, || synthetic::equals(3))
}

#[test]
fn four_times_the_nodes_take_four_times_as_much_where_there_are_three_devices() {
    grows_in_proportion(SIZES_ON_THREE, measure_on_three);
}

fn grows_in_proportion(sizes: [usize; 2], measure: fn(Model) -> Vec<Effort>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Tables that are made once are made here.
    measure((FAMILIES[0].model)(64));
    let mut wrong = Vec::new();
    for family in FAMILIES {
        let [small, large] = sizes.map(|count| measure((family.model)(count)));
        for ((phase, small), large) in PHASES.iter().zip(small).zip(large) {
            let of = [("allocations", small.calls, large.calls), ("bytes", small.bytes, large.bytes)];
            for ((what, small, large), nothing) in of.into_iter().zip(NOTHING) {
                let ratio = large as f64 / small.max(1) as f64;
                if ratio > MOST && large > nothing {
                    wrong.push(format!("{} {phase}: {small} {what} become {large}, {ratio:.2} times", family.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The definitions of operators, with a count of the times that they are looked up.
struct Counted(AtomicUsize);

impl OperatorSet for Counted {
    fn find(&self, operator: &Operator) -> Option<&Definition> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Standard.find(operator)
    }
}

#[test]
fn binding_and_passes_look_at_each_node_a_few_times() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for family in FAMILIES {
        let [small, large] = SIZES.map(|count| {
            let operators = Counted(AtomicUsize::new(0));
            let model = (family.model)(count);
            let model = hetero_onnx::read_bytes(hetero_onnx::to_bytes(&model).unwrap().into()).unwrap();
            let binding = Binding { default_size: Some(8), ..Binding::default() };
            let bound = hetero_onnx::bind(&model, &binding, &operators).unwrap();
            let context = PassContext { operators: &operators, allowance: &hetero::hal::Allowance::new(1 << 32) };
            passes::run(bound.program, &passes::standard(), &context).unwrap();
            operators.0.into_inner()
        });
        assert!(large as f64 <= MOST * small as f64, "{}: {small} look-ups become {large}", family.name);
    }
}

/// Returns the nanoseconds that this thread has computed, where the system tells.
fn computed() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}

/// The sizes that are compared for loops that allocate nothing, and the most that the larger may
/// take more.
/// A step that is linear takes 8 times as much, and one that goes through all pairs 64 times.
const LOOPS: [usize; 2] = [1500, 12_000];
const MOST_TIMES: u64 = 24;
/// The nanoseconds up to which a family's work is too little to be compared.
const LITTLE: u64 = 50_000_000;

/// This is no test of speed: it finds loops through all pairs of nodes, which counts of allocations
/// do not show.
#[test]
fn no_loop_goes_through_all_pairs_of_nodes() {
    has_no_loop_through_pairs(measure);
}

#[test]
fn no_loop_goes_through_all_pairs_of_nodes_where_there_are_three_devices() {
    has_no_loop_through_pairs(measure_on_three);
}

fn has_no_loop_through_pairs(measure: fn(Model) -> Vec<Effort>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if computed().is_none() {
        eprintln!("skipped: the system does not tell for how long a thread has computed");
        return;
    }
    for family in FAMILIES {
        let times = |count: usize| {
            let began = computed().unwrap_or(0);
            measure((family.model)(count));
            computed().unwrap_or(0).saturating_sub(began)
        };
        // The least of three tells of the work, and not of what else the machine does.
        let mut least = [u64::MAX; 2];
        let linear = (0..3).any(|_| {
            for (least, count) in least.iter_mut().zip(LOOPS) {
                *least = times(count).min(*least);
            }
            least[1] <= MOST_TIMES * least[0].max(1) || least[1] < LITTLE
        });
        assert!(linear, "{}: {} ns become {} ns with 8 times the nodes", family.name, least[0], least[1]);
    }
}
