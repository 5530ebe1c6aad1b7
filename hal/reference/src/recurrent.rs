//! Recurrent layers: LSTM, GRU and the plain RNN.

use hetero_hal::{
    Attribute, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count,
    spend, take,
};

use crate::numbers::{floats, pack};
use crate::shapes::integers;
use crate::unary::sigmoid;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("LSTM", 7, (3, 8), infer, lstm).outputs(3).counting(flops),
    Definition::new("GRU", 7, (3, 6), infer, gru).outputs(2).counting(flops),
    Definition::new("RNN", 7, (3, 6), infer, rnn).outputs(2).counting(flops),
];

/// Counts the products of the input and the state with all weights, in each step.
fn flops(_: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    let elements = |index: usize| inputs.get(index).and_then(Option::as_ref).map_or(0, crate::shapes::elements);
    let steps = inputs.first().and_then(Option::as_ref).and_then(|ty| {
        let dims = ty.dims.as_ref()?;
        Some((dims.first()?.bound()? * dims.get(1)?.bound()?) as u64)
    });
    (elements(1) + elements(2)).saturating_mul(2).saturating_mul(steps.unwrap_or(1))
}

fn directions(operator: &Operator) -> Result<Vec<bool>> {
    match operator.text("direction")?.unwrap_or("forward") {
        "forward" => Ok(vec![false]),
        "reverse" => Ok(vec![true]),
        "bidirectional" => Ok(vec![false, true]),
        other => Err(Error::invalid_model(format!("direction '{other}' is unknown"))),
    }
}

fn batch_first(operator: &Operator) -> Result<bool> {
    Ok(operator.int("layout")?.unwrap_or(0) != 0)
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let count = Dim::Known(directions(inference.operator)?.len());
    let (input, recurrent) = (inference.dims(0)?, inference.dims(2)?);
    let hidden = recurrent.and_then(|dims| dims.get(2).cloned()).unwrap_or(Dim::Unknown);
    let at = |index: usize| input.and_then(|dims| dims.get(index).cloned()).unwrap_or(Dim::Unknown);
    let (all, last) = if batch_first(inference.operator)? {
        (vec![at(0), at(1), count.clone(), hidden.clone()], vec![at(0), count, hidden])
    } else {
        (vec![at(0), count.clone(), at(1), hidden.clone()], vec![count, at(1), hidden])
    };
    let ty = |dims| TensorType { dtype, dims: Some(dims) };
    Ok(vec![ty(all), ty(last.clone()), ty(last)])
}

/// The values of `activation_alpha` or `activation_beta` that are left.
type Parameters<'a> = std::slice::Iter<'a, f32>;

/// An activation function with its parameters filled in.
type Activation = Box<dyn Fn(f64) -> f64>;

/// Returns the activation of a name; parameters are consumed in the order of the functions that
/// have one.
fn activation(name: &str, alphas: &mut Parameters<'_>, betas: &mut Parameters<'_>) -> Result<Activation> {
    let or = |list: &mut Parameters<'_>, default: f32| f64::from(list.next().copied().unwrap_or(default));
    Ok(match name.to_ascii_lowercase().as_str() {
        "sigmoid" => Box::new(sigmoid),
        "tanh" => Box::new(f64::tanh),
        "relu" => Box::new(|x| crate::numbers::max(x, 0.0)),
        "softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "softplus" => Box::new(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        "affine" => {
            let (a, b) = (or(alphas, 1.0), or(betas, 0.0));
            Box::new(move |x| a * x + b)
        }
        "leakyrelu" => {
            let a = or(alphas, 0.01);
            Box::new(move |x| if x < 0.0 { a * x } else { x })
        }
        "thresholdedrelu" => {
            let a = or(alphas, 1.0);
            Box::new(move |x| if x > a { x } else { 0.0 })
        }
        "hardsigmoid" => {
            let (a, b) = (or(alphas, 0.2), or(betas, 0.5));
            Box::new(move |x| (a * x + b).clamp(0.0, 1.0))
        }
        "elu" => {
            let a = or(alphas, 1.0);
            Box::new(move |x| if x < 0.0 { a * x.exp_m1() } else { x })
        }
        "scaledtanh" => {
            let (a, b) = (or(alphas, 1.0), or(betas, 1.0));
            Box::new(move |x| a * (b * x).tanh())
        }
        other => return Err(Error::invalid_model(format!("activation '{other}' is unknown"))),
    })
}

