//! Cases of classical machine learning: trees, linear models, support vectors, and what prepares
//! features for them.

use hetero_hal::{Attribute, DType, Operator, Tensor};

use crate::cases::{Drawn, Suite, i64s, ints, text};

/// The newest version of the domain's operator set.
const OPSET: u32 = 5;

const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];
const TRANSFORMS: [&str; 5] = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"];

fn operator(name: &str, version: u32) -> Operator {
    Operator { domain: hetero_reference::ml::DOMAIN.into(), ..Operator::new(name, version) }
}

fn floats(values: Vec<f32>) -> Attribute {
    Attribute::Floats(values)
}

fn texts(values: &[&str]) -> Attribute {
    Attribute::Strings(values.iter().map(|value| value.as_bytes().into()).collect())
}

fn tensor<T: hetero_hal::Element>(values: Vec<T>) -> hetero_hal::Result<Attribute> {
    Tensor::from_vec(&[values.len()], values).map(Attribute::Tensor)
}

/// What leaves say.
#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    /// Each leaf of tree `t` votes for target `t` modulo the number of targets.
    InTurn,
    /// Each leaf votes for all targets.
    All,
    /// Each leaf votes for some targets.
    Some,
    /// All leaves vote for target 0.
    First,
}

/// Random trees, as the older operators have them.
#[derive(Default)]
struct Trees {
    trees: Vec<i64>,
    nodes: Vec<i64>,
    features: Vec<i64>,
    modes: Vec<&'static str>,
    values: Vec<f32>,
    yes: Vec<i64>,
    no: Vec<i64>,
    missing: Vec<i64>,
    votes: Vec<(i64, i64, i64, f32)>,
}

impl Trees {
    fn operator(&self, name: &str, prefix: &str) -> Operator {
        let list = |of: fn(&(i64, i64, i64, f32)) -> i64| ints(&self.votes.iter().map(of).collect::<Vec<_>>());
        operator(name, 3)
            .with("nodes_treeids", ints(&self.trees))
            .with("nodes_nodeids", ints(&self.nodes))
            .with("nodes_featureids", ints(&self.features))
            .with("nodes_modes", texts(&self.modes))
            .with("nodes_values", floats(self.values.clone()))
            .with("nodes_truenodeids", ints(&self.yes))
            .with("nodes_falsenodeids", ints(&self.no))
            .with("nodes_missing_value_tracks_true", ints(&self.missing))
            .with("nodes_hitrates", floats(vec![1.0; self.nodes.len()]))
            .with(&format!("{prefix}_treeids"), list(|vote| vote.0))
            .with(&format!("{prefix}_nodeids"), list(|vote| vote.1))
            .with(&format!("{prefix}_ids"), list(|vote| vote.2))
            .with(&format!("{prefix}_weights"), floats(self.votes.iter().map(|vote| vote.3).collect()))
    }

    fn regressor(&self, targets: usize) -> Operator {
        self.operator("TreeEnsembleRegressor", "target").with("n_targets", Attribute::Int(targets as i64))
    }

    fn classifier(&self, classes: usize) -> Operator {
        let labels: Vec<i64> = (0..classes as i64).map(|class| 10 * class - 3).collect();
        self.operator("TreeEnsembleClassifier", "class").with("classlabels_int64s", ints(&labels))
    }

