//! Scaled dot-product attention on f32, in blocks of queries and keys.
//!
//! Scores are never kept whole: each block of queries goes over the keys once, block by block, and
//! keeps the largest score and the sum of the powers that it has seen (Milakov and Gimelshein,
//! "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).
//! Heads of queries that share a head of keys and values are one longer list of queries, so that
//! each key is read once for all of them.
//! Where the queries are few, as with one token over a long cache, the keys are read as they lie,
//! and divided among tasks whose results are merged; otherwise they are packed first, transposed,
//! for the microkernel.

use hetero_hal::{DType, Result};

use super::tile::{self, Bias, Panel, Tile, piece};
use super::vector::Activation;
use super::{Kernel, Runtime, Site};
use crate::operand::{Arguments, Shared};
use crate::simd::{self, Isa, Job, Simd};

/// The keys of a block: so many that the scores of a block of queries stay in the first cache.
const KEYS: usize = 128;

/// The most queries of a block, in tiles of the microkernel.
const TILES: usize = 4;

/// The number of queries of a head from which on packing its keys pays.
const PACK_FROM: usize = 9;

/// The keys that are worth a task of their own where the queries are few.
const PART: usize = 512;

/// The tasks that are enough, however many keys there are.
/// It does not depend on the number of threads, and so neither do the results.
const ENOUGH: usize = 32;

/// The place of a tensor's rows: by batch, head and step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) batch: usize,
    pub(crate) head: usize,
    pub(crate) step: usize,
}

impl Rows {
    /// Returns the places in a tensor of rank 4, or of rank 3 whose last dimension has the heads
    /// side by side.
    fn of(rank: usize, [_, heads, steps, width]: [usize; 4]) -> Rows {
        match rank {
            4 => Rows { batch: heads * steps * width, head: steps * width, step: width },
            _ => Rows { batch: heads * steps * width, head: width, step: heads * width },
        }
    }

    fn at(self, batch: usize, head: usize, step: usize) -> usize {
        batch * self.batch + head * self.head + step * self.step
    }
}

/// What is added to the scores.
#[derive(Clone, Copy)]
struct Mask {
    /// Whether it is of booleans, which say what is seen.
    flags: bool,
    /// The strides by batch, head, query and key.
    strides: [usize; 4],
    /// The number of keys that it covers; those behind are hidden.
    keys: usize,
}

impl Mask {
    /// Returns the mask of a node, or `None` where it does not fit the scores.
    fn of(dtype: DType, shape: &[usize], scores: [usize; 4]) -> Option<Mask> {
        let mut target = scores;
        let last = shape.last().copied().unwrap_or(1);
        if last > 1 && last < scores[3] {
            target[3] = last;
        }
        let lead = 4usize.checked_sub(shape.len())?;
        let (mut strides, mut step) = ([0; 4], 1);
        for (axis, &size) in shape.iter().enumerate().rev() {
            if size != 1 {
                strides[axis + lead] = step;
            }
            if size != 1 && size != target[axis + lead] {
                return None;
            }
            step *= size;
        }
        let flags = match dtype {
            DType::Bool => true,
            DType::F32 => false,
            _ => return None,
        };
        Some(Mask { flags, strides, keys: target[3] })
    }
}

/// The scores that the last output shows.
#[derive(Clone, Copy, PartialEq)]
enum Shown {
    Plain,
    Capped,
    Biased,
    Weights,
}

pub(crate) struct Attention {
    isa: Isa,
    batch: usize,
    /// The heads of keys and values, and the heads of queries that share each of them.
    heads: usize,
    group: usize,
    steps: usize,
    /// The keys from earlier runs, and the fresh ones behind them.
    past: usize,
    fresh: usize,
    width: usize,
    v_width: usize,
    q: Rows,
    k: Rows,
    v: Rows,
    out: Rows,
    mask: Option<Mask>,
    /// Whether the lengths of the sequences are given.
    lengths: bool,
    causal: bool,
    scale: f32,
    softcap: f32,
    shown: Option<Shown>,
}

