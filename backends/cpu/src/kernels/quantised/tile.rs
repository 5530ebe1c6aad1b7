//! The microkernel of products of bytes, in which every quantised product and convolution ends.
//!
//! A tile is `rows × vectors` sums held in registers.
//! For each group of four bytes it loads its vectors of the right operand, repeats a group of each
//! of its rows in all lanes, and adds the products.
//! What becomes of the sums is a [`Finish`], which is compiled into the tile.

use crate::simd::Simd;
use crate::simd::dot::{Dot, DotJob, Dots, GROUP};

/// The places of a tile's rows of the left operand, in bytes.
/// The bytes are signed or not as [`Dots::is_signed`] says.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Rows that lie `row` bytes apart; the run `t` of each begins at `taps[t]`.
    Strided { x: *const u8, row: usize, taps: &'a [usize] },
    /// The place of each row in each run: those of the first run, then those of the next, each with
    /// as many rows as the tile.
    Each(&'a [*const u8]),
}

/// A summand of each sum: a number of its row times one of its column.
#[derive(Clone, Copy)]
pub(crate) struct Term {
    /// A number for each row of the tile; the numbers lie `step` elements apart.
    pub(crate) rows: *const i32,
    pub(crate) step: usize,
    /// A vector for each vector of the tile; the vectors lie `vector` elements apart.
    pub(crate) columns: *const i32,
    pub(crate) vector: usize,
}

/// A tile's operands.
///
/// ```text
/// sum[p][f] = Σ terms rows[p] · columns[f]
///     + Σ_t Σ_k x[t][p][k] · w[t][k][f]
/// ```
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) rows: Rows<'a>,
    /// The bytes of each run, which need be no multiple of a group.
    pub(crate) run: usize,
    /// The number of runs.
    pub(crate) runs: usize,
    /// The first vector's groups.
    pub(crate) w: *const i8,
    /// The bytes between a vector's groups and the next vector's.
    pub(crate) w_vector: usize,
    pub(crate) terms: &'a [Term],
}

/// What becomes of the sums.
pub(crate) trait Finish: Copy {
    /// Takes the sums of a row and a vector of the tile; the first `count` lanes exist.
    ///
    /// # Safety
    /// The processor must have the instructions of `D`, and the finish must be made for this row
    /// and vector.
    unsafe fn take<D: Dot>(self, sums: D::V, row: usize, vector: usize, count: usize);
}

/// The sums as they are.
#[derive(Clone, Copy)]
pub(crate) struct Whole {
    pub(crate) out: *mut i32,
    pub(crate) row: usize,
    pub(crate) vector: usize,
}

impl Finish for Whole {
    #[inline(always)]
    unsafe fn take<D: Dot>(self, sums: D::V, row: usize, vector: usize, count: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let at = self.out.add(row * self.row + vector * self.vector);
            if count == D::LANES { D::store(at, sums) } else { D::store_first(at, count, sums) }
        }
    }
}

/// The sums as real numbers: `clamp(sum · scale + bias)`.
#[derive(Clone, Copy)]
pub(crate) struct Real<'a> {
    pub(crate) out: *mut f32,
    pub(crate) row: usize,
    pub(crate) vector: usize,
    /// A factor for each row of the tile, where rows have one each.
    pub(crate) row_scales: Option<&'a [f32]>,
    /// A vector of factors for each vector of the tile, contiguous.
    pub(crate) scales: *const f32,
    /// The same of summands.
    pub(crate) bias: Option<*const f32>,
    /// The least and the largest result; NaN stays.
    pub(crate) clamp: (f32, f32),
}

