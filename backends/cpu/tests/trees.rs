//! Tests of decision trees: results do not depend on threads or on the number of rows, and trees of
//! unusual forms are walked too.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hetero_conformance::{Case, Outcome, check, program, run_program};
use hetero_cpu::CpuDriver;
use hetero_hal::{Attribute, Device, Driver, Element, OpenOptions, Operator, Tensor};
use hetero_testkit::SplitMix64 as Random;

fn device(threads: usize) -> Arc<dyn Device> {
    CpuDriver.open(0, &OpenOptions { threads: Some(threads), ..OpenOptions::default() }).unwrap()
}

fn ints(list: Vec<i64>) -> Attribute {
    Attribute::Ints(list)
}

fn tensor<T: Element>(list: Vec<T>) -> Attribute {
    Attribute::Tensor(Tensor::from_vec(&[list.len()], list).unwrap())
}

/// A tree ensemble in the making; branches lead to branches by position, and to leaves by their
/// number.
#[derive(Default)]
struct Ensemble {
    roots: Vec<i64>,
    features: Vec<i64>,
    modes: Vec<u8>,
    splits: Vec<f32>,
    missing: Vec<i64>,
    /// The ways of a comparison that holds and of one that does not: position, and 1 for a leaf.
    ways: [Vec<(i64, i64)>; 2],
    weights: Vec<f32>,
    targets: Vec<i64>,
}

impl Ensemble {
    fn branch(&mut self, mode: u8, feature: i64, split: f32) -> i64 {
        self.features.push(feature);
        self.modes.push(mode);
        self.splits.push(split);
        self.missing.push(0);
        self.ways.iter_mut().for_each(|way| way.push((0, 1)));
        self.features.len() as i64 - 1
    }

    fn leaf(&mut self, weight: f32, target: i64) -> i64 {
        self.weights.push(weight);
        self.targets.push(target);
        self.weights.len() as i64 - 1
    }

    /// Grows a tree of this many leaves, each split at random.
    fn grow(&mut self, random: &mut Random, (leaves, features): (usize, i64), target: i64) {
        let root = self.branch(0, 0, 0.0);
        self.roots.push(root);
        let mut ends = vec![];
        let mut next = root;
        for _ in 2..=leaves {
            let at = next as usize;
            self.features[at] = random.below(features as usize) as i64;
            self.modes[at] = random.below(6) as u8;
            self.splits[at] = random.signed_unit();
            self.missing[at] = random.below(2) as i64;
            ends.extend([(at, 0), (at, 1)]);
            if ends.len() < leaves {
                let (parent, way) = ends.swap_remove(random.below(ends.len()));
                next = self.branch(0, 0, 0.0);
                self.ways[way][parent] = (next, 0);
            }
        }
        for (parent, way) in ends {
            let leaf = self.leaf(random.signed_unit(), target);
            self.ways[way][parent] = (leaf, 1);
        }
    }

    fn operator(self, targets: i64) -> Operator {
        let [yes, no] = self.ways.map(|way| way.into_iter().unzip::<i64, i64, Vec<_>, Vec<_>>());
        Operator { domain: hetero_reference::ml::DOMAIN.into(), ..Operator::new("TreeEnsemble", 5) }
            .with("tree_roots", ints(self.roots))
            .with("n_targets", Attribute::Int(targets))
            .with("nodes_featureids", ints(self.features))
            .with("nodes_modes", tensor(self.modes))
            .with("nodes_splits", tensor(self.splits))
            .with("nodes_missing_value_tracks_true", ints(self.missing))
            .with("nodes_truenodeids", ints(yes.0))
            .with("nodes_trueleafs", ints(yes.1))
            .with("nodes_falsenodeids", ints(no.0))
            .with("nodes_falseleafs", ints(no.1))
            .with("leaf_targetids", ints(self.targets))
            .with("leaf_weights", tensor(self.weights))
    }
}

fn case(operator: Operator, x: Tensor) -> Case {
    Case { name: "trees".into(), operator, inputs: vec![Some(x)], constants: vec![], outputs: 1 }
}

fn run(device: &dyn Device, operator: &Operator, x: &Tensor) -> Vec<f32> {
    let (program, inputs) = program(&case(operator.clone(), x.clone())).unwrap();
    let outputs = run_program(device, &program, &inputs).unwrap();
    outputs[0].view::<f32>().unwrap().into_owned()
}

fn table(random: &mut Random, rows: usize, features: usize) -> Tensor {
    let value = |random: &mut Random| if random.below(20) == 0 { f32::NAN } else { random.signed_unit() };
    let values = (0..rows * features).map(|_| value(random)).collect();
    Tensor::from_vec(&[rows, features], values).unwrap()
}

