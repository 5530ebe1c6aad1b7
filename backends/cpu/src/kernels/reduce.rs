//! Reductions over neighbouring dimensions, or over two groups of them: of f32 in vectors, and of
//! other types by `folds`.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site, folds};
use crate::operand::{Arguments, Shared};
use crate::simd::{self, Isa, Job, Simd, WIDEST};

/// The elements of a line that are reduced side by side, where the reduced dimensions are not the
/// innermost.
const COLUMNS: usize = 256;

/// Returns which dimensions are reduced.
/// Until version 12 or 17 of the operator set the axes are an attribute, and then an input.
/// An input that is not constant is left to the oracle.
fn reduced(site: Site<'_>, rank: usize) -> Result<Option<Vec<bool>>> {
    let axes: Vec<i64> = match (site.operator().ints("axes")?, site.input(1), site.constant(1)) {
        (Some(axes), ..) => axes.to_vec(),
        (None, Some(_), Some(axes)) if axes.dtype() == DType::I64 => axes.view::<i64>()?.to_vec(),
        (None, Some(_), _) => return Ok(None),
        (None, None, _) => vec![],
    };
    if axes.is_empty() && site.operator().int("noop_with_empty_axes")?.unwrap_or(0) != 0 {
        return Ok(Some(vec![false; rank]));
    }
    let mut reduced = vec![axes.is_empty(); rank];
    for axis in axes {
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(usize::MAX);
        match reduced.get_mut(axis) {
            Some(slot) => *slot = true,
            None => return Ok(None),
        }
    }
    Ok(Some(reduced))
}

/// The sizes of a tensor's dimensions in groups: kept, reduced, kept, reduced, kept.
/// A single reduced group is the second of the two.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    before: usize,
    high: usize,
    between: usize,
    low: usize,
    pub(super) behind: usize,
}

impl Groups {
    /// Returns the groups, or `None` where there are more of them.
    fn of(shape: &[usize], reduced: &[bool]) -> Option<Groups> {
        let mut groups: Vec<(bool, usize)> = Vec::new();
        for (&size, &reduced) in shape.iter().zip(reduced).filter(|(size, _)| **size != 1) {
            match groups.last_mut() {
                Some((last, total)) if *last == reduced => *total *= size,
                _ => groups.push((reduced, size)),
            }
        }
        let mut rest = &groups[..];
        let mut next = |reduced: bool| match rest {
            [(kind, size), behind @ ..] if *kind == reduced => {
                rest = behind;
                *size
            }
            _ => 1,
        };
        let (before, high, between, low, behind) = (next(false), next(true), next(false), next(true), next(false));
        let groups = if low > 1 {
            Groups { before, high, between, low, behind }
        } else {
            Groups { before, high: 1, between: 1, low: high, behind: between }
        };
        rest.is_empty().then_some(groups)
    }

    /// Returns the number of elements that are reduced to one.
    pub(super) fn count(&self) -> usize {
        self.high * self.low
    }

    /// Calls `body` with the offset of each line; each line has an element of every column.
    #[inline(always)]
    pub(super) fn lines(self, mut body: impl FnMut(usize)) {
        let Groups { high, between, low, behind, .. } = self;
        for h in 0..high {
            for l in 0..low {
                body((h * between * low + l) * behind);
            }
        }
    }

    /// Calls `body` with the offset and length of each run of neighbouring elements, where there is
    /// only one column.
    #[inline(always)]
    pub(super) fn runs(self, mut body: impl FnMut(usize, usize)) {
        (0..self.high).for_each(|h| body(h * self.between * self.low, self.low));
    }

