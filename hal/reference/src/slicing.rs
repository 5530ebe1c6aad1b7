//! Operators that take parts of tensors, or put parts together.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::{indices, offset, pick, strides};
use crate::numbers::Numbers;
use crate::shapes::{axis, infer_same, integers, list, list_of, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Concat", 4, (1, usize::MAX), infer_concat, concat),
    Definition::new("Slice", 1, (1, 5), infer_slice, slice),
    Definition::new("Pad", 2, (1, 4), infer_pad, pad),
    Definition::new("Gather", 1, (2, 2), infer_gather, gather),
    Definition::new("GatherElements", 11, (2, 2), infer_gather_elements, gather_elements),
    Definition::new("GatherND", 11, (2, 2), infer_gather_nd, gather_nd),
    Definition::new("ScatterElements", 11, (3, 3), infer_same, scatter_elements),
    Definition::new("Scatter", 9, (3, 3), infer_same, scatter_elements),
    Definition::new("ScatterND", 11, (3, 3), infer_same, scatter_nd),
    Definition::new("OneHot", 9, (3, 3), infer_one_hot, one_hot),
    Definition::new("Trilu", 14, (1, 2), infer_same, trilu),
];

fn infer_concat(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let along = inference.operator.int("axis")?.ok_or_else(|| Error::invalid_model("Concat lacks its axis"))?;
    let mut result: Option<Vec<Dim>> = None;
    for index in 0..inference.inputs.len() {
        let Some(dims) = inference.dims(index)? else {
            return Ok(vec![TensorType { dtype, dims: None }]);
        };
        let along = axis(along, dims.len())?;
        result = Some(match result {
            None => dims.to_vec(),
            Some(known) if known.len() == dims.len() => {
                let merged = known.into_iter().zip(dims).enumerate();
                merged
                    .map(|(axis, (a, b))| if axis == along { add(&a, b) } else { same(a, b) })
                    .collect::<Result<_>>()?
            }
            Some(_) => return Err(Error::invalid_model("Concat of tensors of different rank")),
        });
    }
    Ok(vec![TensorType { dtype, dims: result }])
}

fn add(a: &Dim, b: &Dim) -> Result<Dim> {
    Ok(match (a, b) {
        (Dim::Known(a), Dim::Known(b)) => {
            Dim::Known(a.checked_add(*b).ok_or_else(|| Error::invalid_model("the size of a Concat overflows"))?)
        }
        (a, b) => match (a.bound(), b.bound()) {
            (Some(a), Some(b)) => Dim::Data { bound: a.saturating_add(b), extent: None },
            _ => Dim::Unknown,
        },
    })
}

fn same(a: Dim, b: &Dim) -> Result<Dim> {
    match (a.known(), b.known()) {
        (Some(x), Some(y)) if x != y => Err(Error::invalid_model(format!("Concat of sizes {x} and {y} off its axis"))),
        (None, Some(_)) => Ok(b.clone()),
        _ => Ok(a),
    }
}

