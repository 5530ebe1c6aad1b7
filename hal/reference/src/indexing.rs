//! Walks over the elements of tensors, whatever their type.

use std::cmp::Ordering;

use hetero_hal::{Result, Tensor, element_count, spend, take};

use crate::small;

/// Returns the row-major strides of a shape, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Returns the strides under which `shape` reads as the larger shape `target` by broadcasting: 0
/// where a size of 1 is repeated.
pub(crate) fn broadcast_strides(shape: &[usize], target: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let lead = target.len() - shape.len();
    (0..target.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(inner) if shape[inner] != 1 => own[inner],
            _ => 0,
        })
        .collect()
}

/// An iterator over every index of a shape, row-major.
pub(crate) struct Indices {
    shape: Vec<usize>,
    next: Option<Vec<usize>>,
}

/// Returns every index of `shape`, row-major; one empty index for a scalar.
pub(crate) fn indices(shape: &[usize]) -> Indices {
    let next = (!shape.contains(&0)).then(|| vec![0; shape.len()]);
    Indices { shape: shape.to_vec(), next }
}

impl Iterator for Indices {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let current = self.next.take()?;
        let mut following = current.clone();
        for axis in (0..self.shape.len()).rev() {
            following[axis] += 1;
            if following[axis] < self.shape[axis] {
                self.next = Some(following);
                break;
            }
            following[axis] = 0;
        }
        Some(current)
    }
}

/// Returns the position of an index under strides.
pub(crate) fn offset(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(i, s)| i * s).sum()
}

/// Returns, for each element of `shape` in row-major order, its position under other strides from a
/// start.
///
/// # Errors
/// `OutOfMemory` where the positions do not fit the evaluation's allowance.
pub(crate) fn strided(shape: &[usize], strides: &[usize], start: usize) -> Result<Vec<usize>> {
    let count = element_count(shape).unwrap_or(usize::MAX);
    take(count, size_of::<usize>())?;
    let mut positions = Vec::with_capacity(count);
    walk(shape, &[strides.to_vec()], |at| {
        spend(1)?;
        positions.push(start + at[0]);
        Ok(())
    })?;
    Ok(positions)
}

/// Returns a tensor with its dimensions in another order.
///
/// # Errors
/// `OutOfMemory` where the tensor does not fit the evaluation's allowance.
pub(crate) fn permuted(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    let own = strides(tensor.shape());
    let shape: Vec<usize> = order.iter().map(|&axis| tensor.shape()[axis]).collect();
    let steps: Vec<usize> = order.iter().map(|&axis| own[axis]).collect();
    pick(tensor, &shape, strided(&shape, &steps, 0)?.into_iter().map(Some), None)
}

/// Calls a function for every index of a shape, row-major, with the positions that the index has
/// under several lists of strides, one list for each of `strides`.
/// Unlike [`indices`], it allocates nothing for an index.
///
/// # Errors
/// The first error of the function.
pub(crate) fn walk(
    shape: &[usize],
    strides: &[Vec<usize>],
    mut each: impl FnMut(&[usize]) -> Result<()>,
) -> Result<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut index = vec![0; shape.len()];
    let mut positions = vec![0; strides.len()];
    loop {
        each(&positions)?;
        let mut axis = shape.len();
        loop {
            let Some(next) = axis.checked_sub(1) else { return Ok(()) };
            axis = next;
            index[axis] += 1;
            if index[axis] < shape[axis] {
                positions.iter_mut().zip(strides).for_each(|(position, steps)| *position += steps[axis]);
                break;
            }
            index[axis] = 0;
            let back = shape[axis] - 1;
            positions.iter_mut().zip(strides).for_each(|(position, steps)| *position -= steps[axis] * back);
        }
    }
}

