//! Normalisation over batches, layers, instances, groups and neighbouring channels.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::{broadcast_strides, strided};
use crate::numbers::{floats, pack};
use crate::shapes::{axis, elements, infer_same};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("BatchNormalization", 6, (5, 5), infer_batch, batch).outputs(5).counting(flops).in_place(&[0]),
    Definition::new("InstanceNormalization", 6, (3, 3), infer_same, instance).counting(flops),
    Definition::new("GroupNormalization", 18, (3, 3), infer_same, group).counting(flops),
    Definition::new("LayerNormalization", 17, (2, 3), infer_layer, layer).outputs(3).counting(flops),
    Definition::new("RMSNormalization", 23, (2, 2), infer_same, layer).counting(flops),
    Definition::new("LpNormalization", 1, (1, 1), infer_same, lp).counting(flops),
    Definition::new("MeanVarianceNormalization", 9, (1, 1), infer_same, mean_variance).counting(flops),
    Definition::new("LRN", 1, (1, 1), infer_same, lrn).counting(lrn_flops),
];

fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(4)
}

fn lrn_flops(operator: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let size = operator.int("size").ok().flatten().unwrap_or(1).max(1) as u64;
    outputs.first().map_or(0, elements).saturating_mul(size.saturating_mul(2).saturating_add(3))
}

fn infer_batch(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let statistics = inference.input(3)?.ty.clone();
    let mut types = vec![inference.input(0)?.ty.clone()];
    types.resize(inference.outputs.max(1), statistics);
    Ok(types)
}

/// Infers the types of a LayerNormalization, whose statistics have size 1 in the normalised
/// dimensions.
pub(crate) fn infer_layer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = inference.input(0)?.ty.clone();
    let first = inference.operator.int("axis")?.unwrap_or(-1);
    let dims = match &ty.dims {
        None => None,
        Some(dims) => {
            let first = axis(first, dims.len())?;
            Some(dims.iter().enumerate().map(|(i, d)| if i < first { d.clone() } else { Dim::Known(1) }).collect())
        }
    };
    let statistics = TensorType { dtype: Some(DType::F32), dims };
    Ok(vec![ty, statistics.clone(), statistics])
}

fn epsilon(operator: &Operator) -> Result<f64> {
    Ok(f64::from(operator.float("epsilon")?.unwrap_or(1e-5)))
}

/// Returns the sizes before the channels, of the channels, and behind them.
fn channels(evaluation: &Evaluation<'_>) -> Result<(usize, usize, usize)> {
    match evaluation.input(0)?.shape() {
        [batch, channels, rest @ ..] => Ok((*batch, *channels, rest.iter().product())),
        // A batch of scalars has one channel.
        [batch] => Ok((*batch, 1, 1)),
        [] => Err(Error::invalid_model(format!("{} over a scalar", evaluation.operator))),
    }
}

fn per_channel(evaluation: &Evaluation<'_>, index: usize, channels: usize) -> Result<Vec<f64>> {
    let values = floats(evaluation.input(index)?)?;
    if values.len() != channels {
        return Err(Error::invalid_model(format!(
            "input {index} of {} has {} elements for {channels} channels",
            evaluation.operator,
            values.len()
        )));
    }
    Ok(values)
}

fn batch(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let (batch, channels, plane) = channels(evaluation)?;
    let scale = per_channel(evaluation, 1, channels)?;
    let shift = per_channel(evaluation, 2, channels)?;
    let mut mean = per_channel(evaluation, 3, channels)?;
    let mut variance = per_channel(evaluation, 4, channels)?;
    let epsilon = epsilon(operator)?;
    let x = floats(input)?;
    let mut running = None;
    if operator.int("training_mode")?.unwrap_or(0) != 0 {
        let momentum = f64::from(operator.float("momentum")?.unwrap_or(0.9));
        let count = (batch * plane) as f64;
        let values = |c: usize| (0..batch).flat_map(move |n| (0..plane).map(move |p| (n * channels + c) * plane + p));
        let (old_mean, old_variance) = (mean.clone(), variance.clone());
        for c in 0..channels {
            spend(3 * batch * plane)?;
            mean[c] = values(c).map(|i| x[i]).sum::<f64>() / count;
            variance[c] = values(c).map(|i| (x[i] - mean[c]).powi(2)).sum::<f64>() / count;
        }
        let blend = |old: &[f64], new: &[f64]| -> Vec<f64> {
            old.iter().zip(new).map(|(old, new)| old * momentum + new * (1.0 - momentum)).collect()
        };
        running = Some((blend(&old_mean, &mean), blend(&old_variance, &variance)));
    } else if evaluation.outputs > 1 {
        return Err(Error::unsupported("BatchNormalization with statistics as outputs, outside training mode"));
    }
    take(x.len(), size_of::<f64>())?;
    spend(4 * x.len())?;
    let normalised = x.iter().enumerate().map(|(index, value)| {
        let c = index / plane.max(1) % channels.max(1);
        (value - mean[c]) / (variance[c] + epsilon).sqrt() * scale[c] + shift[c]
    });
    let mut outputs = vec![pack(normalised.collect(), input.dtype(), input.shape())?];
    if let Some((mean, variance)) = running {
        let dtype = evaluation.input(3)?.dtype();
        outputs.push(pack(mean, dtype, &[channels])?);
        outputs.push(pack(variance, dtype, &[channels])?);
    }
    Ok(outputs)
}

