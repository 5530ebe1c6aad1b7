//! Operators that copy runs of neighbouring elements, or leave them 0: Trilu, ReverseSequence,
//! CenterCropPad and OneHot, for elements of any type of whole bytes.

use hetero_hal::{DType, Element, Error, Result};

use super::movement::of_width;
use super::select::Indices;
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// Does rows of the first output, each of so many bytes, on all threads.
fn rows(
    arguments: &mut Arguments<'_>,
    runtime: &Runtime<'_>,
    row: usize,
    body: impl Fn(usize, &mut [u8]) + Sync,
) -> Result<()> {
    let output = arguments.output::<u8>(0)?;
    let count = output.len().checked_div(row).unwrap_or(0);
    let output = Shared::new(output);
    let pieces = runtime.pieces(count, row / 4 + 8);
    runtime.for_each(pieces, |number, _| {
        for number in piece(count, pieces, number) {
            // SAFETY: each row is one task's.
            body(number, unsafe { output.slice(number * row, row) });
        }
    });
    Ok(())
}

pub(super) fn triangle(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let upper = site.operator().int("upper")?.unwrap_or(1) != 0;
    let Some(input) = site.input(0) else { return Ok(None) };
    let &[.., height, width] = input.shape.as_slice() else { return Ok(None) };
    if site.input(1).is_some_and(|shift| shift.dtype != DType::I64 || shift.elements() != 1) {
        return Ok(None);
    }
    Ok(Some(Box::new(Triangle { height, width, element: input.dtype.bits() / 8, upper })))
}

/// The part of matrices above or below a diagonal.
struct Triangle {
    height: usize,
    width: usize,
    /// The bytes of an element.
    element: usize,
    upper: bool,
}

impl Kernel for Triangle {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<u8>(0)?;
        let shift = arguments.optional::<i64>(1)?.and_then(|shift| shift.first().copied()).unwrap_or(0);
        let row = self.width * self.element;
        rows(arguments, runtime, row, |number, into| {
            let diagonal = (number % self.height) as i64;
            // The first column that an upper triangle keeps, and that a lower one does not.
            let first = diagonal.saturating_add(shift).saturating_add(i64::from(!self.upper));
            let (zeros, from) =
                (first.clamp(0, self.width as i64) as usize * self.element, &input[number * row..][..row]);
            if self.upper {
                into[..zeros].fill(0);
                into[zeros..].copy_from_slice(&from[zeros..]);
            } else {
                into[..zeros].copy_from_slice(&from[..zeros]);
                into[zeros..].fill(0);
            }
        })
    }
}

pub(super) fn reverse(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(lengths)) = (site.input(0), site.input(1)) else { return Ok(None) };
    let shape = &input.shape;
    let along = |name: &str, default: i64| -> Result<Option<usize>> {
        let axis = site.operator().int(name)?.unwrap_or(default);
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        Ok(usize::try_from(axis).ok().filter(|&axis| axis < shape.len()))
    };
    let (Some(time), Some(batch)) = (along("time_axis", 0)?, along("batch_axis", 1)?) else { return Ok(None) };
    let (first, second) = (time.min(batch), time.max(batch));
    if second != first + 1 || lengths.dtype != DType::I64 || lengths.elements() != shape[batch] {
        return Ok(None);
    }
    Ok(Some(Box::new(Reverse {
        time_first: time < batch,
        steps: shape[time],
        batch: shape[batch],
        row: shape[second + 1..].iter().product::<usize>() * (input.dtype.bits() / 8),
    })))
}

/// Sequences whose first steps are turned around; the steps and the batch are neighbouring axes.
struct Reverse {
    time_first: bool,
    steps: usize,
    batch: usize,
    /// The bytes of a step of a sequence.
    row: usize,
}

impl Kernel for Reverse {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<u8>(0)?;
        let lengths = arguments.input::<i64>(1)?;
        let Reverse { time_first, steps, batch, row } = *self;
        if lengths.iter().any(|length| !(0..=steps as i64).contains(length)) {
            return Err(Error::invalid_model(format!("a length of sequences is not among 0 to {steps}: {lengths:?}")));
        }
        rows(arguments, runtime, row, |number, into| {
            let (outer, inner) = (number / (steps * batch), number % (steps * batch));
            let (step, sequence) =
                if time_first { (inner / batch, inner % batch) } else { (inner % steps, inner / steps) };
            let length = lengths[sequence] as usize;
            let step = if step < length { length - 1 - step } else { step };
            let from = if time_first { step * batch + sequence } else { sequence * steps + step };
            into.copy_from_slice(&input[(outer * steps * batch + from) * row..][..row]);
        })
    }
}

