//! Tests of hostile input: input that is wrong by mistake or malice ends in an error that names the
//! culprit, or in a model.

use hetero_hal::{Allowance, DType, ErrorKind};
use hetero_reference::Standard;
use proptest::prelude::*;
use prost::Message;

use crate::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataLocation,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::{Binding, bind, read, read_bytes, read_bytes_within};

fn value(name: &str, dtype: DType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype.onnx_code()),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

pub(crate) fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(operator.into()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        ..NodeProto::default()
    }
}

pub(crate) fn tensor(name: &str, dtype: DType, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(dtype.onnx_code()),
        dims: dims.to_vec(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// Makes the model y = Relu(x), over two floats, with changes.
pub(crate) fn model(change: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> Vec<u8> {
    let mut graph = GraphProto {
        node: vec![node("Relu", &["x"], &["y"])],
        input: vec![value("x", DType::F32, &[2])],
        output: vec![value("y", DType::F32, &[2])],
        ..GraphProto::default()
    };
    let mut model = ModelProto {
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        ..ModelProto::default()
    };
    change(&mut model, &mut graph);
    model.graph = Some(graph);
    model.encode_to_vec()
}

/// Returns what reading and binding say.
fn said(bytes: Vec<u8>) -> String {
    let outcome = read_bytes(bytes.into()).and_then(|model| bind(&model, &Binding::default(), &Standard));
    outcome.map_or_else(|error| error.to_string(), |bound| format!("fine: {}", bound.program))
}

#[track_caller]
fn refused(word: &str, change: impl FnOnce(&mut ModelProto, &mut GraphProto)) {
    let said = said(model(change));
    assert!(!said.starts_with("fine") && said.contains(word), "'{word}' is not in: {said}");
}

#[test]
fn a_sound_model_is_fine() {
    assert!(said(model(|_, _| {})).starts_with("fine"));
}

#[test]
fn every_truncation_is_an_error_or_a_model() {
    let whole = model(|_, graph| graph.initializer.push(tensor("w", DType::F32, &[2], vec![0; 8])));
    for length in 0..whole.len() {
        let _ = said(whole[..length].to_vec());
    }
    assert!(said(vec![]).contains("no graph"));
    assert!(said(b"not a model at all".to_vec()).contains("not valid ONNX"));
}

#[test]
fn graphs_that_contradict_themselves() {
    refused("cycle", |_, g| {
        g.node = vec![node("Relu", &["b"], &["a"]), node("Relu", &["a"], &["b"]), node("Relu", &["x"], &["y"])]
    });
    refused("produced twice", |_, g| g.node.push(node("Neg", &["x"], &["y"])));
    refused("listed twice", |_, g| g.input.push(value("x", DType::F32, &[2])));
    refused("listed twice", |_, g| {
        g.initializer = vec![tensor("w", DType::F32, &[0], vec![]), tensor("w", DType::F32, &[0], vec![])]
    });
    refused("nothing produces", |_, g| g.node[0].input[0] = "nowhere".into());
    refused("output 'z'", |_, g| g.output.push(value("z", DType::F32, &[2])));
    refused("not import", |m, _| m.opset_import.clear());
    refused("opset 9999", |m, _| m.opset_import[0].version = Some(9999));
    refused("in version -1", |m, _| m.opset_import[0].version = Some(-1));
    refused("does not take 3 inputs", |_, g| g.node[0].input = vec!["x".into(); 3]);
}

#[test]
fn sizes_that_no_machine_has() {
    refused("negative dimension", |_, g| g.input[0] = value("x", DType::F32, &[-7]));
    refused("negative dimension", |_, g| g.initializer.push(tensor("w", DType::F32, &[-2], vec![0; 8])));
    refused("overflow", |_, g| g.initializer.push(tensor("w", DType::F32, &[1 << 62, 4], vec![0; 8])));
    refused("overflow", |_, g| g.input[0] = value("x", DType::F32, &[1 << 62, 4]));
    // The tensor claims ten gigabytes in a file of a hundred bytes.
    refused("takes 10000000000 bytes", |_, g| {
        g.initializer.push(tensor("w", DType::F32, &[2_500_000_000], vec![0; 8]))
    });
    refused("unknown element type 99", |_, g| {
        let mut odd = tensor("w", DType::F32, &[1], vec![0; 4]);
        odd.data_type = Some(99);
        g.initializer.push(odd);
    });
    refused("elements do not fill", |_, g| {
        let mut short = tensor("w", DType::F32, &[3], vec![]);
        short.raw_data = None;
        short.float_data = vec![1.0];
        g.initializer.push(short);
    });
}

#[test]
fn missing_operators_come_in_one_report() {
    let bytes = model(|_, g| {
        g.node =
            vec![node("Frobnicate", &["x"], &["a"]), node("Relu", &["a"], &["b"]), node("Twiddle", &["b"], &["y"])];
    });
    let said = said(bytes);
    assert!(said.contains("2 nodes") && said.contains("Frobnicate (opset 17)") && said.contains("Twiddle_2"), "{said}");
}

#[test]
fn functions_that_never_end() {
    let call = |name: &str, input: &str, output: &str| NodeProto {
        domain: Some("f".into()),
        ..node(name, &[input], &[output])
    };
    let function = |name: &str, body: Vec<NodeProto>| FunctionProto {
        name: Some(name.into()),
        domain: Some("f".into()),
        input: vec!["i".into()],
        output: vec!["o".into()],
        node: body,
        ..FunctionProto::default()
    };
    refused("calls itself", |m, g| {
        m.functions = vec![function("Again", vec![call("Again", "i", "o")])];
        g.node = vec![call("Again", "x", "y")];
    });
    // Each function calls the next one twice: two to the power of thirty nodes.
    let bytes = model(|m, g| {
        let twice = |k: i32| vec![call(&format!("F{}", k + 1), "i", "m"), call(&format!("F{}", k + 1), "m", "o")];
        m.functions = (0..30).map(|k| function(&format!("F{k}"), twice(k))).collect();
        m.functions.push(function("F30", vec![node("Relu", &["i"], &["o"])]));
        g.node = vec![call("F0", "x", "y")];
    });
    let error = read_bytes_within(bytes.into(), &Allowance::new(1 << 26)).unwrap_err();
    let error = hetero_hal::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.to_string().contains("a call of the function 'F"), "{error}");
}

#[test]
fn a_function_of_the_models_own_is_expanded() {
    let bytes = model(|m, g| {
        let slope = AttributeProto {
            name: Some("alpha".into()),
            ref_attr_name: Some("slope".into()),
            ..AttributeProto::default()
        };
        m.functions = vec![FunctionProto {
            name: Some("Bent".into()),
            domain: Some("f".into()),
            input: vec!["i".into()],
            output: vec!["o".into()],
            attribute: vec!["slope".into()],
            node: vec![NodeProto { attribute: vec![slope], ..node("LeakyRelu", &["i"], &["o"]) }],
            ..FunctionProto::default()
        }];
        let half = AttributeProto {
            name: Some("slope".into()),
            f: Some(0.5),
            r#type: Some(AttributeType::Float as i32),
            ..AttributeProto::default()
        };
        g.node = vec![NodeProto { domain: Some("f".into()), attribute: vec![half], ..node("Bent", &["x"], &["y"]) }];
    });
    let bound = bind(&read_bytes(bytes.into()).unwrap(), &Binding::default(), &Standard).unwrap();
    assert_eq!(bound.program.nodes()[0].operator.float("alpha").unwrap(), Some(0.5));
}

#[test]
fn external_data_stays_in_the_models_folder() {
    let folder = std::env::temp_dir().join(format!("hetero-external-{}", std::process::id()));
    let inside = folder.join("model");
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(folder.join("secret.bin"), [1; 8]).unwrap();
    std::fs::write(inside.join("weights.bin"), 1.5f32.to_le_bytes().repeat(4)).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.join("secret.bin"), inside.join("link.bin")).unwrap();
    let outcome = |location: &str, offset: &str, length: &str| {
        let entry =
            |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
        let bytes = model(|_, g| {
            let mut weights = tensor("w", DType::F32, &[2], vec![]);
            weights.raw_data = None;
            weights.data_location = Some(DataLocation::External as i32);
            weights.external_data = vec![entry("location", location), entry("offset", offset), entry("length", length)];
            g.initializer.push(weights);
            g.node = vec![node("Add", &["x", "w"], &["y"])];
        });
        std::fs::write(inside.join("m.onnx"), &bytes).unwrap();
        (read(inside.join("m.onnx")), bytes)
    };
    let (good, bytes) = outcome("weights.bin", "4", "8");
    let good = good.unwrap();
    let weights = good.graph.values.iter().find_map(|value| value.constant.clone()).unwrap();
    assert_eq!(&*weights.view::<f32>().unwrap(), [1.5, 1.5]);
    assert!(read_bytes(bytes.into()).unwrap_err().to_string().contains("read from memory"));
    let absolute = folder.join("secret.bin").display().to_string();
    for (location, offset, length, word) in [
        ("../secret.bin", "0", "8", "outside the model's folder"),
        (absolute.as_str(), "0", "8", "outside the model's folder"),
        ("link.bin", "0", "8", "outside the model's folder"),
        ("nothing.bin", "0", "8", "cannot open"),
        ("weights.bin", "12", "8", "past the end"),
        ("weights.bin", "18446744073709551615", "8", "past the end"),
        ("weights.bin", "-1", "8", "not a size"),
        ("weights.bin", "0", "12", "not the 12"),
        (".", "0", "8", "not a regular file"),
    ] {
        let said = outcome(location, offset, length).0.unwrap_err().to_string();
        assert!(said.contains(word), "{location} {offset} {length}: {said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn shapes_that_do_not_fit_the_inputs() {
    let whole = read_bytes(model(|_, _| {}).into()).unwrap();
    let with = |name: &str, shape: &[usize]| {
        let shapes = [(name.to_owned(), shape.to_vec())].into();
        bind(&whole, &Binding { shapes, ..Binding::default() }, &Standard).unwrap_err().to_string()
    };
    assert!(with("z", &[2]).contains("the inputs are: x"));
    assert!(with("x", &[3]).contains("is [2], not [3]"));
    assert!(with("x", &[2, 1]).contains("is [2], not"));
}

#[test]
fn a_claimed_shape_that_the_input_cannot_have_counts_for_nothing() {
    let of = |operator: &str, claim: &[i64]| {
        let model = model(|_, g| {
            g.node = vec![node(operator, &["x", "s"], &["y"])];
            g.input.push(value("s", DType::I64, &[1]));
            g.output = vec![value("y", DType::F32, claim)];
        });
        read_bytes(model.into()).unwrap()
    };
    for (operator, cannot, can, content) in
        [("Reshape", [100], [2], 2), ("Expand", [3], [2], 2), ("Tile", [3], [6], 3), ("Reshape", [1], [2], 2)]
    {
        // Without the claim, only a run tells the size.
        let open = bind(&of(operator, &cannot), &Binding::default(), &Standard).unwrap().program;
        assert!(open.value(open.outputs()[0]).unwrap().late.is_some(), "{operator}");
        assert!(bind(&of(operator, &can), &Binding::default(), &Standard).is_ok(), "{operator}");
        // Where the content is known, it decides, whatever the file claims.
        let content = hetero_hal::Tensor::from_vec(&[1], vec![content as i64]).unwrap();
        let binding = Binding { constants: [("s".to_owned(), content)].into(), ..Binding::default() };
        let bound = bind(&of(operator, &cannot), &binding, &Standard).unwrap();
        let found = bound.program.value(bound.program.outputs()[0]).unwrap();
        assert_eq!(found.shape, can.map(|size| size as usize), "{operator}");
    }
}

/// Numbers of attributes that are added, multiplied or allocated for, at the ends of their range.
#[test]
fn extreme_numbers_of_attributes_are_errors_or_programs() {
    let cases: [(&str, &[&str], &str); 12] = [
        ("Scan", &["x", "x"], "num_scan_inputs"),
        ("LRN", &["x"], "size"),
        ("Split", &["x"], "num_outputs"),
        ("Flatten", &["x"], "axis"),
        ("Concat", &["x", "x"], "axis"),
        ("Gather", &["x", "x"], "axis"),
        ("Softmax", &["x"], "axis"),
        ("SpaceToDepth", &["x"], "blocksize"),
        ("DepthToSpace", &["x"], "blocksize"),
        ("TopK", &["x", "x"], "axis"),
        ("LSTM", &["x", "x", "x"], "hidden_size"),
        ("GroupNormalization", &["x", "x", "x"], "num_groups"),
    ];
    for (operator, inputs, name) in cases {
        for number in [i64::MIN, -1, 0, 1 << 31, 1 << 62, i64::MAX] {
            for dims in [&[2i64, 4, 6, 6][..], &[1 << 40, 1 << 20], &[0, 3, 1], &[]] {
                let bytes = model(|m, g| {
                    m.opset_import[0].version = Some(21);
                    g.input[0] = value("x", DType::F32, dims);
                    g.output[0].r#type = None;
                    let mut made = node(operator, inputs, &["y"]);
                    made.attribute.push(AttributeProto {
                        name: Some(name.into()),
                        i: Some(number),
                        r#type: Some(AttributeType::Int as i32),
                        ..AttributeProto::default()
                    });
                    g.node = vec![made];
                });
                assert!(!said(bytes).is_empty(), "{operator} {name}={number} {dims:?}");
            }
        }
    }
}

/// What is quadratic in these takes minutes in a build like this one.
#[test]
fn many_nodes_of_one_name_and_branches_that_decide_the_next_are_read_in_one_walk() {
    const NODES: usize = 20_000;
    let same = model(|_, g| {
        let name = |at: usize| if at == NODES { "y".to_owned() } else { format!("v{at}") };
        g.input[0].name = Some("v0".into());
        g.node = (0..NODES).map(|at| node("Relu", &[&name(at)], &[&name(at + 1)])).collect();
        g.node.iter_mut().for_each(|node| node.name = Some("one".into()));
    });
    let read = read_bytes(same.into()).unwrap();
    let names: std::collections::BTreeSet<&str> = read.graph.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names.len(), NODES);

    const BRANCHES: usize = 2_000;
    let decided = model(|_, g| {
        g.initializer.push(tensor("c0", DType::Bool, &[], vec![1]));
        g.node = (0..BRANCHES)
            .map(|at| {
                let branch = |operator: &str| AttributeProto {
                    name: Some(operator.into()),
                    g: Some(GraphProto {
                        node: vec![node("Identity", &[&format!("c{at}")], &["inside"])],
                        output: vec![ValueInfoProto { name: Some("inside".into()), ..ValueInfoProto::default() }],
                        ..GraphProto::default()
                    }),
                    r#type: Some(AttributeType::Graph as i32),
                    ..AttributeProto::default()
                };
                let mut made = node("If", &[&format!("c{at}")], &[&format!("c{}", at + 1)]);
                made.attribute = vec![branch("then_branch"), branch("else_branch")];
                made
            })
            .collect();
        g.node.push(node("Relu", &["x"], &["y"]));
    });
    assert!(said(decided).starts_with("fine"));
}

#[test]
fn what_a_taken_branch_claims_of_its_output_counts() {
    let taken = model(|_, g| {
        g.input.push(value("s", DType::I64, &[2]));
        g.output = vec![ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() }];
        g.initializer.push(tensor("c", DType::Bool, &[], vec![1]));
        let branch = |name: &str| AttributeProto {
            name: Some(name.into()),
            g: Some(GraphProto {
                node: vec![node("Reshape", &["x", "s"], &["o"])],
                output: vec![value("o", DType::F32, &[2, 1])],
                ..GraphProto::default()
            }),
            r#type: Some(AttributeType::Graph as i32),
            ..AttributeProto::default()
        };
        g.node = vec![node("If", &["c"], &["y"])];
        g.node[0].attribute = vec![branch("then_branch"), branch("else_branch")];
    });
    let said = said(taken);
    assert!(said.starts_with("fine"), "{said}");
}

#[test]
fn what_is_written_reads_back_the_same() {
    let bytes = model(|_, g| {
        g.initializer.push(tensor("w", DType::F32, &[2], vec![0, 0, 128, 63, 0, 0, 0, 64]));
        g.node = vec![node("Mul", &["x", "w"], &["m"]), node("Relu", &["m"], &["y"])];
    });
    let first = read_bytes(bytes.into()).unwrap();
    let second = read_bytes(crate::to_bytes(&first).unwrap().into()).unwrap();
    assert_eq!(first.graph, second.graph);
    assert_eq!(first.opsets, second.opsets);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_an_error_or_a_model(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = said(bytes);
    }

    /// Tests graphs of real operators, wired and attributed at random.
    #[test]
    fn any_graph_is_an_error_or_a_program(
        nodes in prop::collection::vec((0usize..24, 0usize..8, 0usize..8, 0usize..8, -3i64..70), 1..8),
        dims in prop::collection::vec(prop_oneof![0i64..5, Just(1 << 40), Just(-1)], 0..5),
    ) {
        const OPERATORS: [&str; 24] = [
            "Add", "Relu", "Conv", "MaxPool", "Reshape", "Concat", "Transpose", "Gemm", "MatMul", "Slice", "Gather", "Pad",
            "Expand", "Tile", "ConstantOfShape", "Range", "NonZero", "Split", "Softmax", "LSTM", "Unsqueeze", "ReduceSum", "TopK", "OneHot",
        ];
        let bytes = model(|_, g| {
            g.input[0] = value("v0", DType::F32, &dims);
            g.initializer.push(tensor("v1", DType::I64, &[2], [[2u8, 0, 0, 0, 0, 0, 0, 0]; 2].concat()));
            g.node.clear();
            for (number, (operator, a, b, c, number_of)) in nodes.iter().enumerate() {
                let names = [a, b, c].map(|index| format!("v{}", index % (number + 2)));
                let mut made = node(OPERATORS[*operator], &[], &[&format!("v{}", number + 2)]);
                made.input = names[..1 + number % 3].to_vec();
                for (name, list) in [("axis", false), ("kernel_shape", true), ("pads", true), ("perm", true), ("axes", true)] {
                    if (number_of + number as i64) % 3 == 0 {
                        made.attribute.push(AttributeProto {
                            name: Some(name.into()),
                            i: Some(*number_of),
                            ints: if list { vec![*number_of; 2] } else { vec![] },
                            r#type: Some(if list { AttributeType::Ints } else { AttributeType::Int } as i32),
                            ..AttributeProto::default()
                        });
                    }
                }
                g.node.push(made);
            }
            g.output = vec![ValueInfoProto { name: Some(format!("v{}", nodes.len() + 1)), ..ValueInfoProto::default() }];
        });
        let _ = said(bytes);
    }
}

/// A file's nodes may stand in any order: here the last comes first, and each reads its source
/// twice.
#[test]
fn very_many_nodes_in_the_wrong_order_are_put_in_order() {
    const COUNT: usize = 20_000;
    let bytes = model(|_, graph| {
        let name = |number: usize| if number == 0 { "x".to_owned() } else { format!("v{number}") };
        let add = |number: usize| node("Add", &[&name(number), &name(number)], &[&name(number + 1)]);
        graph.node = (0..COUNT).rev().map(add).collect();
        graph.output = vec![value(&name(COUNT), DType::F32, &[2])];
    });
    let graph = read_bytes(bytes.into()).unwrap().graph;
    let outputs: Vec<&str> =
        graph.nodes.iter().flat_map(|node| &node.outputs).map(|id| &*graph.values[id.unwrap().index()].name).collect();
    assert_eq!(outputs, (1..=COUNT).map(|number| format!("v{number}")).collect::<Vec<_>>());
}
