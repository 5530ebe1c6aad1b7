//! Products of matrices of bytes, less their zero points.
//!
//! The right matrix is packed into [`Panels`]: where it is constant, when the kernel is made, and
//! else in each run.
//! With `x` and `w` the operands' bytes as the microkernel takes them, and `a` and `b` their zero
//! points,
//!
//! ```text
//! Σ (x - a)(w - b) = Σ x·w - a · Σ w - b · Σ (x - a)
//! ```
//!
//! so that zero points are two terms of each sum, and cost nothing where they are zero.

use std::sync::Arc;

use hetero_hal::{Error, Result, Tensor};

use super::panels::Panels;
use super::tile::{self, Finish, Real, Rows, Term, Tile};
use crate::floats::Floats;
use crate::kernels::tile::{piece, tiles};
use crate::kernels::{Constant, Packed, Runtime, Site};
use crate::operand::Shared;
use crate::simd::dot::{Dots, GROUP};

/// The bit by which signed and unsigned bytes of the same meaning differ, once the zero point is
/// moved too.
const HALF: u8 = 0x80;

/// The tiles of rows that a task multiplies with all panels of its share.
const TILES: usize = 6;

/// The bytes between rows from which on rows may fight for the same lines of the cache, where
/// the distance is a multiple of them.
const ALIASED: usize = 1 << 11;

/// The space behind rows that would.
const SKEW: usize = 64;

/// The sizes of a product, and the types of its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// The strides of the left matrix by row and by column.
    pub(crate) a: (usize, usize),
    /// The strides of the right matrix by row and by column.
    pub(crate) b: (usize, usize),
    /// Whether bytes of the left and of the right matrix are signed.
    pub(crate) signed: (bool, bool),
}

/// The operands that a product reads.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub(crate) left: &'a [u8],
    /// The right matrix; it is not read where the product was made with it.
    pub(crate) right: &'a [u8],
    /// The panels of a product that was made with them.
    pub(crate) panels: Option<&'a [f32]>,
    /// The zero points of the left matrix: none for 0, one for all rows, or one for each.
    pub(crate) left_zeros: &'a [u8],
    /// The zero points of the right matrix: none for 0, one for all columns, or one for each.
    pub(crate) right_zeros: &'a [u8],
}

/// A product, ready to run.
pub(crate) struct Product {
    pub(crate) dots: Dots,
    pub(crate) shape: Shape,
    panels: Panels,
    packed: Option<Packed>,
}

