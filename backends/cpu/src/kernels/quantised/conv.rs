//! Convolution of bytes whose channels lie last.
//!
//! A tile is some pixels of the output by two or four vectors of filters.
//! The bytes of one tap of a pixel's window lie together, and a list has the place of each tap of
//! each pixel of the tile; taps on the padding are in a run of zero points.
//! Inputs whose channels fill no groups of four bytes are copied with zero points around them
//! first, so that a whole row of the window is one run.
//!
//! Zero points change no inner loop, because
//! `Σ (x - x₀)(w - w₀) = Σ x·w - x₀ Σ w - w₀ Σ x + Σ x₀·w₀`: sums of weights are known before a
//! run, and those of windows are the products with weights of one.

use hetero_hal::{DType, Error, Result, Tensor};

use super::panels::Panels;
use super::requantise::Steps;
use super::tile::{self, Rows, Term, Tile, Whole};
use crate::floats::Floats;
use crate::kernels::conv::Geometry;
use crate::kernels::tile::{piece, tiles};
use crate::kernels::{Constant, Kernel, Packed, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::WIDEST;
use crate::simd::dot::{Dots, GROUP, Unit};

/// The bytes of the list of places for the pixels that a task passes weights by.
const PLACES: usize = 1 << 16;

/// The most tiles of pixels that a task passes weights by.
const TILES: usize = 8;

/// The multiply-adds that make handing a task to a thread worthwhile.
const TASK: usize = 1 << 20;

/// The multiple of bytes at which each part of the workspace begins.
const ALIGNMENT: usize = 64;

/// The zero point of the input, as its bytes are moved to the kind that products take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    Known(i32),
    /// The only element of an input, whose bits are to be changed by these.
    Input(usize, u8),
}

/// The results of a convolution.
pub(crate) enum Results {
    /// Bytes with channels last: for each filter, a scale and a shift; the zero point, and the
    /// least and the largest.
    Steps(Vec<(f64, f64)>, i32, (i32, i32)),
    /// The sums, in the standard's layout.
    Sums,
    /// Real numbers in the standard's layout: for each filter, a scale and a shift.
    Real(Vec<(f64, f64)>),
    /// The same with channels last, as the rows of a matrix.
    Rows(Vec<(f64, f64)>),
    /// Real numbers in the standard's layout, in steps of f32: the sums times a scale, plus a
    /// summand for each filter, within limits.
    Scaled(Scaled),
}

/// What makes sums real numbers, where a run tells the scale.
pub(crate) struct Scaled {
    /// The input whose only element is the scale.
    pub(crate) input: usize,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) clamp: (f32, f32),
}

/// The recipe of a convolution of bytes.
pub(crate) struct Convolution {
    pub(crate) geometry: Geometry,
    pub(crate) weights: Constant,
    pub(crate) zero: Zero,
    /// The zero points of the weights: one for each filter, or one for all.
    pub(crate) w_zeros: Vec<i32>,
    pub(crate) bias: Vec<i32>,
    pub(crate) results: Results,
}

/// The form in which windows are read.
#[derive(Clone, Copy)]
enum Source {
    /// The input as it stands; pixels are the rows of a matrix.
    Matrix,
    /// Each tap of the window where it lies.
    Taps,
    /// Rows of the window in a copy of the input of this height and width.
    Copy { height: usize, width: usize },
}

/// What becomes of the sums.
enum Finish {
    Steps(Steps),
    Sums,
    /// A factor and a summand for each filter, and whether results have their channels last.
    Real(Vec<f32>, Vec<f32>, bool),
    Scaled(Scaled),
}

/// The kernel.
pub(crate) struct Conv {
    dots: Dots,
    geometry: Geometry,
    source: Source,
    panels: Panels,
    weights: Packed,
    /// The vector of ones for each byte of the depth, where windows are summed.
    ones: Vec<i8>,
    /// For each filter, whole vectors in each group: the bias, and what zero points add to it;
    /// where that of the input is not known, only the bias.
    base: Vec<i32>,
    /// The same of the weights' zero points, negated; empty where all are 0.
    w_zeros: Vec<i32>,
    zero: Zero,
    finish: Finish,
    /// The tiles that a task passes weights by.
    chunk: usize,
}

