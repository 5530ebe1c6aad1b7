//! The matrix microkernel, in which every convolution and matrix product ends.
//!
//! A tile is `rows × vectors` sums held in registers.
//! For each `k` it loads its vectors of `w`, broadcasts its rows of `x`, and multiplies and adds
//! them.
//! With 14 rows of two AVX-512 vectors, that is 28 multiply-adds for 16 loads, which is half of
//! what the load ports can do.
//! `w` comes through the caches at a fourteenth of a vector per multiply-add, so that it may stream
//! from the second level.

use crate::simd::{Half, Isa, Job, Simd};

/// The values with which the sums begin, where they are not zero.
#[derive(Clone, Copy)]
pub(crate) enum Bias {
    None,
    /// A vector for each vector of the tile, contiguous.
    Vectors(*const f32),
    /// One number for each row; the numbers lie this many elements apart.
    Rows(*const f32, usize),
}

/// The elements of `w`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Panel {
    Floats(*const f32),
    /// Numbers of 16 bits, which are widened as they are loaded; all lanes of each vector are
    /// there.
    Halves(Half, *const u16),
}

// SAFETY: a panel is an address of packed weights, which nobody writes while a run holds them.
unsafe impl Send for Panel {}
// SAFETY: as above.
unsafe impl Sync for Panel {}

impl Panel {
    /// Returns the panel from a later element on.
    ///
    /// # Safety
    /// The panel must have that many elements.
    #[inline(always)]
    pub(crate) unsafe fn add(self, elements: usize) -> Panel {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Panel::Floats(at) => Panel::Floats(at.add(elements)),
                Panel::Halves(half, at) => Panel::Halves(half, at.add(elements)),
            }
        }
    }
}

/// A tile's operands, with strides in elements.
///
/// ```text
/// out[p][f] = clamp(bias + addend
///     + Σ_t Σ_k x[taps[t] + p * x_row + k * x_k] * w[(t * run + k) * w_k + f * w_vector + lane])
/// ```
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) x: *const f32,
    pub(crate) x_row: usize,
    pub(crate) x_k: usize,
    /// The offsets into `x`, at each of which one run of `k` begins.
    pub(crate) taps: &'a [usize],
    /// The length of each run.
    pub(crate) run: usize,
    pub(crate) w: Panel,
    pub(crate) w_k: usize,
    pub(crate) w_vector: usize,
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    pub(crate) out_vector: usize,
    pub(crate) bias: Bias,
    /// The addend of the sums, which has the strides of `out` and may be `out`.
    pub(crate) addend: Option<*const f32>,
    /// The least and the largest result.
    pub(crate) clamp: (f32, f32),
    /// The lanes of the last vector that exist, of `w` and `out` alike.
    pub(crate) last: usize,
}

/// A tile that is compiled for its number of vectors and rows, and for whether its last vector is
/// whole.
struct Sums<'a, const F: usize, const P: usize, const WHOLE: bool>(Tile<'a>);