    /// Returns the same trees as the newer operator has them, with numbers of this type.
    /// The trees must have one vote in each leaf.
    fn ensemble(&self, dtype: DType, targets: usize) -> hetero_hal::Result<Operator> {
        let numbers = |values: Vec<f32>| match dtype {
            DType::F64 => tensor(values.into_iter().map(f64::from).collect::<Vec<_>>()),
            _ => tensor(values),
        };
        // The position of each node among branches or leaves.
        let (mut branches, mut leaves) = (0, 0);
        let mut places = std::collections::HashMap::new();
        for (index, mode) in self.modes.iter().enumerate() {
            let count = if *mode == "LEAF" { &mut leaves } else { &mut branches };
            places.insert((self.trees[index], self.nodes[index]), (*count, i64::from(*mode == "LEAF")));
            *count += 1;
        }
        let inner: Vec<usize> = (0..self.modes.len()).filter(|&index| self.modes[index] != "LEAF").collect();
        let child = |list: &[i64], leaf: bool| -> Attribute {
            let found = inner.iter().map(|&index| places[&(self.trees[index], list[index])]);
            ints(&found.map(|(place, is_leaf)| if leaf { is_leaf } else { place }).collect::<Vec<_>>())
        };
        let of = |list: &[i64]| ints(&inner.iter().map(|&index| list[index]).collect::<Vec<_>>());
        let mode = |&index: &usize| MODES.iter().position(|mode| *mode == self.modes[index]).unwrap_or(0) as u8;
        let mut seen = std::collections::HashSet::new();
        let roots = inner.iter().enumerate().filter(|(_, index)| seen.insert(self.trees[**index]));
        Ok(operator("TreeEnsemble", OPSET)
            .with("tree_roots", ints(&roots.map(|(place, _)| place as i64).collect::<Vec<_>>()))
            .with("n_targets", Attribute::Int(targets as i64))
            .with("nodes_featureids", of(&self.features))
            .with("nodes_modes", tensor(inner.iter().map(mode).collect::<Vec<u8>>())?)
            .with("nodes_splits", numbers(inner.iter().map(|&index| self.values[index]).collect())?)
            .with("nodes_missing_value_tracks_true", of(&self.missing))
            .with("nodes_truenodeids", child(&self.yes, false))
            .with("nodes_trueleafs", child(&self.yes, true))
            .with("nodes_falsenodeids", child(&self.no, false))
            .with("nodes_falseleafs", child(&self.no, true))
            .with("leaf_targetids", ints(&self.votes.iter().map(|vote| vote.2).collect::<Vec<_>>()))
            .with("leaf_weights", numbers(self.votes.iter().map(|vote| vote.3).collect())?))
    }
}

impl Suite {
    pub(crate) fn machine_learning(&mut self) {
        self.regressors();
        self.classifiers();
        self.ensembles();
        self.linear_models();
        self.support_vectors();
        self.scaling();
        self.categories();
        self.features();
    }

    /// Makes features in steps of a quarter, some of which are missing, so that comparisons for
    /// equality hold now and then.
    fn table(&mut self, dtype: DType, rows: usize, features: usize) -> Drawn {
        let values = (0..rows * features).map(|_| match self.random.below(24) {
            0 if dtype.is_float() => f32::NAN,
            1 if dtype.is_float() => f32::INFINITY,
            step => step as f32 / if dtype.is_float() { 4.0 } else { 1.0 } - 3.0,
        });
        let table = Tensor::from_vec::<f32>(&[rows, features], values.collect());
        crate::cases::cast(table, dtype)
    }

