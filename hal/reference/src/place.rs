//! Operators that put elements, lines and blocks into other places.

use hetero_hal::{
    Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use crate::indexing::{indices, offset, pick, strides};
use crate::numbers::{Numbers, floats, pack};
use crate::shapes::{axes as sorted_axes, axis, few, infer_same, integers, size};
use crate::window::per_axis;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("ReverseSequence", 10, (2, 2), infer_same, reverse),
    Definition::new("CenterCropPad", 18, (2, 2), infer_center, center),
    Definition::new("Col2Im", 18, (3, 3), infer_columns, columns),
    Definition::new("TensorScatter", 24, (2, 3), infer_same, write_cache),
    Definition::new("Det", 11, (1, 1), infer_det, det),
];

/// Reverses the first elements along the time axis, of which each batch has a number of its own.
fn reverse(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let time = axis(operator.int("time_axis")?.unwrap_or(0), input.rank())?;
    let batch = axis(operator.int("batch_axis")?.unwrap_or(1), input.rank())?;
    let lengths = integers(evaluation.input(1)?)?;
    let limit = input.shape()[time] as i64;
    let fits =
        lengths.len() == input.shape()[batch] && time != batch && lengths.iter().all(|n| (0..=limit).contains(n));
    if !fits {
        return Err(Error::invalid_model(format!("{operator}: the lengths {} do not fit {input:?}", few(&lengths))));
    }
    let steps = strides(input.shape());
    let positions = indices(input.shape()).map(|mut index| {
        let length = lengths[index[batch]] as usize;
        if index[time] < length {
            index[time] = length - 1 - index[time];
        }
        Some(offset(&index, &steps))
    });
    Ok(vec![pick(input, input.shape(), positions, None)?])
}

fn centered(operator: &Operator, input: &[usize], wanted: &[i64]) -> Result<Vec<usize>> {
    let touched = match operator.ints("axes")? {
        Some(listed) => {
            sorted_axes(listed, input.len())?;
            listed.iter().map(|&value| axis(value, input.len())).collect::<Result<Vec<_>>>()?
        }
        None => (0..input.len()).collect(),
    };
    if touched.len() != wanted.len() {
        return Err(Error::invalid_model(format!("{operator}: {} sizes for {} axes", wanted.len(), touched.len())));
    }
    let mut shape = input.to_vec();
    for (&axis, &value) in touched.iter().zip(wanted) {
        shape[axis] = size(value)?;
    }
    Ok(shape)
}

