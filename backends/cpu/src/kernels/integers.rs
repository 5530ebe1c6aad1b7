//! Element-wise operators on the usual integers and on booleans.

use hetero_hal::{DType, Element, Result};

use super::convert::{Cast, Pairs};
use super::elementwise::Broadcast;
use super::{Kernel, Site};

/// Integer arithmetic that wraps around.
/// A division by zero gives 0.
trait Integer: Element + Ord + std::ops::BitAnd<Output = Self> + std::ops::BitOr<Output = Self> {
    const ZERO: Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// Returns the remainder with the sign of the first operand.
    fn rest(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn not(self) -> Self;

    /// Returns the remainder with the sign of the second operand.
    fn modulo(self, other: Self) -> Self {
        let rest = self.rest(other);
        if rest != Self::ZERO && (rest < Self::ZERO) != (other < Self::ZERO) { rest.add(other) } else { rest }
    }

    fn neg(self) -> Self {
        Self::ZERO.sub(self)
    }

    fn abs(self) -> Self {
        if self < Self::ZERO { self.neg() } else { self }
    }
}

macro_rules! integer {
    ($($type:ty),*) => {
        $(
            impl Integer for $type {
                const ZERO: Self = 0;
                fn add(self, other: Self) -> Self {
                    self.wrapping_add(other)
                }
                fn sub(self, other: Self) -> Self {
                    self.wrapping_sub(other)
                }
                fn mul(self, other: Self) -> Self {
                    self.wrapping_mul(other)
                }
                fn div(self, other: Self) -> Self {
                    if other == 0 { 0 } else { self.wrapping_div(other) }
                }
                fn rest(self, other: Self) -> Self {
                    if other == 0 { 0 } else { self.wrapping_rem(other) }
                }
                fn xor(self, other: Self) -> Self {
                    self ^ other
                }
                fn not(self) -> Self {
                    !self
                }
            }
        )*
    };
}
integer!(i32, i64, u8);

/// Makes a function of one or two integers.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(output) = site.output(0).filter(|output| site.all(output.dtype)) else { return Ok(None) };
    match output.dtype {
        DType::I32 => of::<i32>(site),
        DType::I64 => of::<i64>(site),
        DType::U8 => of::<u8>(site),
        _ => Ok(None),
    }
}

/// Returns the operands of a function of two, as they repeat over the result.
fn operands(site: Site<'_>) -> Option<(Broadcast, Broadcast)> {
    let (a, b, output) = (site.shape(0)?, site.shape(1)?, site.output(0)?);
    (site.node.inputs.len() == 2).then(|| (Broadcast::new(a, &output.shape), Broadcast::new(b, &output.shape)))
}

fn of<T: Integer>(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    fn one<T: Integer>(function: impl Fn(T) -> T + Send + Sync + 'static) -> Result<Option<Box<dyn Kernel>>> {
        Ok(Some(Box::new(Cast::new(function))))
    }
    fn two<T: Integer>(
        site: Site<'_>,
        function: impl Fn(T, T) -> T + Send + Sync + 'static,
    ) -> Result<Option<Box<dyn Kernel>>> {
        Ok(operands(site).map(|(a, b)| Box::new(Pairs::new(function, a, b)) as Box<dyn Kernel>))
    }
    let with_sign_of_first = site.operator().int("fmod")?.unwrap_or(0) != 0;
    match &*site.operator().name {
        "Neg" => one(T::neg),
        "Abs" => one(T::abs),
        "Relu" => one(|x: T| x.max(T::ZERO)),
        "BitwiseNot" => one(T::not),
        "Add" | "Sum" => two(site, T::add),
        "Sub" => two(site, T::sub),
        "Mul" => two(site, T::mul),
        "Div" => two(site, T::div),
        "Mod" if with_sign_of_first => two(site, T::rest),
        "Mod" => two(site, T::modulo),
        "Max" => two(site, |x: T, y| x.max(y)),
        "Min" => two(site, |x: T, y| x.min(y)),
        "BitwiseAnd" => two(site, |x: T, y| x & y),
        "BitwiseOr" => two(site, |x: T, y| x | y),
        "BitwiseXor" => two(site, T::xor),
        _ => Ok(None),
    }
}

/// Makes functions of booleans, which are bytes where every byte but 0 is true.
pub(super) fn logic(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !site.all(DType::Bool) {
        return Ok(None);
    }
    let name = &*site.operator().name;
    if name == "Not" {
        return Ok(Some(Box::new(Cast::new(|x: u8| u8::from(x == 0)))));
    }
    let Some((a, b)) = operands(site) else { return Ok(None) };
    Ok(match name {
        "And" => Some(Box::new(Pairs::new(|x: u8, y: u8| u8::from(x != 0) & u8::from(y != 0), a, b))),
        "Or" => Some(Box::new(Pairs::new(|x: u8, y: u8| u8::from(x | y != 0), a, b))),
        "Xor" => Some(Box::new(Pairs::new(|x: u8, y: u8| u8::from((x != 0) != (y != 0)), a, b))),
        _ => None,
    })
}

/// Makes the test for f32 that are NaN, or infinite.
pub(super) fn kinds(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    if site.input(0).is_none_or(|input| input.dtype != DType::F32) {
        return Ok(None);
    }
    if operator.is("IsNaN") {
        return Ok(Some(Box::new(Cast::new(|x: f32| u8::from(x.is_nan())))));
    }
    let asked = |name: &str| Ok::<bool, hetero_hal::Error>(operator.int(name)?.unwrap_or(1) != 0);
    let (positive, negative) = (asked("detect_positive")?, asked("detect_negative")?);
    let test = move |x: f32| (positive && x == f32::INFINITY) || (negative && x == f32::NEG_INFINITY);
    Ok(Some(Box::new(Cast::new(move |x: f32| u8::from(test(x))))))
}
