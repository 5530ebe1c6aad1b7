//! The kernel language: a small C that becomes OpenCL C, CUDA C or WGSL.
//!
//! The language has:
//!
//! - the types `float`, `int`, `uint`, `long`, `ulong` and `bool`,
//! - declarations of one name each (`const uint k = 0u;`, `float acc[16];`),
//! - `if` and `for` with braces, assignments and function calls,
//! - `LOCAL float tile[64];` for memory of a work group,
//! - and these words:
//!
//! | word | meaning |
//! |---|---|
//! | `GROUP_X`, `GROUP_Y`, `GROUP_Z` | number of the work group |
//! | `ITEM` | number of the work item in its group |
//! | `LINEAR` | number of the work item among all of a launch that is a line, folded where a line would be too long |
//! | `BARRIER;` | waits for the group, and orders its local memory |
//! | `LOAD(x, i)`, `STORE(x, i, v)` | element `i` of the buffer `x`, in the type that it is computed in; `i` is an `int` or `uint` |
//! | `pick(c, a, b)` | `a` where `c`, else `b`; both are evaluated |
//! | `to_float(v)`, `to_int(v)`, … | conversions |
//! | `float_bits(v)`, `bits_float(v)` | the bits of a float as `uint`, and back |
//!
//! There are no other casts, no pointers and no operator `?:`.
//! An integer literal that is a `uint` ends in `u`, and a float literal in `f`.

mod buffers;
mod emit;
mod functions;
mod tokens;

use std::collections::HashSet;

use hetero_hal::{DType, Error, Result};

use buffers::{packed, storage, storage_wgsl};
use emit::Emitter;
use tokens::tokens;

pub(crate) use functions::prelude;

/// The language that sources are translated into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenCL C 1.2.
    OpenClC,
    /// CUDA C++ as NVRTC takes it, without headers.
    CudaC,
    /// The WebGPU shading language.
    Wgsl,
}

/// A type in which kernels compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scalar {
    Bool,
    Int,
    Uint,
    Long,
    Ulong,
    Float,
}

impl Scalar {
    pub(crate) const ALL: [Scalar; 6] =
        [Scalar::Bool, Scalar::Int, Scalar::Uint, Scalar::Long, Scalar::Ulong, Scalar::Float];

    /// Returns the type in which elements are computed, or `None` where kernels do not support
    /// them.
    pub(crate) fn of(dtype: DType) -> Option<Scalar> {
        Some(match dtype {
            DType::Bool => Scalar::Bool,
            DType::I8 | DType::I16 | DType::I32 => Scalar::Int,
            DType::U8 | DType::U16 | DType::U32 => Scalar::Uint,
            DType::I64 => Scalar::Long,
            DType::U64 => Scalar::Ulong,
            DType::F16 | DType::BF16 | DType::F32 => Scalar::Float,
            _ => return None,
        })
    }

    /// Returns the type's name in the kernel language.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scalar::Bool => "bool",
            Scalar::Int => "int",
            Scalar::Uint => "uint",
            Scalar::Long => "long",
            Scalar::Ulong => "ulong",
            Scalar::Float => "float",
        }
    }

    fn named(name: &str) -> Option<Scalar> {
        Scalar::ALL.into_iter().find(|scalar| scalar.name() == name)
    }

    pub(crate) fn spelled(self, dialect: Dialect) -> &'static str {
        match (dialect, self) {
            (Dialect::Wgsl, Scalar::Bool) | (Dialect::OpenClC | Dialect::CudaC, Scalar::Bool) => "bool",
            (Dialect::Wgsl, Scalar::Int) => "i32",
            (Dialect::Wgsl, Scalar::Uint) => "u32",
            (Dialect::Wgsl, Scalar::Long) => "i64",
            (Dialect::Wgsl, Scalar::Ulong) => "u64",
            (Dialect::Wgsl, Scalar::Float) => "f32",
            (Dialect::CudaC, Scalar::Long) => "long long",
            (Dialect::CudaC, Scalar::Ulong) => "unsigned long long",
            (Dialect::CudaC, Scalar::Uint) => "unsigned int",
            (_, other) => other.name(),
        }
    }
}

/// Returns the error for a source of this crate that the translator does not understand.
fn malformed(what: &str) -> Error {
    Error::internal(format!("a kernel source is not of the kernel language: {what}")).with_remedy("report this model")
}

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The buffer is only read.
    Read,
    /// The buffer is written, and perhaps also read.
    Write,
}

/// A buffer of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) access: Access,
    /// The number of pieces in which it is bound, each of [`Source::piece`] bytes but the last.
    pub(crate) pieces: u32,
}

/// The type of a number that a launch hands to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Number {
    Uint,
    Int,
    Float,
}

impl Number {
    fn scalar(self) -> Scalar {
        match self {
            Number::Uint => Scalar::Uint,
            Number::Int => Scalar::Int,
            Number::Float => Scalar::Float,
        }
    }
}

/// A kernel in the kernel language.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) body: String,
    pub(crate) constants: Vec<(&'static str, u32)>,
    pub(crate) ports: Vec<Port>,
    pub(crate) numbers: Vec<(String, Number)>,
    /// The work items of a group.
    pub(crate) items: u32,
    /// The size in bytes of a piece of a buffer that is bound in several pieces.
    pub(crate) piece: u64,
    /// Whether 16-bit floats may be elements of a WGSL array.
    pub(crate) half: bool,
}

