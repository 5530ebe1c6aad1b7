//! A convolution whose only reader is a pooling, as one kernel.
//! The rows that a row of the pooled image needs lie in a ring that stays in a core's cache.
//! So the image between the two, often a network's largest, is never written to memory.

use hetero_hal::Result;

use super::blocked::{Read, Target};
use super::{Blocked, Filters, Finish, Geometry};
use crate::image::Halo;
use crate::kernels::tile::piece;
use crate::kernels::{Kernel, Packed, Runtime, pooling};
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The bytes of an image from which on it no longer stays in a core's cache until it is read.
const PAYS: usize = 1 << 19;

pub(in crate::kernels) struct Pooled {
    conv: Blocked,
    pool: pooling::Blocked,
    /// The rows of the ring: as many as one row of the pooled image reads.
    ring: usize,
}

impl Pooled {
    /// Tells whether the image between the two is too large to stay in the cache.
    pub(super) fn pays(geometry: &Geometry) -> bool {
        let filters = geometry.groups * geometry.outputs;
        geometry.output[0] > 1 && geometry.output_plane().saturating_mul(filters * size_of::<f32>()) > PAYS
    }

    pub(in crate::kernels) fn new(
        isa: Isa,
        geometry: Geometry,
        input: Option<Halo>,
        weights: Filters<'_>,
        finish: Finish,
        pool: pooling::Blocked,
    ) -> Result<Self> {
        let conv = Blocked::by_rows(isa, geometry, input, weights, finish)?;
        let span = |rows: &[usize]| match rows {
            [first, .., last] => last - first + 1,
            rows => rows.len(),
        };
        let ring = pool.rows().map(span).max().unwrap_or(0).max(1);
        Ok(Pooled { conv, pool, ring })
    }

    /// Returns the elements of a block's ring.
    fn plane(&self) -> usize {
        self.ring * self.conv.output().row()
    }
}

/// The blocks of filters of a task, which make the widest tiles.
const BLOCKS: usize = 4;

impl Kernel for Pooled {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let (rewritten, rings) = arguments.workspace::<f32>()?.split_at_mut(self.conv.rewritten());
        let source = Shared::constant(self.conv.source(input, rewritten, runtime));
        let weights = self.conv.packed().packed.value()?;
        let read = Read { source, weights: self.conv.packed().at(&weights) };
        let rings = Shared::new(rings);
        let (groups, blocks, height) = (self.conv.groups(), self.conv.blocks(), self.pool.rows().count());
        let parts = blocks.div_ceil(BLOCKS);
        let outer = groups * parts;
        // A chunk's first row needs rows that the chunk before it computes too, so there are few
        // chunks.
        let threads = runtime.pool.threads();
        let chunks = if threads == 1 { 1 } else { (threads * 2).div_ceil(outer.max(1)) }.clamp(1, height.max(1));
        runtime.for_each(outer * chunks, |number, thread| {
            let (outer, chunk) = (number / chunks, number % chunks);
            let (group, part) = (outer / parts, outer % parts);
            let own = part * BLOCKS..((part + 1) * BLOCKS).min(blocks);
            let start = thread * BLOCKS * self.plane();
            let target = Target { memory: rings, start, first: own.start, plane: self.plane(), ring: self.ring };
            let mut next = 0;
            for y in piece(height, chunks, chunk) {
                let Some(taps) = self.pool.rows().nth(y) else { continue };
                if let [first, ..] = *taps {
                    let end = taps.last().map_or(first, |last| last + 1);
                    // SAFETY: the ring is this thread's, and has room for the rows from the first
                    // to the last that are needed.
                    unsafe { self.conv.some_rows(read, &target, group, own.clone(), first.max(next)..end) };
                    next = end;
                }
                for block in own.clone() {
                    // SAFETY: the rows are in the ring; each row of a block of the output is one
                    // task's.
                    unsafe {
                        let plane = rings.at(start + (block - own.start) * self.plane());
                        self.pool.row(plane, self.ring, output, group * blocks + block, y);
                    }
                }
            }
        });
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        (self.conv.rewritten() + threads * BLOCKS * self.plane()) * size_of::<f32>()
    }

    fn weights(&self) -> Vec<&Packed> {
        self.conv.weights()
    }
}
