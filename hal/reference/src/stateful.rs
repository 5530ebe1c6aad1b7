//! Layers that carry a state from one piece of a text to the next: linear attention, and a causal
//! convolution.

use hetero_hal::{
    Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use crate::numbers::{floats, pack};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("LinearAttention", 27, (3, 6), infer_attention, attention).outputs(2),
    Definition::new("CausalConvWithState", 27, (2, 4), infer_conv, conv).outputs(2),
];

/// The sizes and rules of a LinearAttention.
struct Attention {
    batch: usize,
    steps: usize,
    /// The number of heads of the queries, and of the keys and values.
    heads: [usize; 2],
    /// The widths of a key and of a value.
    widths: [usize; 2],
    decays: bool,
    corrects: bool,
}

impl Attention {
    fn resolve(operator: &Operator, query: &[usize], key: &[usize], value: &[usize]) -> Result<Attention> {
        let misfit = || Error::invalid_model(format!("{operator} of {query:?}, {key:?} and {value:?}"));
        let heads = |name: &str| -> Result<usize> {
            let heads = operator.int(name)?.and_then(|heads| usize::try_from(heads).ok()).filter(|&heads| heads > 0);
            heads.ok_or_else(|| Error::invalid_model(format!("{operator} needs a positive attribute '{name}'")))
        };
        let heads = [heads("q_num_heads")?, heads("kv_num_heads")?];
        let (&[batch, steps, q_hidden], &[b, s, k_hidden], &[b2, s2, v_hidden]) = (query, key, value) else {
            return Err(misfit());
        };
        let widths = [k_hidden / heads[1], v_hidden / heads[1]];
        let fits = heads[0].is_multiple_of(heads[1])
            && [b, b2] == [batch; 2]
            && [s, s2] == [steps; 2]
            && heads[0].checked_mul(widths[0]) == Some(q_hidden)
            && widths.map(|width| width * heads[1]) == [k_hidden, v_hidden];
        let (decays, corrects) = match operator.text("update_rule")?.unwrap_or("gated_delta") {
            "linear" => (false, false),
            "gated" => (true, false),
            "delta" => (false, true),
            "gated_delta" => (true, true),
            other => return Err(Error::invalid_model(format!("update_rule '{other}' of {operator} is unknown"))),
        };
        if fits { Ok(Attention { batch, steps, heads, widths, decays, corrects }) } else { Err(misfit()) }
    }

    fn output(&self) -> Vec<usize> {
        vec![self.batch, self.steps, self.heads[0].saturating_mul(self.widths[1])]
    }

    fn state(&self) -> Vec<usize> {
        vec![self.batch, self.heads[1], self.widths[0], self.widths[1]]
    }
}

fn infer_attention(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let shape = |index: usize| Ok::<_, Error>(inference.input(index)?.ty.shape());
    let dtype = inference.dtype(0)?;
    let state_dtype = inference.optional(3).map_or(dtype, |state| state.ty.dtype);
    let (output, state) = match (shape(0)?, shape(1)?, shape(2)?) {
        (Some(query), Some(key), Some(value)) => {
            let sizes = Attention::resolve(inference.operator, &query, &key, &value)?;
            let known = |shape: Vec<usize>| shape.into_iter().map(Dim::Known).collect();
            (known(sizes.output()), known(sizes.state()))
        }
        _ => (vec![Dim::Unknown; 3], vec![Dim::Unknown; 4]),
    };
    Ok(vec![TensorType { dtype, dims: Some(output) }, TensorType { dtype: state_dtype, dims: Some(state) }])
}

/// The elements of an input that has one value for each batch, step and some part of the heads.
struct Rates {
    values: Vec<f64>,
    /// The number of values for each batch and step.
    width: usize,
}

impl Rates {
    /// Reads such an input, which has to be there where the rule wants it, and only there.
    fn of(
        evaluation: &Evaluation<'_>,
        index: usize,
        wanted: bool,
        sizes: &Attention,
        widths: &[usize],
    ) -> Result<Rates> {
        let operator = evaluation.operator;
        let input = match (evaluation.optional(index), wanted) {
            (Some(input), true) => input,
            (None, false) => return Ok(Rates { values: vec![], width: 1 }),
            _ => {
                return Err(Error::invalid_model(format!(
                    "input {index} of {operator} does not go with its update_rule"
                )));
            }
        };
        match *input.shape() {
            [batch, steps, width] if batch == sizes.batch && steps == sizes.steps && widths.contains(&width) => {
                Ok(Rates { values: floats(input)?, width })
            }
            _ => Err(Error::invalid_model(format!("input {index} of {operator} is {input:?}"))),
        }
    }
}