impl Finish for Real<'_> {
    #[inline(always)]
    unsafe fn take<D: Dot>(self, sums: D::V, row: usize, vector: usize, count: usize) {
        // SAFETY: the caller's promise; vectors of factors and summands are whole.
        unsafe {
            let of = |list: *const f32| D::S::load(list.add(vector * D::LANES));
            let mut scale = of(self.scales);
            if let Some(scales) = self.row_scales {
                scale = D::S::mul(scale, D::S::splat(*scales.get_unchecked(row)));
            }
            let mut y = D::S::mul(D::real(sums), scale);
            if let Some(bias) = self.bias {
                y = D::S::add(y, of(bias));
            }
            y = D::S::min(D::S::splat(self.clamp.1), D::S::max(D::S::splat(self.clamp.0), y));
            let at = self.out.add(row * self.row + vector * self.vector);
            if count == D::LANES { D::S::store(at, y) } else { D::S::store_first(at, count, y) }
        }
    }
}

/// A tile that is compiled for its number of vectors and rows, and for its finish.
struct Sums<'a, E, const F: usize, const P: usize> {
    tile: Tile<'a>,
    finish: E,
    last: usize,
}

impl<E: Finish, const F: usize, const P: usize> DotJob for Sums<'_, E, F, P> {
    type Output = ();

    /// # Safety
    /// Every element that the tile names must be valid.
    #[inline(always)]
    unsafe fn run<D: Dot>(self) {
        let Sums { tile: t, finish, last } = self;
        // SAFETY: the caller's promise; the bytes of a run are read, and none behind them.
        unsafe {
            let mut sums = [[D::splat(0); F]; P];
            for term in t.terms {
                for f in 0..F {
                    let column = D::load(term.columns.add(f * term.vector));
                    for (p, sum) in sums.iter_mut().enumerate() {
                        sum[f] = D::add(sum[f], D::mul(D::splat(*term.rows.add(p * term.step)), column));
                    }
                }
            }
            // Adds the products of a group of each row, which `$group` reads at a row's place.
            macro_rules! add {
                ($w:expr, $rows:expr, $row:ident => $group:expr) => {
                    let mut vectors = [D::right($w); F];
                    for (f, vector) in vectors.iter_mut().enumerate().skip(1) {
                        *vector = D::right($w.add(f * t.w_vector));
                    }
                    for (p, sum) in sums.iter_mut().enumerate() {
                        let $row = $rows[p];
                        let x = D::left($group);
                        for f in 0..F {
                            sum[f] = D::dot(sum[f], x, vectors[f]);
                        }
                    }
                };
            }
            let mut w = t.w;
            let (whole, rest) = (t.run / GROUP, t.run % GROUP);
            for run in 0..t.runs {
                let mut rows = [std::ptr::null::<u8>(); P];
                for (p, row) in rows.iter_mut().enumerate() {
                    *row = match t.rows {
                        Rows::Strided { x, row, taps } => x.add(*taps.get_unchecked(run) + p * row),
                        Rows::Each(places) => *places.get_unchecked(run * P + p),
                    };
                }
                for k in 0..whole {
                    add!(w, rows, row => row.add(k * GROUP).cast::<u32>().read_unaligned());
                    w = w.add(GROUP * D::LANES);
                }
                if rest > 0 {
                    add!(w, rows, row => {
                        let mut group = [0; GROUP];
                        std::ptr::copy_nonoverlapping(row.add(whole * GROUP), group.as_mut_ptr(), rest);
                        u32::from_ne_bytes(group)
                    });
                    w = w.add(GROUP * D::LANES);
                }
            }
            for (p, sum) in sums.iter().enumerate() {
                for (f, &sum) in sum.iter().enumerate() {
                    finish.take::<D>(sum, p, f, if f == F - 1 { last } else { D::LANES });
                }
            }
        }
    }
}

/// Returns how many vectors a tile of the given number of rows should have: as many as the
/// registers hold.
pub(crate) fn vectors(dots: Dots, rows: usize) -> usize {
    if rows * 4 <= dots.rows() * 2 - 4 { 4 } else { 2 }
}

