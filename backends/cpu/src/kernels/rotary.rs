//! The rotation of queries and keys by their position, on f32.

use hetero_hal::{DType, Error, Result};

use super::attention;
use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

struct Rotary {
    isa: Isa,
    batch: usize,
    heads: usize,
    steps: usize,
    width: usize,
    /// The pairs of elements that are rotated in each head.
    half: usize,
    /// The rows of the tables.
    rows: usize,
    /// Whether the heads of a step lie side by side, in tensors of rank 3.
    flat: bool,
    interleaved: bool,
    /// Whether the rows of the tables are named by positions.
    positions: bool,
}

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let Some([batch, heads, steps, width]) = attention::sizes(site, 0, "num_heads")? else { return Ok(None) };
    let rotated = match operator.int("rotary_embedding_dim")?.unwrap_or(0) {
        0 => width,
        value => usize::try_from(value).unwrap_or(usize::MAX),
    };
    let (Some(cos), Some(sin), Some(input)) = (site.input(1), site.input(2), site.input(0)) else { return Ok(None) };
    let positions = site.input(3);
    let half = rotated / 2;
    let rows = if positions.is_some() { cos.shape.first().copied().unwrap_or(0) } else { batch * steps };
    let fits = rotated <= width
        && rotated.is_multiple_of(2)
        && half > 0
        && [input, cos, sin].iter().all(|value| value.dtype == DType::F32)
        && cos.elements() == rows * half
        && sin.elements() == rows * half
        && positions.is_none_or(|positions| positions.dtype == DType::I64 && positions.elements() == batch * steps);
    if !fits {
        return Ok(None);
    }
    let (flat, positions) = (input.shape.len() == 3, positions.is_some());
    let interleaved = operator.int("interleaved")?.unwrap_or(0) != 0;
    let isa = site.isa;
    Ok(Some(Box::new(Rotary { isa, batch, heads, steps, width, half, rows, flat, interleaved, positions })))
}

/// The rotation of one head.
struct Head<'a> {
    interleaved: bool,
    input: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    into: &'a mut [f32],
}

impl Job for Head<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Head { interleaved, input, cos, sin, into } = self;
        let half = cos.len();
        let (x, rest) = input.split_at(2 * half);
        let (y, behind) = into.split_at_mut(2 * half);
        behind.copy_from_slice(rest);
        let turns = cos.iter().zip(sin);
        if interleaved {
            for ((y, x), (c, s)) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(turns) {
                (y[0], y[1]) = (c * x[0] - s * x[1], s * x[0] + c * x[1]);
            }
        } else {
            let ((a, b), (into_a, into_b)) = (x.split_at(half), y.split_at_mut(half));
            let pairs = a.iter().zip(b).zip(into_a.iter_mut().zip(into_b));
            for (((a, b), (into_a, into_b)), (c, s)) in pairs.zip(turns) {
                (*into_a, *into_b) = (c * a - s * b, s * a + c * b);
            }
        }
    }
}

impl Kernel for Rotary {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let Rotary { batch, heads, steps, width, half, .. } = *self;
        let input = arguments.input::<f32>(0)?;
        let (cos, sin) = (arguments.input::<f32>(1)?, arguments.input::<f32>(2)?);
        let positions = if self.positions { Some(arguments.input::<i64>(3)?) } else { None };
        let row = |place: usize| match positions {
            None => Some(place),
            Some(positions) => usize::try_from(positions[place]).ok().filter(|&row| row < self.rows),
        };
        if let Some(place) = (0..batch * steps).find(|&place| row(place).is_none()) {
            let position = positions.map_or(0, |positions| positions[place]);
            return Err(Error::invalid_model(format!("position {position} is not in the cache")));
        }
        let output = Shared::new(arguments.output::<f32>(0)?);
        let count = batch * steps * heads;
        let pieces = runtime.pieces(count, width);
        runtime.for_each(pieces, |number, _| {
            for number in piece(count, pieces, number) {
                let (n, i) = match self.flat {
                    true => (number / (steps * heads), number / heads % steps),
                    false => (number / (heads * steps), number % steps),
                };
                let Some(row) = row(n * steps + i) else { continue };
                // SAFETY: each head is one task's.
                let into = unsafe { output.slice(number * width, width) };
                let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
                let input = &input[number * width..][..width];
                // SAFETY: the job has no further conditions.
                unsafe { self.isa.run(Head { interleaved: self.interleaved, input, cos, sin, into }) };
            }
        });
        Ok(())
    }
}
