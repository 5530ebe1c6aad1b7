//! Matrix products of f64 and of integers, and softmax of f64.

use std::marker::PhantomData;

use hetero_hal::{DType, Result};

use super::lines::Lines;
use super::matmul::Shape;
use super::numbers::Number;
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The rows and columns of a tile, whose sums stay in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 16;

/// What is done with a product: `alpha * product + beta * c`, with the strides of `c`.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) addend: Option<(usize, usize)>,
}

/// Makes products of elements that are no f32; `pairs` has the numbers of each product's matrices.
pub(super) fn compile(site: Site<'_>, shape: Shape, pairs: Vec<(usize, usize)>) -> Option<Box<dyn Kernel>> {
    fn of<T: Number>(isa: Isa, shape: Shape, pairs: Vec<(usize, usize)>) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Products::<T> { isa, shape, pairs, finish: |_, sum, _| sum, gemm: None, element: PhantomData }))
    }
    match site.output(0)?.dtype {
        DType::F64 => of::<f64>(site.isa, shape, pairs),
        // Sums that wrap around do not depend on signs.
        DType::I32 | DType::U32 => of::<u32>(site.isa, shape, pairs),
        DType::I64 | DType::U64 => of::<u64>(site.isa, shape, pairs),
        _ => None,
    }
}

/// Makes a Gemm of f64.
pub(super) fn gemm(site: Site<'_>, shape: Shape, gemm: Finish) -> Option<Box<dyn Kernel>> {
    let finish = |finish: Finish, sum: f64, c: Option<f64>| {
        let product = f64::from(finish.alpha) * sum;
        c.map_or(product, |c| product + f64::from(finish.beta) * c)
    };
    let (isa, pairs, gemm, element) = (site.isa, vec![(0, 0)], Some(gemm), PhantomData);
    site.all(DType::F64).then(|| Box::new(Products { isa, shape, pairs, finish, gemm, element }) as Box<dyn Kernel>)
}

struct Products<T> {
    isa: Isa,
    shape: Shape,
    pairs: Vec<(usize, usize)>,
    finish: fn(Finish, T, Option<T>) -> T,
    gemm: Option<Finish>,
    element: PhantomData<fn(T)>,
}

/// Some rows of a product whose right matrix has rows of neighbouring elements.
struct Part<'a, T> {
    shape: Shape,
    a: &'a [T],
    b: &'a [T],
    rows: std::ops::Range<usize>,
    into: &'a mut [T],
}

impl<T: Number> Job for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Part { shape: Shape { n, k, a: (a_row, a_k), .. }, a, b, rows, into } = self;
        for first in rows.clone().step_by(ROWS) {
            let count = (rows.end - first).min(ROWS);
            for column in (0..n).step_by(COLUMNS) {
                let columns = (n - column).min(COLUMNS);
                let mut sums = [[T::ZERO; COLUMNS]; ROWS];
                for depth in 0..k {
                    let mut right = [T::ZERO; COLUMNS];
                    right[..columns].copy_from_slice(&b[depth * n + column..][..columns]);
                    for (row, sums) in sums.iter_mut().enumerate() {
                        // A row that is not there repeats the last one, and is not written.
                        let left = a[(first + row.min(count - 1)) * a_row + depth * a_k];
                        sums.iter_mut().zip(right).for_each(|(sum, right)| *sum = sum.add(left.mul(right)));
                    }
                }
                for (row, sums) in sums.iter().enumerate().take(count) {
                    let at = (first - rows.start + row) * n + column;
                    into[at..at + columns].copy_from_slice(&sums[..columns]);
                }
            }
        }
    }
}

impl<T: Number> Kernel for Products<T> {
    fn name(&self) -> &'static str {
        "products::Products"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Shape { m, n, k, b: (b_row, b_column), .. } = self.shape;
        let (a, b) = (arguments.input::<T>(0)?, arguments.input::<T>(1)?);
        let c = if self.gemm.is_some() { arguments.optional::<T>(2)? } else { None };
        let output = arguments.output::<T>(0)?;
        let workspace = if b_column == 1 { &mut [][..] } else { arguments.workspace::<T>()? };
        if m * n == 0 {
            return Ok(());
        }
        let output = Shared::new(output);
        for (number, &(first, second)) in self.pairs.iter().enumerate() {
            let (a, b) = (&a[first * m * k..][..m * k], &b[second * k * n..][..k * n]);
            let b = if b_column == 1 {
                b
            } else {
                for (row, line) in workspace.chunks_exact_mut(n).take(k).enumerate() {
                    let from = b[row * b_row..].iter().step_by(b_column);
                    line.iter_mut().zip(from).for_each(|(into, from)| *into = *from);
                }
                &*workspace
            };
            let tiles = m.div_ceil(ROWS);
            let pieces = runtime.pieces(tiles, ROWS * n * k.max(1));
            runtime.for_each(pieces, |part, _| {
                let tiles = piece(tiles, pieces, part);
                let rows = tiles.start * ROWS..(tiles.end * ROWS).min(m);
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice((number * m + rows.start) * n, rows.len() * n) };
                let job = Part { shape: self.shape, a, b, rows: rows.clone(), into: &mut *into };
                // SAFETY: the job has no further conditions.
                unsafe { self.isa.run(job) };
                let Some(gemm) = self.gemm else { return };
                for (row, line) in rows.zip(into.chunks_exact_mut(n)) {
                    for (column, value) in line.iter_mut().enumerate() {
                        let place = gemm.addend.map(|(rows, columns)| row * rows + column * columns);
                        *value = (self.finish)(gemm, *value, c.zip(place).map(|(c, place)| c[place]));
                    }
                }
            });
        }
        Ok(())
    }

    fn workspace(&self, _: usize) -> usize {
        let Shape { n, k, b: (_, column), .. } = self.shape;
        if column == 1 { 0 } else { n * k * size_of::<T>() }
    }
}

/// Makes the softmax of f64, or its logarithm.
pub(super) fn softmax(lines: Lines, log: bool) -> Box<dyn Kernel> {
    Box::new(Softmax { lines, log })
}

struct Softmax {
    lines: Lines,
    log: bool,
}

impl Kernel for Softmax {
    fn name(&self) -> &'static str {
        "products::Softmax"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f64>(0)?;
        let output = Shared::new(arguments.output::<f64>(0)?);
        let Lines { length, inner, .. } = self.lines;
        self.lines.for_each(16, runtime, |start, columns| {
            for at in start..start + columns {
                let line = || input[at..].iter().step_by(inner).take(length).copied();
                let most = line().fold(f64::LEAST, f64::larger);
                let sum: f64 = line().map(|x| (x - most).exp()).sum();
                let shift = sum.ln();
                for (k, x) in line().enumerate() {
                    let result = if self.log { x - most - shift } else { (x - most).exp() / sum };
                    // SAFETY: each line is one task's.
                    unsafe { *output.at(at + k * inner) = result };
                }
            }
        });
        Ok(())
    }
}
