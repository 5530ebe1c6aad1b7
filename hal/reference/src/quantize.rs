//! Conversions between real numbers and quantised ones.

use hetero_hal::{
    DType, Definition, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use crate::numbers::{Numbers, floats, limits, pack};
use crate::shapes::{axis, flops_per_element, named_type, size};
use crate::small::{RoundScale, encode};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("QuantizeLinear", 10, (2, 3), infer_quantize, quantize).counting(flops_per_element),
    Definition::new("DequantizeLinear", 10, (2, 3), infer_dequantize, dequantize).counting(flops_per_element),
    Definition::new("DynamicQuantizeLinear", 11, (1, 1), infer_dynamic, dynamic).outputs(3).counting(flops_per_element),
];

/// Rounds to nearest even, adds the zero point and saturates.
pub(crate) fn quantized(
    values: impl IntoIterator<Item = f64>,
    zero: impl Fn(usize) -> f64,
    dtype: DType,
    shape: &[usize],
) -> Result<Tensor> {
    let (low, high) = limits(dtype);
    let count = element_count(shape).unwrap_or(usize::MAX);
    take(count, size_of::<i128>())?;
    spend(4 * count)?;
    let whole = |(index, v): (usize, f64)| ((v.round_ties_even() + zero(index)) as i128).clamp(low, high);
    Numbers::Ints(values.into_iter().enumerate().map(whole).collect()).into_tensor(dtype, shape)
}

/// Returns the type that an attribute names, where 0 says that it names none.
fn optional_type(operator: &Operator, attribute: &str) -> Result<Option<DType>> {
    if operator.int(attribute)? == Some(0) { Ok(None) } else { named_type(operator, attribute) }
}

pub(crate) fn infer_quantize(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = match (inference.optional(2), optional_type(inference.operator, "output_dtype")?) {
        (Some(zero), _) => zero.ty.dtype,
        (None, named) => Some(named.unwrap_or(DType::U8)),
    };
    Ok(vec![TensorType { dtype, dims: inference.input(0)?.ty.dims.clone() }])
}

pub(crate) fn infer_dequantize(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = optional_type(inference.operator, "output_dtype")?.or(inference.dtype(1)?);
    Ok(vec![TensorType { dtype, dims: inference.input(0)?.ty.dims.clone() }])
}

fn infer_dynamic(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.input(0)?.ty.dims.clone();
    Ok(vec![
        TensorType { dtype: Some(DType::U8), dims },
        TensorType::exact(DType::F32, &[]),
        TensorType::exact(DType::U8, &[]),
    ])
}

/// Returns a function from an element's index to the index of its scale.
/// There is one scale for all elements, one for each slice along an axis, or one for each block of
/// slices.
fn spread(operator: &Operator, input: &[usize], scale: &[usize]) -> Result<Box<dyn Fn(usize) -> usize>> {
    let misfit = || Error::invalid_model(format!("{operator}: scales {scale:?} do not fit {input:?}"));
    if scale.iter().product::<usize>() == 1 {
        return Ok(Box::new(|_| 0));
    }
    let along = axis(operator.int("axis")?.unwrap_or(1), input.len())?;
    let inner: usize = input[along + 1..].iter().product::<usize>().max(1);
    let length = input[along].max(1);
    let block = size(operator.int("block_size")?.unwrap_or(0))?;
    if block == 0 {
        if scale != [input[along]] {
            return Err(misfit());
        }
        return Ok(Box::new(move |index| index / inner % length));
    }
    let blocks = length.div_ceil(block);
    let mut expected = input.to_vec();
    expected[along] = blocks;
    if scale != expected {
        return Err(misfit());
    }
    Ok(Box::new(move |index| {
        let (outer, at) = (index / (inner * length), index / inner % length);
        (outer * blocks + at / block) * inner + index % inner
    }))
}