/// The offsets of the workspace's parts, in bytes.
struct Parts {
    scales: usize,
    padding: usize,
    copy: usize,
    own: usize,
    /// The bytes of one thread's own part: places, sums of windows, and a tile of results.
    each: usize,
    sums: usize,
    results: usize,
}

/// Returns the bytes that packed weights are, to be written.
fn bytes_of(packed: &mut [f32]) -> &mut [i8] {
    // SAFETY: every f32 is four bytes, of any content.
    unsafe { std::slice::from_raw_parts_mut(packed.as_mut_ptr().cast(), size_of_val(packed)) }
}

/// Returns a list of one entry for each filter, or of one for all, with whole vectors for each
/// group.
fn spread<T: Copy + Default>(list: &[T], g: &Geometry, lanes: usize) -> Vec<T> {
    let padded = g.outputs.next_multiple_of(lanes);
    let mut spread = vec![T::default(); g.groups * padded];
    for (group, into) in spread.chunks_mut(padded.max(1)).enumerate() {
        for (filter, into) in into.iter_mut().take(g.outputs).enumerate() {
            let index = if list.len() == 1 { 0 } else { group * g.outputs + filter };
            *into = list.get(index).copied().unwrap_or_default();
        }
    }
    spread
}

/// Returns the difference between bytes as a model has them and as products take them.
pub(crate) fn flip(dtype: DType, signed: bool) -> u8 {
    if (dtype == DType::I8) == signed { 0 } else { 0x80 }
}

/// Returns a number of a type of 8 bits as it is in bytes of the kind that products take.
pub(crate) fn moved(zero: i32, dtype: DType, signed: bool) -> i32 {
    match (dtype == DType::I8, signed) {
        (true, false) => zero + 128,
        (false, true) => zero - 128,
        _ => zero,
    }
}

fn source(g: &Geometry) -> Source {
    let whole = g.channels.is_multiple_of(GROUP);
    if whole && g.pointwise() {
        Source::Matrix
    } else if !whole && g.groups == 1 && g.dilations[1] == 1 {
        let reach = |axis: usize| {
            let last = g.output[axis].saturating_sub(1) * g.strides[axis];
            last + g.kernel[axis].saturating_sub(1) * g.dilations[axis] + 1
        };
        Source::Copy { height: reach(0), width: reach(1) }
    } else {
        Source::Taps
    }
}

/// Tells whether there is a kernel for a convolution of these sizes.
pub(crate) fn fits(g: &Geometry) -> bool {
    let bytes = |list: &[usize]| hetero_hal::element_count(list).is_some_and(|count| count < 1 << 40);
    let copied = match source(g) {
        Source::Copy { height, width } => bytes(&[g.batch, height, width, g.channels]),
        _ => true,
    };
    // Sums stay below 2³¹ as long as a window has fewer bytes than that.
    let depth = bytes(&[g.channels, g.kernel[0], g.kernel[1]]) && g.channels * g.taps() < 1 << 15;
    copied && depth && g.output_plane() < 1 << 31 && g.taps() > 0 && g.channels > 0
}

/// Tells whether sums that begin with such a bias stay in 32 bits, and such steps in f32.
pub(crate) fn holds(g: &Geometry, bias: &[i32], results: &Results) -> bool {
    let window = (g.channels * g.taps()) as i64 * 255 * 255;
    let whole = bias.iter().all(|bias| i64::from(*bias).abs() + window <= i64::from(i32::MAX));
    let real = |list: &[(f64, f64)]| list.iter().all(|of| [of.0, of.1].iter().all(|x| (*x as f32).is_finite()));
    whole
        && match results {
            Results::Steps(list, ..) | Results::Real(list) | Results::Rows(list) => real(list),
            Results::Sums | Results::Scaled(_) => true,
        }
}

