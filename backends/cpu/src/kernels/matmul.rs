//! Matrix products on f32.
//!
//! The right matrix is packed into panels, a vector's columns wide, so that the microkernel reads
//! it in one stream.
//! It is packed at compile time where it is constant, in pieces of [`DEPTH`] rows while running
//! where it is large, and not at all where it is small.
//! Rows of the left matrix are packed where they are long, because rows a power of two apart would
//! fight for the same lines of the cache.
//! The order of the loops is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication", 2008.

use std::sync::Arc;

use hetero_hal::{DType, Result};

use super::batched;
use super::panels::Panels;
use super::tile::{self, Bias, Panel, Tile, piece};
use super::vector::{Activation, Pairwise, Second};
use super::{Kernel, PLACES, Packed, Runtime, Site, keeps_table, products};
use crate::floats::Floats;
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The rows of the right matrix that are multiplied in one go: two panels of that many rows are 32
/// KiB of AVX-512 vectors.
const DEPTH: usize = 256;

/// The space behind each packed row, so that rows do not fall into the same lines of the cache.
const SKEW: usize = 16;

/// The rows that a task multiplies with all panels of its share: a multiple of every tile.
const ROWS: usize = 84;

/// The number of rows from which on packing the right matrix while running pays.
const PACK_FROM: usize = 24;

/// The number of products from which on tasks do whole products, where these are small.
const FEW: usize = 4;

/// The sizes and strides of a product; both operands may be transposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// The strides of the left matrix by row and by column, in elements.
    pub(super) a: (usize, usize),
    /// The strides of the right matrix by row and by column, in elements.
    pub(super) b: (usize, usize),
}

/// The right matrix.
#[derive(Clone, Copy)]
enum Right {
    /// Panels of all rows of the matrix.
    Packed(Panel),
    /// The matrix as it stands, with contiguous columns.
    Rows(Shared),
}

/// Returns the elements of a matrix's panels.
fn packed_elements(lanes: usize, rows: usize, columns: usize) -> usize {
    columns.next_multiple_of(lanes) * rows
}

/// Packs a matrix into panels: for each `lanes` columns, row after row.
fn pack(lanes: usize, matrix: &[f32], rows: usize, columns: usize, strides: (usize, usize)) -> Result<Floats> {
    let mut data = Floats::zeros(packed_elements(lanes, rows, columns))?;
    for (number, panel) in data.chunks_exact_mut((lanes * rows).max(1)).enumerate() {
        pack_panel(matrix, (0..rows, number * lanes..((number + 1) * lanes).min(columns)), strides, lanes, panel);
    }
    Ok(data)
}

/// Packs a panel's rows: each is a vector, with 0 behind the last column.
fn pack_panel(
    matrix: &[f32],
    (rows, columns): (std::ops::Range<usize>, std::ops::Range<usize>),
    strides: (usize, usize),
    lanes: usize,
    panel: &mut [f32],
) {
    for (row, into) in rows.zip(panel.chunks_exact_mut(lanes)) {
        let start = row * strides.0 + columns.start * strides.1;
        if strides.1 == 1 && columns.len() == lanes {
            into.copy_from_slice(&matrix[start..start + lanes]);
        } else {
            for (lane, value) in into.iter_mut().enumerate() {
                *value = if lane < columns.len() { matrix[start + lane * strides.1] } else { 0.0 };
            }
        }
    }
}

/// The operands that a product reads.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) left: &'a [f32],
    /// The right matrix, or its panels where the product was made with it.
    pub(super) right: &'a [f32],
    /// The bias, with one element for each column.
    pub(super) bias: Option<&'a [f32]>,
    /// Whether the product is added to the elements that the result holds.
    pub(super) keep: bool,
}

/// A product, ready to run.
/// The result is row-major with rows of `n`.
pub(super) struct Product {
    isa: Isa,
    shape: Shape,
    /// The right matrix in panels, where it is constant.
    packed: Option<Panels>,
    pub(super) clamp: (f32, f32),
}

impl Product {
    /// Makes a product whose right matrix each run gives.
    pub(super) fn new(isa: Isa, shape: Shape) -> Self {
        Product { isa, shape, packed: None, clamp: (f32::NEG_INFINITY, f32::INFINITY) }
    }

