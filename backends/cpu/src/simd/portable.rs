//! Eight lanes in plain Rust, which the compiler vectorises as it can.

use super::{Job, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 8;

/// # Safety
/// The job's own conditions must hold.
#[inline(never)]
pub(super) unsafe fn run<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Portable>() }
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: valid for eight lanes by the trait's rule.
        unsafe { at.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: valid for eight lanes by the trait's rule.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(at: *const f32, count: usize) -> Self::V {
        // SAFETY: only the first `count` are read.
        std::array::from_fn(|i| if i < count { unsafe { at.add(i).read() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(at: *mut f32, count: usize, v: Self::V) {
        for (i, x) in v.into_iter().enumerate().take(count) {
            // SAFETY: only the first `count` are written.
            unsafe { at.add(i).write(x) };
        }
    }
    #[inline(always)]
    unsafe fn deinterleave(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        let at = |place: usize| if place < LANES { a[place] } else { b[place - LANES] };
        (std::array::from_fn(|i| at(i * 2)), std::array::from_fn(|i| at(i * 2 + 1)))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn sqrt(a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding 2^23 leaves no bits for a fraction.
        const SHIFT: f32 = 8_388_608.0;
        a.map(|x| ((x.abs() + SHIFT) - SHIFT).copysign(x))
    }
    #[inline(always)]
    unsafe fn scale(v: Self::V, n: Self::V) -> Self::V {
        zip(v, n, |v, n| v * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn split(v: Self::V) -> (Self::V, Self::V) {
        let mantissa = v.map(|x| f32::from_bits((x.to_bits() & 0x007f_ffff) | 0x3f80_0000));
        (mantissa, v.map(|x| ((x.to_bits() >> 23) as i32 - 127) as f32))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn select_nan(a: Self::V, other: Self::V) -> Self::V {
        zip(a, other, |a, other| if a.is_nan() { a } else { other })
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        v.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
}
