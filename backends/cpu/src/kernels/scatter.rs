//! Operators that write elements and blocks to the places that indices name, and the one that reads
//! blocks from there, for elements of any type of whole bytes.
//!
//! Several updates of one place are done in the order of the updates, however many threads there
//! are: a task has some of the places, and goes over all updates that may lead there.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use hetero_hal::{DType, Element, Error, Result};

use super::movement::of_width;
use super::numbers::{Number, of_number};
use super::select::{Indices, axis};
use super::tile::piece;
use super::{Kernel, Runtime, Site, strides};
use crate::operand::{Arguments, Shared};

/// What an update makes of the element that is there.
trait Update<T>: Send + Sync + 'static {
    fn apply(there: T, update: T) -> T;
}

/// The update takes the element's place.
struct Replace;

impl<T: Element> Update<T> for Replace {
    #[inline(always)]
    fn apply(_: T, update: T) -> T {
        update
    }
}

macro_rules! updates {
    ($($name:ident = $function:ident;)*) => {
        $(
            struct $name;

            impl<T: Number> Update<T> for $name {
                #[inline(always)]
                fn apply(there: T, update: T) -> T {
                    T::$function(there, update)
                }
            }
        )*
    };
}

updates! {
    Plus = add;
    Times = mul;
    Larger = larger;
    Smaller = smaller;
}

/// Makes a kernel for a reduction by its name.
macro_rules! of_reduction {
    ($reduction:expr, $kernel:ident::<$type:ident>($($argument:expr),*)) => {
        match $reduction {
            "add" => Some(Box::new($kernel::<$type, Plus>::new($($argument),*)) as Box<dyn Kernel>),
            "mul" => Some(Box::new($kernel::<$type, Times>::new($($argument),*)) as Box<dyn Kernel>),
            "max" => Some(Box::new($kernel::<$type, Larger>::new($($argument),*)) as Box<dyn Kernel>),
            "min" => Some(Box::new($kernel::<$type, Smaller>::new($($argument),*)) as Box<dyn Kernel>),
            _ => None,
        }
    };
}

/// The neighbouring columns that a task has at least: a line of the cache.
const COLUMNS: usize = 16;

/// The number of updates from which on several tasks go over all of them.
const SHARED: usize = 1 << 15;

pub(super) fn elements(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(data), Some(indices), Some(updates)) = (site.input(0), site.input(1), site.input(2)) else {
        return Ok(None);
    };
    let rank = data.shape.len();
    let (Some(axis), DType::I32 | DType::I64) = (axis(site, rank)?, indices.dtype) else { return Ok(None) };
    let inside = |(place, (size, own)): (usize, (&usize, &usize))| place == axis || size <= own;
    let fits = indices.shape.len() == rank
        && indices.shape.iter().zip(&data.shape).enumerate().all(inside)
        && updates.shape == indices.shape
        && updates.dtype == data.dtype;
    if !fits {
        return Ok(None);
    }
    let places = Places::new(&data.shape, &indices.shape, axis, indices.dtype);
    let kernel = match site.operator().text("reduction")?.unwrap_or("none") {
        "none" => {
            fn make<T: Element>(places: Places) -> Option<Box<dyn Kernel>> {
                Some(Box::new(Elements::<T, Replace>::new(places)))
            }
            match data.dtype.bits() / 8 {
                1 => make::<u8>(places),
                2 => make::<u16>(places),
                4 => make::<u32>(places),
                8 => make::<u64>(places),
                _ => None,
            }
        }
        reduction => {
            fn make<T: Number>(places: Places, reduction: &str) -> Option<Box<dyn Kernel>> {
                of_reduction!(reduction, Elements::<T>(places))
            }
            of_number!(data.dtype, make(places, reduction))
        }
    };
    Ok(kernel)
}

