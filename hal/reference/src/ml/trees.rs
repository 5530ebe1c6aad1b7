//! Ensembles of decision trees: `TreeEnsemble`, `TreeEnsembleClassifier` and
//! `TreeEnsembleRegressor`.
//!
//! Votes are added tree by tree, in the order in which the trees are listed.

use hetero_hal::{
    DType, Definition, Dim, Evaluation, Inference, Operator, Result, Tensor, TensorType, element_count, spend, take,
};

use super::ensemble::{Aggregate, Ensemble};
use super::{classified, define, sizes, table, wrong};
use crate::numbers::{floats, pack};
use crate::shapes::elements;

pub(super) const CLASSIFIER: Definition =
    define("TreeEnsembleClassifier", 1, (1, 1), infer, evaluate).outputs(2).counting(flops);
pub(super) const REGRESSOR: Definition = define("TreeEnsembleRegressor", 1, (1, 1), infer, evaluate).counting(flops);
pub(super) const ENSEMBLE: Definition = define("TreeEnsemble", 5, (1, 1), infer, evaluate).counting(flops);

/// Counts one operation for each branch on a way of some seven, and one for the vote.
fn flops(operator: &Operator, _: &[Option<TensorType>], outputs: &[TensorType]) -> u64 {
    let trees = match operator.ints("tree_roots") {
        Ok(Some(roots)) => roots.len(),
        _ => operator.ints("nodes_truenodeids").ok().flatten().map_or(0, |nodes| nodes.len() / 32 + 1),
    };
    // The first output of a classifier has one element for each row.
    let rows = outputs.first().map_or(0, |output| match &output.dims {
        Some(dims) => elements(&TensorType { dtype: output.dtype, dims: Some(dims[..dims.len().min(1)].to_vec()) }),
        None => 1,
    });
    rows.saturating_mul(trees as u64).saturating_mul(8)
}

/// Returns the element type of the scores: the input's for `TreeEnsemble`, and else float32.
fn score_type(operator: &Operator, input: Option<DType>) -> Option<DType> {
    if &*operator.name == "TreeEnsemble" { input } else { Some(DType::F32) }
}

fn infer(inference: &Inference<'_>) -> Result<Vec<TensorType>> {
    let operator = inference.operator;
    let ensemble = Ensemble::of(operator)?;
    let rows = table(inference)?;
    if let Some(features) = rows.as_ref().and_then(|(_, features)| features.known()) {
        check(operator, &ensemble, features)?;
    }
    if let Some(labels) = ensemble.labels() {
        return Ok(classified(rows, labels, ensemble.targets));
    }
    let rows = rows.map_or(Dim::Unknown, |(rows, _)| rows);
    let dims = vec![rows, Dim::Known(ensemble.targets)];
    Ok(vec![TensorType { dtype: score_type(operator, inference.dtype(0)?), dims: Some(dims) }])
}

fn check(operator: &Operator, ensemble: &Ensemble, features: usize) -> Result<()> {
    if ensemble.features > features {
        let last = ensemble.features - 1;
        return Err(wrong(operator, format_args!("it reads feature {last}, and the input has {features}")));
    }
    Ok(())
}