    /// Makes a product whose right matrix is the node's input `right` from element `start` on.
    /// The matrix is packed where it is constant.
    pub(super) fn of(site: Site<'_>, shape: Shape, right: usize, start: usize) -> Result<Self> {
        let Shape { n, k, b, .. } = shape;
        let lanes = site.isa.lanes();
        let layout = format_args!("panels of {lanes} columns: {k}x{n} from {start} on, strides {b:?}");
        let packed = site.packed(right, layout, packed_elements(lanes, k, n), move |matrix| {
            pack(lanes, &matrix[start..], k, n, b)
        })?;
        Ok(Product { packed, ..Product::new(site.isa, shape) })
    }

    /// Tells whether the product was made with the right matrix.
    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Returns the right matrix in panels, where the product was made with it.
    /// A run takes them once, as [`Operands::right`].
    pub(super) fn panels(&self) -> Result<Option<Arc<Floats>>> {
        self.packed.as_ref().map(|panels| panels.packed.value()).transpose()
    }

    pub(super) fn weights(&self) -> Option<&Packed> {
        self.packed.as_ref().map(|panels| &panels.packed)
    }

    /// Tells whether the right matrix is packed while running.
    fn packs(&self) -> bool {
        !self.is_packed() && (self.shape.b.1 != 1 || self.shape.m >= PACK_FROM)
    }

    /// Tells whether the left matrix's rows are packed.
    fn packs_left(&self) -> bool {
        self.shape.k > DEPTH && self.shape.m >= self.isa.rows()
    }

    /// Returns the elements of the workspace for the packed piece of the right matrix.
    fn right_space(&self) -> usize {
        let s = &self.shape;
        if self.packs() { s.n.next_multiple_of(self.isa.lanes()) * s.k.min(DEPTH) } else { 0 }
    }

    /// Returns the elements of a thread's workspace, for packed rows.
    fn left_space(&self) -> usize {
        if self.packs_left() { ROWS.min(self.shape.m) * (DEPTH + SKEW) } else { 0 }
    }

    pub(super) fn workspace(&self, threads: usize) -> usize {
        (self.right_space() + threads * self.left_space()) * size_of::<f32>()
    }

    /// Computes `into = left * right + bias`, or adds it to the elements that `into` holds.
    pub(super) fn run(
        &self,
        Operands { left, right, bias, keep }: Operands<'_>,
        into: &mut [f32],
        workspace: &mut [f32],
        runtime: &Runtime<'_>,
    ) {
        let s = self.shape;
        let holds = |rows: usize, columns: usize, (row, column): (usize, usize), len: usize| {
            rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < len
        };
        // Kernels are made for checked shapes; a mistake here must not become a wild write.
        let lanes = self.isa.lanes();
        let whole = match &self.packed {
            Some(panels) => right.len() >= Panels::words(panels.half, s.n.next_multiple_of(lanes) * s.k),
            None => holds(s.k, s.n, s.b, right.len()),
        };
        let fits = holds(s.m, s.k, s.a, left.len()) && whole;
        let room = self.workspace(runtime.pool.threads()) <= size_of_val(workspace);
        assert!(fits && room && into.len() >= s.m * s.n && bias.is_none_or(|bias| bias.len() >= s.n));
        if s.m == 0 || s.n == 0 {
            return;
        }
        let (right_space, left_space) = workspace.split_at_mut(self.right_space());
        let (packed, rows) = (Shared::new(right_space), Shared::new(left_space));
        let into = Shared::new(into);
        // The depth is divided into pieces, and is one piece where nothing is packed.
        // Without depth there is still the bias.
        let step = if self.packs() || self.packs_left() { DEPTH } else { s.k.max(1) };
        for start in (0..s.k.max(1)).step_by(step) {
            let depth = start..(start + step).min(s.k);
            let right = match &self.packed {
                Some(panels) => Right::Packed(panels.at(right)),
                None if self.packs() => {
                    let panels = s.n.div_ceil(lanes);
                    let size = depth.len() * lanes;
                    let pieces = runtime.pieces(panels, size * 2);
                    runtime.for_each(pieces, |number, _| {
                        for number in piece(panels, pieces, number) {
                            let columns = number * lanes..((number + 1) * lanes).min(s.n);
                            // SAFETY: each panel is one task's.
                            let panel = unsafe { packed.slice(number * size, size) };
                            pack_panel(right, (depth.clone(), columns), s.b, lanes, panel);
                        }
                    });
                    // SAFETY: the panels have at least no element.
                    Right::Packed(Panel::Floats(unsafe { packed.at(0) }.cast_const()))
                }
                None => Right::Rows(Shared::constant(right.as_ptr())),
            };
            let first = start == 0;
            let bias = if first { bias } else { None };
            let last = depth.end == s.k;
            self.slice(left, right, depth, bias, keep || !first, last, into, rows, runtime);
        }
    }

