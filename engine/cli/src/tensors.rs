//! Tensors in files: `.npy` is read and written, and ONNX `TensorProto` (`.pb`) is read.
//! Pseudo-random tensors are made here too.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use half::f16;
use hetero::hal::{Attribute, Bool, Element, Operator};
use hetero::{DType, Session, Tensor};
use npyz::WriterBuilder;

use crate::failure::{Failure, Result};

/// Reads a tensor; the file's ending names the format.
pub(crate) fn read(path: &Path) -> Result<Tensor> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("npy") => read_npy(path),
        Some("pb") => Ok(hetero::read_tensor(path).map_err(hetero::Error::from)?.1),
        _ => Err(Failure::usage(
            format!("cannot tell what {} is", path.display()),
            "an input is a .npy file or an ONNX TensorProto in a .pb file",
        )),
    }
}

/// The longest header that is read; a plain array has some hundred bytes.
const LONGEST_HEADER: u64 = 4 << 10;
/// The most opening brackets in a header; a plain array has 2.
const MOST_BRACKETS: usize = 16;

/// Checks that a header of `.npy` is short and has few brackets, because the time that its parser
/// takes grows exponentially with their depth, and that its sizes multiply to a number of elements.
fn check_header(file: &mut File) -> std::result::Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let mut start = [0; 12];
    file.read_exact(&mut start).map_err(said)?;
    // Version 1 has a length of two bytes, and later versions one of four.
    let (begins, length) = match start[6] {
        1 => (10, u64::from(u16::from_le_bytes([start[8], start[9]]))),
        _ => (12, u64::from(u32::from_le_bytes([start[8], start[9], start[10], start[11]]))),
    };
    if length > LONGEST_HEADER {
        return Err(format!("its header has {length} bytes, and {LONGEST_HEADER} are the most"));
    }
    let mut header = Vec::new();
    file.seek(SeekFrom::Start(begins)).map_err(said)?;
    file.take(length).read_to_end(&mut header).map_err(said)?;
    file.rewind().map_err(said)?;
    let brackets = header.iter().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count();
    if brackets > MOST_BRACKETS {
        return Err(format!("its header has {brackets} brackets, and {MOST_BRACKETS} are the most"));
    }
    // The parser multiplies the sizes without a check.
    // Other numbers of the header, such as an element's bytes, are few and small.
    let numbers =
        header.split(|byte| !byte.is_ascii_digit()).filter(|digits| digits.iter().any(|&digit| digit != b'0'));
    let product = numbers.map(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    if product.fold(Some(1u64), |product, number| product?.checked_mul(number?)).is_none() {
        return Err("the sizes in its header overflow".to_owned());
    }
    Ok(())
}

fn read_npy(path: &Path) -> Result<Tensor> {
    let broken = |error: &dyn std::fmt::Display| Failure::file("read", path, error);
    let file = hetero_files::Opened::open(path).map_err(|error| broken(&error))?;
    let bytes = file.bytes();
    let mut file = file.into_file();
    check_header(&mut file).map_err(|error| broken(&error))?;
    let npy = npyz::NpyFile::new(BufReader::new(file)).map_err(|error| broken(&error))?;
    let npyz::DType::Plain(element) = npy.dtype() else {
        return Err(broken(&"it holds records; only plain arrays can be inputs"));
    };
    // The header is believed only as far as the file has bytes for it.
    let shape: Option<Vec<usize>> = npy.shape().iter().map(|&size| usize::try_from(size).ok()).collect();
    let shape = shape.ok_or_else(|| broken(&"its shape overflows"))?;
    let count = hetero::hal::element_count(&shape).filter(|&count| count as u64 <= bytes);
    let Some(count) = count else {
        return Err(broken(&"its header promises more than the file holds"));
    };
    let columns_first = npy.order() == npyz::Order::Fortran && shape.len() > 1;
    let stored: Vec<usize> = if columns_first { shape.iter().rev().copied().collect() } else { shape.clone() };
    let name = element.to_string();
    macro_rules! elements {
        ($rust:ty) => {
            typed::<$rust>(elements(npy, count), &stored)
        };
    }
    let tensor = match name.trim_start_matches(['<', '|', '=', '>']) {
        "f4" => elements!(f32),
        "f8" => elements!(f64),
        "f2" => elements!(f16),
        "i1" => elements!(i8),
        "i2" => elements!(i16),
        "i4" => elements!(i32),
        "i8" => elements!(i64),
        "u1" => elements!(u8),
        "u2" => elements!(u16),
        "u4" => elements!(u32),
        "u8" => elements!(u64),
        "b1" => {
            let flags = elements::<bool>(npy, count).map(|flags| flags.into_iter().map(Bool::from).collect());
            typed::<Bool>(flags, &stored)
        }
        other => return Err(broken(&format!("elements of type {other} are not supported"))),
    }
    .map_err(|error| broken(&error))?;
    if !columns_first {
        return Ok(tensor);
    }
    // Column-major is row-major with the dimensions reversed.
    let transposed = hetero_reference::evaluate(&Operator::new("Transpose", 13), &[Some(tensor)], 1);
    let mut transposed = transposed.map_err(|error| broken(&error))?;
    Ok(transposed.swap_remove(0))
}

