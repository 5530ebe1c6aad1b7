//! Kernels on bytes whose channels lie last, besides convolutions: sums and products of two,
//! pooling, tables, concatenation, and the ways into that layout and out of it.

use hetero_hal::{Error, Result};

use super::requantise::SURE;
use crate::kernels::pooling::Taps;
use crate::kernels::tile::piece;
use crate::kernels::{Kernel, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd, WIDEST};

/// The bytes of a task of copying.
const TASK: usize = 1 << 12;

/// A scale with a zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quantum {
    pub(crate) scale: f32,
    pub(crate) zero: i32,
}

/// The steps of results: scale and zero point, and the least and the largest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) quantum: Quantum,
    pub(crate) limits: (i32, i32),
}

/// A function of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Add,
    Sub,
    Mul,
}

/// Checks that an operand has as many bytes as the recipe says.
fn check(operand: usize, bytes: usize) -> Result<()> {
    if operand < bytes { Err(Error::internal("an operand in 8 bits is too small")) } else { Ok(()) }
}

/// A function of two values of the same shape, in the steps of f32: each operand is made real, the
/// result is rounded to f32, divided by the scale and rounded to a whole number.
pub(crate) struct Pair {
    pub(crate) isa: Isa,
    pub(crate) signed: bool,
    pub(crate) function: Function,
    pub(crate) operands: [Quantum; 2],
    pub(crate) target: Target,
}

struct Pairs<'a, const SIGNED: bool> {
    pair: &'a Pair,
    a: &'a [u8],
    b: &'a [u8],
    into: &'a mut [u8],
}

impl<const SIGNED: bool> Pairs<'_, SIGNED> {
    /// Returns a vector of the steps of results, before the zero point is added.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`, and the places be valid for a vector.
    #[inline(always)]
    unsafe fn steps<S: Simd>(pair: &Pair, left: *const u8, right: *const u8) -> S::V {
        let Pair { operands: [a, b], target: Target { quantum, limits }, function, .. } = pair;
        // SAFETY: the caller's promise.
        unsafe {
            let (x, y) = (S::load_bytes::<SIGNED>(left), S::load_bytes::<SIGNED>(right));
            let x = S::mul(S::sub(x, S::splat(a.zero as f32)), S::splat(a.scale));
            let y = S::mul(S::sub(y, S::splat(b.zero as f32)), S::splat(b.scale));
            let result = match function {
                Function::Add => S::add(x, y),
                Function::Sub => S::sub(x, y),
                Function::Mul => S::mul(x, y),
            };
            let (low, high) = (S::splat((limits.0 - quantum.zero) as f32), S::splat((limits.1 - quantum.zero) as f32));
            let steps = S::min(high, S::max(low, S::mul(result, S::splat(1.0 / quantum.scale))));
            let whole = S::round(steps);
            let off = S::sub(steps, whole);
            if S::any_lt(S::splat(SURE), S::max(off, S::sub(S::splat(0.0), off))) {
                return S::round(S::min(high, S::max(low, S::div(result, S::splat(quantum.scale)))));
            }
            whole
        }
    }
}

impl<const SIGNED: bool> Job for Pairs<'_, SIGNED> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Pairs { pair, a: left, b: right, into } = self;
        let count = into.len();
        let whole = count / S::LANES * S::LANES;
        // SAFETY: whole vectors lie in the operands, and the rest is copied to whole vectors.
        unsafe {
            let zero = S::splat(pair.target.quantum.zero as f32);
            for at in (0..whole).step_by(S::LANES) {
                let steps = Self::steps::<S>(pair, left.as_ptr().add(at), right.as_ptr().add(at));
                S::store_bytes(into.as_mut_ptr().add(at), S::LANES, S::add(steps, zero));
            }
            if whole < count {
                let (mut x, mut y) = ([0; WIDEST], [0; WIDEST]);
                x[..count - whole].copy_from_slice(&left[whole..]);
                y[..count - whole].copy_from_slice(&right[whole..]);
                let steps = Self::steps::<S>(pair, x.as_ptr(), y.as_ptr());
                S::store_bytes(into.as_mut_ptr().add(whole), count - whole, S::add(steps, zero));
            }
        }
    }
}