    /// Grows trees of up to `leaves` leaves: a random leaf becomes a branch, again and again.
    fn trees(
        &mut self,
        (trees, leaves, features): (usize, usize, usize),
        targets: usize,
        kind: Leaves,
        plain: bool,
    ) -> Trees {
        let mut grown = Trees::default();
        for tree in 0..trees {
            let (start, leaves) = (grown.nodes.len(), 2 + self.random.below(leaves - 1));
            let mut ends = vec![0];
            let add = |grown: &mut Trees| {
                let node = grown.nodes.len() - start;
                grown.trees.push(tree as i64);
                grown.nodes.push(node as i64);
                grown.features.push(0);
                grown.modes.push("LEAF");
                grown.values.push(0.0);
                grown.yes.push(0);
                grown.no.push(0);
                grown.missing.push(0);
                node
            };
            add(&mut grown);
            while ends.len() < leaves {
                let node = ends.swap_remove(self.random.below(ends.len()));
                let (yes, no) = (add(&mut grown), add(&mut grown));
                let at = start + node;
                grown.features[at] = self.random.below(features) as i64;
                grown.modes[at] = if plain { MODES[0] } else { MODES[self.random.below(MODES.len())] };
                grown.values[at] = self.random.below(24) as f32 / 4.0 - 3.0;
                (grown.yes[at], grown.no[at]) = (yes as i64, no as i64);
                grown.missing[at] = if plain { 0 } else { self.random.below(2) as i64 };
                ends.extend([yes, no]);
            }
            for node in (0..grown.nodes.len() - start).filter(|&node| grown.modes[start + node] == "LEAF") {
                for target in 0..targets {
                    let votes = match kind {
                        Leaves::InTurn => target == tree % targets,
                        Leaves::All => true,
                        Leaves::Some => self.random.below(3) > 0,
                        Leaves::First => target == 0,
                    };
                    if votes {
                        let weight = self.random.unit();
                        grown.votes.push((tree as i64, node as i64, target as i64, weight));
                    }
                }
            }
        }
        grown
    }

    fn regressors(&mut self) {
        for (rows, sizes) in
            [(1, (1, 2, 1)), (1, (19, 31, 7)), (3, (5, 8, 3)), (8, (3, 5, 2)), (41, (9, 31, 5)), (300, (20, 40, 11))]
        {
            for (targets, kind) in [(1, Leaves::InTurn), (3, Leaves::InTurn), (3, Leaves::All), (4, Leaves::Some)] {
                for plain in [true, false] {
                    let trees = self.trees(sizes, targets, kind, plain);
                    let x = self.table(DType::F32, rows, sizes.2);
                    let detail =
                        format!("{rows} rows {sizes:?} targets {targets} {}", if plain { "plain" } else { "mixed" });
                    self.add(&detail, trees.regressor(targets), vec![x], &[], 1);
                }
            }
        }
        for aggregate in ["SUM", "AVERAGE", "MIN", "MAX"] {
            for (targets, kind) in [(1, Leaves::InTurn), (2, Leaves::InTurn), (2, Leaves::All), (3, Leaves::Some)] {
                for based in [false, true] {
                    let trees = self.trees((7, 6, 3), targets, kind, true);
                    let mut operator = trees.regressor(targets).with("aggregate_function", text(aggregate));
                    if based {
                        let base = (0..targets).map(|_| self.random.unit()).collect();
                        operator = operator.with("base_values", floats(base));
                    }
                    let x = self.table(DType::F32, 19, 3);
                    let detail = format!("{aggregate} targets {targets}{}", if based { " with a base" } else { "" });
                    self.add(&detail, operator, vec![x], &[], 1);
                }
            }
        }
        for transform in TRANSFORMS {
            for targets in [1, 2, 3] {
                let trees = self.trees((4, 6, 3), targets, Leaves::InTurn, true);
                let operator = trees.regressor(targets).with("post_transform", text(transform));
                let x = self.table(DType::F32, 19, 3);
                self.add(&format!("{transform} targets {targets}"), operator, vec![x], &[], 1);
            }
        }
        for dtype in [DType::F64, DType::I64, DType::I32] {
            let trees = self.trees((5, 9, 4), 1, Leaves::InTurn, false);
            let x = self.table(dtype, 19, 4);
            self.add(dtype.name(), trees.regressor(1), vec![x], &[], 1);
        }
        // Features lie next to values that are singles.
        let trees = self.trees((3, 8, 1), 1, Leaves::InTurn, false);
        let near = trees.values.iter().map(|&value| f64::from(value) * (1.0 + 1e-12));
        let x = Tensor::from_vec(&[trees.values.len(), 1], near.collect::<Vec<f64>>());
        self.add("doubles next to singles", trees.regressor(1), vec![x], &[], 1);
        let trees = self.trees((3, 8, 2), 1, Leaves::InTurn, false);
        let mut operator = trees.regressor(1);
        for name in ["nodes_values", "target_weights"] {
            if let Some(Attribute::Floats(values)) = operator.attributes.remove(name) {
                let doubles = tensor(values.into_iter().map(|value| f64::from(value) + 0.1).collect::<Vec<f64>>());
                let Some(doubles) = self.kept(name, doubles) else { return };
                operator = operator.with(&format!("{name}_as_tensor"), doubles);
            }
        }
        let x = self.table(DType::F64, 19, 2);
        self.add("doubles as tensors", operator, vec![x], &[], 1);
        let trees = self.trees((5, 9, 4), 1, Leaves::InTurn, true);
        let x = self.random.between(&[4], -3.0, 3.0);
        self.add("one row without a batch", trees.regressor(1), vec![x], &[], 1);
    }

