//! Properties that hold for any graph, devices and strategy.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod problems;

use std::collections::HashMap;

use hetero_scheduler::{DeviceIndex, Error, Heft, Partitioner, Partitioning, Problem, Schedule, Slot};
use petgraph::algo::toposort;
use petgraph::graph::DiGraph;
use problems::{any_problem, problem_of};
use proptest::collection::vec;
use proptest::prelude::*;

/// Tells whether there is a device for each task such that each edge has a link, by trying all
/// placements.
fn feasible(problem: &Problem) -> bool {
    let (graph, devices) = (problem.graph(), problem.devices());
    let count = devices.len();
    (0..count.pow(graph.len() as u32)).any(|number| {
        let device = |task: usize| DeviceIndex(number / count.pow(task as u32) % count);
        graph.tasks().all(|(id, task)| task.seconds_on(device(id.0)).is_some())
            && graph.edges().all(|(from, to, bytes)| devices.seconds(device(from.0), device(to.0), bytes).is_some())
    })
}

/// A strategy that runs tasks one after the other in topological order, each on the device that the
/// numbers in it pick.
/// Its schedules are valid, and poor.
struct OneByOne(Vec<usize>);

impl Partitioner for OneByOne {
    fn name(&self) -> &str {
        "one-by-one"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        let (graph, devices) = (problem.graph(), problem.devices());
        let mut slots = vec![Slot { device: DeviceIndex(0), start: 0.0, finish: 0.0 }; graph.len()];
        let mut now = 0.0_f64;
        for &id in graph.order() {
            let task = graph.get(id).unwrap();
            let claims: Vec<DeviceIndex> = devices.ids().filter(|&device| task.seconds_on(device).is_some()).collect();
            let device = claims[self.0[id.0] % claims.len()];
            let mut start = now;
            for (from, bytes) in graph.predecessors(id) {
                let source: Slot = slots[from.0];
                let seconds = devices.seconds(source.device, device, bytes);
                let reason = || "a device is out of reach".to_string();
                let strategy = || self.name().to_string();
                start = start.max(
                    source.finish
                        + seconds.ok_or_else(|| Error::Strategy { strategy: strategy(), reason: reason() })?,
                );
            }
            now = start + task.seconds_on(device).unwrap();
            slots[id.0] = Slot { device, start, finish: now };
        }
        Ok(Schedule::new(slots))
    }
}

/// Checks a plan against its problem from the outside, without the code that made the plan.
fn check_plan(problem: &Problem, schedule: &Schedule) -> Result<(), TestCaseError> {
    let plan = Partitioning::from_schedule(problem, schedule, "model", "strategy").unwrap();
    let graph = problem.graph();
    let name = |id| graph.get(id).unwrap().name.as_str();
    let names: Vec<&str> = graph.tasks().map(|(_, task)| task.name.as_str()).collect();
    prop_assert_eq!(plan.check(&names), Ok(()));
    prop_assert_eq!(plan.check_order(graph.edges().map(|(from, to, _)| (name(from), name(to)))), Ok(()));
    prop_assert_eq!(Partitioning::from_json(&plan.to_json().unwrap()), Ok(plan.clone()));

    let mut partition_of: HashMap<&str, usize> = HashMap::new();
    for (number, partition) in plan.partitions.iter().enumerate() {
        for task in &partition.tasks {
            prop_assert_eq!(partition_of.insert(task, number), None);
        }
    }
    for (id, task) in graph.tasks() {
        let device = schedule.slots()[id.0].device;
        prop_assert_eq!(plan.placement()[task.name.as_str()], &problem.devices().get(device).unwrap().id);
    }
    let mut between = DiGraph::<(), ()>::new();
    let nodes: Vec<_> = plan.partitions.iter().map(|_| between.add_node(())).collect();
    for (from, to, _) in graph.edges() {
        let (from, to) = (partition_of[name(from)], partition_of[name(to)]);
        if from != to {
            between.add_edge(nodes[from], nodes[to], ());
        }
    }
    prop_assert!(toposort(&between, None).is_ok(), "partitions wait for each other in a circle");

    // The plan is replayed: each partition starts when its processor is free and everything has
    // arrived from partitions that have finished as a whole.
    let mut free: HashMap<DeviceIndex, f64> = HashMap::new();
    let processor = |id: &str| {
        let device = problem.devices().iter().position(|device| device.id == id).unwrap();
        problem.devices().processor(DeviceIndex(device))
    };
    let mut finish = vec![0.0_f64; plan.partitions.len()];
    for (number, partition) in plan.partitions.iter().enumerate() {
        let mut start = free.get(&processor(&partition.device)).copied().unwrap_or(0.0);
        for transfer in plan.transfers.iter().filter(|transfer| partition_of[transfer.to_task.as_str()] == number) {
            start = start.max(finish[partition_of[transfer.from_task.as_str()]] + transfer.estimated_seconds);
        }
        let seconds: f64 = graph
            .tasks()
            .filter(|(_, task)| partition_of[task.name.as_str()] == number)
            .map(|(id, task)| task.seconds_on(schedule.slots()[id.0].device).unwrap())
            .sum();
        finish[number] = start + seconds;
        free.insert(processor(&partition.device), finish[number]);
        let slack = 1e-9 * schedule.makespan();
        prop_assert!(start <= partition.estimated_start + slack, "{start} > {}", partition.estimated_start);
        prop_assert!(finish[number] <= partition.estimated_finish + slack);
    }
    prop_assert!(plan.estimated_makespan <= schedule.makespan());
    Ok(())
}

proptest! {
    #[test]
    fn heft_is_sound_where_all_is_linked(problem in any_problem(0)) {
        let schedule = Heft.partition(&problem).unwrap();
        prop_assert_eq!(schedule.validate(&problem), Ok(()));
        prop_assert_eq!(&Heft.partition(&problem).unwrap(), &schedule);
        check_plan(&problem, &schedule)?;
    }

    #[test]
    fn heft_is_sound_where_links_are_missing(problem in any_problem(4)) {
        match Heft.partition(&problem) {
            Ok(schedule) => {
                prop_assert_eq!(schedule.validate(&problem), Ok(()));
                check_plan(&problem, &schedule)?;
            }
            Err(error) => prop_assert!(matches!(error, Error::Unreachable(_)), "{}", error),
        }
    }

    /// Checks that without undirected cycles, it is enough to look from neighbour to neighbour.
    #[test]
    fn heft_finds_a_way_in_any_forest_that_has_one(problem in problem_of(6, 2..4, 7, 2)) {
        prop_assert_eq!(Heft.partition(&problem).is_ok(), feasible(&problem));
    }

    #[test]
    fn plans_of_any_schedule_are_sound(problem in any_problem(0), picks in vec(0..8_usize, 40)) {
        let schedule = OneByOne(picks).partition(&problem).unwrap();
        prop_assert_eq!(schedule.validate(&problem), Ok(()));
        check_plan(&problem, &schedule)?;
    }

    #[test]
    fn no_text_makes_reading_panic(problem in any_problem(0), cut in any::<prop::sample::Index>(), noise in ".{0,8}") {
        let schedule = Heft.partition(&problem).unwrap();
        let mut json = Partitioning::from_schedule(&problem, &schedule, "model", "heft").unwrap().to_json().unwrap();
        json.insert_str(cut.index(json.len()), &noise);
        if let Ok(plan) = Partitioning::from_json(&json) {
            prop_assert_eq!(Partitioning::from_json(&plan.to_json().unwrap()), Ok(plan));
        }
    }
}
