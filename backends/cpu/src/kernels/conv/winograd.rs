//! Convolution with 3×3 windows and stride 1 by Winograd's minimal filtering, F(4×4, 3×3):
//! Winograd, *Arithmetic Complexity of Computations* (1980); Lavin and Gray, *Fast Algorithms for
//! Convolutional Neural Networks* (2016).
//!
//! Each 4×4 tile of the output needs 36 products for each pair of channel and filter, instead of
//! 144.
//! A tile's 6×6 window of the input is transformed, `BᵀdB`.
//! At each of its 36 positions, all tiles and channels are one matrix product with the transformed
//! weights, `GgGᵀ`, which are made while compiling.
//! The sums are then transformed back, `AᵀmA`.
//! The polynomials behind this are evaluated at 0, ±1/√2, ±√2 and infinity, where the rounding
//! errors of f32 grow least among the usual choices (`error_is_small` measures them).
//!
//! Tiles are done in bands, so that the transformed data stays in the caches and the workspace
//! stays small.
//! Weights take four times the memory of the direct kernel's weights; [`Winograd::pays`] says no
//! where reading them would take longer than computing.
//!
//! The transforms mix all pixels of a window, so rounding errors of the largest pixel reach outputs
//! that do not see it, and an infinite or NaN pixel would spoil a whole tile.
//! So each window is judged first, by the squares of its pixels ([`Judge`]): a tile whose pixels
//! differ too much is summed directly ([`Exact`]).
//! [`Winograd::suits`] says no to filters without both signs, whose sums must not become negative
//! where the input is not.

use hetero_hal::{Result, Tensor};

