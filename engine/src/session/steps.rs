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

use std::sync::Arc;

use foldhash::HashMap;
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

impl Access {
    /// Tells whether the two accesses may not be swapped.
    fn conflicts(&self, other: &Access) -> bool {
        self.space == other.space && (self.writes || other.writes) && self.start < other.end && other.start < self.end
    }
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

impl Order {
    /// Returns the order of steps on these devices, in which steps that touch the same memory stay
    /// apart.
    ///
    /// A step is compared with the accesses of its memory that no later write has covered: whoever
    /// conflicts with a covered one conflicts with that write too, which comes behind it.
    pub(super) fn new(devices: &[usize], accesses: &[Vec<Access>]) -> Order {
        let count = devices.iter().max().map_or(0, |last| last + 1);
        let mut clocks = Clocks { devices: count, counts: Vec::with_capacity(devices.len() * count) };
        let mut waits = Vec::with_capacity(devices.len());
        // The last step of each device, and the accesses of each memory that are not covered.
        let mut last: Vec<Option<usize>> = vec![None; count];
        let mut open: HashMap<usize, Vec<(Access, usize)>> = HashMap::default();
        for (step, (&device, own)) in devices.iter().zip(accesses).enumerate() {
            let mut earlier = Vec::from_iter(last[device].replace(step));
            for access in own {
                let others = open.get(&access.space).into_iter().flatten();
                earlier.extend(others.filter(|(other, _)| access.conflicts(other)).map(|&(_, step)| step));
            }
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
            for access in own {
                let all = open.entry(access.space).or_default();
                if access.writes {
                    all.retain(|(other, _)| other.start < access.start || access.end < other.end);
                }
                all.push((*access, step));
            }
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
                (0usize..4, prop::collection::vec((0usize..3, 0usize..6, 1usize..4, any::<bool>()), 0..4)),
                0..24,
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
                    let conflict = || accesses[step].iter().any(|own| accesses[earlier].iter().any(|other| own.conflicts(other)));
                    if !known[earlier] && (devices[earlier] == devices[step] || conflict()) {
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

    /// A plan that goes back and forth between devices for each of very many nodes.
    #[test]
    fn very_many_steps_are_ordered_without_comparing_all_pairs() {
        const STEPS: usize = 200_000;
        let devices: Vec<usize> = (0..STEPS).map(|step| step % 2).collect();
        let accesses: Vec<Vec<Access>> = (0..STEPS)
            .map(|step| vec![access(0, step % 2 * 10, true), access(0, (step + 1) % 2 * 10, false)])
            .collect();
        let order = Order::new(&devices, &accesses);
        assert!(order.waits[1..].iter().enumerate().all(|(before, waits)| *waits == [before]));
    }
}