impl<const F: usize, const P: usize, const WHOLE: bool> Job for Sums<'_, F, P, WHOLE> {
    type Output = ();

    /// # Safety
    /// Every element that the tile names must be valid.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Tiles that registers do not hold are never asked for, and need not be compiled.
        if P > S::ROWS || (F == 4 && P * 4 > S::ROWS * 2 - 4) {
            debug_assert!(false, "a tile of {P} rows of {F} vectors");
            return;
        }
        let t = self.0;
        // SAFETY: the caller's promise; partial vectors are read and written for their lanes only.
        unsafe {
            let partial = |f: usize| !WHOLE && f == F - 1;
            let load = |at: *const f32, f: usize| if partial(f) { S::load_first(at, t.last) } else { S::load(at) };
            let mut sums = [[S::splat(0.0); F]; P];
            match t.bias {
                Bias::None => {}
                Bias::Vectors(bias) => {
                    for f in 0..F {
                        let bias = load(bias.add(f * S::LANES), f);
                        for sum in &mut sums {
                            sum[f] = bias;
                        }
                    }
                }
                Bias::Rows(bias, step) => {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = [S::splat(*bias.add(p * step)); F];
                    }
                }
            }
            // The rows of a large result lie too far apart for the processor to foresee the next
            // one.
            if let Some(addend) = t.addend {
                for p in 0..P {
                    (0..F).for_each(|f| S::prefetch(addend.wrapping_add(p * t.out_row + f * t.out_vector)));
                }
            }
            match t.w {
                Panel::Floats(w) => sum_up::<S, F, P>(&t, &mut sums, |at, f| load(w.add(at), f)),
                Panel::Halves(Half::F16, w) => {
                    sum_up::<S, F, P>(&t, &mut sums, |at, _| S::widen(w.add(at), Half::F16));
                }
                Panel::Halves(Half::BF16, w) => {
                    sum_up::<S, F, P>(&t, &mut sums, |at, _| S::widen(w.add(at), Half::BF16));
                }
            }
            let (low, high) = (S::splat(t.clamp.0), S::splat(t.clamp.1));
            for (p, sum) in sums.iter().enumerate() {
                for (f, &sum) in sum.iter().enumerate() {
                    let at = p * t.out_row + f * t.out_vector;
                    let sum = match t.addend {
                        Some(addend) => S::add(sum, load(addend.add(at), f)),
                        None => sum,
                    };
                    let result = S::min(high, S::max(low, sum));
                    if partial(f) {
                        S::store_first(t.out.add(at), t.last, result);
                    } else {
                        S::store(t.out.add(at), result);
                    }
                }
            }
        }
    }
}

/// Adds the products to the sums; `w` loads a vector.
///
/// # Safety
/// Every element that the tile names must be valid.
#[inline(always)]
unsafe fn sum_up<S: Simd, const F: usize, const P: usize>(
    t: &Tile<'_>,
    sums: &mut [[S::V; F]; P],
    w: impl Fn(usize, usize) -> S::V,
) {
    let mut at = 0;
    for &tap in t.taps {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = t.x.add(tap);
            for _ in 0..t.run {
                let mut vectors = [S::splat(0.0); F];
                for (f, vector) in vectors.iter_mut().enumerate() {
                    *vector = w(at + f * t.w_vector, f);
                }
                for (p, sum) in sums.iter_mut().enumerate() {
                    let x = S::splat(*x.add(p * t.x_row));
                    for f in 0..F {
                        sum[f] = S::fma(x, vectors[f], sum[f]);
                    }
                }
                x = x.add(t.x_k);
                at += t.w_k;
            }
        }
    }
}

/// Returns how many vectors a tile of the given number of rows should have: as many as the
/// registers hold.
pub(crate) fn vectors(isa: Isa, rows: usize) -> usize {
    if rows * 4 <= isa.rows() * 2 - 4 { 4 } else { 2 }
}

/// Computes a tile of 1 to `isa.rows()` rows and 1, 2 or 4 vectors; four only where [`vectors`]
/// says so.
///
/// # Safety
/// Every element that the tile names must be valid, and nobody else may access the elements of
/// `out`.
#[inline]
pub(crate) unsafe fn compute(isa: Isa, vectors: usize, rows: usize, tile: Tile<'_>) {
    macro_rules! of {
        ($f:literal: $($p:literal)*) => {
            match (rows, tile.last == isa.lanes()) {
                // SAFETY: the caller's promise.
                $(($p, true) => unsafe { isa.run(Sums::<$f, $p, true>(tile)) },)*
                // SAFETY: the caller's promise.
                $(($p, false) => unsafe { isa.run(Sums::<$f, $p, false>(tile)) },)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    match vectors {
        1 => of!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        2 => of!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
        4 => of!(4: 1 2 3 4 5 6),
        _ => debug_assert!(false, "a tile of {vectors} vectors"),
    }
}

/// Returns into how many tiles of nearly equal size `count` rows are divided, for tiles of at most
/// `most` rows.
pub(crate) fn tiles(count: usize, most: usize) -> usize {
    count.div_ceil(most.max(1))
}

/// Returns the part of `0..count` that piece `number` of `pieces` covers.
pub(crate) fn piece(count: usize, pieces: usize, number: usize) -> std::ops::Range<usize> {
    let (each, more) = (count / pieces.max(1), count % pieces.max(1));
    let start = number * each + number.min(more);
    start..start + each + usize::from(number < more)
}
