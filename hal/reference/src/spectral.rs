//! Spectra: the discrete Fourier transform, its windows, and the mel scale.

use std::f64::consts::PI;

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::numbers::{floats, pack};
use crate::shapes::{axis, elements, named_type, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("DFT", 17, (1, 3), infer_dft, dft).counting(flops),
    Definition::new("STFT", 17, (2, 4), infer_stft, stft).counting(flops),
    Definition::new("HannWindow", 17, (1, 1), infer_window, window),
    Definition::new("HammingWindow", 17, (1, 1), infer_window, window),
    Definition::new("BlackmanWindow", 17, (1, 1), infer_window, window),
    Definition::new("MelWeightMatrix", 17, (5, 5), infer_mel, mel),
];

/// Counts the operations of a fast transform: one of n elements takes about 5 n log2 n, and log2 n
/// is taken as twelve here.
fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(60)
}

/// Returns the one number of a tensor of one element.
fn single(tensor: &Tensor) -> Result<i64> {
    match tensor.to_i64_vec()?[..] {
        [value] => Ok(value),
        _ => Err(Error::invalid_model(format!("{tensor:?} is not one number"))),
    }
}

/// The parameters of a transform, resolved for an input's shape.
struct Transform {
    axis: usize,
    length: usize,
    inverse: bool,
    onesided: bool,
}

impl Transform {
    fn resolve(
        operator: &Operator,
        shape: &[usize],
        length: Option<i64>,
        axis_input: Option<i64>,
    ) -> Result<Transform> {
        let listed = match operator.version {
            ..20 => operator.int("axis")?.unwrap_or(1),
            _ => axis_input.unwrap_or(-2),
        };
        let axis = axis(listed, shape.len())?;
        if axis + 1 == shape.len() || !matches!(shape.last(), Some(1 | 2)) {
            return Err(Error::invalid_model(format!("{operator} along axis {axis} of {shape:?}")));
        }
        let inverse = operator.int("inverse")?.unwrap_or(0) != 0;
        let onesided = operator.int("onesided")?.unwrap_or(0) != 0;
        let length = match length {
            Some(length) => size(length)?,
            None if inverse && onesided => 2 * shape[axis].saturating_sub(1),
            None => shape[axis],
        };
        if length == 0 {
            return Err(Error::invalid_model(format!("{operator} of length 0")));
        }
        Ok(Transform { axis, length, inverse, onesided })
    }

    fn output(&self, shape: &[usize]) -> Vec<usize> {
        let mut output = shape.to_vec();
        output[self.axis] = if self.onesided && !self.inverse { self.length / 2 + 1 } else { self.length };
        output[shape.len() - 1] = if self.onesided && self.inverse { 1 } else { 2 };
        output
    }
}

/// Computes the sums of the transform's definition, for `bins` frequencies.
/// Missing samples are zeros.
fn transform(samples: &[(f64, f64)], length: usize, bins: usize, inverse: bool) -> Result<Vec<(f64, f64)>> {
    let sign = if inverse { 1.0 } else { -1.0 };
    let scale = if inverse { 1.0 / length as f64 } else { 1.0 };
    spend(20 * length)?;
    let circle: Vec<(f64, f64)> = (0..length)
        .map(|k| {
            let angle = sign * 2.0 * PI * k as f64 / length as f64;
            (angle.cos(), angle.sin())
        })
        .collect();
    let bin = |k: usize| {
        spend(8 * samples.len())?;
        let (mut re, mut im) = (0.0, 0.0);
        for (n, &(a, b)) in samples.iter().take(length).enumerate() {
            let (c, s) = circle[(n as u128 * k as u128 % length as u128) as usize];
            re += a * c - b * s;
            im += a * s + b * c;
        }
        Ok((re * scale, im * scale))
    };
    (0..bins).map(bin).collect()
}