/// Returns the batch, heads, steps and width of an input.
pub(super) fn sizes(site: Site<'_>, index: usize, heads: &str) -> Result<Option<[usize; 4]>> {
    let of = |heads: usize, shape: &[usize]| match *shape {
        [batch, heads, steps, width] => Some([batch, heads, steps, width]),
        [batch, steps, hidden] if heads > 0 && hidden % heads == 0 => Some([batch, heads, steps, hidden / heads]),
        _ => None,
    };
    let heads = site.operator().int(heads)?.and_then(|heads| usize::try_from(heads).ok()).unwrap_or(0);
    Ok(site.shape(index).and_then(|shape| of(heads, shape)))
}

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    if site.output(0).is_none() {
        return Ok(None);
    }
    let (q, k) = (sizes(site, 0, "q_num_heads")?, sizes(site, 1, "kv_num_heads")?);
    let (Some(q), Some(k), Some(v)) = (q, k, sizes(site, 2, "kv_num_heads")?) else { return Ok(None) };
    let floats = [0, 1, 2, 4, 5].iter().all(|&index| site.input(index).is_none_or(|x| x.dtype == DType::F32));
    let ([batch, q_heads, steps, width], [_, heads, fresh, _], [.., v_width]) = (q, k, v);
    let past = match (site.shape(4), site.shape(5)) {
        (None, None) => 0,
        (Some(&[b, h, past, w]), Some(&[c, i, earlier, v_w]))
            if [b, h, w, c, i, v_w, earlier] == [batch, heads, width, batch, heads, v_width, past] =>
        {
            past
        }
        _ => return Ok(None),
    };
    let keys = past + fresh;
    let fits = k == [batch, heads, fresh, width] && v == [batch, heads, fresh, v_width];
    let empty = [batch, heads, q_heads, steps, keys, width, v_width].contains(&0);
    if !floats || !fits || empty || q_heads % heads != 0 {
        return Ok(None);
    }
    let mask = match site.input(3) {
        None => None,
        Some(mask) => match Mask::of(mask.dtype, &mask.shape, [batch, q_heads, steps, keys]) {
            None => return Ok(None),
            mask => mask,
        },
    };
    let lengths = match site.input(6) {
        None => false,
        Some(lengths) if lengths.dtype == DType::I64 && lengths.elements() == batch => true,
        Some(_) => return Ok(None),
    };
    let rank = |index: usize| site.shape(index).map_or(0, <[usize]>::len);
    let shown = match operator.int("qk_matmul_output_mode")?.unwrap_or(0) {
        0 => Shown::Plain,
        1 => Shown::Capped,
        2 => Shown::Biased,
        _ => Shown::Weights,
    };
    Ok(Some(Box::new(Attention {
        isa: site.isa,
        batch,
        heads,
        group: q_heads / heads,
        steps,
        past,
        fresh,
        width,
        v_width,
        q: Rows::of(rank(0), q),
        k: Rows::of(rank(1), k),
        v: Rows::of(rank(2), v),
        out: Rows::of(rank(0), [batch, q_heads, steps, v_width]),
        mask,
        lengths,
        causal: operator.int("is_causal")?.unwrap_or(0) != 0,
        scale: operator.float("scale")?.unwrap_or((1.0 / (width as f64).sqrt()) as f32),
        softcap: operator.float("softcap")?.unwrap_or(0.0),
        shown: site.output(3).map(|_| shown),
    })))
}

/// The sizes of an attention without earlier keys, whose heads each have keys of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) steps: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    pub(crate) v_width: usize,
}

/// The memory that a task has for a block of queries.
struct Block<'a> {
    /// The queries, times the scale.
    queries: &'a mut [f32],
    /// The scores with [`KEYS`] for each query, and then the powers.
    scores: &'a mut [f32],
    /// The sums of weighted values; `largest` and `sums` are those of each query's scores.
    values: &'a mut [f32],
    largest: &'a mut [f32],
    sums: &'a mut [f32],
}

