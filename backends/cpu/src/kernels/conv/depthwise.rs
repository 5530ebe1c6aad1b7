//! Convolution of each channel by itself.

use hetero_hal::{Error, Result};

use super::{Filters, Finish, Geometry};
use crate::floats::Floats;
use crate::image::{Halo, Image};
use crate::kernels::planes::{Fold, Frame, Planes};
use crate::kernels::tile::piece;
use crate::kernels::vector::{Activation, Pairwise, Second};
use crate::kernels::{Kernel, Packed, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The number of pixels that are summed side by side.
const PIXELS: usize = 7;

/// A depthwise convolution in a blocked layout: a block's lanes are a vector of channels, so that
/// no lane depends on another.
pub(in crate::kernels) struct Depthwise {
    isa: Isa,
    geometry: Geometry,
    input: Image,
    output: Image,
    /// The offsets of the taps in the input.
    taps: Vec<usize>,
    /// A vector for each tap, for each block.
    weights: Packed,
    bias: Vec<f32>,
    clamp: (f32, f32),
    activation: Option<Activation>,
    addend: bool,
}

impl Depthwise {
    pub(in crate::kernels) fn new(
        isa: Isa,
        geometry: Geometry,
        input: Halo,
        output: Halo,
        weights: Filters<'_>,
        finish: Finish,
    ) -> Result<Self> {
        let (g, lanes) = (geometry, isa.lanes());
        let (input, output) = (g.input_image(input, lanes), g.output_image(output, lanes));
        let (blocks, taps) = (input.blocks(), g.taps());
        let layout = format!("{blocks} blocks of {lanes} channels by {taps} taps");
        let weights = weights.packed(&finish, (&layout, blocks * taps * lanes), move |weights, scale| {
            let mut packed = Floats::zeros(blocks * taps * lanes)?;
            for (channel, source) in weights.chunks_exact(taps).enumerate() {
                let scale = scale.get(channel).copied().unwrap_or(1.0);
                for (tap, weight) in source.iter().enumerate() {
                    packed[(channel / lanes * taps + tap) * lanes + channel % lanes] = weight * scale;
                }
            }
            Ok(packed)
        })?;
        let mut bias = vec![0.0; output.blocks() * lanes];
        bias[..finish.bias.len()].copy_from_slice(&finish.bias);
        Ok(Depthwise {
            isa,
            geometry,
            input,
            output,
            taps: g.windows().map(|(y, x)| y * input.row() + x * lanes).collect(),
            weights,
            bias,
            clamp: finish.clamp,
            activation: finish.activation,
            addend: finish.addend,
        })
    }
}

/// One row of one block.
struct Row<'a> {
    x: *const f32,
    x_step: usize,
    taps: &'a [usize],
    weights: *const f32,
    bias: *const f32,
    out: *mut f32,
    addend: Option<*const f32>,
    width: usize,
    clamp: (f32, f32),
}

impl Row<'_> {
    /// # Safety
    /// `P` pixels from `x` on must be there.
    #[inline(always)]
    unsafe fn pixels<S: Simd, const P: usize>(&self, x: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [S::load(self.bias); P];
            for (number, &tap) in self.taps.iter().enumerate() {
                let weight = S::load(self.weights.add(number * S::LANES));
                let from = self.x.add(x * self.x_step + tap);
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::load(from.add(p * self.x_step)), weight, *sum);
                }
            }
            for (p, &sum) in sums.iter().enumerate() {
                let at = (x + p) * S::LANES;
                let sum = match self.addend {
                    Some(addend) => S::add(sum, S::load(addend.add(at))),
                    None => sum,
                };
                let (low, high) = (S::splat(self.clamp.0), S::splat(self.clamp.1));
                S::store(self.out.add(at), S::min(high, S::max(low, sum)));
            }
        }
    }
}

impl Job for Row<'_> {
    type Output = ();

    /// # Safety
    /// The row, its windows and its vectors must be valid.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = 0;
            while x + PIXELS <= self.width {
                self.pixels::<S, PIXELS>(x);
                x += PIXELS;
            }
            while x < self.width {
                self.pixels::<S, 1>(x);
                x += 1;
            }
        }
    }
}

