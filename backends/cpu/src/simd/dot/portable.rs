//! Eight lanes in plain Rust, which the compiler vectorises as it can.

use super::super::portable::Portable as Floats;
use super::{Dot, DotJob, GROUP};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 8;

/// # Safety
/// The job's own conditions must hold.
#[inline(never)]
pub(super) unsafe fn run<J: DotJob>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Portable>() }
}

impl Dot for Portable {
    type S = Floats;
    type V = [i32; LANES];
    type W = [[i16; LANES]; GROUP];
    type X = [i16; GROUP];
    const LANES: usize = LANES;
    const ROWS: usize = 4;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn splat(x: i32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self::V {
        // SAFETY: valid for eight lanes by the trait's rule; so below.
        unsafe { at.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(at: *mut i32, v: Self::V) {
        // SAFETY: as above.
        unsafe { at.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_first(at: *mut i32, count: usize, v: Self::V) {
        // SAFETY: only `count` lanes are written.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), at, count) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    unsafe fn real(v: Self::V) -> [f32; LANES] {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn right(at: *const i8) -> Self::W {
        // SAFETY: valid for a group of each lane by the trait's rule.
        let groups = unsafe { at.cast::<[[i8; GROUP]; LANES]>().read_unaligned() };
        std::array::from_fn(|byte| std::array::from_fn(|lane| i16::from(groups[lane][byte])))
    }
    #[inline(always)]
    unsafe fn left(group: u32) -> Self::X {
        group.to_ne_bytes().map(i16::from)
    }
    #[inline(always)]
    unsafe fn dot(mut sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        for (x, w) in x.into_iter().zip(w) {
            for (sum, w) in sum.iter_mut().zip(w) {
                *sum = sum.wrapping_add(i32::from(x) * i32::from(w));
            }
        }
        sum
    }
}
