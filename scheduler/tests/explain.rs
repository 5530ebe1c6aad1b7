//! Tests of explanations, and of plans with energy budgets and streams.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod problems;

use hetero_scheduler::{
    DeviceIndex, DeviceSpec, Devices, Effort, Error, Explanation, Heft, LatencyAware, Leg, Link, Partitioner,
    Partitioning, Problem, Task, TaskGraph, TaskId, Throughput, Wait,
};
use problems::{any_problem, limited};
use proptest::prelude::*;

/// Returns a problem with `decode` on the CPU, and `net` and `<head>` where they are fastest.
/// The GPU has no decoder, and no room for everything.
fn problem() -> Problem {
    let devices = [DeviceSpec::new("cpu:0"), DeviceSpec::new("gpu:0").with_memory(100)];
    let devices = Devices::uniform(devices, Link { latency: 1e-3, bandwidth: 1e6 }).unwrap();
    let mut graph = TaskGraph::builder(2);
    let row = |cpu: f64, gpu: Option<f64>| [Some(cpu), gpu];
    graph.task(Task::new("decode", row(2e-3, None)).with_energy([1.0, 0.0])).unwrap();
    graph.task(Task::new("net", row(90e-3, Some(9e-3))).with_memory(90).with_energy([4.0, 2.0])).unwrap();
    graph.task(Task::new("<head>", row(1e-3, Some(1e-3))).with_memory(20).with_energy([1.0, 2.0])).unwrap();
    graph.edge(TaskId(0), TaskId(1), 4000).unwrap();
    graph.edge(TaskId(1), TaskId(2), 1000).unwrap();
    Problem::new(graph.build().unwrap(), devices).unwrap()
}

fn explained(problem: &Problem) -> (Partitioning, Explanation) {
    let schedule = LatencyAware { effort: Effort::steps(100), seed: 1 }.partition(problem).unwrap();
    let plan = Partitioning::from_schedule(problem, &schedule, "model", "latency_aware").unwrap();
    let explanation = Explanation::new(problem, &plan, Effort::steps(10)).unwrap();
    (plan, explanation)
}

#[test]
fn each_partition_has_its_reason() {
    let (plan, explanation) = explained(&problem());
    let devices: Vec<&str> = plan.partitions.iter().map(|partition| partition.device.as_str()).collect();
    assert_eq!(devices, ["cpu:0", "gpu:0", "cpu:0"]);
    // The run takes 2 ms, a transfer of 1 + 4 ms, 9 ms, a transfer of 1 + 1 ms, and 1 ms.
    assert!((explanation.makespan - 19e-3).abs() < 1e-9);
    assert_eq!(explanation.bound.max(explanation.makespan), explanation.makespan);
    assert_eq!(explanation.joules, Some(4.0));
    let legs: Vec<bool> = explanation.critical_path.iter().map(|leg| matches!(leg, Leg::Transfer { .. })).collect();
    assert_eq!(legs, [false, true, false, true, false]);
    assert!(matches!(explanation.partitions[1].waits_for, Wait::Value { from: 0, transfer } if transfer == 5e-3));
    let net = &explanation.partitions[1];
    let on_cpu = &net.elsewhere[0];
    assert_eq!((&*on_cpu.device, on_cpu.seconds, &on_cpu.obstacle), ("cpu:0", Some(90e-3), &None));
    assert!((on_cpu.makespan.unwrap() - explanation.makespan - 74e-3).abs() < 1e-9);
    let obstacle = |partition: usize| explanation.partitions[partition].elsewhere[0].obstacle.clone().unwrap();
    assert_eq!(obstacle(0), "'decode' may not run there");
    assert_eq!(obstacle(2), "its tasks would hold 110 bytes, and it has 100");
    assert_eq!(explanation.devices[0].alone, Some(93e-3));
    assert_eq!(explanation.devices[1].alone, None);
    assert_eq!(explanation.alternatives[0].change, "partition 1 on cpu:0");
    assert_eq!(explanation.transfers.len(), 2);
    assert!(explanation.transfers.iter().all(|transfer| transfer.critical));
}

#[test]
fn a_plan_of_another_problem_is_refused() {
    let (mut plan, _) = explained(&problem());
    plan.partitions[0].device = "gpu:0".into();
    plan.transfers.clear();
    let error = Explanation::new(&problem(), &plan, Effort::steps(0)).unwrap_err();
    assert!(matches!(error, Error::Plan { .. }), "{error}");
}

#[test]
fn what_cannot_be_planned_is_said() {
    let said = |budget: f64| problem().with_energy_budget(budget).map(|_| ()).unwrap_err().to_string();
    assert!(said(3.0).contains("spend 4 J at least, and the budget is 3 J"), "{}", said(3.0));
    assert!(said(f64::NAN).contains("the energy budget is NaN") && said(-1.0).contains("joules that are finite"));
    let mut graph = TaskGraph::builder(2);
    let error = graph.task(Task::new("x", [Some(1.0), None]).with_energy([f64::INFINITY, 0.0])).unwrap_err();
    assert!(error.to_string().contains("the energy of task 'x' on device number 0 is inf"), "{error}");
    let error = graph.task(Task::new("x", [Some(1.0), None]).with_energy([1.0])).unwrap_err();
    assert!(matches!(error, Error::CostRow { found: 1, .. }), "{error}");
}