/// The operands of a run.
#[derive(Clone, Copy)]
struct Operands<'a> {
    q: &'a [f32],
    /// The keys and values, those of earlier runs first.
    keys: [&'a [f32]; 2],
    values: [&'a [f32]; 2],
    flags: &'a [u8],
    bias: &'a [f32],
    lengths: &'a [i64],
}

impl Attention {
    /// Makes the attention of queries, keys and values whose rows lie at these places, as do those
    /// of the result; `mask` is the shape of what is added to the scores.
    /// Returns `None` where the mask does not repeat over the scores.
    pub(crate) fn of_parts(
        isa: Isa,
        sizes: Sizes,
        [q, k, v, out]: [Rows; 4],
        mask: Option<&[usize]>,
        scale: f32,
    ) -> Option<Attention> {
        let Sizes { batch, heads, steps, keys, width, v_width } = sizes;
        let mask = match mask {
            None => None,
            Some(shape) => {
                let mask = Mask::of(DType::F32, shape, [batch, heads, steps, keys])?;
                (mask.keys == keys).then_some(Some(mask))?
            }
        };
        Some(Attention {
            isa,
            batch,
            heads,
            group: 1,
            steps,
            past: 0,
            fresh: keys,
            width,
            v_width,
            q,
            k,
            v,
            out,
            mask,
            lengths: false,
            causal: false,
            scale,
            softcap: 0.0,
            shown: None,
        })
    }

    fn keys(&self) -> usize {
        self.past + self.fresh
    }

    /// Returns the number of queries that share a head of keys.
    fn queries(&self) -> usize {
        self.group * self.steps
    }

    fn packs(&self) -> bool {
        self.queries() >= PACK_FROM
    }

    /// Returns the number of blocks of a head's queries, and the most queries of a block.
    fn blocks(&self) -> (usize, usize) {
        let blocks = self.queries().div_ceil(self.isa.rows() * TILES);
        (blocks, self.queries().div_ceil(blocks))
    }

    /// Returns into how many parts the keys are divided.
    fn parts(&self) -> usize {
        let tasks = self.batch * self.heads * self.blocks().0;
        if self.shown.is_some() { 1 } else { (self.keys() / PART).min(ENOUGH / tasks).max(1) }
    }

    /// Returns the blocks of keys: those of earlier runs and the fresh ones, each with its segment
    /// and its keys there.
    fn key_blocks(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let of = |segment: usize, count: usize| {
            (0..count).step_by(KEYS).map(move |start| (segment, start..(start + KEYS).min(count)))
        };
        of(0, self.past).chain(of(1, self.fresh))
    }

    /// Returns the elements of a head's packed keys.
    fn packed(&self) -> usize {
        let lanes = self.isa.lanes();
        (self.past.next_multiple_of(lanes) + self.fresh.next_multiple_of(lanes)) * self.width
    }

    /// Returns the elements of a thread's block.
    fn room(&self) -> usize {
        self.blocks().1 * (self.width + KEYS + self.v_width + 2)
    }

    /// Returns the elements of a part's results: values, largest scores and sums.
    fn part(&self) -> usize {
        self.blocks().1 * (self.v_width + 2)
    }

    fn elements(&self, threads: usize) -> [usize; 3] {
        let packed = if self.packs() { self.batch * self.heads * self.packed() } else { 0 };
        let parts = self.parts();
        let tasks = self.batch * self.heads * self.blocks().0;
        [packed, if parts > 1 { tasks * parts * self.part() } else { 0 }, threads * self.room()]
    }

    /// Returns where a segment's rows lie: those of earlier runs are by heads.
    fn place(&self, segment: usize, rows: Rows, width: usize) -> Rows {
        match segment {
            0 => Rows::of(4, [self.batch, self.heads, self.past, width]),
            _ => rows,
        }
    }

    /// Writes all keys from `from`, behind those of `past`, by heads.
    fn join(&self, [past, fresh]: [&[f32]; 2], rows: Rows, width: usize, into: &mut [f32], runtime: &Runtime<'_>) {
        let keys = self.keys();
        let (heads, into) = (self.batch * self.heads, Shared::new(into));
        let (lines, pieces) = (heads * keys, runtime.pieces(heads * keys, width));
        runtime.for_each(pieces, |number, _| {
            for line in piece(lines, pieces, number) {
                let (head, key) = (line / keys, line % keys);
                let (segment, key) = if key < self.past { (past, key) } else { (fresh, key - self.past) };
                let rows = if line % keys < self.past { self.place(0, rows, width) } else { rows };
                let from = rows.at(head / self.heads, head % self.heads, key);
                // SAFETY: each line is one task's.
                unsafe { into.slice(line * width, width) }.copy_from_slice(&segment[from..from + width]);
            }
        });
    }

    /// Packs all keys: for each head and segment, panels of keys side by side, a vector for each
    /// place of the width.
    fn pack(&self, keys: [&[f32]; 2], packed: Shared, runtime: &Runtime<'_>) {
        let lanes = self.isa.lanes();
        let past = self.past.div_ceil(lanes);
        let panels = past + self.fresh.div_ceil(lanes);
        let count = self.batch * self.heads * panels;
        let pieces = runtime.pieces(count, lanes * self.width);
        runtime.for_each(pieces, |number, _| {
            for panel in piece(count, pieces, number) {
                let (head, number) = (panel / panels, panel % panels);
                let (segment, first) = if number < past { (0, number) } else { (1, number - past) };
                let rows = self.place(segment, self.k, self.width);
                let start = rows.at(head / self.heads, head % self.heads, first * lanes);
                let count = ([self.past, self.fresh][segment] - first * lanes).min(lanes);
                // SAFETY: each panel is one task's.
                let into = unsafe { packed.slice(panel * lanes * self.width, lanes * self.width) };
                into.fill(0.0);
                for lane in 0..count {
                    let line = &keys[segment][start + lane * rows.step..][..self.width];
                    for (place, &value) in line.iter().enumerate() {
                        into[place * lanes + lane] = value;
                    }
                }
            }
        });
    }

    /// Goes over the keys of a part with one block of queries.
    #[allow(clippy::too_many_arguments)]
    fn go_over(
        &self,
        operands: Operands<'_>,
        packed: Shared,
        head: usize,
        queries: std::ops::Range<usize>,
        part: std::ops::Range<usize>,
        block: &mut Block<'_>,
        show: Option<(Shown, Shared)>,
    ) {
        let (n, h) = (head / self.heads, head % self.heads);
        let (rows, lanes) = (queries.len(), self.isa.lanes());
        let of = |query: usize| (h * self.group + query / self.steps, query % self.steps);
        for (query, into) in queries.clone().zip(block.queries.chunks_exact_mut(self.width)) {
            let (head, step) = of(query);
            let from = self.q.at(n, head, step);
            let line = &operands.q[from..from + self.width];
            into.iter_mut().zip(line).for_each(|(into, x)| *into = x * self.scale);
        }
        block.largest[..rows].fill(f32::NEG_INFINITY);
        block.sums[..rows].fill(0.0);
        block.values[..rows * self.v_width].fill(0.0);
        let length = if self.lengths { operands.lengths[n].clamp(0, self.keys() as i64) as usize } else { self.keys() };
        // Keys that no query of the block sees need not be looked at, unless scores are shown; but
        // where nothing is seen at all, the result is NaN as the softmax of nothing is.
        let latest = queries.clone().map(|query| of(query).1).max().unwrap_or(0) + self.past;
        let end = if self.causal { length.min(latest + 1) } else { length };
        for (number, (segment, own)) in self.key_blocks().enumerate() {
            let first = if segment == 0 { own.start } else { self.past + own.start };
            if !part.contains(&number) || (first >= end && show.is_none()) {
                continue;
            }
            if self.packs() {
                let panels = own.start / lanes..own.end.div_ceil(lanes);
                let before = if segment == 0 { 0 } else { self.past.div_ceil(lanes) };
                let panels_of_head = self.packed() / (lanes * self.width);
                let tiles = tile::tiles(rows, self.isa.rows());
                let mut panel = panels.start;
                while panel < panels.end {
                    let widest = tile::vectors(self.isa, rows.div_ceil(tiles));
                    let left = panels.end - panel;
                    let vectors = if left >= 4 && widest == 4 { 4 } else { left.min(2) };
                    for number in 0..tiles {
                        let own_rows = piece(rows, tiles, number);
                        let at = own_rows.start * KEYS + (panel - panels.start) * lanes;
                        // SAFETY: the queries, the panels and the scores have these elements; those
                        // behind the last key are 0, and the scores have room for them.
                        unsafe {
                            let w = packed.at((head * panels_of_head + before + panel) * lanes * self.width);
                            let tile = Tile {
                                x: block.queries.as_ptr().add(own_rows.start * self.width),
                                x_row: self.width,
                                x_k: 1,
                                taps: &[0],
                                run: self.width,
                                w: Panel::Floats(w.cast_const()),
                                w_k: lanes,
                                w_vector: lanes * self.width,
                                out: block.scores.as_mut_ptr().add(at),
                                out_row: KEYS,
                                out_vector: lanes,
                                bias: Bias::None,
                                addend: None,
                                clamp: (f32::NEG_INFINITY, f32::INFINITY),
                                last: lanes,
                            };
                            tile::compute(self.isa, vectors, own_rows.len(), tile);
                        }
                    }
                    panel += vectors;
                }
            } else {
                let rows_of = self.place(segment, self.k, self.width);
                let keys = &operands.keys[segment][rows_of.at(n, h, own.start)..];
                let dots = Dots {
                    queries: &block.queries[..rows * self.width],
                    keys,
                    step: rows_of.step,
                    count: own.len(),
                    width: self.width,
                    into: block.scores,
                };
                // SAFETY: the job has no further conditions.
                unsafe { self.isa.run(dots) };
            }
            for (row, query) in queries.clone().enumerate() {
                let (head, step) = of(query);
                let scores = &mut block.scores[row * KEYS..][..own.len()];
                let show = |scores: &[f32], wanted: Shown| {
                    if let Some((shown, into)) = show
                        && (shown == wanted || (shown == Shown::Weights && wanted == Shown::Biased))
                    {
                        let line = ((n * self.heads * self.group + head) * self.steps + step) * self.keys();
                        // SAFETY: each query's scores are one task's.
                        unsafe { into.slice(line + first, scores.len()) }.copy_from_slice(scores);
                    }
                };
                show(scores, Shown::Plain);
                if self.softcap > 0.0 {
                    Activation::Affine(1.0 / self.softcap, 0.0).apply(self.isa, scores);
                    Activation::Tanh.apply(self.isa, scores);
                    Activation::Affine(self.softcap, 0.0).apply(self.isa, scores);
                }
                show(scores, Shown::Capped);
                self.hide(operands, [n, head, step], first, length, scores);
                show(scores, Shown::Biased);
                let state = (&mut block.largest[row], &mut block.sums[row]);
                let values = &mut block.values[row * self.v_width..][..self.v_width];
                // SAFETY: the job has no further conditions.
                unsafe { self.isa.run(Powers { scores, state, values }) };
            }
            self.weigh(operands.values[segment], (segment, n, h, own), rows, block);
        }
    }

    /// Adds the mask to a query's scores of the keys from `first` on, and hides what must not be
    /// seen.
    fn hide(
        &self,
        operands: Operands<'_>,
        [n, head, step]: [usize; 3],
        first: usize,
        length: usize,
        scores: &mut [f32],
    ) {
        if let Some(mask) = &self.mask {
            let covered = mask.keys.saturating_sub(first).min(scores.len());
            let [by_batch, by_head, by_step, by_key] = mask.strides;
            let start = n * by_batch + head * by_head + step * by_step + first * by_key;
            let (seen, beyond) = scores.split_at_mut(covered);
            beyond.fill(f32::NEG_INFINITY);
            match (mask.flags, by_key) {
                _ if covered == 0 => {}
                (true, 0) if operands.flags[start] == 0 => seen.fill(f32::NEG_INFINITY),
                (true, 0) => {}
                (true, _) => seen.iter_mut().zip(&operands.flags[start..]).for_each(|(score, &flag)| {
                    *score = if flag == 0 { f32::NEG_INFINITY } else { *score };
                }),
                (false, 0) => seen.iter_mut().for_each(|score| *score += operands.bias[start]),
                (false, _) => seen.iter_mut().zip(&operands.bias[start..]).for_each(|(score, bias)| *score += bias),
            }
        }
        let end = if self.causal { length.min(step + self.past + 1) } else { length };
        let seen = end.saturating_sub(first).min(scores.len());
        scores[seen..].fill(f32::NEG_INFINITY);
    }

    /// Adds the values of some keys, times their powers.
    fn weigh(
        &self,
        values: &[f32],
        (segment, n, h, own): (usize, usize, usize, std::ops::Range<usize>),
        rows: usize,
        block: &mut Block<'_>,
    ) {
        let lanes = self.isa.lanes();
        let rows_of = self.place(segment, self.v, self.v_width);
        let start = rows_of.at(n, h, own.start);
        let panels = self.v_width.div_ceil(lanes);
        let tiles = tile::tiles(rows, self.isa.rows());
        let mut panel = 0;
        while panel < panels {
            let widest = tile::vectors(self.isa, rows.div_ceil(tiles));
            let left = panels - panel;
            let vectors = if left >= 4 && widest == 4 { 4 } else { left.min(2) };
            let columns = self.v_width - panel * lanes;
            for number in 0..tiles {
                let own_rows = piece(rows, tiles, number);
                // SAFETY: the values have a row for each of the keys, and the powers a number.
                unsafe {
                    let out = block.values.as_mut_ptr().add(own_rows.start * self.v_width + panel * lanes);
                    let tile = Tile {
                        x: block.scores.as_ptr().add(own_rows.start * KEYS),
                        x_row: KEYS,
                        x_k: 1,
                        taps: &[0],
                        run: own.len(),
                        w: Panel::Floats(values.as_ptr().add(start + panel * lanes)),
                        w_k: rows_of.step,
                        w_vector: lanes,
                        out,
                        out_row: self.v_width,
                        out_vector: lanes,
                        bias: Bias::None,
                        addend: Some(out.cast_const()),
                        clamp: (f32::NEG_INFINITY, f32::INFINITY),
                        last: (columns - (vectors - 1) * lanes).min(lanes),
                    };
                    tile::compute(self.isa, vectors, own_rows.len(), tile);
                }
            }
            panel += vectors;
        }
    }

    /// Writes the results of a block of queries.
    fn finish(&self, head: usize, queries: std::ops::Range<usize>, (values, sums): (&[f32], &[f32]), output: Shared) {
        let (n, h) = (head / self.heads, head % self.heads);
        for ((query, values), &sum) in queries.zip(values.chunks_exact(self.v_width)).zip(sums) {
            let at = self.out.at(n, h * self.group + query / self.steps, query % self.steps);
            // SAFETY: each query's result is one task's.
            let into = unsafe { output.slice(at, self.v_width) };
            into.iter_mut().zip(values).for_each(|(into, value)| *into = value / sum);
        }
    }

    /// Merges the results of a block's parts into the first one.
    fn merge(&self, rows: usize, results: &mut [f32]) {
        let most = self.blocks().1;
        let (first, others) = results.split_at_mut(self.part());
        let (values, state) = first.split_at_mut(most * self.v_width);
        let (largest, sums) = state.split_at_mut(most);
        for other in others.chunks_exact(self.part()) {
            let (more, state) = other.split_at(most * self.v_width);
            for row in 0..rows {
                let (theirs, sum) = (state[row], state[most + row]);
                let both = largest[row].max(theirs);
                // Nothing was seen where the largest is still minus infinity.
                let factor = |own: f32| if own == f32::NEG_INFINITY { 0.0 } else { (own - both).exp() };
                let (ours, their) = (factor(largest[row]), factor(theirs));
                let lines = values[row * self.v_width..].iter_mut().zip(&more[row * self.v_width..]);
                lines.take(self.v_width).for_each(|(value, more)| *value = *value * ours + more * their);
                sums[row] = sums[row] * ours + sum * their;
                largest[row] = both;
            }
        }
    }
}

impl Kernel for Attention {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let of = |index: usize| Ok::<_, hetero_hal::Error>(arguments.optional::<f32>(index)?.unwrap_or_default());
        let flags = self.mask.as_ref().is_some_and(|mask| mask.flags);
        let operands = Operands {
            q: of(0)?,
            keys: [of(4)?, of(1)?],
            values: [of(5)?, of(2)?],
            flags: if flags { arguments.input::<u8>(3)? } else { &[] },
            bias: if flags || self.mask.is_none() { &[] } else { arguments.input::<f32>(3)? },
            lengths: if self.lengths { arguments.input::<i64>(6)? } else { &[] },
        };
        let output = Shared::new(arguments.output::<f32>(0)?);
        for (index, parts, rows, width) in
            [(1, operands.keys, self.k, self.width), (2, operands.values, self.v, self.v_width)]
        {
            if arguments.wants(index) {
                self.join(parts, rows, width, arguments.output::<f32>(index)?, runtime);
            }
        }
        let show = match self.shown {
            Some(shown) => Some((shown, Shared::new(arguments.output::<f32>(3)?))),
            None => None,
        };
        let workspace = arguments.workspace::<f32>()?;
        let [packed_size, parts_size, _] = self.elements(runtime.pool.threads());
        let (packed, rest) = workspace.split_at_mut(packed_size);
        let (results, rooms) = rest.split_at_mut(parts_size);
        let (packed, results, rooms) = (Shared::new(packed), Shared::new(results), Shared::new(rooms));
        if self.packs() {
            self.pack(operands.keys, packed, runtime);
        }
        let (blocks, most) = self.blocks();
        let parts = self.parts();
        let key_blocks = self.key_blocks().count();
        let tasks = self.batch * self.heads * blocks;
        let queries = |task: usize| piece(self.queries(), blocks, task % blocks);
        runtime.for_each(tasks * parts, |number, thread| {
            let (task, part) = (number / parts, number % parts);
            // SAFETY: each thread has a room of its own, and each task results of its own.
            let (room, result) = unsafe {
                let result = if parts > 1 { results.slice(number * self.part(), self.part()) } else { &mut [][..] };
                (rooms.slice(thread * self.room(), self.room()), result)
            };
            let (queries_of, room) = room.split_at_mut(most * self.width);
            let (scores, room) = room.split_at_mut(most * KEYS);
            let result = if parts > 1 { result } else { room };
            let (values, state) = result.split_at_mut(most * self.v_width);
            let (largest, sums) = state.split_at_mut(most);
            let mut block = Block { queries: queries_of, scores, values, largest, sums };
            let own = piece(key_blocks, parts, part);
            self.go_over(operands, packed, task / blocks, queries(task), own, &mut block, show);
            if parts > 1 {
                return;
            }
            let Block { values, largest, sums, .. } = block;
            self.finish(task / blocks, queries(task), (values, sums), output);
            if let Some((Shown::Weights, into)) = show {
                let (n, h) = (task / blocks / self.heads, task / blocks % self.heads);
                for (row, query) in queries(task).enumerate() {
                    let line = (n * self.heads + h) * self.queries() + query;
                    // SAFETY: each query's scores are one task's.
                    let line = unsafe { into.slice(line * self.keys(), self.keys()) };
                    Activation::Affine(1.0, -largest[row]).apply(self.isa, line);
                    Activation::Exp.apply(self.isa, line);
                    line.iter_mut().for_each(|weight| *weight /= sums[row]);
                }
            }
        });
        if parts > 1 {
            runtime.for_each(tasks, |task, _| {
                // SAFETY: each task's results are merged once.
                let all = unsafe { results.slice(task * parts * self.part(), parts * self.part()) };
                self.merge(queries(task).len(), all);
                let (values, state) = all.split_at(most * self.v_width);
                self.finish(task / blocks, queries(task), (values, &state[most..]), output);
            });
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        self.elements(threads).iter().fold(0usize, |sum, part| sum.saturating_add(*part)).saturating_mul(4)
    }
}

/// The products of few queries with keys as they lie, [`KEYS`] scores for each query.
struct Dots<'a> {
    queries: &'a [f32],
    keys: &'a [f32],
    /// The distance of the keys; `count` is their number.
    step: usize,
    count: usize,
    width: usize,
    into: &'a mut [f32],
}

