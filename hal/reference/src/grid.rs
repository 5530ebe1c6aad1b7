//! Sampling at points of a grid: GridSample and AffineGrid.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::{indices, offset, strides};
use crate::numbers::{floats, pack};
use crate::resize::cubic;
use crate::shapes::{elements, few, integers, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("GridSample", 16, (2, 2), infer_sample, sample).counting(flops),
    Definition::new("AffineGrid", 20, (2, 2), infer_affine, affine),
];

fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(8)
}

/// Infers the output [n, c, o1, ..] of the input [n, c, d1, ..] and the grid [n, o1, .., rank].
fn infer_sample(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = match (inference.dims(0)?, inference.dims(1)?) {
        (Some([n, c, rest @ ..]), Some([_, points @ .., _])) if rest.len() == points.len() => {
            Some([&[n.clone(), c.clone()], points].concat())
        }
        (Some(x), Some(grid)) => {
            return Err(Error::invalid_model(format!("a grid of rank {} over rank {}", grid.len(), x.len())));
        }
        _ => None,
    };
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

/// The values that are read beyond the border.
#[derive(Clone, Copy, PartialEq)]
enum Beyond {
    Zeros,
    Border,
    Reflection,
}

/// Reflects a position at the borders until it lies between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let distance = (x - low).rem_euclid(2.0 * range);
    low + if distance > range { 2.0 * range - distance } else { distance }
}

fn sample(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, grid) = (evaluation.input(0)?, evaluation.input(1)?);
    let (&[n, c, ref space @ ..], &[batch, ref points @ .., width]) = (input.shape(), grid.shape()) else {
        return Err(Error::invalid_model(format!("{operator} of {input:?} at {grid:?}")));
    };
    if batch != n || width != space.len() || points.len() != space.len() || space.contains(&0) {
        return Err(Error::invalid_model(format!("{operator}: the grid {grid:?} does not fit {input:?}")));
    }
    let beyond = match operator.text("padding_mode")? {
        None | Some("zeros") => Beyond::Zeros,
        Some("border") => Beyond::Border,
        Some("reflection") => Beyond::Reflection,
        Some(other) => return Err(Error::invalid_model(format!("padding_mode '{other}' is unknown"))),
    };
    let mode = operator.text("mode")?.unwrap_or("linear");
    let align = operator.int("align_corners")?.unwrap_or(0) != 0;
    let shape = [&[n, c], points].concat();
    evaluation.reserve(input.dtype(), &shape)?;
    let (x, at) = (floats(input)?, floats(grid)?);
    let plane: usize = space.iter().product();
    let steps = strides(space);
    let count: usize = points.iter().product();
    let borders: Vec<(f64, f64)> =
        space.iter().map(|&d| if align { (0.0, d as f64 - 1.0) } else { (-0.5, d as f64 - 0.5) }).collect();
    let all = element_count(&shape).unwrap_or(usize::MAX);
    take(all, size_of::<f64>())?;
    spend(all)?;
    let mut result = vec![0.0; all];
    let reach = if mode.ends_with("cubic") { 4usize } else { 2 };
    let work = reach.saturating_pow(width as u32).saturating_mul(c + 60);
    for image in 0..n {
        for point in 0..count {
            spend(work)?;
            // The grid names the innermost axis first.
            let coordinate = |axis: usize| {
                let unit = at[(image * count + point) * width + width - 1 - axis];
                let length = space[axis] as f64;
                let x = if align { (unit + 1.0) / 2.0 * (length - 1.0) } else { ((unit + 1.0) * length - 1.0) / 2.0 };
                match beyond {
                    // A cubic's outer taps repeat the border's elements.
                    // The position itself stays, as frameworks train it.
                    Beyond::Border if x.is_finite() && mode == "cubic" => x.clamp(-3.0, length + 2.0),
                    Beyond::Border if x.is_finite() => x.clamp(0.0, length - 1.0),
                    Beyond::Reflection if x.is_finite() => reflect(x, borders[axis].0, borders[axis].1),
                    _ => x,
                }
            };
            let taps: Vec<Vec<(i64, f64)>> =
                (0..width).map(|axis| taps(mode, coordinate(axis))).collect::<Result<_>>()?;
            let sizes: Vec<usize> = taps.iter().map(Vec::len).collect();
            for choice in indices(&sizes) {
                let weight: f64 = choice.iter().zip(&taps).map(|(&i, taps)| taps[i].1).product();
                let place = |axis: usize| {
                    let (position, length) = (taps[axis][choice[axis]].0, space[axis] as i64);
                    match beyond {
                        _ if (0..length).contains(&position) => Some(position as usize),
                        Beyond::Zeros => None,
                        Beyond::Border => Some(position.clamp(0, length - 1) as usize),
                        Beyond::Reflection => {
                            let inside = reflect(position as f64, borders[axis].0, borders[axis].1);
                            Some((inside as i64).clamp(0, length - 1) as usize)
                        }
                    }
                };
                let Some(place) = (0..width).map(place).collect::<Option<Vec<_>>>() else { continue };
                let position = offset(&place, &steps);
                for channel in 0..c {
                    result[(image * c + channel) * count + point] +=
                        weight * x[(image * c + channel) * plane + position];
                }
            }
        }
    }
    Ok(vec![pack(result, input.dtype(), &shape)?])
}

