//! Reductions of f32 over neighbouring dimensions.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// Elements of a line that are reduced side by side, where the reduced dimensions are not the innermost.
const COLUMNS: usize = 256;

#[derive(Clone, Copy)]
enum Fold {
    Sum,
    Mean,
    SumSquare,
    Max,
    Min,
}

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let fold = match &*site.operator().name {
        "ReduceSum" => Fold::Sum,
        "ReduceMean" => Fold::Mean,
        "ReduceSumSquare" => Fold::SumSquare,
        "ReduceMax" => Fold::Max,
        "ReduceMin" => Fold::Min,
        _ => return Ok(None),
    };
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    if input.dtype != DType::F32 || output.dtype != DType::F32 || input.elements() == 0 {
        return Ok(None);
    }
    let rank = input.shape.len();
    let axes: Vec<i64> = match (site.operator().ints("axes")?, site.input(1), site.constant(1)) {
        (Some(axes), ..) => axes.to_vec(),
        (None, Some(_), Some(axes)) if axes.dtype() == DType::I64 => axes.view::<i64>()?.to_vec(),
        (None, Some(_), _) => return Ok(None),
        (None, None, _) => vec![],
    };
    if axes.is_empty() && site.operator().int("noop_with_empty_axes")?.unwrap_or(0) != 0 {
        return Ok(None);
    }
    let mut reduced = vec![axes.is_empty(); rank];
    for axis in axes {
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(usize::MAX);
        match reduced.get_mut(axis) {
            Some(slot) => *slot = true,
            None => return Ok(None),
        }
    }
    // Sizes before, of, and behind the reduced dimensions, which must be neighbours but for sizes of 1.
    let mut sizes = [1usize, 1, 1];
    let mut part = 0;
    for (&size, &reduced) in input.shape.iter().zip(&reduced) {
        if size == 1 {
            continue;
        }
        part = match (part, reduced) {
            (0, false) => 0,
            (0 | 1, true) => 1,
            (1 | 2, false) => 2,
            _ => return Ok(None),
        };
        sizes[part] *= size;
    }
    Ok(Some(Box::new(Reduce { isa: site.isa, fold, sizes })))
}

struct Reduce {
    isa: Isa,
    fold: Fold,
    /// Before, reduced, behind.
    sizes: [usize; 3],
}

/// Some columns of the result of one outer position.
struct Columns<'a> {
    fold: Fold,
    /// From the first of the columns on.
    input: &'a [f32],
    lines: usize,
    step: usize,
    into: &'a mut [f32],
}

impl Fold {
    fn start(self) -> f32 {
        match self {
            Fold::Max => f32::NEG_INFINITY,
            Fold::Min => f32::INFINITY,
            _ => 0.0,
        }
    }

    #[inline(always)]
    unsafe fn step<S: Simd>(self, result: S::V, x: S::V) -> S::V {
        // SAFETY: the instruction set is there by the caller's promise. NaN is kept.
        unsafe {
            match self {
                Fold::Sum | Fold::Mean => S::add(result, x),
                Fold::SumSquare => S::fma(x, x, result),
                Fold::Max => S::select_nan(result, S::max(result, x)),
                Fold::Min => S::select_nan(result, S::min(result, x)),
            }
        }
    }

    fn one(self, result: f32, x: f32) -> f32 {
        match self {
            Fold::Sum | Fold::Mean => result + x,
            Fold::SumSquare => x * x + result,
            Fold::Max if result.is_nan() || x.is_nan() => f32::NAN,
            Fold::Min if result.is_nan() || x.is_nan() => f32::NAN,
            Fold::Max => result.max(x),
            Fold::Min => result.min(x),
        }
    }
}

impl Job for Columns<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Columns { fold, input, lines, step, into } = self;
        let count = into.len();
        let mean = if matches!(fold, Fold::Mean) { 1.0 / lines as f32 } else { 1.0 };
        // SAFETY: each vector lies in its line or in the result.
        unsafe {
            if step == 1 {
                // One column, whose lines lie together.
                let line = &input[..lines];
                let chunks = line.chunks_exact(S::LANES * 2);
                let rest = chunks.remainder();
                let mut sums = [S::splat(fold.start()); 2];
                for chunk in chunks {
                    for (index, sum) in sums.iter_mut().enumerate() {
                        *sum = fold.step::<S>(*sum, S::load(chunk.as_ptr().add(index * S::LANES)));
                    }
                }
                let mut lanes = [fold.start(); crate::simd::WIDEST * 2];
                S::store(lanes.as_mut_ptr(), sums[0]);
                S::store(lanes.as_mut_ptr().add(S::LANES), sums[1]);
                // The lanes are folded already, so a sum of squares adds them.
                let last = if matches!(fold, Fold::SumSquare) { Fold::Sum } else { fold };
                let whole = lanes[..S::LANES * 2].iter().fold(fold.start(), |a, &b| last.one(a, b));
                into[0] = rest.iter().fold(whole, |a, &b| fold.one(a, b)) * mean;
                return;
            }
            let mut at = 0;
            while at < count {
                let lanes = (count - at).min(S::LANES);
                let whole = lanes == S::LANES;
                let mut result = S::splat(fold.start());
                for line in 0..lines {
                    let from = input.as_ptr().add(line * step + at);
                    let x = if whole { S::load(from) } else { S::load_first(from, lanes) };
                    result = fold.step::<S>(result, x);
                }
                result = S::mul(result, S::splat(mean));
                S::store_first(into.as_mut_ptr().add(at), lanes, result);
                at += lanes;
            }
        }
    }
}

impl Kernel for Reduce {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let [outer, lines, inner] = self.sizes;
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let shares = inner.div_ceil(COLUMNS);
        let pieces = runtime.pieces(outer * shares, lines * inner.min(COLUMNS));
        runtime.pool.for_each(pieces, |number, _| {
            for task in piece(outer * shares, pieces, number) {
                let (position, columns) = (task / shares, piece(inner, shares, task % shares));
                let input = &input[position * lines * inner + columns.start..(position + 1) * lines * inner];
                // SAFETY: each part of the result is one task's; the job reads `lines` lines of it, `inner` apart.
                unsafe {
                    let into = output.slice(position * inner + columns.start, columns.len());
                    self.isa.run(Columns { fold: self.fold, input, lines, step: inner, into });
                }
            }
        });
        Ok(())
    }
}