use super::{Filters, Finish, Geometry};
use crate::floats::Floats;
use crate::image::{Halo, Image};
use crate::kernels::panels::Panels;
use crate::kernels::tile::{self, Bias, Panel, Tile};
use crate::kernels::vector::Activation;
use crate::kernels::{Kernel, Packed, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::{self, Half, Isa, Job, Simd, WIDEST};

/// The pixels along each axis of an output tile, and of the input window that it reads.
const OUT: usize = 4;
const IN: usize = 6;
/// The positions of a transformed tile.
const PLACES: usize = IN * IN;

/// The points ±A and ±B at which polynomials are evaluated, beside 0 and infinity.
/// A·B is 1, and A² + B² is 2.5.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// The elements of a band's transformed input: half of what the second-level caches of two cores
/// hold.
const BAND: usize = 1 << 19;

/// The largest ratio of the squares of a window to those that one output sees.
/// An output's error is then at the most some 256 times what its own pixels would cause, below
/// 1e-4 of their magnitude.
const UNEVEN: f32 = 65_536.0;

/// The largest magnitudes of pixels and of weights, so that no transformed product overflows.
const LARGEST: f32 = 1e12;

/// The channels whose weights are gathered at a time for tiles that are summed directly; it divides
/// the lanes of every vector.
const GATHERED: usize = 8;

/// The lines of squares and of their sums that judging a row of tiles takes.
const LINES: usize = IN + OUT + 2;

/// The approximate number of tiles that a task multiplies at once: twice the rows of the widest
/// microkernel.
const TILES: usize = 28;

pub(in crate::kernels) struct Winograd {
    isa: Isa,
    geometry: Geometry,
    input: Image,
    output: Image,
    /// The number of channels, rounded up to a whole block.
    channels: usize,
    /// A panel for each block of filters, for each position: a vector of filters for each channel.
    weights: Panels,
    bias: Vec<f32>,
    clamp: (f32, f32),
    activation: Option<Activation>,
    addend: bool,
}

/// How the work of a run is divided.
#[derive(Clone, Copy)]
struct Division {
    /// The rows of tiles of all batch items that are done at a time.
    band: usize,
    /// The parts into which a band's rows are divided.
    parts: usize,
    /// The blocks of filters of a task.
    filters: usize,
}

impl Winograd {
    /// Tells whether the kernel is for such a convolution and faster than the direct kernel,
    /// counted in multiply-adds on one thread.
    pub(in crate::kernels) fn pays(g: &Geometry, lanes: usize) -> bool {
        let usual = g.kernel == [3, 3] && g.strides == [1, 1] && g.dilations == [1, 1] && g.groups == 1;
        let wide = g.channels >= lanes && g.outputs >= lanes;
        if !usual || !wide {
            return false;
        }
        // WEIGHT is how many multiply-adds take the time of reading a weight from memory.
        // BEFORE and AFTER are the costs of transforming a tile for each channel and filter: twelve
        // transforms of six numbers, and ten.
        // These are no multiply-adds, and go through the first-level cache.
        const WEIGHT: usize = 10;
        const BEFORE: usize = 400;
        const AFTER: usize = 350;
        let tiles = g.batch * g.output[0].div_ceil(OUT) * g.output[1].div_ceil(OUT);
        let pairs = g.channels * g.outputs;
        let direct = pairs * 9 * (g.batch * g.output_plane() + WEIGHT);
        let transforms = tiles * (g.channels * BEFORE + g.outputs * AFTER);
        let ours = pairs * PLACES * (tiles + WEIGHT) + transforms;
        ours + ours / 8 < direct
    }

    /// Tells whether filters may be computed in this way, whatever the input is.
    /// A filter without both signs gives results of one sign for inputs of one sign, and rounding
    /// must not change that.
    pub(in crate::kernels) fn suits(weights: &Tensor, filters: usize) -> bool {
        let Ok(values) = simd::floats(weights) else { return false };
        let small = values.iter().all(|weight| weight.abs() <= LARGEST);
        let each = (values.len() / filters.max(1)).max(1);
        let mixed = |filter: &[f32]| {
            let mut signs = filter.iter().filter(|weight| **weight != 0.0).map(|weight| *weight > 0.0);
            signs.next().is_none_or(|first| signs.any(|sign| sign != first))
        };
        small && values.chunks(each).all(mixed)
    }

    /// Makes the kernel.
    /// `input` and `output` are the halos of the blocked operands; the input's halo is at least as
    /// wide as the padding.
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
        let mut bias = vec![0.0; output.blocks() * lanes];
        bias[..finish.bias.len()].copy_from_slice(&finish.bias);
        let layout = format!("transformed, panels of {lanes} filters: {} of {} channels", g.outputs, g.channels);
        let weights = weights.panels(&finish, (&layout, packed_elements(&g, lanes)), true, move |weights, scale| {
            pack(&g, lanes, weights, scale)
        })?;
        Ok(Winograd {
            isa,
            geometry,
            input,
            output,
            channels: input.blocks() * lanes,
            weights,
            bias,
            clamp: finish.clamp,
            activation: finish.activation,
            addend: finish.addend,
        })
    }

    /// Returns the elements of the packed weights.
    fn elements(&self) -> usize {
        PLACES * self.output.blocks() * self.channels * self.isa.lanes()
    }

    /// Returns the rows of tiles of a batch item, and the tiles of a row.
    fn tiles(&self) -> (usize, usize) {
        (self.output.height.div_ceil(OUT), self.output.width.div_ceil(OUT))
    }

    fn division(&self, threads: usize) -> Division {
        let (height, width) = self.tiles();
        let rows = height * self.geometry.batch;
        // All weights are read for each band, so bands are large where there are many weights.
        let room = BAND.max(self.elements() / 8);
        let band = (room / (PLACES * width * self.channels).max(1)).clamp(1, rows.max(1));
        let band = rows.div_ceil(rows.div_ceil(band).max(1));
        let parts = (band * width / TILES).clamp(1, band);
        let enough = |filters: usize| self.output.blocks().div_ceil(filters) * parts >= threads * 4;
        let filters = if threads == 1 || enough(4) { 4 } else { 2 };
        Division { band, parts, filters: filters.min(self.output.blocks()) }
    }

    /// Returns the elements of a band's transformed input, and of a task's sums.
    fn room(&self, division: Division) -> (usize, usize) {
        let (_, width) = self.tiles();
        let sums = PLACES * division.filters * division.band.div_ceil(division.parts) * width * self.isa.lanes();
        (PLACES * division.band * width * self.channels, sums)
    }

    /// Returns the elements of a line of squares, of which each tile of a row reads six.
    fn line(&self) -> usize {
        let (_, width) = self.tiles();
        (width * OUT + IN - OUT).next_multiple_of(WIDEST) + WIDEST
    }

    /// Returns the place in a plane of the input where the window of a row's first tile begins, and
    /// the lines and columns that there are from there on.
    fn window(&self, y: usize) -> (usize, usize, usize) {
        let halo = self.input.halo;
        let (above, beside) = (y + halo.top - self.geometry.begin[0], halo.left - self.geometry.begin[1]);
        let lines = (self.input.height + halo.top + halo.bottom).saturating_sub(above);
        let columns = (self.input.width + halo.left + halo.right).saturating_sub(beside);
        (above * self.input.row() + beside * self.input.lanes, lines, columns)
    }

    /// Judges rows of tiles of the band whose first row is `first`: writes 0 for each tile whose
    /// pixels are alike, and 1 for the others.
    ///
    /// # Safety
    /// `source` must be the input, `lines` this task's [`LINES`] lines, and `into` have an element
    /// for each tile of the band.
    unsafe fn judge(
        &self,
        source: *const f32,
        lines: *mut f32,
        into: *mut f32,
        first: usize,
        rows: std::ops::Range<usize>,
    ) {
        let (length, (height, width)) = (self.line(), self.tiles());
        let (blocks, plane) = (self.input.blocks(), self.input.plane());
        let begin = rows.start;
        for row in rows {
            let (item, y) = ((first + row) / height, (first + row) % height * OUT);
            let (at, there, columns) = self.window(y);
            // SAFETY: the caller's promise; squares are taken of lines that there are.
            unsafe {
                // The last two lines are the next row's first two.
                let known = if row > begin && y > 0 {
                    std::ptr::copy(lines.add(OUT * length), lines, (IN - OUT) * length);
                    IN - OUT
                } else {
                    0
                };
                for line in known..IN {
                    let into = std::slice::from_raw_parts_mut(lines.add(line * length), length);
                    let columns = if line < there { columns.min(width * OUT + IN - OUT) } else { 0 };
                    into[columns..].fill(0.0);
                    let from = source.add(item * blocks * plane).wrapping_add(at + line * self.input.row());
                    self.isa.run(Squares { from, plane, blocks, columns, into: into.as_mut_ptr() });
                }
                self.isa.run(Judge {
                    lines,
                    length,
                    outputs: (OUT.min(self.output.height - y), self.output.width),
                    into: into.add(row * width),
                });
            }
        }
    }

    /// Computes the sums of tiles that are not done by transforms, of some blocks of filters: each
    /// at the first 16 positions of the tile's own sums.
    ///
    /// # Safety
    /// As for [`Winograd::task`].
    unsafe fn exact(
        &self,
        source: *const f32,
        uneven: &[f32],
        sums: *mut f32,
        first: usize,
        rows: std::ops::Range<usize>,
        blocks: std::ops::Range<usize>,
    ) {
        let (lanes, (height, width), channels) = (self.isa.lanes(), self.tiles(), self.geometry.channels);
        let count = rows.len() * width;
        let [content, scale @ ..] = self.weights.packed.sources() else { return };
        let (weights, half) = (content.bytes(), Half::of(content.dtype()));
        let width_of = content.dtype().bits() / 8;
        let scale = scale.first().map(|scale| scale.bytes());
        let number = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at * size_of::<f32>()..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0.0, |bytes| f32::from_ne_bytes(*bytes))
        };
        for (index, block) in blocks.clone().enumerate() {
            let filters = (block * lanes..self.geometry.outputs).take(lanes);
            for channel in (0..channels).step_by(GATHERED) {
                let taken = GATHERED.min(channels - channel);
                let mut gathered = [0.0; GATHERED * 9 * WIDEST];
                for (lane, filter) in filters.clone().enumerate() {
                    let scale = scale.map_or(1.0, |scale| number(scale, filter));
                    let (from, bytes) = ((filter * channels + channel) * 9, taken * 9 * width_of);
                    let taps = weights.get(from * width_of..).and_then(|rest| rest.get(..bytes)).unwrap_or_default();
                    let into = gathered[lane..].iter_mut().step_by(lanes);
                    match half {
                        None => into.zip(taps.as_chunks().0).for_each(|(into, weight)| {
                            *into = f32::from_ne_bytes(*weight) * scale;
                        }),
                        Some(half) => into.zip(taps.as_chunks().0).for_each(|(into, weight)| {
                            *into = half.wide(u16::from_ne_bytes(*weight)) * scale;
                        }),
                    }
                }
                for (tile, _) in uneven.iter().enumerate().filter(|(_, uneven)| **uneven != 0.0) {
                    let (row, column) = (first + rows.start + tile / width, tile % width * OUT);
                    let (at, lines, columns) = self.window(row % height * OUT);
                    let plane = row / height * self.input.blocks() + channel / lanes;
                    // SAFETY: the caller's promise; the job reads what there is of the window.
                    unsafe {
                        self.isa.run(Exact {
                            weights: gathered.as_ptr(),
                            channels: taken,
                            from: source
                                .wrapping_add(plane * self.input.plane() + at + column * lanes + channel % lanes),
                            row: self.input.row(),
                            lines: lines.min(IN),
                            columns: columns.saturating_sub(column).min(IN),
                            sums: sums.add((index * count + tile) * lanes),
                            step: blocks.len() * count * lanes,
                            begins: channel == 0,
                        });
                    }
                }
            }
        }
    }

    /// Computes the sums of some rows of tiles of the band at some blocks of filters, and
    /// transforms them back into the output.
    ///
    /// # Safety
    /// `source` must be the input, `transformed` and `uneven` must hold the band, whose first row
    /// of tiles is `first`, and `weights` must be the packed weights' value.
    /// `sums` must be this task's, and nobody else may write those pixels and filters.
    unsafe fn task(
        &self,
        (source, transformed, uneven, weights): (*const f32, *const f32, *const f32, Panel),
        sums: *mut f32,
        (output, addend): (Shared, Option<*const f32>),
        (first, division): (usize, Division),
        rows: std::ops::Range<usize>,
        blocks: std::ops::Range<usize>,
    ) {
        let (lanes, (height, width)) = (self.isa.lanes(), self.tiles());
        let (band, panel) = (division.band * width, self.channels * lanes);
        let count = rows.len() * width;
        let per_place = tile::tiles(count, self.isa.rows());
        let widest = tile::vectors(self.isa, count.div_ceil(per_place.max(1)));
        for place in 0..PLACES {
            let mut block = blocks.start;
            while block < blocks.end {
                let left = blocks.end - block;
                let vectors = if left >= 4 && widest == 4 { 4 } else { left.min(2) };
                for number in 0..per_place {
                    let part = tile::piece(count, per_place, number);
                    let at = (place * blocks.len() + block - blocks.start) * count + part.start;
                    // SAFETY: the position's tiles, panels and sums are those that `room` and
                    // `pack` have sized.
                    unsafe {
                        let tile = Tile {
                            x: transformed.add((place * band + rows.start * width + part.start) * self.channels),
                            x_row: self.channels,
                            x_k: 1,
                            taps: &[0],
                            run: self.channels,
                            w: weights.add((place * self.output.blocks() + block) * panel),
                            w_k: lanes,
                            w_vector: panel,
                            out: sums.add(at * lanes),
                            out_row: lanes,
                            out_vector: count * lanes,
                            bias: Bias::None,
                            addend: None,
                            clamp: (f32::NEG_INFINITY, f32::INFINITY),
                            last: lanes,
                        };
                        tile::compute(self.isa, vectors, part.len(), tile);
                    }
                }
                block += vectors;
            }
        }
        // SAFETY: the caller's promise.
        let uneven = unsafe { std::slice::from_raw_parts(uneven.add(rows.start * width), count) };
        if uneven.iter().any(|uneven| *uneven != 0.0) {
            // SAFETY: the caller's promise.
            unsafe { self.exact(source, uneven, sums, first, rows.clone(), blocks.clone()) };
        }
        for (index, row) in rows.clone().enumerate() {
            let (item, y) = ((first + row) / height, (first + row) % height * OUT);
            let lines = OUT.min(self.output.height - y);
            for (number, block) in blocks.clone().enumerate() {
                let plane = (item * self.output.blocks() + block) * self.output.plane();
                let at = plane + self.output.pixel(y, 0);
                // SAFETY: as above; the row's pixels of this block, and the halo beside them, are
                // this task's.
                unsafe {
                    self.isa.run(After {
                        sums: sums.add((number * count + index * width) * lanes),
                        step: blocks.len() * count * lanes,
                        uneven: uneven[index * width..][..width].as_ptr(),
                        out: output.at(at),
                        addend: addend.map(|addend| addend.add(at)),
                        row: self.output.row(),
                        lines,
                        columns: self.output.width,
                        bias: self.bias.as_ptr().add(block * lanes),
                        clamp: self.clamp,
                    });
                    for line in 0..lines {
                        if let Some(activation) = self.activation {
                            let written = output.slice(at + line * self.output.row(), self.output.width * lanes);
                            activation.apply(self.isa, written);
                        }
                        self.output.clear_around(output, plane, y + line);
                    }
                }
            }
        }
    }
}

