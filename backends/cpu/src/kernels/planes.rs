//! Windows over the planes of plain operands, each channel by itself: depthwise convolution and
//! pooling.
//!
//! A plane is first copied into the workspace with its border, split into its phases under the
//! stride.
//! So every tap of the window is a shifted view of unit stride.
//! Four rows of the output are folded side by side, a vector of pixels of each, so that their sums
//! do not wait for each other.
//! The last vector of a row overlaps the one before it.

use super::Runtime;
use super::tile::piece;
use crate::operand::Shared;
use crate::simd::{Isa, Job, Simd, WIDEST};

/// The sizes of a window over a plane of two spatial dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) input: [usize; 2],
    pub(crate) output: [usize; 2],
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    pub(crate) begin: [usize; 2],
}

/// The function of a window over its taps.
#[derive(Clone, Copy)]
pub(crate) enum Fold<'a> {
    /// The sum of each tap times its weight, with a bias.
    Sum { weights: &'a [f32], bias: f32 },
    /// The largest tap, which is never in the border.
    Max,
}

pub(crate) struct Planes {
    isa: Isa,
    frame: Frame,
    /// The rows and columns of a phase.
    phase: [usize; 2],
    /// The position among the phases where each tap's view begins.
    taps: Vec<usize>,
}

impl Planes {
    /// Makes the kernel, or returns `None` where the sizes overflow.
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

    /// Returns the elements of a thread's workspace: the phases, and a vector behind them, because
    /// the last row of a narrow plane is read in a whole vector.
    fn space(&self) -> Option<usize> {
        let phases = self.frame.strides[0].checked_mul(self.frame.strides[1])?.checked_mul(self.plane())?;
        phases.checked_add(WIDEST)
    }

    fn plane(&self) -> usize {
        self.phase[0] * self.phase[1]
    }

    /// Returns the bytes of the workspace.
    pub(crate) fn workspace(&self, threads: usize) -> usize {
        threads * self.space().unwrap_or(0) * size_of::<f32>()
    }

    /// Returns the scalar operations of a plane.
    fn cost(&self) -> usize {
        let [height, width] = self.frame.output;
        height * width * self.taps.len() / 4 + self.frame.input[0] * self.frame.input[1]
    }

    /// Folds `count` planes.
    /// `plane` returns the input of each plane, `fold` its function, which has one kind for all
    /// planes, and `finish` gets the output.
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
        runtime.for_each(pieces, |number, thread| {
            // SAFETY: each thread has a part of the workspace, and each plane is one task's.
            let phases = unsafe { workspace.slice(thread * own, own) };
            let numbers = piece(count, pieces, number);
            // Every plane is spread over the same elements, so the border around them is written
            // once.
            phases.fill(if matches!(fold(numbers.start), Fold::Max) { f32::NEG_INFINITY } else { 0.0 });
            for number in numbers {
                let input = plane(number);
                assert_eq!(input.len(), self.frame.input[0] * self.frame.input[1]);
                // SAFETY: as above; the workspace has the phases' size and the input the plane's.
                unsafe {
                    let into = output.slice(number * size, size);
                    self.isa.run(Spread { planes: self, input: input.as_ptr(), phases: phases.as_mut_ptr() });
                    let (phases, target) = (phases.as_ptr(), into.as_mut_ptr());
                    self.isa.run(Window { planes: self, fold: fold(number), phases, into: target });
                    finish(number, into);
                }
            }
        });
    }
}

/// The copy of a plane into its phases, whose border stays as it is.
struct Spread<'a> {
    planes: &'a Planes,
    input: *const f32,
    phases: *mut f32,
}

