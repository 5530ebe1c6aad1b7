//! Tests of replays: they agree with schedules, and a change does what the same change to the
//! problem does.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod problems;

use hetero_scheduler::{
    Change, DeviceIndex, DeviceSpec, Devices, Error, Heft, Leg, Link, Partitioner, Partitioning, Problem, Replay, Slot,
    Task, TaskGraph, TaskId, Wait,
};
use problems::{any_problem, limited};
use proptest::prelude::*;

const A: DeviceIndex = DeviceIndex(0);
const B: DeviceIndex = DeviceIndex(1);

/// Returns a chain of three tasks of 1, 2 and 4 seconds on device `a`, and half of that on `b`,
/// which does not claim the third.
/// A transfer of any number of bytes takes 10 s.
fn chain() -> Problem {
    let link = Link { latency: 10.0, bandwidth: f64::INFINITY };
    let devices = Devices::uniform(["a", "b"].map(DeviceSpec::new), link).unwrap();
    let mut graph = TaskGraph::builder(2);
    for (name, row) in [("x", [Some(1.0), Some(0.5)]), ("y", [Some(2.0), Some(1.0)]), ("z", [Some(4.0), None])] {
        graph.task(Task::new(name, row).with_memory(8)).unwrap();
    }
    graph.edge(TaskId(0), TaskId(1), 100).unwrap();
    graph.edge(TaskId(1), TaskId(2), 100).unwrap();
    Problem::new(graph.build().unwrap(), devices).unwrap()
}

fn on_one(problem: &Problem) -> Replay<'_> {
    Replay::new(problem, vec![(A, vec![TaskId(0), TaskId(1), TaskId(2)])]).unwrap()
}

fn slot(device: DeviceIndex, start: f64, finish: f64) -> Slot {
    Slot { device, start, finish }
}

#[test]
fn a_task_that_moves_divides_its_partition() {
    let problem = chain();
    let replay = on_one(&problem);
    assert_eq!((replay.makespan(), replay.critical_path().len()), (7.0, 1));
    let moved = replay.with(Change::Task { task: TaskId(1), device: B }).unwrap();
    let slots: Vec<Slot> = moved.slots().collect();
    assert_eq!(slots, [slot(A, 0.0, 1.0), slot(B, 11.0, 12.0), slot(A, 22.0, 26.0)]);
    assert_eq!((moved.tasks(1), moved.partition_of(TaskId(2))), (&[TaskId(1)][..], Some(2)));
    assert_eq!(moved.waits_for(2), Wait::Value { from: 1, transfer: 10.0 });
    let transfer = |from, to| Leg::Transfer { from, to, seconds: 10.0 };
    let partition = |partition, seconds| Leg::Partition { partition, seconds };
    let path = [partition(0, 1.0), transfer(0, 1), partition(1, 1.0), transfer(1, 2), partition(2, 4.0)];
    assert_eq!(moved.critical_path(), path);
    assert_eq!((moved.held(A), moved.held(B)), (16, 8));
    assert_eq!(moved.schedule().validate(&problem), Ok(()));
    // A task at the end of a partition leaves one partition behind, and one that stays changes
    // nothing.
    let first = replay.with(Change::Task { task: TaskId(0), device: B }).unwrap();
    assert_eq!(first.slots().collect::<Vec<_>>(), [slot(B, 0.0, 0.5), slot(A, 10.5, 16.5)]);
    assert_eq!(replay.with(Change::Task { task: TaskId(0), device: A }).unwrap().slots().len(), 1);
}

#[test]
fn changes_add_up() {
    let problem = chain();
    let moved = on_one(&problem).with(Change::Task { task: TaskId(1), device: B }).unwrap();
    let dropped = moved.with(Change::Transfer { from: TaskId(0), to: TaskId(1), seconds: 0.0 }).unwrap();
    assert_eq!(dropped.makespan(), 16.0);
    let link = Link { latency: 3.0, bandwidth: f64::INFINITY };
    let linked = dropped.with(Change::Link { from: B, to: A, link }).unwrap();
    assert_eq!(linked.makespan(), 9.0);
    let faster = linked.with(Change::Speed { device: A, factor: 4.0 }).unwrap();
    assert_eq!(faster.makespan(), 5.25);
    let slower = faster.with(Change::Speed { device: A, factor: 0.25 }).unwrap();
    assert_eq!(slower.makespan(), 9.0);
    let back = slower.with(Change::Partition { partition: 1, device: A }).unwrap();
    assert_eq!((back.makespan(), back.slots().len()), (7.0, 3));
    // The replay that was changed is as it was.
    assert_eq!(moved.makespan(), 26.0);
}

