//! Windows over the planes of plain operands, each channel by itself: depthwise convolution and pooling.
//!
//! A plane is first copied into the workspace with its border, split into its phases under the stride, so that every tap of the window is a shifted
//! view of unit stride. Then all rows are one: vectors run over the ends of rows, where they compute what nobody reads, and do not care how narrow
//! the plane is.

use super::Runtime;
use super::tile::piece;
use crate::operand::Shared;
use crate::simd::{Isa, Job, Simd, WIDEST};

/// Sizes of a window over a plane; two spatial dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) input: [usize; 2],
    pub(crate) output: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    pub(crate) begin: [usize; 2],
}

/// What a window does with its taps.
#[derive(Clone, Copy)]
pub(crate) enum Fold<'a> {
    /// The sum, each tap times its weight, with a bias.
    Sum { weights: &'a [f32], bias: f32 },
    /// The largest; the border never is.
    Max,
}

pub(crate) struct Planes {
    isa: Isa,
    frame: Frame,
    /// Rows and columns of a phase.
    phase: [usize; 2],
    /// Where each tap's view begins among the phases.
    taps: Vec<usize>,
}

impl Planes {
    /// `None` where the sizes overflow.
    pub(crate) fn new(isa: Isa, frame: Frame) -> Option<Self> {
        let reach = |axis: usize| {
            let last = frame.output[axis].saturating_sub(1).checked_mul(frame.strides[axis])?;
            let span = (frame.kernel[axis].checked_sub(1)?).checked_mul(frame.dilations[axis])?;
            Some(last.checked_add(span)?.checked_add(1)?.div_ceil(frame.strides[axis]))
        };
        let phase = [reach(0)?, reach(1)?];
        let plane = phase[0].checked_mul(phase[1])?;
        let mut taps = Vec::new();
        for y in (0..frame.kernel[0]).map(|y| y * frame.dilations[0]) {
            for x in (0..frame.kernel[1]).map(|x| x * frame.dilations[1]) {
                let number = y % frame.strides[0] * frame.strides[1] + x % frame.strides[1];
                let place = number.checked_mul(plane)?;
                taps.push(place + y / frame.strides[0] * phase[1] + x / frame.strides[1]);
            }
        }
        let planes = Planes { isa, frame, phase, taps };
        planes.space()?.checked_mul(size_of::<f32>() * 4096)?;
        Some(planes)
    }

    /// Elements of a thread's workspace: the phases, a vector behind them, and the result with the phases' rows.
    fn space(&self) -> Option<usize> {
        let phases = self.frame.strides[0].checked_mul(self.frame.strides[1])?.checked_mul(self.plane())?;
        phases.checked_add(self.run())?.checked_add(WIDEST * 2)
    }

    fn plane(&self) -> usize {
        self.phase[0] * self.phase[1]
    }

    /// Elements from the first output to the last, rows as long as a phase's.
    fn run(&self) -> usize {
        self.frame.output[0] * self.phase[1]
    }

    /// Bytes of the workspace.
    pub(crate) fn workspace(&self, threads: usize) -> usize {
        threads * self.space().unwrap_or(0) * size_of::<f32>()
    }

    /// Scalar operations of a plane.
    fn cost(&self) -> usize {
        self.run() * self.taps.len() / 4 + self.frame.input[0] * self.frame.input[1]
    }

