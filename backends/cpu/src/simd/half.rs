//! Numbers of 16 bits, and their conversion to f32 and back without a branch, so that loops over
//! them are vectorised.

use hetero_hal::{DType, Result, Tensor};

use super::{Isa, Job, Simd};

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    BF16,
}

impl Half {
    /// Returns the format of an element type, where it has 16 bits.
    pub(crate) fn of(dtype: DType) -> Option<Half> {
        match dtype {
            DType::F16 => Some(Half::F16),
            DType::BF16 => Some(Half::BF16),
            _ => None,
        }
    }

    /// Returns the number that the bits stand for.
    #[inline(always)]
    pub(crate) fn wide(self, bits: u16) -> f32 {
        match self {
            Half::BF16 => f32::from_bits(u32::from(bits) << 16),
            Half::F16 => {
                let (sign, body) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
                // The exponents are biased by 15 and by 127.
                let finite = (f32::from_bits(body) * f32::from_bits(0x7780_0000)).to_bits();
                f32::from_bits(sign | if body < 0x0f80_0000 { finite } else { body | 0x7f80_0000 })
            }
        }
    }

    /// Returns the bits of the nearest number, and of two the one whose last bit is 0.
    #[inline(always)]
    pub(crate) fn narrow(self, x: f32) -> u16 {
        let bits = x.to_bits();
        let (sign, size) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
        let is_nan = size > 0x7f80_0000;
        match self {
            Half::BF16 => {
                let near = (size + 0x7fff + ((size >> 16) & 1)) >> 16;
                sign | if is_nan { (size >> 16) as u16 | 0x40 } else { near as u16 }
            }
            Half::F16 => {
                let normal = size.wrapping_sub(0x3800_0000 - 0xfff - ((size >> 13) & 1)) >> 13;
                // A half has the last bit of the smallest of these numbers as its own.
                let small = (f32::from_bits(size) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
                let finite = if size < 0x3880_0000 { small } else { normal };
                let limited = if size >= 0x4780_0000 { 0x7c00 } else { finite as u16 };
                sign | if is_nan { 0x7e00 | ((size >> 13) & 0x1ff) as u16 } else { limited }
            }
        }
    }

    /// Widens numbers, as many as both sides have.
    pub(crate) fn widen(self, isa: Isa, from: &[u16], into: &mut [f32]) {
        // SAFETY: the job's slices are its own.
        unsafe { isa.run(Widen(self, from, into)) };
    }

    /// Narrows numbers, as many as both sides have.
    pub(crate) fn narrow_all(self, isa: Isa, from: &[f32], into: &mut [u16]) {
        // SAFETY: the job's slices are its own.
        unsafe { isa.run(Narrow(self, from, into)) };
    }
}

/// Returns a number in f32; where it is none there, the neighbour whose last bit is set, which
/// tells it from the middle between two numbers.
/// A further rounding to 16 bits then gives what a single rounding would have given.
#[inline(always)]
pub(crate) fn odd(x: f64) -> f32 {
    let nearest = x as f32;
    let wide = f64::from(nearest);
    let beyond = u32::from(wide.abs() > x.abs());
    if wide == x || x.is_nan() { nearest } else { f32::from_bits((nearest.to_bits() - beyond) | 1) }
}

struct Widen<'a>(Half, &'a [u16], &'a mut [f32]);

impl Job for Widen<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Widen(half, from, into) = self;
        let count = from.len().min(into.len());
        let whole = count / S::LANES * S::LANES;
        // SAFETY: each vector lies in both slices.
        unsafe {
            match half {
                Half::F16 => (0..whole)
                    .step_by(S::LANES)
                    .for_each(|at| S::store(into.as_mut_ptr().add(at), S::widen(from.as_ptr().add(at), Half::F16))),
                Half::BF16 => (0..whole)
                    .step_by(S::LANES)
                    .for_each(|at| S::store(into.as_mut_ptr().add(at), S::widen(from.as_ptr().add(at), Half::BF16))),
            }
        }
        into[whole..count].iter_mut().zip(&from[whole..count]).for_each(|(into, bits)| *into = half.wide(*bits));
    }
}