/// The places of elements that indices along an axis name.
#[derive(Clone)]
struct Places {
    /// The sizes of the indices' dimensions but the axis and the last one, with the strides of the
    /// indices and of the data.
    outer: Vec<(usize, usize, usize)>,
    /// The indices along the axis, and their stride; `step` is the stride of the data.
    count: usize,
    stride: usize,
    step: usize,
    /// The size of the data along the axis.
    size: usize,
    /// The neighbouring elements, which is one where the axis is the last one.
    row: usize,
    dtype: DType,
}

impl Places {
    fn new(data: &[usize], indices: &[usize], axis: usize, dtype: DType) -> Self {
        // Last dimensions that the indices cover wholly are one with the one before.
        let (mut data, mut indices) = (data.to_vec(), indices.to_vec());
        while let (&[.., of, last], &[.., count, own]) = (&*data, &*indices)
            && data.len() > axis + 2
            && last == own
        {
            data.pop();
            indices.pop();
            let before = data.len() - 1;
            (data[before], indices[before]) = (of * last, count * own);
        }
        let (own, theirs) = (strides(&indices), strides(&data));
        let last = indices.len() - 1;
        let others = (0..indices.len()).filter(|&place| place != axis && place != last);
        Places {
            outer: others.map(|place| (indices[place], own[place], theirs[place])).collect(),
            count: indices[axis],
            stride: own[axis],
            step: theirs[axis],
            size: data[axis],
            row: if axis == last { 1 } else { indices[last] },
            dtype,
        }
    }

    /// Returns the first index and the first element of a line.
    fn starts(&self, mut line: usize) -> (usize, usize) {
        let mut starts = (0, 0);
        for &(size, own, theirs) in self.outer.iter().rev() {
            starts.0 += line % size * own;
            starts.1 += line % size * theirs;
            line /= size;
        }
        starts
    }
}

struct Elements<T, U> {
    places: Places,
    update: PhantomData<fn(T) -> U>,
}

/// The updates of a line that a task does: of some columns, those that lead to some of the places.
struct Part<'a, T> {
    indices: Indices<'a>,
    updates: &'a [T],
    into: Shared<T>,
    /// The line's first index, and the first element.
    starts: (usize, usize),
    columns: Range<usize>,
    places: Range<usize>,
}

impl<T: Element, U: Update<T>> Elements<T, U> {
    fn new(places: Places) -> Self {
        Elements { places, update: PhantomData }
    }

    /// Does the updates of a part, and tells whether all of its indices are inside.
    fn line(&self, part: &Part<'_, T>) -> bool {
        let Places { count, stride, step, size, .. } = self.places;
        let Part { indices, updates, into, starts: (from, to), ref columns, ref places } = *part;
        let mut inside = true;
        for number in 0..count {
            let at = from + number * stride + columns.start;
            // Indices that a broadcast made lead all columns of a row to one place.
            if columns.len() > 1 && indices.are_equal(at..at + columns.len()) {
                match indices.checked(at, size) {
                    None => inside = false,
                    Some(place) if places.contains(&place) => {
                        // SAFETY: the places lie in the data, and their task has them alone.
                        let into = unsafe { into.slice(to + place * step + columns.start, columns.len()) };
                        let updates = &updates[at..at + columns.len()];
                        into.iter_mut().zip(updates).for_each(|(into, &update)| *into = U::apply(*into, update));
                    }
                    Some(_) => {}
                }
                continue;
            }
            for column in 0..columns.len() {
                let Some(place) = indices.checked(at + column, size) else {
                    inside = false;
                    continue;
                };
                if places.contains(&place) {
                    // SAFETY: as above.
                    let into = unsafe { &mut *into.at(to + place * step + columns.start + column) };
                    *into = U::apply(*into, updates[at + column]);
                }
            }
        }
        inside
    }
}

