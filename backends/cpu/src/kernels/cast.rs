//! Conversions between all element types of whole bytes.
//!
//! Floats become integers towards zero and saturate, and integers keep their low bits.
//! A number that becomes a shorter float is rounded once: on the way it is rounded to odd, so that
//! a second rounding gives what one would have given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_hal::{Attribute, DType, Element, Operator, Result, Tensor};

use super::convert::Map;
use super::{Kernel, Site, halves};
use crate::simd::{Half, odd};

/// Makes a Cast or a CastLike.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    let (from, to) = (input.dtype, output.dtype);
    if site.node.outputs.len() != 1 || input.shape != output.shape {
        return Ok(None);
    }
    if from == to {
        return Ok(Some(Box::new(super::movement::Copy)));
    }
    match (Half::of(from), Half::of(to)) {
        (Some(half), None) if to == DType::F32 => {
            return Ok(Some(Box::new(halves::Widen { isa: site.isa, half })));
        }
        (None, Some(half)) if from == DType::F32 => {
            return Ok(Some(Box::new(halves::Narrow { isa: site.isa, half })));
        }
        _ => {}
    }
    Ok(match from {
        DType::F32 => of(site, to, |x: f32| x)?,
        DType::F64 => of(site, to, |x: f64| x)?,
        DType::F16 => of(site, to, |x: u16| Half::F16.wide(x))?,
        DType::BF16 => of(site, to, |x: u16| Half::BF16.wide(x))?,
        DType::I8 => of(site, to, |x: i8| x)?,
        DType::I16 => of(site, to, |x: i16| x)?,
        DType::I32 => of(site, to, |x: i32| x)?,
        DType::I64 => of(site, to, |x: i64| x)?,
        DType::U8 => of(site, to, |x: u8| x)?,
        DType::U16 => of(site, to, |x: u16| x)?,
        DType::U32 => of(site, to, |x: u32| x)?,
        DType::U64 => of(site, to, |x: u64| x)?,
        // Every byte but 0 is true, and true is 1.
        DType::Bool => of(site, to, |x: u8| u8::from(x != 0))?,
        from if is_byte_float(from) => {
            let table = decoded(from)?;
            of(site, to, move |x: u8| table[usize::from(x)])?
        }
        _ => None,
    })
}

fn is_byte_float(dtype: DType) -> bool {
    dtype.is_float() && dtype.bits() == 8
}

/// A number on its way to another type.
trait Source: Copy {
    fn is_zero(self) -> bool;
    fn f32(self) -> f32;
    fn f64(self) -> f64;
    fn i8(self) -> i8;
    fn i16(self) -> i16;
    fn i32(self) -> i32;
    fn i64(self) -> i64;
    fn u8(self) -> u8;
    fn u16(self) -> u16;
    fn u32(self) -> u32;
    fn u64(self) -> u64;
    /// Returns the number in f32; where it is none, the neighbour whose last bit is set.
    fn odd(self) -> f32;
}

macro_rules! sources {
    ($($type:ident: $odd:expr;)*) => {
        $(
            impl Source for $type {
                #[inline(always)]
                fn is_zero(self) -> bool {
                    self == 0 as $type
                }
                sources!(@as $type f32 f64 i8 i16 i32 i64 u8 u16 u32 u64);
                #[inline(always)]
                fn odd(self) -> f32 {
                    let odd: fn($type) -> f32 = $odd;
                    odd(self)
                }
            }
        )*
    };
    (@as $type:ident $($to:ident)*) => {
        $(
            #[inline(always)]
            fn $to(self) -> $to {
                self as $to
            }
        )*
    };
}
sources! {
    f32: |x| x;
    f64: odd;
    i8: f32::from;
    i16: f32::from;
    u8: f32::from;
    u16: f32::from;
    i32: |x| odd(f64::from(x));
    u32: |x| odd(f64::from(x));
    i64: |x| odd(odd_f64(x.unsigned_abs()).copysign(if x < 0 { -1.0 } else { 1.0 }));
    u64: |x| odd(odd_f64(x));
}

