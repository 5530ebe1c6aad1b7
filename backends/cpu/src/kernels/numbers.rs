//! Element-wise operators on integers, booleans and f64: a function for all types of a family.

use std::marker::PhantomData;

use hetero_hal::{DType, Element, Error, Result};

use super::convert::{Map, Pairs};
use super::elementwise::{Broadcast, spread};
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::Half;

/// Arithmetic as the standard has it: of integers it wraps around, and a division by zero gives 0;
/// of floats NaN wins.
pub(super) trait Number: Element + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// The number below all others, and the one above.
    const LEAST: Self;
    const MOST: Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// Returns the remainder with the sign of the first operand.
    fn rest(self, other: Self) -> Self;
    /// Returns the remainder with the sign of the second operand.
    fn modulo(self, other: Self) -> Self;
    /// Returns this number to a power of its own type.
    fn power(self, exponent: Self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    fn is_nan(self) -> bool {
        false
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }

    #[inline(always)]
    fn relu(self) -> Self {
        if self < Self::ZERO { Self::ZERO } else { self }
    }

    #[inline(always)]
    fn leaky(self, slope: Self) -> Self {
        if self < Self::ZERO { slope.mul(self) } else { self }
    }
}

/// Integers, with their bits.
pub(super) trait Integer: Number + Eq {
    fn and(self, other: Self) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn not(self) -> Self;
    fn left(self, count: Self) -> Self;
    fn right(self, count: Self) -> Self;
    /// Returns this number to a power, which wraps around; the integer part where the exponent is
    /// negative.
    fn raise(self, negative: bool, exponent: u64) -> Self;
}

macro_rules! integers {
    ($($type:ident),*) => {
        $(
            impl Number for $type {
                const ZERO: Self = 0;
                const ONE: Self = 1;
                const LEAST: Self = $type::MIN;
                const MOST: Self = $type::MAX;
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    self.wrapping_add(other)
                }
                #[inline(always)]
                fn sub(self, other: Self) -> Self {
                    self.wrapping_sub(other)
                }
                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    self.wrapping_mul(other)
                }
                #[inline(always)]
                fn div(self, other: Self) -> Self {
                    if other == 0 { 0 } else { self.wrapping_div(other) }
                }
                #[inline(always)]
                fn rest(self, other: Self) -> Self {
                    if other == 0 { 0 } else { self.wrapping_rem(other) }
                }
                #[inline(always)]
                fn modulo(self, other: Self) -> Self {
                    let rest = self.rest(other);
                    let differs = (rest < Self::ZERO) != (other < Self::ZERO);
                    if rest != 0 && differs { rest.wrapping_add(other) } else { rest }
                }
                #[inline(always)]
                fn power(self, exponent: Self) -> Self {
                    // The bits of a negative exponent, extended, keep whether it is odd.
                    self.raise(exponent < Self::ZERO, exponent as u64)
                }
                #[inline(always)]
                fn abs(self) -> Self {
                    if self < Self::ZERO { self.wrapping_neg() } else { self }
                }
                #[inline(always)]
                fn sign(self) -> Self {
                    $type::from(self > Self::ZERO).wrapping_sub($type::from(self < Self::ZERO))
                }
            }

            impl Integer for $type {
                #[inline(always)]
                fn and(self, other: Self) -> Self {
                    self & other
                }
                #[inline(always)]
                fn or(self, other: Self) -> Self {
                    self | other
                }
                #[inline(always)]
                fn xor(self, other: Self) -> Self {
                    self ^ other
                }
                #[inline(always)]
                fn not(self) -> Self {
                    !self
                }
                #[inline(always)]
                fn left(self, count: Self) -> Self {
                    let count = if count < Self::ZERO { 0 } else { count };
                    if (count as u64) < u64::from($type::BITS) { self.wrapping_shl(count as u32) } else { 0 }
                }
                #[inline(always)]
                fn right(self, count: Self) -> Self {
                    let count = if count < Self::ZERO { 0 } else { count };
                    if (count as u64) < u64::from($type::BITS) { self.wrapping_shr(count as u32) } else { 0 }
                }
                fn raise(self, negative: bool, mut exponent: u64) -> Self {
                    if negative {
                        let is_one = self == 1 || (self.wrapping_add(1) == 0 && $type::MIN != 0 && exponent & 1 == 0);
                        let minus = self.wrapping_add(1) == 0 && $type::MIN != 0 && exponent & 1 == 1;
                        return if is_one { 1 } else if minus { self } else { 0 };
                    }
                    let (mut base, mut power) = (self, 1 as $type);
                    while exponent > 0 {
                        if exponent & 1 == 1 {
                            power = power.wrapping_mul(base);
                        }
                        base = base.wrapping_mul(base);
                        exponent >>= 1;
                    }
                    power
                }
            }
        )*
    };
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! floats {
    ($($type:ident),*) => {
        $(
            impl Number for $type {
                const ZERO: Self = 0.0;
                const ONE: Self = 1.0;
                const LEAST: Self = $type::NEG_INFINITY;
                const MOST: Self = $type::INFINITY;
                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    self + other
                }
                #[inline(always)]
                fn sub(self, other: Self) -> Self {
                    self - other
                }
                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    self * other
                }
                #[inline(always)]
                fn div(self, other: Self) -> Self {
                    self / other
                }
                #[inline(always)]
                fn rest(self, other: Self) -> Self {
                    self % other
                }
                #[inline(always)]
                fn modulo(self, other: Self) -> Self {
                    let (a, b) = (f64::from(self), f64::from(other));
                    (a - b * (a / b).floor()) as $type
                }
                #[inline(always)]
                fn power(self, exponent: Self) -> Self {
                    self.powf(exponent)
                }
                #[inline(always)]
                fn abs(self) -> Self {
                    $type::abs(self)
                }
                #[inline(always)]
                fn sign(self) -> Self {
                    if self == 0.0 || self.is_nan() { self } else { self.signum() }
                }
                #[inline(always)]
                fn is_nan(self) -> bool {
                    $type::is_nan(self)
                }
            }
        )*
    };
}
floats!(f32, f64);

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