/// Writes each step's key and value into a state, which fades, and reads it by the step's query.
fn attention(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (query, key, value) = (evaluation.input(0)?, evaluation.input(1)?, evaluation.input(2)?);
    let sizes = Attention::resolve(operator, query.shape(), key.shape(), value.shape())?;
    let Attention { batch, steps, heads: [q_heads, heads], widths: [k_width, width], decays, corrects } = sizes;
    let scale = match operator.float("scale")? {
        Some(scale) if scale != 0.0 => f64::from(scale),
        _ => 1.0 / (k_width as f64).sqrt(),
    };
    let decay = Rates::of(evaluation, 4, decays, &sizes, &[heads, heads * k_width])?;
    let beta = Rates::of(evaluation, 5, corrects, &sizes, &[heads, 1])?;
    let count = element_count(&sizes.state()).unwrap_or(usize::MAX);
    let (mut state, state_dtype) = match evaluation.optional(3) {
        Some(past) if past.shape() == sizes.state() => (floats(past)?, past.dtype()),
        Some(past) => return Err(Error::invalid_model(format!("{operator} of the state {past:?}"))),
        None => {
            take(count, size_of::<f64>())?;
            (vec![0.0; count], query.dtype())
        }
    };
    let made = evaluation.reserve(hetero_hal::DType::F64, &sizes.output())?;
    let mut output = vec![0.0; made];
    let (q, k, v) = (floats(query)?, floats(key)?, floats(value)?);
    take(width, size_of::<f64>())?;
    let mut fresh = vec![0.0; width];
    for (batch, step, head) in triples(batch, steps, heads) {
        spend(4 * (k_width * width).max(1))?;
        let at = batch * steps + step;
        let state = &mut state[(batch * heads + head) * k_width * width..][..k_width * width];
        let k = &k[(at * heads + head) * k_width..][..k_width];
        if decays {
            for (d, row) in state.chunks_exact_mut(width.max(1)).enumerate() {
                let place = if decay.width == heads { head } else { head * k_width + d };
                let factor = decay.values[at * decay.width + place].exp();
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
        fresh.copy_from_slice(&v[(at * heads + head) * width..][..width]);
        if corrects {
            let rate = beta.values[at * beta.width + if beta.width == heads { head } else { 0 }];
            for (m, value) in fresh.iter_mut().enumerate() {
                let known: f64 = (0..k_width).map(|d| state[d * width + m] * k[d]).sum();
                *value = rate * (*value - known);
            }
        }
        for (d, row) in state.chunks_exact_mut(width.max(1)).enumerate() {
            row.iter_mut().zip(&fresh).for_each(|(value, fresh)| *value += k[d] * fresh);
        }
        let group = q_heads / heads;
        for q_head in head * group..(head + 1) * group {
            spend(k_width * width)?;
            let q = &q[(at * q_heads + q_head) * k_width..][..k_width];
            for (m, value) in output[(at * q_heads + q_head) * width..][..width].iter_mut().enumerate() {
                *value = scale * (0..k_width).map(|d| q[d] * state[d * width + m]).sum::<f64>();
            }
        }
    }
    Ok(vec![pack(output, query.dtype(), &sizes.output())?, pack(state, state_dtype, &sizes.state())?])
}

/// Returns all triples of numbers below three limits, the last one fastest.
fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

/// Returns the batch, channels, length and taps of a CausalConvWithState.
fn conv_sizes(operator: &Operator, input: &[usize], weight: &[usize]) -> Result<[usize; 4]> {
    match (input, weight) {
        (&[batch, channels, length], &[c, 1, taps]) if c == channels && taps > 0 => Ok([batch, channels, length, taps]),
        _ => Err(Error::invalid_model(format!("{operator} of {input:?} by {weight:?}"))),
    }
}

fn infer_conv(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let ty = &inference.input(0)?.ty;
    let state = match (ty.shape(), inference.input(1)?.ty.shape()) {
        (Some(input), Some(weight)) => {
            let [batch, channels, _, taps] = conv_sizes(inference.operator, &input, &weight)?;
            [batch, channels, taps - 1].map(Dim::Known).to_vec()
        }
        _ => vec![Dim::Unknown; 3],
    };
    Ok(vec![ty.clone(), TensorType { dtype: ty.dtype, dims: Some(state) }])
}

/// Convolves each channel by itself with what came before, of which the end is the next state.
fn conv(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (input, weight) = (evaluation.input(0)?, evaluation.input(1)?);
    let [batch, channels, length, taps] = conv_sizes(operator, input.shape(), weight.shape())?;
    let shape = [batch, channels, taps - 1];
    let swish = match operator.text("activation")?.unwrap_or("none") {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(Error::invalid_model(format!("activation '{other}' of {operator} is unknown"))),
    };
    let bias = match evaluation.optional(2) {
        Some(bias) if bias.shape() == [channels] => Some(floats(bias)?),
        Some(bias) => return Err(Error::invalid_model(format!("{operator} with the bias {bias:?}"))),
        None => None,
    };
    let count = evaluation.reserve(hetero_hal::DType::F64, &shape)?;
    let past = match evaluation.optional(3) {
        Some(past) if past.shape() == shape => floats(past)?,
        Some(past) => return Err(Error::invalid_model(format!("{operator} of the state {past:?}"))),
        None => vec![0.0; count],
    };
    let (x, w) = (floats(input)?, floats(weight)?);
    take(input.len().saturating_add(count), 2 * size_of::<f64>())?;
    let (mut output, mut state) = (Vec::with_capacity(input.len()), Vec::with_capacity(count));
    let mut line = Vec::with_capacity(length + taps);
    take(length + taps, size_of::<f64>())?;
    for plane in 0..batch * channels {
        let channel = plane % channels;
        line.clear();
        line.extend_from_slice(&past[plane * (taps - 1)..][..taps - 1]);
        line.extend_from_slice(&x[plane * length..][..length]);
        let w = &w[channel * taps..][..taps];
        for window in line.windows(taps) {
            spend(taps + 8)?;
            let sum: f64 = window.iter().zip(w).map(|(x, w)| x * w).sum();
            let sum = sum + bias.as_ref().map_or(0.0, |bias| bias[channel]);
            output.push(if swish { sum / (1.0 + (-sum).exp()) } else { sum });
        }
        state.extend_from_slice(&line[length..]);
    }
    Ok(vec![pack(output, input.dtype(), input.shape())?, pack(state, input.dtype(), &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    fn tensor(shape: &[usize], values: &[f32]) -> Option<Tensor> {
        Some(Tensor::from_vec(shape, values.to_vec()).unwrap())
    }

    fn run(operator: &Operator, inputs: &[Option<Tensor>]) -> Result<Vec<Vec<f32>>> {
        let outputs = crate::evaluate(operator, inputs, 2)?;
        Ok(outputs.iter().map(|y| y.view::<f32>().unwrap().into_owned()).collect())
    }

    #[test]
    fn a_state_carries_a_convolution_over_a_cut() {
        let op = Operator::new("CausalConvWithState", 27);
        let (w, bias) = (tensor(&[1, 1, 3], &[1.0, 10.0, 100.0]), tensor(&[1], &[0.5]));
        let whole = run(&op, &[tensor(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]), w.clone(), bias.clone()]).unwrap();
        assert_eq!(whole, [vec![100.5, 210.5, 321.5, 432.5], vec![3.0, 4.0]]);
        let first = run(&op, &[tensor(&[1, 1, 1], &[1.0]), w.clone(), bias.clone()]).unwrap();
        assert_eq!(first, [vec![100.5], vec![0.0, 1.0]]);
        let rest = [tensor(&[1, 1, 3], &[2.0, 3.0, 4.0]), w.clone(), bias, tensor(&[1, 1, 2], &first[1])];
        assert_eq!(run(&op, &rest).unwrap()[0], whole[0][1..]);
        assert!(run(&op, &[tensor(&[1, 2, 1], &[1.0; 2]), w]).is_err());
    }

    #[test]
    fn a_state_is_written_faded_corrected_and_read() {
        let op = |rule: &str| {
            Operator::new("LinearAttention", 27)
                .with("update_rule", Attribute::String(rule.as_bytes().into()))
                .with("q_num_heads", Attribute::Int(1))
                .with("kv_num_heads", Attribute::Int(1))
                .with("scale", Attribute::Float(1.0))
        };
        let row = |values: &[f32]| tensor(&[1, 2, 1], values);
        let (q, k, v) = (row(&[1.0, 1.0]), row(&[2.0, 3.0]), row(&[5.0, 7.0]));
        let linear = run(&op("linear"), &[q.clone(), k.clone(), v.clone()]).unwrap();
        assert_eq!(linear, [vec![10.0, 31.0], vec![31.0]]);
        // The second step halves the state first.
        let decay = row(&[0.0, 0.5f32.ln()]);
        let gated = run(&op("gated"), &[q.clone(), k.clone(), v.clone(), None, decay.clone()]).unwrap();
        assert!((gated[1][0] - 26.0).abs() < 1e-5);
        // What the state says of the key already is taken off: 10 + 3 * 1 * (7 - 30).
        let beta = row(&[1.0, 1.0]);
        let delta = run(&op("delta"), &[q.clone(), k.clone(), v.clone(), None, None, beta.clone()]).unwrap();
        assert_eq!(delta[1], [-59.0]);
        assert!(run(&op("linear"), &[q.clone(), k.clone(), v.clone(), None, decay]).is_err());
        assert!(run(&op("delta"), &[q, k, v]).is_err());
    }
}
