//! After the first run, a run into buffers that were used before allocates nothing.

#![allow(clippy::unwrap_used)]

mod counting;
mod synthetic;

use std::sync::{Mutex, PoisonError};

use counting::Counting;
use hetero::hal::{Attribute, DType, Graph, Model, Node, Operator, TensorType, Value, ValueId};
use hetero::{Binding, DeviceOptions, HeteroEngine, OutputBuffer, Session, Tensor};
use synthetic::{Speed, product};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn tensor(shape: &[usize], phase: f32) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i| (i as f32 * 0.37 + phase).sin() * 0.2).collect()).unwrap()
}

/// Makes a network of convolutions with a residual sum, pooling, a dense layer, element-wise nodes
/// and a softmax.
fn model() -> Model {
    let mut graph = Graph { name: "small".into(), ..Graph::default() };
    let mut value = |name: &str, constant: Option<Tensor>| {
        let ty = constant.as_ref().map_or_else(TensorType::default, |t| TensorType::exact(t.dtype(), t.shape()));
        graph.values.push(Value { name: name.into(), ty, constant });
        ValueId(graph.values.len() as u32 - 1)
    };
    let x = value("x", None);
    let w1 = value("w1", Some(tensor(&[32, 3, 3, 3], 0.1)));
    let w2 = value("w2", Some(tensor(&[32, 32, 3, 3], 0.2)));
    let w3 = value("w3", Some(tensor(&[32, 10], 0.3)));
    let half = value("half", Some(tensor(&[1, 10], 0.4)));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "y"];
    let ids: Vec<ValueId> = names.iter().map(|name| value(name, None)).collect();
    let pads = || Attribute::Ints(vec![1, 1, 1, 1]);
    let conv = || Operator::new("Conv", 11).with("pads", pads());
    let plain = |name: &str, version| Operator::new(name, version);
    let steps = [
        (conv(), vec![x, w1]),
        (plain("Relu", 14), vec![ids[0]]),
        (conv(), vec![ids[1], w2]),
        (plain("Add", 14), vec![ids[2], ids[1]]),
        (plain("GlobalAveragePool", 1), vec![ids[3]]),
        (plain("Flatten", 13), vec![ids[4]]),
        (plain("MatMul", 13), vec![ids[5], w3]),
        (plain("Mul", 14), vec![ids[6], half]),
        (plain("Tanh", 13), vec![ids[7]]),
        (plain("Softmax", 13), vec![ids[8]]),
    ];
    for (number, ((operator, inputs), output)) in steps.into_iter().zip(&ids).enumerate() {
        graph.nodes.push(Node {
            name: format!("n{number}").into(),
            operator,
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: vec![Some(*output)],
        });
    }
    graph.values[x.index()].ty = TensorType::exact(DType::F32, &[1, 3, 20, 20]);
    graph.inputs = vec![x];
    graph.outputs = vec![ids[9]];
    Model { graph, opsets: [("".into(), 14)].into(), ..Model::default() }
}

/// Returns the number of allocations of runs into the same buffers, one run for each input, after
/// one run that is not counted.
fn allocations(session: &Session, inputs: &[Vec<Tensor>], mut ran: impl FnMut(&[u8])) -> usize {
    let mut outputs = vec![OutputBuffer::default()];
    session.run_into(&inputs[0], &mut outputs).unwrap();
    // A thread that has just been started allocates in the standard library, at a time of its own.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = counting::calls();
    for input in inputs {
        session.run_into(input, &mut outputs).unwrap();
        ran(&outputs[0].bytes);
    }
    counting::calls() - before
}

/// The lock by which tests run alone: tests that count would count each other's allocations.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_run_into_known_buffers_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for threads in [1, 2] {
        let mut engine = HeteroEngine::new().unwrap();
        engine.add_device("cpu:0", DeviceOptions { threads: Some(threads), ..DeviceOptions::default() }).unwrap();
        let plan = engine.analyze(&model(), &Binding::default()).unwrap();
        let session = engine.session(&plan).unwrap();
        // Different inputs, so that the engine cannot know their memory.
        let inputs: Vec<Vec<Tensor>> = (0..20).map(|i| vec![tensor(&[1, 3, 20, 20], i as f32)]).collect();
        let mut seen = Vec::with_capacity(inputs.len());
        let first = |bytes: &[u8]| f32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let calls = allocations(&session, &inputs, |bytes| seen.push(first(bytes)));
        assert_eq!(calls, 0, "{threads} threads: {calls} allocations in {} runs", inputs.len());
        assert_eq!(session.outputs()[0].shape, [1, 10]);
        assert!(seen.windows(2).any(|pair| pair[0] != pair[1]), "every input gave the same");
    }
}

/// The most allocations of a run in which steps wait for others.
/// Such steps are kept by the points that they wait for, which takes a few allocations each.
const FOR_WAITING_STEPS: usize = 12;

#[test]
fn tiles_allocate_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // There are tiles that devices take from each other, and tiles that run as the product that
    // they were cut from.
    let several = &[Speed::ms(0).planned(1), Speed::ms(1)][..];
    for (speeds, most) in [(several, FOR_WAITING_STEPS), (&[Speed::ms(0)], 0)] {
        let engine = synthetic::engine(speeds, 16);
        let session = engine.session(&engine.analyze_model(&product([128, 32, 128], None)).unwrap()).unwrap();
        let input = |phase: f32| vec![tensor(&[128, 32], phase), tensor(&[32, 128], -phase)];
        let inputs: Vec<Vec<Tensor>> = (0..10).map(|i| input(i as f32)).collect();
        let calls = allocations(&session, &inputs, |_| {});
        // The allocations are far fewer than the tiles: none of the tiles allocates.
        assert_eq!(session.report().tiles.iter().map(|share| share.done).sum::<usize>(), 64);
        let runs = inputs.len();
        assert!(calls <= most * runs, "{} devices: {calls} allocations in {runs} runs", speeds.len());
    }
}
