//! Running sums and products along an axis, for numbers of any type.

use hetero_hal::{DType, Result};

use super::lines::Lines;
use super::numbers::{Number, of_number};
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The neighbouring lines that a task goes along together.
const COLUMNS: usize = 256;

struct Running<T> {
    isa: Isa,
    lines: Lines,
    /// Whether the numbers are multiplied, and not added.
    product: bool,
    exclusive: bool,
    reverse: bool,
    element: std::marker::PhantomData<fn(T)>,
}

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(input), Some(axis)) = (site.input(0), site.constant(1)) else { return Ok(None) };
    let axis = match axis.dtype() {
        DType::I32 | DType::I64 => axis.to_i64_vec()?.first().copied().unwrap_or(0),
        _ => return Ok(None),
    };
    let Some(lines) = Lines::of(&input.shape, axis) else { return Ok(None) };
    let flag = |name: &str| operator.int(name).map(|flag| flag.unwrap_or(0) != 0);
    let flags = [operator.is("CumProd"), flag("exclusive")?, flag("reverse")?];
    fn make<T: Number>(isa: Isa, lines: Lines, flags: [bool; 3]) -> Option<Box<dyn Kernel>> {
        let [product, exclusive, reverse] = flags;
        let element = std::marker::PhantomData;
        Some(Box::new(Running::<T> { isa, lines, product, exclusive, reverse, element }))
    }
    Ok(of_number!(input.dtype, make(site.isa, lines, flags)))
}

/// Some neighbouring lines from their first elements on.
struct Along<'a, T> {
    running: &'a Running<T>,
    input: &'a [T],
    output: Shared<T>,
    start: usize,
    columns: usize,
}

impl<T: Number> Job for Along<'_, T> {
    type Output = ();

    /// # Safety
    /// The lines of the output must be the caller's alone.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Along { running, input, output, start, columns } = self;
        let Lines { length, inner, .. } = running.lines;
        let zero = if running.product { T::ONE } else { T::ZERO };
        let place = |step: usize| start + if running.reverse { length - 1 - step } else { step } * inner;
        if columns == 1 {
            let mut total = zero;
            for step in 0..length {
                let next = if running.product { total.mul(input[place(step)]) } else { total.add(input[place(step)]) };
                // SAFETY: the caller's promise.
                unsafe { *output.at(place(step)) = if running.exclusive { total } else { next } };
                total = next;
            }
            return;
        }
        // SAFETY: the caller's promise; the line before is read, and this one is written.
        let line = |step: usize| unsafe { output.slice(place(step), columns) };
        match running.exclusive {
            true => line(0).fill(zero),
            false => line(0).copy_from_slice(&input[place(0)..][..columns]),
        }
        for step in 1..length {
            let from = if running.exclusive { place(step - 1) } else { place(step) };
            let (last, own, x) = (line(step - 1), line(step), &input[from..from + columns]);
            let all = own.iter_mut().zip(last.iter().zip(x));
            match running.product {
                true => all.for_each(|(own, (last, x))| *own = last.mul(*x)),
                false => all.for_each(|(own, (last, x))| *own = last.add(*x)),
            }
        }
    }
}

impl<T: Number> Kernel for Running<T> {
    fn name(&self) -> &'static str {
        "running::Running"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Lines { outer, length, inner } = self.lines;
        let input = arguments.input::<T>(0)?;
        let output = Shared::new(arguments.output::<T>(0)?);
        let shares = inner.div_ceil(COLUMNS).max((runtime.pool.threads() * 4 / outer.max(1)).min(inner / 16));
        let tasks = outer * shares;
        let pieces = runtime.pieces(tasks, length * inner.div_ceil(shares));
        runtime.for_each(pieces, |number, _| {
            for task in piece(tasks, pieces, number) {
                let columns = piece(inner, shares, task % shares);
                let start = task / shares * length * inner + columns.start;
                let along = Along { running: self, input, output, start, columns: columns.len() };
                // SAFETY: each task's lines are its own.
                unsafe { self.isa.run(along) };
            }
        });
        Ok(())
    }
}
