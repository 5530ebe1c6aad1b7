//! Normalisation of layers: of older versions, without a mean, behind a sum, and of embeddings.

use hetero_hal::{Attribute, DType, Definition, Graph, Inference, Operator, Result, ValueId};

use super::{DOMAIN, number};
use crate::body::{Body, OPSET, evaluate_by_body, has, infer_by_body, misfit, shape};
use crate::normalize::{infer_layer, layer};
use crate::shapes::axis;

const fn of(name: &'static str, inputs: (usize, usize), outputs: usize, expand: hetero_hal::ExpandFn) -> Definition {
    Definition::new(name, 1, inputs, infer_by_body, evaluate_by_body).outputs(outputs).expanding(expand)
}

pub(super) static DEFINITIONS: &[Definition] = &[
    // ONNX Runtime's tools wrote these two into the standard's domain, before it had the first.
    Definition::new("LayerNormalization", 1, (2, 3), infer_layer, layer).outputs(3).until(17),
    of("SimplifiedLayerNormalization", (2, 2), 2, simplified),
    of("SkipLayerNormalization", (3, 5), 4, |inference| behind_a_sum(inference, true)).in_domain(DOMAIN),
    of("SkipSimplifiedLayerNormalization", (3, 4), 4, |inference| behind_a_sum(inference, false)).in_domain(DOMAIN),
    of("EmbedLayerNormalization", (6, 9), 3, embedding).in_domain(DOMAIN),
];

/// The inputs of a normalisation along the last dimensions.
struct Layer {
    x: ValueId,
    gamma: ValueId,
    beta: Option<ValueId>,
    axis: i64,
    epsilon: f64,
    /// Whether the mean is subtracted.
    centred: bool,
}

impl Layer {
    /// Returns the normalised values, and where `statistics` are wanted too, the mean and one over
    /// the deviation, as far as the standard's operator has them.
    fn of(&self, body: &mut Body, statistics: bool) -> Vec<ValueId> {
        let name = if self.centred { "LayerNormalization" } else { "RMSNormalization" };
        let operator = Operator::new(name, OPSET)
            .with("axis", Attribute::Int(self.axis))
            .with("epsilon", Attribute::Float(self.epsilon as f32));
        if self.centred {
            let outputs = if statistics { 3 } else { 1 };
            body.node(operator, &[Some(self.x), Some(self.gamma), self.beta], outputs)
        } else {
            vec![body.apply(operator, &[self.x, self.gamma])]
        }
    }

    /// Returns one over the root of the mean of squares.
    fn inverse(&self, body: &mut Body, rank: usize) -> Result<ValueId> {
        let first = axis(self.axis, rank)?;
        let axes: Vec<i64> = (first..rank).map(|axis| axis as i64).collect();
        let x = body.cast(self.x, DType::F32);
        let (squares, axes) = (body.mul(x, x), body.list(&axes)?);
        let mean = body.op("ReduceMean", &[squares, axes]);
        let epsilon = body.number(self.epsilon, DType::F32)?;
        let sum = body.add(mean, epsilon);
        let root = body.op("Sqrt", &[sum]);
        Ok(body.op("Reciprocal", &[root]))
    }
}

fn simplified(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let mut body = Body::of(inference);
    let layer = Layer {
        x: body.input(0),
        gamma: body.input(1),
        beta: None,
        axis: operator.int("axis")?.unwrap_or(-1),
        epsilon: number(operator, "epsilon", 1e-5)?,
        centred: false,
    };
    let mut outputs = layer.of(&mut body, false);
    if inference.outputs > 1 {
        let Some(dims) = inference.dims(0)? else { return Ok(None) };
        outputs.push(layer.inverse(&mut body, dims.len())?);
    }
    body.done(&outputs)
}