#[test]
fn the_device_that_is_busy_is_waited_for() {
    let devices = Devices::new([DeviceSpec::new("a")]).unwrap();
    let mut graph = TaskGraph::builder(1);
    let ids = [1.0, 2.0].map(|seconds| graph.task(Task::new(seconds.to_string(), [Some(seconds)])).unwrap());
    let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
    let replay = Replay::new(&problem, ids.map(|id| (A, vec![id])).to_vec()).unwrap();
    assert_eq!(
        (replay.waits_for(0), replay.waits_for(1), replay.waits_for(2)),
        (Wait::Nothing, Wait::Device(0), Wait::Nothing)
    );
    assert_eq!(replay.slack(), [0.0, 0.0]);
}

#[test]
fn what_cannot_be_replayed_is_said() {
    let problem = chain();
    let refused = |partitions: &[(usize, &[usize])]| {
        let partitions = partitions
            .iter()
            .map(|(device, tasks)| (DeviceIndex(*device), tasks.iter().map(|&task| TaskId(task)).collect::<Vec<_>>()));
        Replay::new(&problem, partitions.collect()).unwrap_err().to_string()
    };
    assert!(refused(&[(0, &[0, 1])]).contains("'z': it is in no partition"));
    assert!(refused(&[(0, &[0, 1, 2, 0])]).contains("'x': it is in the partitions twice"));
    assert!(refused(&[(0, &[1, 0, 2])]).contains("'y': it runs before 'x'"));
    assert!(refused(&[(0, &[0, 1]), (1, &[2])]).contains("partition number 1: device 'b' does not claim 'z'"));
    assert!(refused(&[(2, &[0, 1, 2])]).contains("no device number 2 among 2"));
    assert!(refused(&[(0, &[0, 1, 2, 3])]).contains("no task number 3 among 3"));
}

#[test]
fn changes_that_cannot_be_are_refused() {
    let problem = chain();
    let replay = on_one(&problem);
    let refused = |change: Change| replay.with(change).unwrap_err();
    let nowhere = DeviceIndex(2);
    let unknown = Error::UnknownDevice { index: 2, count: 2 };
    assert_eq!(refused(Change::Task { task: TaskId(0), device: nowhere }), unknown);
    assert_eq!(refused(Change::Partition { partition: 0, device: nowhere }), unknown);
    assert_eq!(refused(Change::Speed { device: nowhere, factor: 2.0 }), unknown);
    let link = Link { latency: 0.0, bandwidth: 1.0 };
    assert_eq!(refused(Change::Link { from: A, to: nowhere, link }), unknown);
    let none = Error::UnknownTask { index: 3, count: 3 };
    assert_eq!(refused(Change::Task { task: TaskId(3), device: B }), none);
    assert_eq!(refused(Change::Transfer { from: TaskId(0), to: TaskId(3), seconds: 0.0 }), none);
    let partition = Error::UnknownPartition { index: 1, count: 1 };
    assert_eq!(refused(Change::Partition { partition: 1, device: B }), partition);
    for change in [Change::Task { task: TaskId(2), device: B }, Change::Partition { partition: 0, device: B }] {
        assert!(refused(change).to_string().contains("device 'b' does not claim 'z'"));
    }
    let apart = Change::Transfer { from: TaskId(0), to: TaskId(2), seconds: 0.0 };
    assert!(refused(apart).to_string().contains("nothing passes from 'x' to it"));
    for number in [f64::NAN, -1.0, f64::INFINITY] {
        let transfer = Change::Transfer { from: TaskId(0), to: TaskId(1), seconds: number };
        for change in [transfer, Change::Speed { device: A, factor: number }] {
            assert!(matches!(refused(change), Error::Number { .. }));
        }
    }
    assert!(matches!(refused(Change::Speed { device: A, factor: 0.0 }), Error::Number { .. }));
}