impl Kernel for Winograd {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let addend = if self.addend { Some(arguments.shared_input::<f32>(1)?) } else { None };
        let output = arguments.output::<f32>(0)?;
        debug_assert!(input.len() >= self.input.elements().unwrap_or(usize::MAX));
        debug_assert!(output.len() >= self.output.elements().unwrap_or(usize::MAX));
        let (source, output) = (Shared::constant(input.as_ptr()), Shared::new(output));
        let threads = runtime.pool.threads();
        let division = self.division(threads);
        let (band, task) = self.room(division);
        let (lanes, (height, width)) = (self.isa.lanes(), self.tiles());
        let (transformed, rest) = arguments.workspace::<f32>()?.split_at_mut(band);
        let (uneven, rest) = rest.split_at_mut(division.band * width);
        let (lines, sums) = rest.split_at_mut(LINES * self.line() * threads);
        debug_assert!(sums.len() >= task * threads);
        let (transformed, sums) = (Shared::new(transformed), Shared::new(sums));
        let (uneven, lines) = (Shared::new(uneven), Shared::new(lines));
        let packed = self.weights.packed.value()?;
        let weights = self.weights.at(&packed);
        let rows = height * self.geometry.batch;
        let (blocks, groups) = (self.input.blocks(), self.output.blocks().div_ceil(division.filters));
        for first in (0..rows).step_by(division.band) {
            let count = division.band.min(rows - first);
            let pieces = runtime.pieces(count, blocks * width * lanes * OUT * OUT);
            runtime.for_each(pieces, |number, thread| {
                let rows = tile::piece(count, pieces, number);
                // SAFETY: each row of tiles is one task's, and each thread has its lines.
                unsafe {
                    let lines = lines.at(thread * LINES * self.line());
                    self.judge(source.at(0), lines, uneven.at(0), first, rows);
                }
            });
            let pieces = runtime.pieces(count * blocks, width * lanes * 64);
            runtime.for_each(pieces, |number, _| {
                for unit in tile::piece(count * blocks, pieces, number) {
                    let (row, block) = (unit / blocks, unit % blocks);
                    let (item, y) = ((first + row) / height, (first + row) % height * OUT);
                    let (at, lines, columns) = self.window(y);
                    let plane = (item * blocks + block) * self.input.plane();
                    // SAFETY: the input is as large as its layout says; the row of tiles at this
                    // block is one task's.
                    unsafe {
                        self.isa.run(Before {
                            from: source.at(plane).wrapping_add(at),
                            row: self.input.row(),
                            lines: lines.min(IN),
                            columns,
                            into: transformed.at(row * width * self.channels + block * lanes),
                            tiles: width,
                            tile: self.channels,
                            place: division.band * width * self.channels,
                        });
                    }
                }
            });
            let parts = division.parts.min(count);
            runtime.for_each(groups * parts, |number, thread| {
                let (group, part) = (number / parts, number % parts);
                let blocks = group * division.filters..((group + 1) * division.filters).min(self.output.blocks());
                let rows = tile::piece(count, parts, part);
                // SAFETY: each task has rows and filters of its own, and each thread its sums; the
                // operands are as large as the layouts say.
                unsafe {
                    let addend = addend.map(|addend| addend.at(0).cast_const());
                    let sums = sums.at(thread * task);
                    let [source, transformed, uneven] =
                        [source, transformed, uneven].map(|operand| operand.at(0).cast_const());
                    self.task(
                        (source, transformed, uneven, weights),
                        sums,
                        (output, addend),
                        (first, division),
                        rows,
                        blocks,
                    );
                }
            });
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let (band, task) = self.room(self.division(threads));
        let (_, width) = self.tiles();
        let judging = self.division(threads).band * width + LINES * self.line() * threads;
        (band + judging + task * threads) * size_of::<f32>()
    }

