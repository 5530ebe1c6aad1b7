//! Writing: [`Model`]s and [`Program`]s become `ModelProto`s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{Attribute, DType, Dim, Graph, Model, Node, Program, Tensor, TensorType, ValueId};
use prost::Message;

use crate::error::{Error, Result};
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::{data, tensor};

/// The IR version that is written for a model that names none.
const IR_VERSION: i64 = 8;

/// Returns the model as ONNX bytes, weights included.
///
/// # Errors
/// `Invalid` where the model refers to values that it does not have.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>> {
    model.check()?;
    let proto = ModelProto {
        ir_version: Some(if model.ir_version > 0 { model.ir_version } else { IR_VERSION }),
        producer_name: Some(model.producer.clone()),
        opset_import: model
            .opsets
            .iter()
            .map(|(domain, &version)| OperatorSetIdProto {
                domain: Some(domain.to_string()),
                version: Some(i64::from(version)),
            })
            .collect(),
        graph: Some(graph_proto(&model.graph, None)),
        metadata_props: model
            .metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) })
            .collect(),
        ..ModelProto::default()
    };
    Ok(proto.encode_to_vec())
}

/// Writes the model to a file, weights included, whole or not at all.
///
/// # Errors
/// The errors of [`to_bytes`], and `Io`.
pub fn write(model: &Model, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    hetero_files::replace(path, to_bytes(model)?).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Returns a program as a model with static shapes, which a vendor's compiler can take.
#[must_use]
pub fn model_of(program: &Program) -> Model {
    let mut opsets = BTreeMap::new();
    note_opsets(program.nodes(), &mut opsets);
    opsets.entry("".into()).or_insert(crate::NEWEST_OPSET);
    Model { graph: program.to_graph(), opsets, producer: "hetero".into(), ..Model::default() }
}

/// Notes the operator sets of nodes, and of the nodes in their subgraphs.
fn note_opsets(nodes: &[Node], opsets: &mut BTreeMap<Arc<str>, u32>) {
    for node in nodes {
        let version = opsets.entry(node.operator.domain.clone()).or_default();
        // Nodes of an early model are partly of a later version, which the others have in common.
        *version = node.operator.version.max(*version);
        node.subgraphs().for_each(|graph| note_opsets(&graph.nodes, opsets));
    }
}

/// Returns the bytes of a value's message, under a name: a `TensorProto`, or a `SequenceProto` or
/// an `OptionalProto` where the element type says so.
#[must_use]
pub fn value_to_bytes(name: &str, value: &Tensor) -> Vec<u8> {
    data::export(name, value)
}

/// The names of a graph's values in the file.
/// Where a file's subgraph captures a value, it does so by the name that the value has outside.
fn names_of<'a>(graph: &'a Graph, outer: Option<&[&'a str]>) -> Vec<&'a str> {
    let mut names: Vec<&str> = graph.values.iter().map(|value| &*value.name).collect();
    for capture in &graph.captures {
        let outside = outer.and_then(|outer| outer.get(capture.outer.index()));
        if let (Some(name), Some(outside)) = (names.get_mut(capture.inner.index()), outside) {
            *name = outside;
        }
    }
    names
}

fn graph_proto<'a>(graph: &'a Graph, outer: Option<&[&'a str]>) -> GraphProto {
    let names = &*names_of(graph, outer);
    let info = |&id: &ValueId| value_info(graph, id);
    // Ports say their types themselves, and captured values have theirs outside.
    let mut told = vec![false; graph.values.len()];
    let captured = graph.captures.iter().map(|capture| &capture.inner);
    for id in graph.inputs.iter().chain(&graph.outputs).chain(captured) {
        told[id.index()] = true;
    }
    let inner = (0u32..)
        .map(ValueId)
        .zip(&graph.values)
        .filter(|(id, value)| value.constant.is_none() && value.ty.dtype.is_some() && !told[id.index()]);
    let mut initializer = Vec::new();
    let mut nodes = Vec::new();
    for value in &graph.values {
        if let Some(content) = &value.constant {
            constant(&value.name, content, &mut initializer, &mut nodes);
        }
    }
    nodes.extend(graph.nodes.iter().map(|node| node_proto(names, node)));
    GraphProto {
        name: Some(graph.name.to_string()),
        node: nodes,
        input: graph.inputs.iter().map(info).collect(),
        output: graph.outputs.iter().map(info).collect(),
        value_info: inner.map(|(id, _)| value_info(graph, id)).collect(),
        initializer,
        ..GraphProto::default()
    }
}

/// Writes a constant as an initialiser.
/// A sequence or an optional cannot be one, so a node makes it of initialisers.
fn constant(name: &str, content: &Tensor, initializers: &mut Vec<TensorProto>, nodes: &mut Vec<NodeProto>) {
    let Ok(parts) = content.parts() else { return initializers.push(tensor::export(name, content)) };
    let names: Vec<String> = (0..parts.len()).map(|index| format!("{name}/part_{index}")).collect();
    for (name, part) in names.iter().zip(parts) {
        constant(name, part, initializers, nodes);
    }
    let operator = match (content.dtype(), parts) {
        (DType::Optional, _) => "Optional",
        (_, []) => "SequenceEmpty",
        _ => "SequenceConstruct",
    };
    nodes.push(NodeProto {
        name: Some(format!("{name}/{operator}")),
        op_type: Some(operator.to_owned()),
        input: names,
        output: vec![name.to_owned()],
        ..NodeProto::default()
    });
}

fn value_info(graph: &Graph, id: ValueId) -> ValueInfoProto {
    let value = &graph.values[id.index()];
    ValueInfoProto { name: Some(value.name.to_string()), r#type: type_proto(&value.ty), ..ValueInfoProto::default() }
}

fn type_proto(ty: &TensorType) -> Option<TypeProto> {
    let dimension = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Known(size) => Some(dimension::Value::DimValue(*size as i64)),
            Dim::Symbol(name) => Some(dimension::Value::DimParam(name.to_string())),
            _ => None,
        },
        ..Dimension::default()
    };
    let shape = ty.dims.as_ref().map(|dims| TensorShapeProto { dim: dims.iter().map(dimension).collect() });
    let value = match ty.dtype? {
        // A run tells the types of the parts.
        DType::Sequence => type_proto::Value::SequenceType(Box::default()),
        DType::Optional => type_proto::Value::OptionalType(Box::default()),
        dtype => type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(dtype.onnx_code()), shape }),
    };
    Some(TypeProto { value: Some(value), ..TypeProto::default() })
}

