//! Comparisons, conversions between the usual element types, and other functions whose result has
//! another type than f32.

use std::marker::PhantomData;

use hetero_hal::{DType, Element, Result};

use super::elementwise::{Broadcast, spread};
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// Casts between the usual types: floats become integers towards zero and saturate, and integers
/// keep their low bits.
pub(super) fn cast(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    if site.node.outputs.len() != 1 || input.shape != output.shape {
        return Ok(None);
    }
    fn of<A: Element, B: Element>(convert: impl Fn(A) -> B + Send + Sync + 'static) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Cast::new(convert)))
    }
    macro_rules! to {
        ($from:ty, $zero:literal) => {
            match output.dtype {
                DType::F32 => of(|x: $from| x as f32),
                DType::F64 => of(|x: $from| x as f64),
                DType::I8 => of(|x: $from| x as i8),
                DType::I16 => of(|x: $from| x as i16),
                DType::U16 => of(|x: $from| x as u16),
                DType::I32 => of(|x: $from| x as i32),
                DType::I64 => of(|x: $from| x as i64),
                DType::U8 => of(|x: $from| x as u8),
                DType::Bool => of(|x: $from| u8::from(x != $zero)),
                _ => None,
            }
        };
    }
    Ok(match (input.dtype, output.dtype) {
        (from, to) if from == to => Some(Box::new(super::movement::Copy)),
        (DType::F32, _) => to!(f32, 0.0),
        (DType::F64, _) => to!(f64, 0.0),
        (DType::I8, _) => to!(i8, 0),
        (DType::I16, _) => to!(i16, 0),
        (DType::U16, _) => to!(u16, 0),
        (DType::I32, _) => to!(i32, 0),
        (DType::I64, _) => to!(i64, 0),
        (DType::U8, _) => to!(u8, 0),
        // Every byte but 0 is true, and true is 1.
        (DType::Bool, DType::F32) => of(|x: u8| f32::from(u8::from(x != 0))),
        (DType::Bool, DType::I32) => of(|x: u8| i32::from(x != 0)),
        (DType::Bool, DType::I64) => of(|x: u8| i64::from(x != 0)),
        _ => None,
    })
}

pub(super) struct Cast<A, B, F>(F, PhantomData<fn(A) -> B>);

impl<A, B, F: Fn(A) -> B> Cast<A, B, F> {
    pub(super) fn new(function: F) -> Self {
        Cast(function, PhantomData)
    }
}

impl<A: Element, B: Element, F: Fn(A) -> B + Send + Sync> Kernel for Cast<A, B, F> {
    fn name(&self) -> &'static str {
        "convert::Cast"
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
    Ok(match a.dtype {
        DType::F32 => test::<f32>(name, first, second),
        DType::I32 => test::<i32>(name, first, second),
        DType::I64 => test::<i64>(name, first, second),
        DType::U8 => test::<u8>(name, first, second),
        DType::Bool if name == "Equal" => {
            // Any byte but 0 is true.
            Some(Box::new(Pairs::new(|a: u8, b: u8| u8::from((a != 0) == (b != 0)), first, second)))
        }
        _ => None,
    })
}

fn test<T: Element + PartialOrd>(name: &str, first: Broadcast, second: Broadcast) -> Option<Box<dyn Kernel>> {
    // Each comparison has a type of its own, so that its loop is vectorised.
    fn of<T: Element>(
        test: impl Fn(T, T) -> bool + Send + Sync + 'static,
        first: Broadcast,
        second: Broadcast,
    ) -> Option<Box<dyn Kernel>> {
        Some(Box::new(Pairs::new(move |a, b| u8::from(test(a, b)), first, second)))
    }
    match name {
        "Equal" => of(|a: T, b: T| a == b, first, second),
        "Less" => of(|a: T, b: T| a < b, first, second),
        "LessOrEqual" => of(|a: T, b: T| a <= b, first, second),
        "Greater" => of(|a: T, b: T| a > b, first, second),
        "GreaterOrEqual" => of(|a: T, b: T| a >= b, first, second),
        _ => None,
    }
}

/// A function of two operands that repeat over the result.
pub(super) struct Pairs<A, B, F> {
    function: F,
    first: Broadcast,
    second: Broadcast,
    element: PhantomData<fn(A) -> B>,
}

impl<A, B, F: Fn(A, A) -> B> Pairs<A, B, F> {
    pub(super) fn new(function: F, first: Broadcast, second: Broadcast) -> Self {
        Pairs { function, first, second, element: PhantomData }
    }
}

impl<A: Element, B: Element, F: Fn(A, A) -> B + Send + Sync> Kernel for Pairs<A, B, F> {
    fn name(&self) -> &'static str {
        "convert::Pairs"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (a, b) = (arguments.input::<A>(0)?, arguments.input::<A>(1)?);
        let output = arguments.output::<B>(0)?;
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
