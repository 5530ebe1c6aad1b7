//! Operators with a result whose size depends on data: Unique and Compress.

use std::cmp::Ordering;

use hetero_hal::{
    Bool, DType, Definition, Dim, Error, Evaluation, Inference, Result, Tensor, TensorType, element_count, spend, take,
};

use crate::indexing::{pick, sort, strides};
use crate::numbers::Numbers;
use crate::shapes::axis;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Unique", 11, (1, 1), infer_unique, unique).outputs(4),
    Definition::new("Compress", 9, (2, 2), infer_compress, compress),
];

/// Returns the dimensions and the count of slices along the axis, or of elements where there is no
/// axis, bounded by the input's.
fn bounded(inference: &Inference<'_>) -> Result<(Option<Vec<Dim>>, Dim)> {
    let dims = inference.dims(0)?;
    let data = |bound: Option<usize>| bound.map_or(Dim::Unknown, |bound| Dim::Data { bound, extent: None });
    match (inference.operator.int("axis")?, dims) {
        (None, dims) => {
            let bounds: Option<Vec<usize>> = dims.and_then(|dims| dims.iter().map(Dim::bound).collect());
            let count = data(bounds.and_then(|bounds| element_count(&bounds)));
            Ok((Some(vec![count.clone()]), count))
        }
        (Some(_), None) => Ok((None, Dim::Unknown)),
        (Some(along), Some(dims)) => {
            let along = axis(along, dims.len())?;
            let count = data(dims[along].bound());
            let mut dims = dims.to_vec();
            dims[along] = count.clone();
            Ok((Some(dims), count))
        }
    }
}

fn infer_unique(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (dims, count) = bounded(inference)?;
    let elements = match (inference.operator.int("axis")?, inference.dims(0)?) {
        (Some(along), Some(dims)) => dims[axis(along, dims.len())?].clone(),
        (None, Some(dims)) => dims
            .iter()
            .map(Dim::known)
            .collect::<Option<Vec<_>>>()
            .and_then(|sizes| element_count(&sizes))
            .map_or_else(|| count.clone(), Dim::Known),
        _ => Dim::Unknown,
    };
    let positions = |dim: Dim| TensorType::new(DType::I64, vec![dim]);
    Ok(vec![
        TensorType { dtype: inference.dtype(0)?, dims },
        positions(count.clone()),
        positions(elements),
        positions(count),
    ])
}

/// Returns the positions of a tensor's elements, with a list for each slice along an axis.
fn slices(shape: &[usize], along: usize) -> Result<Vec<Vec<usize>>> {
    let stride = strides(shape)[along];
    let (length, outer) = (shape[along], shape[..along].iter().product::<usize>());
    let slice = |k: usize| (0..outer).flat_map(|o| (0..stride).map(move |i| (o * length + k) * stride + i)).collect();
    let count = element_count(shape).unwrap_or(usize::MAX);
    take(count, size_of::<usize>())?;
    take(length, 2 * size_of::<Vec<usize>>())?;
    spend(2 * count)?;
    Ok((0..length).map(slice).collect())
}

