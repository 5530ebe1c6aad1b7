//! Convolutions: plain, transposed, deformable and quantised.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, spend, take,
};

use crate::indexing::indices;
use crate::numbers::{Numbers, floats, pack};
use crate::shapes::elements;
use crate::window::{Padding, Window, output_dims, padding_rule, per_axis};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Conv", 1, (2, 3), infer, conv).counting(flops),
    Definition::new("ConvTranspose", 1, (2, 3), infer_transpose, transpose).counting(transpose_flops),
    Definition::new("DeformConv", 19, (3, 5), infer, deformed).counting(flops),
    Definition::new("ConvInteger", 10, (2, 4), infer_integer, integer).counting(flops),
    Definition::new("QLinearConv", 10, (8, 9), infer_quantized, quantized).counting(quantized_flops),
];

/// Counts a multiply-add for each output element and each weight of its output channel.
fn flops(_: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let weights = inputs.get(1).and_then(Option::as_ref);
    let channels = weights.and_then(|ty| ty.dims.as_ref()?.first()?.known()).unwrap_or(1).max(1) as u64;
    let taps = weights.map_or(0, elements) / channels;
    outputs.first().map_or(0, elements).saturating_mul(2).saturating_mul(taps)
}

/// Counts a multiply-add for each input element and each weight of its input channel.
fn transpose_flops(_: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    let weights = inputs.get(1).and_then(Option::as_ref);
    let channels = weights.and_then(|ty| ty.dims.as_ref()?.first()?.known()).unwrap_or(1).max(1) as u64;
    let taps = weights.map_or(0, elements) / channels;
    inputs.first().and_then(Option::as_ref).map_or(0, elements).saturating_mul(2).saturating_mul(taps)
}

fn groups(operator: &Operator) -> Result<usize> {
    match operator.int("group")?.unwrap_or(1) {
        group if (1..1 << 31).contains(&group) => Ok(group as usize),
        group => Err(Error::invalid_model(format!("{operator} has {group} groups"))),
    }
}

fn ranks(operator: &Operator, input: usize, weights: usize) -> Result<()> {
    if input < 3 || input != weights {
        return Err(Error::invalid_model(format!("{operator} over rank {input} with weights of rank {weights}")));
    }
    Ok(())
}

fn infer_integer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = infer(inference)?.swap_remove(0).dims;
    Ok(vec![TensorType { dtype: Some(DType::I32), dims }])
}

/// Infers the type of a QLinearConv.
/// Its inputs are x with its scale and zero point, w with its scale and zero point, the output's
/// scale and zero point, and a bias.
fn infer_quantized(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let inputs = [inference.inputs[0].clone(), inference.inputs[3].clone()];
    let plain = Inference { operator: inference.operator, inputs: &inputs, outputs: 1, subgraph: inference.subgraph };
    let dims = infer(&plain)?.swap_remove(0).dims;
    Ok(vec![TensorType { dtype: inference.dtype(7)?, dims }])
}

fn quantized_flops(operator: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let plain = [inputs.first().cloned().flatten(), inputs.get(3).cloned().flatten()];
    flops(operator, &plain, outputs)
}

/// Returns integers less their zero point, of which there is one for all, or one for each slice
/// along the first axis.
fn shifted(tensor: &Tensor, zero: Option<&Tensor>) -> Result<Vec<f64>> {
    let mut values = floats(tensor)?;
    let Some(zero) = zero else { return Ok(values) };
    let zeros = floats(zero)?;
    let slice = values.len() / tensor.shape().first().copied().unwrap_or(1).max(1);
    let fits = zeros.len() == 1 || tensor.shape().first() == Some(&zeros.len());
    if !fits {
        return Err(Error::invalid_model(format!("zero points {zero:?} do not fit {tensor:?}")));
    }
    for (index, value) in values.iter_mut().enumerate() {
        *value -= zeros[if zeros.len() == 1 { 0 } else { index / slice.max(1) }];
    }
    Ok(values)
}

fn integer(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (input, weights) = (evaluation.input(0)?, evaluation.input(1)?);
    let x = shifted(input, evaluation.optional(2))?;
    let w = shifted(weights, evaluation.optional(3))?;
    let (result, shape) = convolve(evaluation, (&x, input.shape()), (&w, weights.shape()), None, DType::I32)?;
    Ok(vec![wrapped(&result, DType::I32, &shape)?])
}