/// The inputs and attributes that all three layers read, as numbers.
struct Layer {
    steps: usize,
    batch: usize,
    width: usize,
    hidden: usize,
    gates: usize,
    backwards: Vec<bool>,
    batch_first: bool,
    x: Vec<f64>,
    w: Vec<f64>,
    r: Vec<f64>,
    bias: Option<Vec<f64>>,
    lengths: Vec<usize>,
    initial: Option<Vec<f64>>,
    activations: Vec<Activation>,
    clip: Option<f64>,
}

impl Layer {
    fn read(evaluation: &Evaluation<'_>, gates: usize, defaults: &[&str]) -> Result<Layer> {
        let operator = evaluation.operator;
        let (x, w, r) = (evaluation.input(0)?, evaluation.input(1)?, evaluation.input(2)?);
        let misfit = |what: &str| Error::invalid_model(format!("{what} does not fit {operator}"));
        let backwards = directions(operator)?;
        let batch_first = batch_first(operator)?;
        let (&[first, second, width], &[count, rows, hidden]) = (x.shape(), r.shape()) else {
            return Err(misfit("a rank"));
        };
        let (batch, steps) = if batch_first { (first, second) } else { (second, first) };
        if count != backwards.len() || Some(rows) != gates.checked_mul(hidden) || w.shape() != [count, rows, width] {
            return Err(misfit(&format!("W {:?} or R {:?}", w.shape(), r.shape())));
        }
        if operator.int("hidden_size")?.is_some_and(|size| size != hidden as i64) {
            return Err(misfit("hidden_size"));
        }
        let optional = |index: usize, length: usize, what: &str| -> Result<Option<Vec<f64>>> {
            match evaluation.optional(index).map(floats).transpose()? {
                Some(values) if values.len() != length => Err(misfit(what)),
                values => Ok(values),
            }
        };
        let bias = optional(3, count * 2 * rows, "B")?;
        let lengths = match evaluation.optional(4) {
            None => {
                take(batch, size_of::<usize>())?;
                vec![steps; batch]
            }
            Some(tensor) => {
                let length = |length: i64| {
                    let fits = usize::try_from(length).ok().filter(|&length| length <= steps);
                    fits.ok_or_else(|| {
                        Error::invalid_argument(format!("{}: a sequence of {length} of {steps} steps", operator.name))
                    })
                };
                integers(tensor)?.into_iter().map(length).collect::<Result<_>>()?
            }
        };
        if lengths.len() != batch {
            return Err(misfit("sequence_lens"));
        }
        let initial = optional(5, count * batch * hidden, "initial_h")?;
        evaluation.reserve(x.dtype(), &[steps, count, batch, hidden])?;
        let names: Vec<String> = match operator.attribute("activations") {
            None => defaults.iter().cycle().take(defaults.len() * count).map(ToString::to_string).collect(),
            Some(Attribute::Strings(names)) => names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect(),
            Some(_) => return Err(misfit("activations")),
        };
        if names.len() != defaults.len() * count {
            return Err(misfit("activations"));
        }
        let mut alphas = operator.floats("activation_alpha")?.unwrap_or_default().iter();
        let mut betas = operator.floats("activation_beta")?.unwrap_or_default().iter();
        let activations = names.iter().map(|name| activation(name, &mut alphas, &mut betas)).collect::<Result<_>>()?;
        let clip = operator.float("clip")?.map(f64::from);
        if clip.is_some_and(|clip| clip.is_nan() || clip < 0.0) {
            return Err(misfit("clip"));
        }
        let (x, w, r) = (floats(x)?, floats(w)?, floats(r)?);
        Ok(Layer {
            steps,
            batch,
            width,
            hidden,
            gates,
            backwards,
            batch_first,
            x,
            w,
            r,
            bias,
            lengths,
            initial,
            activations,
            clip,
        })
    }

    fn rows(&self) -> usize {
        self.gates * self.hidden
    }

    fn input(&self, step: usize, item: usize) -> &[f64] {
        let row = if self.batch_first { item * self.steps + step } else { step * self.batch + item };
        &self.x[row * self.width..(row + 1) * self.width]
    }

    /// Computes row `row` of W times the input, with its bias.
    fn input_part(&self, direction: usize, row: usize, x: &[f64]) -> f64 {
        let line = direction * self.rows() + row;
        let bias = self.bias.as_ref().map_or(0.0, |bias| bias[direction * 2 * self.rows() + row]);
        bias + dot(&self.w[line * self.width..][..self.width], x)
    }

