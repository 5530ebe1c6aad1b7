//! Element-wise operators of two inputs or of any number, with multidirectional broadcasting.

use hetero_hal::{DType, Definition, Evaluation, Inference, Result, Tensor, TensorType, spend, take};

use crate::indexing::{broadcast_strides, strided};
use crate::numbers::{Numbers, max, min};
use crate::shapes::{broadcast_shapes, flops_per_element, infer_broadcast};

/// One operator, with its function on two floats and on two integers.
struct Row {
    name: &'static str,
    since: u32,
    float: Option<fn(f64, f64) -> f64>,
    int: Option<fn(i128, i128) -> i128>,
    /// The operator takes any number of inputs and folds them from the left.
    variadic: bool,
    /// The operator gives booleans.
    logical: bool,
}

const fn arithmetic(name: &'static str, float: fn(f64, f64) -> f64, int: fn(i128, i128) -> i128) -> Row {
    Row { name, since: 7, float: Some(float), int: Some(int), variadic: false, logical: false }
}

const fn variadic(name: &'static str, float: fn(f64, f64) -> f64, int: fn(i128, i128) -> i128) -> Row {
    Row { name, since: 6, float: Some(float), int: Some(int), variadic: true, logical: false }
}

const fn comparison(name: &'static str, float: fn(f64, f64) -> f64, int: fn(i128, i128) -> i128) -> Row {
    Row { name, since: 7, float: Some(float), int: Some(int), variadic: false, logical: true }
}

const fn logic(name: &'static str, int: fn(i128, i128) -> i128) -> Row {
    Row { name, since: 7, float: None, int: Some(int), variadic: false, logical: true }
}

const fn bits(name: &'static str, since: u32, int: fn(i128, i128) -> i128) -> Row {
    Row { name, since, float: None, int: Some(int), variadic: false, logical: false }
}

const ROWS: [Row; 21] = [
    arithmetic("Add", |a, b| a + b, |a, b| a + b),
    arithmetic("Sub", |a, b| a - b, |a, b| a - b),
    arithmetic("Mul", |a, b| a * b, i128::wrapping_mul),
    // The standard leaves integer division by zero open; here it gives 0.
    arithmetic("Div", |a, b| a / b, |a, b| a.checked_div(b).unwrap_or(0)),
    arithmetic("Pow", f64::powf, int_power),
    arithmetic(
        "PRelu",
        |x, slope| if x < 0.0 { slope * x } else { x },
        |x, slope| if x < 0 { slope.wrapping_mul(x) } else { x },
    ),
    variadic("Sum", |a, b| a + b, |a, b| a + b),
    variadic("Mean", |a, b| a + b, |a, b| a + b),
    variadic("Max", max, |a, b| a.max(b)),
    variadic("Min", min, |a, b| a.min(b)),
    comparison("Equal", |a, b| flag(a == b), |a, b| i128::from(a == b)),
    comparison("Greater", |a, b| flag(a > b), |a, b| i128::from(a > b)),
    comparison("GreaterOrEqual", |a, b| flag(a >= b), |a, b| i128::from(a >= b)),
    comparison("Less", |a, b| flag(a < b), |a, b| i128::from(a < b)),
    comparison("LessOrEqual", |a, b| flag(a <= b), |a, b| i128::from(a <= b)),
    logic("And", |a, b| a & b),
    logic("Or", |a, b| a | b),
    logic("Xor", |a, b| a ^ b),
    bits("BitwiseAnd", 18, |a, b| a & b),
    bits("BitwiseOr", 18, |a, b| a | b),
    bits("BitwiseXor", 18, |a, b| a ^ b),
];

