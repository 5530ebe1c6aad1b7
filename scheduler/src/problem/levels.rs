//! Tiles: parts of one operator of the model, which devices may take from each other while a plan
//! runs.
//!
//! A run begins a group of tiles when everything that feeds any of them has arrived, and goes on
//! behind the group when all of its tiles are done.
//! So a group is one step, whichever device does which tile.
//! The tasks that feed a group and the tasks that read it must not be in one partition, because
//! they would wait for each other in a circle.
//! *Levels* keep them apart.

use crate::error::Error;

/// Returns for each task its level: the number of groups of tiles on the longest way to it.
/// A task that feeds a group is on a lower level than the group's tiles, and the tiles are on a
/// lower level than the tasks that read them.
/// `edges` are pairs of positions of tasks.
/// `groups` gives the name of the group that each task belongs to, if any.
///
/// It takes O(e + v log v) time for v tasks and e edges (Kahn's algorithm, over groups and the
/// tasks without a group).
///
/// # Errors
/// [`Error::UnknownTask`] where an edge names a position without a task, and [`Error::Cycle`] where
/// groups wait for themselves or for each other in a circle, with the name of a group on it.
/// Where the circle has no group, the position of one of its tasks stands for a name.
pub fn levels(edges: &[(usize, usize)], groups: &[Option<&str>]) -> Result<Vec<usize>, Error> {
    let tasks = groups.len();
    let mut names: Vec<&str> = groups.iter().flatten().copied().collect();
    names.sort_unstable();
    names.dedup();
    // A group is a node behind all tasks' nodes.
    let node = |task: usize, group: &Option<&str>| {
        group.and_then(|name| names.binary_search(&name).ok()).map_or(task, |group| tasks + group)
    };
    let nodes: Vec<usize> = groups.iter().enumerate().map(|(task, group)| node(task, group)).collect();
    let count = tasks + names.len();
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut waits_for = vec![0_usize; count];
    for &(from, to) in edges {
        let known = |index: usize| nodes.get(index).copied().ok_or(Error::UnknownTask { index, count: tasks });
        let (from, to) = (known(from)?, known(to)?);
        next[from].push(to);
        waits_for[to] += 1;
    }
    let mut level = vec![0; count];
    let mut ready: Vec<usize> = (0..count).filter(|&node| waits_for[node] == 0).collect();
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
    if seen < count {
        let circle = circle(&next, &waits_for);
        let group = circle.iter().find_map(|&node| names.get(node.checked_sub(tasks)?));
        let task = || format!("number {}", circle.first().copied().unwrap_or(0));
        return Err(Error::Cycle(group.map_or_else(task, |name| (*name).to_owned())));
    }
    Ok(nodes.into_iter().map(|node| level[node]).collect())
}

/// Returns the nodes of a circle, in a graph in which some nodes still wait for others.
fn circle(next: &[Vec<usize>], waits_for: &[usize]) -> Vec<usize> {
    // Each node that waits has a node in front of it that waits too, so a walk back from any of
    // them ends in a circle, after at most as many steps as there are nodes.
    let waiting = |node: usize| waits_for[node] > 0;
    let mut in_front = vec![None; next.len()];
    for from in (0..next.len()).filter(|&node| waiting(node)) {
        for &to in next[from].iter().filter(|&&to| waiting(to)) {
            in_front[to] = Some(from);
        }
    }
    let Some(any) = (0..next.len()).find(|&node| waiting(node)) else { return Vec::new() };
    let back = |node: usize| in_front[node].unwrap_or(node);
    let first = (0..next.len()).fold(any, |node, _| back(node));
    let mut circle = vec![first];
    let mut at = back(first);
    while at != first {
        circle.push(at);
        at = back(at);
    }
    circle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_keep_what_feeds_a_group_from_what_reads_it() {
        // Tasks 0 and 1 feed the tiles 2 and 3, which task 4 reads; task 5 has nothing to do with
        // them.
        let edges = [(0, 2), (1, 3), (2, 4), (3, 4)];
        let groups = [None, None, Some("x"), Some("x"), None, None];
        assert_eq!(levels(&edges, &groups), Ok(vec![0, 0, 1, 1, 2, 0]));
        assert_eq!(levels(&edges, &[None; 6]), Ok(vec![0; 6]));
    }

    #[test]
    fn groups_that_wait_for_themselves_have_no_levels() {
        let cycle = |name: &str| Err(Error::Cycle(name.into()));
        let (x, y) = (Some("x"), Some("y"));
        assert_eq!(levels(&[(0, 1)], &[x, x]), cycle("x"));
        // The groups wait by way of another task, and of another group.
        assert_eq!(levels(&[(0, 1), (1, 2)], &[x, None, x]), cycle("x"));
        assert!(
            matches!(levels(&[(0, 1), (2, 3)], &[x, y, y, x]), Err(Error::Cycle(name)) if name == "x" || name == "y")
        );
    }

    #[test]
    fn the_group_that_is_named_is_on_the_circle() {
        // Group y waits for itself by way of task 3; x comes before it, and z behind it.
        let groups = [Some("x"), Some("y"), Some("y"), None, Some("z")];
        let edges = [(0, 1), (1, 3), (3, 2), (2, 4)];
        assert_eq!(levels(&edges, &groups), Err(Error::Cycle("y".into())));
        // Two tasks wait for each other, and a group waits for one of them.
        assert_eq!(levels(&[(0, 1), (1, 0), (1, 2)], &[None, None, Some("x")]), Err(Error::Cycle("number 0".into())));
    }

    #[test]
    fn an_edge_to_no_task_is_not_taken_for_a_circle() {
        assert_eq!(levels(&[(0, 9)], &[None]), Err(Error::UnknownTask { index: 9, count: 1 }));
        assert_eq!(levels(&[(3, 0)], &[Some("x")]), Err(Error::UnknownTask { index: 3, count: 1 }));
    }
}
