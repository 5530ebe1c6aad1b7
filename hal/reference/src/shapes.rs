//! Rules of shapes that many operators share: axes, broadcasting and known sizes.

use std::fmt::Debug;

use hetero_hal::{DType, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, spend, take};

/// Returns an axis of a tensor of the given rank, counted from the end where it is negative.
pub(crate) fn axis(value: i64, rank: usize) -> Result<usize> {
    let signed = rank as i64;
    let position = if value < 0 { value.saturating_add(signed) } else { value };
    if (0..signed).contains(&position) {
        return Ok(position as usize);
    }
    Err(Error::invalid_model(format!("axis {value} is outside a tensor of rank {rank}")))
}

/// Returns axes, sorted; a repeated axis is an error.
pub(crate) fn axes(values: &[i64], rank: usize) -> Result<Vec<usize>> {
    if values.len() > rank {
        return Err(Error::invalid_model(format!("{} axes for a tensor of rank {rank}", values.len())));
    }
    let mut found = values.iter().map(|&value| axis(value, rank)).collect::<Result<Vec<_>>>()?;
    found.sort_unstable();
    if found.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid_model(format!("the axes {} repeat", few(values))));
    }
    Ok(found)
}

/// Returns a size that is given as a signed number.
pub(crate) fn size(value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::invalid_model(format!("the size {value} is negative")))
}

/// Broadcasts shapes multidirectionally, as the standard takes it from NumPy.
pub(crate) fn broadcast_shapes<'a>(shapes: impl IntoIterator<Item = &'a [usize]>) -> Result<Vec<usize>> {
    let mut result: Vec<usize> = Vec::new();
    for shape in shapes {
        while result.len() < shape.len() {
            result.insert(0, 1);
        }
        let offset = result.len() - shape.len();
        for (into, &dim) in result[offset..].iter_mut().zip(shape) {
            match (*into, dim) {
                (a, b) if a == b => {}
                (1, b) => *into = b,
                (_, 1) => {}
                (a, b) => {
                    return Err(Error::invalid_model(format!("sizes {a} and {b} do not broadcast: {shape:?}")));
                }
            }
        }
    }
    Ok(result)
}

fn broadcast_dim(a: &Dim, b: &Dim) -> Result<Dim> {
    Ok(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Dim::Known(1), other) | (other, Dim::Known(1)) => other.clone(),
        (Dim::Known(a), Dim::Known(b)) => {
            return Err(Error::invalid_model(format!("sizes {a} and {b} do not broadcast")));
        }
        // The other size can only be this size or 1.
        (Dim::Known(a), _) | (_, Dim::Known(a)) => Dim::Known(*a),
        (Dim::Data { bound: a, .. }, Dim::Data { bound: b, .. }) => Dim::Data { bound: *a.max(b), extent: None },
        _ => Dim::Unknown,
    })
}

/// Broadcasts dimensions multidirectionally, as far as they are known.
pub(crate) fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[Dim], position: usize| {
        (position + dims.len()).checked_sub(rank).map_or(Dim::Known(1), |index| dims[index].clone())
    };
    (0..rank).map(|position| broadcast_dim(&at(a, position), &at(b, position))).collect()
}

/// Infers the type of an element-wise operator's result: the first input's element type, with the
/// dimensions of all inputs broadcast.
pub(crate) fn infer_broadcast(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let mut dims = Some(Vec::new());
    for index in 0..inference.inputs.len() {
        dims = match (dims, inference.dims(index)?) {
            (Some(known), Some(more)) => Some(broadcast_dims(&known, more)?),
            _ => None,
        };
    }
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

/// Infers the type of the result of an operator that keeps its first input's type.
pub(crate) fn infer_same(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    Ok(vec![inference.input(0)?.ty.clone()])
}

/// Returns the number of elements of a type; a size that is not known counts by its bound, or else
/// as 1.
pub(crate) fn elements(ty: &TensorType) -> u64 {
    ty.dims
        .as_ref()
        .map_or(0, |dims| dims.iter().fold(1u64, |count, dim| count.saturating_mul(dim.bound().unwrap_or(1) as u64)))
}

/// Returns the element type that an attribute names by its code in the standard; `None` where the
/// attribute is absent.
pub(crate) fn named_type(operator: &Operator, attribute: &str) -> Result<Option<DType>> {
    let Some(code) = operator.int(attribute)? else { return Ok(None) };
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx_code);
    dtype
        .map(Some)
        .ok_or_else(|| Error::invalid_model(format!("{attribute} of {operator} is the unknown element type {code}")))
}

