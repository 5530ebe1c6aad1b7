//! Operators that keep the elements and change how they are arranged.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, take,
};

use crate::indexing::{broadcast_strides, permuted, pick, strided, strides};
use crate::shapes::{axes, axis, broadcast_dims, broadcast_shapes, few, infer_same, integers, list, list_of, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Identity", 1, (1, 1), infer_same, identity).in_place(&[0]),
    Definition::new("Dropout", 7, (1, 3), infer_dropout, dropout).outputs(2).in_place(&[0]),
    Definition::new("Reshape", 5, (2, 2), infer_reshape, reshape).in_place(&[0]),
    Definition::new("Flatten", 1, (1, 1), infer_flatten, flatten).in_place(&[0]),
    Definition::new("Squeeze", 1, (1, 2), infer_squeeze, squeeze).in_place(&[0]),
    Definition::new("Unsqueeze", 1, (1, 2), infer_unsqueeze, unsqueeze).in_place(&[0]),
    Definition::new("Transpose", 1, (1, 1), infer_transpose, transpose),
    Definition::new("Expand", 8, (2, 2), infer_expand, expand),
    Definition::new("Tile", 6, (2, 2), infer_tile, tile),
    Definition::new("DepthToSpace", 1, (1, 1), infer_blocks, blocks),
    Definition::new("SpaceToDepth", 1, (1, 1), infer_blocks, blocks),
];

fn identity(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![evaluation.input(0)?.clone()])
}

fn infer_dropout(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = inference.input(0)?.ty.clone();
    let mask = TensorType { dtype: Some(DType::Bool), dims: ty.dims.clone() };
    Ok(vec![ty, mask])
}

/// Computes a Dropout outside training, where nothing is dropped; in training the dropped elements
/// would be random, which is not for inference.
fn dropout(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let training = evaluation.optional(2).map(Tensor::view::<hetero_hal::Bool>).transpose()?;
    let ratio = evaluation.optional(1).map(crate::numbers::floats).transpose()?;
    let drops = ratio.is_none_or(|ratio| ratio.first() != Some(&0.0));
    if drops && training.is_some_and(|flag| flag.first().is_some_and(|flag| flag.get())) {
        return Err(Error::unsupported("Dropout in training mode"));
    }
    let input = evaluation.input(0)?;
    take(input.len(), 1)?;
    let mask = Tensor::from_vec(input.shape(), vec![hetero_hal::Bool::from(true); input.len()])?;
    Ok(vec![input.clone(), mask])
}

/// Returns the sizes that a Reshape asks for: 0 copies the input's size, and one -1 takes the
/// elements that are left.
fn reshaped(input: &[usize], wanted: &[i64], zero_is_zero: bool) -> Result<Vec<usize>> {
    let misfit = || Error::invalid_model(format!("{input:?} does not reshape to {}", few(wanted)));
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (position, &value) in wanted.iter().enumerate() {
        shape.push(match value {
            0 if !zero_is_zero => *input.get(position).ok_or_else(misfit)?,
            -1 if open.is_none() => {
                open = Some(position);
                1
            }
            value => usize::try_from(value).map_err(|_| misfit())?,
        });
    }
    let total = element_count(input).ok_or_else(misfit)?;
    let known = element_count(&shape).ok_or_else(misfit)?;
    match open {
        Some(position) => {
            let rest = total.checked_div(known).ok_or_else(misfit)?;
            shape[position] = rest;
            if rest * known == total { Ok(shape) } else { Err(misfit()) }
        }
        None if known == total => Ok(shape),
        None => Err(misfit()),
    }
}

