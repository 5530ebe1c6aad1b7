//! From one layout to another.

use hetero_hal::Result;

use super::tile::piece;
use super::{Kernel, Runtime};
use crate::image::Image;
use crate::operand::{Arguments, Shared};

/// Pixels that are reordered together.
const SQUARE: usize = 16;

/// Both sides of a reordering: the sizes, and whether that side is blocked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reorder {
    from: (Image, bool),
    to: (Image, bool),
}

impl Reorder {
    pub(crate) fn new(from: (Image, bool), to: (Image, bool)) -> Self {
        Reorder { from, to }
    }

    /// Where a pixel's channel `first` lies, and the steps to the next channel and the next pixel.
    fn place((image, blocked): (Image, bool), item: usize, first: usize, y: usize) -> (usize, usize, usize) {
        if blocked {
            let block = item * image.blocks() + first / image.lanes;
            (block * image.plane() + image.pixel(y, 0), 1, image.lanes)
        } else {
            let plane = image.height * image.width;
            ((item * image.channels + first) * plane + y * image.width, plane, 1)
        }
    }
}

impl Kernel for Reorder {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let image = self.to.0;
        let rows = image.batch * image.blocks() * image.height;
        let pieces = runtime.pieces(rows, image.width * image.lanes);
        runtime.pool.for_each(pieces, |number, _| {
            for row in piece(rows, pieces, number) {
                let (block, y) = (row / image.height, row % image.height);
                let (item, first) = (block / image.blocks(), block % image.blocks() * image.lanes);
                let channels = (image.channels - first).min(image.lanes);
                let (source, channel_step, pixel_step) = Self::place(self.from, item, first, y);
                let (target, into_channel, into_pixel) = Self::place(self.to, item, first, y);
                // SAFETY: each row of a block is one task's; the places lie in the operands, which are as large as the layouts say.
                unsafe {
                    // Square by square, so that both sides keep few lines of the cache open.
                    for start in (0..image.width).step_by(SQUARE) {
                        let pixels = start..(start + SQUARE).min(image.width);
                        if self.to.1 {
                            for x in pixels {
                                let into = output.slice(target + x * into_pixel, image.lanes);
                                for (channel, value) in into.iter_mut().enumerate() {
                                    let from = source + x * pixel_step + channel * channel_step;
                                    *value = if channel < channels { input[from] } else { 0.0 };
                                }
                            }
                        } else {
                            for channel in 0..channels {
                                let into = output.slice(target + channel * into_channel + pixels.start, pixels.len());
                                let from = &input[source + channel * channel_step + pixels.start * pixel_step..];
                                into.iter_mut().zip(from.iter().step_by(pixel_step)).for_each(|(a, b)| *a = *b);
                            }
                        }
                    }
                    if self.to.1 {
                        image.clear_around(output, block * image.plane(), y);
                    }
                }
            }
        });
        Ok(())
    }
}