    fn classifiers(&mut self) {
        let kinds = [
            (2, Leaves::First, "two classes with one sum"),
            (1, Leaves::First, "one class"),
            (3, Leaves::InTurn, "three classes in turn"),
            (3, Leaves::All, "three classes at once"),
            (4, Leaves::Some, "four classes now and then"),
        ];
        for (classes, kind, name) in kinds {
            for transform in TRANSFORMS {
                for positive in [false, true] {
                    let mut trees = self.trees((6, 7, 4), classes, kind, true);
                    if positive {
                        trees.votes.iter_mut().for_each(|vote| vote.3 = vote.3.abs() / 6.0);
                    }
                    let operator = trees.classifier(classes).with("post_transform", text(transform));
                    let x = self.table(DType::F32, 19, 4);
                    let detail = format!("{name} {transform}{}", if positive { " of shares" } else { "" });
                    self.add(&detail, operator, vec![x], &[], 2);
                }
            }
        }
        for (classes, kind, bases) in [(2, Leaves::First, 1), (3, Leaves::All, 3), (3, Leaves::Some, 3)] {
            let trees = self.trees((6, 7, 4), classes, kind, true);
            let base = (0..bases).map(|_| self.random.unit()).collect();
            let x = self.table(DType::F32, 19, 4);
            let operator = trees.classifier(classes).with("base_values", floats(base));
            self.add(&format!("{classes} classes with {bases} base values"), operator, vec![x], &[], 2);
        }
        for both in [Leaves::All, Leaves::InTurn] {
            let trees = self.trees((6, 7, 4), 2, both, true);
            let x = self.table(DType::F32, 19, 4);
            self.add("two classes with a sum each", trees.classifier(2), vec![x], &[], 2);
        }
        for dtype in [DType::F64, DType::I64, DType::I32] {
            let trees = self.trees((5, 9, 4), 3, Leaves::All, false);
            let x = self.table(dtype, 19, 4);
            self.add(dtype.name(), trees.classifier(3), vec![x], &[], 2);
        }
    }

