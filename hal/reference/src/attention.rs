//! Scaled dot-product attention, and the rotation of queries and keys by their position.

use hetero_hal::{
    Bool, DType, Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count,
    spend, take,
};

use crate::indexing::{broadcast_strides, offset, permuted};
use crate::numbers::{floats, pack};
use crate::shapes::{broadcast_shapes, elements, infer_same, integers};
use crate::slicing::join;

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Attention", 23, (3, 7), infer, attention).outputs(4).counting(flops),
    Definition::new("RotaryEmbedding", 23, (3, 4), infer_same, rotate).counting(rotation_flops),
];

fn flops(_: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    // There are two products, queries by keys and weights by values; both grow with the number of
    // keys.
    let keys = inputs.get(1).and_then(Option::as_ref).and_then(|ty| ty.dims.as_ref()).map_or(1, |dims| {
        let at = if dims.len() == 4 { 2 } else { 1 };
        dims.get(at).and_then(Dim::bound).unwrap_or(1) as u64
    });
    outputs.first().map_or(0, elements).saturating_mul(4).saturating_mul(keys)
}

fn rotation_flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(3)
}

/// Returns the number of heads of queries, or of keys and values, for inputs of rank 3.
fn heads(operator: &Operator, attribute: &str) -> Result<usize> {
    let value = operator.int(attribute)?.unwrap_or(0);
    usize::try_from(value).ok().filter(|&heads| heads > 0).ok_or_else(|| {
        Error::invalid_model(format!("{operator} over tensors of rank 3 needs the attribute '{attribute}'"))
    })
}

/// Returns the batch, heads, steps and width of an input of rank 3 or 4.
fn sizes(operator: &Operator, shape: &[usize], attribute: &str) -> Result<[usize; 4]> {
    match *shape {
        [batch, heads, steps, width] => Ok([batch, heads, steps, width]),
        [batch, steps, hidden] => {
            let heads = heads(operator, attribute)?;
            if hidden % heads != 0 {
                return Err(Error::invalid_model(format!("{operator}: {heads} heads do not divide {hidden}")));
            }
            Ok([batch, heads, steps, hidden / heads])
        }
        _ => Err(Error::invalid_model(format!("{operator} takes tensors of rank 3 or 4, not {shape:?}"))),
    }
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    let dtype = inference.dtype(0)?;
    let shape = |index: usize| inference.optional(index).and_then(|fact| fact.ty.shape());
    let types = match (shape(0), shape(1), shape(2)) {
        (Some(q), Some(k), Some(v)) => {
            let [batch, q_heads, steps, _] = sizes(operator, &q, "q_num_heads")?;
            let [_, heads, fresh, k_width] = sizes(operator, &k, "kv_num_heads")?;
            let [_, _, _, width] = sizes(operator, &v, "kv_num_heads")?;
            let past = match (inference.optional(4), shape(4)) {
                (None, _) => Some(0),
                (Some(_), Some(past)) => past.get(2).copied(),
                (Some(_), None) => None,
            };
            let total = past.map_or(Dim::Unknown, |past| Dim::Known(past + fresh));
            let output = if q.len() == 3 {
                vec![Dim::Known(batch), Dim::Known(steps), Dim::Known(q_heads * width)]
            } else {
                vec![Dim::Known(batch), Dim::Known(q_heads), Dim::Known(steps), Dim::Known(width)]
            };
            let cache = |width| vec![Dim::Known(batch), Dim::Known(heads), total.clone(), Dim::Known(width)];
            let scores = vec![Dim::Known(batch), Dim::Known(q_heads), Dim::Known(steps), total.clone()];
            [Some(output), Some(cache(k_width)), Some(cache(width)), Some(scores)]
        }
        _ => [None, None, None, None],
    };
    Ok(types.into_iter().map(|dims| TensorType { dtype, dims }).collect())
}

/// Returns an input as [batch, heads, steps, width], row-major.
fn by_heads(tensor: &Tensor, [batch, heads, steps, width]: [usize; 4]) -> Result<Tensor> {
    if tensor.rank() == 4 {
        return Ok(tensor.clone());
    }
    let split = tensor.reshaped(&[batch, steps, heads, width])?;
    swap_middle(&split)
}

fn swap_middle(tensor: &Tensor) -> Result<Tensor> {
    permuted(tensor, &[0, 2, 1, 3])
}

/// The numbers that are added to the scores before the softmax: minus infinity where a key must not
/// be seen.
struct Bias {
    values: Vec<f64>,
    strides: Vec<usize>,
    keys: usize,
}

