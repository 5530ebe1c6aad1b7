//! Plans: schedules in the form in which sessions replay them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{Group, cut, seconds_between, takers};
use crate::error::Error;
use crate::problem::{DeviceIndex, Problem, Schedule, TaskId};
use crate::sim::Replay;

/// A schedule as a session replays it: the tasks of each device, their order, and the bytes that
/// pass between devices.
/// Names stand for tasks and devices, so that a plan makes sense without the problem that it was
/// made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partitioning {
    /// The version of the format; [`Partitioning::VERSION`].
    pub version: u32,
    /// The fingerprint of the model that the plan was made for.
    pub model: String,
    /// The name of the [`Partitioner`](crate::Partitioner) that made the plan.
    pub strategy: String,
    /// The ids of the devices that the plan was made for, used or not.
    pub devices: Vec<String>,
    /// The sizes of the model's symbolic dimensions that the plan was made for.
    pub bindings: BTreeMap<String, u64>,
    /// The shapes of the model's inputs that the plan was made for.
    pub input_shapes: BTreeMap<String, Vec<u64>>,
    /// The partitions, each behind those that feed it, and those of one device in the order in
    /// which it runs them.
    pub partitions: Vec<Partition>,
    /// The transfers, one for each edge between tasks on different devices.
    pub transfers: Vec<Transfer>,
    /// The seconds from the beginning to the end of the last partition.
    pub estimated_makespan: f64,
    /// The sides of the tiles that matrix products were cut into before the model was planned;
    /// `None` where no product was cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile_size: Option<u64>,
    /// The rows of the parts that the batch was split into before the model was planned; empty
    /// where the batch was not split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batch_parts: Vec<u64>,
}

/// A partition: tasks that one device compiles and runs as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The id of the device.
    pub device: String,
    /// The names of the tasks in the order in which they run; at least one.
    pub tasks: Vec<String>,
    /// The start, in seconds from the beginning.
    pub estimated_start: f64,
    /// The finish, in seconds from the beginning.
    pub estimated_finish: f64,
    /// The group of tiles that the partition belongs to; `None` where no other device may take the
    /// partition while the plan runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiles>,
}

/// The mark of a partition that is a tile: it was cut out of one operator together with the other
/// tiles of its group.
/// A run begins the group when everything that feeds any of its tiles has arrived.
/// Then a device that is done with its own tiles takes tiles of others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tiles {
    /// The name of the group.
    pub group: String,
    /// The ids of the devices that may take the tile, and the seconds that each is expected to need
    /// for a tile.
    pub devices: BTreeMap<String, f64>,
}

/// The bytes that pass from a task to a task on another device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// The name of the task that sends.
    pub from_task: String,
    /// The name of the task that receives.
    pub to_task: String,
    /// The id of the device that sends.
    pub from_device: String,
    /// The id of the device that receives.
    pub to_device: String,
    /// The number of bytes.
    pub bytes: u64,
    /// The seconds that the transfer is expected to take.
    pub estimated_seconds: f64,
}

/// The place of a task: the number of its partition, and its position in the partition.
type Place = (usize, usize);

impl Partitioning {
    /// The version of the format that this crate writes and reads.
    pub const VERSION: u32 = 1;

