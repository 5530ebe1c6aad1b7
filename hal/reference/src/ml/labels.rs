//! Labels and categories: `LabelEncoder`, `CategoryMapper` and `OneHotEncoder`.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use hetero_hal::{
    Attribute, DType, Definition, Dim, Error, ErrorKind, Evaluation, Inference, Operator, Result, Tensor, TensorType,
    spend, take,
};

use super::{define, texts, utf8, wrong};
use crate::numbers::{Numbers, floats};

pub(super) const ENCODER_OF_STRINGS: Definition =
    define("LabelEncoder", 1, (1, 1), infer_converted, encode_strings).until(2);
pub(super) const ENCODER: Definition = define("LabelEncoder", 2, (1, 1), infer_encoder, encode);
pub(super) const MAPPER: Definition = define("CategoryMapper", 1, (1, 1), infer_converted, map_categories);
pub(super) const ONE_HOT: Definition = define("OneHotEncoder", 1, (1, 1), infer_one_hot, one_hot);

/// Returns an attribute that is a list in any form, as a tensor of one dimension.
fn list(operator: &Operator, name: &str) -> Result<Option<Tensor>> {
    Ok(Some(match operator.attribute(name) {
        None => return Ok(None),
        Some(Attribute::Ints(values)) => Tensor::from_vec(&[values.len()], values.clone())?,
        Some(Attribute::Floats(values)) => Tensor::from_vec(&[values.len()], values.clone())?,
        Some(Attribute::Tensor(tensor)) => tensor.reshaped(&[tensor.len()])?,
        Some(Attribute::Strings(values)) => {
            let strings = values.iter().map(|text| utf8(operator, text)).collect::<Result<Vec<_>>>()?;
            Tensor::from_strings(&[strings.len()], strings)?
        }
        Some(_) => return Err(wrong(operator, format_args!("attribute '{name}' is no list"))),
    }))
}

/// Keys, the value of each, and the value of everything else.
struct Mapping {
    keys: Tensor,
    values: Tensor,
    otherwise: Tensor,
}

impl Mapping {
    fn of(operator: &Operator) -> Result<Self> {
        let only = |what: &str| -> Result<Tensor> {
            let forms = ["int64s", "floats", "strings", "tensor"];
            let found = forms.map(|form| list(operator, &format!("{what}_{form}")));
            let mut lists = Vec::new();
            for found in found {
                lists.extend(found?.filter(|list| !list.is_empty()));
            }
            match lists.pop() {
                Some(list) if lists.is_empty() => Ok(list),
                _ => Err(wrong(operator, format_args!("it needs one list of {what}, and has none or several"))),
            }
        };
        let (keys, values) = (only("keys")?, only("values")?);
        if keys.len() != values.len() {
            return Err(wrong(operator, format_args!("it has {} keys and {} values", keys.len(), values.len())));
        }
        let dtype = values.dtype();
        let otherwise = match operator.tensor("default_tensor")? {
            Some(tensor) if tensor.dtype() != dtype || tensor.len() != 1 => {
                return Err(wrong(operator, format_args!("default_tensor is {tensor:?}, and values are {dtype}")));
            }
            Some(tensor) => tensor.clone(),
            None if dtype == DType::String => {
                let text = operator.text("default_string")?.unwrap_or("_Unused");
                Tensor::from_strings(&[], vec![text.into()])?
            }
            None if dtype == DType::F32 => Tensor::scalar(operator.float("default_float")?.unwrap_or(-0.0)),
            None if dtype == DType::I64 => Tensor::scalar(operator.int("default_int64")?.unwrap_or(-1)),
            None if dtype.is_float() => Numbers::Floats(vec![-0.0]).into_tensor(dtype, &[])?,
            None => Numbers::Ints(vec![-1]).into_tensor(dtype, &[])?,
        };
        Ok(Mapping { keys, values, otherwise })
    }
}

fn infer_encoder(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let mapping = Mapping::of(inference.operator)?;
    let keys = mapping.keys.dtype();
    if let Some(dtype) = inference.dtype(0)?.filter(|&dtype| dtype != keys) {
        return Err(wrong(inference.operator, format_args!("its keys are {keys}, and its input is {dtype}")));
    }
    let dims = inference.input(0)?.ty.dims.clone();
    Ok(vec![TensorType { dtype: Some(mapping.values.dtype()), dims }])
}

/// Returns the position of each element among the keys; of a key that repeats, the last one counts.
fn look_up<K: Eq + Hash>(
    keys: impl ExactSizeIterator<Item = K>,
    elements: impl ExactSizeIterator<Item = K>,
) -> Result<Vec<Option<usize>>> {
    take(keys.len(), 4 * size_of::<(K, usize)>())?;
    take(elements.len(), size_of::<Option<usize>>())?;
    let mut index = HashMap::with_capacity(keys.len());
    for (position, key) in keys.enumerate() {
        index.insert(key, position);
    }
    let mut found = Vec::with_capacity(elements.len());
    for element in elements {
        spend(16)?;
        found.push(index.get(&element).copied());
    }
    Ok(found)
}

