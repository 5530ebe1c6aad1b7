//! Values in files of their own: tensors, sequences and optionals, as the standard's test data has
//! them.
//!
//! The messages are those of `onnx-data.proto`, without maps.

use hetero_hal::{DType, Tensor};
use prost::Message;

use crate::error::{Error, Result};
use crate::files::Files;
use crate::proto::{SparseTensorProto, TensorProto};
use crate::tensor;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SequenceProto {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int32, optional, tag = "2")]
    elem_type: Option<i32>,
    #[prost(message, repeated, tag = "3")]
    tensor_values: Vec<TensorProto>,
    #[prost(message, repeated, tag = "4")]
    sparse_tensor_values: Vec<SparseTensorProto>,
    #[prost(message, repeated, tag = "5")]
    sequence_values: Vec<SequenceProto>,
    #[prost(message, repeated, tag = "7")]
    optional_values: Vec<OptionalProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OptionalProto {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(int32, optional, tag = "2")]
    elem_type: Option<i32>,
    #[prost(message, optional, tag = "3")]
    tensor_value: Option<TensorProto>,
    #[prost(message, optional, tag = "4")]
    sparse_tensor_value: Option<SparseTensorProto>,
    #[prost(message, optional, tag = "5")]
    sequence_value: Option<SequenceProto>,
    #[prost(message, optional, boxed, tag = "7")]
    optional_value: Option<Box<OptionalProto>>,
}

/// The numbers that say what the elements of a sequence or an optional are.
const TENSOR: i32 = 1;
const SEQUENCE: i32 = 3;
const MAP: i32 = 4;
const OPTIONAL: i32 = 5;

/// Reads a value of this kind, and returns it with its name.
pub(crate) fn import(bytes: bytes::Bytes, kind: DType, files: &mut Files, what: &str) -> Result<(String, Tensor)> {
    let broken = |source| Error::Decode { what: what.to_owned(), source };
    match kind {
        DType::Sequence => {
            let proto = SequenceProto::decode(bytes).map_err(broken)?;
            Ok((proto.name().to_owned(), sequence(&proto, files)?))
        }
        DType::Optional => {
            let proto = OptionalProto::decode(bytes).map_err(broken)?;
            Ok((proto.name().to_owned(), optional(&proto, files)?))
        }
        _ => {
            let proto = TensorProto::decode(bytes).map_err(broken)?;
            Ok((proto.name().to_owned(), tensor::import(&proto, files)?))
        }
    }
}

fn no_maps(kind: i32, name: &str) -> Result<()> {
    if kind == MAP { Err(Error::invalid(format!("'{name}' holds maps, which hetero does not read"))) } else { Ok(()) }
}

fn sequence(proto: &SequenceProto, files: &mut Files) -> Result<Tensor> {
    no_maps(proto.elem_type(), proto.name())?;
    let count = proto.tensor_values.len()
        + proto.sparse_tensor_values.len()
        + proto.sequence_values.len()
        + proto.optional_values.len();
    // The list is copied once to where it is shared.
    files.allowance = files.allowance.less(count.saturating_mul(2 * size_of::<Tensor>()))?;
    let mut parts = Vec::with_capacity(count);
    for part in &proto.tensor_values {
        parts.push(tensor::import(part, files)?);
    }
    for part in &proto.sparse_tensor_values {
        parts.push(tensor::import_sparse(part, files)?);
    }
    for part in &proto.sequence_values {
        parts.push(sequence(part, files)?);
    }
    for part in &proto.optional_values {
        parts.push(optional(part, files)?);
    }
    whole(DType::Sequence, parts, proto.name())
}

fn optional(proto: &OptionalProto, files: &mut Files) -> Result<Tensor> {
    no_maps(proto.elem_type(), proto.name())?;
    let mut parts = Vec::new();
    if let Some(part) = &proto.tensor_value {
        parts.push(tensor::import(part, files)?);
    }
    if let Some(part) = &proto.sparse_tensor_value {
        parts.push(tensor::import_sparse(part, files)?);
    }
    if let Some(part) = &proto.sequence_value {
        parts.push(sequence(part, files)?);
    }
    if let Some(part) = &proto.optional_value {
        parts.push(optional(part, files)?);
    }
    whole(DType::Optional, parts, proto.name())
}

fn whole(kind: DType, parts: Vec<Tensor>, name: &str) -> Result<Tensor> {
    Tensor::from_parts(kind, parts).map_err(|error| Error::invalid(format!("'{name}': {}", error.message())))
}