    fn in_place(&self) -> &'static [usize] {
        if self.addend { &[1] } else { &[] }
    }

    fn weights(&self) -> Vec<&Packed> {
        vec![&self.weights.packed]
    }
}

/// The transformation of the input of a row of tiles, of one block of channels.
struct Before {
    /// The block's first pixel of the first tile's window.
    from: *const f32,
    row: usize,
    /// The lines of the windows, and the columns from the first on, that exist.
    lines: usize,
    columns: usize,
    /// The first tile's first position; tiles lie `tile` elements apart, and positions `place`.
    into: *mut f32,
    tiles: usize,
    tile: usize,
    place: usize,
}

/// Returns `Bᵀx`.
#[inline(always)]
unsafe fn before<S: Simd>(x: [S::V; IN]) -> [S::V; IN] {
    // SAFETY: the caller promises that the processor has the instructions.
    unsafe {
        let of = |c: f32, a: S::V, b: S::V| S::fma(S::splat(c), a, b);
        let (even, odd) = (of(-B * B, x[2], x[4]), S::mul(S::splat(A), of(-B * B, x[1], x[3])));
        let (even_b, odd_b) = (of(-A * A, x[2], x[4]), S::mul(S::splat(B), of(-A * A, x[1], x[3])));
        [
            of(-2.5, x[2], S::add(x[0], x[4])),
            S::add(even, odd),
            S::sub(even, odd),
            S::add(even_b, odd_b),
            S::sub(even_b, odd_b),
            of(-2.5, x[3], S::add(x[1], x[5])),
        ]
    }
}