/// Puts tensors behind each other along an axis.
/// The tensors agree in all other dimensions.
pub(crate) fn join(tensors: &[Tensor], along: usize) -> Result<Tensor> {
    let first = tensors.first().ok_or_else(|| Error::invalid_model("Concat of nothing"))?;
    let mut shape = first.shape().to_vec();
    shape[along] = 0;
    for tensor in tensors {
        let fits = tensor.dtype() == first.dtype()
            && tensor.rank() == shape.len()
            && (0..shape.len()).all(|axis| axis == along || tensor.shape()[axis] == shape[axis]);
        if !fits {
            return Err(Error::invalid_model(format!("Concat of {first:?} and {tensor:?} along axis {along}")));
        }
        let sum = shape[along].checked_add(tensor.shape()[along]);
        shape[along] = sum.ok_or_else(|| Error::invalid_model("the size of a Concat overflows"))?;
    }
    let outer: usize = shape[..along].iter().product();
    let overflow = || Error::invalid_model(format!("the size {shape:?} of a Concat overflows"));
    let count = element_count(&shape).ok_or_else(overflow)?;
    let bits = first.dtype().bits();
    // The parts and the whole are there at once, and elements that share a byte are packed again.
    let each = if first.dtype() == DType::String { 32 } else { 2 * bits.div_ceil(8) + usize::from(bits < 8) };
    take(count, each)?;
    take(tensors.len(), size_of::<Vec<u8>>())?;
    spend(count)?;
    if first.dtype() == DType::String {
        let mut strings = Vec::with_capacity(count);
        for o in 0..outer {
            spend(tensors.len())?;
            for tensor in tensors {
                let block = tensor.len() / outer;
                strings.extend_from_slice(&tensor.strings()?[o * block..(o + 1) * block]);
            }
        }
        return Tensor::from_strings(&shape, strings);
    }
    let narrow = !bits.is_multiple_of(8);
    // Elements that share a byte are taken apart first.
    let whole = |tensor: &Tensor| -> Vec<u8> {
        if narrow { crate::small::unpack(tensor.bytes(), bits, tensor.len()) } else { tensor.bytes().to_vec() }
    };
    let parts: Vec<Vec<u8>> = tensors.iter().map(whole).collect();
    let mut bytes = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    for o in 0..outer {
        spend(parts.len())?;
        for part in &parts {
            let block = part.len() / outer;
            bytes.extend_from_slice(&part[o * block..(o + 1) * block]);
        }
    }
    if narrow {
        bytes = crate::small::pack(&bytes, bits);
    }
    Tensor::from_bytes(first.dtype(), &shape, bytes.into())
}

fn concat(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let first = evaluation.input(0)?;
    let along = evaluation.operator.int("axis")?.ok_or_else(|| Error::invalid_model("Concat lacks its axis"))?;
    let mut tensors = Vec::new();
    for index in 0..evaluation.inputs.len() {
        tensors.push(evaluation.input(index)?.clone());
    }
    Ok(vec![join(&tensors, axis(along, first.rank())?)?])
}

/// Returns the start, step and count of a Slice along one axis.
fn range(dim: usize, start: i64, end: i64, step: i64) -> Result<(usize, i64, usize)> {
    if step == 0 {
        return Err(Error::invalid_model("Slice with step 0"));
    }
    let length = dim as i64;
    let from_end = |value: i64| if value < 0 { value.saturating_add(length) } else { value };
    if length == 0 {
        return Ok((0, step, 0));
    }
    // A start before the first element is the first element, also where the step goes backwards.
    let (start, end) = if step > 0 {
        (from_end(start).clamp(0, length), from_end(end).clamp(0, length))
    } else {
        (from_end(start).clamp(0, length - 1), from_end(end).clamp(-1, length - 1))
    };
    let distance = if step > 0 { end - start } else { start - end };
    if distance <= 0 {
        return Ok((0, step, 0));
    }
    let count = (distance as u64).div_ceil(step.unsigned_abs()) as usize;
    Ok((start.max(0) as usize, step, count))
}

/// The starts, ends, axes and steps of a Slice, from attributes (until opset 9) or inputs; `None`
/// where the node sets none.
type Slices = (Vec<i64>, Vec<i64>, Option<Vec<i64>>, Option<Vec<i64>>);

/// Reads the lists of a Slice; `None` where an input's content is not known.
fn slices(operator: &Operator, input: impl Fn(usize) -> Result<Option<Option<Vec<i64>>>>) -> Result<Option<Slices>> {
    if let (Some(starts), Some(ends)) = (operator.ints("starts")?, operator.ints("ends")?) {
        return Ok(Some((starts.to_vec(), ends.to_vec(), operator.ints("axes")?.map(<[i64]>::to_vec), None)));
    }
    let missing = || Error::invalid_model("Slice lacks its starts or ends");
    let (starts, ends) = (input(1)?.ok_or_else(missing)?, input(2)?.ok_or_else(missing)?);
    Ok(match (starts, ends, input(3)?, input(4)?) {
        (None, ..) | (_, None, ..) | (_, _, Some(None), _) | (_, _, _, Some(None)) => None,
        (Some(starts), Some(ends), axes, steps) => Some((starts, ends, axes.flatten(), steps.flatten())),
    })
}