impl Conv {
    pub(crate) fn new(site: Site<'_>, recipe: Convolution) -> Result<Self> {
        let dots = Dots::best(site.isa);
        let Convolution { geometry: g, weights, zero, w_zeros, bias, results } = recipe;
        let source = source(&g);
        let (taps, channels, width) = (g.taps(), g.channels, g.kernel[1]);
        let (runs, run, used) = match source {
            Source::Copy { .. } => (g.kernel[0], (width * channels).next_multiple_of(GROUP), width * channels),
            _ => (taps, channels, channels),
        };
        let panels = Panels::new(dots, g.outputs, runs, run);
        let bytes = panels.bytes().and_then(|bytes| bytes.checked_mul(g.groups));
        let bytes = bytes.ok_or_else(|| Error::invalid_model("the weights of a convolution overflow"))?;
        let flipped = flip(weights.content.dtype(), true);
        let rows = matches!(source, Source::Copy { .. });
        let layout = format!(
            "panels of {} columns for {dots}: {} groups of {} filters of {channels} channels by {:?} taps, rows {rows}",
            panels.lanes, g.groups, g.outputs, g.kernel
        );
        let at = move |bytes: &[u8], group: usize, run: usize, k: usize, filter: usize| {
            let (channel, tap) = if rows { (k % channels, run * width + k / channels) } else { (k, run) };
            (bytes[((group * g.outputs + filter) * channels + channel) * taps + tap] ^ flipped) as i8
        };
        let pack = move |sources: &[Tensor]| {
            let bytes = sources[0].bytes();
            let mut packed = Floats::zeros(panels.stride() * panels.count() * g.groups / size_of::<f32>())?;
            let count = panels.count().max(1);
            for (number, into) in bytes_of(&mut packed).chunks_exact_mut(panels.stride()).enumerate() {
                let (group, panel) = (number / count, number % count);
                panels.pack(panel, into, |run, k, filter| if k < used { at(bytes, group, run, k, filter) } else { 0 });
            }
            Ok(packed)
        };
        let packer = site.weights.ok_or_else(|| Error::internal("there is nowhere to pack weights"))?;
        let content = std::slice::from_ref(&weights.content);
        let packed = packer.get(&weights.name, content, (&layout, bytes / size_of::<f32>(), 0), pack)?;
        let w_zeros: Vec<i32> = w_zeros.iter().map(|&zero| moved(zero, weights.content.dtype(), true)).collect();
        let is_shifted = w_zeros.iter().any(|&zero| zero != 0);
        let negated: Vec<i32> = w_zeros.iter().map(|zero| -zero).collect();
        let w_zeros = if is_shifted { spread(&negated, &g, panels.lanes) } else { vec![] };
        let mut ones = vec![];
        if is_shifted {
            ones = vec![0i8; runs * run.next_multiple_of(GROUP) * panels.lanes];
            for (group, into) in ones.chunks_exact_mut(GROUP * panels.lanes).enumerate() {
                let per_run = run.div_ceil(GROUP);
                for (byte, into) in into.iter_mut().enumerate() {
                    *into = i8::from(group % per_run * GROUP + byte % GROUP < used);
                }
            }
        }
        let list = |of: Vec<(f64, f64)>| spread(&of, &g, panels.lanes);
        let finish = match results {
            Results::Steps(of, zero, limits) => Finish::Steps(Steps::new(list(of), zero, limits)),
            Results::Sums => Finish::Sums,
            Results::Scaled(scaled) => {
                let bias = scaled.bias.map(|bias| spread(&bias, &g, panels.lanes));
                Finish::Scaled(Scaled { bias, ..scaled })
            }
            Results::Real(ref of) | Results::Rows(ref of) => {
                let of = list(of.clone());
                let (scales, shifts) = of.iter().map(|of| (of.0 as f32, of.1 as f32)).unzip();
                Finish::Real(scales, shifts, matches!(results, Results::Rows(_)))
            }
        };
        let most = dots.rows();
        let chunk = (PLACES / (size_of::<usize>() * runs * most)).clamp(1, TILES);
        let base = spread(&bias, &g, panels.lanes);
        let mut conv =
            Conv { dots, geometry: g, source, panels, weights: packed, ones, base, w_zeros, zero, finish, chunk };
        if let Zero::Known(zero) = zero {
            let mut base = std::mem::take(&mut conv.base);
            conv.add_zeros(zero, &conv.weights.value()?, &mut base);
            conv.base = base;
        }
        Ok(conv)
    }

