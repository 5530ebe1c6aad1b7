//! Steps: what a run submits, to which device, and behind which other steps.
//!
//! The steps are numbered in the plan's order, in which each step stands behind the steps that feed
//! it.
//! A device does its own steps one after the other.
//! Between devices a step waits for others only for two reasons:
//!
//! - to read the bytes that another has written,
//! - to write where another has read or written: a transfer on another device's queue may still
//!   read the memory of a value whose place in the arena is used again.
//!
//! Both are one rule: of two steps that touch the same memory, one of them writing, the later waits
//! for the earlier.
//! A wait that other waits imply is left out.
//! All of this is decided when the session is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use hetero_comm::Transport;

use super::tiles::LANES;

/// A range of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// The task of a step.
pub(super) enum Task {
    /// Brings a value from one slot to another, on another device, by a transport's work.
    Transfer { from: usize, to: usize, transport: Arc<dyn Transport> },
    /// Runs a partition, given by its number, on these slots.
    Execute { partition: usize, bindings: Vec<usize>, scratch: Option<Place> },
    /// Runs a group of tiles, given by its number.
    /// It has, for each device that takes part, the slots of each tile's bindings and the scratch
    /// of each of its lanes.
    Tiles { group: usize, bindings: Vec<Vec<Vec<usize>>>, scratch: Vec<[Option<Place>; LANES]> },
}

/// A submission.
pub(super) struct Step {
    /// The position of the device among the session's; behind these, a group of tiles counts as
    /// one.
    pub(super) device: usize,
    /// The position among the device's steps, counted from 1: the value that its timeline then has,
    /// above the run's base.
    pub(super) position: u64,
    pub(super) task: Task,
    /// The steps that it waits for, each as a device and the position there.
    pub(super) wait: Vec<(usize, u64)>,
}

/// Memory that a step touches: bytes of an arena, or a buffer of its own.
/// Such a buffer is numbered behind the arenas and counts as one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) space: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) writes: bool,
}

/// The order of steps: which steps wait for which.
pub(super) struct Order {
    /// For each step, the earlier steps that it waits for, the latest first, without those that
    /// others imply.
    pub(super) waits: Vec<Vec<usize>>,
    devices: Vec<usize>,
    clocks: Clocks,
}

/// For each step and each device, the number behind the device's last step that is over before the
/// step begins; 0 where there is none.
/// A device's steps follow each other, so that one tells of all before it.
struct Clocks {
    devices: usize,
    counts: Vec<u32>,
}

impl Clocks {
    fn of(&self, step: usize) -> &[u32] {
        &self.counts[step * self.devices..][..self.devices]
    }
}

/// The bytes that steps have touched so far, in ranges that do not overlap.
/// They are kept by their space and their first byte.
///
/// A range knows only steps that a later one may have to wait for: its last writer, and the readers
/// behind that, of each device the last, since a device's steps follow each other.
/// Whoever conflicts with another step conflicts with one of these too, which comes behind it.
/// So a step looks at the ranges that it touches itself, however many steps came before it.
#[derive(Default)]
struct Touched {
    ranges: BTreeMap<(usize, usize), Range>,
}

/// A range of [`Touched`].
#[derive(Clone)]
struct Range {
    end: usize,
    writer: Option<usize>,
    readers: Vec<usize>,
}

impl Touched {
    /// Returns the first byte of the earliest range that reaches behind `start`.
    fn first(&self, space: usize, start: usize) -> usize {
        let before = self.ranges.range((space, 0)..=(space, start)).next_back();
        before.filter(|(_, range)| start < range.end).map_or(start, |(&(_, first), _)| first)
    }

    /// Adds the earlier steps that may not be swapped with an access.
    fn conflicts(&self, access: &Access, earlier: &mut Vec<usize>) {
        if access.start >= access.end {
            return;
        }
        let first = self.first(access.space, access.start);
        for (_, range) in self.ranges.range((access.space, first)..(access.space, access.end)) {
            earlier.extend(range.writer);
            if access.writes {
                earlier.extend(&range.readers);
            }
        }
    }

