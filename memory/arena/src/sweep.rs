//! The placing of very many blocks, in the order in which they begin.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::block::Block;

/// The number of free pieces at whose alignment is looked before a piece is taken that holds the
/// block wherever it begins.
const LOOKS: usize = 8;

/// Places each block in the smallest free piece of the arena that holds it, and gives its bytes
/// back after its last step.
/// Returns an offset for each block, and the arena's size.
///
/// It takes O(n log n) for n blocks, where the search among gaps takes O(n²) and finds smaller
/// arenas.
/// A block counts as large in all its steps as in its largest.
pub(crate) fn swept(blocks: &[Block]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|&index| blocks[index].bytes > 0).collect();
    order.sort_by_key(|&index| (blocks[index].first, Reverse(blocks[index].bytes)));
    let mut offsets = vec![0; blocks.len()];
    let mut free = Free::default();
    let mut leaving: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    for index in order {
        let block = &blocks[index];
        while let Some(&Reverse((last, gone))) = leaving.peek()
            && last < block.first
        {
            leaving.pop();
            free.give(offsets[gone], blocks[gone].bytes);
        }
        offsets[index] = free.take(block);
        leaving.push(Reverse((block.last, index)));
    }
    (offsets, free.end)
}

/// The free pieces of an arena that grows at its end.
#[derive(Default)]
struct Free {
    /// The size of the piece at each offset; no two pieces touch.
    sizes: BTreeMap<usize, usize>,
    /// The same pieces as size and offset, the smallest first.
    by_size: BTreeSet<(usize, usize)>,
    /// The end of the arena.
    end: usize,
}

impl Free {
    /// Takes the bytes of a block, and returns their offset.
    fn take(&mut self, block: &Block) -> usize {
        let padding = block.alignment - 1;
        let aligned = |offset: usize| (offset + padding) & !padding;
        let fits = |&&(size, offset): &&(usize, usize)| aligned(offset) - offset + block.bytes <= size;
        let near = self.by_size.range((block.bytes, 0)..).take(LOOKS).find(fits);
        let roomy = || self.by_size.range((block.bytes.saturating_add(padding), 0)..).next();
        let (start, size) = match near.or_else(roomy).copied() {
            Some((size, start)) => (start, size),
            None => {
                // A piece that ends where the arena does grows with it.
                let last = self.sizes.last_key_value().map(|(&start, &size)| (start, size));
                let start = last.filter(|(start, size)| start + size == self.end).map_or(self.end, |(start, _)| start);
                let size = aligned(start) - start + block.bytes;
                self.end = self.end.max(start + size);
                (start, size.max(self.end - start))
            }
        };
        if let Some(old) = self.sizes.remove(&start) {
            self.by_size.remove(&(old, start));
        }
        let offset = aligned(start);
        self.put(start, offset - start);
        self.put(offset + block.bytes, start + size - offset - block.bytes);
        offset
    }

    /// Gives bytes back, and joins them with the free pieces that they touch.
    fn give(&mut self, offset: usize, bytes: usize) {
        let (mut start, mut end) = (offset, offset + bytes);
        if let Some((&before, &size)) = self.sizes.range(..offset).next_back()
            && before + size == offset
        {
            self.remove(before, size);
            start = before;
        }
        if let Some(&size) = self.sizes.get(&end) {
            self.remove(end, size);
            end += size;
        }
        self.put(start, end - start);
    }

    fn put(&mut self, offset: usize, size: usize) {
        if size > 0 {
            self.sizes.insert(offset, size);
            self.by_size.insert((size, offset));
        }
    }

    fn remove(&mut self, offset: usize, size: usize) {
        self.sizes.remove(&offset);
        self.by_size.remove(&(size, offset));
    }
}
