//! The text in front of kernels: names that a dialect lacks, and the functions of the kernel
//! language that kernels call.

use std::collections::{HashMap, HashSet};

use hetero_hal::Result;

use super::emit::Emitter;
use super::tokens::tokens;
use super::{Dialect, Scalar, Source};

/// Returns the text in front of all kernels: names that a dialect lacks, and the functions of
/// [`FUNCTIONS`] that `called` needs.
pub(crate) fn prelude(dialect: Dialect, called: &HashSet<String>, halves: bool) -> Result<String> {
    let mut text = match dialect {
        Dialect::OpenClC => String::new(),
        Dialect::CudaC => CUDA.to_owned() + if halves { CUDA_HALF } else { "" },
        Dialect::Wgsl => String::new(),
    };
    let functions = functions();
    let mut wanted: Vec<&str> = called.iter().map(String::as_str).collect();
    let mut needed: HashSet<usize> = HashSet::new();
    while let Some(name) = wanted.pop() {
        if let Some(&index) = functions.index.get(name)
            && needed.insert(index)
        {
            wanted.extend(functions.list[index].calls.iter().copied());
        }
    }
    for (index, function) in functions.list.iter().enumerate() {
        if needed.contains(&index) {
            text += &function.emit(dialect)?;
        }
    }
    Ok(text)
}

/// Names of OpenCL C that CUDA C lacks.
const CUDA: &str = "typedef unsigned int uint;\n";
/// Conversions of 16-bit floats, in instructions that every supported chip has.
const CUDA_HALF: &str = "static __device__ __forceinline__ float half_float(unsigned short bits) {\n  float value;\n  \
     asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(value) : \"h\"(bits));\n  return value;\n}\n\
     static __device__ __forceinline__ unsigned short float_half(float value) {\n  unsigned short bits;\n  \
     asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(bits) : \"f\"(value));\n  return bits;\n}\n";

/// Functions in the kernel language that kernels call.
const FUNCTIONS: &str = include_str!("../sources/functions.c");

struct Function {
    returns: Scalar,
    name: &'static str,
    arguments: Vec<(Scalar, &'static str)>,
    body: &'static str,
    calls: Vec<&'static str>,
}

struct Functions {
    list: Vec<Function>,
    index: HashMap<&'static str, usize>,
}

/// Returns the functions of [`FUNCTIONS`], each of which is written as `type name(type a, …) {`,
/// its body, and `}` on a line of its own.
fn functions() -> &'static Functions {
    static PARSED: std::sync::LazyLock<Functions> = std::sync::LazyLock::new(|| {
        let mut list: Vec<Function> = Vec::new();
        for text in FUNCTIONS.split("\n}\n") {
            let Some((head, body)) = text.split_once(" {\n") else { continue };
            let head = head.lines().last().unwrap_or_default();
            let Some((named, arguments)) = head.trim_end_matches(')').split_once('(') else { continue };
            let Some((returns, name)) = named.split_once(' ') else { continue };
            let arguments = arguments.split(", ").filter_map(|argument| {
                let (ty, name) = argument.split_once(' ')?;
                Some((Scalar::named(ty)?, name))
            });
            let Some(returns) = Scalar::named(returns) else { continue };
            list.push(Function { returns, name, arguments: arguments.collect(), body, calls: vec![] });
        }
        let index: HashMap<&str, usize> = list.iter().enumerate().map(|(at, function)| (function.name, at)).collect();
        for function in &mut list {
            let words = function.body.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            function.calls = words.filter(|word| index.contains_key(word) && *word != function.name).collect();
        }
        Functions { list, index }
    });
    &PARSED
}

impl Function {
    fn emit(&self, dialect: Dialect) -> Result<String> {
        let source = Source {
            body: self.body.to_owned(),
            constants: vec![],
            ports: vec![],
            numbers: vec![],
            items: 1,
            piece: u64::MAX,
            half: false,
        };
        let mut emitter = Emitter::new(dialect, &source);
        emitter.block(&tokens(self.body)?)?;
        let argument = |&(scalar, name): &(Scalar, &str)| match dialect {
            Dialect::Wgsl => format!("{name}: {}", scalar.spelled(dialect)),
            _ => format!("{} {name}", scalar.spelled(dialect)),
        };
        let arguments: Vec<String> = self.arguments.iter().map(argument).collect();
        let (returns, name, body) = (self.returns.spelled(dialect), self.name, emitter.out.trim_end());
        Ok(match dialect {
            Dialect::Wgsl => format!("fn {name}({}) -> {returns} {{\n{body}\n}}\n", arguments.join(", ")),
            Dialect::CudaC => {
                format!("static __device__ {returns} {name}({}) {{\n{body}\n}}\n", arguments.join(", "))
            }
            Dialect::OpenClC => format!("static {returns} {name}({}) {{\n{body}\n}}\n", arguments.join(", ")),
        })
    }
}
