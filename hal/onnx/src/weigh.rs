//! Weighing: the memory that a file's messages take once they are decoded, found out before.
//!
//! Two bytes of a file can be a node of some hundred bytes in memory, so a small file can take
//! much.
//! The walk here reads only the outlines of the messages, and allocates nothing.

use std::mem::size_of;

use hetero_hal::DType;

use crate::data::{OptionalProto, SequenceProto};
use crate::proto::{self, type_proto};

/// The deepest nesting of messages that the decoder accepts.
const DEEPEST: usize = 100;

/// The copies of a message that are in memory at once, at most: the decoder's list, that list while
/// it grows, and the graph that is made of it.
const COPIES: usize = 3;

/// The kind of a message.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Value,
    Type,
    TensorType,
    Shape,
    Dimension,
    Function,
    Training,
    /// A message about the devices that a node is divided among; its fields are such messages too.
    Sharding,
    /// A message of a few texts.
    Entry,
    /// A value that is a sequence of values.
    Sequence,
    /// A value that is an optional.
    Optional,
}

/// The content of a field.
enum Field {
    /// A message.
    Message(Kind),
    /// A text, which the decoder copies.
    Text,
    /// Bytes, which the decoder shares with the file.
    Bytes,
    /// A list of numbers, each of this many bytes in memory; packed or not.
    Numbers(usize),
    /// A number, or a field that the decoder skips.
    Other,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::Model => size_of::<proto::ModelProto>(),
            Kind::Graph => size_of::<proto::GraphProto>(),
            Kind::Node => size_of::<proto::NodeProto>(),
            Kind::Attribute => size_of::<proto::AttributeProto>(),
            Kind::Tensor => size_of::<proto::TensorProto>(),
            Kind::Sparse => size_of::<proto::SparseTensorProto>(),
            Kind::Value => size_of::<proto::ValueInfoProto>(),
            Kind::Type => size_of::<proto::TypeProto>(),
            Kind::TensorType => size_of::<type_proto::Tensor>(),
            Kind::Shape => size_of::<proto::TensorShapeProto>(),
            Kind::Dimension => size_of::<proto::tensor_shape_proto::Dimension>(),
            Kind::Function => size_of::<proto::FunctionProto>(),
            Kind::Training => size_of::<proto::TrainingInfoProto>(),
            Kind::Sharding => size_of::<proto::ShardingSpecProto>(),
            Kind::Entry => size_of::<proto::TensorAnnotation>(),
            Kind::Sequence => size_of::<SequenceProto>(),
            Kind::Optional => size_of::<OptionalProto>(),
        }
    }

    /// Returns the content of the field with this number, as onnx.proto has it.
    fn field(self, number: u64) -> Field {
        use Field::{Bytes, Message, Numbers, Other, Text};
        match (self, number) {
            (Kind::Model, 7) => Message(Kind::Graph),
            (Kind::Model, 25) => Message(Kind::Function),
            (Kind::Model, 8 | 14 | 26) => Message(Kind::Entry),
            (Kind::Model, 20) => Message(Kind::Training),
            (Kind::Training, 1 | 2) => Message(Kind::Graph),
            (Kind::Graph, 1) | (Kind::Function, 7) => Message(Kind::Node),
            (Kind::Graph, 5) => Message(Kind::Tensor),
            (Kind::Graph, 11..=13) | (Kind::Function, 12) => Message(Kind::Value),
            (Kind::Graph, 15) => Message(Kind::Sparse),
            (Kind::Node, 5) | (Kind::Function, 11) => Message(Kind::Attribute),
            (Kind::Attribute, 5 | 10) => Message(Kind::Tensor),
            (Kind::Attribute, 6 | 11) => Message(Kind::Graph),
            (Kind::Attribute, 22 | 23) => Message(Kind::Sparse),
            (Kind::Attribute, 14 | 15) | (Kind::Value, 2) => Message(Kind::Type),
            (Kind::Attribute, 4 | 9) | (Kind::Tensor, 6 | 9) => Bytes,
            (Kind::Attribute, 7) | (Kind::Tensor, 4 | 5) => Numbers(4),
            (Kind::Attribute, 8) | (Kind::Tensor, 1 | 7 | 10 | 11) | (Kind::Sparse, 3) => Numbers(8),
            (Kind::Sparse, 1 | 2) => Message(Kind::Tensor),
            (Kind::Type, 1 | 4 | 5 | 8 | 9) => Message(Kind::TensorType),
            // The element type of a list stands where a tensor has a number.
            // That of a map stands where a tensor has its shape.
            (Kind::TensorType, 1) => Message(Kind::Type),
            (Kind::TensorType, 2) => Message(Kind::Shape),
            (Kind::Shape, 1) => Message(Kind::Dimension),
            (Kind::Shape, 4 | 5 | 8 | 9) => Message(Kind::TensorType),
            (Kind::Node, 10) | (Kind::Sharding, _) => Message(Kind::Sharding),
            (Kind::Graph, 14 | 16) | (Kind::Node, 9) | (Kind::Tensor, 13 | 16) | (Kind::Value, 4) => {
                Message(Kind::Entry)
            }
            (Kind::Function, 9 | 14) | (Kind::Training, _) => Message(Kind::Entry),
            (Kind::Sequence | Kind::Optional, 3) => Message(Kind::Tensor),
            (Kind::Sequence | Kind::Optional, 4) => Message(Kind::Sparse),
            (Kind::Sequence | Kind::Optional, 5) => Message(Kind::Sequence),
            (Kind::Sequence | Kind::Optional, 7) => Message(Kind::Optional),
            (Kind::Tensor, 2 | 14) | (Kind::Sparse, _) => Other,
            _ => Text,
        }
    }
}