/// Returns the bytes of packed words.
fn bytes_of(words: &[f32]) -> &[i8] {
    // SAFETY: every pattern of bits is a byte, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// Returns the bytes of words, to pack into.
fn bytes_of_mut<T: hetero_hal::Element>(words: &mut [T]) -> &mut [i8] {
    // SAFETY: as above; and every pattern of bits is an element.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// Returns a byte as the number that it stands for.
fn number(byte: u8, signed: bool) -> i32 {
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

impl Product {
    /// Makes a product; `None` where its operands are larger than memory can be.
    /// The right matrix is packed where it is given, and weights are packed.
    pub(crate) fn new(site: Site<'_>, shape: Shape, right: Option<&Constant>) -> Result<Option<Self>> {
        Self::of_part(site, shape, right, 0)
    }

    /// Makes a product as [`Product::new`] does, whose right matrix begins at a byte of the
    /// constant.
    pub(crate) fn of_part(
        site: Site<'_>,
        shape: Shape,
        right: Option<&Constant>,
        start: usize,
    ) -> Result<Option<Self>> {
        let dots = Dots::best(site.isa);
        if !Self::is_possible(dots, shape) {
            return Ok(None);
        }
        let panels = Panels::new(dots, shape.n, 1, shape.k);
        let mut product = Product { dots, shape, panels, packed: None };
        let (Some(weights), Some(right)) = (site.weights, right) else { return Ok(Some(product)) };
        let layout = format!("groups of bytes in panels of {} columns: {shape:?} from {start} on", panels.lanes);
        let words = panels.bytes().unwrap_or(usize::MAX) / size_of::<f32>();
        let (flip, Shape { k, n, b, .. }) = (product.flips().1, shape);
        let make = move |sources: &[Tensor]| {
            let matrix = sources[0].bytes().get(start..).unwrap_or_default();
            if k > 0 && n > 0 && matrix.len() <= (k - 1) * b.0 + (n - 1) * b.1 {
                return Err(Error::internal("a matrix is smaller than its product says"));
            }
            let mut packed = Floats::zeros(words)?;
            for (panel, into) in bytes_of_mut(&mut packed).chunks_exact_mut(panels.stride()).enumerate() {
                panels.pack_matrix(dots, panel, into, (matrix, b, flip));
            }
            Ok(packed)
        };
        let sources = std::slice::from_ref(&right.content);
        product.packed = Some(weights.get(&right.name, sources, (&layout, words, 0), make)?);
        Ok(Some(product))
    }

    /// Tells whether memory could hold the operands.
    pub(crate) fn is_possible(dots: Dots, shape: Shape) -> bool {
        let Shape { m, n, k, a, b, .. } = shape;
        let reach = |rows: usize, (row, column): (usize, usize), columns: usize| {
            let down = rows.saturating_sub(1).checked_mul(row)?;
            down.checked_add(columns.saturating_sub(1).checked_mul(column)?)?.checked_add(1)
        };
        let copied = k.checked_add(SKEW + GROUP).and_then(|row| row.checked_mul(m));
        let panels = Panels::new(dots, n, 1, k).bytes();
        let sizes = [panels, reach(m, a, k), reach(k, b, n), copied, m.checked_mul(n)];
        sizes.iter().all(|size| size.is_some_and(|size| size <= isize::MAX as usize / 16))
    }

    /// Returns the bits that are exchanged in bytes of the left and of the right matrix, so that
    /// they are of the kind that the microkernel takes.
    fn flips(&self) -> (u8, u8) {
        let of = |differ: bool| if differ { HALF } else { 0 };
        (of(self.shape.signed.0 != self.dots.is_signed()), of(!self.shape.signed.1))
    }

    pub(crate) fn packed(&self) -> Option<&Packed> {
        self.packed.as_ref()
    }

    /// Returns the panels of the right matrix, where the product was made with it.
    /// A run takes them once, as [`Operands::panels`].
    pub(crate) fn panels(&self) -> Result<Option<Arc<Floats>>> {
        self.packed.as_ref().map(|packed| packed.value()).transpose()
    }

    /// Tells whether the rows of the left matrix are copied, and with which distance.
    fn copies(&self) -> Option<usize> {
        let Shape { m, k, a, .. } = self.shape;
        let aliased = a.0.is_multiple_of(ALIASED) && m >= self.dots.rows();
        let copies = self.flips().0 != 0 || (a.1 != 1 && k > 1) || aliased;
        let row = k.next_multiple_of(GROUP);
        copies.then(|| if row.is_multiple_of(ALIASED) { row + SKEW } else { row })
    }

    /// Returns the words of the workspace: of the copied left matrix, of panels, and of the terms.
    fn spaces(&self) -> [usize; 4] {
        let left = self.copies().map_or(0, |row| self.shape.m * row / size_of::<i32>());
        let right = if self.packed.is_some() { 0 } else { self.panels.bytes().unwrap_or(0) / size_of::<i32>() };
        [left, right, 2 * self.shape.m, self.padded()]
    }

    /// Returns the number of columns, filled up to whole vectors.
    pub(crate) fn padded(&self) -> usize {
        self.panels.count() * self.panels.lanes
    }

    /// Returns the words of a run's workspace.
    pub(crate) fn workspace(&self) -> usize {
        self.spaces().iter().sum()
    }

    /// Computes the product.
    /// `finish` returns what becomes of the sums of a tile, by its first row and column.
    ///
    /// # Safety
    /// The finish must be valid for each tile, and nobody else may access what it writes.
    pub(crate) unsafe fn run<E: Finish>(
        &self,
        operands: Operands<'_>,
        workspace: &mut [i32],
        runtime: &Runtime<'_>,
        finish: impl Fn(usize, usize) -> E + Sync,
    ) -> Result<()> {
        let Shape { m, n, k, a, b, signed } = self.shape;
        let holds = |rows: usize, columns: usize, (row, column): (usize, usize), len: usize| {
            rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < len
        };
        let counts = |zeros: &[u8], lines: usize| zeros.len() <= 1 || zeros.len() == lines;
        let right = match operands.panels {
            Some(panels) => self.packed.is_some() && size_of_val(panels) >= self.panels.bytes().unwrap_or(usize::MAX),
            None => self.packed.is_none() && holds(k, n, b, operands.right.len()),
        };
        let fits = right
            && holds(m, k, a, operands.left.len())
            && counts(operands.left_zeros, m)
            && counts(operands.right_zeros, n)
            && workspace.len() >= self.workspace();
        if !fits {
            return Err(Error::internal("an operand of a product has another size than its shape"));
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let [left_space, right_space, row_space, _] = self.spaces();
        let (copied, rest) = workspace.split_at_mut(left_space);
        let (own, rest) = rest.split_at_mut(right_space);
        let (rows, columns) = rest.split_at_mut(row_space);
        let (moved, flip) = self.flips();
        // The left matrix as the microkernel takes it, and the distance of its rows.
        let (left, row) = match self.copies() {
            None => (operands.left.as_ptr(), a.0),
            Some(row) => {
                let into = Shared::new(bytes_of_mut(copied));
                let pieces = runtime.pieces(m, k);
                runtime.for_each(pieces, |number, _| {
                    for line in piece(m, pieces, number) {
                        // SAFETY: each row is one task's.
                        let into = unsafe { into.slice(line * row, k) };
                        let from = operands.left.get(line * a.0..).unwrap_or_default();
                        if a.1 == 1 {
                            into.iter_mut().zip(from).for_each(|(into, byte)| *into = (byte ^ moved) as i8);
                        } else {
                            let from = from.iter().step_by(a.1.max(1));
                            into.iter_mut().zip(from).for_each(|(into, byte)| *into = (byte ^ moved) as i8);
                        }
                    }
                });
                (copied.as_ptr().cast::<u8>(), row)
            }
        };
        let panels = match operands.panels {
            Some(panels) => bytes_of(panels).as_ptr(),
            None => {
                let stride = self.panels.stride();
                let into = Shared::new(bytes_of_mut(own));
                let count = self.panels.count();
                let pieces = runtime.pieces(count, stride);
                runtime.for_each(pieces, |number, _| {
                    for panel in piece(count, pieces, number) {
                        // SAFETY: each panel is one task's.
                        let into = unsafe { into.slice(panel * stride, stride) };
                        self.panels.pack_matrix(self.dots, panel, into, (operands.right, b, flip));
                    }
                });
                bytes_of_mut(own).as_ptr()
            }
        };
        // The zero points as the microkernel's bytes have them.
        let (left, panels) = (Shared::constant(left), Shared::constant(panels));
        let left_zero = |index: usize| {
            let byte = operands.left_zeros.get(index).or(operands.left_zeros.first()).copied().unwrap_or(0);
            number(byte ^ moved, signed.0 != (moved != 0))
        };
        let right_zero = |index: usize| {
            let byte = operands.right_zeros.get(index).or(operands.right_zeros.first()).copied().unwrap_or(0);
            number(byte ^ flip, true)
        };
        let step = usize::from(operands.left_zeros.len() > 1);
        let (negated, sums) = rows.split_at_mut(m);
        negated.iter_mut().take(if step == 0 { 1 } else { m }).enumerate().for_each(|(row, v)| *v = -left_zero(row));
        columns.fill(0);
        columns.iter_mut().take(n).enumerate().for_each(|(column, into)| *into = right_zero(column));
        let (by_left, by_right) = (negated.iter().any(|&v| v != 0), columns.iter().any(|&v| v != 0));
        let by_left = if step == 0 { negated.first().is_some_and(|&v| v != 0) } else { by_left };
        if by_right {
            let sums = Shared::new(sums);
            let pieces = runtime.pieces(m, k);
            let is_signed = self.dots.is_signed();
            runtime.for_each(pieces, |number_of, _| {
                for line in piece(m, pieces, number_of) {
                    // SAFETY: each row is one task's, and has `k` bytes.
                    unsafe {
                        let bytes = std::slice::from_raw_parts(left.at(line * row).cast_const(), k);
                        let sum = bytes.iter().fold(0i32, |sum, &byte| sum.wrapping_add(number(byte, is_signed)));
                        let zero = left_zero(if step == 0 { 0 } else { line });
                        *sums.at(line) = zero.wrapping_mul(k as i32).wrapping_sub(sum);
                    }
                }
            });
        }
        let (negated, sums) = (Shared::constant(negated.as_ptr()), Shared::constant(sums.as_ptr()));
        let columns = Shared::constant(columns.as_ptr());
        let Panels { lanes, .. } = self.panels;
        let (stride, head) = (self.panels.stride(), self.panels.head());
        let (count, tile_count) = (self.panels.count(), tiles(m, self.dots.rows()));
        // Blocks of rows are divided first, and columns too where there are few blocks.
        let (threads, blocks) = (runtime.pool.threads(), m.div_ceil(TILES * self.dots.rows()));
        let shares = if threads == 1 { 1 } else { (threads * 6).div_ceil(blocks).min(count.div_ceil(4)) };
        let work = (m * n).saturating_mul(k.max(1)) / (lanes * GROUP);
        let (blocks, shares) = if work < 1 << 13 { (1, 1) } else { (blocks, shares) };
        let widest = tile::vectors(self.dots, m.div_ceil(tile_count));
        runtime.for_each(blocks * shares, |number, _| {
            let unit = self.dots.unit();
            let (block, share) = (number / shares, number % shares);
            let (block, quads) = (piece(tile_count, blocks, block), piece(count.div_ceil(4), shares, share));
            let mut panel = quads.start * 4;
            let end = (quads.end * 4).min(count);
            while panel < end {
                let vectors = if end - panel >= 4 && widest == 4 { 4 } else { (end - panel).min(2) };
                for number in block.clone() {
                    let own = piece(m, tile_count, number);
                    // SAFETY: rows, columns and depth lie in the operands, as was checked above;
                    // the results are this task's.
                    unsafe {
                        let at = panels.at(panel * stride).cast_const();
                        let by_row = |list: Shared<i32>, step: usize| list.at(own.start * step).cast_const();
                        let terms = [
                            Term { rows: by_row(negated, step), step, columns: at.cast(), vector: stride / 4 },
                            Term {
                                rows: by_row(sums, 1),
                                step: 1,
                                columns: columns.at(panel * lanes).cast_const(),
                                vector: lanes,
                            },
                        ];
                        let tile = Tile {
                            rows: Rows::Strided { x: left.at(own.start * row).cast_const(), row, taps: &[0] },
                            run: k,
                            runs: 1,
                            w: at.add(head),
                            w_vector: stride,
                            terms: &terms[usize::from(!by_left)..1 + usize::from(by_right)],
                        };
                        let last = (n - panel * lanes - (vectors - 1) * lanes).min(lanes);
                        let finish = finish(own.start, panel * lanes);
                        tile::compute(&unit, (own.len(), vectors), last, tile, finish);
                    }
                }
                panel += vectors;
            }
        });
        Ok(())
    }

    /// Computes the product as real numbers: `clamp(sum · scale + bias)`, row by row.
    /// `scales` and `bias` have whole vectors, [`Product::padded`] numbers.
    pub(crate) fn run_real(
        &self,
        operands: Operands<'_>,
        into: &mut [f32],
        (scales, bias): (&[f32], Option<&[f32]>),
        clamp: (f32, f32),
        workspace: &mut [i32],
        runtime: &Runtime<'_>,
    ) -> Result<()> {
        let Shape { m, n, .. } = self.shape;
        let few = |list: &[f32]| list.len() < self.padded();
        if into.len() < m * n || few(scales) || bias.is_some_and(few) {
            return Err(Error::internal("a product has less memory than it said"));
        }
        let into = Shared::new(into);
        let (scales, bias) = (Shared::constant(scales.as_ptr()), bias.map(|bias| Shared::constant(bias.as_ptr())));
        let finish = |row: usize, column: usize| {
            // SAFETY: the product's rows and columns lie in the result, and vectors of scales and
            // of the bias are whole.
            unsafe {
                Real {
                    out: into.at(row * n + column),
                    row: n,
                    vector: self.dots.lanes(),
                    row_scales: None,
                    scales: scales.at(column).cast_const(),
                    bias: bias.map(|bias| bias.at(column).cast_const()),
                    clamp,
                }
            }
        };
        // SAFETY: the result has the product's rows and columns, and each tile is one task's.
        unsafe { self.run(operands, workspace, runtime, finish) }
    }
}
