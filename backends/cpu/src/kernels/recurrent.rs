//! The common parts of LSTM, GRU and RNN: the products with their weights, and the walk over the
//! steps.
//!
//! Inputs are multiplied with their weights for all steps at once, and states step by step.
//! A cell makes the new states of both products.
//! An item whose sequence is shorter than others has its states kept from its own last step on.

mod dynamic;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use hetero_hal::{Attribute, DType, Error, Operator, Result};

use super::matmul::{Operands, Product, Shape};
use super::vector::Activation;
use super::{Kernel, Packed, Runtime, Site};
use crate::floats::Floats;
use crate::operand::Arguments;
use crate::simd::{self, Isa, Simd};
use dynamic::Dynamic;

/// The most functions of a cell.
const FUNCTIONS: usize = 3;

/// A function of a cell.
#[derive(Clone, Copy)]
enum Function {
    Of(Activation),
    /// `a * tanh(b * x)`.
    ScaledTanh(f32, f32),
}

/// The functions of a cell in one direction, in the standard's order.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    functions: [Function; FUNCTIONS],
    /// The range to which the arguments of gates are limited.
    clip: Option<f32>,
}

impl Functions {
    /// Computes a function of a gate, whose argument is limited.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn gate<S: Simd>(&self, index: usize, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let limited = match self.clip {
                Some(clip) => S::min(S::splat(clip), S::max(S::splat(-clip), x)),
                None => x,
            };
            self.apply::<S>(index, limited)
        }
    }

    /// Computes a function.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd>(&self, index: usize, x: S::V) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            match self.functions[index] {
                Function::Of(activation) => activation.vector::<S>(x),
                Function::ScaledTanh(a, b) => S::mul(S::splat(a), simd::tanh::<S>(S::mul(S::splat(b), x))),
            }
        }
    }
}

/// Computes a gate: by a cell's own function of that number, or by the sigmoid.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn sigmoid_or<S: Simd>(own: Option<&Functions>, index: usize, x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        match own {
            Some(functions) => functions.gate::<S>(index, x),
            None => simd::sigmoid::<S>(x),
        }
    }
}

/// Computes a gate: by a cell's own function of that number, or by the hyperbolic tangent.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn tanh_or<S: Simd>(own: Option<&Functions>, index: usize, x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        match own {
            Some(functions) => functions.gate::<S>(index, x),
            None => simd::tanh::<S>(x),
        }
    }
}

/// Returns the functions of each direction, `None` where a name is unknown, and an empty list where
/// all are the usual ones and nothing is limited.
fn functions(operator: &Operator, usual: &[&str], directions: usize) -> Result<Option<Vec<Functions>>> {
    let names: Vec<String> = match operator.attribute("activations") {
        None => usual.iter().cycle().take(usual.len() * directions).map(ToString::to_string).collect(),
        Some(Attribute::Strings(names)) if names.len() == usual.len() * directions => {
            names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        Some(_) => return Ok(None),
    };
    let clip = operator.float("clip")?;
    if clip.is_some_and(|clip| clip.is_nan() || clip < 0.0) {
        return Ok(None);
    }
    if clip.is_none() && names.iter().zip(usual.iter().cycle()).all(|(name, usual)| name.eq_ignore_ascii_case(usual)) {
        return Ok(Some(Vec::new()));
    }
    // Parameters are consumed in the order of the functions that have one.
    let mut alphas = operator.floats("activation_alpha")?.unwrap_or_default().iter().copied();
    let mut betas = operator.floats("activation_beta")?.unwrap_or_default().iter().copied();
    let mut all = Vec::with_capacity(directions);
    for names in names.chunks(usual.len()) {
        let mut functions = [Function::Of(Activation::Tanh); FUNCTIONS];
        for (slot, name) in functions.iter_mut().zip(names) {
            let mut alpha = |default: f32| alphas.next().unwrap_or(default);
            let mut beta = |default: f32| betas.next().unwrap_or(default);
            *slot = Function::Of(match name.to_ascii_lowercase().as_str() {
                "sigmoid" => Activation::Sigmoid,
                "tanh" => Activation::Tanh,
                "relu" => Activation::Clamp(0.0, f32::INFINITY),
                "softsign" => Activation::Softsign,
                "softplus" => Activation::Softplus,
                "affine" => Activation::Affine(alpha(1.0), beta(0.0)),
                "leakyrelu" => Activation::Leaky(alpha(0.01)),
                "thresholdedrelu" => Activation::Threshold(alpha(1.0)),
                "hardsigmoid" => Activation::HardSigmoid(alpha(0.2), beta(0.5)),
                "elu" => Activation::Elu(alpha(1.0)),
                "scaledtanh" => {
                    *slot = Function::ScaledTanh(alpha(1.0), beta(1.0));
                    continue;
                }
                _ => return Ok(None),
            });
        }
        all.push(Functions { functions, clip });
    }
    Ok(Some(all))
}

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
    /// Whether weights are bytes, and inputs and states are quantised, as DynamicQuantizeLSTM says.
    is_dynamic: bool,
    /// The functions of each direction, where they are not the usual ones.
    functions: Vec<Functions>,
}