fn infer_dft(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let known = |index: usize| -> Result<Option<Option<i64>>> {
        match inference.optional(index) {
            None => Ok(Some(None)),
            Some(fact) => fact.value.as_ref().map(|value| single(value).map(Some)).transpose(),
        }
    };
    let dims = match (ty.shape(), known(1)?, known(2)?) {
        (Some(shape), Some(length), Some(axis)) => {
            let output = Transform::resolve(inference.operator, &shape, length, axis)?.output(&shape);
            Some(output.into_iter().map(Dim::Known).collect())
        }
        _ => ty.dims.as_ref().map(|dims| vec![Dim::Unknown; dims.len()]),
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

fn dft(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = input.shape();
    let number = |index: usize| evaluation.optional(index).map(single).transpose();
    let request = Transform::resolve(evaluation.operator, shape, number(1)?, number(2)?)?;
    let output = request.output(shape);
    let count = evaluation.reserve(DType::F64, &output)?;
    let x = floats(input)?;
    let last = shape.len() - 1;
    let parts = shape[last];
    let inner: usize = shape[request.axis + 1..last].iter().product();
    let outer: usize = shape[..request.axis].iter().product();
    let (from, bins, out_parts) = (shape[request.axis], output[request.axis], output[last]);
    // The samples and bins of one line, and the points of the circle, are there beside the result.
    take(count, size_of::<f64>())?;
    take(from.max(request.length), 4 * size_of::<(f64, f64)>())?;
    let mut result = vec![0.0; count];
    for o in 0..outer {
        for i in 0..inner {
            let sample = |k: usize| {
                let at = ((o * from + k) * inner + i) * parts;
                (x[at], if parts == 2 { x[at + 1] } else { 0.0 })
            };
            let mut samples: Vec<(f64, f64)> = (0..from).map(sample).collect();
            if request.inverse && request.onesided {
                mirror(&mut samples, request.length);
            }
            for (k, (re, im)) in transform(&samples, request.length, bins, request.inverse)?.into_iter().enumerate() {
                let at = ((o * bins + k) * inner + i) * out_parts;
                result[at] = re;
                if out_parts == 2 {
                    result[at + 1] = im;
                }
            }
        }
    }
    Ok(vec![pack(result, input.dtype(), &output)?])
}

/// Adds the other half of the spectrum of a real signal of `length` samples.
fn mirror(spectrum: &mut Vec<(f64, f64)>, length: usize) {
    spectrum.resize(length / 2 + 1, (0.0, 0.0));
    spectrum[0].1 = 0.0;
    if length.is_multiple_of(2) {
        spectrum[length / 2].1 = 0.0;
    }
    for k in length / 2 + 1..length {
        let (re, im) = spectrum[length - k];
        spectrum.push((re, -im));
    }
}

/// Returns the length, step, number and bins of the frames of a signal [batch, samples, 1 or 2].
/// PyTorch's exporter leaves out the last dimension of real signals, and ONNX Runtime takes them.
fn frames(
    operator: &Operator,
    shape: &[usize],
    step: i64,
    length: Option<usize>,
) -> Result<(usize, usize, usize, usize)> {
    let (samples, parts) = match *shape {
        [_, samples] => (samples, 1),
        [_, samples, parts] => (samples, parts),
        _ => return Err(Error::invalid_model(format!("{operator} of {shape:?}, which is no signal"))),
    };
    let Some(length) = length else {
        return Err(Error::invalid_model(format!("{operator} of {shape:?} without a frame length")));
    };
    let step = usize::try_from(step).ok().filter(|&step| step > 0);
    let (Some(step), true, true) = (step, (1..=samples).contains(&length), matches!(parts, 1 | 2)) else {
        return Err(Error::invalid_model(format!("{operator}: frames of {length} do not fit {shape:?}")));
    };
    let onesided = operator.int("onesided")?.unwrap_or(1) != 0;
    let bins = if onesided { length / 2 + 1 } else { length };
    Ok((length, step, (samples - length) / step + 1, bins))
}

fn infer_stft(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let step = inference.input(1)?.value.as_ref().map(single).transpose()?;
    let length = match (inference.optional(3), inference.optional(2)) {
        (Some(fact), _) => fact.value.as_ref().map(single).transpose()?.map(size).transpose()?,
        (None, Some(window)) => window.ty.shape().and_then(|shape| shape.first().copied()),
        (None, None) => None,
    };
    let dims = match (ty.shape(), step, length) {
        (Some(shape), Some(step), Some(length)) => {
            let (_, _, count, bins) = frames(inference.operator, &shape, step, Some(length))?;
            [shape[0], count, bins, 2].map(Dim::Known).to_vec()
        }
        _ => vec![Dim::Unknown; 4],
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims: Some(dims) }])
}