fn unique(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let sorted = evaluation.operator.int("sorted")?.unwrap_or(1) != 0;
    let (flat, along) = match evaluation.operator.int("axis")? {
        Some(along) => (input.clone(), axis(along, input.rank())?),
        None => (input.reshaped(&[input.len()])?, 0),
    };
    let slices = slices(flat.shape(), along)?;
    let texts = flat.strings().ok();
    let numbers = if texts.is_some() { Numbers::Ints(vec![]) } else { Numbers::of(&flat)? };
    let compare = |a: usize, b: usize| match (texts, &numbers) {
        (Some(texts), _) => texts[a].cmp(&texts[b]),
        (None, Numbers::Ints(x)) => x[a].cmp(&x[b]),
        (None, Numbers::Floats(x)) => x[a].partial_cmp(&x[b]).unwrap_or_else(|| x[a].is_nan().cmp(&x[b].is_nan())),
    };
    let order = |a: usize, b: usize| {
        slices[a].iter().zip(&slices[b]).map(|(&p, &q)| compare(p, q)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut sequence: Vec<usize> = (0..slices.len()).collect();
    // A comparison takes as long as a slice is, at the most.
    take(sequence.len(), 6 * size_of::<Vec<usize>>())?;
    sort(&mut sequence, |&a, &b| order(a, b).then(a.cmp(&b)))?;
    // Equal slices stand together; the first of each group is the one that occurred first.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in sequence {
        spend(8 + slices[index].len())?;
        match groups.last_mut() {
            Some(group) if order(group[0], index).is_eq() => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    if !sorted {
        let mut order: Vec<(usize, usize)> = groups.iter().map(|group| group[0]).zip(0..).collect();
        sort(&mut order, |a, b| a.cmp(b))?;
        groups = order.into_iter().map(|(_, group)| std::mem::take(&mut groups[group])).collect();
    }
    let mut inverse = vec![0i64; slices.len()];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&index| inverse[index] = number as i64);
    }
    let kept: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let positions = |values: Vec<i64>| Tensor::from_vec(&[values.len()], values);
    Ok(vec![
        chosen(&flat, along, &kept)?,
        positions(kept.iter().map(|&index| index as i64).collect())?,
        positions(inverse)?,
        positions(groups.iter().map(|group| group.len() as i64).collect())?,
    ])
}

/// Returns slices of a tensor by their numbers.
fn chosen(tensor: &Tensor, along: usize, kept: &[usize]) -> Result<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let length = shape[along];
    shape[along] = kept.len();
    let inner: usize = shape[along + 1..].iter().product();
    let outer: usize = shape[..along].iter().product();
    let position = |o: usize, k: usize, i: usize| Some((o * length + k) * inner + i);
    let positions = (0..outer).flat_map(|o| kept.iter().flat_map(move |&k| (0..inner).map(move |i| position(o, k, i))));
    pick(tensor, &shape, positions, None)
}

fn infer_compress(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (dims, _) = bounded(inference)?;
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

fn compress(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let flags = evaluation.input(1)?.view::<Bool>()?;
    let (flat, along) = match evaluation.operator.int("axis")? {
        Some(along) => (input.clone(), axis(along, input.rank())?),
        None => (input.reshaped(&[input.len()])?, 0),
    };
    if flags.len() > flat.shape()[along] {
        return Err(Error::invalid_model(format!("Compress of {} by {} flags", flat.shape()[along], flags.len())));
    }
    // The list grows as flags are found, by doubling.
    take(flags.len(), 3 * size_of::<usize>())?;
    let kept: Vec<usize> = (0..flags.len()).filter(|&index| flags[index].get()).collect();
    Ok(vec![chosen(&flat, along, &kept)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, Operator};

    use super::*;

    #[test]
    fn slices_are_unique_along_an_axis() {
        let x = Tensor::from_vec(&[3, 2], vec![3i32, 0, 1, 0, 3, 0]).unwrap();
        let op = Operator::new("Unique", 11).with("axis", Attribute::Int(0));
        let y = crate::evaluate(&op, &[Some(x.clone())], 4).unwrap();
        assert_eq!(&*y[0].view::<i32>().unwrap(), [1, 0, 3, 0]);
        assert_eq!(&*y[1].view::<i64>().unwrap(), [1, 0]);
        assert_eq!(&*y[2].view::<i64>().unwrap(), [1, 0, 1]);
        assert_eq!(&*y[3].view::<i64>().unwrap(), [1, 2]);
        let op = Operator::new("Unique", 11).with("sorted", Attribute::Int(0));
        let y = crate::evaluate(&op, &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<i32>().unwrap(), [3, 0, 1]);
    }

    #[test]
    fn flags_choose_slices() {
        let x = Tensor::from_vec(&[2, 3], vec![1u8, 2, 3, 4, 5, 6]).unwrap();
        let flags = Tensor::from_vec(&[2], vec![Bool::from(false), Bool::from(true)]).unwrap();
        let op = Operator::new("Compress", 11).with("axis", Attribute::Int(-1));
        let y = crate::evaluate(&op, &[Some(x), Some(flags)], 1).unwrap();
        assert_eq!((y[0].shape(), &*y[0].view::<u8>().unwrap()), (&[2, 1][..], &[2, 5][..]));
    }
}
