//! MaxPool that also says where the largest elements are, and MaxUnpool, which puts them back.

use std::sync::atomic::{AtomicBool, Ordering};

use hetero_hal::{DType, Error, Result};
use hetero_reference::Window;

use super::tile::piece;
use super::{Kernel, PLACES, Runtime, Site, TABLE, keeps_table};
use crate::operand::{Arguments, Shared};

/// The largest elements of windows over one or two dimensions, with their places.
struct Maxima {
    /// The sizes of a plane; one dimension is a row.
    plane: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    begin: [usize; 2],
    /// Whether places count along columns.
    column_major: bool,
}

pub(super) fn pool(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(input), Some(kernel)) = (site.input(0), operator.ints("kernel_shape")?) else { return Ok(None) };
    let places = site.output(1).is_some_and(|places| places.dtype == DType::I64);
    let values = site.output(0).is_none_or(|values| values.dtype == DType::F32);
    let (&[_, _, ref spatial @ ..], true) = (input.shape.as_slice(), input.dtype == DType::F32 && places && values)
    else {
        return Ok(None);
    };
    if !matches!(spatial.len(), 1 | 2) || input.elements() == 0 {
        return Ok(None);
    }
    let kernel: Vec<usize> = kernel.iter().map(|&size| size.max(0) as usize).collect();
    let window = Window::resolve(operator, spatial, &kernel)?;
    if !keeps_table(&window.kernel, TABLE) || !keeps_table(&window.output, PLACES) {
        return Ok(None);
    }
    let axis = |list: &[usize], one: usize| if let [only] = *list { [one, only] } else { [list[0], list[1]] };
    Ok(Some(Box::new(Maxima {
        plane: axis(spatial, 1),
        output: axis(&window.output, 1),
        kernel: axis(&window.kernel, 1),
        strides: axis(&window.strides, 1),
        dilations: axis(&window.dilations, 1),
        begin: axis(&window.begin, 0),
        column_major: operator.int("storage_order")?.unwrap_or(0) != 0,
    })))
}

impl Maxima {
    /// Returns the positions along an axis that a window reads.
    fn along(&self, axis: usize, at: usize) -> impl Iterator<Item = usize> + Clone {
        let (first, begin, size) = (at * self.strides[axis], self.begin[axis], self.plane[axis]);
        let step = self.dilations[axis];
        (0..self.kernel[axis])
            .filter_map(move |tap| (first + tap * step).checked_sub(begin))
            .filter(move |at| *at < size)
    }

    /// Returns the place of the largest element of a window: the first one, and NaN before all.
    fn find(&self, plane: &[f32], row: usize, column: usize) -> Option<usize> {
        let mut best: Option<usize> = None;
        let columns = self.along(1, column);
        for y in self.along(0, row) {
            for x in columns.clone() {
                let (place, value) = (y * self.plane[1] + x, plane[y * self.plane[1] + x]);
                let better = |other: usize| value > plane[other] || (value.is_nan() && !plane[other].is_nan());
                if best.is_none_or(better) {
                    best = Some(place);
                }
            }
        }
        best
    }
}

impl Kernel for Maxima {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let values = if arguments.wants(0) { Some(Shared::new(arguments.output::<f32>(0)?)) } else { None };
        let places = Shared::new(arguments.output::<i64>(1)?);
        let ([height, width], [rows, columns]) = (self.plane, self.output);
        let lines = input.len() / (height * width) * rows;
        let pieces = runtime.pieces(lines, columns * self.kernel[0] * self.kernel[1] * 2);
        runtime.for_each(pieces, |number, _| {
            for line in piece(lines, pieces, number) {
                let base = line / rows * height * width;
                for column in 0..columns {
                    let found = self.find(&input[base..base + height * width], line % rows, column);
                    let place = found.map_or(-1, |place| {
                        let turned = place % width * height + place / width;
                        (base + if self.column_major { turned } else { place }) as i64
                    });
                    // SAFETY: each line is one task's.
                    unsafe {
                        *places.at(line * columns + column) = place;
                        if let Some(values) = values {
                            *values.at(line * columns + column) =
                                found.map_or(f32::NEG_INFINITY, |place| input[base + place]);
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

pub(super) fn unpool(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(places), Some(output)) = (site.input(0), site.input(1), site.output(0)) else {
        return Ok(None);
    };
    let fits = input.dtype == DType::F32 && places.dtype == DType::I64 && places.elements() == input.elements();
    // Where the size is given, places count in a tensor of another size.
    let natural = site.input(2).is_none() && output.dtype == DType::F32;
    Ok((fits && natural).then(|| Box::new(Unpool { shape: output.shape.clone() }) as Box<dyn Kernel>))
}

/// The number of elements from which on several tasks go over all of them.
const SHARED: usize = 1 << 15;

struct Unpool {
    shape: Vec<usize>,
}

impl Kernel for Unpool {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (values, places) = (arguments.input::<f32>(0)?, arguments.input::<i64>(1)?);
        let output = arguments.output::<f32>(0)?;
        let (count, output) = (output.len(), Shared::new(output));
        let tasks = if values.len() < SHARED { 1 } else { runtime.pool.threads() };
        let inside = AtomicBool::new(true);
        // A task has a part of the places, so that the last of several values stays.
        runtime.for_each(tasks, |number, _| {
            let own = piece(count, tasks, number);
            // SAFETY: each part is one task's.
            let into = unsafe { output.slice(own.start, own.len()) };
            into.fill(0.0);
            for (&place, &value) in places.iter().zip(values) {
                match usize::try_from(place).ok().filter(|&place| place < count) {
                    Some(place) if own.contains(&place) => into[place - own.start] = value,
                    Some(_) => {}
                    None => inside.store(false, Ordering::Relaxed),
                }
            }
        });
        match inside.into_inner() {
            true => Ok(()),
            false => Err(Error::invalid_model(format!("a position is outside {:?}", self.shape))),
        }
    }
}
