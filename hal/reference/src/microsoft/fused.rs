//! Activations of the Gelu family, and products and convolutions with what stands around them.

use hetero_hal::{Attribute, DType, Definition, Graph, Inference, Operator, Result, ValueId};

use super::{DOMAIN, flag, number};
use crate::body::{Body, OPSET, evaluate_by_body, has, infer_by_body, misfit, shape};

const fn of(name: &'static str, inputs: (usize, usize), expand: hetero_hal::ExpandFn) -> Definition {
    Definition::new(name, 1, inputs, infer_by_body, evaluate_by_body).in_domain(DOMAIN).expanding(expand)
}

pub(super) static DEFINITIONS: &[Definition] = &[
    of("Gelu", (1, 1), |inference| gelu(inference, "none")),
    of("BiasGelu", (2, 2), |inference| gelu(inference, "none")),
    of("FastGelu", (1, 2), |inference| gelu(inference, "tanh")),
    of("QuickGelu", (1, 1), quick_gelu),
    of("FusedMatMul", (2, 2), matmul),
    of("TransposeMatMul", (2, 2), matmul),
    of("FusedGemm", (2, 3), gemm),
    of("FusedConv", (2, 4), conv),
    of("NhwcFusedConv", (2, 4), conv_of_last_channels),
];

/// Returns `gelu(x)`, or `gelu(x + bias)` with a bias along the last dimension.
fn gelu(inference: &Inference<'_>, approximate: &str) -> Result<Option<Graph>> {
    let mut body = Body::of(inference);
    let mut x = body.input(0);
    if has(inference, 1) {
        check_line(inference, 1)?;
        let bias = body.input(1);
        x = body.add(x, bias);
    }
    let approximate = Attribute::String(approximate.as_bytes().into());
    let y = body.apply(Operator::new("Gelu", OPSET).with("approximate", approximate), &[x]);
    body.done(&[y])
}

/// Checks that an input is a list with an element for each position of the last dimension of input
/// 0.
pub(super) fn check_line(inference: &Inference<'_>, index: usize) -> Result<()> {
    let (Some(dims), Some(list)) = (inference.dims(0)?, inference.dims(index)?) else { return Ok(()) };
    let last = dims.last().and_then(hetero_hal::Dim::known);
    let fits = match list {
        [only] => last.is_none() || only.known().is_none() || only.known() == last,
        _ => false,
    };
    if fits && !dims.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = list.iter().map(ToString::to_string).collect();
    Err(misfit(inference.operator, format!("input {index} of shape [{}] is no list along input 0", list.join(","))))
}

fn quick_gelu(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    let mut body = Body::of(inference);
    let x = body.input(0);
    let alpha = body.number(number(inference.operator, "alpha", 1.702)?, dtype)?;
    let scaled = body.mul(x, alpha);
    let gate = body.op("Sigmoid", &[scaled]);
    let y = body.mul(x, gate);
    body.done(&[y])
}

/// Returns `alpha` times the product of two stacks of matrices, each of which may be transposed.
/// Where a stack's batch is transposed, its rows are its first dimension.
fn matmul(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let (Some(dtype), Some(a), Some(b)) = (inference.dtype(0)?, inference.dims(0)?, inference.dims(1)?) else {
        return Ok(None);
    };
    let mut body = Body::of(inference);
    let mut factors = Vec::new();
    for (index, (rank, side)) in [(a.len(), "A"), (b.len(), "B")].into_iter().enumerate() {
        let (rows, batch) = (flag(operator, &format!("trans{side}"))?, flag(operator, &format!("transBatch{side}"))?);
        let mut perm: Vec<usize> = (0..rank).collect();
        if batch && rank > 2 {
            perm[..rank - 1].rotate_left(1);
        }
        // A vector has no rows to change with.
        if rows && rank > 1 {
            perm.swap(rank - 2, rank - 1);
        }
        let mut factor = body.input(index);
        if !perm.is_sorted() {
            factor = body.transpose(factor, &perm);
        }
        factors.push(factor);
    }
    let mut y = body.op("MatMul", &factors);
    let alpha = number(operator, "alpha", 1.0)?;
    if alpha != 1.0 {
        let alpha = body.number(alpha, dtype)?;
        y = body.mul(y, alpha);
    }
    body.done(&[y])
}