/// Sorts a list by a total order, stably.
/// The caller takes the memory of as many elements again, once for all lists that it sorts.
///
/// # Errors
/// `Timeout` where the evaluation's time is over.
pub(crate) fn sort<T: Copy>(list: &mut [T], mut order: impl FnMut(&T, &T) -> Ordering) -> Result<()> {
    // Pieces of a bounded length are sorted at once, and merged between looks at the clock.
    const PIECE: usize = 1 << 14;
    for piece in list.chunks_mut(PIECE) {
        spend(16 * piece.len())?;
        piece.sort_by(&mut order);
    }
    let mut length = PIECE;
    while length < list.len() {
        let mut merged = Vec::with_capacity(list.len());
        for pair in list.chunks(2 * length) {
            let (mut left, mut right) = pair.split_at(length.min(pair.len()));
            while let (Some((a, rest_a)), Some((b, rest_b))) = (left.split_first(), right.split_first()) {
                spend(2)?;
                if order(a, b).is_le() {
                    merged.push(*a);
                    left = rest_a;
                } else {
                    merged.push(*b);
                    right = rest_b;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        list.copy_from_slice(&merged);
        length *= 2;
    }
    Ok(())
}

/// Returns a tensor of `shape` whose elements are those of `source` at `positions`, row-major.
/// A position of `None` takes the first element of `fill`, or zeros.
///
/// Element types are opaque here: every type works.
///
/// # Errors
/// `OutOfMemory` where the tensor does not fit the evaluation's allowance.
pub(crate) fn pick(
    source: &Tensor,
    shape: &[usize],
    positions: impl IntoIterator<Item = Option<usize>>,
    fill: Option<&Tensor>,
) -> Result<Tensor> {
    let count = element_count(shape).unwrap_or(usize::MAX);
    let text = size_of::<std::sync::Arc<str>>();
    // A list of strings is copied once it is whole.
    take(count, if source.strings().is_ok() { 2 * text } else { source.dtype().bits().div_ceil(8) })?;
    if let Ok(strings) = source.strings() {
        let empty: std::sync::Arc<str> = "".into();
        let filler = fill.and_then(|fill| fill.strings().ok()).and_then(|fill| fill.first()).unwrap_or(&empty);
        let mut chosen = Vec::with_capacity(count);
        for position in positions {
            spend(4)?;
            chosen.push(position.and_then(|p| strings.get(p)).unwrap_or(filler).clone());
        }
        return Tensor::from_strings(shape, chosen);
    }
    let bits = source.dtype().bits();
    if !bits.is_multiple_of(8) {
        take(source.len() + count, 1)?;
        let codes = small::unpack(source.bytes(), bits, source.len());
        let filler = fill.map(|fill| small::unpack(fill.bytes(), bits, 1)).unwrap_or_default();
        let chosen = small::pack(&pick_bytes(&codes, 1, count, positions, &filler)?, bits);
        return Tensor::from_bytes(source.dtype(), shape, chosen.into());
    }
    let filler = fill.and_then(|fill| fill.bytes().get(..bits / 8)).unwrap_or_default();
    let chosen = pick_bytes(source.bytes(), bits / 8, count, positions, filler)?;
    Tensor::from_bytes(source.dtype(), shape, chosen.into())
}

/// Returns `count` elements of `width` bytes at `positions`; zeros where neither `source` nor
/// `fill` has one.
fn pick_bytes(
    source: &[u8],
    width: usize,
    count: usize,
    positions: impl IntoIterator<Item = Option<usize>>,
    fill: &[u8],
) -> Result<Vec<u8>> {
    let zeros = vec![0; width];
    let fill = fill.get(..width).unwrap_or(&zeros);
    // The positions need not know how many they are, and a list that grows takes more.
    let mut chosen = Vec::with_capacity(count.saturating_mul(width));
    for position in positions {
        spend(4)?;
        let element = position.and_then(|p| source.get(p * width..(p + 1) * width)).unwrap_or(fill);
        chosen.extend_from_slice(element);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_run_row_major() {
        assert_eq!(indices(&[2, 2]).collect::<Vec<_>>(), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        let mut walked = Vec::new();
        let each = |at: &[usize]| {
            walked.push([at[0], at[1]]);
            Ok(())
        };
        walk(&[2, 2], &[vec![2, 1], vec![0, 5]], each).unwrap();
        assert_eq!(walked, [[0, 0], [1, 5], [2, 0], [3, 5]]);
        assert_eq!(indices(&[]).count(), 1);
        assert_eq!(indices(&[3, 0]).count(), 0);
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
        assert_eq!(strided(&[2, 2], &[1, 2], 1).unwrap(), [1, 3, 2, 4]);
    }

    #[test]
    fn long_lists_are_sorted_stably() {
        let mut list: Vec<(u32, usize)> =
            (0..100_000).map(|at| ((at as u32).wrapping_mul(2_654_435_761) >> 28, at)).collect();
        sort(&mut list, |a, b| a.0.cmp(&b.0)).unwrap();
        assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn picking_fills_gaps() {
        let source = Tensor::from_vec(&[2], vec![5i16, 6]).unwrap();
        let fill = Tensor::scalar(9i16);
        let picked = pick(&source, &[3], [Some(1), None, Some(0)], Some(&fill)).unwrap();
        assert_eq!(&*picked.view::<i16>().unwrap(), [6, 9, 5]);
    }
}
