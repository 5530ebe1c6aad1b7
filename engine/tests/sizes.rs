//! Sizes that a model chooses: hostile ones end in an error before anything is allocated, and sizes
//! that depend on data come out true.

#![allow(clippy::unwrap_used)]

use hetero::hal::{Attribute, Bool, DType, ErrorKind, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, HeteroEngine, Model, Tensor};

const HUGE: i64 = 1 << 40;

/// An input of a model: fed in the run, or a constant.
enum Given {
    Fed(Tensor),
    Constant(Tensor),
}

use Given::{Constant, Fed};

/// Makes a model of one operator.
fn model(operator: Operator, inputs: &[Given], outputs: usize) -> Model {
    let mut graph = Graph { name: "sizes".into(), ..Graph::default() };
    for (index, given) in inputs.iter().enumerate() {
        let (tensor, constant) = match given {
            Fed(tensor) => (tensor, None),
            Constant(tensor) => (tensor, Some(tensor.clone())),
        };
        if constant.is_none() {
            graph.inputs.push(ValueId(index as u32));
        }
        let ty = TensorType::exact(tensor.dtype(), tensor.shape());
        graph.values.push(Value { name: format!("x{index}").into(), ty, constant });
    }
    for index in 0..outputs {
        graph.outputs.push(ValueId(graph.values.len() as u32));
        graph.values.push(Value { name: format!("y{index}").into(), ..Value::default() });
    }
    let version = operator.version;
    let inputs = (0..inputs.len() as u32).map(|id| Some(ValueId(id))).collect();
    let made = graph.outputs.iter().copied().map(Some).collect();
    graph.nodes.push(Node { name: "node".into(), operator, inputs, outputs: made });
    Model { graph, opsets: [("".into(), version)].into(), ..Model::default() }
}

fn engine() -> HeteroEngine {
    let mut engine = HeteroEngine::builder().build();
    engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
    engine
}

/// Goes from the model to the outputs in one go.
fn compute(operator: Operator, inputs: &[Given], outputs: usize) -> hetero::Result<Vec<Tensor>> {
    let engine = engine();
    let plan = engine.analyze_model(&model(operator, inputs, outputs))?;
    let fed: Vec<(String, Tensor)> = inputs
        .iter()
        .enumerate()
        .filter_map(
            |(index, given)| if let Fed(tensor) = given { Some((format!("x{index}"), tensor.clone())) } else { None },
        )
        .collect();
    let fed: Vec<(&str, Tensor)> = fed.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let outputs = engine.run(&fed, &plan)?;
    Ok(outputs.iter().map(|(_, tensor)| tensor.clone()).collect())
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).unwrap()
}

fn list(values: &[i64]) -> Tensor {
    Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
}

/// Returns the most bytes that this process has held at once.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn hostile_sizes_end_before_allocation() {
    let one = || floats(&[1], &[1.0]);
    let scalar = |value: i64| Tensor::scalar(value);
    let flat = || floats(&[1, 1], &[1.0]);
    let operator = |name: &str, version| Operator::new(name, version);
    let mut hostile: Vec<(Operator, Vec<Tensor>)> = Vec::new();
    for sizes in [&[HUGE][..], &[HUGE, HUGE], &[1 << 62, 4], &[1 << 21, 1 << 20]] {
        hostile.push((operator("Expand", 13), vec![one(), list(sizes)]));
        hostile.push((operator("ConstantOfShape", 23), vec![list(sizes)]));
        if let [a, b] = sizes {
            hostile.push((operator("Tile", 13), vec![flat(), list(&[*a, *b])]));
            hostile.push((operator("Pad", 21), vec![flat(), list(&[*a, *b, 0, 0])]));
        }
    }
    hostile.push((operator("Tile", 13), vec![one(), list(&[HUGE])]));
    hostile.push((operator("Range", 11), vec![scalar(0), scalar(HUGE), scalar(1)]));
    hostile.push((operator("OneHot", 11), vec![list(&[1]), scalar(HUGE), floats(&[2], &[0.0, 1.0])]));
    hostile.push((operator("HannWindow", 17), vec![scalar(HUGE)]));
    let empty = || floats(&[0], &[]);
    hostile.push((operator("Resize", 19), vec![flat(), empty(), floats(&[2], &[1.0, 1.1e12])]));
    hostile.push((operator("Resize", 19), vec![flat(), empty(), empty(), list(&[1, HUGE])]));
    for (operator, inputs) in hostile {
        let given: Vec<Option<Tensor>> = inputs.iter().cloned().map(Some).collect();
        let error = hetero_reference::evaluate(&operator, &given, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{operator}: {error}");
        // The tensor is fed and the sizes are constants, as exporters write it.
        // Then all are constants, as folding meets it.
        let split = |constants: usize| -> Vec<Given> {
            let given = inputs.iter().cloned().enumerate();
            given.map(|(index, tensor)| if index < constants { Fed(tensor) } else { Constant(tensor) }).collect()
        };
        for inputs in [split(1.min(inputs.len() - 1)), split(0)] {
            let error = compute(operator.clone(), &inputs, 1).unwrap_err();
            let said = error.to_string();
            assert!(
                ["memory", "tensor", "size", "is not known"].iter().any(|word| said.contains(word)),
                "{operator}: {said}"
            );
        }
    }
    assert!(peak() < 1 << 30, "{} bytes were held", peak());
}