impl Job for Spread<'_> {
    type Output = ();

    /// # Safety
    /// `input` must be a plane, and `phases` its workspace.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (f, [rows, columns]) = (&self.planes.frame, self.planes.phase);
        let (plane, begin, stride) = (self.planes.plane(), f.begin[1], f.strides[1]);
        for y in 0..f.input[0] {
            let (phase, row) = ((y + f.begin[0]) % f.strides[0], (y + f.begin[0]) / f.strides[0]);
            if row >= rows {
                continue;
            }
            // SAFETY: the written elements lie in the row `row` of the phases, which have `columns`
            // elements each.
            unsafe {
                let from = self.input.add(y * f.input[1]);
                // Column `first` of the plane, and each `stride` columns further, go to their
                // phase.
                let target = |first: usize| {
                    let (number, start) = ((first + begin) % stride, (first + begin) / stride);
                    let count = f.input[1].saturating_sub(first).div_ceil(stride).min(columns.saturating_sub(start));
                    let at = (phase * stride + number) * plane + row * columns + start.min(columns);
                    (self.phases.add(at), count)
                };
                match stride {
                    1 => {
                        let (into, count) = target(0);
                        copy::<S>(from, into, count);
                    }
                    2 => {
                        let ((even, evens), (odd, odds)) = (target(0), target(1));
                        let mut at = 0;
                        while at + S::LANES <= evens.min(odds) {
                            let (a, b) = (S::load(from.add(at * 2)), S::load(from.add(at * 2 + S::LANES)));
                            let (a, b) = S::deinterleave(a, b);
                            S::store(even.add(at), a);
                            S::store(odd.add(at), b);
                            at += S::LANES;
                        }
                        (at..evens).for_each(|at| *even.add(at) = *from.add(at * 2));
                        (at..odds).for_each(|at| *odd.add(at) = *from.add(at * 2 + 1));
                    }
                    _ => {
                        for first in 0..stride {
                            let (into, count) = target(first);
                            (0..count).for_each(|at| *into.add(at) = *from.add(first + at * stride));
                        }
                    }
                }
            }
        }
    }
}

/// Copies a short row, for which a call of `memcpy` would take longer than the copy.
///
/// # Safety
/// Both rows must have `count` elements, and must not overlap.
#[inline(always)]
unsafe fn copy<S: Simd>(from: *const f32, into: *mut f32, count: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if count < S::LANES {
            S::store_first(into, count, S::load_first(from, count));
            return;
        }
        let last = count - S::LANES;
        for at in (0..last).step_by(S::LANES).chain([last]) {
            S::store(into.add(at), S::load(from.add(at)));
        }
    }
}

struct Window<'a> {
    planes: &'a Planes,
    fold: Fold<'a>,
    phases: *const f32,
    into: *mut f32,
}

/// The rows of the output that are folded side by side.
const ROWS: usize = 4;

impl Job for Window<'_> {
    type Output = ();

    /// # Safety
    /// `phases` must be the workspace, and `into` the output's plane.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let height = self.planes.frame.output[0];
        let whole = height - height % ROWS;
        // SAFETY: the rows are there.
        unsafe {
            (0..whole).step_by(ROWS).for_each(|y| self.rows::<S, ROWS>(y));
            (whole..height).for_each(|y| self.rows::<S, 1>(y));
        }
    }
}

impl Window<'_> {
    /// # Safety
    /// The output must have `R` rows from `y` on, and the conditions of the job must hold.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, y: usize) {
        let (width, pitch) = (self.planes.frame.output[1], self.planes.phase[1]);
        // SAFETY: a tap's view of a row is as long as the output's row, and behind the last one
        // there is room for a vector.
        unsafe {
            let (from, into) = (self.phases.add(y * pitch), self.into.add(y * width));
            let fold = |x: usize| fold_taps::<S, R>(self.fold, &self.planes.taps, from.add(x), pitch);
            match width.checked_sub(S::LANES) {
                None => {
                    for (row, value) in fold(0).into_iter().enumerate() {
                        S::store_first(into.add(row * width), width, value);
                    }
                }
                Some(last) => {
                    for x in (0..last).step_by(S::LANES).chain([last]) {
                        for (row, value) in fold(x).into_iter().enumerate() {
                            S::store(into.add(row * width + x), value);
                        }
                    }
                }
            }
        }
    }
}

/// Folds a vector of pixels in each of `R` rows.
///
/// # Safety
/// Each tap's view must have a vector there.
#[inline(always)]
unsafe fn fold_taps<S: Simd, const R: usize>(
    fold: Fold<'_>,
    taps: &[usize],
    from: *const f32,
    pitch: usize,
) -> [S::V; R] {
    // SAFETY: the caller's promise.
    unsafe {
        match fold {
            Fold::Sum { weights, bias } => {
                let mut sums = [S::splat(bias); R];
                for (&tap, &weight) in taps.iter().zip(weights) {
                    let (from, weight) = (from.add(tap), S::splat(weight));
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::load(from.add(row * pitch)), weight, *sum);
                    }
                }
                sums
            }
            Fold::Max => {
                let mut most = [S::splat(f32::NEG_INFINITY); R];
                for &tap in taps {
                    let from = from.add(tap);
                    for (row, most) in most.iter_mut().enumerate() {
                        *most = S::select_nan(*most, S::max(*most, S::load(from.add(row * pitch))));
                    }
                }
                most
            }
        }
    }
}
