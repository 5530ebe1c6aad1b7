//! A factor and a shift for each channel, and limits: batch normalisation and similar nodes.

use hetero_hal::Result;

use super::tile::piece;
use super::{Kernel, Runtime};
use crate::image::Image;
use crate::operand::{Arguments, Shared};
use crate::simd::{Isa, Job, Simd};

#[derive(Clone)]
pub(crate) struct Affine {
    isa: Isa,
    input: Image,
    output: Image,
    blocked: bool,
    scale: Vec<f32>,
    shift: Vec<f32>,
    clamp: (f32, f32),
}

impl Affine {
    /// Makes the kernel; `scale` and `shift` have one element for each channel.
    pub(crate) fn new(
        isa: Isa,
        (input, output): (Image, Image),
        blocked: bool,
        mut scale: Vec<f32>,
        mut shift: Vec<f32>,
        clamp: (f32, f32),
    ) -> Self {
        let padded = output.blocks() * isa.lanes();
        scale.resize(padded, 0.0);
        shift.resize(padded, 0.0);
        Affine { isa, input, output, blocked, scale, shift, clamp }
    }
}

/// A row of pixels of a block, or of one channel.
struct Row<'a> {
    from: *const f32,
    into: *mut f32,
    count: usize,
    /// A vector of factors and one of shifts, or a single number of each where `one` is set.
    scale: &'a [f32],
    shift: &'a [f32],
    one: bool,
    clamp: (f32, f32),
}

impl Job for Row<'_> {
    type Output = ();

    /// # Safety
    /// `from` and `into` must have `count` elements, and may be equal.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let of = |list: &[f32]| if self.one { S::splat(list[0]) } else { S::load(list.as_ptr()) };
            let (scale, shift) = (of(self.scale), of(self.shift));
            let (low, high) = (S::splat(self.clamp.0), S::splat(self.clamp.1));
            let mut at = 0;
            while at < self.count {
                let lanes = (self.count - at).min(S::LANES);
                let whole = lanes == S::LANES;
                let x = if whole { S::load(self.from.add(at)) } else { S::load_first(self.from.add(at), lanes) };
                let result = S::min(high, S::max(low, S::fma(x, scale, shift)));
                if whole {
                    S::store(self.into.add(at), result);
                } else {
                    S::store_first(self.into.add(at), lanes, result);
                }
                at += lanes;
            }
        }
    }
}

impl Kernel for Affine {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let source = arguments.shared_input::<f32>(0)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let (from, to, lanes) = (self.input, self.output, self.isa.lanes());
        // The planes are of blocks or of channels; a plain plane is one long row.
        let (planes, rows, width) = if self.blocked {
            (to.batch * to.blocks(), to.height, to.width * lanes)
        } else {
            (to.batch * to.channels, 1, to.height * to.width)
        };
        let pieces = runtime.pieces(planes * rows, width * 2);
        runtime.for_each(pieces, |number, _| {
            for row in piece(planes * rows, pieces, number) {
                let (plane, y) = (row / rows, row % rows);
                let (channel, first, at, into) = if self.blocked {
                    let place = |image: Image| plane * image.plane() + image.pixel(y, 0);
                    (plane % to.blocks() * lanes, lanes, place(from), place(to))
                } else {
                    (plane % to.channels, 1, plane * width, plane * width)
                };
                // SAFETY: each row is one task's; the operands are as large as the layouts say.
                unsafe {
                    let job = Row {
                        from: source.at(at),
                        into: output.at(into),
                        count: width,
                        scale: &self.scale[channel..channel + first],
                        shift: &self.shift[channel..channel + first],
                        one: !self.blocked,
                        clamp: self.clamp,
                    };
                    self.isa.run(job);
                    if self.blocked {
                        to.clear_around(output, plane * to.plane(), y);
                    }
                }
            }
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        if self.input.halo == self.output.halo { &[0] } else { &[] }
    }
}
