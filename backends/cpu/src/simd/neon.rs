//! Arm's vectors of four lanes, in pairs.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

#[cfg(not(target_arch = "aarch64"))]
use super::emulated::*;
use super::{Job, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// # Safety
/// The processor must have NEON, and the job's own conditions must hold.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(super) unsafe fn run<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Neon>() }
}

macro_rules! forward {
    ($($name:ident ( $($argument:ident),* ) = $intrinsic:ident;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: Self::V),*) -> Self::V {
                // SAFETY: NEON is there by the trait's rule.
                unsafe { Pair($intrinsic($($argument.0),*), $intrinsic($($argument.1),*)) }
            }
        )*
    };
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Pair(pub(super) float32x4_t, pub(super) float32x4_t);

impl Simd for Neon {
    type V = Pair;
    const LANES: usize = 8;
    const ROWS: usize = 6;

    forward! {
        add(a, b) = vaddq_f32;
        sub(a, b) = vsubq_f32;
        mul(a, b) = vmulq_f32;
        div(a, b) = vdivq_f32;
        sqrt(a) = vsqrtq_f32;
        round(a) = vrndnq_f32;
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: NEON is there by the trait's rule; so below.
        unsafe { Pair(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: NEON is there.
        // Where the comparison is false, as it is for NaN, `b` is taken.
        unsafe { Pair(vbslq_f32(vcgtq_f32(a.0, b.0), a.0, b.0), vbslq_f32(vcgtq_f32(a.1, b.1), a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { Pair(vbslq_f32(vcltq_f32(a.0, b.0), a.0, b.0), vbslq_f32(vcltq_f32(a.1, b.1), a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: NEON is there.
        unsafe { Pair(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: valid for eight lanes by the trait's rule.
        unsafe { Pair(vld1q_f32(at), vld1q_f32(at.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe {
            vst1q_f32(at, v.0);
            vst1q_f32(at.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_first(at: *const f32, count: usize) -> Self::V {
        let mut lanes = [0.0f32; 8];
        // SAFETY: only the first `count` are read, and `lanes` has eight.
        unsafe {
            std::ptr::copy_nonoverlapping(at, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(at: *mut f32, count: usize, v: Self::V) {
        let mut lanes = [0.0f32; 8];
        // SAFETY: only the first `count` are written, and `lanes` has eight.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), at, count);
        }
    }
    #[inline(always)]
    unsafe fn deinterleave(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        // SAFETY: NEON is there.
        unsafe {
            let (even, odd) = (|a, b| vuzp1q_f32(a, b), |a, b| vuzp2q_f32(a, b));
            (Pair(even(a.0, a.1), even(b.0, b.1)), Pair(odd(a.0, a.1), odd(b.0, b.1)))
        }
    }
    #[inline(always)]
    unsafe fn scale(v: Self::V, n: Self::V) -> Self::V {
        // SAFETY: NEON is there.
        unsafe {
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127))));
            Pair(vmulq_f32(v.0, power(n.0)), vmulq_f32(v.1, power(n.1)))
        }
    }
    #[inline(always)]
    unsafe fn split(v: Self::V) -> (Self::V, Self::V) {
        // SAFETY: NEON is there.
        unsafe {
            let mantissa = |v| {
                let fraction = vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0x007f_ffff));
                vreinterpretq_f32_u32(vorrq_u32(fraction, vdupq_n_u32(0x3f80_0000)))
            };
            let exponent = |v| {
                let biased = vreinterpretq_s32_u32(vshrq_n_u32::<23>(vreinterpretq_u32_f32(v)));
                vcvtq_f32_s32(vsubq_s32(biased, vdupq_n_s32(127)))
            };
            (Pair(mantissa(v.0), mantissa(v.1)), Pair(exponent(v.0), exponent(v.1)))
        }
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: NEON is there.
        unsafe { Pair(vbslq_f32(vcltq_f32(a.0, b.0), yes.0, no.0), vbslq_f32(vcltq_f32(a.1, b.1), yes.1, no.1)) }
    }
    #[inline(always)]
    unsafe fn select_nan(a: Self::V, other: Self::V) -> Self::V {
        // SAFETY: NEON is there.
        // NaN is not equal to itself.
        unsafe { Pair(vbslq_f32(vceqq_f32(a.0, a.0), other.0, a.0), vbslq_f32(vceqq_f32(a.1, a.1), other.1, a.1)) }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: NEON is there.
        unsafe { vaddvq_f32(vaddq_f32(v.0, v.1)) }
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        // SAFETY: NEON is there.
        unsafe { vmaxvq_f32(vmaxq_f32(v.0, v.1)) }
    }
}
