//! Operators that make tensors out of attributes, shapes and little else.

use hetero_hal::{
    Attribute, DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType,
    element_count, shape_content, spend, take,
};

use crate::indexing::{indices, pick};
use crate::numbers::{Numbers, floats};
use crate::shapes::{integers, named_type, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Constant", 1, (0, 0), infer_constant, constant),
    Definition::new("ConstantOfShape", 9, (1, 1), infer_filled, filled),
    Definition::new("Shape", 1, (1, 1), infer_shape, shape),
    Definition::new("Size", 1, (1, 1), infer_size, shape),
    Definition::new("Range", 11, (3, 3), infer_range, range),
    Definition::new("EyeLike", 9, (1, 1), infer_eye, eye),
    Definition::new("NonZero", 9, (1, 1), infer_non_zero, non_zero),
];

/// Returns the content of a Constant, whichever attribute holds it.
fn content(operator: &Operator) -> Result<Tensor> {
    let text = |bytes: &std::sync::Arc<[u8]>| String::from_utf8_lossy(bytes).into();
    for (name, attribute) in &operator.attributes {
        return match (&**name, attribute) {
            ("value" | "sparse_value", Attribute::Tensor(tensor)) => Ok(tensor.clone()),
            ("value_float", Attribute::Float(value)) => Ok(Tensor::scalar(*value)),
            ("value_floats", Attribute::Floats(values)) => Tensor::from_vec(&[values.len()], values.clone()),
            ("value_int", Attribute::Int(value)) => Ok(Tensor::scalar(*value)),
            ("value_ints", Attribute::Ints(values)) => Tensor::from_vec(&[values.len()], values.clone()),
            ("value_string", Attribute::String(value)) => Tensor::from_strings(&[], vec![text(value)]),
            ("value_strings", Attribute::Strings(values)) => {
                Tensor::from_strings(&[values.len()], values.iter().map(text).collect())
            }
            _ => continue,
        };
    }
    Err(Error::invalid_model("Constant has no value"))
}

fn infer_constant(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let tensor = content(inference.operator)?;
    Ok(vec![TensorType::exact(tensor.dtype(), tensor.shape())])
}

fn constant(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![content(evaluation.operator)?])
}

fn filler(operator: &Operator) -> Result<Tensor> {
    match operator.tensor("value")? {
        Some(value) if value.len() == 1 => Ok(value.clone()),
        Some(_) => Err(Error::invalid_model("the value of ConstantOfShape is not one element")),
        None => Ok(Tensor::scalar(0.0f32)),
    }
}

fn infer_filled(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = Some(filler(inference.operator)?.dtype());
    let target = inference.input(0)?;
    let dims = match (&target.value, target.ty.shape().as_deref()) {
        (Some(sizes), _) => {
            Some(sizes.to_i64_vec()?.into_iter().map(|v| Ok(Dim::Known(size(v)?))).collect::<Result<_>>()?)
        }
        (None, Some([rank])) if *rank <= 64 => Some(vec![Dim::Unknown; *rank]),
        _ => None,
    };
    Ok(vec![TensorType { dtype, dims }])
}

fn filled(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let value = filler(evaluation.operator)?;
    let shape = integers(evaluation.input(0)?)?.into_iter().map(size).collect::<Result<Vec<_>>>()?;
    let count = evaluation.reserve(value.dtype(), &shape)?;
    Ok(vec![pick(&value, &shape, std::iter::repeat_n(Some(0), count), None)?])
}

fn infer_shape(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    let dims = match inference.dims(0)? {
        None => vec![Dim::Unknown],
        Some(dims) => {
            let (start, end) = section(operator, dims.len())?;
            vec![Dim::Known(end - start)]
        }
    };
    Ok(vec![TensorType::new(DType::I64, dims)])
}

/// Returns the part of the shape that the operator gives, clamped to the rank.
fn section(operator: &Operator, rank: usize) -> Result<(usize, usize)> {
    let clamp = |value: i64| {
        let at = if value < 0 { value.saturating_add(rank as i64) } else { value };
        at.clamp(0, rank as i64) as usize
    };
    let start = clamp(operator.int("start")?.unwrap_or(0));
    let end = clamp(operator.int("end")?.unwrap_or(rank as i64));
    Ok((start, end.max(start)))
}

fn shape(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    shape_content(evaluation.operator, evaluation.input(0)?.shape())
}

fn infer_size(_: &Inference<'_>) -> Result<Vec<TensorType>> {
    Ok(vec![TensorType::exact(DType::I64, &[])])
}