/// Returns a whole number as a float; where it is none, the neighbour whose last bit is set.
#[inline(always)]
fn odd_f64(x: u64) -> f64 {
    // The bits that a float has no room for, as one.
    let lost = 11u32.saturating_sub(x.leading_zeros());
    let rest = x & ((1 << lost) - 1);
    let cut = x - rest;
    (cut | (u64::from(rest != 0) << lost)) as f64
}

/// Makes the conversion of the numbers that `number` makes of the elements.
fn of<T: Element, N: Source>(
    site: Site<'_>,
    to: DType,
    number: impl Fn(T) -> N + Send + Sync + 'static,
) -> Result<Option<Box<dyn Kernel>>> {
    fn map<T: Element, B: Element>(function: impl Fn(T) -> B + Send + Sync + 'static) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Map::new(function)))
    }
    Ok(match to {
        DType::F32 => map(move |x: T| number(x).f32()),
        DType::F64 => map(move |x: T| number(x).f64()),
        DType::F16 => map(move |x: T| Half::F16.narrow(number(x).odd())),
        DType::BF16 => map(move |x: T| Half::BF16.narrow(number(x).odd())),
        DType::I8 => map(move |x: T| number(x).i8()),
        DType::I16 => map(move |x: T| number(x).i16()),
        DType::I32 => map(move |x: T| number(x).i32()),
        DType::I64 => map(move |x: T| number(x).i64()),
        DType::U8 => map(move |x: T| number(x).u8()),
        DType::U16 => map(move |x: T| number(x).u16()),
        DType::U32 => map(move |x: T| number(x).u32()),
        DType::U64 => map(move |x: T| number(x).u64()),
        DType::Bool => map(move |x: T| u8::from(!number(x).is_zero())),
        to if is_byte_float(to) => {
            let table = encoded(site.operator(), to)?;
            map(move |x: T| table[usize::from(odd_bf16(number(x).odd()))])
        }
        _ => None,
    })
}

/// Returns the first 16 bits of a number, the last of which is set where more follow.
#[inline(always)]
fn odd_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits >> 16) as u16 | u16::from(bits & 0xffff != 0)
}

fn cast(tensor: Tensor, operator: &Operator) -> Result<Tensor> {
    hetero_reference::evaluate(operator, &[Some(tensor)], 1)?
        .pop()
        .ok_or_else(|| hetero_hal::Error::internal("a cast has no result"))
}

/// Returns the number of each of the codes of a float of 8 bits.
fn decoded(from: DType) -> Result<Arc<[f32; 256]>> {
    let codes: Vec<u8> = (0..=u8::MAX).collect();
    let codes = Tensor::from_bytes(from, &[256], codes.into())?;
    let to = Operator::new("Cast", 25).with("to", Attribute::Int(i64::from(DType::F32.onnx_code())));
    let numbers = cast(codes, &to)?;
    let mut table = [0.0; 256];
    table.copy_from_slice(&numbers.view::<f32>()?);
    Ok(Arc::new(table))
}

type Table = Arc<[u8]>;
type Tables = HashMap<(DType, bool, String), Table>;

/// Returns the code, in a float of 8 bits, of each number of 16 bits.
/// A number of more bits has the code of its first 16, of which the last says whether more follow:
/// no bound between codes has that many.
fn encoded(operator: &Operator, to: DType) -> Result<Table> {
    /// The tables that were made, by type, saturation and rounding.
    static MADE: Mutex<Option<Tables>> = Mutex::new(None);
    let saturates = operator.int("saturate")?.unwrap_or(1) != 0;
    let rounding = operator.text("round_mode")?.unwrap_or("up").to_owned();
    let key = (to, saturates, rounding.clone());
    let find = || MADE.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(&key).cloned();
    if let Some(table) = find() {
        return Ok(table);
    }
    let codes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
    let codes = Tensor::from_bytes(DType::BF16, &[1 << 16], codes.into())?;
    let to = Operator::new("Cast", 25)
        .with("to", Attribute::Int(i64::from(to.onnx_code())))
        .with("saturate", Attribute::Int(i64::from(saturates)))
        .with("round_mode", Attribute::String(rounding.as_bytes().into()));
    let table: Table = cast(codes, &to)?.bytes().to_vec().into();
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.get_or_insert_with(HashMap::new).insert(key, table.clone());
    Ok(table)
}