impl Job for Dots<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Dots { queries, keys, step, count, width, into } = self;
        let whole = width / S::LANES * S::LANES;
        for key in 0..count {
            let key_at = &keys[key * step..][..width];
            for (row, query) in queries.chunks_exact(width).enumerate() {
                // SAFETY: each vector lies in both lines.
                unsafe {
                    let (mut even, mut odd) = (S::splat(0.0), S::splat(0.0));
                    let (x, y) = (query.as_ptr(), key_at.as_ptr());
                    let mut at = 0;
                    while at + 2 * S::LANES <= whole {
                        even = S::fma(S::load(x.add(at)), S::load(y.add(at)), even);
                        let next = at + S::LANES;
                        odd = S::fma(S::load(x.add(next)), S::load(y.add(next)), odd);
                        at += 2 * S::LANES;
                    }
                    while at < width {
                        let lanes = (width - at).min(S::LANES);
                        even = S::fma(S::load_first(x.add(at), lanes), S::load_first(y.add(at), lanes), even);
                        at += S::LANES;
                    }
                    into[row * KEYS + key] = S::sum(S::add(even, odd));
                }
            }
        }
    }
}

/// The powers of a query's scores in place of the scores, and what they make of what was seen
/// before.
struct Powers<'a> {
    scores: &'a mut [f32],
    /// The largest score and the sum of powers so far.
    state: (&'a mut f32, &'a mut f32),
    values: &'a mut [f32],
}

