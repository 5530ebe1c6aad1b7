//! Reductions and positions of the largest and smallest elements, of integers and f64.

use std::marker::PhantomData;

use hetero_hal::{DType, Element, Result};

use super::lines::Lines;
use super::numbers::{Integer, Number};
use super::reduce::Groups;
use super::{Kernel, Runtime};
use crate::operand::{Arguments, Shared};

/// The results that are folded side by side: of rows, or within one row.
const LANES: usize = 16;

/// Makes a reduction of elements that are no f32.
pub(super) fn compile(name: &str, dtype: DType, groups: Groups) -> Option<Box<dyn Kernel>> {
    match dtype {
        DType::F64 => doubles(name, groups),
        DType::I8 => integers::<i8, u8>(name, groups, |x| x as i8),
        DType::I16 => integers::<i16, u16>(name, groups, |x| x as i16),
        DType::I32 => integers::<i32, u32>(name, groups, |x| x as i32),
        DType::I64 => integers::<i64, u64>(name, groups, |x| x as i64),
        DType::U8 => integers::<u8, u8>(name, groups, |x| x as u8),
        DType::U16 => integers::<u16, u16>(name, groups, |x| x as u16),
        DType::U32 => integers::<u32, u32>(name, groups, |x| x as u32),
        DType::U64 => integers::<u64, u64>(name, groups, |x| x as u64),
        _ => None,
    }
}

/// Makes a reduction of integers `T`; sums and products wrap around, as those of the unsigned
/// integers `U` of the same width do.
fn integers<T: Integer + Into<i128>, U: Integer>(
    name: &str,
    groups: Groups,
    narrow: fn(i128) -> T,
) -> Option<Box<dyn Kernel>> {
    let count = groups.count() as i128;
    let float = |x: T| -> f64 { x.into() as f64 };
    match name {
        "ReduceSum" => of(groups, U::ZERO, U::add, U::add, |sum| sum),
        "ReduceProd" => of(groups, U::ZERO.raise(false, 0), U::mul, U::mul, |product| product),
        "ReduceSumSquare" => of(groups, U::ZERO, |sum: U, x: U| sum.add(x.mul(x)), U::add, |sum| sum),
        "ReduceL1" => of(groups, T::ZERO, |sum: T, x: T| sum.add(x.abs()), T::add, |sum| sum),
        "ReduceMax" => of(groups, T::LEAST, T::larger, T::larger, |x| x),
        "ReduceMin" => of(groups, T::MOST, T::smaller, T::smaller, |x| x),
        "ReduceMean" if size_of::<T>() < 4 => {
            // A sum of that few bits does not overflow before memory ends.
            let narrower = move |sum: i64| narrow(i128::from(sum) / count);
            of(groups, 0i64, |sum: i64, x: T| sum + x.into() as i64, |a, b| a + b, narrower)
        }
        "ReduceMean" => {
            of(groups, 0i128, |sum: i128, x: T| sum + x.into(), |a, b| a + b, move |sum| narrow(sum / count))
        }
        "ReduceL2" => {
            let square = |sum: u128, x: T| {
                let size = x.into().unsigned_abs();
                sum.saturating_add(size * size)
            };
            of(groups, 0u128, square, u128::saturating_add, move |sum| narrow(sum.isqrt() as i128))
        }
        // Logarithms of integers are taken as floats and cut off.
        "ReduceLogSum" => {
            let finish = move |sum: f64| narrow(sum.ln() as i128);
            of(groups, 0.0, move |sum: f64, x: T| sum + float(x), |a, b| a + b, finish)
        }
        "ReduceLogSumExp" => {
            let finish = move |sum: Exponentials| narrow(sum.finish() as i128);
            of(groups, Exponentials::NONE, move |sum: Exponentials, x: T| sum.with(float(x)), Exponentials::and, finish)
        }
        _ => None,
    }
}

