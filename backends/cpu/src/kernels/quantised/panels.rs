//! The right operand of products of bytes, packed into panels that the microkernel reads in one
//! stream.
//!
//! A panel is of as many columns as a vector has lanes.
//! It begins with each column's sum, an i32, by which zero points of the left operand are taken
//! into account.
//! Then follow groups of four bytes along the depth: for each group, four bytes of each column.
//! The depth is of one or more runs (a matrix has one, a convolution one for each position of its
//! window), and each of them is filled with zeros to whole groups.

use std::ops::Range;

use crate::simd::WIDEST;
use crate::simd::dot::{Dot, DotJob, Dots, GROUP};

/// The sizes of packed panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    /// The columns of a panel.
    pub(crate) lanes: usize,
    pub(crate) columns: usize,
    /// The runs of the depth, and the length of each.
    pub(crate) runs: usize,
    pub(crate) run: usize,
}

impl Panels {
    pub(crate) fn new(dots: Dots, columns: usize, runs: usize, run: usize) -> Self {
        Panels { lanes: dots.lanes(), columns, runs, run }
    }

    pub(crate) fn count(&self) -> usize {
        self.columns.div_ceil(self.lanes)
    }

    /// Returns the bytes of a panel's column sums, behind which its groups begin.
    pub(crate) fn head(&self) -> usize {
        self.lanes * size_of::<i32>()
    }

    /// Returns the bytes between a panel and the next, a multiple of an i32's.
    pub(crate) fn stride(&self) -> usize {
        self.head() + self.runs * self.run.div_ceil(GROUP) * GROUP * self.lanes
    }

    /// Returns the bytes of all panels, or `None` where no memory has as many.
    pub(crate) fn bytes(&self) -> Option<usize> {
        let run = self.run.checked_next_multiple_of(GROUP)?;
        let panel = self.runs.checked_mul(run)?.checked_mul(self.lanes)?.checked_add(self.head())?;
        self.count().checked_mul(panel).filter(|&bytes| bytes <= isize::MAX as usize)
    }

    /// Returns the columns of a panel.
    pub(crate) fn columns_of(&self, panel: usize) -> Range<usize> {
        panel * self.lanes..((panel + 1) * self.lanes).min(self.columns)
    }

    /// Packs one panel; `at` returns the byte at a run, a position in the run and a column.
    #[inline(always)]
    pub(crate) fn pack(&self, panel: usize, into: &mut [i8], at: impl Fn(usize, usize, usize) -> i8) {
        let columns = self.columns_of(panel);
        let mut totals = [0i32; WIDEST];
        let (head, groups) = into.split_at_mut(self.head());
        let mut groups = groups.chunks_exact_mut(GROUP * self.lanes);
        for run in 0..self.runs {
            for start in (0..self.run).step_by(GROUP) {
                let Some(group) = groups.next() else { return };
                for (lane, bytes) in group.chunks_exact_mut(GROUP).enumerate() {
                    for (byte, into) in bytes.iter_mut().enumerate() {
                        let inside = lane < columns.len() && start + byte < self.run;
                        *into = if inside { at(run, start + byte, columns.start + lane) } else { 0 };
                        totals[lane] = totals[lane].wrapping_add(i32::from(*into));
                    }
                }
            }
        }
        write_sums(head, &totals);
    }

    /// Packs one panel of the matrix of one run, with these strides by row and by column.
    /// The bits of `flip` are exchanged in each byte.
    pub(crate) fn pack_matrix(
        &self,
        dots: Dots,
        panel: usize,
        into: &mut [i8],
        (matrix, strides, flip): (&[u8], (usize, usize), u8),
    ) {
        let columns = self.columns_of(panel);
        if strides.1 == 1 && columns.len() == self.lanes {
            let start = columns.start.min(matrix.len());
            // SAFETY: the job has no further conditions.
            return unsafe { dots.run(Rows { panels: self, into, matrix: &matrix[start..], row: strides.0, flip }) };
        }
        self.pack(panel, into, |_, k, column| (matrix[k * strides.0 + column * strides.1] ^ flip) as i8);
    }

    /// Returns the sums of a panel's columns.
    pub(crate) fn sums(&self, panels: &[i8], panel: usize) -> impl Iterator<Item = i32> {
        let head = &panels[panel * self.stride()..][..self.head()];
        head.as_chunks::<4>().0.iter().map(|bytes| i32::from_ne_bytes(bytes.map(|byte| byte as u8)))
    }
}

fn write_sums(head: &mut [i8], totals: &[i32; WIDEST]) {
    for (into, total) in head.chunks_exact_mut(size_of::<i32>()).zip(totals) {
        for (into, byte) in into.iter_mut().zip(total.to_ne_bytes()) {
            *into = byte as i8;
        }
    }
}

/// The packing of a whole panel from rows whose columns are contiguous.
struct Rows<'a> {
    panels: &'a Panels,
    into: &'a mut [i8],
    matrix: &'a [u8],
    row: usize,
    flip: u8,
}

impl DotJob for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<D: Dot>(self) {
        let Rows { panels, into, matrix, row, flip } = self;
        let mut totals = [0i32; WIDEST];
        let (head, groups) = into.split_at_mut(panels.head());
        for (number, group) in groups.chunks_exact_mut(GROUP * D::LANES).enumerate() {
            let mut columns = [0u32; WIDEST];
            for byte in 0..GROUP.min(panels.run - number * GROUP) {
                let from = &matrix[(number * GROUP + byte) * row..][..D::LANES];
                for ((column, total), from) in columns.iter_mut().zip(&mut totals).zip(from) {
                    let moved = from ^ flip;
                    *column |= u32::from(moved) << (8 * byte);
                    *total = total.wrapping_add(i32::from(moved as i8));
                }
            }
            for (into, column) in group.chunks_exact_mut(GROUP).zip(columns) {
                // The first byte in memory is the lowest of `column`.
                into.copy_from_slice(&column.to_le_bytes().map(|byte| byte as i8));
            }
        }
        write_sums(head, &totals);
    }
}