/// Normalises the sum of an input, a skipping one and a bias, and returns that sum too.
fn behind_a_sum(inference: &Inference<'_>, centred: bool) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let Some(dims) = inference.dims(0)? else { return Ok(None) };
    let rank = dims.len();
    if !(2..=3).contains(&rank) {
        return Err(misfit(operator, format!("the input has rank {rank}, not 2 or 3")));
    }
    let (beta, bias) = if centred { (Some(3), 4) } else { (None, 3) };
    for list in [Some(2), beta, Some(bias)].into_iter().flatten().filter(|&index| has(inference, index)) {
        super::fused::check_line(inference, list)?;
    }
    if let (Some(x), Some(skip)) = (shape(inference, 0)?, shape(inference, 1)?) {
        // The skipping input may lack the batch, or have a batch of one.
        let whole =
            skip == x || (rank == 3 && (skip == x[1..] || (skip.len() == 3 && skip[0] == 1 && skip[1..] == x[1..])));
        if !whole {
            return Err(misfit(operator, format!("the skipping input {skip:?} does not fit {x:?}")));
        }
    }
    let mut body = Body::of(inference);
    let (x, skip) = (body.input(0), body.input(1));
    let mut sum = body.add(x, skip);
    if has(inference, bias) {
        let bias = body.input(bias);
        sum = body.add(sum, bias);
    }
    let layer = Layer {
        x: sum,
        gamma: body.input(2),
        beta: beta.filter(|&index| has(inference, index)).map(|index| body.input(index)),
        axis: -1,
        epsilon: number(operator, "epsilon", if centred { 1e-12 } else { 1e-5 })?,
        centred,
    };
    let mut outputs = layer.of(&mut body, inference.outputs > 1);
    if !centred && inference.outputs > 1 {
        let inverse = layer.inverse(&mut body, rank)?;
        let zero = body.number(0.0, DType::F32)?;
        let mean = body.mul(inverse, zero);
        outputs.extend([mean, inverse]);
    }
    outputs.push(sum);
    outputs.truncate(inference.outputs.max(1));
    body.done(&outputs)
}

/// Normalises the sum of the embeddings of words, positions and segments.
fn embedding(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let Some(ids) = shape(inference, 0)? else { return Ok(None) };
    let &[batch, steps] = ids.as_slice() else {
        return Err(misfit(operator, format!("the words {ids:?} are no matrix")));
    };
    for table in [2, 3, 4].into_iter().filter(|&index| has(inference, index)) {
        if inference.dims(table)?.is_some_and(|dims| dims.len() != 2) {
            return Err(misfit(operator, format!("the embedding of input {table} is no matrix")));
        }
    }
    let mut body = Body::of(inference);
    let (words, ids) = (body.input(2), body.input(0));
    let mut sum = body.gather(words, ids, 0);
    let positions = body.input(3);
    let positions = match inference.optional(8) {
        Some(_) => {
            let ids = body.input(8);
            body.gather(positions, ids, 0)
        }
        None => {
            let rows = inference.dims(3)?.and_then(|dims| dims.first()?.known());
            if rows.is_some_and(|rows| rows < steps) {
                return Err(misfit(operator, format!("there are fewer positions than {steps}")));
            }
            body.slice(positions, 0, (0, steps))?
        }
    };
    sum = body.add(sum, positions);
    if has(inference, 1) && has(inference, 4) {
        let (table, ids) = (body.input(4), body.input(1));
        let segments = body.gather(table, ids, 0);
        sum = body.add(sum, segments);
    }
    let layer = Layer {
        x: sum,
        gamma: body.input(5),
        beta: has(inference, 6).then(|| body.input(6)),
        axis: -1,
        epsilon: number(operator, "epsilon", 1e-12)?,
        centred: true,
    };
    let mut outputs = layer.of(&mut body, false);
    if inference.outputs > 1 {
        outputs.push(match inference.optional(7) {
            // The mask's ones are counted.
            Some(_) => {
                let (mask, one) = (body.input(7), body.number(1.0, DType::I32)?);
                let ones = body.op("Equal", &[mask, one]);
                let (ones, axes) = (body.cast(ones, DType::I32), body.list(&[1])?);
                body.apply(Operator::new("ReduceSum", OPSET).with("keepdims", Attribute::Int(0)), &[ones, axes])
            }
            None => body.zeros(DType::I32, &[batch])?,
        });
    }
    outputs.push(sum);
    outputs.truncate(inference.outputs.max(1));
    body.done(&outputs)
}
