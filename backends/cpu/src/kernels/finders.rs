//! Operators that find elements, so that only a run tells the sizes of what they give: NonZero,
//! Compress, Unique and NonMaxSuppression.
//!
//! In contrast to kernels they work on tensors, whose memory they take from what the run is
//! allowed, as no plan knows their sizes.

use hetero_hal::{Bool, DType, Evaluation, Result, Tensor};

use super::numbers::Number;
use super::tile::piece;
use super::top::Key;
use super::{Runtime, Site};
use crate::operand::Shared;

/// A way to compute a node's outputs; `None` where the inputs are none of its kind.
pub(super) type Finder = fn(&Evaluation<'_>, &Runtime<'_>) -> Result<Option<Vec<Tensor>>>;

/// Returns the way to compute a node, where there is one.
pub(super) fn find(site: Site<'_>) -> Option<Finder> {
    let (operator, input) = (site.operator(), site.input(0)?);
    if !operator.domain.is_empty() {
        return None;
    }
    let whole = input.dtype.bits() > 0 && input.dtype.bits().is_multiple_of(8);
    match &*operator.name {
        "NonZero" => numbered(input.dtype).then_some(non_zero as Finder),
        "Compress" => whole.then_some(compress as Finder),
        "Unique" => {
            let flat = !operator.attributes.contains_key("axis");
            (flat && numbered(input.dtype) && input.dtype != DType::Bool).then_some(unique as Finder)
        }
        "NonMaxSuppression" => {
            let scores = site.input(1)?;
            (input.dtype == DType::F32 && scores.dtype == DType::F32).then_some(suppress as Finder)
        }
        _ => None,
    }
}

/// Tells whether the elements are numbers or booleans that are computed on here.
fn numbered(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::I32 | DType::I64 | DType::I8 | DType::U8 | DType::Bool)
}

/// Calls a function that is generic over the type of a tensor's elements.
macro_rules! by_type {
    ($tensor:expr, $function:ident($($argument:expr),*)) => {
        match $tensor.dtype() {
            DType::F32 => $function::<f32>($($argument),*),
            DType::F64 => $function::<f64>($($argument),*),
            DType::I32 => $function::<i32>($($argument),*),
            DType::I64 => $function::<i64>($($argument),*),
            DType::I8 => $function::<i8>($($argument),*),
            DType::U8 => $function::<u8>($($argument),*),
            _ => Ok(None),
        }
    };
}

/// The elements that a task looks at.
const CHUNK: usize = 1 << 14;

fn non_zero(evaluation: &Evaluation<'_>, runtime: &Runtime<'_>) -> Result<Option<Vec<Tensor>>> {
    let input = evaluation.input(0)?;
    if input.dtype() == DType::Bool {
        return places_of(input.bytes(), input.shape(), runtime).map(Some);
    }
    fn of<T: Number>(input: &Tensor, runtime: &Runtime<'_>) -> Result<Option<Vec<Tensor>>> {
        places_of(&input.view::<T>()?, input.shape(), runtime).map(Some)
    }
    by_type!(input, of(input, runtime))
}

/// Returns the coordinates of the elements that are not zero, all of the first axis first.
fn places_of<T: Number>(values: &[T], shape: &[usize], runtime: &Runtime<'_>) -> Result<Vec<Tensor>> {
    let (rank, chunks) = (shape.len(), values.len().div_ceil(CHUNK));
    runtime.allowance.tensor(DType::I64, &[chunks])?;
    let mut starts = vec![0usize; chunks];
    let counts = Shared::new(&mut starts);
    let own = |chunk: usize| &values[chunk * CHUNK..values.len().min((chunk + 1) * CHUNK)];
    runtime.for_each(chunks, |chunk, _| {
        let found = own(chunk).iter().map(|&x| usize::from(x != T::ZERO)).sum();
        // SAFETY: each count is one task's.
        unsafe { *counts.at(chunk) = found };
    });
    let mut count = 0;
    for start in &mut starts {
        count += std::mem::replace(start, count);
    }
    runtime.allowance.tensor(DType::I64, &[rank, count])?;
    let mut coordinates = vec![0i64; rank * count];
    let into = Shared::new(&mut coordinates);
    runtime.for_each(chunks, |chunk, _| {
        let mut at = starts[chunk];
        for (number, &x) in own(chunk).iter().enumerate() {
            if x == T::ZERO {
                continue;
            }
            let mut rest = chunk * CHUNK + number;
            for axis in (0..rank).rev() {
                // SAFETY: each chunk's elements have places of their own.
                unsafe { *into.at(axis * count + at) = (rest % shape[axis]) as i64 };
                rest /= shape[axis];
            }
            at += 1;
        }
    });
    Ok(vec![Tensor::from_vec(&[rank, count], coordinates)?])
}

