//! Boxes: suppression of boxes that overlap, and pooling inside regions of interest.

use hetero_hal::{
    DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend,
    take,
};

use crate::indexing::sort;
use crate::numbers::{floats, pack};
use crate::shapes::{elements, integers, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("NonMaxSuppression", 10, (2, 5), infer_suppression, suppress),
    Definition::new("RoiAlign", 10, (3, 3), infer_align, align).counting(flops),
    Definition::new("MaxRoiPool", 1, (2, 2), infer_pool, pool).counting(flops),
];

fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(16)
}

/// Infers the type of a NonMaxSuppression, which selects at most every box of every class.
fn infer_suppression(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let most = inference.optional(2).and_then(|fact| fact.value.as_ref()).map(Tensor::to_i64_vec).transpose()?;
    let most = most.and_then(|values| values.first().map(|&v| usize::try_from(v).unwrap_or(0)));
    let bound = match inference.input(1)?.ty.shape().as_deref() {
        Some(&[batch, classes, boxes]) => {
            batch.checked_mul(classes).and_then(|n| n.checked_mul(most.map_or(boxes, |most| most.min(boxes))))
        }
        _ => None,
    };
    let selected = bound.map_or(Dim::Unknown, |bound| Dim::Data { bound, extent: None });
    Ok(vec![TensorType::new(DType::I64, vec![selected, Dim::Known(3)])])
}

/// Returns two opposite corners, the smaller coordinates first.
fn corners(values: &[f64], centered: bool) -> [f64; 4] {
    let (a, b, c, d) = (values[0], values[1], values[2], values[3]);
    if centered {
        // The values are center x, center y, width and height.
        return [b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0];
    }
    [a.min(c), b.min(d), a.max(c), b.max(d)]
}

/// Returns the area that two boxes share over the area that they cover.
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let area = |r: &[f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let shared = side(0) * side(1);
    let covered = area(a) + area(b) - shared;
    if covered <= 0.0 { 0.0 } else { shared / covered }
}

/// Selects boxes as (batch, class, box), the best first within each class, from boxes [batch, n, 4]
/// and scores [batch, classes, n].
fn suppress(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (boxes, scores) = (evaluation.input(0)?, evaluation.input(1)?);
    let (&[batch, count, 4], &[same_batch, classes, same_count]) = (boxes.shape(), scores.shape()) else {
        return Err(Error::invalid_model(format!("{operator} of {boxes:?} and {scores:?}")));
    };
    if batch != same_batch || count != same_count {
        return Err(Error::invalid_model(format!("{operator}: {boxes:?} and {scores:?} do not fit together")));
    }
    let most = match evaluation.optional(2) {
        Some(tensor) => usize::try_from(integers(tensor)?.first().copied().unwrap_or(0)).unwrap_or(0),
        None => 0,
    };
    let threshold = |index: usize| -> Result<Option<f64>> {
        Ok(evaluation.optional(index).map(floats).transpose()?.and_then(|values| values.first().copied()))
    };
    let (most_overlap, least_score) = (threshold(3)?.unwrap_or(0.0), threshold(4)?);
    let centered = operator.int("center_point_box")?.unwrap_or(0) != 0;
    let (coordinates, scores) = (floats(boxes)?, floats(scores)?);
    let mut selected: Vec<i64> = Vec::new();
    take(count, size_of::<[f64; 4]>() + 5 * size_of::<usize>())?;
    for n in 0..batch {
        let rectangles: Vec<[f64; 4]> =
            (0..count).map(|i| corners(&coordinates[(n * count + i) * 4..][..4], centered)).collect();
        for class in 0..classes {
            let score = |i: usize| scores[(n * classes + class) * count + i];
            let mut order: Vec<usize> =
                (0..count).filter(|&i| least_score.is_none_or(|least| score(i) > least)).collect();
            sort(&mut order, |&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)))?;
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                spend(8 * kept.len() + 1)?;
                if kept.iter().all(|&other| overlap(&rectangles[i], &rectangles[other]) <= most_overlap) {
                    kept.push(i);
                }
            }
            take(kept.len(), 2 * 3 * size_of::<i64>())?;
            selected.extend(kept.into_iter().flat_map(|i| [n as i64, class as i64, i as i64]));
        }
    }
    Ok(vec![Tensor::from_vec(&[selected.len() / 3, 3], selected)?])
}

fn positive(operator: &Operator, attribute: &str) -> Result<usize> {
    match size(operator.int(attribute)?.unwrap_or(1))? {
        0 => Err(Error::invalid_model(format!("{operator}: {attribute} is 0"))),
        value => Ok(value),
    }
}