    /// Computes row `row` of R times the state, with its bias.
    fn state_part(&self, direction: usize, row: usize, h: &[f64]) -> f64 {
        let line = direction * self.rows() + row;
        let bias = self.bias.as_ref().map_or(0.0, |bias| bias[(direction * 2 + 1) * self.rows() + row]);
        bias + dot(&self.r[line * self.hidden..][..self.hidden], h)
    }

    fn clipped(&self, value: f64) -> f64 {
        self.clip.map_or(value, |clip| value.clamp(-clip, clip))
    }

    /// Returns the place of the state of one direction and batch item in the initial and last
    /// states.
    fn state(&self, direction: usize, item: usize) -> usize {
        let row =
            if self.batch_first { item * self.backwards.len() + direction } else { direction * self.batch + item };
        row * self.hidden
    }

    /// Runs `step(direction, input, state, cell)`, which renews state and cell, over every
    /// sequence.
    /// Returns all states, the last states and the last cells.
    fn run(
        &self,
        cells: Option<&[f64]>,
        mut step: impl FnMut(usize, &[f64], &mut Vec<f64>, &mut Vec<f64>),
    ) -> Result<[Vec<f64>; 3]> {
        self.run_seeing(cells, |_| {}, |direction, x, _, h, c| step(direction, x, h, c))
    }

    /// Runs as [`Layer::run`] does, where a step also gets its state as `see` changes the states of
    /// a whole batch.
    fn run_seeing(
        &self,
        cells: Option<&[f64]>,
        see: impl Fn(&mut [f64]),
        mut step: impl FnMut(usize, &[f64], &[f64], &mut Vec<f64>, &mut Vec<f64>),
    ) -> Result<[Vec<f64>; 3]> {
        let directions = self.backwards.len();
        let count = element_count(&[self.steps, directions, self.batch, self.hidden]).unwrap_or(usize::MAX);
        take(count, size_of::<f64>())?;
        take(directions * self.batch * self.hidden, 5 * size_of::<f64>())?;
        spend(count)?;
        let mut all = vec![0.0; self.steps * directions * self.batch * self.hidden];
        let mut last = vec![0.0; directions * self.batch * self.hidden];
        let mut last_cells = last.clone();
        for (direction, &backwards) in self.backwards.iter().enumerate() {
            let begin = |values: Option<&[f64]>, item: usize| {
                let at = self.state(direction, item);
                values.map_or(vec![0.0; self.hidden], |v| v[at..at + self.hidden].to_vec())
            };
            let states = |item: usize| (begin(self.initial.as_deref(), item), begin(cells, item));
            let mut states: Vec<(Vec<f64>, Vec<f64>)> = (0..self.batch).map(states).collect();
            for time in 0..self.lengths.iter().copied().max().unwrap_or(0) {
                let mut seen: Vec<f64> = states.iter().flat_map(|(h, _)| h).copied().collect();
                see(&mut seen);
                for (item, (h, c)) in states.iter_mut().enumerate() {
                    let length = self.lengths[item];
                    if time >= length {
                        continue;
                    }
                    spend(self.rows().saturating_mul(self.width + self.hidden + 8))?;
                    let time = if backwards { length - 1 - time } else { time };
                    let seen = &seen[item * self.hidden..][..self.hidden];
                    step(direction, self.input(time, item), seen, h, c);
                    let row = if self.batch_first {
                        (item * self.steps + time) * directions + direction
                    } else {
                        (time * directions + direction) * self.batch + item
                    };
                    all[row * self.hidden..][..self.hidden].copy_from_slice(h);
                }
            }
            for (item, (h, c)) in states.iter().enumerate() {
                let at = self.state(direction, item);
                last[at..at + self.hidden].copy_from_slice(h);
                last_cells[at..at + self.hidden].copy_from_slice(c);
            }
        }
        Ok([all, last, last_cells])
    }

