//! Comparisons, and functions of one or two elements of any types.

use std::marker::PhantomData;

use hetero_hal::{DType, Element, Result};

use super::elementwise::{Broadcast, spread};
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::Half;

/// A function of one element.
pub(super) struct Map<A, B, F>(F, PhantomData<fn(A) -> B>);

impl<A, B, F: Fn(A) -> B> Map<A, B, F> {
    pub(super) fn new(function: F) -> Self {
        Map(function, PhantomData)
    }
}

impl<A: Element, B: Element, F: Fn(A) -> B + Send + Sync> Kernel for Map<A, B, F> {
    fn name(&self) -> &'static str {
        "convert::Map"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<A>(0)?;
        let output = arguments.output::<B>(0)?;
        let (count, output) = (input.len().min(output.len()), Shared::new(output));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let into = unsafe { output.slice(range.start, range.len()) };
            into.iter_mut().zip(&input[range]).for_each(|(into, x)| *into = (self.0)(*x));
        });
        Ok(())
    }
}

/// Compares numbers.
pub(super) fn compare(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(a), Some(b), Some(output)) = (site.input(0), site.input(1), site.output(0)) else { return Ok(None) };
    if a.dtype != b.dtype || output.dtype != DType::Bool {
        return Ok(None);
    }
    let of = |shape: &[usize]| Broadcast::new(shape, &output.shape);
    let (first, second) = (of(&a.shape), of(&b.shape));
    let name = &*site.operator().name;
    if let Some(half) = Half::of(a.dtype) {
        return Ok(match half {
            Half::F16 => test(name, |bits: u16| Half::F16.wide(bits), first, second),
            Half::BF16 => test(name, |bits: u16| Half::BF16.wide(bits), first, second),
        });
    }
    Ok(match (a.dtype, name) {
        // Any byte but 0 is true.
        (DType::Bool, "Equal") => test(name, |x: u8| x != 0, first, second),
        (DType::F32, _) => test(name, |x: f32| x, first, second),
        (DType::F64, _) => test(name, |x: f64| x, first, second),
        // Whether integers are the same does not depend on their signs.
        (DType::U8, _) | (DType::I8, "Equal") => test(name, |x: u8| x, first, second),
        (DType::U16, _) | (DType::I16, "Equal") => test(name, |x: u16| x, first, second),
        (DType::U32, _) | (DType::I32, "Equal") => test(name, |x: u32| x, first, second),
        (DType::U64, _) | (DType::I64, "Equal") => test(name, |x: u64| x, first, second),
        (DType::I8, _) => test(name, |x: i8| x, first, second),
        (DType::I16, _) => test(name, |x: i16| x, first, second),
        (DType::I32, _) => test(name, |x: i32| x, first, second),
        (DType::I64, _) => test(name, |x: i64| x, first, second),
        _ => None,
    })
}

/// Makes the comparison of what `number` makes of the elements.
fn test<T: Element, N: PartialOrd>(
    name: &str,
    number: impl Fn(T) -> N + Copy + Send + Sync + 'static,
    first: Broadcast,
    second: Broadcast,
) -> Option<Box<dyn Kernel>> {
    // Each comparison has a type of its own, so that its loop is vectorised.
    fn of<T: Element>(
        test: impl Fn(T, T) -> bool + Send + Sync + 'static,
        first: Broadcast,
        second: Broadcast,
    ) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Pairs::new(move |a, b| u8::from(test(a, b)), first, second)))
    }
    match name {
        "Equal" => of(move |a: T, b: T| number(a) == number(b), first, second),
        "Less" => of(move |a: T, b: T| number(a) < number(b), first, second),
        "LessOrEqual" => of(move |a: T, b: T| number(a) <= number(b), first, second),
        "Greater" => of(move |a: T, b: T| number(a) > number(b), first, second),
        "GreaterOrEqual" => of(move |a: T, b: T| number(a) >= number(b), first, second),
        _ => None,
    }
}

/// A function of two operands that repeat over the result.
pub(super) struct Pairs<A, B, C, F> {
    function: F,
    first: Broadcast,
    second: Broadcast,
    element: PhantomData<fn(A, B) -> C>,
}

impl<A, B, C, F: Fn(A, B) -> C> Pairs<A, B, C, F> {
    pub(super) fn new(function: F, first: Broadcast, second: Broadcast) -> Self {
        Pairs { function, first, second, element: PhantomData }
    }
}

impl<A: Element, B: Element, C: Element, F: Fn(A, B) -> C + Send + Sync> Kernel for Pairs<A, B, C, F> {
    fn name(&self) -> &'static str {
        "convert::Pairs"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (a, b) = (arguments.input::<A>(0)?, arguments.input::<B>(1)?);
        let output = arguments.output::<C>(0)?;
        let (count, output) = (output.len(), Shared::new(output));
        spread(count, runtime, |range| {
            self.first.runs(range, |range, first| {
                let offset = range.start;
                let step = self.first.step;
                self.second.runs(range, |range, second| {
                    let first = first + (range.start - offset) * step;
                    // SAFETY: each range is one task's.
                    let into = unsafe { output.slice(range.start, range.len()) };
                    match (step, self.second.step) {
                        (1, 1) => {
                            let pairs = a[first..first + into.len()].iter().zip(&b[second..second + into.len()]);
                            into.iter_mut().zip(pairs).for_each(|(into, (x, y))| *into = (self.function)(*x, *y));
                        }
                        (0, 1) => {
                            let x = a[first];
                            let other = &b[second..second + into.len()];
                            into.iter_mut().zip(other).for_each(|(into, y)| *into = (self.function)(x, *y));
                        }
                        (1, 0) => {
                            let y = b[second];
                            let other = &a[first..first + into.len()];
                            into.iter_mut().zip(other).for_each(|(into, x)| *into = (self.function)(*x, y));
                        }
                        (step, other) => {
                            for (index, into) in into.iter_mut().enumerate() {
                                *into = (self.function)(a[first + index * step], b[second + index * other]);
                            }
                        }
                    }
                });
            });
        });
        Ok(())
    }
}
