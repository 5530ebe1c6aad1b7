//! Element-wise operators on f32.

use hetero_hal::{DType, Result};
use rayon::prelude::*;

use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

/// Elements that one task works on: enough to pay for handing it over.
const CHUNK: usize = 16 * 1024;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !site.all(DType::F32) {
        return Ok(None);
    }
    if let Some(function) = unary(site)? {
        return Ok(Some(Box::new(Unary(function))));
    }
    let Some(function) = binary(&site.operator().name) else {
        return Ok(None);
    };
    let Some(output) = site.output(0) else { return Ok(None) };
    let others = (1..site.node.inputs.len()).map(|index| site.shape(index)).collect::<Option<Vec<_>>>();
    let (Some(first), Some(others)) = (site.shape(0), others) else {
        return Ok(None);
    };
    // A sum of several tensors: the first ones may be smaller than the result only where there are two.
    if others.is_empty() || (others.len() > 1 && first != output.shape) {
        return Ok(None);
    }
    let pieces = |shape: &[usize]| Broadcast::new(shape, &output.shape);
    Ok(Some(Box::new(Binary { function, first: pieces(first), others: others.into_iter().map(pieces).collect() })))
}

type Function = Box<dyn Fn(f32) -> f32 + Send + Sync>;

/// The function of a unary operator.
fn unary(site: Site<'_>) -> Result<Option<Function>> {
    let operator = site.operator();
    Ok(Some(match &*operator.name {
        "Relu" => Box::new(|x: f32| if x < 0.0 { 0.0 } else { x }),
        "Sigmoid" => Box::new(sigmoid),
        "Tanh" => Box::new(f32::tanh),
        "Exp" => Box::new(f32::exp),
        "Log" => Box::new(f32::ln),
        "Sqrt" => Box::new(f32::sqrt),
        "Neg" => Box::new(|x: f32| -x),
        "Abs" => Box::new(f32::abs),
        "Reciprocal" => Box::new(f32::recip),
        "Floor" => Box::new(f32::floor),
        "Ceil" => Box::new(f32::ceil),
        "LeakyRelu" => {
            let alpha = operator.float("alpha")?.unwrap_or(0.01);
            Box::new(move |x: f32| if x < 0.0 { alpha * x } else { x })
        }
        "Clip" => {
            let limit = |index: usize, name: &str| -> Result<Option<Option<f32>>> {
                if let Some(value) = operator.float(name)? {
                    return Ok(Some(Some(value)));
                }
                match (site.input(index), site.constant(index)) {
                    (None, _) => Ok(Some(None)),
                    (Some(_), None) => Ok(None),
                    (Some(_), Some(tensor)) => Ok(Some(tensor.view::<f32>()?.first().copied())),
                }
            };
            let (Some(low), Some(high)) = (limit(1, "min")?, limit(2, "max")?) else {
                return Ok(None);
            };
            let (low, high) = (low.unwrap_or(f32::NEG_INFINITY), high.unwrap_or(f32::INFINITY));
            Box::new(move |x: f32| {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            })
        }
        _ => return Ok(None),
    }))
}

/// The logistic function, without overflow on either side.
pub(super) fn sigmoid(x: f32) -> f32 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

struct Unary(Function);

impl Kernel for Unary {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let values = arguments.start_from::<f32>(0)?;
        values.par_chunks_mut(CHUNK).for_each(|chunk| {
            for value in chunk {
                *value = (self.0)(*value);
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

fn binary(name: &str) -> Option<fn(f32, f32) -> f32> {
    Some(match name {
        "Add" | "Sum" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Max" => |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) },
        "Min" => |a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) },
        "Pow" => f32::powf,
        "PRelu" => |x, slope| if x < 0.0 { slope * x } else { x },
        _ => return None,
    })
}

/// How a smaller tensor repeats over a larger one, row by row of the larger one's last dimension.
struct Broadcast {
    /// Sizes of the larger tensor but its last.
    outer: Vec<usize>,
    /// The smaller tensor's stride in each of those.
    strides: Vec<usize>,
    /// Length of a row.
    row: usize,
    /// The smaller tensor's stride within a row: 1, or 0 where it repeats.
    step: usize,
    /// Is nothing repeated at all?
    same: bool,
}

impl Broadcast {
    fn new(shape: &[usize], target: &[usize]) -> Self {
        let mut strides = vec![0; target.len()];
        let lead = target.len() - shape.len();
        let mut stride = 1;
        for axis in (0..shape.len()).rev() {
            if shape[axis] != 1 {
                strides[lead + axis] = stride;
            }
            stride *= shape[axis];
        }
        let row = target.last().copied().unwrap_or(1);
        let step = strides.pop().unwrap_or(0);
        let outer = target[..target.len().saturating_sub(1)].to_vec();
        Broadcast { outer, strides, row, step, same: shape == target }
    }

    /// Where the smaller tensor's elements for a row begin.
    fn start(&self, mut row: usize) -> usize {
        let mut start = 0;
        for (size, stride) in self.outer.iter().zip(&self.strides).rev() {
            start += row % size * stride;
            row /= size;
        }
        start
    }
}

struct Binary {
    function: fn(f32, f32) -> f32,
    first: Broadcast,
    others: Vec<Broadcast>,
}

impl Kernel for Binary {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let function = self.function;
        let result = if self.first.same {
            arguments.start_from::<f32>(0)?
        } else {
            let a = arguments.input::<f32>(0)?;
            let result = arguments.output::<f32>(0)?;
            let rows = result.par_chunks_mut(self.first.row.max(1)).enumerate();
            rows.for_each(|(row, into)| {
                let start = self.first.start(row);
                for (index, value) in into.iter_mut().enumerate() {
                    *value = a[start + index * self.first.step];
                }
            });
            result
        };
        for (index, pattern) in self.others.iter().enumerate() {
            let b = arguments.input::<f32>(index + 1)?;
            if pattern.same {
                result.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| {
                    for (a, b) in a.iter_mut().zip(b) {
                        *a = function(*a, *b);
                    }
                });
                continue;
            }
            // Whole rows per task, as many as make a chunk.
            let row = pattern.row.max(1);
            let rows = (CHUNK / row).max(1);
            result.par_chunks_mut(row * rows).enumerate().for_each(|(task, chunk)| {
                for (index, a) in chunk.chunks_mut(row).enumerate() {
                    let start = pattern.start(task * rows + index);
                    if pattern.step == 0 {
                        let b = b[start];
                        a.iter_mut().for_each(|a| *a = function(*a, b));
                    } else {
                        a.iter_mut().zip(&b[start..]).for_each(|(a, b)| *a = function(*a, *b));
                    }
                }
            });
        }
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        if self.first.same { &[0] } else { &[] }
    }
}
