//! Weights are packed once, however many shapes a model is bound to and however many nodes read
//! them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;

use hetero::hal::{
    Attribute, Capture, DType, Dim, ErrorKind, Graph, Node, Operator, TensorType, Value, ValueId, Weight,
    distinct_weights,
};
use hetero::{Binding, DeviceOptions, Error, HeteroEngine, Model, Session, Tensor, bind};
use hetero_reference::Standard;

/// A builder of graphs, node by node.
#[derive(Default)]
struct Builder {
    graph: Graph,
    /// The number of constants so far, which is the phase of the next one, so that no two are
    /// equal.
    constants: usize,
}

impl Builder {
    fn value(&mut self, name: String, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        self.graph.values.push(Value { name: name.into(), ty, constant });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let id = self.value(name.to_owned(), ty, None);
        self.graph.inputs.push(id);
        id
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        let ty = TensorType::exact(tensor.dtype(), tensor.shape());
        let name = format!("constant{}", self.graph.values.len());
        self.value(name, ty, Some(tensor))
    }

    /// Adds a constant of small numbers that differs from all others.
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.constants += 1;
        let (count, phase) = (shape.iter().product::<usize>(), self.constants as f32);
        let scale = 1.0 / (shape[0] as f32).sqrt();
        let numbers = (0..count).map(|i| (i as f32 * 0.71 + phase).sin() * scale).collect();
        self.constant(Tensor::from_vec(shape, numbers).unwrap())
    }

    fn ints(&mut self, list: &[i64]) -> ValueId {
        self.constant(Tensor::from_vec(&[list.len()], list.to_vec()).unwrap())
    }

    fn node(&mut self, operator: Operator, inputs: &[ValueId]) -> ValueId {
        let number = self.graph.nodes.len();
        let output = self.value(format!("value{number}"), TensorType::default(), None);
        self.graph.nodes.push(Node {
            name: format!("n{number}").into(),
            operator,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    }

    fn plain(&mut self, name: &str, inputs: &[ValueId]) -> ValueId {
        self.node(Operator::new(name, 20), inputs)
    }

    fn model(mut self, output: ValueId) -> Model {
        self.graph.name = "built".into();
        self.graph.outputs = vec![output];
        Model { graph: self.graph, opsets: [("".into(), 20)].into(), ..Model::default() }
    }
}

const WIDTH: usize = 128;
const HEADS: usize = 4;
const INNER: usize = 4 * WIDTH;
const LAYERS: usize = 2;

impl Builder {
    /// Adds `x * weight + bias`.
    fn dense(&mut self, x: ValueId, from: usize, to: usize) -> ValueId {
        let (weight, bias) = (self.weight(&[from, to]), self.weight(&[to]));
        let product = self.plain("MatMul", &[x, weight]);
        self.plain("Add", &[product, bias])
    }

    fn normalised(&mut self, x: ValueId) -> ValueId {
        let (scale, shift) = (self.weight(&[WIDTH]), self.weight(&[WIDTH]));
        self.node(Operator::new("LayerNormalization", 17).with("axis", Attribute::Int(-1)), &[x, scale, shift])
    }

    /// Turns width into heads: batch, heads, sequence and width of a head, or with the last two
    /// exchanged.
    fn heads(&mut self, x: ValueId, order: [i64; 4]) -> ValueId {
        let shape = self.ints(&[0, 0, HEADS as i64, (WIDTH / HEADS) as i64]);
        let divided = self.plain("Reshape", &[x, shape]);
        self.node(Operator::new("Transpose", 13).with("perm", Attribute::Ints(order.to_vec())), &[divided])
    }

    /// Adds a layer of an encoder, as in BERT.
    fn layer(&mut self, x: ValueId) -> ValueId {
        let [query, key, value] = [(); 3].map(|()| self.dense(x, WIDTH, WIDTH));
        let query = self.heads(query, [0, 2, 1, 3]);
        let key = self.heads(key, [0, 2, 3, 1]);
        let value = self.heads(value, [0, 2, 1, 3]);
        let scores = self.plain("MatMul", &[query, key]);
        let factor = self.constant(Tensor::scalar(1.0 / ((WIDTH / HEADS) as f32).sqrt()));
        let scores = self.plain("Mul", &[scores, factor]);
        let shares = self.node(Operator::new("Softmax", 13).with("axis", Attribute::Int(-1)), &[scores]);
        let mixed = self.plain("MatMul", &[shares, value]);
        let back = Operator::new("Transpose", 13).with("perm", Attribute::Ints(vec![0, 2, 1, 3]));
        let mixed = self.node(back, &[mixed]);
        let shape = self.ints(&[0, 0, WIDTH as i64]);
        let mixed = self.plain("Reshape", &[mixed, shape]);
        let attended = self.dense(mixed, WIDTH, WIDTH);
        let sum = self.plain("Add", &[x, attended]);
        let middle = self.normalised(sum);
        let inner = self.dense(middle, WIDTH, INNER);
        let inner = self.plain("Gelu", &[inner]);
        let outer = self.dense(inner, INNER, WIDTH);
        let sum = self.plain("Add", &[middle, outer]);
        self.normalised(sum)
    }
}

/// Makes an encoder over sequences of any length.
fn encoder() -> Model {
    let mut b = Builder::default();
    let dims = vec![Dim::Known(1), Dim::Symbol("length".into()), Dim::Known(WIDTH)];
    let mut x = b.input("x", TensorType::new(DType::F32, dims));
    for _ in 0..LAYERS {
        x = b.layer(x);
    }
    b.model(x)
}

const STEPS: usize = 39;

/// Makes a recurrent network that is written out: each step transposes the two weights again, as
/// exporters write it.
fn unrolled() -> Model {
    let mut b = Builder::default();
    // The last row is the first state.
    let x = b.input("x", TensorType::exact(DType::F32, &[STEPS + 1, WIDTH]));
    let (input, state, bias) = (b.weight(&[WIDTH, WIDTH]), b.weight(&[WIDTH, WIDTH]), b.weight(&[WIDTH]));
    let row = |b: &mut Builder, number: usize| {
        let place = b.ints(&[number as i64]);
        b.node(Operator::new("Gather", 13).with("axis", Attribute::Int(0)), &[x, place])
    };
    let mut h = row(&mut b, STEPS);
    for step in 0..STEPS {
        let own = row(&mut b, step);
        let [input, state] = [input, state].map(|weight| b.plain("Transpose", &[weight]));
        let (of_input, of_state) = (b.plain("MatMul", &[own, input]), b.plain("MatMul", &[h, state]));
        let sum = b.plain("Add", &[of_input, of_state]);
        let sum = b.plain("Add", &[sum, bias]);
        h = b.plain("Tanh", &[sum]);
    }
    b.model(h)
}

fn engine() -> HeteroEngine {
    let mut engine = HeteroEngine::new().unwrap();
    engine.add_device("cpu:0", DeviceOptions { threads: Some(2), ..DeviceOptions::default() }).unwrap();
    engine
}

fn input(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i| (i as f32 * 0.37).sin()).collect()).unwrap()
}

