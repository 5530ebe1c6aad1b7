//! Operators that move elements and compute nothing.

use std::ops::Range;

use hetero_hal::{DType, Result};
use hetero_reference::split_sizes;

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};

/// Makes a kernel for elements of the given number of bytes, whatever their meaning.
macro_rules! of_width {
    ($width:expr, $kernel:ident::new($($argument:expr),*)) => {
        match $width {
            1 => Some(Box::new($kernel::<u8>::new($($argument),*)) as Box<dyn Kernel>),
            2 => Some(Box::new($kernel::<u16>::new($($argument),*)) as Box<dyn Kernel>),
            4 => Some(Box::new($kernel::<u32>::new($($argument),*)) as Box<dyn Kernel>),
            8 => Some(Box::new($kernel::<u64>::new($($argument),*)) as Box<dyn Kernel>),
            _ => None,
        }
    };
}
pub(super) use of_width;

/// Makes operators that keep the bytes and change the shape: a run has nothing to do where the
/// output shares the input's memory.
pub(super) fn copy(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Dropout that may be in training mode, or that gives a mask, is left to the oracle.
    let training = site.operator().is("Dropout") && site.input(2).is_some();
    let plain = site.node.outputs.len() == 1 && !training;
    Ok(plain.then(|| Box::new(Copy) as Box<dyn Kernel>))
}

/// A copy of the first input's bytes into the first output, as many as it has room for.
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
    // Inputs that do not fit together are an error that the oracle words.
    let fits = |shape: &&[usize]| {
        let alike = |(at, (own, whole)): (usize, (&usize, &usize))| at == axis || own == whole;
        shape.len() == output.shape.len() && shape.iter().zip(&output.shape).enumerate().all(alike)
    };
    let whole: usize = inputs.iter().filter_map(|shape| shape.get(axis)).sum();
    if !site.all(output.dtype) || !inputs.iter().all(fits) || whole != output.shape[axis] {
        return Ok(None);
    }
    let width = output.dtype.bits() / 8;
    let block = |shape: &[usize]| shape[axis..].iter().product::<usize>() * width;
    let rows = output.shape[..axis].iter().product();
    Ok(Some(Box::new(Concat { rows, blocks: inputs.into_iter().map(block).collect() })))
}

/// The least number of bytes of a row that a task copies.
const PART: usize = 1 << 14;

pub(super) struct Concat {
    pub(super) rows: usize,
    /// For each input, the bytes that it adds to each row of the output.
    pub(super) blocks: Vec<usize>,
}

impl Kernel for Concat {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let row: usize = self.blocks.iter().sum();
        if row == 0 {
            return Ok(());
        }
        let rows = self.rows;
        let output = Shared::new(&mut arguments.output::<u8>(0)?[..rows * row]);
        let mut at = 0;
        for (index, &block) in self.blocks.iter().enumerate() {
            // SAFETY: each part lies in the output; only addresses are compared.
            let lies_there = unsafe { arguments.shared_input::<u8>(index)?.at(0) == output.at(at) };
            if !(rows == 1 && lies_there) {
                let input = arguments.input::<u8>(index)?;
                // A single row is divided too.
                let parts = if rows == 1 { block.div_ceil(PART) } else { 1 };
                let pieces = runtime.pieces(rows * parts, block / parts.max(1));
                runtime.for_each(pieces, |number, _| {
                    for number in piece(rows * parts, pieces, number) {
                        let (row_number, part) = (number / parts, piece(block, parts, number % parts));
                        // SAFETY: each row's part is one task's.
                        let into = unsafe { output.slice(row_number * row + at + part.start, part.len()) };
                        into.copy_from_slice(&input[row_number * block..][part]);
                    }
                });
            }
            at += block;
        }
        Ok(())
    }

    fn joins(&self) -> Option<&[usize]> {
        (self.rows == 1).then_some(&self.blocks)
    }
}

pub(super) fn split(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(input) = site.input(0) else { return Ok(None) };
    let axis = site.operator().int("axis")?.unwrap_or(0);
    let axis = if axis < 0 { axis + input.shape.len() as i64 } else { axis };
    let axis = usize::try_from(axis).unwrap_or(usize::MAX);
    let Some(&[total, ref inner @ ..]) = input.shape.get(axis..) else { return Ok(None) };
    let Some(sizes) = split_sizes(site.program, site.node)?.filter(|sizes| sizes.iter().sum::<usize>() == total) else {
        return Ok(None);
    };
    if sizes.len() != site.node.outputs.len() {
        return Ok(None);
    }
    let width = inner.iter().product::<usize>() * (input.dtype.bits() / 8);
    let mut start = 0;
    let parts = sizes.iter().enumerate().map(|(index, size)| {
        let range = start..start + size * width;
        start = range.end;
        site.output(index).map(|_| range)
    });
    let parts = parts.collect();
    Ok(Some(Box::new(Split { parts, row: total * width }) as Box<dyn Kernel>))
}

/// A division of rows.
struct Split {
    /// The bytes of a row that each output takes; `None` for an output that is not wanted.
    parts: Vec<Option<Range<usize>>>,
    /// The bytes of a row.
    row: usize,
}

