//! Products, sums and activations of quantised numbers.

use hetero_hal::{Attribute, DType, Definition, Dim, Error, Graph, Inference, Operator, Result, ValueId};

use super::{DOMAIN, flag, number};
use crate::body::{Body, OPSET, evaluate_by_body, has, infer_by_body, misfit, shape};
use crate::quantize::{dequantize, infer_dequantize, infer_quantize, quantize};
use crate::shapes::axis;

const fn of(name: &'static str, inputs: (usize, usize), expand: hetero_hal::ExpandFn) -> Definition {
    Definition::new(name, 1, inputs, infer_by_body, evaluate_by_body).in_domain(DOMAIN).expanding(expand)
}

pub(super) static DEFINITIONS: &[Definition] = &[
    of("DynamicQuantizeMatMul", (3, 5), dynamic_product),
    of("MatMulIntegerToFloat", (4, 7), product_to_float),
    of("QGemm", (6, 9), gemm),
    of("QLinearAdd", (7, 8), |inference| of_two(inference, "Add")),
    of("QLinearMul", (7, 8), |inference| of_two(inference, "Mul")),
    of("QLinearSigmoid", (4, 5), |inference| of_one(inference, |body, x| Ok(body.op("Sigmoid", &[x])))),
    of("QLinearLeakyRelu", (4, 5), leaky),
    of("QLinearAveragePool", (4, 5), average),
    of("QLinearGlobalAveragePool", (5, 5), pool),
    of("QLinearSoftmax", (5, 5), softmax),
    of("QLinearConcat", (3, usize::MAX), concat),
    Definition::new("QuantizeLinear", 1, (2, 3), infer_quantize, quantize).in_domain(DOMAIN).expanding(expand_quantize),
    Definition::new("DequantizeLinear", 1, (2, 3), infer_dequantize, dequantize)
        .in_domain(DOMAIN)
        .expanding(expand_dequantize),
];

/// Returns an input where the node has it.
fn optional(inference: &Inference<'_>, index: usize) -> Option<ValueId> {
    has(inference, index).then_some(ValueId(index as u32))
}

/// Tells whether a tensor of this shape is one number.
fn is_one(shape: &[usize]) -> bool {
    shape.iter().all(|&size| size == 1)
}

/// Checks that a scale or zero point is one number.
fn single(inference: &Inference<'_>, index: usize) -> Result<()> {
    match inference.optional(index).and_then(|fact| fact.ty.shape()) {
        Some(shape) if !is_one(&shape) => {
            Err(misfit(inference.operator, format!("input {index} of shape {shape:?} is not one number")))
        }
        _ => Ok(()),
    }
}

/// Returns an input of one number as a scalar, which broadcasts to any shape.
fn scalar(body: &mut Body, inference: &Inference<'_>, index: usize) -> Result<Option<ValueId>> {
    let Some(value) = optional(inference, index) else { return Ok(None) };
    single(inference, index)?;
    if shape(inference, index)?.is_some_and(|shape| shape.is_empty()) {
        return Ok(Some(value));
    }
    body.reshape(value, &[]).map(Some)
}

/// Returns a scale, which every node needs.
fn scale(body: &mut Body, inference: &Inference<'_>, index: usize) -> Result<ValueId> {
    inference.input(index)?;
    scalar(body, inference, index)?.ok_or_else(|| Error::internal("a required input is missing"))
}

/// Tells whether numbers are of 8 bits.
fn is_byte(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::U8 | DType::I8))
}

/// Returns quantised numbers as real ones; scale and zero point are the inputs behind them.
fn real(body: &mut Body, inference: &Inference<'_>, index: usize) -> Result<ValueId> {
    let scale = scale(body, inference, index + 1)?;
    let zero = scalar(body, inference, index + 2)?;
    let x = body.input(index);
    if is_byte(inference.dtype(index)?) && inference.dtype(index + 1)? == Some(DType::F32) {
        return Ok(body.op("DequantizeLinear", &[&[x, scale], zero.as_slice()].concat()));
    }
    Ok(body.real(x, scale, zero))
}

/// Quantises the result by a scale and the zero point behind it.
fn quantised(body: &mut Body, inference: &Inference<'_>, y: ValueId, index: usize, dtype: DType) -> Result<ValueId> {
    let scale = scale(body, inference, index)?;
    let zero = scalar(body, inference, index + 1)?;
    match zero {
        Some(zero) if is_byte(Some(dtype)) && inference.dtype(index)? == Some(DType::F32) => {
            Ok(body.op("QuantizeLinear", &[y, scale, zero]))
        }
        _ => body.quantised(y, scale, zero, dtype),
    }
}

