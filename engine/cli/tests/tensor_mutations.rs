//! Mutated `.npy` and `.pb` files, read by the code that reads the inputs of a run.
//! Each ends in an error or a tensor, soon, in memory bounded by the file.
//!
//! `HETERO_MUTATIONS` and `HETERO_SEED` choose how many of each format and which.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../tests/counting/mod.rs"]
mod counting;
#[path = "../src/tensors.rs"]
mod tensors;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use counting::Counting;
use hetero::{DType, Tensor};
use tensors::SplitMix;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Stands for the binary's failures, whose reports need its terminal.
mod failure {
    use std::fmt::{self, Display};
    use std::path::Path;

    pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

    #[derive(Debug)]
    pub(crate) struct Failure(String, u8);

    impl Failure {
        pub(crate) fn usage(message: impl Display, help: impl Display) -> Self {
            Failure(format!("{message} ({help})"), 2)
        }

        pub(crate) fn failed(message: impl Display) -> Self {
            Failure(message.to_string(), 1)
        }

        pub(crate) fn file(verb: &str, path: &Path, error: &dyn Display) -> Self {
            Failure::failed(format!("cannot {verb} {}: {error}", path.display()))
        }

        pub(crate) fn unwritten(path: &Path, error: impl Into<std::io::Error>) -> Self {
            Failure::file("write", path, &error.into())
        }

        pub(crate) fn exit_code(&self) -> u8 {
            self.1
        }
    }

    impl Display for Failure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }

    impl From<hetero::Error> for Failure {
        fn from(error: hetero::Error) -> Self {
            Failure::failed(error)
        }
    }
}

/// The longest that one file may take.
const SLOWEST: Duration = Duration::from_secs(20);
/// The most bytes beside a multiple of the file's.
const OVERHEAD: usize = 1 << 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn below(random: &mut SplitMix, limit: usize) -> usize {
    (random.next() >> 33) as usize % limit.max(1)
}

fn pick<'a, T: ?Sized>(random: &mut SplitMix, list: &[&'a T]) -> &'a T {
    list[below(random, list.len())]
}

/// The header of a `.npy` file, part by part, and its content.
struct Npy {
    magic: Vec<u8>,
    version: [u8; 2],
    length: Option<u64>,
    descr: String,
    order: String,
    shape: String,
    content: Vec<u8>,
}

