//! Conversions of element types: Cast, CastLike and BitCast.

use hetero_hal::{DType, Definition, Error, Evaluation, Inference, Result, Tensor, TensorType, spend, take};

use crate::numbers::Numbers;
use crate::shapes::named_type;
use crate::small::RoundScale;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Cast", 6, (1, 1), infer, cast),
    Definition::new("CastLike", 15, (2, 2), infer_like, cast_like),
    Definition::new("BitCast", 26, (1, 1), infer, bit_cast),
];

fn target(operator: &hetero_hal::Operator) -> Result<DType> {
    named_type(operator, "to")?.ok_or_else(|| Error::invalid_model(format!("{operator} lacks its attribute 'to'")))
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.input(0)?.ty.dims.clone();
    Ok(vec![TensorType { dtype: Some(target(inference.operator)?), dims }])
}

fn infer_like(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.input(0)?.ty.dims.clone();
    Ok(vec![TensorType { dtype: inference.dtype(1)?, dims }])
}

fn cast(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    convert(evaluation, target(evaluation.operator)?)
}

fn cast_like(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    convert(evaluation, evaluation.input(1)?.dtype())
}

fn convert(evaluation: &Evaluation<'_>, to: DType) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    if input.dtype() == to {
        return Ok(vec![input.clone()]);
    }
    evaluation.reserve(to, input.shape())?;
    let operator = evaluation.operator;
    let saturate = operator.int("saturate")?.unwrap_or(1) != 0;
    let rounding = match operator.text("round_mode")? {
        None | Some("up") => RoundScale::Up,
        Some("down") => RoundScale::Down,
        Some("nearest") => RoundScale::Nearest,
        Some(other) => return Err(Error::invalid_model(format!("round_mode '{other}' is unknown"))),
    };
    if let Ok(strings) = input.strings() {
        take(strings.len(), size_of::<f64>())?;
        let values = strings
            .iter()
            .map(|text| text.trim().parse::<f64>())
            .collect::<std::result::Result<Vec<f64>, _>>()
            .map_err(|error| {
                Error::new(hetero_hal::ErrorKind::Execution, "a string is not a number").caused_by(error)
            })?;
        return Ok(vec![Numbers::Floats(values).into_tensor(to, input.shape())?]);
    }
    let numbers = Numbers::of(input)?;
    if to == DType::String {
        // A number has some forty digits at the most.
        take(input.len(), 96)?;
        spend(input.len().saturating_mul(50))?;
        let text = match numbers {
            Numbers::Ints(values) => values.into_iter().map(|v| v.to_string().into()).collect(),
            Numbers::Floats(values) => values.into_iter().map(|v| (v as f32).to_string().into()).collect(),
        };
        return Ok(vec![Tensor::from_strings(input.shape(), text)?]);
    }
    if to.is_float() && to.bits() <= 8 {
        take(input.len(), 2)?;
        spend(input.len().saturating_mul(8))?;
        return Ok(vec![crate::small::encode(&numbers.floats(), to, input.shape(), saturate, rounding)?]);
    }
    // Between integers a cast keeps the low bits; floats saturate (NaN gives 0).
    Ok(vec![numbers.into_tensor(to, input.shape())?])
}

/// Keeps the bits under another element type of the same width.
fn bit_cast(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let to = target(evaluation.operator)?;
    let same_width = input.dtype().bits() == to.bits() && to != DType::String && input.dtype() != DType::String;
    if !same_width {
        return Err(Error::invalid_model(format!("BitCast of {} to {to}, which is not as wide", input.dtype())));
    }
    Ok(vec![Tensor::from_bytes(to, input.shape(), input.bytes().clone())?])
}
