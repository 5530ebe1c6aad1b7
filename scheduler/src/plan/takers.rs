//! The devices that may take tiles from each other while a plan runs.

use std::collections::BTreeMap;

use crate::problem::{DeviceIndex, Problem, TaskId};

/// Returns the devices that may take tiles of each group, with the mean seconds that each needs for
/// a tile of the group.
///
/// A device takes part where it claims all tiles of the group.
/// Of devices that share a processor, every tile that the slower one takes would be done earlier by
/// the faster one.
/// So only the fastest of them takes part, and any device that the schedule gives tiles to.
pub(crate) fn takers(
    problem: &Problem,
    device_of: impl Fn(TaskId) -> usize,
) -> BTreeMap<String, BTreeMap<String, f64>> {
    let (graph, devices) = (problem.graph(), problem.devices());
    let mut groups: BTreeMap<&str, Vec<TaskId>> = BTreeMap::new();
    for (id, task) in graph.tasks() {
        if let Some(group) = &task.tiles {
            groups.entry(group).or_default().push(id);
        }
    }
    let taking = |tiles: &Vec<TaskId>| {
        let ids: Vec<&str> = devices.iter().map(|device| &*device.id).collect();
        let seconds = |device: usize| {
            let each = tiles.iter().map(|&id| graph.known(id).seconds_on(DeviceIndex(device)));
            each.sum::<Option<f64>>().map(|sum| sum / tiles.len() as f64)
        };
        let seconds: Vec<Option<f64>> = (0..ids.len()).map(seconds).collect();
        let planned = |device: usize| tiles.iter().any(|&id| device_of(id) == device);
        let processor = |device: usize| devices.processor(DeviceIndex(device)).0;
        let beaten = |device: usize, own: f64| {
            (0..ids.len()).filter(|&other| other != device && processor(other) == processor(device)).any(|other| {
                seconds[other]
                    .is_some_and(|theirs| theirs < own || (theirs <= own && (planned(other) || other < device)))
            })
        };
        let takes = |device: usize| {
            let own = seconds[device]?;
            (planned(device) || !beaten(device, own)).then(|| (ids[device].to_owned(), own))
        };
        (0..ids.len()).filter_map(takes).collect()
    };
    groups.iter().map(|(group, tiles)| ((*group).to_owned(), taking(tiles))).collect()
}