impl Job for Before {
    type Output = ();

    /// # Safety
    /// The plane, and the positions of the row of tiles, must be valid.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise; nothing outside the plane is read.
        unsafe {
            let zero = S::splat(0.0);
            let mut half = [[zero; IN]; IN];
            for number in 0..self.tiles {
                let column = number * OUT;
                let columns = self.columns.saturating_sub(column).min(IN);
                let at = self.from.wrapping_add(column * S::LANES);
                // The window's first columns are the last ones of the window before.
                let known = if number > 0 { IN - OUT } else { 0 };
                for row in &mut half {
                    for x in 0..known {
                        row[x] = row[x + OUT];
                    }
                    for value in &mut row[columns.max(known)..] {
                        *value = zero;
                    }
                }
                for x in known..columns {
                    let mut line = [zero; IN];
                    for (y, value) in line.iter_mut().enumerate() {
                        if y < self.lines {
                            *value = S::load(at.add(y * self.row + x * S::LANES));
                        }
                    }
                    for (row, value) in half.iter_mut().zip(before::<S>(line)) {
                        row[x] = value;
                    }
                }
                let into = self.into.add(number * self.tile);
                for (y, line) in half.iter().copied().enumerate() {
                    for (x, value) in before::<S>(line).into_iter().enumerate() {
                        S::store(into.add((y * IN + x) * self.place), value);
                    }
                }
            }
        }
    }
}

