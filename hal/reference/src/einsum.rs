//! Sums of products by an equation over named axes: Einsum.

use std::collections::BTreeMap;

use hetero_hal::{
    Definition, Dim, Error, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use crate::indexing::{strides, walk};
use crate::numbers::Numbers;
use crate::shapes::elements;

pub(crate) static DEFINITIONS: &[Definition] =
    &[Definition::new("Einsum", 12, (1, usize::MAX), infer, evaluate).counting(flops)];

/// The name of an axis: a letter, or a place in the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// An equation, resolved for inputs of given ranks.
struct Equation {
    inputs: Vec<Vec<Label>>,
    output: Vec<Label>,
}

impl Equation {
    fn parse(operator: &Operator, ranks: &[usize]) -> Result<Equation> {
        let text: String =
            operator.text("equation")?.unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
        let wrong = |what: &str| Error::invalid_model(format!("Einsum '{text}': {what}"));
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (&*text, None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(wrong(&format!("{} terms for {} inputs", terms.len(), ranks.len())));
        }
        let labels = |term: &str, rank: Option<usize>, widest: usize| -> Result<Vec<Label>> {
            let (before, dots, after) = match term.split_once("...") {
                Some((before, after)) => (before, true, after),
                None => (term, false, ""),
            };
            let letters = before.chars().count() + after.chars().count();
            if !before.chars().chain(after.chars()).all(|c| c.is_ascii_alphabetic()) {
                return Err(wrong("only letters name axes"));
            }
            let open = match rank {
                Some(rank) => rank.checked_sub(letters).ok_or_else(|| wrong("a term has more axes than its input"))?,
                None => widest,
            };
            if rank.is_some() && open > 0 && !dots {
                return Err(wrong("a term has fewer axes than its input"));
            }
            let dots = (0..if dots { open } else { 0 }).rev().map(Label::Ellipsis);
            Ok(before.chars().map(Label::Letter).chain(dots).chain(after.chars().map(Label::Letter)).collect())
        };
        let inputs: Vec<Vec<Label>> =
            terms.iter().zip(ranks).map(|(term, &rank)| labels(term, Some(rank), 0)).collect::<Result<_>>()?;
        let widest = inputs.iter().map(|term| term.iter().filter(|l| matches!(l, Label::Ellipsis(_))).count()).max();
        let widest = widest.unwrap_or(0);
        let output = match right {
            Some(term) => labels(term, None, widest)?,
            // Without an arrow the output is the ellipsis, then every letter that occurs once, in
            // alphabetical order.
            None => {
                let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
                inputs.iter().flatten().for_each(|&label| *counts.entry(label).or_default() += 1);
                let once = counts.into_iter().filter(|(label, n)| matches!(label, Label::Letter(_)) && *n == 1);
                (0..widest).rev().map(Label::Ellipsis).chain(once.map(|(label, _)| label)).collect()
            }
        };
        let known = |label: &Label| inputs.iter().flatten().any(|l| l == label);
        let mut sorted = output.clone();
        sorted.sort_unstable();
        if !output.iter().all(known) || sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(wrong("the output names an axis twice, or one that no input has"));
        }
        Ok(Equation { inputs, output })
    }

    /// Returns the size of each label.
    fn sizes(&self, shapes: &[Vec<usize>]) -> Result<BTreeMap<Label, usize>> {
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        for (label, &size) in self.inputs.iter().flatten().zip(shapes.iter().flatten()) {
            let known = sizes.entry(*label).or_insert(size);
            if *known == 1 {
                *known = size;
            } else if size != 1 && size != *known {
                return Err(Error::invalid_model(format!("Einsum: an axis has the sizes {known} and {size}")));
            }
        }
        Ok(sizes)
    }
}

/// The axes that the equation of an Einsum names, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAxes {
    /// The axes of each input's dimensions; an axis may occur more than once.
    pub inputs: Vec<Vec<usize>>,
    /// The axes of the output's dimensions; the others are summed.
    pub output: Vec<usize>,
    /// The size of each axis; an input may have a size of 1 instead, which is repeated.
    pub sizes: Vec<usize>,
}

