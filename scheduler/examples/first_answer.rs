//! An example that measures how soon a large graph is placed, and how much more time improves the
//! placement: `first_answer [TASKS] [SECONDS] [SEED]`.
//! It prints a line of JSON for each better schedule.
//!
//! The graph is generated at random in layers, as networks with branches are; each of four devices
//! of different speeds claims most tasks.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::{Duration, Instant};

use hetero_scheduler::{DeviceSpec, Devices, Effort, LatencyAware, Link, Problem, Task, TaskGraph};
use hetero_testkit::SplitMix64;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tasks: usize = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(10.0), |text| text.parse())?;
    let seed: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let problem = problem(tasks, seed)?;
    let strategy = LatencyAware { effort: Effort::time(Duration::from_secs_f64(seconds)), seed };
    let began = Instant::now();
    let mut first = None;
    let best = strategy.improve(&problem, |schedule| {
        let elapsed = began.elapsed().as_secs_f64();
        first.get_or_insert(elapsed);
        println!("{}", json!({ "seconds": elapsed, "makespan": schedule.makespan() }));
    })?;
    best.validate(&problem)?;
    let bound = problem.lower_bound(&best, Effort::steps(0));
    println!(
        "{}",
        json!({ "tasks": tasks, "first_answer_ms": first.unwrap_or(0.0) * 1e3, "makespan": best.makespan(), "bound": bound })
    );
    Ok(())
}

fn problem(count: usize, seed: u64) -> Result<Problem, Box<dyn Error>> {
    let mut random = SplitMix64::new(seed);
    let devices = ["cpu:0", "gpu:0", "fpga:0", "npu:0"].map(DeviceSpec::new);
    let devices = Devices::uniform(devices, Link { latency: 20e-6, bandwidth: 8e9 })?;
    let mut graph = TaskGraph::builder(devices.len());
    let mut ids = Vec::new();
    for index in 0..count {
        let work = (1 + random.below(1000)) as f64 * 1e-6;
        let row = [1.0, 0.2, 0.4, 0.3].map(|factor| (random.below(5) > 0).then_some(work * factor));
        let row = [Some(row[0].unwrap_or(work)), row[1], row[2], row[3]];
        ids.push(graph.task(Task::new(format!("t{index}"), row))?);
        for _ in 0..1 + random.below(3) {
            if index > 0 {
                let back = 1 + random.below(index.min(40));
                graph.edge(ids[index - back], ids[index], 1000 * random.below(1000) as u64)?;
            }
        }
    }
    Ok(Problem::new(graph.build()?, devices)?)
}
