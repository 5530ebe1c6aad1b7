//! The operators of classical machine learning: the standard's domain `ai.onnx.ml`.
//!
//! The standard says little of some corners of this domain.
//! There the definitions keep to what ONNX Runtime does, because models were checked with it by
//! those who made them; each place says so.

mod ensemble;
mod features;
mod labels;
mod linear;
mod scale;
mod scores;
mod svm;
mod trees;

use std::sync::Arc;

use hetero_hal::{
    Attribute, DType, Definition, Dim, Error, Evaluation, InferFn, Inference, Operator, Result, Tensor, TensorType,
};

pub use ensemble::{Aggregate, Branch, Comparison, Ensemble, Next, Vote};
pub use scores::ClassLabels;

/// The name of the domain.
pub const DOMAIN: &str = "ai.onnx.ml";

pub(crate) static DEFINITIONS: &[Definition] = &[
    trees::CLASSIFIER,
    trees::REGRESSOR,
    trees::ENSEMBLE,
    linear::CLASSIFIER,
    linear::REGRESSOR,
    svm::CLASSIFIER,
    svm::REGRESSOR,
    scale::SCALER,
    scale::NORMALIZER,
    scale::BINARIZER,
    scale::IMPUTER,
    labels::ENCODER_OF_STRINGS,
    labels::ENCODER,
    labels::MAPPER,
    labels::ONE_HOT,
    features::EXTRACTOR,
    features::VECTORIZER,
    features::ZIP_MAP,
    features::DICT_VECTORIZER,
];

/// Returns a definition of this domain.
const fn define(
    name: &'static str,
    since: u32,
    inputs: (usize, usize),
    infer: InferFn,
    evaluate: fn(&Evaluation<'_>) -> Result<Vec<Tensor>>,
) -> Definition {
    Definition { domain: DOMAIN, ..Definition::new(name, since, inputs, infer, evaluate) }
}

fn wrong(operator: &Operator, what: impl std::fmt::Display) -> Error {
    Error::invalid_model(format!("{operator}: {what}"))
}

/// Returns an attribute that is a list of texts, where the model sets it.
fn texts<'a>(operator: &'a Operator, name: &str) -> Result<Option<&'a [Arc<[u8]>]>> {
    match operator.attribute(name) {
        None => Ok(None),
        Some(Attribute::Strings(values)) => Ok(Some(values)),
        Some(_) => Err(wrong(operator, format_args!("attribute '{name}' is not a list of texts"))),
    }
}

fn utf8(operator: &Operator, text: &[u8]) -> Result<Arc<str>> {
    std::str::from_utf8(text).map(Into::into).map_err(|_| wrong(operator, "a text is not UTF-8"))
}

/// Returns the elements of a tensor of an attribute.
/// Nothing is taken of an allowance, because inference has none, and attributes are in memory
/// already.
fn doubles(operator: &Operator, tensor: &Tensor) -> Result<Vec<f64>> {
    match tensor.dtype() {
        DType::F16 => Ok(tensor.view::<half::f16>()?.iter().map(|&v| v.to_f64()).collect()),
        DType::F32 => Ok(tensor.view::<f32>()?.iter().map(|&v| f64::from(v)).collect()),
        DType::F64 => Ok(tensor.view::<f64>()?.into_owned()),
        other => Err(wrong(operator, format_args!("an attribute is a tensor of {other}, and not of floats"))),
    }
}

/// Returns numbers that stand in an attribute, or as a tensor in the attribute with `_as_tensor`
/// behind its name, and whether the tensor's element type is a double.
fn numbers(operator: &Operator, name: &str) -> Result<Option<(Vec<f64>, bool)>> {
    let tensor = format!("{name}_as_tensor");
    match (operator.floats(name)?, operator.tensor(&tensor)?) {
        (Some(_), Some(content)) if !content.is_empty() => {
            Err(wrong(operator, format_args!("it has both '{name}' and '{tensor}'")))
        }
        (_, Some(content)) if !content.is_empty() => {
            Ok(Some((doubles(operator, content)?, content.dtype() == DType::F64)))
        }
        (Some(values), _) => Ok(Some((values.iter().map(|&v| f64::from(v)).collect(), false))),
        _ => Ok(None),
    }
}

/// Returns the numbers of rows and of features of the first input, which is [rows, features], or
/// [features] for one row; `None` where not even the rank is known.
fn table(inference: &Inference<'_>) -> Result<Option<(Dim, Dim)>> {
    match inference.dims(0)? {
        None => Ok(None),
        Some([features]) => Ok(Some((Dim::Known(1), features.clone()))),
        Some([rows, features]) => Ok(Some((rows.clone(), features.clone()))),
        Some(dims) => {
            let what = format_args!("its input has {} dimensions, and not rows and features", dims.len());
            Err(wrong(inference.operator, what))
        }
    }
}

/// Returns the numbers of rows and of features of a tensor, as [`table`] does.
fn sizes(operator: &Operator, tensor: &Tensor) -> Result<(usize, usize)> {
    match *tensor.shape() {
        [features] => Ok((1, features)),
        [rows, features] => Ok((rows, features)),
        _ => Err(wrong(operator, format_args!("its input is {tensor:?}, and not rows and features"))),
    }
}

/// Checks that a model made for `wanted` features gets as many, where the number is known.
fn check_features(operator: &Operator, wanted: usize, features: &Dim) -> Result<()> {
    match features.known() {
        Some(features) if features != wanted => {
            Err(wrong(operator, format_args!("it was made for {wanted} features, and the input has {features}")))
        }
        _ => Ok(()),
    }
}

/// Returns the types of the labels and scores of a classifier with this number of columns.
fn classified(rows: Option<(Dim, Dim)>, labels: &ClassLabels, columns: usize) -> Vec<TensorType> {
    let rows = rows.map_or(Dim::Unknown, |(rows, _)| rows);
    vec![
        TensorType::new(labels.dtype(), vec![rows.clone()]),
        TensorType::new(DType::F32, vec![rows, Dim::Known(columns)]),
    ]
}