impl Kernel for Split {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let row = self.row;
        let input = arguments.input::<u8>(0)?;
        for (index, part) in self.parts.iter().enumerate() {
            let Some(&Range { start: at, end }) = part.as_ref().filter(|part| !part.is_empty()) else { continue };
            let block = end - at;
            let output = arguments.output::<u8>(index)?;
            let rows = output.len() / block;
            let output = Shared::new(output);
            let pieces = runtime.pieces(rows, block);
            runtime.for_each(pieces, |number, _| {
                for number in piece(rows, pieces, number) {
                    // SAFETY: each row is one task's.
                    let into = unsafe { output.slice(number * block, block) };
                    into.copy_from_slice(&input[number * row + at..][..block]);
                }
            });
        }
        Ok(())
    }
}

/// The sizes and strides of a view: those of the output, or with more dimensions.
type Strided = (Vec<usize>, Vec<isize>);

/// Returns the view that repeats each dimension of the input.
fn tiled(site: Site<'_>, own: &[isize], shape: &[usize]) -> Result<Option<Strided>> {
    let repeats = match site.constant(1) {
        Some(tensor) if tensor.dtype() == DType::I64 => tensor.view::<i64>()?.to_vec(),
        _ => return Ok(None),
    };
    let repeats = repeats.into_iter().map(|count| usize::try_from(count).ok()).collect::<Option<Vec<_>>>();
    let pairs = |repeats: Vec<usize>| -> Strided {
        let sizes = repeats.iter().zip(shape).flat_map(|(&count, &size)| [count, size]).collect();
        (sizes, own.iter().flat_map(|&stride| [0, stride]).collect())
    };
    Ok(repeats.filter(|repeats| repeats.len() == shape.len()).map(pairs))
}

/// Returns the view that makes blocks dimensions of their own, and transposes them.
fn blocks(site: Site<'_>, shape: &[usize]) -> Result<Option<Strided>> {
    let operator = site.operator();
    let block = operator.int("blocksize")?.and_then(|block| usize::try_from(block).ok()).filter(|&block| block > 0);
    let (Some(b), &[n, c, h, w]) = (block, shape) else { return Ok(None) };
    let (view, order) = if operator.is("SpaceToDepth") {
        ([n, c, h / b, b, w / b, b], [0, 3, 5, 1, 2, 4])
    } else if operator.text("mode")? == Some("CRD") {
        ([n, c / (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3])
    } else {
        ([n, b, b, c / (b * b), h, w], [0, 3, 4, 1, 5, 2])
    };
    let mut steps = [1isize; 6];
    for axis in (1..6).rev() {
        steps[axis - 1] = steps[axis] * view[axis] as isize;
    }
    Ok(Some((order.map(|axis| view[axis]).to_vec(), order.map(|axis| steps[axis]).to_vec())))
}

/// Makes operators whose output reads the input with other strides: Transpose, Expand, Slice, Tile,
/// DepthToSpace, SpaceToDepth.
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
    let mut shape = output.shape.clone();
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
        name => {
            let strided = if name == "Tile" { tiled(site, &own, &input.shape)? } else { blocks(site, &input.shape)? };
            strided.map(|(sizes, strides)| {
                shape = sizes;
                strides
            })
        }
    };
    let Some(strides) = strides.filter(|strides| strides.len() == shape.len()) else {
        return Ok(None);
    };
    if shape.iter().product::<usize>() != output.elements() {
        return Ok(None);
    }
    let width = output.dtype.bits() / 8;
    // Every element that the view reads must be there, whatever the node says.
    let mut reach = (start, start);
    for (&size, &stride) in shape.iter().zip(&strides) {
        let far = stride.saturating_mul(size.saturating_sub(1) as isize);
        reach = (reach.0.saturating_add(far.min(0)), reach.1.saturating_add(far.max(0)));
    }
    let empty = output.elements() == 0;
    if !empty && (reach.0 < 0 || reach.1 >= input.elements() as isize) {
        return Ok(None);
    }
    Ok(of_width!(width, View::new(&shape, strides, start)))
}

/// Makes a copy of a view, for elements of the given number of bytes.
/// The caller makes sure that the view lies in the input.
pub(super) fn strided(width: usize, shape: &[usize], strides: Vec<isize>) -> Option<Box<dyn Kernel>> {
    of_width!(width, View::new(shape, strides, 0))
}

/// A view: the output's sizes, the input's stride in each dimension, and the input's first element.
struct View<T> {
    shape: Vec<usize>,
    strides: Vec<isize>,
    start: isize,
    element: std::marker::PhantomData<T>,
}

impl<T> View<T> {
    /// Makes a view, in which dimensions that lie one behind the other on both sides become one.
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

/// The rows and columns that are transposed together; as many lines of the cache are held open.
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
        // The planes are of the last two dimensions, so that a transposition goes tile by tile.
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
        runtime.for_each(pieces, |number, _| {
            for task in piece(tasks, pieces, number) {
                let (plane, band) = (task / bands, task % bands);
                let lines = band * TILE..((band + 1) * TILE).min(high);
                let start = origin(plane);
                // SAFETY: each band of lines is one task's; the view was checked to lie in the
                // input, whose size is the node's.
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