fn pooled_dims(inference: &Inference<'_>, height: usize, width: usize) -> Result<Vec<TensorType>> {
    let first = |dims: Option<&[Dim]>, at: usize| dims.and_then(|d| d.get(at).cloned()).unwrap_or(Dim::Unknown);
    let dims = vec![first(inference.dims(1)?, 0), first(inference.dims(0)?, 1), Dim::Known(height), Dim::Known(width)];
    Ok(vec![TensorType { dtype: inference.dtype(0)?, dims: Some(dims) }])
}

fn infer_align(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    pooled_dims(inference, positive(operator, "output_height")?, positive(operator, "output_width")?)
}

/// Returns the image of a region, once it is sure that there is such an image.
fn image_of(operator: &Operator, index: i64, images: usize) -> Result<usize> {
    usize::try_from(index)
        .ok()
        .filter(|&index| index < images)
        .ok_or_else(|| Error::invalid_model(format!("{operator}: a region of image {index} among {images}")))
}

/// Returns the weights and positions of the four elements around a point; `None` where it lies
/// outside.
fn around(y: f64, x: f64, height: usize, width: usize) -> Option<[(f64, usize); 4]> {
    let outside = y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64;
    if outside || height == 0 || width == 0 || y.is_nan() || x.is_nan() {
        return None;
    }
    let place = |at: f64, length: usize| {
        let low = (at.max(0.0) as usize).min(length - 1);
        let share = if low == length - 1 { 0.0 } else { at.max(0.0) - low as f64 };
        (low, (low + 1).min(length - 1), share)
    };
    let ((top, bottom, v), (left, right, h)) = (place(y, height), place(x, width));
    Some([
        ((1.0 - v) * (1.0 - h), top * width + left),
        ((1.0 - v) * h, top * width + right),
        (v * (1.0 - h), bottom * width + left),
        (v * h, bottom * width + right),
    ])
}

/// The most sampling points of one bin along one axis; a region that asks for more is no region of
/// an image.
const MOST_POINTS: f64 = 65_536.0;

fn align(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, regions) = (evaluation.input(0)?, evaluation.input(1)?);
    let images = integers(evaluation.input(2)?)?;
    let (&[batch, channels, height, width], &[count, 4]) = (input.shape(), regions.shape()) else {
        return Err(Error::invalid_model(format!("{operator} of {input:?} in {regions:?}")));
    };
    if images.len() != count {
        return Err(Error::invalid_model(format!("{operator}: {} images for {count} regions", images.len())));
    }
    let (rows, columns) = (positive(operator, "output_height")?, positive(operator, "output_width")?);
    let shape = [count, channels, rows, columns];
    evaluation.reserve(input.dtype(), &shape)?;
    let scale = f64::from(operator.float("spatial_scale")?.unwrap_or(1.0));
    let ratio = size(operator.int("sampling_ratio")?.unwrap_or(0))?;
    // Before version 16 regions were not shifted by half a pixel.
    let default = if operator.version < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = operator.text("coordinate_transformation_mode")?.unwrap_or(default) == "half_pixel";
    let largest = operator.text("mode")?.unwrap_or("avg") == "max";
    let (x, corners) = (floats(input)?, floats(regions)?);
    let plane = height * width;
    take(element_count(&shape).unwrap_or(usize::MAX), 2 * size_of::<f64>())?;
    let mut result = Vec::new();
    for (region, &image) in images.iter().enumerate() {
        let image = image_of(operator, image, batch)?;
        let shift = if half_pixel { 0.5 } else { 0.0 };
        let at = |k: usize| corners[region * 4 + k] * scale - shift;
        let extent = |from: f64, to: f64| if half_pixel { to - from } else { (to - from).max(1.0) };
        let (bin_h, bin_w) = (extent(at(1), at(3)) / rows as f64, extent(at(0), at(2)) / columns as f64);
        let points = |bin: f64| -> Result<usize> {
            match (ratio, bin.ceil()) {
                (0, bin) if bin.is_finite() && bin < MOST_POINTS => Ok(bin.max(0.0) as usize),
                (ratio, _) if ratio > 0 && (ratio as f64) < MOST_POINTS => Ok(ratio),
                _ => Err(Error::invalid_model(format!("{operator}: region {region} is too large"))),
            }
        };
        let (points_h, points_w) = (points(bin_h)?, points(bin_w)?);
        for channel in 0..channels {
            let pixels = &x[(image * channels + channel) * plane..][..plane];
            for row in 0..rows {
                for column in 0..columns {
                    let (mut sum, mut best) = (0.0, f64::NEG_INFINITY);
                    for i in 0..points_h {
                        spend(8 * points_w)?;
                        let y = at(1) + row as f64 * bin_h + (i as f64 + 0.5) * bin_h / points_h as f64;
                        for j in 0..points_w {
                            let x = at(0) + column as f64 * bin_w + (j as f64 + 0.5) * bin_w / points_w as f64;
                            match around(y, x, height, width) {
                                None => best = crate::numbers::max(best, 0.0),
                                Some(taps) => {
                                    for (weight, position) in taps {
                                        sum += weight * pixels[position];
                                        best = crate::numbers::max(best, weight * pixels[position]);
                                    }
                                }
                            }
                        }
                    }
                    let points = points_h * points_w;
                    result.push(match (largest, points) {
                        (true, 0) => 0.0,
                        (true, _) => best,
                        (false, points) => sum / points.max(1) as f64,
                    });
                }
            }
        }
    }
    Ok(vec![pack(result, input.dtype(), &shape)?])
}