/// Returns the mean and `1 / sqrt(variance + epsilon)` of some values.
fn moments(values: &[f64], epsilon: f64) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance + epsilon).sqrt().recip())
}

fn instance(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (_, channels, plane) = channels(evaluation)?;
    normalise_blocks(evaluation, plane, channels, |c| c)
}

/// Computes a GroupNormalization, whose scale and bias are for each channel from opset 21 on, and
/// for each group before.
fn group(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (_, channels, plane) = channels(evaluation)?;
    let groups = operator.int("num_groups")?.unwrap_or(0);
    let groups = usize::try_from(groups)
        .ok()
        .filter(|&g| g > 0 && channels % g == 0)
        .ok_or_else(|| Error::invalid_model(format!("{operator} has {groups} groups for {channels} channels")))?;
    let each = channels / groups;
    if operator.version >= 21 {
        normalise_blocks(evaluation, plane * each, channels, |c| c)
    } else {
        normalise_blocks(evaluation, plane * each, groups, |c| c / each)
    }
}

/// Normalises blocks of `block` elements, then scales and shifts each channel by the parameters
/// that `parameter` names.
fn normalise_blocks(
    evaluation: &Evaluation<'_>,
    block: usize,
    parameters: usize,
    parameter: impl Fn(usize) -> usize,
) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let (_, channels, plane) = channels(evaluation)?;
    let scale = per_channel(evaluation, 1, parameters)?;
    let shift = per_channel(evaluation, 2, parameters)?;
    let epsilon = epsilon(evaluation.operator)?;
    let mut values = floats(input)?;
    for (number, chunk) in values.chunks_mut(block.max(1)).enumerate() {
        spend(6 * chunk.len())?;
        let (mean, inverse) = moments(chunk, epsilon);
        for (index, value) in chunk.iter_mut().enumerate() {
            let c = parameter((number * block + index) / plane % channels);
            *value = (*value - mean) * inverse * scale[c] + shift[c];
        }
    }
    Ok(vec![pack(values, input.dtype(), input.shape())?])
}

pub(crate) fn layer(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let first = axis(operator.int("axis")?.unwrap_or(-1), input.rank())?;
    let normalised = &input.shape()[first..];
    let block: usize = normalised.iter().product();
    let epsilon = epsilon(operator)?;
    let centred = operator.is("LayerNormalization");
    let spread = |index: usize| -> Result<Option<Vec<f64>>> {
        let Some(tensor) = evaluation.optional(index) else { return Ok(None) };
        if crate::shapes::broadcast_shapes([tensor.shape(), normalised])? != normalised {
            return Err(Error::invalid_model(format!(
                "input {index} of {operator} does not broadcast to {normalised:?}"
            )));
        }
        let values = floats(tensor)?;
        let positions = strided(normalised, &broadcast_strides(tensor.shape(), normalised), 0)?;
        take(positions.len(), size_of::<f64>())?;
        Ok(Some(positions.into_iter().map(|p| values[p]).collect()))
    };
    let (scale, shift) = (spread(1)?, spread(2)?);
    let mut values = floats(input)?;
    let (mut means, mut inverses) = (Vec::new(), Vec::new());
    take(values.len() / block.max(1), 4 * size_of::<f64>())?;
    for chunk in values.chunks_mut(block.max(1)) {
        spend(6 * chunk.len())?;
        let (mean, inverse) = if centred {
            moments(chunk, epsilon)
        } else {
            let square = chunk.iter().map(|v| v * v).sum::<f64>() / chunk.len() as f64;
            (0.0, (square + epsilon).sqrt().recip())
        };
        for (index, value) in chunk.iter_mut().enumerate() {
            let scaled = (*value - mean) * inverse * scale.as_ref().map_or(1.0, |scale| scale[index]);
            *value = scaled + shift.as_ref().map_or(0.0, |shift| shift[index]);
        }
        means.push(mean);
        inverses.push(inverse);
    }
    let mut statistics = input.shape()[..first].to_vec();
    statistics.resize(input.rank(), 1);
    let mut outputs = vec![pack(values, input.dtype(), input.shape())?];
    if evaluation.outputs > 1 {
        outputs.push(pack(means, DType::F32, &statistics)?);
        outputs.push(pack(inverses, DType::F32, &statistics)?);
    }
    Ok(outputs)
}