pub(crate) fn quantize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, scale) = (evaluation.input(0)?, evaluation.input(1)?);
    let zero = evaluation.optional(2);
    let dtype = zero.map(Tensor::dtype).or(optional_type(operator, "output_dtype")?).unwrap_or(DType::U8);
    if zero.is_some_and(|zero| zero.shape() != scale.shape() && zero.len() != 1) {
        return Err(Error::invalid_model(format!("{operator}: zero points {zero:?} for scales {scale:?}")));
    }
    evaluation.reserve(dtype, input.shape())?;
    let at = spread(operator, input.shape(), scale.shape())?;
    let scales = floats(scale)?;
    let ratios: Vec<f64> = floats(input)?.into_iter().enumerate().map(|(index, x)| x / scales[at(index)]).collect();
    // Quotients are rounded to the precision of the division before they are rounded to whole
    // numbers.
    let precision = match optional_type(operator, "precision")? {
        Some(named) => named,
        None if input.dtype().is_float() => input.dtype(),
        None => DType::F32,
    };
    let ratios = floats(&pack(ratios, precision, input.shape())?)?;
    let zeros = zero.map(floats).transpose()?.unwrap_or_default();
    let zero = |index: usize| match zeros.len() {
        0 => 0.0,
        1 => zeros[0],
        _ => zeros[at(index)],
    };
    if dtype.is_float() {
        let saturate = operator.int("saturate")?.unwrap_or(1) != 0;
        take(ratios.len(), 2 * size_of::<f64>())?;
        let moved: Vec<f64> = ratios.iter().enumerate().map(|(index, ratio)| ratio + zero(index)).collect();
        return Ok(vec![encode(&moved, dtype, input.shape(), saturate, RoundScale::Up)?]);
    }
    Ok(vec![quantized(ratios, zero, dtype, input.shape())?])
}

pub(crate) fn dequantize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, scale) = (evaluation.input(0)?, evaluation.input(1)?);
    let dtype = optional_type(operator, "output_dtype")?.unwrap_or(scale.dtype());
    evaluation.reserve(dtype, input.shape())?;
    let at = spread(operator, input.shape(), scale.shape())?;
    let scales = floats(scale)?;
    let zeros = evaluation.optional(2).map(floats).transpose()?.unwrap_or_default();
    if zeros.len() > 1 && zeros.len() != scales.len() {
        return Err(Error::invalid_model(format!("{operator}: {} zero points for scales {scale:?}", zeros.len())));
    }
    let zero = |index: usize| match zeros.len() {
        0 => 0.0,
        1 => zeros[0],
        _ => zeros[at(index)],
    };
    let real = floats(input)?.into_iter().enumerate().map(|(index, x)| (x - zero(index)) * scales[at(index)]);
    Ok(vec![pack(real.collect(), dtype, input.shape())?])
}

/// Computes a DynamicQuantizeLinear.
/// The scale covers the range of the input, widened to hold zero, and each step is rounded as `f32`
/// arithmetic rounds it.
fn dynamic(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let values = input.view::<f32>()?;
    let high = values.iter().copied().fold(0.0f32, f32::max);
    let low = values.iter().copied().fold(0.0f32, f32::min);
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let ratios = values.iter().map(|x| f64::from(x / scale));
    let y = quantized(ratios, |_| f64::from(zero), DType::U8, input.shape())?;
    Ok(vec![y, Tensor::scalar(scale), Tensor::scalar(zero as u8)])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn blocks_have_scales_of_their_own() {
        let x = Tensor::from_vec(&[1, 4], vec![1.0f32, 2.5, 30.0, 1e9]).unwrap();
        let scale = Tensor::from_vec(&[1, 2], vec![1.0f32, 10.0]).unwrap();
        let op = Operator::new("QuantizeLinear", 21).with("block_size", Attribute::Int(2));
        let y = crate::evaluate(&op, &[Some(x), Some(scale.clone())], 1).unwrap();
        assert_eq!(&*y[0].view::<u8>().unwrap(), [1, 2, 3, 255]);
        let back = Operator::new("DequantizeLinear", 21).with("block_size", Attribute::Int(2));
        let z = crate::evaluate(&back, &[Some(y[0].clone()), Some(scale)], 1).unwrap();
        assert_eq!(&*z[0].view::<f32>().unwrap(), [1.0, 2.0, 30.0, 2550.0]);
    }

    #[test]
    fn a_constant_zero_has_the_scale_one() {
        let x = Tensor::from_vec(&[2], vec![0.0f32, 0.0]).unwrap();
        let y = crate::evaluate(&Operator::new("DynamicQuantizeLinear", 11), &[Some(x)], 3).unwrap();
        assert_eq!(y[1].view::<f32>().unwrap()[0], 1.0);
    }
}