/// The definitions of the rows, then of the element-wise operators that fit none of them.
pub(crate) static DEFINITIONS: [Definition; ROWS.len() + 6] = {
    let other = Definition::new("", 1, (2, 2), infer_broadcast, evaluate);
    let mut definitions = [other; ROWS.len() + 6];
    let mut index = 0;
    while index < ROWS.len() {
        let row = &ROWS[index];
        let inputs = if row.variadic { (1, usize::MAX) } else { (2, 2) };
        let infer = if row.logical { infer_logical } else { infer_broadcast };
        let definition = Definition::new(row.name, row.since, inputs, infer, evaluate).counting(flops_per_element);
        definitions[index] = if row.logical { definition } else { definition.in_place(&[0, 1]) };
        index += 1;
    }
    definitions[index] = Definition::new("Mod", 10, (2, 2), infer_broadcast, modulo).counting(flops_per_element);
    definitions[index + 1] = Definition::new("BitShift", 11, (2, 2), infer_broadcast, shift);
    definitions[index + 2] = Definition::new("Not", 1, (1, 1), infer_logical, not).in_place(&[0]);
    definitions[index + 3] = Definition::new("BitwiseNot", 18, (1, 1), infer_broadcast, bitwise_not).in_place(&[0]);
    definitions[index + 4] = Definition::new("IsNaN", 9, (1, 1), infer_logical, is_nan);
    definitions[index + 5] = Definition::new("IsInf", 10, (1, 1), infer_logical, is_inf);
    definitions
};

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Raises an integer to a power, wrapping; a negative exponent gives the power's integer part.
fn int_power(mut base: i128, mut exponent: i128) -> i128 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 => 1 - 2 * (exponent & 1),
            _ => 0,
        };
    }
    let mut power = 1i128;
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = power.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    power
}

/// Raises numbers of one kind to powers of the other, as [`f64::powf`] does where it can.
/// Whole powers of whole numbers are exact, and an exponent that no `f64` holds keeps its last bit,
/// which says the sign.
fn mixed_power(base: Numbers, exponent: Numbers) -> Numbers {
    match (base, exponent) {
        (Numbers::Ints(x), Numbers::Floats(y)) => {
            // A power that is no whole number, or too large, is cut off as a Cast does it.
            let power = |x: i128, y: f64| match y as i128 {
                whole if whole as f64 == y && (0..=127).contains(&whole) => int_power(x, whole),
                _ => (x as f64).powf(y) as i128,
            };
            Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| power(x, y)).collect())
        }
        (Numbers::Floats(x), Numbers::Ints(y)) => {
            let power = |x: f64, y: i128| {
                let size = x.abs().powf(y as f64);
                if x.is_sign_negative() && y & 1 == 1 { -size } else { size }
            };
            Numbers::Floats(x.into_iter().zip(y).map(|(x, y)| power(x, y)).collect())
        }
        (Numbers::Ints(x), Numbers::Ints(y)) => {
            Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| int_power(x, y)).collect())
        }
        (Numbers::Floats(x), Numbers::Floats(y)) => {
            Numbers::Floats(x.into_iter().zip(y).map(|(x, y)| x.powf(y)).collect())
        }
    }
}

fn infer_logical(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let mut types = infer_broadcast(inference)?;
    types[0].dtype = Some(DType::Bool);
    Ok(types)
}

fn unsupported(evaluation: &Evaluation<'_>, dtype: DType) -> hetero_hal::Error {
    hetero_hal::Error::unsupported(format!("{} on {dtype}", evaluation.operator))
}

/// Returns the elements of a tensor, repeated to a larger shape.
fn broadcast(tensor: &Tensor, shape: &[usize]) -> Result<Numbers> {
    let positions = strided(shape, &broadcast_strides(tensor.shape(), shape), 0)?;
    take(positions.len(), size_of::<i128>())?;
    spend(2 * positions.len())?;
    Ok(match Numbers::of(tensor)? {
        Numbers::Floats(values) => Numbers::Floats(positions.into_iter().map(|p| values[p]).collect()),
        Numbers::Ints(values) => Numbers::Ints(positions.into_iter().map(|p| values[p]).collect()),
    })
}

