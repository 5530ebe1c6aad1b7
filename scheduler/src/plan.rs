//! Plans: what a session replays, as JSON.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{Error, Problem, Schedule, TaskId};

/// Version of the JSON form. A plan of another version is refused.
pub const PLAN_VERSION: u32 = 1;

/// Which tasks run together on which device, and what passes between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this form.
    pub version: u32,
    /// Fingerprint of the model that it is for.
    pub model: String,
    /// Shapes that the model was bound to, by input.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Name of the partitioner.
    pub strategy: String,
    /// Devices, by the names that partitions use.
    pub devices: Vec<String>,
    /// Partitions, each after those that feed it.
    pub partitions: Vec<Partition>,
    /// What passes between devices.
    pub transfers: Vec<Transfer>,
    /// Seconds from the first start to the last finish, as estimated.
    pub estimated_seconds: f64,
}

/// Tasks that one device compiles and runs as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The device.
    pub device: String,
    /// Names of the tasks, each after those that feed it.
    pub tasks: Vec<String>,
    /// Seconds from the beginning, as estimated.
    pub start: f64,
    /// Seconds from the beginning, as estimated.
    pub finish: f64,
}

/// Bytes that pass from one partition to another on a different device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Number of the partition that they come from.
    pub from: usize,
    /// Number of the partition that they go to.
    pub to: usize,
    /// Bytes.
    pub bytes: f64,
    /// Seconds, as estimated.
    pub seconds: f64,
}

impl Plan {
    /// Cuts a graph into partitions along a schedule.
    ///
    /// Every task gets a depth: the number of times that the device changes, at most, on a way to it. Tasks of equal device and depth make a
    /// partition. An edge never leads to a smaller depth, and to the same depth only on the same device, so partitions cannot wait
    /// for each other in a circle.
    #[must_use]
    pub fn from_schedule(problem: &Problem, schedule: &Schedule, devices: &[String], strategy: &str) -> Plan {
        let graph = problem.graph();
        let mut depth = vec![0usize; graph.len()];
        for &id in problem.order() {
            for (before, _) in graph.predecessors(id) {
                let changes = usize::from(schedule.device_of(before) != schedule.device_of(id));
                depth[id.0] = depth[id.0].max(depth[before.0] + changes);
            }
        }
        let mut groups: BTreeMap<(usize, usize), Vec<TaskId>> = BTreeMap::new();
        for &id in problem.order() {
            groups.entry((depth[id.0], schedule.device_of(id))).or_default().push(id);
        }
        let mut number = vec![0; graph.len()];
        let mut partitions = Vec::with_capacity(groups.len());
        for ((_, device), tasks) in groups {
            let slots = || tasks.iter().map(|id| schedule.slots[id.0]);
            for id in &tasks {
                number[id.0] = partitions.len();
            }
            partitions.push(Partition {
                device: devices.get(device).cloned().unwrap_or_default(),
                start: slots().map(|slot| slot.start).fold(f64::INFINITY, f64::min),
                finish: slots().map(|slot| slot.finish).fold(0.0, f64::max),
                tasks: tasks.iter().map(|&id| graph.task(id).name.clone()).collect(),
            });
        }
        let mut passing: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for id in graph.ids() {
            for (before, bytes) in graph.predecessors(id) {
                let (from, to) = (schedule.device_of(before), schedule.device_of(id));
                if from != to {
                    let sum = passing.entry((number[before.0], number[id.0])).or_default();
                    sum.0 += bytes;
                    sum.1 += problem.links().seconds(from, to, bytes).unwrap_or(0.0);
                }
            }
        }
        let transfers =
            passing.into_iter().map(|((from, to), (bytes, seconds))| Transfer { from, to, bytes, seconds }).collect();
        Plan {
            version: PLAN_VERSION,
            strategy: strategy.to_owned(),
            devices: devices.to_vec(),
            partitions,
            transfers,
            estimated_seconds: schedule.makespan(),
            ..Plan::default()
        }
    }

    /// Device of each task.
    #[must_use]
    pub fn placement(&self) -> BTreeMap<&str, &str> {
        self.partitions
            .iter()
            .flat_map(|partition| partition.tasks.iter().map(|task| (task.as_str(), partition.device.as_str())))
            .collect()
    }

