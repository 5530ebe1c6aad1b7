//! Operators that choose elements by the content of another input, for elements of any type of
//! whole bytes.

use std::marker::PhantomData;

use hetero_hal::{DType, Element, Error, ErrorKind, Result};

use super::elementwise::{Broadcast, spread};
use super::lines::Lines;
use super::movement::of_width;
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// Returns the operator's axis, which is counted from the end where it is negative.
pub(super) fn axis(site: Site<'_>, rank: usize) -> Result<Option<usize>> {
    let axis = site.operator().int("axis")?.unwrap_or(0);
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    Ok(usize::try_from(axis).ok().filter(|&axis| axis < rank))
}

/// Indices in the type in which they are bound.
#[derive(Clone, Copy)]
pub(super) enum Indices<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl<'a> Indices<'a> {
    /// Returns the indices of input 1, as they are.
    pub(super) fn of(arguments: &Arguments<'a>, dtype: DType) -> Result<Indices<'a>> {
        Self::of_input(arguments, 1, dtype)
    }

    /// Returns the indices of this input, as they are.
    pub(super) fn of_input(arguments: &Arguments<'a>, input: usize, dtype: DType) -> Result<Indices<'a>> {
        Ok(match dtype {
            DType::I32 => Indices::I32(arguments.input(input)?),
            _ => Indices::I64(arguments.input(input)?),
        })
    }

    /// Returns one of the indices, counted from the start, where it is inside `size` elements.
    #[inline]
    pub(super) fn checked(self, index: usize, size: usize) -> Option<usize> {
        let value = self.value(index);
        let value = if value < 0 { value.wrapping_add(size as i64) } else { value };
        ((value as u64) < size as u64).then_some(value as usize)
    }

    /// Tells whether these indices, of which there are some, are all the same.
    #[inline]
    pub(super) fn are_equal(self, range: std::ops::Range<usize>) -> bool {
        // Without an early end, the comparisons are those of vectors.
        fn equal<T: Copy + PartialEq>(list: &[T]) -> bool {
            let first = list[0];
            list.chunks(32).all(|list| list.iter().fold(true, |equal, &x| equal & (x == first)))
        }
        match self {
            Indices::I32(list) => equal(&list[range]),
            Indices::I64(list) => equal(&list[range]),
        }
    }

    /// Returns the error of the first index that is outside; `size` tells how many elements each
    /// one chooses from.
    pub(super) fn wrong(self, size: impl Fn(usize) -> usize) -> Error {
        let count = match self {
            Indices::I32(list) => list.len(),
            Indices::I64(list) => list.len(),
        };
        match (0..count).find(|&index| self.checked(index, size(index)).is_none()) {
            Some(index) => outside(self.value(index), size(index)),
            None => Error::internal("an index was found to be outside, and is not"),
        }
    }

    #[inline]
    fn value(self, index: usize) -> i64 {
        match self {
            Indices::I32(list) => i64::from(list[index]),
            Indices::I64(list) => list[index],
        }
    }

    /// Returns the indices of input 1, after checking that each is inside `size` elements; negative
    /// ones count from the end.
    fn read(arguments: &Arguments<'a>, dtype: DType, size: usize) -> Result<Indices<'a>> {
        let indices = Indices::of(arguments, dtype)?;
        let inside = |value: i64| (-(size as i64)..size as i64).contains(&value);
        let wrong = match indices {
            Indices::I32(list) => list.iter().map(|&value| i64::from(value)).find(|&value| !inside(value)),
            Indices::I64(list) => list.iter().copied().find(|&value| !inside(value)),
        };
        match wrong {
            None => Ok(indices),
            Some(value) => Err(outside(value, size)),
        }
    }

    /// Returns one of the indices, counted from the start.
    fn at(self, index: usize, size: usize) -> usize {
        let value = self.value(index);
        (if value < 0 { value + size as i64 } else { value }) as usize
    }
}

/// Returns the error of an index that is outside.
fn outside(value: i64, size: usize) -> Error {
    Error::new(ErrorKind::Execution, format!("index {value} is outside a dimension of size {size}"))
}

pub(super) fn gather(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(indices)) = (site.input(0), site.input(1)) else { return Ok(None) };
    let (Some(axis), DType::I32 | DType::I64) = (axis(site, input.shape.len())?, indices.dtype) else {
        return Ok(None);
    };
    let lines = Lines {
        outer: input.shape[..axis].iter().product(),
        length: input.shape[axis],
        inner: input.shape[axis + 1..].iter().product(),
    };
    let (count, dtype) = (indices.elements(), indices.dtype);
    Ok(of_width!(input.dtype.bits() / 8, Gather::new(lines, count, dtype)))
}

struct Gather<T> {
    lines: Lines,
    /// The number of the indices; `dtype` is their type.
    count: usize,
    dtype: DType,
    element: PhantomData<fn(T)>,
}

impl<T> Gather<T> {
    fn new(lines: Lines, count: usize, dtype: DType) -> Self {
        Gather { lines, count, dtype, element: PhantomData }
    }
}

impl<T: Element> Kernel for Gather<T> {
    fn name(&self) -> &'static str {
        "select::Gather"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Lines { outer, length, inner } = self.lines;
        let indices = Indices::read(arguments, self.dtype, length)?;
        let input = arguments.input::<T>(0)?;
        let output = Shared::new(arguments.output::<T>(0)?);
        let rows = outer * self.count;
        if rows == 0 {
            return Ok(());
        }
        let pieces = runtime.pieces(rows, inner);
        runtime.for_each(pieces, |number, _| {
            let rows = piece(rows, pieces, number);
            let (mut position, mut index) = (rows.start / self.count, rows.start % self.count);
            for row in rows {
                let from = position * length + indices.at(index, length);
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice(row * inner, inner) };
                match into {
                    [only] => *only = input[from],
                    into => into.copy_from_slice(&input[from * inner..][..inner]),
                }
                index += 1;
                if index == self.count {
                    (position, index) = (position + 1, 0);
                }
            }
        });
        Ok(())
    }
}