#[test]
fn sizes_that_depend_on_data_come_out_true() {
    let x = |values: &[f32]| Fed(floats(&[values.len()], values));
    let shapes =
        |made: hetero::Result<Vec<Tensor>>| made.unwrap().iter().map(|t| t.shape().to_vec()).collect::<Vec<_>>();
    let non_zero = |values: &[f32]| shapes(compute(Operator::new("NonZero", 13), &[x(values)], 1));
    assert_eq!(non_zero(&[1.0, 0.0, 2.0]), [[1, 2]]);
    assert_eq!(non_zero(&[0.0, 0.0, 0.0]), [[1, 0]]);
    let unique = compute(Operator::new("Unique", 11), &[x(&[3.0, 1.0, 3.0])], 4).unwrap();
    assert_eq!(&*unique[0].view::<f32>().unwrap(), [1.0, 3.0]);
    assert_eq!(unique[2].shape(), [3]);
    let flags = Tensor::from_vec(&[3], [true, false, true].map(Bool::from).to_vec()).unwrap();
    let kept = compute(Operator::new("Compress", 11), &[x(&[5.0, 6.0, 7.0]), Fed(flags)], 1).unwrap();
    assert_eq!(&*kept[0].view::<f32>().unwrap(), [5.0, 7.0]);
    let boxes = floats(&[1, 3, 4], &[0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 0.0, 5.0, 1.0, 6.0]);
    let limits = [Tensor::scalar(10i64), Tensor::scalar(0.5f32), Tensor::scalar(0.2f32)].map(Constant);
    for (scores, count) in [([0.9f32, 0.8, 0.7], 2), ([0.1, 0.1, 0.7], 1), ([0.0, 0.0, 0.0], 0)] {
        let mut inputs = vec![Fed(boxes.clone()), Fed(floats(&[1, 1, 3], &scores))];
        inputs.extend(
            limits.iter().map(|limit| if let Constant(t) = limit { Constant(t.clone()) } else { unreachable!() }),
        );
        let made = compute(Operator::new("NonMaxSuppression", 11), &inputs, 1);
        assert_eq!(shapes(made), [[count, 3]]);
    }
}

/// The model is NonZero, then the number of its columns as the limit of a Range: one size after
/// another that only data tell.
#[test]
fn a_range_of_a_size_that_depends_on_data() {
    let value = |name: &str, constant: Option<Tensor>| Value {
        name: name.into(),
        ty: constant.as_ref().map(|t| TensorType::exact(t.dtype(), t.shape())).unwrap_or_default(),
        constant,
    };
    let values = vec![
        Value { name: "x".into(), ty: TensorType::exact(DType::F32, &[6]), constant: None },
        value("where", None),
        value("count", None),
        value("zero", Some(Tensor::scalar(0i64))),
        value("one", Some(Tensor::scalar(1i64))),
        value("y", None),
    ];
    let node = |operator: Operator, inputs: &[u32], output: u32| Node {
        name: operator.name.to_string().into(),
        operator,
        inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
        outputs: vec![Some(ValueId(output))],
    };
    let graph = Graph {
        name: "range".into(),
        values,
        nodes: vec![
            node(Operator::new("NonZero", 13), &[0], 1),
            node(Operator::new("Size", 13), &[1], 2),
            node(Operator::new("Range", 11), &[3, 2, 4], 5),
        ],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(5)],
        captures: vec![],
    };
    let model = Model { graph, opsets: [("".into(), 13)].into(), ..Model::default() };
    let engine = engine();
    let plan = engine.analyze_model(&model).unwrap();
    let session = engine.session(&plan).unwrap();
    for (values, expected) in
        [([1.0f32, 0.0, 2.0, 0.0, 0.0, 3.0], vec![0i64, 1, 2]), ([0.0; 6], vec![]), ([1.0; 6], vec![0, 1, 2, 3, 4, 5])]
    {
        let outputs = session.run(&[("x", floats(&[6], &values))]).unwrap();
        assert_eq!(outputs.tensor("y").unwrap().view::<i64>().unwrap().to_vec(), expected);
    }
}