fn pooled_shape(operator: &Operator) -> Result<(usize, usize)> {
    match operator.ints("pooled_shape")? {
        Some(&[height, width]) if height > 0 && width > 0 => Ok((height as usize, width as usize)),
        other => Err(Error::invalid_model(format!("{operator}: pooled_shape is {other:?}"))),
    }
}

fn infer_pool(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (height, width) = pooled_shape(inference.operator)?;
    pooled_dims(inference, height, width)
}

/// Computes a MaxRoiPool.
/// Regions are (image, x1, y1, x2, y2), rounded to whole elements, both ends included.
fn pool(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, regions) = (evaluation.input(0)?, evaluation.input(1)?);
    let (&[batch, channels, height, width], &[count, 5]) = (input.shape(), regions.shape()) else {
        return Err(Error::invalid_model(format!("{operator} of {input:?} in {regions:?}")));
    };
    let (rows, columns) = pooled_shape(operator)?;
    let shape = [count, channels, rows, columns];
    evaluation.reserve(input.dtype(), &shape)?;
    let scale = f64::from(operator.float("spatial_scale")?.unwrap_or(1.0));
    let (x, values) = (floats(input)?, floats(regions)?);
    take(element_count(&shape).unwrap_or(usize::MAX), 2 * size_of::<f64>())?;
    let mut result = Vec::new();
    for region in values.chunks(5) {
        let image = image_of(operator, region[0] as i64, batch)?;
        let at = |k: usize| (region[k] * scale).round();
        let bin = |from: f64, to: f64, bins: usize| ((to - from + 1.0).max(1.0) / bins as f64, from);
        let range = |(size, from): (f64, f64), k: usize, limit: usize| {
            let edge = |v: f64| (v + from).clamp(0.0, limit as f64) as usize;
            edge((k as f64 * size).floor())..edge(((k + 1) as f64 * size).ceil())
        };
        let (vertical, horizontal) = (bin(at(2), at(4), rows), bin(at(1), at(3), columns));
        for channel in 0..channels {
            let pixels = &x[(image * channels + channel) * height * width..][..height * width];
            for row in 0..rows {
                for column in 0..columns {
                    let mut best = None;
                    spend(10)?;
                    for i in range(vertical, row, height) {
                        spend(width)?;
                        for j in range(horizontal, column, width) {
                            let pixel = pixels[i * width + j];
                            best = Some(best.map_or(pixel, |b: f64| crate::numbers::max(b, pixel)));
                        }
                    }
                    result.push(best.unwrap_or(0.0));
                }
            }
        }
    }
    Ok(vec![pack(result, input.dtype(), &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn what_overlaps_a_better_box_goes() {
        let boxes = vec![0.0f32, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 0.0, 5.0, 1.0, 6.0];
        let boxes = Tensor::from_vec(&[1, 3, 4], boxes).unwrap();
        let scores = Tensor::from_vec(&[1, 1, 3], vec![0.8f32, 0.9, 0.7]).unwrap();
        let run = |most: i64, overlap: f32| {
            let inputs =
                [Some(boxes.clone()), Some(scores.clone()), Some(Tensor::scalar(most)), Some(Tensor::scalar(overlap))];
            let y = crate::evaluate(&Operator::new("NonMaxSuppression", 11), &inputs, 1).unwrap();
            y[0].view::<i64>().unwrap().chunks(3).map(|row| row[2]).collect::<Vec<_>>()
        };
        assert_eq!(run(3, 0.5), [1, 2]);
        assert_eq!(run(3, 0.95), [1, 0, 2]);
        assert_eq!(run(1, 0.5), [1]);
        assert_eq!(run(0, 0.5), [0i64; 0]);
    }

    #[test]
    fn a_region_of_everything_pools_to_the_largest() {
        let x = Tensor::from_vec(&[1, 1, 2, 2], vec![1.0f32, 4.0, 3.0, 2.0]).unwrap();
        let region = Tensor::from_vec(&[1, 5], vec![0.0f32, 0.0, 0.0, 1.0, 1.0]).unwrap();
        let op = Operator::new("MaxRoiPool", 1).with("pooled_shape", Attribute::Ints(vec![1, 1]));
        let y = crate::evaluate(&op, &[Some(x), Some(region)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [4.0]);
    }
}