/// Returns the start, step and count for each axis.
fn sliced(shape: &[usize], (starts, ends, axes, steps): &Slices) -> Result<Vec<(usize, i64, usize)>> {
    let mut ranges: Vec<(usize, i64, usize)> = shape.iter().map(|&dim| (0, 1, dim)).collect();
    for (position, &start) in starts.iter().enumerate() {
        let get = |list: &[i64]| {
            list.get(position).copied().ok_or_else(|| Error::invalid_model("the lists of a Slice differ in length"))
        };
        let along = match axes {
            Some(axes) => axis(get(axes)?, shape.len())?,
            None => axis(position as i64, shape.len())?,
        };
        let step = steps.as_deref().map_or(Ok(1), get)?;
        ranges[along] = range(shape[along], start, get(ends)?, step)?;
    }
    Ok(ranges)
}

fn infer_slice(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let Some(dims) = &ty.dims else {
        return Ok(vec![ty.clone()]);
    };
    let content = |index: usize| match inference.optional(index) {
        None => Ok(None),
        Some(fact) => Ok(Some(fact.value.as_ref().map(Tensor::to_i64_vec).transpose()?)),
    };
    let Some(lists) = slices(inference.operator, content)? else {
        let touched = match (content(3)?, inference.input(1)?.ty.shape().as_deref()) {
            (Some(Some(axes)), _) => {
                Some(axes.iter().map(|&value| axis(value, dims.len())).collect::<Result<Vec<_>>>()?)
            }
            (None, Some(&[count])) => Some((0..count.min(dims.len())).collect()),
            _ => None,
        };
        let open = |(axis, dim): (usize, &Dim)| match dim.bound() {
            _ if touched.as_ref().is_some_and(|touched| !touched.contains(&axis)) => dim.clone(),
            Some(bound) => Dim::Data { bound, extent: None },
            None => Dim::Unknown,
        };
        return Ok(vec![TensorType { dtype: ty.dtype, dims: Some(dims.iter().enumerate().map(open).collect()) }]);
    };
    // Sizes that are not known stay open on the axes that are sliced, and stay as they are on the
    // others.
    let stand_in: Vec<usize> = dims.iter().map(|dim| dim.bound().unwrap_or(0)).collect();
    let ranges = sliced(&stand_in, &lists)?;
    let touched: Vec<usize> = match &lists.2 {
        Some(axes) => axes.iter().map(|&value| axis(value, dims.len())).collect::<Result<_>>()?,
        None => (0..lists.0.len()).collect(),
    };
    let result = dims.iter().zip(ranges).enumerate().map(|(axis, (dim, (_, _, count)))| match dim {
        dim if !touched.contains(&axis) => dim.clone(),
        Dim::Known(_) => Dim::Known(count),
        Dim::Data { .. } => Dim::Data { bound: dim.bound().unwrap_or(count), extent: None },
        _ => Dim::Unknown,
    });
    Ok(vec![TensorType { dtype: ty.dtype, dims: Some(result.collect()) }])
}

fn slice(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let content = |index: usize| match evaluation.optional(index) {
        None => Ok(None),
        Some(tensor) => Ok(Some(Some(integers(tensor)?))),
    };
    let lists = slices(evaluation.operator, content)?.ok_or_else(|| Error::invalid_model("Slice lacks its starts"))?;
    let ranges = sliced(input.shape(), &lists)?;
    let shape: Vec<usize> = ranges.iter().map(|range| range.2).collect();
    let own = strides(input.shape());
    let position = |index: Vec<usize>| {
        let at = |(axis, i): (usize, &usize)| (ranges[axis].0 as i64 + *i as i64 * ranges[axis].1) as usize * own[axis];
        Some(index.iter().enumerate().map(at).sum())
    };
    Ok(vec![pick(input, &shape, indices(&shape).map(position), None)?])
}