    /// Calls `body` on all threads, with the first element of some results, the first of these
    /// results and their number.
    pub(super) fn for_each(self, cost: usize, runtime: &Runtime<'_>, body: impl Fn(usize, usize, usize) + Sync) {
        let Groups { before, between, low, behind, .. } = self;
        let shares = behind.div_ceil(COLUMNS);
        let tasks = before * between * shares;
        let pieces = runtime.pieces(tasks, self.count() * behind.min(COLUMNS) * cost);
        runtime.for_each(pieces, |number, _| {
            for task in piece(tasks, pieces, number) {
                let (position, columns) = (task / shares, piece(behind, shares, task % shares));
                let (outer, middle) = (position / between, position % between);
                let start = (outer * self.high * between + middle) * low * behind + columns.start;
                body(start, position * behind + columns.start, columns.len());
            }
        });
    }
}

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (Some(input), Some(output)) = (site.input(0), site.output(0)) else { return Ok(None) };
    if input.dtype != output.dtype || input.elements() == 0 {
        return Ok(None);
    }
    let reduced = reduced(site, input.shape.len())?;
    let Some(groups) = reduced.and_then(|reduced| Groups::of(&input.shape, &reduced)) else { return Ok(None) };
    let name = &*site.operator().name;
    if input.dtype != DType::F32 {
        return Ok(folds::compile(name, input.dtype, groups));
    }
    let isa = site.isa;
    let fold = match name {
        "ReduceSum" => Fold::Sum,
        "ReduceMean" => Fold::Mean,
        "ReduceSumSquare" => Fold::SumSquare,
        "ReduceL1" => Fold::SumMagnitude,
        "ReduceMax" => Fold::Max,
        "ReduceMin" => Fold::Min,
        "ReduceProd" => return Ok(Some(Box::new(Wide { isa, fold: WideFold::Product, groups }))),
        "ReduceL2" => return Ok(Some(Box::new(Wide { isa, fold: WideFold::Norm, groups }))),
        "ReduceLogSum" => return Ok(Some(Box::new(Wide { isa, fold: WideFold::LogSum, groups }))),
        "ReduceLogSumExp" => return Ok(Some(Box::new(LogSumExp { isa, groups }))),
        _ => return Ok(None),
    };
    Ok(Some(Box::new(Reduce { isa, fold, groups })))
}

/// The reductions whose intermediate results stay in the range of f32: sums, and results as large
/// as an element.
#[derive(Clone, Copy)]
enum Fold {
    Sum,
    Mean,
    SumSquare,
    SumMagnitude,
    Max,
    Min,
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
        // SAFETY: the instruction set is there by the caller's promise.
        // NaN is kept.
        unsafe {
            match self {
                Fold::Sum | Fold::Mean => S::add(result, x),
                Fold::SumSquare => S::fma(x, x, result),
                Fold::SumMagnitude => S::add(result, S::max(S::sub(S::splat(0.0), x), x)),
                Fold::Max => S::select_nan(result, S::max(result, x)),
                Fold::Min => S::select_nan(result, S::min(result, x)),
            }
        }
    }

    fn one(self, result: f32, x: f32) -> f32 {
        match self {
            Fold::Sum | Fold::Mean => result + x,
            Fold::SumSquare => x * x + result,
            Fold::SumMagnitude => x.abs() + result,
            Fold::Max if result.is_nan() || x.is_nan() => f32::NAN,
            Fold::Min if result.is_nan() || x.is_nan() => f32::NAN,
            Fold::Max => result.max(x),
            Fold::Min => result.min(x),
        }
    }
}

/// Some results that lie side by side.
struct Columns<'a> {
    /// The elements from the first of the columns on.
    input: &'a [f32],
    groups: Groups,
    into: &'a mut [f32],
}

impl<'a> Columns<'a> {
    /// Returns the runs of neighbouring elements, where there is only one column.
    fn runs(input: &'a [f32], groups: Groups) -> impl Iterator<Item = &'a [f32]> {
        let Groups { high, between, low, .. } = groups;
        (0..high).map(move |h| &input[h * between * low..][..low])
    }
}

struct Sums<'a>(Fold, Columns<'a>);

impl Job for Sums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sums(fold, Columns { input, groups, into }) = self;
        let share = if matches!(fold, Fold::Mean) { 1.0 / groups.count() as f32 } else { 1.0 };
        if groups.behind == 1 {
            let mut sums = [fold.start(); WIDEST * 2];
            let mut single = fold.start();
            // SAFETY: each vector lies in its run or in `sums`.
            unsafe {
                let mut vectors = [S::splat(fold.start()); 2];
                for run in Columns::runs(input, groups) {
                    let chunks = run.chunks_exact(S::LANES * 2);
                    single = chunks.remainder().iter().fold(single, |a, &b| fold.one(a, b));
                    for chunk in chunks {
                        for (index, vector) in vectors.iter_mut().enumerate() {
                            *vector = fold.step::<S>(*vector, S::load(chunk.as_ptr().add(index * S::LANES)));
                        }
                    }
                }
                S::store(sums.as_mut_ptr(), vectors[0]);
                S::store(sums.as_mut_ptr().add(S::LANES), vectors[1]);
            }
            // The lanes are folded already, so sums of squares are only added.
            let last = if matches!(fold, Fold::SumSquare | Fold::SumMagnitude) { Fold::Sum } else { fold };
            into[0] = sums[..S::LANES * 2].iter().fold(single, |a, &b| last.one(a, b)) * share;
            return;
        }
        for at in (0..into.len()).step_by(S::LANES) {
            let lanes = (into.len() - at).min(S::LANES);
            let whole = lanes == S::LANES;
            // SAFETY: each line has all columns; partial vectors are read and written for their
            // lanes only.
            unsafe {
                let mut result = S::splat(fold.start());
                groups.lines(|line| {
                    let from = input.as_ptr().add(line + at);
                    let x = if whole { S::load(from) } else { S::load_first(from, lanes) };
                    result = fold.step::<S>(result, x);
                });
                S::store_first(into.as_mut_ptr().add(at), lanes, S::mul(result, S::splat(share)));
            }
        }
    }
}

