//! The common parts of LSTM and GRU: the products with their weights, and the walk over the steps.
//!
//! Inputs are multiplied with their weights for all steps at once, and states step by step.
//! A cell makes the new states of both products.

use std::ops::Range;
use std::sync::Arc;

use hetero_hal::{Attribute, DType, Result};

use super::matmul::{Operands, Product, Shape};
use super::{Kernel, Packed, Runtime, Site};
use crate::operand::Arguments;
use crate::simd::Isa;

/// The sizes of a layer.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) isa: Isa,
    steps: usize,
    pub(super) batch: usize,
    width: usize,
    pub(super) hidden: usize,
    /// The gates of a cell.
    gates: usize,
    /// For each direction, whether it goes from the last step to the first.
    backwards: Vec<bool>,
    /// Whether the batch stands before the steps.
    batch_first: bool,
}

impl Layer {
    /// Returns the layer of a node.
    /// Lengths, peepholes, clipping, coupled gates and activations other than the usual ones are
    /// left to the oracle.
    pub(super) fn of(site: Site<'_>, gates: usize, functions: &[&str]) -> Result<Option<Layer>> {
        let operator = site.operator();
        let (Some(&[first, second, width]), Some(&[directions, _, hidden])) = (site.shape(0), site.shape(2)) else {
            return Ok(None);
        };
        let backwards = match (operator.text("direction")?.unwrap_or("forward"), directions) {
            ("forward", 1) => vec![false],
            ("reverse", 1) => vec![true],
            ("bidirectional", 2) => vec![false, true],
            _ => return Ok(None),
        };
        let usual = match operator.attribute("activations") {
            None => true,
            Some(Attribute::Strings(names)) => {
                let usual = functions.iter().cycle();
                let same = names.iter().zip(usual).all(|(name, usual)| name.eq_ignore_ascii_case(usual.as_bytes()));
                same && names.len() == functions.len() * directions
            }
            Some(_) => false,
        };
        let plain = operator.int("input_forget")?.unwrap_or(0) == 0
            && operator.float("clip")?.is_none()
            && operator.int("hidden_size")?.is_none_or(|size| size == hidden as i64)
            && site.input(4).is_none()
            && site.input(7).is_none();
        let batch_first = operator.int("layout")?.unwrap_or(0) != 0;
        let (steps, batch) = if batch_first { (second, first) } else { (first, second) };
        let rows = gates * hidden;
        let state = if batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let optional = |index: usize, shape: &[usize]| site.shape(index).is_none_or(|found| found == shape);
        let fits = site.shape(1) == Some(&[directions, rows, width])
            && site.shape(2) == Some(&[directions, rows, hidden])
            && optional(3, &[directions, 2 * rows])
            && optional(5, &state)
            && optional(6, &state);
        if !fits || !usual || !plain || !site.all(DType::F32) {
            return Ok(None);
        }
        Ok(Some(Layer { isa: site.isa, steps, batch, width, hidden, gates, backwards, batch_first }))
    }

    /// Returns the results of a product for one item.
    pub(super) fn rows(&self) -> usize {
        self.gates * self.hidden
    }

    /// Returns the elements of all items' states in one direction.
    fn state(&self) -> usize {
        self.batch * self.hidden
    }

    /// Returns the number of an item's row among the inputs.
    fn row(&self, step: usize, item: usize) -> usize {
        if self.batch_first { item * self.steps + step } else { step * self.batch + item }
    }

    /// Returns the number of an item's row among the first and last states.
    fn place(&self, direction: usize, item: usize) -> usize {
        if self.batch_first { item * self.backwards.len() + direction } else { direction * self.batch + item }
    }

    /// Returns the number of an item's row among all states.
    fn place_of_step(&self, step: usize, direction: usize, item: usize) -> usize {
        let directions = self.backwards.len();
        if self.batch_first {
            self.row(step, item) * directions + direction
        } else {
            (step * directions + direction) * self.batch + item
        }
    }

