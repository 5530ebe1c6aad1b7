//! Pooling over windows and over all of space.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::indices;
use crate::numbers::{Numbers, floats, pack};
use crate::shapes::{elements, integers};
use crate::window::{Window, output_dims, per_axis};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("MaxPool", 1, (1, 1), infer, max_pool).outputs(2).counting(flops),
    Definition::new("AveragePool", 1, (1, 1), infer, average_pool).counting(flops),
    Definition::new("LpPool", 2, (1, 1), infer, lp_pool).counting(flops),
    Definition::new("GlobalAveragePool", 1, (1, 1), infer_global, global).counting(flops_global),
    Definition::new("GlobalMaxPool", 1, (1, 1), infer_global, global).counting(flops_global),
    Definition::new("GlobalLpPool", 2, (1, 1), infer_global, global).counting(flops_global),
    Definition::new("MaxUnpool", 9, (2, 3), infer_unpool, unpool),
];

fn flops(operator: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let window = operator.ints("kernel_shape").ok().flatten().unwrap_or_default();
    let taps = window.iter().fold(1u64, |count, &size| count.saturating_mul(size.max(0) as u64));
    outputs.first().map_or(0, elements).saturating_mul(taps)
}

fn flops_global(_: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    inputs.first().and_then(Option::as_ref).map_or(0, elements)
}

fn kernel(operator: &Operator, rank: usize) -> Result<Vec<usize>> {
    if rank < 3 || operator.ints("kernel_shape")?.is_none() {
        return Err(Error::invalid_model(format!("{operator} over rank {rank}, or without kernel_shape")));
    }
    per_axis(operator, "kernel_shape", rank - 2, 1)
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match &ty.dims {
        None => None,
        Some(input) => {
            let kernel = kernel(inference.operator, input.len())?;
            let mut dims = input[..2].to_vec();
            dims.extend(output_dims(inference.operator, &input[2..], &kernel)?);
            Some(dims)
        }
    };
    let values = TensorType { dtype: ty.dtype, dims };
    let positions = TensorType { dtype: Some(DType::I64), dims: values.dims.clone() };
    Ok(vec![values, positions])
}

fn infer_global(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let shrink = |dims: &Vec<Dim>| {
        dims.iter().enumerate().map(|(axis, dim)| if axis < 2 { dim.clone() } else { Dim::Known(1) }).collect()
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims: ty.dims.as_ref().map(shrink) }])
}

/// Walks over every window of every channel.
/// It calls `reduce` with the channel's first element, the positions of the window's elements on
/// the input, the output index and the window.
fn each_window(
    evaluation: &Evaluation<'_>,
    mut reduce: impl FnMut(usize, &[usize], &[usize], &Window),
) -> Result<Vec<usize>> {
    let input = evaluation.input(0)?;
    let shape = input.shape();
    let window =
        Window::resolve(evaluation.operator, &shape[2.min(shape.len())..], &kernel(evaluation.operator, shape.len())?)?;
    let mut result = shape[..2].to_vec();
    result.extend(&window.output);
    evaluation.reserve(DType::I64, &result)?;
    let plane: usize = shape[2..].iter().product();
    // Callers keep a choice or a sum for each window, and the list of a window's taps.
    take(element_count(&result).unwrap_or(usize::MAX), 48)?;
    take(plane, 4 * size_of::<usize>())?;
    let mut taps = Vec::new();
    for channel in 0..shape[0] * shape[1] {
        for at in indices(&window.output) {
            taps.clear();
            window.taps(&at, &shape[2..], |_, position| taps.push(position))?;
            spend(2 * taps.len() + 8)?;
            reduce(channel * plane, &taps, &at, &window);
        }
    }
    Ok(result)
}

