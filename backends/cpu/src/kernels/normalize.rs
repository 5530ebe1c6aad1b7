//! Normalisation and softmax on f32.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{self, Isa, Job, Simd};

/// Batch, channels and elements of a channel; `None` below rank 2.
fn channels(shape: &[usize]) -> Option<(usize, usize, usize)> {
    match shape {
        [batch, channels, rest @ ..] => Some((*batch, *channels, rest.iter().product())),
        _ => None,
    }
}

pub(super) fn batch(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let training = operator.int("training_mode")?.unwrap_or(0) != 0 || site.node.outputs.len() > 1;
    let Some((_, channels, plane)) = site.shape(0).and_then(channels) else {
        return Ok(None);
    };
    let fits = (1..5).all(|index| site.shape(index) == Some(&[channels]));
    if training || !fits || !site.all(DType::F32) {
        return Ok(None);
    }
    let epsilon = operator.float("epsilon")?.unwrap_or(1e-5);
    Ok(Some(Box::new(Batch { channels, plane, epsilon })))
}

struct Batch {
    channels: usize,
    plane: usize,
    epsilon: f32,
}

impl Kernel for Batch {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|index| arguments.input::<f32>(index));
        let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
        let values = arguments.start_from::<f32>(0)?;
        if self.plane == 0 {
            return Ok(());
        }
        planes(values, self.plane, 2, runtime, |number, plane| {
            let c = number % self.channels;
            let factor = scale[c] / (variance[c] + self.epsilon).sqrt();
            let offset = shift[c] - mean[c] * factor;
            for value in plane {
                *value = *value * factor + offset;
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

pub(super) fn lrn(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some((_, channels, plane)), Some(size)) = (site.shape(0).and_then(channels), operator.int("size")?) else {
        return Ok(None);
    };
    if !site.all(DType::F32) || size <= 0 {
        return Ok(None);
    }
    Ok(Some(Box::new(Lrn {
        channels,
        plane,
        size: size as usize,
        alpha: operator.float("alpha")?.unwrap_or(1e-4),
        beta: operator.float("beta")?.unwrap_or(0.75),
        bias: operator.float("bias")?.unwrap_or(1.0),
    })))
}

struct Lrn {
    channels: usize,
    plane: usize,
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
}

impl Kernel for Lrn {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<f32>(0)?;
        if self.plane == 0 {
            return Ok(());
        }
        planes(output, self.plane, 8 + self.size, runtime, |number, into| {
            let (item, c) = (number / self.channels, number % self.channels);
            let low = c.saturating_sub((self.size - 1) / 2);
            let high = c.saturating_add(self.size / 2).min(self.channels - 1);
            let plane = |c: usize| &input[(item * self.channels + c) * self.plane..][..self.plane];
            into.fill(0.0);
            for neighbour in low..=high {
                for (sum, value) in into.iter_mut().zip(plane(neighbour)) {
                    *sum += value * value;
                }
            }
            for (sum, value) in into.iter_mut().zip(plane(c)) {
                *sum = value / (self.bias + self.alpha / self.size as f32 * *sum).powf(self.beta);
            }
        });
        Ok(())
    }
}

/// Until opset 12 the dimensions from the axis on count as one.
pub(super) fn softmax(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(shape) = site.shape(0).filter(|shape| !shape.is_empty() && site.all(DType::F32)) else {
        return Ok(None);
    };
    let flattened = site.operator().version < 13;
    let rank = shape.len() as i64;
    let axis = site.operator().int("axis")?.unwrap_or(if flattened { 1.min(rank - 1) } else { -1 });
    let Ok(axis) = usize::try_from(if axis < 0 { axis + rank } else { axis }) else {
        return Ok(None);
    };
    // Lines that are not contiguous are the oracle's.
    let line = match shape.get(axis..) {
        Some(from) if flattened || from[1..].iter().product::<usize>() == 1 => from.iter().product::<usize>(),
        _ => return Ok(None),
    };
    Ok((line > 0).then(|| Box::new(Softmax { isa: site.isa, line }) as Box<dyn Kernel>))
}

struct Softmax {
    isa: Isa,
    line: usize,
}

/// Runs `body` for each part of `size` elements, on all threads; `cost` is the work of an element.
fn planes(
    values: &mut [f32],
    size: usize,
    cost: usize,
    runtime: &Runtime<'_>,
    body: impl Fn(usize, &mut [f32]) + Sync,
) {
    let count = values.len() / size.max(1);
    let values = Shared::new(values);
    let pieces = runtime.pieces(count, size * cost);
    runtime.pool.for_each(pieces, |number, _| {
        for part in piece(count, pieces, number) {
            // SAFETY: each part is one task's.
            body(part, unsafe { values.slice(part * size, size) });
        }
    });
}

/// The softmax of a line.
struct Line<'a>(&'a mut [f32]);

impl Job for Line<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let line = self.0;
        // SAFETY: each vector lies in the line.
        unsafe {
            let (whole, rest) = line.split_at_mut(line.len() / S::LANES * S::LANES);
            let mut most = S::splat(f32::NEG_INFINITY);
            for chunk in whole.chunks_exact(S::LANES) {
                most = S::max(most, S::load(chunk.as_ptr()));
            }
            let largest = rest.iter().copied().fold(S::largest(most), f32::max);
            let shift = S::splat(largest);
            let mut sums = S::splat(0.0);
            for chunk in whole.chunks_exact_mut(S::LANES) {
                let value = simd::exp::<S>(S::sub(S::load(chunk.as_ptr()), shift));
                sums = S::add(sums, value);
                S::store(chunk.as_mut_ptr(), value);
            }
            let mut sum = S::sum(sums);
            if !rest.is_empty() {
                let value = simd::exp::<S>(S::sub(S::load_first(rest.as_ptr(), rest.len()), shift));
                S::store_first(rest.as_mut_ptr(), rest.len(), value);
                sum += rest.iter().sum::<f32>();
            }
            for value in line {
                *value /= sum;
            }
        }
    }
}

impl Kernel for Softmax {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let values = arguments.start_from::<f32>(0)?;
        planes(values, self.line, 8, runtime, |_, line| {
            // SAFETY: the job has no further conditions.
            unsafe { self.isa.run(Line(line)) };
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
