//! Values of 16 bits as f32, and back.

use hetero_hal::Result;

use super::elementwise::spread;
use super::{Kernel, Runtime};
use crate::operand::{Arguments, Shared};
use crate::simd::{Half, Isa};

pub(super) struct Widen {
    pub(super) isa: Isa,
    pub(super) half: Half,
}

impl Kernel for Widen {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<u16>(0)?;
        let output = arguments.output::<f32>(0)?;
        let (count, output) = (input.len().min(output.len()), Shared::new(output));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let into = unsafe { output.slice(range.start, range.len()) };
            self.half.widen(self.isa, &input[range], into);
        });
        Ok(())
    }
}

pub(super) struct Narrow {
    pub(super) isa: Isa,
    pub(super) half: Half,
}

impl Kernel for Narrow {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let output = arguments.output::<u16>(0)?;
        let (count, output) = (input.len().min(output.len()), Shared::new(output));
        spread(count, runtime, |range| {
            // SAFETY: each range is one task's.
            let into = unsafe { output.slice(range.start, range.len()) };
            self.half.narrow_all(self.isa, &input[range], into);
        });
        Ok(())
    }
}
