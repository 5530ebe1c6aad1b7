//! Matrix products on f32, by the crate `gemm`.

use hetero_hal::{DType, Result};
use rayon::prelude::*;

use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

/// A matrix operand: where it begins, and its strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl Matrix<'_> {
    /// Is every element of a matrix of this size inside?
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.data.len()
    }
}

/// `into = keep * into + alpha * a * b`, all threads of the current pool at work. `into` is row-major with rows of `into_stride`; `a` is m×k, `b` is k×n.
pub(super) fn multiply(
    (m, n, k): (usize, usize, usize),
    into: &mut [f32],
    into_stride: usize,
    keep: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
    alpha: f32,
) {
    if m == 0 || n == 0 {
        return;
    }
    let target = Matrix { data: into, row_stride: into_stride, column_stride: 1 };
    // Kernels are made for checked shapes; a slip here must not become a wild write.
    assert!(target.holds(m, n) && a.holds(m, k) && b.holds(k, n), "a matrix operand is too small");
    let threads = rayon::current_num_threads();
    // Below some work a second thread costs more than it does.
    let parallelism = if threads == 1 || m * n * k < 64 * 64 * 64 {
        gemm::Parallelism::None
    } else {
        gemm::Parallelism::Rayon(threads)
    };
    // SAFETY: the assertion above keeps every access of the three matrices inside their slices, and `into` is exclusive.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            into.as_mut_ptr(),
            1,
            into_stride as isize,
            keep,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

pub(super) fn gemm(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let flag = |name: &str| operator.int(name).map(|flag| flag.unwrap_or(0) != 0);
    let (trans_a, trans_b) = (flag("transA")?, flag("transB")?);
    let (Some(&[a0, a1]), Some(output)) = (site.shape(0), site.output(0)) else {
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
    if !site.all(DType::F32) {
        return Ok(None);
    }
    Ok(Some(Box::new(Gemm {
        m,
        n,
        k: if trans_a { a0 } else { a1 },
        trans_a,
        trans_b,
        alpha: operator.float("alpha")?.unwrap_or(1.0),
        beta: operator.float("beta")?.unwrap_or(1.0),
        addend,
    })))
}

struct Gemm {
    m: usize,
    n: usize,
    k: usize,
    trans_a: bool,
    trans_b: bool,
    alpha: f32,
    beta: f32,
    /// Strides of C by row and column.
    addend: Option<(usize, usize)>,
}

impl Kernel for Gemm {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let (m, n, k) = (self.m, self.n, self.k);
        let strided = |data, rows: usize, columns: usize, transposed: bool| {
            let (row_stride, column_stride) = if transposed { (1, rows) } else { (columns, 1) };
            Matrix { data, row_stride, column_stride }
        };
        let a = strided(arguments.input::<f32>(0)?, m, k, self.trans_a);
        let b = strided(arguments.input::<f32>(1)?, k, n, self.trans_b);
        let c = arguments.optional::<f32>(2)?;
        let into = arguments.output::<f32>(0)?;
        if let (Some((rows, columns)), Some(c)) = (self.addend, c) {
            for (row, line) in into.chunks_mut(n.max(1)).enumerate() {
                for (column, value) in line.iter_mut().enumerate() {
                    *value = self.beta * c[row * rows + column * columns];
                }
            }
        }
        multiply((m, n, k), into, n, self.addend.is_some(), a, b, self.alpha);
        Ok(())
    }
}

pub(super) fn matmul(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(a), Some(b), Some(output)) = (site.shape(0), site.shape(1), site.output(0)) else {
        return Ok(None);
    };
    if !site.all(DType::F32) || a.len() < 2 || b.len() < 2 {
        return Ok(None);
    }
    let [a_batch @ .., m, k] = a else { return Ok(None) };
    let [b_batch @ .., _, n] = b else { return Ok(None) };
    // Rows of a stack times one matrix are one product.
    if b_batch.iter().all(|&size| size == 1) && a_batch.len() >= b_batch.len() {
        let rows = a_batch.iter().product::<usize>() * m;
        return Ok(Some(Box::new(MatMul { m: rows, n: *n, k: *k, pairs: vec![(0, 0)] })));
    }
    let batch = &output.shape[..output.shape.len() - 2];
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
    let count: usize = batch.iter().product();
    let pairs = (0..count).map(|number| (place(a_batch, number), place(b_batch, number))).collect();
    Ok(Some(Box::new(MatMul { m: *m, n: *n, k: *k, pairs })))
}

struct MatMul {
    m: usize,
    n: usize,
    k: usize,
    /// For each product, the numbers of its two matrices.
    pairs: Vec<(usize, usize)>,
}

impl Kernel for MatMul {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let (m, n, k) = (self.m, self.n, self.k);
        let (a, b) = (arguments.input::<f32>(0)?, arguments.input::<f32>(1)?);
        let output = arguments.output::<f32>(0)?;
        if m * n == 0 {
            return Ok(());
        }
        let product = |into: &mut [f32], &(first, second): &(usize, usize)| {
            let a = Matrix { data: &a[first * m * k..][..m * k], row_stride: k, column_stride: 1 };
            let b = Matrix { data: &b[second * k * n..][..k * n], row_stride: n, column_stride: 1 };
            multiply((m, n, k), into, n, false, a, b, 1.0);
        };
        if self.pairs.len() == 1 {
            product(output, &self.pairs[0]);
        } else {
            output.par_chunks_mut(m * n).zip(&self.pairs).for_each(|(into, pair)| product(into, pair));
        }
        Ok(())
    }
}