pub(super) fn center(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    if input.shape.is_empty() || input.shape.len() != output.shape.len() || output.elements() == 0 {
        return Ok(None);
    }
    // The sizes that are asked for are the output's, or else the program is no program.
    if site.constant(1).is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(Center {
        from: input.shape.clone(),
        into: output.shape.clone(),
        element: input.dtype.bits() / 8,
    })))
}

/// The middle of a tensor, or a tensor in the middle of zeros, along each axis.
struct Center {
    from: Vec<usize>,
    into: Vec<usize>,
    /// The bytes of an element.
    element: usize,
}

impl Kernel for Center {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<u8>(0)?;
        let last = self.into.len() - 1;
        // The place in the input of a place in the output.
        let place = |axis: usize, at: usize| {
            let (from, into) = (self.from[axis], self.into[axis]);
            let at = if from >= into { Some(at + (from - into) / 2) } else { at.checked_sub((into - from) / 2) };
            at.filter(|&at| at < from)
        };
        let (from, into) = (self.from[last], self.into[last]);
        let (skipped, zeros) = (from.saturating_sub(into) / 2, into.saturating_sub(from) / 2);
        let copied = from.min(into);
        rows(arguments, runtime, into * self.element, |number, row| {
            let (mut number, mut line, mut stride) = (number, Some(0), 1);
            for axis in (0..last).rev() {
                line = line.and_then(|line| Some(line + place(axis, number % self.into[axis])? * stride));
                stride *= self.from[axis];
                number /= self.into[axis];
            }
            let Some(line) = line else { return row.fill(0) };
            let start = (line * from + skipped) * self.element;
            let (before, rest) = row.split_at_mut(zeros * self.element);
            let (middle, behind) = rest.split_at_mut(copied * self.element);
            before.fill(0);
            middle.copy_from_slice(&input[start..start + middle.len()]);
            behind.fill(0);
        })
    }
}

pub(super) fn one_hot(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(indices), Some(values), Some(output)) = (site.input(0), site.input(2), site.output(0)) else {
        return Ok(None);
    };
    let rank = output.shape.len();
    let along = site.operator().int("axis")?.unwrap_or(-1);
    let along = usize::try_from(if along < 0 { along + rank as i64 } else { along }).unwrap_or(usize::MAX);
    let fits = along < rank && site.constant(1).is_some() && values.elements() == 2 && values.dtype == output.dtype;
    if !fits || !matches!(indices.dtype, DType::I32 | DType::I64) {
        return Ok(None);
    }
    let (depth, inner) = (output.shape[along], output.shape[along + 1..].iter().product());
    Ok(of_width!(output.dtype.bits() / 8, OneHot::new(depth, inner, indices.dtype)))
}

/// A line for each index, which has one value at the index and another everywhere else.
struct OneHot<T> {
    depth: usize,
    /// The indices behind the axis.
    inner: usize,
    dtype: DType,
    element: std::marker::PhantomData<fn(T)>,
}

impl<T> OneHot<T> {
    fn new(depth: usize, inner: usize, dtype: DType) -> Self {
        OneHot { depth, inner, dtype, element: std::marker::PhantomData }
    }
}

impl<T: Element> Kernel for OneHot<T> {
    fn name(&self) -> &'static str {
        "bytes::OneHot"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let OneHot { depth, inner, .. } = *self;
        let indices = Indices::of_input(arguments, 0, self.dtype)?;
        let &[cold, hot] = arguments.input::<T>(2)? else {
            return Err(Error::internal("OneHot has no two values"));
        };
        let output = arguments.output::<T>(0)?;
        let plane = depth * inner;
        let planes = output.len().checked_div(plane).unwrap_or(0);
        let output = Shared::new(output);
        let pieces = runtime.pieces(planes, plane);
        runtime.for_each(pieces, |number, _| {
            for plane_number in piece(planes, pieces, number) {
                // SAFETY: each plane is one task's.
                let into = unsafe { output.slice(plane_number * plane, plane) };
                into.fill(cold);
                for column in 0..inner {
                    // An index outside is cold everywhere.
                    if let Some(index) = indices.checked(plane_number * inner + column, depth) {
                        into[index * inner + column] = hot;
                    }
                }
            }
        });
        Ok(())
    }
}
