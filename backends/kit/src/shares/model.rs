//! The shares on Loom's atomics and threads: Loom tries every order of their steps.

use deal::Shares;
use loom::sync::Arc;
use loom::thread;

// The file is compiled a second time on purpose: `atomic` means Loom's types to it here.
#[allow(clippy::duplicate_mod, dead_code, unreachable_pub)]
#[path = "deal.rs"]
mod deal;
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

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
