//! Selection by a condition and by limits: Where and Clip.

use hetero_hal::{Definition, Evaluation, Inference, Result, Tensor, TensorType, take};

use crate::indexing::{broadcast_strides, pick, strided};
use crate::numbers::{Numbers, max, min};
use crate::shapes::{broadcast_dims, broadcast_shapes, flops_per_element, infer_same};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Where", 9, (3, 3), infer_where, select),
    Definition::new("Clip", 6, (1, 3), infer_same, clip).counting(flops_per_element).in_place(&[0]),
];

fn infer_where(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let mut dims = Some(Vec::new());
    for index in 0..3 {
        dims = match (dims, inference.dims(index)?) {
            (Some(known), Some(more)) => Some(broadcast_dims(&known, more)?),
            _ => None,
        };
    }
    Ok(vec![TensorType { dtype: inference.dtype(1)?, dims }])
}

fn select(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (condition, a, b) = (evaluation.input(0)?, evaluation.input(1)?, evaluation.input(2)?);
    let shape = broadcast_shapes([condition.shape(), a.shape(), b.shape()])?;
    evaluation.reserve(a.dtype(), &shape)?;
    let positions = |tensor: &Tensor| strided(&shape, &broadcast_strides(tensor.shape(), &shape), 0);
    let flags = condition.view::<hetero_hal::Bool>()?;
    let places = positions(condition)?;
    take(places.len(), size_of::<bool>())?;
    let flags: Vec<bool> = places.into_iter().map(|p| flags[p].get()).collect();
    // Both sides are laid end to end at full size, so that one pick chooses.
    let count = flags.len();
    let side = |tensor: &Tensor| pick(tensor, &shape, positions(tensor)?.into_iter().map(Some), None);
    let both = crate::slicing::join(&[side(a)?.reshaped(&[count])?, side(b)?.reshaped(&[count])?], 0)?;
    let chosen = flags.iter().enumerate().map(|(i, &flag)| Some(if flag { i } else { count + i }));
    Ok(vec![pick(&both, &shape, chosen, None)?])
}

/// Computes a Clip, whose limits are attributes until opset 10 and inputs later.
fn clip(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let limit = |index: usize, attribute: &str| -> Result<Option<Numbers>> {
        if let Some(value) = evaluation.operator.float(attribute)? {
            return Ok(Some(Numbers::Floats(vec![f64::from(value)])));
        }
        evaluation.optional(index).map(Numbers::of).transpose()
    };
    let (low, high) = (limit(1, "min")?, limit(2, "max")?);
    let result = match Numbers::of(input)? {
        Numbers::Floats(values) => {
            let first = |n: Option<Numbers>| n.and_then(|n| n.floats().first().copied());
            let (low, high) = (first(low), first(high));
            // The standard has a Clip as a Min of a Max, in which NaN wins.
            let bounded = |x: f64| {
                let x = low.map_or(x, |low| max(x, low));
                high.map_or(x, |high| min(x, high))
            };
            Numbers::Floats(values.into_iter().map(bounded).collect())
        }
        Numbers::Ints(values) => {
            let first = |n: Option<Numbers>| match n {
                Some(Numbers::Ints(values)) => values.first().copied(),
                _ => None,
            };
            let (low, high) = (first(low), first(high));
            let bounded = |x: i128| {
                let x = low.map_or(x, |low| x.max(low));
                high.map_or(x, |high| x.min(high))
            };
            Numbers::Ints(values.into_iter().map(bounded).collect())
        }
    };
    Ok(vec![result.into_tensor(input.dtype(), input.shape())?])
}
