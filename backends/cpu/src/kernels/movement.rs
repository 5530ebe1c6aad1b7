//! Operators that move elements and compute nothing.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// Operators that keep the bytes and change the shape: nothing to do where the output shares the input's memory.
pub(super) fn copy(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Dropout that may be in training mode, or gives a mask, is the oracle's.
    let training = site.operator().is("Dropout") && site.input(2).is_some();
    let plain = site.node.outputs.len() == 1 && !training;
    Ok(plain.then(|| Box::new(Copy) as Box<dyn Kernel>))
}

/// The first output holds the bytes of the first input, as many as it has room for.
pub(super) struct Copy;

impl Kernel for Copy {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        arguments.start_from::<u8>(0)?;
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

pub(super) fn concat(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(output), Some(axis)) = (site.output(0), site.operator().int("axis")?) else {
        return Ok(None);
    };
    let rank = output.shape.len() as i64;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX);
    let inputs = (0..site.node.inputs.len()).map(|index| site.shape(index)).collect::<Option<Vec<_>>>();
    let (Some(inputs), true) = (inputs, axis < output.shape.len()) else {
        return Ok(None);
    };
    let width = output.dtype.bits() / 8;
    let block = |shape: &[usize]| shape[axis..].iter().product::<usize>() * width;
    Ok(Some(Box::new(Concat { blocks: inputs.into_iter().map(block).collect() })))
}

/// For each input, the bytes that it adds to each row of the output.
pub(super) struct Concat {
    pub(super) blocks: Vec<usize>,
}

impl Kernel for Concat {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let row: usize = self.blocks.iter().sum();
        if row == 0 {
            return Ok(());
        }
        let output = arguments.output::<u8>(0)?;
        let rows = output.len() / row;
        let output = Shared::new(output);
        let mut at = 0;
        for (index, &block) in self.blocks.iter().enumerate() {
            let input = arguments.input::<u8>(index)?;
            // SAFETY: what lies in the output already has the output's address.
            let lies_there = rows == 1 && std::ptr::eq(input.as_ptr(), unsafe { output.at(at) });
            let pieces = if lies_there { 0 } else { runtime.pieces(rows, block) };
            runtime.pool.for_each(pieces, |number, _| {
                for number in piece(rows, pieces, number) {
                    // SAFETY: each row's part is one task's.
                    let into = unsafe { output.slice(number * row + at, block) };
                    into.copy_from_slice(&input[number * block..(number + 1) * block]);
                }
            });
            at += block;
        }
        Ok(())
    }
}

/// Operators whose output reads the input with other strides: Transpose, Expand, Slice.
pub(super) fn view(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else {
        return Ok(None);
    };
    let rank = input.shape.len();
    let mut own = vec![1isize; rank];
    for axis in (1..rank).rev() {
        own[axis - 1] = own[axis] * input.shape[axis] as isize;
    }
    let mut start = 0isize;
    let strides: Option<Vec<isize>> = match &*site.operator().name {
        "Transpose" => {
            let order: Vec<usize> = match site.operator().ints("perm")? {
                None => (0..rank).rev().collect(),
                Some(perm) => {
                    perm.iter().map(|&axis| if axis < 0 { axis + rank as i64 } else { axis } as usize).collect()
                }
            };
            order.iter().map(|&axis| own.get(axis).copied()).collect()
        }
        "Expand" => {
            let lead = output.shape.len().checked_sub(rank);
            lead.map(|lead| {
                let of = |axis: usize| if input.shape[axis] == 1 { 0 } else { own[axis] };
                std::iter::repeat_n(0, lead).chain((0..rank).map(of)).collect()
            })
        }
        "Slice" => {
            let list = |index: usize, name: &str| -> Result<Option<Vec<i64>>> {
                if let Some(list) = site.operator().ints(name)? {
                    return Ok(Some(list.to_vec()));
                }
                match site.constant(index) {
                    Some(tensor) if tensor.dtype() == DType::I64 => Ok(Some(tensor.view::<i64>()?.to_vec())),
                    Some(tensor) if tensor.dtype() == DType::I32 => {
                        Ok(Some(tensor.view::<i32>()?.iter().map(|&x| i64::from(x)).collect()))
                    }
                    _ => Ok(None),
                }
            };
            let Some(starts) = list(1, "starts")? else { return Ok(None) };
            let axes = list(3, "axes")?;
            let steps = list(4, "steps")?;
            if (site.input(3).is_some() && axes.is_none()) || (site.input(4).is_some() && steps.is_none()) {
                return Ok(None);
            }
            let mut strides = own.clone();
            for (index, &from) in starts.iter().enumerate() {
                let axis = axes.as_ref().map_or(index as i64, |axes| axes[index]);
                let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(usize::MAX);
                let step = steps.as_ref().map_or(1, |steps| steps[index]);
                let Some(&size) = input.shape.get(axis) else { return Ok(None) };
                let size = size as i64;
                let from = if from < 0 { from.saturating_add(size) } else { from };
                let from = if step > 0 { from.clamp(0, size) } else { from.clamp(0, (size - 1).max(0)) };
                start += from as isize * own[axis];
                strides[axis] = own[axis].saturating_mul(step as isize);
            }
            Some(strides)
        }
        _ => None,
    };
    let Some(strides) = strides.filter(|strides| strides.len() == output.shape.len()) else {
        return Ok(None);
    };
    let width = output.dtype.bits() / 8;
    // Every element that it reads must be there, whatever the node says.
    let mut reach = (start, start);
    for (&size, &stride) in output.shape.iter().zip(&strides) {
        let far = stride.saturating_mul(size.saturating_sub(1) as isize);
        reach = (reach.0.saturating_add(far.min(0)), reach.1.saturating_add(far.max(0)));
    }
    let empty = output.elements() == 0;
    if !empty && (reach.0 < 0 || reach.1 >= input.elements() as isize) {
        return Ok(None);
    }
    Ok(match width {
        1 => Some(Box::new(View::<u8>::new(&output.shape, strides, start))),
        2 => Some(Box::new(View::<u16>::new(&output.shape, strides, start))),
        4 => Some(Box::new(View::<u32>::new(&output.shape, strides, start))),
        8 => Some(Box::new(View::<u64>::new(&output.shape, strides, start))),
        _ => None,
    })
}

