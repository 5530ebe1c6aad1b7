//! Losses of classification: NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.

use hetero_hal::{Definition, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, spend, take};

use crate::numbers::{floats, pack};
use crate::shapes::{elements, integers};

pub(crate) static DEFINITIONS: &[Definition] = &[
    Definition::new("NegativeLogLikelihoodLoss", 12, (2, 3), infer, likelihood).counting(flops),
    Definition::new("SoftmaxCrossEntropyLoss", 12, (2, 3), infer, cross_entropy).outputs(2).counting(flops),
];

fn flops(_: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    inputs.first().and_then(Option::as_ref).map_or(0, elements).saturating_mul(4)
}

/// The way in which the losses of single elements become one.
#[derive(PartialEq)]
enum Reduction {
    None,
    Sum,
    Mean,
}

fn reduction(operator: &Operator) -> Result<Reduction> {
    match operator.text("reduction")? {
        Some("none") => Ok(Reduction::None),
        Some("sum") => Ok(Reduction::Sum),
        None | Some("mean") => Ok(Reduction::Mean),
        Some(other) => Err(Error::invalid_model(format!("{operator} knows no reduction '{other}'"))),
    }
}

/// Infers the types of a loss.
/// Scores are [batch, classes, d1, ..], and labels are [batch, d1, ..].
fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let scores = inference.input(0)?.ty.clone();
    let dims = match reduction(inference.operator)? {
        Reduction::None => inference.input(1)?.ty.dims.clone(),
        _ => Some(Vec::new()),
    };
    Ok(vec![TensorType { dtype: scores.dtype, dims }, scores])
}

fn likelihood(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let scores = floats(evaluation.input(0)?)?;
    Ok(vec![loss(evaluation, &scores)?])
}

fn cross_entropy(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let input = evaluation.input(0)?;
    let (classes, inner) = layout(evaluation.operator, input.shape())?;
    let mut scores = floats(input)?;
    for line in 0..scores.len() / classes.max(1) {
        let at = |class: usize| (line / inner * classes + class) * inner + line % inner;
        let largest = (0..classes).map(|class| scores[at(class)]).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..classes).map(|class| (scores[at(class)] - largest).exp()).sum();
        for class in 0..classes {
            scores[at(class)] -= largest + sum.ln();
        }
    }
    let loss = loss(evaluation, &scores)?;
    Ok(vec![loss, pack(scores, input.dtype(), input.shape())?])
}

/// Returns the number of classes, and of elements behind each.
fn layout(operator: &Operator, shape: &[usize]) -> Result<(usize, usize)> {
    match shape {
        [_, classes, rest @ ..] => Ok((*classes, rest.iter().product())),
        _ => Err(Error::invalid_model(format!("{operator} takes scores of rank 2 or more, not {shape:?}"))),
    }
}

/// Computes the weighted negative scores of the labels, reduced.
/// A label that equals `ignore_index` counts nowhere.
fn loss(evaluation: &Evaluation<'_>, scores: &[f64]) -> Result<Tensor> {
    let operator = evaluation.operator;
    let (input, labels) = (evaluation.input(0)?, evaluation.input(1)?);
    let (classes, inner) = layout(operator, input.shape())?;
    let expected = [&input.shape()[..1], &input.shape()[2..]].concat();
    if labels.shape() != expected {
        return Err(Error::invalid_model(format!("{operator} has labels {:?} for scores {input:?}", labels.shape())));
    }
    let weights = evaluation.optional(2).map(floats).transpose()?;
    if weights.as_ref().is_some_and(|weights| weights.len() != classes) {
        return Err(Error::invalid_model(format!("{operator} needs a weight for each of {classes} classes")));
    }
    let ignored = operator.int("ignore_index")?;
    take(labels.len(), size_of::<f64>() + size_of::<i64>())?;
    spend(8 * labels.len())?;
    let (mut losses, mut total) = (Vec::with_capacity(labels.len()), 0.0);
    for (line, label) in integers(labels)?.into_iter().enumerate() {
        if ignored == Some(label) {
            losses.push(0.0);
            continue;
        }
        let class = usize::try_from(label).ok().filter(|class| *class < classes);
        let class = class
            .ok_or_else(|| Error::invalid_model(format!("{operator}: label {label} is none of {classes} classes")))?;
        let weight = weights.as_ref().map_or(1.0, |weights| weights[class]);
        losses.push(-weight * scores[(line / inner * classes + class) * inner + line % inner]);
        total += weight;
    }
    let sum = losses.iter().sum::<f64>();
    match reduction(operator)? {
        Reduction::None => pack(losses, input.dtype(), &expected),
        Reduction::Sum => pack(vec![sum], input.dtype(), &[]),
        Reduction::Mean => pack(vec![sum / total], input.dtype(), &[]),
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    #[test]
    fn an_ignored_label_counts_nowhere() {
        let scores = Tensor::from_vec(&[3, 2], vec![-1.0f32, -2.0, -3.0, -4.0, -5.0, -6.0]).unwrap();
        let labels = Tensor::from_vec(&[3], vec![0i64, 7, 1]).unwrap();
        let weights = Tensor::from_vec(&[2], vec![1.0f32, 3.0]).unwrap();
        let op = Operator::new("NegativeLogLikelihoodLoss", 13).with("ignore_index", Attribute::Int(7));
        let inputs = [Some(scores.clone()), Some(labels.clone()), Some(weights)];
        let mean = crate::evaluate(&op, &inputs, 1).unwrap();
        assert_eq!(&*mean[0].view::<f32>().unwrap(), [(1.0 + 18.0) / 4.0]);
        let strict = Operator::new("NegativeLogLikelihoodLoss", 13);
        assert!(crate::evaluate(&strict, &inputs, 1).unwrap_err().message().contains("label 7"));
    }
}
