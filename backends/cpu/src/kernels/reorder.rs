//! Reordering of a value from one layout to another.

use hetero_hal::Result;

use super::tile::piece;
use super::{Kernel, Runtime};
use crate::image::{Halo, Image};
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

/// The pixels of a task's row, where rows lie behind each other.
const RUN: usize = 64;

/// The two sides of a reordering: the sizes, and whether the side is blocked.
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

    /// Returns where a pixel's channel `first` lies, and the steps to the next channel and the next
    /// pixel.
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
        // Without a halo all rows are one, which can be divided anywhere.
        let flat = from.halo == Halo::NONE && to.halo == Halo::NONE;
        let (width, pixels) = if flat { (to.height * to.width, RUN) } else { (to.width, to.width.max(1)) };
        let per_block = if flat { width.div_ceil(pixels) } else { to.height };
        let rows = to.batch * to.blocks() * per_block;
        let pieces = runtime.pieces(rows, pixels * to.lanes);
        runtime.for_each(pieces, |number, _| {
            for row in piece(rows, pieces, number) {
                let (block, row) = (row / per_block, row % per_block);
                let (y, x) = if flat { (0, row * pixels) } else { (row, 0) };
                let (item, first) = (block / to.blocks(), block % to.blocks() * to.lanes);
                let (source, from_channel, from_pixel) = Self::place(self.from, item, first, y, x);
                let (target, into_channel, _) = Self::place(self.to, item, first, y, x);
                // SAFETY: each row of a block is one task's; the places lie in the operands, which
                // are as large as the layouts say.
                unsafe {
                    self.isa.run(Row {
                        blocked: (self.from.1, self.to.1),
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

/// Pixels that lie one after the other, of one block of channels.
struct Row {
    /// Whether the source is blocked, and whether the target is.
    blocked: (bool, bool),
    from: *const f32,
    from_channel: usize,
    from_pixel: usize,
    into: *mut f32,
    into_channel: usize,
    pixels: usize,
    /// The channels of the block that exist; a blocked target gets zeros for the others.
    channels: usize,
}

impl Job for Row {
    type Output = ();

    /// # Safety
    /// The pixels' channels must be there on both sides.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let from =
                |pixel: usize, channel: usize| self.from.add(pixel * self.from_pixel + channel * self.from_channel);
            match self.blocked {
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use hetero_hal::{Allowance, DeviceId};

    use super::*;
    use crate::device::Shared;
    use crate::operand::Operand;
    use crate::pool::Pool;

    /// Checks single pixels too, because a plain value's channels also lie together there.
    #[test]
    fn lanes_behind_the_last_channel_are_zero() {
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN).unwrap());
        let shared = Shared::new(DeviceId::new("cpu", 0), pool, u64::MAX, (Isa::widest(), true));
        let runtime = Runtime::new(None, &shared, Allowance::default());
        for isa in Isa::available() {
            for (height, width) in [(1, 1), (1, 3), (2, 2)] {
                let image = Image { batch: 1, channels: 5, height, width, halo: Halo::NONE, lanes: isa.lanes() };
                let pixels = height * width;
                // A read behind the value finds NaN.
                let mut plain: Vec<f32> = (0..5 * pixels).map(|x| x as f32).collect();
                plain.resize(plain.len() + isa.lanes() * pixels, f32::NAN);
                let mut blocked = vec![f32::NAN; isa.lanes() * pixels];
                let operand = |slice: &mut [f32], count: usize| {
                    Some(Operand { address: slice.as_mut_ptr().cast(), bytes: count * size_of::<f32>() })
                };
                let run = |reorder: Reorder, input: Option<Operand>, output: Option<Operand>| {
                    let nothing = Operand { address: std::ptr::dangling_mut::<f32>().cast(), bytes: 0 };
                    let mut arguments = Arguments { inputs: &[input], outputs: &[output], workspace: nothing };
                    reorder.run(&mut arguments, &runtime).unwrap();
                };
                let count = blocked.len();
                let ends = (operand(&mut plain, 5 * pixels), operand(&mut blocked, count));
                run(Reorder::new(isa, (image, false), (image, true)), ends.0, ends.1);
                for (pixel, lanes) in blocked.chunks(isa.lanes()).enumerate() {
                    let expected = |lane: usize| if lane < 5 { (lane * pixels + pixel) as f32 } else { 0.0 };
                    assert!(lanes.iter().enumerate().all(|(lane, x)| *x == expected(lane)), "{isa}: {lanes:?}");
                }
                let mut back = vec![-1.0; 5 * pixels];
                let ends = (operand(&mut blocked, count), operand(&mut back, 5 * pixels));
                run(Reorder::new(isa, (image, true), (image, false)), ends.0, ends.1);
                assert_eq!(back, plain[..5 * pixels]);
            }
        }
    }
}
