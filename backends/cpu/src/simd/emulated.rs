//! The Arm intrinsics that `neon` uses, in plain Rust by Arm's definition, with the signatures of
//! `std::arch::aarch64`.
//! With them the NEON kernels are compiled and tested on other processors too, by
//! `cargo xtask test neon`.
//! They serve no other purpose.

/// Defines vectors of a type's lanes.
macro_rules! vectors {
    ($($name:ident = [$lane:ty; $count:literal];)*) => {
        $(
            #[allow(non_camel_case_types)]
            #[derive(Clone, Copy)]
            pub(crate) struct $name([$lane; $count]);
        )*
    };
}

vectors! {
    float32x4_t = [f32; 4];
    int32x4_t = [i32; 4];
    uint32x4_t = [u32; 4];
    int16x8_t = [i16; 8];
    int8x8_t = [i8; 8];
    int8x16_t = [i8; 16];
}

/// Defines intrinsics that do the same with each lane.
macro_rules! lanes {
    ($($name:ident($($argument:ident: $from:ident),*) -> $to:ident = $lane:expr;)*) => {
        $(
            #[inline(always)]
            pub(super) unsafe fn $name($($argument: $from),*) -> $to {
                $to(std::array::from_fn(|lane| {
                    $(let $argument = $argument.0[lane];)*
                    $lane
                }))
            }
        )*
    };
}