fn max_pool(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let column_major = evaluation.operator.int("storage_order")?.unwrap_or(0) != 0;
    let spatial = input.shape()[2.min(input.rank())..].to_vec();
    let mut chosen: Vec<Option<usize>> = Vec::new();
    let numbers = Numbers::of(input)?;
    let shape = each_window(evaluation, |first, taps, _, _| {
        let positions = taps.iter().map(|&position| first + position);
        // The first of equal elements wins, and NaN before everything.
        chosen.push(match &numbers {
            Numbers::Floats(x) => positions
                .reduce(|best, p| if x[p] > x[best] || (x[p].is_nan() && !x[best].is_nan()) { p } else { best }),
            Numbers::Ints(x) => positions.reduce(|best, p| if x[p] > x[best] { p } else { best }),
        });
    })?;
    // A window wholly in the padding holds nothing: it gives minus infinity for floats, and 0 for
    // integers.
    let values = match numbers {
        Numbers::Floats(x) => Numbers::Floats(chosen.iter().map(|p| p.map_or(f64::NEG_INFINITY, |p| x[p])).collect()),
        Numbers::Ints(x) => Numbers::Ints(chosen.iter().map(|p| p.map_or(0, |p| x[p])).collect()),
    };
    let mut outputs = vec![values.into_tensor(input.dtype(), &shape)?];
    if evaluation.outputs > 1 {
        let plane: usize = spatial.iter().product();
        let position = |p: usize| {
            if !column_major {
                return p as i64;
            }
            let (base, mut rest) = (p / plane.max(1) * plane, p % plane.max(1));
            let mut index = vec![0; spatial.len()];
            for axis in (0..spatial.len()).rev() {
                index[axis] = rest % spatial[axis];
                rest /= spatial[axis];
            }
            let reversed = index.iter().zip(&spatial).rev().fold(0, |at, (i, size)| at * size + i);
            (base + reversed) as i64
        };
        outputs.push(Tensor::from_vec(&shape, chosen.iter().map(|p| p.map_or(-1, position)).collect())?);
    }
    Ok(outputs)
}

fn average_pool(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let with_padding = evaluation.operator.int("count_include_pad")?.unwrap_or(0) != 0;
    let x = floats(input)?;
    let spatial = input.shape()[2.min(input.rank())..].to_vec();
    let mut values = Vec::new();
    let shape = each_window(evaluation, |first, taps, at, window| {
        let sum: f64 = taps.iter().map(|&position| x[first + position]).sum();
        let count = if with_padding { padded_taps(window, at, &spatial) } else { taps.len() as f64 };
        values.push(sum / count);
    })?;
    Ok(vec![pack(values, input.dtype(), &shape)?])
}

/// Returns the number of elements of a window on the input or its padding; elements that rounding
/// up adds beyond the padding do not count.
fn padded_taps(window: &Window, at: &[usize], spatial: &[usize]) -> f64 {
    (0..spatial.len())
        .map(|axis| {
            let limit = spatial[axis] + window.begin[axis] + window.end[axis];
            let start = at[axis] * window.strides[axis];
            // The taps below the limit are the first ones.
            limit.saturating_sub(start).div_ceil(window.dilations[axis]).min(window.kernel[axis]) as f64
        })
        .product()
}

fn lp_pool(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let p = evaluation.operator.int("p")?.unwrap_or(2) as f64;
    let x = floats(input)?;
    let mut values = Vec::new();
    let shape = each_window(evaluation, |first, taps, _, _| {
        let sum: f64 = taps.iter().map(|&position| x[first + position].abs().powf(p)).sum();
        values.push(sum.powf(p.recip()));
    })?;
    Ok(vec![pack(values, input.dtype(), &shape)?])
}

