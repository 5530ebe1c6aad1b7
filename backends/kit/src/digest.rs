//! A digest of all bytes, at the speed of memory.

/// Returns 128 bits that tell byte strings apart; every bit of the input counts.
///
/// The digest is the same in every process and build.
/// It finds damage, and is no proof against forgery.
///
/// ```
/// use hetero_kit::digest;
///
/// assert_eq!(digest(b"weights"), digest(b"weights"));
/// assert_ne!(digest(b"weights"), digest(b"weighty"));
/// assert_ne!(digest(b"\0"), digest(b""));
/// ```
#[must_use]
pub fn digest(bytes: &[u8]) -> u128 {
    let mut lanes = STARTS;
    let (stripes, rest) = bytes.as_chunks::<STRIPE>();
    for stripe in stripes {
        step(&mut lanes, stripe);
    }
    // The rest, padded, and the length, which tells the padding from bytes of the input.
    let mut last = [0; STRIPE];
    last[..rest.len()].copy_from_slice(rest);
    step(&mut lanes, &last);
    let mut length = [0; STRIPE];
    length[..8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    step(&mut lanes, &length);
    let fold = |number: usize| {
        let other = |sum: u64, stripe: usize| mix(sum, lanes[stripe][number], FACTORS[number]);
        u128::from(mix((0..WORDS).fold(STARTS[0][number], other), 0, FACTORS[number]))
    };
    fold(0) << 64 | fold(1)
}

/// The number of words in a stripe.
/// Each word goes to a lane of its own, so that one multiplication need not wait for the one
/// before.
const WORDS: usize = 4;
const STRIPE: usize = 8 * WORDS;
const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
const STARTS: [[u64; 2]; WORDS] = [
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
    [0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89],
    [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c],
    [0xc0ac_29b7_c97c_50dd, 0x3f84_d5b5_b547_0917],
];

#[inline(always)]
fn step(lanes: &mut [[u64; 2]; WORDS], stripe: &[u8; STRIPE]) {
    for (lanes, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
        let word = u64::from_le_bytes(*word);
        for (lane, factor) in lanes.iter_mut().zip(FACTORS) {
            *lane = mix(*lane, word, factor);
        }
    }
}

/// Mixes both halves of a product with the word itself, so that a factor of 0 hides nothing.
#[inline(always)]
fn mix(lane: u64, word: u64, factor: u64) -> u64 {
    let product = u128::from(lane ^ word) * u128::from(factor);
    (product as u64) ^ (product >> 64) as u64 ^ word.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_bit_and_the_length_count() {
        let bytes: Vec<u8> = (0..100).map(|number: u8| number.wrapping_mul(7)).collect();
        let mut seen = HashSet::from([digest(&bytes)]);
        for bit in 0..8 * bytes.len() {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(digest(&changed)), "bit {bit}");
        }
        for length in 0..200 {
            assert!(seen.insert(digest(&vec![0; length])), "{length} zeros");
        }
    }
}
