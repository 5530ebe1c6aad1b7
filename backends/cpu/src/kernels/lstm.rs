//! LSTM with the standard's usual activations, on f32.

use hetero_hal::{Attribute, DType, Result};

use super::elementwise::sigmoid;
use super::matmul::{Matrix, multiply};
use super::{Kernel, Runtime, Site};
use crate::operand::Arguments;

/// Peepholes, lengths, clipping, other activations and the batch-first layout are the oracle's.
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
    Ok(Some(Box::new(Lstm { steps, batch, width, hidden, backwards })))
}

struct Lstm {
    steps: usize,
    batch: usize,
    width: usize,
    hidden: usize,
    backwards: Vec<bool>,
}

impl Lstm {
    fn gates(&self) -> usize {
        4 * self.hidden
    }
}

impl Kernel for Lstm {
    fn run(&self, arguments: &mut Arguments<'_>, _: &Runtime<'_>) -> Result<()> {
        let (steps, batch, hidden, gates) = (self.steps, self.batch, self.hidden, self.gates());
        let x = arguments.input::<f32>(0)?;
        let w = arguments.input::<f32>(1)?;
        let r = arguments.input::<f32>(2)?;
        let bias = arguments.optional::<f32>(3)?;
        let (initial_h, initial_c) = (arguments.optional::<f32>(5)?, arguments.optional::<f32>(6)?);
        let mut outputs = [None, None, None];
        for (index, slot) in outputs.iter_mut().enumerate() {
            if arguments.wants(index) {
                *slot = Some(arguments.output::<f32>(index)?);
            }
        }
        let [mut all, mut last_h, mut last_c] = outputs;
        let workspace = arguments.workspace::<f32>()?;
        let (projected, rest) = workspace.split_at_mut(steps * batch * gates);
        let (h, c) = rest.split_at_mut(batch * hidden);
        let state = batch * hidden;
        for (direction, &backwards) in self.backwards.iter().enumerate() {
            // Input times weights for all steps at once, with both biases.
            for row in projected.chunks_mut(gates) {
                match bias {
                    Some(bias) => {
                        let (of_w, of_r) = bias[direction * 2 * gates..][..2 * gates].split_at(gates);
                        row.iter_mut().zip(of_w.iter().zip(of_r)).for_each(|(value, (w, r))| *value = w + r);
                    }
                    None => row.fill(0.0),
                }
            }
            let transposed = |data, row: usize| Matrix { data, row_stride: 1, column_stride: row };
            let input = Matrix { data: x, row_stride: self.width, column_stride: 1 };
            let weights = transposed(&w[direction * gates * self.width..][..gates * self.width], self.width);
            multiply((steps * batch, gates, self.width), projected, gates, true, input, weights, 1.0);
            let recurrent = transposed(&r[direction * gates * hidden..][..gates * hidden], hidden);
            let start = |into: &mut [f32], initial: Option<&[f32]>| match initial {
                Some(initial) => into.copy_from_slice(&initial[direction * state..][..state]),
                None => into.fill(0.0),
            };
            start(h, initial_h);
            start(&mut c[..state], initial_c);
            for number in 0..steps {
                let step = if backwards { steps - 1 - number } else { number };
                let rows = &mut projected[step * batch * gates..][..batch * gates];
                let before = Matrix { data: h, row_stride: hidden, column_stride: 1 };
                multiply((batch, gates, hidden), rows, gates, true, before, recurrent, 1.0);
                for (item, row) in rows.chunks(gates).enumerate() {
                    for unit in 0..hidden {
                        // The standard's order: input, output, forget, cell.
                        let gate = |index: usize| row[index * hidden + unit];
                        let at = item * hidden + unit;
                        c[at] = sigmoid(gate(2)) * c[at] + sigmoid(gate(0)) * gate(3).tanh();
                        h[at] = sigmoid(gate(1)) * c[at].tanh();
                    }
                }
                if let Some(all) = &mut all {
                    all[(step * self.backwards.len() + direction) * state..][..state].copy_from_slice(h);
                }
            }
            let keep = |into: &mut Option<&mut [f32]>, from: &[f32]| {
                if let Some(into) = into {
                    into[direction * state..][..state].copy_from_slice(&from[..state]);
                }
            };
            keep(&mut last_h, h);
            keep(&mut last_c, c);
        }
        Ok(())
    }

    fn workspace(&self) -> usize {
        (self.steps * self.batch * self.gates() + 2 * self.batch * self.hidden) * size_of::<f32>()
    }
}
