//! Recurrent layers in all their variants against the oracle.

use hetero_conformance::run_program;
use hetero_hal::{
    Allowance, Attribute, DType, Driver, Graph, Node, OpenOptions, Operator, Program, Tensor, TensorType, Value,
    ValueId,
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

#[test]
fn every_variant_of_a_layer_is_native_and_what_the_oracle_says() {
    let mut random = SplitMix64::new(11);
    let devices: Vec<_> = Isa::available()
        .map(|isa| {
            let extra = vec![("isa".to_owned(), isa.to_string())];
            (isa, CpuDriver.open(0, &OpenOptions { threads: Some(2), extra, ..OpenOptions::default() }).unwrap())
        })
        .collect();
    for number in 0..300 {
        let (operator, inputs, outputs) = layer(&mut random);
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
            let constant = (number % 2 == 0 && index > 0).then(|| content.clone());
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
        for (isa, device) in &devices {
            let node = &program.nodes()[0];
            let kernel = of_bounds(Site { program: &program, node, isa: *isa, weights: None });
            assert!(kernel.unwrap().is_some(), "layer {number} is plain: {:?}", node.operator);
            let found = run_program(&**device, &program, &given).unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                for (found, expected) in found.view::<f32>().unwrap().iter().zip(&*expected.view::<f32>().unwrap()) {
                    let most = 1e-4 * expected.abs().max(1.0);
                    let differs = (found - expected).abs() > most;
                    assert!(!differs, "layer {number}, {isa}: {found} for {expected}, {:?}", node.operator);
                }
            }
        }
    }
}