/// Checks that a scale or zero point is one number, or one for each column of the matrix before it.
fn per_column(inference: &Inference<'_>, matrix: usize, index: usize) -> Result<()> {
    let (Some(matrix), Some(fact)) = (inference.dims(matrix)?, inference.optional(index)) else { return Ok(()) };
    let Some(shape) = fact.ty.shape() else { return Ok(()) };
    let columns = matrix.last().and_then(Dim::known);
    let one = is_one(&shape);
    if one || columns.is_none() || (shape.last().copied() == columns && shape.len() <= matrix.len()) {
        return Ok(());
    }
    Err(misfit(inference.operator, format!("input {index} of shape {shape:?} is not for each of {columns:?} columns")))
}

/// The operands of a product of bytes, each with its scale and zero point.
/// `inputs` says at which inputs of the node the two matrices, their scales and their zero points
/// are; what is not an input of the node is one number.
pub(super) struct Factors {
    pub(super) inputs: [[usize; 3]; 2],
    pub(super) values: [[Option<ValueId>; 3]; 2],
}

impl Factors {
    /// Returns the operands that are inputs of a node.
    pub(super) fn of(inference: &Inference<'_>, inputs: [[usize; 3]; 2]) -> Factors {
        Factors { inputs, values: inputs.map(|own| own.map(|index| optional(inference, index))) }
    }

    /// Tells whether MatMulInteger computes the product, after which scales are of its columns: the
    /// left matrix has one of both, and the right one has one, or one for each column.
    fn are_of_columns(&self, inference: &Inference<'_>) -> Result<bool> {
        let [left, right] = self.inputs;
        let rank = |index: usize| inference.dims(index).map(|dims| dims.map_or(0, <[Dim]>::len));
        let columns = inference.dims(right[0])?.and_then(|dims| dims.last()?.known());
        let known = |index: usize, most: usize| match inference.optional(index) {
            None => true,
            Some(fact) => fact.ty.shape().is_some_and(|shape| match shape.as_slice() {
                [lead @ .., last] => is_one(lead) && (*last == 1 || Some(*last) == columns) && lead.len() < most,
                [] => true,
            }),
        };
        let single = |index: usize| match inference.optional(index) {
            None => true,
            Some(fact) => fact.ty.shape().is_some_and(|shape| is_one(&shape)),
        };
        let (own, other) = (rank(left[0])?, rank(right[0])?);
        let fits = left[1..].iter().all(|&index| known(index, own) && single(index));
        Ok(own >= 2 && other >= 2 && fits && right[1..].iter().all(|&index| known(index, other)))
    }

    /// Returns the product as real numbers.
    pub(super) fn product(&self, body: &mut Body, inference: &Inference<'_>) -> Result<ValueId> {
        let [[Some(a), Some(a_scale), a_zero], [Some(b), Some(b_scale), b_zero]] = self.values else {
            return Err(misfit(inference.operator, "a matrix or a scale is left out"));
        };
        if !self.are_of_columns(inference)? {
            let (a, b) = (body.real(a, a_scale, a_zero), body.real(b, b_scale, b_zero));
            return Ok(body.op("MatMul", &[a, b]));
        }
        let sums = body.apply_some(Operator::new("MatMulInteger", OPSET), &[Some(a), Some(b), a_zero, b_zero]);
        let sums = body.cast(sums, DType::F32);
        let scale = body.mul(a_scale, b_scale);
        Ok(body.mul(sums, scale))
    }
}

/// Multiplies real numbers, quantised here to 256 steps that cover their range and zero, by
/// quantised ones.
fn dynamic_product(inference: &Inference<'_>) -> Result<Option<Graph>> {
    for index in [2, 3] {
        per_column(inference, 1, index)?;
    }
    let mut body = Body::of(inference);
    let left = body.node(Operator::new("DynamicQuantizeLinear", OPSET), &[Some(body.input(0))], 3);
    let mut factors = Factors::of(inference, [[0, usize::MAX, usize::MAX], [1, 2, 3]]);
    factors.values[0].iter_mut().zip(left).for_each(|(slot, value)| *slot = Some(value));
    let y = factors.product(&mut body, inference)?;
    let y = match optional(inference, 4) {
        Some(bias) => body.add(y, bias),
        None => y,
    };
    body.done(&[y])
}

