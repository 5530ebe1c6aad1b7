//! Random programs, placed at random over three devices of different kinds, give the oracle's
//! result to the bit, as no operator here rounds twice.

#![allow(clippy::unwrap_used)]

mod fakes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fakes::{Fake, engine_with, model, tensor};
use hetero::hal::{DeviceId, Program};
use hetero::{HeteroEngine, Model, Outputs, Placement, Tensor};
use hetero_layers::{Fault, Faulty};
use proptest::prelude::*;

/// A node: its operator, the earlier values that it reads, and its device.
/// All are numbers that are taken modulo the count of choices.
#[derive(Clone, Debug)]
struct Draft {
    operator: usize,
    inputs: (usize, usize),
    device: usize,
}

const UNARY: [&str; 3] = ["Neg", "Abs", "Relu"];
const BINARY: [&str; 4] = ["Add", "Sub", "Max", "Concat"];
/// The number of elements beyond which values do not grow.
const LONGEST: usize = 4000;

fn build(length: usize, drafts: &[Draft]) -> (Model, Placement) {
    let mut lengths = vec![length, length];
    let name = |value: usize| if value < 2 { format!("x{value}") } else { format!("v{value}") };
    let mut nodes: Vec<(String, &str, Vec<String>, String)> = Vec::new();
    let mut placement = Placement::default();
    for (number, draft) in drafts.iter().enumerate() {
        // Nodes read mostly recent values, so that there is some depth.
        let pick = |seed: usize| lengths.len() - 1 - seed % lengths.len().min(6);
        let (a, b) = (pick(draft.inputs.0), pick(draft.inputs.1));
        let operator = draft.operator % (UNARY.len() + BINARY.len());
        let (operator, inputs) = match operator.checked_sub(UNARY.len()) {
            None => (UNARY[operator], vec![a]),
            Some(_) if a == b => ("Neg", vec![a]),
            Some(binary) if lengths[a] == lengths[b] && BINARY[binary] != "Concat" => (BINARY[binary], vec![a, b]),
            Some(_) if lengths[a] + lengths[b] <= LONGEST => ("Concat", vec![a, b]),
            Some(_) => ("Abs", vec![a]),
        };
        lengths.push(if operator == "Concat" { lengths[a] + lengths[b] } else { lengths[a] });
        let node = format!("n{number}");
        placement = placement.pin(node.clone(), DeviceId::new("fake", draft.device));
        nodes.push((node, operator, inputs.into_iter().map(name).collect(), name(number + 2)));
    }
    let inputs: Vec<Vec<&str>> = nodes.iter().map(|node| node.2.iter().map(String::as_str).collect()).collect();
    let nodes: Vec<(&str, &str, &[&str], &str)> = nodes
        .iter()
        .zip(&inputs)
        .map(|(node, inputs)| (node.0.as_str(), node.1, &inputs[..], node.3.as_str()))
        .collect();
    (model(length, &nodes), placement)
}

/// Computes a program node by node, with the reference implementation.
fn oracle(program: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut values: HashMap<u32, Tensor> = HashMap::new();
    for (id, tensor) in program.inputs().iter().zip(inputs) {
        values.insert(id.0, tensor.clone());
    }
    for node in program.nodes() {
        let given: Vec<Option<Tensor>> = node.inputs.iter().map(|id| values.get(&id.unwrap().0).cloned()).collect();
        let made = hetero_reference::evaluate(&node.operator, &given, node.outputs.len()).unwrap();
        for (id, tensor) in node.outputs.iter().zip(made) {
            values.insert(id.unwrap().0, tensor);
        }
    }
    program.outputs().iter().map(|id| values[&id.0].clone()).collect()
}

fn check(program: &Program, inputs: &[Tensor], outputs: &Outputs) {
    for (expected, (name, tensor)) in oracle(program, inputs).iter().zip(outputs.iter()) {
        assert_eq!(expected.shape(), tensor.shape(), "{name}");
        let (expected, found) = (expected.view::<f32>().unwrap(), tensor.view::<f32>().unwrap());
        assert!(expected.iter().zip(found.iter()).all(|(a, b)| a == b), "{name}: {expected:?} {found:?}");
    }
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let draft = (any::<usize>(), any::<(usize, usize)>(), 0..3usize);
    let draft = draft.prop_map(|(operator, inputs, device)| Draft { operator, inputs, device });
    prop::collection::vec(draft, 1..24)
}

fn fake() -> impl Strategy<Value = Fake> {
    let alignment = prop::sample::select(vec![1usize, 16, 64, 128, 256, 1024]);
    let page = prop::sample::select(vec![0usize, 64, 4096, 65536]);
    (any::<[bool; 2]>(), alignment, page).prop_map(|([imports, refuses], alignment, import_alignment)| Fake {
        imports,
        refuses,
        alignment,
        import_alignment,
        ..Fake::default()
    })
}

/// Runs a program one by one, on several threads, and as a stream.
fn exercise(engine: &HeteroEngine, length: usize, model: &Model) {
    let plan = engine.analyze_model(model).unwrap();
    let session = engine.session(&plan).unwrap();
    let positions = session.inputs().len();
    let inputs = |round: usize| -> Vec<Tensor> {
        (0..positions).map(|position| tensor(length, (round * 7 + position) as f32)).collect()
    };
    let named = |round: usize| -> Vec<(&str, Tensor)> {
        session.inputs().iter().map(|port| &*port.name).zip(inputs(round)).collect()
    };
    for round in 0..2 {
        check(plan.program(), &inputs(round), &session.run(&named(round)).unwrap());
    }
    std::thread::scope(|scope| {
        for round in 2..4 {
            let (session, plan) = (&session, &plan);
            let (named, inputs) = (named(round), inputs(round));
            scope.spawn(move || check(plan.program(), &inputs, &session.run(&named).unwrap()));
        }
    });
    let mut stream = session.stream(3);
    let mut outputs = Vec::new();
    for round in 0..8 {
        outputs.extend(stream.push(&inputs(round)).unwrap());
    }
    while let Some(output) = stream.pull().unwrap() {
        outputs.push(output);
    }
    outputs.iter().enumerate().for_each(|(round, output)| check(plan.program(), &inputs(round), output));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_placement_gives_what_the_oracle_gives(
        drafts in drafts(),
        fakes in prop::collection::vec(fake(), 3),
        length in 1..300usize,
    ) {
        let (model, placement) = build(length, &drafts);
        exercise(&engine_with(fakes, placement, |driver| driver), length, &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Delays at random bring steps into orders that they seldom have, so that a missing wait
    /// shows.
    #[test]
    fn any_order_that_waits_allow_gives_the_same(
        drafts in drafts(),
        fakes in prop::collection::vec(fake(), 3),
        length in 1..300usize,
        seed in any::<u64>(),
    ) {
        let (model, placement) = build(length, &drafts);
        let engine = engine_with(fakes, placement, |driver| {
            let delay = |ordinal: u64| Fault::Delay { most: Duration::from_micros(300), seed: seed ^ ordinal };
            Arc::new(Faulty::over(driver).with(0, delay(0)).with(1, delay(1)).with(2, delay(2)))
        });
        exercise(&engine, length, &model);
    }
}