/// The squares of a line of pixels, each summed over all channels.
struct Squares {
    /// The line's first pixel in the first block; blocks lie `plane` elements apart.
    from: *const f32,
    plane: usize,
    blocks: usize,
    columns: usize,
    into: *mut f32,
}

impl Squares {
    /// Sums the squares of `N` pixels from `x` on.
    #[inline(always)]
    unsafe fn some<S: Simd, const N: usize>(&self, x: usize) {
        // SAFETY: the caller promises that the pixels exist, and the instructions.
        unsafe {
            let mut sums = [S::splat(0.0); N];
            for block in 0..self.blocks {
                let at = self.from.add(block * self.plane + x * S::LANES);
                for (pixel, sum) in sums.iter_mut().enumerate() {
                    let value = S::load(at.add(pixel * S::LANES));
                    *sum = S::fma(value, value, *sum);
                }
            }
            for (pixel, sum) in sums.into_iter().enumerate() {
                *self.into.add(x + pixel) = S::sum(sum);
            }
        }
    }
}

impl Job for Squares {
    type Output = ();

    /// # Safety
    /// The line must be valid in each block, and `into` have an element for each column.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let whole = self.columns / 8 * 8;
            (0..whole).step_by(8).for_each(|x| self.some::<S, 8>(x));
            (whole..self.columns).for_each(|x| self.some::<S, 1>(x));
        }
    }
}

/// The judgement of a row of tiles by the squares of its pixels.
struct Judge {
    /// The six lines of squares, each of `length` elements, and room for as many more as [`LINES`]
    /// says.
    lines: *mut f32,
    length: usize,
    /// The lines and columns of outputs that exist.
    outputs: (usize, usize),
    into: *mut f32,
}

impl Job for Judge {
    type Output = ();

    /// # Safety
    /// All lines must be valid, and `into` have an element for each tile.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Judge { lines, length, outputs, into } = self;
        // SAFETY: the caller's promise: a line is longer by a vector than what is read of it.
        unsafe {
            let line = |number: usize| lines.add(number * length);
            let (columns, least) = (line(IN + OUT), line(IN + OUT + 1));
            for x in (0..length).step_by(S::LANES) {
                let of: [S::V; IN] = std::array::from_fn(|number| S::load(line(number).add(x)));
                let mut all = of[0];
                for one in &of[1..] {
                    all = S::add(all, *one);
                }
                S::store(columns.add(x), all);
                for y in 0..OUT {
                    S::store(line(IN + y).add(x), S::add(S::add(of[y], of[y + 1]), of[y + 2]));
                }
            }
            // What each output of a column sees, and the least of that.
            for x in (0..length - S::LANES).step_by(S::LANES) {
                let seen = |y: usize| {
                    let at = line(IN + y).add(x);
                    S::add(S::add(S::load(at), S::load(at.add(1))), S::load(at.add(2)))
                };
                let mut smallest = seen(0);
                for y in 1..outputs.0 {
                    smallest = S::min(smallest, seen(y));
                }
                S::store(least.add(x), smallest);
            }
            for (tile, first) in (0..outputs.1).step_by(OUT).enumerate() {
                let all: f32 = (first..first + IN).map(|x| *columns.add(x)).sum();
                let seen = (first..(first + OUT).min(outputs.1)).map(|x| *least.add(x));
                let seen = seen.fold(f32::INFINITY, f32::min);
                // Where a number is NaN or too large, no comparison holds.
                let even = all == 0.0 || (all <= seen * UNEVEN && all < LARGEST * LARGEST);
                *into.add(tile) = if even { 0.0 } else { 1.0 };
            }
        }
    }
}

/// The sums of one tile for one block of filters and some channels, by the definition.
struct Exact {
    /// A vector of filters for each tap of each channel.
    weights: *const f32,
    channels: usize,
    /// The first channel at the window's first pixel; the others lie behind it.
    from: *const f32,
    row: usize,
    /// The lines and columns of the window that exist.
    lines: usize,
    columns: usize,
    /// The first output; outputs lie `step` elements apart.
    sums: *mut f32,
    step: usize,
    /// Whether the sums begin with these channels.
    begins: bool,
}

impl Job for Exact {
    type Output = ();