    /// Adds to each filter's summand what the input's zero point changes.
    fn add_zeros(&self, zero: i32, weights: &[f32], base: &mut [i32]) {
        let (panels, count) = (&self.panels, self.panels.count());
        // SAFETY: an f32 is four bytes.
        let bytes: &[i8] = unsafe { std::slice::from_raw_parts(weights.as_ptr().cast(), size_of_val(weights)) };
        let depth = (self.geometry.channels * self.geometry.taps()) as i32;
        for (panel, base) in base.chunks_exact_mut(panels.lanes).enumerate() {
            let group = &bytes[panel / count * count * panels.stride()..];
            for (lane, (base, sum)) in base.iter_mut().zip(panels.sums(group, panel % count)).enumerate() {
                // The weights' zero points are negated.
                let w_zero = self.w_zeros.get(panel * panels.lanes + lane).copied().unwrap_or(0);
                let less = sum.wrapping_add(depth.wrapping_mul(w_zero));
                *base = base.wrapping_sub(zero.wrapping_mul(less));
            }
        }
    }

    /// Returns the bytes of a pixel of the input, all groups together.
    fn pixel(&self) -> usize {
        self.geometry.groups * self.geometry.channels
    }

    fn parts(&self) -> Parts {
        let g = &self.geometry;
        let mut end = 0;
        let mut part = |bytes: usize| {
            let start = end;
            end = (end + bytes).next_multiple_of(ALIGNMENT);
            start
        };
        // The summands of filters, where the input's zero point is not known.
        part(if matches!(self.zero, Zero::Input(..)) { size_of_val(&self.base[..]) } else { 0 });
        let scales = part(match &self.finish {
            Finish::Scaled(_) => self.base.len() * size_of::<f32>(),
            _ => 0,
        });
        let padding = part(g.channels.next_multiple_of(GROUP));
        let copy = part(match self.source {
            // The last run is read in whole groups.
            Source::Copy { height, width } => g.batch * height * width * g.channels + GROUP,
            _ => 0,
        });
        let own = end;
        let pixels = self.chunk * self.dots.rows();
        let places = if matches!(self.source, Source::Matrix) { 0 } else { self.panels.runs };
        let sums = (places * pixels * size_of::<usize>()).next_multiple_of(ALIGNMENT);
        let results = (sums + pixels * size_of::<i32>()).next_multiple_of(ALIGNMENT);
        let tile = if matches!(self.finish, Finish::Steps(_)) { 0 } else { self.dots.rows() * 4 * WIDEST * 4 };
        Parts { scales, padding, copy, own, each: (results + tile).next_multiple_of(ALIGNMENT), sums, results }
    }

    /// Copies the input with zero points around it.
    fn copy(&self, input: &[u8], zero: u8, into: &mut [u8], runtime: &Runtime<'_>) {
        let Source::Copy { height, width } = self.source else { return };
        let (g, row) = (&self.geometry, width * self.geometry.channels);
        let lines = g.batch * height;
        let into = Shared::new(into);
        let pieces = runtime.pieces(lines, row.div_ceil(16));
        runtime.for_each(pieces, |number, _| {
            for line in piece(lines, pieces, number) {
                let (item, y) = (line / height, line % height);
                // SAFETY: each line is one task's.
                let target = unsafe { into.slice(line * row, row) };
                target.fill(zero);
                let before = g.begin[1] * g.channels;
                if let Some(y) = y.checked_sub(g.begin[0]).filter(|&y| y < g.input[0] && before < row) {
                    let count = (g.input[1] * g.channels).min(row - before);
                    let source = (item * g.input[0] + y) * g.input[1] * g.channels;
                    target[before..before + count].copy_from_slice(&input[source..source + count]);
                }
            }
        });
    }