type Made = Result<Option<Box<dyn Kernel>>>;

/// Makes a function of integers or of f64.
pub(super) fn compile(site: Site<'_>) -> Made {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    if site.operator().is("Pow") && !site.all(output.dtype) {
        return if input.dtype == output.dtype { mixed_power(site) } else { Ok(None) };
    }
    if !site.all(output.dtype) {
        return Ok(None);
    }
    match output.dtype {
        DType::F64 => doubles(site),
        DType::I8 => integers::<i8, u8>(site),
        DType::I16 => integers::<i16, u16>(site),
        DType::I32 => integers::<i32, u32>(site),
        DType::I64 => integers::<i64, u64>(site),
        DType::U8 => integers::<u8, u8>(site),
        DType::U16 => integers::<u16, u16>(site),
        DType::U32 => integers::<u32, u32>(site),
        DType::U64 => integers::<u64, u64>(site),
        _ => Ok(None),
    }
}

/// Returns the operands of a function of two, as they repeat over the result.
fn operands(site: Site<'_>) -> Option<(Broadcast, Broadcast)> {
    let (a, b, output) = (site.shape(0)?, site.shape(1)?, site.output(0)?);
    (site.node.inputs.len() == 2).then(|| (Broadcast::new(a, &output.shape), Broadcast::new(b, &output.shape)))
}

fn one<T: Element>(function: impl Fn(T) -> T + Send + Sync + 'static) -> Made {
    Ok(Some(Box::new(Map::new(function))))
}

fn two<T: Element>(site: Site<'_>, function: impl Fn(T, T) -> T + Send + Sync + 'static) -> Made {
    Ok(operands(site).map(|(a, b)| Box::new(Pairs::new(function, a, b)) as Box<dyn Kernel>))
}

/// Makes a function of integers `T`, by way of the unsigned integers `U` of the same width where
/// the sign of a number makes no difference.
fn integers<T: Integer, U: Integer>(site: Site<'_>) -> Made {
    match &*site.operator().name {
        "Neg" => one(|x: U| U::ZERO.sub(x)),
        "BitwiseNot" => one(U::not),
        "Add" => two(site, U::add),
        "Sub" => two(site, U::sub),
        "Mul" => two(site, U::mul),
        "BitwiseAnd" => two(site, U::and),
        "BitwiseOr" => two(site, U::or),
        "BitwiseXor" => two(site, U::xor),
        "Sum" => fold(site, U::add, |x| x),
        "BitShift" if site.operator().text("direction")? == Some("LEFT") => two(site, T::left),
        "BitShift" => two(site, T::right),
        _ => numbers::<T>(site),
    }
}