/// Packs sums of products, which are whole numbers and stay exact here up to 2^53.
fn wrapped(values: &[f64], dtype: DType, shape: &[usize]) -> Result<Tensor> {
    take(values.len(), size_of::<i128>())?;
    Numbers::Ints(values.iter().map(|&v| v as i128).collect()).into_tensor(dtype, shape)
}

fn quantized(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (input, weights, zero) = (evaluation.input(0)?, evaluation.input(3)?, evaluation.input(7)?);
    let x = shifted(input, Some(evaluation.input(2)?))?;
    let w = shifted(weights, Some(evaluation.input(5)?))?;
    let bias = evaluation.optional(8).map(floats).transpose()?;
    let (result, shape) =
        convolve(evaluation, (&x, input.shape()), (&w, weights.shape()), bias.as_deref(), DType::I32)?;
    let w_scales = floats(evaluation.input(4)?)?;
    let plane: usize = shape[2..].iter().product();
    let per_channel = |index: usize| if w_scales.len() == 1 { 0 } else { index / plane.max(1) % shape[1] };
    if w_scales.len() != 1 && w_scales.len() != shape[1] {
        return Err(Error::invalid_model(format!("{} scales for {} output channels", w_scales.len(), shape[1])));
    }
    let first = |index: usize| -> Result<f64> {
        floats(evaluation.input(index)?)?.first().copied().ok_or_else(|| Error::invalid_model("an empty scale"))
    };
    let (x_scale, y_scale, y_zero) = (first(1)?, first(6)?, first(7)?);
    let real = result.into_iter().enumerate().map(|(index, v)| v * (x_scale * w_scales[per_channel(index)] / y_scale));
    Ok(vec![crate::quantize::quantized(real, |_| y_zero, zero.dtype(), &shape)?])
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let (Some(input), Some(weights)) = (inference.dims(0)?, inference.dims(1)?) else {
        return Ok(vec![TensorType { dtype, dims: None }]);
    };
    ranks(inference.operator, input.len(), weights.len())?;
    let mut dims = vec![input[0].clone(), weights[0].clone()];
    match weights[2..].iter().map(Dim::known).collect::<Option<Vec<_>>>() {
        Some(kernel) => {
            declared_kernel(inference.operator, &kernel)?;
            dims.extend(output_dims(inference.operator, &input[2..], &kernel)?);
        }
        None => dims.resize(input.len(), Dim::Unknown),
    }
    if let (Some(channels), Some(per_group)) = (input[1].known(), weights[1].known()) {
        check_channels(inference.operator, channels, per_group, weights[0].known())?;
    }
    Ok(vec![TensorType { dtype, dims: Some(dims) }])
}

/// Checks that `kernel_shape`, where it is set, repeats the sizes of the weights.
fn declared_kernel(operator: &Operator, kernel: &[usize]) -> Result<()> {
    if operator.ints("kernel_shape")?.is_some() && per_axis(operator, "kernel_shape", kernel.len(), 1)? != kernel {
        return Err(Error::invalid_model(format!("kernel_shape differs from the weights' {kernel:?}")));
    }
    Ok(())
}

fn check_channels(operator: &Operator, channels: usize, per_group: usize, outputs: Option<usize>) -> Result<()> {
    let groups = groups(operator)?;
    let fits = per_group.checked_mul(groups) == Some(channels) && outputs.is_none_or(|out| out % groups == 0);
    if fits {
        return Ok(());
    }
    Err(Error::invalid_model(format!(
        "{operator}: {channels} input channels, {groups} groups of {per_group} and {outputs:?} output channels do not fit"
    )))
}

fn conv(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (input, weights) = (evaluation.input(0)?, evaluation.input(1)?);
    let (x, w) = (floats(input)?, floats(weights)?);
    let bias = evaluation.optional(2).map(floats).transpose()?;
    let (result, shape) =
        convolve(evaluation, (&x, input.shape()), (&w, weights.shape()), bias.as_deref(), input.dtype())?;
    Ok(vec![pack(result, input.dtype(), &shape)?])
}