impl Layer {
    /// Returns the layer of a node; `usual` has the functions that a node has which names none.
    pub(super) fn of(site: Site<'_>, gates: usize, usual: &[&str]) -> Result<Option<Layer>> {
        let operator = site.operator();
        let is_dynamic = &*operator.name == "DynamicQuantizeLSTM";
        let (Some(&[first, second, width]), Some(&[directions, inner, outer])) = (site.shape(0), site.shape(2)) else {
            return Ok(None);
        };
        let hidden = if is_dynamic { inner } else { outer };
        let backwards = match (operator.text("direction")?.unwrap_or("forward"), directions) {
            ("forward", 1) => vec![false],
            ("reverse", 1) => vec![true],
            ("bidirectional", 2) => vec![false, true],
            _ => return Ok(None),
        };
        let Some(functions) = functions(operator, usual, directions)? else { return Ok(None) };
        let batch_first = operator.int("layout")?.unwrap_or(0) != 0;
        if is_dynamic && batch_first {
            return Ok(None);
        }
        let (steps, batch) = if batch_first { (second, first) } else { (first, second) };
        let rows = gates * hidden;
        let state = if batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let optional = |index: usize, shape: &[usize]| site.shape(index).is_none_or(|found| found == shape);
        let is_typed = |index: usize| {
            let dtype = if index == 4 { DType::I32 } else { DType::F32 };
            site.input(index).is_none_or(|value| value.dtype == dtype)
        };
        // Weights that are bytes are transposed.
        let weights = |index: usize, inner: usize| {
            if is_dynamic {
                let whole = site.shape(index) == Some(&[directions, inner, rows]);
                whole && dynamic::fits(site, index, [directions, rows])
            } else {
                site.shape(index) == Some(&[directions, rows, inner]) && is_typed(index)
            }
        };
        let fits = weights(1, width)
            && weights(2, hidden)
            && is_typed(0)
            && optional(3, &[directions, 2 * rows])
            && optional(4, &[batch])
            && optional(5, &state)
            && optional(6, &state)
            && optional(7, &[directions, 3 * hidden])
            && operator.int("hidden_size")?.is_none_or(|size| size == hidden as i64)
            && (3..8).all(is_typed);
        if !fits {
            return Ok(None);
        }
        Ok(Some(Layer {
            isa: site.isa,
            steps,
            batch,
            width,
            hidden,
            gates,
            backwards,
            batch_first,
            is_dynamic,
            functions,
        }))
    }

