//! Normalisation by given statistics, and over neighbouring channels, on f32.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// Returns the batch, the channels and the elements of a channel, or `None` below rank 2.
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
        planes(output, self.plane, 8 + self.size.min(self.channels), runtime, |number, into| {
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
    let pieces = runtime.pieces(count, size.saturating_mul(cost));
    runtime.for_each(pieces, |number, _| {
        for part in piece(count, pieces, number) {
            // SAFETY: each part is one task's.
            body(part, unsafe { values.slice(part * size, size) });
        }
    });
}