fn stft(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let signal = evaluation.input(0)?;
    let weights = evaluation.optional(2).map(floats).transpose()?;
    let length = match evaluation.optional(3) {
        Some(tensor) => Some(size(single(tensor)?)?),
        None => weights.as_ref().map(Vec::len),
    };
    let (length, step, count, bins) = frames(operator, signal.shape(), single(evaluation.input(1)?)?, length)?;
    if weights.as_ref().is_some_and(|weights| weights.len() != length) {
        return Err(Error::invalid_model(format!("{operator}: the window does not have {length} elements")));
    }
    let (batch, samples) = (signal.shape()[0], signal.shape()[1]);
    let parts = signal.shape().get(2).copied().unwrap_or(1);
    let shape = [batch, count, bins, 2];
    evaluation.reserve(DType::F64, &shape)?;
    let x = floats(signal)?;
    take(element_count(&shape).unwrap_or(usize::MAX), 2 * size_of::<f64>())?;
    take(length, 4 * size_of::<(f64, f64)>())?;
    let mut result = Vec::new();
    for n in 0..batch {
        for frame in 0..count {
            let sample = |k: usize| {
                let at = (n * samples + frame * step + k) * parts;
                let weight = weights.as_ref().map_or(1.0, |weights| weights[k]);
                (weight * x[at], if parts == 2 { weight * x[at + 1] } else { 0.0 })
            };
            let framed: Vec<(f64, f64)> = (0..length).map(sample).collect();
            result.extend(transform(&framed, length, bins, false)?.into_iter().flat_map(|(re, im)| [re, im]));
        }
    }
    Ok(vec![pack(result, signal.dtype(), &shape)?])
}

fn output_type(operator: &Operator) -> Result<DType> {
    Ok(named_type(operator, "output_datatype")?.unwrap_or(DType::F32))
}

fn infer_window(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dim = match &inference.input(0)?.value {
        Some(value) => Dim::Known(size(single(value)?)?),
        None => Dim::Unknown,
    };
    Ok(vec![TensorType::new(output_type(inference.operator)?, vec![dim])])
}

fn window(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let length = size(single(evaluation.input(0)?)?)?;
    let dtype = output_type(operator)?;
    evaluation.reserve(dtype, &[length])?;
    let periodic = operator.int("periodic")?.unwrap_or(1) != 0;
    // A symmetric window of one element has no period, and its value is 1.
    let period = if periodic { length } else { length.saturating_sub(1) };
    let value = |n: usize| {
        let angle = if period == 0 { PI } else { 2.0 * PI * n as f64 / period as f64 };
        match &*operator.name {
            "HannWindow" => 0.5 - 0.5 * angle.cos(),
            "HammingWindow" => 25.0 / 46.0 - 21.0 / 46.0 * angle.cos(),
            _ => 0.42 - 0.5 * angle.cos() + 0.08 * (2.0 * angle).cos(),
        }
    };
    take(length, size_of::<f64>())?;
    spend(20 * length)?;
    Ok(vec![pack((0..length).map(value).collect(), dtype, &[length])?])
}

fn infer_mel(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let number = |index: usize| -> Result<Option<usize>> {
        inference.input(index)?.value.as_ref().map(|value| size(single(value)?)).transpose()
    };
    let bins = number(0)?.map_or(Dim::Unknown, Dim::Known);
    let lines = number(1)?.map_or(Dim::Unknown, |length| Dim::Known(length / 2 + 1));
    Ok(vec![TensorType::new(output_type(inference.operator)?, vec![lines, bins])])
}