fn infer_center(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (ty.shape(), &inference.input(1)?.value) {
        (Some(shape), Some(wanted)) => {
            let shape = centered(inference.operator, &shape, &wanted.to_i64_vec()?)?;
            Some(shape.into_iter().map(Dim::Known).collect())
        }
        _ => ty.dims.as_ref().map(|dims| vec![Dim::Unknown; dims.len()]),
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Cuts, or fills with zeros, on both sides; an odd element is at the end.
fn center(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = centered(evaluation.operator, input.shape(), &integers(evaluation.input(1)?)?)?;
    evaluation.reserve(input.dtype(), &shape)?;
    let steps = strides(input.shape());
    let positions = indices(&shape).map(|index| {
        let mut position = 0;
        for axis in 0..index.len() {
            let (from, to) = (input.shape()[axis], shape[axis]);
            let at =
                if from >= to { index[axis] + (from - to) / 2 } else { index[axis].checked_sub((to - from) / 2)? };
            if at >= from {
                return None;
            }
            position += at * steps[axis];
        }
        Some(position)
    });
    Ok(vec![pick(input, &shape, positions, None)?])
}

/// The image, window and blocks of a Col2Im.
struct Columns {
    shape: Vec<usize>,
    block: Vec<usize>,
    blocks: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

impl Columns {
    fn resolve(operator: &Operator, input: &[usize], image: &[i64], block: &[i64]) -> Result<Columns> {
        let misfit = || Error::invalid_model(format!("{operator} of {input:?} into {} by {}", few(image), few(block)));
        let image = image.iter().map(|&v| size(v)).collect::<Result<Vec<_>>>()?;
        let block = block.iter().map(|&v| size(v)).collect::<Result<Vec<_>>>()?;
        let rank = image.len();
        let (&[batch, rows, count], true) = (input, rank == block.len() && rank > 0) else { return Err(misfit()) };
        let strides = per_axis(operator, "strides", rank, 1)?;
        let dilations = per_axis(operator, "dilations", rank, 1)?;
        let pads = per_axis(operator, "pads", 2 * rank, 0)?;
        let mut blocks = Vec::new();
        for axis in 0..rank {
            let padded = image[axis].checked_add(pads[axis]).and_then(|size| size.checked_add(pads[rank + axis]));
            let reach = block[axis].checked_sub(1).and_then(|steps| steps.checked_mul(dilations[axis]));
            let slack = padded.and_then(|padded| padded.checked_sub(reach?.checked_add(1)?)).ok_or_else(misfit)?;
            blocks.push(slack / strides[axis] + 1);
        }
        let taps = hetero_hal::element_count(&block).filter(|&taps| taps > 0 && rows % taps == 0).ok_or_else(misfit)?;
        if hetero_hal::element_count(&blocks) != Some(count) {
            return Err(misfit());
        }
        let shape = [&[batch, rows / taps], &image[..]].concat();
        Ok(Columns { shape, block, blocks, strides, dilations, pads })
    }
}

fn infer_columns(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (ty.shape(), &inference.input(1)?.value, &inference.input(2)?.value) {
        (Some(shape), Some(image), Some(block)) => {
            let columns = Columns::resolve(inference.operator, &shape, &image.to_i64_vec()?, &block.to_i64_vec()?)?;
            Some(columns.shape.into_iter().map(Dim::Known).collect())
        }
        _ => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Adds up the blocks [batch, channels * taps, blocks] where they overlap in the image.
fn columns(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let (image, block) = (integers(evaluation.input(1)?)?, integers(evaluation.input(2)?)?);
    let columns = Columns::resolve(evaluation.operator, input.shape(), &image, &block)?;
    let count = evaluation.reserve(hetero_hal::DType::F64, &columns.shape)?;
    take(count, size_of::<i128>())?;
    let numbers = match Numbers::of(input)? {
        Numbers::Floats(x) => Numbers::Floats(gather(&columns, &x, 0.0, |a, b| a + b)?),
        Numbers::Ints(x) => Numbers::Ints(gather(&columns, &x, 0, i128::wrapping_add)?),
    };
    Ok(vec![numbers.into_tensor(input.dtype(), &columns.shape)?])
}

/// Joins the numbers of blocks that meet in the same place of the image.
fn gather<T: Copy>(columns: &Columns, x: &[T], zero: T, join: impl Fn(T, T) -> T) -> Result<Vec<T>> {
    let count = element_count(&columns.shape).unwrap_or(usize::MAX);
    let space = &columns.shape[2..];
    let planes = columns.shape[0] * columns.shape[1];
    let plane: usize = space.iter().product();
    let steps = strides(space);
    let lists = |shape: &[usize]| -> Result<Vec<Vec<usize>>> {
        let each = size_of::<Vec<usize>>() + size_of_val(shape);
        take(element_count(shape).unwrap_or(usize::MAX), 2 * each)?;
        Ok(indices(shape).collect())
    };
    let mut result = vec![zero; count];
    let (taps, blocks) = (lists(&columns.block)?, lists(&columns.blocks)?);
    for p in 0..planes {
        for (t, tap) in taps.iter().enumerate() {
            for (b, at) in blocks.iter().enumerate() {
                spend(40)?;
                let place = |axis: usize| {
                    let moved = at[axis] * columns.strides[axis] + tap[axis] * columns.dilations[axis];
                    moved.checked_sub(columns.pads[axis]).filter(|&position| position < space[axis])
                };
                if let Some(index) = (0..space.len()).map(place).collect::<Option<Vec<_>>>() {
                    let into = &mut result[p * plane + offset(&index, &steps)];
                    *into = join(*into, x[(p * taps.len() + t) * blocks.len() + b]);
                }
            }
        }
    }
    Ok(result)
}

/// Writes an update into a cache along an axis, from a position that each batch has for itself.
fn write_cache(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (cache, update) = (evaluation.input(0)?, evaluation.input(1)?);
    let shape = cache.shape();
    let along = axis(operator.int("axis")?.unwrap_or(-2), shape.len())?;
    let starts = match evaluation.optional(2) {
        Some(tensor) => integers(tensor)?,
        None => vec![0; shape[0]],
    };
    let circular = match operator.text("mode")? {
        None | Some("linear") => false,
        Some("circular") => true,
        Some(other) => return Err(Error::invalid_model(format!("mode '{other}' of {operator} is unknown"))),
    };
    let (length, fresh) = (shape[along], update.shape().get(along).copied().unwrap_or(0));
    let fits = update.dtype() == cache.dtype()
        && update.rank() == shape.len()
        && along > 0
        && (0..shape.len()).all(|axis| axis == along || update.shape()[axis] == shape[axis])
        && fresh <= length
        && starts.len() == shape[0]
        && starts.iter().all(|&start| start >= 0 && (circular || start as usize <= length - fresh));
    if !fits {
        return Err(Error::invalid_model(format!("{operator} of {update:?} into {cache:?} at {starts:?}")));
    }
    let both = crate::slicing::join(&[cache.reshaped(&[cache.len()])?, update.reshaped(&[update.len()])?], 0)?;
    let steps = strides(update.shape());
    let positions = indices(shape).enumerate().map(|(own, mut index)| {
        let start = starts[index[0]] as usize % length.max(1);
        // The distance from the start of the update, around the end where the cache is circular.
        let distance = if index[along] >= start || !circular {
            index[along].checked_sub(start)
        } else {
            Some(index[along] + length - start)
        };
        match distance.filter(|&distance| distance < fresh) {
            Some(distance) => {
                index[along] = distance;
                Some(cache.len() + offset(&index, &steps))
            }
            None => Some(own),
        }
    });
    Ok(vec![pick(&both, shape, positions, None)?])
}

fn infer_det(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match &ty.dims {
        Some(dims) if dims.len() < 2 => return Err(Error::invalid_model("Det takes matrices")),
        Some(dims) => Some(dims[..dims.len() - 2].to_vec()),
        None => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Computes a determinant by Gaussian elimination with the largest pivot of each column.
fn det(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let (&[ref batch @ .., n, columns], true) = (input.shape(), input.rank() >= 2) else {
        return Err(Error::invalid_model("Det takes matrices"));
    };
    if n != columns {
        return Err(Error::invalid_model(format!("Det of {n} by {columns}")));
    }
    let x = floats(input)?;
    let count: usize = batch.iter().product();
    take(n * n + count, size_of::<f64>())?;
    let determinant = |matrix: usize| {
        let mut m = x[matrix * n * n..][..n * n].to_vec();
        let mut product = 1.0;
        for k in 0..n {
            let pivot = (k..n).max_by(|&a, &b| m[a * n + k].abs().total_cmp(&m[b * n + k].abs())).unwrap_or(k);
            if m[pivot * n + k] == 0.0 {
                return Ok(0.0);
            }
            if pivot != k {
                (0..n).for_each(|j| m.swap(pivot * n + j, k * n + j));
                product = -product;
            }
            product *= m[k * n + k];
            for row in k + 1..n {
                spend(n - k)?;
                let factor = m[row * n + k] / m[k * n + k];
                (k..n).for_each(|j| m[row * n + j] -= factor * m[k * n + j]);
            }
        }
        Ok(product)
    };
    Ok(vec![pack((0..count).map(determinant).collect::<Result<_>>()?, input.dtype(), batch)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn a_circular_cache_wraps_around() {
        let cache = Tensor::from_vec(&[1, 3, 1], vec![1i32, 2, 3]).unwrap();
        let update = Tensor::from_vec(&[1, 2, 1], vec![8i32, 9]).unwrap();
        let at = Tensor::from_vec(&[1], vec![2i64]).unwrap();
        let linear = Operator::new("TensorScatter", 24);
        let inputs = [Some(cache), Some(update), Some(at)];
        assert!(crate::evaluate(&linear, &inputs, 1).is_err());
        let circular = linear.with("mode", Attribute::String(b"circular"[..].into()));
        let y = crate::evaluate(&circular, &inputs, 1).unwrap();
        assert_eq!(&*y[0].view::<i32>().unwrap(), [9, 2, 8]);
    }

    #[test]
    fn determinants_mind_the_swaps() {
        let x = Tensor::from_vec(&[2, 2, 2], vec![0.0f32, 1.0, 1.0, 0.0, 1.0, 2.0, 2.0, 4.0]).unwrap();
        let y = crate::evaluate(&Operator::new("Det", 11), &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [-1.0, 0.0]);
    }
}