/// Returns bits that are equal for equal numbers, both zeros among them, and for all that is no
/// number.
fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
}

fn positions(keys: &Tensor, input: &Tensor) -> Result<Vec<Option<usize>>> {
    if let (Ok(keys), Ok(input)) = (keys.strings(), input.strings()) {
        return look_up(keys.iter(), input.iter());
    }
    match (Numbers::of(keys)?, Numbers::of(input)?) {
        (Numbers::Ints(keys), Numbers::Ints(input)) => look_up(keys.into_iter(), input.into_iter()),
        (keys, input) => look_up(keys.floats().into_iter().map(bits), input.floats().into_iter().map(bits)),
    }
}

fn encode(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let Mapping { keys, values, otherwise } = Mapping::of(evaluation.operator)?;
    if keys.dtype() != input.dtype() {
        let (keys, input) = (keys.dtype(), input.dtype());
        return Err(wrong(evaluation.operator, format_args!("its keys are {keys}, and its input is {input}")));
    }
    let found = positions(&keys, input)?;
    evaluation.reserve(values.dtype(), input.shape())?;
    if let (Ok(values), Ok([otherwise])) = (values.strings(), otherwise.strings()) {
        take(found.len(), size_of::<Arc<str>>())?;
        let strings = found.into_iter().map(|at| at.map_or(otherwise, |at| &values[at]).clone()).collect();
        return Ok(vec![Tensor::from_strings(input.shape(), strings)?]);
    }
    // All elements are moved as they are.
    let size = values.dtype().bits() / 8;
    let mut bytes = Vec::with_capacity(found.len() * size);
    for at in found {
        match at {
            Some(at) => bytes.extend_from_slice(&values.bytes()[at * size..][..size]),
            None => bytes.extend_from_slice(otherwise.bytes()),
        }
    }
    Ok(vec![Tensor::from_bytes(values.dtype(), input.shape(), bytes.into())?])
}

/// Infers the type of an operator that turns texts into whole numbers, and the other way around.
fn infer_converted(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = match inference.dtype(0)? {
        None => None,
        Some(DType::String) => Some(DType::I64),
        Some(DType::I64) => Some(DType::String),
        Some(other) => return Err(wrong(inference.operator, format_args!("it takes text or int64, not {other}"))),
    };
    Ok(vec![TensorType { dtype, dims: inference.input(0)?.ty.dims.clone() }])
}

/// Turns texts into the numbers beside them, or numbers into texts.
fn convert(evaluation: &Evaluation<'_>, strings: &[Arc<[u8]>], ints: &[i64]) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    take(strings.len(), 2 * size_of::<Arc<str>>())?;
    let names = strings.iter().map(|text| utf8(operator, text)).collect::<Result<Vec<_>>>()?;
    take(input.len(), size_of::<Arc<str>>())?;
    if let Ok(words) = input.strings() {
        let otherwise = operator.int("default_int64")?.unwrap_or(-1);
        let found = look_up(names.iter(), words.iter())?;
        let numbers = found.into_iter().map(|at| at.map_or(otherwise, |at| ints[at])).collect();
        return Ok(vec![Tensor::from_vec::<i64>(input.shape(), numbers)?]);
    }
    let otherwise: Arc<str> = operator.text("default_string")?.unwrap_or("_Unused").into();
    let numbers = input.view::<i64>()?;
    let found = look_up(ints.iter(), numbers.iter())?;
    let words = found.into_iter().map(|at| at.map_or(&otherwise, |at| &names[at]).clone()).collect();
    Ok(vec![Tensor::from_strings(input.shape(), words)?])
}

fn encode_strings(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let strings = texts(evaluation.operator, "classes_strings")?.unwrap_or_default();
    let ints: Vec<i64> = (0..strings.len() as i64).collect();
    convert(evaluation, strings, &ints)
}

fn map_categories(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let strings = texts(operator, "cats_strings")?.unwrap_or_default();
    let ints = operator.ints("cats_int64s")?.unwrap_or_default();
    if strings.len() != ints.len() {
        return Err(wrong(operator, format_args!("it has {} texts and {} numbers", strings.len(), ints.len())));
    }
    convert(evaluation, strings, ints)
}