impl Kernel for Pair {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (a, b) = (arguments.shared_input::<u8>(0)?, arguments.shared_input::<u8>(1)?);
        let lengths = (arguments.input::<u8>(0)?.len(), arguments.input::<u8>(1)?.len());
        let output = arguments.output::<u8>(0)?;
        let count = output.len();
        check(lengths.0.min(lengths.1), count)?;
        let output = Shared::new(output);
        let pieces = runtime.pieces(count.div_ceil(TASK), TASK);
        runtime.for_each(pieces, |number, _| {
            let part = piece(count, pieces, number);
            // SAFETY: each part is one task's, and all operands are as long.
            unsafe {
                let (a, b) = (a.slice(part.start, part.len()), b.slice(part.start, part.len()));
                let into = output.slice(part.start, part.len());
                if self.signed {
                    self.isa.run(Pairs::<true> { pair: self, a, b, into });
                } else {
                    self.isa.run(Pairs::<false> { pair: self, a, b, into });
                }
            }
        });
        Ok(())
    }
}

/// A byte for each byte.
pub(crate) struct Table(pub(crate) Box<[u8; 256]>);

impl Table {
    /// Applies the table to bytes.
    fn apply(&self, from: &[u8], into: &mut [u8]) {
        into.iter_mut().zip(from).for_each(|(into, from)| *into = self.0[usize::from(*from)]);
    }
}

/// Rows of bytes one behind the other, each of which is copied or goes through a table: what a
/// function of one operand is, and a concatenation along the channels.
pub(crate) struct Parts {
    /// The number of pixels.
    pub(crate) rows: usize,
    /// For each input, the bytes of a pixel, and the table.
    pub(crate) inputs: Vec<(usize, Option<Table>)>,
}

impl Kernel for Parts {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let row: usize = self.inputs.iter().map(|input| input.0).sum();
        let output = arguments.output::<u8>(0)?;
        check(output.len(), self.rows * row)?;
        let output = Shared::new(output);
        let pieces = runtime.pieces(self.rows, row.max(1));
        let mut before = 0;
        for (index, (bytes, table)) in self.inputs.iter().enumerate() {
            let input = arguments.input::<u8>(index)?;
            check(input.len(), self.rows * bytes)?;
            runtime.for_each(pieces, |number, _| {
                for line in piece(self.rows, pieces, number) {
                    let from = &input[line * bytes..][..*bytes];
                    // SAFETY: each row is one task's.
                    let into = unsafe { output.slice(line * row + before, *bytes) };
                    match table {
                        Some(table) => table.apply(from, into),
                        None => into.copy_from_slice(from),
                    }
                }
            });
            before += bytes;
        }
        Ok(())
    }
}

/// A pooling: for each output along rows and columns, its taps on the input, and by how many
/// elements a sum is divided.
pub(crate) struct Pool {
    pub(crate) isa: Isa,
    pub(crate) signed: bool,
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) input: [usize; 2],
    pub(crate) taps: [Taps; 2],
    pub(crate) kind: Pooling,
}

pub(crate) enum Pooling {
    /// The largest, and a table of what becomes of it.
    Max(Option<Table>),
    /// The average; the input's scale and zero point, the result's, and whether padding counts.
    Average(Quantum, Target, bool),
}

/// The channels that are summed side by side.
const CHANNELS: usize = 64;

/// A pixel of a pooling.
struct Window<'a, const SIGNED: bool> {
    pool: &'a Pool,
    image: &'a [u8],
    into: &'a mut [u8],
    at: (usize, usize),
}