fn node_proto<'a>(all: &[&'a str], node: &'a Node) -> NodeProto {
    let names = |ids: &[Option<ValueId>]| {
        ids.iter().map(|id| id.map(|id| all[id.index()].to_owned()).unwrap_or_default()).collect()
    };
    NodeProto {
        name: Some(node.name.to_string()),
        op_type: Some(node.operator.name.to_string()),
        domain: Some(node.operator.domain.to_string()),
        input: names(&node.inputs),
        output: names(&node.outputs),
        attribute: node
            .operator
            .attributes
            .iter()
            .filter_map(|(name, content)| attribute_proto(all, name, content))
            .collect(),
        ..NodeProto::default()
    }
}

fn attribute_proto<'a>(outer: &[&'a str], name: &str, content: &'a Attribute) -> Option<AttributeProto> {
    let bytes = |text: &Arc<[u8]>| Bytes::copy_from_slice(text);
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
    let kind = match content {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::String(text) => {
            proto.s = Some(bytes(text));
            AttributeType::String
        }
        Attribute::Tensor(content) => {
            proto.t = Some(tensor::export("", content));
            AttributeType::Tensor
        }
        Attribute::Graph(graph) => {
            proto.g = Some(graph_proto(graph, Some(outer)));
            AttributeType::Graph
        }
        Attribute::Ints(values) => {
            proto.ints = values.clone();
            AttributeType::Ints
        }
        Attribute::Floats(values) => {
            proto.floats = values.clone();
            AttributeType::Floats
        }
        Attribute::Strings(texts) => {
            proto.strings = texts.iter().map(bytes).collect();
            AttributeType::Strings
        }
        Attribute::Tensors(tensors) => {
            proto.tensors = tensors.iter().map(|content| tensor::export("", content)).collect();
            AttributeType::Tensors
        }
        Attribute::Graphs(graphs) => {
            proto.graphs = graphs.iter().map(|graph| graph_proto(graph, Some(outer))).collect();
            AttributeType::Graphs
        }
        Attribute::Type(ty) => {
            proto.tp = type_proto(ty);
            AttributeType::TypeProto
        }
        _ => return None,
    };
    proto.r#type = Some(kind as i32);
    Some(proto)
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Capture, Operator, Value};
    use hetero_reference::Standard;

    use super::*;
    use crate::{Binding, bind, read_bytes};

    fn value(name: &str, dtype: DType, constant: Option<Tensor>) -> Value {
        Value { name: name.into(), ty: TensorType::exact(dtype, &[2]), constant }
    }

    fn node(operator: Operator, inputs: &[u32], output: u32) -> Node {
        let inputs = inputs.iter().map(|&id| Some(ValueId(id))).collect();
        Node { name: format!("n{output}").into(), operator, inputs, outputs: vec![Some(ValueId(output))] }
    }

    /// A branch that applies an operator to what it captures.
    fn branch(name: &str, operator: &str, outer: u32) -> Attribute {
        let graph = Graph {
            name: name.into(),
            values: vec![value("a", DType::F32, None), value(name, DType::F32, None)],
            nodes: vec![node(Operator::new(operator, 13), &[0], 1)],
            inputs: vec![],
            outputs: vec![ValueId(1)],
            captures: vec![Capture { outer: ValueId(outer), inner: ValueId(0) }],
        };
        Attribute::Graph(Arc::new(graph))
    }

    fn choice(then: Attribute, otherwise: Attribute) -> Operator {
        Operator::new("If", 13).with("then_branch", then).with("else_branch", otherwise)
    }

    /// A model whose outer condition is known, and whose taken branch has a branch of its own that
    /// reads a value of the first.
    fn nested() -> Model {
        let mut condition = value("which", DType::Bool, None);
        condition.ty = TensorType::exact(DType::Bool, &[]);
        let capture = |outer, inner| Capture { outer: ValueId(outer), inner: ValueId(inner) };
        let mut inner_condition = condition.clone();
        inner_condition.name = "inner_which".into();
        let taken = Graph {
            name: "taken".into(),
            values: vec![
                value("inner_x", DType::F32, None),
                inner_condition,
                value("a", DType::F32, None),
                value("chosen", DType::F32, None),
            ],
            nodes: vec![
                node(Operator::new("Neg", 13), &[0], 2),
                node(choice(branch("yes", "Exp", 2), branch("no", "Abs", 2)), &[1], 3),
            ],
            inputs: vec![],
            outputs: vec![ValueId(3)],
            captures: vec![capture(0, 0), capture(1, 1)],
        };
        let mut known = value("known", DType::Bool, Some(Tensor::scalar(hetero_hal::Bool::from(true))));
        known.ty = TensorType::exact(DType::Bool, &[]);
        let graph = Graph {
            name: "nested".into(),
            values: vec![value("x", DType::F32, None), condition, known, value("y", DType::F32, None)],
            nodes: vec![node(choice(Attribute::Graph(Arc::new(taken)), branch("other", "Abs", 0)), &[2], 3)],
            inputs: vec![ValueId(0), ValueId(1)],
            outputs: vec![ValueId(3)],
            captures: vec![],
        };
        Model { graph, opsets: [("".into(), 13)].into(), ..Model::default() }
    }

    #[test]
    fn a_program_with_a_branch_inside_a_taken_branch_is_read_again() {
        let program = bind(&nested(), &Binding::default(), &Standard).unwrap().program;
        let written = to_bytes(&model_of(&program)).unwrap();
        let again = read_bytes(written.into()).unwrap();
        let again = bind(&again, &Binding::default(), &Standard).unwrap().program;
        for which in [false, true] {
            let x = Tensor::from_vec(&[2], vec![1.0f32, -2.0]).unwrap();
            let inputs = [x, Tensor::scalar(hetero_hal::Bool::from(which))];
            let run = |program: &Program| {
                hetero_reference::run(program, &inputs, &Standard, &hetero_hal::Allowance::new(1 << 20)).unwrap()
            };
            assert_eq!(run(&program)[0].bytes(), run(&again)[0].bytes(), "{which}");
        }
    }

    #[test]
    fn constant_sequences_are_made_by_nodes() {
        let sequence = Tensor::from_parts(DType::Sequence, vec![Tensor::scalar(1i64), Tensor::scalar(2i64)]).unwrap();
        let empty = Tensor::from_parts(DType::Sequence, vec![]).unwrap();
        for content in [sequence.clone(), empty, Tensor::from_parts(DType::Optional, vec![sequence]).unwrap()] {
            let ty = TensorType::new(content.dtype(), vec![Dim::Unknown]);
            let graph = Graph {
                name: "kept".into(),
                values: vec![
                    Value { name: "known".into(), ty: ty.clone(), constant: Some(content.clone()) },
                    Value { name: "y".into(), ty: ty.clone(), constant: None },
                ],
                nodes: vec![node(Operator::new("Identity", 16), &[0], 1)],
                outputs: vec![ValueId(1)],
                ..Graph::default()
            };
            let model = Model { graph, opsets: [("".into(), 16)].into(), ..Model::default() };
            let again = read_bytes(to_bytes(&model).unwrap().into()).unwrap();
            assert_eq!(again.graph.values[again.graph.outputs[0].index()].ty, ty);
            let bound = bind(&again, &Binding::default(), &Standard).unwrap().program;
            let y = hetero_reference::run(&bound, &[], &Standard, &hetero_hal::Allowance::new(1 << 20)).unwrap();
            assert_eq!(y, [content]);
        }
    }

    #[test]
    fn a_model_names_the_operator_sets_of_its_subgraphs() {
        let mut model = nested();
        // The outer condition stays open, so that both branches stay.
        model.graph.nodes[0].inputs[0] = Some(ValueId(1));
        let program = bind(&model, &Binding::default(), &Standard).unwrap().program;
        let mut graph = program.into_graph();
        let Some(Attribute::Graph(taken)) = graph.nodes[0].operator.attributes.get_mut("then_branch") else {
            panic!("the branch is there")
        };
        Arc::make_mut(taken).nodes[0].operator.domain = "vendor".into();
        let model = model_of(&Program::new(graph, vec![]).unwrap());
        assert_eq!(model.opsets.keys().map(|domain| &**domain).collect::<Vec<_>>(), ["", "vendor"]);
    }
}