    fn ensembles(&mut self) {
        for dtype in [DType::F32, DType::F64] {
            for (rows, targets) in [(1, 1), (5, 2), (40, 1), (40, 3)] {
                for aggregate in 0..4 {
                    let trees = self.trees((6, 9, 4), targets, Leaves::InTurn, false);
                    let Some(operator) = self.kept("TreeEnsemble", trees.ensemble(dtype, targets)) else { return };
                    let operator = operator.with("aggregate_function", Attribute::Int(aggregate));
                    let x = self.table(dtype, rows, 4);
                    let detail = format!("{dtype} rows {rows} targets {targets} aggregate {aggregate}");
                    self.add(&detail, operator, vec![x], &[], 1);
                }
            }
            for transform in 0..4 {
                let trees = self.trees((6, 9, 4), 3, Leaves::InTurn, false);
                let Some(operator) = self.kept("TreeEnsemble", trees.ensemble(dtype, 3)) else { return };
                let x = self.table(dtype, 19, 4);
                let operator = operator.with("post_transform", Attribute::Int(transform));
                self.add(&format!("{dtype} transform {transform}"), operator, vec![x], &[], 1);
            }
        }
        for members in [&[1.0f32][..], &[-3.0, 0.25, 0.5, 2.0], &[0.0, 0.0]] {
            let lists = tensor([members, &[f32::NAN]].concat());
            let (modes, splits, weights) = (tensor(vec![6u8]), tensor(vec![0.0f32]), tensor(vec![1.0f32, 2.0]));
            let all = (|| Ok((lists?, modes?, splits?, weights?)))();
            let Some((lists, modes, splits, weights)) = self.kept("TreeEnsemble", all) else { return };
            for missing in [0, 1] {
                let operator = operator("TreeEnsemble", OPSET)
                    .with("tree_roots", ints(&[0]))
                    .with("n_targets", Attribute::Int(1))
                    .with("nodes_featureids", ints(&[0]))
                    .with("nodes_modes", modes.clone())
                    .with("nodes_splits", splits.clone())
                    .with("nodes_missing_value_tracks_true", ints(&[missing]))
                    .with("nodes_truenodeids", ints(&[0]))
                    .with("nodes_trueleafs", ints(&[1]))
                    .with("nodes_falsenodeids", ints(&[1]))
                    .with("nodes_falseleafs", ints(&[1]))
                    .with("leaf_targetids", ints(&[0, 0]))
                    .with("leaf_weights", weights.clone())
                    .with("membership_values", lists.clone());
                let x = self.table(DType::F32, 60, 1);
                self.add(&format!("members {members:?} missing {missing}"), operator, vec![x], &[], 1);
            }
        }
    }

    fn linear_models(&mut self) {
        for dtype in [DType::F32, DType::F64, DType::I64, DType::I32] {
            for (rows, classes, columns) in [(1, 2, 1), (19, 2, 1), (19, 2, 2), (19, 3, 3)] {
                for transform in TRANSFORMS {
                    let coefficients = (0..columns * 5).map(|_| self.random.unit()).collect();
                    let intercepts = (0..columns).map(|_| self.random.unit()).collect();
                    let labels: Vec<i64> = (0..classes).map(|class| 7 - class).collect();
                    let operator = operator("LinearClassifier", 1)
                        .with("coefficients", floats(coefficients))
                        .with("intercepts", floats(intercepts))
                        .with("classlabels_ints", ints(&labels))
                        .with("post_transform", text(transform));
                    let x = self.numbers(dtype, &[rows, 5], -2.0, 2.0);
                    self.add(&format!("{dtype} {rows} {classes} {columns} {transform}"), operator, vec![x], &[], 2);
                }
            }
        }
        for dtype in [DType::F32] {
            for targets in [1, 3] {
                for transform in TRANSFORMS {
                    for intercepts in [0, targets] {
                        let coefficients = (0..targets * 5).map(|_| self.random.unit()).collect();
                        let intercepts = (0..intercepts).map(|_| self.random.unit()).collect();
                        let operator = operator("LinearRegressor", 1)
                            .with("coefficients", floats(coefficients))
                            .with("intercepts", floats(intercepts))
                            .with("targets", Attribute::Int(targets))
                            .with("post_transform", text(transform));
                        let x = self.numbers(dtype, &[11, 5], -2.0, 2.0);
                        self.add(&format!("{dtype} {targets} {transform}"), operator, vec![x], &[], 1);
                    }
                }
            }
        }
    }