/// Returns the paddings before and after each axis.
fn paddings(rank: usize, listed: &[i64], axes: Option<&[i64]>) -> Result<Vec<(i64, i64)>> {
    let mut result = vec![(0, 0); rank];
    let over: Vec<usize> = match axes {
        Some(axes) => axes.iter().map(|&value| axis(value, rank)).collect::<Result<_>>()?,
        None => (0..rank).collect(),
    };
    if listed.len() != 2 * over.len() {
        return Err(Error::invalid_model(format!("{} paddings for {} axes", listed.len(), over.len())));
    }
    for (position, &axis) in over.iter().enumerate() {
        result[axis] = (listed[position], listed[over.len() + position]);
    }
    Ok(result)
}

fn padded(dim: usize, (before, after): (i64, i64)) -> Result<usize> {
    let sum = i64::try_from(dim).ok().and_then(|dim| dim.checked_add(before)).and_then(|sum| sum.checked_add(after));
    let sum = sum.ok_or_else(|| Error::invalid_model("the size of a Pad overflows"))?;
    usize::try_from(sum).map_err(|_| Error::invalid_model(format!("Pad leaves the negative size {sum}")))
}

fn infer_pad(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let axes = match inference.optional(3) {
        None => Some(None),
        Some(fact) => fact.value.as_ref().map(Tensor::to_i64_vec).transpose()?.map(Some),
    };
    let dims = match (&ty.dims, list_of(inference, "pads", 1)?, axes) {
        (_, None, _) => return Err(Error::invalid_model("Pad lacks its pads")),
        (Some(dims), Some(Some(listed)), Some(axes)) => {
            let pads = paddings(dims.len(), &listed, axes.as_deref())?;
            let grown = dims.iter().zip(pads).map(|(dim, pads)| match dim {
                dim if pads == (0, 0) => Ok(dim.clone()),
                Dim::Known(size) => Ok(Dim::Known(padded(*size, pads)?)),
                _ => Ok(Dim::Unknown),
            });
            Some(grown.collect::<Result<_>>()?)
        }
        (dims, ..) => dims.as_ref().map(|dims| vec![Dim::Unknown; dims.len()]),
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn pad(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let listed = list(evaluation, "pads", 1)?.ok_or_else(|| Error::invalid_model("Pad lacks its pads"))?;
    let axes = evaluation.optional(3).map(integers).transpose()?;
    let pads = paddings(input.rank(), &listed, axes.as_deref())?;
    let dims = input.shape();
    let shape = dims.iter().zip(&pads).map(|(&dim, &pads)| padded(dim, pads)).collect::<Result<Vec<_>>>()?;
    evaluation.reserve(input.dtype(), &shape)?;
    let mode = operator.text("mode")?.unwrap_or("constant");
    let fold = |at: i64, size: usize| -> Result<Option<usize>> {
        let length = size as i64;
        if (0..length).contains(&at) {
            return Ok(Some(at as usize));
        }
        Ok(match mode {
            "constant" => None,
            _ if length == 0 => return Err(Error::invalid_model("Pad repeats what is empty")),
            "edge" => Some(at.clamp(0, length - 1) as usize),
            "wrap" => Some(at.rem_euclid(length) as usize),
            "reflect" if length == 1 => Some(0),
            "reflect" => {
                let period = 2 * (length - 1);
                let folded = at.rem_euclid(period);
                Some(folded.min(period - folded) as usize)
            }
            other => return Err(Error::invalid_model(format!("Pad mode '{other}' is unknown"))),
        })
    };
    // For each axis, the input index that each output index comes from.
    let mut sources: Vec<Vec<Option<usize>>> = Vec::with_capacity(dims.len());
    for axis in 0..dims.len() {
        take(shape[axis], size_of::<Option<usize>>())?;
        let mut from = Vec::with_capacity(shape[axis]);
        for i in 0..shape[axis] {
            spend(1)?;
            from.push(fold(i as i64 - pads[axis].0, dims[axis])?);
        }
        sources.push(from);
    }
    let fill = match (evaluation.optional(2), operator.float("value")?) {
        (Some(fill), _) => Some(fill.clone()),
        (None, Some(value)) => Some(Numbers::Floats(vec![f64::from(value)]).into_tensor(input.dtype(), &[1])?),
        (None, None) => None,
    };
    let own = strides(dims);
    let position = |index: Vec<usize>| {
        index.iter().enumerate().try_fold(0, |sum, (axis, &i)| sources[axis][i].map(|from| sum + from * own[axis]))
    };
    Ok(vec![pick(input, &shape, indices(&shape).map(position), fill.as_ref())?])
}

/// Returns an index into `dim` elements, counted from the end where it is negative.
fn position(value: i64, dim: usize) -> Result<usize> {
    let at = if value < 0 { value.saturating_add(dim as i64) } else { value };
    usize::try_from(at).ok().filter(|&at| at < dim).ok_or_else(|| {
        Error::new(hetero_hal::ErrorKind::Execution, format!("index {value} is outside a dimension of size {dim}"))
    })
}

fn infer_gather(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let dims = match (&ty.dims, inference.dims(1)?) {
        (Some(dims), Some(chosen)) => {
            let along = axis(inference.operator.int("axis")?.unwrap_or(0), dims.len())?;
            Some([&dims[..along], chosen, &dims[along + 1..]].concat())
        }
        _ => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn gather(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (input, chosen) = (evaluation.input(0)?, evaluation.input(1)?);
    let dims = input.shape();
    let along = axis(evaluation.operator.int("axis")?.unwrap_or(0), dims.len())?;
    let shape = [&dims[..along], chosen.shape(), &dims[along + 1..]].concat();
    evaluation.reserve(input.dtype(), &shape)?;
    let rows = integers(chosen)?.into_iter().map(|v| position(v, dims[along])).collect::<Result<Vec<_>>>()?;
    let outer: usize = dims[..along].iter().product();
    let inner: usize = dims[along + 1..].iter().product();
    let rows = &rows;
    let positions = (0..outer).flat_map(|o| {
        rows.iter().flat_map(move |row| (0..inner).map(move |i| Some((o * dims[along] + row) * inner + i)))
    });
    Ok(vec![pick(input, &shape, positions, None)?])
}

fn infer_gather_elements(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.input(1)?.ty.dims.clone();
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

fn gather_elements(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (input, chosen) = (evaluation.input(0)?, evaluation.input(1)?);
    let positions = element_positions(evaluation.operator, input.shape(), chosen)?;
    Ok(vec![pick(input, chosen.shape(), positions.into_iter().map(Some), None)?])
}

/// Returns, for each element of `chosen`, its own position in `shape` with the index along the axis
/// replaced.
fn element_positions(operator: &Operator, shape: &[usize], chosen: &Tensor) -> Result<Vec<usize>> {
    let along = axis(operator.int("axis")?.unwrap_or(0), shape.len())?;
    let fits = chosen.rank() == shape.len() && (0..shape.len()).all(|a| a == along || chosen.shape()[a] <= shape[a]);
    if !fits {
        return Err(Error::invalid_model(format!("indices {:?} for a tensor {shape:?}", chosen.shape())));
    }
    let own = strides(shape);
    let values = integers(chosen)?;
    let place = |(mut index, value): (Vec<usize>, i64)| {
        index[along] = position(value, shape[along])?;
        Ok(offset(&index, &own))
    };
    take(chosen.len(), size_of::<usize>())?;
    let mut places = Vec::with_capacity(chosen.len());
    for pair in indices(chosen.shape()).zip(values) {
        spend(20)?;
        places.push(place(pair)?);
    }
    Ok(places)
}

fn infer_gather_nd(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let batch = size(inference.operator.int("batch_dims")?.unwrap_or(0))?;
    let dims = match (&ty.dims, inference.dims(1)?) {
        (Some(dims), Some([chosen @ .., Dim::Known(depth)])) => {
            let rest = dims.get(batch.saturating_add(*depth)..);
            let rest = rest.ok_or_else(|| Error::invalid_model("GatherND has more indices than dimensions"))?;
            Some([chosen, rest].concat())
        }
        _ => None,
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// Returns the first positions of the blocks that rows of indices name, and the size of a block.
fn block_positions(shape: &[usize], chosen: &Tensor, batch: usize) -> Result<(Vec<usize>, usize)> {
    let misfit = || Error::invalid_model(format!("indices {:?} for a tensor {shape:?}", chosen.shape()));
    let depth = *chosen.shape().last().ok_or_else(misfit)?;
    let used = shape.get(batch..batch.saturating_add(depth)).ok_or_else(misfit)?;
    let own = strides(shape);
    let block: usize = shape[batch + depth..].iter().product();
    let rows: usize = chosen.shape()[..chosen.rank() - 1].iter().product();
    let batches: usize = shape[..batch].iter().product();
    let batch_size: usize = shape[batch..].iter().product();
    let values = integers(chosen)?;
    take(rows, size_of::<usize>())?;
    let mut starts = Vec::with_capacity(rows);
    for row in 0..rows {
        spend(4 * depth + 8)?;
        let mut start = row / rows.checked_div(batches).unwrap_or(1).max(1) * batch_size;
        for (level, &dim) in used.iter().enumerate() {
            start += position(values[row * depth + level], dim)? * own[batch + level];
        }
        starts.push(start);
    }
    Ok((starts, block))
}

fn gather_nd(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (input, chosen) = (evaluation.input(0)?, evaluation.input(1)?);
    let batch = size(evaluation.operator.int("batch_dims")?.unwrap_or(0))?;
    let (starts, block) = block_positions(input.shape(), chosen, batch)?;
    let depth = chosen.shape().last().copied().unwrap_or(0);
    let shape = [&chosen.shape()[..chosen.rank() - 1], &input.shape()[batch + depth..]].concat();
    evaluation.reserve(input.dtype(), &shape)?;
    let positions = starts.iter().flat_map(|start| (0..block).map(move |i| Some(start + i)));
    Ok(vec![pick(input, &shape, positions, None)?])
}

/// Writes `updates` at `positions`, one after the other, as the attribute `reduction` says.
fn scatter(evaluation: &Evaluation<'_>, positions: &[usize], updates: &Tensor) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let reduction = evaluation.operator.text("reduction")?.unwrap_or("none");
    if updates.dtype() != input.dtype() || updates.len() != positions.len() {
        return Err(Error::invalid_model(format!(
            "{updates:?} does not fit the {} places it goes to",
            positions.len()
        )));
    }
    if reduction == "none" {
        // Both tensors are laid end to end; the last update of a place wins.
        let joined = join(&[input.reshaped(&[input.len()])?, updates.reshaped(&[updates.len()])?], 0)?;
        take(input.len(), size_of::<usize>())?;
        spend(input.len() + positions.len())?;
        let mut from: Vec<usize> = (0..input.len()).collect();
        for (update, &place) in positions.iter().enumerate() {
            from[place] = input.len() + update;
        }
        return Ok(vec![pick(&joined, input.shape(), from.into_iter().map(Some), None)?]);
    }
    let unknown = || Error::invalid_model(format!("reduction '{reduction}' is unknown"));
    let numbers = match (Numbers::of(input)?, Numbers::of(updates)?) {
        (Numbers::Floats(mut x), Numbers::Floats(y)) => {
            for (&place, value) in positions.iter().zip(y) {
                x[place] = match reduction {
                    "add" => x[place] + value,
                    "mul" => x[place] * value,
                    "max" => crate::numbers::max(x[place], value),
                    "min" => crate::numbers::min(x[place], value),
                    _ => return Err(unknown()),
                };
            }
            Numbers::Floats(x)
        }
        (Numbers::Ints(mut x), Numbers::Ints(y)) => {
            for (&place, value) in positions.iter().zip(y) {
                x[place] = match reduction {
                    "add" => x[place].wrapping_add(value),
                    "mul" => x[place].wrapping_mul(value),
                    "max" => x[place].max(value),
                    "min" => x[place].min(value),
                    _ => return Err(unknown()),
                };
            }
            Numbers::Ints(x)
        }
        _ => return Err(unknown()),
    };
    Ok(vec![numbers.into_tensor(input.dtype(), input.shape())?])
}

fn scatter_elements(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let positions = element_positions(evaluation.operator, evaluation.input(0)?.shape(), evaluation.input(1)?)?;
    scatter(evaluation, &positions, evaluation.input(2)?)
}

fn scatter_nd(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (starts, block) = block_positions(evaluation.input(0)?.shape(), evaluation.input(1)?, 0)?;
    let count = starts.len().saturating_mul(block);
    take(count, size_of::<usize>())?;
    let mut positions = Vec::with_capacity(count);
    for start in starts {
        spend(block + 1)?;
        positions.extend(start..start + block);
    }
    scatter(evaluation, &positions, evaluation.input(2)?)
}

fn infer_one_hot(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(2)?;
    let depth = match &inference.input(1)?.value {
        Some(value) => match Numbers::of(value)?.floats().first() {
            Some(&depth) => Dim::Known(size(depth as i64)?),
            None => return Err(Error::invalid_model("OneHot lacks its depth")),
        },
        None => Dim::Unknown,
    };
    let dims = match inference.dims(0)? {
        None => None,
        Some(dims) => {
            let at = axis(inference.operator.int("axis")?.unwrap_or(-1), dims.len() + 1)?;
            let mut dims = dims.to_vec();
            dims.insert(at, depth);
            Some(dims)
        }
    };
    Ok(vec![TensorType { dtype, dims }])
}

fn one_hot(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (chosen, values) = (evaluation.input(0)?, evaluation.input(2)?);
    let depth = Numbers::of(evaluation.input(1)?)?.floats().first().copied().unwrap_or(0.0);
    let depth = size(depth as i64)?;
    let at = axis(evaluation.operator.int("axis")?.unwrap_or(-1), chosen.rank() + 1)?;
    let mut shape = chosen.shape().to_vec();
    shape.insert(at, depth);
    evaluation.reserve(values.dtype(), &shape)?;
    let hot = Numbers::of(chosen)?.floats();
    let own = strides(chosen.shape());
    // `values` holds the cold value, then the hot one.
    // An index outside the depth is cold everywhere.
    let choose = |mut index: Vec<usize>| {
        let here = index.remove(at) as f64;
        let wanted = hot[offset(&index, &own)];
        let wanted = if wanted < 0.0 { wanted + depth as f64 } else { wanted };
        Some(usize::from(here == wanted))
    };
    Ok(vec![pick(values, &shape, indices(&shape).map(choose), None)?])
}

fn trilu(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let k = evaluation.optional(1).map(integers).transpose()?.and_then(|k| k.first().copied()).unwrap_or(0);
    let upper = evaluation.operator.int("upper")?.unwrap_or(1) != 0;
    let &[.., rows, columns] = input.shape() else {
        return Err(Error::invalid_model("Trilu takes matrices"));
    };
    let keep = |p: usize| {
        let (row, column) = ((p / columns % rows) as i64, (p % columns) as i64);
        let distance = column - row;
        (if upper { distance >= k } else { distance <= k }).then_some(p)
    };
    Ok(vec![pick(input, input.shape(), (0..input.len()).map(keep), None)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::InputFact;

    use super::*;

    #[test]
    fn slices_clamp_and_run_backwards() {
        assert_eq!(range(5, 1, i64::MAX, 2).unwrap(), (1, 2, 2));
        assert_eq!(range(5, -1, i64::MIN, -1).unwrap(), (4, -1, 5));
        assert_eq!(range(4, -9, -9, -1).unwrap(), (0, -1, 1), "the standard clamps the start to the first");
        assert_eq!(range(0, -1, -9, -1).unwrap().2, 0);
        assert_eq!(range(5, 3, 1, 1).unwrap().2, 0);
        assert_eq!(range(0, 0, 9, 1).unwrap().2, 0);
        assert_eq!(range(5, 4, 0, i64::MIN).unwrap(), (4, i64::MIN, 1));
        assert!(range(5, 0, 5, 0).is_err());
    }

    #[test]
    fn an_end_that_is_not_known_opens_the_axes_that_are_sliced() {
        let fact = |value: Option<Tensor>, dims: &[usize]| {
            Some(InputFact { ty: TensorType::exact(DType::I64, dims), value, most: None })
        };
        let list = |values: &[i64]| Tensor::from_vec(&[values.len()], values.to_vec()).unwrap();
        let x = Some(InputFact { ty: TensorType::exact(DType::F32, &[2, 3, 4]), value: None, most: None });
        let none = |_: &str, _: &[TensorType]| Err(Error::internal("no subgraph"));
        let infer = |inputs: &[Option<InputFact>]| {
            let operator = Operator::new("Slice", 13);
            let inference = Inference { operator: &operator, inputs, outputs: 1, subgraph: &none };
            infer_slice(&inference).unwrap()[0].dims.clone().unwrap()
        };
        let open = |bound| Dim::Data { bound, extent: None };
        let inputs = [x.clone(), fact(Some(list(&[0])), &[1]), fact(None, &[1]), fact(Some(list(&[-1])), &[1])];
        assert_eq!(infer(&inputs), [Dim::Known(2), Dim::Known(3), open(4)]);
        // Without axes, the first are sliced.
        assert_eq!(infer(&inputs[..3]), [open(2), Dim::Known(3), Dim::Known(4)]);
        let hidden = [inputs[0].clone(), inputs[1].clone(), inputs[2].clone(), fact(None, &[1])];
        assert_eq!(infer(&hidden), [open(2), open(3), open(4)]);
    }

    #[test]
    fn scattering_the_same_place_twice() {
        let x = Tensor::from_vec(&[3], vec![1.0f32, 1.0, 1.0]).unwrap();
        let at = Tensor::from_vec(&[2], vec![-1i64, 2]).unwrap();
        let updates = Tensor::from_vec(&[2], vec![2.0f32, 5.0]).unwrap();
        let run = |op: Operator| {
            let inputs = [Some(x.clone()), Some(at.clone()), Some(updates.clone())];
            crate::evaluate(&op, &inputs, 1).unwrap()[0].view::<f32>().unwrap().into_owned()
        };
        assert_eq!(run(Operator::new("ScatterElements", 16)), [1.0, 1.0, 5.0]);
        let add =
            Operator::new("ScatterElements", 16).with("reduction", hetero_hal::Attribute::String(b"add"[..].into()));
        assert_eq!(run(add), [1.0, 1.0, 8.0]);
    }

    #[test]
    fn indices_outside_are_errors() {
        let x = Tensor::from_vec(&[3], vec![1u8, 2, 3]).unwrap();
        let at = Tensor::from_vec(&[1], vec![3i64]).unwrap();
        assert!(crate::evaluate(&Operator::new("Gather", 13), &[Some(x), Some(at)], 1).is_err());
    }
}
