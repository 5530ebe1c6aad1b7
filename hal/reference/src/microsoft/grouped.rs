//! Attention in which several heads of queries share one of keys, over a cache with room, and the
//! rotation of queries and keys by their position.

use hetero_hal::{
    Attribute, DType, Definition, Dim, Error, Graph, Inference, Operator, Result, TensorType, ValueId, element_count,
};

use super::attention::{added, by_heads, heads, least, side_by_side, width};
use super::{DOMAIN, flag, number};
use crate::body::{Body, OPSET, evaluate_by_body, has, infer_by_body, known, misfit, shape};
use crate::shapes::size;

pub(super) static DEFINITIONS: &[Definition] = &[
    Definition::new("RotaryEmbedding", 1, (4, 4), infer_by_body, evaluate_by_body).in_domain(DOMAIN).expanding(rotary),
    Definition::new("GroupQueryAttention", 1, (7, 16), infer, evaluate_by_body)
        .in_domain(DOMAIN)
        .outputs(4)
        .expanding(grouped),
];

/// The rotation of the first elements of each head.
struct Rotation {
    /// The number of elements of a head that are rotated.
    rotated: usize,
    /// Whether the two elements of a pair stand beside each other.
    interleaved: bool,
    /// The cosines and sines of each row, in a shape that broadcasts to a half of the elements.
    cos: ValueId,
    sin: ValueId,
}

impl Rotation {
    /// Rotates the last of four dimensions.
    fn of(&self, body: &mut Body, x: ValueId, shape: [usize; 4]) -> Result<ValueId> {
        let [a, b, c, width] = shape;
        let half = self.rotated / 2;
        let part = body.slice(x, 3, (0, self.rotated))?;
        let (first, second) = if self.interleaved {
            let pairs = body.reshape(part, &[a, b, c, half, 2])?;
            let halves = body.split(pairs, 4, &[1, 1])?;
            (body.reshape(halves[0], &[a, b, c, half])?, body.reshape(halves[1], &[a, b, c, half])?)
        } else {
            let halves = body.split(part, 3, &[half, half])?;
            (halves[0], halves[1])
        };
        let product = |body: &mut Body, x: ValueId, angle: ValueId| body.mul(x, angle);
        let (p, q) = (product(body, first, self.cos), product(body, second, self.sin));
        let left = body.sub(p, q);
        let (p, q) = (product(body, second, self.cos), product(body, first, self.sin));
        let right = body.add(p, q);
        let mut turned = if self.interleaved {
            let mut columns = Vec::new();
            for part in [left, right] {
                columns.push(body.reshape(part, &[a, b, c, half, 1])?);
            }
            let pairs = body.concat(&columns, 4);
            body.reshape(pairs, &[a, b, c, self.rotated])?
        } else {
            body.concat(&[left, right], 3)
        };
        if self.rotated < width {
            let rest = body.slice(x, 3, (self.rotated, width))?;
            turned = body.concat(&[turned, rest], 3);
        }
        Ok(turned)
    }
}

/// Checks the caches of cosines and sines, and returns their number of columns.
fn columns(inference: &Inference<'_>, cos: usize, sin: usize) -> Result<usize> {
    match (shape(inference, cos)?.as_deref(), shape(inference, sin)?.as_deref()) {
        (Some(&[rows, columns]), Some(other)) if other == [rows, columns] && columns > 0 => Ok(columns),
        (cos, sin) => Err(misfit(inference.operator, format!("the cosines {cos:?} and sines {sin:?} do not fit"))),
    }
}