fn product_to_float(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let Some(dtype) = inference.dtype(2)? else { return Ok(None) };
    for (matrix, index) in [(0, 2), (1, 3), (0, 4), (1, 5)] {
        per_column(inference, matrix, index)?;
    }
    let mut body = Body::of(inference);
    let mut factors = Factors::of(inference, [[0, 2, 4], [1, 3, 5]]);
    if dtype != DType::F32 {
        for [_, scale, _] in &mut factors.values {
            *scale = scale.map(|scale| body.cast(scale, DType::F32));
        }
    }
    let mut y = factors.product(&mut body, inference)?;
    if dtype != DType::F32 {
        y = body.cast(y, dtype);
    }
    if let Some(bias) = optional(inference, 6) {
        y = body.add(y, bias);
    }
    body.done(&[y])
}

/// Returns the number that a sum of a QGemm stands for, or one for each of its columns.
fn unit(body: &mut Body, inference: &Inference<'_>, columns: usize, alpha: f32) -> Result<ValueId> {
    inference.input(4)?;
    let a_scale = scale(body, inference, 1)?;
    let list = inference.optional(4).and_then(|fact| fact.ty.shape()).is_some_and(|shape| shape == [columns]);
    let b_scale = if list { body.input(4) } else { scale(body, inference, 4)? };
    let unit = body.mul(a_scale, b_scale);
    if alpha == 1.0 {
        return Ok(unit);
    }
    let alpha = body.number(f64::from(alpha), DType::F32)?;
    Ok(body.mul(unit, alpha))
}

/// Returns `alpha · a · b` of bytes, whose products are summed as whole numbers.
fn integer_gemm(
    body: &mut Body,
    inference: &Inference<'_>,
    (transposed, columns): (bool, usize),
    alpha: f32,
) -> Result<ValueId> {
    let (mut a, mut b) = (body.input(0), body.input(3));
    if flag(inference.operator, "transA")? {
        a = body.transpose(a, &[1, 0]);
    }
    if transposed {
        b = body.transpose(b, &[1, 0]);
    }
    let a_zero = scalar(body, inference, 2)?;
    let list = inference.optional(5).and_then(|fact| fact.ty.shape()).is_some_and(|shape| shape == [columns]);
    let b_zero = if list { optional(inference, 5) } else { scalar(body, inference, 5)? };
    let sums = body.apply_some(Operator::new("MatMulInteger", OPSET), &[Some(a), Some(b), a_zero, b_zero]);
    let sums = body.cast(sums, DType::F32);
    let unit = unit(body, inference, columns, alpha)?;
    Ok(body.mul(sums, unit))
}

/// Returns `alpha · a · b` of the operands as real numbers.
fn real_gemm(
    body: &mut Body,
    inference: &Inference<'_>,
    (transposed, columns): (bool, usize),
    alpha: f32,
) -> Result<ValueId> {
    let operator = inference.operator;
    // The right matrix has a scale and a zero point, or one of both for each column of the result.
    let line = |body: &mut Body, index: usize| -> Result<Option<ValueId>> {
        match inference.optional(index).map(|fact| fact.ty.shape()) {
            None => Ok(None),
            Some(Some(shape)) if shape == [columns] && columns != 1 => {
                let value = body.input(index);
                let sizes = if transposed { [columns, 1] } else { [1, columns] };
                body.reshape(value, &sizes).map(Some)
            }
            Some(_) => scalar(body, inference, index),
        }
    };
    inference.input(4)?;
    let b_scale = line(body, 4)?.ok_or_else(|| Error::internal("a required input is missing"))?;
    let b_zero = line(body, 5)?;
    let right = body.input(3);
    // Scales are one, or one for each column of the result; zero points may be one beside these.
    let sizes = |index: usize| inference.optional(index).and_then(|fact| fact.ty.shape());
    let are_alike = b_zero.is_none() || sizes(4) == sizes(5) || sizes(4).is_some_and(|shape| is_one(&shape));
    let right = if is_byte(inference.dtype(3)?) && inference.dtype(4)? == Some(DType::F32) && are_alike {
        let list = sizes(4).is_some_and(|shape| shape == [columns]) && columns != 1;
        let of = |body: &mut Body, index: usize| -> Result<Option<ValueId>> {
            if list { Ok(optional(inference, index)) } else { scalar(body, inference, index) }
        };
        let scale = if list { body.input(4) } else { scale(body, inference, 4)? };
        let zero = of(body, 5)?;
        let real = Operator::new("DequantizeLinear", OPSET).with("axis", Attribute::Int(i64::from(!transposed)));
        body.apply(real, &[&[right, scale], zero.as_slice()].concat())
    } else {
        body.real(right, b_scale, b_zero)
    };
    let left = real(body, inference, 0)?;
    let product = Operator::new("Gemm", OPSET)
        .with("transA", Attribute::Int(flag(operator, "transA")?.into()))
        .with("transB", Attribute::Int(transposed.into()))
        .with("alpha", Attribute::Float(alpha));
    Ok(body.apply(product, &[left, right]))
}

