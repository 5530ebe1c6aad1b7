//! The microkernel of products of bytes, in which every quantised product and convolution ends.
//!
//! A tile is `rows × vectors` sums held in registers.
//! For each group of four bytes it loads its vectors of the right operand, repeats a group of each
//! of its rows in all lanes, and adds the products.
//! What becomes of the sums is a [`Finish`], which is compiled into the tile.

use crate::kernels::tile::{piece, tiles};
use crate::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::simd::dot::amx;
use crate::simd::dot::{Dot, DotJob, Dots, GROUP, Unit};

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
    /// At most two.
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
    /// The rows of the whole tile, and the first of them that is computed here.
    rows: usize,
    first: usize,
}

impl<E: Finish, const F: usize, const P: usize> DotJob for Sums<'_, E, F, P> {
    type Output = ();

    /// # Safety
    /// Every element that the tile names must be valid.
    #[inline(always)]
    unsafe fn run<D: Dot>(self) {
        // Tiles that registers do not hold are never asked for, and need not be compiled.
        if P > D::ROWS || (F == 4 && P * 4 > D::ROWS * 2 - 4) {
            debug_assert!(false, "a tile of {P} rows of {F} vectors");
            return;
        }
        let Sums { tile: t, finish, last, rows: all, first } = self;
        // SAFETY: the caller's promise; the bytes of a run are read, and none behind them.
        unsafe {
            let mut sums = [[D::splat(0); F]; P];
            for term in t.terms {
                for f in 0..F {
                    let column = D::load(term.columns.add(f * term.vector));
                    for (p, sum) in sums.iter_mut().enumerate() {
                        sum[f] = D::add(sum[f], D::mul(D::splat(*term.rows.add((first + p) * term.step)), column));
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
                        Rows::Strided { x, row, taps } => x.add(*taps.get_unchecked(run) + (first + p) * row),
                        Rows::Each(places) => *places.get_unchecked(run * all + first + p),
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
                    finish.take::<D>(sum, first + p, f, if f == F - 1 { last } else { D::LANES });
                }
            }
        }
    }
}

/// Returns how many vectors a tile of the given number of rows should have: as many as the
/// registers hold.
pub(crate) fn vectors(dots: Dots, rows: usize) -> usize {
    if rows * 4 <= dots.vector_rows() * 2 - 4 { 4 } else { 2 }
}

/// The fewest rows, and bytes of a run, that tiles take less time for than vectors.
#[cfg(target_arch = "x86_64")]
const TILED: (usize, usize) = (5, 32);

