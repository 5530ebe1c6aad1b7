//! Shares of work, the atomics that they are made of, and their tests.

mod deal;
#[cfg(test)]
mod model;
/// What the shares are made of; `model` has the same names of Loom's.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

pub use deal::Shares;

#[cfg(test)]
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