/// Returns `alpha · a · b` and a sum of whole numbers in the products' scale, as real numbers or
/// quantised.
fn gemm(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let transposed = flag(operator, "transB")?;
    let (Some(a), Some(b)) = (shape(inference, 0)?, shape(inference, 3)?) else { return Ok(None) };
    let (&[_, _], &[b_rows, b_columns]) = (a.as_slice(), b.as_slice()) else {
        return Err(misfit(operator, format!("{a:?} and {b:?} are no matrices")));
    };
    let columns = if transposed { b_rows } else { b_columns };
    let alpha = operator.float("alpha")?.unwrap_or(1.0);
    let bytes = is_byte(inference.dtype(0)?) && is_byte(inference.dtype(3)?) && inference.dtype(4)? == Some(DType::F32);
    // A product whose result is bytes again is one with its operands in a network of 8 bits.
    let is_within = has(inference, 7) && alpha == 1.0 && !flag(operator, "transA")?;
    let mut body = Body::of(inference);
    let mut y = if bytes && !is_within {
        integer_gemm(&mut body, inference, (transposed, columns), alpha)?
    } else {
        real_gemm(&mut body, inference, (transposed, columns), alpha)?
    };
    if has(inference, 6) {
        let sum = body.input(6);
        let sum = body.cast(sum, DType::F32);
        let unit = unit(&mut body, inference, columns, alpha)?;
        let sum = body.mul(sum, unit);
        y = body.add(y, sum);
    }
    if has(inference, 7) {
        let dtype = match inference.optional(8) {
            Some(zero) => zero.ty.dtype,
            None => inference.dtype(0)?,
        };
        let Some(dtype) = dtype else { return Ok(None) };
        y = quantised(&mut body, inference, y, 7, dtype)?;
    }
    body.done(&[y])
}

fn of_two(inference: &Inference<'_>, name: &str) -> Result<Option<Graph>> {
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    let mut body = Body::of(inference);
    let (a, b) = (real(&mut body, inference, 0)?, real(&mut body, inference, 3)?);
    let y = body.op(name, &[a, b]);
    let y = quantised(&mut body, inference, y, 6, dtype)?;
    body.done(&[y])
}

/// Returns a function of real numbers over quantised ones, whose result is quantised.
fn of_one(
    inference: &Inference<'_>,
    function: impl FnOnce(&mut Body, ValueId) -> Result<ValueId>,
) -> Result<Option<Graph>> {
    let Some(dtype) = inference.dtype(0)? else { return Ok(None) };
    let mut body = Body::of(inference);
    let x = real(&mut body, inference, 0)?;
    let y = function(&mut body, x)?;
    let y = quantised(&mut body, inference, y, 3, dtype)?;
    body.done(&[y])
}

fn leaky(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let alpha = number(inference.operator, "alpha", 0.01)? as f32;
    of_one(inference, |body, x| {
        Ok(body.apply(Operator::new("LeakyRelu", OPSET).with("alpha", Attribute::Float(alpha)), &[x]))
    })
}

fn pool(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let last = flag(inference.operator, "channels_last")?;
    let Some(dims) = inference.dims(0)? else { return Ok(None) };
    let rank = dims.len();
    if rank < 3 {
        return Err(misfit(inference.operator, format!("the input has rank {rank}")));
    }
    let axes: Vec<i64> = if last { (1..rank as i64 - 1).collect() } else { (2..rank as i64).collect() };
    of_one(inference, |body, x| {
        let axes = body.list(&axes)?;
        Ok(body.op("ReduceMean", &[x, axes]))
    })
}

/// Averages windows, with the attributes of the standard's operator.
fn average(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    if flag(operator, "channels_last")? {
        return Err(Error::unsupported(format!("{operator} with channels last")));
    }
    let mut plain = Operator::new("AveragePool", OPSET);
    for (name, value) in operator.attributes.iter().filter(|(name, _)| name.as_ref() != "channels_last") {
        plain = plain.with(name, value.clone());
    }
    of_one(inference, |body, x| Ok(body.apply(plain, &[x])))
}