    /// The plan as JSON.
    ///
    /// # Errors
    /// `Plan` where an estimate is not a number.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Plan(error.to_string()))
    }

    /// Reads a plan and checks what it says of itself.
    ///
    /// # Errors
    /// `Plan` with the place in the text, the version, or the contradiction.
    pub fn from_json(text: &str) -> Result<Plan, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        // The version first: another one may have other fields.
        let found: Version = serde_json::from_str(text).map_err(|error| Error::Plan(error.to_string()))?;
        if found.version != PLAN_VERSION {
            return Err(Error::Plan(format!(
                "it is of version {}, this is version {PLAN_VERSION}; make it again with `hetero plan`",
                found.version
            )));
        }
        let plan: Plan = serde_json::from_str(text).map_err(|error| Error::Plan(error.to_string()))?;
        let mut seen = HashSet::new();
        for partition in &plan.partitions {
            if !plan.devices.contains(&partition.device) {
                return Err(Error::Plan(format!(
                    "a partition is on '{}', which is not among its devices",
                    partition.device
                )));
            }
            if let Some(task) = partition.tasks.iter().find(|task| !seen.insert(task.as_str())) {
                return Err(Error::Plan(format!("task '{task}' stands in it twice")));
            }
        }
        Ok(plan)
    }

    /// Checks that the plan places each of these tasks once and no other, and that each edge leads to the same partition or a later one.
    ///
    /// # Errors
    /// `Plan`, naming the task.
    pub fn check<'a>(
        &self,
        tasks: impl IntoIterator<Item = &'a str>,
        edges: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), Error> {
        let mut number: HashMap<&str, usize> = HashMap::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            number.extend(partition.tasks.iter().map(|task| (task.as_str(), index)));
        }
        let mut count = 0;
        for task in tasks {
            count += 1;
            if !number.contains_key(task) {
                return Err(Error::Plan(format!("it does not place node '{task}'; make it again for this model")));
            }
        }
        if count != number.len() {
            return Err(Error::Plan(format!("it places {} nodes, but the model has {count}", number.len())));
        }
        for (from, to) in edges {
            if number.get(from) > number.get(to) {
                return Err(Error::Plan(format!("'{to}' runs before '{from}', which feeds it")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Heft, Link, Links, Partitioner, Task, TaskGraph};

    /// A random layered graph on up to four devices, each task taken by at least one.
    fn some_problem() -> impl Strategy<Value = Problem> {
        let tasks = prop::collection::vec(
            (prop::collection::vec(prop::option::weighted(0.8, 0.0..10.0f64), 4), any::<u64>()),
            1..40,
        );
        (1usize..5, tasks, 0.1..100.0f64).prop_map(|(devices, tasks, bandwidth)| {
            let mut graph = TaskGraph::new(devices);
            for (index, (costs, feeds)) in tasks.into_iter().enumerate() {
                let mut costs = costs[..devices].to_vec();
                costs[feeds as usize % devices].get_or_insert(1.0);
                let id = graph.add_task(Task { name: format!("t{index}"), costs }).unwrap();
                for shift in [8, 24, 40] {
                    if index > 0 && feeds >> shift & 3 != 0 {
                        graph
                            .add_edge(TaskId((feeds >> shift) as usize % index), id, (feeds >> shift & 255) as f64)
                            .unwrap();
                    }
                }
            }
            Problem::new(graph, Links::uniform(devices, Link { latency: 0.5, bandwidth })).unwrap()
        })
    }

    proptest! {
        #[test]
        fn schedules_and_plans_are_sound(problem in some_problem()) {
            let schedule = Heft.partition(&problem).unwrap();
            prop_assert_eq!(schedule.validate(&problem), Ok(()));
            let devices: Vec<String> = (0..problem.graph().devices()).map(|d| format!("cpu:{d}")).collect();
            let plan = Plan::from_schedule(&problem, &schedule, &devices, "heft");
            let graph = problem.graph();
            let edges: Vec<(&str, &str)> = graph
                .ids()
                .flat_map(|id| graph.predecessors(id).map(move |(from, _)| (from, id)))
                .map(|(from, to)| (graph.task(from).name.as_str(), graph.task(to).name.as_str()))
                .collect();
            prop_assert_eq!(plan.check(graph.ids().map(|id| graph.task(id).name.as_str()), edges), Ok(()));
            prop_assert_eq!(Plan::from_json(&plan.to_json().unwrap()).unwrap(), plan);
        }

        #[test]
        fn hostile_json_is_an_error_or_a_plan(text in ".{0,200}") {
            let _ = Plan::from_json(&text);
        }
    }

    #[test]
    fn contradictions_are_named() {
        let plan = Plan {
            version: PLAN_VERSION,
            devices: vec!["cpu:0".into()],
            partitions: vec![Partition { device: "cpu:0".into(), tasks: vec!["a".into()], ..Partition::default() }],
            ..Plan::default()
        };
        let said = |plan: &Plan| Plan::from_json(&plan.to_json().unwrap()).unwrap_err().to_string();
        let mut other = plan.clone();
        other.version = 99;
        assert!(said(&other).contains("version 99"));
        let mut twice = plan.clone();
        twice.partitions.push(plan.partitions[0].clone());
        assert!(said(&twice).contains("'a' stands in it twice"));
        let mut lost = plan.clone();
        lost.partitions[0].device = "gpu:7".into();
        assert!(said(&lost).contains("gpu:7"));
        assert!(plan.check(["a", "b"], []).unwrap_err().to_string().contains("'b'"));
        assert!(plan.check([], []).is_err());
    }
}