    /// Cuts a schedule into partitions that are few, depend on each other in no circle, and do not
    /// lengthen its makespan.
    /// The tasks of a device between two waits for another device become one partition.
    /// A task starts a new partition where its inputs arrive later, or where joining it would delay
    /// another device.
    /// Bindings and input shapes are left for the caller to fill in.
    ///
    /// # Errors
    /// [`Error::Schedule`] where the schedule is not valid for the problem.
    pub fn from_schedule(
        problem: &Problem,
        schedule: &Schedule,
        model: impl Into<String>,
        strategy: impl Into<String>,
    ) -> Result<Self, Error> {
        schedule.validate(problem)?;
        let (graph, devices) = (problem.graph(), problem.devices());
        let ids: Vec<String> = devices.iter().map(|device| device.id.clone()).collect();
        let groups = cut(problem, schedule);
        let transfers = graph.edges().filter_map(|(from, to, bytes)| {
            let [sender, receiver] = [from, to].map(|task| schedule.slots()[task.0].device);
            (sender != receiver).then(|| Transfer {
                from_task: graph.known(from).name.clone(),
                to_task: graph.known(to).name.clone(),
                from_device: ids[sender.0].clone(),
                to_device: ids[receiver.0].clone(),
                bytes,
                estimated_seconds: seconds_between(problem, sender, receiver, bytes),
            })
        });
        let transfers = transfers.collect();
        let takers = takers(problem, |task| schedule.slots()[task.0].device.0);
        let tiles = |group: &Group| {
            let name = group.tasks.first().and_then(|&task| graph.known(task).tiles.clone())?;
            let devices = takers.get(&name).cloned().unwrap_or_default();
            Some(Tiles { group: name, devices })
        };
        let partition = |group: &Group| Partition {
            device: ids[group.device.0].clone(),
            tasks: group.tasks.iter().map(|&task| graph.known(task).name.clone()).collect(),
            estimated_start: group.start(),
            estimated_finish: group.finish(),
            tiles: tiles(group),
        };
        Ok(Self {
            version: Self::VERSION,
            model: model.into(),
            strategy: strategy.into(),
            bindings: BTreeMap::new(),
            input_shapes: BTreeMap::new(),
            partitions: groups.iter().map(partition).collect(),
            transfers,
            estimated_makespan: groups.iter().map(Group::finish).fold(0.0, f64::max),
            devices: ids,
            tile_size: None,
            batch_parts: vec![],
        })
    }

    /// Returns the device of each task, both by name.
    #[must_use]
    pub fn placement(&self) -> BTreeMap<&str, &str> {
        self.partitions
            .iter()
            .flat_map(|partition| partition.tasks.iter().map(|task| (task.as_str(), partition.device.as_str())))
            .collect()
    }

    /// Returns the plan as JSON, indented for people to read.
    ///
    /// # Errors
    /// [`Error::Plan`] where the plan contradicts itself, as a plan that was changed by hand may.
    pub fn to_json(&self) -> Result<String, Error> {
        self.places()?;
        serde_json::to_string_pretty(self).map_err(|error| Error::PlanSyntax(error.to_string()))
    }

