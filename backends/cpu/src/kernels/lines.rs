//! Softmax, its logarithm and the norm of lines along any axis, on f32.

use hetero_hal::{DType, Result};

use super::tile::piece;
use super::{Kernel, Runtime, Site, products};
use crate::operand::{Arguments, Shared};
use crate::simd::{self, Isa, Job, Simd, WIDEST};

/// The lines of a tensor along an axis.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    /// The number of positions before the axis; `length` is the number along it, and `inner` the
    /// number behind it.
    pub(super) outer: usize,
    pub(super) length: usize,
    pub(super) inner: usize,
}

impl Lines {
    pub(super) fn of(shape: &[usize], axis: i64) -> Option<Lines> {
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < shape.len())?;
        let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
        Some(Lines { outer, length: shape[axis], inner }).filter(|_| !shape.contains(&0))
    }

    /// Calls `body` with the place of the first element and the number of neighbouring lines, on
    /// all threads.
    /// There is one line where the axis is the last one, and otherwise there are up to [`WIDEST`].
    /// `cost` is the work of an element.
    pub(super) fn for_each(self, cost: usize, runtime: &Runtime<'_>, body: impl Fn(usize, usize) + Sync) {
        let shares = self.inner.div_ceil(WIDEST);
        let tasks = self.outer * shares;
        let pieces = runtime.pieces(tasks, self.length * self.inner.min(WIDEST) * cost);
        runtime.for_each(pieces, |number, _| {
            for task in piece(tasks, pieces, number) {
                let (outer, first) = (task / shares, task % shares * WIDEST);
                body(outer * self.length * self.inner + first, (self.inner - first).min(WIDEST));
            }
        });
    }
}

/// Makes the softmax; until opset 12, the dimensions from the axis on count as one.
pub(super) fn softmax(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(shape) = site.shape(0).filter(|shape| !shape.is_empty()) else { return Ok(None) };
    let double = site.all(DType::F64);
    if !double && !site.all(DType::F32) {
        return Ok(None);
    }
    let flattened = site.operator().version < 13;
    let axis = site.operator().int("axis")?.unwrap_or(if flattened { 1.min(shape.len() as i64 - 1) } else { -1 });
    let lines = Lines::of(shape, axis).map(|lines| match flattened {
        true => Lines { length: lines.length * lines.inner, inner: 1, ..lines },
        false => lines,
    });
    let log = site.operator().is("LogSoftmax");
    if double {
        return Ok(lines.map(|lines| products::softmax(lines, log)));
    }
    Ok(lines.map(|lines| Box::new(Softmax { isa: site.isa, lines, log }) as Box<dyn Kernel>))
}

struct Softmax {
    isa: Isa,
    lines: Lines,
    log: bool,
}

/// The softmax of one line, or its logarithm.
struct Line {
    from: *const f32,
    into: *mut f32,
    length: usize,
    log: bool,
}

impl Job for Line {
    type Output = ();

    /// # Safety
    /// Both pointers must be valid for the line; `into` may be `from`.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Line { from, into, length, log } = self;
        let whole = length / S::LANES * S::LANES;
        // SAFETY: the caller's promise; partial vectors are read and written for their lanes only.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            for at in (0..whole).step_by(S::LANES) {
                most = S::max(most, S::load(from.add(at)));
            }
            let largest = (whole..length).fold(S::largest(most), |most, at| most.max(*from.add(at)));
            let shift = S::splat(largest);
            let mut sums = S::splat(0.0);
            for at in (0..whole).step_by(S::LANES) {
                let value = simd::exp::<S>(S::sub(S::load(from.add(at)), shift));
                sums = S::add(sums, value);
                if !log {
                    S::store(into.add(at), value);
                }
            }
            let (mut sum, rest) = (S::sum(sums), length - whole);
            if rest > 0 {
                let value = simd::exp::<S>(S::sub(S::load_first(from.add(whole), rest), shift));
                let mut lanes = [0.0; WIDEST];
                S::store(lanes.as_mut_ptr(), value);
                sum += lanes[..rest].iter().sum::<f32>();
                if !log {
                    S::store_first(into.add(whole), rest, value);
                }
            }
            let last = S::splat(if log { sum.ln() } else { sum });
            for at in (0..whole).step_by(S::LANES) {
                let result = if log {
                    S::sub(S::sub(S::load(from.add(at)), shift), last)
                } else {
                    S::div(S::load(into.add(at)), last)
                };
                S::store(into.add(at), result);
            }
            if rest > 0 {
                let result = if log {
                    S::sub(S::sub(S::load_first(from.add(whole), rest), shift), last)
                } else {
                    S::div(S::load_first(into.add(whole), rest), last)
                };
                S::store_first(into.add(whole), rest, result);
            }
        }
    }
}

/// The softmax of lines that lie side by side, their elements `step` apart.
struct Columns {
    line: Line,
    step: usize,
    columns: usize,
}

impl Job for Columns {
    type Output = ();

