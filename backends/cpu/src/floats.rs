//! Memory for packed weights.

use std::ops::{Deref, DerefMut};

use hetero_hal::{Error, ErrorKind, Result};
use hetero_kit::Resident;

use crate::memory::Counted;

/// The elements of a line of the cache, which is also the longest vector.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Numbers that begin at a line of the cache, so that no vector of them lies in two lines.
pub(crate) struct Floats {
    lines: Vec<Line>,
    count: usize,
    /// The bytes of the device's budget that they take.
    _taken: Option<Counted>,
}

impl Floats {
    /// Returns so many zeros, to pack a constant into.
    pub(crate) fn zeros(count: usize) -> Result<Floats> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(count.div_ceil(LINE)).map_err(|error| {
            let bytes = count.saturating_mul(size_of::<f32>()) as u64;
            Error::new(ErrorKind::OutOfMemory, "cannot allocate memory for packed weights")
                .with_sizes(bytes, None)
                .with_remedy("evict other weights, or divide the model among more devices")
                .caused_by(error)
        })?;
        lines.resize(count.div_ceil(LINE), Line([0.0; LINE]));
        Ok(Floats { lines, count, _taken: None })
    }

    /// Returns the same numbers, which take bytes of a budget for as long as they live.
    pub(crate) fn counted(self, taken: Counted) -> Floats {
        Floats { _taken: Some(taken), ..self }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: lines are numbers without space between them, and there are at least `count`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.count) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.count) }
    }
}

impl Resident for Floats {
    fn bytes(&self) -> usize {
        size_of_val(&self[..])
    }
}
