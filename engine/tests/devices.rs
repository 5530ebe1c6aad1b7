//! The engine over several devices: the CPU and two null devices, which take Relu and Identity
//! only.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hetero::hal::{DType, DeviceInfo, Graph, Node, Operator, Program, Quality, TensorType, Value, ValueId};
use hetero::{Config, CostModel, DeviceOptions, Error, HeteroEngine, Model, Tensor};
use hetero_null::NullDriver;

/// Makes x -> Exp -> Relu -> Neg -> Identity -> y, over four floats.
fn model() -> Model {
    let operators = ["Exp", "Relu", "Neg", "Identity"];
    let value = |name: String| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[4]), constant: None };
    Model {
        graph: Graph {
            name: "chain".into(),
            values: (0..=operators.len()).map(|i| value(format!("v{i}"))).collect(),
            nodes: operators
                .iter()
                .enumerate()
                .map(|(i, name)| Node {
                    name: name.to_lowercase().into(),
                    operator: Operator::new(name, 17),
                    inputs: vec![Some(ValueId(i as u32))],
                    outputs: vec![Some(ValueId(i as u32 + 1))],
                })
                .collect(),
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(4)],
            captures: vec![],
        },
        opsets: [("".into(), 17)].into(),
        ..Model::default()
    }
}

/// A cost model by which a null device takes its own operator for nothing: Relu on `null:0`,
/// Identity on `null:1`.
struct NullIsFree;

impl CostModel for NullIsFree {
    fn seconds(&self, _: &Program, node: &Node, device: &DeviceInfo, _: &Quality) -> f64 {
        match (device.id.driver(), &*node.operator.name) {
            ("null", "Relu") => f64::from(device.id.ordinal() as u32),
            ("null", _) => 1.0 - f64::from(device.id.ordinal() as u32),
            _ => 10.0,
        }
    }

    fn uncertainty(&self) -> f64 {
        0.0
    }
}

fn engine(devices: &[&str]) -> HeteroEngine {
    let mut engine = HeteroEngine::builder().driver(Arc::new(NullDriver)).cost_model(Arc::new(NullIsFree)).build();
    for id in devices {
        engine.add_device(id, DeviceOptions::default()).unwrap();
    }
    engine
}

fn input() -> Tensor {
    Tensor::from_vec(&[4], vec![0.0f32, 1.0, -1.0, 2.0]).unwrap()
}

#[test]
fn one_plan_runs_over_three_devices_and_reads_back_from_json() {
    let engine = engine(&["CPU:0", "null:0", "null:1"]);
    let model = model();
    let plan = engine.analyze_model(&model).unwrap();
    let placement = plan.placement();
    assert_eq!((placement["exp"], placement["relu"]), ("cpu:0", "null:0"));
    assert_eq!((placement["neg"], placement["identity"]), ("cpu:0", "null:1"));
    let again = engine.load_plan(&model, &plan.to_json().unwrap()).unwrap();
    for plan in [plan, again] {
        let outputs = engine.run(&[("v0", input())], &plan).unwrap();
        let expected: Vec<f32> = input().view::<f32>().unwrap().iter().map(|x| -x.exp()).collect();
        for (a, b) in outputs.tensor("v4").unwrap().view::<f32>().unwrap().iter().zip(expected) {
            assert!((a - b).abs() < 1e-6);
        }
    }
}

/// Null devices are faster here and spend more.
/// A budget keeps nodes from them, and a budget that nobody can keep is an error.
#[test]
fn a_budget_of_energy_is_kept_by_the_watts_of_devices() {
    let plan = |budget: f64, watts: &[(&str, f64)]| {
        let mut config = Config::default();
        config.scheduling.energy_budget = Some(budget);
        config.device_params.watts = watts.iter().map(|&(id, watts)| (id.to_owned(), watts)).collect();
        let builder = HeteroEngine::builder().driver(Arc::new(NullDriver)).cost_model(Arc::new(NullIsFree));
        let mut engine = builder.config(config).build();
        for id in ["cpu:0", "null:1"] {
            engine.add_device(id, DeviceOptions::default()).unwrap();
        }
        engine.analyze_model(&model())
    };
    // cpu:0 alone spends 40 J.
    // Of the two nodes that null:1 takes, one spends 100 J there in a second, the other nothing.
    let watts = [("cpu:0", 1.0), ("null:1", 100.0)];
    let of = |budget: f64, node: &str| plan(budget, &watts).unwrap().placement()[node].to_owned();
    assert_eq!((of(1000.0, "relu"), of(1000.0, "identity")), ("null:1".to_owned(), "null:1".to_owned()));
    assert_eq!((of(50.0, "relu"), of(50.0, "identity")), ("cpu:0".to_owned(), "null:1".to_owned()));
    let least = plan(29.0, &watts).err().unwrap().to_string();
    assert!(least.contains("29"), "{least}");
    let unknown = plan(50.0, &watts[..1]).err().unwrap();
    assert!(matches!(&unknown, Error::UnknownEnergy { device, .. } if device == "null:1"), "{unknown}");
}