    /// Writes the places of all taps of some pixels, tile by tile.
    ///
    /// # Safety
    /// `places` must have room for all taps of the pixels.
    unsafe fn find(
        &self,
        from: *const u8,
        padding: *const u8,
        pixels: std::ops::Range<usize>,
        count: usize,
        places: *mut *const u8,
    ) {
        let g = &self.geometry;
        let (mut at, runs) = (0, self.panels.runs);
        for number in 0..count {
            let tile = piece(pixels.len(), count, number);
            for (row, pixel) in (pixels.start + tile.start..pixels.start + tile.end).enumerate() {
                let (y, x) = (pixel / g.output[1] * g.strides[0], pixel % g.output[1] * g.strides[1]);
                match self.source {
                    Source::Copy { width, .. } => {
                        for run in 0..runs {
                            let place = ((y + run * g.dilations[0]) * width + x) * g.channels;
                            // SAFETY: the caller's promise.
                            unsafe { places.add(at + run * tile.len() + row).write(from.wrapping_add(place)) };
                        }
                    }
                    _ => {
                        for tap_y in 0..g.kernel[0] {
                            let line = (y + tap_y * g.dilations[0]).wrapping_sub(g.begin[0]);
                            for tap_x in 0..g.kernel[1] {
                                let column = (x + tap_x * g.dilations[1]).wrapping_sub(g.begin[1]);
                                let is_inside = line < g.input[0] && column < g.input[1];
                                let place = line.wrapping_mul(g.input[1]).wrapping_add(column);
                                let place = from.wrapping_add(place.wrapping_mul(self.pixel()));
                                let place = if is_inside { place } else { padding };
                                let tap = tap_y * g.kernel[1] + tap_x;
                                // SAFETY: the caller's promise.
                                unsafe { places.add(at + tap * tile.len() + row).write(place) };
                            }
                        }
                    }
                }
            }
            at += tile.len() * runs;
        }
    }
}

/// The operands of a run.
#[derive(Clone, Copy)]
struct Run {
    source: *const u8,
    padding: *const u8,
    weights: *const i8,
    base: *const i32,
    /// The scale of each filter, where a run tells it.
    scales: *const f32,
    out: *mut u8,
}

// SAFETY: these are addresses; a task writes only what is its own.
unsafe impl Sync for Run {}