/// Returns a problem with the seconds of a device divided by a factor, and with another link.
fn altered(
    problem: &Problem,
    device: DeviceIndex,
    factor: f64,
    link: Option<(DeviceIndex, DeviceIndex, Link)>,
) -> Problem {
    let mut graph = TaskGraph::builder(problem.devices().len());
    for (_, task) in problem.graph().tasks() {
        let mut task = task.clone();
        task.seconds[device.0] = task.seconds[device.0].map(|seconds| seconds / factor);
        graph.task(task).unwrap();
    }
    for (from, to, bytes) in problem.graph().edges() {
        graph.edge(from, to, bytes).unwrap();
    }
    let mut devices = problem.devices().clone();
    if let Some((from, to, link)) = link {
        devices.connect(from, to, link).unwrap();
    }
    Problem::new(graph.build().unwrap(), devices).unwrap()
}

proptest! {
    #[test]
    fn a_replay_takes_no_longer_than_its_schedule(problem in limited(1, 1..4, 20)) {
        let Ok(schedule) = Heft.partition(&problem) else { return Ok(()) };
        let replay = Replay::of_schedule(&problem, &schedule).unwrap();
        let slack = 1e-9 * schedule.makespan();
        prop_assert!(replay.makespan() <= schedule.makespan() + slack);
        prop_assert_eq!(replay.schedule().validate(&problem), Ok(()));
        for (slot, slack) in replay.slots().zip(replay.slack()) {
            prop_assert!(slot.finish + slack <= replay.makespan() * (1.0 + 1e-9));
        }
    }

    #[test]
    fn a_change_of_costs_is_that_of_the_problem(
        problem in any_problem(0),
        (device, from, to) in (0..4_usize, 0..4_usize, 0..4_usize),
        power in -3..4_i32,
        (latency, bandwidth) in (0.0..9.0_f64, 0.5..50.0_f64),
    ) {
        let count = problem.devices().len();
        let [device, from, to] = [device, from, to].map(|index| DeviceIndex(index % count));
        // Powers of two divide without rounding.
        let (factor, link) = (f64::from(power).exp2(), Link { latency, bandwidth });
        let other = altered(&problem, device, factor, Some((from, to, link)));
        let schedule = Heft.partition(&problem).unwrap();
        let plan = Partitioning::from_schedule(&problem, &schedule, "model", "heft").unwrap();
        let changed = plan.replay(&problem).unwrap();
        let changed = changed.with(Change::Speed { device, factor }).unwrap();
        let changed = changed.with(Change::Link { from, to, link }).unwrap();
        let expected: Vec<Slot> = plan.replay(&other).unwrap().slots().collect();
        prop_assert_eq!(changed.slots().collect::<Vec<_>>(), expected);
        prop_assert_eq!(changed.schedule().validate(&other), Ok(()));
    }

    #[test]
    fn dropping_a_transfer_never_lengthens_a_run(problem in any_problem(0)) {
        let schedule = Heft.partition(&problem).unwrap();
        let replay = Replay::of_schedule(&problem, &schedule).unwrap();
        for (from, to, _) in problem.graph().edges() {
            let dropped = replay.with(Change::Transfer { from, to, seconds: 0.0 }).unwrap();
            prop_assert!(dropped.makespan() <= replay.makespan());
        }
    }

    #[test]
    fn a_task_that_moves_runs_where_it_was_moved_to(problem in any_problem(0), pick in any::<prop::sample::Index>()) {
        let schedule = Heft.partition(&problem).unwrap();
        let plan = Partitioning::from_schedule(&problem, &schedule, "model", "heft").unwrap();
        let replay = plan.replay(&problem).unwrap();
        let task = TaskId(pick.index(problem.graph().len()));
        for device in problem.devices().ids() {
            let claims = problem.graph().get(task).unwrap().seconds[device.0].is_some();
            match replay.with(Change::Task { task, device }) {
                Ok(moved) => {
                    prop_assert!(claims);
                    let schedule = moved.schedule();
                    prop_assert_eq!(schedule.validate(&problem), Ok(()));
                    prop_assert_eq!(schedule.slots()[task.0].device, device);
                    let elsewhere = (0..problem.graph().len()).filter(|&other| other != task.0);
                    for other in elsewhere {
                        prop_assert_eq!(schedule.slots()[other].device, replay.schedule().slots()[other].device);
                    }
                }
                Err(error) => prop_assert!(!claims && matches!(error, Error::Plan { .. }), "{}", error),
            }
        }
    }
}
