//! LSTM with the standard's usual activations, on f32.

use hetero_hal::{Attribute, DType, Result};

use super::matmul::{Operands, Product, Shape};
use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;
use crate::simd::{self, Isa, Job, Simd};

/// Weights that are not constant, peepholes, lengths, clipping, other activations and the batch-first layout are the oracle's.
pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let usual = match operator.attribute("activations") {
        None => true,
        Some(Attribute::Strings(names)) => {
            let usual: [&[u8]; 3] = [b"Sigmoid", b"Tanh", b"Tanh"];
            names.iter().zip(usual.iter().cycle()).all(|(name, usual)| &**name == *usual)
        }
        Some(_) => false,
    };
    let plain = operator.int("layout")?.unwrap_or(0) == 0
        && operator.int("input_forget")?.unwrap_or(0) == 0
        && operator.float("clip")?.is_none()
        && site.input(4).is_none()
        && site.input(7).is_none();
    let (Some(&[steps, batch, width]), Some(&[directions, _, hidden])) = (site.shape(0), site.shape(2)) else {
        return Ok(None);
    };
    let backwards = match (operator.text("direction")?.unwrap_or("forward"), directions) {
        ("forward", 1) => vec![false],
        ("reverse", 1) => vec![true],
        ("bidirectional", 2) => vec![false, true],
        _ => return Ok(None),
    };
    let (rows, state) = ([directions, 4 * hidden], [directions, batch, hidden]);
    let optional = |index: usize, shape: &[usize]| site.shape(index).is_none_or(|found| found == shape);
    let fits = site.shape(1) == Some(&[rows[0], rows[1], width])
        && site.shape(2) == Some(&[rows[0], rows[1], hidden])
        && optional(3, &[directions, 2 * rows[1]])
        && optional(5, &state)
        && optional(6, &state);
    if !fits || !usual || !plain || !site.all(DType::F32) {
        return Ok(None);
    }
    let (gates, isa) = (4 * hidden, site.isa);
    let of_input = Shape { m: steps * batch, n: gates, k: width, a: (width, 1), b: (1, width) };
    let of_state = Shape { m: batch, n: gates, k: hidden, a: (hidden, 1), b: (1, hidden) };
    // One product for each direction.
    let products = |index: usize, shape: Shape| -> Result<Vec<Product>> {
        let Some(weights) = site.constant(index) else { return Ok(vec![]) };
        let weights = weights.view::<f32>()?;
        let each = weights.chunks_exact((shape.n * shape.k).max(1));
        Ok(each.map(|of| Product::new(isa, shape, site.packs.then_some(of))).collect())
    };
    let (input, state) = (products(1, of_input)?, products(2, of_state)?);
    if input.len() != directions || state.len() != directions {
        return Ok(None);
    }
    Ok(Some(Box::new(Lstm { isa, steps, batch, hidden, backwards, input, state })))
}

struct Lstm {
    isa: Isa,
    steps: usize,
    batch: usize,
    hidden: usize,
    backwards: Vec<bool>,
    /// Inputs times weights, of all steps at once; one for each direction.
    input: Vec<Product>,
    /// States times recurrent weights, of one step.
    state: Vec<Product>,
}

impl Lstm {
    fn gates(&self) -> usize {
        4 * self.hidden
    }

    /// Elements of the workspace beside what the products need.
    fn own(&self) -> usize {
        self.steps * self.batch * self.gates() + 2 * self.batch * self.hidden
    }
}

/// The new states of one item, from its four gates' sums.
struct Cell<'a> {
    /// In the standard's order: input, output, forget, cell.
    gates: &'a [f32],
    c: &'a mut [f32],
    h: &'a mut [f32],
}

impl Job for Cell<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let hidden = self.h.len();
        let mut unit = 0;
        while unit < hidden {
            let lanes = (hidden - unit).min(S::LANES);
            // SAFETY: `lanes` elements from `unit` on lie in each slice, as there are four gates of `hidden`.
            unsafe {
                let whole = lanes == S::LANES;
                let load = |at: *const f32| if whole { S::load(at) } else { S::load_first(at, lanes) };
                let gate = |index: usize| load(self.gates.as_ptr().add(index * hidden + unit));
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

impl Kernel for Lstm {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let (steps, batch, hidden, gates) = (self.steps, self.batch, self.hidden, self.gates());
        let x = arguments.input::<f32>(0)?;
        let bias = arguments.optional::<f32>(3)?;
        let (initial_h, initial_c) = (arguments.optional::<f32>(5)?, arguments.optional::<f32>(6)?);
        let mut outputs = [None, None, None];
        for (index, slot) in outputs.iter_mut().enumerate() {
            if arguments.wants(index) {
                *slot = Some(arguments.output::<f32>(index)?);
            }
        }
        let [mut all, mut last_h, mut last_c] = outputs;
        let (own, space) = arguments.workspace::<f32>()?.split_at_mut(self.own());
        let (projected, rest) = own.split_at_mut(steps * batch * gates);
        let (h, c) = rest.split_at_mut(batch * hidden);
        let state = batch * hidden;
        for (direction, &backwards) in self.backwards.iter().enumerate() {
            // Input times weights for all steps at once, with both biases.
            if let Some(bias) = bias {
                let (of_w, of_r) = bias[direction * 2 * gates..][..2 * gates].split_at(gates);
                for row in projected.chunks_mut(gates.max(1)) {
                    row.iter_mut().zip(of_w.iter().zip(of_r)).for_each(|(value, (w, r))| *value = w + r);
                }
            }
            let of_input = Operands { left: x, right: &[], bias: None, keep: bias.is_some() };
            self.input[direction].run(of_input, projected, space, runtime);
            let start = |into: &mut [f32], initial: Option<&[f32]>| match initial {
                Some(initial) => into.copy_from_slice(&initial[direction * state..][..state]),
                None => into.fill(0.0),
            };
            start(h, initial_h);
            start(c, initial_c);
            for number in 0..steps {
                let step = if backwards { steps - 1 - number } else { number };
                let rows = &mut projected[step * batch * gates..][..batch * gates];
                let of_state = Operands { left: h, right: &[], bias: None, keep: true };
                self.state[direction].run(of_state, rows, space, runtime);
                let states = h.chunks_mut(hidden.max(1)).zip(c.chunks_mut(hidden.max(1)));
                for (row, (h, c)) in rows.chunks(gates.max(1)).zip(states) {
                    // SAFETY: the slices have `hidden` and four times `hidden` elements.
                    unsafe { self.isa.run(Cell { gates: row, c, h }) };
                }
                if let Some(all) = &mut all {
                    all[(step * self.backwards.len() + direction) * state..][..state].copy_from_slice(h);
                }
            }
            let keep = |into: &mut Option<&mut [f32]>, from: &[f32]| {
                if let Some(into) = into {
                    into[direction * state..][..state].copy_from_slice(from);
                }
            };
            keep(&mut last_h, h);
            keep(&mut last_c, c);
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let products = self.input.iter().chain(&self.state).map(|product| product.workspace(threads));
        self.own() * size_of::<f32>() + products.max().unwrap_or(0)
    }

    fn resident_bytes(&self) -> usize {
        self.input.iter().chain(&self.state).map(Product::resident_bytes).sum()
    }

    fn reads(&self, input: usize) -> bool {
        input != 1 && input != 2
    }
}
