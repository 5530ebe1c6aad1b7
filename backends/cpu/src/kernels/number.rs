//! Numbers of any type that is computed on one by one.

use hetero_hal::Element;

/// A number; integers wrap around.
pub(super) trait Number: Element + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Returns the larger one; NaN wins.
    fn larger(self, other: Self) -> Self;
    /// Returns the smaller one; NaN wins.
    fn smaller(self, other: Self) -> Self;
}

macro_rules! floats {
    ($($type:ty),*) => {
        $(
            impl Number for $type {
                const ZERO: Self = 0.0;
                const ONE: Self = 1.0;
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    self + other
                }
                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    self * other
                }
                #[inline(always)]
                fn larger(self, other: Self) -> Self {
                    if self.is_nan() || self > other { self } else { other }
                }
                #[inline(always)]
                fn smaller(self, other: Self) -> Self {
                    if self.is_nan() || self < other { self } else { other }
                }
            }
        )*
    };
}
floats!(f32, f64);

macro_rules! integers {
    ($($type:ty),*) => {
        $(
            impl Number for $type {
                const ZERO: Self = 0;
                const ONE: Self = 1;
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    self.wrapping_add(other)
                }
                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    self.wrapping_mul(other)
                }
                #[inline(always)]
                fn larger(self, other: Self) -> Self {
                    self.max(other)
                }
                #[inline(always)]
                fn smaller(self, other: Self) -> Self {
                    self.min(other)
                }
            }
        )*
    };
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

/// Makes something of a kernel that is generic over the types of numbers, or `None` for another
/// type.
macro_rules! of_number {
    ($dtype:expr, $function:ident($($argument:expr),*)) => {
        match $dtype {
            hetero_hal::DType::F32 => $function::<f32>($($argument),*),
            hetero_hal::DType::F64 => $function::<f64>($($argument),*),
            hetero_hal::DType::I8 => $function::<i8>($($argument),*),
            hetero_hal::DType::I16 => $function::<i16>($($argument),*),
            hetero_hal::DType::I32 => $function::<i32>($($argument),*),
            hetero_hal::DType::I64 => $function::<i64>($($argument),*),
            hetero_hal::DType::U8 => $function::<u8>($($argument),*),
            hetero_hal::DType::U16 => $function::<u16>($($argument),*),
            hetero_hal::DType::U32 => $function::<u32>($($argument),*),
            hetero_hal::DType::U64 => $function::<u64>($($argument),*),
            _ => None,
        }
    };
}
pub(super) use of_number;