/// Checks that with a budget that the fastest placement exceeds, a slower and thriftier one is
/// found.
#[test]
fn an_energy_budget_is_kept_to() {
    let devices = Devices::uniform(["a", "b"].map(DeviceSpec::new), Link { latency: 0.0, bandwidth: 1e9 }).unwrap();
    let mut graph = TaskGraph::builder(2);
    for index in 0..4 {
        graph.task(Task::new(index.to_string(), [Some(1.0), Some(3.0)]).with_energy([10.0, 1.0])).unwrap();
    }
    let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
    let strategy = LatencyAware { effort: Effort::steps(100), seed: 1 };
    assert_eq!(strategy.partition(&problem).unwrap().makespan(), 3.0);
    let thrifty = problem.with_energy_budget(22.0).unwrap();
    let schedule = strategy.partition(&thrifty).unwrap();
    assert_eq!((schedule.validate(&thrifty), schedule.joules(&thrifty)), (Ok(()), 22.0));
    assert_eq!(schedule.makespan(), 6.0);
}

/// Checks three stages on three devices, each of which is the fastest at one stage.
/// A stream is as fast as its slowest stage, while one device alone would do all stages.
#[test]
fn a_stream_is_cut_into_stages() {
    let devices = ["a", "b", "c"].map(DeviceSpec::new);
    let devices = Devices::uniform(devices, Link { latency: 0.5, bandwidth: f64::INFINITY }).unwrap();
    let mut graph = TaskGraph::builder(3);
    for stage in 0..3 {
        for part in 0..4 {
            let row: Vec<Option<f64>> = (0..3).map(|device| Some(if device == stage { 1.0 } else { 1.5 })).collect();
            let id = graph.task(Task::new(format!("{stage}.{part}"), row)).unwrap();
            if id.0 > 0 {
                graph.edge(TaskId(id.0 - 1), id, 8).unwrap();
            }
        }
    }
    let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
    let schedule = Throughput { effort: Effort::steps(50), seed: 1 }.partition(&problem).unwrap();
    assert_eq!(schedule.validate(&problem), Ok(()));
    assert_eq!(schedule.period(&problem), 4.0);
    assert!(Heft.partition(&problem).unwrap().period(&problem) >= 4.0);
}

proptest! {
    /// Checks that a stream is never slower than on any one device, nor than with HEFT's placement.
    #[test]
    fn streams_are_no_slower_than_on_one_device(problem in any_problem(0)) {
        let schedule = Throughput { effort: Effort::steps(20), seed: 1 }.partition(&problem).unwrap();
        let slack = 1.0 + 1e-9;
        let heft = Heft.partition(&problem).unwrap();
        prop_assert!(schedule.period(&problem) <= heft.period(&problem) * slack);
        for device in problem.devices().ids() {
            let alone: Option<f64> = problem.graph().tasks().map(|(_, task)| task.seconds_on(device)).sum();
            if let Some(seconds) = alone {
                prop_assert!(schedule.period(&problem) <= seconds * slack);
            }
        }
    }

    /// Checks that the critical path is as long as the plan, and that no move of a partition is
    /// said to take less time than the bound.
    #[test]
    fn explanations_add_up(problem in limited(0, 1..4, 20)) {
        let Ok(schedule) = Heft.partition(&problem) else { return Ok(()) };
        let plan = Partitioning::from_schedule(&problem, &schedule, "model", "heft").unwrap();
        let explanation = Explanation::new(&problem, &plan, Effort::steps(1)).unwrap();
        let slack = 1e-9 * schedule.makespan();
        prop_assert!(explanation.makespan <= schedule.makespan() + slack);
        let legs = explanation.critical_path.iter().map(|leg| match leg {
            Leg::Partition { seconds, .. } | Leg::Transfer { seconds, .. } => *seconds,
        });
        prop_assert!((legs.sum::<f64>() - explanation.makespan).abs() <= slack);
        for partition in &explanation.partitions {
            let on_path = explanation.critical_path.iter().any(|leg| {
                matches!(leg, Leg::Partition { partition: other, .. } if *other == partition.partition)
            });
            prop_assert!(!on_path || partition.slack <= slack);
        }
        for other in &explanation.alternatives {
            prop_assert!(other.makespan >= explanation.bound - slack, "{}", other.change);
        }
        let tasks: usize = explanation.devices.iter().map(|device| device.tasks).sum();
        prop_assert_eq!(tasks, problem.graph().len());
        prop_assert_eq!(explanation.partitions.len(), plan.partitions.len());
        let held = explanation.devices.iter().enumerate().filter_map(|(index, device)| {
            Some((device.memory, problem.devices().get(DeviceIndex(index))?.memory?))
        });
        for (held, limit) in held {
            prop_assert!(held <= limit);
        }
    }
}