impl Conv {
    /// Computes some blocks of filters of some pixels of a group.
    ///
    /// # Safety
    /// The operands must be as large as the geometry says, `own` a thread's part of the workspace,
    /// and the results this task's.
    unsafe fn chunk(
        &self,
        unit: &Unit,
        run: Run,
        (item, group): (usize, usize),
        pixels: std::ops::Range<usize>,
        blocks: std::ops::Range<usize>,
        own: *mut u8,
    ) {
        let (g, lanes, parts) = (&self.geometry, self.panels.lanes, self.parts());
        let count = tiles(pixels.len(), self.dots.rows());
        let (places, sums) = (own.cast::<*const u8>(), own.wrapping_add(parts.sums).cast::<i32>());
        let results = own.wrapping_add(parts.results);
        let plane = match self.source {
            Source::Copy { height, width } => height * width,
            _ => g.input_plane(),
        };
        let from = run.source.wrapping_add(item * plane * self.pixel() + group * g.channels);
        let outputs = g.groups * g.outputs;
        // SAFETY: the caller's promise.
        unsafe {
            if !matches!(self.source, Source::Matrix) {
                self.find(from, run.padding, pixels.clone(), count, places);
            }
            let tile_of = |number: usize, w: *const i8| {
                let tile = piece(pixels.len(), count, number);
                let rows = match self.source {
                    Source::Matrix => Rows::Strided {
                        x: from.wrapping_add((pixels.start + tile.start) * self.pixel()),
                        row: self.pixel(),
                        taps: &[0],
                    },
                    _ => {
                        let start = places.add(tile.start * self.panels.runs);
                        Rows::Each(std::slice::from_raw_parts(start, tile.len() * self.panels.runs))
                    }
                };
                let Panels { run, runs, .. } = self.panels;
                let tile = Tile { rows, run, runs, w, w_vector: self.panels.stride(), terms: &[] };
                (piece(pixels.len(), count, number), tile)
            };
            if !self.ones.is_empty() {
                for number in 0..count {
                    let (rows, tile) = tile_of(number, self.ones.as_ptr());
                    let finish = Whole { out: sums.add(rows.start), row: 1, vector: 0 };
                    tile::compute(unit, (rows.len(), 1), 1, tile, finish);
                }
            }
            let widest = tile::vectors(self.dots, pixels.len().div_ceil(count.max(1)));
            let mut block = blocks.start;
            while block < blocks.end {
                let left = blocks.end - block;
                let vectors = if left >= 4 && widest == 4 { 4 } else { left.min(2) };
                let last = (g.outputs - (block + vectors - 1) * lanes).min(lanes);
                let panel = group * self.panels.count() + block;
                let w = run.weights.add(panel * self.panels.stride() + self.panels.head());
                let base = Term { rows: &1, step: 0, columns: run.base.add(panel * lanes), vector: lanes };
                let zeros = self.w_zeros.get(panel * lanes..).map_or(std::ptr::null(), <[i32]>::as_ptr);
                let first = group * g.outputs + block * lanes;
                for number in 0..count {
                    let (rows, tile) = tile_of(number, w);
                    let terms = [base, Term { rows: sums.add(rows.start), step: 1, columns: zeros, vector: lanes }];
                    let terms = if self.ones.is_empty() { &terms[..1] } else { &terms[..] };
                    let tile = Tile { terms, ..tile };
                    let size = (rows.len(), vectors);
                    let pixel = pixels.start + rows.start;
                    match &self.finish {
                        Finish::Steps(steps) => {
                            let out = run.out.add((item * g.output_plane() + pixel) * outputs + first);
                            tile::compute(unit, size, last, tile, steps.from(panel * lanes, out, outputs, lanes));
                        }
                        Finish::Sums => {
                            let row = vectors * lanes;
                            let finish = Whole { out: results.cast(), row, vector: lanes };
                            tile::compute(unit, size, last, tile, finish);
                        }
                        Finish::Real(scales, shifts, joined) => {
                            let place = (item * g.output_plane() + pixel) * outputs + first;
                            let finish = tile::Real {
                                out: if *joined { run.out.cast::<f32>().add(place) } else { results.cast() },
                                row: if *joined { outputs } else { vectors * lanes },
                                vector: lanes,
                                row_scales: None,
                                scales: scales.as_ptr().add(panel * lanes),
                                bias: Some(shifts.as_ptr().add(panel * lanes)),
                                clamp: (f32::NEG_INFINITY, f32::INFINITY),
                            };
                            tile::compute(unit, size, last, tile, finish);
                        }
                        Finish::Scaled(scaled) => {
                            let finish = tile::Real {
                                out: results.cast(),
                                row: vectors * lanes,
                                vector: lanes,
                                row_scales: None,
                                scales: run.scales.add(panel * lanes),
                                bias: scaled.bias.as_ref().map(|bias| bias.as_ptr().add(panel * lanes)),
                                clamp: scaled.clamp,
                            };
                            tile::compute(unit, size, last, tile, finish);
                        }
                    }
                    if !matches!(self.finish, Finish::Steps(_) | Finish::Real(_, _, true)) {
                        let (from, out) = (results.cast::<u32>(), run.out.cast::<u32>());
                        for filter in 0..(vectors - 1) * lanes + last {
                            let into = out.add((item * outputs + first + filter) * g.output_plane() + pixel);
                            for row in 0..rows.len() {
                                into.add(row).write(from.add(row * vectors * lanes + filter).read());
                            }
                        }
                    }
                }
                block += vectors;
            }
        }
    }
}