    /// Computes the part of the product that a part of the depth gives.
    #[allow(clippy::too_many_arguments)]
    fn slice(
        &self,
        left: &[f32],
        right: Right,
        depth: std::ops::Range<usize>,
        bias: Option<&[f32]>,
        keep: bool,
        last: bool,
        into: Shared,
        rows: Shared,
        runtime: &Runtime<'_>,
    ) {
        let (s, lanes) = (self.shape, self.isa.lanes());
        let panels = s.n.div_ceil(lanes);
        let tiles = tile::tiles(s.m, self.isa.rows());
        // Blocks of rows are divided first, and columns too where there are few blocks.
        let blocks = s.m.div_ceil(ROWS);
        let threads = runtime.pool.threads();
        let shares = if threads == 1 { 1 } else { (threads * 6).div_ceil(blocks).min(panels.div_ceil(4)) };
        let work = s.m * s.n * depth.len() / lanes;
        let (blocks, shares) = if work < 1 << 13 { (1, 1) } else { (blocks, shares) };
        runtime.for_each(blocks * shares, |number, thread| {
            let (block, share) = (number / shares, number % shares);
            let block = piece(tiles, blocks, block);
            let quads = piece(panels.div_ceil(4), shares, share);
            let panels = quads.start * 4..(quads.end * 4).min(panels);
            let tile_rows = |number: usize| piece(s.m, tiles, number);
            let block_rows =
                if block.is_empty() { 0..0 } else { tile_rows(block.start).start..tile_rows(block.end - 1).end };
            // A block that is only made smaller by dividing the work has at most the same number of
            // rows.
            let packs = self.packs_left() && block_rows.len() <= ROWS.min(s.m);
            let row = DEPTH + SKEW;
            if packs {
                for (number, line) in block_rows.clone().enumerate() {
                    // SAFETY: each thread has rows of its own.
                    let line_of = unsafe { rows.slice((thread * ROWS.min(s.m) + number) * row, depth.len()) };
                    let start = line * s.a.0 + depth.start * s.a.1;
                    if s.a.1 == 1 {
                        line_of.copy_from_slice(&left[start..start + depth.len()]);
                    } else {
                        for (index, value) in line_of.iter_mut().enumerate() {
                            *value = left[start + index * s.a.1];
                        }
                    }
                }
            }
            let mut panel = panels.start;
            while panel < panels.end {
                let widest = tile::vectors(self.isa, s.m.div_ceil(tiles));
                let left_over = panels.end - panel;
                let vectors = if left_over >= 4 && widest == 4 { 4 } else { left_over.min(2) };
                for number in block.clone() {
                    let own = tile_rows(number);
                    let at = own.start * s.n + panel * lanes;
                    // SAFETY: rows, columns and depth lie in the operands, as `run` has checked;
                    // the results are this task's.
                    unsafe {
                        let (x, x_row, x_k) = if packs {
                            let number = thread * ROWS.min(s.m) + own.start - block_rows.start;
                            (rows.at(number * row).cast_const(), row, 1)
                        } else {
                            (left.as_ptr().add(own.start * s.a.0 + depth.start * s.a.1), s.a.0, s.a.1)
                        };
                        let (w, w_k, w_vector) = match right {
                            Right::Packed(data) if self.is_packed() => {
                                (data.add((panel * s.k + depth.start) * lanes), lanes, s.k * lanes)
                            }
                            Right::Packed(data) => (data.add(panel * depth.len() * lanes), lanes, depth.len() * lanes),
                            Right::Rows(data) => {
                                let rows = data.at(depth.start * s.b.0 + panel * lanes).cast_const();
                                (Panel::Floats(rows), s.b.0, lanes)
                            }
                        };
                        let out = into.at(at);
                        let columns = s.n - panel * lanes;
                        let tile = Tile {
                            x,
                            x_row,
                            x_k,
                            taps: &[0],
                            run: depth.len(),
                            w,
                            w_k,
                            w_vector,
                            out,
                            out_row: s.n,
                            out_vector: lanes,
                            bias: bias.map_or(Bias::None, |bias| Bias::Vectors(bias.as_ptr().add(panel * lanes))),
                            addend: keep.then_some(out.cast_const()),
                            clamp: if last { self.clamp } else { (f32::NEG_INFINITY, f32::INFINITY) },
                            last: (columns - (vectors - 1) * lanes).min(lanes),
                        };
                        tile::compute(self.isa, vectors, own.len(), tile);
                    }
                }
                panel += vectors;
            }
        });
    }
}

