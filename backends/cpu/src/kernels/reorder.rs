//! From one layout to another.

use hetero_hal::Result;

use super::tile::piece;
use super::{Kernel, Runtime};
use crate::image::{Halo, Image};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// Pixels of a task's row, where rows lie behind each other.
const RUN: usize = 64;

/// Both sides of a reordering: the sizes, and whether that side is blocked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reorder {
    isa: Isa,
    from: (Image, bool),
    to: (Image, bool),
}

impl Reorder {
    pub(crate) fn new(isa: Isa, from: (Image, bool), to: (Image, bool)) -> Self {
        Reorder { isa, from, to }
    }

    /// Where a pixel's channel `first` lies, and the steps to the next channel and the next pixel.
    fn place((image, blocked): (Image, bool), item: usize, first: usize, y: usize, x: usize) -> (usize, usize, usize) {
        if blocked {
            let block = item * image.blocks() + first / image.lanes;
            (block * image.plane() + image.pixel(y, x), 1, image.lanes)
        } else {
            let plane = image.height * image.width;
            ((item * image.channels + first) * plane + y * image.width + x, plane, 1)
        }
    }
}

impl Kernel for Reorder {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = Shared::constant(arguments.input::<f32>(0)?.as_ptr());
        let output = Shared::new(arguments.output::<f32>(0)?);
        let (from, to) = (self.from.0, self.to.0);
        // Without a halo all rows are one, and are divided as is handy.
        let flat = from.halo == Halo::NONE && to.halo == Halo::NONE;
        let (width, pixels) = if flat { (to.height * to.width, RUN) } else { (to.width, to.width.max(1)) };
        let per_block = if flat { width.div_ceil(pixels) } else { to.height };
        let rows = to.batch * to.blocks() * per_block;
        let pieces = runtime.pieces(rows, pixels * to.lanes);
        runtime.pool.for_each(pieces, |number, _| {
            for row in piece(rows, pieces, number) {
                let (block, row) = (row / per_block, row % per_block);
                let (y, x) = if flat { (0, row * pixels) } else { (row, 0) };
                let (item, first) = (block / to.blocks(), block % to.blocks() * to.lanes);
                let (source, from_channel, from_pixel) = Self::place(self.from, item, first, y, x);
                let (target, into_channel, _) = Self::place(self.to, item, first, y, x);
                // SAFETY: each row of a block is one task's; the places lie in the operands, which are as large as the layouts say.
                unsafe {
                    self.isa.run(Row {
                        from: input.at(source),
                        from_channel,
                        from_pixel,
                        into: output.at(target),
                        into_channel,
                        pixels: pixels.min(width - x),
                        channels: to.lanes.min(to.channels - first),
                    });
                    if self.to.1 {
                        to.clear_around(output, block * to.plane(), y);
                    }
                }
            }
        });
        Ok(())
    }
}

/// Pixels that lie one after the other, of one block of channels. One of each side's steps is 1.
struct Row {
    from: *const f32,
    from_channel: usize,
    from_pixel: usize,
    into: *mut f32,
    into_channel: usize,
    pixels: usize,
    /// Those of the block that exist; a blocked target gets zeros for the others.
    channels: usize,
}

impl Job for Row {
    type Output = ();

    /// # Safety
    /// The pixels' channels are there on both sides.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (into_blocked, from_blocked) = (self.into_channel == 1, self.from_channel == 1);
        // SAFETY: the caller's promise.
        unsafe {
            let from =
                |pixel: usize, channel: usize| self.from.add(pixel * self.from_pixel + channel * self.from_channel);
            match (from_blocked, into_blocked) {
                (true, true) => {
                    for pixel in 0..self.pixels {
                        S::store(self.into.add(pixel * S::LANES), S::load(self.from.add(pixel * S::LANES)));
                    }
                }
                (false, true) => {
                    for pixel in 0..self.pixels {
                        let into = self.into.add(pixel * S::LANES);
                        if self.channels == S::LANES {
                            (0..S::LANES).for_each(|channel| *into.add(channel) = *from(pixel, channel));
                        } else {
                            S::store(into, S::splat(0.0));
                            (0..self.channels).for_each(|channel| *into.add(channel) = *from(pixel, channel));
                        }
                    }
                }
                _ => {
                    for channel in 0..self.channels {
                        let into = self.into.add(channel * self.into_channel);
                        (0..self.pixels).for_each(|pixel| *into.add(pixel) = *from(pixel, channel));
                    }
                }
            }
        }
    }
}