/// Text has no kernels, so that the processor calls such nodes slow.
#[test]
fn slow_nodes_are_told_with_their_reason_and_denied_on_request() {
    let mut model = model();
    let text = |name: &str| Value { name: name.into(), ty: TensorType::exact(DType::String, &[2]), constant: None };
    model.graph.values.extend([text("words"), text("joined")]);
    let [words, joined] = [5, 6].map(ValueId);
    model.graph.nodes.push(Node {
        name: "join".into(),
        operator: Operator::new("StringConcat", 20),
        inputs: vec![Some(words), Some(words)],
        outputs: vec![Some(joined)],
    });
    model.graph.inputs.push(words);
    model.graph.outputs.push(joined);
    model.opsets = [("".into(), 20)].into();
    let engine_with = |deny_slow: bool| {
        let mut config = Config::default();
        config.scheduling.deny_slow = deny_slow;
        let mut engine = HeteroEngine::builder().cost_model(Arc::new(NullIsFree)).config(config).build();
        engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
        engine
    };
    let free = engine_with(false);
    let plan = free.analyze_model(&model).unwrap();
    let slow = free.slow_nodes(&plan);
    let [group] = &slow.groups[..] else { panic!("{slow}") };
    assert_eq!((&*group.operator, &*group.reason, &*group.nodes[0]), ("StringConcat", "text", "join"));
    // By this cost model each of the five nodes takes as long on the processor.
    assert_eq!((slow.len(), slow.of_nodes, slow.of_time()), (1, 5, 0.2));
    let strict = engine_with(true);
    let json = plan.to_json().unwrap();
    for denied in [strict.analyze_model(&model), strict.load_plan(&model, &json)] {
        let error = denied.err().unwrap();
        assert!(matches!(&error, Error::Slow(denied) if *denied == slow), "{error}");
        let said = error.to_string();
        assert!(said.contains("1 of 5 nodes") && said.contains("1 StringConcat 'join' (text)"), "{said}");
    }
    assert!(free.slow_nodes(&free.analyze_model(&self::model()).unwrap()).is_empty());
    assert!(strict.analyze_model(&self::model()).is_ok());
}

#[test]
fn threads_share_a_session() {
    let engine = engine(&["cpu:0", "null:0"]);
    let plan = engine.analyze_model(&model()).unwrap();
    let session = engine.session(&plan).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let session = &session;
            scope.spawn(move || {
                for round in 0..50u8 {
                    let x = f32::from(thread) / 4.0 + f32::from(round) / 50.0;
                    let tensor = Tensor::from_vec(&[4], vec![x; 4]).unwrap();
                    let y = session.run(&[("v0", tensor)]).unwrap().tensor("v4").unwrap().view::<f32>().unwrap()[0];
                    assert!((y + x.exp()).abs() < 1e-5);
                }
            });
        }
    });
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    let all = engine(&["cpu:0", "null:0"]);
    let json = all.analyze_model(&model()).unwrap().to_json().unwrap();
    let missing = engine(&["cpu:0"]).load_plan(&model(), &json).err().unwrap().to_string();
    assert!(missing.contains("'null:"), "{missing}");
    let mut other = model();
    other.graph.nodes[0].operator = Operator::new("Sqrt", 17);
    let changed = all.load_plan(&other, &json).err().unwrap().to_string();
    assert!(changed.contains("made for another model"), "{changed}");
    assert!(all.load_plan(&model(), "{").is_err());
}

#[test]
fn wrong_inputs_and_devices_are_named() {
    let mut engine = engine(&["cpu:0"]);
    let plan = engine.analyze_model(&model()).unwrap();
    let said = |inputs: &[(&str, Tensor)]| engine.run(inputs, &plan).err().unwrap().to_string();
    assert!(said(&[("nope", input())]).contains("it takes 'v0'"));
    assert!(said(&[]).contains("missing"));
    assert!(said(&[("v0", input()), ("v0", input())]).contains("twice"));
    assert!(said(&[("v0", Tensor::scalar(1.0f32))]).contains("[4]"));
    assert!(said(&[("v0", Tensor::from_vec(&[4], vec![1i32; 4]).unwrap())]).contains("int32"));
    let nan = Tensor::from_vec(&[4], vec![f32::NAN; 4]).unwrap();
    assert!(
        engine
            .run(&[("v0", nan)], &plan)
            .unwrap()
            .tensor("v4")
            .unwrap()
            .view::<f32>()
            .unwrap()
            .iter()
            .all(|y| y.is_nan())
    );
    for (id, word) in [("gpu:0", "no driver"), ("cpu:7", "no such device"), ("cpu:0", "already"), ("::", "device id")] {
        let said = engine.add_device(id, DeviceOptions::default()).unwrap_err().to_string();
        assert!(said.contains(word), "{id}: {said}");
    }
    let nobody = HeteroEngine::builder().build().analyze_model(&model()).err().unwrap();
    assert!(matches!(nobody, Error::Plan(_)), "{nobody}");
}

#[test]
fn what_only_some_devices_take_needs_one_of_them() {
    let error = engine(&["null:0"]).analyze_model(&model()).err().unwrap().to_string();
    assert!(error.contains("exp (Exp)"), "{error}");
}

#[test]
fn a_node_that_no_device_takes_is_named_with_its_types_and_a_device_that_would() {
    let error = engine(&["null:0", "null:1"]).analyze_model(&model()).err().unwrap();
    assert!(matches!(&error, Error::Unclaimed { node, .. } if node.contains("exp")), "{error}");
    let text = error.to_string();
    assert!(text.contains("float32") && text.contains("add device cpu:0"), "{text}");
}

#[test]
fn a_plan_of_another_model_says_so() {
    let engine = engine(&["cpu:0"]);
    let json = engine.analyze_model(&model()).unwrap().to_json().unwrap();
    let (mut renamed, mut changed) = (model(), model());
    renamed.graph.values[0].name = "image".into();
    changed.graph.nodes[0].operator = Operator::new("Sin", 17);
    for (model, detail) in [(renamed, "this model has 'image'"), (changed, "its fingerprint is")] {
        let text = engine.load_plan(&model, &json).err().unwrap().to_string();
        assert!(text.contains("another model") && text.contains(detail), "{text}");
    }
}