lanes! {
    vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = a + b;
    vsubq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = a - b;
    vmulq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = a * b;
    vdivq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = a / b;
    vsqrtq_f32(a: float32x4_t) -> float32x4_t = a.sqrt();
    vrndnq_f32(a: float32x4_t) -> float32x4_t = a.round_ties_even();
    vfmaq_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = b.mul_add(c, a);
    vmaxq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
    vcgtq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = if a > b { u32::MAX } else { 0 };
    vcltq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = if a < b { u32::MAX } else { 0 };
    vceqq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = if a == b { u32::MAX } else { 0 };
    vbslq_f32(a: uint32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t =
        f32::from_bits((a & b.to_bits()) | (!a & c.to_bits()));
    vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t = a.wrapping_add(b);
    vsubq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t = a.wrapping_sub(b);
    vmulq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t = a.wrapping_mul(b);
    vandq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = a & b;
    vorrq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = a | b;
    vcvtq_s32_f32(a: float32x4_t) -> int32x4_t = a as i32;
    vcvtq_f32_s32(a: int32x4_t) -> float32x4_t = a as f32;
    vreinterpretq_f32_s32(a: int32x4_t) -> float32x4_t = f32::from_bits(a as u32);
    vreinterpretq_f32_u32(a: uint32x4_t) -> float32x4_t = f32::from_bits(a);
    vreinterpretq_u32_f32(a: float32x4_t) -> uint32x4_t = a.to_bits();
    vreinterpretq_s32_u32(a: uint32x4_t) -> int32x4_t = a as i32;
}

#[inline(always)]
pub(super) unsafe fn vshlq_n_s32<const N: i32>(a: int32x4_t) -> int32x4_t {
    int32x4_t(a.0.map(|lane| lane << N))
}
#[inline(always)]
pub(super) unsafe fn vshrq_n_u32<const N: i32>(a: uint32x4_t) -> uint32x4_t {
    uint32x4_t(a.0.map(|lane| lane >> N))
}
#[inline(always)]
pub(super) unsafe fn vdupq_n_f32(value: f32) -> float32x4_t {
    float32x4_t([value; 4])
}
#[inline(always)]
pub(super) unsafe fn vdupq_n_s32(value: i32) -> int32x4_t {
    int32x4_t([value; 4])
}
#[inline(always)]
pub(super) unsafe fn vdupq_n_u32(value: u32) -> uint32x4_t {
    uint32x4_t([value; 4])
}
#[inline(always)]
pub(super) unsafe fn vld1q_f32(at: *const f32) -> float32x4_t {
    // SAFETY: the caller promises four lanes, at any address.
    float32x4_t(unsafe { at.cast::<[f32; 4]>().read_unaligned() })
}
#[inline(always)]
pub(super) unsafe fn vst1q_f32(at: *mut f32, a: float32x4_t) {
    // SAFETY: the caller promises four lanes, at any address.
    unsafe { at.cast::<[f32; 4]>().write_unaligned(a.0) }
}
#[inline(always)]
pub(super) unsafe fn vuzp1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    float32x4_t([a.0[0], a.0[2], b.0[0], b.0[2]])
}
#[inline(always)]
pub(super) unsafe fn vuzp2q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    float32x4_t([a.0[1], a.0[3], b.0[1], b.0[3]])
}
#[inline(always)]
pub(super) unsafe fn vaddvq_f32(a: float32x4_t) -> f32 {
    (a.0[0] + a.0[1]) + (a.0[2] + a.0[3])
}
#[inline(always)]
pub(super) unsafe fn vmaxvq_f32(a: float32x4_t) -> f32 {
    a.0.into_iter().fold(f32::NEG_INFINITY, |most, lane| if lane.is_nan() || lane > most { lane } else { most })
}
#[inline(always)]
pub(super) unsafe fn vld1q_s32(at: *const i32) -> int32x4_t {
    // SAFETY: the caller promises four lanes, at any address.
    int32x4_t(unsafe { at.cast::<[i32; 4]>().read_unaligned() })
}
#[inline(always)]
pub(super) unsafe fn vst1q_s32(at: *mut i32, a: int32x4_t) {
    // SAFETY: the caller promises four lanes, at any address.
    unsafe { at.cast::<[i32; 4]>().write_unaligned(a.0) }
}
#[inline(always)]
pub(super) unsafe fn vld1q_s8(at: *const i8) -> int8x16_t {
    // SAFETY: the caller promises sixteen lanes, at any address.
    int8x16_t(unsafe { at.cast::<[i8; 16]>().read_unaligned() })
}
#[inline(always)]
pub(super) unsafe fn vreinterpretq_s8_s32(a: int32x4_t) -> int8x16_t {
    int8x16_t(std::array::from_fn(|lane| a.0[lane / 4].to_ne_bytes()[lane % 4] as i8))
}
#[inline(always)]
pub(super) unsafe fn vget_low_s8(a: int8x16_t) -> int8x8_t {
    int8x8_t(std::array::from_fn(|lane| a.0[lane]))
}
#[inline(always)]
pub(super) unsafe fn vget_high_s8(a: int8x16_t) -> int8x8_t {
    int8x8_t(std::array::from_fn(|lane| a.0[lane + 8]))
}
#[inline(always)]
pub(super) unsafe fn vmull_s8(a: int8x8_t, b: int8x8_t) -> int16x8_t {
    int16x8_t(std::array::from_fn(|lane| i16::from(a.0[lane]) * i16::from(b.0[lane])))
}
#[inline(always)]
pub(super) unsafe fn vpaddlq_s16(a: int16x8_t) -> int32x4_t {
    int32x4_t(std::array::from_fn(|lane| i32::from(a.0[2 * lane]) + i32::from(a.0[2 * lane + 1])))
}
#[inline(always)]
pub(super) unsafe fn vpaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    let of = |v: int32x4_t, at: usize| v.0[2 * at].wrapping_add(v.0[2 * at + 1]);
    int32x4_t([of(a, 0), of(a, 1), of(b, 0), of(b, 1)])
}
/// The instruction that `dot::neon` writes as assembly.
#[inline(always)]
pub(super) unsafe fn sdot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let product = |at: usize| i32::from(a.0[at]) * i32::from(b.0[at]);
    int32x4_t(std::array::from_fn(|lane| (4 * lane..4 * lane + 4).map(product).fold(sum.0[lane], i32::wrapping_add)))
}
