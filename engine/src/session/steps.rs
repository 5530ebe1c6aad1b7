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

/// A set of steps that come before another step.
#[derive(Clone, Default)]
struct Set(Vec<u64>);

impl Set {
    fn with_room(count: usize) -> Self {
        Set(vec![0; count.div_ceil(64)])
    }

    fn has(&self, step: usize) -> bool {
        self.0[step / 64] >> (step % 64) & 1 == 1
    }

    fn add(&mut self, step: usize) {
        self.0[step / 64] |= 1 << (step % 64);
    }

    fn add_all(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }
}

/// The order of steps: which steps wait for which.
pub(super) struct Order {
    /// For each step, the earlier steps that it waits for, without those that others imply.
    pub(super) waits: Vec<Vec<usize>>,
    before: Vec<Set>,
}

impl Order {
    /// Returns the order of steps on these devices, in which steps that touch the same memory stay
    /// apart.
    /// It takes time by the square of the number of steps.
    pub(super) fn new(devices: &[usize], accesses: &[Vec<Access>]) -> Order {
        let mut before: Vec<Set> = Vec::with_capacity(devices.len());
        let mut waits = Vec::with_capacity(devices.len());
        for (step, device) in devices.iter().enumerate() {
            let mut known = Set::with_room(devices.len());
            let mut wait = Vec::new();
            // The loop goes backwards, so that what the later steps imply is seen before an earlier
            // one is added.
            for earlier in (0..step).rev() {
                if known.has(earlier) {
                    continue;
                }
                let conflict =
                    || accesses[step].iter().any(|own| accesses[earlier].iter().any(|other| own.conflicts(other)));
                if devices[earlier] == *device || conflict() {
                    wait.push(earlier);
                    known.add_all(&before[earlier]);
                    known.add(earlier);
                }
            }
            before.push(known);
            waits.push(wait);
        }
        Order { waits, before }
    }

    /// Tells whether `first` is always over before `second` begins.
    pub(super) fn is_before(&self, first: usize, second: usize) -> bool {
        self.before[second].has(first)
    }
}

#[cfg(test)]
mod tests {
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
}
