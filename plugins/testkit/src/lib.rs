//! What tests and examples of the workspace share: pseudo-random numbers and medians.
//!
//! Production code has its own of what it needs: a change here changes tests alone.
//!
//! ```
//! use hetero_testkit::{SplitMix64, median};
//!
//! let mut random = SplitMix64::new(7);
//! let mut throws: Vec<usize> = (0..9).map(|_| 1 + random.below(6)).collect();
//! assert!(throws.iter().all(|throw| (1..=6).contains(throw)));
//! throws.sort_unstable();
//! let throws: Vec<f64> = throws.into_iter().map(|throw| throw as f64).collect();
//! assert_eq!(median(&throws), Some(throws[4]));
//! ```

#![forbid(unsafe_code)]

/// A generator of pseudo-random numbers, which are the same on every machine.
///
/// It is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Makes a generator; any seed is as good as any other.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    /// Returns the next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below a limit, or 0 where the limit is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() >> 16) as usize % limit.max(1)
    }

    /// Returns a number from -1 to 1, in steps that an f32 represents exactly.
    pub fn signed_unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Returns the median, of an even count the upper of the two in the middle, or `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of the paper's reference implementation for the seed 1234567.
    #[test]
    fn numbers_are_those_of_the_reference_implementation() {
        let mut random = SplitMix64::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_stay_within_their_limits() {
        let mut random = SplitMix64::new(0);
        assert!((0..1000).all(|_| random.below(7) < 7 && (-1.0..=1.0).contains(&random.signed_unit())));
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
