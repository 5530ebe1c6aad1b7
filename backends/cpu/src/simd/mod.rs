//! Vectors of f32: one trait, an implementation for each instruction set, one table that chooses.
//!
//! A kernel is a [`Job`]: a struct of operands with one generic method. [`Isa::run`] compiles the method for each instruction set and calls the
//! one that the processor has. All the methods here are inlined into it, so that they become single instructions.

use std::fmt;

#[cfg(all(emulated_neon, not(target_arch = "aarch64")))]
mod emulated;
mod math;
#[cfg(any(emulated_neon, target_arch = "aarch64"))]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use math::{erf, exp, exp_m1, ln, ln_1p, sigmoid, tanh};

/// Most lanes of any vector.
pub(crate) const WIDEST: usize = 16;

/// Vectors of f32 in one instruction set. The methods are unsafe to call where the processor lacks it; the pointers need no alignment and must
/// be valid for the lanes that are read or written.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// Elements of a vector: 8 or 16.
    const LANES: usize;
    /// Rows of the matrix microkernel's tile, where it is two vectors wide: as many as leave the registers some room.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn store(at: *mut f32, v: Self::V);
    /// Asks for the line of the cache that holds an element, wherever that lies.
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        let _ = at;
    }
    /// The first `count` lanes (at most [`Self::LANES`]); the others are 0.
    unsafe fn load_first(at: *const f32, count: usize) -> Self::V;
    /// Stores the first `count` lanes.
    unsafe fn store_first(at: *mut f32, count: usize, v: Self::V);
    /// The elements at even places of `a` with `b` behind it, and those at odd ones.
    unsafe fn deinterleave(a: Self::V, b: Self::V) -> (Self::V, Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the processor can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// To the nearest whole number, halves to even, for magnitudes below 2^23.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `v * 2^n` for a whole number `n` between -126 and 127.
    unsafe fn scale(v: Self::V, n: Self::V) -> Self::V;
    /// `(m, e)` with `v = m * 2^e` and `1 <= m < 2`, for positive normal numbers.
    unsafe fn split(v: Self::V) -> (Self::V, Self::V);
    /// `yes` where `a < b`, else `no`.
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `a` where it is NaN, else `other`.
    unsafe fn select_nan(a: Self::V, other: Self::V) -> Self::V;
    /// All lanes' sum.
    unsafe fn sum(v: Self::V) -> f32;
    /// All lanes' maximum; NaN may be dropped.
    unsafe fn largest(v: Self::V) -> f32;
}

/// Work that is compiled for every instruction set.
pub(crate) trait Job {
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, or they are not compiled for `S`.
    ///
    /// # Safety
    /// The processor has the instructions of `S`; what else the job needs is said where it is made.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isa {
    /// Eight lanes, without any intrinsic.
    Portable,
    /// Arm's 128-bit vectors, two by two.
    #[cfg(any(emulated_neon, target_arch = "aarch64"))]
    Neon,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, DQ, BW and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Every instruction set of this architecture, narrowest first.
const ALL: &[Isa] = &[
    Isa::Portable,
    #[cfg(any(emulated_neon, target_arch = "aarch64"))]
    Isa::Neon,
    #[cfg(target_arch = "x86_64")]
    Isa::Avx2,
    #[cfg(target_arch = "x86_64")]
    Isa::Avx512,
];

impl Isa {
    /// Those that this processor has, narrowest first.
    pub(crate) fn available() -> impl Iterator<Item = Isa> {
        ALL.iter().copied().filter(|isa| isa.present())
    }

    /// The widest that this processor has.
    pub(crate) fn widest() -> Isa {
        Self::available().last().unwrap_or(Isa::Portable)
    }

    /// The one of that name, where the processor has it.
    pub(crate) fn named(name: &str) -> Option<Isa> {
        Self::available().find(|isa| isa.to_string() == name)
    }

    fn present(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(all(emulated_neon, not(target_arch = "aarch64")))]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
                wide && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    /// Lanes of a vector, which is the block of blocked layouts.
    pub(crate) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            _ => 8,
        }
    }

    /// Rows of the matrix microkernel's tile.
    pub(crate) fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::Avx512::ROWS,
            _ => portable::Portable::ROWS,
        }
    }

    /// Does a job with these instructions.
    ///
    /// # Safety
    /// As the job says. That the processor has the instructions is seen to by this type: it is made by [`Isa::available`] only.
    #[inline]
    pub(crate) unsafe fn run<J: Job>(self, job: J) -> J::Output {
        // SAFETY: the caller's promise, and `present`.
        unsafe {
            match self {
                Isa::Portable => portable::run(job),
                #[cfg(any(emulated_neon, target_arch = "aarch64"))]
                Isa::Neon => neon::run(job),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::run_avx2(job),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86::run_avx512(job),
            }
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            #[cfg(any(emulated_neon, target_arch = "aarch64"))]
            Isa::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
        })
    }
}