/// Returns the number of values from `start` up to `limit` in steps of `delta`.
fn steps(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<usize> {
    if start.is_empty() || limit.is_empty() || delta.is_empty() {
        return Err(Error::invalid_model("Range takes scalars"));
    }
    if let (Numbers::Ints(start), Numbers::Ints(limit), Numbers::Ints(delta)) =
        (Numbers::of(start)?, Numbers::of(limit)?, Numbers::of(delta)?)
    {
        let way = limit[0] - start[0];
        let whole = way.checked_div(delta[0]).filter(|&count| count <= 1 << 48);
        let whole = whole.ok_or_else(|| Error::invalid_model("Range never ends, or is absurdly long"))?;
        let rest = i128::from(way % delta[0] != 0 && (way < 0) == (delta[0] < 0));
        return Ok((whole + rest).max(0) as usize);
    }
    let first = |tensor: &Tensor| -> Result<f64> { Ok(floats(tensor)?[0]) };
    let count = ((first(limit)? - first(start)?) / first(delta)?).ceil();
    if count.is_nan() || count > (1u64 << 48) as f64 {
        return Err(Error::invalid_model("Range never ends, or is absurdly long"));
    }
    Ok(count.max(0.0) as usize)
}

fn infer_range(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (start, limit, delta) = (inference.input(0)?, inference.input(1)?, inference.input(2)?);
    let dim = match (&start.value, limit.at_most(), &delta.value) {
        (Some(start), Some(most), Some(delta)) => {
            let count = steps(start, most, delta)?;
            let forwards = floats(delta)?.first().is_some_and(|&delta| delta > 0.0);
            match (&limit.value, forwards) {
                (Some(_), _) => Dim::Known(count),
                (None, true) => Dim::Data { bound: count, extent: None },
                // A range that counts down to a limit is longest where the limit is least, which is
                // not known.
                (None, false) => Dim::Unknown,
            }
        }
        _ => Dim::Unknown,
    };
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims: Some(vec![dim]) }])
}

fn range(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (start, delta) = (evaluation.input(0)?, evaluation.input(2)?);
    let count = steps(start, evaluation.input(1)?, delta)?;
    evaluation.reserve(start.dtype(), &[count])?;
    take(count, size_of::<i128>())?;
    spend(count)?;
    let numbers = match (Numbers::of(start)?, Numbers::of(delta)?) {
        (Numbers::Ints(start), Numbers::Ints(delta)) => {
            Numbers::Ints((0..count).map(|i| start[0].wrapping_add((i as i128).wrapping_mul(delta[0]))).collect())
        }
        (start, delta) => {
            let (start, delta) = (start.floats()[0], delta.floats()[0]);
            Numbers::Floats((0..count).map(|i| start + i as f64 * delta).collect())
        }
    };
    Ok(vec![numbers.into_tensor(start.dtype(), &[count])?])
}

fn infer_eye(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    Ok(vec![TensorType { dtype: named_type(inference.operator, "dtype")?.or(ty.dtype), dims: ty.dims.clone() }])
}

fn eye(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let dtype = named_type(evaluation.operator, "dtype")?.unwrap_or(input.dtype());
    let &[rows, columns] = input.shape() else {
        return Err(Error::invalid_model("EyeLike takes a matrix"));
    };
    let k = evaluation.operator.int("k")?.unwrap_or(0);
    evaluation.reserve(dtype, &[rows, columns])?;
    let count = element_count(&[rows, columns]).unwrap_or(usize::MAX);
    take(count, size_of::<i128>())?;
    let mut ones = Vec::with_capacity(count);
    for row in 0..rows {
        spend(columns)?;
        ones.extend((0..columns).map(|column| i128::from(column as i64 - row as i64 == k)));
    }
    Ok(vec![Numbers::Ints(ones).into_tensor(dtype, &[rows, columns])?])
}

/// Infers the type of a NonZero, bounded by the number of elements, as each of them may be other
/// than zero.
fn infer_non_zero(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = match inference.dims(0)? {
        None => vec![Dim::Unknown, Dim::Unknown],
        Some(dims) => {
            let bounds: Option<Vec<usize>> = dims.iter().map(Dim::bound).collect();
            let bound = bounds.and_then(|bounds| element_count(&bounds));
            vec![Dim::Known(dims.len()), bound.map_or(Dim::Unknown, |bound| Dim::Data { bound, extent: None })]
        }
    };
    Ok(vec![TensorType::new(DType::I64, dims)])
}

fn non_zero(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let values = floats(input)?;
    let count = values.iter().filter(|&&value| value != 0.0).count();
    take(count, input.rank().saturating_mul(size_of::<i64>()))?;
    let mut coordinates = vec![0i64; count * input.rank()];
    let mut found = 0;
    for (index, value) in indices(input.shape()).zip(values) {
        spend(20)?;
        if value != 0.0 {
            for (axis, &at) in index.iter().enumerate() {
                coordinates[axis * count + found] = at as i64;
            }
            found += 1;
        }
    }
    Ok(vec![Tensor::from_vec(&[input.rank(), count], coordinates)?])
}