impl<T: Element, U: Update<T>> Kernel for Elements<T, U> {
    fn name(&self) -> &'static str {
        "scatter::Elements"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Places { count, size, row, dtype, .. } = self.places;
        let indices = Indices::of(arguments, dtype)?;
        let updates = arguments.input::<T>(2)?;
        let into = Shared::new(arguments.start_from::<T>(0)?);
        let lines: usize = self.places.outer.iter().map(|(size, ..)| size).product();
        if lines * count * row == 0 {
            return Ok(());
        }
        let threads = runtime.pool.threads();
        // Rows are divided no further than there are threads for.
        let shares = row.div_ceil(COLUMNS).min((threads * 2).div_ceil(lines));
        let tasks = lines * shares;
        let inside = AtomicBool::new(true);
        let note = |fine: bool| {
            if !fine {
                inside.store(false, Ordering::Relaxed);
            }
        };
        let part = |starts, columns, places| Part { indices, updates, into, starts, columns, places };
        if tasks == 1 && count * row >= SHARED {
            // Everybody looks at all indices, and does those of a part of the places.
            runtime.for_each(threads, |number, _| {
                note(self.line(&part((0, 0), 0..row, piece(size, threads, number))));
            });
        } else {
            let pieces = runtime.pieces(tasks, count * row.div_ceil(shares) * 2);
            runtime.for_each(pieces, |number, _| {
                for task in piece(tasks, pieces, number) {
                    let columns = piece(row, shares, task % shares);
                    note(self.line(&part(self.places.starts(task / shares), columns, 0..size)));
                }
            });
        }
        if inside.into_inner() { Ok(()) } else { Err(indices.wrong(|_| size)) }
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

/// The blocks of a tensor that rows of indices name.
#[derive(Clone)]
struct Blocks {
    /// The sizes that the indices of a row choose from, with their strides in blocks.
    levels: Vec<(usize, usize)>,
    /// The number of rows, and those of a batch, whose blocks begin `batch` blocks behind those of
    /// the batch before.
    rows: usize,
    rows_of_batch: usize,
    batch: usize,
    /// The elements of a block.
    block: usize,
    dtype: DType,
}

impl Blocks {
    /// Returns the blocks of a node's first input that its second one names, or `None` where they
    /// do not fit.
    fn of(site: Site<'_>, batch: usize) -> Option<Blocks> {
        let (data, indices) = (site.input(0)?, site.input(1)?);
        let (&depth, before) = indices.shape.split_last()?;
        let used = data.shape.get(batch..batch.checked_add(depth)?)?;
        if !matches!(indices.dtype, DType::I32 | DType::I64) || data.elements() == 0 {
            return None;
        }
        let levels = used.iter().enumerate().map(|(level, &size)| (size, used[level + 1..].iter().product()));
        let rows: usize = before.iter().product();
        let batches: usize = data.shape[..batch].iter().product();
        (data.shape[..batch] == *before.get(..batch)?).then(|| Blocks {
            levels: levels.collect(),
            rows,
            rows_of_batch: rows / batches,
            batch: used.iter().product(),
            block: data.shape[batch + depth..].iter().product(),
            dtype: indices.dtype,
        })
    }

    /// Returns the number of the block that a row names, or `None` where an index is outside.
    fn at(&self, indices: Indices<'_>, row: usize) -> Option<usize> {
        let start = row / self.rows_of_batch.max(1) * self.batch;
        self.levels.iter().enumerate().try_fold(start, |at, (level, &(size, stride))| {
            Some(at + indices.checked(row * self.levels.len() + level, size)? * stride)
        })
    }

