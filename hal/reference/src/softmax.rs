//! Softmax, its logarithm LogSoftmax, and its limit Hardmax.

use hetero_hal::{Definition, Evaluation, Operator, Result, Tensor, TensorType, spend};

use crate::numbers::{floats, pack};
use crate::shapes::{axis, elements, infer_same};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("Softmax", 1, (1, 1), infer_same, evaluate).counting(flops).in_place(&[0]),
    Definition::new("LogSoftmax", 1, (1, 1), infer_same, evaluate).counting(flops).in_place(&[0]),
    Definition::new("Hardmax", 1, (1, 1), infer_same, evaluate).counting(flops),
];

fn flops(_: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    outputs.first().map_or(0, elements).saturating_mul(4)
}

/// Computes all three operators.
/// Until opset 12 the dimensions from the axis on count as one.
fn evaluate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let input = evaluation.input(0)?;
    let shape = input.shape();
    if shape.is_empty() {
        let alone = if operator.is("LogSoftmax") { 0.0 } else { 1.0 };
        return Ok(vec![pack(vec![alone], input.dtype(), shape)?]);
    }
    let flattened = operator.version < 13;
    let along =
        axis(operator.int("axis")?.unwrap_or(if flattened { 1.min(shape.len() as i64 - 1) } else { -1 }), shape.len())?;
    let (length, inner): (usize, usize) = if flattened {
        (shape[along..].iter().product(), 1)
    } else {
        (shape[along], shape[along + 1..].iter().product())
    };
    let mut values = floats(input)?;
    let lines = values.len() / length.max(1);
    for line in 0..lines {
        spend(length.saturating_mul(24))?;
        let at = |i: usize| (line / inner * length + i) * inner + line % inner;
        let largest = (0..length).map(|i| values[at(i)]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..length).map(|i| (values[at(i)] - largest).exp()).sum();
        // NaN is larger than any number, as in NumPy.
        let nan = (0..length).find(|&i| values[at(i)].is_nan());
        let first = nan.or_else(|| (0..length).find(|&i| values[at(i)] == largest));
        for i in 0..length {
            let value = &mut values[at(i)];
            *value = match &*operator.name {
                "LogSoftmax" => *value - largest - sum.ln(),
                "Hardmax" => f64::from(u8::from(first == Some(i))),
                _ => (*value - largest).exp() / sum,
            };
        }
    }
    Ok(vec![pack(values, input.dtype(), shape)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_meant_something_else_once() {
        let x = Tensor::from_vec(&[1, 2, 2], vec![0.0f32; 4]).unwrap();
        let at = |version: u32| {
            let op = Operator::new("Softmax", version).with("axis", hetero_hal::Attribute::Int(1));
            crate::evaluate(&op, &[Some(x.clone())], 1).unwrap()[0].view::<f32>().unwrap()[0]
        };
        assert_eq!((at(11), at(13)), (0.25, 0.5));
    }

    #[test]
    fn large_inputs_do_not_overflow() {
        let x = Tensor::from_vec(&[2], vec![1000.0f32, 1000.0]).unwrap();
        let y = crate::evaluate(&Operator::new("LogSoftmax", 13), &[Some(x)], 1).unwrap();
        assert!((y[0].view::<f32>().unwrap()[0] + std::f32::consts::LN_2).abs() < 1e-6);
    }
}
