//! Vectors of f32: one trait, an implementation for each instruction set, and one table that
//! chooses among them.
//!
//! A kernel is a [`Job`]: a struct of operands with one generic method.
//! [`Isa::run`] compiles the method for each instruction set and calls the one that the processor
//! has.
//! All the methods here are inlined into the job's method, so that they become single instructions.

use std::fmt;

pub(crate) mod dot;
#[cfg(all(feature = "emulated-neon", not(target_arch = "aarch64")))]
mod emulated;
mod half;
mod math;
#[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use half::{Half, floats, odd, widened_bytes};
pub(crate) use math::{erf, exp, exp_m1, ln, ln_1p, sigmoid, sine, tanh};

/// The largest number of lanes of any vector.
pub(crate) const WIDEST: usize = 16;

/// Vectors of f32 in one instruction set.
/// The methods are unsafe to call where the processor lacks the instruction set.
/// Their pointers need no alignment, and must be valid for the lanes that are read or written.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The type of a vector.
    type V: Copy;
    /// The elements of a vector: 8 or 16.
    const LANES: usize;
    /// The rows of the matrix microkernel's tile, where it is two vectors wide: as many as leave
    /// the registers some room.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(at: *const f32) -> Self::V;
    unsafe fn store(at: *mut f32, v: Self::V);
    /// Asks for the cache line that holds an element, wherever it lies.
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        let _ = at;
    }
    /// Loads the first `count` lanes (at most [`Self::LANES`]); the others are 0.
    unsafe fn load_first(at: *const f32, count: usize) -> Self::V;
    /// Stores the first `count` lanes.
    unsafe fn store_first(at: *mut f32, count: usize, v: Self::V);
    /// Returns the elements at even places of `a` with `b` behind it, and the elements at odd
    /// places.
    unsafe fn deinterleave(a: Self::V, b: Self::V) -> (Self::V, Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a * b + c`, rounded once where the processor can do that.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the larger, or `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Returns the smaller, or `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// Rounds to the nearest whole number, halves to even, for magnitudes below 2^23.
    unsafe fn round(a: Self::V) -> Self::V;
    /// Returns `v * 2^n` for a whole number `n` between -126 and 127.
    unsafe fn scale(v: Self::V, n: Self::V) -> Self::V;
    /// Returns `(m, e)` with `v = m * 2^e` and `1 <= m < 2`, for positive normal numbers.
    unsafe fn split(v: Self::V) -> (Self::V, Self::V);
    /// Returns `yes` where `a < b`, else `no`.
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Returns `a` where it is NaN, else `other`.
    unsafe fn select_nan(a: Self::V, other: Self::V) -> Self::V;
    /// Loads numbers of 16 bits, which every one of f32 holds.
    #[inline(always)]
    unsafe fn widen(at: *const u16, half: Half) -> Self::V {
        let mut numbers = [0.0; WIDEST];
        for (i, number) in numbers.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the pointer is valid for the lanes by the trait's rule.
            *number = half.wide(unsafe { *at.add(i) });
        }
        // SAFETY: the array has all lanes.
        unsafe { Self::load(numbers.as_ptr()) }
    }
    /// Stores numbers of 16 bits: the nearest, and of two the even one.
    #[inline(always)]
    unsafe fn narrow(at: *mut u16, v: Self::V, half: Half) {
        let mut numbers = [0.0; WIDEST];
        // SAFETY: the array has all lanes, and the pointer is valid for them by the trait's rule.
        unsafe {
            Self::store(numbers.as_mut_ptr(), v);
            (0..Self::LANES).for_each(|i| *at.add(i) = half.narrow(numbers[i]));
        }
    }
    /// Returns the sum of all lanes.
    unsafe fn sum(v: Self::V) -> f32;
    /// Returns the maximum of all lanes; NaN may be dropped.
    unsafe fn largest(v: Self::V) -> f32;
    /// Tells whether `a < b` in any lane.
    #[inline(always)]
    unsafe fn any_lt(a: Self::V, b: Self::V) -> bool {
        // SAFETY: the caller's promise; so below.
        unsafe { Self::largest(Self::select_lt(a, b, Self::splat(1.0), Self::splat(0.0))) > 0.0 }
    }
    /// Loads bytes as numbers, signed or not.
    #[inline(always)]
    unsafe fn load_bytes<const SIGNED: bool>(at: *const u8) -> Self::V {
        let mut lanes = [0.0; WIDEST];
        for (index, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: valid for the lanes by the trait's rule.
            let byte = unsafe { at.add(index).read() };
            *lane = if SIGNED { f32::from(byte as i8) } else { f32::from(byte) };
        }
        // SAFETY: no vector has more lanes.
        unsafe { Self::load(lanes.as_ptr()) }
    }
    /// Stores the first `count` lanes, which are whole numbers between -128 and 255, as bytes.
    #[inline(always)]
    unsafe fn store_bytes(at: *mut u8, count: usize, v: Self::V) {
        let mut lanes = [0.0; WIDEST];
        // SAFETY: no vector has more lanes, and `count` of them are written.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            for (index, lane) in lanes.iter().enumerate().take(count) {
                at.add(index).write(lane.to_int_unchecked::<i32>() as u8);
            }
        }
    }
}

/// Work that is compiled for every instruction set.
pub(crate) trait Job {
    type Output;

    /// Does the work.
    /// Implementations must be `#[inline(always)]`, or they are not compiled for `S`.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    /// The job says where it is made what else it needs.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isa {
    /// Eight lanes, without any intrinsic.
    Portable,
    /// Arm's 128-bit vectors, in pairs.
    #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
    Neon,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, DQ, BW and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Every instruction set of this architecture, the narrowest first.
const ALL: &[Isa] = &[
    Isa::Portable,
    #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
    Isa::Neon,
    #[cfg(target_arch = "x86_64")]
    Isa::Avx2,
    #[cfg(target_arch = "x86_64")]
    Isa::Avx512,
];

impl Isa {
    /// Returns the instruction sets that this processor has, the narrowest first.
    pub(crate) fn available() -> impl Iterator<Item = Isa> {
        ALL.iter().copied().filter(|isa| isa.present())
    }

    /// Returns the widest instruction set that this processor has.
    pub(crate) fn widest() -> Isa {
        Self::available().last().unwrap_or(Isa::Portable)
    }

    /// Returns the instruction set with this name, where the processor has it.
    pub(crate) fn named(name: &str) -> Option<Isa> {
        Self::available().find(|isa| isa.to_string() == name)
    }

    fn present(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(all(feature = "emulated-neon", not(target_arch = "aarch64")))]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                let vectors = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                vectors && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
                wide && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    /// Returns the lanes of a vector, which are also the block of blocked layouts.
    pub(crate) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            _ => 8,
        }
    }

    /// Returns the rows of the matrix microkernel's tile.
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
    /// The job's own conditions must hold.
    /// This type ensures that the processor has the instructions, because only [`Isa::available`]
    /// makes it.
    #[inline]
    pub(crate) unsafe fn run<J: Job>(self, job: J) -> J::Output {
        // SAFETY: the caller's promise, and `present`.
        unsafe {
            match self {
                Isa::Portable => portable::run(job),
                #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
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
            #[cfg(any(feature = "emulated-neon", target_arch = "aarch64"))]
            Isa::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
        })
    }
}