fn doubles(name: &str, groups: Groups) -> Option<Box<dyn Kernel>> {
    let count = groups.count() as f64;
    let add = |a: f64, b: f64| a + b;
    let square = |sum: f64, x: f64| sum + x * x;
    match name {
        "ReduceSum" => of(groups, 0.0, add, add, |sum| sum),
        "ReduceMean" => of(groups, 0.0, add, add, move |sum| sum / count),
        "ReduceSumSquare" => of(groups, 0.0, square, add, |sum| sum),
        "ReduceL1" => of(groups, 0.0, |sum: f64, x: f64| sum + x.abs(), add, |sum| sum),
        "ReduceL2" => of(groups, 0.0, square, add, f64::sqrt),
        "ReduceLogSum" => of(groups, 0.0, add, add, f64::ln),
        "ReduceProd" => of(groups, 1.0, |a: f64, b: f64| a * b, |a, b| a * b, |product| product),
        "ReduceMax" => of(groups, f64::LEAST, f64::larger, f64::larger, |x| x),
        "ReduceMin" => of(groups, f64::MOST, f64::smaller, f64::smaller, |x| x),
        "ReduceLogSumExp" => {
            of(groups, Exponentials::NONE, Exponentials::with, Exponentials::and, Exponentials::finish)
        }
        _ => None,
    }
}

/// A sum of exponentials, as a share of the largest.
#[derive(Clone, Copy)]
struct Exponentials {
    largest: f64,
    sum: f64,
}

impl Exponentials {
    const NONE: Exponentials = Exponentials { largest: f64::NEG_INFINITY, sum: 0.0 };

    fn with(self, x: f64) -> Self {
        self.and(Exponentials { largest: x, sum: 1.0 })
    }

    fn and(self, other: Self) -> Self {
        let largest = self.largest.larger(other.largest);
        let share = |of: Self| if of.largest == largest { of.sum } else { of.sum * (of.largest - largest).exp() };
        Exponentials { largest, sum: share(self) + share(other) }
    }

    /// Returns the sum's logarithm; where the largest is infinite or NaN, it is the result.
    fn finish(self) -> f64 {
        if self.largest.is_finite() { self.largest + self.sum.ln() } else { self.largest }
    }
}

/// A reduction by three functions: of a result and an element, of two results, and of the last
/// result.
struct Fold<T, A, F, J, G> {
    groups: Groups,
    start: A,
    fold: F,
    join: J,
    finish: G,
    element: PhantomData<fn(T)>,
}

fn of<T: Element, A: Copy + Send + Sync + 'static>(
    groups: Groups,
    start: A,
    fold: impl Fn(A, T) -> A + Send + Sync + 'static,
    join: impl Fn(A, A) -> A + Send + Sync + 'static,
    finish: impl Fn(A) -> T + Send + Sync + 'static,
) -> Option<Box<dyn Kernel>> {
    Some(Box::new(Fold { groups, start, fold, join, finish, element: PhantomData }))
}

impl<T, A, F, J, G> Kernel for Fold<T, A, F, J, G>
where
    T: Element,
    A: Copy + Send + Sync,
    F: Fn(A, T) -> A + Send + Sync,
    J: Fn(A, A) -> A + Send + Sync,
    G: Fn(A) -> T + Send + Sync,
{
    fn name(&self) -> &'static str {
        "folds::Fold"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<T>(0)?;
        let output = Shared::new(arguments.output::<T>(0)?);
        self.groups.for_each(2, runtime, |start, first, count| {
            // SAFETY: each result is one task's.
            let into = unsafe { output.slice(first, count) };
            let input = &input[start..];
            if self.groups.behind == 1 {
                let (mut lanes, mut single) = ([self.start; LANES], self.start);
                self.groups.runs(|start, length| {
                    let (chunks, rest) = input[start..start + length].as_chunks::<LANES>();
                    for chunk in chunks {
                        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = (self.fold)(*lane, *x));
                    }
                    single = rest.iter().fold(single, |lane, x| (self.fold)(lane, *x));
                });
                into[0] = (self.finish)(lanes.iter().fold(single, |a, b| (self.join)(a, *b)));
                return;
            }
            for (number, into) in into.chunks_mut(LANES).enumerate() {
                let mut lanes = [self.start; LANES];
                self.groups.lines(|line| {
                    let from = &input[line + number * LANES..][..into.len()];
                    lanes.iter_mut().zip(from).for_each(|(lane, x)| *lane = (self.fold)(*lane, *x));
                });
                into.iter_mut().zip(lanes).for_each(|(into, lane)| *into = (self.finish)(lane));
            }
        });
        Ok(())
    }
}

