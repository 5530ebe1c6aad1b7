//! Tiles: parts of what was one operator, which devices may take from each other while a plan runs.
//!
//! A run begins a group of tiles when all that feeds any of them is there, and goes on behind the group when all of them are done. So a
//! group is one step, whatever device does which tile, and what feeds it and what reads it must not be in one partition: they
//! would wait for each other in a circle. *Levels* keep them apart.

use std::collections::BTreeMap;

use crate::{Problem, TaskId};

/// For each task, how many groups of tiles lie on the longest way to it: what feeds a group is on a lower level than its tiles, and these are on a
/// lower one than what reads them. `groups` gives the number of the group that each task belongs to, if any. `None` where groups wait for
/// themselves or for each other in a circle; edges are pairs of positions.
///
/// Takes time by the number of tasks and edges (Kahn's algorithm, over groups and the tasks of none).
#[must_use]
pub fn levels(edges: &[(usize, usize)], groups: &[Option<usize>]) -> Option<Vec<usize>> {
    let tasks = groups.len();
    let count = groups.iter().flatten().max().map_or(0, |most| most + 1);
    // A group is a node behind all tasks.
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

/// The devices that may take tiles of each group, with the seconds that each needs for one, by the mean of the group.
///
/// Those take part that claim all tiles. Of devices that share a processor, every tile that the slower one takes would be done earlier by
/// the other: only the quickest takes part, and what the schedule gives tiles to anyway.
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
        // 0 and 1 feed the tiles 2 and 3, which 4 reads; 5 has nothing to do with them.
        let edges = [(0, 2), (1, 3), (2, 4), (3, 4)];
        let groups = [None, None, Some(0), Some(0), None, None];
        assert_eq!(levels(&edges, &groups), Some(vec![0, 0, 1, 1, 2, 0]));
        assert_eq!(levels(&edges, &[None; 6]), Some(vec![0; 6]));
    }

    #[test]
    fn groups_that_wait_for_themselves_have_no_levels() {
        assert_eq!(levels(&[(0, 1)], &[Some(0), Some(0)]), None);
        // By way of another task, and of another group.
        assert_eq!(levels(&[(0, 1), (1, 2)], &[Some(0), None, Some(0)]), None);
        assert_eq!(levels(&[(0, 1), (2, 3)], &[Some(0), Some(1), Some(1), Some(0)]), None);
        assert_eq!(levels(&[(0, 9)], &[None]), None);
    }
}