impl Npy {
    fn bytes(&self) -> Vec<u8> {
        let header =
            format!("{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}\n", self.descr, self.order, self.shape);
        let length = self.length.unwrap_or(header.len() as u64);
        let mut bytes = [&self.magic[..], &self.version].concat();
        match self.version[0] {
            1 => bytes.extend((length as u16).to_le_bytes()),
            _ => bytes.extend((length as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(&self.content);
        bytes
    }
}

/// Returns a `.npy` file with one to three parts of its header changed.
fn npy(random: &mut SplitMix) -> Vec<u8> {
    let mut file = Npy {
        magic: b"\x93NUMPY".to_vec(),
        version: [1, 0],
        length: None,
        descr: "'<f4'".into(),
        order: "False".into(),
        shape: "(2, 3, 4)".into(),
        content: vec![0x3f; 96],
    };
    for _ in 0..1 + below(random, 3) {
        match below(random, 8) {
            0 => file.version = [[1, 0], [2, 0], [3, 0], [4, 0], [0, 255], [255, 1]][below(random, 6)],
            1 => file.length = Some([0, 1, 8, 127, 65_535, 65_536, u64::from(u32::MAX)][below(random, 7)]),
            2 => {
                let types = [
                    "'<f8'",
                    "'>i4'",
                    "'|b1'",
                    "'<f2'",
                    "'|u1'",
                    "'<i8'",
                    "'<c16'",
                    "'|O'",
                    "'<U99999999999'",
                    "'|V0'",
                    "'<f0'",
                    "'<f3'",
                    "'<M8[ns]'",
                    "[('a', '<f4')]",
                    "[('a', '<f4', (1000000, 1000000))]",
                    "'",
                    "7",
                    "None",
                    "'<i-4'",
                    "'<u18446744073709551616'",
                    "((('<f4', (2,)), (3,)), (4,))",
                ];
                file.descr = pick(random, &types).into();
            }
            3 => file.order = pick(random, &["True", "False", "2", "None", "'True'", "()"]).into(),
            4 | 5 => {
                let shapes = [
                    "()",
                    "(24,)",
                    "(0, 3)",
                    "(-1,)",
                    "(4, 3, 2)",
                    "(99999999999,)",
                    "(18446744073709551615,)",
                    "(4294967296, 4294967296)",
                    "(18446744073709551616,)",
                    "(9223372036854775807, 0)",
                    "24",
                    "(1.5,)",
                    "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 24)",
                    "('a',)",
                    "None",
                    "((24,),)",
                    "(3, 4294967295, 0)",
                ];
                file.shape = pick(random, &shapes).into();
            }
            6 => {
                let length = [0, 1, 95, 97, 4096][below(random, 5)];
                file.content.resize(length, 0xff);
            }
            _ => {
                // Brackets and commas, many of them, in any of the three places.
                let piece = pick(random, &["(", "[", "{", "((1,),", "1, ", "'", "\\", "\u{1f600}", "# "]);
                let text = piece.repeat([1, 8, 15, 40, 3000][below(random, 5)]);
                match below(random, 3) {
                    0 => file.descr = text,
                    1 => file.order = text,
                    _ => file.shape = format!("({text})"),
                }
            }
        }
    }
    file.bytes()
}

/// Appends a number as a varint.
fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Appends a field that is a number.
fn number(bytes: &mut Vec<u8>, field: u64, value: u64) {
    varint(bytes, field << 3);
    varint(bytes, value);
}

/// Appends a field that is bytes, which may claim another length than they have.
fn chunk(bytes: &mut Vec<u8>, field: u64, content: &[u8], claimed: usize) {
    varint(bytes, field << 3 | 2);
    varint(bytes, claimed as u64);
    bytes.extend(content);
}

/// Returns a `TensorProto` in which some fields are hostile, left out, doubled or in each other's
/// place.
fn proto(random: &mut SplitMix) -> Vec<u8> {
    const NUMBERS: [u64; 12] =
        [0, 1, 2, 24, 255, 65_536, 1 << 31, u32::MAX as u64, 1 << 40, 1 << 62, i64::MAX as u64, u64::MAX];
    let mut bytes = Vec::new();
    let hostile = |random: &mut SplitMix, value: u64| match below(random, 6) {
        0 => NUMBERS[below(random, NUMBERS.len())],
        _ => value,
    };
    for dim in [2, 3, 4] {
        for _ in 0..[1, 1, 1, 1, 0, 2][below(random, 6)] {
            let dim = hostile(random, dim);
            number(&mut bytes, 1, dim);
        }
    }
    // The types of the standard and some codes beyond.
    let kind = if below(random, 2) == 0 { 1 } else { below(random, 40) as u64 };
    number(&mut bytes, 2, kind);
    chunk(&mut bytes, 8, b"input", 5);
    let length = [96, 96, 96, 0, 1, 12, 24, 48, 95, 97, 192, 4096][below(random, 12)];
    let claimed = if below(random, 8) == 0 { NUMBERS[below(random, NUMBERS.len())] as usize } else { length };
    // Raw bytes, or lists of floats, integers and strings.
    let field = if below(random, 2) == 0 { 9 } else { [4, 5, 6, 7, 10, 11][below(random, 6)] };
    chunk(&mut bytes, field, &vec![1; length], claimed);
    if below(random, 6) == 0 {
        chunk(&mut bytes, [4, 5, 6, 7, 9, 10, 11][below(random, 7)], &[1; 96], 96);
    }
    if below(random, 5) == 0 {
        // Where the content is in another file, entries say which file, and where in it.
        number(&mut bytes, 14, 1);
        let texts = ["/etc/passwd", "../x", "", "a\0b", "18446744073709551615", "-1", "0", "4096", "."];
        for key in ["location", "offset", "length", "checksum"] {
            if below(random, 4) > 0 {
                let value = pick(random, &texts);
                let mut entry = Vec::new();
                chunk(&mut entry, 1, key.as_bytes(), key.len());
                chunk(&mut entry, 2, value.as_bytes(), value.len());
                chunk(&mut bytes, 13, &entry, entry.len());
            }
        }
    }
    if below(random, 8) == 0 {
        let segment = [hostile(random, 0), hostile(random, 24)];
        let mut inner = Vec::new();
        number(&mut inner, 1, segment[0]);
        number(&mut inner, 2, segment[1]);
        chunk(&mut bytes, 3, &inner, inner.len());
    }
    bytes
}

/// Changes one to three bytes, or the length.
fn damage(bytes: &mut Vec<u8>, random: &mut SplitMix) {
    for _ in 0..1 + below(random, 3) {
        let at = below(random, bytes.len());
        match below(random, 6) {
            _ if bytes.is_empty() => bytes.push(0xff),
            0 => bytes[at] ^= 1 << below(random, 8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(random, 5)],
            2 => bytes.truncate(at),
            3 => {
                let end = bytes.len().min(at + 9);
                bytes[at..end].fill(0xff);
            }
            4 => drop(bytes.remove(at)),
            _ => bytes.insert(at, random.next() as u8),
        }
    }
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads the file, and returns whether it is a tensor, the time, and the most memory.
fn attempt(path: &Path) -> (bool, Duration, usize) {
    let (before, began) = (counting::watch_peak(), Instant::now());
    // A panic fails the test: nothing here catches it, and no other thread works.
    let made = tensors::read(path, None);
    let (took, grown) = (began.elapsed(), counting::peak().saturating_sub(before));
    // A tensor that is made is one that can be used.
    if let Ok(tensor) = &made {
        let bytes = tensor.dtype().bytes_for(tensor.len());
        assert!(tensor.dtype() == DType::String || bytes == Some(tensor.bytes().len()), "{tensor:?}");
    }
    (made.is_ok(), took, grown)
}

fn mutate(ending: &str, structured: impl Fn(&mut SplitMix) -> Vec<u8>, whole: &[u8]) {
    let (count, seed) = (setting("HETERO_MUTATIONS", 300), setting("HETERO_SEED", 1));
    let folder = Folder(std::env::temp_dir().join(format!("hetero-mutated-{ending}-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join(format!("input.{ending}"));
    let (mut tensors, mut slowest, mut largest) = (0, Duration::ZERO, 0);
    for index in 0..count {
        let mut random = SplitMix(seed << 32 | index);
        let mut bytes = if index % 2 == 0 { structured(&mut random) } else { whole.to_vec() };
        if index % 2 == 1 || below(&mut random, 4) == 0 {
            damage(&mut bytes, &mut random);
        }
        std::fs::write(&path, &bytes).unwrap();
        let (made, took, grown) = attempt(&path);
        assert!(took < SLOWEST, "{ending} {index} of seed {seed} took {took:?}");
        assert!(
            grown <= OVERHEAD + 256 * bytes.len(),
            "{ending} {index} of seed {seed} took {grown} bytes for a file of {}",
            bytes.len()
        );
        tensors += u64::from(made);
        (slowest, largest) = (slowest.max(took), largest.max(grown));
    }
    println!(
        "{count} mutations of .{ending}, seed {seed}: {tensors} tensors, {} errors, slowest {slowest:?}, most memory {} KiB",
        count - tensors,
        largest >> 10
    );
    assert!(tensors > 0 && tensors < count, "{tensors} of {count} were read");
}

/// One test reads both formats, because the counts are those of the whole process.
#[test]
fn mutated_inputs_end_in_an_error_or_a_tensor() {
    let folder = Folder(std::env::temp_dir().join(format!("hetero-mutated-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    let tensor: Tensor = tensors::random(DType::F32, &[2, 3, 4], 7).unwrap();
    let path = folder.0.join("whole.npy");
    tensors::write(&path, "value", &tensor).unwrap();
    mutate("npy", npy, &std::fs::read(&path).unwrap());
    let mut whole = Vec::new();
    for dim in [2, 3, 4] {
        number(&mut whole, 1, dim);
    }
    number(&mut whole, 2, 1);
    chunk(&mut whole, 8, b"input", 5);
    chunk(&mut whole, 9, tensor.bytes(), tensor.bytes().len());
    mutate("pb", proto, &whole);
}
