//! Sliding windows, which convolution and pooling share.

use hetero_hal::{Dim, Error, Operator, Result, spend};

use crate::shapes::few;

/// The rule for the padding that an operator adds by itself (`auto_pad`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The padding is that of the attribute `pads`.
    Explicit,
    /// There is no padding.
    Valid,
    /// The output has `ceil(input / stride)` elements, and an odd element of padding is at the end.
    SameUpper,
    /// The output has `ceil(input / stride)` elements, and an odd element of padding is at the
    /// beginning.
    SameLower,
}

/// A window that slides over the spatial dimensions of an input, with all sizes resolved.
///
/// ```
/// use hetero_hal::{Attribute, Operator};
/// use hetero_reference::Window;
///
/// let conv = Operator::new("Conv", 11).with("strides", Attribute::Ints(vec![2, 2])).with("pads", Attribute::Ints(vec![3; 4]));
/// let window = Window::resolve(&conv, &[224, 224], &[7, 7])?;
/// assert_eq!(window.output, [112, 112]);
/// # Ok::<(), hetero_hal::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The sizes of the window.
    pub kernel: Vec<usize>,
    /// The steps between windows.
    pub strides: Vec<usize>,
    /// The steps between the elements of one window.
    pub dilations: Vec<usize>,
    /// The padding before each dimension.
    pub begin: Vec<usize>,
    /// The padding after each dimension.
    pub end: Vec<usize>,
    /// The number of windows in each dimension.
    pub output: Vec<usize>,
}

pub(crate) fn padding_rule(operator: &Operator) -> Result<Padding> {
    match operator.text("auto_pad")? {
        None | Some("NOTSET" | "") => Ok(Padding::Explicit),
        Some("VALID") => Ok(Padding::Valid),
        Some("SAME_UPPER") => Ok(Padding::SameUpper),
        Some("SAME_LOWER") => Ok(Padding::SameLower),
        Some(other) => Err(Error::invalid_model(format!("auto_pad '{other}' is unknown"))),
    }
}

/// Returns a list attribute of `rank` numbers that are at least `lowest`; all are `lowest` where it
/// is not set.
pub(crate) fn per_axis(operator: &Operator, name: &str, rank: usize, lowest: i64) -> Result<Vec<usize>> {
    match operator.ints(name)? {
        None => Ok(vec![lowest as usize; rank]),
        Some(values) if values.len() == rank && values.iter().all(|&v| (lowest..1 << 31).contains(&v)) => {
            Ok(values.iter().map(|&v| v as usize).collect())
        }
        Some(values) => Err(Error::invalid_model(format!("attribute '{name}' is {} for {rank} numbers", few(values)))),
    }
}

impl Window {
    /// Resolves the window of size `kernel` over an input by the `strides`, `dilations`, `pads`,
    /// `auto_pad` and `ceil_mode` of `operator`.
    ///
    /// # Errors
    /// `InvalidModel` where attributes do not fit the number of dimensions, or no window fits the
    /// input.
    pub fn resolve(operator: &Operator, input: &[usize], kernel: &[usize]) -> Result<Window> {
        let rank = input.len();
        if kernel.len() != rank {
            return Err(Error::invalid_model(format!("a window {kernel:?} over {rank} spatial dimensions")));
        }
        let strides = per_axis(operator, "strides", rank, 1)?;
        let dilations = per_axis(operator, "dilations", rank, 1)?;
        let pads = per_axis(operator, "pads", 2 * rank, 0)?;
        let rule = padding_rule(operator)?;
        let round_up = operator.int("ceil_mode")?.unwrap_or(0) != 0;
        let (mut begin, mut end, mut output) = (vec![0; rank], vec![0; rank], vec![0; rank]);
        for axis in 0..rank {
            let (size, stride) = (input[axis], strides[axis]);
            let misfit = || {
                Error::invalid_model(format!(
                    "a window {kernel:?} with dilations {dilations:?} does not fit an input {input:?}"
                ))
            };
            let reach = kernel[axis]
                .checked_sub(1)
                .and_then(|steps| steps.checked_mul(dilations[axis]))
                .and_then(|steps| steps.checked_add(1))
                .ok_or_else(misfit)?;
            match rule {
                Padding::Explicit => {
                    begin[axis] = pads[axis];
                    end[axis] = pads[rank + axis];
                }
                Padding::Valid => {}
                Padding::SameUpper | Padding::SameLower => {
                    let windows = size.div_ceil(stride);
                    let wanted = windows.saturating_sub(1).saturating_mul(stride).saturating_add(reach);
                    let total = wanted.saturating_sub(size);
                    begin[axis] = if rule == Padding::SameUpper { total / 2 } else { total.div_ceil(2) };
                    end[axis] = total - begin[axis];
                }
            }
            let padded = size.saturating_add(begin[axis]).saturating_add(end[axis]);
            output[axis] = if round_up {
                // What a window lacks at the end may be less than a stride.
                let windows = match padded.checked_sub(reach) {
                    Some(slack) => slack.div_ceil(stride) + 1,
                    None if reach - padded < stride => 1,
                    None => return Err(misfit()),
                };
                // A window that would start in the padding at the end is left out.
                if (windows - 1) * stride >= size + begin[axis] { windows - 1 } else { windows }
            } else {
                padded.checked_sub(reach).ok_or_else(misfit)? / stride + 1
            };
        }
        Ok(Window { kernel: kernel.to_vec(), strides, dilations, begin, end, output })
    }

