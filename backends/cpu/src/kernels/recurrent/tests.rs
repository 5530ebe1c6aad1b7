//! Recurrent layers in all their variants against the oracle.

use std::sync::Arc;

use hetero_conformance::run_program;
use hetero_hal::{
    Allowance, Attribute, DType, Device, Driver, Graph, Node, OpenOptions, Operator, Program, Tensor, TensorType,
    Value, ValueId,
};
use hetero_reference::Standard;
use hetero_testkit::SplitMix64;

use crate::CpuDriver;
use crate::kernels::{Site, of_bounds};
use crate::simd::Isa;

/// The standard's activations, with those parameters that they have.
const ACTIVATIONS: [&str; 11] = [
    "Sigmoid",
    "Tanh",
    "Relu",
    "Softsign",
    "Softplus",
    "Affine",
    "LeakyRelu",
    "ThresholdedRelu",
    "HardSigmoid",
    "Elu",
    "ScaledTanh",
];

/// A layer by chance: its operator, its inputs, and the input whose content each run brings.
fn layer(random: &mut SplitMix64) -> (Operator, Vec<Option<Tensor>>, usize) {
    let (name, gates, functions, outputs) = [("RNN", 1, 1, 2), ("GRU", 3, 2, 2), ("LSTM", 4, 3, 3)][random.below(3)];
    let direction = ["forward", "reverse", "bidirectional"][random.below(3)];
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let (steps, batch, width, hidden) =
        (1 + random.below(5), 1 + random.below(4), 1 + random.below(9), 1 + random.below(20));
    let layout = random.below(2);
    let mut operator = Operator::new(name, 14)
        .with("direction", Attribute::String(direction.as_bytes().into()))
        .with("layout", Attribute::Int(layout as i64))
        .with("hidden_size", Attribute::Int(hidden as i64));
    if random.below(2) == 0 {
        let names = (0..functions * directions).map(|_| ACTIVATIONS[random.below(ACTIVATIONS.len())]);
        let names = names.map(|name| name.as_bytes().into()).collect();
        let mut numbers = || Attribute::Floats((0..random.below(4)).map(|_| random.signed_unit()).collect());
        operator = operator.with("activation_alpha", numbers()).with("activation_beta", numbers());
        operator = operator.with("activations", Attribute::Strings(names));
    }
    if random.below(3) == 0 {
        operator = operator.with("clip", Attribute::Float(0.5));
    }
    if name == "GRU" {
        operator = operator.with("linear_before_reset", Attribute::Int(random.below(2) as i64));
    }
    if name == "LSTM" {
        operator = operator.with("input_forget", Attribute::Int(random.below(2) as i64));
    }
    // Small weights, as states that grow without bound carry rounding errors along that grow too.
    let numbers = |random: &mut SplitMix64, shape: &[usize], there: bool| {
        let count: usize = shape.iter().product();
        there.then(|| Tensor::from_vec(shape, (0..count).map(|_| random.signed_unit() * 0.3).collect()).unwrap())
    };
    let rows = gates * hidden;
    let x = if layout == 1 { [batch, steps, width] } else { [steps, batch, width] };
    let state = if layout == 1 { [batch, directions, hidden] } else { [directions, batch, hidden] };
    let mut inputs = vec![
        numbers(random, &x, true),
        numbers(random, &[directions, rows, width], true),
        numbers(random, &[directions, rows, hidden], true),
    ];
    let there = |random: &mut SplitMix64| random.below(2) == 0;
    let has = there(random);
    inputs.push(numbers(random, &[directions, 2 * rows], has));
    inputs.push(there(random).then(|| {
        let lengths = (0..batch).map(|_| random.below(steps + 1) as i32).collect();
        Tensor::from_vec(&[batch], lengths).unwrap()
    }));
    let has = there(random);
    inputs.push(numbers(random, &state, has));
    if name == "LSTM" {
        let has = [there(random), there(random)];
        inputs.push(numbers(random, &state, has[0]));
        inputs.push(numbers(random, &[directions, 3 * hidden], has[1]));
    }
    (operator, inputs, outputs)
}