    /// Reads a plan that [`Partitioning::to_json`] has written.
    /// The plan agrees with itself; [`Partitioning::check`] says whether it fits certain tasks.
    ///
    /// # Errors
    /// [`Error::PlanSyntax`] with the place in the text, [`Error::PlanVersion`] for a plan of
    /// another version, or [`Error::Plan`] where the plan contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        /// The version of a plan, which is read first, as another version may have other fields.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let syntax = |error: serde_json::Error| Error::PlanSyntax(error.to_string());
        let Version { version } = serde_json::from_str(text).map_err(syntax)?;
        if version != Self::VERSION {
            return Err(Error::PlanVersion { found: version, supported: Self::VERSION });
        }
        let plan: Self = serde_json::from_str(text).map_err(syntax)?;
        plan.places()?;
        Ok(plan)
    }

    /// Checks that the plan agrees with itself, runs each of these tasks once, and runs no other
    /// task.
    /// [`Partitioning::check_order`] checks the order of the tasks.
    ///
    /// # Errors
    /// [`Error::Plan`], naming the task, device or partition.
    pub fn check<T: AsRef<str>>(&self, tasks: &[T]) -> Result<(), Error> {
        let places = self.places()?;
        let expected: HashSet<&str> = tasks.iter().map(T::as_ref).collect();
        if let Some(missing) = tasks.iter().map(T::as_ref).find(|task| !places.contains_key(task)) {
            return Err(wrong(format!("task '{missing}'"), "it is in no partition"));
        }
        let planned = self.partitions.iter().flat_map(|partition| &partition.tasks);
        match planned.map(String::as_str).find(|task| !expected.contains(task)) {
            Some(unknown) => Err(wrong(format!("task '{unknown}'"), "there is no such task")),
            None => Ok(()),
        }
    }

    /// Checks that each edge leads forward, and that it has a transfer where it leads to another
    /// device.
    /// The edges are given as the names of the tasks that send and receive.
    ///
    /// # Errors
    /// [`Error::Plan`], naming the task.
    pub fn check_order<'a>(&self, edges: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), Error> {
        let places = self.places()?;
        let transfers: HashSet<(&str, &str)> =
            self.transfers.iter().map(|transfer| (transfer.from_task.as_str(), transfer.to_task.as_str())).collect();
        let place = |task: &str| {
            places.get(task).copied().ok_or_else(|| wrong(format!("task '{task}'"), "it is in no partition"))
        };
        for (from, to) in edges {
            let (sender, receiver) = (place(from)?, place(to)?);
            if receiver <= sender {
                return Err(wrong(format!("task '{to}'"), format!("it runs before '{from}', which feeds it")));
            }
            let stays = self.partitions[sender.0].device == self.partitions[receiver.0].device;
            if !stays && !transfers.contains(&(from, to)) {
                return Err(wrong(
                    format!("task '{to}'"),
                    format!("there is no transfer from '{from}' on another device"),
                ));
            }
        }
        Ok(())
    }

    /// Replays the plan by the costs of a problem, which may be the problem that the plan was made
    /// for or one with costs measured since.
    ///
    /// # Errors
    /// [`Error::Plan`] where the plan does not fit the problem's tasks, devices and claims.
    pub fn replay<'a>(&self, problem: &'a Problem) -> Result<Replay<'a>, Error> {
        let graph = problem.graph();
        let names: Vec<&str> = graph.tasks().map(|(_, task)| task.name.as_str()).collect();
        self.check(&names)?;
        self.check_order(graph.edges().map(|(from, to, _)| (names[from.0], names[to.0])))?;
        let by_name: HashMap<&str, TaskId> = names.iter().enumerate().map(|(id, &name)| (name, TaskId(id))).collect();
        let resolved = |(number, partition): (usize, &Partition)| {
            let on = problem.devices().iter().position(|device| device.id == partition.device);
            let on = on.ok_or_else(|| {
                wrong(format!("partition number {number}"), format!("there is no device '{}'", partition.device))
            })?;
            let tasks = partition.tasks.iter().filter_map(|task| by_name.get(task.as_str()).copied());
            Ok((DeviceIndex(on), tasks.collect()))
        };
        Replay::new(problem, self.partitions.iter().enumerate().map(resolved).collect::<Result<_, Error>>()?)
    }

    /// Returns the place of each task, in a plan that agrees with itself.
    /// Such a plan has unique device ids and task names, its partitions hold tasks and are on known
    /// devices, its transfers lead forward between the devices of their tasks, and its estimates
    /// are times.
    fn places(&self) -> Result<HashMap<&str, Place>, Error> {
        if self.version != Self::VERSION {
            return Err(Error::PlanVersion { found: self.version, supported: Self::VERSION });
        }
        let mut devices: HashSet<&str> = HashSet::new();
        if let Some(twice) = self.devices.iter().find(|device| !devices.insert(device.as_str())) {
            return Err(wrong(format!("device '{twice}'"), "it is listed twice"));
        }
        check_estimate(self.estimated_makespan, || "the makespan".into())?;
        let mut places: HashMap<&str, Place> = HashMap::new();
        for (number, partition) in self.partitions.iter().enumerate() {
            let at = || format!("partition number {number}");
            if !devices.contains(partition.device.as_str()) {
                return Err(wrong(at(), format!("its device '{}' is not listed", partition.device)));
            }
            if partition.tasks.is_empty() {
                return Err(wrong(at(), "it has no task"));
            }
            check_estimate(partition.estimated_start, at)?;
            check_estimate(partition.estimated_finish, at)?;
            if partition.estimated_finish < partition.estimated_start {
                return Err(wrong(at(), "it finishes before it starts"));
            }
            for (device, &seconds) in partition.tiles.iter().flat_map(|tiles| &tiles.devices) {
                if !devices.contains(device.as_str()) {
                    return Err(wrong(at(), format!("device '{device}', which may take it, is not listed")));
                }
                check_estimate(seconds, at)?;
            }
            for (position, task) in partition.tasks.iter().enumerate() {
                if places.insert(task, (number, position)).is_some() {
                    return Err(wrong(format!("task '{task}'"), "it is in the partitions twice"));
                }
            }
        }
        for transfer in &self.transfers {
            self.check_transfer(transfer, &places)?;
        }
        Ok(places)
    }

    fn check_transfer(&self, transfer: &Transfer, places: &HashMap<&str, Place>) -> Result<(), Error> {
        let at = || format!("the transfer from '{}' to '{}'", transfer.from_task, transfer.to_task);
        let partition_of = |task: &str, device: &str| {
            let Some(&(number, _)) = places.get(task) else {
                return Err(wrong(at(), format!("'{task}' is in no partition")));
            };
            if self.partitions[number].device == device {
                Ok(number)
            } else {
                Err(wrong(at(), format!("'{task}' is not on device '{device}'")))
            }
        };
        let sender = partition_of(&transfer.from_task, &transfer.from_device)?;
        let receiver = partition_of(&transfer.to_task, &transfer.to_device)?;
        if transfer.from_device == transfer.to_device {
            return Err(wrong(at(), "both are on one device"));
        }
        if receiver <= sender {
            return Err(wrong(at(), "the receiver's partition does not come behind the sender's"));
        }
        check_estimate(transfer.estimated_seconds, at)
    }
}

