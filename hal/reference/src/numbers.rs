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
            DType::F16 => Tensor::from_vec(shape, self.floats().into_iter().map(f16::from_f64).collect()),
            DType::BF16 => Tensor::from_vec(shape, self.floats().into_iter().map(bf16::from_f64).collect()),
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

    /// Returns the numbers as floats.
    pub(crate) fn floats(self) -> Vec<f64> {
        match self {
            Numbers::Floats(values) => values,
            Numbers::Ints(values) => values.into_iter().map(|v| v as f64).collect(),
        }
    }
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
