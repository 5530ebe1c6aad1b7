//! Reading: files and bytes become [`Model`]s and [`Tensor`]s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{Allowance, DType, Model, Tensor};
use prost::Message;

use crate::error::{Error, Result};
use crate::files::{Files, ReadOptions};
use crate::import::{Importer, canonical_domain};
use crate::proto::ModelProto;
use crate::{NEWEST_OPSET, OLDEST_OPSET, data, functions, weigh};

/// Reads a model file, with the external data beside it, into memory.
///
/// Nothing that happens to the files afterwards reaches the model: they may be replaced, shortened
/// or removed.
/// [`read_with`] can map files instead.
///
/// # Errors
/// [`Error`] says what is wrong with the file.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    read_with(path, ReadOptions::default())
}

/// Reads a model file, with the external data beside it, as the options say.
///
/// External data lies in the model's folder, or below it.
/// Where the model is named by a link, it may also lie in the folder of the file that the link
/// leads to, as in caches of downloads; other links that lead out of the folder are errors.
///
/// # Errors
/// `Hal` with `OutOfMemory` or `Timeout` where the options' allowance does not suffice.
/// Otherwise [`Error`] says what is wrong with the file.
pub fn read_with(path: impl AsRef<Path>, options: ReadOptions) -> Result<Model> {
    let path = path.as_ref();
    options.allowance.check()?;
    let (bytes, files) = Files::open(path, options)?;
    decode(bytes, files, &path.display().to_string())
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

/// Reads a model from memory as [`read_bytes`] does, within an allowance.
/// What counts is the memory that is needed besides `bytes`.
///
/// # Errors
/// Those of [`read_with`].
pub fn read_bytes_within(bytes: Bytes, allowance: &Allowance) -> Result<Model> {
    decode(bytes, Files::none(allowance.clone()), "the model")
}

/// Reads a `TensorProto` file, such as the standard's test data, and returns the tensor with the
/// name that the file gives it.
///
/// # Errors
/// [`Error`] says what is wrong with the file.
pub fn read_tensor(path: impl AsRef<Path>) -> Result<(String, Tensor)> {
    read_value(path, DType::U8)
}

/// Reads the file of a value, and returns the value with the name that the file gives it.
/// The file holds a `SequenceProto` or an `OptionalProto` where the element type that is wanted
/// says so, and otherwise a `TensorProto` of any element type, because such a file does not say
/// which of them it is.
///
/// # Errors
/// [`Error`] says what is wrong with the file.
pub fn read_value(path: impl AsRef<Path>, wanted: DType) -> Result<(String, Tensor)> {
    let path = path.as_ref();
    let (bytes, mut files) = Files::open(path, ReadOptions::default())?;
    files.allowance = files.allowance.less(weigh::value(&bytes, wanted))?;
    data::import(bytes, wanted, &mut files, &path.display().to_string())
}

fn decode(bytes: Bytes, mut files: Files, what: &str) -> Result<Model> {
    files.allowance.check()?;
    files.allowance = files.allowance.less(weigh::model(&bytes))?;
    let mut proto = ModelProto::decode(bytes).map_err(|source| Error::Decode { what: what.to_owned(), source })?;
    functions::expand(&mut proto, &mut files.allowance)?;
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
    files.expect(&graph);
    let mapped = files.are_mapped();
    let graph = Importer::new(&opsets, files).graph(graph)?;
    graph.check()?;
    let metadata =
        proto.metadata_props.iter().map(|entry| (entry.key().to_owned(), entry.value().to_owned())).collect();
    let producer = match proto.producer_version() {
        "" => proto.producer_name().to_owned(),
        version => format!("{} {version}", proto.producer_name()),
    };
    Ok(Model { graph, opsets, ir_version: proto.ir_version(), producer, metadata, mapped })
}