/// Runs the session, and compares its output with the oracle's.
fn check(session: &Session, model: &Model, binding: &Binding, x: &Tensor) {
    let program = bind(model, binding, &Standard).unwrap().program;
    let expected =
        hetero_reference::run(&program, std::slice::from_ref(x), &Standard, &hetero_hal::Allowance::new(1 << 24))
            .unwrap()
            .remove(0);
    let outputs = session.run(&[("x", x.clone())]).unwrap();
    let found = outputs.tensor(&session.outputs()[0].name).unwrap().view::<f32>().unwrap();
    let expected = expected.view::<f32>().unwrap();
    assert_eq!(found.len(), expected.len());
    let error: f64 = found.iter().zip(&*expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
    assert!(size > 0.0 && error <= 1e-6 * size, "{error:e} of {size:e}");
}

fn bytes(weights: &[Arc<dyn Weight>]) -> usize {
    weights.iter().map(|weight| weight.bytes()).sum()
}

/// Returns the packed bytes of weights whose rows fill whole vectors.
fn packed(elements: usize) -> usize {
    elements * size_of::<f32>()
}

#[test]
fn ten_shapes_of_one_model_share_its_weights() {
    let (engine, model) = (engine(), encoder());
    let mut made: Vec<(Arc<Session>, Binding, Tensor)> = Vec::new();
    for length in (1..=10).map(|n| n * 7) {
        let shape = [1, length, WIDTH];
        let binding = Binding { shapes: [("x".to_owned(), shape.to_vec())].into(), ..Binding::default() };
        let session = engine.session(&engine.analyze(&model, &binding).unwrap()).unwrap();
        made.push((session, binding, input(&shape)));
    }
    let each: usize = made.iter().map(|(session, ..)| session.report().resident_bytes).sum();
    let all = distinct_weights(made.iter().flat_map(|(session, ..)| session.weights()));
    println!("ten shapes: {each} bytes in executables, {} bytes in {} weights", bytes(&all), all.len());
    // There are six products a layer, and nothing else is packed.
    assert_eq!(all.len(), 6 * LAYERS);
    assert_eq!(bytes(&all), packed(LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)));
    assert_eq!(each, 10 * bytes(&all));
    made.iter().for_each(|(session, binding, x)| check(session, &model, binding, x));
    // The other sessions restore the weights that one session evicts.
    made[0].0.weights().iter().for_each(|weight| weight.evict());
    assert!(all.iter().all(|weight| !weight.is_resident()));
    check(&made[9].0, &model, &made[9].1, &made[9].2);
    assert!(all.iter().all(|weight| weight.is_resident()));
    // The weights go with the last session.
    let left: Vec<_> = all.iter().map(Arc::downgrade).collect();
    drop(all);
    let last = made.pop();
    drop(made);
    assert!(left.iter().all(|weight| weight.strong_count() > 0));
    drop(last);
    assert!(left.iter().all(|weight| weight.strong_count() == 0));
}