/// Returns a value's message as bytes, under a name.
pub(crate) fn export(name: &str, value: &Tensor) -> Vec<u8> {
    match value.dtype() {
        DType::Sequence => sequence_proto(name, value).encode_to_vec(),
        DType::Optional => optional_proto(name, value).encode_to_vec(),
        _ => tensor::export(name, value).encode_to_vec(),
    }
}

fn kind_of(part: Option<&Tensor>) -> Option<i32> {
    Some(match part?.dtype() {
        DType::Sequence => SEQUENCE,
        DType::Optional => OPTIONAL,
        _ => TENSOR,
    })
}

fn sequence_proto(name: &str, value: &Tensor) -> SequenceProto {
    let parts = value.parts().unwrap_or_default();
    let elem_type = kind_of(parts.first()).or(Some(TENSOR));
    let mut proto = SequenceProto { name: Some(name.to_owned()), elem_type, ..SequenceProto::default() };
    for part in parts {
        match part.dtype() {
            DType::Sequence => proto.sequence_values.push(sequence_proto("", part)),
            DType::Optional => proto.optional_values.push(optional_proto("", part)),
            _ => proto.tensor_values.push(tensor::export("", part)),
        }
    }
    proto
}

fn optional_proto(name: &str, value: &Tensor) -> OptionalProto {
    let part = value.parts().unwrap_or_default().first();
    let mut proto = OptionalProto { name: Some(name.to_owned()), elem_type: kind_of(part), ..OptionalProto::default() };
    if let Some(part) = part {
        match part.dtype() {
            DType::Sequence => proto.sequence_value = Some(sequence_proto("", part)),
            DType::Optional => proto.optional_value = Some(Box::new(optional_proto("", part))),
            _ => proto.tensor_value = Some(tensor::export("", part)),
        }
    }
    proto
}

#[cfg(test)]
mod tests {
    use hetero_hal::{Allowance, ErrorKind};

    use super::*;
    use crate::weigh;

    fn read(bytes: Vec<u8>, kind: DType, allowance: usize) -> Result<Tensor> {
        let mut files = Files::none(Allowance::new(allowance));
        files.allowance = files.allowance.less(weigh::value(&bytes, kind))?;
        Ok(import(bytes.into(), kind, &mut files, "the value")?.1)
    }

    fn sequence_of(parts: Vec<Tensor>) -> Tensor {
        Tensor::from_parts(DType::Sequence, parts).unwrap()
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let ints = Tensor::from_vec(&[2], vec![1i64, 2]).unwrap();
        let texts = Tensor::from_strings(&[1], vec!["é".into()]).unwrap();
        let sequence = sequence_of(vec![ints.clone(), Tensor::scalar(3i64)]);
        let optional = |parts| Tensor::from_parts(DType::Optional, parts).unwrap();
        let all = [
            ints.clone(),
            texts.clone(),
            sequence.clone(),
            sequence_of(vec![]),
            sequence_of(vec![texts]),
            sequence_of(vec![sequence.clone(), sequence_of(vec![])]),
            optional(vec![]),
            optional(vec![ints]),
            optional(vec![sequence]),
        ];
        for value in all {
            assert_eq!(read(export("v", &value), value.dtype(), 1 << 20).unwrap(), value, "{value:?}");
        }
    }

    #[test]
    fn nesting_and_size_are_bounded() {
        let mut bytes = SequenceProto::default().encode_to_vec();
        for depth in 1..200 {
            // Each message is the only part of the next.
            let mut outer = vec![5 << 3 | 2];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.extend(&bytes);
            bytes = outer;
            assert_eq!(read(bytes.clone(), DType::Sequence, 1 << 20).is_ok(), depth < 8, "{depth}");
        }
        // Two bytes of the file are a part of some hundred bytes.
        let many = SequenceProto { tensor_values: vec![TensorProto::default(); 10_000], ..SequenceProto::default() };
        let many = many.encode_to_vec();
        assert!(many.len() < 20_100 && weigh::value(&many, DType::Sequence) > 10_000 * size_of::<TensorProto>());
        let error = hetero_hal::Error::from(read(many, DType::Sequence, 1 << 16).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    }

    #[test]
    fn what_contradicts_itself_is_an_error() {
        let maps = SequenceProto { elem_type: Some(MAP), ..SequenceProto::default() };
        assert!(read(maps.encode_to_vec(), DType::Sequence, 1 << 20).unwrap_err().to_string().contains("maps"));
        let part = tensor::export("", &Tensor::scalar(1i32));
        let both = OptionalProto {
            tensor_value: Some(part),
            sequence_value: Some(SequenceProto::default()),
            ..OptionalProto::default()
        };
        assert!(read(both.encode_to_vec(), DType::Optional, 1 << 20).is_err());
        assert!(read(vec![0xff; 40], DType::Optional, 1 << 20).is_err());
    }
}