pub(super) fn gemm(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let flag = |name: &str| operator.int(name).map(|flag| flag.unwrap_or(0) != 0);
    let (trans_a, trans_b) = (flag("transA")?, flag("transB")?);
    let (Some(&[a0, a1]), Some(&[b0, b1]), Some(output)) = (site.shape(0), site.shape(1), site.output(0)) else {
        return Ok(None);
    };
    let &[m, n] = output.shape.as_slice() else { return Ok(None) };
    // C is one row, one column, one number, or the whole matrix.
    let addend = match site.shape(2) {
        None => None,
        Some([] | [1] | [1, 1]) => Some((0, 0)),
        Some(&[rows, 1]) if rows == m => Some((1, 0)),
        Some(&[columns] | &[1, columns]) if columns == n => Some((0, 1)),
        Some(&[rows, columns]) if rows == m && columns == n => Some((n, 1)),
        Some(_) => return Ok(None),
    };
    if !site.all(output.dtype) {
        return Ok(None);
    }
    let shape = Shape {
        m,
        n,
        k: if trans_a { a0 } else { a1 },
        a: if trans_a { (1, a1) } else { (a1, 1) },
        b: if trans_b { (1, b1) } else { (b1, 1) },
    };
    debug_assert_eq!(if trans_b { b1 } else { b0 }, shape.k);
    if output.dtype != DType::F32 {
        let (alpha, beta) = (operator.float("alpha")?.unwrap_or(1.0), operator.float("beta")?.unwrap_or(1.0));
        return Ok(products::gemm(site, shape, products::Finish { alpha, beta, addend }));
    }
    Ok(Some(Box::new(Gemm {
        isa: site.isa,
        product: Product::of(site, shape, 1, 0)?,
        alpha: operator.float("alpha")?.unwrap_or(1.0),
        beta: operator.float("beta")?.unwrap_or(1.0),
        addend,
    })))
}

struct Gemm {
    isa: Isa,
    product: Product,
    alpha: f32,
    beta: f32,
    /// The strides of C by row and by column.
    addend: Option<(usize, usize)>,
}

impl Kernel for Gemm {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Shape { n, .. } = self.product.shape;
        let a = arguments.input::<f32>(0)?;
        let panels = self.product.panels()?;
        let b = match &panels {
            Some(panels) => &panels[..],
            None => arguments.input::<f32>(1)?,
        };
        let c = arguments.optional::<f32>(2)?;
        let into = arguments.output::<f32>(0)?;
        let workspace = arguments.workspace::<f32>()?;
        let plain = self.alpha == 1.0 && self.beta == 1.0;
        if let (true, Some((0, 1)), Some(c)) = (plain, self.addend, c) {
            let operands = Operands { left: a, right: b, bias: Some(c), keep: false };
            self.product.run(operands, into, workspace, runtime);
            return Ok(());
        }
        let operands = Operands { left: a, right: b, bias: None, keep: false };
        self.product.run(operands, into, workspace, runtime);
        if self.alpha != 1.0 {
            Activation::Affine(self.alpha, 0.0).apply(self.isa, into);
        }
        if let (Some((rows, columns)), Some(c)) = (self.addend, c) {
            for (row, line) in into.chunks_mut(n.max(1)).enumerate() {
                if columns == 0 {
                    let second = Second::One(self.beta * c[row * rows]);
                    Pairwise::Add.apply(self.isa, line, second, false);
                } else if self.beta == 1.0 {
                    Pairwise::Add.apply(self.isa, line, Second::Same(&c[row * rows..][..n]), false);
                } else {
                    line.iter_mut().zip(&c[row * rows..]).for_each(|(value, c)| *value += self.beta * c);
                }
            }
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        self.product.workspace(threads)
    }

