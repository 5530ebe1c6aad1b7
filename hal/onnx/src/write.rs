//! Writing: [`Model`]s and [`Program`]s become `ModelProto`s.

use std::path::Path;

use bytes::Bytes;
use hetero_hal::{Attribute, Dim, Graph, Model, Node, Program, Tensor, TensorType, ValueId};
use prost::Message;

use crate::error::{Error, Result};
use crate::proto::attribute_proto::AttributeType;
use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use crate::tensor;

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
        graph: Some(graph_proto(&model.graph)),
        metadata_props: model
            .metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) })
            .collect(),
        ..ModelProto::default()
    };
    Ok(proto.encode_to_vec())
}

/// Writes the model to a file, weights included.
///
/// # Errors
/// The errors of [`to_bytes`], and `Io`.
pub fn write(model: &Model, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    std::fs::write(path, to_bytes(model)?).map_err(|source| Error::io(path, source))
}

/// Returns a program as a model with static shapes, which a vendor's compiler can take.
#[must_use]
pub fn model_of(program: &Program) -> Model {
    let mut opsets = std::collections::BTreeMap::new();
    for node in program.nodes() {
        opsets.insert(node.operator.domain.clone(), node.operator.version);
    }
    opsets.entry("".into()).or_insert(crate::NEWEST_OPSET);
    Model { graph: program.to_graph(), opsets, producer: "hetero".into(), ..Model::default() }
}

/// Returns the tensor as a `TensorProto`'s bytes, under a name.
#[must_use]
pub fn tensor_to_bytes(name: &str, tensor: &Tensor) -> Vec<u8> {
    tensor::export(name, tensor).encode_to_vec()
}

fn graph_proto(graph: &Graph) -> GraphProto {
    let info = |&id: &ValueId| value_info(graph, id);
    let ports: Vec<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    let inner = (0u32..)
        .map(ValueId)
        .zip(&graph.values)
        .filter(|(id, value)| value.constant.is_none() && value.ty.dtype.is_some() && !ports.contains(id));
    let captured: Vec<ValueId> = graph.captures.iter().map(|capture| capture.inner).collect();
    GraphProto {
        name: Some(graph.name.to_string()),
        node: graph.nodes.iter().map(|node| node_proto(graph, node)).collect(),
        input: graph.inputs.iter().map(info).collect(),
        output: graph.outputs.iter().map(info).collect(),
        value_info: inner.filter(|(id, _)| !captured.contains(id)).map(|(id, _)| value_info(graph, id)).collect(),
        initializer: graph
            .values
            .iter()
            .filter_map(|value| value.constant.as_ref().map(|content| tensor::export(&value.name, content)))
            .collect(),
        ..GraphProto::default()
    }
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
    let tensor = type_proto::Tensor { elem_type: Some(ty.dtype?.onnx_code()), shape };
    Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() })
}

fn node_proto(graph: &Graph, node: &Node) -> NodeProto {
    let names = |ids: &[Option<ValueId>]| {
        ids.iter().map(|id| id.map(|id| graph.values[id.index()].name.to_string()).unwrap_or_default()).collect()
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
            .filter_map(|(name, content)| attribute_proto(name, content))
            .collect(),
        ..NodeProto::default()
    }
}

fn attribute_proto(name: &str, content: &Attribute) -> Option<AttributeProto> {
    let bytes = |text: &std::sync::Arc<[u8]>| Bytes::copy_from_slice(text);
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
            proto.g = Some(graph_proto(graph));
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
            proto.graphs = graphs.iter().map(|graph| graph_proto(graph)).collect();
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