    /// Divides the range that has both the byte before `at` and the byte `at`.
    fn divide(&mut self, space: usize, at: usize) {
        let Some((&(_, first), range)) = self.ranges.range_mut((space, 0)..(space, at)).next_back() else { return };
        if first < at && at < range.end {
            let behind = range.clone();
            range.end = at;
            self.ranges.insert((space, at), behind);
        }
    }

    /// Notes a step's access.
    fn note(&mut self, access: &Access, step: usize, devices: &[usize]) {
        let &Access { space, start, end, writes } = access;
        if start >= end {
            return;
        }
        self.divide(space, start);
        self.divide(space, end);
        if writes {
            // One range takes the place of all that it covers.
            while let Some((&covered, _)) = self.ranges.range((space, start)..(space, end)).next() {
                self.ranges.remove(&covered);
            }
            self.ranges.insert((space, start), Range { end, writer: Some(step), readers: Vec::new() });
            return;
        }
        let mut untouched = Vec::new();
        let mut at = start;
        for (&(_, first), range) in self.ranges.range_mut((space, start)..(space, end)) {
            if at < first {
                untouched.push((at, first));
            }
            at = range.end;
            match range.readers.iter_mut().find(|reader| devices[**reader] == devices[step]) {
                Some(reader) => *reader = step,
                None => range.readers.push(step),
            }
        }
        if at < end {
            untouched.push((at, end));
        }
        for (start, end) in untouched {
            self.ranges.insert((space, start), Range { end, writer: None, readers: vec![step] });
        }
    }
}

impl Order {
    /// Returns the order of steps on these devices, in which steps that touch the same memory stay
    /// apart.
    pub(super) fn new(devices: &[usize], accesses: &[Vec<Access>]) -> Order {
        let count = devices.iter().max().map_or(0, |last| last + 1);
        let mut clocks = Clocks { devices: count, counts: Vec::with_capacity(devices.len() * count) };
        let mut waits = Vec::with_capacity(devices.len());
        let mut last: Vec<Option<usize>> = vec![None; count];
        let mut touched = Touched::default();
        for (step, (&device, own)) in devices.iter().zip(accesses).enumerate() {
            let mut earlier = Vec::from_iter(last[device].replace(step));
            own.iter().for_each(|access| touched.conflicts(access, &mut earlier));
            // What the later steps imply is seen before an earlier one is added.
            earlier.sort_unstable_by(|one, other| other.cmp(one));
            earlier.dedup();
            let mut clock = vec![0; count];
            earlier.retain(|&earlier| {
                let known = clock[devices[earlier]] > earlier as u32;
                if !known {
                    for (own, &other) in clock.iter_mut().zip(clocks.of(earlier)) {
                        *own = other.max(*own);
                    }
                    clock[devices[earlier]] = earlier as u32 + 1;
                }
                !known
            });
            clocks.counts.extend(clock);
            waits.push(earlier);
            own.iter().for_each(|access| touched.note(access, step, devices));
        }
        Order { waits, devices: devices.to_vec(), clocks }
    }