/// Reads so many elements; it is an error, and no end of the process, where there is no memory for
/// them.
fn elements<T: npyz::Deserialize>(npy: npyz::NpyFile<BufReader<File>>, count: usize) -> std::io::Result<Vec<T>> {
    let mut elements = Vec::new();
    elements.try_reserve_exact(count)?;
    for element in npy.data().map_err(std::io::Error::other)? {
        elements.push(element?);
    }
    Ok(elements)
}

fn typed<T: Element>(elements: std::io::Result<Vec<T>>, shape: &[usize]) -> std::result::Result<Tensor, String> {
    let elements = elements.map_err(|error| error.to_string())?;
    Tensor::from_vec(shape, elements).map_err(|error| error.to_string())
}

/// Writes a tensor as `.npy`.
/// bfloat16 has no NumPy type and is written as float32, which holds it exactly.
pub(crate) fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    let broken = |error: &dyn std::fmt::Display| Failure::file("write", path, error);
    let tensor = if tensor.dtype() == DType::BF16 {
        let cast = Operator::new("Cast", 13).with("to", Attribute::Int(i64::from(DType::F32.onnx_code())));
        let mut wide = hetero_reference::evaluate(&cast, &[Some(tensor.clone())], 1).map_err(|error| broken(&error))?;
        wide.swap_remove(0)
    } else {
        tensor.clone()
    };
    hetero_files::replace_with(path, |out| write_elements(out, &tensor))
        .map_err(|error| Failure::unwritten(path, error))
}

fn write_elements(out: &mut dyn Write, tensor: &Tensor) -> std::io::Result<()> {
    let shape: Vec<u64> = tensor.shape().iter().map(|&size| size as u64).collect();
    macro_rules! elements {
        ($rust:ty, $convert:expr) => {{
            let view = tensor.view::<$rust>().map_err(std::io::Error::other)?;
            let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(out).begin_nd()?;
            writer.extend(view.iter().map($convert))?;
            writer.finish()
        }};
    }
    match tensor.dtype() {
        DType::F32 => elements!(f32, |&v| v),
        DType::F64 => elements!(f64, |&v| v),
        DType::F16 => elements!(f16, |&v| v),
        DType::I8 => elements!(i8, |&v| v),
        DType::I16 => elements!(i16, |&v| v),
        DType::I32 => elements!(i32, |&v| v),
        DType::I64 => elements!(i64, |&v| v),
        DType::U8 => elements!(u8, |&v| v),
        DType::U16 => elements!(u16, |&v| v),
        DType::U32 => elements!(u32, |&v| v),
        DType::U64 => elements!(u64, |&v| v),
        DType::Bool => elements!(Bool, |v| v.get()),
        other => Err(std::io::Error::other(format!("{other} has no .npy form"))),
    }
}

/// A source of pseudo-random numbers by splitmix64.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Makes random tensors for all inputs of a session.
pub(crate) fn inputs(session: &Session, seed: u64) -> Result<Vec<Tensor>> {
    session.inputs().iter().zip(seed..).map(|(port, seed)| random(port.dtype, &port.shape, seed)).collect()
}

/// Makes a tensor of pseudo-random elements: floats in [-1, 1), small integers, booleans.
/// Equal seeds, types and shapes make equal tensors on every machine.
pub(crate) fn random(dtype: DType, shape: &[usize], seed: u64) -> Result<Tensor> {
    let failed = |error: hetero::hal::Error| Failure::failed(error.to_string());
    let count = hetero::hal::element_count(shape).ok_or_else(|| Failure::failed("the shape of an input overflows"))?;
    let mut source = SplitMix(seed);
    let floats = dtype.is_float();
    let values: Vec<f32> = (0..count)
        .map(|_| {
            let bits = source.next();
            if floats { (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0 } else { (bits >> 61) as f32 % 2.0 }
        })
        .collect();
    let tensor = Tensor::from_vec(shape, values).map_err(failed)?;
    let cast = Operator::new("Cast", 13).with("to", Attribute::Int(i64::from(dtype.onnx_code())));
    let mut cast = hetero_reference::evaluate(&cast, &[Some(tensor)], 1).map_err(failed)?;
    Ok(cast.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn npy_round_trip_in_every_type() {
        let folder = std::env::temp_dir().join(format!("hetero-npy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for dtype in [DType::F32, DType::F64, DType::F16, DType::I8, DType::I64, DType::U8, DType::U32, DType::Bool] {
            for shape in [&[][..], &[3], &[2, 0], &[2, 3, 4]] {
                let tensor = random(dtype, shape, 7).unwrap();
                let path = folder.join("a.npy");
                write_npy(&path, &tensor).unwrap();
                assert_eq!(read(&path).unwrap(), tensor, "{dtype} {shape:?}");
            }
        }
        let path = folder.join("bad.npy");
        std::fs::write(
            &path,
            b"\x93NUMPY\x01\x00F\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}       \n",
        )
        .unwrap();
        assert!(read(&path).is_err());
        // A parser that tries each bracket twice would take hours.
        for header in ["(".repeat(1000), format!("{}1{}", "['}',".repeat(40), "]".repeat(40))] {
            let length = (header.len() as u32).to_le_bytes();
            std::fs::write(&path, [&b"\x93NUMPY\x02\x00"[..], &length, header.as_bytes()].concat()).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("16 are the most"));
        }
        std::fs::write(&path, b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("4294967295 bytes"));
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(read(&path).is_err());
        assert_eq!(read(&folder.join("x.txt")).unwrap_err().exit_code(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