impl NamedAxes {
    /// Resolves the equation of an Einsum for inputs of these shapes.
    ///
    /// # Errors
    /// `InvalidModel` where the equation is none, or does not fit the shapes.
    pub fn of(operator: &Operator, shapes: &[&[usize]]) -> Result<NamedAxes> {
        let ranks: Vec<usize> = shapes.iter().map(|shape| shape.len()).collect();
        let equation = Equation::parse(operator, &ranks)?;
        let shapes: Vec<Vec<usize>> = shapes.iter().map(|shape| shape.to_vec()).collect();
        let sizes = equation.sizes(&shapes)?;
        let numbers: BTreeMap<Label, usize> = sizes.keys().copied().zip(0..).collect();
        let all = |labels: &[Label]| labels.iter().filter_map(|label| numbers.get(label).copied()).collect();
        Ok(NamedAxes {
            inputs: equation.inputs.iter().map(|labels| all(labels)).collect(),
            output: all(&equation.output),
            sizes: sizes.into_values().collect(),
        })
    }
}

/// Estimates the operations: a multiply-add for each element of the output or of the largest input,
/// whichever has more.
fn flops(_: &Operator, inputs: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let largest = inputs.iter().flatten().map(elements).max().unwrap_or(1);
    let output = outputs.first().map_or(0, elements);
    output.saturating_mul(2).max(largest.saturating_mul(2))
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let dtype = inference.dtype(0)?;
    let shapes: Option<Vec<Vec<usize>>> =
        inference.inputs.iter().map(|fact| fact.as_ref().and_then(|fact| fact.ty.shape())).collect();
    let dims = match shapes {
        Some(shapes) => {
            let ranks: Vec<usize> = shapes.iter().map(Vec::len).collect();
            let equation = Equation::parse(inference.operator, &ranks)?;
            let sizes = equation.sizes(&shapes)?;
            Some(equation.output.iter().map(|label| Dim::Known(sizes.get(label).copied().unwrap_or(1))).collect())
        }
        None => None,
    };
    Ok(vec![TensorType { dtype, dims }])
}

/// The positions of one term's factors, one for each input.
type At<'a> = std::iter::Map<
    std::iter::Zip<std::slice::Iter<'a, usize>, std::slice::Iter<'a, usize>>,
    fn((&usize, &usize)) -> usize,
>;

/// The walks over the elements of the output, and over the terms of each.
/// The terms may be far more than fit a list.
struct Sums<'a> {
    shape: &'a [usize],
    /// The sizes of the labels that are summed.
    inner: &'a [usize],
    /// The strides of each input along the output's labels.
    outer_steps: Vec<Vec<usize>>,
    /// The strides of each input along the labels that are summed.
    inner_steps: Vec<Vec<usize>>,
}

impl Sums<'_> {
    /// Returns all sums, each of which begins with `zero`; `add` adds the term of these positions.
    fn all<T: Copy>(&self, zero: T, add: impl Fn(T, At<'_>) -> T) -> Result<Vec<T>> {
        let count = element_count(self.shape).unwrap_or(usize::MAX);
        take(count, size_of::<T>())?;
        let mut sums = Vec::with_capacity(count);
        let factors = self.outer_steps.len().max(1);
        walk(self.shape, &self.outer_steps, |point| {
            let (mut sum, mut terms) = (zero, 0);
            walk(self.inner, &self.inner_steps, |at| {
                terms += 1;
                if terms == 1024 {
                    spend(terms * factors)?;
                    terms = 0;
                }
                let both: fn((&usize, &usize)) -> usize = |(a, b)| a + b;
                sum = add(sum, point.iter().zip(at).map(both));
                Ok(())
            })?;
            sums.push(sum);
            spend((terms + 1) * factors)
        })?;
        Ok(sums)
    }
}

