//! GRU on f32.

use hetero_hal::Result;

use super::recurrent::{Cell, Functions, Layer, Multiply, Recurrent, Step, Weights, sigmoid_or, tanh_or};
use super::{Kernel, Site};
use crate::simd::{Job, Simd};

/// Makes a kernel whose gates are in the standard's order: update, reset, hidden.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(layer) = Layer::of(site, 3, &["Sigmoid", "Tanh"])? else { return Ok(None) };
    let reset_after = site.operator().int("linear_before_reset")?.unwrap_or(0) != 0;
    let state = if reset_after {
        vec![layer.recurrent(site, 0..3)?]
    } else {
        vec![layer.recurrent(site, 0..2)?, layer.recurrent(site, 2..3)?]
    };
    Ok(Some(Box::new(Recurrent::new(site, layer, Gru { state })?)))
}

struct Gru {
    /// The weights of the states.
    /// Where the reset gate weighs the product, they are one matrix for all gates.
    /// Where it weighs the state before, they are one for the first two gates and one for the
    /// hidden gate.
    state: Vec<Weights>,
}

/// The product of one item's states and its reset gate.
struct Reset<'a> {
    /// The inputs' part of the reset gate; `sums` is the states' part.
    inputs: &'a [f32],
    sums: &'a [f32],
    h: &'a [f32],
    into: &'a mut [f32],
    functions: Option<&'a Functions>,
}

impl Job for Reset<'_> {
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
                let reset = sigmoid_or::<S>(self.functions, 0, sum);
                S::store_first(self.into.as_mut_ptr().add(unit), lanes, S::mul(reset, load(self.h)));
            }
            unit += lanes;
        }
    }
}

/// The new states of one item.
struct Unit<'a> {
    /// The inputs' parts of the three gates.
    inputs: &'a [f32],
    /// The states times the weights of the update gate and, where `reset_after` is set, of the
    /// reset gate.
    sums: &'a [f32],
    /// The states times the weights of the hidden gate.
    candidate: &'a [f32],
    reset_after: bool,
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
            // SAFETY: `lanes` elements from `unit` on lie in each slice, because each has `hidden`
            // elements for each of its gates.
            unsafe {
                let whole = lanes == S::LANES;
                let load = |at: *const f32| if whole { S::load(at) } else { S::load_first(at, lanes) };
                let input = |index: usize| load(self.inputs.as_ptr().add(index * hidden + unit));
                let sum = |index: usize| load(self.sums.as_ptr().add(index * hidden + unit));
                let gate = |x: S::V| sigmoid_or::<S>(self.functions, 0, x);
                let mut part = load(self.candidate.as_ptr().add(unit));
                if self.reset_after {
                    part = S::mul(gate(S::add(input(1), sum(1))), part);
                }
                let candidate = tanh_or::<S>(self.functions, 1, S::add(input(2), part));
                let update = gate(S::add(input(0), sum(0)));
                let before = load(self.h.as_ptr().add(unit));
                // This is (1 - update) * candidate + update * before.
                let h = S::fma(update, S::sub(before, candidate), candidate);
                if whole {
                    S::store(self.h.as_mut_ptr().add(unit), h);
                } else {
                    S::store_first(self.h.as_mut_ptr().add(unit), lanes, h);
                }
            }
            unit += lanes;
        }
    }
}

impl Cell for Gru {
    const NAME: &'static str = "gru::Gru";

    fn weights(&self) -> &[Weights] {
        &self.state
    }

    fn step(&self, layer: &Layer, step: Step<'_>, multiply: &mut Multiply<'_>) -> Result<()> {
        let Step { direction, has, inputs, bias, h, c: faded, sums, .. } = step;
        let (isa, hidden, functions) = (layer.isa, layer.hidden, layer.functions(direction));
        if hidden == 0 {
            return Ok(());
        }
        if self.state.len() == 1 {
            multiply(0, h, bias, sums)?;
            let states = sums.chunks(3 * hidden).zip(h.chunks_mut(hidden)).enumerate();
            for (item, (sums, h)) in states.filter(|(item, _)| has(*item)) {
                let (sums, candidate) = sums.split_at(2 * hidden);
                // SAFETY: the slices have `hidden` elements for each of their gates.
                unsafe { isa.run(Unit { inputs: inputs(item), sums, candidate, reset_after: true, h, functions }) };
            }
            return Ok(());
        }
        let (sums, candidates) = sums.split_at_mut(2 * hidden * layer.batch);
        multiply(0, h, bias.map(|bias| &bias[..2 * hidden]), sums)?;
        let rows = || sums.chunks(2 * hidden);
        for (item, (sums, (h, into))) in rows().zip(h.chunks(hidden).zip(faded.chunks_mut(hidden))).enumerate() {
            let of_reset = hidden..2 * hidden;
            // SAFETY: all slices have `hidden` elements.
            unsafe {
                isa.run(Reset { inputs: &inputs(item)[of_reset.clone()], sums: &sums[of_reset], h, into, functions });
            }
        }
        multiply(1, faded, bias.map(|bias| &bias[2 * hidden..]), candidates)?;
        let states = candidates.chunks(hidden).zip(h.chunks_mut(hidden));
        for (item, (sums, (candidate, h))) in rows().zip(states).enumerate().filter(|(item, _)| has(*item)) {
            // SAFETY: the slices have `hidden` elements for each of their gates.
            unsafe { isa.run(Unit { inputs: inputs(item), sums, candidate, reset_after: false, h, functions }) };
        }
        Ok(())
    }
}