impl Bias {
    fn of(mask: &Tensor, scores: [usize; 4]) -> Result<Bias> {
        let keys = mask.shape().last().copied().unwrap_or(1);
        let mut target = scores;
        // A mask may cover the first keys only; the keys behind them are hidden.
        if keys > 1 && keys < scores[3] {
            target[3] = keys;
        }
        if mask.rank() > 4 || broadcast_shapes([mask.shape(), &target])? != target {
            return Err(Error::invalid_model(format!("the mask {mask:?} does not broadcast to {scores:?}")));
        }
        let values = match mask.dtype() {
            DType::Bool => {
                take(mask.len(), size_of::<f64>())?;
                let flags = mask.view::<Bool>()?;
                flags.iter().map(|flag| if flag.get() { 0.0 } else { f64::NEG_INFINITY }).collect()
            }
            _ => floats(mask)?,
        };
        Ok(Bias { values, strides: broadcast_strides(mask.shape(), &target), keys: target[3] })
    }

    fn at(&self, index: [usize; 4]) -> f64 {
        if index[3] >= self.keys { f64::NEG_INFINITY } else { self.values[offset(&index, &self.strides)] }
    }
}

fn attention(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (q, k, v) = (evaluation.input(0)?, evaluation.input(1)?, evaluation.input(2)?);
    let dtype = q.dtype();
    let q_sizes = sizes(operator, q.shape(), "q_num_heads")?;
    let k_sizes = sizes(operator, k.shape(), "kv_num_heads")?;
    let v_sizes = sizes(operator, v.shape(), "kv_num_heads")?;
    let extended = |fresh: Tensor, past: Option<&Tensor>| match past {
        None => Ok(fresh),
        Some(past) if past.rank() == 4 => join(&[past.clone(), fresh], 2),
        Some(past) => Err(Error::invalid_model(format!("{operator} takes a cache of rank 4, not {past:?}"))),
    };
    let present_key = extended(by_heads(k, k_sizes)?, evaluation.optional(4))?;
    let present_value = extended(by_heads(v, v_sizes)?, evaluation.optional(5))?;
    let [batch, q_heads, steps, width] = q_sizes;
    let (heads, v_width) = (k_sizes[1], v_sizes[3]);
    let keys = present_key.shape()[2];
    let fits = present_key.shape() == [batch, heads, keys, width]
        && present_value.shape() == [batch, heads, keys, v_width]
        && heads > 0
        && q_heads % heads == 0;
    if !fits {
        return Err(Error::invalid_model(format!("{operator}: {q:?}, {k:?} and {v:?} do not fit together")));
    }
    let scores_shape = [batch, q_heads, steps, keys];
    let count = evaluation.reserve(dtype, &scores_shape)?;
    evaluation.reserve(dtype, &[batch, q_heads, steps, v_width])?;
    let bias = evaluation.optional(3).map(|mask| Bias::of(mask, scores_shape)).transpose()?;
    let lengths = evaluation.optional(6).map(integers).transpose()?;
    if lengths.as_ref().is_some_and(|lengths| lengths.len() != batch) {
        return Err(Error::invalid_model(format!("{operator} needs a length of keys for each of {batch} sequences")));
    }
    let causal = operator.int("is_causal")?.unwrap_or(0) != 0;
    let past = keys - k_sizes[2];
    let scale = operator.float("scale")?.map_or(1.0 / (width as f64).sqrt(), f64::from);
    let softcap = f64::from(operator.float("softcap")?.unwrap_or(0.0));
    let mode = operator.int("qk_matmul_output_mode")?.unwrap_or(0);
    let (x, y, z) = (floats(&by_heads(q, q_sizes)?)?, floats(&present_key)?, floats(&present_value)?);
    take(count, size_of::<f64>())?;
    take(keys, 5 * size_of::<f64>())?;
    take(element_count(&[batch, q_heads, steps, v_width]).unwrap_or(usize::MAX), 2 * size_of::<f64>())?;
    let mut shown = Vec::with_capacity(count);
    let mut result = Vec::new();
    for n in 0..batch {
        for h in 0..q_heads {
            // Neighbouring heads of queries share a head of keys and values.
            let kv = n * heads + h / (q_heads / heads);
            for i in 0..steps {
                spend(keys.saturating_mul(width + v_width + 40))?;
                let query = &x[((n * q_heads + h) * steps + i) * width..][..width];
                let dot = |j: usize| -> f64 {
                    query.iter().zip(&y[(kv * keys + j) * width..]).map(|(a, b)| a * b).sum::<f64>() * scale
                };
                let plain: Vec<f64> = (0..keys).map(dot).collect();
                let capped: Vec<f64> =
                    plain.iter().map(|&s| if softcap > 0.0 { softcap * (s / softcap).tanh() } else { s }).collect();
                let seen = |j: usize| {
                    let hidden =
                        (causal && j > i + past) || lengths.as_ref().is_some_and(|lengths| j as i64 >= lengths[n]);
                    let mask = bias.as_ref().map_or(0.0, |bias| bias.at([n, h, i, j]));
                    if hidden { f64::NEG_INFINITY } else { capped[j] + mask }
                };
                let biased: Vec<f64> = (0..keys).map(seen).collect();
                let largest = biased.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = biased.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                let weights: Vec<f64> = powers.into_iter().map(|p| p / sum).collect();
                for c in 0..v_width {
                    result.push((0..keys).map(|j| weights[j] * z[(kv * keys + j) * v_width + c]).sum());
                }
                shown.extend(match mode {
                    0 => plain,
                    1 => capped,
                    2 => biased,
                    _ => weights,
                });
            }
        }
    }
    let mut output = pack(result, dtype, &[batch, q_heads, steps, v_width])?;
    if q.rank() == 3 {
        output = swap_middle(&output)?.reshaped(&[batch, steps, q_heads * v_width])?;
    }
    Ok(vec![output, present_key, present_value, pack(shown, dtype, &scores_shape)?])
}