/// Counts one operation for each element of the result.
pub(crate) fn flops_per_element(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements)
}

/// Returns the list under `attribute`, or in input `index` in later versions of the operator, as
/// far as it is known.
/// It is `None` where neither is set, and `Some(None)` where only a run tells its content.
pub(crate) fn list_of(inference: &Inference<'_>, attribute: &str, index: usize) -> Result<Option<Option<Vec<i64>>>> {
    if let Some(list) = inference.operator.ints(attribute)? {
        return Ok(Some(Some(list.to_vec())));
    }
    match inference.optional(index) {
        None => Ok(None),
        Some(fact) => Ok(Some(fact.value.as_ref().map(hetero_hal::Tensor::to_i64_vec).transpose()?)),
    }
}

/// Returns the numbers of a tensor of integers that decide sizes, axes or places.
///
/// # Errors
/// `OutOfMemory` where the list does not fit the evaluation's allowance.
pub(crate) fn integers(tensor: &Tensor) -> Result<Vec<i64>> {
    // Many a list becomes a list of sizes or positions.
    take(tensor.len(), size_of::<i64>() + size_of::<usize>())?;
    spend(tensor.len())?;
    tensor.to_i64_vec()
}

/// Returns the first elements of a list that a message shows, because a file decides how long the
/// list is.
pub(crate) fn few(list: &[impl Debug]) -> String {
    const MOST: usize = 16;
    match list.get(..MOST) {
        Some(first) if list.len() > MOST => format!("{first:?} and {} more", list.len() - MOST),
        _ => format!("{list:?}"),
    }
}

/// Returns the list under `attribute`, or in input `index` in later versions of the operator.
pub(crate) fn list(evaluation: &Evaluation<'_>, attribute: &str, index: usize) -> Result<Option<Vec<i64>>> {
    match evaluation.operator.ints(attribute)? {
        Some(list) => Ok(Some(list.to_vec())),
        None => evaluation.optional(index).map(integers).transpose(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast_shapes([&[2, 1, 4][..], &[3, 1]]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast_shapes([&[0][..], &[1]]).unwrap(), [0]);
        assert!(broadcast_shapes([&[2][..], &[3]]).is_err());
        let symbol = Dim::Symbol("n".into());
        let dims = broadcast_dims(&[symbol.clone(), Dim::Known(1)], &[Dim::Known(7)]).unwrap();
        assert_eq!(dims, [symbol.clone(), Dim::Known(7)]);
        assert_eq!(broadcast_dims(&[symbol], &[Dim::Known(5)]).unwrap(), [Dim::Known(5)]);
    }

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!(axis(-1, 3).unwrap(), 2);
        assert!(axis(3, 3).is_err() && axis(-4, 3).is_err() && axis(0, 0).is_err() && axis(i64::MIN, 2).is_err());
        assert_eq!(axes(&[-1, 0], 3).unwrap(), [0, 2]);
        assert!(axes(&[1, -2], 3).is_err());
        let long = axes(&[0; 100_000], 3).unwrap_err().to_string();
        assert!(long.contains("100000 axes") && long.len() < 100, "{long}");
        assert_eq!(
            (few(&[1, 2]), few(&[7; 20]).len()),
            ("[1, 2]".to_owned(), "[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7] and 4 more".len())
        );
    }
}