    fn outputs(&self, evaluation: &Evaluation<'_>, results: [Vec<f64>; 3]) -> Result<Vec<Tensor>> {
        let dtype = evaluation.input(0)?.dtype();
        let (d, b, h) = (self.backwards.len(), self.batch, self.hidden);
        let (all, last) = if self.batch_first {
            (vec![b, self.steps, d, h], [b, d, h])
        } else {
            (vec![self.steps, d, b, h], [d, b, h])
        };
        let [y, y_h, y_c] = results;
        Ok(vec![pack(y, dtype, &all)?, pack(y_h, dtype, &last)?, pack(y_c, dtype, &last)?])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn lstm(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    lstm_seeing(evaluation, |_| {})
}

/// Computes an LSTM whose products see the states of a batch as `see` changes them.
pub(crate) fn lstm_seeing(evaluation: &Evaluation<'_>, see: impl Fn(&mut [f64])) -> Result<Vec<Tensor>> {
    let layer = Layer::read(evaluation, 4, &["Sigmoid", "Tanh", "Tanh"])?;
    let hidden = layer.hidden;
    let optional = |index: usize, length: usize| -> Result<Option<Vec<f64>>> {
        match evaluation.optional(index).map(floats).transpose()? {
            Some(values) if values.len() != length => {
                Err(Error::invalid_model(format!("input {index} of LSTM has {} elements, not {length}", values.len())))
            }
            values => Ok(values),
        }
    };
    let cells = optional(6, layer.backwards.len() * layer.batch * hidden)?;
    let peepholes = optional(7, layer.backwards.len() * 3 * hidden)?;
    let coupled = evaluation.operator.int("input_forget")?.unwrap_or(0) != 0;
    let results = layer.run_seeing(cells.as_deref(), see, |direction, x, seen, h, c| {
        let [f, g, o] = [0, 1, 2].map(|index| &layer.activations[direction * 3 + index]);
        // The standard's order of gates is input, output, forget, cell; that of peepholes is input,
        // output, forget.
        let gate = |index: usize, unit: usize| {
            let row = index * hidden + unit;
            layer.input_part(direction, row, x) + layer.state_part(direction, row, seen)
        };
        let peep = |index: usize, unit: usize, c: f64| {
            peepholes.as_ref().map_or(0.0, |p| p[(direction * 3 + index) * hidden + unit] * c)
        };
        let mut next = Vec::with_capacity(hidden);
        for (unit, state) in c.iter_mut().enumerate() {
            let before = *state;
            let input = f(layer.clipped(gate(0, unit) + peep(0, unit, before)));
            let forget = if coupled { 1.0 - input } else { f(layer.clipped(gate(2, unit) + peep(2, unit, before))) };
            let cell = forget * before + input * g(layer.clipped(gate(3, unit)));
            let output = f(layer.clipped(gate(1, unit) + peep(1, unit, cell)));
            *state = cell;
            next.push(output * o(cell));
        }
        *h = next;
    });
    layer.outputs(evaluation, results?)
}

fn gru(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let layer = Layer::read(evaluation, 3, &["Sigmoid", "Tanh"])?;
    let hidden = layer.hidden;
    let reset_after = evaluation.operator.int("linear_before_reset")?.unwrap_or(0) != 0;
    let results = layer.run(None, |direction, x, h, _| {
        let [f, g] = [0, 1].map(|index| &layer.activations[direction * 2 + index]);
        // The standard's order of gates is update, reset, hidden.
        let gate = |index: usize, unit: usize| {
            let row = index * hidden + unit;
            f(layer.clipped(layer.input_part(direction, row, x) + layer.state_part(direction, row, h)))
        };
        let reset: Vec<f64> = (0..hidden).map(|unit| gate(1, unit)).collect();
        let faded: Vec<f64> = reset.iter().zip(h.iter()).map(|(r, h)| r * h).collect();
        let next = (0..hidden).map(|unit| {
            let row = 2 * hidden + unit;
            let state_part = if reset_after {
                reset[unit] * layer.state_part(direction, row, h)
            } else {
                layer.state_part(direction, row, &faded)
            };
            let candidate = g(layer.clipped(layer.input_part(direction, row, x) + state_part));
            let update = gate(0, unit);
            (1.0 - update) * candidate + update * h[unit]
        });
        *h = next.collect();
    });
    layer.outputs(evaluation, results?)
}

fn rnn(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let layer = Layer::read(evaluation, 1, &["Tanh"])?;
    let results = layer.run(None, |direction, x, h, _| {
        let f = &layer.activations[direction];
        let next = (0..layer.hidden)
            .map(|unit| f(layer.clipped(layer.input_part(direction, unit, x) + layer.state_part(direction, unit, h))));
        *h = next.collect();
    });
    layer.outputs(evaluation, results?)
}