    /// # Safety
    /// Both pointers must be valid for the lines; `into` may be `from`.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Columns { line: Line { from, into, length, log }, step, columns } = self;
        for first in (0..columns).step_by(S::LANES) {
            let lanes = (columns - first).min(S::LANES);
            // SAFETY: the caller's promise; partial vectors are read and written for their lanes
            // only.
            unsafe {
                let whole = lanes == S::LANES;
                let load = |at: *const f32| if whole { S::load(at) } else { S::load_first(at, lanes) };
                let store = |at: *mut f32, v: S::V| if whole { S::store(at, v) } else { S::store_first(at, lanes, v) };
                let place = |k: usize| k * step + first;
                let mut most = S::splat(f32::NEG_INFINITY);
                for k in 0..length {
                    most = S::max(most, load(from.add(place(k))));
                }
                let mut sum = S::splat(0.0);
                for k in 0..length {
                    let value = simd::exp::<S>(S::sub(load(from.add(place(k))), most));
                    sum = S::add(sum, value);
                    if !log {
                        store(into.add(place(k)), value);
                    }
                }
                let last = if log { simd::ln::<S>(sum) } else { sum };
                for k in 0..length {
                    let result = if log {
                        S::sub(S::sub(load(from.add(place(k))), most), last)
                    } else {
                        S::div(load(into.add(place(k))), last)
                    };
                    store(into.add(place(k)), result);
                }
            }
        }
    }
}

impl Kernel for Softmax {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.shared_input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let Lines { length, inner, .. } = self.lines;
        self.lines.for_each(8, runtime, |start, columns| {
            // SAFETY: the lines lie in both operands, and are one task's.
            unsafe {
                let (from, into) = (input.at(start).cast_const(), output.at(start));
                let line = Line { from, into, length, log: self.log };
                if inner == 1 {
                    self.isa.run(line);
                } else {
                    self.isa.run(Columns { line, step: inner, columns });
                }
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}

/// Makes the division of lines by their norm; a line of zeros stays so.
pub(super) fn lp(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let lines = site.shape(0).filter(|_| site.all(DType::F32));
    let axis = site.operator().int("axis")?.unwrap_or(-1);
    let Some(lines) = lines.and_then(|shape| Lines::of(shape, axis)) else { return Ok(None) };
    let squared = site.operator().int("p")?.unwrap_or(2) != 1;
    Ok(Some(Box::new(Lp { isa: site.isa, lines, squared })))
}

struct Lp {
    isa: Isa,
    lines: Lines,
    squared: bool,
}

/// Up to [`WIDEST`] lines that lie side by side.
struct Norms {
    from: *const f32,
    into: *mut f32,
    length: usize,
    step: usize,
    columns: usize,
    squared: bool,
}

impl Norms {
    fn term(&self, x: f32) -> f64 {
        let x = f64::from(x);
        if self.squared { x * x } else { x.abs() }
    }
}

impl Job for Norms {
    type Output = ();

    /// # Safety
    /// Both pointers must be valid for the lines; `into` may be `from`.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // The sums are in f64, so that squares do not overflow.
        let mut sums = [0.0f64; WIDEST];
        let finish = |sum: f64| if self.squared { sum.sqrt() } else { sum };
        let scaled = |x: f32, norm: f64| if norm == 0.0 { 0.0 } else { (f64::from(x) / norm) as f32 };
        if self.step == 1 {
            // SAFETY: the caller's promise; nothing is written while the slice lives.
            let line = unsafe { std::slice::from_raw_parts(self.from, self.length) };
            let (chunks, rest) = line.as_chunks::<WIDEST>();
            for chunk in chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += self.term(x));
            }
            let norm = finish(sums.iter().sum::<f64>() + rest.iter().map(|&x| self.term(x)).sum::<f64>());
            for at in 0..self.length {
                // SAFETY: the caller's promise.
                unsafe { *self.into.add(at) = scaled(*self.from.add(at), norm) };
            }
            return;
        }
        for k in 0..self.length {
            for (column, sum) in sums.iter_mut().enumerate().take(self.columns) {
                // SAFETY: the caller's promise.
                *sum += self.term(unsafe { *self.from.add(k * self.step + column) });
            }
        }
        let norms = sums.map(finish);
        for k in 0..self.length {
            for (column, &norm) in norms.iter().enumerate().take(self.columns) {
                let at = k * self.step + column;
                // SAFETY: the caller's promise.
                unsafe { *self.into.add(at) = scaled(*self.from.add(at), norm) };
            }
        }
    }
}

impl Kernel for Lp {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.shared_input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let Lines { length, inner, .. } = self.lines;
        self.lines.for_each(4, runtime, |start, columns| {
            // SAFETY: the lines lie in both operands, and are one task's.
            unsafe {
                let (from, into) = (input.at(start).cast_const(), output.at(start));
                self.isa.run(Norms { from, into, length, step: inner, columns, squared: self.squared });
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
