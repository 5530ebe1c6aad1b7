//! Attention of several heads, as ONNX Runtime's tools fuse it: with its projections, with masks of
//! several forms, and with earlier keys and values.

use hetero_hal::{DType, Definition, Graph, Inference, Operator, Result, ValueId, element_count, take};

use super::quantized::Factors;
use super::{DOMAIN, flag};
use crate::body::{Body, evaluate_by_body, has, infer_by_body, known, misfit, shape};
use crate::numbers::pack;
use crate::shapes::size;

const fn of(name: &'static str, inputs: (usize, usize), outputs: usize, expand: hetero_hal::ExpandFn) -> Definition {
    Definition::new(name, 1, inputs, infer_by_body, evaluate_by_body)
        .in_domain(DOMAIN)
        .outputs(outputs)
        .expanding(expand)
}

pub(super) static DEFINITIONS: &[Definition] = &[
    of("Attention", (3, 7), 2, attention),
    of("QAttention", (5, 9), 2, quantised_attention),
    of("MultiHeadAttention", (1, 10), 4, multi_head),
];

/// The number that is added to scores that a mask hides, unless the node says another.
const HIDDEN: f32 = -10_000.0;

/// Returns a positive number of heads.
pub(super) fn heads(operator: &Operator, attribute: &str) -> Result<usize> {
    let heads = operator.int(attribute)?.unwrap_or(0);
    let positive = usize::try_from(heads).ok().filter(|&heads| heads > 0);
    positive.ok_or_else(|| misfit(operator, format!("{attribute} is {heads}")))
}

/// Returns the width of each of `heads` heads.
pub(super) fn width(operator: &Operator, hidden: usize, heads: usize) -> Result<usize> {
    if hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(misfit(operator, format!("{heads} heads do not divide {hidden}")))
}

/// Returns the least finite number of a type, which hides a score altogether.
pub(super) fn least(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => -65504.0,
        DType::F64 => f64::MIN,
        DType::BF16 => -3.3895e38,
        _ => f64::from(f32::MIN),
    }
}

/// Returns `[batch, steps, heads · width]` as `[batch, heads, steps, width]`.
pub(super) fn by_heads(body: &mut Body, x: ValueId, [batch, heads, steps, width]: [usize; 4]) -> Result<ValueId> {
    let split = body.reshape(x, &[batch, steps, heads, width])?;
    Ok(body.transpose(split, &[0, 2, 1, 3]))
}

/// Returns `[batch, heads, steps, width]` as `[batch, steps, heads · width]`.
pub(super) fn side_by_side(body: &mut Body, x: ValueId, [batch, heads, steps, width]: [usize; 4]) -> Result<ValueId> {
    let turned = body.transpose(x, &[0, 2, 1, 3]);
    let hidden = element_count(&[heads, width]).unwrap_or(usize::MAX);
    body.reshape(turned, &[batch, steps, hidden])
}

/// Queries, keys and values, each `[batch, heads, steps, width]`, and what is added to the scores.
struct Core {
    dtype: DType,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    width: usize,
    bias: Vec<ValueId>,
}

impl Core {
    /// Returns the weighted values, and the scores before the softmax.
    fn of(&self, body: &mut Body, operator: &Operator) -> Result<(ValueId, ValueId)> {
        let scale = match operator.float("scale")? {
            Some(scale) if scale != 0.0 => f64::from(scale),
            _ => 1.0 / (self.width as f64).sqrt(),
        };
        let scale = body.number(scale, self.dtype)?;
        let q = body.mul(self.q, scale);
        let keys = body.transpose(self.k, &[0, 1, 3, 2]);
        let mut scores = body.op("MatMul", &[q, keys]);
        for &bias in &self.bias {
            scores = body.add(scores, bias);
        }
        let weights = body.op("Softmax", &[scores]);
        Ok((body.op("MatMul", &[weights, self.v]), scores))
    }
}

/// The sizes that masks depend on.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    steps: usize,
    past: usize,
    /// The number of all keys, with the earlier ones.
    keys: usize,
}