impl<const SIGNED: bool> Job for Window<'_, SIGNED> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Window { pool, image, into, at: (y, x) } = self;
        let (rows, columns) = (&pool.taps[0][y], &pool.taps[1][x]);
        let channels = pool.channels;
        let taps =
            || rows.0.iter().flat_map(|&row| columns.0.iter().map(move |&x| (row * pool.input[1] + x) * channels));
        match &pool.kind {
            Pooling::Max(table) => {
                into.fill(if SIGNED { i8::MIN as u8 } else { 0 });
                for tap in taps() {
                    for (into, from) in into.iter_mut().zip(&image[tap..tap + channels]) {
                        *into = if SIGNED { (*into as i8).max(*from as i8) as u8 } else { (*into).max(*from) };
                    }
                }
                if let Some(table) = table {
                    into.iter_mut().for_each(|byte| *byte = table.0[usize::from(*byte)]);
                }
            }
            Pooling::Average(from, target, with_padding) => {
                let inside = rows.0.len() * columns.0.len();
                let count = if *with_padding { rows.1 * columns.1 } else { inside };
                let less = inside as i32 * from.zero;
                let divisor = f64::from(target.quantum.scale) * count.max(1) as f64;
                let scale = (f64::from(from.scale) / divisor) as f32;
                let (zero, (low, high)) = (target.quantum.zero, target.limits);
                let (least, most) = ((low - zero) as f32, (high - zero) as f32);
                for (block, into) in into.chunks_mut(CHANNELS).enumerate() {
                    let mut sums = [0i32; CHANNELS];
                    for tap in taps() {
                        let from = &image[tap + block * CHANNELS..][..into.len()];
                        for (sum, byte) in sums.iter_mut().zip(from) {
                            *sum += if SIGNED { i32::from(*byte as i8) } else { i32::from(*byte) };
                        }
                    }
                    let mut sure = true;
                    for (into, sum) in into.iter_mut().zip(&sums) {
                        let y = ((sum - less) as f32 * scale).max(least).min(most);
                        let whole = y.round_ties_even();
                        sure &= (y - whole).abs() < SURE;
                        *into = (whole as i32 + zero) as u8;
                    }
                    if !sure {
                        for (into, sum) in into.iter_mut().zip(&sums) {
                            let y = f64::from(sum - less) * f64::from(from.scale) / divisor;
                            let y = y.round_ties_even().max(f64::from(least)).min(f64::from(most));
                            *into = (y as i32 + zero) as u8;
                        }
                    }
                }
            }
        }
    }
}

impl Kernel for Pool {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (input, output) = (arguments.input::<u8>(0)?, arguments.output::<u8>(0)?);
        let (height, width) = (self.taps[0].len(), self.taps[1].len());
        let image = self.input[0] * self.input[1] * self.channels;
        let pixels = self.batch * height * width;
        check(input.len(), self.batch * image)?;
        check(output.len(), pixels * self.channels)?;
        let output = Shared::new(output);
        let first = |axis: usize| self.taps[axis].first().map_or(0, |taps| taps.0.len());
        let pieces = runtime.pieces(pixels, (self.channels * first(0) * first(1)).div_ceil(16));
        runtime.for_each(pieces, |number, _| {
            for pixel in piece(pixels, pieces, number) {
                let (item, at) = (pixel / (height * width), pixel % (height * width));
                let (image, at) = (&input[item * image..][..image], (at / width, at % width));
                // SAFETY: each pixel is one task's, and the jobs have no conditions.
                unsafe {
                    let into = output.slice(pixel * self.channels, self.channels);
                    if self.signed {
                        self.isa.run(Window::<true> { pool: self, image, into, at });
                    } else {
                        self.isa.run(Window::<false> { pool: self, image, into, at });
                    }
                }
            }
        });
        Ok(())
    }
}

/// A choice of pixels: what a resizing to the nearest pixel is.
pub(crate) struct Pixels {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) input: [usize; 2],
    /// The input's row of each row, and the same of columns.
    pub(crate) sources: [Vec<usize>; 2],
    pub(crate) table: Option<Table>,
}