    /// Calls `visit(tap, position)` for each element of the window at `output` that lies on the
    /// input.
    /// `tap` is its number in the window, and `position` its row-major position in `input`.
    pub(crate) fn taps(&self, output: &[usize], input: &[usize], mut visit: impl FnMut(usize, usize)) -> Result<()> {
        // The elements on the input are a range along each axis.
        // Only these are walked, because most of a window may lie on the padding.
        let mut ranges = Vec::with_capacity(input.len());
        for axis in 0..input.len() {
            let (start, step) = (output[axis] * self.strides[axis], self.dilations[axis]);
            let from = self.begin[axis].saturating_sub(start).div_ceil(step);
            let to = (self.begin[axis] + input[axis]).saturating_sub(start).div_ceil(step).min(self.kernel[axis]);
            if from >= to {
                return Ok(());
            }
            ranges.push(from..to);
        }
        let mut index: Vec<usize> = ranges.iter().map(|range| range.start).collect();
        loop {
            spend(4)?;
            let (mut tap, mut position) = (0usize, 0);
            for axis in 0..input.len() {
                let at = output[axis] * self.strides[axis] + index[axis] * self.dilations[axis] - self.begin[axis];
                position = position * input[axis] + at;
                // The number means something only where each element has a weight, so that their
                // count fits.
                tap = tap.wrapping_mul(self.kernel[axis]).wrapping_add(index[axis]);
            }
            visit(tap, position);
            let goes_on = index.iter_mut().zip(&ranges).rev().any(|(place, range)| {
                *place += 1;
                let inside = *place < range.end;
                if !inside {
                    *place = range.start;
                }
                inside
            });
            if !goes_on {
                return Ok(());
            }
        }
    }
}

/// Returns the number of windows in each dimension, as far as the input is known.
pub(crate) fn output_dims(operator: &Operator, input: &[Dim], kernel: &[usize]) -> Result<Vec<Dim>> {
    let known: Option<Vec<usize>> = input.iter().map(Dim::known).collect();
    match known {
        Some(input) => {
            let output = Window::resolve(operator, &input, kernel)?.output;
            Ok(output.into_iter().map(Dim::Known).collect())
        }
        None => Ok(vec![Dim::Unknown; input.len()]),
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    fn text(value: &str) -> Attribute {
        Attribute::String(value.as_bytes().into())
    }

    #[test]
    fn same_padding_splits_the_odd_one() {
        let op = |rule: &str| {
            Operator::new("MaxPool", 12).with("auto_pad", text(rule)).with("strides", Attribute::Ints(vec![2]))
        };
        let upper = Window::resolve(&op("SAME_UPPER"), &[5], &[2]).unwrap();
        assert_eq!((upper.begin[0], upper.end[0], upper.output[0]), (0, 1, 3));
        let lower = Window::resolve(&op("SAME_LOWER"), &[5], &[2]).unwrap();
        assert_eq!((lower.begin[0], lower.end[0], lower.output[0]), (1, 0, 3));
        assert!(Window::resolve(&op("DIAGONAL"), &[5], &[2]).is_err());
    }

    #[test]
    fn rounding_up_leaves_out_windows_in_the_padding() {
        let op = Operator::new("MaxPool", 12)
            .with("ceil_mode", Attribute::Int(1))
            .with("strides", Attribute::Ints(vec![2]))
            .with("pads", Attribute::Ints(vec![0, 1]));
        assert_eq!(Window::resolve(&op, &[4], &[1]).unwrap().output, [2]);
        assert_eq!(Window::resolve(&op, &[5], &[2]).unwrap().output, [3]);
        // The window lacks one element at the end, and then two, which is a stride.
        assert_eq!(Window::resolve(&op, &[1], &[3]).unwrap().output, [1]);
        assert!(Window::resolve(&op, &[1], &[4]).is_err());
    }

    #[test]
    fn only_elements_on_the_input_are_walked() {
        let wide = |kernel: Vec<usize>, dilations| Window {
            strides: vec![1; kernel.len()],
            dilations,
            begin: kernel.iter().map(|size| size / 2).collect(),
            end: kernel.iter().map(|size| size / 2).collect(),
            output: vec![3; kernel.len()],
            kernel,
        };
        let seen = |window: &Window, output: &[usize], input: &[usize]| {
            let mut seen = Vec::new();
            window.taps(output, input, |tap, position| seen.push((tap, position))).unwrap();
            seen
        };
        assert_eq!(seen(&wide(vec![1 << 30], vec![1]), &[1], &[2]), [((1 << 29) - 1, 0), (1 << 29, 1)]);
        assert_eq!(seen(&wide(vec![3, 3], vec![1, 1]), &[0, 1], &[2, 2]), [(3, 0), (4, 1), (6, 2), (7, 3)]);
        assert_eq!(seen(&wide(vec![3], vec![2]), &[0], &[4]), [(1, 1), (2, 3)]);
        assert_eq!(seen(&wide(vec![1], vec![1]), &[2], &[2]), []);
    }

    #[test]
    fn hostile_attributes_are_errors() {
        let op = |name: &str, values: Vec<i64>| Operator::new("Conv", 11).with(name, Attribute::Ints(values));
        assert!(Window::resolve(&op("strides", vec![0]), &[5], &[2]).is_err());
        assert!(Window::resolve(&op("pads", vec![-1, 0]), &[5], &[2]).is_err());
        assert!(Window::resolve(&op("dilations", vec![i64::MAX]), &[5], &[2]).is_err());
        assert!(Window::resolve(&op("strides", vec![1, 1]), &[5], &[2]).is_err());
        assert!(Window::resolve(&op("strides", vec![1]), &[5], &[6]).is_err());
        assert!(Window::resolve(&op("strides", vec![1]), &[5], &[0]).is_err());
    }
}
