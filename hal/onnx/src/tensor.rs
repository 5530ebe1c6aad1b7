//! Tensors: `TensorProto` to [`Tensor`] and back.

use std::sync::Arc;

use bytes::Bytes;
use hetero_hal::{DType, Element, Tensor, element_count};

use crate::error::{Error, Result};
use crate::files::Files;
use crate::proto::{self, TensorProto, tensor_proto::DataLocation};

/// Reads a tensor; raw and external data stay slices of the files' bytes.
pub(crate) fn import(tensor: &TensorProto, files: &mut Files) -> Result<Tensor> {
    let name = tensor.name();
    let code = tensor.data_type();
    let dtype = DType::from_onnx_code(code)
        .ok_or_else(|| Error::invalid(format!("tensor '{name}' has the unknown element type {code}")))?;
    let shape = tensor
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<Vec<usize>>>()
        .ok_or_else(|| Error::invalid(format!("tensor '{name}' has a negative dimension in {:?}", tensor.dims)))?;
    let count = element_count(&shape)
        .ok_or_else(|| Error::invalid(format!("the size of tensor '{name}' with shape {shape:?} overflows")))?;
    if tensor.segment.is_some() {
        return Err(Error::invalid(format!("tensor '{name}' is stored in segments, which the standard has withdrawn")));
    }
    let named = |error: hetero_hal::Error| Error::invalid(format!("tensor '{name}': {}", error.message()));
    if tensor.data_location() == DataLocation::External {
        // Texts have no bytes, and are refused below.
        let bytes = dtype.bytes_for(count).filter(|_| dtype.bits() > 0);
        return Tensor::from_bytes(dtype, &shape, files.external(tensor, bytes)?).map_err(named);
    }
    if let Some(raw) = &tensor.raw_data {
        return Tensor::from_bytes(dtype, &shape, raw.clone()).map_err(named);
    }
    let typed = || -> hetero_hal::Result<Tensor> {
        match dtype {
            DType::String => {
                let strings = tensor.string_data.iter().map(|text| String::from_utf8_lossy(text).into()).collect();
                Tensor::from_strings(&shape, strings)
            }
            DType::F32 => Tensor::from_vec(&shape, tensor.float_data.clone()),
            DType::F64 => Tensor::from_vec(&shape, tensor.double_data.clone()),
            DType::I64 => Tensor::from_vec(&shape, tensor.int64_data.clone()),
            DType::U64 => Tensor::from_vec(&shape, tensor.uint64_data.clone()),
            DType::U32 => narrow(&shape, &tensor.uint64_data, |&v| v as u32),
            DType::I32 => Tensor::from_vec(&shape, tensor.int32_data.clone()),
            DType::I16 => narrow(&shape, &tensor.int32_data, |&v| v as i16),
            DType::U16 => narrow(&shape, &tensor.int32_data, |&v| v as u16),
            DType::I8 => narrow(&shape, &tensor.int32_data, |&v| v as i8),
            DType::U8 => narrow(&shape, &tensor.int32_data, |&v| v as u8),
            DType::Bool => narrow(&shape, &tensor.int32_data, |&v| hetero_hal::Bool::from(v != 0)),
            DType::F16 => narrow(&shape, &tensor.int32_data, |&v| half::f16::from_bits(v as u16)),
            DType::BF16 => narrow(&shape, &tensor.int32_data, |&v| half::bf16::from_bits(v as u16)),
            DType::C64 => bytes_of(dtype, &shape, &tensor.float_data),
            DType::C128 => bytes_of(dtype, &shape, &tensor.double_data),
            // Packed and 8-bit types: each entry holds one byte.
            _ => {
                let bytes: Vec<u8> = tensor.int32_data.iter().map(|&v| v as u8).collect();
                Tensor::from_bytes(dtype, &shape, bytes.into())
            }
        }
    };
    // Strings may be absent altogether where there are none to hold; every other type counts its
    // elements itself.
    let tensor = typed().map_err(named)?;
    debug_assert_eq!(tensor.len(), count);
    Ok(tensor)
}

fn narrow<S, T: Element>(shape: &[usize], data: &[S], convert: impl Fn(&S) -> T) -> hetero_hal::Result<Tensor> {
    Tensor::from_vec(shape, data.iter().map(convert).collect())
}

fn bytes_of<T: Element>(dtype: DType, shape: &[usize], data: &[T]) -> hetero_hal::Result<Tensor> {
    Tensor::from_bytes(dtype, shape, Bytes::copy_from_slice(bytemuck::cast_slice(data)))
}

/// Reads a sparse tensor as the dense tensor that it stands for, where the allowance suffices.
pub(crate) fn import_sparse(sparse: &proto::SparseTensorProto, files: &mut Files) -> Result<Tensor> {
    let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
        return Err(Error::invalid("a sparse tensor lacks its values or indices"));
    };
    let name = values.name().to_owned();
    let fail = |text: &str| Error::invalid(format!("sparse tensor '{name}': {text}"));
    let (values, indices) = (import(values, files)?, import(indices, files)?);
    let shape = sparse
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok())
        .collect::<Option<Vec<usize>>>()
        .ok_or_else(|| fail("a dimension is negative"))?;
    let width = values.dtype().bits() / 8;
    if width == 0 {
        return Err(fail("its element type cannot be sparse"));
    }
    let count = element_count(&shape).ok_or_else(|| fail("the size of its dense form overflows"))?;
    let dense = files.allowance.tensor(values.dtype(), &shape);
    // Positions are widened twice on the way.
    let positions = indices.len().saturating_mul(16);
    let bytes = dense.map_err(|error| error.at(name.clone()))?;
    files.allowance = files.allowance.less(bytes)?;
    files.allowance.less(positions)?;
    let positions = indices.to_i64_vec()?;
    let rank = shape.len();
    let linear: Vec<usize> = match indices.rank() {
        1 => positions.iter().map(|&p| usize::try_from(p).ok()).collect::<Option<_>>(),
        2 if indices.shape()[1] == rank && rank > 0 => positions
            .chunks(rank)
            .map(|row| {
                row.iter().zip(&shape).try_fold(0usize, |linear, (&at, &dim)| {
                    usize::try_from(at).ok().filter(|at| *at < dim).map(|at| linear * dim + at)
                })
            })
            .collect(),
        _ => None,
    }
    .ok_or_else(|| fail("its indices do not fit its shape"))?;
    if linear.len() != values.len() || linear.iter().any(|&at| at >= count) {
        return Err(fail("its indices do not fit its values"));
    }
    let mut dense = vec![0u8; count * width];
    for (at, value) in linear.into_iter().zip(values.bytes().chunks(width)) {
        dense[at * width..(at + 1) * width].copy_from_slice(value);
    }
    Ok(Tensor::from_bytes(values.dtype(), &shape, dense.into())?)
}

/// Writes a tensor; its bytes are shared as raw data.
pub(crate) fn export(name: &str, tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto {
        name: Some(name.to_owned()),
        dims: tensor.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: Some(tensor.dtype().onnx_code()),
        ..TensorProto::default()
    };
    match tensor.strings() {
        Ok(strings) => {
            proto.string_data = strings.iter().map(|text: &Arc<str>| Bytes::copy_from_slice(text.as_bytes())).collect();
        }
        Err(_) => proto.raw_data = Some(tensor.bytes().clone()),
    }
    proto
}
