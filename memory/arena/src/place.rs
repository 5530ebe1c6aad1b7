//! The placing of blocks: each block gets its offset.

use std::cmp::Reverse;

use crate::block::{Block, Breadth};
use crate::sweep::swept;

/// An arena that is larger than the lower bound by no more than this fraction is not worth a
/// further try.
/// Padding alone often makes as much.
const CLOSE_ENOUGH: usize = 1024;

/// The number of blocks beyond which a sweep is tried before the search, which looks at all placed
/// blocks for each.
const SEVERAL: usize = 512;
/// The number of blocks beyond which the search would take seconds.
const MANY: usize = 2048;
/// A sweep that is larger than the lower bound by no more than this fraction saves the search.
const GOOD_ENOUGH: usize = 64;

/// The choice among the gaps that are large enough for a block.
#[derive(Clone, Copy)]
enum Fit {
    /// The smallest gap.
    Tightest,
    /// The gap that is nearest to the start of the arena.
    Lowest,
}

/// Returns the smallest arena that the heuristics find: an offset for each block, and the arena's
/// size.
pub(crate) fn smallest(blocks: &[Block], breadth: &Breadth) -> (Vec<usize>, usize) {
    let mut best: Option<(Vec<usize>, usize)> = None;
    if blocks.len() > SEVERAL {
        let (offsets, bytes) = swept(blocks);
        if blocks.len() > MANY || bytes - breadth.peak() <= breadth.peak() / GOOD_ENOUGH {
            return (offsets, bytes);
        }
        best = Some((offsets, bytes));
    }
    let mut by_size: Vec<usize> = (0..blocks.len()).filter(|&index| blocks[index].bytes > 0).collect();
    by_size.sort_by_key(|&index| {
        let block = &blocks[index];
        (Reverse(block.bytes), Reverse(block.last - block.first), block.first)
    });
    // The sort is stable: blocks of the same breadth stay ordered by size.
    let mut by_breadth = by_size.clone();
    by_breadth.sort_by_cached_key(|&index| Reverse(breadth.around(&blocks[index])));

    for (order, fit) in
        [(&by_size, Fit::Tightest), (&by_breadth, Fit::Tightest), (&by_size, Fit::Lowest), (&by_breadth, Fit::Lowest)]
    {
        let smallest = best.as_ref().map(|&(_, bytes)| bytes);
        if smallest.is_some_and(|bytes| bytes - breadth.peak() <= breadth.peak() / CLOSE_ENOUGH) {
            break;
        }
        best = place(blocks, order, fit, smallest).or(best);
    }
    best.unwrap_or_default()
}

/// A block that has its place.
/// The fields that the search looks at first lie side by side.
struct Placed {
    offset: usize,
    first: usize,
    last: usize,
    index: usize,
}

/// Places blocks in the given order.
/// Returns `None` as soon as the arena would be no smaller than `limit`, if there is one.
fn place(blocks: &[Block], order: &[usize], fit: Fit, limit: Option<usize>) -> Option<(Vec<usize>, usize)> {
    let mut offsets = vec![0; blocks.len()];
    let mut arena = 0;
    // The placed blocks, by ascending offset.
    let mut placed: Vec<Placed> = Vec::with_capacity(order.len());
    let mut obstacles: Vec<(usize, usize)> = Vec::new();
    for &index in order {
        let block = &blocks[index];
        obstacles.clear();
        for other in &placed {
            if other.last < block.first || block.last < other.first {
                continue;
            }
            if let Some((own, others)) = block.meet(&blocks[other.index]) {
                // Where the two meet, this block may be smaller than at its largest.
                // The gap below the obstacle is larger by as much.
                obstacles.push((other.offset + (block.bytes - own), other.offset + others));
            }
        }
        // The obstacles are in order already, except where this block is not equally large in all
        // steps.
        if block.spans.len() > 1 {
            obstacles.sort();
        }
        let offset = gap(&obstacles, block, fit);
        arena = arena.max(offset + block.bytes);
        if limit.is_some_and(|limit| arena >= limit) {
            return None;
        }
        offsets[index] = offset;
        let position = placed.partition_point(|other| other.offset <= offset);
        placed.insert(position, Placed { offset, first: block.first, last: block.last, index });
    }
    Some((offsets, arena))
}

/// Returns the offset for a block among obstacles, given as start and end and ordered by their
/// starts.
fn gap(obstacles: &[(usize, usize)], block: &Block, fit: Fit) -> usize {
    let padding = block.alignment - 1;
    let aligned = |offset: usize| (offset + padding) & !padding;
    let mut best: Option<(usize, usize)> = None;
    let mut clear_from = 0_usize;
    for &(start, end) in obstacles {
        // Most obstacles touch the one before; only a gap is worth a closer look.
        if start > clear_from && aligned(clear_from) + block.bytes <= start {
            let size = start - clear_from;
            if best.is_none_or(|(smallest, _)| size < smallest) {
                best = Some((size, aligned(clear_from)));
            }
            if matches!(fit, Fit::Lowest) {
                break;
            }
        }
        clear_from = clear_from.max(end);
    }
    best.map_or_else(|| aligned(clear_from), |(_, offset)| offset)
}
