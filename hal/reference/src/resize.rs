//! Resize and Upsample: sampling a grid at other points, one axis after the other.

use hetero_hal::{Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, spend, take};

use crate::indexing::pick;
use crate::numbers::{Numbers, floats};
use crate::shapes::{axes as sorted_axes, axis, elements, size};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Resize", 10, (1, 4), infer, resize).counting(flops),
    Definition::new("Upsample", 7, (1, 2), infer, resize).counting(flops).until(10),
];

fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(4)
}

/// The factors or the sizes that a node asks for, one for each axis that it touches.
enum Wanted {
    Scales(Vec<f64>),
    Sizes(Vec<i64>),
}

/// The whole request, resolved for an input shape: the output's size and the factor of each axis.
struct Request {
    output: Vec<usize>,
    scales: Vec<f64>,
    /// The start and end of the region of interest along each axis, as shares of the input.
    roi: Vec<(f64, f64)>,
}

/// Returns the scales or sizes of a node, which moved between inputs and attributes over the
/// versions.
fn wanted(operator: &Operator, content: impl Fn(usize) -> Option<Tensor>) -> Result<Option<Wanted>> {
    let (scales, sizes) = match (operator.is("Upsample"), operator.version) {
        (true, ..9) => {
            let scales = operator.floats("scales")?.unwrap_or_default();
            return Ok(Some(Wanted::Scales(scales.iter().map(|&v| f64::from(v)).collect())));
        }
        (true, _) | (false, ..11) => (content(1), None),
        (false, _) => (content(2), content(3)),
    };
    if let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) {
        return Ok(Some(Wanted::Sizes(sizes.to_i64_vec()?)));
    }
    match scales.filter(|scales| !scales.is_empty()) {
        Some(scales) => Ok(Some(Wanted::Scales(floats(&scales)?))),
        None => Ok(None),
    }
}

/// Returns the axes to which scales and sizes apply.
fn touched(operator: &Operator, rank: usize) -> Result<Vec<usize>> {
    match operator.ints("axes")? {
        None => Ok((0..rank).collect()),
        Some(listed) => {
            sorted_axes(listed, rank)?;
            listed.iter().map(|&value| axis(value, rank)).collect()
        }
    }
}

fn request(operator: &Operator, input: &[usize], wanted: &Wanted, roi: Option<&[f64]>) -> Result<Request> {
    let touched = touched(operator, input.len())?;
    let misfit = |count: usize| {
        Error::invalid_model(format!("{operator} has {count} sizes or scales for {} axes", touched.len()))
    };
    let mut request =
        Request { output: input.to_vec(), scales: vec![1.0; input.len()], roi: vec![(0.0, 1.0); input.len()] };
    match wanted {
        Wanted::Scales(scales) => {
            if scales.len() != touched.len() {
                return Err(misfit(scales.len()));
            }
            for (&axis, &scale) in touched.iter().zip(scales) {
                if !(scale > 0.0 && scale.is_finite()) {
                    return Err(Error::invalid_model(format!("{operator} by the factor {scale}")));
                }
                request.scales[axis] = scale;
                // A float as large as this saturates, and fails where memory is reserved.
                request.output[axis] = (input[axis] as f64 * scale).floor() as usize;
            }
        }
        Wanted::Sizes(sizes) => {
            if sizes.len() != touched.len() {
                return Err(misfit(sizes.len()));
            }
            let mut factors = Vec::new();
            for (&axis, &value) in touched.iter().zip(sizes) {
                request.output[axis] = size(value)?;
                factors.push(request.output[axis] as f64 / input[axis].max(1) as f64);
            }
            let shared = match operator.text("keep_aspect_ratio_policy")? {
                None | Some("stretch") => None,
                Some("not_larger") => Some(factors.iter().copied().fold(f64::INFINITY, f64::min)),
                Some("not_smaller") => Some(factors.iter().copied().fold(0.0, f64::max)),
                Some(other) => {
                    return Err(Error::invalid_model(format!("keep_aspect_ratio_policy '{other}' is unknown")));
                }
            };
            for (&axis, &factor) in touched.iter().zip(&factors) {
                request.scales[axis] = shared.unwrap_or(factor);
                if let Some(shared) = shared {
                    request.output[axis] = (shared * input[axis] as f64 + 0.5).floor() as usize;
                }
            }
        }
    }
    if let Some(roi) = roi.filter(|roi| !roi.is_empty()) {
        if roi.len() != 2 * touched.len() {
            return Err(misfit(roi.len()));
        }
        for (index, &axis) in touched.iter().enumerate() {
            request.roi[axis] = (roi[index], roi[touched.len() + index]);
        }
    }
    if let Some(axis) = (0..input.len()).find(|&axis| input[axis] == 0 && request.output[axis] > 0) {
        return Err(Error::invalid_model(format!("{operator} of the empty axis {axis}")));
    }
    Ok(request)
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let wanted = wanted(inference.operator, |index| inference.optional(index).and_then(|fact| fact.value.clone()))?;
    let dims = match (ty.shape(), wanted) {
        (Some(shape), Some(wanted)) => {
            let output = request(inference.operator, &shape, &wanted, None)?.output;
            Some(output.into_iter().map(Dim::Known).collect())
        }
        _ => ty.dims.as_ref().map(|dims| vec![Dim::Unknown; dims.len()]),
    };
    Ok(vec![TensorType { dtype: ty.dtype, dims }])
}