    fn support_vectors(&mut self) {
        let drawn = |suite: &mut Suite, count: usize| -> Attribute {
            floats((0..count).map(|_| suite.random.unit()).collect())
        };
        let params = || floats(vec![0.5, 0.25, 2.0]);
        for kernel in ["LINEAR", "POLY", "RBF", "SIGMOID"] {
            for classes in [2, 3, 4] {
                for probable in [false, true] {
                    let pairs = classes * (classes - 1) / 2;
                    let vectors = 2 * classes + 1;
                    let mut per_class = vec![2i64; classes];
                    per_class[1] = 3;
                    let labels: Vec<i64> = (0..classes as i64).map(|class| class + 4).collect();
                    let mut operator = operator("SVMClassifier", 1)
                        .with("kernel_type", text(kernel))
                        .with("kernel_params", params())
                        .with("vectors_per_class", ints(&per_class))
                        .with("support_vectors", drawn(self, vectors * 3))
                        .with("coefficients", drawn(self, vectors * (classes - 1)))
                        .with("rho", drawn(self, pairs))
                        .with("classlabels_ints", ints(&labels));
                    if probable {
                        operator = operator.with("prob_a", drawn(self, pairs)).with("prob_b", drawn(self, pairs));
                    }
                    let x = self.random.between(&[13, 3], -2.0, 2.0);
                    let detail = format!("{kernel} {classes}{}", if probable { " with probabilities" } else { "" });
                    self.add(&detail, operator, vec![x], &[], 2);
                }
            }
            for one_class in [0, 1] {
                let operator = operator("SVMRegressor", 1)
                    .with("kernel_type", text(kernel))
                    .with("kernel_params", params())
                    .with("n_supports", Attribute::Int(4))
                    .with("support_vectors", drawn(self, 12))
                    .with("coefficients", drawn(self, 4))
                    .with("one_class", Attribute::Int(one_class))
                    .with("rho", drawn(self, 1));
                let x = self.random.between(&[13, 3], -2.0, 2.0);
                self.add(&format!("{kernel} {one_class}"), operator, vec![x], &[], 1);
            }
        }
        for classes in [2, 3] {
            for transform in TRANSFORMS {
                let labels: Vec<i64> = (0..classes as i64).collect();
                let operator = operator("SVMClassifier", 1)
                    .with("kernel_params", params())
                    .with("coefficients", drawn(self, classes * 3))
                    .with("rho", drawn(self, 1))
                    .with("classlabels_ints", ints(&labels))
                    .with("post_transform", text(transform));
                let x = self.random.between(&[13, 3], -2.0, 2.0);
                self.add(&format!("linear {classes} {transform}"), operator, vec![x], &[], 2);
            }
        }
        let operator = operator("SVMRegressor", 1).with("kernel_params", params());
        let operator = operator.with("coefficients", drawn(self, 3)).with("rho", drawn(self, 1));
        let x = self.random.between(&[13, 3], -2.0, 2.0);
        self.add("linear", operator, vec![x], &[], 1);
    }

    fn scaling(&mut self) {
        let types = [DType::F32, DType::F64, DType::I64, DType::I32];
        for dtype in types {
            for width in [1, 4] {
                let (scale, offset) =
                    (self.random.between(&[width], 0.5, 2.0), self.random.between(&[width], -1.0, 1.0));
                let lists = (|| Ok((scale?.view::<f32>()?.to_vec(), offset?.view::<f32>()?.to_vec())))();
                let Some((scale, offset)) = self.kept("Scaler", lists) else { return };
                let operator = operator("Scaler", 1).with("scale", floats(scale)).with("offset", floats(offset));
                let x = self.numbers(dtype, &[5, 4], -3.0, 3.0);
                self.add(&format!("{dtype} {width}"), operator, vec![x], &[], 1);
            }
            for norm in ["MAX", "L1", "L2"] {
                for shape in [&[5, 4][..], &[3], &[1, 70]] {
                    let x = self.numbers(dtype, shape, -3.0, 3.0);
                    let operator = operator("Normalizer", 1).with("norm", text(norm));
                    self.add(&format!("{dtype} {norm} {shape:?}"), operator, vec![x], &[], 1);
                }
            }
            let x = self.numbers(dtype, &[5, 4], -3.0, 3.0);
            let binarizer = operator("Binarizer", 1).with("threshold", Attribute::Float(0.5));
            self.add(dtype.name(), binarizer, vec![x], &[], 1);
            for width in [1, 4] {
                let x = self.table(dtype, 9, 4);
                let imputer = if dtype.is_float() {
                    let values = (0..width).map(|index| index as f32 + 0.5).collect();
                    let imputer = operator("Imputer", 1).with("imputed_value_floats", floats(values));
                    imputer.with("replaced_value_float", Attribute::Float(if width == 1 { f32::NAN } else { -1.0 }))
                } else {
                    let values: Vec<i64> = (0..width).map(|index| index + 50).collect();
                    let imputer = operator("Imputer", 1).with("imputed_value_int64s", ints(&values));
                    imputer.with("replaced_value_int64", Attribute::Int(4))
                };
                self.add(&format!("{dtype} {width}"), imputer, vec![x], &[], 1);
            }
        }
    }

