//! Positions of the largest and smallest elements along an axis: of f32 in vectors, and of other
//! types by `folds`.

use hetero_hal::{DType, Result};

use super::lines::Lines;
use super::{Kernel, Runtime, Site, folds};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd, WIDEST};

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let Some(input) = site.input(0) else { return Ok(None) };
    let Some(lines) = Lines::of(&input.shape, operator.int("axis")?.unwrap_or(0)) else { return Ok(None) };
    let last = operator.int("select_last_index")?.unwrap_or(0) != 0;
    let smallest = operator.is("ArgMin");
    if input.dtype != DType::F32 {
        return Ok(folds::arg(input.dtype, lines, smallest, last));
    }
    Ok(Some(Box::new(Arg { isa: site.isa, lines, smallest, last })))
}

struct Arg {
    isa: Isa,
    lines: Lines,
    smallest: bool,
    /// Whether the last one of equal elements counts.
    last: bool,
}

/// Up to [`WIDEST`] lines that lie side by side, or one line whose elements do.
struct Places<'a> {
    arg: &'a Arg,
    /// The elements from the lines' first element on.
    input: &'a [f32],
    into: &'a mut [i64],
}

impl Job for Places<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Places { arg, input, into } = self;
        let Lines { length, inner, .. } = arg.lines;
        // NaN is better than everything.
        if inner == 1 {
            let line = &input[..length];
            let first = line[0];
            let chunks = line.chunks_exact(S::LANES);
            let better = |best: f32, &x: &f32| {
                if best.is_nan() || (x < best) != arg.smallest || x == best { best } else { x }
            };
            let better = |best: f32, x: &f32| if x.is_nan() { *x } else { better(best, x) };
            let mut best = chunks.remainder().iter().fold(first, better);
            let mut lanes = [first; WIDEST];
            // SAFETY: each vector lies in the line, or in `lanes`.
            unsafe {
                let mut vector = S::splat(first);
                for chunk in chunks {
                    // The instruction takes the second operand where either is NaN.
                    let x = S::load(chunk.as_ptr());
                    let one = if arg.smallest { S::min(vector, x) } else { S::max(vector, x) };
                    vector = S::select_nan(vector, one);
                }
                S::store(lanes.as_mut_ptr(), vector);
            }
            best = lanes.iter().fold(best, better);
            let found = |x: &f32| *x == best || (best.is_nan() && x.is_nan());
            let place = if arg.last { line.iter().rposition(found) } else { line.iter().position(found) };
            into[0] = place.unwrap_or(0) as i64;
            return;
        }
        let mut best = [0.0f32; WIDEST];
        best[..into.len()].copy_from_slice(&input[..into.len()]);
        into.fill(0);
        for k in 1..length {
            let row = &input[k * inner..][..into.len()];
            for ((&x, best), into) in row.iter().zip(&mut best).zip(into.iter_mut()) {
                let better = if arg.smallest { x < *best } else { x > *best };
                let (nan, was_nan) = (x.is_nan(), best.is_nan());
                if better || (nan && !was_nan) || (arg.last && (x == *best || (nan && was_nan))) {
                    (*best, *into) = (x, k as i64);
                }
            }
        }
    }
}

impl Kernel for Arg {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<i64>(0)?);
        let Lines { length, inner, .. } = self.lines;
        self.lines.for_each(2, runtime, |start, columns| {
            let first = start / (length * inner) * inner + start % (length * inner);
            // SAFETY: each result is one task's.
            let into = unsafe { output.slice(first, columns) };
            // SAFETY: the job has no further conditions.
            unsafe { self.isa.run(Places { arg: self, input: &input[start..], into }) };
        });
        Ok(())
    }
}