/// The output's sizes, the input's stride in each, and its first element.
struct View<T> {
    shape: Vec<usize>,
    strides: Vec<isize>,
    start: isize,
    element: std::marker::PhantomData<T>,
}

impl<T> View<T> {
    /// Dimensions that lie one behind the other on both sides become one.
    fn new(shape: &[usize], strides: Vec<isize>, start: isize) -> Self {
        let (mut merged, mut steps): (Vec<usize>, Vec<isize>) = (vec![], vec![]);
        for (&size, &stride) in shape.iter().zip(&strides) {
            if size == 1 {
                continue;
            }
            match (merged.last_mut(), steps.last_mut()) {
                (Some(last), Some(step)) if *step == stride.saturating_mul(size as isize) => {
                    *last *= size;
                    *step = stride;
                }
                _ => {
                    merged.push(size);
                    steps.push(stride);
                }
            }
        }
        if merged.is_empty() {
            merged.push(1);
            steps.push(1);
        }
        View { shape: merged, strides: steps, start, element: std::marker::PhantomData }
    }
}

/// Rows and columns that are transposed together: so many lines of the cache are held open.
const TILE: usize = 16;

impl<T: hetero_hal::Element + std::marker::Copy> Kernel for View<T> {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<T>(0)?;
        let output = arguments.output::<T>(0)?;
        if output.is_empty() {
            return Ok(());
        }
        let count = output.len();
        let target = Shared::new(output);
        let last = self.shape.len() - 1;
        let (row, step) = (self.shape[last], self.strides[last]);
        // Planes of the last two dimensions, so that a transposition goes tile by tile.
        let high = if last > 0 { self.shape[last - 1] } else { 1 };
        let high_step = if last > 0 { self.strides[last - 1] } else { 0 };
        let origin = |mut plane: usize| {
            let mut start = self.start;
            for axis in (0..last.saturating_sub(1)).rev() {
                start += (plane % self.shape[axis]) as isize * self.strides[axis];
                plane /= self.shape[axis];
            }
            start
        };
        let planes = count / (row * high);
        let bands = high.div_ceil(TILE);
        let tasks = planes * bands;
        let pieces = runtime.pieces(tasks, row * TILE.min(high));
        runtime.pool.for_each(pieces, |number, _| {
            for task in piece(tasks, pieces, number) {
                let (plane, band) = (task / bands, task % bands);
                let lines = band * TILE..((band + 1) * TILE).min(high);
                let start = origin(plane);
                // SAFETY: each band of lines is one task's; the view was checked to lie in the input, whose size is the node's.
                let into = unsafe { target.slice((plane * high + lines.start) * row, lines.len() * row) };
                let source =
                    |line: usize, column: usize| (start + line as isize * high_step + column as isize * step) as usize;
                if step == 1 {
                    for (line, into) in lines.zip(into.chunks_exact_mut(row)) {
                        let from = source(line, 0);
                        into.copy_from_slice(&input[from..from + row]);
                    }
                    continue;
                }
                for columns in (0..row).step_by(TILE) {
                    for (line, into) in lines.clone().zip(into.chunks_exact_mut(row)) {
                        let end = (columns + TILE).min(row);
                        for (column, value) in (columns..end).zip(&mut into[columns..end]) {
                            *value = input[source(line, column)];
                        }
                    }
                }
            }
        });
        Ok(())
    }
}