/// Convolves numbers under their shapes, by the node's attributes; `dtype` is the element type that
/// the result will have.
pub(crate) fn convolve(
    evaluation: &Evaluation<'_>,
    (x, x_shape): (&[f64], &[usize]),
    (w, w_shape): (&[f64], &[usize]),
    bias: Option<&[f64]>,
    dtype: DType,
) -> Result<(Vec<f64>, Vec<usize>)> {
    let operator = evaluation.operator;
    ranks(operator, x_shape.len(), w_shape.len())?;
    let (batch, channels, outputs) = (x_shape[0], x_shape[1], w_shape[0]);
    check_channels(operator, channels, w_shape[1], Some(outputs))?;
    let groups = groups(operator)?;
    let (per_group, out_per_group) = (w_shape[1], outputs / groups);
    declared_kernel(operator, &w_shape[2..])?;
    let window = Window::resolve(operator, &x_shape[2..], &w_shape[2..])?;
    let mut shape = vec![batch, outputs];
    shape.extend(&window.output);
    let count = evaluation.reserve(dtype, &shape)?;
    if bias.is_some_and(|bias| bias.len() != outputs) {
        return Err(Error::invalid_model(format!("{operator} has another number of biases than {outputs} outputs")));
    }
    let plane: usize = x_shape[2..].iter().product();
    let taps: usize = w_shape[2..].iter().product();
    take(count, size_of::<f64>())?;
    let mut result = Vec::with_capacity(count);
    for n in 0..batch {
        for m in 0..outputs {
            let first = m / out_per_group * per_group;
            for at in indices(&window.output) {
                spend(taps.saturating_mul(per_group + 8))?;
                let mut sum = bias.map_or(0.0, |bias| bias[m]);
                window.taps(&at, &x_shape[2..], |tap, position| {
                    for c in 0..per_group {
                        sum += x[(n * channels + first + c) * plane + position] * w[(m * per_group + c) * taps + tap];
                    }
                })?;
                result.push(sum);
            }
        }
    }
    Ok((result, shape))
}

/// Computes a DeformConv, each tap of which reads between elements.
/// Offsets are [n, groups * taps * rank, o1, ..], and the mask is [n, groups * taps, o1, ..].
fn deformed(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, weights, offsets) = (evaluation.input(0)?, evaluation.input(1)?, evaluation.input(2)?);
    let (x_shape, w_shape) = (input.shape(), weights.shape());
    ranks(operator, x_shape.len(), w_shape.len())?;
    let rank = x_shape.len() - 2;
    let (batch, channels, outputs) = (x_shape[0], x_shape[1], w_shape[0]);
    check_channels(operator, channels, w_shape[1], Some(outputs))?;
    declared_kernel(operator, &w_shape[2..])?;
    let (groups, per_group) = (groups(operator)?, w_shape[1]);
    let window = Window::resolve(operator, &x_shape[2..], &w_shape[2..])?;
    let shape = [&[batch, outputs], &window.output[..]].concat();
    let count = evaluation.reserve(input.dtype(), &shape)?;
    let offset_groups = match operator.int("offset_group")?.unwrap_or(1) {
        value if value > 0 && channels % value as usize == 0 => value as usize,
        value => {
            return Err(Error::invalid_model(format!("{operator}: {value} groups of offsets for {channels} channels")));
        }
    };
    let taps: usize = w_shape[2..].iter().product();
    let points: usize = window.output.iter().product();
    let mask = evaluation.optional(4);
    let fits = offsets.len() == batch * offset_groups * taps * rank * points
        && mask.is_none_or(|mask| mask.len() == batch * offset_groups * taps * points)
        && evaluation.optional(3).is_none_or(|bias| bias.len() == outputs);
    if !fits {
        return Err(Error::invalid_model(format!("{operator}: offsets {offsets:?} or the mask do not fit {shape:?}")));
    }
    let (x, w, offsets) = (floats(input)?, floats(weights)?, floats(offsets)?);
    let bias = evaluation.optional(3).map(floats).transpose()?;
    let mask = mask.map(floats).transpose()?;
    let plane: usize = x_shape[2..].iter().product();
    take(count, size_of::<f64>())?;
    let mut result = Vec::with_capacity(count);
    for n in 0..batch {
        for m in 0..outputs {
            let first = m / (outputs / groups) * per_group;
            for (point, at) in indices(&window.output).enumerate() {
                spend(taps.saturating_mul(per_group).saturating_mul(100))?;
                let mut sum = bias.as_ref().map_or(0.0, |bias| bias[m]);
                for c in 0..per_group {
                    let channel = first + c;
                    let group = n * offset_groups + channel / (channels / offset_groups);
                    for (tap, index) in indices(&w_shape[2..]).enumerate() {
                        let place: Vec<f64> = (0..rank)
                            .map(|axis| {
                                let steps = at[axis] * window.strides[axis] + index[axis] * window.dilations[axis];
                                let moved = offsets[((group * taps + tap) * rank + axis) * points + point];
                                steps as f64 - window.begin[axis] as f64 + moved
                            })
                            .collect();
                        let weight = mask.as_ref().map_or(1.0, |mask| mask[(group * taps + tap) * points + point]);
                        let image = &x[(n * channels + channel) * plane..][..plane];
                        sum += weight * w[(m * per_group + c) * taps + tap] * between(image, &x_shape[2..], &place);
                    }
                }
                result.push(sum);
            }
        }
    }
    Ok(vec![pack(result, input.dtype(), &shape)?])
}

