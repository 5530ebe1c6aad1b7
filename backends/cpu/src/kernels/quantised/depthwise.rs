//! Convolution of each channel by itself, of bytes whose channels lie last.
//!
//! A vector of channels is summed in f32, where sums of bytes are exact as long as they stay below
//! 2²⁴.

use hetero_hal::{Error, Result, Tensor};

use super::conv::{Convolution, Results, Zero, flip, moved};
use super::requantise::Steps;
use crate::floats::Floats;
use crate::kernels::conv::Geometry;
use crate::kernels::tile::piece;
use crate::kernels::{Kernel, Packed, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::dot::Dots;
use crate::simd::{Isa, Job, Simd};

/// The number of pixels that are summed side by side.
const PIXELS: usize = 6;

/// The sums below which every whole number is exact.
const EXACT: i64 = 1 << 24;

/// The kernel.
pub(crate) struct Depthwise {
    isa: Isa,
    geometry: Geometry,
    signed: bool,
    /// The first channel of each block; the last block begins a vector before the end.
    starts: Vec<usize>,
    /// A vector for each tap, for each block.
    weights: Packed,
    /// The sum to begin with, for each channel: the bias, and what the input's zero point adds.
    base: Vec<f32>,
    zero: i32,
    steps: Steps,
}

impl Depthwise {
    /// Returns the kernel, or the recipe where sums may be too large for it.
    pub(crate) fn new(site: Site<'_>, recipe: Convolution) -> Result<std::result::Result<Self, Convolution>> {
        let (isa, g, lanes) = (site.isa, recipe.geometry, site.isa.lanes());
        let signed = Dots::best(isa).is_signed();
        let (taps, channels) = (g.taps(), g.groups);
        let fits = g.is_depthwise() && channels >= lanes && taps <= 1 << 8;
        let (Zero::Known(zero), Results::Steps(_, _, _), true) = (recipe.zero, &recipe.results, fits) else {
            return Ok(Err(recipe));
        };
        let flipped = flip(recipe.weights.content.dtype(), true);
        let w_zeros: Vec<i32> =
            recipe.w_zeros.iter().map(|&w| moved(w, recipe.weights.content.dtype(), true)).collect();
        let w_zero = |channel: usize| w_zeros.get(if w_zeros.len() == 1 { 0 } else { channel }).copied().unwrap_or(0);
        let bytes = recipe.weights.content.bytes();
        let mut base = Vec::with_capacity(channels);
        for (channel, filter) in bytes.chunks_exact(taps).enumerate() {
            let of = |byte: &u8| i64::from((byte ^ flipped) as i8) - i64::from(w_zero(channel));
            let (sum, size) = filter.iter().fold((0, 0), |(sum, size), byte| (sum + of(byte), size + of(byte).abs()));
            let start = i64::from(recipe.bias.get(channel).copied().unwrap_or(0)) - i64::from(zero) * sum;
            if start.abs() + 256 * size >= EXACT {
                return Ok(Err(recipe));
            }
            base.push(start as f32);
        }
        if base.len() != channels {
            return Err(Error::internal("a convolution's weights do not fit its channels"));
        }
        let starts: Vec<usize> = (0..channels).step_by(lanes).map(|start| start.min(channels - lanes)).collect();
        let blocks = starts.clone();
        let zero_points: Vec<i32> = (0..channels).map(w_zero).collect();
        let pack = move |sources: &[Tensor]| {
            let bytes = sources[0].bytes();
            let mut packed = Floats::zeros(blocks.len() * taps * lanes)?;
            for (block, into) in blocks.iter().zip(packed.chunks_exact_mut(taps * lanes)) {
                for (index, into) in into.iter_mut().enumerate() {
                    let (tap, channel) = (index / lanes, block + index % lanes);
                    let weight = i32::from((bytes[channel * taps + tap] ^ flipped) as i8) - zero_points[channel];
                    *into = weight as f32;
                }
            }
            Ok(packed)
        };
        let packer = site.weights.ok_or_else(|| Error::internal("there is nowhere to pack weights"))?;
        let layout = format!("{} blocks of {lanes} channels by {taps} taps less {w_zeros:?}", starts.len());
        let content = std::slice::from_ref(&recipe.weights.content);
        let weights = packer.get(&recipe.weights.name, content, (&layout, starts.len() * taps * lanes, 0), pack)?;
        let Results::Steps(of, y_zero, limits) = recipe.results else {
            return Err(Error::internal("a depthwise convolution has no steps"));
        };
        let of = if of.len() == 1 { vec![of[0]; channels] } else { of };
        let steps = Steps::new(of, y_zero, limits);
        Ok(Ok(Depthwise { isa, geometry: g, signed, starts, weights, base, zero, steps }))
    }
}

/// A row of the output, all blocks of channels.
struct Row<'a, const SIGNED: bool> {
    kernel: &'a Depthwise,
    /// The image of the batch item.
    image: *const u8,
    weights: *const f32,
    into: *mut u8,
    y: usize,
}

