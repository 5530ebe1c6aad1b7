//! Support vector machines: `SVMClassifier` and `SVMRegressor`.

use hetero_hal::{
    DType, Definition, Dim, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use super::scores::{ClassLabels, Transform, largest};
use super::{check_features, classified, define, sizes, table, wrong};
use crate::numbers::{floats, pack};
use crate::shapes::elements;

pub(super) const CLASSIFIER: Definition =
    define("SVMClassifier", 1, (1, 1), infer_classifier, classify).outputs(2).counting(flops);
pub(super) const REGRESSOR: Definition = define("SVMRegressor", 1, (1, 1), infer_regressor, regress).counting(flops);

fn flops(operator: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    let vectors = operator.floats("support_vectors").ok().flatten().map_or(1, <[f32]>::len);
    let input = inputs.first().and_then(Option::as_ref);
    // Each support vector meets each row.
    let rows = input.and_then(|ty| ty.dims.as_ref()).and_then(|dims| dims.first()).and_then(Dim::bound);
    (rows.unwrap_or(1) as u64).saturating_mul(3 * vectors as u64).max(input.map_or(0, elements))
}

/// The function that says how alike two vectors are.
#[derive(Clone, Copy, PartialEq)]
enum Similarity {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// A similarity with its parameters, and the vectors that rows are compared with.
struct Support<'a> {
    similarity: Similarity,
    gamma: f64,
    shift: f64,
    degree: f64,
    vectors: &'a [f32],
    count: usize,
    features: usize,
}

impl<'a> Support<'a> {
    /// Reads `count` vectors, or, where there are none, takes the coefficients of `columns` linear
    /// functions.
    fn of(operator: &'a Operator, count: usize, columns: usize) -> Result<Self> {
        let similarity = match operator.text("kernel_type")? {
            _ if count == 0 => Similarity::Linear,
            None | Some("LINEAR") => Similarity::Linear,
            Some("POLY") => Similarity::Poly,
            Some("RBF") => Similarity::Rbf,
            Some("SIGMOID") => Similarity::Sigmoid,
            Some(other) => return Err(wrong(operator, format_args!("kernel_type '{other}' is unknown"))),
        };
        let (gamma, shift, degree) = match operator.floats("kernel_params")? {
            None | Some([]) => (0.0, 0.0, 0.0),
            Some(&[gamma, shift, degree]) => (f64::from(gamma), f64::from(shift), f64::from(degree)),
            Some(list) => {
                return Err(wrong(operator, format_args!("kernel_params has {} elements, not 3", list.len())));
            }
        };
        let (name, count) = if count == 0 { ("coefficients", columns) } else { ("support_vectors", count) };
        let vectors = operator.floats(name)?.unwrap_or_default();
        let features = vectors.len() / count.max(1);
        if vectors.is_empty() || features * count != vectors.len() {
            let length = vectors.len();
            return Err(wrong(operator, format_args!("the {length} elements of '{name}' do not make {count} vectors")));
        }
        Ok(Support { similarity, gamma, shift, degree, vectors, count, features })
    }

    /// Writes how alike a row is to each vector.
    fn compare(&self, row: &[f64], into: &mut [f64]) -> Result<()> {
        spend(2 * self.vectors.len())?;
        for (vector, into) in self.vectors.chunks_exact(self.features).zip(into) {
            let pairs = row.iter().zip(vector).map(|(&x, &v)| (x, f64::from(v)));
            *into = match self.similarity {
                Similarity::Rbf => (-self.gamma * pairs.map(|(x, v)| (x - v) * (x - v)).sum::<f64>()).exp(),
                similarity => {
                    let product = pairs.map(|(x, v)| x * v).sum::<f64>();
                    match similarity {
                        Similarity::Poly => (self.gamma * product + self.shift).powf(self.degree),
                        Similarity::Sigmoid => (self.gamma * product + self.shift).tanh(),
                        _ => product,
                    }
                }
            };
        }
        Ok(())
    }
}

/// A classifier of each pair of classes, or, without support vectors, of each class by itself.
struct Classifier<'a> {
    labels: ClassLabels,
    support: Support<'a>,
    /// The first vector of each class, and behind the last class the number of vectors; empty where
    /// the model is linear.
    starts: Vec<usize>,
    coefficients: &'a [f32],
    rho: &'a [f32],
    /// The parameters of the probabilities of each pair, where there are probabilities.
    probabilities: Option<(&'a [f32], &'a [f32])>,
    transform: Transform,
}