pub(super) fn gather_elements(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(indices)) = (site.input(0), site.input(1)) else { return Ok(None) };
    let (Some(axis), DType::I32 | DType::I64) = (axis(site, input.shape.len())?, indices.dtype) else {
        return Ok(None);
    };
    let inside = |(place, (size, own)): (usize, (&usize, &usize))| place == axis || size <= own;
    let fits =
        indices.shape.len() == input.shape.len() && indices.shape.iter().zip(&input.shape).enumerate().all(inside);
    if !fits {
        return Ok(None);
    }
    let (width, dtype) = (input.dtype.bits() / 8, indices.dtype);
    Ok(of_width!(width, GatherElements::new(indices.shape.clone(), &input.shape, axis, dtype)))
}

struct GatherElements<T> {
    /// The sizes of the indices; `strides` has the input's stride in each dimension.
    /// The stride is 0 along the axis, where the indices decide.
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// The size along the axis; `step` is the stride along it.
    size: usize,
    step: usize,
    dtype: DType,
    element: PhantomData<fn(T)>,
}

impl<T> GatherElements<T> {
    fn new(shape: Vec<usize>, input: &[usize], axis: usize, dtype: DType) -> Self {
        let mut strides: Vec<usize> = (0..input.len()).map(|axis| input[axis + 1..].iter().product()).collect();
        let step = std::mem::take(&mut strides[axis]);
        GatherElements { shape, strides, size: input[axis], step, dtype, element: PhantomData }
    }
}

impl<T: Element> Kernel for GatherElements<T> {
    fn name(&self) -> &'static str {
        "select::GatherElements"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let indices = Indices::read(arguments, self.dtype, self.size)?;
        let input = arguments.input::<T>(0)?;
        let output = arguments.output::<T>(0)?;
        let (Some((&row, outer)), Some((&last, strides))) = (self.shape.split_last(), self.strides.split_last()) else {
            return Ok(());
        };
        let rows = output.len().checked_div(row).unwrap_or(0);
        let output = Shared::new(output);
        let pieces = runtime.pieces(rows, row * 2);
        runtime.for_each(pieces, |number, _| {
            for number in piece(rows, pieces, number) {
                let (mut start, mut rest) = (0, number);
                for (size, stride) in outer.iter().zip(strides).rev() {
                    start += rest % size * stride;
                    rest /= size;
                }
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice(number * row, row) };
                for (column, value) in into.iter_mut().enumerate() {
                    let index = indices.at(number * row + column, self.size);
                    *value = input[start + column * last + index * self.step];
                }
            }
        });
        Ok(())
    }
}

pub(super) fn choose(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(condition), Some(x), Some(y), Some(output)) =
        (site.input(0), site.input(1), site.input(2), site.output(0))
    else {
        return Ok(None);
    };
    if condition.dtype != DType::Bool || x.dtype != output.dtype || y.dtype != output.dtype {
        return Ok(None);
    }
    let of = |shape: &[usize]| Broadcast::new(shape, &output.shape);
    let (condition, x, y) = (of(&condition.shape), of(&x.shape), of(&y.shape));
    Ok(of_width!(output.dtype.bits() / 8, Where::new(condition, x, y)))
}

struct Where<T> {
    condition: Broadcast,
    x: Broadcast,
    y: Broadcast,
    element: PhantomData<fn(T)>,
}

impl<T> Where<T> {
    fn new(condition: Broadcast, x: Broadcast, y: Broadcast) -> Self {
        Where { condition, x, y, element: PhantomData }
    }
}

impl<T: Element> Kernel for Where<T> {
    fn name(&self) -> &'static str {
        "select::Where"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let condition = arguments.input::<u8>(0)?;
        let (x, y) = (arguments.input::<T>(1)?, arguments.input::<T>(2)?);
        let output = arguments.output::<T>(0)?;
        let (count, output) = (output.len(), Shared::new(output));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let own = |range: &std::ops::Range<usize>| unsafe { output.slice(range.start, range.len()) };
            self.y.runs(range.clone(), |range, start| match self.y.step {
                0 => own(&range).fill(y[start]),
                _ => own(&range).copy_from_slice(&y[start..start + range.len()]),
            });
            self.x.runs(range, |range, from| {
                let (first, step) = (range.start, self.x.step);
                self.condition.runs(range, |range, start| {
                    let from = from + (range.start - first) * step;
                    let into = own(&range);
                    let count = into.len();
                    let flags = match self.condition.step {
                        0 if condition[start] == 0 => return,
                        0 if step == 0 => return into.fill(x[from]),
                        0 => return into.copy_from_slice(&x[from..from + count]),
                        _ => &condition[start..start + count],
                    };
                    if step == 0 {
                        let x = x[from];
                        into.iter_mut()
                            .zip(flags)
                            .for_each(|(value, &flag)| *value = if flag != 0 { x } else { *value });
                    } else {
                        let pairs = flags.iter().zip(&x[from..from + count]);
                        into.iter_mut().zip(pairs).for_each(|(value, (&flag, &x))| {
                            *value = if flag != 0 { x } else { *value };
                        });
                    }
                });
            });
        });
        Ok(())
    }
}
