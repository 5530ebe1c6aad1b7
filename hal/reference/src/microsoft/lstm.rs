//! The LSTM whose weights are quantised, and whose input and states are while it runs.

use hetero_hal::{
    DType, Definition, Dim, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, take,
};

use super::DOMAIN;
use crate::body::misfit;
use crate::numbers::{floats, pack};
use crate::recurrent::lstm_seeing;
use crate::shapes::elements;

pub(super) static DEFINITIONS: &[Definition] =
    &[Definition::new("DynamicQuantizeLSTM", 1, (12, 12), infer, lstm).in_domain(DOMAIN).outputs(3).counting(flops)];

fn flops(_: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    let at = |index: usize| inputs.get(index).and_then(Option::as_ref);
    let steps = at(0).and_then(|ty| {
        let dims = ty.dims.as_ref()?;
        (dims.first()?.bound()? as u64).checked_mul(dims.get(1)?.bound()? as u64)
    });
    let weights = [1, 2].map(|index| at(index).map_or(0, elements)).iter().fold(0u64, |sum, w| sum.saturating_add(*w));
    weights.saturating_mul(2).saturating_mul(steps.unwrap_or(1))
}

/// Infers the types, where the recurrent weights are `[directions, hidden, 4 · hidden]`.
fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let (x, r) = (inference.dims(0)?, inference.dims(2)?);
    if x.is_some_and(|dims| dims.len() != 3) || r.is_some_and(|dims| dims.len() != 3) {
        return Err(misfit(inference.operator, "the input and the recurrent weights have rank 3"));
    }
    let at =
        |dims: Option<&[Dim]>, index: usize| dims.and_then(|dims| dims.get(index).cloned()).unwrap_or(Dim::Unknown);
    let (count, hidden) = (at(r, 0), at(r, 1));
    let (steps, batch) = (at(x, 0), at(x, 1));
    let ty = |dims| TensorType { dtype, dims: Some(dims) };
    let last = ty(vec![count.clone(), batch.clone(), hidden.clone()]);
    Ok(vec![ty(vec![steps, count, batch, hidden]), last.clone(), last])
}

/// Returns weights as real numbers, with each gate's rows one behind the other as the standard has
/// them; scales and zero points are for each direction, or for each row too.
fn weights(evaluation: &Evaluation<'_>, index: usize, scale: usize) -> Result<Tensor> {
    let operator = evaluation.operator;
    let tensor = evaluation.input(index)?;
    let &[directions, inner, rows] = tensor.shape() else {
        return Err(misfit(operator, format!("the weights {tensor:?} are not of rank 3")));
    };
    let (scales, zeros) = (evaluation.input(scale)?, evaluation.input(scale + 1)?);
    let per_row = scales.shape() == [directions, rows];
    let both = [scales, zeros].map(Tensor::shape);
    if both[0] != both[1] || !(per_row || scales.shape() == [directions]) {
        return Err(misfit(operator, format!("the scales {scales:?} and zero points {zeros:?} do not fit {tensor:?}")));
    }
    let (w, scales, zeros) = (floats(tensor)?, floats(scales)?, floats(zeros)?);
    take(w.len(), size_of::<f64>())?;
    let count = element_count(&[directions, rows, inner]).unwrap_or(usize::MAX);
    let at = |index: usize| {
        let (direction, row, column) = (index / (rows * inner), index / inner % rows, index % inner);
        let group = if per_row { direction * rows + row } else { direction };
        (w[(direction * inner + column) * rows + row] - zeros[group]) * scales[group]
    };
    pack((0..count).map(at).collect(), DType::F32, &[directions, rows, inner])
}

/// Rounds numbers to 256 steps that cover their range and zero, as `f32` arithmetic does it.
fn rounded(values: &mut [f64]) {
    let high = values.iter().fold(0.0f32, |high, &v| high.max(v as f32));
    let low = values.iter().fold(0.0f32, |low, &v| low.min(v as f32));
    if high == low {
        return;
    }
    let scale = (high - low) / 255.0;
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    for value in values {
        let code = ((*value as f32 / scale).round_ties_even() + zero).clamp(0.0, 255.0);
        *value = f64::from(code - zero) * f64::from(scale);
    }
}

fn lstm(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let x = evaluation.input(0)?;
    let mut values = floats(x)?;
    rounded(&mut values);
    let mut inputs: Vec<Option<Tensor>> = evaluation.inputs.iter().take(8).cloned().collect();
    inputs[0] = Some(pack(values, x.dtype(), x.shape())?);
    inputs[1] = Some(weights(evaluation, 1, 8)?);
    inputs[2] = Some(weights(evaluation, 2, 10)?);
    let mut operator = Operator::new("LSTM", crate::body::OPSET);
    operator.attributes.clone_from(&evaluation.operator.attributes);
    let left = evaluation.left();
    let plain = Evaluation::new(&operator, &inputs, evaluation.outputs, evaluation.operators, &left);
    lstm_seeing(&plain, rounded)
}
