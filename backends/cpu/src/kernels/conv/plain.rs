//! Convolution on plain operands, for groups whose channels do not fill vectors and for weights
//! that are not constant.
//!
//! It is a product of the weights with a matrix of input pixels, whose vectors are pixels that lie
//! side by side.
//! For 1×1 windows that matrix is the input as it stands.
//! Otherwise each task writes the columns that it needs into a piece of the workspace.

use hetero_hal::{Error, Result};

use super::{Filters, Finish, Geometry};
use crate::kernels::tile::{self, Bias, Panel, Tile, piece};
use crate::kernels::{Kernel, Packed, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The least number of elements of a task's piece of the workspace: 128 KiB stay in a core's cache.
const PIECE: usize = 1 << 15;

pub(in crate::kernels) struct Plain {
    isa: Isa,
    geometry: Geometry,
    /// The pixels of a task, a multiple of two vectors.
    columns: usize,
    /// The elements of one thread's workspace.
    own: usize,
    /// The constant weights, and how the sums are finished.
    finish: Option<(Packed, Finish)>,
}

impl Plain {
    pub(in crate::kernels) fn new(isa: Isa, geometry: Geometry) -> Result<Self> {
        let depth = geometry.channels.checked_mul(geometry.taps());
        let depth = depth.ok_or_else(|| Error::invalid_model("the window of a convolution overflows"))?;
        let step = isa.lanes() * 2;
        let columns = (PIECE / depth.max(1)).clamp(step, step * 16).next_multiple_of(step);
        let own = if geometry.pointwise() { Some(0) } else { depth.checked_mul(columns) };
        let own = own.filter(|own| own.checked_mul(size_of::<f32>() * 4096).is_some());
        let own = own.ok_or_else(|| Error::invalid_model("the workspace of a convolution overflows"))?;
        Ok(Plain { isa, geometry, columns, own, finish: None })
    }

    /// Makes a kernel with constant weights.
    /// A second input is added where `finish` says so.
    pub(in crate::kernels) fn finished(
        isa: Isa,
        geometry: Geometry,
        weights: Filters<'_>,
        finish: Finish,
    ) -> Result<Self> {
        let plain = Plain::new(isa, geometry)?;
        Ok(Plain { finish: Some((weights.scaled(&finish)?, finish)), ..plain })
    }

    /// Writes the matrix's columns of `pixels`, for one group's input.
    fn gather(&self, input: &[f32], pixels: std::ops::Range<usize>, into: &mut [f32]) {
        let g = &self.geometry;
        for (number, line) in into.chunks_mut(self.columns).enumerate() {
            let (channel, tap) = (number / g.taps(), number % g.taps());
            let (tap_y, tap_x) = (tap / g.kernel[1] * g.dilations[0], tap % g.kernel[1] * g.dilations[1]);
            let plane = &input[channel * g.input_plane()..][..g.input_plane()];
            let (mut y, mut x) = (pixels.start / g.output[1], pixels.start % g.output[1]);
            let mut rest = &mut line[..pixels.len()];
            while !rest.is_empty() {
                let count = (g.output[1] - x).min(rest.len());
                let (run, behind) = rest.split_at_mut(count);
                let row = (y * g.strides[0] + tap_y).checked_sub(g.begin[0]).filter(|&row| row < g.input[0]);
                match row {
                    None => run.fill(0.0),
                    Some(row) => {
                        let source = &plane[row * g.input[1]..][..g.input[1]];
                        for (index, value) in run.iter_mut().enumerate() {
                            let column = ((x + index) * g.strides[1] + tap_x).checked_sub(g.begin[1]);
                            *value = column.and_then(|column| source.get(column)).copied().unwrap_or(0.0);
                        }
                    }
                }
                (rest, x, y) = (behind, 0, y + 1);
            }
        }
    }
}

impl Kernel for Plain {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (g, lanes) = (&self.geometry, self.isa.lanes());
        let input = arguments.input::<f32>(0)?;
        let packed =
            self.finish.as_ref().map(|(weights, finish)| Ok::<_, Error>((weights.value()?, finish))).transpose()?;
        let (weights, bias, addend, clamp, activation) = match &packed {
            None => {
                let (weights, bias) = (arguments.input::<f32>(1)?, arguments.optional::<f32>(2)?);
                (weights, bias, None, (f32::NEG_INFINITY, f32::INFINITY), None)
            }
            Some((weights, finish)) => {
                let addend = if finish.addend { Some(arguments.shared_input::<f32>(1)?) } else { None };
                (&weights[..], Some(&finish.bias[..]), addend, finish.clamp, finish.activation)
            }
        };
        let output = arguments.output::<f32>(0)?;
        let (plane, depth) = (g.output_plane(), g.channels * g.taps());
        if output.is_empty() {
            return Ok(());
        }
        let output = Shared::new(output);
        let own = if self.own == 0 { None } else { Some(Shared::new(arguments.workspace::<f32>()?)) };
        let chunks = plane.div_ceil(self.columns);
        let groups = g.batch * g.groups;
        // Filters are divided too, where the pixels alone give too few tasks.
        let filters =
            (runtime.pool.threads() * 2).div_ceil(groups * chunks).clamp(1, tile::tiles(g.outputs, self.isa.rows()));
        let per_task = g.outputs.div_ceil(filters) * self.columns * depth;
        let tasks = groups * chunks * filters;
        let pieces = if tasks * per_task < 1 << 14 { 1 } else { tasks };
        let task = |number: usize, thread: usize| {
            let (chunk, filter) = (number / filters, number % filters);
            let (image, chunk) = (chunk / chunks, chunk % chunks);
            let group = image % g.groups;
            let pixels = chunk * self.columns..((chunk + 1) * self.columns).min(plane);
            let source = &input[image * g.channels * g.input_plane()..][..g.channels * g.input_plane()];
            let (matrix, row) = match own {
                None => (source[pixels.start..].as_ptr(), plane),
                Some(own) => {
                    // SAFETY: each thread has a piece of its own.
                    let own = unsafe { own.slice(thread * self.own, self.own) };
                    self.gather(source, pixels.clone(), own);
                    (own.as_ptr(), self.columns)
                }
            };
            let filters = piece(g.outputs, filters, filter);
            let tiles = tile::tiles(filters.len(), self.isa.rows());
            let mut column = 0;
            while column < pixels.len() {
                let left = pixels.len() - column;
                let vectors = if left > lanes { 2 } else { 1 };
                let last = (left - (vectors - 1) * lanes).min(lanes);
                for number in 0..tiles {
                    let rows = piece(filters.len(), tiles, number);
                    let first = group * g.outputs + filters.start + rows.start;
                    // SAFETY: rows, columns and depth lie in the operands, whose sizes are the
                    // geometry's; the outputs are this task's.
                    unsafe {
                        let at = (image * g.outputs + filters.start + rows.start) * plane + pixels.start + column;
                        let tile = Tile {
                            x: weights.as_ptr().add(first * depth),
                            x_row: depth,
                            x_k: 1,
                            taps: &[0],
                            run: depth,
                            w: Panel::Floats(matrix.add(column)),
                            w_k: row,
                            w_vector: lanes,
                            out: output.at(at),
                            out_row: plane,
                            out_vector: lanes,
                            bias: bias.map_or(Bias::None, |bias| Bias::Rows(bias.as_ptr().add(first), 1)),
                            addend: addend.map(|addend| addend.at(at).cast_const()),
                            clamp,
                            last,
                        };
                        tile::compute(self.isa, vectors, rows.len(), tile);
                        if let Some(activation) = activation {
                            for row in 0..rows.len() {
                                let count = (vectors - 1) * lanes + last;
                                activation.apply(self.isa, output.slice(at + row * plane, count));
                            }
                        }
                    }
                }
                column += vectors * lanes;
            }
        };
        runtime.for_each(pieces, |number, thread| {
            for number in piece(tasks, pieces, number) {
                task(number, thread);
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        threads * self.own * size_of::<f32>()
    }

    fn in_place(&self) -> &'static [usize] {
        if self.finish.as_ref().is_some_and(|(_, finish)| finish.addend) { &[1] } else { &[] }
    }

    fn weights(&self) -> Vec<&Packed> {
        self.finish.iter().map(|(weights, _)| weights).collect()
    }
}
