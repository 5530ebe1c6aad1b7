//! AVX2 and AVX-512, with VNNI and without.

use std::arch::x86_64::*;

use super::super::x86;
use super::{Dot, DotJob};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni;

/// Defines the function that does a job with a set of instructions.
macro_rules! run {
    ($($name:ident = $of:ident: $features:literal;)*) => {
        $(
            /// # Safety
            /// The processor must have the instructions, and the job's own conditions must hold.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name<J: DotJob>(job: J) -> J::Output {
                // SAFETY: the caller's promise.
                unsafe { job.run::<$of>() }
            }
        )*
    };
}

run! {
    run_avx2 = Avx2: "avx2,fma";
    run_avx_vnni = AvxVnni: "avx2,fma,avxvnni";
    run_avx512 = Avx512: "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma";
    run_avx512_vnni = Avx512Vnni: "avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma";
}

/// The operations that do not depend on how bytes are multiplied.
macro_rules! common_256 {
    () => {
        type S = x86::Avx2;
        type V = __m256i;
        const LANES: usize = 8;
        const SIGNED: bool = false;

        #[inline(always)]
        unsafe fn splat(x: i32) -> Self::V {
            // SAFETY: the instructions are there by the trait's rule; so below.
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load(at: *const i32) -> Self::V {
            // SAFETY: valid for eight lanes by the trait's rule.
            unsafe { _mm256_loadu_si256(at.cast()) }
        }
        #[inline(always)]
        unsafe fn store(at: *mut i32, v: Self::V) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(at.cast(), v) }
        }
        #[inline(always)]
        unsafe fn store_first(at: *mut i32, count: usize, v: Self::V) {
            use super::Simd;
            // SAFETY: only `count` lanes are written.
            unsafe { x86::Avx2::store_first(at.cast(), count, _mm256_castsi256_ps(v)) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: AVX2 is there.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: AVX2 is there.
            unsafe { _mm256_mullo_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn real(v: Self::V) -> __m256 {
            // SAFETY: AVX2 is there.
            unsafe { _mm256_cvtepi32_ps(v) }
        }
    };
}

macro_rules! common_512 {
    () => {
        type S = x86::Avx512;
        type V = __m512i;
        const LANES: usize = 16;
        const SIGNED: bool = false;

        #[inline(always)]
        unsafe fn splat(x: i32) -> Self::V {
            // SAFETY: the instructions are there by the trait's rule; so below.
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load(at: *const i32) -> Self::V {
            // SAFETY: valid for sixteen lanes by the trait's rule.
            unsafe { _mm512_loadu_si512(at.cast()) }
        }
        #[inline(always)]
        unsafe fn store(at: *mut i32, v: Self::V) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(at.cast(), v) }
        }
        #[inline(always)]
        unsafe fn store_first(at: *mut i32, count: usize, v: Self::V) {
            // SAFETY: masked lanes are not touched.
            unsafe { _mm512_mask_storeu_epi32(at, ((1u32 << count) - 1) as u16, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: AVX-512 is there.
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: AVX-512 is there.
            unsafe { _mm512_mullo_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn real(v: Self::V) -> __m512 {
            // SAFETY: AVX-512 is there.
            unsafe { _mm512_cvtepi32_ps(v) }
        }
    };
}

/// The product of bytes in one instruction saturates at 16 bits.
/// So bytes at even and at odd places are widened to 16 bits, whose products are exact.
impl Dot for Avx2 {
    type W = (__m256i, __m256i);
    type X = (__m256i, __m256i);
    const ROWS: usize = 4;
    common_256!();

    #[inline(always)]
    unsafe fn right(at: *const i8) -> Self::W {
        // SAFETY: valid for a group of each lane by the trait's rule.
        unsafe {
            let w = _mm256_loadu_si256(at.cast());
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w))
        }
    }
    #[inline(always)]
    unsafe fn left(group: u32) -> Self::X {
        // SAFETY: AVX2 is there.
        unsafe {
            let x = _mm256_set1_epi32(group as i32);
            (_mm256_and_si256(x, _mm256_set1_epi32(0x00ff_00ff)), _mm256_srli_epi16::<8>(x))
        }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        // SAFETY: AVX2 is there.
        unsafe {
            let even = _mm256_add_epi32(sum, _mm256_madd_epi16(x.0, w.0));
            _mm256_add_epi32(even, _mm256_madd_epi16(x.1, w.1))
        }
    }
}

impl Dot for AvxVnni {
    type W = __m256i;
    type X = __m256i;
    const ROWS: usize = 6;
    common_256!();

    #[inline(always)]
    unsafe fn right(at: *const i8) -> Self::W {
        // SAFETY: valid for a group of each lane by the trait's rule.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
    #[inline(always)]
    unsafe fn left(group: u32) -> Self::X {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_set1_epi32(group as i32) }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        // SAFETY: AVX-VNNI is there.
        unsafe { _mm256_dpbusd_avx_epi32(sum, x, w) }
    }
}

/// As with [`Avx2`], in vectors of twice the length.
impl Dot for Avx512 {
    type W = (__m512i, __m512i);
    type X = (__m512i, __m512i);
    const ROWS: usize = 10;
    common_512!();

    #[inline(always)]
    unsafe fn right(at: *const i8) -> Self::W {
        // SAFETY: valid for a group of each lane by the trait's rule.
        unsafe {
            let w = _mm512_loadu_si512(at.cast());
            (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w)), _mm512_srai_epi16::<8>(w))
        }
    }
    #[inline(always)]
    unsafe fn left(group: u32) -> Self::X {
        // SAFETY: AVX-512 BW is there.
        unsafe {
            let x = _mm512_set1_epi32(group as i32);
            (_mm512_and_si512(x, _mm512_set1_epi32(0x00ff_00ff)), _mm512_srli_epi16::<8>(x))
        }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        // SAFETY: AVX-512 BW is there.
        unsafe {
            let even = _mm512_add_epi32(sum, _mm512_madd_epi16(x.0, w.0));
            _mm512_add_epi32(even, _mm512_madd_epi16(x.1, w.1))
        }
    }
}

impl Dot for Avx512Vnni {
    type W = __m512i;
    type X = __m512i;
    const ROWS: usize = 14;
    common_512!();

    #[inline(always)]
    unsafe fn right(at: *const i8) -> Self::W {
        // SAFETY: valid for a group of each lane by the trait's rule.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn left(group: u32) -> Self::X {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_set1_epi32(group as i32) }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::V, x: Self::X, w: Self::W) -> Self::V {
        // SAFETY: AVX-512 VNNI is there.
        unsafe { _mm512_dpbusd_epi32(sum, x, w) }
    }
}
