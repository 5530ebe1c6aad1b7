//! HEFT: heterogeneous earliest finish time.

use crate::{Error, Partitioner, Problem, Schedule, Slot, TaskId};

/// Takes tasks by their upward rank, the longest way from them to the end at mean costs, and gives each to the device on which it finishes
/// first, in a gap between others where one is long enough.
///
/// Topcuoglu, Hariri and Wu, *Performance-effective and low-complexity task scheduling for heterogeneous computing*, IEEE TPDS 13(3), 2002.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heft;

/// The busy spans of a device, in order.
#[derive(Clone, Default)]
struct Timetable(Vec<(f64, f64)>);

impl Timetable {
    /// Earliest start at or after `ready` of a span of `length`.
    fn earliest(&self, ready: f64, length: f64) -> f64 {
        // Spans that end before the task is ready leave no gap for it.
        let first = self.0.partition_point(|span| span.1 <= ready);
        let mut start = ready;
        for &(busy_from, busy_to) in &self.0[first..] {
            if start + length <= busy_from {
                break;
            }
            start = start.max(busy_to);
        }
        start
    }

    fn take(&mut self, start: f64, finish: f64) {
        let position = self.0.partition_point(|span| span.0 < start);
        self.0.insert(position, (start, finish));
    }
}

fn upward_ranks(problem: &Problem) -> Vec<f64> {
    let graph = problem.graph();
    // Mean transfer time is affine in the bytes.
    let latency = problem.links().mean_seconds(0.0);
    let per_byte = problem.links().mean_seconds(1.0) - latency;
    let mut ranks = vec![0.0; graph.len()];
    for &id in problem.order().iter().rev() {
        let costs: Vec<f64> = graph.task(id).costs.iter().flatten().copied().collect();
        let mean = costs.iter().sum::<f64>() / costs.len() as f64;
        let below = graph.successors(id).map(|(next, bytes)| latency + per_byte * bytes + ranks[next.0]);
        ranks[id.0] = mean + below.fold(0.0, f64::max);
    }
    ranks
}

impl Partitioner for Heft {
    fn name(&self) -> &str {
        "heft"
    }