fn evaluate(evaluation: &Evaluation<'_>) -> Result<Vec<Tensor>> {
    let (operator, input) = (evaluation.operator, evaluation.input(0)?);
    take(Ensemble::bytes(operator), 1)?;
    let ensemble = Ensemble::of(operator)?;
    let (rows, features) = sizes(operator, input)?;
    check(operator, &ensemble, features)?;
    let shape = [rows, ensemble.targets];
    let dtype = score_type(operator, Some(input.dtype())).unwrap_or(DType::F32);
    evaluation.reserve(dtype, &shape)?;
    take(element_count(&shape).unwrap_or(usize::MAX), 2 * size_of::<f64>())?;
    take(rows, size_of::<usize>())?;
    let x = floats(input)?;
    let mut sums = vec![0.0; rows * ensemble.targets];
    let mut chosen = Vec::with_capacity(rows);
    let mut voted = vec![false; ensemble.targets];
    for (row, sums) in sums.chunks_exact_mut(ensemble.targets).enumerate() {
        voted.fill(false);
        for &root in &ensemble.roots {
            let (leaf, steps) = ensemble.leaf(root, &x[row * features..][..features]);
            spend(steps + 2)?;
            for vote in ensemble.votes(leaf) {
                let target = vote.target as usize;
                let sum = &mut sums[target];
                *sum = match ensemble.aggregate {
                    _ if !voted[target] => vote.weight,
                    Aggregate::Min => sum.min(vote.weight),
                    Aggregate::Max => sum.max(vote.weight),
                    Aggregate::Sum | Aggregate::Average => *sum + vote.weight,
                };
                voted[target] = true;
            }
        }
        spend(ensemble.targets)?;
        chosen.push(ensemble.finish(sums, &voted));
    }
    let scores = pack(sums, dtype, &shape)?;
    match ensemble.labels() {
        Some(labels) => Ok(vec![labels.tensor(&chosen)?, scores]),
        None => Ok(vec![scores]),
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Attribute, ErrorKind};

    use super::*;

    fn ints(list: &[i64]) -> Attribute {
        Attribute::Ints(list.to_vec())
    }

    fn texts(list: &[&str]) -> Attribute {
        Attribute::Strings(list.iter().map(|text| text.as_bytes().into()).collect())
    }

    fn text(text: &str) -> Attribute {
        Attribute::String(text.as_bytes().into())
    }

    fn operator(name: &str, version: u32) -> Operator {
        Operator { domain: super::super::DOMAIN.into(), ..Operator::new(name, version) }
    }

    /// Makes two stumps, which compare feature 0 with 0 in this mode.
    fn stumps(name: &str, mode: &str) -> Operator {
        let tracks = [1, 0, 0, 0, 0, 0];
        operator(name, 3)
            .with("nodes_treeids", ints(&[0, 0, 0, 1, 1, 1]))
            .with("nodes_nodeids", ints(&[0, 1, 2, 0, 1, 2]))
            .with("nodes_featureids", ints(&[0; 6]))
            .with("nodes_modes", texts(&[mode, "LEAF", "LEAF", mode, "LEAF", "LEAF"]))
            .with("nodes_values", Attribute::Floats(vec![0.0; 6]))
            .with("nodes_truenodeids", ints(&[1, 0, 0, 1, 0, 0]))
            .with("nodes_falsenodeids", ints(&[2, 0, 0, 2, 0, 0]))
            .with("nodes_missing_value_tracks_true", ints(&tracks))
    }

    /// Gives the leaves of both stumps these weights for target 0.
    fn voting(operator: Operator, prefix: &str, weights: [f32; 4]) -> Operator {
        operator
            .with(&format!("{prefix}_treeids"), ints(&[0, 0, 1, 1]))
            .with(&format!("{prefix}_nodeids"), ints(&[1, 2, 1, 2]))
            .with(&format!("{prefix}_ids"), ints(&[0; 4]))
            .with(&format!("{prefix}_weights"), Attribute::Floats(weights.to_vec()))
    }

    fn regressor(mode: &str) -> Operator {
        voting(stumps("TreeEnsembleRegressor", mode), "target", [1.0, 2.0, 10.0, 20.0])
            .with("n_targets", Attribute::Int(1))
    }

    fn column(values: &[f32]) -> Option<Tensor> {
        Some(Tensor::from_vec(&[values.len(), 1], values.to_vec()).unwrap())
    }

    #[test]
    fn comparisons_and_missing_values_choose_the_way() {
        // The first stump sends what is missing the way of a comparison that holds.
        let cases = [
            ("BRANCH_LEQ", [11.0, 11.0, 22.0, 21.0]),
            ("BRANCH_LT", [11.0, 22.0, 22.0, 21.0]),
            ("BRANCH_GTE", [22.0, 11.0, 11.0, 21.0]),
            ("BRANCH_GT", [22.0, 22.0, 11.0, 21.0]),
            ("BRANCH_EQ", [22.0, 11.0, 22.0, 21.0]),
            // What is no number is not equal to anything.
            ("BRANCH_NEQ", [11.0, 22.0, 11.0, 11.0]),
        ];
        for (mode, expected) in cases {
            let y = crate::evaluate(&regressor(mode), &[column(&[-1.0, -0.0, 1.0, f32::NAN])], 1).unwrap();
            assert_eq!(&*y[0].view::<f32>().unwrap(), expected, "{mode}");
        }
    }

    #[test]
    fn votes_are_aggregated_and_the_base_comes_last() {
        for (function, expected) in [("SUM", 22.5), ("AVERAGE", 11.5), ("MIN", 2.5), ("MAX", 20.5)] {
            let operator = regressor("BRANCH_LEQ")
                .with("aggregate_function", text(function))
                .with("base_values", Attribute::Floats(vec![0.5]));
            let y = crate::evaluate(&operator, &[column(&[1.0])], 1).unwrap();
            assert_eq!(&*y[0].view::<f32>().unwrap(), [expected], "{function}");
        }
    }

    #[test]
    fn votes_for_one_class_decide_between_two() {
        let classifier = |weights, labels: &[i64]| {
            let stumps = stumps("TreeEnsembleClassifier", "BRANCH_LEQ");
            voting(stumps, "class", weights).with("classlabels_int64s", ints(labels))
        };
        let run = |operator: &Operator| {
            let y = crate::evaluate(operator, &[column(&[-1.0, 1.0])], 2).unwrap();
            (y[0].view::<i64>().unwrap().into_owned(), y[1].view::<f32>().unwrap().into_owned())
        };
        // Shares of 1, where a half decides.
        let shares = run(&classifier([0.125, 0.25, 0.25, 0.5], &[7, 9]));
        assert_eq!(shares, (vec![7, 9], vec![0.625, 0.375, 0.25, 0.75]));
        // Sums with a sign, where zero decides.
        let sums = run(&classifier([-0.5, 0.25, 0.25, 0.5], &[7, 9]));
        assert_eq!(sums, (vec![7, 9], vec![0.25, -0.25, -0.75, 0.75]));
        let logistic = classifier([-0.5, 0.25, 0.25, 0.5], &[7, 9]).with("post_transform", text("LOGISTIC"));
        let (labels, scores) = run(&logistic);
        assert_eq!(labels, [7, 9]);
        assert!((scores[3] - 0.679_178_7).abs() < 1e-6 && (scores[2] + scores[3] - 1.0).abs() < 1e-6);
        // One class is there or not.
        assert_eq!(run(&classifier([-0.5, 0.25, 0.25, 0.5], &[7])), (vec![0, 1], vec![-0.25, 0.75]));
        // A class without votes is never chosen.
        let (labels, _) = run(&classifier([-0.5, 0.25, 0.25, 0.5], &[7, 8, 9]));
        assert_eq!(labels, [7, 7]);
    }

    /// Makes a tree whose second branch asks for members of a set.
    fn members() -> Operator {
        operator("TreeEnsemble", 5)
            .with("tree_roots", ints(&[0]))
            .with("n_targets", Attribute::Int(2))
            .with("nodes_featureids", ints(&[0, 0]))
            .with("nodes_modes", Attribute::Tensor(Tensor::from_vec(&[2], vec![0u8, 6]).unwrap()))
            .with("nodes_splits", Attribute::Tensor(Tensor::from_vec(&[2], vec![0.1f64, 0.0]).unwrap()))
            .with("nodes_truenodeids", ints(&[0, 1]))
            .with("nodes_trueleafs", ints(&[1, 1]))
            .with("nodes_falsenodeids", ints(&[1, 2]))
            .with("nodes_falseleafs", ints(&[0, 1]))
            .with("leaf_targetids", ints(&[0, 1, 0]))
            .with("leaf_weights", Attribute::Tensor(Tensor::from_vec(&[3], vec![1.0f64, 2.0, 3.0]).unwrap()))
            .with("membership_values", Attribute::Tensor(Tensor::from_vec(&[3], vec![5.0f64, 7.5, f64::NAN]).unwrap()))
    }

    #[test]
    fn members_of_sets_are_found_in_doubles() {
        let x = Tensor::from_vec(&[4, 1], vec![0.1f64, 0.1 + 1e-12, 7.5, 6.0]).unwrap();
        let y = crate::evaluate(&members(), &[Some(x)], 1).unwrap();
        assert_eq!(&*y[0].view::<f64>().unwrap(), [1.0, 0.0, 3.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
    }

    #[test]
    fn branches_may_share_what_follows_but_not_lead_back() {
        let chain = |last: i64| {
            operator("TreeEnsembleRegressor", 3)
                .with("nodes_treeids", ints(&[0; 5]))
                .with("nodes_nodeids", ints(&[0, 1, 2, 3, 4]))
                .with("nodes_featureids", ints(&[0; 5]))
                .with("nodes_modes", texts(&["BRANCH_EQ", "BRANCH_EQ", "BRANCH_LEQ", "LEAF", "LEAF"]))
                .with("nodes_values", Attribute::Floats(vec![1.0, 2.0, 1.5, 0.0, 0.0]))
                .with("nodes_truenodeids", ints(&[2, 2, 3, 0, 0]))
                .with("nodes_falsenodeids", ints(&[1, 4, last, 0, 0]))
                .with("n_targets", Attribute::Int(1))
                .with("target_treeids", ints(&[0, 0]))
                .with("target_nodeids", ints(&[3, 4]))
                .with("target_ids", ints(&[0, 0]))
                .with("target_weights", Attribute::Floats(vec![1.0, 2.0]))
        };
        let y = crate::evaluate(&chain(4), &[column(&[1.0, 2.0, 3.0])], 1).unwrap();
        assert_eq!(&*y[0].view::<f32>().unwrap(), [1.0, 2.0, 2.0]);
        for back in [0, 1, 2] {
            let error = crate::evaluate(&chain(back), &[column(&[1.0])], 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidModel);
            assert!(error.message().contains("comes back to branch"), "{error}");
        }
    }

    #[test]
    fn lists_that_do_not_fit_together_are_refused_when_types_are_inferred() {
        let inferred = |operator: &Operator| {
            let ty = TensorType::exact(DType::F32, &[3, 1]);
            let facts = [Some(hetero_hal::InputFact { ty, value: None, most: None })];
            let none = |_: &str, _: &[TensorType]| Ok(vec![]);
            infer(&Inference { operator, inputs: &facts, outputs: 1, subgraph: &none })
        };
        assert!(inferred(&regressor("BRANCH_LEQ")).is_ok() && inferred(&members()).is_ok());
        let old: [(&str, Attribute, &str); 12] = [
            ("nodes_truenodeids", ints(&[5, 0, 0, 1, 0, 0]), "which is not there"),
            ("nodes_truenodeids", ints(&[1]), "6 are needed"),
            ("nodes_nodeids", ints(&[0, 0, 2, 0, 1, 2]), "has two nodes 0"),
            ("nodes_featureids", ints(&[-1, 0, 0, 0, 0, 0]), "'nodes_featureids' has -1"),
            ("nodes_featureids", ints(&[1, 0, 0, 0, 0, 0]), "it reads feature 1"),
            ("nodes_values", Attribute::Floats(vec![]), "'nodes_values'"),
            ("nodes_missing_value_tracks_true", ints(&[1]), "6 are needed"),
            ("target_ids", ints(&[0, 0, 0, 1]), "'target_ids' has 1"),
            ("target_ids", ints(&[i64::MAX, 0, 0, 0]), "'target_ids'"),
            ("target_nodeids", ints(&[7, 2, 1, 2]), "weight for node 7"),
            ("base_values", Attribute::Floats(vec![1.0, 2.0]), "2 base values"),
            ("aggregate_function", text("MEDIAN"), "'MEDIAN'"),
        ];
        for (name, value, expected) in old {
            let error = inferred(&regressor("BRANCH_LEQ").with(name, value)).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidModel && error.message().contains(expected), "{name}: {error}");
        }
        let new: [(&str, Attribute, &str); 6] = [
            ("tree_roots", ints(&[2]), "'tree_roots' has 2"),
            ("nodes_truenodeids", ints(&[3, 1]), "'nodes_truenodeids' has 3"),
            ("nodes_falsenodeids", ints(&[0, 2]), "comes back"),
            ("leaf_targetids", ints(&[0, 2, 0]), "'leaf_targetids' has 2"),
            ("leaf_targetids", ints(&[0]), "3 are needed"),
            ("n_targets", Attribute::Int(0), "n_targets"),
        ];
        for (name, value, expected) in new {
            let error = inferred(&members().with(name, value)).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidModel && error.message().contains(expected), "{name}: {error}");
        }
    }
}