/// Reductions of a few neighbouring elements each, one in each lane.
struct Few<'a> {
    fold: Fold,
    /// The elements of one result behind those of the other.
    input: &'a [f32],
    count: usize,
    into: &'a mut [f32],
}

/// The most elements of a result that are done so.
const FEW: usize = 24;

impl Job for Few<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Few { fold, input, count, into } = self;
        let share = if matches!(fold, Fold::Mean) { 1.0 / count as f32 } else { 1.0 };
        for (into, input) in into.chunks_mut(S::LANES).zip(input.chunks(S::LANES * count)) {
            // SAFETY: `lanes` has a vector's elements, of which those are written that there are.
            unsafe {
                let mut result = S::splat(fold.start());
                for at in 0..count {
                    let mut lanes = [0.0; WIDEST];
                    lanes.iter_mut().zip(input[at..].iter().step_by(count)).for_each(|(lane, &x)| *lane = x);
                    result = fold.step::<S>(result, S::load(lanes.as_ptr()));
                }
                S::store_first(into.as_mut_ptr(), into.len(), S::mul(result, S::splat(share)));
            }
        }
    }
}

struct Reduce {
    isa: Isa,
    fold: Fold,
    groups: Groups,
}

impl Kernel for Reduce {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let Groups { before, high, low, behind, .. } = self.groups;
        if behind == 1 && high == 1 && (1..=FEW).contains(&low) {
            let pieces = runtime.pieces(before, low * 4);
            runtime.for_each(pieces, |number, _| {
                let own = piece(before, pieces, number);
                let input = &input[own.start * low..own.end * low];
                // SAFETY: each result is one task's; the job has no further conditions.
                unsafe {
                    let into = output.slice(own.start, own.len());
                    self.isa.run(Few { fold: self.fold, input, count: low, into });
                }
            });
            return Ok(());
        }
        self.groups.for_each(1, runtime, |start, first, count| {
            // SAFETY: each result is one task's.
            let into = unsafe { output.slice(first, count) };
            let columns = Columns { input: &input[start..], groups: self.groups, into };
            // SAFETY: every column lies in the input, because the groups are its shape.
            unsafe { self.isa.run(Sums(self.fold, columns)) };
        });
        Ok(())
    }
}

/// The reductions whose intermediate results can leave the range of f32 though the result does not.
#[derive(Clone, Copy)]
enum WideFold {
    Product,
    Norm,
    LogSum,
}

/// The reduction of columns in f64.
struct Widely<'a>(WideFold, Columns<'a>);

impl WideFold {
    fn one(self, result: f64, x: f32) -> f64 {
        let x = f64::from(x);
        match self {
            WideFold::Product => result * x,
            WideFold::Norm => x * x + result,
            WideFold::LogSum => result + x,
        }
    }
}

