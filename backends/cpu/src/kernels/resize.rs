//! Resize and Upsample along one or two axes that follow each other, on f32.
//!
//! Rows of the input are blended first, at their full length, and then the elements of a row.

use hetero_hal::{DType, Result};
use hetero_reference::Resampling;

use super::movement::Copy;
use super::tile::piece;
use super::{Kernel, Runtime, Site, TABLE};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// Makes the kernel; scales and sizes that are not constant are left to the oracle.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    let unknown =
        (1..site.node.inputs.len()).any(|index| site.input(index).is_some() && site.constant(index).is_none());
    let long = input.shape.iter().chain(&output.shape).any(|&size| size > TABLE);
    if long || unknown || input.dtype != DType::F32 || input.elements() == 0 || output.elements() == 0 {
        return Ok(None);
    }
    let shape = &input.shape;
    let Some(axes) = Resampling::resolve(site.operator(), shape, |index| site.constant(index).cloned())? else {
        return Ok(None);
    };
    let fits = |axes: &[Resampling]| {
        let mut expected = shape.clone();
        axes.iter().for_each(|along| expected[along.axis] = along.taps.len());
        expected == output.shape
    };
    if !fits(&axes) {
        return Ok(None);
    }
    let size = |range: std::ops::Range<usize>| shape[range].iter().product::<usize>();
    let rank = shape.len();
    let (outer, height, width, block, rows, columns) = match &axes[..] {
        [] => return Ok(Some(Box::new(Copy))),
        [one] if one.axis + 1 == rank => (size(0..one.axis), 1, shape[one.axis], 1, None, Some(Taps::new(one))),
        [one] => (size(0..one.axis), shape[one.axis], 1, size(one.axis + 1..rank), Some(Taps::new(one)), None),
        [one, two] if size(one.axis + 1..two.axis) == 1 => {
            let (outer, block) = (size(0..one.axis), size(two.axis + 1..rank));
            (outer, shape[one.axis], shape[two.axis], block, Some(Taps::new(one)), Some(Taps::new(two)))
        }
        _ => return Ok(None),
    };
    Ok(Some(Box::new(Resize { isa: site.isa, outer, height, width, block, rows, columns })))
}

/// The elements that each position of the result reads.
struct Taps {
    /// Where the taps of each position begin, and where the last ones end.
    starts: Vec<usize>,
    /// The positions of the input, with their weights.
    taps: Vec<(usize, f32)>,
    count: Count,
}

/// The number of taps that each position has.
#[derive(Clone, Copy, PartialEq)]
enum Count {
    /// One tap, which is copied.
    One,
    Two,
    Any,
}

impl Taps {
    fn new(along: &Resampling) -> Self {
        let copies = along.taps.iter().all(|list| matches!(list[..], [(_, 1.0)]));
        let paired = !copies && along.taps.iter().all(|list| matches!(list.len(), 1 | 2));
        let mut starts = vec![0];
        let mut taps = Vec::new();
        for list in &along.taps {
            match list[..] {
                // Two halves of one tap stand in for a second tap; a weight of 0 would not do,
                // because the element may be infinite.
                [(position, weight)] if paired => taps.extend([(position, (weight / 2.0) as f32); 2]),
                _ => taps.extend(list.iter().map(|&(position, weight)| (position, weight as f32))),
            }
            starts.push(taps.len());
        }
        let count = if copies {
            Count::One
        } else if paired {
            Count::Two
        } else {
            Count::Any
        };
        Taps { starts, taps, count }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn of(&self, position: usize) -> &[(usize, f32)] {
        &self.taps[self.starts[position]..self.starts[position + 1]]
    }
}

struct Resize {
    isa: Isa,
    outer: usize,
    /// The rows of the input; `width` has the positions of a row, and `block` the elements of a
    /// position.
    height: usize,
    width: usize,
    block: usize,
    rows: Option<Taps>,
    columns: Option<Taps>,
}

/// A weighted sum of equally long parts of a tensor, which lie `step` apart.
struct Blend<'a> {
    from: &'a [f32],
    step: usize,
    taps: &'a [(usize, f32)],
    into: &'a mut [f32],
}