    /// Makes the recurrent weights of some gates.
    pub(super) fn recurrent(&self, site: Site<'_>, gates: Range<usize>) -> Result<Weights> {
        let rows = gates.start * self.hidden..gates.end * self.hidden;
        Weights::new(site, self, 2, self.batch, rows, self.hidden)
    }
}

/// Some rows of one of the weights with which vectors are multiplied: a product for each direction.
pub(super) struct Weights {
    products: Vec<Product>,
    /// The number of the node's input.
    input: usize,
    /// The elements of a direction's weights; `part` says which of them these are.
    each: usize,
    part: Range<usize>,
}

impl Weights {
    /// Makes the weights `input`, for the multiplication of `count` vectors of `width`.
    fn new(
        site: Site<'_>,
        layer: &Layer,
        input: usize,
        count: usize,
        rows: Range<usize>,
        width: usize,
    ) -> Result<Weights> {
        let shape = Shape { m: count, n: rows.len(), k: width, a: (width, 1), b: (1, width) };
        let (each, part) = (layer.rows() * width, rows.start * width..rows.end * width);
        let of = |direction: usize| Product::of(site, shape, input, direction * each + part.start);
        let products = (0..layer.backwards.len()).map(of).collect::<Result<_>>()?;
        Ok(Weights { products, input, each, part })
    }

    /// Returns the packed weights of a direction, where they are constant.
    fn panels(&self, direction: usize) -> Result<Option<Arc<Vec<f32>>>> {
        self.products[direction].panels()
    }

    /// Multiplies vectors with the weights of a direction, whose [`Weights::panels`] are given.
    fn run(
        &self,
        (direction, panels): (usize, Option<&[f32]>),
        (left, bias): (&[f32], Option<&[f32]>),
        into: &mut [f32],
        space: &mut [f32],
        (arguments, runtime): (&Arguments<'_>, &Runtime<'_>),
    ) -> Result<()> {
        let product = &self.products[direction];
        let right = match panels {
            Some(panels) => panels,
            None => &arguments.input::<f32>(self.input)?[direction * self.each..][self.part.clone()],
        };
        product.run(Operands { left, right, bias, keep: false }, into, space, runtime);
        Ok(())
    }
}

/// The data that a cell reads and writes in a step.
pub(super) struct Step<'a> {
    /// Returns, for each item, its input times its weights, with their bias.
    pub(super) inputs: &'a dyn Fn(usize) -> &'a [f32],
    /// The states' bias.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) h: &'a mut [f32],
    /// The cells of an LSTM, of the size of `h`.
    pub(super) c: &'a mut [f32],
    /// The room for products of states.
    pub(super) sums: &'a mut [f32],
}

/// The function that computes `into = states * weights + bias`.
/// Its arguments are the number of the weights among [`Cell::weights`], the states, the bias and
/// `into`.
pub(super) type Multiply<'a> = dyn FnMut(usize, &[f32], Option<&[f32]>, &mut [f32]) -> Result<()> + 'a;

/// The largest number of weights with which the states of a cell are multiplied.
const WEIGHTS: usize = 2;

/// One kind of layer.
pub(super) trait Cell: Send + Sync {
    const NAME: &'static str;

    /// Returns the weights with which states are multiplied, at most [`WEIGHTS`] of them.
    fn weights(&self) -> &[Weights];

    /// Makes the new states.
    fn step(&self, layer: &Layer, step: Step<'_>, multiply: &mut Multiply<'_>) -> Result<()>;
}

pub(super) struct Recurrent<C> {
    layer: Layer,
    input: Weights,
    cell: C,
}

impl<C: Cell> Recurrent<C> {
    pub(super) fn new(site: Site<'_>, layer: Layer, cell: C) -> Result<Self> {
        let (count, rows) = (layer.steps * layer.batch, 0..layer.rows());
        let input = Weights::new(site, &layer, 1, count, rows, layer.width)?;
        Ok(Recurrent { layer, input, cell })
    }

