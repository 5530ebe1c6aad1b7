//! Normalisation and softmax on f32.

use hetero_hal::{DType, Result};
use rayon::prelude::*;

use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

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
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|index| arguments.input::<f32>(index));
        let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
        let values = arguments.start_from::<f32>(0)?;
        if self.plane == 0 {
            return Ok(());
        }
        values.par_chunks_mut(self.plane).enumerate().for_each(|(number, plane)| {
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
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<f32>(0)?;
        if self.plane == 0 {
            return Ok(());
        }
        output.par_chunks_mut(self.plane).enumerate().for_each(|(number, into)| {
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
    Ok((line > 0).then(|| Box::new(Softmax { line }) as Box<dyn Kernel>))
}

struct Softmax {
    line: usize,
}

impl Kernel for Softmax {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        arguments.start_from::<f32>(0)?.par_chunks_mut(self.line).for_each(|line| {
            let largest = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for value in line.iter_mut() {
                *value = (*value - largest).exp();
                sum += *value;
            }
            for value in line {
                *value /= sum;
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
