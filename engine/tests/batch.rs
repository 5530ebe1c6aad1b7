//! Batches that are larger than the configuration's limit are split by the speed of devices; the
//! devices are synthetic.

#![allow(clippy::unwrap_used)]

mod synthetic;

use std::time::Duration;

use hetero::hal::{Attribute, DType, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{Binding, Config, Model, bind};
use hetero_reference::Standard;
use synthetic::{Speed, engine_config, tensor};

/// Makes a small convolutional network over 10 images; with `mixed`, the rows of the batch are
/// added up in between.
fn network(mixed: bool) -> Model {
    let mut graph = Graph { name: "small".into(), ..Graph::default() };
    let mut value = |name: &str, constant: Option<hetero::Tensor>| {
        let ty = constant.as_ref().map_or_else(TensorType::default, |t| TensorType::exact(t.dtype(), t.shape()));
        graph.values.push(Value { name: name.into(), ty, constant });
        ValueId(graph.values.len() as u32 - 1)
    };
    let x = value("x", None);
    let (w, v) = (value("w", Some(tensor(&[4, 3, 3, 3], 0.2))), value("v", Some(tensor(&[4, 5], 0.3))));
    let bias = value("bias", Some(tensor(&[1, 5], 0.4)));
    let ids: Vec<ValueId> = ["a", "b", "c", "d", "e", "f", "y"].iter().map(|name| value(name, None)).collect();
    let last =
        if mixed { Operator::new("Softmax", 13).with("axis", Attribute::Int(0)) } else { Operator::new("Softmax", 13) };
    let steps = [
        (Operator::new("Conv", 11), vec![x, w]),
        (Operator::new("Relu", 14), vec![ids[0]]),
        (Operator::new("GlobalAveragePool", 1), vec![ids[1]]),
        (Operator::new("Flatten", 13), vec![ids[2]]),
        (Operator::new("MatMul", 13), vec![ids[3], v]),
        (Operator::new("Add", 14), vec![ids[4], bias]),
        (last, vec![ids[5]]),
    ];
    for (number, ((operator, inputs), output)) in steps.into_iter().zip(&ids).enumerate() {
        graph.nodes.push(Node {
            name: format!("n{number}").into(),
            operator,
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: vec![Some(*output)],
        });
    }
    graph.values[x.index()].ty = TensorType::exact(DType::F32, &[10, 3, 8, 8]);
    graph.inputs = vec![x];
    graph.outputs = vec![ids[6]];
    Model { graph, opsets: [("".into(), 14)].into(), ..Model::default() }
}

fn config(most: usize) -> Config {
    let mut config = Config::default();
    config.scheduling.batch_split_size = Some(most);
    config
}

#[test]
fn a_batch_is_split_by_speed_and_gives_the_same() {
    let model = network(false);
    let x = tensor(&[10, 3, 8, 8], 0.6);
    let program = bind(&model, &Binding::default(), &Standard).unwrap().program;
    let expected =
        hetero_reference::run(&program, std::slice::from_ref(&x), &Standard, &hetero_hal::Allowance::new(1 << 20))
            .unwrap()
            .remove(0);
    for (speeds, most, parts) in [
        (&[Speed::ms(0).planned(1), Speed::ms(0).planned(4)][..], 9, &[8, 2][..]),
        (&[Speed::ms(0).planned(1), Speed::ms(0).planned(1)], 4, &[3, 2, 3, 2]),
        (&[Speed::ms(0).planned(1)], 10, &[]),
        (&[Speed::ms(0).planned(1)], 4, &[4, 3, 3]),
    ] {
        let engine = engine_config(speeds, config(most), Duration::from_secs(60), |driver| driver);
        let plan = engine.analyze_model(&model).unwrap();
        assert_eq!(plan.partitioning().batch_parts, parts, "{most}");
        assert!(plan.notes().is_empty(), "{:?}", plan.notes());
        let again = engine.load_plan(&model, &plan.to_json().unwrap()).unwrap();
        for plan in [plan, again] {
            let outputs = engine.run(&[("x", x.clone())], &plan).unwrap();
            let found = outputs.tensor("y").unwrap();
            assert_eq!(found.shape(), [10, 5]);
            let (found, expected) = (found.view::<f32>().unwrap(), expected.view::<f32>().unwrap());
            found.iter().zip(expected.iter()).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
        }
    }
}

#[test]
fn what_mixes_rows_stays_whole_and_says_why() {
    let engine = engine_config(&[Speed::ms(0), Speed::ms(0)], config(4), Duration::from_secs(60), |driver| driver);
    let plan = engine.analyze_model(&network(true)).unwrap();
    assert!(plan.partitioning().batch_parts.is_empty());
    assert!(plan.notes()[0].contains("n6 (Softmax) is not known to keep rows apart"), "{:?}", plan.notes());
}