/// A layer with weights of bytes by chance, of that many steps.
fn dynamic(random: &mut SplitMix64, steps: usize) -> (Operator, Vec<Option<Tensor>>, usize) {
    let direction = ["forward", "reverse", "bidirectional"][random.below(3)];
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let (batch, width, hidden) = (1 + random.below(4), 1 + random.below(30), 1 + random.below(20));
    let mut operator = Operator::new("DynamicQuantizeLSTM", 1)
        .with("direction", Attribute::String(direction.as_bytes().into()))
        .with("hidden_size", Attribute::Int(hidden as i64))
        .with("input_forget", Attribute::Int(random.below(2) as i64));
    operator.domain = "com.microsoft".into();
    if random.below(3) == 0 {
        operator = operator.with("clip", Attribute::Float(0.5));
    }
    let reals = |random: &mut SplitMix64, shape: &[usize]| {
        let count: usize = shape.iter().product();
        Some(Tensor::from_vec(shape, (0..count).map(|_| random.signed_unit()).collect()).unwrap())
    };
    let rows = 4 * hidden;
    let codes = |random: &mut SplitMix64, shape: &[usize], signed: bool| {
        let list = (0..shape.iter().product()).map(|_| random.below(256) as u8);
        Some(match signed {
            true => Tensor::from_vec(shape, list.map(|byte| byte as i8).collect()).unwrap(),
            false => Tensor::from_vec(shape, list.collect()).unwrap(),
        })
    };
    let signed = [random.below(2) == 0, random.below(2) == 0];
    let mut inputs = vec![
        reals(random, &[steps, batch, width]),
        codes(random, &[directions, width, rows], signed[0]),
        codes(random, &[directions, hidden, rows], signed[1]),
    ];
    let there = |random: &mut SplitMix64| random.below(2) == 0;
    inputs.push(if there(random) { reals(random, &[directions, 2 * rows]) } else { None });
    inputs.push(there(random).then(|| {
        let lengths = (0..batch).map(|_| random.below(steps + 1) as i32).collect();
        Tensor::from_vec(&[batch], lengths).unwrap()
    }));
    for _ in 0..2 {
        inputs.push(if there(random) { reals(random, &[directions, batch, hidden]) } else { None });
    }
    inputs.push(if there(random) { reals(random, &[directions, 3 * hidden]) } else { None });
    for signed in signed {
        let each = if there(random) { vec![directions, rows] } else { vec![directions] };
        let count: usize = each.iter().product();
        let scales = (0..count).map(|_| 0.001 + 0.001 * random.signed_unit().abs()).collect();
        inputs.push(Some(Tensor::from_vec(&each, scales).unwrap()));
        inputs.push(codes(random, &each, signed));
    }
    (operator, inputs, 3)
}

/// Runs a layer on each device, and compares it with the oracle; results may differ by `most`.
fn check(devices: &[(Isa, Arc<dyn Device>)], number: usize, most: f32, layer: (Operator, Vec<Option<Tensor>>, usize)) {
    let (operator, inputs, outputs) = layer;
    let mut expected = hetero_reference::evaluate(&operator, &inputs, outputs).unwrap();
    expected.truncate(outputs);
    let mut graph = Graph { name: "layer".into(), ..Graph::default() };
    let mut node = Node { name: "layer".into(), operator, inputs: vec![], outputs: vec![] };
    let mut given = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        let Some(content) = input else {
            node.inputs.push(None);
            continue;
        };
        let id = ValueId(graph.values.len() as u32);
        // Weights are constant in every other layer.
        let constant = (number.is_multiple_of(2) && index > 0).then(|| content.clone());
        if constant.is_none() {
            graph.inputs.push(id);
            given.push(content.clone());
        }
        let ty = TensorType::exact(content.dtype(), content.shape());
        graph.values.push(Value { name: format!("x{index}").into(), ty, constant });
        node.inputs.push(Some(id));
    }
    for (index, output) in expected.iter().enumerate() {
        let id = ValueId(graph.values.len() as u32);
        let ty = TensorType::exact(DType::F32, output.shape());
        graph.values.push(Value { name: format!("y{index}").into(), ty, constant: None });
        graph.outputs.push(id);
        node.outputs.push(Some(id));
    }
    graph.nodes.push(node);
    let program = Program::new(graph, vec![]).unwrap();
    let run = hetero_reference::run(&program, &given, &Standard, &Allowance::default()).unwrap();
    assert_eq!(run, expected);
    for (isa, device) in devices {
        let node = &program.nodes()[0];
        let kernel = of_bounds(Site { program: &program, node, isa: *isa, weights: None });
        assert!(kernel.unwrap().is_some(), "layer {number} is plain: {:?}", node.operator);
        let found = run_program(&**device, &program, &given).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            for (found, expected) in found.view::<f32>().unwrap().iter().zip(&*expected.view::<f32>().unwrap()) {
                let most = most * expected.abs().max(1.0);
                let differs = (found - expected).abs() > most;
                assert!(!differs, "layer {number}, {isa}: {found} for {expected}, {:?}", node.operator);
            }
        }
    }
}

fn devices() -> Vec<(Isa, Arc<dyn Device>)> {
    Isa::available()
        .map(|isa| {
            let extra = vec![("isa".to_owned(), isa.to_string())];
            (isa, CpuDriver.open(0, &OpenOptions { threads: Some(2), extra, ..OpenOptions::default() }).unwrap())
        })
        .collect()
}

#[test]
fn every_variant_of_a_layer_is_native_and_what_the_oracle_says() {
    let (devices, mut random) = (devices(), SplitMix64::new(11));
    for number in 0..300 {
        check(&devices, number, 1e-4, layer(&mut random));
    }
}

#[test]
fn weights_of_bytes_are_multiplied_as_the_oracle_says() {
    let (devices, mut random) = (devices(), SplitMix64::new(12));
    for number in 0..200 {
        // The states of one step are given, and rounded as the oracle rounds them; those of later
        // steps may be rounded to the code beside it.
        let (steps, most) = if number % 4 < 2 { (1, 1e-4) } else { (2 + random.below(4), 2e-2) };
        check(&devices, number, most, dynamic(&mut random, steps));
    }
}
