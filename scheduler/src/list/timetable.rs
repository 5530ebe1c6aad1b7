//! The spans of time in which a device is free.

/// The idle spans of a device, the last of which has no end.
///
/// The spans are a treap (Seidel and Aragon, "Randomized search trees", Algorithmica 16, 1996) in
/// order of time, in which each node knows the longest span below it.
/// So spans that are too short for a task are passed over together, and both operations take
/// O(log n) time for n spans.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timetable {
    gaps: Vec<Gap>,
    root: Option<usize>,
    /// The time at which the last task finishes.
    end: f64,
}

/// An idle span between two tasks.
/// One that a task fills stays in the tree, with a length that fits no task.
#[derive(Clone, Debug)]
struct Gap {
    from: f64,
    to: f64,
    /// The seconds that the span has room for at most; negative where it is filled.
    room: f64,
    /// The most room of all spans below this node, and of its own.
    most: f64,
    before: Option<usize>,
    behind: Option<usize>,
}

const FILLED: f64 = f64::NEG_INFINITY;

impl Gap {
    /// Returns a span with the room that is left for rounding: a sum of times may be rounded down
    /// to the end.
    fn new(from: f64, to: f64) -> Self {
        let room = if from < to { (to - from) + 4.0 * f64::EPSILON * to } else { FILLED };
        Gap { from, to, room, most: room, before: None, behind: None }
    }
}

