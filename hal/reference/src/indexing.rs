//! Walks over the elements of tensors, whatever their type.

use hetero_hal::{Result, Tensor};

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
pub(crate) fn strided(shape: &[usize], strides: &[usize], start: usize) -> Vec<usize> {
    let mut positions = vec![start];
    for (&size, &stride) in shape.iter().zip(strides) {
        positions = positions.iter().flat_map(|&base| (0..size).map(move |i| base + i * stride)).collect();
    }
    positions
}

/// Returns a tensor of `shape` whose elements are those of `source` at `positions`, row-major.
/// A position of `None` takes the first element of `fill`, or zeros.
///
/// Element types are opaque here: every type works.
pub(crate) fn pick(
    source: &Tensor,
    shape: &[usize],
    positions: impl IntoIterator<Item = Option<usize>>,
    fill: Option<&Tensor>,
) -> Result<Tensor> {
    if let Ok(strings) = source.strings() {
        let empty: std::sync::Arc<str> = "".into();
        let filler = fill.and_then(|fill| fill.strings().ok()).and_then(|fill| fill.first()).unwrap_or(&empty);
        let chosen = positions.into_iter().map(|p| p.and_then(|p| strings.get(p)).unwrap_or(filler).clone()).collect();
        return Tensor::from_strings(shape, chosen);
    }
    let bits = source.dtype().bits();
    if !bits.is_multiple_of(8) {
        let codes = small::unpack(source.bytes(), bits, source.len());
        let filler = fill.map(|fill| small::unpack(fill.bytes(), bits, 1)).unwrap_or_default();
        let chosen = small::pack(&pick_bytes(&codes, 1, positions, &filler), bits);
        return Tensor::from_bytes(source.dtype(), shape, chosen.into());
    }
    let filler = fill.map(|fill| fill.bytes().to_vec()).unwrap_or_default();
    let chosen = pick_bytes(source.bytes(), bits / 8, positions, &filler);
    Tensor::from_bytes(source.dtype(), shape, chosen.into())
}

/// Returns elements of `width` bytes at `positions`; zeros where neither `source` nor `fill` has
/// one.
fn pick_bytes(source: &[u8], width: usize, positions: impl IntoIterator<Item = Option<usize>>, fill: &[u8]) -> Vec<u8> {
    let zeros = vec![0; width];
    let fill = fill.get(..width).unwrap_or(&zeros);
    let positions = positions.into_iter();
    let mut chosen = Vec::with_capacity(positions.size_hint().0.saturating_mul(width));
    for position in positions {
        let element = position.and_then(|p| source.get(p * width..(p + 1) * width)).unwrap_or(fill);
        chosen.extend_from_slice(element);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_run_row_major() {
        assert_eq!(indices(&[2, 2]).collect::<Vec<_>>(), [[0, 0], [0, 1], [1, 0], [1, 1]]);
        assert_eq!(indices(&[]).count(), 1);
        assert_eq!(indices(&[3, 0]).count(), 0);
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
        assert_eq!(strided(&[2, 2], &[1, 2], 1), [1, 3, 2, 4]);
    }

    #[test]
    fn picking_fills_gaps() {
        let source = Tensor::from_vec(&[2], vec![5i16, 6]).unwrap();
        let fill = Tensor::scalar(9i16);
        let picked = pick(&source, &[3], [Some(1), None, Some(0)], Some(&fill)).unwrap();
        assert_eq!(&*picked.view::<i16>().unwrap(), [6, 9, 5]);
    }
}