#[test]
fn nodes_that_read_equal_constants_share_one_weight() {
    let (engine, model) = (engine(), unrolled());
    let plan = engine.analyze_model(&model).unwrap();
    let products: Vec<_> = plan.program().nodes().iter().filter(|node| node.operator.is("MatMul")).collect();
    let mut constants: Vec<_> = products.iter().filter_map(|node| node.inputs[1]).collect();
    constants.sort_unstable();
    constants.dedup();
    // Each product has a constant of its own, as each step's transposition was folded by itself.
    assert_eq!((products.len(), constants.len()), (2 * STEPS, 2 * STEPS));
    let session = engine.session(&plan).unwrap();
    let weights = session.weights();
    println!(
        "{} products: {} bytes packed for each, {} bytes in {} weights",
        products.len(),
        packed(products.len() * WIDTH * WIDTH),
        bytes(&weights),
        weights.len()
    );
    assert_eq!((weights.len(), bytes(&weights)), (2, packed(2 * WIDTH * WIDTH)));
    assert_eq!(session.report().resident_bytes, bytes(&weights));
    check(&session, &model, &Binding::default(), &input(&[STEPS + 1, WIDTH]));
}

/// Plans and compiles a model under a memory limit in bytes.
fn compiled_within(limit: usize, graph: Graph) -> hetero::Result<()> {
    let mut engine = HeteroEngine::builder().memory_limit(limit as u64).build();
    engine.add_device("cpu:0", DeviceOptions { memory_limit: Some(limit as u64), ..DeviceOptions::default() })?;
    let model = Model { graph, opsets: [("".into(), 17)].into(), ..Model::default() };
    let plan = engine.analyze_model(&model)?;
    engine.session(&plan).map(drop)
}

/// A function that is called often has its constant in each call.
#[test]
fn a_constant_that_many_nodes_hold_counts_once() {
    let content = Tensor::from_vec(&[1 << 16], vec![0.5f32; 1 << 16]).unwrap();
    let mut b = Builder::default();
    let mut x = b.input("x", TensorType::exact(DType::F32, &[1]));
    for _ in 0..100 {
        let operator = Operator::new("Constant", 13).with("value", Attribute::Tensor(content.clone()));
        let constant = b.node(operator, &[]);
        let most = b.node(Operator::new("Max", 13), &[x, constant]);
        x = b.node(Operator::new("ReduceMax", 13).with("keepdims", Attribute::Int(0)), &[most]);
    }
    b.graph.outputs.push(x);
    compiled_within(4 << 20, b.graph).unwrap();
}

/// The model's constants and those that the device packs draw on one limit, in bodies too.
#[test]
fn constants_and_what_is_made_of_them_share_the_memory_limit() {
    let bytes = 4 * 512 * 512;
    let product = |b: &mut Builder, x: ValueId| {
        let weight = b.weight(&[512, 512]);
        b.node(Operator::new("MatMul", 13), &[x, weight])
    };
    let branch = |phase: usize| {
        let mut b = Builder { constants: phase, ..Builder::default() };
        let x = b.value("x".to_owned(), TensorType::default(), None);
        b.graph.captures.push(Capture { outer: ValueId(0), inner: x });
        let y = product(&mut b, x);
        b.graph.outputs.push(y);
        Attribute::Graph(Arc::new(b.graph))
    };
    for (inside, times, fits) in [(false, 1.5, false), (false, 2.5, true), (true, 3.0, false), (true, 4.5, true)] {
        let mut b = Builder::default();
        let x = b.input("x", TensorType::exact(DType::F32, &[8, 512]));
        let y = if inside {
            let condition = b.input("condition", TensorType::exact(DType::Bool, &[]));
            let choice = Operator::new("If", 13).with("then_branch", branch(0)).with("else_branch", branch(1));
            b.node(choice, &[condition])
        } else {
            product(&mut b, x)
        };
        b.graph.outputs.push(y);
        match compiled_within((f64::from(bytes) * times) as usize, b.graph) {
            Ok(()) => assert!(fits, "{times} times the weight's bytes, inside: {inside}"),
            Err(Error::Device(error)) => {
                assert!(!fits && error.kind() == ErrorKind::OutOfMemory, "{times}, {inside}: {error}");
                assert!(error.sizes().is_some() && error.remedy().is_some(), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