/// Returns the place of a node in the heap of the treap: numbers without order.
fn priority(node: usize) -> u64 {
    let mixed = (node as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Timetable {
    /// Returns the earliest start, at `ready` or later, of a task that takes `seconds`.
    pub(crate) fn earliest(&self, ready: f64, seconds: f64) -> f64 {
        let found = self.find(self.root, ready, seconds);
        found.map_or(self.end.max(ready), |node| self.gaps[node].from.max(ready))
    }

    /// Occupies a span that [`Timetable::earliest`] has found.
    pub(crate) fn occupy(&mut self, start: f64, finish: f64) {
        if start >= self.end {
            if start > self.end {
                self.insert(self.end, start);
            }
            self.end = finish;
            return;
        }
        let Some(node) = self.find(self.root, finish, 0.0) else { return };
        let Gap { from, to, .. } = self.gaps[node];
        if from < start && finish < to {
            self.change(from, node, (from, start));
            self.insert(finish, to);
        } else {
            self.change(from, node, if from < start { (from, start) } else { (finish, to) });
        }
    }

    /// Returns the first span below a node that a task fits into, at `ready` or later.
    fn find(&self, node: Option<usize>, ready: f64, seconds: f64) -> Option<usize> {
        let node = node?;
        let gap = &self.gaps[node];
        if gap.most < seconds {
            return None;
        }
        if gap.to < ready {
            return self.find(gap.behind, ready, seconds);
        }
        let fits = || gap.room >= seconds && gap.from.max(ready) + seconds <= gap.to;
        self.find(gap.before, ready, seconds)
            .or_else(|| fits().then_some(node))
            .or_else(|| self.find(gap.behind, ready, seconds))
    }

    /// Changes the span of a node, which begins at `key`, to a part of it.
    fn change(&mut self, key: f64, node: usize, (from, to): (f64, f64)) {
        let mut path = Vec::new();
        let mut at = self.root;
        while let Some(now) = at.filter(|&now| now != node) {
            path.push(now);
            at = if key < self.gaps[now].from { self.gaps[now].before } else { self.gaps[now].behind };
        }
        let rest = Gap::new(from, to);
        let gap = &mut self.gaps[node];
        gap.room = rest.room;
        if rest.room >= 0.0 {
            (gap.from, gap.to) = (from, to);
        }
        self.refresh(node);
        path.into_iter().rev().for_each(|above| self.refresh(above));
    }

    fn insert(&mut self, from: f64, to: f64) {
        self.gaps.push(Gap::new(from, to));
        self.root = Some(self.insert_below(self.root, self.gaps.len() - 1));
    }

    /// Inserts a node below another one, and returns the node that is then at the top.
    fn insert_below(&mut self, top: Option<usize>, node: usize) -> usize {
        let Some(top) = top else { return node };
        let first = self.gaps[node].from < self.gaps[top].from;
        let below = if first { self.gaps[top].before } else { self.gaps[top].behind };
        let below = self.insert_below(below, node);
        let rises = priority(below) > priority(top);
        // Where the node below rises, its inner branch goes to the node that sinks.
        let kept = match (rises, first) {
            (false, _) => Some(below),
            (true, true) => self.gaps[below].behind.replace(top),
            (true, false) => self.gaps[below].before.replace(top),
        };
        *(if first { &mut self.gaps[top].before } else { &mut self.gaps[top].behind }) = kept;
        self.refresh(top);
        if rises {
            self.refresh(below);
        }
        if rises { below } else { top }
    }

    /// Computes the most room below a node anew.
    fn refresh(&mut self, node: usize) {
        let gap = &self.gaps[node];
        let below = [gap.before, gap.behind].into_iter().flatten().map(|below| self.gaps[below].most);
        self.gaps[node].most = below.fold(gap.room, f64::max);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// Returns the spans that are not filled, by ascending time.
    fn spans(device: &Timetable) -> Vec<(f64, f64)> {
        let open = device.gaps.iter().filter(|gap| gap.room >= 0.0).map(|gap| (gap.from, gap.to));
        let mut open: Vec<(f64, f64)> = open.collect();
        open.sort_by(|a, b| a.partial_cmp(b).unwrap());
        open
    }

    #[test]
    fn tasks_go_into_the_first_gap_that_is_long_enough() {
        let mut device = Timetable::default();
        assert_eq!(device.earliest(0.0, 9.0), 0.0);
        for (start, finish) in [(0.0, 2.0), (5.0, 6.0), (10.0, 12.0)] {
            device.occupy(start, finish);
        }
        assert_eq!(spans(&device), [(2.0, 5.0), (6.0, 10.0)]);
        assert_eq!(device.earliest(0.0, 3.0), 2.0);
        assert_eq!(device.earliest(3.0, 3.0), 6.0);
        assert_eq!(device.earliest(0.0, 5.0), 12.0);
        assert_eq!(device.earliest(20.0, 5.0), 20.0);
        device.occupy(7.0, 8.0);
        assert_eq!(spans(&device), [(2.0, 5.0), (6.0, 7.0), (8.0, 10.0)]);
        device.occupy(2.0, 5.0);
        device.occupy(8.0, 9.0);
        assert_eq!(spans(&device), [(6.0, 7.0), (9.0, 10.0)]);
    }

    #[test]
    fn tasks_that_take_no_time_leave_gaps_whole() {
        let mut device = Timetable::default();
        device.occupy(4.0, 6.0);
        device.occupy(4.0, 4.0);
        assert_eq!(spans(&device), [(0.0, 4.0)]);
        assert_eq!(device.earliest(2.0, 0.0), 2.0);
        device.occupy(2.0, 2.0);
        assert_eq!(spans(&device), [(0.0, 2.0), (2.0, 4.0)]);
    }

    /// The same as a plain list, which is searched from the beginning.
    #[derive(Default)]
    struct Plain {
        gaps: Vec<(f64, f64)>,
        end: f64,
    }

    impl Plain {
        fn earliest(&self, ready: f64, seconds: f64) -> f64 {
            let mut open = self.gaps.iter().filter(|(_, to)| *to >= ready).map(|&(from, to)| (from.max(ready), to));
            open.find(|&(start, to)| start + seconds <= to).map_or(self.end.max(ready), |(start, _)| start)
        }

        fn occupy(&mut self, start: f64, finish: f64) {
            if start >= self.end {
                self.gaps.extend((start > self.end).then_some((self.end, start)));
                self.end = finish;
                return;
            }
            let index = self.gaps.partition_point(|&(_, to)| to < finish);
            let Some(&(from, to)) = self.gaps.get(index) else { return };
            let rest = [(from, start), (finish, to)].into_iter().filter(|(from, to)| from < to);
            self.gaps.splice(index..=index, rest);
        }
    }

    #[test]
    fn the_tree_finds_what_a_search_of_all_spans_finds() {
        let mut random = hetero_testkit::SplitMix64::new(3);
        // Whole seconds meet often, and small fractions are lost beside large times.
        for (unit, lengths) in [(1.0, 0..4_usize), (1.0 / 3.0, 0..9), (1e-9, 0..2000)] {
            let Range { start: least, end: most } = lengths;
            let (mut tree, mut plain) = (Timetable::default(), Plain::default());
            for _ in 0..3000 {
                let seconds = (least + random.below(most - least)) as f64 * unit;
                let ready = if random.below(8) == 0 {
                    plain.end + random.below(40) as f64
                } else {
                    random.below(1 + plain.end as usize) as f64 * 0.999
                };
                let start = tree.earliest(ready, seconds);
                assert_eq!(start, plain.earliest(ready, seconds));
                tree.occupy(start, start + seconds);
                plain.occupy(start, start + seconds);
                assert_eq!(tree.end, plain.end);
            }
            assert_eq!(spans(&tree), plain.gaps);
        }
    }
}