/// Applies functions on floats or integers to two inputs that are broadcast together.
fn zip(
    evaluation: &Evaluation<'_>,
    float: Option<impl Fn(f64, f64) -> f64>,
    int: Option<impl Fn(i128, i128) -> i128>,
    (a, b): (&Tensor, &Tensor),
) -> Result<(Numbers, Vec<usize>)> {
    let shape = broadcast_shapes([a.shape(), b.shape()])?;
    evaluation.reserve(a.dtype(), &shape)?;
    let numbers = match (broadcast(a, &shape)?, broadcast(b, &shape)?, float, int) {
        (Numbers::Ints(x), Numbers::Ints(y), _, Some(int)) => {
            Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| int(x, y)).collect())
        }
        (Numbers::Floats(x), Numbers::Floats(y), Some(float), _) => {
            Numbers::Floats(x.into_iter().zip(y).map(|(x, y)| float(x, y)).collect())
        }
        // Pow alone may raise a float to an integer and the other way round.
        (x, y, ..) if evaluation.operator.is("Pow") => mixed_power(x, y),
        _ => return Err(unsupported(evaluation, a.dtype())),
    };
    Ok((numbers, shape))
}

fn evaluate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let first = evaluation.input(0)?;
    let dtype = first.dtype();
    if dtype == DType::String && operator.is("Equal") {
        return equal_strings(evaluation);
    }
    let row = ROWS.iter().find(|row| *row.name == *operator.name).ok_or_else(|| unsupported(evaluation, dtype))?;
    if !row.variadic && evaluation.inputs.len() == 2 {
        let (numbers, shape) = zip(evaluation, row.float, row.int, (first, evaluation.input(1)?))?;
        let dtype = if row.logical { DType::Bool } else { dtype };
        return Ok(vec![numbers.into_tensor(dtype, &shape)?]);
    }
    let mut inputs = Vec::new();
    for index in 0..evaluation.inputs.len() {
        inputs.push(evaluation.input(index)?);
    }
    let shape = broadcast_shapes(inputs.iter().map(|tensor| tensor.shape()))?;
    evaluation.reserve(dtype, &shape)?;
    let mut total = broadcast(first, &shape)?;
    for input in &inputs[1..] {
        total = match (total, broadcast(input, &shape)?, row.float, row.int) {
            (Numbers::Floats(x), Numbers::Floats(y), Some(float), _) => {
                Numbers::Floats(x.into_iter().zip(y).map(|(x, y)| float(x, y)).collect())
            }
            (Numbers::Ints(x), Numbers::Ints(y), _, Some(int)) => {
                Numbers::Ints(x.into_iter().zip(y).map(|(x, y)| int(x, y)).collect())
            }
            _ => return Err(unsupported(evaluation, dtype)),
        };
    }
    if operator.is("Mean") {
        let count = inputs.len() as f64;
        total = Numbers::Floats(total.floats().into_iter().map(|sum| sum / count).collect());
    }
    Ok(vec![total.into_tensor(dtype, &shape)?])
}

fn equal_strings(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = (evaluation.input(0)?, evaluation.input(1)?);
    let shape = broadcast_shapes([a.shape(), b.shape()])?;
    evaluation.reserve(DType::Bool, &shape)?;
    let positions = |tensor: &Tensor| strided(&shape, &broadcast_strides(tensor.shape(), &shape), 0);
    let (x, y) = (a.strings()?, b.strings()?);
    let (from_a, from_b) = (positions(a)?, positions(b)?);
    take(from_a.len(), size_of::<i128>())?;
    let equal = from_a.into_iter().zip(from_b).map(|(i, j)| i128::from(x[i] == y[j])).collect();
    Ok(vec![Numbers::Ints(equal).into_tensor(DType::Bool, &shape)?])
}

/// Computes the remainder with the divisor's sign as in Python, or with the dividend's as C's
/// `fmod` where the attribute asks for it.
fn modulo(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let fmod = evaluation.operator.int("fmod")?.unwrap_or(0) != 0;
    let float = move |a: f64, b: f64| if fmod { a % b } else { a - b * (a / b).floor() };
    let int = move |a: i128, b: i128| {
        let rest = a.checked_rem(b).unwrap_or(0);
        if !fmod && rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
    };
    let first = evaluation.input(0)?;
    let (numbers, shape) = zip(evaluation, Some(float), Some(int), (first, evaluation.input(1)?))?;
    Ok(vec![numbers.into_tensor(first.dtype(), &shape)?])
}

