//! Pooling over two spatial dimensions, and over all of space, on f32.

use hetero_hal::{DType, Result};
use hetero_reference::Window;
use rayon::prelude::*;

use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(shape) = site.shape(0).filter(|shape| shape.len() >= 3) else {
        return Ok(None);
    };
    let operator = site.operator();
    if !site.all(DType::F32) || site.node.outputs.len() > 1 {
        return Ok(None);
    }
    let average = operator.name.ends_with("AveragePool");
    if operator.name.starts_with("Global") {
        let plane = shape[2..].iter().product();
        return Ok(Some(Box::new(Global { plane, average })));
    }
    let (&[_, _, height, width], Some(kernel)) = (shape, operator.ints("kernel_shape")?) else {
        return Ok(None);
    };
    let kernel: Vec<usize> = kernel.iter().map(|&size| size.max(0) as usize).collect();
    let window = Window::resolve(operator, &shape[2..], &kernel)?;
    let with_padding = operator.int("count_include_pad")?.unwrap_or(0) != 0;
    Ok(Some(Box::new(Pool { height, width, window, average, with_padding })))
}

struct Global {
    plane: usize,
    average: bool,
}

impl Kernel for Global {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<f32>(0)?;
        let planes = input.par_chunks_exact(self.plane.max(1));
        output.par_iter_mut().zip(planes).with_min_len(16).for_each(|(into, plane)| {
            *into = if self.average { plane.iter().sum::<f32>() / plane.len() as f32 } else { highest(plane) };
        });
        Ok(())
    }
}

/// The largest value; NaN wins.
fn highest(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
}

struct Pool {
    height: usize,
    width: usize,
    window: Window,
    average: bool,
    with_padding: bool,
}

/// Taps of one window along one axis: positions on the input, and how many lie on input or padding.
fn reach(window: &Window, axis: usize, at: usize, size: usize) -> (impl Iterator<Item = usize> + Clone, usize) {
    let (stride, dilation, begin) = (window.strides[axis], window.dilations[axis], window.begin[axis]);
    let limit = size + begin + window.end[axis];
    let taps = (0..window.kernel[axis]).map(move |tap| at * stride + tap * dilation);
    let padded = taps.clone().filter(|&tap| tap < limit).count();
    (taps.filter_map(move |tap| tap.checked_sub(begin).filter(|&tap| tap < size)), padded)
}

impl Kernel for Pool {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<f32>(0)?;
        let (rows, columns) = (self.window.output[0], self.window.output[1]);
        if rows * columns == 0 {
            return Ok(());
        }
        output.par_chunks_mut(rows * columns).enumerate().for_each(|(number, into)| {
            let plane = &input[number * self.height * self.width..][..self.height * self.width];
            for (row, line) in into.chunks_mut(columns).enumerate() {
                let (vertical, padded_rows) = reach(&self.window, 0, row, self.height);
                for (column, value) in line.iter_mut().enumerate() {
                    let (horizontal, padded_columns) = reach(&self.window, 1, column, self.width);
                    let (mut sum, mut largest, mut count) = (0.0f32, f32::NEG_INFINITY, 0usize);
                    for y in vertical.clone() {
                        for x in horizontal.clone() {
                            let tap = plane[y * self.width + x];
                            sum += tap;
                            largest = if tap > largest || tap.is_nan() { tap } else { largest };
                            count += 1;
                        }
                    }
                    let count = if self.with_padding { padded_rows * padded_columns } else { count };
                    *value = if self.average { sum / count as f32 } else { largest };
                }
            }
        });
        Ok(())
    }
}
