//! What classifiers and regressors make of their sums: transforms, scores and labels.

use std::sync::Arc;

use hetero_hal::{DType, Operator, Result, Tensor, take};

use super::{texts, utf8, wrong};

/// The function that turns sums into scores, the standard's `post_transform`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Softmax,
    Logistic,
    SoftmaxZero,
    Probit,
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Returns the quantile of the normal distribution, by Winitzki's approximation of the inverse
/// error function with its constant of 0.147, as the standard's own implementation has it.
fn probit(x: f64) -> f64 {
    const A: f64 = 0.147;
    let y = 2.0 * x - 1.0;
    let log = ((1.0 - y) * (1.0 + y)).ln();
    let half = 2.0 / (std::f64::consts::PI * A) + 0.5 * log;
    let size = ((half * half - log / A).sqrt() - half).sqrt();
    std::f64::consts::SQRT_2 * if y < 0.0 { -size } else { size }
}

/// Divides exponentials by their sum; numbers next to zero stay there where `zeros` says so.
fn softmax(row: &mut [f64], zeros: bool) {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        let stays = zeros && value.abs() <= 1e-7;
        *value = if stays { *value * (-most).exp() } else { (*value - most).exp() };
        sum += *value;
    }
    // The standard's implementation gives 0.5 where all numbers are zeros that stay.
    row.iter_mut().for_each(|value| *value = if sum == 0.0 { 0.5 } else { *value / sum });
}

impl Transform {
    pub(super) fn of(operator: &Operator) -> Result<Self> {
        Ok(match operator.text("post_transform")? {
            None | Some("NONE") => Transform::None,
            Some("SOFTMAX") => Transform::Softmax,
            Some("LOGISTIC") => Transform::Logistic,
            Some("SOFTMAX_ZERO") => Transform::SoftmaxZero,
            Some("PROBIT") => Transform::Probit,
            Some(other) => return Err(wrong(operator, format_args!("post_transform '{other}' is unknown"))),
        })
    }

    /// Returns the transform of this number, as `TreeEnsemble` has it.
    pub(super) fn numbered(operator: &Operator) -> Result<Self> {
        use Transform::{Logistic, None, Probit, Softmax, SoftmaxZero};
        match operator.int("post_transform")?.unwrap_or(0) {
            number @ 0..=4 => Ok([None, Softmax, Logistic, SoftmaxZero, Probit][number as usize]),
            other => Err(wrong(operator, format_args!("post_transform {other} is unknown"))),
        }
    }

    /// Transforms the scores of one row.
    /// A single score is only transformed by PROBIT: ONNX Runtime has it so, and exporters put
    /// other functions into nodes of their own for this reason.
    pub(super) fn apply(self, row: &mut [f64]) {
        match self {
            Transform::Probit => row.iter_mut().for_each(|value| *value = probit(*value)),
            _ if row.len() < 2 => {}
            Transform::None => {}
            Transform::Logistic => row.iter_mut().for_each(|value| *value = logistic(*value)),
            Transform::Softmax => softmax(row, false),
            Transform::SoftmaxZero => softmax(row, true),
        }
    }

    /// Returns the scores of two classes for which there is only the second one's sum.
    /// It is a share of 1, or where it is `signed`, it is as far from 0 as the first one's.
    /// As in ONNX Runtime, the two are complements, which a softmax leaves alone.
    pub(super) fn pair(self, sum: f64, signed: bool) -> [f64; 2] {
        match self {
            Transform::Logistic => [logistic(-sum), logistic(sum)],
            Transform::Probit => [probit(1.0 - sum), probit(sum)],
            _ if signed => [-sum, sum],
            _ => [1.0 - sum, sum],
        }
    }
}

/// Returns the position of the largest number, the first one of equal ones.
pub(super) fn largest(row: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in row.into_iter().enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// The names of classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassLabels {
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Texts.
    Strings(Vec<Arc<str>>),
}

impl ClassLabels {
    /// Reads the labels of a classifier.
    pub(super) fn of(operator: &Operator, ints: &str) -> Result<Self> {
        let numbers = operator.ints(ints)?.filter(|list| !list.is_empty());
        let strings = texts(operator, "classlabels_strings")?.filter(|list| !list.is_empty());
        match (numbers, strings) {
            (Some(list), None) => Ok(ClassLabels::Ints(list.to_vec())),
            (None, Some(list)) => {
                list.iter().map(|text| utf8(operator, text)).collect::<Result<_>>().map(ClassLabels::Strings)
            }
            _ => Err(wrong(operator, format_args!("it needs class labels, either '{ints}' or 'classlabels_strings'"))),
        }
    }

    /// Returns the number of classes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            ClassLabels::Ints(list) => list.len(),
            ClassLabels::Strings(list) => list.len(),
        }
    }

    /// Tells whether there are no classes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the labels' element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            ClassLabels::Ints(_) => DType::I64,
            ClassLabels::Strings(_) => DType::String,
        }
    }

    /// Returns the labels of a classifier that tells one class from everything else: 0 and 1,
    /// whatever the class is called, as in ONNX Runtime.
    pub(super) fn answers(self) -> Self {
        match self {
            ClassLabels::Ints(list) if list.len() == 1 => ClassLabels::Ints(vec![0, 1]),
            ClassLabels::Strings(list) if list.len() == 1 => ClassLabels::Strings(vec!["0".into(), "1".into()]),
            labels => labels,
        }
    }

    /// Returns the tensor of the labels at these positions.
    pub(super) fn tensor(&self, chosen: &[usize]) -> Result<Tensor> {
        take(chosen.len(), size_of::<Arc<str>>())?;
        // Positions come from the same number of scores as there are labels.
        match self {
            ClassLabels::Ints(list) => {
                let labels = chosen.iter().map(|&index| list.get(index).copied().unwrap_or_default()).collect();
                Tensor::from_vec::<i64>(&[chosen.len()], labels)
            }
            ClassLabels::Strings(list) => {
                let labels = chosen.iter().map(|&index| list.get(index).cloned().unwrap_or_default()).collect();
                Tensor::from_strings(&[chosen.len()], labels)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probit_is_the_quantile_to_three_digits() {
        // Quantiles of the normal distribution, from a table.
        for (share, quantile) in [(0.5, 0.0), (0.841_344_7, 1.0), (0.977_249_9, 2.0), (0.308_537_5, -0.5)] {
            assert!((probit(share) - quantile).abs() < 4e-3, "{share}: {}", probit(share));
        }
        assert!(probit(1.5).is_nan());
    }

    #[test]
    fn zeros_stay_zeros_under_softmax_zero() {
        let mut row = [0.0, 1.0, 1.0];
        Transform::SoftmaxZero.apply(&mut row);
        assert_eq!(row, [0.0, 0.5, 0.5]);
        let mut row = [0.0, 0.0];
        Transform::SoftmaxZero.apply(&mut row);
        assert_eq!(row, [0.5, 0.5]);
    }

    #[test]
    fn one_score_stands_for_two_classes() {
        assert_eq!(Transform::None.pair(0.25, false), [0.75, 0.25]);
        assert_eq!(Transform::None.pair(0.25, true), [-0.25, 0.25]);
        let [no, yes] = Transform::Logistic.pair(2.0, true);
        assert!((no + yes - 1.0).abs() < 1e-15 && yes > 0.88);
    }
}