fn rotary(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    if !known(inference) {
        return Ok(None);
    }
    if flag(operator, "is_packed_batching")? {
        return Err(Error::unsupported(format!("{operator} with is_packed_batching set")));
    }
    let (Some(x), Some(ids)) = (shape(inference, 0)?, shape(inference, 1)?) else { return Ok(None) };
    let columns = columns(inference, 2, 3)?;
    let partial = size(operator.int("rotary_embedding_dim")?.unwrap_or(0))?;
    let rotated = if partial > 0 { partial } else { columns.saturating_mul(2) };
    // A tensor of rank 3 has its heads side by side, and one of rank 4 has them in front.
    let (batch, steps, shape) = match *x.as_slice() {
        [batch, heads, steps, width] => (batch, steps, [batch, heads, steps, width]),
        [batch, steps, hidden] => {
            let heads = if partial > 0 { heads(operator, "num_heads")? } else { hidden / rotated.max(1) };
            let width = width(operator, hidden, heads.max(1))?;
            (batch, steps, [batch, steps, heads.max(1), width])
        }
        _ => return Err(misfit(operator, format!("{x:?} is neither of rank 3 nor of rank 4"))),
    };
    if rotated != columns.saturating_mul(2) || rotated > shape[3] {
        return Err(misfit(operator, format!("{columns} angles do not rotate {rotated} of {} elements", shape[3])));
    }
    let mut body = Body::of(inference);
    let given = body.input(1);
    let positions = if ids == [batch, steps] {
        given
    } else if element_count(&ids) == Some(1) {
        let first = body.reshape(given, &[1, 1])?;
        let first = body.cast(first, DType::I64);
        let offsets = body.whole(&[1, steps], |at| at as i64)?;
        body.add(first, offsets)
    } else {
        return Err(misfit(operator, format!("the positions {ids:?} do not fit {x:?}")));
    };
    let rows = if ids == [batch, steps] { batch } else { 1 };
    let angle = if x.len() == 4 { [rows, 1, steps, columns] } else { [rows, steps, 1, columns] };
    let mut angles = Vec::new();
    for index in [2, 3] {
        let cache = body.input(index);
        let row = body.gather(cache, positions, 0);
        angles.push(body.reshape(row, &angle)?);
    }
    let rotation = Rotation { rotated, interleaved: flag(operator, "interleaved")?, cos: angles[0], sin: angles[1] };
    let mut y = body.input(0);
    if x.len() == 3 {
        y = body.reshape(y, &shape)?;
    }
    y = rotation.of(&mut body, y, shape)?;
    if x.len() == 3 {
        y = body.reshape(y, &x)?;
    }
    body.done(&[y])
}

/// The sizes of a GroupQueryAttention.
struct Sizes {
    dtype: DType,
    batch: usize,
    steps: usize,
    heads: usize,
    groups: usize,
    width: usize,
    /// Whether queries, keys and values stand side by side in the first input.
    packed: bool,
    /// The rows of the cache that is given.
    past: usize,
}

/// Returns the sizes, once all types of inputs are known.
fn sizes(inference: &Inference<'_>) -> Result<Option<Sizes>> {
    let operator = inference.operator;
    let (heads, groups) = (heads(operator, "num_heads")?, heads(operator, "kv_num_heads")?);
    if !heads.is_multiple_of(groups) {
        return Err(misfit(operator, format!("{groups} heads of keys do not divide {heads} heads of queries")));
    }
    let Some(query) = shape(inference, 0)? else { return Ok(None) };
    let &[batch, steps, hidden] = query.as_slice() else {
        return Err(misfit(operator, format!("the queries {query:?} are not of rank 3")));
    };
    let packed = !has(inference, 1);
    let width = if packed {
        let all = groups.checked_mul(2).and_then(|both| both.checked_add(heads)).unwrap_or(usize::MAX);
        width(operator, hidden, all)?
    } else {
        width(operator, hidden, heads)?
    };
    if packed == has(inference, 2) {
        return Err(misfit(operator, "keys need values"));
    }
    let line = groups.saturating_mul(width);
    for index in [1, 2].into_iter().filter(|&index| has(inference, index)) {
        let Some(shape) = shape(inference, index)? else { return Ok(None) };
        if shape != [batch, steps, line] {
            return Err(misfit(operator, format!("input {index} is {shape:?}, not {:?}", [batch, steps, line])));
        }
    }
    if has(inference, 3) != has(inference, 4) {
        return Err(misfit(operator, "earlier keys need earlier values"));
    }
    let mut past = 0;
    if has(inference, 3) {
        let (Some(keys), Some(values)) = (shape(inference, 3)?, shape(inference, 4)?) else { return Ok(None) };
        past = keys.get(2).copied().unwrap_or(0);
        if keys != [batch, groups, past, width] || values != keys {
            return Err(misfit(operator, format!("the cache of {keys:?} and {values:?} does not fit {query:?}")));
        }
    }
    let Some(lengths) = shape(inference, 5)? else { return Ok(None) };
    if lengths != [batch] && lengths != [batch, 1] {
        return Err(misfit(operator, format!("there are {lengths:?} lengths of keys for {batch} sequences")));
    }
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    Ok(Some(Sizes { dtype, batch, steps, heads, groups, width, packed, past }))
}

