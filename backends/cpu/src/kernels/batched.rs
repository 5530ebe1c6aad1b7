//! Many matrix products of one size on f32, whose matrices lie at any places and strides.
//!
//! In contrast to a single product ([`super::matmul`]), whose packed pieces all threads share, each
//! task packs what it needs for itself, so that a stack of small products is one parallel region.

use hetero_hal::Result;

use super::tile::{self, Bias, Panel, Tile, piece};
use super::{Kernel, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The depth that is multiplied in one go, as in [`super::matmul`].
const DEPTH: usize = 256;

/// The space behind each packed row, so that rows do not fall into the same lines of the cache.
const SKEW: usize = 16;

/// The most rows and columns of a task: its packed pieces stay in the second cache.
const ROWS: usize = 168;
const COLUMNS: usize = 256;

/// The most rows of a product whose right matrix its tasks pack for themselves, each once.
pub(super) const SMALL: usize = 2 * ROWS;

/// The number of rows from which on packing the right matrix pays.
const PACK_FROM: usize = 24;

/// The sizes and strides of the products; the columns of the results are contiguous.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// The strides of the left matrix by row and by column, in elements.
    pub(super) a: (usize, usize),
    /// The strides of the right matrix by row and by column, in elements.
    pub(super) b: (usize, usize),
    /// The stride of the result by row.
    pub(super) row: usize,
}

/// The products of input 0 with input 1.
pub(super) struct Batched {
    isa: Isa,
    sizes: Sizes,
    /// The first elements of each product's left matrix, right matrix and result.
    places: Vec<[usize; 3]>,
    /// The least numbers of elements of the operands and of the result.
    least: [usize; 3],
}

impl Batched {
    pub(super) fn new(isa: Isa, sizes: Sizes, places: Vec<[usize; 3]>) -> Self {
        let Sizes { m, n, k, a, b, row } = sizes;
        let reach = |rows: usize, columns: usize, strides: (usize, usize)| {
            if rows * columns == 0 { 0 } else { (rows - 1) * strides.0 + (columns - 1) * strides.1 + 1 }
        };
        let own = [reach(m, k, a), reach(k, n, b), reach(m, n, (row, 1))];
        let mut least = [0; 3];
        for place in &places {
            for ((least, own), at) in least.iter_mut().zip(own).zip(place) {
                *least = if own == 0 { *least } else { (*least).max(at + own) };
            }
        }
        Batched { isa, sizes, places, least }
    }

    fn packs(&self) -> bool {
        self.sizes.b.1 != 1 || self.sizes.m >= PACK_FROM
    }

    fn packs_left(&self) -> bool {
        self.sizes.a.1 != 1 || (self.sizes.k > DEPTH && self.sizes.m >= self.isa.rows())
    }

    /// Returns the most rows and columns of a task, the latter in whole panels.
    fn most(&self) -> (usize, usize) {
        let Sizes { m, n, .. } = self.sizes;
        (m.min(ROWS), n.next_multiple_of(self.isa.lanes()).min(COLUMNS))
    }

    /// Returns the elements of a thread's packed rows of the left matrix and of the right one.
    fn spaces(&self) -> [usize; 2] {
        let (rows, columns) = self.most();
        let depth = self.sizes.k.min(DEPTH);
        [if self.packs_left() { rows * (depth + SKEW) } else { 0 }, if self.packs() { columns * depth } else { 0 }]
    }