    fn wrong(&self, indices: Indices<'_>) -> Error {
        indices.wrong(|at| self.levels[at % self.levels.len().max(1)].0)
    }
}

pub(super) fn gather_blocks(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let batch = usize::try_from(site.operator().int("batch_dims")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let (Some(blocks), Some(output)) = (Blocks::of(site, batch), site.output(0)) else { return Ok(None) };
    if blocks.rows.checked_mul(blocks.block) != Some(output.elements()) {
        return Ok(None);
    }
    Ok(of_width!(output.dtype.bits() / 8, GatherBlocks::new(blocks)))
}

struct GatherBlocks<T> {
    blocks: Blocks,
    element: PhantomData<fn(T)>,
}

impl<T> GatherBlocks<T> {
    fn new(blocks: Blocks) -> Self {
        GatherBlocks { blocks, element: PhantomData }
    }
}

impl<T: Element> Kernel for GatherBlocks<T> {
    fn name(&self) -> &'static str {
        "scatter::GatherBlocks"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Blocks { rows, block, dtype, .. } = self.blocks;
        let indices = Indices::of(arguments, dtype)?;
        let input = arguments.input::<T>(0)?;
        let output = Shared::new(arguments.output::<T>(0)?);
        let inside = AtomicBool::new(true);
        let pieces = runtime.pieces(rows, block + 2 * self.blocks.levels.len());
        runtime.for_each(pieces, |number, _| {
            for row in piece(rows, pieces, number) {
                let Some(from) = self.blocks.at(indices, row) else {
                    inside.store(false, Ordering::Relaxed);
                    continue;
                };
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice(row * block, block) };
                match into {
                    [only] => *only = input[from],
                    into => into.copy_from_slice(&input[from * block..][..block]),
                }
            }
        });
        if inside.into_inner() { Ok(()) } else { Err(self.blocks.wrong(indices)) }
    }
}

pub(super) fn blocks(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(blocks), Some(data), Some(updates)) = (Blocks::of(site, 0), site.input(0), site.input(2)) else {
        return Ok(None);
    };
    if blocks.rows.checked_mul(blocks.block) != Some(updates.elements()) || updates.dtype != data.dtype {
        return Ok(None);
    }
    fn plain<T: Element>(blocks: Blocks) -> Option<Box<dyn Kernel>> {
        Some(Box::new(ScatterBlocks::<T, Replace>::new(blocks)))
    }
    fn reducing<T: Number>(blocks: Blocks, reduction: &str) -> Option<Box<dyn Kernel>> {
        of_reduction!(reduction, ScatterBlocks::<T>(blocks))
    }
    Ok(match site.operator().text("reduction")?.unwrap_or("none") {
        "none" => match data.dtype.bits() / 8 {
            1 => plain::<u8>(blocks),
            2 => plain::<u16>(blocks),
            4 => plain::<u32>(blocks),
            8 => plain::<u64>(blocks),
            _ => None,
        },
        reduction => of_number!(data.dtype, reducing(blocks, reduction)),
    })
}

struct ScatterBlocks<T, U> {
    blocks: Blocks,
    update: PhantomData<fn(T) -> U>,
}

impl<T, U> ScatterBlocks<T, U> {
    fn new(blocks: Blocks) -> Self {
        ScatterBlocks { blocks, update: PhantomData }
    }
}

impl<T: Element, U: Update<T>> Kernel for ScatterBlocks<T, U> {
    fn name(&self) -> &'static str {
        "scatter::ScatterBlocks"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Blocks { rows, block, batch, dtype, .. } = self.blocks;
        let indices = Indices::of(arguments, dtype)?;
        let updates = arguments.input::<T>(2)?;
        let into = Shared::new(arguments.start_from::<T>(0)?);
        // The places of a task are columns of all blocks, or some blocks where they are short.
        let wide = block >= 8 * COLUMNS;
        let threads = runtime.pool.threads();
        let tasks = if rows * block < SHARED { 1 } else { threads };
        let inside = AtomicBool::new(true);
        runtime.for_each(tasks, |number, _| {
            let columns = if wide { piece(block, tasks, number) } else { 0..block };
            let own = if wide { 0..batch } else { piece(batch, tasks, number) };
            for row in 0..rows {
                let Some(place) = self.blocks.at(indices, row) else {
                    inside.store(false, Ordering::Relaxed);
                    continue;
                };
                if !own.contains(&place) {
                    continue;
                }
                // SAFETY: the block lies in the data, and its task has these columns alone.
                let into = unsafe { into.slice(place * block + columns.start, columns.len()) };
                let from = &updates[row * block..][columns.clone()];
                into.iter_mut().zip(from).for_each(|(into, &update)| *into = U::apply(*into, update));
            }
        });
        if inside.into_inner() { Ok(()) } else { Err(self.blocks.wrong(indices)) }
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