/// Applies the activation of a name, whose parameters have these values where they are set.
fn activated(
    body: &mut Body,
    operator: &Operator,
    (x, dtype): (ValueId, DType),
    [alpha, beta, gamma]: [Option<f32>; 3],
) -> Result<ValueId> {
    let name = match operator.text("activation")? {
        None | Some("") => return Ok(x),
        Some(name) => name,
    };
    let mut function = Operator::new(name, OPSET);
    let parameters: &[(&str, Option<f32>)] = match name {
        "Relu" | "Sigmoid" | "Tanh" | "HardSwish" | "Softplus" | "Softsign" => &[],
        "LeakyRelu" | "Elu" | "ThresholdedRelu" => &[("alpha", alpha)],
        "HardSigmoid" => &[("alpha", alpha), ("beta", beta)],
        "Selu" => &[("alpha", alpha), ("gamma", gamma)],
        "Clip" => {
            let mut inputs = vec![x];
            for (limit, default) in [(alpha, f32::MIN), (beta, f32::MAX)] {
                inputs.push(body.number(f64::from(limit.unwrap_or(default)), dtype)?);
            }
            return Ok(body.apply(function, &inputs));
        }
        other => return Err(misfit(operator, format!("the activation '{other}' is unknown"))),
    };
    for (name, value) in parameters {
        if let Some(value) = value {
            function = function.with(name, Attribute::Float(*value));
        }
    }
    Ok(body.apply(function, &[x]))
}

fn gemm(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    let mut body = Body::of(inference);
    let mut product = Operator::new("Gemm", OPSET);
    for name in ["transA", "transB", "alpha", "beta"] {
        if let Some(value) = operator.attribute(name) {
            product = product.with(name, value.clone());
        }
    }
    let inputs: Vec<Option<ValueId>> =
        (0..inference.inputs.len()).map(|index| has(inference, index).then(|| body.input(index))).collect();
    let y = body.apply_some(product, &inputs);
    let parameters = ["activation_alpha", "activation_beta", "activation_gamma"];
    let [alpha, beta, gamma] = parameters.map(|name| operator.float(name));
    let y = activated(&mut body, operator, (y, dtype), [alpha?, beta?, gamma?])?;
    body.done(&[y])
}

/// Returns a convolution with the attributes of the node but those of its activation.
fn plain_conv(operator: &Operator) -> Operator {
    let mut conv = Operator::new("Conv", OPSET);
    for (name, value) in operator.attributes.iter().filter(|(name, _)| !name.starts_with("activation")) {
        conv = conv.with(name, value.clone());
    }
    conv
}

/// Returns the parameters of a convolution's activation.
fn parameters(operator: &Operator) -> Result<[Option<f32>; 3]> {
    let list = operator.floats("activation_params")?.unwrap_or_default();
    Ok([0, 1, 2].map(|index| list.get(index).copied()))
}

/// Returns `activation(conv(x) + z)`.
fn conv(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    let mut body = Body::of(inference);
    let bias = has(inference, 2).then(|| body.input(2));
    let mut y = body.apply_some(plain_conv(operator), &[Some(body.input(0)), Some(body.input(1)), bias]);
    if has(inference, 3) {
        let z = body.input(3);
        y = body.add(y, z);
    }
    let y = activated(&mut body, operator, (y, dtype), parameters(operator)?)?;
    body.done(&[y])
}

/// Returns the same for images whose channels are their last dimension, in contrast to filters.
fn conv_of_last_channels(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let (Some(dtype), Some(image)) = (inference.dtype(0)?, shape(inference, 0)?) else { return Ok(None) };
    let rank = image.len();
    if rank < 3 {
        return Err(misfit(operator, format!("{image:?} is no image")));
    }
    let (mut inward, mut outward): (Vec<usize>, Vec<usize>) = ((0..rank).collect(), (0..rank).collect());
    inward[1..].rotate_right(1);
    outward[1..].rotate_left(1);
    let mut body = Body::of(inference);
    let x = body.input(0);
    let x = body.transpose(x, &inward);
    let bias = has(inference, 2).then(|| body.input(2));
    let y = body.apply_some(plain_conv(operator), &[Some(x), Some(body.input(1)), bias]);
    let mut y = body.transpose(y, &outward);
    if has(inference, 3) {
        let z = body.input(3);
        y = body.add(y, z);
    }
    let y = activated(&mut body, operator, (y, dtype), parameters(operator)?)?;
    body.done(&[y])
}