/// Returns the value at a place between elements, linear along each axis; zero outside.
fn between(image: &[f64], shape: &[usize], place: &[f64]) -> f64 {
    let mut sum = 0.0;
    for corner in indices(&vec![2; shape.len()]) {
        let (mut weight, mut position, mut inside) = (1.0, 0, true);
        for axis in 0..shape.len() {
            let below = place[axis].floor();
            let at = below + corner[axis] as f64;
            weight *= if corner[axis] == 0 { 1.0 - (place[axis] - below) } else { place[axis] - below };
            inside &= at >= 0.0 && at < shape[axis] as f64;
            position = position * shape[axis] + if inside { at as usize } else { 0 };
        }
        if inside {
            sum += weight * image[position];
        }
    }
    sum
}

/// Returns the sizes of a transposed convolution's output, and the padding that it cuts off at the
/// beginning.
fn transposed_sizes(operator: &Operator, input: &[usize], kernel: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
    let rank = input.len();
    let strides = per_axis(operator, "strides", rank, 1)?;
    let dilations = per_axis(operator, "dilations", rank, 1)?;
    let pads = per_axis(operator, "pads", 2 * rank, 0)?;
    let extra = per_axis(operator, "output_padding", rank, 0)?;
    let wanted = match operator.ints("output_shape")? {
        None => None,
        Some(_) => Some(per_axis(operator, "output_shape", rank, 0)?),
    };
    let rule = padding_rule(operator)?;
    let (mut sizes, mut begin) = (Vec::new(), Vec::new());
    for axis in 0..rank {
        let overflow =
            || Error::invalid_model(format!("{operator}: the output of an input {input:?} is empty or too large"));
        let full = input[axis]
            .checked_sub(1)
            .and_then(|steps| steps.checked_mul(strides[axis]))
            .and_then(|size| size.checked_add(extra[axis] + (kernel[axis].max(1) - 1) * dilations[axis] + 1))
            .ok_or_else(overflow)?;
        let target = match (&wanted, rule) {
            (Some(wanted), _) => Some(wanted[axis]),
            (None, Padding::SameUpper | Padding::SameLower) => Some(input[axis] * strides[axis]),
            _ => None,
        };
        match target {
            Some(size) => {
                let total = full.saturating_sub(size);
                let half = if rule == Padding::SameUpper { total / 2 } else { total - total / 2 };
                sizes.push(size);
                begin.push(half);
            }
            None => {
                sizes.push(full.checked_sub(pads[axis] + pads[rank + axis]).ok_or_else(overflow)?);
                begin.push(pads[axis]);
            }
        }
    }
    Ok((sizes, begin))
}

fn infer_transpose(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let (Some(input), Some(weights)) = (inference.dims(0)?, inference.dims(1)?) else {
        return Ok(vec![TensorType { dtype, dims: None }]);
    };
    ranks(inference.operator, input.len(), weights.len())?;
    let channels = match weights[1].known() {
        Some(per_group) => Dim::Known(per_group.saturating_mul(groups(inference.operator)?)),
        None => Dim::Unknown,
    };
    let mut dims = vec![input[0].clone(), channels];
    let known = |dims: &[Dim]| dims.iter().map(Dim::known).collect::<Option<Vec<_>>>();
    match (known(&input[2..]), known(&weights[2..])) {
        (Some(spatial), Some(kernel)) => {
            let (sizes, _) = transposed_sizes(inference.operator, &spatial, &kernel)?;
            dims.extend(sizes.into_iter().map(Dim::Known));
        }
        _ => dims.resize(input.len(), Dim::Unknown),
    }
    Ok(vec![TensorType { dtype, dims: Some(dims) }])
}

