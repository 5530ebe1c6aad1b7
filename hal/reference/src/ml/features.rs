//! Features as wholes: `ArrayFeatureExtractor`, `FeatureVectorizer`, `ZipMap` and `DictVectorizer`.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, spend, take,
};

use super::{define, sizes, texts, wrong};
use crate::numbers::{floats, pack};
use crate::shapes::{integers, size};

pub(super) const EXTRACTOR: Definition = define("ArrayFeatureExtractor", 1, (2, 2), infer_extractor, extract);
pub(super) const VECTORIZER: Definition = define("FeatureVectorizer", 1, (1, usize::MAX), infer_vectorizer, vectorize);
pub(super) const ZIP_MAP: Definition = define("ZipMap", 1, (1, 1), infer_zip, zip).in_place(&[0]);
pub(super) const DICT_VECTORIZER: Definition =
    define("DictVectorizer", 1, (1, 1), infer_dict, |evaluation| Err(no_maps(evaluation.operator)));

fn infer_extractor(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let chosen = inference.dims(1)?.map(|dims| match dims {
        [only] => only.clone(),
        dims => {
            let sizes: Option<Vec<usize>> = dims.iter().map(Dim::known).collect();
            let count = sizes.and_then(|sizes| hetero_hal::element_count(&sizes));
            count.map_or(Dim::Unknown, Dim::Known)
        }
    });
    let chosen = chosen.unwrap_or(Dim::Unknown);
    let dims = match inference.dims(0)? {
        None => None,
        Some([]) => return Err(wrong(inference.operator, "its input is a scalar")),
        // One row stays a table.
        Some([_]) => Some(vec![Dim::Known(1), chosen]),
        Some([rest @ .., _]) => Some([rest, &[chosen]].concat()),
    };
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

/// Selects elements of the last dimension.
fn extract(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let wanted = integers(evaluation.input(1)?)?;
    let Some((&features, rest)) = input.shape().split_last() else {
        return Err(wrong(operator, "its input is a scalar"));
    };
    take(wanted.len(), size_of::<usize>())?;
    let wanted = wanted.into_iter().map(|index| {
        let inside = usize::try_from(index).ok().filter(|&index| index < features);
        inside.ok_or_else(|| wrong(operator, format_args!("it selects element {index} of {features}")))
    });
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    let rest: &[usize] = if rest.is_empty() { &[1] } else { rest };
    let shape = [rest, &[wanted.len()]].concat();
    let count = evaluation.reserve(input.dtype(), &shape)?;
    spend(count)?;
    let rows = input.len() / features.max(1);
    let places = (0..rows).flat_map(|row| wanted.iter().map(move |index| row * features + index));
    if let Ok(strings) = input.strings() {
        take(count, size_of::<std::sync::Arc<str>>())?;
        return Ok(vec![Tensor::from_strings(&shape, places.map(|at| strings[at].clone()).collect())?]);
    }
    let width = input.dtype().bits() / 8;
    let mut bytes = Vec::with_capacity(count * width);
    places.for_each(|at| bytes.extend_from_slice(&input.bytes()[at * width..][..width]));
    Ok(vec![Tensor::from_bytes(input.dtype(), &shape, bytes.into())?])
}

/// Returns how many features of each input there are in the result.
fn widths(operator: &Operator, inputs: usize) -> Result<Vec<usize>> {
    let list = operator.ints("inputdimensions")?.unwrap_or_default();
    if list.len() != inputs {
        return Err(wrong(operator, format_args!("inputdimensions has {} elements for {inputs} inputs", list.len())));
    }
    list.iter().map(|&width| size(width)).collect()
}

fn infer_vectorizer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let widths = widths(inference.operator, inference.inputs.len())?;
    let total = widths.iter().try_fold(0usize, |sum, &width| sum.checked_add(width));
    let total = total.ok_or_else(|| wrong(inference.operator, "inputdimensions overflows"))?;
    let rows = super::table(inference)?.map_or(Dim::Unknown, |(rows, _)| rows);
    Ok(vec![TensorType::new(DType::F32, vec![rows, Dim::Known(total)])])
}