    fn partition(&self, problem: &Problem) -> Result<Schedule, Error> {
        let graph = problem.graph();
        let ranks = upward_ranks(problem);
        let mut position = vec![0; graph.len()];
        for (index, id) in problem.order().iter().enumerate() {
            position[id.0] = index;
        }
        let mut order: Vec<TaskId> = graph.ids().collect();
        // Free tasks have ranks equal to their successors'; topological position keeps precedence.
        order.sort_by(|a, b| ranks[b.0].total_cmp(&ranks[a.0]).then(position[a.0].cmp(&position[b.0])));
        let mut slots: Vec<Option<Slot>> = vec![None; graph.len()];
        let mut devices = vec![Timetable::default(); graph.devices()];
        for id in order {
            let mut best: Option<Slot> = None;
            for (device, cost) in graph.task(id).costs.iter().enumerate() {
                let Some(cost) = *cost else { continue };
                let arrival = graph.predecessors(id).try_fold(0.0f64, |latest, (before, bytes)| {
                    let source = slots[before.0]?;
                    let transfer = problem.links().seconds(source.device, device, bytes)?;
                    Some(latest.max(source.finish + transfer))
                });
                let Some(ready) = arrival else { continue };
                let start = devices[device].earliest(ready, cost);
                if best.is_none_or(|best| start + cost < best.finish) {
                    best = Some(Slot { device, start, finish: start + cost });
                }
            }
            let slot = best.ok_or_else(|| Error::Unreachable(graph.task(id).name.clone()))?;
            devices[slot.device].take(slot.start, slot.finish);
            slots[id.0] = Some(slot);
        }
        Ok(Schedule { slots: slots.into_iter().flatten().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Link, Links, Task, TaskGraph};

    /// The example of the paper, figure 2: costs of ten tasks on three processors, and communication costs.
    fn paper() -> Problem {
        const COSTS: [[f64; 3]; 10] = [
            [14., 16., 9.],
            [13., 19., 18.],
            [11., 13., 19.],
            [13., 8., 17.],
            [12., 13., 10.],
            [13., 16., 9.],
            [7., 15., 11.],
            [5., 11., 14.],
            [18., 12., 20.],
            [21., 7., 16.],
        ];
        const EDGES: [(usize, usize, f64); 15] = [
            (1, 2, 18.),
            (1, 3, 12.),
            (1, 4, 9.),
            (1, 5, 11.),
            (1, 6, 14.),
            (2, 8, 19.),
            (2, 9, 16.),
            (3, 7, 23.),
            (4, 8, 27.),
            (4, 9, 23.),
            (5, 9, 13.),
            (6, 8, 15.),
            (7, 10, 17.),
            (8, 10, 11.),
            (9, 10, 13.),
        ];
        let mut graph = TaskGraph::new(3);
        for (index, costs) in COSTS.iter().enumerate() {
            let task = Task { name: format!("n{}", index + 1), costs: costs.iter().map(|&c| Some(c)).collect() };
            graph.add_task(task).unwrap();
        }
        for (from, to, time) in EDGES {
            graph.add_edge(TaskId(from - 1), TaskId(to - 1), time).unwrap();
        }
        // One byte per second: bytes are times.
        Problem::new(graph, Links::uniform(3, Link { latency: 0.0, bandwidth: 1.0 })).unwrap()
    }

    #[test]
    fn the_papers_example_takes_eighty() {
        let problem = paper();
        let schedule = Heft.partition(&problem).unwrap();
        assert_eq!(schedule.makespan(), 80.0);
        schedule.validate(&problem).unwrap();
        // The paper's table 1.
        let ranks = upward_ranks(&problem);
        assert!((ranks[0] - 108.0).abs() < 1e-3 && (ranks[9] - 14.667).abs() < 1e-3);
    }

    #[test]
    fn one_device_is_the_smallest_case() {
        let mut graph = TaskGraph::new(1);
        let a = graph.add_task(Task { name: "a".into(), costs: vec![Some(0.0)] }).unwrap();
        let b = graph.add_task(Task { name: "b".into(), costs: vec![Some(2.0)] }).unwrap();
        graph.add_edge(a, b, 1e9).unwrap();
        let problem = Problem::new(graph, Links::none(1)).unwrap();
        assert_eq!(Heft.partition(&problem).unwrap().makespan(), 2.0);
    }

    #[test]
    fn bad_problems_are_named() {
        let mut graph = TaskGraph::new(2);
        let task = |name: &str, costs: [Option<f64>; 2]| Task { name: name.into(), costs: costs.to_vec() };
        assert_eq!(graph.add_task(task("t", [None, None])), Err(Error::Unclaimed("t".into())));
        assert!(matches!(graph.add_task(task("t", [Some(f64::NAN), None])), Err(Error::Cost { .. })));
        assert!(matches!(graph.add_task(task("t", [Some(-1.0), None])), Err(Error::Cost { .. })));
        let a = graph.add_task(task("a", [Some(1.0), None])).unwrap();
        let b = graph.add_task(task("b", [None, Some(1.0)])).unwrap();
        graph.add_edge(a, b, 1.0).unwrap();
        assert_eq!(graph.add_edge(a, TaskId(9), 1.0), Err(Error::UnknownTask(9)));
        let apart = Problem::new(graph.clone(), Links::none(2)).unwrap();
        assert_eq!(Heft.partition(&apart), Err(Error::Unreachable("b".into())));
        graph.add_edge(b, a, 1.0).unwrap();
        assert!(matches!(Problem::new(graph, Links::none(2)), Err(Error::Cycle(_))));
        assert!(matches!(Problem::new(TaskGraph::new(0), Links::none(0)), Err(Error::NoDevice)));
    }
}