/// Returns the number of keys of the longest sequence, where it is known.
fn total(inference: &Inference<'_>) -> Result<Option<usize>> {
    let Some(value) = &inference.input(6)?.value else { return Ok(None) };
    match value.to_i64_vec()?.as_slice() {
        &[total] if total > 0 => Ok(Some(size(total)?)),
        other => Err(misfit(inference.operator, format!("total_sequence_length is {other:?}"))),
    }
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let unknown = TensorType { dtype, dims: None };
    let sizes = if known(inference) { sizes(inference)? } else { None };
    let Some(sizes) = sizes else { return Ok(vec![unknown; inference.outputs.max(1)]) };
    if total(inference)?.is_some() {
        return infer_by_body(inference);
    }
    // Only a run tells how many keys there are; the cache and the fresh keys bound them.
    let bound = sizes.past.saturating_add(sizes.steps);
    let [batch, steps, heads, groups, width] =
        [sizes.batch, sizes.steps, sizes.heads, sizes.groups, sizes.width].map(Dim::Known);
    let keys = Dim::Data { bound, extent: None };
    let hidden = Dim::Known(sizes.heads.saturating_mul(sizes.width));
    let ty = |dims: Vec<Dim>| TensorType { dtype, dims: Some(dims) };
    let cache = ty(vec![batch.clone(), groups, keys.clone(), width]);
    Ok(vec![ty(vec![batch.clone(), steps.clone(), hidden]), cache.clone(), cache, ty(vec![batch, heads, steps, keys])])
}

/// The rows of the cache and of the fresh keys that make the new cache, and the place of each
/// sequence's fresh keys in it.
struct Cache {
    /// The rows of the new cache.
    rows: usize,
    /// The number of keys before the fresh ones, for each sequence: `[batch, 1]`.
    before: ValueId,
    /// The number of all keys of each sequence: `[batch, 1]`.
    lengths: ValueId,
    /// The row of old cache, fresh rows and one row of zeros for each new row: `[batch · groups,
    /// rows]`, counted through all of them.
    sources: ValueId,
}

impl Cache {
    fn of(body: &mut Body, sizes: &Sizes, total: usize) -> Result<Cache> {
        let &Sizes { batch, steps, groups, past, .. } = sizes;
        let rows = past.max(total);
        let given = body.input(5);
        let given = body.cast(given, DType::I64);
        let given = body.reshape(given, &[batch, 1])?;
        let one = body.number(1.0, DType::I64)?;
        let lengths = body.add(given, one);
        // The first run is about fresh keys alone, although some sequences may be shorter.
        let before = if steps == total {
            body.zeros(DType::I64, &[batch, 1])?
        } else {
            let fresh = body.number(steps as f64, DType::I64)?;
            body.sub(lengths, fresh)
        };
        let place = body.whole(&[1, rows], |at| at as i64)?;
        let fresh = body.number(steps as f64, DType::I64)?;
        let end = body.add(before, fresh);
        let zero_row = body.number((past + steps) as f64, DType::I64)?;
        let start = body.number(past as f64, DType::I64)?;
        let into = body.sub(place, before);
        let into = body.add(into, start);
        let is_fresh = body.op("Less", &[place, end]);
        let behind = body.op("Where", &[is_fresh, into, zero_row]);
        let is_old = body.op("Less", &[place, before]);
        let row = body.op("Where", &[is_old, place, behind]);
        let row = body.reshape(row, &[batch, 1, rows])?;
        let heads = element_count(&[batch, groups]).unwrap_or(usize::MAX);
        let all = past + steps + 1;
        let first = body.whole(&[batch, groups, 1], |head| (head * all) as i64)?;
        let sources = body.add(row, first);
        let sources = body.reshape(sources, &[heads, rows])?;
        Ok(Cache { rows, before, lengths, sources })
    }

