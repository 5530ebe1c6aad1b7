//! Tensors in files: `.npy` and the standard's messages (`.pb`) are read and written.
//! Pseudo-random tensors are made here too.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use half::f16;
use hetero::hal::{Attribute, Bool, Element, Operator};
use hetero::{DType, Session, Tensor};
use npyz::WriterBuilder;
use num_complex::Complex;

use crate::failure::{Failure, Result};

/// Reads a tensor; the file's ending names the format.
/// A `.pb` file holds the message of what is wanted, as it does not say itself what it holds.
pub(crate) fn read(path: &Path, wanted: Option<DType>) -> Result<Tensor> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        Some("npy") => read_npy(path),
        Some("pb") => Ok(hetero::read_value(path, wanted.unwrap_or(DType::U8)).map_err(hetero::Error::from)?.1),
        _ => Err(Failure::usage(
            format!("cannot tell what {} is", path.display()),
            "an input is a .npy file, or a .pb file with an ONNX TensorProto, SequenceProto or OptionalProto",
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
    let mut product = numbers.map(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
    if product.try_fold(1u64, |product, number| product.checked_mul(number?)).is_none() {
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
    let fits = |count: &usize| {
        let size = element.num_bytes().and_then(|size| size.checked_mul(*count));
        *count as u64 <= bytes && size.is_some_and(|size| size as u64 <= bytes)
    };
    let count = hetero::hal::element_count(&shape).filter(fits);
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
        "c8" => complex(elements::<Complex<f32>>(npy, count), DType::C64, &stored, |x| x.to_le_bytes()),
        "c16" => complex(elements::<Complex<f64>>(npy, count), DType::C128, &stored, |x| x.to_le_bytes()),
        // Texts of a fixed width, in code points or bytes, which zeros fill up at the end.
        other if other.starts_with(['U', 'S', 'a']) => elements::<String>(npy, count)
            .map(|texts| texts.into_iter().map(Into::into).collect())
            .map_err(|error| error.to_string())
            .and_then(|texts| Tensor::from_strings(&stored, texts).map_err(|error| error.to_string())),
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

/// Makes a tensor of complex numbers, each a real and an imaginary part.
fn complex<T: Copy, const BYTES: usize>(
    elements: std::io::Result<Vec<Complex<T>>>,
    dtype: DType,
    shape: &[usize],
    part: impl Fn(T) -> [u8; BYTES],
) -> std::result::Result<Tensor, String> {
    let elements = elements.map_err(|error| error.to_string())?;
    let bytes: Vec<u8> = elements.into_iter().flat_map(|z| [part(z.re), part(z.im)]).flatten().collect();
    Tensor::from_bytes(dtype, shape, bytes.into()).map_err(|error| error.to_string())
}

/// Returns the ending of the files in which a value is written: `pb` for what has no form in
/// `.npy`, such as a sequence or a float of 8 bits.
pub(crate) fn ending(tensor: &Tensor) -> &'static str {
    let dtype = tensor.dtype();
    let numpy = dtype.is_integer() && dtype.bits() >= 8;
    let floats = matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
    let others = matches!(dtype, DType::Bool | DType::String | DType::C64 | DType::C128);
    if numpy || floats || others { "npy" } else { "pb" }
}

/// Writes a value in the format of its [`ending`].
pub(crate) fn write(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    if ending(tensor) == "pb" {
        let bytes = hetero::value_to_bytes(name, tensor);
        return hetero_files::replace(path, bytes).map_err(|error| Failure::file("write", path, &error));
    }
    write_npy(path, tensor)
}

/// Writes a tensor as `.npy`.
/// bfloat16 has no NumPy type and is written as float32, which holds it exactly.
fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
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
    let header = shape.iter().map(|size| size.to_string().len() + 2).sum::<usize>();
    if header > MOST_SHAPE {
        let text = format!("a tensor of rank {} has no .npy form: its header would be too long", shape.len());
        return Err(std::io::Error::other(text));
    }
    macro_rules! elements {
        ($rust:ty, $convert:expr) => {{
            let view = tensor.view::<$rust>().map_err(std::io::Error::other)?;
            let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(out).begin_nd()?;
            writer.extend(view.iter().map($convert))?;
            writer.finish()
        }};
    }
    macro_rules! complex {
        ($part:ty) => {{
            let parts: &[[u8; size_of::<$part>()]] = tensor.bytes().as_chunks().0;
            let numbers = parts.as_chunks().0.iter().map(|&[re, im]| {
                let [re, im] = [re, im].map(<$part>::from_le_bytes);
                Complex { re, im }
            });
            let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(out).begin_nd()?;
            writer.extend(numbers)?;
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
        DType::C64 => complex!(f32),
        DType::C128 => complex!(f64),
        DType::String => write_texts(out, &shape, tensor),
        other => Err(std::io::Error::other(format!("{other} has no .npy form"))),
    }
}

/// The most bytes of a shape in the header of a file, which has at most 65 535.
const MOST_SHAPE: usize = 65_000;

/// The most bytes of a file of texts, of which each takes the room of the longest.
const MOST_TEXT: usize = 1 << 32;

/// Writes texts as NumPy has them: all as wide as the longest, in code points of four bytes.
fn write_texts(out: &mut dyn Write, shape: &[u64], tensor: &Tensor) -> std::io::Result<()> {
    let texts = tensor.strings().map_err(std::io::Error::other)?;
    let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    if width.saturating_mul(4).saturating_mul(texts.len()) > MOST_TEXT {
        let text = format!("{} texts as wide as the longest, of {width} characters, take too much", texts.len());
        return Err(std::io::Error::other(text));
    }
    let element: npyz::TypeStr = format!("<U{width}").parse().map_err(std::io::Error::other)?;
    let options = npyz::WriteOptions::new().dtype(npyz::DType::new_scalar(element));
    let mut writer = options.shape(shape).writer(out).begin_nd()?;
    writer.extend(texts.iter().map(|text| &**text))?;
    writer.finish()
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
    if dtype.is_parts() {
        let remedy = "give its content with `--input NAME=FILE.pb`";
        return Err(Failure::usage(format!("there are no random values of type {dtype}"), remedy));
    }
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
    fn texts_and_sequences_are_written_and_read_again() {
        let folder = std::env::temp_dir().join(format!("hetero-texts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let texts = |shape: &[usize], texts: &[&str]| {
            Tensor::from_strings(shape, texts.iter().map(|&text| text.into()).collect()).unwrap()
        };
        let words = texts(&[2, 2], &["", "four", "日本", "é🦀"]);
        let sequence = Tensor::from_parts(DType::Sequence, vec![words.clone(), texts(&[], &["one"])]).unwrap();
        let optional = Tensor::from_parts(DType::Optional, vec![]).unwrap();
        for value in [words, texts(&[], &["one"]), texts(&[0, 3], &[]), sequence, optional] {
            let path = folder.join("value").with_extension(ending(&value));
            write(&path, "value", &value).unwrap();
            assert_eq!(read(&path, Some(value.dtype())).unwrap(), value, "{value:?}");
        }
        let parts = [1.5f32, -2.0, 0.0, f32::INFINITY].map(f32::to_le_bytes).concat();
        let complex = Tensor::from_bytes(DType::C64, &[2, 1], parts.into()).unwrap();
        let parts = [0.1f64, -1e300].map(f64::to_le_bytes).concat();
        let double = Tensor::from_bytes(DType::C128, &[], parts.into()).unwrap();
        for value in [complex, double] {
            assert_eq!(ending(&value), "npy");
            let path = folder.join("complex.npy");
            write(&path, "value", &value).unwrap();
            assert_eq!(read(&path, None).unwrap(), value);
        }
        let path = folder.join("a.npy");
        let file = |element: &str, shape: &str, data: &[u8]| {
            let header = format!("{{'descr': '{element}', 'fortran_order': False, 'shape': {shape}}}\n");
            let length = (header.len() as u16).to_le_bytes();
            std::fs::write(&path, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()).unwrap();
            read(&path, None)
        };
        assert_eq!(file("|S3", "(2,)", b"ab\0cde").unwrap(), texts(&[2], &["ab", "cde"]));
        let big = [3f32, -4.0].map(f32::to_be_bytes).concat();
        let little = [3f32, -4.0].map(f32::to_le_bytes).concat();
        let complex = Tensor::from_bytes(DType::C64, &[1], little.into()).unwrap();
        assert_eq!(file(">c8", "(1,)", &big).unwrap(), complex);
        assert_eq!(file(">U2", "(1,)", b"\0\0\0a\0\0\0b").unwrap(), texts(&[1], &["ab"]));
        for (element, shape, data) in [
            ("<U9999999999", "(1,)", &b"abcd"[..]),
            ("<U2", "(2,)", b"a\0\0\0b\0\0\0"),
            ("<U1", "(1,)", b"\xff\xff\xff\xff"),
            ("|S1", "(1,)", b"\xff"),
            ("|O", "(1,)", b"aaaaaaaaaaaa"),
        ] {
            assert!(file(element, shape, data).is_err(), "{element}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn npy_round_trip_in_every_type() {
        let folder = std::env::temp_dir().join(format!("hetero-npy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for dtype in [DType::F32, DType::F64, DType::F16, DType::I8, DType::I64, DType::U8, DType::U32, DType::Bool] {
            for shape in [&[][..], &[3], &[2, 0], &[2, 3, 4]] {
                let tensor = random(dtype, shape, 7).unwrap();
                let path = folder.join("a.npy");
                write_npy(&path, &tensor).unwrap();
                assert_eq!(read(&path, None).unwrap(), tensor, "{dtype} {shape:?}");
            }
        }
        let path = folder.join("bad.npy");
        std::fs::write(
            &path,
            b"\x93NUMPY\x01\x00F\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}       \n",
        )
        .unwrap();
        assert!(read(&path, None).is_err());
        // A parser that tries each bracket twice would take hours.
        for header in ["(".repeat(1000), format!("{}1{}", "['}',".repeat(40), "]".repeat(40))] {
            let length = (header.len() as u32).to_le_bytes();
            std::fs::write(&path, [&b"\x93NUMPY\x02\x00"[..], &length, header.as_bytes()].concat()).unwrap();
            assert!(read(&path, None).unwrap_err().to_string().contains("16 are the most"));
        }
        std::fs::write(&path, b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap();
        assert!(read(&path, None).unwrap_err().to_string().contains("4294967295 bytes"));
        std::fs::write(&path, b"nonsense").unwrap();
        assert!(read(&path, None).is_err());
        assert_eq!(read(&folder.join("x.txt"), None).unwrap_err().exit_code(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