/// Copies the slices whose flags are set.
fn compress(evaluation: &Evaluation<'_>, runtime: &Runtime<'_>) -> Result<Option<Vec<Tensor>>> {
    let (input, flags) = (evaluation.input(0)?, evaluation.input(1)?);
    let flags = flags.view::<Bool>()?;
    let shape = match evaluation.operator.int("axis")? {
        Some(axis) => {
            let axis = if axis < 0 { axis + input.rank() as i64 } else { axis };
            let Some(axis) = usize::try_from(axis).ok().filter(|&axis| axis < input.rank()) else { return Ok(None) };
            (input.shape().to_vec(), axis)
        }
        None => (vec![input.len()], 0),
    };
    let (mut shape, axis) = shape;
    let length = shape[axis];
    if flags.len() > length {
        return Ok(None);
    }
    let width = input.dtype().bits() / 8;
    let row = shape[axis + 1..].iter().product::<usize>() * width;
    let outer: usize = shape[..axis].iter().product();
    let kept = flags.iter().filter(|flag| flag.get()).count();
    shape[axis] = kept;
    let bytes = runtime.allowance.tensor(input.dtype(), &shape)?;
    let mut chosen = vec![0u8; bytes];
    let (into, from) = (Shared::new(&mut chosen), input.bytes());
    let pieces = runtime.pieces(outer, length * row / 8 + length);
    runtime.for_each(pieces, |number, _| {
        for line in piece(outer, pieces, number) {
            let mut at = line * kept * row;
            for index in (0..flags.len()).filter(|&index| flags[index].get()) {
                // SAFETY: each line is one task's.
                unsafe { into.slice(at, row) }.copy_from_slice(&from[(line * length + index) * row..][..row]);
                at += row;
            }
        }
    });
    Ok(Some(vec![Tensor::from_bytes(input.dtype(), &shape, chosen.into())?]))
}

fn unique(evaluation: &Evaluation<'_>, runtime: &Runtime<'_>) -> Result<Option<Vec<Tensor>>> {
    fn of<T: Key>(evaluation: &Evaluation<'_>, runtime: &Runtime<'_>) -> Result<Option<Vec<Tensor>>> {
        let input = evaluation.input(0)?;
        let values = input.view::<T>()?;
        let sorted = evaluation.operator.int("sorted")?.unwrap_or(1) != 0;
        // The list of entries, those of groups, and the four results.
        runtime.allowance.tensor(DType::I64, &[values.len(), 9])?;
        let mut entries: Vec<(u64, usize)> = values.iter().map(|x| x.key()).zip(0..).collect();
        entries.sort_unstable();
        runtime.check()?;
        // Each group has its first place and its number of elements.
        let mut groups: Vec<(usize, i64)> = Vec::new();
        let mut group_of = vec![0usize; values.len()];
        let mut last = None;
        for (key, place) in entries {
            if last != Some(key) {
                groups.push((place, 0));
                last = Some(key);
            }
            if let Some(group) = groups.last_mut() {
                group.1 += 1;
            }
            group_of[place] = groups.len() - 1;
        }
        let mut order: Vec<usize> = (0..groups.len()).collect();
        if !sorted {
            order.sort_unstable_by_key(|&group| groups[group].0);
        }
        let mut rank = vec![0i64; groups.len()];
        order.iter().zip(0..).for_each(|(&group, number)| rank[group] = number);
        let list = |values: Vec<i64>| Tensor::from_vec(&[values.len()], values);
        Ok(Some(vec![
            Tensor::from_vec(&[groups.len()], order.iter().map(|&group| values[groups[group].0]).collect())?,
            list(order.iter().map(|&group| groups[group].0 as i64).collect())?,
            list(group_of.iter().map(|&group| rank[group]).collect())?,
            list(order.iter().map(|&group| groups[group].1).collect())?,
        ]))
    }
    let input = evaluation.input(0)?;
    by_type!(input, of(evaluation, runtime))
}

