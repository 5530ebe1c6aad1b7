//! Convolution over one or two spatial dimensions, on f32, without im2col.
//!
//! A convolution is a sum over the taps of its window: each tap adds the product of a channel matrix with a shifted view of the input.
//! The input is padded and split into its phases under the stride once, so that every view has unit stride and the sum is a few
//! large matrix products that accumulate in place. Rows of a view are as long as a phase's; the columns beyond the output's width are
//! computed and dropped. A 1×1 convolution with unit stride and no padding needs neither: it is one product on the input itself.

use hetero_hal::{DType, Error, Result};
use hetero_reference::Window;
use rayon::prelude::*;

use super::matmul::{Matrix, multiply};
use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(x), Some(w)) = (site.shape(0), site.shape(1)) else {
        return Ok(None);
    };
    if !site.all(DType::F32) || !(3..=4).contains(&x.len()) || w.len() != x.len() {
        return Ok(None);
    }
    if site.shape(2).is_some_and(|bias| bias != [w[0]]) {
        return Err(Error::invalid_model(format!("the bias {:?} does not fit {} outputs", site.shape(2), w[0])));
    }
    let groups = usize::try_from(site.operator().int("group")?.unwrap_or(1)).unwrap_or(0);
    if groups == 0 || w[1] * groups != x[1] || w[0] % groups != 0 {
        return Err(Error::invalid_model(format!("{groups} groups do not fit {x:?} and {w:?}")));
    }
    let resolved = Window::resolve(site.operator(), &x[2..], &w[2..])?;
    // One dimension is two, the first of size 1.
    let axis = |list: &[usize], one: usize| match *list {
        [only] => [one, only],
        [first, second, ..] => [first, second],
        [] => [one, one],
    };
    let geometry = Geometry {
        batch: x[0],
        channels: w[1],
        outputs: w[0] / groups,
        groups,
        input: axis(&x[2..], 1),
        kernel: axis(&resolved.kernel, 1),
        strides: axis(&resolved.strides, 1),
        dilations: axis(&resolved.dilations, 1),
        begin: axis(&resolved.begin, 0),
        output: axis(&resolved.output, 1),
    };
    if geometry.channels == 1 {
        return Ok(Some(Box::new(Depthwise(geometry))));
    }
    Ok(Some(Box::new(Convolution::new(geometry)?)))
}

/// Sizes of a convolution over two spatial dimensions.
struct Geometry {
    batch: usize,
    /// Input channels of a group.
    channels: usize,
    /// Output channels of a group.
    outputs: usize,
    groups: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    begin: [usize; 2],
    output: [usize; 2],
}

impl Geometry {
    fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Is it a product on the input as it stands?
    fn pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.strides == [1, 1] && self.begin == [0, 0] && self.output == self.input
    }
}

/// Convolutions of groups with several channels.
struct Convolution {
    geometry: Geometry,
    /// Sizes of one phase.
    phase: [usize; 2],
    /// Elements of the workspace that hold a group's phases, and then those that hold its padded output.
    phases: usize,
    padded: usize,
}