    /// # Safety
    /// The weights, the part of the window that exists, and the 16 sums must be valid.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[S::splat(0.0); OUT]; OUT];
            if !self.begins {
                for (place, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                    *sum = S::load(self.sums.add(place * self.step));
                }
            }
            for channel in 0..self.channels {
                let taps: [S::V; 9] =
                    std::array::from_fn(|tap| S::load(self.weights.add((channel * 9 + tap) * S::LANES)));
                // What does not exist is only read by outputs that do not exist either.
                let mut pixels = [[0.0; IN]; IN];
                for (y, line) in pixels.iter_mut().enumerate().take(self.lines) {
                    for (x, pixel) in line.iter_mut().enumerate().take(self.columns) {
                        *pixel = *self.from.add(y * self.row + x * S::LANES + channel);
                    }
                }
                for (v, sums) in sums.iter_mut().enumerate() {
                    for (u, sum) in sums.iter_mut().enumerate() {
                        for (tap, weights) in taps.iter().enumerate() {
                            *sum = S::fma(S::splat(pixels[v + tap / 3][u + tap % 3]), *weights, *sum);
                        }
                    }
                }
            }
            for (place, sum) in sums.as_flattened().iter().enumerate() {
                S::store(self.sums.add(place * self.step), *sum);
            }
        }
    }
}

/// The transformation of the sums of a row of tiles back to the output, for one block of filters,
/// with its finish.
struct After {
    /// The first tile's first position; tiles lie together, and positions `step` apart.
    sums: *const f32,
    step: usize,
    /// For each tile, whether its first 16 positions are the outputs themselves.
    uneven: *const f32,
    /// The first pixel; rows lie `row` elements apart.
    out: *mut f32,
    addend: Option<*const f32>,
    row: usize,
    /// The lines and columns of pixels that exist.
    lines: usize,
    columns: usize,
    bias: *const f32,
    clamp: (f32, f32),
}

/// Returns `Aᵀm`.
#[inline(always)]
unsafe fn after<S: Simd>(m: [S::V; IN]) -> [S::V; OUT] {
    // SAFETY: the caller promises that the processor has the instructions.
    unsafe {
        let of = |c: f32, a: S::V, b: S::V| S::fma(S::splat(c), a, b);
        let scaled = |c: f32, a: S::V| S::mul(S::splat(c), a);
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum_b, difference_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(sum, sum_b)),
            of(A, difference, scaled(B, difference_b)),
            of(A * A, sum, scaled(B * B, sum_b)),
            of(A * A * A, difference, of(B * B * B, difference_b, m[5])),
        ]
    }
}

impl Job for After {
    type Output = ();

    /// # Safety
    /// The sums of as many tiles as the columns need, and the pixels that exist, must be valid.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise; nothing behind the last line and column is touched.
        unsafe {
            let (low, high, bias) = (S::splat(self.clamp.0), S::splat(self.clamp.1), S::load(self.bias));
            for number in 0..self.columns.div_ceil(OUT) {
                let sums = self.sums.add(number * S::LANES);
                let mut half = [[S::splat(0.0); IN]; OUT];
                let uneven = *self.uneven.add(number) != 0.0;
                for x in 0..if uneven { 0 } else { IN } {
                    let mut line = [S::splat(0.0); IN];
                    for (y, value) in line.iter_mut().enumerate() {
                        *value = S::load(sums.add((y * IN + x) * self.step));
                    }
                    for (row, value) in half.iter_mut().zip(after::<S>(line)) {
                        row[x] = value;
                    }
                }
                let columns = OUT.min(self.columns - number * OUT);
                for (y, line) in half.into_iter().enumerate().take(self.lines) {
                    let at = y * self.row + number * OUT * S::LANES;
                    let line = if uneven {
                        std::array::from_fn(|x| S::load(sums.add((y * OUT + x) * self.step)))
                    } else {
                        after::<S>(line)
                    };
                    for (x, value) in line.into_iter().enumerate().take(columns) {
                        let at = at + x * S::LANES;
                        let sum = S::add(value, bias);
                        let sum = match self.addend {
                            Some(addend) => S::add(sum, S::load(addend.add(at))),
                            None => sum,
                        };
                        S::store(self.out.add(at), S::min(high, S::max(low, sum)));
                    }
                }
            }
        }
    }
}

/// Returns `Gg` for a vector of filters in each element, where `g` holds three elements.
fn weighted(g: [[f32; WIDEST]; 3]) -> [[f32; WIDEST]; IN] {
    // These are the products of the differences between a point and the others, from which
    // Lagrange's polynomials have their factors.
    let (of_a, of_b) = (1.0 / (2.0 * A * A * (A * A - B * B)), 1.0 / (2.0 * B * B * (B * B - A * A)));
    let mut made = [[0.0; WIDEST]; IN];
    for lane in 0..WIDEST {
        let [zero, one, two] = [g[0][lane], g[1][lane], g[2][lane]];
        let (even, odd) = ((zero + A * A * two) * of_a, A * one * of_a);
        let (even_b, odd_b) = ((zero + B * B * two) * of_b, B * one * of_b);
        for (place, value) in
            [zero, even + odd, even - odd, even_b + odd_b, even_b - odd_b, two].into_iter().enumerate()
        {
            made[place][lane] = value;
        }
    }
    made
}

/// Returns the elements of the transformed weights.
fn packed_elements(g: &Geometry, lanes: usize) -> usize {
    PLACES * g.outputs.div_ceil(lanes) * g.channels.next_multiple_of(lanes) * lanes
}