/// Returns the neighbours of a position along one axis, with their weights.
fn taps(mode: &str, x: f64) -> Result<Vec<(i64, f64)>> {
    let below = x.floor();
    let share = x - below;
    Ok(match mode {
        "nearest" => vec![(x.round_ties_even() as i64, 1.0)],
        "linear" | "bilinear" => vec![(below as i64, 1.0 - share), ((below as i64).saturating_add(1), share)],
        "cubic" | "bicubic" => {
            (-1..3).map(|i| ((below as i64).saturating_add(i), cubic((i as f64 - share).abs(), -0.75))).collect()
        }
        other => return Err(Error::invalid_model(format!("mode '{other}' of GridSample is unknown"))),
    })
}

/// Infers the grid [n, d1, .., dr, r] of the matrices [n, r, r + 1] and the size [n, c, d1, ..,
/// dr].
fn infer_affine(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dims = match &inference.input(1)?.value {
        Some(sizes) => {
            let sizes = sizes.to_i64_vec()?.into_iter().map(size).collect::<Result<Vec<_>>>()?;
            let shape = grid_shape(&sizes)?;
            Some(shape.into_iter().map(Dim::Known).collect())
        }
        None => None,
    };
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims }])
}

fn grid_shape(sizes: &[usize]) -> Result<Vec<usize>> {
    match sizes {
        [n, _, space @ ..] if (2..4).contains(&space.len()) => Ok([&[*n], space, &[space.len()]].concat()),
        _ => Err(Error::invalid_model(format!("AffineGrid of the size {}", few(sizes)))),
    }
}

fn affine(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let theta = evaluation.input(0)?;
    let sizes = integers(evaluation.input(1)?)?.into_iter().map(size).collect::<Result<Vec<_>>>()?;
    let shape = grid_shape(&sizes)?;
    let space = &sizes[2..];
    let rank = space.len();
    if theta.shape() != [sizes[0], rank, rank + 1] {
        return Err(Error::invalid_model(format!("AffineGrid of the size {sizes:?} with {theta:?}")));
    }
    evaluation.reserve(DType::F64, &shape)?;
    let align = evaluation.operator.int("align_corners")?.unwrap_or(0) != 0;
    let unit = |position: usize, length: usize| match (align, length) {
        (true, 1) => 0.0,
        (true, length) => 2.0 * position as f64 / (length - 1) as f64 - 1.0,
        (false, length) => (2 * position + 1) as f64 / length as f64 - 1.0,
    };
    let matrix = floats(theta)?;
    take(element_count(&shape).unwrap_or(usize::MAX), 2 * size_of::<f64>())?;
    let mut grid = Vec::new();
    for n in 0..sizes[0] {
        for at in indices(space) {
            spend(80)?;
            // The innermost axis is first, and a constant at the end.
            let point: Vec<f64> = (0..rank).rev().map(|axis| unit(at[axis], space[axis])).chain([1.0]).collect();
            for row in 0..rank {
                let line = &matrix[(n * rank + row) * (rank + 1)..][..=rank];
                grid.push(line.iter().zip(&point).map(|(m, p)| m * p).sum());
            }
        }
    }
    Ok(vec![pack(grid, theta.dtype(), &shape)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_turns_at_the_borders() {
        assert_eq!(reflect(-1.0, 0.0, 3.0), 1.0);
        assert_eq!(reflect(4.0, 0.0, 3.0), 2.0);
        assert_eq!(reflect(-0.75, -0.5, 3.5), -0.25);
        assert_eq!(reflect(7.0, 0.0, 0.0), 0.0);
    }

    #[test]
    fn the_identity_samples_every_pixel() {
        let theta = Tensor::from_vec(&[1, 2, 3], vec![1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0]).unwrap();
        let sizes = Tensor::from_vec(&[4], vec![1i64, 1, 2, 3]).unwrap();
        let grid = crate::evaluate(&Operator::new("AffineGrid", 20), &[Some(theta), Some(sizes)], 1).unwrap();
        let x = Tensor::from_vec(&[1, 1, 2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let y =
            crate::evaluate(&Operator::new("GridSample", 20), &[Some(x.clone()), Some(grid[0].clone())], 1).unwrap();
        for (a, b) in y[0].view::<f32>().unwrap().iter().zip(&*x.view::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-6);
        }
    }
}
