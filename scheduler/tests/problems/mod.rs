//! Generators of random problems.

#![allow(dead_code, reason = "not every test uses all of it")]

use hetero_scheduler::{DeviceIndex, DeviceSpec, Devices, Link, Problem, Task, TaskGraph};
use proptest::collection::vec;
use proptest::prelude::*;

/// Returns seconds that are often zero and often equal, because order is easily lost where times
/// are equal.
pub(crate) fn seconds() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), (1..4_u8).prop_map(f64::from), 0.0..10.0_f64]
}

fn row(devices: usize) -> impl Strategy<Value = Vec<Option<f64>>> {
    (vec(prop::option::weighted(0.7, seconds()), devices), 0..devices, seconds()).prop_map(|(mut row, one, seconds)| {
        row[one].get_or_insert(seconds);
        row
    })
}

/// Returns any problem, in which on average `missing` of ten links between devices are missing.
pub(crate) fn any_problem(missing: u8) -> impl Strategy<Value = Problem> {
    problem_of(missing, 1..5, 40, 4)
}

/// Returns a problem of fewer than `tasks` tasks, each fed by fewer than `feeding` others.
pub(crate) fn problem_of(
    missing: u8,
    devices: std::ops::Range<usize>,
    tasks: usize,
    feeding: usize,
) -> impl Strategy<Value = Problem> {
    parts(missing, devices, tasks, feeding).prop_map(|(devices, graph)| Problem::new(graph, devices).unwrap())
}

/// Returns a problem that sometimes has devices with little memory, tasks that hold memory, and an
/// energy budget.
pub(crate) fn limited(missing: u8, devices: std::ops::Range<usize>, tasks: usize) -> impl Strategy<Value = Problem> {
    let limits = (vec(prop::option::weighted(0.3, 4..40_u64), 8), prop::option::weighted(0.3, 0.0..1.0_f64));
    let held = vec((0..8_u64, vec(0.0..9.0_f64, 8)), tasks);
    (parts(missing, devices, tasks, 4), limits, held).prop_map(|((devices, graph), (memory, budget), held)| {
        let count = devices.len();
        let limited = devices.iter().zip(&memory).map(|(device, memory)| match memory {
            Some(bytes) => device.clone().with_memory(*bytes),
            None => device.clone(),
        });
        let mut with_limits = Devices::new(limited).unwrap();
        for from in devices.ids() {
            for to in devices.ids() {
                if let Some(link) = devices.link(from, to) {
                    with_limits.connect(from, to, link).unwrap();
                }
            }
        }
        let mut tasks = TaskGraph::builder(count);
        let (mut least, mut most) = (0.0, 0.0);
        let ids: Vec<_> = graph
            .tasks()
            .zip(held)
            .map(|((_, task), (bytes, joules))| {
                let task = task.clone().with_memory(bytes).with_energy(&joules[..count]);
                least += task.least_joules();
                most += joules[..count].iter().copied().fold(0.0, f64::max);
                tasks.task(task).unwrap()
            })
            .collect();
        for (from, to, bytes) in graph.edges() {
            tasks.edge(ids[from.0], ids[to.0], bytes).unwrap();
        }
        let problem = Problem::new(tasks.build().unwrap(), with_limits).unwrap();
        match budget {
            Some(share) => problem.with_energy_budget(least * (1.0 + 1e-12) + share * (most - least)).unwrap(),
            None => problem,
        }
    })
}

fn parts(
    missing: u8,
    devices: std::ops::Range<usize>,
    tasks: usize,
    feeding: usize,
) -> impl Strategy<Value = (Devices, TaskGraph)> {
    devices
        .prop_flat_map(move |count| {
            let link = (seconds(), prop_oneof![Just(f64::INFINITY), 0.5..50.0_f64]);
            let links = vec((0..10_u8, link), count * count);
            let tasks = vec((row(count), vec((any::<prop::sample::Index>(), 0..100_u64), 0..feeding)), 1..tasks);
            (Just(count), links, tasks)
        })
        .prop_map(move |(count, links, tasks)| {
            let mut devices = Devices::new((0..count).map(|index| DeviceSpec::new(format!("cpu:{index}")))).unwrap();
            for (index, link) in links.into_iter().enumerate() {
                let (chance, (latency, bandwidth)) = link;
                if chance >= missing {
                    let (from, to) = (DeviceIndex(index / count), DeviceIndex(index % count));
                    devices.connect(from, to, Link { latency, bandwidth }).unwrap();
                }
            }
            let mut graph = TaskGraph::builder(count);
            let mut ids = Vec::new();
            for (index, (row, feeding)) in tasks.into_iter().enumerate() {
                let id = graph.task(Task::new(format!("t{index}"), row)).unwrap();
                for (pick, bytes) in feeding.into_iter().filter(|_| index > 0) {
                    graph.edge(ids[pick.index(index)], id, bytes).unwrap();
                }
                ids.push(id);
            }
            (devices, graph.build().unwrap())
        })
}