fn infer_reshape(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let zero = inference.operator.int("allowzero")?.unwrap_or(0) != 0;
    let target = inference.input(1)?;
    let dims = match (&target.value, ty.shape()) {
        (Some(wanted), Some(shape)) => {
            let shape = reshaped(&shape, &wanted.to_i64_vec()?, zero)?;
            Some(shape.into_iter().map(Dim::Known).collect())
        }
        (Some(wanted), None) => {
            let copy = |position: usize| match &ty.dims {
                Some(dims) => dims.get(position).cloned().unwrap_or(Dim::Unknown),
                None => Dim::Unknown,
            };
            let wanted = wanted.to_i64_vec()?;
            let dim = |(position, value): (usize, &i64)| match value {
                0 if !zero => copy(position),
                -1 => Dim::Unknown,
                &value => usize::try_from(value).map_or(Dim::Unknown, Dim::Known),
            };
            let mut dims: Vec<Dim> = wanted.iter().enumerate().map(dim).collect();
            bound_open_size(ty, &mut dims);
            Some(dims)
        }
        // Only the rank is known, from the shape of the shape.
        (None, _) => match target.ty.shape().as_deref() {
            Some([rank]) if *rank <= 64 => Some(vec![Dim::Unknown; *rank]),
            _ => None,
        },
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Bounds the one open size of a Reshape whose input's size depends on data, by the input's bound.
fn bound_open_size(input: &TensorType, dims: &mut [Dim]) {
    let Some(total) = input.dims.as_ref().and_then(|dims| {
        dims.iter().map(Dim::bound).collect::<Option<Vec<_>>>().and_then(|sizes| element_count(&sizes))
    }) else {
        return;
    };
    let open: Vec<usize> = (0..dims.len()).filter(|&axis| matches!(dims[axis], Dim::Unknown)).collect();
    if let [axis] = open[..] {
        let others: Option<Vec<usize>> =
            dims.iter().filter(|dim| !matches!(dim, Dim::Unknown)).map(Dim::known).collect();
        if let Some(rest) = others.and_then(|sizes| element_count(&sizes)).filter(|&rest| rest > 0) {
            dims[axis] = Dim::Data { bound: total / rest, extent: None };
        }
    }
}

fn reshape(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let zero = evaluation.operator.int("allowzero")?.unwrap_or(0) != 0;
    let shape = reshaped(input.shape(), &integers(evaluation.input(1)?)?, zero)?;
    Ok(vec![input.reshaped(&shape)?])
}

/// Returns the axis of Flatten, which may also stand behind the last dimension.
fn flatten_axis(operator: &Operator, rank: usize) -> Result<usize> {
    match operator.int("axis")?.unwrap_or(1) {
        value if value == rank as i64 => Ok(rank),
        value => axis(value, rank),
    }
}

fn infer_flatten(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match &ty.dims {
        None => vec![Dim::Unknown; 2],
        Some(dims) => {
            let at = flatten_axis(inference.operator, dims.len())?;
            let product = |dims: &[Dim]| match dims {
                [single] => single.clone(),
                dims => dims
                    .iter()
                    .map(Dim::known)
                    .collect::<Option<Vec<_>>>()
                    .and_then(|sizes| element_count(&sizes))
                    .map_or(Dim::Unknown, Dim::Known),
            };
            vec![product(&dims[..at]), product(&dims[at..])]
        }
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims: Some(dims) }])
}

fn flatten(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let at = flatten_axis(evaluation.operator, input.rank())?;
    let shape: [usize; 2] = [input.shape()[..at].iter().product(), input.shape()[at..].iter().product()];
    Ok(vec![input.reshaped(&shape)?])
}

