//! The plain recurrent layer on f32.

use hetero_hal::Result;

use super::recurrent::{Cell, Functions, Layer, Multiply, Recurrent, Step, Weights, tanh_or};
use super::{Kernel, Site};
use crate::simd::{Job, Simd};

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(layer) = Layer::of(site, 1, &["Tanh"])? else { return Ok(None) };
    let cell = Rnn { state: [layer.recurrent(site, 0..1)?] };
    Ok(Some(Box::new(Recurrent::new(site, layer, cell)?)))
}

struct Rnn {
    state: [Weights; 1],
}

/// The new state of one item.
struct Unit<'a> {
    /// The input's part; `sums` has the state's.
    inputs: &'a [f32],
    sums: &'a [f32],
    h: &'a mut [f32],
    functions: Option<&'a Functions>,
}

impl Job for Unit<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let hidden = self.h.len();
        let mut unit = 0;
        while unit < hidden {
            let lanes = (hidden - unit).min(S::LANES);
            // SAFETY: `lanes` elements from `unit` on lie in each slice.
            unsafe {
                let load = |slice: &[f32]| S::load_first(slice.as_ptr().add(unit), lanes);
                let sum = S::add(load(self.inputs), load(self.sums));
                let h = tanh_or::<S>(self.functions, 0, sum);
                S::store_first(self.h.as_mut_ptr().add(unit), lanes, h);
            }
            unit += lanes;
        }
    }
}

impl Cell for Rnn {
    const NAME: &'static str = "rnn::Rnn";

    fn weights(&self) -> &[Weights] {
        &self.state
    }

    fn step(&self, layer: &Layer, step: Step<'_>, multiply: &mut Multiply<'_>) -> Result<()> {
        let Step { direction, has, inputs, bias, h, sums, .. } = step;
        multiply(0, h, bias, sums)?;
        let (hidden, functions) = (layer.hidden.max(1), layer.functions(direction));
        let states = sums.chunks(hidden).zip(h.chunks_mut(hidden)).enumerate();
        for (item, (sums, h)) in states.filter(|(item, _)| has(*item)) {
            // SAFETY: the slices have `hidden` elements.
            unsafe { layer.isa.run(Unit { inputs: inputs(item), sums, h, functions }) };
        }
        Ok(())
    }
}
