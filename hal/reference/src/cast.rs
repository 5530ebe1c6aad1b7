//! Cast and its like.

use hetero_hal::{DType, Definition, Error, Evaluation, Inference, Result, Tensor, TensorType};

use crate::numbers::Numbers;

pub(crate) static DEFINITIONS: &[Definition] =
    &[Definition::new("Cast", 6, (1, 1), infer, cast), Definition::new("CastLike", 15, (2, 2), infer_like, cast_like)];

fn target(operator: &hetero_hal::Operator) -> Result<DType> {
    let code = operator.int("to")?.ok_or_else(|| Error::invalid_model("Cast lacks its attribute 'to'"))?;
    i32::try_from(code)
        .ok()
        .and_then(DType::from_onnx_code)
        .ok_or_else(|| Error::invalid_model(format!("Cast to the unknown element type {code}")))
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
    if let Ok(strings) = input.strings() {
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
        let text = match numbers {
            Numbers::Ints(values) => values.into_iter().map(|v| v.to_string().into()).collect(),
            Numbers::Floats(values) => values.into_iter().map(|v| (v as f32).to_string().into()).collect(),
        };
        return Ok(vec![Tensor::from_strings(input.shape(), text)?]);
    }
    // Between integers a cast keeps the low bits; floats saturate (NaN gives 0).
    Ok(vec![numbers.into_tensor(to, input.shape())?])
}
