//! Which tiles of a group are whose: lock-free.
//!
//! Each device has a share of consecutive tiles. It takes its own from the front, in order, and others' from the back, so that the owner is
//! disturbed last where it is next. The same words as those of the CPU's pool (`backends/cpu/src/pool/shares.rs`), whose orders of steps Loom tries.

use std::sync::atomic::{AtomicU64, Ordering};

/// The tiles that are left of each device's share: the first in the upper half, the end in the lower.
pub(super) struct Shares(Vec<AtomicU64>);

impl Shares {
    /// Empty shares of so many devices.
    pub(super) fn new(devices: usize) -> Self {
        Shares((0..devices).map(|_| AtomicU64::new(0)).collect())
    }

    /// Gives each device so many tiles, one behind the other; more than 2³² in all are not given. By who starts a run, while nobody takes any.
    pub(super) fn deal(&self, counts: &[usize]) {
        let mut first = 0_u64;
        for (share, &count) in self.0.iter().zip(counts) {
            let end = (first + count as u64).min(u64::from(u32::MAX));
            // Whoever takes tiles has been started behind this, and that orders the store.
            share.store((first << 32) | end, Ordering::Relaxed);
            first = end;
        }
    }

    /// How many tiles are left of a share.
    pub(super) fn left(&self, device: usize) -> usize {
        let (first, end) = self.0.get(device).map_or((0, 0), |share| halves(share.load(Ordering::Relaxed)));
        end.saturating_sub(first) as usize
    }

    /// Takes the first tile of a share, or the last one.
    pub(super) fn take(&self, device: usize, front: bool) -> Option<usize> {
        let place = self.0.get(device)?;
        let mut share = place.load(Ordering::Relaxed);
        loop {
            let (first, end) = halves(share);
            if first >= end {
                return None;
            }
            let (tile, left) =
                if front { (first, ((first + 1) << 32) | end) } else { (end - 1, (first << 32) | (end - 1)) };
            match place.compare_exchange_weak(share, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(tile as usize),
                Err(now) => share = now,
            }
        }
    }
}

fn halves(share: u64) -> (u64, u64) {
    (share >> 32, share & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_is_taken_once_whoever_takes_it() {
        for _ in 0..50 {
            let shares = Shares::new(3);
            shares.deal(&[40, 0, 24]);
            assert_eq!([0, 1, 2, 3].map(|device| shares.left(device)), [40, 0, 24, 0]);
            let mut all: Vec<usize> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..3)
                    .map(|own: usize| {
                        let shares = &shares;
                        scope.spawn(move || {
                            let next = || {
                                let others = || (0..3).find_map(|other| shares.take(other, false));
                                shares.take(own, true).or_else(others)
                            };
                            std::iter::from_fn(next).collect::<Vec<usize>>()
                        })
                    })
                    .collect();
                takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
            });
            all.sort_unstable();
            assert_eq!(all, (0..64).collect::<Vec<_>>());
        }
    }
}