/// The rules by which positions of the output map to the input's.
#[derive(Clone, Copy)]
enum Mapping {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

fn mapping(operator: &Operator) -> Result<Mapping> {
    // Before version 11 there was one mapping, and no attribute.
    let default = if operator.is("Upsample") || operator.version < 11 { "asymmetric" } else { "half_pixel" };
    Ok(match operator.text("coordinate_transformation_mode")?.unwrap_or(default) {
        "half_pixel" => Mapping::HalfPixel,
        "half_pixel_symmetric" => Mapping::HalfPixelSymmetric,
        "pytorch_half_pixel" => Mapping::PytorchHalfPixel,
        "align_corners" => Mapping::AlignCorners,
        "asymmetric" => Mapping::Asymmetric,
        "tf_crop_and_resize" => Mapping::CropAndResize,
        other => return Err(Error::unsupported(format!("coordinate_transformation_mode '{other}'"))),
    })
}

/// Returns the place on the input of output position `at` along an axis.
fn source(mapping: Mapping, at: f64, input: f64, output: f64, scale: f64, roi: (f64, f64)) -> f64 {
    let resized = scale * input;
    match mapping {
        Mapping::HalfPixel => (at + 0.5) / scale - 0.5,
        Mapping::PytorchHalfPixel if resized == 1.0 => -0.5,
        Mapping::PytorchHalfPixel => (at + 0.5) / scale - 0.5,
        Mapping::HalfPixelSymmetric => input / 2.0 * (1.0 - output / resized) + (at + 0.5) / scale - 0.5,
        Mapping::AlignCorners if resized == 1.0 => 0.0,
        Mapping::AlignCorners => at * (input - 1.0) / (resized - 1.0),
        Mapping::Asymmetric => at / scale,
        Mapping::CropAndResize if resized == 1.0 => (roi.0 + roi.1) * (input - 1.0) / 2.0,
        Mapping::CropAndResize => roi.0 * (input - 1.0) + at * (roi.1 - roi.0) * (input - 1.0) / (resized - 1.0),
    }
}

/// The most elements that one sample may be taken of.
const MOST_TAPS: f64 = 1e9;

/// The kernel that weighs neighbours.
enum Kernel {
    Nearest(String),
    Linear,
    Cubic(f64),
}

impl Kernel {
    fn of(operator: &Operator) -> Result<Kernel> {
        match operator.text("mode")?.unwrap_or("nearest") {
            "nearest" => {
                let old = operator.is("Upsample") || operator.version < 11;
                let default = if old { "floor" } else { "round_prefer_floor" };
                Ok(Kernel::Nearest(operator.text("nearest_mode")?.unwrap_or(default).into()))
            }
            "linear" | "bilinear" => Ok(Kernel::Linear),
            "cubic" => Ok(Kernel::Cubic(f64::from(operator.float("cubic_coeff_a")?.unwrap_or(-0.75)))),
            other => Err(Error::unsupported(format!("{operator} in mode '{other}'"))),
        }
    }

    /// Returns the input positions around `x` with their weights.
    /// Positions may lie outside the input.
    /// A `stretch` below 1 widens the kernel, so that shrinking averages.
    fn taps(&self, x: f64, stretch: f64) -> Result<Vec<(i64, f64)>> {
        let (reach, weight): (f64, Box<dyn Fn(f64) -> f64>) = match self {
            Kernel::Nearest(rule) => {
                let chosen = match rule.as_str() {
                    "round_prefer_floor" => (x - 0.5).ceil(),
                    "round_prefer_ceil" => (x + 0.5).floor(),
                    "floor" => x.floor(),
                    "ceil" => x.ceil(),
                    other => return Err(Error::invalid_model(format!("nearest_mode '{other}' is unknown"))),
                };
                return Ok(vec![(chosen as i64, 1.0)]);
            }
            Kernel::Linear => (1.0, Box::new(|t: f64| (1.0 - t.abs()).max(0.0))),
            &Kernel::Cubic(a) => (2.0, Box::new(move |t: f64| cubic(t.abs(), a))),
        };
        let reach = reach / stretch;
        if reach.is_nan() || 2.0 * reach >= MOST_TAPS {
            return Err(Error::invalid_model(format!("a sample of {} elements", 2.0 * reach)));
        }
        take(2 * reach as usize, 2 * size_of::<(i64, f64)>())?;
        spend(4 * reach as usize)?;
        let (first, last) = ((x - reach).floor() as i64, (x + reach).ceil() as i64);
        let mut taps: Vec<(i64, f64)> =
            (first..=last).map(|at| (at, weight((at as f64 - x) * stretch))).filter(|(_, w)| *w != 0.0).collect();
        if stretch < 1.0 {
            let sum: f64 = taps.iter().map(|(_, w)| w).sum();
            taps.iter_mut().for_each(|(_, w)| *w /= sum);
        }
        Ok(taps)
    }