/// Computes a tile of 1 to `dots.rows()` rows and 1, 2 or 4 vectors; four only where [`vectors`]
/// says so.
/// The last vector has `last` lanes.
///
/// # Safety
/// Every element that the tile and its finish name must be valid, and nobody else may access the
/// elements that the finish writes.
#[inline]
pub(crate) unsafe fn compute<E: Finish>(
    dots: Dots,
    (rows, vectors): (usize, usize),
    last: usize,
    tile: Tile<'_>,
    finish: E,
) {
    macro_rules! of {
        ($f:literal: $($p:literal)*) => {
            match rows {
                // SAFETY: the caller's promise.
                $($p => unsafe { dots.run(Sums::<E, $f, $p> { tile, finish, last }) },)*
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

#[cfg(test)]
mod tests {
    use hetero_testkit::SplitMix64 as Random;

    use super::super::panels::Panels;
    use super::*;
    use crate::simd::Isa;

    /// A product of random bytes, its tiles as the kernels lay them out.
    struct Case {
        dots: Dots,
        rows: usize,
        vectors: usize,
        last: usize,
        panels: Panels,
        x: Vec<u8>,
        packed: Vec<i8>,
        expected: Vec<i32>,
    }

    impl Case {
        fn new(dots: Dots, random: &mut Random) -> Case {
            let rows = 1 + random.below(dots.rows());
            let vectors = if vectors(dots, rows) == 4 && random.below(2) == 0 { 4 } else { 1 + random.below(2) };
            let last = 1 + random.below(dots.lanes());
            let (runs, run) = (1 + random.below(3), random.below(23));
            let columns = (vectors - 1) * dots.lanes() + last;
            let panels = Panels::new(dots, columns, runs, run);
            let extreme = random.below(3) == 0;
            let mut byte = || if extreme { [0, 127, 128, 255][random.below(4)] } else { random.below(256) as u8 };
            let x: Vec<u8> = (0..rows * runs * run).map(|_| byte()).collect();
            let w: Vec<u8> = (0..runs * run * columns).map(|_| byte()).collect();
            let mut packed = vec![0x55; panels.bytes().unwrap()];
            for (panel, into) in packed.chunks_exact_mut(panels.stride()).enumerate() {
                let at = |run_of: usize, k: usize, column: usize| w[(run_of * run + k) * columns + column] as i8;
                match runs {
                    1 => panels.pack_matrix(dots, panel, into, (&w, (columns, 1), 0)),
                    _ => panels.pack(panel, into, at),
                }
            }
            let mut expected = vec![0i32; rows * columns];
            for (index, sum) in expected.iter_mut().enumerate() {
                let (row, column) = (index / columns, index % columns);
                for k in 0..runs * run {
                    let x = x[row * runs * run + k];
                    let x = if dots.is_signed() { i32::from(x as i8) } else { i32::from(x) };
                    *sum += x * i32::from(w[k * columns + column] as i8);
                }
            }
            Case { dots, rows, vectors, last, panels, x, packed, expected }
        }

        fn run(&self, each: bool, terms: &[Term], finish: impl Finish) {
            let Panels { runs, run, .. } = self.panels;
            let taps: Vec<usize> = (0..runs).map(|number| number * run).collect();
            let places: Vec<*const u8> = (0..runs * self.rows)
                .map(|at| self.x[(at % self.rows) * runs * run + at / self.rows * run..].as_ptr())
                .collect();
            let rows = match each {
                true => Rows::Each(&places),
                false => Rows::Strided { x: self.x.as_ptr(), row: runs * run, taps: &taps },
            };
            let w = self.packed[self.panels.head().min(self.packed.len())..].as_ptr();
            let tile = Tile { rows, run, runs, w, w_vector: self.panels.stride(), terms };
            // SAFETY: the operands are as large as the case says.
            unsafe { compute(self.dots, (self.rows, self.vectors), self.last, tile, finish) };
        }
    }

    fn every(mut test: impl FnMut(&Case, &mut Random)) {
        let mut random = Random::new(5);
        for dots in Isa::available().flat_map(Dots::available) {
            for _ in 0..150 {
                test(&Case::new(dots, &mut random), &mut random);
            }
        }
    }

    #[test]
    fn tiles_are_exact_with_every_set_of_instructions() {
        every(|case, random| {
            let columns = case.panels.columns;
            // A row of guards stands behind each row.
            let stride = columns + 3;
            let mut got = vec![77; case.rows * stride];
            let padded = case.panels.count() * case.panels.lanes;
            let (mut factors, mut more) = (vec![0i32; 2 * case.rows], vec![0i32; padded]);
            factors.iter_mut().chain(&mut more).for_each(|v| *v = random.below(1000) as i32 - 500);
            let (numbers, of, vector) = (factors.as_ptr(), more.as_ptr(), case.panels.lanes);
            let term = Term { rows: numbers, step: 2, columns: of, vector };
            let terms = [term, term];
            let terms = &terms[..random.below(3)];
            let finish = Whole { out: got.as_mut_ptr(), row: stride, vector: case.panels.lanes };
            case.run(random.below(2) == 0, terms, finish);
            for (row, got) in got.chunks(stride).enumerate() {
                for (column, got) in got.iter().enumerate() {
                    let more = || terms.len() as i32 * factors[2 * row] * more[column];
                    let expected = if column < columns { case.expected[row * columns + column] + more() } else { 77 };
                    assert_eq!(*got, expected, "{}: {:?}, row {row}, column {column}", case.dots, case.panels);
                }
            }
        });
    }

    #[test]
    fn panels_know_the_sums_of_their_columns() {
        every(|case, _| {
            let ones = vec![1u8; case.x.len()];
            let mut sums = vec![0; case.panels.count() * case.panels.lanes];
            for (panel, into) in sums.chunks_mut(case.panels.lanes).enumerate() {
                into.iter_mut().zip(case.panels.sums(&case.packed, panel)).for_each(|(into, sum)| *into = sum);
            }
            let mut got = vec![0; case.rows * sums.len()];
            let finish = Whole { out: got.as_mut_ptr(), row: sums.len(), vector: case.panels.lanes };
            let Case { dots, rows, vectors, panels, .. } = *case;
            let (packed, expected) = (case.packed.clone(), vec![]);
            Case { dots, rows, vectors, last: panels.lanes, panels, x: ones, packed, expected }.run(false, &[], finish);
            got.chunks(sums.len()).for_each(|got| assert_eq!(got, sums, "{dots}"));
        });
    }

    #[test]
    fn real_numbers_are_sums_with_a_scale_a_bias_and_limits() {
        every(|case, random| {
            let columns = case.panels.columns;
            let padded = case.panels.count() * case.panels.lanes;
            let mut number = || random.below(64) as f32 / 8.0 - 4.0;
            let scales: Vec<f32> = (0..padded).map(|_| number()).collect();
            let bias: Vec<f32> = (0..padded).map(|_| number()).collect();
            let row_scales: Vec<f32> = (0..case.rows).map(|_| number()).collect();
            let mut got = vec![0.0; case.rows * columns];
            let clamp = if random.below(2) == 0 { (-1000.0, 3000.0) } else { (f32::NEG_INFINITY, f32::INFINITY) };
            let (by_row, biased) = (random.below(2) == 0, random.below(2) == 0);
            let finish = Real {
                out: got.as_mut_ptr(),
                row: columns,
                vector: case.panels.lanes,
                row_scales: by_row.then_some(&row_scales),
                scales: scales.as_ptr(),
                bias: biased.then_some(bias.as_ptr()),
                clamp,
            };
            case.run(false, &[], finish);
            for (index, got) in got.iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let scale = if by_row { scales[column] * row_scales[row] } else { scales[column] };
                let shift = if biased { bias[column] } else { 0.0 };
                let expected = case.expected[index] as f32 * scale + shift;
                assert_eq!(*got, expected.clamp(clamp.0, clamp.1), "{}", case.dots);
            }
        });
    }
}