#[test]
fn results_have_the_same_bits_for_any_threads_and_any_rows() {
    for targets in [1, 3] {
        let mut random = Random::new(7 + targets as u64);
        let mut ensemble = Ensemble::default();
        // There are so many trees that threads share those of one row.
        for tree in 0..3000 {
            ensemble.grow(&mut random, (15, 5), tree % targets);
        }
        let operator = ensemble.operator(targets);
        let x = table(&mut random, 77, 5);
        let devices: Vec<_> = [1, 2, 3, 8].map(device).into();
        let expected = run(&*devices[0], &operator, &x);
        for device in &devices {
            let found = run(&**device, &operator, &x);
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
            // Rows by themselves, which threads share in another way.
            for rows in [1, 5, 9] {
                let values = x.view::<f32>().unwrap()[..rows * 5].to_vec();
                let found = run(&**device, &operator, &Tensor::from_vec(&[rows, 5], values).unwrap());
                assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows} rows");
            }
        }
        assert!(matches!(check(&*devices[1], &case(operator, x)), Outcome::Passed(_)));
    }
}

#[test]
fn trees_that_share_nearly_everything_take_no_more_memory_for_it() {
    // A thousand trees begin one behind the other in one chain of branches, so that all of them
    // together would be a thousand times as large as the model.
    let mut ensemble = Ensemble::default();
    let (low, high) = (ensemble.leaf(1.0, 0), ensemble.leaf(2.0, 0));
    for step in 0..1000 {
        let branch = ensemble.branch(0, 0, step as f32);
        ensemble.roots.push(branch);
        ensemble.ways[0][branch as usize] = (low, 1);
        ensemble.ways[1][branch as usize] = if step < 999 { (branch + 1, 0) } else { (high, 1) };
    }
    let x = Tensor::from_vec(&[3, 1], vec![-1.0f32, 500.5, 2000.0]).unwrap();
    let case = case(ensemble.operator(1), x);
    assert!(matches!(check(&*device(2), &case), Outcome::Passed(_)));
}

#[test]
fn long_ways_and_many_features_are_walked_too() {
    let (steps, features) = (40_000, 40_000);
    let mut ensemble = Ensemble::default();
    let high = ensemble.leaf(-1.0, 0);
    for step in 0..steps {
        let branch = ensemble.branch(0, (step % features) as i64, 0.0);
        let leaf = ensemble.leaf(step as f32, 0);
        ensemble.ways[0][branch as usize] = (leaf, 1);
        ensemble.ways[1][branch as usize] = if step + 1 < steps { (branch + 1, 0) } else { (high, 1) };
    }
    ensemble.roots.push(0);
    let mut values = vec![1.0f32; 3 * features];
    values[features + 39_998] = -1.0;
    values[2 * features] = -1.0;
    let operator = ensemble.operator(1);
    let x = Tensor::from_vec(&[3, features], values).unwrap();
    assert_eq!(run(&*device(1), &operator, &x), [-1.0, 39_998.0, 0.0]);
    assert!(matches!(check(&*device(1), &case(operator, x)), Outcome::Passed(_)));
}

#[test]
fn whole_numbers_between_singles_go_the_exact_way() {
    // 2^24 is the last whole number before singles leave some out.
    let split = 16_777_216i64;
    for (mode, expected) in
        [(0, [1.0, 1.0, 2.0]), (1, [1.0, 2.0, 2.0]), (2, [2.0, 1.0, 1.0]), (3, [2.0, 2.0, 1.0]), (4, [2.0, 1.0, 2.0])]
    {
        let stump = |name: &str| {
            let modes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ"];
            let texts = [modes[mode], "LEAF", "LEAF"].map(|mode| mode.as_bytes().into());
            Operator { domain: hetero_reference::ml::DOMAIN.into(), ..Operator::new(name, 3) }
                .with("nodes_treeids", ints(vec![0; 3]))
                .with("nodes_nodeids", ints(vec![0, 1, 2]))
                .with("nodes_featureids", ints(vec![0; 3]))
                .with("nodes_modes", Attribute::Strings(texts.to_vec()))
                .with("nodes_values", Attribute::Floats(vec![split as f32, 0.0, 0.0]))
                .with("nodes_truenodeids", ints(vec![1, 0, 0]))
                .with("nodes_falsenodeids", ints(vec![2, 0, 0]))
                .with("n_targets", Attribute::Int(1))
                .with("target_treeids", ints(vec![0, 0]))
                .with("target_nodeids", ints(vec![1, 2]))
                .with("target_ids", ints(vec![0, 0]))
                .with("target_weights", Attribute::Floats(vec![1.0, 2.0]))
        };
        let x = Tensor::from_vec(&[3, 1], vec![split - 1, split, split + 1]).unwrap();
        let operator = stump("TreeEnsembleRegressor");
        assert_eq!(run(&*device(1), &operator, &x), expected, "mode {mode}");
        assert!(matches!(check(&*device(1), &case(operator, x)), Outcome::Passed(_)));
    }
}