impl<'a> Classifier<'a> {
    fn of(operator: &'a Operator) -> Result<Self> {
        let labels = ClassLabels::of(operator, "classlabels_ints")?;
        let classes = labels.len();
        let mut starts = vec![0usize];
        let per_class = operator.ints("vectors_per_class")?.unwrap_or_default();
        for &count in per_class {
            let last = starts.last().copied().unwrap_or(0);
            let next = usize::try_from(count).ok().and_then(|count| last.checked_add(count));
            starts.push(next.ok_or_else(|| wrong(operator, format_args!("vectors_per_class has {count}")))?);
        }
        let vectors = starts.last().copied().unwrap_or(0);
        let list = |name: &str| operator.floats(name).map(Option::unwrap_or_default);
        let (coefficients, rho) = (list("coefficients")?, list("rho")?);
        let support = Support::of(operator, vectors, classes)?;
        let (a, b) = (list("prob_a")?, list("prob_b")?);
        if vectors == 0 {
            if rho.is_empty() {
                return Err(wrong(operator, "it lacks its attribute 'rho'"));
            }
            starts.clear();
        } else {
            let pairs = classes * (classes - 1) / 2;
            let needed = (classes - 1).checked_mul(vectors);
            let probable = (a.is_empty() && b.is_empty()) || (a.len() == pairs && b.len() == pairs);
            if classes < 2
                || per_class.len() != classes
                || Some(coefficients.len()) != needed
                || rho.len() != pairs
                || !probable
            {
                let (c, r, p, q) = (coefficients.len(), rho.len(), a.len(), b.len());
                let what = format_args!(
                    "{classes} classes with {vectors} vectors in {} parts do not fit {c} coefficients, {r} rho, {p} prob_a and {q} prob_b",
                    per_class.len()
                );
                return Err(wrong(operator, what));
            }
        }
        let probabilities = (vectors > 0 && !a.is_empty()).then_some((a, b));
        let transform = Transform::of(operator)?;
        Ok(Classifier { labels, support, starts, coefficients, rho, probabilities, transform })
    }

    /// Returns the number of scores of each row: one for each class where they are probabilities or
    /// linear, or where there are two classes, and otherwise one for each pair of classes.
    fn columns(&self) -> usize {
        let classes = self.labels.len();
        if self.starts.is_empty() || self.probabilities.is_some() || classes == 2 {
            classes
        } else {
            classes * (classes - 1) / 2
        }
    }

    /// Writes the score of each pair of classes, and adds a vote for the winner.
    fn pairs(&self, alike: &[f64], scores: &mut [f64], votes: &mut [usize]) {
        let vectors = alike.len();
        let sum = |row: usize, class: usize| {
            let range = self.starts[class]..self.starts[class + 1];
            let coefficients = &self.coefficients[row * vectors..][..vectors];
            coefficients[range.clone()].iter().zip(&alike[range]).map(|(&c, k)| f64::from(c) * k).sum::<f64>()
        };
        let classes = votes.len();
        let mut pair = 0;
        for i in 0..classes {
            for j in i + 1..classes {
                // Row r has the coefficients against class r, or r + 1 for the classes up to r.
                scores[pair] = sum(j - 1, i) + sum(i, j) + f64::from(self.rho[pair]);
                votes[if scores[pair] > 0.0 { i } else { j }] += 1;
                pair += 1;
            }
        }
    }
}

/// Couples the probabilities of pairs of classes (Wu, Lin and Weng, 2004, their second method, with
/// the stopping rule of LIBSVM).
/// `r` has the probability of class i against class j at [i, j].
fn couple(r: &[f64], classes: usize) -> Result<Vec<f64>> {
    let at = |i: usize, j: usize| r[i * classes + j];
    let mut q = vec![0.0; classes * classes];
    for i in 0..classes {
        for j in (0..classes).filter(|&j| j != i) {
            q[i * classes + i] += at(j, i) * at(j, i);
            q[i * classes + j] = -at(j, i) * at(i, j);
        }
    }
    let mut p = vec![1.0 / classes as f64; classes];
    for _ in 0..classes.max(100) {
        spend(4 * classes * classes)?;
        let mut qp: Vec<f64> =
            q.chunks_exact(classes).map(|row| row.iter().zip(&p).map(|(q, p)| q * p).sum()).collect();
        let mut pqp: f64 = p.iter().zip(&qp).map(|(p, qp)| p * qp).sum();
        let error = qp.iter().map(|qp| (qp - pqp).abs()).fold(0.0, f64::max);
        if error < 0.005 / classes as f64 {
            break;
        }
        for t in 0..classes {
            let step = (pqp - qp[t]) / q[t * classes + t];
            p[t] += step;
            let whole = 1.0 + step;
            pqp = (pqp + step * (step * q[t * classes + t] + 2.0 * qp[t])) / (whole * whole);
            for j in 0..classes {
                qp[j] = (qp[j] + step * q[t * classes + j]) / whole;
                p[j] /= whole;
            }
        }
    }
    Ok(p)
}

fn infer_classifier(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let classifier = Classifier::of(inference.operator)?;
    let rows = table(inference)?;
    if let Some((_, features)) = &rows {
        check_features(inference.operator, classifier.support.features, features)?;
    }
    Ok(classified(rows, &classifier.labels, classifier.columns()))
}