    /// Returns the input positions and weights along an axis of `size` elements.
    /// A position outside counts as the one at the edge, or is left out where the operator says so.
    fn inside(&self, operator: &Operator, x: f64, scale: f64, size: usize) -> Result<Vec<(usize, f64)>> {
        let antialias = operator.int("antialias")?.unwrap_or(0) != 0;
        let mut taps = self.taps(x, if antialias { scale.min(1.0) } else { 1.0 })?;
        if operator.int("exclude_outside")?.unwrap_or(0) != 0 {
            taps.retain(|(position, _)| (0..size as i64).contains(position));
            let sum: f64 = taps.iter().map(|(_, w)| w).sum();
            taps.iter_mut().for_each(|(_, w)| *w /= sum);
        }
        Ok(taps.into_iter().map(|(position, weight)| (position.clamp(0, size as i64 - 1) as usize, weight)).collect())
    }
}

/// The positions and weights that the result of a Resize or Upsample reads along one axis.
///
/// ```
/// use hetero_hal::{Attribute, Operator, Tensor};
/// use hetero_reference::Resampling;
///
/// let resize = Operator::new("Resize", 19).with("mode", Attribute::String(b"linear"[..].into()));
/// let scales = Tensor::from_vec(&[2], vec![1.0f32, 0.5])?;
/// let axes = Resampling::resolve(&resize, &[3, 4], |index| (index == 2).then(|| scales.clone()))?;
/// let [along] = &axes.unwrap_or_default()[..] else { panic!("only one axis changes") };
/// assert_eq!((along.axis, &along.taps[0]), (1, &vec![(0, 0.5), (1, 0.5)]));
/// # Ok::<(), hetero_hal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Resampling {
    /// The axis that is resampled.
    pub axis: usize,
    /// The positions of the input and their weights, for each position of the result.
    pub taps: Vec<Vec<(usize, f64)>>,
}

impl Resampling {
    /// Returns the resampling of each axis that `operator` changes on an input of this shape, in
    /// their order.
    /// `content` gives the known content of the operator's inputs.
    /// The result is `None` where neither scales nor sizes are known, and where a region of
    /// interest may lie outside the input.
    ///
    /// # Errors
    /// `InvalidModel` where attributes, scales or sizes do not fit the shape.
    pub fn resolve(
        operator: &Operator,
        input: &[usize],
        content: impl Fn(usize) -> Option<Tensor>,
    ) -> Result<Option<Vec<Resampling>>> {
        let (kernel, mapping) = (Kernel::of(operator)?, mapping(operator)?);
        let Some(wanted) = wanted(operator, content)?.filter(|_| !matches!(mapping, Mapping::CropAndResize)) else {
            return Ok(None);
        };
        let request = request(operator, input, &wanted, None)?;
        let mut axes = Vec::new();
        for (axis, &from) in input.iter().enumerate() {
            let (to, scale) = (request.output[axis], request.scales[axis]);
            if from == to && scale == 1.0 {
                continue;
            }
            let place = |at: usize| source(mapping, at as f64, from as f64, to as f64, scale, request.roi[axis]);
            take(to, size_of::<Vec<(usize, f64)>>() + 4 * size_of::<(usize, f64)>())?;
            let taps = (0..to).map(|at| kernel.inside(operator, place(at), scale, from)).collect::<Result<_>>()?;
            axes.push(Resampling { axis, taps });
        }
        Ok(Some(axes))
    }
}

/// Computes the cubic convolution (Keys, 1981) at distance `t`.
pub(crate) fn cubic(t: f64, a: f64) -> f64 {
    if t <= 1.0 {
        ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    } else {
        0.0
    }
}

