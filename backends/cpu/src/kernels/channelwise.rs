//! A function of each element and of one number for its channel, such as the factors of squeeze and
//! excitation, where channels lie in blocks.

use hetero_hal::Result;

use super::tile::piece;
use super::vector::{Pairwise, Second};
use super::{Kernel, Runtime};
use crate::image::Image;
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The kernel: its inputs are the elements, then the numbers, which are an image of one pixel.
pub(crate) struct Channelwise {
    pub(crate) isa: Isa,
    pub(crate) function: Pairwise,
    /// Whether the numbers are the function's first operand.
    pub(crate) exchanged: bool,
    /// Whether all images of the batch have the same numbers.
    pub(crate) shared: bool,
    pub(crate) input: Image,
    pub(crate) output: Image,
}

impl Kernel for Channelwise {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let source = arguments.shared_input::<f32>(0)?;
        let numbers = arguments.input::<f32>(1)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let (from, to, lanes) = (self.input, self.output, self.isa.lanes());
        let (planes, width) = (to.batch * to.blocks(), to.width * lanes);
        let pieces = runtime.pieces(planes * to.height, width * 2);
        runtime.for_each(pieces, |number, _| {
            for row in piece(planes * to.height, pieces, number) {
                let (plane, y) = (row / to.height, row % to.height);
                let place = |image: Image| plane * image.plane() + image.pixel(y, 0);
                let first = if self.shared { plane % to.blocks() } else { plane } * lanes;
                // SAFETY: each row is one task's; the operands are as large as the layouts say, and
                // rows are the same memory or do not overlap.
                let own = unsafe {
                    let (from, into) = (source.at(place(from)), output.at(place(to)));
                    if !std::ptr::eq(from, into) {
                        std::ptr::copy_nonoverlapping(from, into, width);
                    }
                    output.slice(place(to), width)
                };
                self.function.apply(self.isa, own, Second::Lanes(&numbers[first..first + lanes]), self.exchanged);
                // SAFETY: as above.
                unsafe { to.clear_around(output, plane * to.plane(), y) };
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        if self.input.halo == self.output.halo { &[0] } else { &[] }
    }
}