/// Returns the categories of a OneHotEncoder.
fn categories(operator: &Operator, dtype: Option<DType>) -> Result<Tensor> {
    let found = |name: &str| Ok::<_, Error>(list(operator, name)?.filter(|list| !list.is_empty()));
    let categories = match (found("cats_int64s")?, found("cats_strings")?) {
        (Some(list), None) | (None, Some(list)) => list,
        _ => return Err(wrong(operator, "it needs either 'cats_int64s' or 'cats_strings'")),
    };
    match dtype {
        Some(dtype) if (dtype == DType::String) != (categories.dtype() == DType::String) => {
            let kind = categories.dtype();
            Err(wrong(operator, format_args!("its categories are {kind}, and its input is {dtype}")))
        }
        _ => Ok(categories),
    }
}

fn infer_one_hot(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let categories = categories(inference.operator, inference.dtype(0)?)?;
    let dims = inference.dims(0)?.map(|dims| [dims, &[Dim::Known(categories.len())]].concat());
    Ok(vec![TensorType { dtype: Some(DType::F32), dims }])
}

fn one_hot(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let categories = categories(operator, Some(input.dtype()))?;
    // Floats are cut to whole numbers.
    let whole = match input.dtype().is_float() {
        true => Numbers::Floats(floats(input)?).into_tensor(DType::I64, input.shape())?,
        false => input.clone(),
    };
    let found = positions(&categories, &whole)?;
    if operator.int("zeros")?.unwrap_or(1) == 0
        && let Some(at) = found.iter().position(Option::is_none)
    {
        let what = format!("{operator}: element {at} is none of its {} categories, and zeros is 0", categories.len());
        return Err(Error::new(ErrorKind::Execution, what));
    }
    let shape = [input.shape(), &[categories.len()]].concat();
    let count = evaluation.reserve(DType::F32, &shape)?;
    let mut result = vec![0.0f32; count];
    for (row, at) in found.into_iter().enumerate() {
        if let Some(at) = at {
            result[row * categories.len() + at] = 1.0;
        }
    }
    Ok(vec![Tensor::from_vec(&shape, result)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(name: &str, version: u32) -> Operator {
        Operator { domain: super::super::DOMAIN.into(), ..Operator::new(name, version) }
    }

    fn words(list: &[&str]) -> Attribute {
        Attribute::Strings(list.iter().map(|word| word.as_bytes().into()).collect())
    }

    #[test]
    fn keys_that_are_no_numbers_are_found() {
        let encoder = operator("LabelEncoder", 4)
            .with("keys_floats", Attribute::Floats(vec![1.0, f32::NAN, 0.0, 1.0]))
            .with("values_int64s", Attribute::Ints(vec![3, 4, 5, 6]))
            .with("default_int64", Attribute::Int(-7));
        let x = Tensor::from_vec(&[4], vec![1.0f32, -f32::NAN, -0.0, 2.0]).unwrap();
        let y = crate::evaluate(&encoder, &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<i64>().unwrap(), [6, 4, 5, -7]);
    }

    #[test]
    fn texts_become_numbers_and_numbers_texts() {
        let mapper = operator("CategoryMapper", 1)
            .with("cats_strings", words(&["a", "b"]))
            .with("cats_int64s", Attribute::Ints(vec![10, 20]));
        let x = Tensor::from_strings(&[3], vec!["b".into(), "c".into(), "a".into()]).unwrap();
        let y = crate::evaluate(&mapper, &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<i64>().unwrap(), [20, -1, 10]);
        let back = crate::evaluate(&mapper, &[Some(y[0].clone())], 1).unwrap();
        let words: Vec<&str> = back[0].strings().unwrap().iter().map(|word| &**word).collect();
        assert_eq!(words, ["b", "_Unused", "a"]);
    }

    #[test]
    fn keys_and_values_have_to_be_as_many() {
        let encoder = operator("LabelEncoder", 2)
            .with("keys_int64s", Attribute::Ints(vec![1, 2]))
            .with("values_floats", Attribute::Floats(vec![1.0]));
        let x = Tensor::from_vec(&[1], vec![1i64]).unwrap();
        let error = crate::evaluate(&encoder, &[Some(x)], 1).unwrap_err();
        assert!(error.message().contains("2 keys and 1 values"), "{error}");
    }

    #[test]
    fn an_unknown_category_is_an_error_where_zeros_are_not_allowed() {
        let encoder = |zeros: i64| {
            operator("OneHotEncoder", 1)
                .with("cats_int64s", Attribute::Ints(vec![1, 3]))
                .with("zeros", Attribute::Int(zeros))
        };
        let x = Tensor::from_vec(&[2], vec![3.9f32, 2.0]).unwrap();
        let y = crate::evaluate(&encoder(1), &[Some(x.clone())], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [0.0, 1.0, 0.0, 0.0]);
        let error = crate::evaluate(&encoder(0), &[Some(x)], 1).unwrap_err();
        assert!(error.message().contains("element 1 is none of its 2 categories"), "{error}");
    }
}