/// Returns what is added to the scores so that each query sees no later key.
fn causal(body: &mut Body, dtype: DType, Sizes { steps, past, keys, .. }: Sizes) -> Result<ValueId> {
    let count = element_count(&[steps, keys]).unwrap_or(usize::MAX);
    take(count, 4 * size_of::<f64>())?;
    let hidden = least(dtype);
    let values = (0..count).map(|at| if at % keys > past + at / keys { hidden } else { 0.0 }).collect();
    Ok(body.constant(pack(values, dtype, &[steps, keys])?))
}

/// Returns what is added to the scores where a mask hides keys, so that it broadcasts to
/// `[batch, heads, steps, keys]`.
///
/// A mask is a list of lengths, of ends and then starts, or of lengths and two lists of offsets; or
/// a matrix over batch and keys; or a flag for each query and key, with or without heads.
fn masked(
    body: &mut Body,
    inference: &Inference<'_>,
    index: usize,
    dtype: DType,
    sizes: Sizes,
) -> Result<Option<ValueId>> {
    if !has(inference, index) {
        return Ok(None);
    }
    let operator = inference.operator;
    let Some(mask_shape) = shape(inference, index)? else { return Ok(None) };
    let Sizes { batch, steps, past, keys } = sizes;
    let twice = batch.saturating_mul(2);
    let offsets = batch.saturating_mul(3).saturating_add(2);
    let ty = inference.dtype(index)?.unwrap_or(DType::I32);
    let mask = body.input(index);
    let wrong = || misfit(operator, format!("the mask {mask_shape:?} fits neither {batch} sequences nor {keys} keys"));
    let seen = match *mask_shape.as_slice() {
        [count] if count == batch || count == twice || count == offsets => {
            take(keys, 3 * size_of::<i128>())?;
            let numbers = (0..keys).map(|key| key as f64).collect();
            let positions = body.constant(pack(numbers, ty, &[1, keys])?);
            let part = |body: &mut Body, number: usize| -> Result<ValueId> {
                let list = body.slice(mask, 0, (number * batch, (number + 1) * batch))?;
                body.reshape(list, &[batch, 1])
            };
            let ends = part(body, 0)?;
            let mut seen = body.op("Less", &[positions, ends]);
            if count == twice {
                let starts = part(body, 1)?;
                let behind = body.op("GreaterOrEqual", &[positions, starts]);
                seen = body.op("And", &[seen, behind]);
            }
            body.reshape(seen, &[batch, 1, 1, keys])?
        }
        [rows, columns] if (rows, columns) == (batch, keys) => {
            let flags = flags(body, mask, ty)?;
            body.reshape(flags, &[batch, 1, 1, keys])?
        }
        [rows, queries, columns] if (rows, queries, columns) == (batch, steps, keys) => {
            let flags = flags(body, mask, ty)?;
            body.reshape(flags, &[batch, 1, steps, keys])?
        }
        // A square for the longest sequence, of which a part counts.
        [rows, 1, queries, columns] if rows == batch && queries >= past + steps && columns >= keys => {
            let rows = body.slice(mask, 2, (past, past + steps))?;
            let part = body.slice(rows, 3, (0, keys))?;
            flags(body, part, ty)?
        }
        _ => return Err(wrong()),
    };
    let filter = operator.float("mask_filter_value")?.unwrap_or(HIDDEN);
    let (shown, hidden) = (body.number(0.0, dtype)?, body.number(f64::from(filter), dtype)?);
    Ok(Some(body.op("Where", &[seen, shown, hidden])))
}

/// Returns where a mask's numbers are greater than 0.
fn flags(body: &mut Body, mask: ValueId, dtype: DType) -> Result<ValueId> {
    let zero = body.number(0.0, dtype)?;
    Ok(body.op("Greater", &[mask, zero]))
}

/// Returns a bias of scores that is given for all heads or one, and for all sequences or one.
pub(super) fn added(
    body: &Body,
    inference: &Inference<'_>,
    index: usize,
    scores: [usize; 4],
) -> Result<Option<ValueId>> {
    if !has(inference, index) {
        return Ok(None);
    }
    let Some(bias) = shape(inference, index)? else { return Ok(None) };
    let fits = bias.len() == 4
        && (bias[0] == scores[0] || bias[0] == 1)
        && (bias[1] == scores[1] || bias[1] == 1)
        && bias[2..] == scores[2..];
    if fits {
        return Ok(Some(body.input(index)));
    }
    Err(misfit(inference.operator, format!("the bias {bias:?} of scores does not fit {scores:?}")))
}

