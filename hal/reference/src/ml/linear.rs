//! Linear models: `LinearClassifier` and `LinearRegressor`.

use hetero_hal::{
    DType, Definition, Dim, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use super::scores::{ClassLabels, Transform, largest};
use super::{check_features, classified, define, sizes, table, wrong};
use crate::numbers::{floats, pack};
use crate::shapes::elements;

pub(super) const CLASSIFIER: Definition =
    define("LinearClassifier", 1, (1, 1), infer_classifier, classify).outputs(2).counting(flops);
pub(super) const REGRESSOR: Definition = define("LinearRegressor", 1, (1, 1), infer_regressor, regress).counting(flops);

fn flops(operator: &Operator, inputs: &[Option<TensorType>], _: &[TensorType]) -> u64 {
    let columns = Columns::of(operator, 1, None).map_or(1, |columns| columns.intercepts.len());
    let input = inputs.first().and_then(Option::as_ref).map_or(0, elements);
    input.saturating_mul(2 * columns as u64)
}

/// The coefficients of each column of the result, one column behind the other.
struct Columns<'a> {
    coefficients: &'a [f32],
    intercepts: Vec<f32>,
    features: usize,
}

impl<'a> Columns<'a> {
    /// Reads the columns; where there are no intercepts, the features tell how many columns there
    /// are, or else `columns`.
    fn of(operator: &'a Operator, columns: usize, features: Option<usize>) -> Result<Self> {
        let coefficients = operator.floats("coefficients")?.unwrap_or_default();
        let columns = features.filter(|&count| count > 0).map_or(columns, |count| coefficients.len() / count);
        let intercepts = match operator.floats("intercepts")? {
            None | Some([]) if columns <= coefficients.len() => vec![0.0; columns],
            None | Some([]) => {
                return Err(wrong(operator, format_args!("it has no coefficients for {columns} columns")));
            }
            Some(list) => list.to_vec(),
        };
        let whole = coefficients.len() / intercepts.len().max(1);
        let divides = whole * intercepts.len() == coefficients.len();
        // ONNX Runtime does not read coefficients behind those that the features need, and the
        // model in its own package has some.
        let features = features.filter(|&count| (1..=whole).contains(&count));
        if coefficients.is_empty() || !(divides || features.is_some()) {
            let (coefficients, columns) = (coefficients.len(), intercepts.len());
            let what = format_args!("{coefficients} coefficients do not divide into {columns} columns");
            return Err(wrong(operator, what));
        }
        let features = features.unwrap_or(whole);
        Ok(Columns { coefficients, intercepts, features })
    }

    /// Reads the columns of a classifier: one for each class, or one for two classes.
    fn of_classes(operator: &'a Operator, classes: usize, features: Option<usize>) -> Result<Self> {
        let columns = Self::of(operator, classes, features)?;
        match (columns.intercepts.len(), classes) {
            (1, 2) => Ok(columns),
            (count, classes) if count == classes => Ok(columns),
            (count, _) => Err(wrong(operator, format_args!("it has {count} columns for {classes} classes"))),
        }
    }

    fn of_targets(operator: &'a Operator) -> Result<Self> {
        let targets = operator.int("targets")?.unwrap_or(1);
        let targets = usize::try_from(targets).ok().filter(|&targets| targets > 0);
        let targets = targets.ok_or_else(|| wrong(operator, "targets is not positive"))?;
        let columns = Self::of(operator, targets, None)?;
        if columns.intercepts.len() != targets {
            let count = columns.intercepts.len();
            return Err(wrong(operator, format_args!("it has {count} intercepts for {targets} targets")));
        }
        Ok(columns)
    }

    /// Calls a function with the sums of each row.
    fn each_row(&self, evaluation: &Evaluation<'_>, mut each: impl FnMut(&mut [f64])) -> Result<usize> {
        let (operator, input) = (evaluation.operator, evaluation.input(0)?);
        let (rows, features) = sizes(operator, input)?;
        check_features(operator, self.features, &Dim::Known(features))?;
        let x = floats(input)?;
        take(self.intercepts.len(), size_of::<f64>())?;
        let mut sums = vec![0.0; self.intercepts.len()];
        for row in 0..rows {
            spend(self.coefficients.len())?;
            let row = &x[row * features..][..features];
            let columns = self.coefficients.chunks_exact(self.features).zip(&self.intercepts);
            for (sum, (column, &intercept)) in sums.iter_mut().zip(columns) {
                *sum = f64::from(intercept) + row.iter().zip(column).map(|(x, &c)| x * f64::from(c)).sum::<f64>();
            }
            each(&mut sums);
        }
        Ok(rows)
    }
}

fn infer_classifier(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    let labels = ClassLabels::of(operator, "classlabels_ints")?;
    let rows = table(inference)?;
    let features = rows.as_ref().and_then(|(_, features)| features.known());
    let columns = Columns::of_classes(operator, labels.len(), features)?;
    Transform::of(operator)?;
    if let Some((_, features)) = &rows {
        check_features(operator, columns.features, features)?;
    }
    Ok(classified(rows, &labels, labels.len()))
}