impl Job for Powers<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Powers { scores, state: (largest, sum), values } = self;
        let whole = scores.len() / S::LANES * S::LANES;
        let rest = scores.len() - whole;
        let from = scores.as_mut_ptr();
        // SAFETY: each vector lies in the scores.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            for at in (0..whole).step_by(S::LANES) {
                most = S::max(most, S::load(from.add(at)));
            }
            let most = scores[whole..].iter().fold(S::largest(most).max(*largest), |most, &x| most.max(x));
            if most == f32::NEG_INFINITY {
                // Nothing was seen, unless it is NaN, which the maximum may have dropped.
                if scores.iter().any(|score| score.is_nan()) {
                    *sum = f32::NAN;
                }
                scores.fill(0.0);
                return;
            }
            let shift = S::splat(most);
            let mut sums = S::splat(0.0);
            for at in (0..whole).step_by(S::LANES) {
                let power = simd::exp::<S>(S::sub(S::load(from.add(at)), shift));
                sums = S::add(sums, power);
                S::store(from.add(at), power);
            }
            let mut own = S::sum(sums);
            if rest > 0 {
                let power = simd::exp::<S>(S::sub(S::load_first(from.add(whole), rest), shift));
                S::store_first(from.add(whole), rest, power);
                own += scores[whole..].iter().sum::<f32>();
            }
            if most != *largest {
                let factor = if *largest == f32::NEG_INFINITY { 0.0 } else { (*largest - most).exp() };
                *sum *= factor;
                values.iter_mut().for_each(|value| *value *= factor);
                *largest = most;
            }
            *sum += own;
        }
    }
}