fn shift(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let left = evaluation.operator.text("direction")? == Some("LEFT");
    let first = evaluation.input(0)?;
    let width = first.dtype().bits() as i128;
    let int = move |a: i128, b: i128| match (b >= width, left) {
        (true, _) => 0,
        (false, true) => a << b.max(0),
        (false, false) => a >> b.max(0),
    };
    let (numbers, shape) = zip(evaluation, None::<fn(f64, f64) -> f64>, Some(int), (first, evaluation.input(1)?))?;
    Ok(vec![numbers.into_tensor(first.dtype(), &shape)?])
}

fn map_int(evaluation: &Evaluation<'_>, int: impl Fn(i128) -> i128) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    match Numbers::of(input)? {
        Numbers::Ints(values) => {
            let mapped = Numbers::Ints(values.into_iter().map(int).collect());
            Ok(vec![mapped.into_tensor(input.dtype(), input.shape())?])
        }
        Numbers::Floats(_) => Err(unsupported(evaluation, input.dtype())),
    }
}

fn not(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    map_int(evaluation, |x| i128::from(x == 0))
}

fn bitwise_not(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    map_int(evaluation, |x| !x)
}

fn is_nan(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let flags = Numbers::of(input)?.floats().into_iter().map(|x| i128::from(x.is_nan())).collect();
    Ok(vec![Numbers::Ints(flags).into_tensor(DType::Bool, input.shape())?])
}

fn is_inf(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let positive = operator.int("detect_positive")?.unwrap_or(1) != 0;
    let negative = operator.int("detect_negative")?.unwrap_or(1) != 0;
    let input = evaluation.input(0)?;
    let infinite = |x: f64| x.is_infinite() && if x > 0.0 { positive } else { negative };
    let flags = Numbers::of(input)?.floats().into_iter().map(|x| i128::from(infinite(x))).collect();
    Ok(vec![Numbers::Ints(flags).into_tensor(DType::Bool, input.shape())?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, Operator};

    use super::*;

    fn ints(operator: &Operator, a: Vec<i32>, b: Vec<i32>) -> Vec<i32> {
        let tensor = |v: Vec<i32>| Some(Tensor::from_vec(&[v.len()], v).unwrap());
        crate::evaluate(operator, &[tensor(a), tensor(b)], 1).unwrap()[0].view::<i32>().unwrap().into_owned()
    }

    #[test]
    fn integers_divide_towards_zero_and_wrap() {
        assert_eq!(ints(&Operator::new("Div", 14), vec![-7, 7, 5], vec![2, 2, 0]), [-3, 3, 0]);
        assert_eq!(ints(&Operator::new("Add", 14), vec![i32::MAX], vec![1]), [i32::MIN]);
        assert_eq!(ints(&Operator::new("Pow", 15), vec![2, -3], vec![10, 3]), [1024, -27]);
        assert_eq!(
            ints(&Operator::new("Pow", 15), vec![-1, -1, 2, 3], vec![-3, -2, -1, i32::MAX]),
            [-1, 1, 0, -1_431_655_765]
        );
        assert_eq!(ints(&Operator::new("Mod", 13), vec![-7, 7], vec![3, -3]), [2, -2]);
        let fmod = Operator::new("Mod", 13).with("fmod", Attribute::Int(1));
        assert_eq!(ints(&fmod, vec![-7, 7], vec![3, -3]), [-1, 1]);
    }

    #[test]
    fn broadcasting_and_folding() {
        let a = Tensor::from_vec(&[2, 1], vec![1.0f32, 2.0]).unwrap();
        let b = Tensor::from_vec(&[3], vec![10.0f32, 20.0, 30.0]).unwrap();
        let mean = crate::evaluate(&Operator::new("Mean", 13), &[Some(a.clone()), Some(b.clone())], 1).unwrap();
        assert_eq!(mean[0].shape(), [2, 3]);
        assert_eq!(&*mean[0].view::<f32>().unwrap(), [5.5, 10.5, 15.5, 6.0, 11.0, 16.0]);
        let less = crate::evaluate(&Operator::new("Less", 13), &[Some(b), Some(a)], 1).unwrap();
        assert_eq!((less[0].dtype(), less[0].shape()), (DType::Bool, &[2, 3][..]));
    }
}