/// Computes triangles [spectrum bins, mel bins], whose corners are equally far apart on the mel
/// scale.
fn mel(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let whole = |index: usize| -> Result<usize> { size(single(evaluation.input(index)?)?) };
    let real = |index: usize| -> Result<f64> {
        floats(evaluation.input(index)?)?.first().copied().ok_or_else(|| Error::invalid_model("an empty frequency"))
    };
    let (bins, length, rate) = (whole(0)?, whole(1)?, whole(2)?);
    let to_mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let (low, high) = (to_mel(real(3)?), to_mel(real(4)?));
    let dtype = output_type(evaluation.operator)?;
    let shape = [length / 2 + 1, bins];
    let count = evaluation.reserve(DType::F64, &shape)?;
    if rate == 0 || !(low <= high && high.is_finite()) {
        return Err(Error::invalid_model(format!("{}: the frequencies make no scale", evaluation.operator)));
    }
    let step = (high - low) / (bins + 2) as f64;
    let corner = |k: usize| {
        let hertz = 700.0 * (10f64.powf((k as f64 * step + low) / 2595.0) - 1.0);
        ((length + 1) as f64 * hertz / rate as f64).floor() as usize
    };
    take(count, size_of::<f64>())?;
    spend(count)?;
    let mut result = vec![0.0; count];
    for bin in 0..bins {
        spend(shape[0].min(corner(bin + 2).saturating_sub(corner(bin))) + 100)?;
        let (left, center, right) = (corner(bin), corner(bin + 1), corner(bin + 2));
        let mut set = |line: usize, value: f64| {
            if line < shape[0] {
                result[line * bins + bin] = value;
            }
        };
        if center == left {
            set(center, 1.0);
        }
        for line in left..=center.min(shape[0]) {
            if center > left {
                set(line, (line - left) as f64 / (center - left) as f64);
            }
        }
        for line in center..right.min(shape[0]) {
            set(line, (right - line) as f64 / (right - center) as f64);
        }
    }
    Ok(vec![pack(result, dtype, &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn back_and_forth_is_the_same_signal() {
        let x = Tensor::from_vec(&[1, 5, 1], vec![1.0f32, -2.0, 3.0, 0.5, 4.0]).unwrap();
        let forth = Operator::new("DFT", 20).with("onesided", Attribute::Int(1));
        let spectrum = crate::evaluate(&forth, &[Some(x.clone())], 1).unwrap().remove(0);
        assert_eq!(spectrum.shape(), [1, 3, 2]);
        let back = forth.with("inverse", Attribute::Int(1));
        let length = Some(Tensor::scalar(5i64));
        let y = crate::evaluate(&back, &[Some(spectrum), length], 1).unwrap().remove(0);
        assert_eq!(y.shape(), [1, 5, 1]);
        for (a, b) in y.view::<f32>().unwrap().iter().zip(&*x.view::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    #[test]
    fn a_real_signal_may_lack_its_last_dimension() {
        let samples = vec![1.0f32, -2.0, 3.0, 0.5, 4.0, 1.5];
        let spectrum = |shape: &[usize]| {
            let signal = Some(Tensor::from_vec(shape, samples.clone()).unwrap());
            let inputs = [signal, Some(Tensor::scalar(1i64)), None, Some(Tensor::scalar(4i64))];
            crate::evaluate(&Operator::new("STFT", 17), &inputs, 1).unwrap().remove(0)
        };
        assert_eq!(spectrum(&[1, 6]).shape(), [1, 3, 3, 2]);
        assert_eq!(spectrum(&[1, 6]), spectrum(&[1, 6, 1]));
    }

    #[test]
    fn a_window_starts_and_ends_low() {
        let op = Operator::new("HannWindow", 17).with("periodic", Attribute::Int(0));
        let w = crate::evaluate(&op, &[Some(Tensor::scalar(3i64))], 1).unwrap().remove(0);
        let w = w.view::<f32>().unwrap();
        assert!(w[0].abs() < 1e-7 && (w[1] - 1.0).abs() < 1e-7 && w[2].abs() < 1e-7);
    }
}