fn wrong(at: String, reason: impl Into<String>) -> Error {
    Error::Plan { at, reason: reason.into() }
}

fn check_estimate(seconds: f64, at: impl FnOnce() -> String) -> Result<(), Error> {
    if seconds.is_finite() && seconds >= 0.0 { Ok(()) } else { Err(wrong(at(), format!("an estimate is {seconds} s"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a plan with `a` and `b` on the CPU, and `c` on the GPU behind `b`.
    fn plan() -> Partitioning {
        let partition = |device: &str, tasks: &[&str], estimated_start, estimated_finish| Partition {
            device: device.into(),
            tasks: tasks.iter().map(|&task| task.into()).collect(),
            estimated_start,
            estimated_finish,
            tiles: None,
        };
        Partitioning {
            version: Partitioning::VERSION,
            model: "sha256:00".into(),
            strategy: "heft".into(),
            devices: vec!["cpu:0".into(), "gpu:0".into()],
            bindings: BTreeMap::from([("batch".into(), 8)]),
            input_shapes: BTreeMap::from([("x".into(), vec![8, 3, 224, 224])]),
            partitions: vec![partition("cpu:0", &["a", "b"], 0.0, 0.1), partition("gpu:0", &["c"], 0.3, 0.4)],
            transfers: vec![Transfer {
                from_task: "b".into(),
                to_task: "c".into(),
                from_device: "cpu:0".into(),
                to_device: "gpu:0".into(),
                bytes: u64::MAX,
                estimated_seconds: 0.1 + 0.2,
            }],
            estimated_makespan: 0.4,
            tile_size: None,
            batch_parts: vec![],
        }
    }

    #[test]
    fn json_keeps_everything() {
        let plan = plan();
        assert_eq!(Partitioning::from_json(&plan.to_json().unwrap()), Ok(plan.clone()));
        let mut tiled = plan.clone();
        tiled.tile_size = Some(512);
        tiled.partitions[1].tiles = Some(Tiles { group: "c".into(), devices: [("gpu:0".into(), 0.1)].into() });
        assert_eq!(Partitioning::from_json(&tiled.to_json().unwrap()), Ok(tiled.clone()));
        tiled.partitions[1].tiles = Some(Tiles { group: "c".into(), devices: [("npu:0".into(), 0.1)].into() });
        assert!(tiled.to_json().unwrap_err().to_string().contains("'npu:0', which may take it, is not listed"));
        assert_eq!(plan.placement(), BTreeMap::from([("a", "cpu:0"), ("b", "cpu:0"), ("c", "gpu:0")]));
    }

    #[test]
    fn text_that_is_no_plan_is_refused() {
        let json = plan().to_json().unwrap();
        let later =
            Partitioning::from_json(&json.replace("\"version\": 1", "\"version\": 7, \"colour\": 1")).unwrap_err();
        assert_eq!(later, Error::PlanVersion { found: 7, supported: 1 });
        for text in [
            String::new(),
            "[]".into(),
            "{}".into(),
            "[".repeat(100_000),
            json[..json.len() / 2].into(),
            json.replace("\"model\"", "\"modle\""),
            json.replace("\"strategy\": \"heft\",", ""),
            json.replace("\"strategy\"", "\"colour\": 1, \"strategy\""),
            json.replace("\"tasks\"", "\"colour\": 1, \"tasks\""),
            json.replace("\"bytes\": 18446744073709551615", "\"bytes\": -1"),
            json.replace("\"estimated_makespan\": 0.4", "\"estimated_makespan\": 1e999"),
            json.replace("\"estimated_makespan\": 0.4", "\"estimated_makespan\": null"),
        ] {
            assert_ne!(text, json);
            assert!(matches!(Partitioning::from_json(&text), Err(Error::PlanSyntax(_))), "{text}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        type Change = fn(&mut Partitioning);
        let faults: [(Change, &str); 16] = [
            (|plan| plan.partitions[1].tasks.push("a".into()), "task 'a': it is in the partitions twice"),
            (|plan| plan.partitions[0].tasks.push("a".into()), "task 'a': it is in the partitions twice"),
            (|plan| plan.partitions[1].device = "npu:0".into(), "partition number 1: its device 'npu:0' is not listed"),
            (|plan| plan.devices.push("cpu:0".into()), "device 'cpu:0': it is listed twice"),
            (|plan| plan.partitions[0].tasks.clear(), "partition number 0: it has no task"),
            (|plan| plan.partitions[0].estimated_finish = -1.0, "partition number 0: an estimate is -1 s"),
            (|plan| plan.partitions[1].estimated_finish = 0.2, "partition number 1: it finishes before it starts"),
            (|plan| plan.estimated_makespan = f64::NAN, "the makespan: an estimate is NaN s"),
            (|plan| plan.transfers[0].estimated_seconds = f64::INFINITY, "from 'b' to 'c': an estimate is inf s"),
            (|plan| plan.partitions.swap(0, 1), "the receiver's partition does not come behind the sender's"),
            (|plan| plan.transfers[0].to_task = "d".into(), "'d' is in no partition"),
            (|plan| plan.transfers[0].to_task = "a".into(), "'a' is not on device 'gpu:0'"),
            (|plan| plan.transfers[0].from_device = "gpu:0".into(), "'b' is not on device 'gpu:0'"),
            (|plan| plan.partitions[1].device = "cpu:0".into(), "'c' is not on device 'gpu:0'"),
            (
                |plan| {
                    plan.partitions[1].device = "cpu:0".into();
                    plan.transfers[0].to_device = "cpu:0".into();
                },
                "both are on one device",
            ),
            (|plan| plan.version = 0, "version 0"),
        ];
        for (change, expected) in faults {
            let mut plan = plan();
            change(&mut plan);
            for error in [plan.to_json().unwrap_err(), plan.check(&["a", "b", "c"]).unwrap_err()] {
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }

    #[test]
    fn a_plan_of_other_tasks_is_refused() {
        assert_eq!(plan().check(&["c", "b", "a"]), Ok(()));
        let said = |tasks: &[&str]| plan().check(tasks).unwrap_err().to_string();
        assert!(said(&["a", "b", "c", "d"]).contains("task 'd': it is in no partition"));
        assert!(said(&["a", "c"]).contains("task 'b': there is no such task"));
    }

    #[test]
    fn a_plan_in_no_order_is_refused() {
        assert_eq!(plan().check_order([("a", "b"), ("b", "c")]), Ok(()));
        let said = |edge| plan().check_order([edge]).unwrap_err().to_string();
        assert!(said(("b", "a")).contains("task 'a': it runs before 'b'"));
        assert!(said(("c", "a")).contains("task 'a': it runs before 'c'"));
        assert!(said(("a", "a")).contains("task 'a': it runs before 'a'"));
        assert!(said(("a", "c")).contains("task 'c': there is no transfer from 'a'"));
        assert!(said(("a", "d")).contains("task 'd': it is in no partition"));
    }
}
