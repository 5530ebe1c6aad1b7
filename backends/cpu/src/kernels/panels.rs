//! Packed weights that keep 16 bits where the model's have them.

use hetero_hal::Result;

use super::Packed;
use super::tile::Panel;
use crate::floats::Floats;
use crate::simd::{Half, Isa};

/// The packed form of weights for the microkernel.
/// Numbers of 16 bits lie in pairs in the words of the form.
#[derive(Clone)]
pub(super) struct Panels {
    pub(super) packed: Packed,
    pub(super) half: Option<Half>,
}

impl Panels {
    /// Returns the panel that a run holds as `words`.
    pub(super) fn at(&self, words: &[f32]) -> Panel {
        match self.half {
            None => Panel::Floats(words.as_ptr()),
            Some(half) => Panel::Halves(half, words.as_ptr().cast()),
        }
    }

    /// Returns the numbers of 16 bits in words that a run holds, where they have 16 bits.
    pub(super) fn halves<'a>(&self, words: &'a [f32]) -> Option<(Half, &'a [u16])> {
        // SAFETY: a word is two numbers of 16 bits, for which it is aligned.
        self.half.map(|half| (half, unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 2) }))
    }

    /// Returns the number of words of so many elements.
    pub(super) fn words(half: Option<Half>, elements: usize) -> usize {
        if half.is_some() { elements.div_ceil(2) } else { elements }
    }
}

/// Returns the format for weights that are changed before they are packed: f16, which has more
/// digits than bf16, where its range holds them.
/// `largest` is the largest magnitude of the changed weights.
pub(super) fn format(half: Option<Half>, largest: f32) -> Option<Half> {
    // Numbers far below the largest are rounded more coarsely than f16 rounds others.
    const RANGE: std::ops::Range<f32> = 0.002..60_000.0;
    half.filter(|_| RANGE.contains(&largest)).map(|_| Half::F16)
}

/// Returns numbers in pairs of 16 bits.
pub(super) fn narrowed(half: Half, numbers: &[f32]) -> Result<Floats> {
    const PART: usize = 1024;
    let mut words = Floats::zeros(numbers.len().div_ceil(2))?;
    let mut halves = [0; PART];
    for (words, numbers) in words.chunks_mut(PART / 2).zip(numbers.chunks(PART)) {
        half.narrow_all(Isa::widest(), numbers, &mut halves);
        halves[numbers.len()..].fill(0);
        for (word, [low, high]) in words.iter_mut().zip(halves.as_chunks().0) {
            let ([a, b], [c, d]) = (low.to_ne_bytes(), high.to_ne_bytes());
            *word = f32::from_ne_bytes([a, b, c, d]);
        }
    }
    Ok(words)
}
