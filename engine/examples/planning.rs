//! The time that planning takes, step by step.
//! `planning [PLANS] [MODEL]` plans a network like BERT and graphs of 10 000 nodes on cpu:0.
//! It prints the milliseconds of the first plan and the least of all plans.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use hetero::hal::{Attribute, DType, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, HeteroEngine, Model, PlanTiming, Tensor};

/// The number of positions of the network; features and heads follow.
const POSITIONS: usize = 64;
const FEATURES: usize = 128;
const HEADS: usize = 4;

/// A graph to which nodes are added.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    fn value(&mut self, name: String, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        self.0.values.push(Value { name: name.into(), ty, constant });
        ValueId(self.0.values.len() as u32 - 1)
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let id = self.value("x".into(), TensorType::exact(DType::F32, shape), None);
        self.0.inputs.push(id);
        id
    }

    fn weights(&mut self, shape: &[usize]) -> ValueId {
        let (name, count) = (format!("w{}", self.0.values.len()), shape.iter().product());
        let content = Tensor::from_vec(shape, (0..count).map(|i| (i as f32 * 0.37).sin() * 0.1).collect()).unwrap();
        self.value(name, TensorType::exact(DType::F32, shape), Some(content))
    }

    fn integers(&mut self, content: &[i64]) -> ValueId {
        let name = format!("i{}", self.0.values.len());
        let content = Tensor::from_vec(&[content.len()], content.to_vec()).unwrap();
        self.value(name, TensorType::exact(DType::I64, content.shape()), Some(content))
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let number = self.0.nodes.len();
        let output = self.value(format!("v{number}"), TensorType::default(), None);
        self.0.nodes.push(Node {
            name: format!("{}_{number}", operator.name).into(),
            operator,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    fn model(mut self, output: ValueId) -> Model {
        self.0.outputs.push(output);
        Model { graph: self.0, opsets: [("".into(), 17)].into(), ..Model::default() }
    }
}

fn operator(name: &str) -> Operator {
    Operator::new(name, 17)
}

/// Adds a product with weights and a bias.
fn dense(b: &mut Builder, x: ValueId, from: usize, to: usize) -> ValueId {
    let (weights, bias) = (b.weights(&[from, to]), b.weights(&[to]));
    let product = b.node(operator("MatMul"), &[x, weights]);
    b.node(operator("Add"), &[product, bias])
}

fn norm(b: &mut Builder, x: ValueId) -> ValueId {
    let (scale, bias) = (b.weights(&[FEATURES]), b.weights(&[FEATURES]));
    b.node(operator("LayerNormalization"), &[x, scale, bias])
}

/// Makes an encoder with the given number of layers.
fn encoder(layers: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input(&[1, POSITIONS, FEATURES]);
    for _ in 0..layers {
        let heads = |b: &mut Builder, perm: &[i64]| {
            let y = dense(b, x, FEATURES, FEATURES);
            let shape = b.integers(&[1, POSITIONS as i64, HEADS as i64, (FEATURES / HEADS) as i64]);
            let y = b.node(operator("Reshape"), &[y, shape]);
            b.node(operator("Transpose").with("perm", Attribute::Ints(perm.to_vec())), &[y])
        };
        let (q, k, v) = (heads(&mut b, &[0, 2, 1, 3]), heads(&mut b, &[0, 2, 3, 1]), heads(&mut b, &[0, 2, 1, 3]));
        let scores = b.node(operator("MatMul"), &[q, k]);
        let scores = b.node(operator("Softmax").with("axis", Attribute::Int(-1)), &[scores]);
        let mixed = b.node(operator("MatMul"), &[scores, v]);
        let mixed = b.node(operator("Transpose").with("perm", Attribute::Ints(vec![0, 2, 1, 3])), &[mixed]);
        let shape = b.integers(&[1, POSITIONS as i64, FEATURES as i64]);
        let mixed = b.node(operator("Reshape"), &[mixed, shape]);
        let mixed = dense(&mut b, mixed, FEATURES, FEATURES);
        let sum = b.node(operator("Add"), &[mixed, x]);
        let normed = norm(&mut b, sum);
        let wide = dense(&mut b, normed, FEATURES, 4 * FEATURES);
        let wide = b.node(operator("Tanh"), &[wide]);
        let narrow = dense(&mut b, wide, 4 * FEATURES, FEATURES);
        let sum = b.node(operator("Add"), &[narrow, normed]);
        x = norm(&mut b, sum);
    }
    b.model(x)
}

/// Makes a chain with the given number of nodes.
fn chain(nodes: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input(&[64]);
    for number in 0..nodes {
        x = b.node(operator(["Relu", "Tanh", "Neg", "Sigmoid"][number % 4]), &[x]);
    }
    b.model(x)
}

/// Makes a graph with the given number of nodes in steps of four side by side.
/// Each node has weights of its own, and the nodes are joined at the end of each step.
fn ladder(nodes: usize) -> Model {
    let mut b = Builder::default();
    let mut x = b.input(&[64]);
    for _ in 0..nodes / 8 {
        let rungs: Vec<ValueId> = (0..4)
            .map(|_| {
                let weights = b.weights(&[64]);
                b.node(operator("Mul"), &[x, weights])
            })
            .collect();
        let (left, right) = (b.node(operator("Add"), &rungs[..2]), b.node(operator("Add"), &rungs[2..]));
        let sum = b.node(operator("Add"), &[left, right]);
        x = b.node(operator("Tanh"), &[sum]);
    }
    b.model(x)
}

fn main() {
    let plans: usize = std::env::args().nth(1).map_or(9, |text| text.parse().unwrap());
    let only = std::env::args().nth(2);
    println!(
        "{:<10} {:>6} {:<6} {:>9} {:>9} {:>9} {:>9}  ms",
        "model", "nodes", "plan", "bind", "passes", "divide", "session"
    );
    for (name, model) in [("encoder", encoder(8)), ("chain", chain(10_000)), ("ladder", ladder(10_000))] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let mut engine = HeteroEngine::new().unwrap();
        engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
        let mut plan = engine.analyze_model(&model).unwrap();
        let first = plan.timing();
        let mut all = vec![first];
        for _ in 1..plans {
            plan = engine.analyze_model(&model).unwrap();
            all.push(plan.timing());
        }
        let began = Instant::now();
        engine.session(&plan).unwrap();
        let session = began.elapsed();
        let nodes = plan.program().nodes().len();
        let ms = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        let least = |step: fn(&PlanTiming) -> Duration| ms(all.iter().map(step).min().unwrap());
        let first = [ms(first.bind), ms(first.passes), ms(first.divide), ms(session)];
        println!(
            "{name:<10} {nodes:>6} {:<6} {:>9} {:>9} {:>9} {:>9}",
            "first", first[0], first[1], first[2], first[3]
        );
        let least = [least(|t| t.bind), least(|t| t.passes), least(|t| t.divide)];
        println!("{name:<10} {nodes:>6} {:<6} {:>9} {:>9} {:>9}", "least", least[0], least[1], least[2]);
    }
}
