//! The bytes that constants take together, each byte once: constants may be parts of each other, as
//! those of a file are that names its bytes more than once.

use std::collections::BTreeMap;

use hetero_hal::Tensor;

/// Places in memory that are counted already.
#[derive(Default)]
pub(crate) struct Covered {
    /// Where each covered range ends, by where it begins; no two of them touch.
    ranges: BTreeMap<usize, usize>,
}

impl Covered {
    /// Adds the place of a constant, and returns how many of its bytes are new.
    pub(crate) fn add(&mut self, constant: &Tensor) -> usize {
        let (address, length) = constant.place();
        self.add_range(address, address.saturating_add(length))
    }

    fn add_range(&mut self, start: usize, end: usize) -> usize {
        if start == end {
            return 0;
        }
        let (mut fresh, mut joined) = (end - start, (start, end));
        // The range before reaches furthest to the right of all that begin before.
        let before = self.ranges.range(..start).next_back().filter(|(_, own)| **own >= start);
        let touching = before.into_iter().chain(self.ranges.range(start..=end));
        for (from, to) in touching.map(|(from, to)| (*from, *to)).collect::<Vec<_>>() {
            fresh -= to.min(end).saturating_sub(from.max(start));
            joined = (joined.0.min(from), joined.1.max(to));
            self.ranges.remove(&from);
        }
        self.ranges.insert(joined.0, joined.1);
        fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_byte_counts_once(ranges in prop::collection::vec((0usize..200, 0usize..40), 0..60)) {
            let (mut covered, mut bytes) = (Covered::default(), [false; 240]);
            for (start, length) in ranges {
                let fresh = bytes[start..start + length].iter().filter(|seen| !**seen).count();
                bytes[start..start + length].fill(true);
                prop_assert_eq!(covered.add_range(start, start + length), fresh);
            }
            let ranges: Vec<_> = covered.ranges.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
