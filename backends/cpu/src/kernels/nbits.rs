//! Products with weights of few bits, which are unpacked on the way to each sum.
//!
//! The weights stay packed in memory, as a model of them may be many times larger unpacked.
//! Sixteen weights are unpacked at a time and multiplied with up to [`ROWS`] rows of the left
//! matrix, so that the work of unpacking is shared among these rows.

use hetero_hal::{DType, Result};
use hetero_reference::Blocks;

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The weights that are unpacked at a time; blocks have a multiple of that.
const STEP: usize = 16;

/// The most rows of the left matrix that share unpacked weights.
const ROWS: usize = 8;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let blocks = Blocks::of(operator)?;
    let inputs = [0, 1, 2, 3, 4, 5].map(|index| site.input(index));
    blocks.check(operator, inputs.map(|input| input.map(|value| (value.dtype, value.shape.as_slice()))))?;
    let [Some(left), Some(_), Some(scales), zeros, order, bias] = inputs else { return Ok(None) };
    let floats = [Some(left), Some(scales), bias].into_iter().flatten().all(|value| value.dtype == DType::F32);
    let typed = zeros.is_none_or(|zeros| matches!(zeros.dtype, DType::U8 | DType::F32));
    if !floats || !typed || order.is_some() {
        return Ok(None);
    }
    let rows = left.elements() / blocks.depth;
    let packed_zeros = zeros.is_some_and(|zeros| zeros.dtype == DType::U8);
    Ok(Some(Box::new(Product { isa: site.isa, blocks, rows, packed_zeros })))
}

struct Product {
    isa: Isa,
    blocks: Blocks,
    rows: usize,
    /// Whether zero points are packed as weights are.
    packed_zeros: bool,
}

/// The zero points of a run.
#[derive(Clone, Copy)]
enum Zeros<'a> {
    All(f32),
    Packed(&'a [u8]),
    Each(&'a [f32]),
}

/// The operands of a run.
#[derive(Clone, Copy)]
struct Operands<'a> {
    blocks: Blocks,
    left: &'a [f32],
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: Zeros<'a>,
}

impl Operands<'_> {
    /// Returns the zero point of a column's block.
    #[inline(always)]
    fn zero(&self, column: usize, block: usize) -> f32 {
        let bits = self.blocks.bits;
        match self.zeros {
            Zeros::All(zero) => zero,
            Zeros::Each(zeros) => zeros[column * self.blocks.blocks() + block],
            Zeros::Packed(bytes) => {
                let at = block * bits;
                let byte = bytes[column * self.blocks.zero_bytes() + at / 8];
                f32::from(byte >> (at % 8) & (u8::MAX >> (8 - bits)))
            }
        }
    }
}

/// The elements of one column and of `R` rows from `row` on.
struct Dots<'a, const R: usize, const BITS: usize> {
    operands: Operands<'a>,
    row: usize,
    column: usize,
}

impl<const R: usize, const BITS: usize> Job for Dots<'_, R, BITS> {
    type Output = [f32; R];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [f32; R] {
        let Operands { blocks, left, codes, scales, .. } = self.operands;
        let (depth, parts) = (blocks.depth, blocks.blocks());
        let bytes = blocks.block_bytes();
        let mut result = [0.0f32; R];
        let rows: [&[f32]; R] = std::array::from_fn(|row| &left[(self.row + row) * depth..][..depth]);
        for part in 0..parts {
            let scale = scales[self.column * parts + part];
            let zero = self.operands.zero(self.column, part);
            let packed = &codes[(self.column * parts + part) * bytes..][..bytes];
            let mut sums = [[0.0f32; STEP]; R];
            for (number, packed) in packed.chunks_exact(STEP * BITS / 8).enumerate() {
                let start = part * blocks.block + number * STEP;
                if start >= depth {
                    break;
                }
                let mut weights = [0.0f32; STEP];
                for (at, weight) in weights.iter_mut().enumerate() {
                    let code = packed[at * BITS / 8] >> (at * BITS % 8) & (u8::MAX >> (8 - BITS));
                    *weight = f32::from(code) - zero;
                }
                for (row, sums) in rows.iter().zip(&mut sums) {
                    match row[start..].first_chunk::<STEP>() {
                        Some(x) => {
                            for at in 0..STEP {
                                sums[at] += x[at] * weights[at];
                            }
                        }
                        None => {
                            for (at, x) in row[start..].iter().enumerate() {
                                sums[at] += x * weights[at];
                            }
                        }
                    }
                }
            }
            for (total, sums) in result.iter_mut().zip(&sums) {
                *total += scale * sums.iter().sum::<f32>();
            }
        }
        result
    }
}

impl Product {
    /// Computes the elements of these columns and of the `R` rows from `row` on.
    fn dots<const R: usize>(&self, operands: Operands<'_>, row: usize, column: usize) -> [f32; R] {
        // SAFETY: the job has no further conditions.
        unsafe {
            match self.blocks.bits {
                2 => self.isa.run(Dots::<R, 2> { operands, row, column }),
                4 => self.isa.run(Dots::<R, 4> { operands, row, column }),
                _ => self.isa.run(Dots::<R, 8> { operands, row, column }),
            }
        }
    }
}

impl Kernel for Product {
    fn name(&self) -> &'static str {
        "nbits::Product"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (blocks, columns) = (self.blocks, self.blocks.columns);
        let zeros = match arguments.inputs.get(3).copied().flatten() {
            None => Zeros::All((1u32 << (blocks.bits - 1)) as f32),
            Some(_) if self.packed_zeros => Zeros::Packed(arguments.input(3)?),
            Some(_) => Zeros::Each(arguments.input(3)?),
        };
        let operands = Operands {
            blocks,
            left: arguments.input(0)?,
            codes: arguments.input(1)?,
            scales: arguments.input(2)?,
            zeros,
        };
        let bias = arguments.optional::<f32>(5)?;
        let output = arguments.output::<f32>(0)?;
        if output.len() != self.rows * columns {
            return Err(hetero_hal::Error::internal("a result has another size than its rows and columns"));
        }
        let into = Shared::new(output);
        let groups = self.rows.div_ceil(ROWS);
        let pieces = runtime.pieces(columns, blocks.depth.saturating_mul(ROWS.min(self.rows.max(1))));
        runtime.for_each(groups * pieces, |number, _| {
            let (group, number) = (number / pieces, number % pieces);
            let rows = group * ROWS..((group + 1) * ROWS).min(self.rows);
            for column in piece(columns, pieces, number) {
                let shift = bias.map_or(0.0, |bias| bias[column]);
                let write = |row: usize, value: f32| {
                    // SAFETY: the element lies in the output, and its group and piece are one
                    // task's.
                    unsafe { *into.at(row * columns + column) = value + shift };
                };
                let mut row = rows.start;
                while row < rows.end {
                    match rows.end - row {
                        ROWS => {
                            let values = self.dots::<ROWS>(operands, row, column);
                            values.into_iter().enumerate().for_each(|(at, value)| write(row + at, value));
                            row += ROWS;
                        }
                        2..ROWS => {
                            let values = self.dots::<2>(operands, row, column);
                            values.into_iter().enumerate().for_each(|(at, value)| write(row + at, value));
                            row += 2;
                        }
                        _ => {
                            let [value] = self.dots::<1>(operands, row, column);
                            write(row, value);
                            row += 1;
                        }
                    }
                }
            }
        });
        Ok(())
    }
}