impl Convolution {
    fn new(geometry: Geometry) -> Result<Self> {
        let [stride_y, stride_x] = geometry.strides;
        // A phase reaches as far as the last window's last tap.
        let reach = |axis: usize| {
            let last = (geometry.output[axis].max(1) - 1) * geometry.strides[axis];
            (last + (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1).div_ceil(geometry.strides[axis])
        };
        let phase = [reach(0), reach(1)];
        let sizes = || {
            let plane = phase[0].checked_mul(phase[1])?;
            let phases = plane.checked_mul(geometry.channels)?.checked_mul(stride_y)?.checked_mul(stride_x)?;
            let padded = geometry.output[0].checked_mul(phase[1])?.checked_mul(geometry.outputs)?;
            phases.checked_add(padded)?.checked_mul(size_of::<f32>())?;
            Some((phases, padded))
        };
        let (phases, padded) = if geometry.pointwise() {
            (0, 0)
        } else {
            sizes().ok_or_else(|| Error::invalid_model("the workspace of a convolution overflows"))?
        };
        Ok(Convolution { geometry, phase, phases, padded })
    }

    /// Where the padded input's row or column lies: its phase and the position in it.
    fn split(&self, axis: usize, padded: usize) -> (usize, usize) {
        (padded % self.geometry.strides[axis], padded / self.geometry.strides[axis])
    }

    /// Elements of one channel's plane in one phase.
    fn plane(&self) -> usize {
        self.phase[0] * self.phase[1]
    }

    /// Spreads a group's input over its phases: phase after phase, channel after channel.
    fn spread(&self, input: &[f32], phases: &mut [f32]) {
        let g = &self.geometry;
        let plane = self.plane();
        phases.par_chunks_mut(plane).enumerate().for_each(|(number, into)| {
            let (phase, channel) = (number / g.channels, number % g.channels);
            let (phase_y, phase_x) = (phase / g.strides[1], phase % g.strides[1]);
            let source = &input[channel * g.input_plane()..][..g.input_plane()];
            for (y, line) in into.chunks_mut(self.phase[1]).enumerate() {
                let row = (y * g.strides[0] + phase_y).checked_sub(g.begin[0]).filter(|&row| row < g.input[0]);
                let Some(row) = row else {
                    line.fill(0.0);
                    continue;
                };
                let source = &source[row * g.input[1]..][..g.input[1]];
                for (x, value) in line.iter_mut().enumerate() {
                    let column = (x * g.strides[1] + phase_x).checked_sub(g.begin[1]);
                    *value = column.and_then(|column| source.get(column)).copied().unwrap_or(0.0);
                }
            }
        });
    }

    /// One group of one batch item: `output` is its planes.
    fn group(&self, input: &[f32], weights: &[f32], bias: Option<&[f32]>, output: &mut [f32], workspace: &mut [f32]) {
        let g = &self.geometry;
        let fill = |row: &mut [f32], channel: usize| row.fill(bias.map_or(0.0, |bias| bias[channel]));
        // Weights are [output][channel][tap]: each tap is a matrix with these strides.
        let tap_matrix =
            |tap: usize| Matrix { data: &weights[tap..], row_stride: g.channels * g.taps(), column_stride: g.taps() };
        if g.pointwise() {
            let plane = g.output_plane();
            output.chunks_mut(plane).enumerate().for_each(|(channel, row)| fill(row, channel));
            let input = Matrix { data: input, row_stride: plane, column_stride: 1 };
            multiply((g.outputs, plane, g.channels), output, plane, true, tap_matrix(0), input, 1.0);
            return;
        }
        let (phases, padded) = workspace.split_at_mut(self.phases);
        let padded = &mut padded[..self.padded];
        self.spread(input, phases);
        let row = g.output[0] * self.phase[1];
        padded.chunks_mut(row).enumerate().for_each(|(channel, row)| fill(row, channel));
        // Columns behind the last output are not needed, and may reach outside the last channel.
        let columns = (g.output[0] - 1) * self.phase[1] + g.output[1];
        for tap_y in 0..g.kernel[0] {
            let (phase_y, y) = self.split(0, tap_y * g.dilations[0]);
            for tap_x in 0..g.kernel[1] {
                let (phase_x, x) = self.split(1, tap_x * g.dilations[1]);
                let first = (phase_y * g.strides[1] + phase_x) * g.channels * self.plane();
                let view = Matrix {
                    data: &phases[first + y * self.phase[1] + x..],
                    row_stride: self.plane(),
                    column_stride: 1,
                };
                let weights = tap_matrix(tap_y * g.kernel[1] + tap_x);
                multiply((g.outputs, columns, g.channels), padded, row, true, weights, view, 1.0);
            }
        }
        output.par_chunks_mut(g.output[1]).enumerate().with_min_len(64).for_each(|(number, into)| {
            let (channel, y) = (number / g.output[0], number % g.output[0]);
            let start = channel * row + y * self.phase[1];
            into.copy_from_slice(&padded[start..start + g.output[1]]);
        });
    }
}

impl Kernel for Convolution {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let g = &self.geometry;
        let (input, weights) = (arguments.input::<f32>(0)?, arguments.input::<f32>(1)?);
        let bias = arguments.optional::<f32>(2)?;
        let output = arguments.output::<f32>(0)?;
        let workspace = arguments.workspace::<f32>()?;
        if output.is_empty() {
            return Ok(());
        }
        let per_group = g.outputs * g.output_plane();
        let from_group = g.channels * g.input_plane();
        let weights_of = g.outputs * g.channels * g.taps();
        for (number, into) in output.chunks_mut(per_group).enumerate() {
            let group = number % g.groups;
            let input = &input[number * from_group..][..from_group];
            let weights = &weights[group * weights_of..][..weights_of];
            let bias = bias.map(|bias| &bias[group * g.outputs..][..g.outputs]);
            self.group(input, weights, bias, into, workspace);
        }
        debug_assert_eq!(output.len(), per_group * g.groups * g.batch);
        Ok(())
    }

    fn workspace(&self) -> usize {
        (self.phases + self.padded) * size_of::<f32>()
    }
}

/// Convolutions of groups with one channel each: every tap adds a scaled row.
struct Depthwise(Geometry);

impl Depthwise {
    /// Outputs along the x axis whose tap lies on the input.
    fn columns(&self, tap: usize) -> std::ops::Range<usize> {
        let g = &self.0;
        let shift = tap * g.dilations[1];
        // x * stride + shift - begin >= 0, and < width.
        let first = g.begin[1].saturating_sub(shift).div_ceil(g.strides[1]);
        let end = (g.input[1] + g.begin[1]).saturating_sub(shift).div_ceil(g.strides[1]).min(g.output[1]);
        first.min(end)..end
    }
}

impl Kernel for Depthwise {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let g = &self.0;
        let (input, weights) = (arguments.input::<f32>(0)?, arguments.input::<f32>(1)?);
        let bias = arguments.optional::<f32>(2)?;
        let output = arguments.output::<f32>(0)?;
        if output.is_empty() {
            return Ok(());
        }
        output.par_chunks_mut(g.output_plane()).enumerate().for_each(|(number, into)| {
            let (item, channel) = (number / (g.groups * g.outputs), number % (g.groups * g.outputs));
            let plane = &input[(item * g.groups + channel / g.outputs) * g.input_plane()..][..g.input_plane()];
            let weights = &weights[channel * g.taps()..][..g.taps()];
            into.fill(bias.map_or(0.0, |bias| bias[channel]));
            for (y, line) in into.chunks_mut(g.output[1]).enumerate() {
                for tap_y in 0..g.kernel[0] {
                    let row = (y * g.strides[0] + tap_y * g.dilations[0]).checked_sub(g.begin[0]);
                    let Some(row) = row.filter(|&row| row < g.input[0]) else { continue };
                    let source = &plane[row * g.input[1]..][..g.input[1]];
                    for tap_x in 0..g.kernel[1] {
                        let weight = weights[tap_y * g.kernel[1] + tap_x];
                        let columns = self.columns(tap_x);
                        let first = (columns.start * g.strides[1] + tap_x * g.dilations[1]).saturating_sub(g.begin[1]);
                        let taps = source.get(first..).unwrap_or_default().iter().step_by(g.strides[1]);
                        for (value, tap) in line[columns].iter_mut().zip(taps) {
                            *value += weight * tap;
                        }
                    }
                }
            }
        });
        Ok(())
    }
}
