//! A test of the example of the HEFT paper, which is read from the data folder.

mod data;

use hetero_scheduler::{
    DeviceSpec, Devices, Effort, Exact, Heft, Link, Partitioner, Partitioning, Problem, Task, TaskGraph,
};
use serde_json::Value;

#[test]
fn heft_takes_as_long_as_in_the_paper_and_exact_search_proves_the_best() {
    let Some(text) = data::read("topcuoglu10.json") else { return };
    let instance: Value = serde_json::from_str(&text).unwrap();
    let rows = instance["compute_cost"].as_array().unwrap();
    let processors = rows[0].as_array().unwrap().len();
    let devices = (0..processors).map(|index| DeviceSpec::new(format!("p:{index}")));
    let devices = Devices::uniform(devices, Link { latency: 0.0, bandwidth: 1.0 }).unwrap();
    let mut graph = TaskGraph::builder(processors);
    let mut ids = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let row: Vec<Option<f64>> = row.as_array().unwrap().iter().map(Value::as_f64).collect();
        ids.push(graph.task(Task::new(format!("n{}", index + 1), row)).unwrap());
    }
    for edge in instance["edges"].as_array().unwrap() {
        let number = |key: &str| edge[key].as_u64().unwrap();
        let id = |key: &str| ids[number(key) as usize - 1];
        graph.edge(id("from"), id("to"), number("communication_cost")).unwrap();
    }
    let problem = Problem::new(graph.build().unwrap(), devices).unwrap();
    let schedule = Heft.partition(&problem).unwrap();
    schedule.validate(&problem).unwrap();
    assert_eq!(Some(schedule.makespan()), instance["heft_makespan"].as_f64());
    let plan = Partitioning::from_schedule(&problem, &schedule, "topcuoglu10", Heft.name()).unwrap();
    assert_eq!(plan.estimated_makespan, schedule.makespan());

    let began = std::time::Instant::now();
    let solved = Exact { effort: Effort::time(std::time::Duration::from_secs(60)) }.solve(&problem).unwrap();
    println!("exact: {} s in {:?}", solved.schedule.makespan(), began.elapsed());
    solved.schedule.validate(&problem).unwrap();
    assert!(solved.is_proven());
    assert_eq!(Some(solved.schedule.makespan()), instance["optimal_makespan"].as_f64());
}