fn softmax(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let opset = operator.int("opset")?.unwrap_or(1);
    // Before version 13 all dimensions from the axis on are one.
    let (version, default) = if opset < 13 { (11, 1) } else { (OPSET, -1) };
    let along = operator.int("axis")?.unwrap_or(default);
    if let Some(dims) = inference.dims(0)? {
        axis(along, dims.len())?;
    }
    of_one(inference, |body, x| {
        Ok(body.apply(Operator::new("Softmax", version).with("axis", Attribute::Int(along)), &[x]))
    })
}

/// Puts quantised tensors one behind the other; the scale and zero point of the result come first.
fn concat(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let operator = inference.operator;
    let count = inference.inputs.len();
    if count < 5 || !(count - 2).is_multiple_of(3) {
        return Err(misfit(operator, format!("{count} inputs are no tensors with their scales and zero points")));
    }
    let along = operator.int("axis")?.ok_or_else(|| misfit(operator, "it has no axis"))?;
    let dtype = match inference.optional(1) {
        Some(zero) => zero.ty.dtype,
        None => inference.dtype(2)?,
    };
    let Some(dtype) = dtype else { return Ok(None) };
    let mut body = Body::of(inference);
    let mut parts = Vec::new();
    for index in (2..count).step_by(3) {
        parts.push(real(&mut body, inference, index)?);
    }
    let y = body.concat(&parts, along);
    let y = quantised(&mut body, inference, y, 0, dtype)?;
    body.done(&[y])
}

/// Returns scales and zero points in a shape that broadcasts along the axis of the input that they
/// are for; `None` where they are for blocks, or where little is known.
fn along_axis(body: &mut Body, inference: &Inference<'_>) -> Result<Option<[Option<ValueId>; 2]>> {
    let operator = inference.operator;
    let (Some(x), Some(scales)) = (shape(inference, 0)?, shape(inference, 1)?) else { return Ok(None) };
    if operator.int("block_size")?.unwrap_or(0) != 0 {
        return Ok(None);
    }
    let mut sizes = vec![];
    if !is_one(&scales) {
        let along = axis(operator.int("axis")?.unwrap_or(1), x.len())?;
        if scales != [x[along]] {
            return Err(misfit(operator, format!("the scales {scales:?} do not fit {x:?}")));
        }
        sizes = vec![1; x.len()];
        sizes[along] = x[along];
    }
    let mut shaped = [None, None];
    for (slot, index) in shaped.iter_mut().zip([1, 2]).filter(|(_, index)| has(inference, *index)) {
        let value = body.input(index);
        let given = shape(inference, index)?;
        if given.as_ref().is_some_and(|given| *given != scales && !is_one(given)) {
            return Err(misfit(operator, format!("the zero points {given:?} do not fit the scales {scales:?}")));
        }
        let one = given.is_some_and(|given| is_one(&given));
        *slot = Some(body.reshape(value, if one { &[] } else { &sizes })?);
    }
    Ok(Some(shaped))
}

/// Tells whether numbers of this type are of whole bytes, and exact as `f32`.
fn is_small(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::U8 | DType::I8 | DType::U16 | DType::I16))
}

fn expand_quantize(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let dtype = infer_quantize(inference)?.first().and_then(|ty| ty.dtype);
    let plain = inference.dtype(0)? == Some(DType::F32) && inference.dtype(1)? == Some(DType::F32);
    let mut body = Body::of(inference);
    let (true, true, Some(dtype)) = (plain, is_small(dtype), dtype) else { return Ok(None) };
    let Some([Some(scale), zero]) = along_axis(&mut body, inference)? else { return Ok(None) };
    let x = body.input(0);
    let y = body.quantised(x, scale, zero, dtype)?;
    body.done(&[y])
}

fn expand_dequantize(inference: &Inference<'_>) -> Result<Option<Graph>> {
    let plain = inference.dtype(1)? == Some(DType::F32) && inference.operator.attribute("output_dtype").is_none();
    let mut body = Body::of(inference);
    if !plain || !is_small(inference.dtype(0)?) {
        return Ok(None);
    }
    let Some([Some(scale), zero]) = along_axis(&mut body, inference)? else { return Ok(None) };
    let x = body.input(0);
    let y = body.real(x, scale, zero);
    body.done(&[y])
}