/// Refuses a flag or an input that only other devices' kernels know.
fn refuse(inference: &Inference<'_>, flags: &[&str], inputs: &[usize]) -> Result<()> {
    let operator = inference.operator;
    let unsupported = |what: String| Err(hetero_hal::Error::unsupported(format!("{operator} with {what}")));
    for name in flags {
        if flag(operator, name)? {
            return unsupported(format!("{name} set"));
        }
    }
    match inputs.iter().find(|&&index| has(inference, index)) {
        Some(index) => unsupported(format!("its input {index}")),
        None => Ok(()),
    }
}

/// The places of the inputs that the two operators with projections have in common.
struct Projected {
    mask: usize,
    past: usize,
    bias: Option<usize>,
}

fn attention(inference: &Inference<'_>) -> Result<Option<Graph>> {
    refuse(inference, &["do_rotary", "past_present_share_buffer"], &[6])?;
    if !known(inference) {
        return Ok(None);
    }
    let (Some(dtype), Some(x), Some(w)) = (inference.dtype(0)?, shape(inference, 0)?, shape(inference, 1)?) else {
        return Ok(None);
    };
    let mut body = Body::of(inference);
    let mut product = body.op("MatMul", &[body.input(0), body.input(1)]);
    if has(inference, 2) {
        let bias = body.input(2);
        product = body.add(product, bias);
    }
    projected(inference, body, product, dtype, (&x, &w), &Projected { mask: 3, past: 4, bias: Some(5) })
}

fn quantised_attention(inference: &Inference<'_>) -> Result<Option<Graph>> {
    refuse(inference, &["do_rotary", "past_present_share_buffer"], &[])?;
    if !known(inference) {
        return Ok(None);
    }
    let (Some(x), Some(w)) = (shape(inference, 0)?, shape(inference, 1)?) else { return Ok(None) };
    let mut body = Body::of(inference);
    let factors = Factors::of(inference, [[0, 3, 6], [1, 4, 7]]);
    let mut product = factors.product(&mut body, inference)?;
    if has(inference, 2) {
        let bias = body.input(2);
        product = body.add(product, bias);
    }
    projected(inference, body, product, DType::F32, (&x, &w), &Projected { mask: 5, past: 8, bias: None })
}

/// Returns the attention over queries, keys and values that stand side by side in a product.
fn projected(
    inference: &Inference<'_>,
    mut body: Body,
    product: ValueId,
    dtype: DType,
    (x, w): (&[usize], &[usize]),
    places: &Projected,
) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let heads = heads(operator, "num_heads")?;
    let (&[batch, steps, inner], &[rows, columns]) = (x, w) else {
        return Err(misfit(operator, format!("the input {x:?} and the weights {w:?} have wrong ranks")));
    };
    let parts = match operator.ints("qkv_hidden_sizes")? {
        Some(&[q, k, v]) => [size(q)?, size(k)?, size(v)?],
        Some(_) => return Err(misfit(operator, "qkv_hidden_sizes are not three")),
        None => [columns / 3; 3],
    };
    let whole = parts.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
    let bias = if has(inference, 2) { shape(inference, 2)? } else { Some(vec![columns]) };
    if rows != inner || whole != Some(columns) || parts[0] != parts[1] || bias.is_some_and(|bias| bias != [columns]) {
        return Err(misfit(operator, format!("the weights {w:?} do not fit the input {x:?}")));
    }
    let (q_width, v_width) = (width(operator, parts[0], heads)?, width(operator, parts[2], heads)?);
    let split = body.split(product, 2, &parts)?;
    let q = by_heads(&mut body, split[0], [batch, heads, steps, q_width])?;
    let mut k = by_heads(&mut body, split[1], [batch, heads, steps, q_width])?;
    let mut v = by_heads(&mut body, split[2], [batch, heads, steps, v_width])?;
    let mut past = 0;
    if has(inference, places.past) {
        let Some(cache) = shape(inference, places.past)? else { return Ok(None) };
        past = match *cache.as_slice() {
            [2, b, n, past, h] if [b, n, h] == [batch, heads, q_width] && q_width == v_width => past,
            _ => return Err(misfit(operator, format!("the earlier keys and values {cache:?} do not fit {x:?}"))),
        };
        let cache = body.input(places.past);
        for (number, fresh) in [&mut k, &mut v].into_iter().enumerate() {
            let earlier = body.slice(cache, 0, (number, number + 1))?;
            let earlier = body.reshape(earlier, &[batch, heads, past, q_width])?;
            *fresh = body.concat(&[earlier, *fresh], 2);
        }
    }
    let keys = past + steps;
    let sizes = Sizes { batch, steps, past, keys };
    let mut bias = Vec::new();
    bias.extend(masked(&mut body, inference, places.mask, dtype, sizes)?);
    if let Some(index) = places.bias {
        bias.extend(added(&body, inference, index, [batch, heads, steps, keys])?);
    }
    if flag(operator, "unidirectional")? {
        bias.push(causal(&mut body, dtype, sizes)?);
    }
    let (values, _) = Core { dtype, q, k, v, width: q_width, bias }.of(&mut body, operator)?;
    let mut outputs = vec![side_by_side(&mut body, values, [batch, heads, steps, v_width])?];
    if inference.outputs > 1 {
        if q_width != v_width {
            return Err(misfit(operator, "keys and values of different widths are not kept together"));
        }
        let mut both = Vec::new();
        for part in [k, v] {
            both.push(body.reshape(part, &[1, batch, heads, keys, q_width])?);
        }
        outputs.push(body.concat(&both, 0));
    }
    body.done(&outputs)
}