fn classify(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let labels = ClassLabels::of(operator, "classlabels_ints")?;
    let (rows, features) = sizes(operator, evaluation.input(0)?)?;
    let columns = Columns::of_classes(operator, labels.len(), Some(features))?;
    let transform = Transform::of(operator)?;
    let shape = [rows, labels.len()];
    evaluation.reserve(DType::F32, &shape)?;
    take(element_count(&shape).unwrap_or(usize::MAX), size_of::<f64>())?;
    take(rows, size_of::<usize>())?;
    let (mut scores, mut chosen) = (Vec::new(), Vec::new());
    let classes = labels.len();
    columns.each_row(evaluation, |sums| match sums {
        &mut [sum] if classes == 2 => {
            chosen.push(usize::from(sum > 0.0));
            scores.extend(transform.pair(sum, false));
        }
        &mut [sum] => {
            chosen.push(usize::from(sum > 0.0));
            transform.apply(sums);
            scores.extend_from_slice(sums);
        }
        sums => {
            chosen.push(largest(sums.iter().copied()));
            transform.apply(sums);
            scores.extend_from_slice(sums);
        }
    })?;
    Ok(vec![labels.answers().tensor(&chosen)?, pack(scores, DType::F32, &shape)?])
}

fn infer_regressor(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    let columns = Columns::of_targets(operator)?;
    Transform::of(operator)?;
    let rows = table(inference)?;
    if let Some((_, features)) = &rows {
        check_features(operator, columns.features, features)?;
    }
    let rows = rows.map_or(Dim::Unknown, |(rows, _)| rows);
    Ok(vec![TensorType::new(DType::F32, vec![rows, Dim::Known(columns.intercepts.len())])])
}

fn regress(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let operator = evaluation.operator;
    let (columns, transform) = (Columns::of_targets(operator)?, Transform::of(operator)?);
    let (rows, _) = sizes(operator, evaluation.input(0)?)?;
    let shape = [rows, columns.intercepts.len()];
    evaluation.reserve(DType::F32, &shape)?;
    take(element_count(&shape).unwrap_or(usize::MAX), size_of::<f64>())?;
    let mut results = Vec::new();
    columns.each_row(evaluation, |sums| {
        transform.apply(sums);
        results.extend_from_slice(sums);
    })?;
    Ok(vec![pack(results, DType::F32, &shape)?])
}

#[cfg(test)]
mod tests {
    use hetero_hal::Attribute;

    use super::*;

    fn classifier(coefficients: &[f32], labels: &[i64]) -> Operator {
        Operator { domain: super::super::DOMAIN.into(), ..Operator::new("LinearClassifier", 1) }
            .with("coefficients", Attribute::Floats(coefficients.to_vec()))
            .with("classlabels_ints", Attribute::Ints(labels.to_vec()))
    }

    #[test]
    fn one_column_tells_two_classes_apart() {
        let x = Tensor::from_vec(&[2, 2], vec![1.0f32, 2.0, 1.0, -2.0]).unwrap();
        let y = crate::evaluate(&classifier(&[1.0, 1.0], &[7, 9]), &[Some(x)], 2).unwrap();
        assert_eq!(&*y[0].view::<i64>().unwrap(), [9, 7]);
        assert_eq!(&*y[1].view::<f32>().unwrap(), [-2.0, 3.0, 2.0, -1.0]);
    }

    #[test]
    fn coefficients_behind_those_of_the_features_are_not_read() {
        let model = classifier(&[1.0, 1.0, 2.0, 2.0, 9.0, 9.0], &[7, 9]);
        let model = model.with("intercepts", Attribute::Floats(vec![0.0, 0.0]));
        let x = |features: usize| Tensor::from_vec(&[1, features], vec![1.0f32; features]).unwrap();
        let y = crate::evaluate(&model, &[Some(x(2))], 2).unwrap();
        assert_eq!(&*y[1].view::<f32>().unwrap(), [2.0, 4.0]);
        assert!(crate::evaluate(&model, &[Some(x(4))], 2).is_err());
    }

    #[test]
    fn coefficients_have_to_fit_classes_and_features() {
        let x = || Tensor::from_vec(&[1, 2], vec![1.0f32, 2.0]).unwrap();
        for (coefficients, labels) in
            [(&[1.0f32, 2.0, 3.0][..], &[1i64, 2, 3][..]), (&[1.0], &[1, 2, 3]), (&[], &[1, 2])]
        {
            let error = crate::evaluate(&classifier(coefficients, labels), &[Some(x())], 2).unwrap_err();
            assert_eq!(error.kind(), hetero_hal::ErrorKind::InvalidModel, "{error}");
        }
    }
}