    /// Returns the new cache: `[batch, groups, rows, width]`.
    fn renewed(&self, body: &mut Body, sizes: &Sizes, old: Option<ValueId>, fresh: ValueId) -> Result<ValueId> {
        let &Sizes { batch, steps, groups, past, width, .. } = sizes;
        let zeros = body.zeros(sizes.dtype, &[batch, groups, 1, width])?;
        let parts: Vec<ValueId> = old.filter(|_| past > 0).into_iter().chain([fresh, zeros]).collect();
        let all = body.concat(&parts, 2);
        let lines = element_count(&[batch, groups, past + steps + 1]).unwrap_or(usize::MAX);
        let lines = body.reshape(all, &[lines, width])?;
        let new = body.gather(lines, self.sources, 0);
        body.reshape(new, &[batch, groups, self.rows, width])
    }
}

/// Refuses what the plain form of the operator does not have.
fn refuse(inference: &Inference<'_>) -> Result<()> {
    let operator = inference.operator;
    let quantised = ["k_quant_type", "v_quant_type"].map(|name| operator.text(name));
    for name in quantised {
        if name?.is_some_and(|name| name != "NONE") {
            return Err(Error::unsupported(format!("{operator} with a quantised cache")));
        }
    }
    if has(inference, 12) || has(inference, 13) {
        return Err(Error::unsupported(format!("{operator} with scales of a quantised cache")));
    }
    if flag(operator, "sliding_window_cache")? {
        return Err(Error::unsupported(format!("{operator} with sliding_window_cache set")));
    }
    Ok(())
}

/// Returns queries, keys and values, each `[batch, heads, steps, width]`.
fn apart(body: &mut Body, inference: &Inference<'_>, sizes: &Sizes) -> Result<[ValueId; 3]> {
    let &Sizes { batch, steps, heads, groups, width, .. } = sizes;
    let (q, k, v) = if sizes.packed {
        let x = body.input(0);
        let parts = body.split(x, 2, &[heads * width, groups * width, groups * width])?;
        (parts[0], parts[1], parts[2])
    } else {
        (body.input(0), body.input(1), body.input(2))
    };
    let mut q = by_heads(body, q, [batch, heads, steps, width])?;
    let mut k = by_heads(body, k, [batch, groups, steps, width])?;
    let v = by_heads(body, v, [batch, groups, steps, width])?;
    let epsilon = number(inference.operator, "qk_norm_epsilon", 1e-6)? as f32;
    for (part, index) in [(&mut q, 14), (&mut k, 15)] {
        if has(inference, index) {
            if shape(inference, index)?.is_some_and(|shape| shape != [width]) {
                return Err(misfit(inference.operator, format!("input {index} is no list of {width} factors")));
            }
            let operator = Operator::new("RMSNormalization", OPSET).with("epsilon", Attribute::Float(epsilon));
            let factors = body.input(index);
            *part = body.apply(operator, &[*part, factors]);
        }
    }
    Ok([q, k, v])
}

