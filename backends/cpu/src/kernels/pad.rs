//! Pad, in every mode, for elements of any type of whole bytes.

use std::marker::PhantomData;
use std::ops::Range;

use hetero_hal::{DType, Element, Result};

use super::movement::of_width;
use super::tile::piece;
use super::{Kernel, Runtime, Site, TABLE};
use crate::operand::{Arguments, Shared};

/// Returns where the position `at` of an axis with `length` elements comes from, or `None` for the
/// fill.
fn fold(mode: &str, at: i64, length: i64) -> Option<usize> {
    let from = match mode {
        _ if (0..length).contains(&at) => at,
        "edge" => at.clamp(0, length - 1),
        "wrap" => at.rem_euclid(length),
        "reflect" if length == 1 => 0,
        "reflect" => {
            let folded = at.rem_euclid(2 * (length - 1));
            folded.min(2 * (length - 1) - folded)
        }
        _ => return None,
    };
    usize::try_from(from).ok()
}

/// Makes the kernel; pads that are not constant, and an attribute that gives the fill, are left to
/// the oracle.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    let rank = input.shape.len();
    let list = |index: usize, name: &str| -> Result<Option<Vec<i64>>> {
        match (operator.ints(name)?, site.constant(index)) {
            (Some(list), _) => Ok(Some(list.to_vec())),
            (None, Some(tensor)) if matches!(tensor.dtype(), DType::I32 | DType::I64) => Ok(Some(tensor.to_i64_vec()?)),
            _ => Ok(None),
        }
    };
    let Some(pads) = list(1, "pads")? else { return Ok(None) };
    let axes = list(3, "axes")?;
    if site.input(3).is_some() && axes.is_none() {
        return Ok(None);
    }
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    let mode = operator.text("mode")?.unwrap_or("constant");
    let known = matches!(mode, "constant" | "edge" | "reflect" | "wrap");
    let fits = operator.float("value")?.is_none_or(|fill| fill == 0.0)
        && site.input(2).is_none_or(|fill| fill.dtype == input.dtype);
    let long = output.shape.iter().any(|&size| size > TABLE);
    if long || !known || !fits || pads.len() != 2 * axes.len() || (mode != "constant" && input.shape.contains(&0)) {
        return Ok(None);
    }
    let mut before = vec![0i64; rank];
    for (&axis, &pad) in axes.iter().zip(&pads) {
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(usize::MAX);
        match before.get_mut(axis) {
            Some(slot) => *slot = pad,
            None => return Ok(None),
        }
    }
    // Last dimensions that stay as they are belong to the element.
    let same = |axis: &usize| before[*axis] == 0 && input.shape[*axis] == output.shape[*axis];
    let padded = rank - (0..rank).rev().take_while(same).count();
    let block = input.shape[padded..].iter().product();
    let mut sources = Vec::with_capacity(padded);
    for (axis, &before) in before.iter().enumerate().take(padded) {
        let length = input.shape[axis] as i64;
        let stride: usize = input.shape[axis + 1..].iter().product();
        let from = (0..output.shape[axis]).map(|at| fold(mode, at as i64 - before, length));
        sources.push(from.map(|from| from.map(|from| from * stride)).collect::<Vec<_>>());
    }
    Ok(of_width!(input.dtype.bits() / 8, Pad::new(sources, block)))
}

struct Pad<T> {
    /// For each padded dimension but the last, and each position, where the position begins in the
    /// input; `None` for the fill.
    outer: Vec<Vec<Option<usize>>>,
    /// The same for the last padded dimension.
    row: Vec<Option<usize>>,
    /// The positions of the last padded dimension that lie side by side in the input.
    inside: Range<usize>,
    /// The elements behind the padded dimensions.
    block: usize,
    element: PhantomData<fn(T)>,
}

impl<T> Pad<T> {
    fn new(mut outer: Vec<Vec<Option<usize>>>, block: usize) -> Self {
        let row = outer.pop().unwrap_or_else(|| vec![Some(0)]);
        // This finds the longest run, which is the input's own part of the row, because no other
        // part is in order for longer.
        let mut inside = 0..0;
        let mut start = 0;
        for at in 0..row.len() {
            let follows = at > start && matches!((row[at - 1], row[at]), (Some(a), Some(b)) if b == a + block);
            start = if follows { start } else { at };
            if row[at].is_some() && at + 1 - start > inside.len() {
                inside = start..at + 1;
            }
        }
        Pad { outer, row, inside, block, element: PhantomData }
    }
}

impl<T: Element> Kernel for Pad<T> {
    fn name(&self) -> &'static str {
        "pad::Pad"
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<T>(0)?;
        let fill = arguments.optional::<T>(2)?.and_then(|fill| fill.first().copied()).unwrap_or(T::zeroed());
        let output = arguments.output::<T>(0)?;
        let (block, width) = (self.block, self.row.len() * self.block);
        if output.is_empty() {
            return Ok(());
        }
        let rows = output.len() / width;
        let output = Shared::new(output);
        let pieces = runtime.pieces(rows, width);
        runtime.for_each(pieces, |number, _| {
            for number in piece(rows, pieces, number) {
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice(number * width, width) };
                let (mut start, mut rest) = (Some(0), number);
                for from in self.outer.iter().rev() {
                    start = start.zip(from[rest % from.len()]).map(|(start, from)| start + from);
                    rest /= from.len();
                }
                let Some(start) = start else {
                    into.fill(fill);
                    continue;
                };
                let single = |at: usize, into: &mut [T]| match self.row[at] {
                    Some(from) => into.copy_from_slice(&input[start + from..][..block]),
                    None => into.fill(fill),
                };
                for at in (0..self.inside.start).chain(self.inside.end..self.row.len()) {
                    single(at, &mut into[at * block..(at + 1) * block]);
                }
                if let Some(from) = self.row.get(self.inside.start).copied().flatten() {
                    let into = &mut into[self.inside.start * block..self.inside.end * block];
                    into.copy_from_slice(&input[start + from..][..into.len()]);
                }
            }
        });
        Ok(())
    }
}
