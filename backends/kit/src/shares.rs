//! Shares of work: which pieces belong to which owner, without locks.
//!
//! Threads or devices that work together each own a share of consecutive pieces.
//! An owner takes pieces of its own share from the front, in order, and pieces of others' shares
//! from the back.
//! So an owner is disturbed only at the end of its share: it goes on with data that its caches
//! hold, and no counter travels between all owners with every piece.
//! `cargo xtask test loom` tries every order of these steps.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// The pieces that are left of a share: the first one in the upper half, the end in the lower half.
/// It is alone in its cache line, and in the pair of lines that some processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Share(AtomicU64);

/// Shares of pieces, where the pieces are numbered through all shares.
#[derive(Debug)]
pub struct Shares(Vec<Share>);

impl Shares {
    /// The largest number of pieces that a work can have.
    pub const MOST: usize = u32::MAX as usize;

    /// Makes empty shares for the given number of owners.
    #[must_use]
    pub fn new(owners: usize) -> Self {
        Shares((0..owners).map(|_| Share(AtomicU64::new(0))).collect())
    }

    /// Gives each owner as many consecutive pieces as its count says, the shares one behind the
    /// other.
    /// Pieces beyond [`Shares::MOST`] in all are not given.
    /// The one who starts the work calls this while nobody takes pieces.
    /// The call must be ordered before the others' takes, for example by the way they are started.
    pub fn deal(&self, counts: impl IntoIterator<Item = usize>) {
        let mut first = 0;
        let mut counts = counts.into_iter();
        for share in &self.0 {
            let end = (first + counts.next().unwrap_or(0) as u64).min(Self::MOST as u64);
            share.0.store(word(first, end), Ordering::Relaxed);
            first = end;
        }
    }

    /// Deals the pieces out in shares that differ by one piece at most.
    pub fn deal_evenly(&self, pieces: usize) {
        let (pieces, owners) = (pieces.min(Self::MOST) as u64, self.0.len() as u64);
        let bound = |owner: usize| (pieces * owner as u64 / owners) as usize;
        self.deal((0..self.0.len()).map(|owner| bound(owner + 1) - bound(owner)));
    }

    /// Returns how many pieces are left of a share.
    #[must_use]
    pub fn left(&self, owner: usize) -> usize {
        let (first, end) = self.0.get(owner).map_or((0, 0), |share| halves(share.0.load(Ordering::Relaxed)));
        end.saturating_sub(first) as usize
    }

    /// Takes the first piece of a share, as its owner does.
    #[inline]
    pub fn take_first(&self, owner: usize) -> Option<usize> {
        self.0.get(owner)?.take(true)
    }

    /// Takes the last piece of a share, as others do.
    #[inline]
    pub fn take_last(&self, owner: usize) -> Option<usize> {
        self.0.get(owner)?.take(false)
    }

    /// Takes the next piece for an owner: of its own share, then of the others' shares, beginning
    /// with the share behind its own.
    /// Returns `None` once all pieces have been taken.
    #[inline]
    pub fn take(&self, owner: usize) -> Option<usize> {
        let owners = self.0.len();
        self.take_first(owner).or_else(|| (1..owners).find_map(|step| self.take_last((owner + step) % owners)))
    }
}

impl Share {
    #[inline]
    fn take(&self, front: bool) -> Option<usize> {
        let mut share = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = halves(share);
            if first >= end {
                return None;
            }
            let (piece, left) = if front { (first, word(first + 1, end)) } else { (end - 1, word(first, end - 1)) };
            match self.0.compare_exchange_weak(share, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(piece as usize),
                Err(now) => share = now,
            }
        }
    }
}

fn word(first: u64, end: u64) -> u64 {
    (first << 32) | end
}

fn halves(share: u64) -> (u64, u64) {
    (share >> 32, share & u64::from(u32::MAX))
}

#[cfg(all(loom, test))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two owners, each of which takes until `take` gives it none: each piece is taken once, in
    /// every order of their steps.
    fn all_are_taken_once(counts: [usize; 2], take: fn(&Shares, usize) -> Option<usize>) {
        loom::model(move || {
            let shares = Arc::new(Shares::new(2));
            shares.deal(counts);
            let all = |owner: usize| {
                let shares = shares.clone();
                move || {
                    let mut taken = 0u32;
                    while let Some(piece) = take(&shares, owner) {
                        assert_eq!(taken & (1 << piece), 0);
                        taken |= 1 << piece;
                    }
                    taken
                }
            };
            let other = thread::spawn(all(1));
            let mine = all(0)();
            let theirs = other.join().unwrap();
            let pieces = (1 << (counts[0] + counts[1])) - 1;
            assert_eq!((mine & theirs, mine | theirs), (0, pieces));
        });
    }

    #[test]
    fn shares_of_two_threads() {
        all_are_taken_once([1, 2], Shares::take);
    }

    #[test]
    fn shares_of_which_one_is_another_owner_s_from_the_start() {
        all_are_taken_once([3, 0], Shares::take);
    }

    /// Devices take tiles like this: they look how many are left before they take one of another's
    /// share.
    #[test]
    fn shares_that_are_looked_at_first() {
        all_are_taken_once([2, 1], |shares, owner| {
            let other = 1 - owner;
            let stolen = || (shares.left(other) > 0).then(|| shares.take_last(other)).flatten();
            // That a piece was taken meanwhile is no reason to stop.
            shares.take_first(owner).or_else(|| {
                loop {
                    if shares.left(other) == 0 {
                        return None;
                    }
                    if let Some(piece) = stolen() {
                        return Some(piece);
                    }
                }
            })
        });
    }
}

#[cfg(all(not(loom), test))]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_taken_once_whoever_takes_it() {
        for _ in 0..50 {
            let shares = Shares::new(3);
            shares.deal([40, 0, 24]);
            assert_eq!([0, 1, 2, 3].map(|owner| shares.left(owner)), [40, 0, 24, 0]);
            let mut all: Vec<usize> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..3)
                    .map(|owner: usize| {
                        let shares = &shares;
                        scope.spawn(move || std::iter::from_fn(|| shares.take(owner)).collect::<Vec<usize>>())
                    })
                    .collect();
                takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
            });
            all.sort_unstable();
            assert_eq!(all, (0..64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn owners_take_from_the_front_and_others_from_the_back() {
        let shares = Shares::new(2);
        shares.deal([3, 1]);
        assert_eq!([shares.take_first(0), shares.take_last(0), shares.take(1)], [Some(0), Some(2), Some(3)]);
        assert_eq!([shares.take(1), shares.take(1), shares.take(0), shares.take(2)], [Some(1), None, None, None]);
        shares.deal_evenly(7);
        assert_eq!([0, 1].map(|owner| shares.left(owner)), [3, 4]);
    }
}
