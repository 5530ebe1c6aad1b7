//! LSTM on f32, also with weights of bytes.

use hetero_hal::Result;

use super::recurrent::{Cell, Functions, Layer, Multiply, Recurrent, Step, Weights, sigmoid_or, tanh_or};
use super::{Kernel, Site};
use crate::simd::{self, Job, Simd};

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(layer) = Layer::of(site, 4, &["Sigmoid", "Tanh", "Tanh"])? else { return Ok(None) };
    let coupled = site.operator().int("input_forget")?.unwrap_or(0) != 0;
    let cell = Lstm { state: [layer.recurrent(site, 0..4)?], coupled };
    Ok(Some(Box::new(Recurrent::new(site, layer, cell)?)))
}

struct Lstm {
    state: [Weights; 1],
    /// Whether the forget gate is what the input gate leaves.
    coupled: bool,
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

/// The new states of one item, with any functions, with peepholes, or with coupled gates.
struct Any<'a> {
    unit: Unit<'a>,
    functions: Option<&'a Functions>,
    /// The weights by which the cells are seen by the gates of input, output and forget.
    peepholes: Option<&'a [f32]>,
    coupled: bool,
}

impl Job for Any<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Any { unit: Unit { inputs, sums, c, h }, functions, peepholes, coupled } = self;
        let hidden = h.len();
        let mut unit = 0;
        while unit < hidden {
            let lanes = (hidden - unit).min(S::LANES);
            // SAFETY: `lanes` elements from `unit` on lie in each slice, because there are four
            // gates and three peepholes of `hidden`.
            unsafe {
                let load =
                    |slice: &[f32], index: usize| S::load_first(slice.as_ptr().add(index * hidden + unit), lanes);
                let sum = |index: usize| S::add(load(inputs, index), load(sums, index));
                let seen = |index: usize, peephole: usize, c: S::V| match peepholes {
                    Some(peepholes) => S::fma(load(peepholes, peephole), c, sum(index)),
                    None => sum(index),
                };
                let gate = |x: S::V| sigmoid_or::<S>(functions, 0, x);
                let before = load(c, 0);
                let input = gate(seen(0, 0, before));
                let forget = if coupled { S::sub(S::splat(1.0), input) } else { gate(seen(2, 2, before)) };
                let candidate = tanh_or::<S>(functions, 1, sum(3));
                let after = S::fma(input, candidate, S::mul(forget, before));
                let squashed = match functions {
                    Some(functions) => functions.apply::<S>(2, after),
                    None => simd::tanh::<S>(after),
                };
                let output = gate(seen(1, 1, after));
                S::store_first(c.as_mut_ptr().add(unit), lanes, after);
                S::store_first(h.as_mut_ptr().add(unit), lanes, S::mul(output, squashed));
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
        let Step { direction, has, peepholes, inputs, bias, h, c, sums } = step;
        multiply(0, h, bias, sums)?;
        let (rows, hidden) = (layer.rows().max(1), layer.hidden.max(1));
        let functions = layer.functions(direction);
        let is_usual = functions.is_none() && peepholes.is_none() && !self.coupled;
        let states = h.chunks_mut(hidden).zip(c.chunks_mut(hidden));
        for (item, (sums, (h, c))) in sums.chunks(rows).zip(states).enumerate().filter(|(item, _)| has(*item)) {
            let unit = Unit { inputs: inputs(item), sums, c, h };
            // SAFETY: the slices have `hidden`, three times and four times `hidden` elements.
            unsafe {
                if is_usual {
                    layer.isa.run(unit);
                } else {
                    layer.isa.run(Any { unit, functions, peepholes, coupled: self.coupled });
                }
            }
        }
        Ok(())
    }
}