    /// Returns the functions of a direction, where they are not the usual ones.
    pub(super) fn functions(&self, direction: usize) -> Option<&Functions> {
        self.functions.get(direction)
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

/// A product with the weights of one direction.
enum Factor {
    Real(Product),
    Dynamic(Box<Dynamic>),
}

impl Factor {
    /// Tells whether the product was made with the weights.
    fn is_packed(&self) -> bool {
        match self {
            Factor::Real(product) => product.is_packed(),
            Factor::Dynamic(product) => product.packed().is_some(),
        }
    }

    fn weights(&self) -> Option<&Packed> {
        match self {
            Factor::Real(product) => product.weights(),
            Factor::Dynamic(product) => product.packed(),
        }
    }

    fn workspace(&self, threads: usize) -> usize {
        match self {
            Factor::Real(product) => product.workspace(threads),
            Factor::Dynamic(product) => product.workspace(),
        }
    }
}

/// Some rows of one of the weights with which vectors are multiplied: a product for each direction.
pub(super) struct Weights {
    products: Vec<Factor>,
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
        let of = |direction: usize| {
            if layer.is_dynamic {
                let product = Dynamic::new(site, layer, (input, direction), (count, width))?;
                return Ok(Factor::Dynamic(Box::new(product)));
            }
            Product::of(site, shape, input, direction * each + part.start).map(Factor::Real)
        };
        let products = (0..layer.backwards.len()).map(of).collect::<Result<_>>()?;
        Ok(Weights { products, input, each, part })
    }

    /// Returns the packed weights of a direction, where they are constant.
    fn panels(&self, direction: usize) -> Result<Option<Arc<Floats>>> {
        match &self.products[direction] {
            Factor::Real(product) => product.panels(),
            Factor::Dynamic(product) => product.panels(),
        }
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
        let product = match &self.products[direction] {
            Factor::Dynamic(product) => {
                return product.run(panels, (left, bias), into, space, (arguments, runtime));
            }
            Factor::Real(product) => product,
        };
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
    pub(super) direction: usize,
    /// Tells of an item whether its sequence has this step.
    pub(super) has: &'a dyn Fn(usize) -> bool,
    /// The peepholes of the direction.
    pub(super) peepholes: Option<&'a [f32]>,
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

    fn products(&self) -> impl Iterator<Item = &Factor> {
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
        let (lengths, peepholes) = (arguments.optional::<i32>(4)?, arguments.optional::<f32>(7)?);
        let fits = |length: i32| usize::try_from(length).is_ok_and(|length| length <= steps);
        if let Some(wrong) = lengths.into_iter().flatten().find(|length| !fits(**length)) {
            return Err(Error::invalid_argument(format!("{}: a sequence of {wrong} of {steps} steps", C::NAME)));
        }
        let length = |item: usize| lengths.map_or(steps, |list| usize::try_from(list[item]).unwrap_or(0));
        let longest = (0..batch).map(length).max().unwrap_or(0);
        let mut outputs = [None, None, None];
        for (index, slot) in outputs.iter_mut().enumerate() {
            if arguments.wants(index) {
                *slot = Some(arguments.output::<f32>(index)?);
            }
        }
        let [mut all, mut last_h, mut last_c] = outputs;
        if let Some(all) = all.as_deref_mut().filter(|_| lengths.is_some()) {
            // The states behind the end of a sequence are 0.
            all.fill(0.0);
        }
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
            let peepholes = peepholes.map(|all| &all[direction * 3 * hidden..][..3 * hidden]);
            for number in 0..longest {
                if number % 64 == 63 {
                    runtime.check()?;
                }
                let has = |item: usize| number < length(item);
                // A sequence that goes backwards begins at its own end.
                let step = |item: usize| if backwards { length(item).saturating_sub(1 + number) } else { number };
                let inputs = |item: usize| &projected[layer.row(step(item), item) * rows..][..rows];
                let part = Step {
                    direction,
                    has: &has,
                    peepholes,
                    inputs: &inputs,
                    bias: of_r,
                    h: &mut *h,
                    c: &mut *c,
                    sums: &mut *sums,
                };
                self.cell.step(layer, part, &mut |number, states, bias, into| {
                    let own = (direction, panels[number].as_ref().map(|panels| &panels[..]));
                    self.cell.weights()[number].run(own, (states, bias), into, space, (arguments, runtime))
                })?;
                if let Some(all) = &mut all {
                    for (item, h) in h.chunks(hidden.max(1)).enumerate().filter(|(item, _)| has(*item)) {
                        let place = layer.place_of_step(step(item), direction, item);
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
        self.products().filter_map(Factor::weights).collect()
    }

    fn reads(&self, input: usize) -> bool {
        let mut weights = self.cell.weights().iter().chain([&self.input]).filter(|weights| weights.input == input);
        !weights.any(|weights| weights.products.iter().all(Factor::is_packed))
    }
}