/// Transforms the weights `[filter][channel][3][3]` into panels; see [`Winograd::weights`].
fn pack(g: &Geometry, lanes: usize, weights: &[f32], scale: &[f32]) -> Result<Floats> {
    let (blocks, channels) = (g.outputs.div_ceil(lanes), g.channels.next_multiple_of(lanes));
    let mut packed = Floats::zeros(packed_elements(g, lanes))?;
    for block in 0..blocks {
        for channel in 0..g.channels {
            let mut window = [[[0.0; WIDEST]; 3]; 3];
            for (lane, filter) in (block * lanes..g.outputs).take(lanes).enumerate() {
                let scale = scale.get(filter).copied().unwrap_or(1.0);
                let source = &weights[(filter * g.channels + channel) * 9..][..9];
                for (tap, weight) in source.iter().enumerate() {
                    window[tap / 3][tap % 3][lane] = weight * scale;
                }
            }
            let [zero, one, two] = window.map(weighted);
            for (y, ((zero, one), two)) in zero.into_iter().zip(one).zip(two).enumerate() {
                for (x, vector) in weighted([zero, one, two]).iter().enumerate() {
                    // Columns were transformed first, so positions come transposed.
                    let panel = ((x * IN + y) * blocks + block) * channels + channel;
                    packed[panel * lanes..][..lanes].copy_from_slice(&vector[..lanes]);
                }
            }
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use hetero_hal::DeviceId;
    use hetero_kit::Weights;
    use hetero_testkit::SplitMix64;

    use super::*;
    use crate::kernels::Constant;

    /// Checks one tile against the definition in f64, which shows that the matrices are right.
    #[test]
    fn error_is_small() {
        let mut numbers = SplitMix64::new(1);
        let mut random = || numbers.signed_unit();
        let mut worst = 0f32;
        let weights = Weights::new(DeviceId::new("cpu", 0));
        let account = crate::memory::Account::unlimited();
        for _ in 0..200 {
            let d: Vec<f32> = (0..36).map(|_| random()).collect();
            let g: Vec<f32> = (0..9).map(|_| random()).collect();
            let geometry = Geometry {
                batch: 1,
                channels: 1,
                outputs: 1,
                groups: 1,
                input: [6, 6],
                kernel: [3, 3],
                strides: [1, 1],
                dilations: [1, 1],
                begin: [0, 0],
                output: [4, 4],
            };
            for isa in Isa::available() {
                let lanes = isa.lanes();
                let finish = Finish {
                    scale: vec![],
                    bias: vec![0.0],
                    addend: false,
                    clamp: (f32::NEG_INFINITY, f32::INFINITY),
                    activation: None,
                };
                let content = Tensor::from_vec(&[1, 1, 3, 3], g.clone()).unwrap();
                let constant = Constant { name: "w".into(), content };
                let filters = Filters {
                    weights: crate::saved::Packer { weights: &weights, saved: None, account: &account },
                    constant: &constant,
                };
                let kernel = Winograd::new(isa, geometry, Halo::NONE, Halo::NONE, filters, finish).unwrap();
                let packed = kernel.weights.packed.value().unwrap();
                let mut input = vec![0.0; 36 * lanes];
                input.iter_mut().step_by(lanes).zip(&d).for_each(|(into, d)| *into = *d);
                let mut transformed = vec![0.0; PLACES * lanes];
                let mut sums = vec![0.0; PLACES * lanes];
                let mut output = vec![0.0f32; 16 * lanes];
                let division = kernel.division(1);
                // SAFETY: this is one tile of one block, and each list is as large as that needs.
                unsafe {
                    isa.run(Before {
                        from: input.as_ptr(),
                        row: 6 * lanes,
                        lines: 6,
                        columns: 6,
                        into: transformed.as_mut_ptr(),
                        tiles: 1,
                        tile: lanes,
                        place: lanes,
                    });
                    let out = (Shared::new(&mut output), None);
                    let weights = kernel.weights.at(&packed);
                    let operands = (input.as_ptr(), transformed.as_ptr(), [0.0].as_ptr(), weights);
                    kernel.task(operands, sums.as_mut_ptr(), out, (0, division), 0..1, 0..1);
                }
                for (pixel, value) in output.iter().step_by(lanes).enumerate() {
                    let (y, x) = (pixel / 4, pixel % 4);
                    let taps = (0..9).map(|t| f64::from(d[(y + t / 3) * 6 + x + t % 3]) * f64::from(g[t]));
                    worst = worst.max((f64::from(*value) - taps.sum::<f64>()).abs() as f32);
                }
            }
        }
        // The sums are of nine products of numbers up to 1, so the limit is some units in the last
        // place of 9.
        assert!(worst < 1e-5, "{worst:e}");
        assert!(worst > 0.0);
    }
}