#[test]
fn a_branch_is_taken_by_data() {
    let branch = |value: f32, count: usize| {
        let mut graph = Graph { name: "branch".into(), ..Graph::default() };
        let constant = floats(&[count], &vec![value; count]);
        let ty = TensorType::exact(DType::F32, &[count]);
        graph.values.push(Value { name: format!("c{count}").into(), ty, constant: Some(constant) });
        graph.values.push(Value { name: format!("r{count}").into(), ..Value::default() });
        graph.outputs.push(ValueId(1));
        let neg = Operator::new("Neg", 13);
        let (inputs, outputs) = (vec![Some(ValueId(0))], vec![Some(ValueId(1))]);
        graph.nodes.push(Node { name: "neg".into(), operator: neg, inputs, outputs });
        Attribute::Graph(std::sync::Arc::new(graph))
    };
    for (taken, expected) in [(true, vec![-1.0f32; 2]), (false, vec![-2.0; 5])] {
        let operator = Operator::new("If", 16).with("then_branch", branch(1.0, 2)).with("else_branch", branch(2.0, 5));
        let made = compute(operator, &[Fed(Tensor::scalar(Bool::from(taken)))], 1).unwrap();
        assert_eq!(made[0].view::<f32>().unwrap().to_vec(), expected);
    }
}

#[test]
fn a_loop_ends_with_the_runs_deadline() {
    // The body of the loop passes its condition and its number on.
    let mut body = Graph { name: "body".into(), ..Graph::default() };
    for (name, dtype) in [("trip", DType::I64), ("going", DType::Bool), ("value", DType::F32)] {
        let ty = TensorType::exact(dtype, &[]);
        body.inputs.push(ValueId(body.values.len() as u32));
        body.values.push(Value { name: name.into(), ty, constant: None });
    }
    for (name, operator, from) in [("on", "Identity", 1), ("next", "Neg", 2)] {
        let to = ValueId(body.values.len() as u32);
        body.values.push(Value { name: name.into(), ..Value::default() });
        body.outputs.push(to);
        let operator = Operator::new(operator, 13);
        body.nodes.push(Node {
            name: name.into(),
            operator,
            inputs: vec![Some(ValueId(from))],
            outputs: vec![Some(to)],
        });
    }
    let operator = Operator::new("Loop", 13).with("body", Attribute::Graph(std::sync::Arc::new(body)));
    let trips = |count: i64| {
        [Fed(Tensor::scalar(count)), Constant(Tensor::scalar(Bool::from(true))), Fed(Tensor::scalar(2.0f32))]
    };
    let mut engine = HeteroEngine::builder().deadline(std::time::Duration::from_millis(200)).build();
    engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
    let plan = engine.analyze_model(&model(operator, &trips(0), 1)).unwrap();
    let session = engine.session(&plan).unwrap();
    let run = |count: i64| session.run(&[("x0", Tensor::scalar(count)), ("x2", Tensor::scalar(2.0f32))]);
    assert_eq!(run(3).unwrap().tensor("y0").unwrap().view::<f32>().unwrap().to_vec(), [-2.0]);
    match run(i64::MAX).unwrap_err() {
        hetero::Error::Device(error) => assert_eq!(error.kind(), ErrorKind::Timeout, "{error}"),
        other => panic!("{other}"),
    }
}