/// Rotates queries and keys by their positions.
fn rotated(
    body: &mut Body,
    inference: &Inference<'_>,
    sizes: &Sizes,
    (before, first): (ValueId, bool),
    [q, k]: [ValueId; 2],
) -> Result<[ValueId; 2]> {
    let operator = inference.operator;
    let &Sizes { batch, steps, heads, groups, width, .. } = sizes;
    if !has(inference, 7) || !has(inference, 8) {
        return Err(misfit(operator, "do_rotary needs cosines and sines"));
    }
    let columns = columns(inference, 7, 8)?;
    let rotated = columns.saturating_mul(2);
    if rotated > width {
        return Err(misfit(operator, format!("{columns} angles do not rotate {width} elements")));
    }
    let steps_before = body.whole(&[1, steps], |at| at as i64)?;
    let positions = match inference.optional(9) {
        None => body.add(before, steps_before),
        Some(_) => {
            let ids = shape(inference, 9)?.unwrap_or_default();
            let given = body.input(9);
            let given = body.cast(given, DType::I64);
            if first {
                // The first run takes its first position alone.
                let count = element_count(&ids).filter(|&count| count > 0);
                let count = count.ok_or_else(|| misfit(operator, "there is no position"))?;
                let flat = body.reshape(given, &[1, count])?;
                let start = body.slice(flat, 1, (0, 1))?;
                body.add(start, steps_before)
            } else if ids == [batch, steps] {
                given
            } else {
                return Err(misfit(operator, format!("the positions {ids:?} do not fit")));
            }
        }
    };
    let rows = if first && has(inference, 9) { 1 } else { batch };
    let mut angles = Vec::new();
    for index in [7, 8] {
        let cache = body.input(index);
        let row = body.gather(cache, positions, 0);
        angles.push(body.reshape(row, &[rows, 1, steps, columns])?);
    }
    let interleaved = flag(operator, "rotary_interleaved")?;
    let rotation = Rotation { rotated, interleaved, cos: angles[0], sin: angles[1] };
    Ok([rotation.of(body, q, [batch, heads, steps, width])?, rotation.of(body, k, [batch, groups, steps, width])?])
}

/// Returns which keys each query sees, as `[batch, 1, steps or 1, rows]`.
/// Hidden are keys that are not there, that come later, or that lie before the window.
fn seen(body: &mut Body, operator: &Operator, sizes: &Sizes, cache: &Cache) -> Result<ValueId> {
    let &Sizes { batch, steps, .. } = sizes;
    let place = body.whole(&[1, 1, cache.rows], |at| at as i64)?;
    let lengths = body.reshape(cache.lengths, &[batch, 1, 1])?;
    let mut seen = body.op("Less", &[place, lengths]);
    let causal = operator.int("causal")?.unwrap_or(1) != 0;
    if causal {
        let step = body.whole(&[1, steps, 1], |at| at as i64)?;
        let before = body.reshape(cache.before, &[batch, 1, 1])?;
        let last = body.add(before, step);
        let earlier = body.op("LessOrEqual", &[place, last]);
        seen = body.op("And", &[seen, earlier]);
        let window = operator.int("local_window_size")?.unwrap_or(-1);
        if window > 0 {
            let width = body.number(window as f64, DType::I64)?;
            let start = body.sub(last, width);
            let inside = body.op("Greater", &[place, start]);
            seen = body.op("And", &[seen, inside]);
        }
    }
    body.reshape(seen, &[batch, 1, if causal { steps } else { 1 }, cache.rows])
}

/// Returns the softmax of scores, where a sink may take a share of each query's weights.
fn weights(body: &mut Body, inference: &Inference<'_>, sizes: &Sizes, rows: usize, scores: ValueId) -> Result<ValueId> {
    let &Sizes { dtype, batch, heads, steps, .. } = sizes;
    let sink = if has(inference, 11) {
        if shape(inference, 11)?.is_some_and(|shape| shape != [heads]) {
            return Err(misfit(inference.operator, format!("there is no sink for each of {heads} heads")));
        }
        let sink = body.input(11);
        body.reshape(sink, &[1, heads, 1, 1])?
    } else if flag(inference.operator, "smooth_softmax")? {
        body.zeros(dtype, &[1, 1, 1, 1])?
    } else {
        return Ok(body.op("Softmax", &[scores]));
    };
    let shape = body.list(&[batch as i64, heads as i64, steps as i64, 1])?;
    let column = body.op("Expand", &[sink, shape]);
    let all = body.concat(&[scores, column], 3);
    let all = body.op("Softmax", &[all]);
    body.slice(all, 3, (0, rows))
}