impl Job for Widely<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Widely(fold, Columns { input, groups, into }) = self;
        let start = if matches!(fold, WideFold::Product) { 1.0 } else { 0.0 };
        let finish = |value: f64| match fold {
            WideFold::Product => value as f32,
            WideFold::Norm => value.sqrt() as f32,
            WideFold::LogSum => value.ln() as f32,
        };
        let mut results = [start; WIDEST];
        if groups.behind == 1 {
            let mut single = start;
            for run in Columns::runs(input, groups) {
                let (chunks, rest) = run.as_chunks::<WIDEST>();
                for chunk in chunks {
                    results.iter_mut().zip(chunk).for_each(|(result, &x)| *result = fold.one(*result, x));
                }
                single = rest.iter().fold(single, |result, &x| fold.one(result, x));
            }
            let join = |a: f64, b: &f64| if matches!(fold, WideFold::Product) { a * b } else { a + b };
            into[0] = finish(results.iter().fold(single, join));
            return;
        }
        for (number, into) in into.chunks_mut(WIDEST).enumerate() {
            results.fill(start);
            groups.lines(|line| {
                let from = &input[line + number * WIDEST..][..into.len()];
                results.iter_mut().zip(from).for_each(|(result, &x)| *result = fold.one(*result, x));
            });
            into.iter_mut().zip(&results).for_each(|(into, &result)| *into = finish(result));
        }
    }
}

struct Wide {
    isa: Isa,
    fold: WideFold,
    groups: Groups,
}

impl Kernel for Wide {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        self.groups.for_each(2, runtime, |start, first, count| {
            // SAFETY: each result is one task's.
            let into = unsafe { output.slice(first, count) };
            let columns = Columns { input: &input[start..], groups: self.groups, into };
            // SAFETY: the job has no further conditions.
            unsafe { self.isa.run(Widely(self.fold, columns)) };
        });
        Ok(())
    }
}

struct LogSumExp {
    isa: Isa,
    groups: Groups,
}

/// The logarithms of sums of exponentials.
/// Where the largest element is infinite or NaN, it is the result.
struct Exponentials<'a>(Columns<'a>);

impl Job for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Columns { input, groups, into } = self.0;
        let finish = |most: f32, sum: f32| if most.is_infinite() { most } else { most + sum.ln() };
        let least = f32::NEG_INFINITY;
        if groups.behind == 1 {
            // SAFETY: each vector lies in its run.
            unsafe {
                let (mut largest, mut most) = (S::splat(least), least);
                for run in Columns::runs(input, groups) {
                    let chunks = run.chunks_exact(S::LANES);
                    most = chunks.remainder().iter().fold(most, |most, &x| Fold::Max.one(most, x));
                    chunks.for_each(|chunk| largest = Fold::Max.step::<S>(largest, S::load(chunk.as_ptr())));
                }
                let mut lanes = [least; WIDEST];
                S::store(lanes.as_mut_ptr(), largest);
                most = lanes.iter().fold(most, |most, &x| Fold::Max.one(most, x));
                let (mut sums, mut sum) = (S::splat(0.0), 0.0);
                for run in Columns::runs(input, groups) {
                    let chunks = run.chunks_exact(S::LANES);
                    sum = chunks.remainder().iter().fold(sum, |sum, x| sum + (x - most).exp());
                    for chunk in chunks {
                        sums = S::add(sums, simd::exp::<S>(S::sub(S::load(chunk.as_ptr()), S::splat(most))));
                    }
                }
                into[0] = finish(most, sum + S::sum(sums));
            }
            return;
        }
        for at in (0..into.len()).step_by(S::LANES) {
            let lanes = (into.len() - at).min(S::LANES);
            // SAFETY: each line has all columns, and only the lanes that exist are read and
            // written.
            unsafe {
                let load = |line: usize| S::load_first(input.as_ptr().add(line + at), lanes);
                let mut most = S::splat(least);
                groups.lines(|line| most = Fold::Max.step::<S>(most, load(line)));
                let mut sum = S::splat(0.0);
                groups.lines(|line| sum = S::add(sum, simd::exp::<S>(S::sub(load(line), most))));
                let (mut mosts, mut sums) = ([0.0; WIDEST], [0.0; WIDEST]);
                S::store(mosts.as_mut_ptr(), most);
                S::store(sums.as_mut_ptr(), sum);
                let results = mosts.iter().zip(&sums).map(|(&most, &sum)| finish(most, sum));
                into[at..at + lanes].iter_mut().zip(results).for_each(|(into, result)| *into = result);
            }
        }
    }
}

impl Kernel for LogSumExp {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        self.groups.for_each(8, runtime, |start, first, count| {
            // SAFETY: each result is one task's.
            let into = unsafe { output.slice(first, count) };
            let columns = Columns { input: &input[start..], groups: self.groups, into };
            // SAFETY: every column lies in the input, because the groups are its shape.
            unsafe { self.isa.run(Exponentials(columns)) };
        });
        Ok(())
    }
}
