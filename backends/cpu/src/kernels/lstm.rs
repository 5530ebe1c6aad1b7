//! LSTM with the standard's usual activations, on f32.

use hetero_hal::Result;

use super::recurrent::{Cell, Layer, Multiply, Recurrent, Step, Weights};
use super::{Kernel, Site};
use crate::simd::{self, Job, Simd};

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(layer) = Layer::of(site, 4, &["Sigmoid", "Tanh", "Tanh"])? else { return Ok(None) };
    let cell = Lstm { state: [layer.recurrent(site, 0..4)?] };
    Ok(Some(Box::new(Recurrent::new(site, layer, cell)?)))
}

struct Lstm {
    state: [Weights; 1],
}

/// The new states of one item.
struct Unit<'a> {
    /// The inputs' parts of its four gates, in the standard's order: input, output, forget, cell.
    /// `sums` holds the states' parts.
    inputs: &'a [f32],
    sums: &'a [f32],
    c: &'a mut [f32],
    h: &'a mut [f32],
}

impl Job for Unit<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let hidden = self.h.len();
        let mut unit = 0;
        while unit < hidden {
            let lanes = (hidden - unit).min(S::LANES);
            // SAFETY: `lanes` elements from `unit` on lie in each slice, because there are four
            // gates of `hidden`.
            unsafe {
                let whole = lanes == S::LANES;
                let load = |at: *const f32| if whole { S::load(at) } else { S::load_first(at, lanes) };
                let gate = |index: usize| {
                    let at = index * hidden + unit;
                    S::add(load(self.inputs.as_ptr().add(at)), load(self.sums.as_ptr().add(at)))
                };
                let kept = S::mul(simd::sigmoid::<S>(gate(2)), load(self.c.as_ptr().add(unit)));
                let c = S::fma(simd::sigmoid::<S>(gate(0)), simd::tanh::<S>(gate(3)), kept);
                let h = S::mul(simd::sigmoid::<S>(gate(1)), simd::tanh::<S>(c));
                if whole {
                    S::store(self.c.as_mut_ptr().add(unit), c);
                    S::store(self.h.as_mut_ptr().add(unit), h);
                } else {
                    S::store_first(self.c.as_mut_ptr().add(unit), lanes, c);
                    S::store_first(self.h.as_mut_ptr().add(unit), lanes, h);
                }
            }
            unit += lanes;
        }
    }
}

impl Cell for Lstm {
    const NAME: &'static str = "lstm::Lstm";

    fn weights(&self) -> &[Weights] {
        &self.state
    }

    fn step(&self, layer: &Layer, step: Step<'_>, multiply: &mut Multiply<'_>) -> Result<()> {
        let Step { inputs, bias, h, c, sums } = step;
        multiply(0, h, bias, sums)?;
        let (rows, hidden) = (layer.rows().max(1), layer.hidden.max(1));
        let states = h.chunks_mut(hidden).zip(c.chunks_mut(hidden));
        for (item, (sums, (h, c))) in sums.chunks(rows).zip(states).enumerate() {
            // SAFETY: the slices have `hidden` and four times `hidden` elements.
            unsafe { layer.isa.run(Unit { inputs: inputs(item), sums, c, h }) };
        }
        Ok(())
    }
}