fn classify(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let classifier = Classifier::of(operator)?;
    let Classifier { labels, support, starts, transform, .. } = &classifier;
    let (rows, features) = sizes(operator, input)?;
    check_features(operator, support.features, &Dim::Known(features))?;
    let (classes, columns) = (labels.len(), classifier.columns());
    evaluation.reserve(DType::F32, &[rows, columns])?;
    take(element_count(&[rows, columns]).unwrap_or(usize::MAX), size_of::<f64>())?;
    take(element_count(&[classes, classes]).unwrap_or(usize::MAX), 4 * size_of::<f64>())?;
    take(rows.saturating_add(support.count), size_of::<f64>())?;
    let x = floats(input)?;
    let (mut scores, mut chosen) = (Vec::new(), Vec::new());
    let mut alike = vec![0.0; support.count];
    let mut pairs = vec![0.0; if starts.is_empty() { 0 } else { classes * (classes - 1) / 2 }];
    for row in 0..rows {
        support.compare(&x[row * features..][..features], &mut alike)?;
        if starts.is_empty() {
            let rho = f64::from(classifier.rho[0]);
            alike.iter_mut().for_each(|sum| *sum += rho);
            chosen.push(largest(alike.iter().copied()));
            transform.apply(&mut alike);
            scores.extend_from_slice(&alike);
            continue;
        }
        let mut votes = vec![0usize; classes];
        spend(classes.saturating_mul(support.count))?;
        classifier.pairs(&alike, &mut pairs, &mut votes);
        chosen.push(largest(votes.iter().map(|&votes| votes as f64)));
        let mut row = match classifier.probabilities {
            Some((a, b)) => {
                let mut r = vec![0.0; classes * classes];
                let mut pair = 0;
                for i in 0..classes {
                    for j in i + 1..classes {
                        let x = pairs[pair] * f64::from(a[pair]) + f64::from(b[pair]);
                        let share = (1.0 / (1.0 + x.exp())).clamp(1e-7, 1.0 - 1e-7);
                        (r[i * classes + j], r[j * classes + i]) = (share, 1.0 - share);
                        pair += 1;
                    }
                }
                couple(&r, classes)?
            }
            None if classes == 2 => {
                scores.extend(transform.pair(pairs[0], *transform == Transform::None));
                continue;
            }
            None => pairs.clone(),
        };
        transform.apply(&mut row);
        scores.extend(row);
    }
    Ok(vec![labels.tensor(&chosen)?, pack(scores, DType::F32, &[rows, columns])?])
}

/// Reads the vectors, coefficients and intercept of a regressor.
fn regressor(operator: &Operator) -> Result<(Support<'_>, &[f32], f64)> {
    let count = operator.int("n_supports")?.unwrap_or(0);
    let count = usize::try_from(count).map_err(|_| wrong(operator, "n_supports is negative"))?;
    let support = Support::of(operator, count, 1)?;
    let coefficients = operator.floats("coefficients")?.unwrap_or_default();
    if count > 0 && coefficients.len() != count {
        let length = coefficients.len();
        return Err(wrong(operator, format_args!("it has {length} coefficients for {count} vectors")));
    }
    match operator.floats("rho")? {
        Some(&[rho, ..]) => Ok((support, if count > 0 { coefficients } else { &[1.0] }, f64::from(rho))),
        _ => Err(wrong(operator, "it lacks its attribute 'rho'")),
    }
}

fn infer_regressor(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let (support, ..) = regressor(inference.operator)?;
    Transform::of(inference.operator)?;
    let rows = table(inference)?;
    if let Some((_, features)) = &rows {
        check_features(inference.operator, support.features, features)?;
    }
    let rows = rows.map_or(Dim::Unknown, |(rows, _)| rows);
    Ok(vec![TensorType::new(DType::F32, vec![rows, Dim::Known(1)])])
}

/// Computes an SVMRegressor, whose single result no `post_transform` changes, as in ONNX Runtime.
fn regress(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    let (support, coefficients, rho) = regressor(operator)?;
    let (rows, features) = sizes(operator, input)?;
    check_features(operator, support.features, &Dim::Known(features))?;
    let one_class = operator.int("one_class")?.unwrap_or(0) != 0;
    evaluation.reserve(DType::F32, &[rows, 1])?;
    take(rows.saturating_add(support.count), size_of::<f64>())?;
    let x = floats(input)?;
    let mut alike = vec![0.0; support.count];
    let mut results = Vec::with_capacity(rows);
    for row in 0..rows {
        support.compare(&x[row * features..][..features], &mut alike)?;
        let sum = rho + alike.iter().zip(coefficients).map(|(k, &c)| k * f64::from(c)).sum::<f64>();
        results.push(match one_class {
            false => sum,
            true if sum > 0.0 => 1.0,
            true => -1.0,
        });
    }
    Ok(vec![pack(results, DType::F32, &[rows, 1])?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coupled_probabilities_keep_pairs_that_agree() {
        // Shares of 0.5, 0.3 and 0.2 give these probabilities of pairs, which fit together.
        let shares = [0.5, 0.3, 0.2];
        let mut r = vec![0.0; 9];
        for i in 0..3 {
            for j in (0..3).filter(|&j| j != i) {
                r[i * 3 + j] = shares[i] / (shares[i] + shares[j]);
            }
        }
        let coupled = couple(&r, 3).unwrap();
        assert!((coupled.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(coupled.iter().zip(shares).all(|(a, b)| (a - b).abs() < 0.01), "{coupled:?}");
    }
}