impl Kernel for Conv {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let g = &self.geometry;
        let input = arguments.input::<u8>(0)?;
        let zero = match self.zero {
            Zero::Known(zero) => zero,
            Zero::Input(index, flip) => {
                let byte = arguments.input::<u8>(index)?.first().copied();
                let byte = byte.ok_or_else(|| Error::invalid_argument("a zero point has no element"))? ^ flip;
                if self.dots.is_signed() { i32::from(byte as i8) } else { i32::from(byte) }
            }
        };
        let weights = self.weights.value()?;
        let out = arguments.output::<u8>(0)?;
        let outputs = g.batch * g.groups * g.outputs * g.output_plane();
        let each = if matches!(self.finish, Finish::Steps(_)) { 1 } else { size_of::<f32>() };
        if outputs == 0 {
            return Ok(());
        }
        if input.len() < g.batch * g.input_plane() * self.pixel() || out.len() < outputs * each {
            return Err(Error::internal("a convolution has operands that are too small"));
        }
        let parts = self.parts();
        let workspace = arguments.workspace::<u8>()?;
        let (front, own) = workspace.split_at_mut(parts.own);
        let (front, copy) = front.split_at_mut(parts.copy);
        let (front, padding) = front.split_at_mut(parts.padding);
        let (base, scales) = front.split_at_mut(parts.scales);
        padding.fill(zero as u8);
        self.copy(input, zero as u8, copy, runtime);
        if let Finish::Scaled(scaled) = &self.finish {
            // SAFETY: the workspace is aligned, and has room for a scale of each filter.
            let scales = unsafe { std::slice::from_raw_parts_mut(scales.as_mut_ptr().cast(), self.base.len()) };
            let scale = arguments.input::<f32>(scaled.input)?.first().copied();
            scales.fill(scale.ok_or_else(|| Error::invalid_argument("a scale has no element"))?);
        }
        let base = match self.zero {
            Zero::Known(_) => self.base.as_ptr(),
            Zero::Input(..) => {
                // SAFETY: the workspace is aligned, and begins with room for this list.
                let base = unsafe { std::slice::from_raw_parts_mut(base.as_mut_ptr().cast(), self.base.len()) };
                base.copy_from_slice(&self.base);
                self.add_zeros(zero, &weights, base);
                base.as_ptr()
            }
        };
        let source = if matches!(self.source, Source::Copy { .. }) { copy.as_ptr() } else { input.as_ptr() };
        let run = Run {
            source,
            padding: padding.as_ptr(),
            weights: weights.as_ptr().cast(),
            base,
            scales: scales.as_ptr().cast(),
            out: out.as_mut_ptr(),
        };
        let own = Shared::new(own);
        let plane = g.output_plane();
        let all = tiles(plane, self.dots.rows());
        let chunks = all.div_ceil(self.chunk);
        let blocks = self.panels.count();
        let images = g.batch * g.groups;
        let cost = plane * g.outputs * g.channels * g.taps();
        // Filters are divided too, where the pixels alone give too few tasks.
        let wanted = (images.saturating_mul(cost) / TASK).clamp(1, runtime.pool.threads() * 4);
        let splits = wanted.div_ceil(images * chunks).clamp(1, blocks.div_ceil(2));
        let tasks = images * chunks * splits;
        let pieces = if images.saturating_mul(cost) < TASK / 4 { 1 } else { tasks };
        let run = &run;
        runtime.for_each(pieces, |number, thread| {
            let unit = self.dots.unit();
            for number in piece(tasks, pieces, number) {
                let (image, rest) = (number / (chunks * splits), number % (chunks * splits));
                let (chunk, split) = (rest / splits, rest % splits);
                let pixels = piece(plane, chunks, chunk);
                // Blocks are divided in pairs, as tiles are of two vectors.
                let pairs = piece(blocks.div_ceil(2), splits, split);
                let blocks = pairs.start * 2..(pairs.end * 2).min(blocks);
                let place = (image / g.groups, image % g.groups);
                // SAFETY: the operands' sizes were checked, the weights' are the packer's promise,
                // and each task has its own results.
                unsafe { self.chunk(&unit, *run, place, pixels, blocks, own.at(thread * parts.each)) };
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let parts = self.parts();
        parts.own + threads * parts.each
    }

    fn weights(&self) -> Vec<&Packed> {
        vec![&self.weights]
    }
}