/// The queries, keys and values of a MultiHeadAttention, each `[batch, heads, steps, width]`.
struct Split {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    batch: usize,
    steps: usize,
    /// The number of fresh keys.
    fresh: usize,
    q_width: usize,
    v_width: usize,
}

/// Takes the inputs of a MultiHeadAttention apart, which may be packed together.
fn split(body: &mut Body, inference: &Inference<'_>, heads: usize) -> Result<Option<Split>> {
    let operator = inference.operator;
    let Some(query) = shape(inference, 0)? else { return Ok(None) };
    let optional = |index: usize| if has(inference, index) { shape(inference, index) } else { Ok(None) };
    let (key, value) = (optional(1)?, optional(2)?);
    let wrong = || misfit(operator, format!("{query:?}, {key:?} and {value:?} are no queries, keys and values"));
    // Packed inputs are [batch, steps, heads, parts, width].
    let packed = |body: &mut Body, x: ValueId, [batch, steps, parts, width]: [usize; 4]| -> Result<Vec<ValueId>> {
        let apart = body.split(x, 3, &vec![1; parts])?;
        let turned = apart.into_iter().map(|part| {
            let flat = body.reshape(part, &[batch, steps, heads, width])?;
            Ok(body.transpose(flat, &[0, 2, 1, 3]))
        });
        turned.collect()
    };
    // The bias has a part for the queries, one for the keys, and one for the values.
    let bias = |body: &mut Body, widths: [usize; 3]| -> Result<Option<Vec<ValueId>>> {
        if !has(inference, 3) {
            return Ok(None);
        }
        let parts = widths.map(|width| width.saturating_mul(heads));
        if let Some(bias) = shape(inference, 3)?
            && bias != [parts.iter().fold(0, |sum: usize, part| sum.saturating_add(*part))]
        {
            return Err(misfit(operator, format!("the bias {bias:?} has no part for each of {parts:?}")));
        }
        // Parts that are not wanted go, so each is a node of its own.
        let (bias, mut from, mut shaped) = (body.input(3), 0usize, Vec::new());
        for (part, width) in parts.into_iter().zip(widths) {
            let to = from.saturating_add(part);
            let line = body.slice(bias, 0, (from, to))?;
            shaped.push(body.reshape(line, &[1, heads, 1, width])?);
            from = to;
        }
        Ok(Some(shaped))
    };
    let mut split = match (query.as_slice(), key.as_deref(), value.as_deref()) {
        (&[batch, steps, n, 3, width], None, None) if n == heads => {
            let x = body.input(0);
            let parts = packed(body, x, [batch, steps, 3, width])?;
            let &[q, k, v] = parts.as_slice() else { return Err(wrong()) };
            Split { q, k, v, batch, steps, fresh: steps, q_width: width, v_width: width }
        }
        (&[batch, steps, hidden], Some(&[b, fresh, n, 2, w]), None) if b == batch && n == heads => {
            let q_width = width(operator, hidden, heads)?;
            if w != q_width {
                return Err(wrong());
            }
            let (q, kv) = (body.input(0), body.input(1));
            let q = by_heads(body, q, [batch, heads, steps, q_width])?;
            let parts = packed(body, kv, [batch, fresh, 2, w])?;
            let &[k, v] = parts.as_slice() else { return Err(wrong()) };
            Split { q, k, v, batch, steps, fresh, q_width, v_width: w }
        }
        (&[batch, steps, hidden], Some(&[b, fresh, k_hidden]), Some(&[c, v_fresh, v_hidden]))
            if b == batch && c == batch && k_hidden == hidden && v_fresh == fresh =>
        {
            let (q_width, v_width) = (width(operator, hidden, heads)?, width(operator, v_hidden, heads)?);
            let [q, k, v] = [0, 1, 2].map(|index| body.input(index));
            let q = by_heads(body, q, [batch, heads, steps, q_width])?;
            let k = by_heads(body, k, [batch, heads, fresh, q_width])?;
            let v = by_heads(body, v, [batch, heads, fresh, v_width])?;
            Split { q, k, v, batch, steps, fresh, q_width, v_width }
        }
        // Keys and values of another sequence, which lie by heads already.
        (&[batch, steps, hidden], Some(&[b, n, fresh, w]), Some(&[c, m, v_fresh, v_width]))
            if b == batch && c == batch && n == heads && m == heads && v_fresh == fresh =>
        {
            let q_width = width(operator, hidden, heads)?;
            if w != q_width {
                return Err(wrong());
            }
            let [q, k, v] = [0, 1, 2].map(|index| body.input(index));
            let q = by_heads(body, q, [batch, heads, steps, q_width])?;
            Split { q, k, v, batch, steps, fresh, q_width, v_width }
        }
        _ => return Err(wrong()),
    };
    if let Some(parts) = bias(body, [split.q_width, split.q_width, split.v_width])? {
        // Keys and values that lie by heads have their bias already.
        let ready = key.as_ref().is_some_and(|key| key.len() == 4);
        split.q = body.add(split.q, parts[0]);
        if !ready {
            split.k = body.add(split.k, parts[1]);
            split.v = body.add(split.v, parts[2]);
        }
    }
    Ok(Some(split))
}