fn transpose(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, weights) = (evaluation.input(0)?, evaluation.input(1)?);
    let (x_shape, w_shape) = (input.shape(), weights.shape());
    ranks(operator, x_shape.len(), w_shape.len())?;
    let groups = groups(operator)?;
    let (batch, channels, per_group) = (x_shape[0], x_shape[1], w_shape[1]);
    if channels != w_shape[0] || channels % groups != 0 {
        return Err(Error::invalid_model(format!(
            "{operator}: {channels} channels do not fit the weights {w_shape:?}"
        )));
    }
    let spatial = &x_shape[2..];
    let (sizes, begin) = transposed_sizes(operator, spatial, &w_shape[2..])?;
    let strides = per_axis(operator, "strides", spatial.len(), 1)?;
    let dilations = per_axis(operator, "dilations", spatial.len(), 1)?;
    let outputs = per_group.saturating_mul(groups);
    let mut shape = vec![batch, outputs];
    shape.extend(&sizes);
    let count = evaluation.reserve(input.dtype(), &shape)?;
    let (x, w) = (floats(input)?, floats(weights)?);
    let bias = evaluation.optional(2).map(floats).transpose()?;
    let plane: usize = sizes.iter().product();
    take(count, size_of::<f64>())?;
    let mut result = vec![0.0; count];
    if let Some(bias) = bias {
        if bias.len() != outputs {
            return Err(Error::invalid_model(format!(
                "{operator} has another number of biases than {outputs} outputs"
            )));
        }
        for (index, value) in result.iter_mut().enumerate() {
            *value = bias[index / plane.max(1) % outputs];
        }
    }
    let taps: usize = w_shape[2..].iter().product();
    for n in 0..batch {
        for c in 0..channels {
            let group = c / (channels / groups);
            for (position, at) in indices(spatial).enumerate() {
                let value = x[(n * channels + c) * spatial.iter().product::<usize>() + position];
                spend(taps.saturating_mul(per_group + 20))?;
                for (tap, k) in indices(&w_shape[2..]).enumerate() {
                    let mut target = Some(0);
                    for axis in 0..spatial.len() {
                        let to = (at[axis] * strides[axis] + k[axis] * dilations[axis]).checked_sub(begin[axis]);
                        target = match (target, to) {
                            (Some(target), Some(to)) if to < sizes[axis] => Some(target * sizes[axis] + to),
                            _ => None,
                        };
                    }
                    let Some(target) = target else { continue };
                    for o in 0..per_group {
                        let output = (n * outputs + group * per_group + o) * plane + target;
                        result[output] += value * w[(c * per_group + o) * taps + tap];
                    }
                }
            }
        }
    }
    Ok(vec![pack(result, input.dtype(), &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn a_worked_example_in_one_dimension() {
        let x = Tensor::from_vec(&[1, 1, 4], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let w = Tensor::from_vec(&[1, 1, 3], vec![1.0f32, 0.0, -1.0]).unwrap();
        let conv = Operator::new("Conv", 11).with("pads", Attribute::Ints(vec![1, 1]));
        let y = crate::evaluate(&conv, &[Some(x.clone()), Some(w.clone())], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [-2.0, -2.0, -2.0, 3.0]);
        let back = Operator::new("ConvTranspose", 11).with("strides", Attribute::Ints(vec![2]));
        let y = crate::evaluate(&back, &[Some(x), Some(w)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, -4.0]);
    }

    #[test]
    fn misfitting_groups_are_errors() {
        let tensor = |shape: &[usize]| Some(Tensor::from_vec(shape, vec![0.0f32; shape.iter().product()]).unwrap());
        let grouped = Operator::new("Conv", 11).with("group", Attribute::Int(2));
        assert!(crate::evaluate(&grouped, &[tensor(&[1, 3, 4]), tensor(&[2, 1, 1])], 1).is_err());
        assert!(crate::evaluate(&grouped, &[tensor(&[1, 2, 4]), tensor(&[3, 1, 1])], 1).is_err());
        let none = Operator::new("Conv", 11).with("group", Attribute::Int(0));
        assert!(crate::evaluate(&none, &[tensor(&[1, 2, 4]), tensor(&[2, 2, 1])], 1).is_err());
    }
}