    fn categories(&mut self) {
        let keys: Vec<i64> = (-3..4).collect();
        let halves: Vec<f32> = keys.iter().map(|&key| key as f32 / 2.0).collect();
        let encoder = || operator("LabelEncoder", 2);
        let from_ints = encoder().with("keys_int64s", ints(&keys)).with("values_floats", floats(halves.clone()));
        let from_floats = encoder().with("keys_floats", floats(halves)).with("values_int64s", ints(&keys));
        let from_floats = from_floats.with("default_int64", Attribute::Int(99));
        let x = self.numbers(DType::I64, &[3, 7], -6.0, 6.0);
        self.add("int64 to float32", from_ints, vec![x], &[], 1);
        let halves = self.numbers(DType::I64, &[3, 7], -6.0, 6.0);
        let halves = crate::cases::cast(halves, DType::F32);
        self.add("float32 to int64", from_floats, vec![halves], &[], 1);
        let tensors = || {
            let encoder = operator("LabelEncoder", 4)
                .with("keys_tensor", tensor(vec![1i16, 2, 5])?)
                .with("values_tensor", tensor(vec![0.5f64, 1.5, -2.0])?)
                .with("default_tensor", tensor(vec![7.25f64])?);
            Ok(encoder)
        };
        if let Some(encoder) = self.kept("LabelEncoder", tensors()) {
            let x = self.numbers(DType::I16, &[20], 0.0, 6.0);
            self.add("tensors", encoder, vec![x], &[], 1);
        }
        for dtype in [DType::I64, DType::I32, DType::F32, DType::F64] {
            for shape in [&[7][..], &[3, 5]] {
                let x = self.numbers(dtype, shape, -1.0, 5.0);
                let operator = operator("OneHotEncoder", 1).with("cats_int64s", ints(&[0, 3, 1]));
                self.add(&format!("{dtype} {shape:?}"), operator, vec![x], &[], 1);
            }
        }
    }

    fn features(&mut self) {
        for dtype in [DType::F32, DType::F64, DType::I64, DType::I32] {
            for (shape, chosen) in [(&[3, 5][..], &[4, 0, 0][..]), (&[5], &[2]), (&[2, 3, 4], &[1, 3])] {
                let inputs = vec![self.numbers(dtype, shape, -5.0, 5.0), i64s(chosen)];
                self.add(
                    &format!("{dtype} {shape:?} {chosen:?}"),
                    operator("ArrayFeatureExtractor", 1),
                    inputs,
                    &[],
                    1,
                );
            }
            for widths in [&[2, 3][..], &[1, 5], &[2, 2]] {
                let inputs = vec![self.numbers(dtype, &[4, 2], -5.0, 5.0), self.numbers(dtype, &[4, 3], -5.0, 5.0)];
                let widths: Vec<i64> = widths.iter().map(|&width| width as i64).collect();
                let operator = operator("FeatureVectorizer", 1).with("inputdimensions", ints(&widths));
                self.add(&format!("{dtype} {widths:?}"), operator, inputs, &[], 1);
            }
        }
        let x = self.random.between(&[4, 3], 0.0, 1.0);
        let zip = operator("ZipMap", 1).with("classlabels_int64s", ints(&[4, 5, 6]));
        self.add("a table", zip, vec![x], &[], 1);
    }
}