struct Narrow<'a>(Half, &'a [f32], &'a mut [u16]);

impl Job for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Narrow(half, from, into) = self;
        let count = from.len().min(into.len());
        let whole = count / S::LANES * S::LANES;
        // SAFETY: each vector lies in both slices.
        unsafe {
            match half {
                Half::F16 => (0..whole)
                    .step_by(S::LANES)
                    .for_each(|at| S::narrow(into.as_mut_ptr().add(at), S::load(from.as_ptr().add(at)), Half::F16)),
                Half::BF16 => (0..whole)
                    .step_by(S::LANES)
                    .for_each(|at| S::narrow(into.as_mut_ptr().add(at), S::load(from.as_ptr().add(at)), Half::BF16)),
            }
        }
        into[whole..count].iter_mut().zip(&from[whole..count]).for_each(|(into, x)| *into = half.narrow(*x));
    }
}

/// Returns the elements of a tensor of f32, or of numbers of 16 bits, as f32.
///
/// # Errors
/// `InvalidArgument` for any other element type.
pub(crate) fn floats(tensor: &Tensor) -> Result<std::borrow::Cow<'_, [f32]>> {
    match Half::of(tensor.dtype()) {
        None => tensor.view::<f32>(),
        Some(half) => {
            let (pairs, _) = tensor.bytes().as_chunks::<2>();
            Ok(pairs.iter().map(|pair| half.wide(u16::from_ne_bytes(*pair))).collect())
        }
    }
}

/// Returns the bytes that [`floats`] allocates for a tensor; none where it has these elements.
pub(crate) fn widened_bytes(tensor: &Tensor) -> usize {
    let is_ready = tensor.dtype() == DType::F32 && tensor.bytes().as_ptr().cast::<f32>().is_aligned();
    if is_ready { 0 } else { tensor.len().saturating_mul(size_of::<f32>()) }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn every_number_of_16_bits_comes_back_and_every_rounding_is_to_nearest() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        // Numbers, the middles between neighbours, and what lies beside these.
        let mut between: Vec<f32> = Vec::new();
        for &bits in &all {
            for x in [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()] {
                between.extend(
                    [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001]
                        .map(|more| f32::from_bits(x.to_bits().wrapping_add(more))),
                );
            }
        }
        for isa in Isa::available() {
            for half in [Half::F16, Half::BF16] {
                let expected = |bits: u16| match half {
                    Half::F16 => f16::from_bits(bits).to_f32(),
                    Half::BF16 => bf16::from_bits(bits).to_f32(),
                };
                let mut wide = vec![0.0; all.len()];
                half.widen(isa, &all, &mut wide);
                for (&bits, &x) in all.iter().zip(&wide) {
                    let right = expected(bits);
                    assert!(
                        x.to_bits() == right.to_bits() || (x.is_nan() && right.is_nan()),
                        "{isa} {half:?} {bits:x}"
                    );
                    assert!(half.wide(bits).to_bits() == x.to_bits() || x.is_nan());
                }
                let mut narrow = vec![0; between.len()];
                half.narrow_all(isa, &between, &mut narrow);
                for (&x, &bits) in between.iter().zip(&narrow) {
                    let right = match half {
                        Half::F16 => f16::from_f32_const(x).to_bits(),
                        Half::BF16 => bf16::from_f32_const(x).to_bits(),
                    };
                    let both = [bits, half.narrow(x)];
                    let fits = |own: u16| if x.is_nan() { expected(own).is_nan() } else { own == right };
                    assert!(both.into_iter().all(fits), "{isa} {half:?} {x}: {both:x?}, not {right:x}");
                }
            }
        }
    }
}