    fn products(&self) -> impl Iterator<Item = &Product> {
        self.cell.weights().iter().chain([&self.input]).flat_map(|weights| &weights.products)
    }

    /// Returns the elements of the workspace beside those that the products need.
    fn own(&self) -> usize {
        let layer = &self.layer;
        (layer.steps + 1) * layer.batch * layer.rows() + 2 * layer.state()
    }
}

impl<C: Cell> Kernel for Recurrent<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let layer = &self.layer;
        let (steps, batch, hidden, rows) = (layer.steps, layer.batch, layer.hidden, layer.rows());
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
        let (projected, rest) = own.split_at_mut(steps * batch * rows);
        let (sums, rest) = rest.split_at_mut(batch * rows);
        let (h, c) = rest.split_at_mut(layer.state());
        for (direction, &backwards) in layer.backwards.iter().enumerate() {
            let (of_w, of_r) = match bias {
                Some(bias) => {
                    let (of_w, of_r) = bias[direction * 2 * rows..][..2 * rows].split_at(rows);
                    (Some(of_w), Some(of_r))
                }
                None => (None, None),
            };
            let panels = self.input.panels(direction)?;
            let own = (direction, panels.as_ref().map(|panels| &panels[..]));
            self.input.run(own, (x, of_w), projected, space, (arguments, runtime))?;
            let mut panels = [const { None }; WEIGHTS];
            for (panels, weights) in panels.iter_mut().zip(self.cell.weights()) {
                *panels = weights.panels(direction)?;
            }
            let start = |into: &mut [f32], initial: Option<&[f32]>| match initial {
                Some(initial) => {
                    for (item, into) in into.chunks_mut(hidden.max(1)).enumerate() {
                        into.copy_from_slice(&initial[layer.place(direction, item) * hidden..][..hidden]);
                    }
                }
                None => into.fill(0.0),
            };
            start(h, initial_h);
            start(c, initial_c);
            let projected = &*projected;
            for number in 0..steps {
                if number % 64 == 63 {
                    runtime.check()?;
                }
                let step = if backwards { steps - 1 - number } else { number };
                let inputs = |item: usize| &projected[layer.row(step, item) * rows..][..rows];
                let part = Step { inputs: &inputs, bias: of_r, h: &mut *h, c: &mut *c, sums: &mut *sums };
                self.cell.step(layer, part, &mut |number, states, bias, into| {
                    let own = (direction, panels[number].as_ref().map(|panels| &panels[..]));
                    self.cell.weights()[number].run(own, (states, bias), into, space, (arguments, runtime))
                })?;
                if let Some(all) = &mut all {
                    for (item, h) in h.chunks(hidden.max(1)).enumerate() {
                        let place = layer.place_of_step(step, direction, item);
                        all[place * hidden..][..hidden].copy_from_slice(h);
                    }
                }
            }
            let keep = |into: &mut Option<&mut [f32]>, from: &[f32]| {
                if let Some(into) = into {
                    for (item, from) in from.chunks(hidden.max(1)).enumerate() {
                        into[layer.place(direction, item) * hidden..][..hidden].copy_from_slice(from);
                    }
                }
            };
            keep(&mut last_h, h);
            keep(&mut last_c, c);
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        let products = self.products().map(|product| product.workspace(threads));
        self.own() * size_of::<f32>() + products.max().unwrap_or(0)
    }

    fn weights(&self) -> Vec<&Packed> {
        self.products().filter_map(Product::weights).collect()
    }

    fn reads(&self, input: usize) -> bool {
        let mut weights = self.cell.weights().iter().chain([&self.input]).filter(|weights| weights.input == input);
        !weights.any(|weights| weights.products.iter().all(Product::is_packed))
    }
}
