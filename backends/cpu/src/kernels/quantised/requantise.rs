//! The way from exact sums to 8 bits: `clamp(round(sum · scale + shift) + zero)`, rounded as the
//! standard says: to the nearest whole number, halves to even.
//!
//! Vectors compute in f32, whose error is far below a step.
//! Only near the middle between two steps might that error decide, so there a lane is computed
//! again in f64, as the oracle computes it.

use crate::kernels::quantised::tile::Finish;
use crate::simd::Simd;
use crate::simd::dot::Dot;

/// How far from the middle between two steps f32 may be trusted where nothing is added: results
/// are at most some 400 in magnitude, and each of three operations is off by at most 2⁻²⁴ of that.
pub(super) const SURE: f32 = 0.5 - 1.0 / (1 << 13) as f32;

/// The steps of results, for each column.
pub(crate) struct Steps {
    scales: Vec<f32>,
    shifts: Vec<f32>,
    exact: Vec<(f64, f64)>,
    zero: f32,
    /// The least and the largest result before the zero point is added.
    limits: (f32, f32),
    /// The distance from a whole number up to which f32 is sure of a result.
    sure: f32,
}

impl Steps {
    /// Returns the steps of columns with these scales and shifts, and of results between `low` and
    /// `high` with this zero point.
    pub(crate) fn new(exact: Vec<(f64, f64)>, zero: i32, (low, high): (i32, i32)) -> Self {
        let scales = exact.iter().map(|of| of.0 as f32).collect();
        let shifts: Vec<f32> = exact.iter().map(|of| of.1 as f32).collect();
        let limits = ((low - zero) as f32, (high - zero) as f32);
        // A summand may cancel sums that are as large as it is, and are off by as much more.
        let largest = shifts.iter().fold(0.0f32, |most, shift| most.max(shift.abs()));
        let sure = SURE - largest / (1 << 22) as f32;
        Steps { scales, shifts, exact, zero: zero as f32, limits, sure }
    }

    /// Returns the finish of tiles whose first column is `first`, and which are written to `out`
    /// with these strides of rows and of vectors.
    pub(crate) fn from(&self, first: usize, out: *mut u8, row: usize, vector: usize) -> Requantise<'_> {
        Requantise { steps: self, first, out, row, vector }
    }

    /// Writes a vector of results, unless f32 is not sure of one of them; `sums` begins at this
    /// column.
    /// Returns whether the results were written.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`, there must be steps for a whole vector of
    /// columns, and `at` must be valid for `count` bytes.
    #[inline(always)]
    pub(crate) unsafe fn store<S: Simd>(&self, sums: S::V, column: usize, at: *mut u8, count: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let (scale, shift) = (self.scales.as_ptr().add(column), self.shifts.as_ptr().add(column));
            let y = S::fma(sums, S::load(scale), S::load(shift));
            let y = S::min(S::splat(self.limits.1), S::max(S::splat(self.limits.0), y));
            let whole = S::round(y);
            let off = S::sub(y, whole);
            let off = S::max(off, S::sub(S::splat(0.0), off));
            let sure = !S::any_lt(S::splat(self.sure), off);
            if sure {
                S::store_bytes(at, count, S::add(whole, S::splat(self.zero)));
            }
            sure
        }
    }

    /// Writes a vector of results as exact arithmetic has them.
    ///
    /// # Safety
    /// `at` must be valid for as many bytes as there are sums.
    #[cold]
    #[inline(never)]
    unsafe fn store_exactly(&self, sums: &[i32], column: usize, at: *mut u8) {
        for (lane, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { at.add(lane).write(self.exactly(column + lane, f64::from(sum))) };
        }
    }

    /// Returns the result of a sum.
    pub(crate) fn exactly(&self, column: usize, sum: f64) -> u8 {
        let (scale, shift) = self.exact[column];
        let y = (sum * scale + shift).round_ties_even().clamp(f64::from(self.limits.0), f64::from(self.limits.1));
        (y + f64::from(self.zero)) as i32 as u8
    }
}

/// Results in 8 bits.
#[derive(Clone, Copy)]
pub(crate) struct Requantise<'a> {
    steps: &'a Steps,
    first: usize,
    out: *mut u8,
    row: usize,
    vector: usize,
}

impl Finish for Requantise<'_> {
    #[inline(always)]
    unsafe fn take<D: Dot>(self, sums: D::V, row: usize, vector: usize, count: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.out.add(row * self.row + vector * self.vector);
            let column = self.first + vector * D::LANES;
            if !self.steps.store::<D::S>(D::real(sums), column, at, count) {
                let mut lanes = [0; crate::simd::WIDEST];
                D::store(lanes.as_mut_ptr(), sums);
                self.steps.store_exactly(&lanes[..count], column, at);
            }
        }
    }
}
