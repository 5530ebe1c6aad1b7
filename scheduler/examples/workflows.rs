//! An example that schedules real workflows (WfFormat 1.5) on sets of processors:
//! `workflows FOLDER [SECONDS] [SEED]`.
//! It prints a line of JSON for each pair, with the makespans of the strategies and a lower bound.
//!
//! The cost of a task is its run time, divided by the processor's speed; an edge has the bytes of
//! the files along it.
//! All links have the one bandwidth that makes the mean transfer take as long as the mean task.

#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use hetero_scheduler::{
    Cpop, DeviceSpec, Devices, Effort, Heft, LatencyAware, Link, Lookahead, Partitioner, Peft, Problem, Task, TaskGraph,
};
use serde_json::{Value, json};

const SPEEDS: [&[f64]; 4] = [&[1.0, 1.0, 1.0, 1.0], &[1.0, 8.0], &[2.0, 2.0, 16.0], &[1.0, 2.0, 4.0, 8.0]];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: workflows FOLDER [SECONDS] [SEED]")?;
    let seconds: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let seed: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let mut paths: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        for speeds in SPEEDS {
            let (problem, bandwidth) = problem(&path, speeds)?;
            let strategies: [&dyn Partitioner; 4] = [&Heft, &Peft, &Cpop, &Lookahead];
            let mut makespans = serde_json::Map::new();
            for strategy in strategies {
                let schedule = strategy.partition(&problem)?;
                schedule.validate(&problem)?;
                makespans.insert(strategy.name().to_owned(), json!(schedule.makespan()));
            }
            let ours = LatencyAware { effort: Effort::time(Duration::from_secs_f64(seconds)), seed };
            let began = Instant::now();
            let schedule = ours.partition(&problem)?;
            let took = began.elapsed().as_secs_f64();
            schedule.validate(&problem)?;
            makespans.insert(ours.name().to_owned(), json!(schedule.makespan()));
            let bound = problem.lower_bound(&schedule, Effort::time(Duration::from_secs_f64(seconds)));
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
            println!(
                "{}",
                json!({
                    "workflow": name, "speeds": speeds, "bandwidth": bandwidth, "tasks": problem.graph().len(),
                    "makespans": makespans, "bound": bound, "seconds": took,
                })
            );
        }
    }
    Ok(())
}

fn problem(path: &Path, speeds: &[f64]) -> Result<(Problem, f64), Box<dyn Error>> {
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let workflow = &document["workflow"];
    let files: HashMap<String, u64> = list(&workflow["specification"]["files"])
        .iter()
        .map(|file| (name(&file["id"]), file["sizeInBytes"].as_u64().unwrap_or(0)))
        .collect();
    let runtimes: HashMap<String, f64> = list(&workflow["execution"]["tasks"])
        .iter()
        .map(|task| (name(&task["id"]), task["runtimeInSeconds"].as_f64().unwrap_or(0.0)))
        .collect();
    let tasks = list(&workflow["specification"]["tasks"]);
    let mut graph = TaskGraph::builder(speeds.len());
    let mut ids = BTreeMap::new();
    let (mut work, mut count) = (0.0, 0.0);
    for task in &tasks {
        let id = name(&task["id"]);
        let runtime = runtimes.get(&id).copied().ok_or("a task has no run time")?;
        work += speeds.iter().map(|speed| runtime / speed).sum::<f64>();
        count += speeds.len() as f64;
        let row: Vec<Option<f64>> = speeds.iter().map(|speed| Some(runtime / speed)).collect();
        ids.insert(id.clone(), graph.task(Task::new(id, row))?);
    }
    let (mut total, mut edges) = (0.0, 0.0);
    for task in &tasks {
        let outputs: HashSet<String> = list(&task["outputFiles"]).iter().map(name).collect();
        for child in list(&task["children"]) {
            let child = name(&child);
            let fed = tasks.iter().find(|task| name(&task["id"]) == child).ok_or("an edge leads nowhere")?;
            let passed: HashSet<String> = list(&fed["inputFiles"]).iter().map(name).collect();
            let bytes: u64 = outputs.intersection(&passed).filter_map(|file| files.get(file)).sum();
            graph.edge(ids[&name(&task["id"])], ids[&child], bytes)?;
            total += bytes as f64;
            edges += 1.0;
        }
    }
    let bandwidth = if total > 0.0 { (total / edges) / (work / count) } else { 1.0 };
    let devices = (0..speeds.len()).map(|index| DeviceSpec::new(format!("p:{index}")));
    let devices = Devices::uniform(devices, Link { latency: 0.0, bandwidth })?;
    Ok((Problem::new(graph.build()?, devices)?, bandwidth))
}
