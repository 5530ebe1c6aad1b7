//! Normalisation by the mean and deviation of a block's own elements: over layers, instances,
//! groups and chosen axes, on f32.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// Returns an axis, counted from the end where it is negative.
fn axis(value: i64, rank: usize) -> Option<usize> {
    let value = if value < 0 { value + rank as i64 } else { value };
    usize::try_from(value).ok().filter(|&axis| axis < rank)
}

/// Makes layer and RMS normalisation.
pub(super) fn layer(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(shape), operator) = (site.shape(0), site.operator()) else { return Ok(None) };
    let Some(first) = axis(operator.int("axis")?.unwrap_or(-1), shape.len()) else { return Ok(None) };
    let normalised = &shape[first..];
    let block: usize = normalised.iter().product();
    let whole = |index: usize| match site.shape(index) {
        None => index == 2,
        Some(own) => {
            let elements: usize = own.iter().product();
            let same = own.iter().rev().zip(normalised.iter().rev()).all(|(own, size)| own == size);
            own.len() <= normalised.len() && same && elements == block
        }
    };
    // Factors that repeat within a block are left to the oracle.
    if !site.all(DType::F32) || shape.contains(&0) || !whole(1) || !whole(2) || site.output(0).is_none() {
        return Ok(None);
    }
    Ok(Some(Box::new(Normalise {
        isa: site.isa,
        blocks: shape[..first].iter().product(),
        centred: operator.is("LayerNormalization"),
        floor: Floor::Variance(f64::from(operator.float("epsilon")?.unwrap_or(1e-5))),
        parts: 1,
        run: block,
        step: block,
        next: block,
        factors: Factors::Elements,
    })))
}

/// Makes instance and group normalisation.
pub(super) fn channels(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(shape), operator) = (site.shape(0), site.operator()) else { return Ok(None) };
    let &[batch, channels, ref rest @ ..] = shape else { return Ok(None) };
    if !site.all(DType::F32) || shape.contains(&0) || site.node.outputs.len() > 1 {
        return Ok(None);
    }
    let grouped = operator.is("GroupNormalization");
    let groups = if grouped { operator.int("num_groups")?.unwrap_or(0) } else { channels as i64 };
    let Some(groups) = usize::try_from(groups).ok().filter(|&groups| groups > 0 && channels % groups == 0) else {
        return Ok(None);
    };
    let (each, plane) = (channels / groups, rest.iter().product::<usize>());
    // Before opset 21, groups have factors instead of channels.
    let by_group = grouped && operator.version < 21;
    let parameters = if by_group { groups } else { channels };
    if (1..3).any(|index| site.shape(index).is_none_or(|shape| shape.iter().product::<usize>() != parameters)) {
        return Ok(None);
    }
    Ok(Some(Box::new(Normalise {
        isa: site.isa,
        blocks: batch * groups,
        centred: true,
        floor: Floor::Variance(f64::from(operator.float("epsilon")?.unwrap_or(1e-5))),
        parts: each,
        run: plane,
        step: plane,
        next: plane * each,
        factors: if by_group { Factors::Blocks(groups) } else { Factors::Parts(channels) },
    })))
}

/// The least deviation, which keeps the divisor from zero.
const LEAST_DEVIATION: f64 = 1e-9;

/// Makes the normalisation over the listed axes: elements less their mean, over their deviation.
pub(super) fn mean_variance(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(shape) = site.shape(0).filter(|shape| !shape.contains(&0)) else { return Ok(None) };
    let listed = site.operator().ints("axes")?.unwrap_or(&[0, 2, 3]);
    let mut over = vec![false; shape.len()];
    for &value in listed {
        match axis(value, shape.len()).map(|axis| &mut over[axis]) {
            Some(slot) if !*slot => *slot = true,
            _ => return Ok(None),
        }
    }
    // These are the sizes reduced, kept, and reduced again; any other order is left to the oracle.
    let mut sizes = [1usize; 3];
    let mut part = 0;
    for (&size, &over) in shape.iter().zip(&over) {
        if size == 1 {
            continue;
        }
        part = match (part, over) {
            (0, true) => 0,
            (0 | 1, false) => 1,
            (1 | 2, true) => 2,
            _ => return Ok(None),
        };
        sizes[part] *= size;
    }
    let [parts, blocks, run] = sizes;
    if !site.all(DType::F32) {
        return Ok(None);
    }
    Ok(Some(Box::new(Normalise {
        isa: site.isa,
        blocks,
        centred: true,
        floor: Floor::Deviation(LEAST_DEVIATION),
        parts,
        run,
        step: blocks * run,
        next: run,
        factors: Factors::None,
    })))
}

/// A term that keeps the divisor from zero: it is added to the variance, or to the deviation.
#[derive(Clone, Copy)]
enum Floor {
    Variance(f64),
    Deviation(f64),
}

/// The owners of the factors and shifts that the inputs hold.
#[derive(Clone, Copy)]
enum Factors {
    None,
    /// Each element of a block has its own.
    Elements,
    /// Each part has its own; there are this many, for parts that follow each other.
    Parts(usize),
    /// Each block has its own; there are this many, for blocks that follow each other.
    Blocks(usize),
}

/// A normalisation of blocks.
/// A block is `parts` runs of elements, `step` apart; the next block begins `next` behind it.
struct Normalise {
    isa: Isa,
    blocks: usize,
    /// Whether the mean is subtracted.
    centred: bool,
    floor: Floor,
    parts: usize,
    run: usize,
    step: usize,
    next: usize,
    factors: Factors,
}

