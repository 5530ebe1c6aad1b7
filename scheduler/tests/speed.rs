//! A measurement: `cargo test --release -p hetero-scheduler --test speed -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::time::{Duration, Instant};

use hetero_scheduler::{Device, Devices, Heft, Link, Partitioner, Plan, Problem, Task, TaskGraph};

/// Numbers without a pattern, the same in each run.
fn noise(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// A hundred layers of a hundred tasks, each fed by three of the layer before, on four devices.
fn layered() -> Problem {
    let devices = (0..4).map(|index| Device::new(format!("d:{index}")));
    let devices = Devices::uniform(devices, Link { latency: 1e-5, bandwidth: 1e10 }).unwrap();
    let mut graph = TaskGraph::builder(4);
    let mut state = 1;
    let mut ids = Vec::new();
    for index in 0..10_000 {
        let row = [0; 4].map(|_: u8| Some((1 + noise(&mut state) % 1000) as f64 * 1e-6));
        ids.push(graph.task(Task::new(format!("t{index}"), row)).unwrap());
        for _ in (0..3).filter(|_| index >= 100) {
            let from = (index / 100 - 1) * 100 + noise(&mut state) % 100;
            graph.edge(ids[from], ids[index], noise(&mut state) as u64 % 1_000_000).unwrap();
        }
    }
    Problem::new(graph.build().unwrap(), devices).unwrap()
}

#[test]
#[ignore = "a measurement, of use in release only"]
fn ten_thousand_tasks_take_at_most_fifty_milliseconds() {
    let problem = layered();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let before = Instant::now();
        let schedule = Heft.partition(&problem).unwrap();
        fastest = fastest.min(before.elapsed());
        let before = Instant::now();
        let plan = Plan::from_schedule(&problem, &schedule, "layered", Heft.name()).unwrap();
        println!("plan of {} partitions: {:?}", plan.partitions.len(), before.elapsed());
    }
    println!("HEFT, best of five: {fastest:?}");
    assert!(fastest <= Duration::from_millis(50), "{fastest:?}");
}