fn rotate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let [batch, heads, steps, width] = sizes(operator, input.shape(), "num_heads")?;
    let rotated = match operator.int("rotary_embedding_dim")?.unwrap_or(0) {
        0 => width,
        value => crate::shapes::size(value)?,
    };
    let half = rotated / 2;
    let (cos, sin) = (evaluation.input(1)?, evaluation.input(2)?);
    let positions = evaluation.optional(3).map(integers).transpose()?;
    let rows = if positions.is_some() { cos.shape().first().copied().unwrap_or(0) } else { batch * steps };
    let fits = rotated <= width
        && rotated % 2 == 0
        && cos.len() == rows * half
        && sin.len() == rows * half
        && positions.as_ref().is_none_or(|positions| positions.len() == batch * steps);
    if !fits {
        return Err(Error::invalid_model(format!(
            "{operator}: {cos:?} does not fit {rotated} rotated elements of {input:?}"
        )));
    }
    let interleaved = operator.int("interleaved")?.unwrap_or(0) != 0;
    let (mut x, cos, sin) = (floats(input)?, floats(cos)?, floats(sin)?);
    for n in 0..batch {
        for i in 0..steps {
            let row = match &positions {
                None => n * steps + i,
                Some(positions) => {
                    usize::try_from(positions[n * steps + i]).ok().filter(|&row| row < rows).ok_or_else(|| {
                        Error::invalid_model(format!(
                            "{operator}: position {} is not in the cache",
                            positions[n * steps + i]
                        ))
                    })?
                }
            };
            spend(2 * heads * width)?;
            for h in 0..heads {
                let start = if input.rank() == 4 { (n * heads + h) * steps + i } else { (n * steps + i) * heads + h };
                let head = &mut x[start * width..][..width];
                for pair in 0..half {
                    let (first, second) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                    let (a, b) = (head[first], head[second]);
                    let (c, s) = (cos[row * half + pair], sin[row * half + pair]);
                    head[first] = c * a - s * b;
                    head[second] = s * a + c * b;
                }
            }
        }
    }
    Ok(vec![pack(x, input.dtype(), input.shape())?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn a_causal_query_sees_no_later_key() {
        let q = Tensor::from_vec(&[1, 1, 2, 1], vec![1.0f32, 1.0]).unwrap();
        let v = Tensor::from_vec(&[1, 1, 2, 1], vec![3.0f32, 5.0]).unwrap();
        let op = Operator::new("Attention", 23).with("is_causal", Attribute::Int(1));
        let y = crate::evaluate(&op, &[Some(q.clone()), Some(q), Some(v)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [3.0, 4.0]);
    }

    #[test]
    fn a_rotation_keeps_the_length() {
        let x = Tensor::from_vec(&[1, 1, 2], vec![3.0f32, 4.0]).unwrap();
        let angle = |v: f32| Some(Tensor::from_vec(&[1, 1, 1], vec![v]).unwrap());
        let op = Operator::new("RotaryEmbedding", 23).with("num_heads", Attribute::Int(1));
        let y = crate::evaluate(&op, &[Some(x), angle(0.0), angle(1.0)], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [-4.0, 3.0]);
    }
}