fn resize(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let wanted = wanted(operator, |index| evaluation.optional(index).cloned())?
        .ok_or_else(|| Error::invalid_model(format!("{operator} has neither scales nor sizes")))?;
    let roi = match operator.version {
        11.. if operator.is("Resize") => evaluation.optional(1).map(floats).transpose()?,
        _ => None,
    };
    let request = request(operator, input.shape(), &wanted, roi.as_deref())?;
    if evaluation.reserve(input.dtype(), &request.output)? == 0 {
        // Beside a size of 0 the other sizes are not bounded by memory, so no loop goes over them.
        return Ok(vec![Numbers::Floats(vec![]).into_tensor(input.dtype(), &request.output)?]);
    }
    let kernel = Kernel::of(operator)?;
    let mapping = mapping(operator)?;
    let filler = f64::from(operator.float("extrapolation_value")?.unwrap_or(0.0));
    let mut shape = input.shape().to_vec();
    // Where no numbers are computed, positions are, so that each element stays what it is.
    let picks = matches!(kernel, Kernel::Nearest(_));
    let mut values = if picks {
        take(input.len(), size_of::<f64>())?;
        (0..input.len()).map(|position| position as f64).collect()
    } else {
        floats(input)?
    };
    for along in 0..shape.len() {
        let (from, to) = (shape[along], request.output[along]);
        let scale = request.scales[along];
        let cropped = matches!(mapping, Mapping::CropAndResize) && request.roi[along] != (0.0, 1.0);
        if from == to && scale == 1.0 && !cropped {
            continue;
        }
        let (outer, inner): (usize, usize) = (shape[..along].iter().product(), shape[along + 1..].iter().product());
        shape[along] = to;
        evaluation.reserve(hetero_hal::DType::F64, &shape)?;
        spend(to)?;
        let mut next = vec![0.0; outer * to * inner];
        for at in 0..to {
            let x = source(mapping, at as f64, from as f64, to as f64, scale, request.roi[along]);
            let outside = matches!(mapping, Mapping::CropAndResize) && (x < 0.0 || x > from as f64 - 1.0);
            let taps = kernel.inside(operator, x, scale, from)?;
            for o in 0..outer {
                spend(inner.saturating_mul(taps.len() + 1))?;
                for i in 0..inner {
                    next[(o * to + at) * inner + i] = if outside {
                        if picks { -1.0 } else { filler }
                    } else {
                        let read = |position: usize| values[(o * from + position) * inner + i];
                        taps.iter().map(|&(position, weight)| weight * read(position)).sum()
                    };
                }
            }
        }
        values = next;
    }
    if picks {
        let fill = Numbers::Floats(vec![filler]).into_tensor(input.dtype(), &[1])?;
        let positions = values.into_iter().map(|position| (position >= 0.0).then_some(position as usize));
        return Ok(vec![pick(input, &shape, positions, Some(&fill))?]);
    }
    let numbers = if input.dtype().is_integer() {
        let (low, high) = crate::numbers::limits(input.dtype());
        take(values.len(), size_of::<i128>())?;
        Numbers::Ints(values.into_iter().map(|v| (v.trunc() as i128).clamp(low, high)).collect())
    } else {
        Numbers::Floats(values)
    };
    Ok(vec![numbers.into_tensor(input.dtype(), &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, ErrorKind};

    use super::*;

    #[test]
    fn huge_sizes_beside_none_end_at_once() {
        let x = Tensor::from_vec(&[0, 2], Vec::<f32>::new()).unwrap();
        let sizes = Tensor::from_vec(&[2], vec![0i64, 1 << 56]).unwrap();
        let y = crate::evaluate(&Operator::new("Resize", 19), &[Some(x), None, None, Some(sizes)], 1).unwrap();
        assert_eq!(y[0].shape(), [0, 1 << 56]);
    }

    fn resized(mode: &str, scale: f32) -> Result<Vec<f32>> {
        let x = Tensor::from_vec(&[1, 4], vec![1.0f32, 2.0, 3.0, 4.0])?;
        let scales = Tensor::from_vec(&[2], vec![1.0, scale])?;
        let op = Operator::new("Resize", 19).with("mode", Attribute::String(mode.as_bytes().into()));
        let y = crate::evaluate(&op, &[Some(x), None, Some(scales)], 1)?;
        Ok(y[0].view::<f32>()?.into_owned())
    }

    #[test]
    fn half_pixels_meet_in_the_middle() {
        assert_eq!(resized("linear", 0.5).unwrap(), [1.5, 3.5]);
        assert_eq!(resized("nearest", 2.0).unwrap(), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
        assert_eq!(resized("linear", 2.0).unwrap()[..3], [1.0, 1.25, 1.75]);
    }

    #[test]
    fn hostile_factors_end_before_allocation() {
        assert_eq!(resized("nearest", 1e12).unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert!(resized("nearest", -1.0).is_err());
        assert!(resized("nearest", f32::NAN).is_err());
    }
}