/// Makes a function that integers and floats have.
fn numbers<T: Number>(site: Site<'_>) -> Made {
    let with_sign_of_first = site.operator().int("fmod")?.unwrap_or(0) != 0;
    match &*site.operator().name {
        "Abs" => one(T::abs),
        "Sign" => one(T::sign),
        "Relu" => one(T::relu),
        "Div" => two(site, T::div),
        "Mod" if with_sign_of_first => two(site, T::rest),
        "Mod" => two(site, T::modulo),
        "Pow" => two(site, T::power),
        "PRelu" => two(site, T::leaky),
        "Max" => fold(site, T::larger, |x| x),
        "Min" => fold(site, T::smaller, |x| x),
        "Clip" => clip::<T>(site),
        _ => Ok(None),
    }
}

/// Makes a function of f64.
fn doubles(site: Site<'_>) -> Made {
    let operator = site.operator();
    match &*operator.name {
        "Neg" => one(|x: f64| -x),
        "Add" => two(site, f64::add),
        "Sub" => two(site, f64::sub),
        "Mul" => two(site, f64::mul),
        "Sum" => fold(site, f64::add, |x| x),
        "Mean" => mean(site),
        "Sqrt" => one(f64::sqrt),
        "Reciprocal" => one(f64::recip),
        "Floor" => one(f64::floor),
        "Ceil" => one(f64::ceil),
        "Round" => one(f64::round_ties_even),
        "Exp" => one(f64::exp),
        "Log" => one(f64::ln),
        "Tanh" => one(f64::tanh),
        "Sigmoid" => one(|x: f64| 1.0 / (1.0 + (-x).exp())),
        _ => match numbers::<f64>(site)? {
            Some(kernel) => Ok(Some(kernel)),
            // For the others the definition is the function.
            None => match hetero_reference::unary_function(operator)? {
                Some(function) => one(function),
                None => Ok(None),
            },
        },
    }
}

/// Makes the functions of f32 that have no vectors of their own.
pub(super) fn singles(site: Site<'_>) -> Made {
    let operator = site.operator();
    match &*operator.name {
        "Mean" => {
            let share = site.node.inputs.len() as f32;
            fold(site, f32::add, move |x| x / share)
        }
        "Sum" => fold(site, f32::add, |x| x),
        "Max" => fold(site, f32::larger, |x| x),
        "Min" => fold(site, f32::smaller, |x| x),
        "Mod" => two(site, f32::modulo),
        "Clip" => clip::<f32>(site),
        _ => match hetero_reference::unary_function(operator)? {
            Some(function) => one(move |x: f32| function(f64::from(x)) as f32),
            None => Ok(None),
        },
    }
}

fn mean(site: Site<'_>) -> Made {
    let share = site.node.inputs.len() as f64;
    fold(site, f64::add, move |x| x / share)
}

/// Makes a function of any number of operands, from the left.
fn fold<T: Element>(
    site: Site<'_>,
    function: impl Fn(T, T) -> T + Send + Sync + 'static,
    finish: impl Fn(T) -> T + Send + Sync + 'static,
) -> Made {
    let Some(output) = site.output(0) else { return Ok(None) };
    let shapes = (0..site.node.inputs.len()).map(|index| site.shape(index)).collect::<Option<Vec<_>>>();
    let Some(shapes) = shapes.filter(|shapes| !shapes.is_empty()) else { return Ok(None) };
    let operands = shapes.into_iter().map(|shape| Broadcast::new(shape, &output.shape)).collect();
    Ok(Some(Box::new(Fold { function, finish, operands, element: PhantomData })))
}

struct Fold<T, F, G> {
    function: F,
    finish: G,
    operands: Vec<Broadcast>,
    element: PhantomData<fn(T)>,
}

