//! Features one by one: `Scaler`, `Normalizer`, `Binarizer` and `Imputer`.

use hetero_hal::{DType, Definition, Evaluation, Inference, Operator, Result, Tensor, TensorType, take};

use super::{define, wrong};
use crate::numbers::{Numbers, floats, pack};
use crate::shapes::{flops_per_element, infer_same};

pub(super) const SCALER: Definition = define("Scaler", 1, (1, 1), infer_floats, scale).counting(flops_per_element);
pub(super) const NORMALIZER: Definition =
    define("Normalizer", 1, (1, 1), infer_floats, normalize).counting(flops_per_element);
pub(super) const BINARIZER: Definition = define("Binarizer", 1, (1, 1), infer_same, binarize).in_place(&[0]);
pub(super) const IMPUTER: Definition = define("Imputer", 1, (1, 1), infer_imputer, impute).in_place(&[0]);

/// Infers a result of the input's shape and of float32.
fn infer_floats(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = inference.input(0)?.ty.dims.clone();
    if let Some(features) = dims.as_ref().and_then(|dims| dims.last()).and_then(|dim| dim.known()) {
        Scale::of(inference.operator)?.check(inference.operator, features)?;
    }
    Ok(vec![TensorType { dtype: Some(DType::F32), dims }])
}

/// The number of features, which lie in the last dimension.
fn width(operator: &Operator, input: &Tensor) -> Result<usize> {
    let last = input.shape().last().copied();
    last.ok_or_else(|| wrong(operator, "its input is a scalar, and not rows and features"))
}

/// Offsets and factors, one for each feature or one for all.
struct Scale<'a> {
    offset: &'a [f32],
    factor: &'a [f32],
}

impl<'a> Scale<'a> {
    fn of(operator: &'a Operator) -> Result<Self> {
        let list = |name: &str| operator.floats(name).map(Option::unwrap_or_default);
        Ok(Scale { offset: list("offset")?, factor: list("scale")? })
    }

    fn check(&self, operator: &Operator, features: usize) -> Result<()> {
        for (name, list) in [("offset", self.offset), ("scale", self.factor)] {
            if list.len() > 1 && list.len() != features {
                let what = format_args!("'{name}' has {} elements for {features} features", list.len());
                return Err(wrong(operator, what));
            }
        }
        Ok(())
    }
}

/// Returns the element for a feature of a list with one for each feature, with one for all, or with
/// none.
fn element(list: &[f32], feature: usize, otherwise: f32) -> f64 {
    let found = list.get(if list.len() == 1 { 0 } else { feature });
    f64::from(found.copied().unwrap_or(otherwise))
}

fn scale(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let scale = Scale::of(operator)?;
    let features = width(operator, input)?;
    scale.check(operator, features)?;
    evaluation.reserve(DType::F32, input.shape())?;
    let mut x = floats(input)?;
    for (index, x) in x.iter_mut().enumerate() {
        let feature = index % features;
        *x = (*x - element(scale.offset, feature, 0.0)) * element(scale.factor, feature, 1.0);
    }
    Ok(vec![pack(x, DType::F32, input.shape())?])
}

/// Divides each row by its largest element, or by its L1 or L2 norm; a divisor of zero leaves the
/// row alone.
fn normalize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let norm: fn(&[f64]) -> f64 = match operator.text("norm")?.unwrap_or("MAX") {
        "MAX" => |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "L1" => |row| row.iter().map(|x| x.abs()).sum(),
        "L2" => |row| row.iter().map(|x| x * x).sum::<f64>().sqrt(),
        other => return Err(wrong(operator, format_args!("norm '{other}' is unknown"))),
    };
    let features = width(operator, input)?;
    evaluation.reserve(DType::F32, input.shape())?;
    let mut x = floats(input)?;
    for row in x.chunks_mut(features.max(1)) {
        let divisor = norm(row);
        if divisor != 0.0 {
            row.iter_mut().for_each(|x| *x /= divisor);
        }
    }
    Ok(vec![pack(x, DType::F32, input.shape())?])
}

fn binarize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let threshold = f64::from(evaluation.operator.float("threshold")?.unwrap_or(0.0));
    evaluation.reserve(input.dtype(), input.shape())?;
    take(input.len(), size_of::<f64>())?;
    let bits = floats(input)?.into_iter().map(|x| f64::from(u8::from(x > threshold))).collect();
    Ok(vec![pack(bits, input.dtype(), input.shape())?])
}