/// Returns the bytes of memory that a model takes, besides those of the file.
pub(crate) fn model(bytes: &[u8]) -> usize {
    message(bytes, Kind::Model, 0)
}

/// Returns the bytes of memory that a single value of this kind takes, besides those of the file.
pub(crate) fn value(bytes: &[u8], kind: DType) -> usize {
    let kind = match kind {
        DType::Sequence => Kind::Sequence,
        DType::Optional => Kind::Optional,
        _ => Kind::Tensor,
    };
    message(bytes, kind, 0)
}

/// Returns the bytes that a message takes.
/// A message that cannot be decoded ends the walk, as it ends the decoder.
fn message(mut bytes: &[u8], kind: Kind, depth: usize) -> usize {
    let mut total = kind.bytes().saturating_mul(COPIES);
    while depth <= DEEPEST && !bytes.is_empty() {
        let Some(key) = varint(&mut bytes) else { break };
        let content = match key & 7 {
            0 => varint(&mut bytes).map(|_| None),
            1 => take(&mut bytes, 8).map(|_| None),
            2 => varint(&mut bytes).and_then(|length| take(&mut bytes, length)).map(Some),
            5 => take(&mut bytes, 4).map(|_| None),
            _ => None,
        };
        let Some(content) = content else { break };
        let cost = match (kind.field(key >> 3), content) {
            (Field::Message(inner), Some(content)) => message(content, inner, depth + 1),
            (Field::Text, Some(text)) => COPIES * (size_of::<String>() + text.len()),
            (Field::Bytes, Some(_)) => COPIES * size_of::<bytes::Bytes>(),
            // Each packed number takes one byte of the file, at least.
            (Field::Numbers(size), Some(packed)) => COPIES * packed.len().saturating_mul(size),
            (Field::Numbers(size), None) => COPIES * size,
            _ => 0,
        };
        total = total.saturating_add(cost);
    }
    total
}

/// Returns the bytes that a copy of a node takes, where each name gets `prefix` more bytes.
pub(crate) fn node(node: &proto::NodeProto, prefix: usize) -> usize {
    let names = node.input.iter().chain(&node.output).map(String::as_str).chain([node.name(), node.op_type()]);
    let texts = names.map(|name| size_of::<String>() + name.len() + prefix).sum::<usize>();
    let attributes = node.attribute.iter().map(|set| attribute_with(set, prefix)).fold(0, usize::saturating_add);
    (size_of::<proto::NodeProto>() + texts).saturating_mul(COPIES).saturating_add(attributes)
}

