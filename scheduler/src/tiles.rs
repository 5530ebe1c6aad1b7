//! Tiles: parts of one operator of the model, which devices may take from each other while a plan
//! runs.
//!
//! A run begins a group of tiles when everything that feeds any of them has arrived, and goes on
//! behind the group when all of its tiles are done.
//! So a group is one step, whichever device does which tile.
//! The tasks that feed a group and the tasks that read it must not be in one partition, because
//! they would wait for each other in a circle.
//! *Levels* keep them apart.

use std::collections::BTreeMap;

use crate::{Problem, TaskId};

/// Returns for each task its level: the number of groups of tiles on the longest way to it.
/// A task that feeds a group is on a lower level than the group's tiles, and the tiles are on a
/// lower level than the tasks that read them.
/// `edges` are pairs of positions of tasks.
/// `groups` gives the number of the group that each task belongs to, if any.
/// The result is `None` where groups wait for themselves or for each other in a circle, or where an
/// edge names a position without a task.
///
/// It takes time in proportion to the number of tasks and edges (Kahn's algorithm, over groups and
/// the tasks without a group).
#[must_use]
pub fn levels(edges: &[(usize, usize)], groups: &[Option<usize>]) -> Option<Vec<usize>> {
    let tasks = groups.len();
    let count = groups.iter().flatten().max().map_or(0, |most| most + 1);
    // A group is a node behind all tasks' nodes.
    let node = |task: usize| groups.get(task).copied().map(|group| group.map_or(task, |group| tasks + group));
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); tasks + count];
    let mut waits_for = vec![0_usize; tasks + count];
    for &(from, to) in edges {
        let (from, to) = (node(from)?, node(to)?);
        next[from].push(to);
        waits_for[to] += 1;
    }
    let mut level = vec![0; tasks + count];
    let mut ready: Vec<usize> = (0..tasks + count).filter(|&node| waits_for[node] == 0).collect();
    let mut seen = 0;
    while let Some(from) = ready.pop() {
        seen += 1;
        for &to in &next[from] {
            let crosses = from >= tasks || to >= tasks;
            level[to] = level[to].max(level[from] + usize::from(crosses));
            waits_for[to] -= 1;
            if waits_for[to] == 0 {
                ready.push(to);
            }
        }
    }
    (seen == tasks + count).then(|| (0..tasks).filter_map(node).map(|node| level[node]).collect())
}

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
            let each = tiles.iter().map(|&id| graph.known(id).seconds_on(crate::DeviceIndex(device)));
            each.sum::<Option<f64>>().map(|sum| sum / tiles.len() as f64)
        };
        let seconds: Vec<Option<f64>> = (0..ids.len()).map(seconds).collect();
        let planned = |device: usize| tiles.iter().any(|&id| device_of(id) == device);
        let processor = |device: usize| devices.processor(crate::DeviceIndex(device)).0;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_keep_what_feeds_a_group_from_what_reads_it() {
        // Tasks 0 and 1 feed the tiles 2 and 3, which task 4 reads; task 5 has nothing to do with
        // them.
        let edges = [(0, 2), (1, 3), (2, 4), (3, 4)];
        let groups = [None, None, Some(0), Some(0), None, None];
        assert_eq!(levels(&edges, &groups), Some(vec![0, 0, 1, 1, 2, 0]));
        assert_eq!(levels(&edges, &[None; 6]), Some(vec![0; 6]));
    }

    #[test]
    fn groups_that_wait_for_themselves_have_no_levels() {
        assert_eq!(levels(&[(0, 1)], &[Some(0), Some(0)]), None);
        // The groups wait by way of another task, and of another group.
        assert_eq!(levels(&[(0, 1), (1, 2)], &[Some(0), None, Some(0)]), None);
        assert_eq!(levels(&[(0, 1), (2, 3)], &[Some(0), Some(1), Some(1), Some(0)]), None);
        assert_eq!(levels(&[(0, 9)], &[None]), None);
    }
}