fn grouped(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    refuse(inference)?;
    if !known(inference) {
        return Ok(None);
    }
    let (Some(sizes), Some(total)) = (sizes(inference)?, total(inference)?) else { return Ok(None) };
    let &Sizes { dtype, batch, steps, heads, groups, width, past, .. } = &sizes;
    if total < steps || total > past.saturating_add(steps) {
        let what = format!("{past} rows of cache and {steps} fresh keys do not make total_sequence_length, {total}");
        return Err(misfit(operator, what));
    }
    let mut body = Body::of(inference);
    let cache = Cache::of(&mut body, &sizes, total)?;
    let [mut q, mut k, v] = apart(&mut body, inference, &sizes)?;
    if flag(operator, "do_rotary")? {
        [q, k] = rotated(&mut body, inference, &sizes, (cache.before, steps == total), [q, k])?;
    }
    let old = |index: usize| has(inference, index).then_some(ValueId(index as u32));
    let keys = cache.renewed(&mut body, &sizes, old(3), k)?;
    let values = cache.renewed(&mut body, &sizes, old(4), v)?;
    let scale = match operator.float("scale")? {
        Some(scale) if scale != 0.0 => f64::from(scale),
        _ => 1.0 / (width as f64).sqrt(),
    };
    let scale = body.number(scale, dtype)?;
    let q = body.mul(q, scale);
    // The heads that share keys are rows of one product.
    let lines = element_count(&[heads / groups, steps]).unwrap_or(usize::MAX);
    let q = body.reshape(q, &[batch, groups, lines, width])?;
    let turned = body.transpose(keys, &[0, 1, 3, 2]);
    let scores = body.op("MatMul", &[q, turned]);
    let mut scores = body.reshape(scores, &[batch, heads, steps, cache.rows])?;
    let softcap = number(operator, "softcap", 0.0)?;
    if softcap > 0.0 {
        let cap = body.number(softcap, dtype)?;
        let ratio = body.div(scores, cap);
        let bent = body.op("Tanh", &[ratio]);
        scores = body.mul(bent, cap);
    }
    if let Some(mut bias) = added(&body, inference, 10, [batch, heads, steps, total])? {
        let shape = shape(inference, 10)?.unwrap_or_default();
        if cache.rows > total {
            let rest = body.zeros(dtype, &[shape[0], shape[1], steps, cache.rows - total])?;
            bias = body.concat(&[bias, rest], 3);
        }
        scores = body.add(scores, bias);
    }
    let seen = seen(&mut body, operator, &sizes, &cache)?;
    let (nothing, hidden) = (body.number(0.0, dtype)?, body.number(least(dtype), dtype)?);
    let bias = body.op("Where", &[seen, nothing, hidden]);
    let raw = scores;
    scores = body.add(scores, bias);
    let weights = weights(&mut body, inference, &sizes, cache.rows, scores)?;
    let lined = body.reshape(weights, &[batch, groups, lines, cache.rows])?;
    let result = body.op("MatMul", &[lined, values]);
    let result = body.reshape(result, &[batch, heads, steps, width])?;
    let mut outputs = vec![side_by_side(&mut body, result, [batch, heads, steps, width])?, keys, values];
    if inference.outputs > 3 {
        // What is hidden counts as 0 before the softmax, too.
        let before = operator.int("qk_output")?.unwrap_or(0) == 1;
        let shown = if before { body.op("Where", &[seen, raw, nothing]) } else { weights };
        outputs.push(body.slice(shown, 3, (0, total))?);
    }
    body.done(&outputs)
}