fn infer_squeeze(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (&ty.dims, list_of(inference, "axes", 1)?) {
        (Some(dims), Some(Some(list))) => {
            let gone = axes(&list, dims.len())?;
            if let Some(axis) = gone.iter().find(|&&axis| dims[axis].known().is_some_and(|size| size != 1)) {
                return Err(Error::invalid_model(format!("Squeeze of axis {axis} with size {}", dims[*axis])));
            }
            Some(dims.iter().enumerate().filter(|(axis, _)| !gone.contains(axis)).map(|(_, dim)| dim.clone()).collect())
        }
        (Some(dims), None) if dims.iter().all(|dim| dim.known().is_some()) => {
            Some(dims.iter().filter(|dim| dim.known() != Some(1)).cloned().collect())
        }
        _ => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn squeeze(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = input.shape();
    let gone = match list(evaluation, "axes", 1)? {
        Some(list) => axes(&list, shape.len())?,
        None => (0..shape.len()).filter(|&axis| shape[axis] == 1).collect(),
    };
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !gone.contains(axis)).map(|axis| shape[axis]).collect();
    Ok(vec![input.reshaped(&kept)?])
}

fn widened<T: Clone>(dims: &[T], list: &[i64], one: &T) -> Result<Vec<T>> {
    let rank = dims.len().saturating_add(list.len());
    let fresh = axes(list, rank)?;
    let mut old = dims.iter();
    let dim = |axis| if fresh.contains(&axis) { Some(one.clone()) } else { old.next().cloned() };
    Ok((0..rank).filter_map(dim).collect())
}

fn infer_unsqueeze(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (&ty.dims, list_of(inference, "axes", 1)?) {
        (_, None) => return Err(Error::invalid_model("Unsqueeze lacks its axes")),
        (Some(dims), Some(Some(list))) => Some(widened(dims, &list, &Dim::Known(1))?),
        _ => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn unsqueeze(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let list = list(evaluation, "axes", 1)?.ok_or_else(|| Error::invalid_model("Unsqueeze lacks its axes"))?;
    Ok(vec![input.reshaped(&widened(input.shape(), &list, &1)?)?])
}

/// Returns the order of dimensions of a Transpose, which is reversed where the attribute is not
/// set.
fn permutation(operator: &Operator, rank: usize) -> Result<Vec<usize>> {
    match operator.ints("perm")? {
        None => Ok((0..rank).rev().collect()),
        Some(perm) => {
            let order = perm.iter().map(|&value| axis(value, rank)).collect::<Result<Vec<_>>>()?;
            if order.len() != rank || axes(perm, rank).is_err() {
                return Err(Error::invalid_model(format!("perm {} is no permutation of {rank} axes", few(perm))));
            }
            Ok(order)
        }
    }
}

fn infer_transpose(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match &ty.dims {
        None => None,
        Some(dims) => {
            let order = permutation(inference.operator, dims.len())?;
            Some(order.into_iter().map(|axis| dims[axis].clone()).collect())
        }
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn transpose(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let order = permutation(evaluation.operator, input.rank())?;
    Ok(vec![permuted(input, &order)?])
}

fn infer_expand(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (&ty.dims, &inference.input(1)?.value) {
        (Some(dims), Some(target)) => {
            let target =
                target.to_i64_vec()?.into_iter().map(|v| Ok(Dim::Known(size(v)?))).collect::<Result<Vec<_>>>()?;
            Some(broadcast_dims(dims, &target)?)
        }
        _ => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn expand(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    // Shapes and strides are as long as the target.
    take(evaluation.input(1)?.len(), 4 * size_of::<usize>())?;
    let target = integers(evaluation.input(1)?)?.into_iter().map(size).collect::<Result<Vec<_>>>()?;
    let shape = broadcast_shapes([input.shape(), &target])?;
    evaluation.reserve(input.dtype(), &shape)?;
    let positions = strided(&shape, &broadcast_strides(input.shape(), &shape), 0)?;
    Ok(vec![pick(input, &shape, positions.into_iter().map(Some), None)?])
}

fn tiled(shape: &[usize], repeats: &[i64]) -> Result<Vec<usize>> {
    if repeats.len() != shape.len() {
        return Err(Error::invalid_model(format!("{} repeats for a tensor of rank {}", repeats.len(), shape.len())));
    }
    let overflow = || Error::invalid_model(format!("{shape:?} repeated {repeats:?} times overflows"));
    shape.iter().zip(repeats).map(|(dim, &r)| dim.checked_mul(size(r)?).ok_or_else(overflow)).collect()
}

fn infer_tile(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (ty.shape(), &inference.input(1)?.value) {
        (Some(shape), Some(repeats)) => {
            Some(tiled(&shape, &repeats.to_i64_vec()?)?.into_iter().map(Dim::Known).collect())
        }
        _ => ty.dims.as_ref().map(|dims| vec![Dim::Unknown; dims.len()]),
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn tile(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = tiled(input.shape(), &integers(evaluation.input(1)?)?)?;
    evaluation.reserve(input.dtype(), &shape)?;
    let own = strides(input.shape());
    let positions = crate::indexing::indices(&shape).map(|index| {
        Some(index.iter().zip(input.shape()).zip(&own).map(|((i, size), stride)| i % size * stride).sum())
    });
    Ok(vec![pick(input, &shape, positions, None)?])
}

fn block(operator: &Operator, shape: &[usize]) -> Result<(usize, Vec<usize>)> {
    let block = usize::try_from(operator.int("blocksize")?.unwrap_or(0)).ok().filter(|b| (1..1 << 16).contains(b));
    let block = block.ok_or_else(|| Error::invalid_model(format!("{operator} has no valid blocksize")))?;
    let misfit = || Error::invalid_model(format!("blocks of {block} do not fit {shape:?} in {operator}"));
    let &[n, c, h, w] = shape else { return Err(misfit()) };
    if operator.is("DepthToSpace") {
        if c % (block * block) != 0 {
            return Err(misfit());
        }
        return Ok((block, vec![n, c / (block * block), h.saturating_mul(block), w.saturating_mul(block)]));
    }
    if h % block != 0 || w % block != 0 {
        return Err(misfit());
    }
    Ok((block, vec![n, c.saturating_mul(block * block), h / block, w / block]))
}

fn infer_blocks(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match ty.shape() {
        Some(shape) => block(inference.operator, &shape)?.1.into_iter().map(Dim::Known).collect(),
        None => vec![Dim::Unknown; 4],
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims: Some(dims) }])
}

/// Transposes a view that has blocks as dimensions of their own.
fn blocks(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let (b, shape) = block(operator, input.shape())?;
    let &[n, c, h, w] = input.shape() else { return Err(Error::internal("rank was checked")) };
    let (view, order) = if operator.is("SpaceToDepth") {
        (vec![n, c, h / b, b, w / b, b], [0, 3, 5, 1, 2, 4])
    } else if operator.text("mode")? == Some("CRD") {
        (vec![n, c / (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3])
    } else {
        (vec![n, b, b, c / (b * b), h, w], [0, 3, 4, 1, 5, 2])
    };
    let own = strides(&view);
    let sizes: Vec<usize> = order.iter().map(|&axis| view[axis]).collect();
    let steps: Vec<usize> = order.iter().map(|&axis| own[axis]).collect();
    Ok(vec![pick(input, &shape, strided(&sizes, &steps, 0)?.into_iter().map(Some), None)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_fills_in_zero_and_minus_one() {
        assert_eq!(reshaped(&[2, 3, 4], &[0, -1], false).unwrap(), [2, 12]);
        assert_eq!(reshaped(&[0, 3], &[0, 7], true).unwrap(), [0, 7]);
        for bad in [&[5, -1][..], &[-1, -1], &[-2, 12], &[24, 1, 1, 0], &[i64::MAX, i64::MAX]] {
            assert!(reshaped(&[2, 3, 4], bad, false).is_err(), "{bad:?}");
        }
    }
}
