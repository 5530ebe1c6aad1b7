//! The inverse of square matrices.

use hetero_hal::{Definition, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, spend};

use super::DOMAIN;
use crate::numbers::{floats, pack};
use crate::shapes::elements;

pub(super) static DEFINITIONS: &[Definition] =
    &[Definition::new("Inverse", 1, (1, 1), infer, inverse).in_domain(DOMAIN).counting(flops)];

fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let ty = outputs.first();
    let side = ty.and_then(|ty| ty.dims.as_ref()?.last()?.bound()).unwrap_or(1) as u64;
    ty.map_or(0, elements).saturating_mul(2).saturating_mul(side)
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = inference.input(0)?.ty.clone();
    if let Some(dims) = &ty.dims {
        square(inference.operator, &dims.iter().map(hetero_hal::Dim::known).collect::<Vec<_>>())?;
    }
    Ok(vec![ty])
}

/// Checks that the last two dimensions are equal, as far as they are known.
fn square(operator: &Operator, dims: &[Option<usize>]) -> Result<()> {
    match dims {
        [.., Some(rows), Some(columns)] if rows != columns => {
            Err(Error::invalid_model(format!("{operator} of a matrix of {rows} rows and {columns} columns")))
        }
        [.., _, _] => Ok(()),
        _ => Err(Error::invalid_model(format!("{operator} takes matrices, not a tensor of rank {}", dims.len()))),
    }
}

/// Computes the inverse by Gauss and Jordan's elimination with the largest pivot of each column.
fn inverse(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let shape = input.shape();
    square(evaluation.operator, &shape.iter().copied().map(Some).collect::<Vec<_>>())?;
    evaluation.reserve(input.dtype(), shape)?;
    let side = shape[shape.len() - 1];
    let mut left = floats(input)?;
    hetero_hal::take(left.len(), size_of::<f64>())?;
    let mut right = vec![0.0; left.len()];
    for (a, b) in left.chunks_mut((side * side).max(1)).zip(right.chunks_mut((side * side).max(1))) {
        for row in 0..side {
            b[row * side + row] = 1.0;
        }
        for column in 0..side {
            let size = |row: &usize| a[row * side + column].abs();
            let pivot = (column..side).max_by(|x, y| size(x).total_cmp(&size(y))).unwrap_or(column);
            if a[pivot * side + column] == 0.0 {
                return Err(Error::invalid_model(format!("{} of a matrix that has none", evaluation.operator)));
            }
            for at in 0..side {
                a.swap(column * side + at, pivot * side + at);
                b.swap(column * side + at, pivot * side + at);
            }
            let scale = a[column * side + column].recip();
            for at in 0..side {
                a[column * side + at] *= scale;
                b[column * side + at] *= scale;
            }
            for row in (0..side).filter(|&row| row != column) {
                spend(2 * side)?;
                let factor = a[row * side + column];
                for at in 0..side {
                    a[row * side + at] -= factor * a[column * side + at];
                    b[row * side + at] -= factor * b[column * side + at];
                }
            }
        }
    }
    Ok(vec![pack(right, input.dtype(), shape)?])
}