fn evaluate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for index in 0..evaluation.inputs.len() {
        tensors.push(evaluation.input(index)?);
    }
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|tensor| tensor.shape().to_vec()).collect();
    let ranks: Vec<usize> = shapes.iter().map(Vec::len).collect();
    let equation = Equation::parse(evaluation.operator, &ranks)?;
    let sizes = equation.sizes(&shapes)?;
    let summed: Vec<Label> = sizes.keys().filter(|label| !equation.output.contains(label)).copied().collect();
    let size = |labels: &[Label]| labels.iter().map(|label| sizes[label]).collect::<Vec<usize>>();
    let (shape, inner) = (size(&equation.output), size(&summed));
    let dtype = tensors[0].dtype();
    evaluation.reserve(dtype, &shape)?;
    // For each input, how far a step along each label moves in it; repeated labels add up to a
    // diagonal.
    let steps: Vec<BTreeMap<Label, usize>> = equation
        .inputs
        .iter()
        .zip(&shapes)
        .map(|(labels, shape)| {
            let mut steps = BTreeMap::new();
            for ((label, stride), &size) in labels.iter().zip(strides(shape)).zip(shape) {
                *steps.entry(*label).or_default() += if size == 1 { 0 } else { stride };
            }
            steps
        })
        .collect();
    let strides = |labels: &[Label]| -> Vec<Vec<usize>> {
        let along = |steps: &BTreeMap<Label, usize>| {
            labels.iter().map(|label| steps.get(label).copied().unwrap_or(0)).collect()
        };
        steps.iter().map(along).collect()
    };
    let (outer_steps, inner_steps) = (strides(&equation.output), strides(&summed));
    let numbers: Vec<Numbers> = tensors.iter().map(|tensor| Numbers::of(tensor)).collect::<Result<_>>()?;
    let sums = Sums { shape: &shape, inner: &inner, outer_steps, inner_steps };
    let whole: Option<Vec<&Vec<i128>>> =
        numbers.iter().map(|n| if let Numbers::Ints(values) = n { Some(values) } else { None }).collect();
    let result = match whole {
        Some(values) => Numbers::Ints(sums.all(0, |sum: i128, at| {
            let term = values.iter().zip(at).map(|(values, at)| values[at]).fold(1, i128::wrapping_mul);
            sum.wrapping_add(term)
        })?),
        None => {
            let values: Vec<Vec<f64>> = numbers.into_iter().map(Numbers::floats).collect();
            let term =
                |sum: f64, at: At<'_>| sum + values.iter().zip(at).map(|(values, at)| values[at]).product::<f64>();
            Numbers::Floats(sums.all(0.0, term)?)
        }
    };
    Ok(vec![result.into_tensor(dtype, &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    fn einsum(equation: &str, inputs: &[(&[usize], Vec<i32>)]) -> Result<Tensor> {
        let op = Operator::new("Einsum", 12).with("equation", Attribute::String(equation.as_bytes().into()));
        let inputs: Vec<_> = inputs.iter().map(|(s, v)| Some(Tensor::from_vec(s, v.clone()).unwrap())).collect();
        Ok(crate::evaluate(&op, &inputs, 1)?.remove(0))
    }

    #[test]
    fn products_diagonals_and_implicit_outputs() {
        let m = (&[2usize, 2][..], vec![1, 2, 3, 4]);
        let at =
            |equation: &str, n: usize| einsum(equation, &vec![m.clone(); n]).unwrap().view::<i32>().unwrap().to_vec();
        assert_eq!(at("ij,jk->ik", 2), [7, 10, 15, 22]);
        assert_eq!(at("ii", 1), [5]);
        assert_eq!(at("ii->i", 1), [1, 4]);
        assert_eq!(at("ba", 1), [1, 3, 2, 4]);
        assert_eq!(at("...a->...", 1), [3, 7]);
        assert!(einsum("ij->k", std::slice::from_ref(&m)).is_err());
        assert!(einsum("ij,jk", std::slice::from_ref(&m)).is_err());
        assert!(einsum("i?", &[m]).is_err());
    }
}