    /// Folds `count` planes: `plane` gives the input of each, `fold` what is done, and `finish` sees the output.
    pub(crate) fn run_all<'a>(
        &self,
        count: usize,
        workspace: &mut [f32],
        output: &mut [f32],
        runtime: &Runtime<'_>,
        (plane, fold, finish): (
            impl Fn(usize) -> &'a [f32] + Sync,
            impl Fn(usize) -> Fold<'a> + Sync,
            impl Fn(usize, &mut [f32]) + Sync,
        ),
    ) {
        let size = self.frame.output[0] * self.frame.output[1];
        let own = self.space().unwrap_or(0);
        if size == 0 || count == 0 {
            return;
        }
        assert!(workspace.len() >= runtime.pool.threads() * own && output.len() >= count * size);
        let (workspace, output) = (Shared::new(workspace), Shared::new(output));
        let pieces = runtime.pieces(count, self.cost());
        runtime.pool.for_each(pieces, |number, thread| {
            // SAFETY: each thread has a part of the workspace, and each plane is one task's.
            let space = unsafe { workspace.slice(thread * own, own) };
            let (phases, result) = space.split_at_mut(own - self.run() - WIDEST);
            for number in piece(count, pieces, number) {
                let fold = fold(number);
                let border = if matches!(fold, Fold::Max) { f32::NEG_INFINITY } else { 0.0 };
                self.spread(plane(number), border, phases);
                // SAFETY: the job reads the phases and a vector behind them, and writes the result and a vector behind it.
                unsafe { self.isa.run(Window { planes: self, fold, phases, result }) };
                // SAFETY: as above.
                let into = unsafe { output.slice(number * size, size) };
                let width = self.frame.output[1];
                // SAFETY: as many rows as both have; each is as wide as the output's.
                unsafe {
                    let rows = Rows {
                        from: result.as_ptr(),
                        from_step: self.phase[1],
                        into: into.as_mut_ptr(),
                        into_step: width,
                    };
                    self.isa.run(CopyRows { rows, count: self.frame.output[0], width });
                }
                finish(number, into);
            }
        });
    }

    /// Copies a plane with its border into its phases.
    fn spread(&self, input: &[f32], border: f32, phases: &mut [f32]) {
        let f = &self.frame;
        let plane = self.plane();
        if f.strides == [1, 1] {
            // The rows in one go, on a ground of border.
            phases[..plane].fill(border);
            let rows = f.input[0].min(self.phase[0].saturating_sub(f.begin[0]));
            let width = f.input[1].min(self.phase[1].saturating_sub(f.begin[1]));
            if rows > 0 && width > 0 {
                let into = phases[f.begin[0] * self.phase[1] + f.begin[1]..].as_mut_ptr();
                let rows_of = Rows { from: input.as_ptr(), from_step: f.input[1], into, into_step: self.phase[1] };
                // SAFETY: the rows lie in the input, and behind the border in the phase.
                unsafe { self.isa.run(CopyRows { rows: rows_of, count: rows, width }) };
            }
            return;
        }
        for number in 0..f.strides[0] * f.strides[1] {
            let (first_y, first_x) = (number / f.strides[1], number % f.strides[1]);
            for (y, line) in phases[number * plane..][..plane].chunks_exact_mut(self.phase[1]).enumerate() {
                let row = (y * f.strides[0] + first_y).checked_sub(f.begin[0]).filter(|&row| row < f.input[0]);
                let Some(row) = row else {
                    line.fill(border);
                    continue;
                };
                let source = &input[row * f.input[1]..][..f.input[1]];
                // Columns whose source lies on the input: x * stride + first >= begin, and below begin + width.
                let low = f.begin[1].saturating_sub(first_x).div_ceil(f.strides[1]).min(line.len());
                let high =
                    (f.begin[1] + f.input[1]).saturating_sub(first_x).div_ceil(f.strides[1]).clamp(low, line.len());
                line[..low].fill(border);
                line[high..].fill(border);
                let start = (low * f.strides[1] + first_x).saturating_sub(f.begin[1]);
                let source = source.get(start..).unwrap_or_default();
                if f.strides[1] == 1 {
                    line[low..high].copy_from_slice(&source[..high - low]);
                } else {
                    line[low..high].iter_mut().zip(source.iter().step_by(f.strides[1])).for_each(|(a, b)| *a = *b);
                }
            }
        }
    }
}

struct Window<'a> {
    planes: &'a Planes,
    fold: Fold<'a>,
    phases: &'a [f32],
    result: &'a mut [f32],
}

impl Job for Window<'_> {
    type Output = ();

    /// # Safety
    /// `phases` and `result` each have room for a vector behind what the planes say.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Window { planes, fold, phases, result } = self;
        let run = planes.run();
        // The last tap's view ends with the phases; behind it there is room for the vector that the last row does not fill.
        debug_assert!(planes.taps.iter().all(|tap| tap + run <= phases.len() + planes.phase[1]));
        let last = planes.taps.iter().copied().max().unwrap_or(0);
        let mut at = 0;
        while at < run {
            // SAFETY: views reach less than a row and a vector beyond the phases; the last bounds check is below.
            unsafe {
                let from = phases.as_ptr().add(at);
                let lanes = (run - at).min(S::LANES);
                // Near the end, a view that begins late must not leave the phases.
                let value = if at + last + S::LANES <= phases.len() {
                    fold_taps::<S>(fold, &planes.taps, |tap| S::load(from.add(tap)))
                } else {
                    let some = |tap: usize| {
                        let room = phases.len().saturating_sub(at + tap);
                        S::load_first(from.add(tap), room.min(lanes))
                    };
                    fold_taps::<S>(fold, &planes.taps, some)
                };
                S::store(result.as_mut_ptr().add(at), value);
            }
            at += S::LANES;
        }
    }
}

/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn fold_taps<S: Simd>(fold: Fold<'_>, taps: &[usize], load: impl Fn(usize) -> S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        match fold {
            Fold::Sum { weights, bias } => {
                let mut sum = S::splat(bias);
                for (&tap, &weight) in taps.iter().zip(weights) {
                    sum = S::fma(load(tap), S::splat(weight), sum);
                }
                sum
            }
            Fold::Max => {
                let mut most = S::splat(f32::NEG_INFINITY);
                for &tap in taps {
                    most = S::select_nan(most, S::max(most, load(tap)));
                }
                most
            }
        }
    }
}

/// Rows of two planes, elements apart.
struct Rows {
    from: *const f32,
    from_step: usize,
    into: *mut f32,
    into_step: usize,
}

/// Copies short rows, for which a call of `memcpy` each would take longer than the copy.
struct CopyRows {
    rows: Rows,
    count: usize,
    width: usize,
}

impl Job for CopyRows {
    type Output = ();

    /// # Safety
    /// The rows are valid, and do not overlap.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let CopyRows { rows, count, width } = self;
        for row in 0..count {
            // SAFETY: the caller's promise.
            unsafe {
                let (from, into) = (rows.from.add(row * rows.from_step), rows.into.add(row * rows.into_step));
                let mut at = 0;
                while at + S::LANES <= width {
                    S::store(into.add(at), S::load(from.add(at)));
                    at += S::LANES;
                }
                if at < width {
                    S::store_first(into.add(at), width - at, S::load_first(from.add(at), width - at));
                }
            }
        }
    }
}