impl<const SIGNED: bool> Row<'_, SIGNED> {
    /// Sums `P` pixels from `x` on, whose taps all lie on the input's columns, or of which some do
    /// not where `INSIDE` says so.
    ///
    /// # Safety
    /// As for the job.
    #[inline(always)]
    unsafe fn pixels<S: Simd, const P: usize, const INSIDE: bool>(&self, start: usize, weights: *const f32, x: usize) {
        let g = &self.kernel.geometry;
        let channels = g.groups;
        // SAFETY: the caller's promise; places outside the input are not read.
        unsafe {
            let base = S::load(self.kernel.base.as_ptr().add(start));
            let mut sums = [base; P];
            let padding = S::splat(self.kernel.zero as f32);
            let mut weight = weights;
            for tap_y in 0..g.kernel[0] {
                let line = (self.y * g.strides[0] + tap_y * g.dilations[0]).wrapping_sub(g.begin[0]);
                let has_line = line < g.input[0];
                let row = self.image.wrapping_add(line.wrapping_mul(g.input[1] * channels).wrapping_add(start));
                if INSIDE && has_line && g.kernel[1] == 3 && g.strides[1] == 1 && g.dilations[1] == 1 {
                    // Neighbouring windows share columns.
                    let row = row.add((x - g.begin[1]) * channels);
                    let (one, two) = (S::load_bytes::<SIGNED>(row), S::load_bytes::<SIGNED>(row.add(channels)));
                    let mut columns = [one, two, two];
                    let w = [0, 1, 2].map(|tap| S::load(weight.add(tap * S::LANES)));
                    for (pixel, sum) in sums.iter_mut().enumerate() {
                        columns[2] = S::load_bytes::<SIGNED>(row.add((pixel + 2) * channels));
                        for tap in 0..3 {
                            *sum = S::fma(columns[tap], w[tap], *sum);
                        }
                        columns = [columns[1], columns[2], columns[2]];
                    }
                    weight = weight.add(3 * S::LANES);
                    continue;
                }
                for tap_x in 0..g.kernel[1] {
                    let w = S::load(weight);
                    for (pixel, sum) in sums.iter_mut().enumerate() {
                        let column = ((x + pixel) * g.strides[1] + tap_x * g.dilations[1]).wrapping_sub(g.begin[1]);
                        let is_there = has_line && (INSIDE || column < g.input[1]);
                        let value =
                            if is_there { S::load_bytes::<SIGNED>(row.add(column * channels)) } else { padding };
                        *sum = S::fma(value, w, *sum);
                    }
                    weight = weight.add(S::LANES);
                }
            }
            for (pixel, &sum) in sums.iter().enumerate() {
                let into = self.into.add((x + pixel) * channels + start);
                if !self.kernel.steps.store::<S>(sum, start, into, S::LANES) {
                    let mut lanes = [0.0f32; crate::simd::WIDEST];
                    S::store(lanes.as_mut_ptr(), sum);
                    for (lane, sum) in lanes.iter().enumerate().take(S::LANES) {
                        into.add(lane).write(self.kernel.steps.exactly(start + lane, f64::from(*sum)));
                    }
                }
            }
        }
    }
}

impl<const SIGNED: bool> Job for Row<'_, SIGNED> {
    type Output = ();

    /// # Safety
    /// `image` must be an image of the input, and `into` the row of the output.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = &self.kernel.geometry;
        // The pixels all of whose taps lie on the input.
        let first = g.begin[1].div_ceil(g.strides[1]).min(g.output[1]);
        let reach = (g.kernel[1] - 1) * g.dilations[1];
        let behind = (g.input[1] + g.begin[1]).checked_sub(reach).map_or(0, |left| left.div_ceil(g.strides[1]));
        let end = behind.min(g.output[1]).max(first);
        for (block, &start) in self.kernel.starts.iter().enumerate() {
            // SAFETY: the caller's promise; the bounds above are those of pixels inside.
            unsafe {
                let weights = self.weights.add(block * g.taps() * S::LANES);
                (0..first).for_each(|x| self.pixels::<S, 1, false>(start, weights, x));
                let mut x = first;
                while x + PIXELS <= end {
                    self.pixels::<S, PIXELS, true>(start, weights, x);
                    x += PIXELS;
                }
                (x..end).for_each(|x| self.pixels::<S, 1, true>(start, weights, x));
                (end..g.output[1]).for_each(|x| self.pixels::<S, 1, false>(start, weights, x));
            }
        }
    }
}

impl Kernel for Depthwise {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let g = &self.geometry;
        let (input, weights) = (arguments.input::<u8>(0)?, self.weights.value()?);
        let output = arguments.output::<u8>(0)?;
        let (image, row) = (g.input_plane() * g.groups, g.output[1] * g.groups);
        let rows = g.batch * g.output[0];
        if input.len() < g.batch * image || output.len() < rows * row {
            return Err(Error::internal("a convolution has operands that are too small"));
        }
        let (weights, output) = (Shared::constant(weights.as_ptr()), Shared::new(output));
        let pieces = runtime.pieces(rows, row * g.taps() / 4);
        runtime.for_each(pieces, |number, _| {
            for line in piece(rows, pieces, number) {
                let (item, y) = (line / g.output[0], line % g.output[0]);
                let image = input[item * image..].as_ptr();
                // SAFETY: the sizes were checked, and each row is one task's.
                unsafe {
                    let (into, weights) = (output.at(line * row), weights.at(0).cast_const());
                    if self.signed {
                        self.isa.run(Row::<true> { kernel: self, image, weights, into, y });
                    } else {
                        self.isa.run(Row::<false> { kernel: self, image, weights, into, y });
                    }
                }
            }
        });
        Ok(())
    }

    fn weights(&self) -> Vec<&Packed> {
        vec![&self.weights]
    }
}