/// The sum of a run's elements, or of the squares of their distances to a mean.
/// It is in f64, because the common part of large elements cancels.
struct Sum<'a> {
    run: &'a [f32],
    squared_from: Option<f64>,
}

impl Job for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f64 {
        let mut sums = [0.0f64; 16];
        let (chunks, rest) = self.run.as_chunks::<16>();
        match self.squared_from {
            None => {
                for chunk in chunks {
                    for (sum, &x) in sums.iter_mut().zip(chunk) {
                        *sum += f64::from(x);
                    }
                }
                sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()
            }
            Some(mean) => {
                for chunk in chunks {
                    for (sum, &x) in sums.iter_mut().zip(chunk) {
                        let distance = f64::from(x) - mean;
                        *sum += distance * distance;
                    }
                }
                sums.iter().sum::<f64>() + rest.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>()
            }
        }
    }
}

/// A factor or shift: one for each element, or one for all.
#[derive(Clone, Copy)]
enum Of {
    Each(*const f32),
    All(f32),
}

/// `into[i] = (from[i] - mean) * inverse * scale + shift`; `into` may be `from`.
struct Scale {
    from: *const f32,
    into: *mut f32,
    count: usize,
    /// The mean as f32, and the rest that this rounding leaves.
    mean: (f32, f32),
    inverse: f32,
    scale: Of,
    shift: Of,
}

impl Job for Scale {
    type Output = ();

    /// # Safety
    /// Every pointer must be valid for `count` elements.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut at = 0;
        // SAFETY: the caller's promise; partial vectors are read and written for their lanes only.
        unsafe {
            let (high, low) = (S::splat(self.mean.0), S::splat(self.mean.1));
            while at < self.count {
                let lanes = (self.count - at).min(S::LANES);
                let whole = lanes == S::LANES;
                let load = |at: *const f32| if whole { S::load(at) } else { S::load_first(at, lanes) };
                let of = |of: Of| match of {
                    Of::Each(values) => load(values.add(at)),
                    Of::All(value) => S::splat(value),
                };
                let distance = S::sub(S::sub(load(self.from.add(at)), high), low);
                let result = S::fma(S::mul(distance, S::splat(self.inverse)), of(self.scale), of(self.shift));
                if whole {
                    S::store(self.into.add(at), result);
                } else {
                    S::store_first(self.into.add(at), lanes, result);
                }
                at += lanes;
            }
        }
    }
}

impl Normalise {
    /// Returns the mean and the inverse deviation of a block.
    fn moments(&self, block: impl Fn(usize) -> *const f32) -> (f64, f64) {
        let count = (self.parts * self.run) as f64;
        let sum = |squared_from: Option<f64>| {
            let of = |part: usize| {
                // SAFETY: a part is `run` elements of the input, which nobody writes before their
                // sums are taken.
                let run = unsafe { std::slice::from_raw_parts(block(part), self.run) };
                // SAFETY: the job has no further conditions.
                unsafe { self.isa.run(Sum { run, squared_from }) }
            };
            (0..self.parts).map(of).sum::<f64>() / count
        };
        let mean = if self.centred { sum(None) } else { 0.0 };
        let variance = sum(Some(mean));
        let deviation = match self.floor {
            Floor::Variance(floor) => (variance + floor).sqrt(),
            Floor::Deviation(floor) => variance.sqrt() + floor,
        };
        (mean, deviation.recip())
    }
}

impl Kernel for Normalise {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.shared_input::<f32>(0)?;
        let (scale, shift) = match self.factors {
            Factors::None => (None, None),
            _ => (arguments.optional::<f32>(1)?, arguments.optional::<f32>(2)?),
        };
        let output = Shared::new(arguments.output::<f32>(0)?);
        let mut statistics = [None, None];
        for (index, slot) in statistics.iter_mut().enumerate() {
            if arguments.wants(index + 1) {
                *slot = Some(Shared::new(arguments.output::<f32>(index + 1)?));
            }
        }
        let pieces = runtime.pieces(self.blocks, self.parts * self.run * 4);
        runtime.for_each(pieces, |number, _| {
            for block in piece(self.blocks, pieces, number) {
                let place = |part: usize| block * self.next + part * self.step;
                // SAFETY: blocks lie in the input, whose size is the node's.
                let (mean, inverse) = self.moments(|part| unsafe { input.at(place(part)) }.cast_const());
                let high = mean as f32;
                for part in 0..self.parts {
                    let of = |values: Option<&[f32]>, neutral: f32| match (values, self.factors) {
                        (Some(values), Factors::Elements) => Of::Each(values.as_ptr()),
                        (Some(values), Factors::Parts(count)) => Of::All(values[(block * self.parts + part) % count]),
                        (Some(values), Factors::Blocks(count)) => Of::All(values[block % count]),
                        _ => Of::All(neutral),
                    };
                    // SAFETY: each block is one task's, and its elements are written where they
                    // were read.
                    unsafe {
                        self.isa.run(Scale {
                            from: input.at(place(part)),
                            into: output.at(place(part)),
                            count: self.run,
                            mean: (high, (mean - f64::from(high)) as f32),
                            inverse: inverse as f32,
                            scale: of(scale, 1.0),
                            shift: of(shift, 0.0),
                        });
                    }
                }
                for (into, value) in statistics.iter().zip([mean, inverse]) {
                    if let Some(into) = into {
                        // SAFETY: each block has one element, which is one task's.
                        unsafe { *into.at(block) = value as f32 };
                    }
                }
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