    /// Does the part of one product with these rows and panels of columns.
    fn part(
        &self,
        (left, right, into): (&[f32], &[f32], Shared),
        place: [usize; 3],
        rows: std::ops::Range<usize>,
        panels: std::ops::Range<usize>,
        room: &mut [f32],
    ) {
        let Sizes { n, k, a, b, row, .. } = self.sizes;
        let lanes = self.isa.lanes();
        let [left_space, _] = self.spaces();
        let (packed_left, packed_right) = room.split_at_mut(left_space);
        let step = if self.packs() || self.packs_left() { DEPTH } else { k.max(1) };
        let tiles = tile::tiles(rows.len(), self.isa.rows());
        let widest = tile::vectors(self.isa, rows.len().div_ceil(tiles.max(1)));
        for start in (0..k.max(1)).step_by(step) {
            let depth = start..(start + step).min(k);
            let line = depth.len() + SKEW;
            if self.packs_left() {
                for (number, into) in rows.clone().zip(packed_left.chunks_exact_mut(line)) {
                    let from = place[0] + number * a.0 + depth.start * a.1;
                    if a.1 == 1 {
                        into[..depth.len()].copy_from_slice(&left[from..from + depth.len()]);
                    } else {
                        into[..depth.len()]
                            .iter_mut()
                            .enumerate()
                            .for_each(|(index, value)| *value = left[from + index * a.1]);
                    }
                }
            }
            if self.packs() {
                for (number, panel) in panels.clone().zip(packed_right.chunks_exact_mut((depth.len() * lanes).max(1))) {
                    pack(&right[place[1]..], (depth.clone(), number * lanes..n), b, lanes, panel);
                }
            }
            let mut panel = panels.start;
            while panel < panels.end {
                let left_over = panels.end - panel;
                let vectors = if left_over >= 4 && widest == 4 { 4 } else { left_over.min(2) };
                let columns = n - panel * lanes;
                for number in 0..tiles {
                    let own = piece(rows.len(), tiles, number);
                    // SAFETY: `run` has checked that the operands have all that the sizes name; the
                    // results are this task's.
                    unsafe {
                        let (x, x_row, x_k) = if self.packs_left() {
                            (packed_left.as_ptr().add(own.start * line), line, 1)
                        } else {
                            let at = place[0] + (rows.start + own.start) * a.0 + depth.start * a.1;
                            (left.as_ptr().add(at), a.0, a.1)
                        };
                        let (w, w_k, w_vector) = if self.packs() {
                            let at = (panel - panels.start) * depth.len() * lanes;
                            (packed_right.as_ptr().add(at), lanes, depth.len() * lanes)
                        } else {
                            (right.as_ptr().add(place[1] + depth.start * b.0 + panel * lanes), b.0, lanes)
                        };
                        let out = into.at(place[2] + (rows.start + own.start) * row + panel * lanes);
                        let tile = Tile {
                            x,
                            x_row,
                            x_k,
                            taps: &[0],
                            run: depth.len(),
                            w: Panel::Floats(w),
                            w_k,
                            w_vector,
                            out,
                            out_row: row,
                            out_vector: lanes,
                            bias: Bias::None,
                            addend: (start > 0).then_some(out.cast_const()),
                            clamp: (f32::NEG_INFINITY, f32::INFINITY),
                            last: (columns - (vectors - 1) * lanes).min(lanes),
                        };
                        tile::compute(self.isa, vectors, own.len(), tile);
                    }
                }
                panel += vectors;
            }
        }
    }
}

/// Packs a panel: a vector for each row, with 0 behind the last column.
fn pack(
    matrix: &[f32],
    (rows, columns): (std::ops::Range<usize>, std::ops::Range<usize>),
    strides: (usize, usize),
    lanes: usize,
    panel: &mut [f32],
) {
    let columns = columns.start..columns.end.min(columns.start + lanes);
    if columns.len() < lanes {
        panel.fill(0.0);
    }
    if strides.1 == 1 {
        for (row, into) in rows.zip(panel.chunks_exact_mut(lanes)) {
            let from = row * strides.0 + columns.start;
            into[..columns.len()].copy_from_slice(&matrix[from..from + columns.len()]);
        }
        return;
    }
    // Columns are read one by one, as these are often contiguous here.
    for (lane, column) in columns.enumerate() {
        let from = rows.start * strides.0 + column * strides.1;
        for (index, into) in panel.iter_mut().skip(lane).step_by(lanes).take(rows.len()).enumerate() {
            *into = matrix[from + index * strides.0];
        }
    }
}

impl Kernel for Batched {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Sizes { m, n, k, .. } = self.sizes;
        let (left, right) = (arguments.input::<f32>(0)?, arguments.input::<f32>(1)?);
        let output = arguments.output::<f32>(0)?;
        let rooms = arguments.workspace::<f32>()?;
        // Kernels are made for checked shapes; a mistake here must not become a wild write.
        let least = [left.len(), right.len(), output.len()].iter().zip(self.least).all(|(len, least)| *len >= least);
        let space: usize = self.spaces().iter().sum();
        assert!(least && rooms.len() >= space * runtime.pool.threads(), "operands are smaller than their sizes");
        if m * n * self.places.len() == 0 {
            return Ok(());
        }
        let (into, rooms) = (Shared::new(output), Shared::new(rooms));
        let (rows, columns) = self.most();
        let panels = n.div_ceil(self.isa.lanes());
        let shares = panels.div_ceil(columns / self.isa.lanes());
        // Few products are divided further, so that all threads have some.
        let wanted = (runtime.pool.threads() * 4).div_ceil(self.places.len() * shares);
        let blocks = m.div_ceil(rows).max(wanted.min(m.div_ceil(4 * self.isa.rows())));
        let tasks = self.places.len() * blocks * shares;
        let pieces = runtime.pieces(tasks, m.div_ceil(blocks) * n.div_ceil(shares) * k.div_ceil(self.isa.lanes()));
        runtime.for_each(pieces, |number, thread| {
            // SAFETY: each thread has a room of its own.
            let room = unsafe { rooms.slice(thread * space, space) };
            for task in piece(tasks, pieces, number) {
                let (product, part) = (task / (blocks * shares), task % (blocks * shares));
                let (rows, panels) = (piece(m, blocks, part % blocks), piece(panels, shares, part / blocks));
                self.part((left, right, into), self.places[product], rows, panels, room);
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        self.spaces().iter().sum::<usize>() * threads * size_of::<f32>()
    }
}