/// Computes a tile of 1 to [`Dots::rows`] rows and 1, 2 or 4 vectors; four only where [`vectors`]
/// says so.
/// The last vector has `last` lanes.
///
/// # Safety
/// Every element that the tile and its finish name must be valid, and nobody else may access the
/// elements that the finish writes.
#[inline]
pub(crate) unsafe fn compute<E: Finish>(
    unit: &Unit,
    (rows, vectors): (usize, usize),
    last: usize,
    tile: Tile<'_>,
    finish: E,
) {
    let dots = unit.dots();
    #[cfg(target_arch = "x86_64")]
    if vectors <= 2 && rows >= TILED.0 && tile.run >= TILED.1 && unit.set_up(rows) {
        // SAFETY: the caller's promise, and the tiles are set up.
        unsafe {
            let mut sums = std::mem::MaybeUninit::uninit();
            let sums = tiled((rows, vectors), tile, &mut sums);
            return dots.run(Finished { sums, tile, finish, rows, vectors, last });
        }
    }
    macro_rules! of {
        ($f:literal: $own:expr, $first:expr; $($p:literal)*) => {
            match $own {
                // SAFETY: the caller's promise.
                $($p => unsafe { dots.run(Sums::<E, $f, $p> { tile, finish, last, rows, first: $first }) },)*
                _ => debug_assert!(false, "a tile of {rows} rows"),
            }
        };
    }
    let most = if vectors == 4 { rows } else { dots.vector_rows() };
    for number in 0..tiles(rows, most) {
        let own = piece(rows, tiles(rows, most), number);
        match vectors {
            1 => of!(1: own.len(), own.start; 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            2 => of!(2: own.len(), own.start; 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            4 => of!(4: own.len(), own.start; 1 2 3 4 5 6),
            _ => debug_assert!(false, "a tile of {vectors} vectors"),
        }
    }
}

/// Returns the sums of products alone, by the processor's tiles.
///
/// # Safety
/// As for [`compute`]; the thread's tiles must be set up for these rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tiled<'a>(
    (rows, vectors): (usize, usize),
    t: Tile<'_>,
    sums: &'a mut std::mem::MaybeUninit<amx::Sums>,
) -> &'a amx::Sums {
    use std::mem::MaybeUninit;

    use amx::{BLOCK, Left, MOST_ROWS, ROWS};

    /// A block of the operands that does not lie as the instructions read it.
    #[repr(align(64))]
    struct Copied<const ROWS: usize>([[u8; BLOCK]; ROWS]);

    let two = rows > ROWS;
    let (whole, rest) = (t.run / BLOCK, t.run % BLOCK);
    let mut left = MaybeUninit::<Copied<MOST_ROWS>>::uninit();
    let mut right = MaybeUninit::<[Copied<ROWS>; 2]>::uninit();
    if rest > 0 {
        // What lies behind the last group of the right operand is multiplied by zeros.
        right = MaybeUninit::zeroed();
    }
    // SAFETY: the caller's promise; the bytes of a run are read, and none behind them.
    unsafe {
        amx::clear(two);
        let group = GROUP * ROWS;
        let run_bytes = t.run.div_ceil(GROUP) * group;
        for run in 0..t.runs {
            let place = |row: usize| match t.rows {
                Rows::Strided { x, row: stride, taps } => x.wrapping_add(*taps.get_unchecked(run) + row * stride),
                Rows::Each(places) => *places.get_unchecked(run * rows + row),
            };
            let w = t.w.add(run * run_bytes);
            let starts = [place(0), place(if two { ROWS } else { 0 })];
            let strides = match t.rows {
                Rows::Strided { row, .. } => Some([row; 2]),
                Rows::Each(places) => {
                    let places = places.get_unchecked(run * rows..(run + 1) * rows);
                    let (first, second) = places.split_at(rows.min(ROWS));
                    stride(first).zip(stride(second)).map(|(first, second)| [first, second])
                }
            };
            match strides {
                Some(row) if whole > 0 => {
                    let left = Left { at: starts, row };
                    amx::add(two, vectors, left, [w, w.wrapping_add(t.w_vector)], whole);
                }
                _ => {}
            }
            let copies = if strides.is_some() { whole } else { 0 };
            for block in copies..whole + usize::from(rest > 0) {
                let into = left.as_mut_ptr().cast::<u8>();
                let count = if block == whole { rest } else { BLOCK };
                let mask = u64::MAX >> (BLOCK - count);
                for row in 0..rows {
                    use std::arch::x86_64::{_mm512_maskz_loadu_epi8, _mm512_store_si512};
                    let bytes = _mm512_maskz_loadu_epi8(mask, place(row).add(block * BLOCK).cast());
                    _mm512_store_si512(into.add(row * BLOCK).cast(), bytes);
                }
                let from = w.add(block * ROWS * BLOCK);
                let mut of = [from, from.wrapping_add(t.w_vector)];
                if block == whole {
                    let bytes = rest.div_ceil(GROUP) * group;
                    for (vector, of) in of.iter_mut().enumerate().take(vectors) {
                        let into = right.as_mut_ptr().cast::<Copied<ROWS>>().add(vector).cast::<i8>();
                        std::ptr::copy_nonoverlapping(from.add(vector * t.w_vector), into, bytes);
                        *of = into;
                    }
                }
                let at = [into.cast_const(), into.add(if two { ROWS * BLOCK } else { 0 }).cast_const()];
                amx::add(two, vectors, Left { at, row: [BLOCK; 2] }, of, 1);
            }
        }
        amx::store(two, sums);
        sums.assume_init_ref()
    }
}

/// Returns the bytes between rows that lie equally far from each other.
#[cfg(target_arch = "x86_64")]
#[inline]
fn stride(places: &[*const u8]) -> Option<usize> {
    let &[first, second, ..] = places else { return Some(0) };
    let stride = second.addr().wrapping_sub(first.addr());
    let mut pairs = places.iter().zip(&places[1..]);
    pairs.all(|(one, next)| next.addr().wrapping_sub(one.addr()) == stride).then_some(stride)
}

/// What becomes of sums that the processor's tiles have made.
#[cfg(target_arch = "x86_64")]
struct Finished<'a, E> {
    sums: &'a amx::Sums,
    tile: Tile<'a>,
    finish: E,
    rows: usize,
    vectors: usize,
    last: usize,
}

#[cfg(target_arch = "x86_64")]
impl<E: Finish> DotJob for Finished<'_, E> {
    type Output = ();

    /// # Safety
    /// Every element that the tile names must be valid.
    #[inline(always)]
    unsafe fn run<D: Dot>(self) {
        let Finished { sums, tile: t, finish, rows, vectors, last } = self;
        for f in 0..vectors {
            let count = if f == vectors - 1 { last } else { D::LANES };
            // SAFETY: the caller's promise.
            unsafe {
                let mut columns = [D::splat(0); 2];
                for (column, term) in columns.iter_mut().zip(t.terms) {
                    *column = D::load(term.columns.add(f * term.vector));
                }
                for (p, row) in sums.0.iter().enumerate().take(rows) {
                    let mut sum = D::load(row.as_ptr().add(f * D::LANES));
                    for (&column, term) in columns.iter().zip(t.terms) {
                        sum = D::add(sum, D::mul(D::splat(*term.rows.add(p * term.step)), column));
                    }
                    finish.take::<D>(sum, p, f, count);
                }
            }
        }
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
            unsafe { compute(&self.dots.unit(), (self.rows, self.vectors), self.last, tile, finish) };
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
