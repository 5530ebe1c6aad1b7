//! Convolution into a blocked layout, directly: no im2col, and padding read from the halo.
//!
//! A tile is a few pixels of a row by two or four blocks of filters.
//! For each tap of the window and each block of input channels the microkernel walks the block's
//! lanes: they lie together, as do the filters' weights for them.
//! Inputs of few channels (photographs) are rewritten with their channels last instead, so that a
//! whole row of the window is one run.

use hetero_hal::Result;

use super::{Filters, Finish, Geometry};
use crate::floats::Floats;
use crate::image::{Halo, Image};
use crate::kernels::panels::Panels;
use crate::kernels::tile::{self, Bias, Panel, Tile};
use crate::kernels::vector::Activation;
use crate::kernels::{Kernel, Packed, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The multiply-adds that make handing a task to a thread worthwhile: some ten microseconds.
const TASK: usize = 1 << 19;

/// The bytes of weights that stay in a core's cache while rows of the image pass.
const RESIDENT: usize = 1 << 19;

/// The form in which the kernel reads its input.
enum Source {
    /// The blocked input, with a halo at least as wide as the padding.
    Blocked(Image),
    /// A plain input that is rewritten with channels last into the workspace; the sizes include the
    /// padding.
    ChannelsLast { height: usize, width: usize },
}

/// The memory that rows are written to: the output, or a ring of rows.
pub(super) struct Target {
    pub(super) memory: Shared,
    /// The elements before the block `first`.
    pub(super) start: usize,
    pub(super) first: usize,
    /// The elements from one block to the next.
    pub(super) plane: usize,
    /// The number of rows of the ring; row `y` is written to row `y % ring`.
    pub(super) ring: usize,
}

/// The memory that rows are computed from.
#[derive(Clone, Copy)]
pub(super) struct Read {
    pub(super) source: Shared,
    /// The packed weights, which the run holds.
    pub(super) weights: Panel,
}

pub(in crate::kernels) struct Blocked {
    isa: Isa,
    geometry: Geometry,
    source: Source,
    output: Image,
    /// The blocks of filters of a group.
    blocks: usize,
    /// The offset of each run of the input from a window's first pixel.
    taps: Vec<usize>,
    run: usize,
    /// The elements of the source from one output row, pixel, group and batch item to the next.
    steps: [usize; 4],
    /// The elements of the source before the first window.
    origin: usize,
    /// The panels of one filter block each: run after run, with a vector of filters for each
    /// element.
    weights: Panels,
    bias: Vec<f32>,
    clamp: (f32, f32),
    activation: Option<Activation>,
    /// Whether the second input is added.
    addend: bool,
    /// Whether all rows are treated as one.
    flat: bool,
}

impl Blocked {
    /// Makes the kernel; `input` is the blocked input's halo, or `None` for a plain input.
    pub(in crate::kernels) fn new(
        isa: Isa,
        geometry: Geometry,
        input: Option<Halo>,
        halo: Halo,
        weights: Filters<'_>,
        finish: Finish,
    ) -> Result<Self> {
        let (g, lanes) = (geometry, isa.lanes());
        let output = g.output_image(halo, lanes);
        let (source, taps, run, steps, origin) = match input {
            Some(halo) => {
                let image = g.input_image(halo, lanes);
                let mut taps = Vec::new();
                for block in 0..g.channels.div_ceil(lanes) {
                    for (y, x) in g.windows() {
                        taps.push(block * image.plane() + y * image.row() + x * lanes);
                    }
                }
                let group = g.channels.div_ceil(lanes) * image.plane();
                let steps = [g.strides[0] * image.row(), g.strides[1] * lanes, group, group * g.groups];
                let origin = (halo.top - g.begin[0]) * image.row() + (halo.left - g.begin[1]) * lanes;
                (Source::Blocked(image), taps, lanes, steps, origin)
            }
            None => {
                // The rewritten input extends as far as the last window reaches.
                let reach = |axis: usize| {
                    let last = g.output[axis].saturating_sub(1) * g.strides[axis];
                    last + (g.kernel[axis] - 1) * g.dilations[axis] + 1
                };
                let (height, width) = (reach(0), reach(1));
                let row = width * g.channels;
                let (taps, run) = if g.dilations[1] == 1 {
                    let taps = (0..g.kernel[0]).map(|y| y * g.dilations[0] * row).collect();
                    (taps, g.kernel[1] * g.channels)
                } else {
                    (g.windows().map(|(y, x)| y * row + x * g.channels).collect(), g.channels)
                };
                let steps = [g.strides[0] * row, g.strides[1] * g.channels, 0, height * row];
                (Source::ChannelsLast { height, width }, taps, run, steps, 0)
            }
        };
        let blocks = g.outputs.div_ceil(lanes);
        let unpadded = matches!(&source, Source::Blocked(image) if image.halo == Halo::NONE) && halo == Halo::NONE;
        let flat = unpadded && g.kernel == [1, 1] && g.strides == [1, 1] && g.output == g.input;
        let blocked = matches!(source, Source::Blocked(_));
        let order = if blocked { "channels, by block, innermost" } else { "channels innermost" };
        let layout = format!(
            "panels of {lanes} filters, {order}: {} groups of {} filters of {} channels by {:?} taps",
            g.groups, g.outputs, g.channels, g.kernel
        );
        let weights =
            weights.panels(&finish, (&layout, packed_elements(&g, lanes, blocked)), false, move |weights, scale| {
                pack(&g, lanes, blocked, weights, scale)
            })?;
        let mut bias = vec![0.0; g.groups * blocks * lanes];
        bias[..finish.bias.len()].copy_from_slice(&finish.bias);
        Ok(Blocked {
            isa,
            geometry,
            source,
            output,
            blocks,
            taps,
            run,
            steps,
            origin,
            weights,
            bias,
            clamp: finish.clamp,
            activation: finish.activation,
            addend: finish.addend,
            flat,
        })
    }

    /// Makes a kernel whose output has no halo and whose rows are never treated as one.
    pub(super) fn by_rows(
        isa: Isa,
        geometry: Geometry,
        input: Option<Halo>,
        weights: Filters<'_>,
        finish: Finish,
    ) -> Result<Self> {
        Ok(Blocked { flat: false, ..Blocked::new(isa, geometry, input, Halo::NONE, weights, finish)? })
    }

    /// Returns the packed weights.
    /// The caller of [`Blocked::some_rows`] holds their value.
    pub(super) fn packed(&self) -> &Panels {
        &self.weights
    }

    pub(super) fn output(&self) -> &Image {
        &self.output
    }

    /// Returns the number of groups of all batch items.
    pub(super) fn groups(&self) -> usize {
        self.geometry.batch * self.geometry.groups
    }

    /// Returns the number of filter blocks of a group.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Returns the blocked input, or the plain input after rewriting it.
    pub(super) fn source(&self, input: &[f32], into: &mut [f32], runtime: &Runtime<'_>) -> *const f32 {
        match self.source {
            Source::Blocked(image) => {
                debug_assert!(input.len() >= image.elements().unwrap_or(usize::MAX));
                input.as_ptr()
            }
            Source::ChannelsLast { .. } => {
                self.rewrite(input, into, runtime);
                into.as_ptr()
            }
        }
    }

    /// Computes rows of some filter blocks of a group; groups are counted over all batch items.
    ///
    /// # Safety
    /// The caller must keep to the contract of [`Blocked::rows`].
    pub(super) unsafe fn some_rows(
        &self,
        read: Read,
        target: &Target,
        group: usize,
        blocks: std::ops::Range<usize>,
        rows: std::ops::Range<usize>,
    ) {
        let place = (group / self.geometry.groups, group % self.geometry.groups);
        // SAFETY: the caller's promise.
        unsafe { self.rows(read, None, target, place, blocks, (rows, 1)) }
    }

    /// Returns the elements of one filter block's weights.
    fn panel(&self) -> usize {
        self.taps.len() * self.run * self.isa.lanes()
    }

    /// Returns the number of output rows, and of pixels in a row.
    fn extent(&self) -> (usize, usize) {
        let [height, width] = self.geometry.output;
        if self.flat { (1, height * width) } else { (height, width) }
    }

    /// Returns the elements of the workspace for the rewritten input.
    pub(super) fn rewritten(&self) -> usize {
        match self.source {
            Source::Blocked(_) => 0,
            Source::ChannelsLast { height, width } => self.geometry.batch * height * width * self.geometry.channels,
        }
    }

    /// Rewrites the plain input with channels last and zeros around it.
    fn rewrite(&self, input: &[f32], into: &mut [f32], runtime: &Runtime<'_>) {
        let Source::ChannelsLast { height, width } = self.source else { return };
        let g = &self.geometry;
        let row = width * g.channels;
        let into = Shared::new(into);
        let plane = g.input_plane();
        assert_eq!(input.len(), g.batch * g.channels * plane);
        let pieces = runtime.pieces(g.batch * height, row * 2);
        runtime.for_each(pieces, |number, _| {
            for line in tile::piece(g.batch * height, pieces, number) {
                let (item, y) = (line / height, line % height);
                // SAFETY: each line is one task's.
                let target = unsafe { into.slice(line * row, row) };
                let Some(y) = y.checked_sub(g.begin[0]).filter(|&y| y < g.input[0]) else {
                    target.fill(0.0);
                    continue;
                };
                let before = g.begin[1].min(width);
                let columns = (width - before).min(g.input[1]);
                let (left, rest) = target.split_at_mut(before * g.channels);
                let (pixels, right) = rest.split_at_mut(columns * g.channels);
                left.fill(0.0);
                right.fill(0.0);
                let source = &input[item * g.channels * plane + y * g.input[1]..];
                match g.channels {
                    1 => pixels.copy_from_slice(&source[..columns]),
                    2 => interleave::<2>(source, plane, pixels),
                    3 => interleave::<3>(source, plane, pixels),
                    4 => interleave::<4>(source, plane, pixels),
                    channels => {
                        for (x, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
                            pixel.iter_mut().zip(source[x..].iter().step_by(plane)).for_each(|(a, b)| *a = *b);
                        }
                    }
                }
            }
        });
    }

    /// Computes the output rows `rows` of some filter blocks, of one group of one batch item.
    ///
    /// # Safety
    /// `read` must hold the operands that the kernel was made for, and nobody else may write those
    /// rows of the target.
    unsafe fn rows(
        &self,
        read: Read,
        addend: Option<*const f32>,
        target: &Target,
        (item, group): (usize, usize),
        blocks: std::ops::Range<usize>,
        pixels: (std::ops::Range<usize>, usize),
    ) {
        let (lanes, panel, (_, width)) = (self.isa.lanes(), self.panel(), self.extent());
        let (rows, tiles) = pixels;
        let plane = target.plane;
        // SAFETY: the caller promises that the source is there.
        let x = unsafe { read.source.at(0) }.cast_const();
        let x = x.wrapping_add(self.origin + group * self.steps[2] + item * self.steps[3]);
        let per_row = tile::tiles(width, self.isa.rows());
        let mut first = blocks.start;
        while first < blocks.end {
            let left = blocks.end - first;
            let widest = tile::vectors(self.isa, width.div_ceil(per_row.max(1)));
            let vectors = if left >= 4 && widest == 4 { 4 } else { left.min(2) };
            let block = group * self.blocks + first;
            let start = target.start + (first - target.first) * plane;
            // A flat image is one row, divided into its tiles; any other image is divided into its
            // rows.
            for number in rows.clone() {
                let (y, number) = (number / tiles, number % tiles);
                let own = if tiles > 1 { number..number + 1 } else { 0..per_row };
                for number in own {
                    let pixels = tile::piece(width, per_row, number);
                    let at = start + self.output.pixel(y % target.ring, pixels.start);
                    let step = if self.flat { lanes } else { self.steps[1] };
                    // SAFETY: the steps, taps and panels have the sizes that the kernel was made
                    // for.
                    unsafe {
                        let out = target.memory.at(at);
                        let tile = Tile {
                            x: x.add(y * self.steps[0] + pixels.start * step),
                            x_row: step,
                            x_k: 1,
                            taps: &self.taps,
                            run: self.run,
                            w: read.weights.add(block * panel),
                            w_k: lanes,
                            w_vector: panel,
                            out,
                            out_row: lanes,
                            out_vector: plane,
                            bias: Bias::Vectors(self.bias.as_ptr().add(block * lanes)),
                            addend: addend.map(|addend| addend.add(at)),
                            clamp: self.clamp,
                            last: lanes,
                        };
                        tile::compute(self.isa, vectors, pixels.len(), tile);
                        if let Some(activation) = self.activation {
                            for vector in 0..vectors {
                                let written = target.memory.slice(at + vector * plane, pixels.len() * lanes);
                                activation.apply(self.isa, written);
                            }
                        }
                    }
                }
                for vector in 0..if self.output.halo == Halo::NONE { 0 } else { vectors } {
                    // SAFETY: the rows are this task's, and so is the halo beside them; above the
                    // first row and below the last nobody else writes.
                    unsafe { self.output.clear_around(target.memory, start + vector * plane, y) };
                }
            }
            first += vectors;
        }
    }
}

/// Interleaves pixels of `C` channels, from rows that lie `plane` elements apart.
fn interleave<const C: usize>(source: &[f32], plane: usize, pixels: &mut [f32]) {
    let (pixels, _) = pixels.as_chunks_mut::<C>();
    let rows: [&[f32]; C] = std::array::from_fn(|channel| &source[channel * plane..][..pixels.len()]);
    for (x, pixel) in pixels.iter_mut().enumerate() {
        *pixel = std::array::from_fn(|channel| rows[channel][x]);
    }
}

/// Returns the elements of a filter in a panel.
fn padded_filter(g: &Geometry, lanes: usize, blocked: bool) -> usize {
    let channels = if blocked { g.channels.next_multiple_of(lanes) } else { g.channels };
    channels * g.kernel[0] * g.kernel[1]
}

/// Returns the elements of all panels.
fn packed_elements(g: &Geometry, lanes: usize, blocked: bool) -> usize {
    g.groups * g.outputs.div_ceil(lanes) * lanes * padded_filter(g, lanes, blocked)
}

/// Packs the weights `[filter][channel][y][x]` into panels; see [`Blocked::weights`].
fn pack(g: &Geometry, lanes: usize, blocked: bool, weights: &[f32], scale: &[f32]) -> Result<Floats> {
    let (blocks, taps) = (g.outputs.div_ceil(lanes), g.kernel[0] * g.kernel[1]);
    let per_filter = g.channels * taps;
    let padded = padded_filter(g, lanes, blocked);
    let mut packed = Floats::zeros(packed_elements(g, lanes, blocked))?;
    for group in 0..g.groups {
        for filter in 0..g.outputs {
            let number = group * g.outputs + filter;
            let source = &weights[number * per_filter..][..per_filter];
            let scale = scale.get(number).copied().unwrap_or(1.0);
            let panel = &mut packed[(group * blocks + filter / lanes) * lanes * padded..][..lanes * padded];
            for channel in 0..g.channels {
                for tap in 0..taps {
                    let position = if blocked {
                        (channel / lanes * taps + tap) * lanes + channel % lanes
                    } else {
                        tap * g.channels + channel
                    };
                    panel[position * lanes + filter % lanes] = source[channel * taps + tap] * scale;
                }
            }
        }
    }
    Ok(packed)
}

impl Kernel for Blocked {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (g, lanes) = (&self.geometry, self.isa.lanes());
        let input = arguments.input::<f32>(0)?;
        let addend = if self.addend { Some(arguments.shared_input::<f32>(1)?) } else { None };
        let output = arguments.output::<f32>(0)?;
        let workspace = if self.rewritten() > 0 { arguments.workspace::<f32>()? } else { &mut [] };
        let source = Shared::constant(self.source(input, workspace, runtime));
        let weights = self.weights.packed.value()?;
        let read = Read { source, weights: self.weights.at(&weights) };
        debug_assert!(output.len() >= self.output.elements().unwrap_or(usize::MAX));
        let output = Shared::new(output);
        if self.output.elements() == Some(0) {
            return Ok(());
        }
        let (height, width) = self.extent();
        // The work is divided into rows, or into tiles where there is one row.
        let tiles = if self.flat { tile::tiles(width, self.isa.rows()) } else { 1 };
        let units = height * tiles;
        let unit_work = width / tiles.max(1) * self.taps.len() * self.run;
        let panels = self.blocks * self.panel() * size_of::<f32>();
        // Few weights stay in the cache while the image passes once; many weights pass once over an
        // image that stays.
        let filters = if panels <= RESIDENT { 1 } else { (panels / RESIDENT + 1).min(self.blocks.div_ceil(4)) };
        let work = unit_work * self.blocks.div_ceil(filters);
        let mut chunks = (units * work * lanes).div_ceil(TASK).min(units);
        let outer = g.batch * g.groups * filters;
        if outer * chunks < runtime.pool.threads() * 4 {
            chunks = (runtime.pool.threads() * 4).div_ceil(outer).min(units);
        }
        if units == 0 {
            return Ok(());
        }
        // Four blocks together make the widest tiles.
        let quads = self.blocks.div_ceil(4);
        runtime.for_each(outer * chunks, |number, _| {
            let (outer, chunk) = (number / chunks, number % chunks);
            let (image, filter) = (outer / filters, outer % filters);
            let quads = tile::piece(quads, filters, filter);
            let blocks = quads.start * 4..(quads.end * 4).min(self.blocks);
            let rows = tile::piece(units, chunks, chunk);
            // SAFETY: each task has rows and filters of its own, and the operands are as large as
            // the layouts say.
            unsafe {
                let addend = addend.map(|addend| addend.at(0).cast_const());
                let place = (image / g.groups, image % g.groups);
                let plane = self.output.plane();
                let start = (place.0 * self.output.blocks() + place.1 * self.blocks) * plane;
                let target = Target { memory: output, start, first: 0, plane, ring: usize::MAX };
                self.rows(read, addend, &target, place, blocks, (rows, tiles));
            }
        });
        Ok(())
    }

    fn workspace(&self, _: usize) -> usize {
        self.rewritten() * size_of::<f32>()
    }

    fn in_place(&self) -> &'static [usize] {
        if self.addend { &[1] } else { &[] }
    }

    fn weights(&self) -> Vec<&Packed> {
        vec![&self.weights.packed]
    }
}