impl<T: Element, F: Fn(T, T) -> T + Send + Sync, G: Fn(T) -> T + Send + Sync> Kernel for Fold<T, F, G> {
    fn name(&self) -> &'static str {
        "numbers::Fold"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let inputs = (0..self.operands.len()).map(|index| arguments.input::<T>(index)).collect::<Result<Vec<_>>>()?;
        let output = arguments.output::<T>(0)?;
        let (count, output) = (output.len(), Shared::new(output));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let own = |range: &std::ops::Range<usize>| unsafe { output.slice(range.start, range.len()) };
            for (index, (pattern, input)) in self.operands.iter().zip(&inputs).enumerate() {
                pattern.runs(range.clone(), |range, start| {
                    let into = own(&range);
                    let count = into.len();
                    match (index, pattern.step) {
                        (0, 0) => into.fill(input[start]),
                        (0, _) => into.copy_from_slice(&input[start..start + count]),
                        (_, 0) => {
                            let other = input[start];
                            into.iter_mut().for_each(|value| *value = (self.function)(*value, other));
                        }
                        _ => {
                            let others = &input[start..start + count];
                            into.iter_mut().zip(others).for_each(|(value, x)| *value = (self.function)(*value, *x));
                        }
                    }
                });
            }
            own(&range).iter_mut().for_each(|value| *value = (self.finish)(*value));
        });
        Ok(())
    }
}

/// Makes the limits of an element, which a run may give.
fn clip<T: Number>(site: Site<'_>) -> Made {
    let operator = site.operator();
    // Until opset 10 they are attributes, of floats.
    if operator.attribute("min").is_some() || operator.attribute("max").is_some() {
        return Ok(None);
    }
    let scalar = |index: usize| site.shape(index).is_none_or(|shape| shape.iter().product::<usize>() == 1);
    Ok((scalar(1) && scalar(2)).then(|| Box::new(Clip::<T>(PhantomData)) as Box<dyn Kernel>))
}

struct Clip<T>(PhantomData<fn(T)>);

impl<T: Number> Kernel for Clip<T> {
    fn name(&self) -> &'static str {
        "numbers::Clip"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let limit =
            |index: usize| Ok::<_, Error>(arguments.optional::<T>(index)?.and_then(|limit| limit.first().copied()));
        let (low, high): (Option<T>, Option<T>) = (limit(1)?, limit(2)?);
        let input = arguments.input::<T>(0)?;
        let output = arguments.output::<T>(0)?;
        let (count, output) = (input.len().min(output.len()), Shared::new(output));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let into = unsafe { output.slice(range.start, range.len()) };
            let pairs = into.iter_mut().zip(&input[range]);
            match (low, high) {
                (None, None) => pairs.for_each(|(into, x)| *into = *x),
                (Some(low), None) => pairs.for_each(|(into, x)| *into = x.larger(low)),
                (None, Some(high)) => pairs.for_each(|(into, x)| *into = x.smaller(high)),
                (Some(low), Some(high)) => pairs.for_each(|(into, x)| *into = x.larger(low).smaller(high)),
            }
        });
        Ok(())
    }
}