impl Kernel for Pixels {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (input, output) = (arguments.input::<u8>(0)?, arguments.output::<u8>(0)?);
        let (image, channels) = (self.input[0] * self.input[1] * self.channels, self.channels);
        let (height, width) = (self.sources[0].len(), self.sources[1].len());
        let rows = self.batch * height;
        check(input.len(), self.batch * image)?;
        check(output.len(), rows * width * channels)?;
        let output = Shared::new(output);
        let pieces = runtime.pieces(rows, width * channels);
        runtime.for_each(pieces, |number, _| {
            for line in piece(rows, pieces, number) {
                let row = (line / height) * image + self.sources[0][line % height] * self.input[1] * channels;
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice(line * width * channels, width * channels) };
                for (into, column) in into.chunks_exact_mut(channels.max(1)).zip(&self.sources[1]) {
                    let from = &input[row + column * channels..][..channels];
                    match &self.table {
                        Some(table) => table.apply(from, into),
                        None => into.copy_from_slice(from),
                    }
                }
            }
        });
        Ok(())
    }
}

/// The way of bytes into the layout with channels last, in the kind that products take, and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) plane: usize,
    /// The bits that change.
    pub(crate) flip: u8,
    /// Whether the layout is the target; else it is the source.
    pub(crate) into: bool,
}

/// The side of the squares that are turned at a time.
const SQUARE: usize = 32;

/// The side of the squares that are turned in registers.
const SIDE: usize = 16;

/// Transposes a matrix of this many rows and columns, whose rows lie so far apart, and changes
/// bits.
fn transpose((from, row): (&[u8], usize), (into, line): (&mut [u8], usize), [rows, columns]: [usize; 2], flip: u8) {
    let whole = [rows / SIDE * SIDE, columns / SIDE * SIDE];
    for y in (0..whole[0]).step_by(SIDE) {
        for x in (0..whole[1]).step_by(SIDE) {
            let mut square = [[0u8; SIDE]; SIDE];
            for (number, bytes) in square.iter_mut().enumerate() {
                bytes.copy_from_slice(&from[(y + number) * row + x..][..SIDE]);
                bytes.iter_mut().for_each(|byte| *byte ^= flip);
            }
            // Four times, the upper half of the rows and the lower one are joined byte by byte.
            for _ in 0..4 {
                let before = square;
                for half in 0..SIDE / 2 {
                    let (upper, lower) = (&before[half], &before[half + SIDE / 2]);
                    for byte in 0..SIDE / 2 {
                        square[2 * half][2 * byte] = upper[byte];
                        square[2 * half][2 * byte + 1] = lower[byte];
                        square[2 * half + 1][2 * byte] = upper[byte + SIDE / 2];
                        square[2 * half + 1][2 * byte + 1] = lower[byte + SIDE / 2];
                    }
                }
            }
            for (number, bytes) in square.iter().enumerate() {
                into[(x + number) * line + y..][..SIDE].copy_from_slice(bytes);
            }
        }
    }
    // What is left on the right, and below.
    for (rows, columns) in [(0..whole[0], whole[1]..columns), (whole[0]..rows, 0..columns)] {
        for x in columns {
            for y in rows.clone() {
                into[x * line + y] = from[y * row + x] ^ flip;
            }
        }
    }
}

impl Kernel for Turn {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (input, output) = (arguments.input::<u8>(0)?, arguments.output::<u8>(0)?);
        let Turn { batch, channels, plane, flip, into } = *self;
        check(input.len().min(output.len()), batch * channels * plane)?;
        if batch * channels * plane == 0 {
            return Ok(());
        }
        let output = Shared::new(output);
        // Each item is a matrix of `rows` by `columns`, which is transposed.
        let (rows, columns) = if into { (channels, plane) } else { (plane, channels) };
        let strips = columns.div_ceil(SQUARE);
        let pieces = runtime.pieces(batch * strips, rows * SQUARE);
        runtime.for_each(pieces, |number, _| {
            for strip in piece(batch * strips, pieces, number) {
                let (item, first) = (strip / strips, strip % strips * SQUARE);
                let last = (first + SQUARE).min(columns);
                let start = item * rows * columns;
                // SAFETY: each strip of lines of the output is one task's.
                let target = unsafe { output.slice(start + first * rows, (last - first) * rows) };
                for row in (0..rows).step_by(SQUARE) {
                    let end = (row + SQUARE).min(rows);
                    let from = &input[start + row * columns + first..];
                    transpose((from, columns), (&mut target[row..], rows), [end - row, last - first], flip);
                }
            }
        });
        Ok(())
    }
}
