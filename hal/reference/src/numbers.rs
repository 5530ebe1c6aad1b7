//! Numbers wide enough for every element type: tensors in, tensors out, and one rounding at the
//! end.

use half::{bf16, f16};
use hetero_hal::{Bool, DType, Error, Result, Tensor, spend, take};

use crate::small::{self, RoundScale};

/// The elements of a tensor, widened without loss.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Numbers {
    /// The elements of a floating-point type.
    Floats(Vec<f64>),
    /// The elements of an integer type, or booleans as 0 and 1.
    Ints(Vec<i128>),
}

macro_rules! widen {
    ($tensor:expr, $variant:ident, $rust:ty, $convert:expr) => {
        Numbers::$variant($tensor.view::<$rust>()?.iter().map($convert).collect())
    };
}

impl Numbers {
    /// Widens the elements of a tensor.
    ///
    /// # Errors
    /// `OutOfMemory` where the wide elements do not fit the evaluation's allowance.
    pub(crate) fn of(tensor: &Tensor) -> Result<Numbers> {
        // Whole numbers are 16 bytes wide, and become floats of 8 bytes at times.
        take(tensor.len(), 24)?;
        spend(tensor.len())?;
        Ok(match tensor.dtype() {
            DType::F32 => widen!(tensor, Floats, f32, |&v| f64::from(v)),
            DType::F64 => widen!(tensor, Floats, f64, |&v| v),
            DType::F16 => widen!(tensor, Floats, f16, |&v| v.to_f64()),
            DType::BF16 => widen!(tensor, Floats, bf16, |&v| v.to_f64()),
            DType::I8 => widen!(tensor, Ints, i8, |&v| i128::from(v)),
            DType::I16 => widen!(tensor, Ints, i16, |&v| i128::from(v)),
            DType::I32 => widen!(tensor, Ints, i32, |&v| i128::from(v)),
            DType::I64 => widen!(tensor, Ints, i64, |&v| i128::from(v)),
            DType::U8 => widen!(tensor, Ints, u8, |&v| i128::from(v)),
            DType::U16 => widen!(tensor, Ints, u16, |&v| i128::from(v)),
            DType::U32 => widen!(tensor, Ints, u32, |&v| i128::from(v)),
            DType::U64 => widen!(tensor, Ints, u64, |&v| i128::from(v)),
            DType::Bool => widen!(tensor, Ints, Bool, |&v| i128::from(v.get())),
            DType::U4 | DType::U2 => Numbers::Ints(codes(tensor).map(i128::from).collect()),
            DType::I4 => Numbers::Ints(codes(tensor).map(|code| i128::from((code << 4) as i8 >> 4)).collect()),
            DType::I2 => Numbers::Ints(codes(tensor).map(|code| i128::from((code << 6) as i8 >> 6)).collect()),
            other => match small::decode(tensor) {
                Some(values) => Numbers::Floats(values),
                None => return Err(Error::unsupported(format!("arithmetic on {other}"))),
            },
        })
    }

    /// Rounds floats to nearest even, wraps integers around, and packs them as `dtype`.
    /// Floats become integers as `as` casts them: towards zero, and saturating.
    pub(crate) fn into_tensor(self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let count = match &self {
            Numbers::Floats(values) => values.len(),
            Numbers::Ints(values) => values.len(),
        };
        // Some types are made by way of wider ones.
        take(count, 16)?;
        spend(count)?;
        macro_rules! narrow {
            ($rust:ty) => {
                match self {
                    Numbers::Ints(values) => {
                        Tensor::from_vec(shape, values.into_iter().map(|v| v as $rust).collect::<Vec<_>>())
                    }
                    Numbers::Floats(values) => {
                        Tensor::from_vec(shape, values.into_iter().map(|v| v as $rust).collect::<Vec<_>>())
                    }
                }
            };
        }
        match dtype {
            DType::F32 => narrow!(f32),
            DType::F64 => narrow!(f64),
            DType::I8 => narrow!(i8),
            DType::I16 => narrow!(i16),
            DType::I32 => narrow!(i32),
            DType::I64 => narrow!(i64),
            DType::U8 => narrow!(u8),
            DType::U16 => narrow!(u16),
            DType::U32 => narrow!(u32),
            DType::U64 => narrow!(u64),
            DType::F16 => Tensor::from_vec(shape, self.odd().map(f16::from_f32).collect()),
            DType::BF16 => Tensor::from_vec(shape, self.odd().map(bf16::from_f32).collect()),
            DType::Bool => {
                let flags: Vec<Bool> = match self {
                    Numbers::Ints(values) => values.into_iter().map(|v| Bool::from(v != 0)).collect(),
                    Numbers::Floats(values) => values.into_iter().map(|v| Bool::from(v != 0.0)).collect(),
                };
                Tensor::from_vec(shape, flags)
            }
            DType::U4 | DType::I4 | DType::U2 | DType::I2 => {
                // Integers of four and two bits wrap around also where they come from floats, as
                // converters have it.
                let codes: Vec<u8> = match self {
                    Numbers::Ints(values) => values.into_iter().map(|v| v as u8).collect(),
                    Numbers::Floats(values) => values.into_iter().map(|v| v as i128 as u8).collect(),
                };
                Tensor::from_bytes(dtype, shape, small::pack(&codes, dtype.bits()).into())
            }
            other => small::encode(&self.floats(), other, shape, true, RoundScale::Up),
        }
    }

