//! Reading: files and bytes become [`Model`]s and [`Tensor`]s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{Allowance, Model, Tensor};
use prost::Message;

use crate::error::{Error, Result};
use crate::import::{Importer, canonical_domain};
use crate::proto::{ModelProto, TensorProto};
use crate::tensor::{ExternalFiles, import, map_file};
use crate::{NEWEST_OPSET, OLDEST_OPSET, functions, weigh};

/// Reads a model file.
/// Weights, in the file or beside it, are mapped and not copied: the files must stay as they are
/// while the model lives.
///
/// # Errors
/// [`Error`] says what is wrong with the file.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    read_within(path, &Allowance::default())
}

/// Reads a model file as [`read`] does, within an allowance.
/// What counts is the memory that the file's content takes besides the file: decoded messages,
/// functions that are expanded, and sparse tensors in their dense form.
///
/// # Errors
/// `Hal` with `OutOfMemory` or `Timeout` where the allowance does not suffice.
/// Otherwise [`Error`] says what is wrong with the file.
pub fn read_within(path: impl AsRef<Path>, allowance: &Allowance) -> Result<Model> {
    let path = path.as_ref();
    let bytes = map_file(path)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    decode(bytes, Some(folder), &path.display().to_string(), allowance)
}

/// Reads a model from memory.
/// Weights are slices of `bytes`.
/// Such a model may not refer to external data.
///
/// # Errors
/// [`Error`] says what is wrong with the bytes.
pub fn read_bytes(bytes: Bytes) -> Result<Model> {
    read_bytes_within(bytes, &Allowance::default())
}

/// Reads a model from memory as [`read_bytes`] does, within an allowance; see [`read_within`].
///
/// # Errors
/// Those of [`read_within`].
pub fn read_bytes_within(bytes: Bytes, allowance: &Allowance) -> Result<Model> {
    decode(bytes, None, "the model", allowance)
}

/// Reads a `TensorProto` file, such as the standard's test data, and returns the tensor with the
/// name that the file gives it.
///
/// # Errors
/// [`Error`] says what is wrong with the file.
pub fn read_tensor(path: impl AsRef<Path>) -> Result<(String, Tensor)> {
    let path = path.as_ref();
    let bytes = map_file(path)?;
    let allowance = Allowance::default().less(weigh::tensor(&bytes))?;
    let proto =
        TensorProto::decode(bytes).map_err(|source| Error::Decode { what: path.display().to_string(), source })?;
    let mut files = ExternalFiles::new(path.parent(), allowance);
    Ok((proto.name().to_owned(), import(&proto, &mut files)?))
}

fn decode(bytes: Bytes, folder: Option<&Path>, what: &str, allowance: &Allowance) -> Result<Model> {
    allowance.check()?;
    let mut left = allowance.less(weigh::model(&bytes))?;
    let mut proto = ModelProto::decode(bytes).map_err(|source| Error::Decode { what: what.to_owned(), source })?;
    functions::expand(&mut proto, &mut left)?;
    let mut opsets: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for import in &proto.opset_import {
        let domain = canonical_domain(import.domain());
        let version = u32::try_from(import.version())
            .map_err(|_| Error::invalid(format!("domain '{domain}' is imported in version {}", import.version())))?;
        opsets.insert(domain.into(), version);
    }
    if let Some(&version) = opsets.get("")
        && !(OLDEST_OPSET..=NEWEST_OPSET).contains(&version)
    {
        return Err(Error::invalid(format!(
            "it imports opset {version}; hetero reads {OLDEST_OPSET} to {NEWEST_OPSET}; convert it with onnx.version_converter"
        )));
    }
    let graph = proto.graph.take().ok_or_else(|| Error::invalid("it has no graph"))?;
    let graph = Importer::new(&opsets, ExternalFiles::new(folder, left)).graph(graph)?;
    graph.check()?;
    let metadata =
        proto.metadata_props.iter().map(|entry| (entry.key().to_owned(), entry.value().to_owned())).collect();
    let producer = match proto.producer_version() {
        "" => proto.producer_name().to_owned(),
        version => format!("{} {version}", proto.producer_name()),
    };
    Ok(Model { graph, opsets, ir_version: proto.ir_version(), producer, metadata })
}