fn multi_head(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    refuse(inference, &[], &[8, 9])?;
    if !known(inference) {
        return Ok(None);
    }
    let heads = heads(operator, "num_heads")?;
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    let mut body = Body::of(inference);
    let Some(Split { q, mut k, mut v, batch, steps, fresh, q_width, v_width }) = split(&mut body, inference, heads)?
    else {
        return Ok(None);
    };
    let mut past = 0;
    if has(inference, 6) != has(inference, 7) {
        return Err(misfit(operator, "earlier keys need earlier values"));
    }
    if has(inference, 6) {
        let (Some(keys), Some(values)) = (shape(inference, 6)?, shape(inference, 7)?) else { return Ok(None) };
        past = keys.get(2).copied().unwrap_or(0);
        if keys != [batch, heads, past, q_width] || values != [batch, heads, past, v_width] {
            return Err(misfit(operator, format!("the earlier keys {keys:?} and values {values:?} do not fit")));
        }
        let (earlier_k, earlier_v) = (body.input(6), body.input(7));
        k = body.concat(&[earlier_k, k], 2);
        v = body.concat(&[earlier_v, v], 2);
    }
    let keys = past + fresh;
    let sizes = Sizes { batch, steps, past, keys };
    let mut bias = Vec::new();
    bias.extend(masked(&mut body, inference, 4, dtype, sizes)?);
    bias.extend(added(&body, inference, 5, [batch, heads, steps, keys])?);
    if flag(operator, "unidirectional")? {
        bias.push(causal(&mut body, dtype, sizes)?);
    }
    let (values, scores) = Core { dtype, q, k, v, width: q_width, bias }.of(&mut body, operator)?;
    let output = side_by_side(&mut body, values, [batch, heads, steps, v_width])?;
    body.done(&[output, k, v, scores])
}