fn global(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = input.shape();
    if shape.len() < 3 {
        return Err(Error::invalid_model(format!("{} over rank {}", evaluation.operator, shape.len())));
    }
    let p = evaluation.operator.int("p")?.unwrap_or(2) as f64;
    let plane: usize = shape[2..].iter().product();
    let x = floats(input)?;
    let reduce = |channel: &[f64]| match &*evaluation.operator.name {
        "GlobalMaxPool" => {
            channel.iter().copied().fold(f64::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
        }
        "GlobalLpPool" => channel.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(p.recip()),
        _ => channel.iter().sum::<f64>() / channel.len() as f64,
    };
    let channels = shape[0] * shape[1];
    take(channels, size_of::<f64>())?;
    spend(x.len())?;
    let values = (0..channels).map(|c| reduce(&x[c * plane..(c + 1) * plane])).collect();
    let mut result = shape[..2].to_vec();
    result.resize(shape.len(), 1);
    Ok(vec![pack(values, input.dtype(), &result)?])
}
/// Returns the sizes from which a max pooling with these attributes came.
fn unpooled(operator: &Operator, input: &[usize]) -> Result<Vec<usize>> {
    let kernel = kernel(operator, input.len())?;
    let rank = kernel.len();
    let strides = per_axis(operator, "strides", rank, 1)?;
    let pads = per_axis(operator, "pads", 2 * rank, 0)?;
    let misfit = || Error::invalid_model(format!("{operator} of {input:?} gives no size"));
    let mut shape = input[..2].to_vec();
    for axis in 0..rank {
        let full = input[axis + 2].checked_sub(1).and_then(|steps| steps.checked_mul(strides[axis]));
        let full = full.and_then(|full| full.checked_add(kernel[axis])).ok_or_else(misfit)?;
        shape.push(full.checked_sub(pads[axis] + pads[rank + axis]).ok_or_else(misfit)?);
    }
    Ok(shape)
}

fn infer_unpool(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (inference.optional(2), ty.shape()) {
        (Some(wanted), _) => match &wanted.value {
            Some(sizes) => {
                let sizes = sizes.to_i64_vec()?.into_iter().map(crate::shapes::size).collect::<Result<Vec<_>>>()?;
                Some(sizes.into_iter().map(Dim::Known).collect())
            }
            None => ty.dims.as_ref().map(|dims| vec![Dim::Unknown; dims.len()]),
        },
        (None, Some(shape)) => Some(unpooled(inference.operator, &shape)?.into_iter().map(Dim::Known).collect()),
        (None, None) => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Puts each value at its position; positions count in the tensor that was pooled, batch and
/// channels included.
fn unpool(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, positions) = (evaluation.input(0)?, integers(evaluation.input(1)?)?);
    let natural = unpooled(operator, input.shape())?;
    let shape = match evaluation.optional(2) {
        Some(tensor) => integers(tensor)?.into_iter().map(crate::shapes::size).collect::<Result<Vec<_>>>()?,
        None => natural.clone(),
    };
    let count = evaluation.reserve(DType::I64, &shape)?;
    let fits = shape.len() == natural.len() && positions.len() == input.len();
    let limit = hetero_hal::element_count(&natural).filter(|_| fits);
    let limit = limit.ok_or_else(|| Error::invalid_model(format!("{operator}: {shape:?} does not fit {input:?}")))?;
    let (own, steps) = (crate::indexing::strides(&natural), crate::indexing::strides(&shape));
    take(count, size_of::<Option<usize>>())?;
    spend(count)?;
    let mut from = vec![None; count];
    for (source, position) in positions.into_iter().enumerate() {
        let position = usize::try_from(position).ok().filter(|&position| position < limit);
        let position =
            position.ok_or_else(|| Error::invalid_model(format!("{operator}: a position is outside {natural:?}")))?;
        spend(20)?;
        let index: Vec<usize> = own.iter().zip(&natural).map(|(step, size)| position / step % size).collect();
        if index.iter().zip(&shape).all(|(i, size)| i < size) {
            from[crate::indexing::offset(&index, &steps)] = Some(source);
        }
    }
    Ok(vec![crate::indexing::pick(input, &shape, from, None)?])
}