/// Makes the position of the largest or smallest element, where the elements are no f32.
pub(super) fn arg(dtype: DType, lines: Lines, smallest: bool, last: bool) -> Option<Box<dyn Kernel>> {
    fn of<T: Number>(lines: Lines, smallest: bool, last: bool) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Arg::<T> { lines, smallest, last, element: PhantomData }))
    }
    match dtype {
        DType::F64 => of::<f64>(lines, smallest, last),
        DType::I8 => of::<i8>(lines, smallest, last),
        DType::I16 => of::<i16>(lines, smallest, last),
        DType::I32 => of::<i32>(lines, smallest, last),
        DType::I64 => of::<i64>(lines, smallest, last),
        DType::U8 | DType::Bool => of::<u8>(lines, smallest, last),
        DType::U16 => of::<u16>(lines, smallest, last),
        DType::U32 => of::<u32>(lines, smallest, last),
        DType::U64 => of::<u64>(lines, smallest, last),
        _ => None,
    }
}

struct Arg<T> {
    lines: Lines,
    smallest: bool,
    /// Whether the last one of equal elements counts.
    last: bool,
    element: PhantomData<fn(T)>,
}

impl<T: Number> Arg<T> {
    /// Returns the place of the best element of a line; NaN is better than everything.
    fn place(&self, line: &[T], best: impl Fn(T, T) -> T) -> usize {
        let (chunks, rest) = line.as_chunks::<LANES>();
        let mut lanes = [line[0]; LANES];
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = best(*lane, *x));
        }
        let single = rest.iter().fold(line[0], |a, b| best(a, *b));
        let best = lanes.iter().fold(single, |a, b| best(a, *b));
        let found = |x: &T| *x == best || (best.is_nan() && x.is_nan());
        let place = if self.last { line.iter().rposition(found) } else { line.iter().position(found) };
        place.unwrap_or(0)
    }
}

impl<T: Number> Kernel for Arg<T> {
    fn name(&self) -> &'static str {
        "folds::Arg"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<T>(0)?;
        let output = Shared::new(arguments.output::<i64>(0)?);
        let Lines { length, inner, .. } = self.lines;
        self.lines.for_each(2, runtime, |start, columns| {
            let first = start / (length * inner) * inner + start % (length * inner);
            // SAFETY: each result is one task's.
            let into = unsafe { output.slice(first, columns) };
            if inner == 1 {
                let line = &input[start..start + length];
                into[0] = if self.smallest { self.place(line, T::smaller) } else { self.place(line, T::larger) } as i64;
                return;
            }
            let mut best = [T::ZERO; LANES];
            best[..columns].copy_from_slice(&input[start..start + columns]);
            into.fill(0);
            for k in 1..length {
                let row = &input[start + k * inner..][..columns];
                for ((&x, best), into) in row.iter().zip(&mut best).zip(into.iter_mut()) {
                    let better = if self.smallest { x < *best } else { x > *best };
                    let (nan, was_nan) = (x.is_nan(), best.is_nan());
                    if (!was_nan && (better || nan)) || (self.last && (x == *best || (nan && was_nan))) {
                        (*best, *into) = (x, k as i64);
                    }
                }
            }
        });
        Ok(())
    }
}