impl Kernel for Depthwise {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let g = &self.geometry;
        let input = Shared::constant(arguments.input::<f32>(0)?.as_ptr());
        let addend = if self.addend { Some(arguments.shared_input::<f32>(1)?) } else { None };
        let output = Shared::new(arguments.output::<f32>(0)?);
        let weights = self.weights.value()?;
        let lanes = self.isa.lanes();
        let rows = g.batch * self.output.blocks() * self.output.height;
        let origin = self.input.pixel(0, 0) - g.begin[0] * self.input.row() - g.begin[1] * lanes;
        let pieces = runtime.pieces(rows, self.output.width * lanes * (g.taps() + 2));
        runtime.for_each(pieces, |number, _| {
            for row in piece(rows, pieces, number) {
                let (block, y) = (row / self.output.height, row % self.output.height);
                let channels = block % self.output.blocks();
                // SAFETY: each task has rows of its own, and the operands are as large as the
                // layouts say.
                unsafe {
                    let at = block * self.output.plane() + self.output.pixel(y, 0);
                    let job = Row {
                        x: input.at(block * self.input.plane() + origin + y * g.strides[0] * self.input.row()),
                        x_step: g.strides[1] * lanes,
                        taps: &self.taps,
                        weights: weights.as_ptr().add(channels * g.taps() * lanes),
                        bias: self.bias.as_ptr().add(channels * lanes),
                        out: output.at(at),
                        addend: addend.map(|addend| addend.at(at).cast_const()),
                        width: self.output.width,
                        clamp: self.clamp,
                    };
                    self.isa.run(job);
                    if let Some(activation) = self.activation {
                        activation.apply(self.isa, output.slice(at, self.output.width * lanes));
                    }
                    self.output.clear_around(output, block * self.output.plane(), y);
                }
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        if self.addend { &[1] } else { &[] }
    }

    fn weights(&self) -> Vec<&Packed> {
        vec![&self.weights]
    }
}

/// A depthwise convolution on plain operands.
pub(in crate::kernels) struct PlainDepthwise {
    isa: Isa,
    geometry: Geometry,
    planes: Planes,
    /// The constant weights, and how the sums are finished.
    finish: Option<(Packed, Finish)>,
}

impl PlainDepthwise {
    pub(in crate::kernels) fn new(isa: Isa, geometry: Geometry) -> Result<Self> {
        let frame = Frame {
            input: geometry.input,
            output: geometry.output,
            kernel: geometry.kernel,
            strides: geometry.strides,
            dilations: geometry.dilations,
            begin: geometry.begin,
        };
        let planes = Planes::new(isa, frame);
        let planes = planes.ok_or_else(|| Error::invalid_model("the workspace of a convolution overflows"))?;
        Ok(PlainDepthwise { isa, geometry, planes, finish: None })
    }

    /// Makes a kernel with constant weights.
    /// A second input is added where `finish` says so.
    pub(in crate::kernels) fn finished(
        isa: Isa,
        geometry: Geometry,
        weights: Filters<'_>,
        finish: Finish,
    ) -> Result<Self> {
        let finish = Some((weights.scaled(&finish)?, finish));
        Ok(PlainDepthwise { finish, ..PlainDepthwise::new(isa, geometry)? })
    }
}

impl Kernel for PlainDepthwise {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let g = &self.geometry;
        let input = arguments.input::<f32>(0)?;
        let packed =
            self.finish.as_ref().map(|(weights, finish)| Ok::<_, Error>((weights.value()?, finish))).transpose()?;
        let (weights, bias) = match &packed {
            None => (arguments.input::<f32>(1)?, arguments.optional::<f32>(2)?),
            Some((weights, finish)) => (&weights[..], Some(&finish.bias[..])),
        };
        let finish = self.finish.as_ref().map(|(_, finish)| finish);
        let addend = match finish {
            Some(finish) if finish.addend => Some(arguments.input::<f32>(1)?),
            _ => None,
        };
        let output = arguments.output::<f32>(0)?;
        let workspace = arguments.workspace::<f32>()?;
        let filters = g.groups * g.outputs;
        let plane = |number: usize| {
            let (item, filter) = (number / filters, number % filters);
            &input[(item * g.groups + filter / g.outputs) * g.input_plane()..][..g.input_plane()]
        };
        let fold = |number: usize| {
            let filter = number % filters;
            Fold::Sum {
                weights: &weights[filter * g.taps()..][..g.taps()],
                bias: bias.map_or(0.0, |bias| bias[filter]),
            }
        };
        let end = |number: usize, into: &mut [f32]| {
            let Some(finish) = finish else { return };
            if let Some(addend) = addend {
                let own = &addend[number * g.output_plane()..][..g.output_plane()];
                Pairwise::Add.apply(self.isa, into, Second::Same(own), false);
            }
            if finish.clamp != (f32::NEG_INFINITY, f32::INFINITY) {
                Activation::Clamp(finish.clamp.0, finish.clamp.1).apply(self.isa, into);
            }
            if let Some(activation) = finish.activation {
                activation.apply(self.isa, into);
            }
        };
        self.planes.run_all(g.batch * filters, workspace, output, runtime, (plane, fold, end));
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        self.planes.workspace(threads)
    }

    fn weights(&self) -> Vec<&Packed> {
        self.finish.iter().map(|(weights, _)| weights).collect()
    }
}