impl Source {
    /// Returns the kernel as source text with the entry point `entry`, and the functions that it
    /// calls.
    /// For WGSL the text is a whole module; for the other dialects it is a function that stands
    /// behind a [`prelude`].
    pub(crate) fn emit(&self, dialect: Dialect, entry: &str) -> Result<(String, HashSet<String>)> {
        let mut emitter = Emitter::new(dialect, self);
        emitter.block(&tokens(&self.body)?)?;
        let Emitter { out, local, called, .. } = emitter;
        let text = match dialect {
            Dialect::Wgsl => self.wgsl(entry, &local, &out),
            _ => self.c(dialect, entry, &local, &out),
        };
        Ok((text, called))
    }

    fn c(&self, dialect: Dialect, entry: &str, local: &str, body: &str) -> String {
        let cuda = dialect == Dialect::CudaC;
        let mut arguments = Vec::new();
        for port in &self.ports {
            let constant = if port.access == Access::Read { "const " } else { "" };
            let (space, restrict) = if cuda { ("", " __restrict__") } else { ("__global ", " restrict") };
            arguments.push(format!("{space}{constant}{}*{restrict} {}", storage(port.dtype, dialect), port.name));
        }
        for (name, number) in &self.numbers {
            arguments.push(format!("const {} {name}", number.scalar().spelled(dialect)));
        }
        let (attributes, items) = match dialect {
            Dialect::CudaC => ("extern \"C\" __global__ void __launch_bounds__", format!("({})", self.items)),
            _ => ("__kernel __attribute__((reqd_work_group_size", format!("({}, 1, 1))) void", self.items)),
        };
        format!("{attributes}{items} {entry}({}) {{\n{local}{body}}}\n", arguments.join(", "))
    }

    fn wgsl(&self, entry: &str, local: &str, body: &str) -> String {
        let mut text = String::new();
        let mut binding = 0;
        for port in &self.ports {
            let element = match storage_wgsl(port.dtype, self.half) {
                _ if packed(port.dtype, self.half).is_some() && port.access == Access::Write => "atomic<u32>",
                element => element,
            };
            for piece in 0..port.pieces {
                let name = if port.pieces == 1 { port.name.clone() } else { format!("{}_{piece}", port.name) };
                text += &format!("@group(0) @binding({binding}) var<storage, read_write> {name}: array<{element}>;\n");
                binding += 1;
            }
            text += &self.accessors(port);
        }
        let mut reads = String::new();
        if !self.numbers.is_empty() {
            text += "struct Numbers {\n";
            for (name, number) in &self.numbers {
                text += &format!("  {name}: {},\n", number.scalar().spelled(Dialect::Wgsl));
                reads += &format!("  let {name} = numbers_.{name};\n");
            }
            text += &format!("}}\n@group(0) @binding({binding}) var<uniform> numbers_: Numbers;\n");
        }
        text += local;
        text += &format!(
            "@compute @workgroup_size({})\nfn {entry}(@builtin(workgroup_id) group_: vec3<u32>, \
             @builtin(num_workgroups) groups_: vec3<u32>, @builtin(local_invocation_index) item_: u32) {{\n{reads}{body}}}\n",
            self.items
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(body: &str) -> Source {
        let port = |name: &str, access| Port { name: name.into(), dtype: DType::F32, access, pieces: 1 };
        Source {
            body: body.into(),
            constants: vec![("TILE", 4)],
            ports: vec![port("x", Access::Read), port("y", Access::Write)],
            numbers: vec![("n".into(), Number::Uint)],
            items: 64,
            piece: u64::MAX,
            half: false,
        }
    }

    #[test]
    fn one_text_is_three() {
        let text = "float sum[TILE];\nfor (uint i = 0u; i < TILE; i += 1u) {\nsum[i] = LOAD(x, i);\n}\nif (LINEAR < n) {\n\
                    STORE(y, LINEAR, pick(n == 0u, 0.0f, sum[0]));\n}\n";
        let of = |dialect| source(text).emit(dialect, "k").map(|(text, _)| text).unwrap_or_default();
        let (opencl, cuda, wgsl) = (of(Dialect::OpenClC), of(Dialect::CudaC), of(Dialect::Wgsl));
        assert!(opencl.contains("__kernel") && opencl.contains("float sum[4u]") && opencl.contains("?"), "{opencl}");
        assert!(cuda.contains("__global__") && cuda.contains("threadIdx.x"), "{cuda}");
        assert!(wgsl.contains("var sum: array<f32, 4u>") && wgsl.contains("select(sum[0], 0.0f, n == 0u)"), "{wgsl}");
    }

    #[test]
    fn names_that_a_dialect_reserves_are_others() {
        for dialect in [Dialect::OpenClC, Dialect::CudaC, Dialect::Wgsl] {
            let (text, _) = source("const uint channel = n; STORE(y, channel, 0.0f);").emit(dialect, "k").unwrap();
            assert!(text.contains("channel_") && !text.contains("channel;") && !text.contains("channel]"), "{text}");
        }
    }

    #[test]
    fn what_is_not_of_the_language_is_an_error() {
        for text in [
            "uint a = n ? 1u : 2u;",
            "uint a = LOAD(z, 0u);",
            "STORE(y, 0u);",
            "uint a = (1u",
            "y[0u] = 'c';",
            "LOCAL tile[4];",
        ] {
            for dialect in [Dialect::OpenClC, Dialect::CudaC, Dialect::Wgsl] {
                assert!(source(text).emit(dialect, "k").is_err(), "{text}");
            }
        }
    }
}