    /// Tells whether `first` is always over before `second` begins.
    pub(super) fn is_before(&self, first: usize, second: usize) -> bool {
        self.clocks.of(second)[self.devices[first]] > first as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access(space: usize, start: usize, writes: bool) -> Access {
        Access { space, start, end: start + 10, writes }
    }

    /// Tells whether two accesses may not be swapped.
    fn conflict(one: &Access, other: &Access) -> bool {
        let touch = one.start.max(other.start) < one.end.min(other.end);
        one.space == other.space && (one.writes || other.writes) && touch
    }

    #[test]
    fn steps_of_one_device_are_a_chain() {
        let order = Order::new(&[0, 0, 0], &[vec![], vec![], vec![]]);
        assert_eq!(order.waits, [vec![], vec![0], vec![1]]);
        assert!(order.is_before(0, 2) && !order.is_before(2, 0));
    }

    #[test]
    fn what_shares_no_memory_does_not_wait() {
        let order =
            Order::new(&[0, 1, 2], &[vec![access(0, 0, true)], vec![access(0, 10, true)], vec![access(1, 0, true)]]);
        assert!(order.waits.iter().all(Vec::is_empty));
    }

    #[test]
    fn readers_do_not_wait_for_readers_but_writers_do_for_both() {
        let order = Order::new(
            &[0, 1, 2, 3],
            &[vec![access(0, 0, true)], vec![access(0, 5, false)], vec![access(0, 0, false)], vec![access(0, 9, true)]],
        );
        assert_eq!(order.waits, [vec![], vec![0], vec![0], vec![2, 1]]);
    }

    #[test]
    fn what_others_imply_is_left_out() {
        // Step 3 touches what 0 wrote, but waits for 2, which waits for 1, which waits for 0.
        let order = Order::new(
            &[0, 1, 0, 1],
            &[
                vec![access(0, 0, true)],
                vec![access(0, 0, false), access(1, 0, true)],
                vec![access(1, 0, false), access(2, 0, true)],
                vec![access(2, 0, false), access(0, 0, false)],
            ],
        );
        assert_eq!(order.waits, [vec![], vec![0], vec![1], vec![2]]);
    }

    proptest! {
        /// The order is that of a search through all pairs of steps.
        #[test]
        fn the_order_is_that_of_all_pairs(
            steps in prop::collection::vec(
                (0usize..4, prop::collection::vec((0usize..3, 0usize..9, 0usize..6, any::<bool>()), 0..4)),
                0..32,
            ),
        ) {
            let devices: Vec<usize> = steps.iter().map(|(device, _)| *device).collect();
            let accesses: Vec<Vec<Access>> = steps
                .iter()
                .map(|(_, accesses)| {
                    let made = accesses.iter().map(|&(space, start, size, writes)| Access { space, start, end: start + size, writes });
                    made.collect()
                })
                .collect();
            let order = Order::new(&devices, &accesses);
            let mut before: Vec<Vec<bool>> = Vec::new();
            for step in 0..devices.len() {
                let (mut known, mut waits) = (vec![false; devices.len()], vec![]);
                for earlier in (0..step).rev() {
                    let conflicts = || accesses[step].iter().any(|own| accesses[earlier].iter().any(|other| conflict(own, other)));
                    if !known[earlier] && (devices[earlier] == devices[step] || conflicts()) {
                        waits.push(earlier);
                        known.iter_mut().zip(&before[earlier]).for_each(|(own, other)| *own |= other);
                        known[earlier] = true;
                    }
                }
                prop_assert_eq!(&order.waits[step], &waits);
                for (first, &known) in known.iter().enumerate().take(step) {
                    prop_assert_eq!(order.is_before(first, step), known);
                }
                before.push(known);
            }
        }
    }

    /// What a step is compared with does not grow with the steps before it: plans that go back and
    /// forth between devices, that give one value to very many, and that write very many values of
    /// which none is read again.
    #[test]
    fn very_many_steps_are_ordered_without_comparing_all_pairs() {
        const STEPS: usize = 20_000;
        let back_and_forth = |step: usize| vec![access(0, step % 2 * 10, true), access(0, (step + 1) % 2 * 10, false)];
        let one_to_many = |step: usize| vec![access(0, 0, step == 0), access(0, 10 + step * 10, true)];
        let never_read = |step: usize| vec![access(0, step * 10, true), access(1, step * 10, false)];
        let one_to_parts = |step: usize| match step % 100 {
            0 => vec![Access { space: 0, start: 0, end: 1000, writes: true }],
            part => vec![access(0, part * 10, false)],
        };
        for plan in [back_and_forth as fn(usize) -> Vec<Access>, one_to_many, never_read, one_to_parts] {
            let devices: Vec<usize> = (0..STEPS).map(|step| step % 3).collect();
            let accesses: Vec<Vec<Access>> = (0..STEPS).map(plan).collect();
            let (mut touched, mut found) = (Touched::default(), Vec::new());
            for (step, own) in accesses.iter().enumerate() {
                own.iter().for_each(|access| touched.conflicts(access, &mut found));
                own.iter().for_each(|access| touched.note(access, step, &devices));
            }
            assert!(found.len() <= 4 * STEPS, "{} comparisons for {STEPS} steps", found.len());
            assert_eq!(Order::new(&devices, &accesses).waits.len(), STEPS);
        }
    }
}