/// What an Imputer replaces, and by what: one number for each feature, or one for all.
enum Imputed<'a> {
    Floats(f32, &'a [f32]),
    Ints(i64, &'a [i64]),
}

impl<'a> Imputed<'a> {
    fn of(operator: &'a Operator, dtype: DType) -> Result<Self> {
        let (imputed, name, count) = if dtype.is_float() {
            let values = operator.floats("imputed_value_floats")?.unwrap_or_default();
            let replaced = operator.float("replaced_value_float")?.unwrap_or(0.0);
            (Imputed::Floats(replaced, values), "imputed_value_floats", values.len())
        } else {
            let values = operator.ints("imputed_value_int64s")?.unwrap_or_default();
            let replaced = operator.int("replaced_value_int64")?.unwrap_or(0);
            (Imputed::Ints(replaced, values), "imputed_value_int64s", values.len())
        };
        match count {
            0 => Err(wrong(operator, format_args!("a {dtype} input needs '{name}'"))),
            _ => Ok(imputed),
        }
    }

    fn check(&self, operator: &Operator, features: usize) -> Result<()> {
        let count = match self {
            Imputed::Floats(_, list) => list.len(),
            Imputed::Ints(_, list) => list.len(),
        };
        if count != 1 && count != features {
            return Err(wrong(operator, format_args!("it has {count} imputed values for {features} features")));
        }
        Ok(())
    }
}

fn infer_imputer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    if let Some(dtype) = inference.dtype(0)? {
        let imputed = Imputed::of(inference.operator, dtype)?;
        if let Some(features) = inference.dims(0)?.and_then(|dims| dims.last()).and_then(|dim| dim.known()) {
            imputed.check(inference.operator, features)?;
        }
    }
    infer_same(inference)
}

fn impute(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let imputed = Imputed::of(operator, input.dtype())?;
    let features = width(operator, input)?;
    imputed.check(operator, features)?;
    evaluation.reserve(input.dtype(), input.shape())?;
    let feature = |index: usize, count: usize| if count == 1 { 0 } else { index % features };
    let result = match (imputed, Numbers::of(input)?) {
        (Imputed::Floats(replaced, values), Numbers::Floats(mut x)) => {
            let replaced = f64::from(replaced);
            for (index, x) in x.iter_mut().enumerate() {
                if *x == replaced || (x.is_nan() && replaced.is_nan()) {
                    *x = f64::from(values[feature(index, values.len())]);
                }
            }
            Numbers::Floats(x)
        }
        (Imputed::Ints(replaced, values), Numbers::Ints(mut x)) => {
            for (index, x) in x.iter_mut().enumerate().filter(|(_, x)| **x == i128::from(replaced)) {
                *x = i128::from(values[feature(index, values.len())]);
            }
            Numbers::Ints(x)
        }
        _ => return Err(wrong(operator, "its values are not of its input's kind")),
    };
    Ok(vec![result.into_tensor(input.dtype(), input.shape())?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    fn operator(name: &str) -> Operator {
        Operator { domain: super::super::DOMAIN.into(), ..Operator::new(name, 3) }
    }

    #[test]
    fn missing_values_are_replaced_feature_by_feature() {
        let imputer = operator("Imputer")
            .with("imputed_value_floats", Attribute::Floats(vec![7.0, 8.0]))
            .with("replaced_value_float", Attribute::Float(f32::NAN));
        let x = Tensor::from_vec(&[2, 2], vec![f32::NAN, 1.0, 2.0, f32::NAN]).unwrap();
        let y = crate::evaluate(&imputer, &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [7.0, 1.0, 2.0, 8.0]);
        let x = Tensor::from_vec(&[2, 3], vec![0.0f32; 6]).unwrap();
        assert!(crate::evaluate(&imputer, &[Some(x)], 1).is_err());
    }

    #[test]
    fn rows_of_zeros_stay_as_they_are() {
        let x = Tensor::from_vec(&[2, 2], vec![0.0f32, 0.0, 3.0, -4.0]).unwrap();
        for (norm, row) in [("MAX", [1.0, -4.0 / 3.0]), ("L1", [3.0 / 7.0, -4.0 / 7.0]), ("L2", [0.6, -0.8])] {
            let normalizer = operator("Normalizer").with("norm", Attribute::String(norm.as_bytes().into()));
            let y = crate::evaluate(&normalizer, &[Some(x.clone())], 1).unwrap();
            assert_eq!(&*y[0].view::<f32>().unwrap(), [0.0, 0.0, row[0] as f32, row[1] as f32], "{norm}");
        }
    }

    #[test]
    fn a_scale_of_one_element_is_for_all_features() {
        let scaler = |scale: &[f32], offset: &[f32]| {
            operator("Scaler")
                .with("scale", Attribute::Floats(scale.to_vec()))
                .with("offset", Attribute::Floats(offset.to_vec()))
        };
        let x = Tensor::from_vec(&[1, 2], vec![3i64, 5]).unwrap();
        let y = crate::evaluate(&scaler(&[0.5], &[1.0, 2.0]), &[Some(x.clone())], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [1.0, 1.5]);
        assert!(crate::evaluate(&scaler(&[0.5, 1.0, 2.0], &[1.0]), &[Some(x)], 1).is_err());
    }
}