/// Makes powers whose exponents have another type than their bases.
fn mixed_power(site: Site<'_>) -> Made {
    fn of<A: Element, B: Element>(site: Site<'_>, function: impl Fn(A, B) -> A + Send + Sync + 'static) -> Made {
        Ok(operands(site).map(|(a, b)| Box::new(Pairs::new(function, a, b)) as Box<dyn Kernel>))
    }
    /// An exponent that no f64 holds keeps its last bit, which says the sign.
    fn float(x: f64, y: i64) -> f64 {
        if (-64..=64).contains(&y) {
            return x.powi(y as i32);
        }
        let size = x.abs().powf(y as f64);
        if x.is_sign_negative() && y & 1 == 1 { -size } else { size }
    }
    /// A power that is no whole number, or too large, is cut off as a Cast does it.
    fn whole<T: Integer>(x: T, wide: f64, y: f64, narrow: fn(i128) -> T) -> T {
        let is_whole = (0.0..=127.0).contains(&y) && y.trunc() == y;
        if is_whole { x.raise(false, y as u64) } else { narrow(wide.powf(y) as i128) }
    }
    let (Some(base), Some(exponent)) = (site.input(0), site.input(1)) else { return Ok(None) };
    macro_rules! exponents {
        ($($name:ident => $type:ty),*; $with:ident) => {
            match exponent.dtype {
                $(DType::$name => $with!($type),)*
                _ => Ok(None),
            }
        };
    }
    macro_rules! single {
        ($type:ty) => {
            of(site, |x: f32, y: $type| float(f64::from(x), y as i64) as f32)
        };
    }
    macro_rules! double {
        ($type:ty) => {
            of(site, |x: f64, y: $type| float(x, y as i64))
        };
    }
    match (base.dtype, exponent.dtype) {
        (DType::F32, DType::F64) => of(site, |x: f32, y: f64| f64::from(x).powf(y) as f32),
        (DType::F64, DType::F32) => of(site, |x: f64, y: f32| x.powf(f64::from(y))),
        (DType::I32, DType::F32) => {
            of(site, |x: i32, y: f32| whole(x, f64::from(x), f64::from(y), |power| power as i32))
        }
        (DType::I32, DType::F64) => of(site, |x: i32, y: f64| whole(x, f64::from(x), y, |power| power as i32)),
        (DType::I64, DType::F32) => of(site, |x: i64, y: f32| whole(x, x as f64, f64::from(y), |power| power as i64)),
        (DType::I64, DType::F64) => of(site, |x: i64, y: f64| whole(x, x as f64, y, |power| power as i64)),
        (DType::I32, DType::I64) => of(site, |x: i32, y: i64| x.raise(y < 0, y as u64)),
        (DType::I64, DType::I32) => of(site, |x: i64, y: i32| x.raise(y < 0, y as u64)),
        (DType::F32, _) => exponents!(I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16; single),
        (DType::F64, _) => exponents!(I32 => i32, I64 => i64; double),
        _ => Ok(None),
    }
}

/// Makes functions of booleans, which are bytes where every byte but 0 is true.
pub(super) fn logic(site: Site<'_>) -> Made {
    if !site.all(DType::Bool) {
        return Ok(None);
    }
    let name = &*site.operator().name;
    if name == "Not" {
        return one(|x: u8| u8::from(x == 0));
    }
    match name {
        "And" => two(site, |x: u8, y: u8| u8::from(x != 0) & u8::from(y != 0)),
        "Or" => two(site, |x: u8, y: u8| u8::from(x | y != 0)),
        "Xor" => two(site, |x: u8, y: u8| u8::from((x != 0) != (y != 0))),
        _ => Ok(None),
    }
}

/// Makes the test for floats that are NaN, or infinite.
pub(super) fn kinds(site: Site<'_>) -> Made {
    let operator = site.operator();
    let Some(input) = site.input(0) else { return Ok(None) };
    if let Some(half) = Half::of(input.dtype) {
        return kinds_of(site, move |x: u16| half.wide(x));
    }
    match input.dtype {
        DType::F32 => kinds_of(site, |x: f32| x),
        // What is too large for f32 is not infinite yet.
        DType::F64 if operator.is("IsNaN") => kinds_of(site, |x: f64| if x.is_nan() { f32::NAN } else { 0.0 }),
        DType::F64 => kinds_of(site, |x: f64| if x.is_infinite() { x as f32 } else { 0.0 }),
        _ => Ok(None),
    }
}

fn kinds_of<T: Element>(site: Site<'_>, float: impl Fn(T) -> f32 + Send + Sync + 'static) -> Made {
    let operator = site.operator();
    if operator.is("IsNaN") {
        return Ok(Some(Box::new(Map::new(move |x: T| u8::from(float(x).is_nan())))));
    }
    let asked = |name: &str| Ok::<bool, hetero_hal::Error>(operator.int(name)?.unwrap_or(1) != 0);
    let (positive, negative) = (asked("detect_positive")?, asked("detect_negative")?);
    let test = move |x: f32| (positive && x == f32::INFINITY) || (negative && x == f32::NEG_INFINITY);
    Ok(Some(Box::new(Map::new(move |x: T| u8::from(test(float(x)))))))
}