/// Returns the bytes that a copy of an attribute takes.
pub(crate) fn attribute(attribute: &proto::AttributeProto) -> usize {
    attribute_with(attribute, 0)
}

fn attribute_with(attribute: &proto::AttributeProto, prefix: usize) -> usize {
    let numbers = attribute.floats.len() * size_of::<f32>() + attribute.ints.len() * size_of::<i64>();
    let texts = attribute.strings.len() * size_of::<bytes::Bytes>() + attribute.name().len();
    let tensors = attribute.t.iter().chain(&attribute.tensors).map(copy_of_tensor).fold(0, usize::saturating_add);
    let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
    let sparse = sparse.flat_map(|sparse| sparse.values.iter().chain(&sparse.indices)).map(copy_of_tensor);
    let graphs = attribute.g.iter().chain(&attribute.graphs).map(|graph| {
        let infos = graph.input.len() + graph.output.len() + graph.value_info.len();
        let infos = infos.saturating_mul(size_of::<proto::ValueInfoProto>() + prefix) * COPIES;
        let tensors = graph.initializer.iter().map(|tensor| copy_of_tensor(tensor) + prefix);
        let nodes = graph.node.iter().map(|inner| node(inner, prefix));
        tensors.chain(nodes).fold(infos + size_of::<proto::GraphProto>() * COPIES, usize::saturating_add)
    });
    let own = (size_of::<proto::AttributeProto>() + numbers + texts).saturating_mul(COPIES);
    graphs.chain(sparse).chain([tensors]).fold(own, usize::saturating_add)
}

/// Returns the bytes that a copy of a tensor takes, whose raw bytes are shared.
fn copy_of_tensor(tensor: &proto::TensorProto) -> usize {
    let narrow = tensor.float_data.len() + tensor.int32_data.len();
    let wide = tensor.double_data.len() + tensor.int64_data.len() + tensor.uint64_data.len() + tensor.dims.len();
    let texts: usize = tensor.string_data.iter().map(|text| size_of::<bytes::Bytes>() + text.len()).sum();
    let entries = tensor.external_data.len() * size_of::<proto::StringStringEntryProto>();
    (size_of::<proto::TensorProto>() + narrow * 4 + wide * 8 + texts + entries).saturating_mul(COPIES)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

    #[test]
    fn small_files_of_many_messages_weigh_what_they_take() {
        let graph = GraphProto { node: vec![NodeProto::default(); 10_000], ..GraphProto::default() };
        let bytes = ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec();
        assert!(bytes.len() < 20_100);
        assert!(model(&bytes) >= 10_000 * size_of::<NodeProto>());
    }

    #[test]
    fn weights_that_stay_in_the_file_weigh_nothing() {
        let tensor = |raw: bool| TensorProto {
            raw_data: raw.then(|| vec![1; 1 << 20].into()),
            int32_data: if raw { vec![] } else { vec![1; 1 << 20] },
            ..TensorProto::default()
        };
        let file = |raw: bool| {
            let attribute = AttributeProto { t: Some(tensor(raw)), ..AttributeProto::default() };
            let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
            let graph = GraphProto { node: vec![node], initializer: vec![tensor(raw)], ..GraphProto::default() };
            ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
        };
        assert!(model(&file(true)) < 1 << 14);
        assert!(model(&file(false)) >= 2 << 22);
    }

    #[test]
    fn damaged_messages_end_the_walk() {
        for bytes in [&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0xff; 20], &[0x3a], &[0x0b]] {
            assert!(model(bytes) < 1 << 14);
        }
        let mut nested = vec![];
        for _ in 0..10_000 {
            // A graph in an attribute of a node of a graph, and so on.
            let inner = std::mem::take(&mut nested);
            nested = GraphProto { name: Some(String::new()), ..GraphProto::default() }.encode_to_vec();
            for key in [6u8 << 3 | 2, 5 << 3 | 2, 1 << 3 | 2].iter().take(usize::from(inner.len() < 1 << 16) * 3) {
                let mut outer = vec![*key];
                prost::encoding::encode_varint(inner.len() as u64, &mut outer);
                outer.extend(&inner);
                nested = outer;
            }
        }
        let _ = model(&nested);
    }
}
