//! Conversions of element types: Cast, CastLike and BitCast.

use hetero_hal::{DType, Definition, Error, Evaluation, Inference, Result, Tensor, TensorType, spend, take};

use crate::numbers::{Numbers, limits};
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
        return Ok(vec![numbers_in(strings, to)?.into_tensor(to, input.shape())?]);
    }
    let numbers = Numbers::of(input)?;
    if to == DType::String {
        // A number has some forty digits at the most, and one of 64 bits some 330.
        take(input.len(), if input.dtype() == DType::F64 { 800 } else { 128 })?;
        spend(input.len().saturating_mul(50))?;
        let text = match numbers {
            Numbers::Ints(values) => values.into_iter().map(|v| v.to_string().into()).collect(),
            Numbers::Floats(values) => values.into_iter().map(|v| text_of(v, input.dtype()).into()).collect(),
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

/// Returns the numbers that texts say, for an element type.
/// Whole numbers are read as such, so that they keep all their digits.
fn numbers_in(strings: &[std::sync::Arc<str>], to: DType) -> Result<Numbers> {
    take(strings.len(), size_of::<i128>())?;
    spend(strings.iter().map(|text| text.len() + 4).sum())?;
    let float = |text: &str| {
        text.parse::<f64>().map_err(|error| {
            let shown: String = text.chars().take(40).collect();
            Error::new(hetero_hal::ErrorKind::Execution, format!("the text '{shown}' is not a number")).caused_by(error)
        })
    };
    if to.is_float() || to == DType::Bool {
        // A number is rounded once, to its own type, where this has a parser.
        let read = |text: &str| match to {
            DType::F32 => text.parse::<f32>().map(f64::from).or_else(|_| float(text)),
            _ => float(text),
        };
        return Ok(Numbers::Floats(strings.iter().map(|text| read(text.trim())).collect::<Result<_>>()?));
    }
    let (low, high) = limits(to);
    // Other texts, such as '1e5' and '100.5', are read as floats and cut off as a Cast of those.
    let whole = |text: &str| match text.parse::<i128>() {
        Ok(value) => Ok(value.clamp(low, high)),
        Err(_) => float(text).map(|value| (value as i128).clamp(low, high)),
    };
    Ok(Numbers::Ints(strings.iter().map(|text| whole(text.trim())).collect::<Result<_>>()?))
}

/// Returns the shortest plain text that gives the number again in its own type, with the
/// standard's words for what is not finite.
fn text_of(value: f64, dtype: DType) -> String {
    match (value.is_nan(), value.is_infinite()) {
        (true, _) => "NaN".to_owned(),
        (_, true) => if value > 0.0 { "INF" } else { "-INF" }.to_owned(),
        _ if dtype == DType::F64 => value.to_string(),
        _ => (value as f32).to_string(),
    }
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

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, Operator};

    use super::*;

    fn cast(input: Tensor, to: DType) -> Result<Tensor> {
        let operator = Operator::new("Cast", 21).with("to", Attribute::Int(i64::from(to.onnx_code())));
        Ok(crate::evaluate(&operator, &[Some(input)], 1)?.swap_remove(0))
    }

    fn texts(texts: &[&str]) -> Tensor {
        Tensor::from_strings(&[texts.len()], texts.iter().map(|&text| text.into()).collect()).unwrap()
    }

    #[test]
    fn texts_keep_all_their_digits() {
        let whole =
            cast(texts(&["9007199254740993", "-9223372036854775808", " 7", "1e3", "100.5"]), DType::I64).unwrap();
        assert_eq!(&*whole.view::<i64>().unwrap(), [9_007_199_254_740_993, i64::MIN, 7, 1000, 100]);
        let large = cast(texts(&["18446744073709551615"]), DType::U64).unwrap();
        assert_eq!(&*large.view::<u64>().unwrap(), [u64::MAX]);
        let floats = cast(texts(&["+INF", "-inf", "1E-5", "16777217"]), DType::F32).unwrap();
        assert_eq!(&*floats.view::<f32>().unwrap(), [f32::INFINITY, f32::NEG_INFINITY, 1e-5, 16_777_216.0]);
        assert!(cast(texts(&["nan"]), DType::F32).unwrap().view::<f32>().unwrap()[0].is_nan());
        let error = cast(texts(&["seven"]), DType::I64).unwrap_err().to_string();
        assert!(error.contains("'seven'"), "{error}");
    }

    #[test]
    fn numbers_become_texts_that_give_them_again() {
        let wide = vec![0.1, 1.0 / 3.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let text = cast(Tensor::from_vec(&[5], wide).unwrap(), DType::String).unwrap();
        let words: Vec<&str> = text.strings().unwrap().iter().map(|text| &**text).collect();
        assert_eq!(words, ["0.1", "0.3333333333333333", "NaN", "INF", "-INF"]);
        let text = cast(Tensor::from_vec(&[2], vec![u64::MAX, 0]).unwrap(), DType::String).unwrap();
        assert_eq!(&*text.strings().unwrap()[0], "18446744073709551615");
    }
}
