//! Rules that every strategy has to keep, and results that exact search has to find.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod problems;

use std::cell::Cell;
use std::time::Duration;

use hetero_scheduler::{
    Cpop, DeviceIndex, Effort, Error, Exact, Heft, LatencyAware, Lookahead, Partitioner, Peft, Problem, Task, TaskId,
    Throughput,
};
use problems::{any_problem, limited};
use proptest::prelude::*;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// Returns how often this thread has asked before, in microseconds.
/// Searches on this clock end at the same step on every machine.
fn counted() -> Duration {
    ASKED.with(|asked| Duration::from_micros(asked.replace(asked.get() + 1)))
}

/// Returns all strategies, with so little effort that a test can run them a thousand times.
fn strategies() -> Vec<Box<dyn Partitioner>> {
    vec![
        Box::new(Heft),
        Box::new(Peft),
        Box::new(Cpop),
        Box::new(Lookahead),
        Box::new(Exact { effort: Effort::steps(200) }),
        Box::new(Throughput { effort: Effort::steps(10), seed: 1 }),
        Box::new(LatencyAware { effort: Effort::steps(60), seed: 1 }),
    ]
}

/// Returns the least makespan, found by trying every task as the next, on every device, in every
/// order.
/// It is `None` where limits and links allow no schedule.
fn brute_force(problem: &Problem) -> Option<f64> {
    struct State<'a> {
        problem: &'a Problem,
        finish: Vec<Option<(usize, f64)>>,
        free: Vec<f64>,
        held: Vec<u64>,
        joules: f64,
        best: f64,
    }
    fn descend(state: &mut State<'_>) {
        let (graph, devices) = (state.problem.graph(), state.problem.devices());
        if state.finish.iter().all(Option::is_some) {
            let makespan = state.finish.iter().flatten().map(|(_, finish)| *finish).fold(0.0, f64::max);
            state.best = state.best.min(makespan);
            return;
        }
        for task in 0..graph.len() {
            let known = graph.get(TaskId(task)).unwrap();
            let fed = graph.predecessors(TaskId(task)).all(|(from, _)| state.finish[from.0].is_some());
            if state.finish[task].is_some() || !fed {
                continue;
            }
            for device in devices.ids() {
                let Some(seconds) = known.seconds_on(device) else { continue };
                let limit = devices.get(device).unwrap().memory;
                let held = state.held[device.0] + known.memory;
                let joules = known.joules.get(device.0).copied().unwrap_or(0.0);
                if limit.is_some_and(|limit| held > limit)
                    || state.problem.energy_budget().is_some_and(|budget| state.joules + joules > budget * (1.0 + 1e-9))
                {
                    continue;
                }
                let arrival = graph.predecessors(TaskId(task)).try_fold(0.0_f64, |latest, (from, bytes)| {
                    let (on, finish) = state.finish[from.0]?;
                    Some(latest.max(finish + devices.seconds(DeviceIndex(on), device, bytes)?))
                });
                let Some(ready) = arrival else { continue };
                let finish = ready.max(state.free[device.0]) + seconds;
                let free = std::mem::replace(&mut state.free[device.0], finish);
                state.finish[task] = Some((device.0, finish));
                state.held[device.0] += known.memory;
                state.joules += joules;
                descend(state);
                state.joules -= joules;
                state.held[device.0] -= known.memory;
                state.finish[task] = None;
                state.free[device.0] = free;
            }
        }
    }
    let count = problem.devices().len();
    let mut state = State {
        problem,
        finish: vec![None; problem.graph().len()],
        free: vec![0.0; count],
        held: vec![0; count],
        joules: 0.0,
        best: f64::INFINITY,
    };
    descend(&mut state);
    state.best.is_finite().then_some(state.best)
}

fn check_all(problem: &Problem) -> Result<(), TestCaseError> {
    let heft = Heft.partition(problem);
    for strategy in strategies() {
        match strategy.partition(problem) {
            Ok(schedule) => {
                prop_assert_eq!(schedule.validate(problem), Ok(()), "{}", strategy.name());
                let bound = problem.lower_bound(&schedule, Effort::steps(1));
                prop_assert!(bound <= schedule.makespan() * (1.0 + 1e-9), "{}", strategy.name());
                if let Ok(heft) = &heft {
                    let at_most = ["latency_aware", "exact"].contains(&strategy.name());
                    prop_assert!(!at_most || schedule.makespan() <= heft.makespan(), "{}", strategy.name());
                    // Every other schedule, such as HEFT's, has to be above the bound too.
                    prop_assert!(bound <= heft.makespan() * (1.0 + 1e-9), "{}", strategy.name());
                }
            }
            Err(Error::Unreachable(_) | Error::OutOfMemory { .. } | Error::Strategy { .. }) => {}
            Err(error) => prop_assert!(false, "{}: {error}", strategy.name()),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_strategy_keeps_to_the_rules(problem in any_problem(0)) {
        check_all(&problem)?;
        for strategy in strategies() {
            prop_assert!(strategy.partition(&problem).is_ok(), "{}", strategy.name());
        }
    }

    #[test]
    fn and_where_links_memory_or_energy_are_short(problem in limited(2, 1..4, 24)) {
        check_all(&problem)?;
    }

    #[test]
    fn steps_and_seed_make_a_search_repeatable(problem in any_problem(0)) {
        let search = LatencyAware { effort: Effort::steps(80), seed: 7 };
        prop_assert_eq!(search.partition(&problem).unwrap(), search.partition(&problem).unwrap());
    }

    #[test]
    fn time_on_a_counted_clock_makes_a_search_repeatable(problem in any_problem(0)) {
        let effort = Effort::time(Duration::from_micros(80)).with_clock(counted);
        let search = LatencyAware { effort, seed: 7 };
        prop_assert_eq!(search.partition(&problem).unwrap(), search.partition(&problem).unwrap());
        let stream = Throughput { effort, seed: 7 };
        prop_assert_eq!(stream.partition(&problem).unwrap(), stream.partition(&problem).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn exact_search_finds_what_trying_everything_finds(problem in limited(1, 1..4, 7)) {
        let exact = Exact { effort: Effort::time(Duration::from_secs(60)).with_clock(counted) };
        match (exact.solve(&problem), brute_force(&problem)) {
            (Ok(solved), Some(least)) => {
                prop_assert_eq!(solved.schedule.validate(&problem), Ok(()));
                prop_assert!(solved.is_proven());
                let makespan = solved.schedule.makespan();
                prop_assert!((makespan - least).abs() <= 1e-9 * least, "{} {}", makespan, least);
                let bound = problem.lower_bound(&solved.schedule, Effort::steps(50));
                prop_assert!(bound <= least * (1.0 + 1e-9), "{} {}", bound, least);
            }
            (Err(_), None) => {}
            (found, least) => prop_assert!(false, "{found:?} {least:?}"),
        }
    }
}

#[test]
fn too_many_tasks_for_exact_search_are_said() {
    let devices = hetero_scheduler::Devices::new([hetero_scheduler::DeviceSpec::new("a")]).unwrap();
    let mut graph = hetero_scheduler::TaskGraph::builder(1);
    for index in 0..65 {
        graph.task(Task::new(index.to_string(), [Some(1.0)])).unwrap();
    }
    let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
    let error = Exact { effort: Effort::steps(1) }.solve(&problem).unwrap_err();
    assert!(error.to_string().contains("65 tasks for exact search"), "{error}");
}