    fn weights(&self) -> Vec<&Packed> {
        self.product.weights().into_iter().collect()
    }

    fn reads(&self, input: usize) -> bool {
        input != 1 || !self.product.is_packed()
    }
}

/// Returns for each product of a stack the numbers of its two matrices, where the stacks of both
/// operands are repeated to the result's as NumPy's `matmul` does.
pub(super) fn pairs(batch: &[usize], a: &[usize], b: &[usize]) -> Vec<(usize, usize)> {
    let place = |shape: &[usize], mut number: usize| {
        let (mut at, mut stride) = (0, 1);
        for (axis, &size) in batch.iter().enumerate().rev() {
            let own = (axis + shape.len()).checked_sub(batch.len()).map_or(1, |axis| shape[axis]);
            if own != 1 {
                at += number % size * stride;
            }
            stride *= own;
            number /= size;
        }
        at
    };
    (0..batch.iter().product()).map(|number| (place(a, number), place(b, number))).collect()
}

pub(super) fn matmul(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(a), Some(b), Some(output)) = (site.shape(0), site.shape(1), site.output(0)) else {
        return Ok(None);
    };
    if !site.all(output.dtype) || a.len() < 2 || b.len() < 2 {
        return Ok(None);
    }
    let [a_batch @ .., m, k] = a else { return Ok(None) };
    let [b_batch @ .., _, n] = b else { return Ok(None) };
    let shape = |m: usize| Shape { m, n: *n, k: *k, a: (*k, 1), b: (*n, 1) };
    // The rows of a stack times one matrix are one product.
    if b_batch.iter().all(|&size| size == 1) && a_batch.len() >= b_batch.len() {
        let rows = a_batch.iter().product::<usize>() * m;
        if output.dtype != DType::F32 {
            return Ok(products::compile(site, shape(rows), vec![(0, 0)]));
        }
        let product = Product::of(site, shape(rows), 1, 0)?;
        return Ok(Some(Box::new(MatMul { product, pairs: vec![(0, 0)] })));
    }
    let batch = &output.shape[..output.shape.len() - 2];
    if !keeps_table(batch, PLACES) {
        return Ok(None);
    }
    let pairs = pairs(batch, a_batch, b_batch);
    if output.dtype != DType::F32 {
        return Ok(products::compile(site, shape(*m), pairs));
    }
    if pairs.len() >= FEW && *m <= batched::SMALL {
        let of = |(number, &(a, b)): (usize, &(usize, usize))| [a * m * k, b * k * n, number * m * n];
        let places = pairs.iter().enumerate().map(of);
        let Shape { m, n, k, a, b } = shape(*m);
        let sizes = batched::Sizes { m, n, k, a, b, row: n };
        return Ok(Some(Box::new(batched::Batched::new(site.isa, sizes, places.collect()))));
    }
    Ok(Some(Box::new(MatMul { product: Product::new(site.isa, shape(*m)), pairs })))
}

/// Makes the product of input 0 with input 1, which fill their memory.
pub(super) fn single(isa: Isa, shape: Shape) -> Box<dyn Kernel> {
    Box::new(MatMul { product: Product::new(isa, shape), pairs: vec![(0, 0)] })
}

struct MatMul {
    product: Product,
    /// For each product, the numbers of its two matrices.
    pairs: Vec<(usize, usize)>,
}

impl Kernel for MatMul {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Shape { m, n, k, .. } = self.product.shape;
        let a = arguments.input::<f32>(0)?;
        let panels = self.product.panels()?;
        let b = if panels.is_some() { &[][..] } else { arguments.input::<f32>(1)? };
        let output = arguments.output::<f32>(0)?;
        let workspace = arguments.workspace::<f32>()?;
        if m * n == 0 {
            return Ok(());
        }
        for (into, &(first, second)) in output.chunks_mut(m * n).zip(&self.pairs) {
            let a = &a[first * m * k..][..m * k];
            let right = match &panels {
                Some(panels) => &panels[..],
                None => &b[second * k * n..][..k * n],
            };
            let operands = Operands { left: a, right, bias: None, keep: false };
            self.product.run(operands, into, workspace, runtime);
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        self.product.workspace(threads)
    }

    fn weights(&self) -> Vec<&Packed> {
        self.product.weights().into_iter().collect()
    }

    fn reads(&self, input: usize) -> bool {
        input != 1 || !self.product.is_packed()
    }
}
