//! Element types: the set and the names of the ONNX standard.

use std::fmt;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

/// The element type of a tensor.
///
/// The set is the ONNX standard's (`TensorProto.DataType`), and [`DType::onnx_code`] gives a type's
/// number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// A binary32 of IEEE 754.
    F32,
    /// A binary16 of IEEE 754.
    F16,
    /// A bfloat16: the upper half of a binary32.
    BF16,
    /// A binary64 of IEEE 754.
    F64,
    /// An 8-bit signed integer.
    I8,
    /// A 16-bit signed integer.
    I16,
    /// A 32-bit signed integer.
    I32,
    /// A 64-bit signed integer.
    I64,
    /// An 8-bit unsigned integer.
    U8,
    /// A 16-bit unsigned integer.
    U16,
    /// A 32-bit unsigned integer.
    U32,
    /// A 64-bit unsigned integer.
    U64,
    /// A boolean of one byte, 0 or 1.
    Bool,
    /// A UTF-8 text, kept as a shared string and not as bytes.
    String,
    /// A complex number: a pair of binary32.
    C64,
    /// A complex number: a pair of binary64.
    C128,
    /// An 8-bit float with 4 exponent bits, finite and NaN only.
    F8E4M3FN,
    /// A [`DType::F8E4M3FN`] without a negative zero.
    F8E4M3FNUZ,
    /// An 8-bit float with 5 exponent bits and infinities.
    F8E5M2,
    /// A [`DType::F8E5M2`] that is finite or NaN only, without a negative zero.
    F8E5M2FNUZ,
    /// An 8-bit power-of-two scale of the microscaling formats.
    F8E8M0,
    /// A 4-bit unsigned integer, two in a byte, low half first.
    U4,
    /// A 4-bit signed integer, two in a byte, low half first.
    I4,
    /// A 4-bit float, two in a byte, low half first.
    F4E2M1,
    /// A 2-bit unsigned integer, four in a byte, low bits first.
    U2,
    /// A 2-bit signed integer, four in a byte, low bits first.
    I2,
    /// What a sequence holds: whole tensors, kept as such and not as bytes.
    /// It is no element type of the standard, so [`DType::all`] leaves it out.
    Sequence,
    /// What an optional holds: one whole tensor or sequence, or none.
    /// It is no element type of the standard, so [`DType::all`] leaves it out.
    Optional,
}

/// Every type with its number in the standard, its name there and its bits per element.
const TABLE: &[(DType, i32, &str, usize)] = &[
    (DType::F32, 1, "float32", 32),
    (DType::U8, 2, "uint8", 8),
    (DType::I8, 3, "int8", 8),
    (DType::U16, 4, "uint16", 16),
    (DType::I16, 5, "int16", 16),
    (DType::I32, 6, "int32", 32),
    (DType::I64, 7, "int64", 64),
    (DType::String, 8, "string", 0),
    (DType::Bool, 9, "bool", 8),
    (DType::F16, 10, "float16", 16),
    (DType::F64, 11, "float64", 64),
    (DType::U32, 12, "uint32", 32),
    (DType::U64, 13, "uint64", 64),
    (DType::C64, 14, "complex64", 64),
    (DType::C128, 15, "complex128", 128),
    (DType::BF16, 16, "bfloat16", 16),
    (DType::F8E4M3FN, 17, "float8e4m3fn", 8),
    (DType::F8E4M3FNUZ, 18, "float8e4m3fnuz", 8),
    (DType::F8E5M2, 19, "float8e5m2", 8),
    (DType::F8E5M2FNUZ, 20, "float8e5m2fnuz", 8),
    (DType::U4, 21, "uint4", 4),
    (DType::I4, 22, "int4", 4),
    (DType::F4E2M1, 23, "float4e2m1", 4),
    (DType::F8E8M0, 24, "float8e8m0", 8),
    (DType::U2, 25, "uint2", 2),
    (DType::I2, 26, "int2", 2),
];

impl DType {
    /// Returns every element type of the standard.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> (i32, &'static str, usize) {
        match self {
            DType::Sequence => (0, "sequence", 0),
            DType::Optional => (0, "optional", 0),
            _ => TABLE.iter().find(|row| row.0 == self).map_or((0, "undefined", 0), |row| (row.1, row.2, row.3)),
        }
    }

    /// Returns the number of this type in ONNX's `TensorProto.DataType`; 0 for what is no element
    /// type there.
    #[must_use]
    pub fn onnx_code(self) -> i32 {
        self.row().0
    }

    /// Returns the type with this number in ONNX's `TensorProto.DataType`.
    #[must_use]
    pub fn from_onnx_code(code: i32) -> Option<DType> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// Returns the type's name, as ONNX and NumPy write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Returns the bits per element; 0 for strings and for whole tensors, whose sizes depend on
    /// their content.
    #[must_use]
    pub fn bits(self) -> usize {
        self.row().2
    }

    /// Returns the bytes that `elements` elements take, packed; `None` where that overflows
    /// `usize`.
    #[must_use]
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let bits = self.bits();
        if bits >= 8 { elements.checked_mul(bits / 8) } else { Some(elements.checked_mul(bits)?.div_ceil(8)) }
    }

    /// Tells whether the elements are whole tensors, as those of sequences and optionals are.
    #[must_use]
    pub fn is_parts(self) -> bool {
        matches!(self, DType::Sequence | DType::Optional)
    }

    /// Tells whether this is a real floating-point type, of any width.
    #[must_use]
    pub fn is_float(self) -> bool {
        use DType::{BF16, F4E2M1, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, F16, F32, F64};
        matches!(self, F32 | F16 | BF16 | F64 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1)
    }

    /// Tells whether this is an integer type, of any width and sign.
    #[must_use]
    pub fn is_integer(self) -> bool {
        use DType::{I2, I4, I8, I16, I32, I64, U2, U4, U8, U16, U32, U64};
        matches!(self, I2 | I4 | I8 | I16 | I32 | I64 | U2 | U4 | U8 | U16 | U32 | U64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that a tensor's bytes can be viewed as.
pub trait Element: Pod + Send + Sync {
    /// The element type that this Rust type stands for.
    const DTYPE: DType;
}

/// A boolean as tensors store it: one byte, where 0 is false and everything else is true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Bool(u8);

impl Bool {
    /// Returns the value as Rust's own boolean.
    #[must_use]
    pub fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Bool(u8::from(value))
    }
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })*
    };
}
elements! {
    f32 => F32, f16 => F16, bf16 => BF16, f64 => F64,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    Bool => Bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_each_type_once() {
        let mut codes: Vec<i32> = DType::all().map(DType::onnx_code).collect();
        codes.sort_unstable();
        assert_eq!(codes, (1..=26).collect::<Vec<_>>());
        for dtype in DType::all() {
            assert_eq!(DType::from_onnx_code(dtype.onnx_code()), Some(dtype));
        }
        assert_eq!(DType::from_onnx_code(0), None);
        for (dtype, name) in [(DType::Sequence, "sequence"), (DType::Optional, "optional")] {
            assert_eq!((dtype.name(), dtype.bits(), dtype.onnx_code()), (name, 0, 0));
            assert!(dtype.is_parts() && DType::all().all(|other| other != dtype));
        }
    }

    #[test]
    fn packed_sizes_round_up_and_overflow_is_seen() {
        assert_eq!(DType::I4.bytes_for(3), Some(2));
        assert_eq!(DType::U2.bytes_for(5), Some(2));
        assert_eq!(DType::C128.bytes_for(2), Some(32));
        assert_eq!(DType::F32.bytes_for(usize::MAX / 2), None);
    }
}
