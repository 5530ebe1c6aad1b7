//! Shares of work: which pieces belong to which owner, without locks.
//!
//! Threads or devices that work together each own a share of consecutive pieces.
//! An owner takes pieces of its own share from the front, in order, and pieces of others' shares
//! from the back.
//! So an owner is disturbed only at the end of its share: it goes on with data that its caches
//! hold, and no counter travels between all owners with every piece.
//! `cargo xtask test loom` tries every order of these steps: see `model.rs`, which compiles
//! this file once more, on Loom's atomics.

use super::atomic::{AtomicU64, Ordering};

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
