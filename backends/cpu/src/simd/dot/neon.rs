//! Arm's vectors of four lanes, in pairs: products of bytes where there are, and widening
//! multiplies elsewhere.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

#[cfg(not(target_arch = "aarch64"))]
use super::super::emulated::*;
use super::super::neon;
use super::{Dot, DotJob, Simd};

/// Products by widening multiplies.
#[derive(Clone, Copy)]
pub(crate) struct Widening;

/// Products by one instruction.
#[derive(Clone, Copy)]
pub(crate) struct Products;

/// # Safety
/// The processor must have NEON, and the job's own conditions must hold.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(super) unsafe fn run<J: DotJob>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Widening>() }
}

/// # Safety
/// The processor must have NEON with products of bytes, and the job's own conditions must hold.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon,dotprod"))]
pub(super) unsafe fn run_products<J: DotJob>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Products>() }
}

/// Adds to each lane the products of four signed bytes.
/// The intrinsic is not stable.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller promises that the processor has the instruction, which touches no memory.
    unsafe {
        std::arch::asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Pair<T>(T, T);

/// The operations that do not depend on how bytes are multiplied.
macro_rules! common {
    () => {
        type S = neon::Neon;
        type V = Pair<int32x4_t>;
        type W = Pair<int8x16_t>;
        type X = int8x16_t;
        const LANES: usize = 8;
        const ROWS: usize = 6;
        const SIGNED: bool = true;

        #[inline(always)]
        unsafe fn splat(x: i32) -> Self::V {
            // SAFETY: NEON is there by the trait's rule; so below.
            unsafe { Pair(vdupq_n_s32(x), vdupq_n_s32(x)) }
        }
        #[inline(always)]
        unsafe fn load(at: *const i32) -> Self::V {
            // SAFETY: valid for eight lanes by the trait's rule.
            unsafe { Pair(vld1q_s32(at), vld1q_s32(at.add(4))) }
        }
        #[inline(always)]
        unsafe fn store(at: *mut i32, v: Self::V) {
            // SAFETY: as above.
            unsafe {
                vst1q_s32(at, v.0);
                vst1q_s32(at.add(4), v.1);
            }
        }
        #[inline(always)]
        unsafe fn store_first(at: *mut i32, count: usize, v: Self::V) {
            let mut lanes = [0i32; 8];
            // SAFETY: only the first `count` are written, and `lanes` has eight.
            unsafe {
                Self::store(lanes.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), at, count);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON is there.
            unsafe { Pair(vaddq_s32(a.0, b.0), vaddq_s32(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: NEON is there.
            unsafe { Pair(vmulq_s32(a.0, b.0), vmulq_s32(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn real(v: Self::V) -> <neon::Neon as Simd>::V {
            // SAFETY: NEON is there.
            unsafe { neon::Pair(vcvtq_f32_s32(v.0), vcvtq_f32_s32(v.1)) }
        }
        #[inline(always)]
        unsafe fn right(at: *const i8) -> Self::W {
            // SAFETY: valid for a group of each lane by the trait's rule.
            unsafe { Pair(vld1q_s8(at), vld1q_s8(at.add(16))) }
        }
        #[inline(always)]
        unsafe fn left(group: u32) -> Self::X {
            // SAFETY: NEON is there.
            unsafe { vreinterpretq_s8_s32(vdupq_n_s32(group as i32)) }
        }
    };
}

impl Dot for Widening {
    common!();

    #[inline(always)]
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        // SAFETY: NEON is there.
        unsafe {
            // The products of two lanes' groups are summed by pairs, and then by pairs again.
            let four = |w| {
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
                let high = vpaddlq_s16(vmull_s8(vget_high_s8(x), vget_high_s8(w)));
                vpaddq_s32(low, high)
            };
            Pair(vaddq_s32(sum.0, four(w.0)), vaddq_s32(sum.1, four(w.1)))
        }
    }
}

impl Dot for Products {
    common!();

    #[inline(always)]
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        // SAFETY: NEON's products of bytes are there.
        unsafe { Pair(sdot(sum.0, x, w.0), sdot(sum.1, x, w.1)) }
    }
}
