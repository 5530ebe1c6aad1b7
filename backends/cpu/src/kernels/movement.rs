//! Operators that move elements and compute nothing.

use hetero_hal::Result;
use rayon::prelude::*;

use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

/// Operators that keep the bytes and change the shape: nothing to do where the output shares the input's memory.
pub(super) fn copy(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Dropout that may be in training mode, or gives a mask, is the oracle's.
    let training = site.operator().is("Dropout") && site.input(2).is_some();
    let plain = site.node.outputs.len() == 1 && !training;
    Ok(plain.then(|| Box::new(Copy) as Box<dyn Kernel>))
}

struct Copy;

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
struct Concat {
    blocks: Vec<usize>,
}

impl Kernel for Concat {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let inputs = (0..self.blocks.len()).map(|i| arguments.input::<u8>(i)).collect::<Result<Vec<_>>>()?;
        let row: usize = self.blocks.iter().sum();
        if row == 0 {
            return Ok(());
        }
        for (number, into) in arguments.output::<u8>(0)?.chunks_exact_mut(row).enumerate() {
            let mut at = 0;
            for (input, &block) in inputs.iter().zip(&self.blocks) {
                into[at..at + block].copy_from_slice(&input[number * block..(number + 1) * block]);
                at += block;
            }
        }
        Ok(())
    }
}

pub(super) fn transpose(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else {
        return Ok(None);
    };
    let rank = input.shape.len();
    if rank == 0 || input.dtype.bits() != 32 {
        return Ok(None);
    }
    let order: Vec<usize> = match site.operator().ints("perm")? {
        None => (0..rank).rev().collect(),
        Some(perm) => perm.iter().map(|&axis| if axis < 0 { axis + rank as i64 } else { axis } as usize).collect(),
    };
    let mut own = vec![1; rank];
    for axis in (1..rank).rev() {
        own[axis - 1] = own[axis] * input.shape[axis];
    }
    let strides: Option<Vec<usize>> = order.iter().map(|&axis| own.get(axis).copied()).collect();
    let Some(strides) = strides.filter(|strides| strides.len() == rank) else {
        return Ok(None);
    };
    Ok(Some(Box::new(Transpose { shape: output.shape.clone(), strides })))
}

/// The output's sizes, and the input's stride in each.
struct Transpose {
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Kernel for Transpose {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<u32>(0)?;
        let last = self.shape.len() - 1;
        let (row, step) = (self.shape[last], self.strides[last]);
        if input.is_empty() {
            return Ok(());
        }
        arguments.output::<u32>(0)?.par_chunks_mut(row).enumerate().with_min_len(64).for_each(|(number, into)| {
            let (mut start, mut rest) = (0, number);
            for axis in (0..last).rev() {
                start += rest % self.shape[axis] * self.strides[axis];
                rest /= self.shape[axis];
            }
            if step == 1 {
                into.copy_from_slice(&input[start..start + row]);
            } else {
                for (index, value) in into.iter_mut().enumerate() {
                    *value = input[start + index * step];
                }
            }
        });
        Ok(())
    }
}