    /// Returns the numbers as `f32`, rounded to odd, so that rounding them again to half as many
    /// bits gives what rounding once would have given.
    fn odd(self) -> impl Iterator<Item = f32> {
        let (floats, ints) = match self {
            Numbers::Floats(values) => (values, vec![]),
            Numbers::Ints(values) => (vec![], values),
        };
        floats.into_iter().chain(ints.into_iter().map(odd_f64)).map(odd_f32)
    }

    /// Returns the numbers as floats.
    pub(crate) fn floats(self) -> Vec<f64> {
        match self {
            Numbers::Floats(values) => values,
            Numbers::Ints(values) => values.into_iter().map(|v| v as f64).collect(),
        }
    }
}

/// Returns an integer as a float; where it is none, the neighbour whose last bit is set.
fn odd_f64(value: i128) -> f64 {
    let nearest = value as f64;
    if nearest as i128 == value {
        return nearest;
    }
    let beyond = (nearest as i128).unsigned_abs() > value.unsigned_abs();
    f64::from_bits((nearest.to_bits() - u64::from(beyond)) | 1)
}

/// Returns a number as `f32`; where it is none, the neighbour whose last bit is set.
fn odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    let wide = f64::from(nearest);
    if wide == value || value.is_nan() {
        return nearest;
    }
    f32::from_bits((nearest.to_bits() - u32::from(wide.abs() > value.abs())) | 1)
}

/// Returns the larger number; NaN wins, as in NumPy.
pub(crate) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Returns the smaller number; NaN wins, as in NumPy.
pub(crate) fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

fn codes(tensor: &Tensor) -> impl Iterator<Item = u8> {
    small::unpack(tensor.bytes(), tensor.dtype().bits(), tensor.len()).into_iter()
}

/// Returns the least and the greatest number of an integer type, or of booleans.
pub(crate) fn limits(dtype: DType) -> (i128, i128) {
    let bits = dtype.bits() as u32;
    match dtype {
        DType::Bool => (0, 1),
        DType::U2 | DType::U4 | DType::U8 | DType::U16 | DType::U32 | DType::U64 => (0, (1i128 << bits) - 1),
        _ => (-(1i128 << (bits.max(1) - 1)), (1i128 << (bits.max(1) - 1)) - 1),
    }
}

/// Returns the elements of a tensor as floats.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Numbers::of(tensor)?.floats())
}

/// Packs floats as `dtype`.
pub(crate) fn pack(values: Vec<f64>, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    Numbers::Floats(values).into_tensor(dtype, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_once() {
        // Just beyond the middle between two neighbours, by less than f32 sees.
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let y = pack(vec![above, -above, above - 2f64.powi(-39), 1e-300], DType::F16, &[4]).unwrap();
        assert_eq!(
            y.view::<f16>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            [0x3c01, 0xbc01, 0x3c00, 0]
        );
        let above = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        let y = pack(vec![above, f64::MAX, f64::from(f32::MAX), f64::NAN], DType::BF16, &[4]).unwrap();
        assert_eq!(y.view::<bf16>().unwrap()[0].to_bits(), 0x3f81);
        assert!(y.view::<bf16>().unwrap()[1..3].iter().all(|v| *v == bf16::INFINITY));
        assert!(y.view::<bf16>().unwrap()[3].is_nan());
        let y = Numbers::Ints(vec![(1 << 60) + (1 << 52) + 1, 7]).into_tensor(DType::BF16, &[2]).unwrap();
        assert_eq!(
            y.view::<bf16>().unwrap().iter().map(|v| v.to_f64()).collect::<Vec<_>>(),
            [1.0078125 * 2f64.powi(60), 7.0]
        );
    }

    #[test]
    fn integers_wrap_and_floats_round() {
        let wrapped = Numbers::Ints(vec![300, -1]).into_tensor(DType::U8, &[2]).unwrap();
        assert_eq!(&*wrapped.view::<u8>().unwrap(), [44, 255]);
        let rounded = pack(vec![1.0 + 1e-9, 70000.0], DType::F16, &[2]).unwrap();
        assert_eq!(rounded.view::<f16>().unwrap()[0], f16::from_f32(1.0));
        assert!(rounded.view::<f16>().unwrap()[1].is_infinite());
        let flags = Numbers::Floats(vec![0.0, 0.5]).into_tensor(DType::Bool, &[2]).unwrap();
        assert_eq!(Numbers::of(&flags).unwrap(), Numbers::Ints(vec![0, 1]));
    }
}
