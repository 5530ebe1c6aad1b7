//! AVX2 with FMA, and AVX-512.

use std::arch::x86_64::*;

use super::{Half, Job, Simd};

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// # Safety
/// The processor must have AVX2, FMA and F16C, and the job's own conditions must hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Avx2>() }
}

/// # Safety
/// The processor must have AVX-512 F, DQ, BW and VL, and the job's own conditions must hold.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<J: Job>(job: J) -> J::Output {
    // SAFETY: the caller's promise.
    unsafe { job.run::<Avx512>() }
}

/// The lanes' numbers, to compare with a count.
static NUMBERS: [i32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Returns a mask of the first `count` lanes.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    // SAFETY: AVX2 is there, and `NUMBERS` has eight lanes.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_loadu_si256(NUMBERS.as_ptr().cast())) }
}

macro_rules! forward {
    ($($name:ident ( $($argument:ident),* ) = $intrinsic:ident;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($argument: Self::V),*) -> Self::V {
                // SAFETY: the instruction set is there by the trait's rule.
                unsafe { $intrinsic($($argument),*) }
            }
        )*
    };
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 6;

    forward! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
        sqrt(a) = _mm256_sqrt_ps;
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: the instruction set is there by the trait's rule; so below.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: valid for eight lanes by the trait's rule.
        unsafe { _mm256_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(at, v) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: this is a hint, for which any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(at: *const f32, count: usize) -> Self::V {
        // SAFETY: masked lanes are not touched.
        unsafe { _mm256_maskload_ps(at, first(count)) }
    }
    #[inline(always)]
    unsafe fn store_first(at: *mut f32, count: usize, v: Self::V) {
        // The store is of a half, a quarter and an eighth of the vector where the count has them,
        // because a masked store takes AMD's processors some twelve cycles and more.
        // SAFETY: eight lanes are written, or four, two and one as far as `count` goes.
        unsafe {
            if count >= 8 {
                return _mm256_storeu_ps(at, v);
            }
            let (mut at, mut v, mut four) = (at, v, _mm256_castps256_ps128(v));
            if count & 4 != 0 {
                _mm_storeu_ps(at, four);
                (at, v) = (at.add(4), _mm256_permute2f128_ps::<0x11>(v, v));
                four = _mm256_castps256_ps128(v);
            }
            if count & 2 != 0 {
                _mm_storel_epi64(at.cast(), _mm_castps_si128(four));
                (at, four) = (at.add(2), _mm_movehl_ps(four, four));
            }
            if count & 1 != 0 {
                _mm_store_ss(at, four);
            }
        }
    }
    #[inline(always)]
    unsafe fn deinterleave(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        // SAFETY: AVX2 is there.
        unsafe {
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            // Each half holds two of `a` and two of `b`.
            let order = |v| _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(v));
            (order(even), order(odd))
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale(v: Self::V, n: Self::V) -> Self::V {
        // SAFETY: AVX2 is there.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn split(v: Self::V) -> (Self::V, Self::V) {
        // SAFETY: AVX2 is there.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff));
            let mantissa = _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f80_0000)));
            let exponent = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
            (mantissa, _mm256_cvtepi32_ps(exponent))
        }
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn select_nan(a: Self::V, other: Self::V) -> Self::V {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_blendv_ps(other, a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) }
    }
    #[inline(always)]
    unsafe fn widen(at: *const u16, half: Half) -> Self::V {
        // SAFETY: AVX2 and F16C are there, and the pointer is valid for eight lanes.
        unsafe {
            let bits = _mm_loadu_si128(at.cast());
            match half {
                Half::F16 => _mm256_cvtph_ps(bits),
                Half::BF16 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))),
            }
        }
    }
    #[inline(always)]
    unsafe fn narrow(at: *mut u16, v: Self::V, half: Half) {
        // SAFETY: as above.
        unsafe {
            let bits = match half {
                Half::F16 => _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v),
                Half::BF16 => {
                    let bits = _mm256_castps_si256(v);
                    let high = _mm256_srli_epi32::<16>(bits);
                    let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
                    let more = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
                    let near = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, more));
                    let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
                    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                    let whole = _mm256_blendv_epi8(near, quiet, is_nan);
                    // Each half of the packed vector has four numbers twice.
                    let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(whole, whole));
                    _mm256_castsi256_si128(packed)
                }
            };
            _mm_storeu_si128(at.cast(), bits);
        }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: AVX2 is there.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        // SAFETY: AVX2 is there.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn any_lt(a: Self::V, b: Self::V) -> bool {
        // SAFETY: AVX2 is there.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) != 0 }
    }
    #[inline(always)]
    unsafe fn load_bytes<const SIGNED: bool>(at: *const u8) -> Self::V {
        // SAFETY: valid for eight bytes by the trait's rule.
        unsafe {
            let bytes = _mm_loadl_epi64(at.cast());
            _mm256_cvtepi32_ps(if SIGNED { _mm256_cvtepi8_epi32(bytes) } else { _mm256_cvtepu8_epi32(bytes) })
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(at: *mut u8, count: usize, v: Self::V) {
        // SAFETY: only `count` bytes are written.
        unsafe {
            let places = _mm256_set1_epi64x(0x8080_8080_0c08_0400u64 as i64);
            let halves = _mm256_shuffle_epi8(_mm256_cvtps_epi32(v), places);
            let low = _mm256_castsi256_si128(halves);
            let bytes = _mm_cvtsi128_si64(_mm_unpacklo_epi32(low, _mm256_extracti128_si256::<1>(halves)));
            if count == Self::LANES {
                at.cast::<i64>().write_unaligned(bytes);
            } else {
                std::ptr::copy_nonoverlapping(bytes.to_ne_bytes().as_ptr(), at, count);
            }
        }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const ROWS: usize = 14;

    forward! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        fma(a, b, c) = _mm512_fmadd_ps;
        max(a, b) = _mm512_max_ps;
        min(a, b) = _mm512_min_ps;
        sqrt(a) = _mm512_sqrt_ps;
        scale(v, n) = _mm512_scalef_ps;
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: the instruction set is there by the trait's rule; so below.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::V {
        // SAFETY: valid for sixteen lanes by the trait's rule.
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(at, v) }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: this is a hint, for which any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(at: *const f32, count: usize) -> Self::V {
        // SAFETY: masked lanes are not touched.
        unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, at) }
    }
    #[inline(always)]
    unsafe fn store_first(at: *mut f32, count: usize, v: Self::V) {
        // SAFETY: masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(at, ((1u32 << count) - 1) as u16, v) }
    }
    #[inline(always)]
    unsafe fn deinterleave(a: Self::V, b: Self::V) -> (Self::V, Self::V) {
        // SAFETY: AVX-512 is there.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn split(v: Self::V) -> (Self::V, Self::V) {
        // SAFETY: AVX-512 is there.
        unsafe { (_mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_ZERO>(v), _mm512_getexp_ps(v)) }
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    unsafe fn select_nan(a: Self::V, other: Self::V) -> Self::V {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), other, a) }
    }
    #[inline(always)]
    unsafe fn widen(at: *const u16, half: Half) -> Self::V {
        // SAFETY: AVX-512 is there, and the pointer is valid for sixteen lanes.
        unsafe {
            let bits = _mm256_loadu_si256(at.cast());
            match half {
                Half::F16 => _mm512_cvtph_ps(bits),
                Half::BF16 => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))),
            }
        }
    }
    #[inline(always)]
    unsafe fn narrow(at: *mut u16, v: Self::V, half: Half) {
        // SAFETY: as above.
        unsafe {
            let bits = match half {
                Half::F16 => _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v),
                Half::BF16 => {
                    let bits = _mm512_castps_si512(v);
                    let high = _mm512_srli_epi32::<16>(bits);
                    let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
                    let more = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
                    let near = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, more));
                    let quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
                    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                    _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, near, quiet))
                }
            };
            _mm256_storeu_si256(at.cast(), bits);
        }
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn any_lt(a: Self::V, b: Self::V) -> bool {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) != 0 }
    }
    #[inline(always)]
    unsafe fn load_bytes<const SIGNED: bool>(at: *const u8) -> Self::V {
        // SAFETY: valid for sixteen bytes by the trait's rule.
        unsafe {
            let bytes = _mm_loadu_si128(at.cast());
            _mm512_cvtepi32_ps(if SIGNED { _mm512_cvtepi8_epi32(bytes) } else { _mm512_cvtepu8_epi32(bytes) })
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(at: *mut u8, count: usize, v: Self::V) {
        // SAFETY: only `count` bytes are written.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
            if count == Self::LANES {
                _mm_storeu_si128(at.cast(), bytes);
            } else {
                _mm_mask_storeu_epi8(at.cast(), ((1u32 << count) - 1) as u16, bytes);
            }
        }
    }
}