fn lp(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let along = axis(operator.int("axis")?.unwrap_or(-1), input.rank())?;
    let squared = operator.int("p")?.unwrap_or(2) != 1;
    let inner: usize = input.shape()[along + 1..].iter().product();
    let length = input.shape()[along];
    let mut values = floats(input)?;
    for start in 0..values.len() / length.max(1) {
        spend(4 * length)?;
        let at = |i: usize| (start / inner * length + i) * inner + start % inner;
        let norm: f64 = if squared {
            (0..length).map(|i| values[at(i)].powi(2)).sum::<f64>().sqrt()
        } else {
            (0..length).map(|i| values[at(i)].abs()).sum()
        };
        for i in 0..length {
            values[at(i)] = if norm == 0.0 { 0.0 } else { values[at(i)] / norm };
        }
    }
    Ok(vec![pack(values, input.dtype(), input.shape())?])
}

fn lrn(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let (batch, channels, plane) = channels(evaluation)?;
    let size = operator.int("size")?.filter(|&size| size > 0);
    let size = size.ok_or_else(|| Error::invalid_model("LRN needs a positive size"))? as usize;
    let alpha = f64::from(operator.float("alpha")?.unwrap_or(1e-4));
    let beta = f64::from(operator.float("beta")?.unwrap_or(0.75));
    let bias = f64::from(operator.float("bias")?.unwrap_or(1.0));
    let x = floats(input)?;
    take(x.len(), size_of::<f64>())?;
    let mut values = Vec::with_capacity(x.len());
    for n in 0..batch {
        for c in 0..channels {
            let low = c.saturating_sub((size - 1) / 2);
            let high = c.saturating_add(size / 2).min(channels - 1);
            for p in 0..plane {
                spend(4 * (high - low) + 40)?;
                let at = |c: usize| x[(n * channels + c) * plane + p];
                let squares: f64 = (low..=high).map(|c| at(c).powi(2)).sum();
                values.push(at(c) / (bias + alpha / size as f64 * squares).powf(beta));
            }
        }
    }
    Ok(vec![pack(values, input.dtype(), input.shape())?])
}
/// The number that is added to a deviation, so that nothing is divided by zero.
const LEAST_DEVIATION: f64 = 1e-9;

/// Subtracts the mean over the listed axes, and divides by the deviation.
fn mean_variance(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = input.shape();
    let over = crate::shapes::axes(evaluation.operator.ints("axes")?.unwrap_or(&[0, 2, 3]), shape.len())?;
    let kept: Vec<usize> = (0..shape.len()).map(|axis| if over.contains(&axis) { 1 } else { shape[axis] }).collect();
    let groups = strided(shape, &broadcast_strides(&kept, shape), 0)?;
    take(element_count(&kept).unwrap_or(usize::MAX), size_of::<(f64, f64, f64)>())?;
    spend(8 * groups.len())?;
    let mut sums = vec![(0.0, 0.0, 0.0); kept.iter().product()];
    let mut x = floats(input)?;
    for (&group, v) in groups.iter().zip(&x) {
        let (count, sum, squares) = &mut sums[group];
        *count += 1.0;
        *sum += v;
        *squares += v * v;
    }
    for (&group, v) in groups.iter().zip(&mut x) {
        let (count, sum, squares) = sums[group];
        let mean: f64 = sum / count;
        // Rounding may lead below 0, and NaN must stay.
        let deviation = crate::numbers::max(squares / count - mean * mean, 0.0).sqrt();
        *v = (*v - mean) / (deviation + LEAST_DEVIATION);
    }
    Ok(vec![pack(x, input.dtype(), shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn a_window_over_more_channels_than_there_are_takes_all() {
        let x = Tensor::from_vec(&[1, 2, 1, 1], vec![3.0f32, 4.0]).unwrap();
        for size in [1 << 62, i64::MAX] {
            let lrn = Operator::new("LRN", 13).with("size", Attribute::Int(size));
            let y = crate::evaluate(&lrn, &[Some(x.clone())], 1).unwrap();
            assert_eq!(&*y[0].view::<f32>().unwrap(), [3.0, 4.0]);
            assert_eq!(lrn_flops(&lrn, &[], &[TensorType::exact(DType::F32, &[1, 2, 1, 1])]), u64::MAX);
        }
    }
}