/// Puts rows behind each other, each cut or filled up with zeros to its width.
fn vectorize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let widths = widths(operator, evaluation.inputs.len())?;
    let (rows, _) = sizes(operator, evaluation.input(0)?)?;
    let total = widths.iter().try_fold(0usize, |sum, &width| sum.checked_add(width)).unwrap_or(usize::MAX);
    let count = evaluation.reserve(DType::F32, &[rows, total])?;
    take(count, size_of::<f64>())?;
    let mut result = vec![0.0; count];
    let mut start = 0;
    for (index, &width) in widths.iter().enumerate() {
        let input = evaluation.input(index)?;
        let (same, features) = sizes(operator, input)?;
        if same != rows {
            return Err(wrong(operator, format_args!("input {index} has {same} rows, and the first one has {rows}")));
        }
        let x = floats(input)?;
        let kept = width.min(features);
        for row in 0..rows {
            result[row * total + start..][..kept].copy_from_slice(&x[row * features..][..kept]);
        }
        start += width;
    }
    Ok(vec![pack(result, DType::F32, &[rows, total])?])
}

/// Infers the type of a ZipMap.
///
/// The standard's result is a sequence with a map for each row, from labels to probabilities.
/// There are no maps here, so the result is the table of the probabilities themselves, whose
/// columns are in the order of the labels in the operator's attribute.
fn infer_zip(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    let ints = operator.ints("classlabels_int64s")?.unwrap_or_default().len();
    let strings = texts(operator, "classlabels_strings")?.unwrap_or_default().len();
    let labels = ints + strings;
    if (ints == 0) == (strings == 0) {
        return Err(wrong(operator, "it needs either 'classlabels_int64s' or 'classlabels_strings'"));
    }
    if let Some(columns) = inference.dims(0)?.and_then(|dims| dims.last()).and_then(Dim::known)
        && columns != labels
    {
        return Err(wrong(operator, format_args!("it has {labels} labels for {columns} columns")));
    }
    Ok(vec![inference.input(0)?.ty.clone()])
}

fn zip(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![evaluation.input(0)?.clone()])
}

fn no_maps(operator: &Operator) -> Error {
    Error::unsupported(format!("{operator}, whose input is a map"))
        .with_remedy("leave the node out, and give the model the vector that it would make")
}

fn infer_dict(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    Err(no_maps(inference.operator))
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    fn operator(name: &str) -> Operator {
        Operator { domain: super::super::DOMAIN.into(), ..Operator::new(name, 1) }
    }

    #[test]
    fn one_row_of_features_stays_a_table() {
        let x = Tensor::from_vec(&[3], vec![5i64, 6, 7]).unwrap();
        let at = |index: Vec<i64>| Some(Tensor::from_vec(&[index.len()], index).unwrap());
        let y = crate::evaluate(&operator("ArrayFeatureExtractor"), &[Some(x.clone()), at(vec![2, 0])], 1).unwrap();
        assert_eq!((y[0].shape(), &*y[0].view::<i64>().unwrap()), (&[1, 2][..], &[7, 5][..]));
        for outside in [-1, 3] {
            let inputs = [Some(x.clone()), at(vec![outside])];
            assert!(crate::evaluate(&operator("ArrayFeatureExtractor"), &inputs, 1).is_err());
        }
    }

    #[test]
    fn rows_are_cut_or_filled_up() {
        let a = Tensor::from_vec(&[2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let vectorizer = operator("FeatureVectorizer").with("inputdimensions", Attribute::Ints(vec![1, 3]));
        let y = crate::evaluate(&vectorizer, &[Some(a.clone()), Some(a)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [1.0, 1.0, 2.0, 0.0, 3.0, 3.0, 4.0, 0.0]);
    }
}