impl Job for Blend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Blend { from, step, taps, into } = self;
        let count = into.len();
        debug_assert!(taps.iter().all(|tap| tap.0 * step + count <= from.len()));
        for at in (0..count).step_by(S::LANES) {
            let lanes = (count - at).min(S::LANES);
            let whole = lanes == S::LANES;
            // SAFETY: the taps' parts lie in the tensor; partial vectors are read and written for
            // their lanes only.
            unsafe {
                let mut sum = S::splat(0.0);
                for &(position, weight) in taps {
                    let part = from.as_ptr().add(position * step + at);
                    let part = if whole { S::load(part) } else { S::load_first(part, lanes) };
                    // Networks in 8 bits round what comes of this, so that a product that is not
                    // rounded here would be another step there, with some instruction sets only.
                    sum = S::add(sum, S::mul(S::splat(weight), part));
                }
                if whole {
                    S::store(into.as_mut_ptr().add(at), sum);
                } else {
                    S::store_first(into.as_mut_ptr().add(at), lanes, sum);
                }
            }
        }
    }
}

/// The weighted sums of a row's elements.
struct Elements<'a> {
    from: &'a [f32],
    taps: &'a Taps,
    into: &'a mut [f32],
}

impl Job for Elements<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Elements { from, taps, into } = self;
        match taps.count {
            Count::One => into.iter_mut().zip(&taps.taps).for_each(|(value, tap)| *value = from[tap.0]),
            Count::Two => {
                for (value, [one, two]) in into.iter_mut().zip(taps.taps.as_chunks::<2>().0) {
                    *value = one.1 * from[one.0] + two.1 * from[two.0];
                }
            }
            Count::Any => {
                for (position, value) in into.iter_mut().enumerate() {
                    *value = taps.of(position).iter().map(|&(at, weight)| weight * from[at]).sum();
                }
            }
        }
    }
}

impl Resize {
    /// Returns the elements of a row of the input.
    fn row(&self) -> usize {
        self.width * self.block
    }

    /// Returns the elements of a row of the result.
    fn target(&self) -> usize {
        self.columns.as_ref().map_or(self.width, Taps::len) * self.block
    }

    fn blend(&self, from: &[f32], step: usize, taps: &[(usize, f32)], into: &mut [f32]) {
        match *taps {
            [(position, 1.0)] => into.copy_from_slice(&from[position * step..][..into.len()]),
            // SAFETY: the taps lie on the input.
            _ => unsafe { self.isa.run(Blend { from, step, taps, into }) },
        }
    }
}

impl Kernel for Resize {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let workspace = Shared::new(arguments.workspace::<f32>()?);
        let (row, target) = (self.row(), self.target());
        let high = self.rows.as_ref().map_or(self.height, Taps::len);
        let pieces = runtime.pieces(self.outer * high, (row + target) * 2);
        runtime.for_each(pieces, |number, thread| {
            for line in piece(self.outer * high, pieces, number) {
                let plane = &input[line / high * self.height * row..][..self.height * row];
                // SAFETY: each row is one task's.
                let into = unsafe { output.slice(line * target, target) };
                let taps = match &self.rows {
                    Some(rows) => rows.of(line % high),
                    None => &[(0, 1.0)],
                };
                let Some(columns) = &self.columns else {
                    self.blend(plane, row, taps, into);
                    continue;
                };
                let source = match *taps {
                    [(position, 1.0)] => &plane[position * row..][..row],
                    _ => {
                        // SAFETY: each thread has a row of its own.
                        let blended = unsafe { workspace.slice(thread * row, row) };
                        self.blend(plane, row, taps, blended);
                        blended
                    }
                };
                if self.block == 1 {
                    // SAFETY: the job has no further conditions.
                    unsafe { self.isa.run(Elements { from: source, taps: columns, into }) };
                } else {
                    for (position, into) in into.chunks_exact_mut(self.block).enumerate() {
                        self.blend(source, self.block, columns.of(position), into);
                    }
                }
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let blends = self.columns.is_some() && self.rows.as_ref().is_some_and(|rows| rows.count != Count::One);
        if blends { threads * self.row() * size_of::<f32>() } else { 0 }
    }
}