/// Returns two opposite corners, the smaller coordinates first.
fn corners(values: &[f32], centered: bool) -> [f64; 4] {
    let [a, b, c, d] = std::array::from_fn(|index| f64::from(values[index]));
    if centered {
        // The values are center x, center y, width and height.
        return [b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0];
    }
    [a.min(c), b.min(d), a.max(c), b.max(d)]
}

/// Tells whether two boxes share at most this part of the area that they cover.
/// NaN is too much.
fn are_apart(a: &[f64; 4], b: &[f64; 4], most: f64) -> bool {
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let area = |r: &[f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let shared = side(0) * side(1);
    let covered = area(a) + area(b) - shared;
    let overlap = if covered <= 0.0 { 0.0 } else { shared / covered };
    overlap <= most
}

/// Selects the best boxes of each class that do not overlap a better one.
fn suppress(evaluation: &Evaluation<'_>, runtime: &Runtime<'_>) -> Result<Option<Vec<Tensor>>> {
    let (boxes, scores) = (evaluation.input(0)?, evaluation.input(1)?);
    let (&[batch, count, 4], &[same_batch, classes, same_count]) = (boxes.shape(), scores.shape()) else {
        return Ok(None);
    };
    if batch != same_batch || count != same_count {
        return Ok(None);
    }
    let most = match evaluation.optional(2) {
        Some(tensor) => usize::try_from(tensor.to_i64_vec()?.first().copied().unwrap_or(0)).unwrap_or(0),
        None => 0,
    };
    let number = |index: usize| -> Result<Option<f32>> {
        Ok(evaluation.optional(index).map(Tensor::view::<f32>).transpose()?.and_then(|values| values.first().copied()))
    };
    let (most_overlap, least) = (f64::from(number(3)?.unwrap_or(0.0)), number(4)?);
    let centered = evaluation.operator.int("center_point_box")?.unwrap_or(0) != 0;
    let (boxes, scores) = (boxes.view::<f32>()?, scores.view::<f32>()?);
    let lists = batch * classes;
    // A task has its candidates, and all of them may be kept.
    let most = most.min(count);
    runtime.allowance.tensor(DType::I64, &[lists, most.saturating_mul(6)])?;
    runtime.allowance.tensor(DType::I64, &[runtime.pool.threads().min(lists.max(1)), count, 8])?;
    let mut kept: Vec<Vec<i64>> = vec![Vec::new(); lists];
    let lines = Shared::new(&mut kept);
    let pieces = runtime.pieces(lists, count * 4);
    runtime.for_each(pieces, |number, _| {
        for list in piece(lists, pieces, number) {
            let (image, scores) = (list / classes, &scores[list * count..][..count]);
            let fits = |score: f32| least.is_none_or(|least| score > least);
            let scored = scores.iter().copied().zip(0usize..).filter(|&(score, _)| fits(score));
            let mut candidates: Vec<(f32, usize)> = scored.collect();
            candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let mut chosen: Vec<[f64; 4]> = Vec::new();
            let mut found = Vec::new();
            for (round, (_, index)) in candidates.into_iter().enumerate() {
                if chosen.len() >= most || (round % 1024 == 1023 && runtime.check().is_err()) {
                    break;
                }
                let own = corners(&boxes[(image * count + index) * 4..], centered);
                if chosen.iter().all(|other| are_apart(&own, other, most_overlap)) {
                    chosen.push(own);
                    found.extend([image as i64, (list % classes) as i64, index as i64]);
                }
            }
            // SAFETY: each list is one task's.
            unsafe { *lines.at(list) = found };
        }
    });
    runtime.check()?;
    let selected = kept.concat();
    Ok(Some(vec![Tensor::from_vec(&[selected.len() / 3, 3], selected)?]))
}
