//! The kernel language: a small C that becomes OpenCL C, CUDA C or WGSL.
//!
//! It has the types `float`, `int`, `uint`, `long`, `ulong` and `bool`; declarations of one name each (`const uint k = 0u;`, `float acc[16];`); `if` and
//! `for` with braces; assignments; function calls; `LOCAL float tile[64];` for memory of a work group; and these words:
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
//! There are no other casts, no pointers and no operator `?:`; an integer literal that is a `uint` ends in `u`, a float one in `f`.

use std::collections::{HashMap, HashSet};

use hetero_hal::{DType, Error, Result};

/// What the sources become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenCL C 1.2.
    OpenClC,
    /// CUDA C++ as NVRTC takes it, without headers.
    CudaC,
    /// The WebGPU shading language.
    Wgsl,
}

/// A type that kernels compute in.
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

    /// The type that elements are computed in; `None` where kernels don't take them.
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

    /// Its name in the kernel language.
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

/// A piece of a source text.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// Identifier or keyword.
    Word(String),
    Number(String),
    Sign(&'static str),
    /// A line's end, for a readable result.
    Line,
}

const SIGNS: [&str; 42] = [
    "<<=", ">>=", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "^=", "++",
    "--", "+", "-", "*", "/", "%", "<", ">", "=", "!", "&", "|", "^", "~", "(", ")", "[", "]", "{", "}", ",", ";", ".",
];

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut rest = line.split("//").next().unwrap_or_default();
        loop {
            rest = rest.trim_start();
            let Some(first) = rest.chars().next() else { break };
            let long = |part: &str, keep: fn(char) -> bool| part.find(|c| !keep(c)).unwrap_or(part.len());
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let bytes = if first.is_ascii_digit() {
                let mut bytes = long(rest, |c| c.is_ascii_alphanumeric() || c == '.');
                // The sign of an exponent.
                if rest[..bytes].ends_with('e') && !rest.starts_with("0x") && rest[bytes..].starts_with(['-', '+']) {
                    bytes += 1 + long(&rest[bytes + 1..], |c| c.is_ascii_alphanumeric());
                }
                found.push(Token::Number(rest[..bytes].to_owned()));
                bytes
            } else if word(first) {
                let bytes = long(rest, |c| c.is_ascii_alphanumeric() || c == '_');
                found.push(Token::Word(rest[..bytes].to_owned()));
                bytes
            } else {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| malformed(&format!("'{first}' in the line '{line}'")))?;
                found.push(Token::Sign(sign));
                sign.len()
            };
            rest = &rest[bytes..];
        }
        found.push(Token::Line);
    }
    Ok(found)
}

/// A source of this crate's that the translator does not understand.
fn malformed(what: &str) -> Error {
    Error::internal(format!("a kernel source is not of the kernel language: {what}")).with_remedy("report this model")
}

/// How a buffer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Read only.
    Read,
    /// Written, and perhaps read.
    Write,
}

/// A buffer of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) access: Access,
    /// Pieces that it is bound in, each of [`Source::piece`] bytes but the last.
    pub(crate) pieces: u32,
}

/// Type of a number that a launch hands to a kernel.
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
    /// Work items of a group.
    pub(crate) items: u32,
    /// Bytes of a piece of a buffer that is bound in several.
    pub(crate) piece: u64,
    /// May 16-bit floats be elements of a WGSL array?
    pub(crate) half: bool,
}

/// What a text becomes, token by token.
struct Emitter<'a> {
    dialect: Dialect,
    source: &'a Source,
    out: String,
    /// WGSL's memory of work groups, which is declared outside.
    local: String,
    /// Functions that the text calls.
    called: HashSet<String>,
    depth: usize,
}

impl Source {
    /// The kernel as source text with the entry point `entry`. For WGSL a whole module; for the others a function, to stand behind a
    /// [`prelude`].
    pub(crate) fn emit(&self, dialect: Dialect, entry: &str) -> Result<(String, HashSet<String>)> {
        let mut emitter = Emitter {
            dialect,
            source: self,
            out: String::new(),
            local: String::new(),
            called: HashSet::new(),
            depth: 1,
        };
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

    /// WGSL functions that read and write a buffer whose elements are no array's: packed ones, and those in pieces.
    ///
    /// Their arguments end in an underline, which no buffer's name does.
    fn accessors(&self, port: &Port) -> String {
        let Some(scalar) = Scalar::of(port.dtype) else { return String::new() };
        let (name, ty) = (&port.name, scalar.spelled(Dialect::Wgsl));
        let packed = packed(port.dtype, self.half);
        if port.pieces == 1 && packed.is_none() {
            return String::new();
        }
        let bits = port.dtype.bits() as u64;
        let (words, index) = match packed {
            // Whole words are what pieces are cut into.
            Some(width) => (self.piece / 4, format!("i_ / {}u", 32 / width)),
            None => (self.piece * 8 / bits.max(1), "i_".to_owned()),
        };
        let mut text = String::new();
        let atomic = packed.is_some() && port.access == Access::Write;
        let word = if packed.is_some() { "u32" } else { ty };
        let raw = if packed.is_some() { "u32" } else { storage_wgsl(port.dtype, self.half) };
        let mut each = |function: &str, arguments: &str, returns: &str, action: &dyn Fn(&str) -> String| {
            text += &format!("fn {function}_{name}({arguments}){returns} {{\n");
            if port.pieces == 1 {
                text += &format!("  {}\n}}\n", action(&format!("{name}[w_]")));
                return;
            }
            text += &format!("  switch w_ / {words}u {{\n");
            for piece in 0..port.pieces {
                let case = if piece + 1 == port.pieces { "default".to_owned() } else { format!("case {piece}u") };
                let target = format!("{name}_{piece}[w_ - {}u]", u64::from(piece) * words);
                text += &format!("    {case}: {{ {} }}\n", action(&target));
            }
            text += "  }\n}\n";
        };
        let read =
            |at: &str| if atomic { format!("return atomicLoad(&{at});") } else { format!("return {word}({at});") };
        each("word", "w_: u32", &format!(" -> {word}"), &read);
        if port.access == Access::Write {
            match packed {
                None => each("put", &format!("w_: u32, v_: {ty}"), "", &|at| format!("{at} = {raw}(v_);")),
                Some(_) => each("put", "w_: u32, mask_: u32, v_: u32", "", &|at| {
                    format!("atomicAnd(&{at}, ~mask_); atomicOr(&{at}, v_ & mask_);")
                }),
            }
        }
        let Some(width) = packed else {
            text += &format!("fn load_{name}(i_: u32) -> {ty} {{ return word_{name}(i_); }}\n");
            if port.access == Access::Write {
                text += &format!("fn store_{name}(i_: u32, v_: {ty}) {{ put_{name}(i_, v_); }}\n");
            }
            return text;
        };
        let shift = format!("(i_ % {}u) * {width}u", 32 / width);
        let bits = format!("extractBits(word_{name}({index}), {shift}, {width}u)");
        let (value, store) = match (port.dtype, scalar) {
            (DType::Bool, _) => (format!("{bits} != 0u"), "select(0u, 1u, v_)".to_owned()),
            (DType::BF16, _) => (format!("bitcast<f32>({bits} << 16u)"), "bfloat_bits(v_)".to_owned()),
            (_, Scalar::Int) => (
                format!("extractBits(bitcast<i32>(word_{name}({index})), {shift}, {width}u)"),
                "bitcast<u32>(v_)".to_owned(),
            ),
            _ => (bits, "v_".to_owned()),
        };
        text += &format!("fn load_{name}(i_: u32) -> {ty} {{ return {value}; }}\n");
        if port.access == Access::Write {
            let mask = (1u64 << width) - 1;
            text += &format!(
                "fn store_{name}(i_: u32, v_: {ty}) {{ let s_ = {shift}; put_{name}({index}, {mask}u << s_, {store} << s_); }}\n"
            );
        }
        text
    }
}

/// The type that a C dialect keeps elements in.
fn storage(dtype: DType, dialect: Dialect) -> &'static str {
    match (dtype, dialect) {
        (DType::Bool | DType::U8, _) => "unsigned char",
        (DType::I8, _) => "signed char",
        (DType::F16, Dialect::OpenClC) => "half",
        (DType::F16 | DType::BF16 | DType::U16, _) => "unsigned short",
        (DType::I16, _) => "short",
        (DType::U32, _) => "unsigned int",
        (DType::I64, Dialect::CudaC) => "long long",
        (DType::U64, Dialect::CudaC) => "unsigned long long",
        (DType::I64, _) => "long",
        (DType::U64, _) => "unsigned long",
        (DType::I32, _) => "int",
        _ => "float",
    }
}

/// Bits of an element of which WGSL packs several into a word.
fn packed(dtype: DType, half: bool) -> Option<usize> {
    match dtype {
        DType::F16 if half => None,
        _ if dtype.bits() < 32 => Some(dtype.bits()),
        _ => None,
    }
}

/// The type of the elements of a WGSL array.
fn storage_wgsl(dtype: DType, half: bool) -> &'static str {
    match dtype {
        DType::F16 if half => "f16",
        DType::F32 => "f32",
        DType::I32 => "i32",
        DType::I64 => "i64",
        DType::U64 => "u64",
        _ => "u32",
    }
}

/// The bits of an infinity, which no WGSL expression of constants may be.
const INFINITY: &str = "0x7f800000u";

impl Emitter<'_> {
    fn wgsl(&self) -> bool {
        self.dialect == Dialect::Wgsl
    }

    fn push(&mut self, text: &str) {
        self.out += text;
    }

    /// Statements.
    fn block(&mut self, tokens: &[Token]) -> Result<()> {
        let mut at = 0;
        let mut start = true;
        while at < tokens.len() {
            match &tokens[at] {
                Token::Line => {
                    if !self.out.ends_with('\n') && !self.out.is_empty() {
                        self.out.push('\n');
                    }
                    at += 1;
                    continue;
                }
                Token::Sign("}") => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.out.ends_with('\n') || self.out.is_empty() {
                self.out += &"  ".repeat(self.depth);
            }
            match &tokens[at] {
                Token::Word(word) if start && word == "LOCAL" => at = self.local_array(tokens, at + 1)?,
                Token::Word(word) if start && declares(tokens, at) => {
                    let constant = word == "const";
                    at = self.declaration(tokens, at + usize::from(constant), constant)?;
                    start = false;
                }
                Token::Word(word) if start && word == "for" => {
                    self.push("for (");
                    // The next token is the parenthesis; what follows may declare.
                    at += 2;
                }
                Token::Word(word) if start && word == "BARRIER" => {
                    self.push(match self.dialect {
                        Dialect::OpenClC => "barrier(CLK_LOCAL_MEM_FENCE)",
                        Dialect::CudaC => "__syncthreads()",
                        Dialect::Wgsl => "workgroupBarrier()",
                    });
                    at += 1;
                }
                Token::Sign(sign @ ("{" | "}" | ";")) => {
                    self.push(sign);
                    self.push(if *sign == ";" { " " } else { "" });
                    self.depth += usize::from(*sign == "{");
                    at += 1;
                    start = true;
                }
                _ => {
                    let end = tokens[at..].iter().position(|t| matches!(t, Token::Sign("{" | "}" | ";")));
                    let end = at + end.ok_or_else(|| malformed("a statement without an end"))?;
                    let text = self.expression(&tokens[at..end])?;
                    self.push(&text);
                    at = end;
                    start = false;
                }
            }
        }
        Ok(())
    }

    fn local_array(&mut self, tokens: &[Token], at: usize) -> Result<usize> {
        let (Some(Token::Word(ty)), Some(Token::Word(name))) = (tokens.get(at), tokens.get(at + 1)) else {
            return Err(malformed("LOCAL without a type and a name"));
        };
        let scalar = Scalar::named(ty).ok_or_else(|| malformed(ty))?.spelled(self.dialect);
        let (sizes, next) = self.sizes(tokens, at + 2)?;
        self.local += &match self.dialect {
            Dialect::OpenClC => format!("  __local {scalar} {name}{};\n", bracketed(&sizes)),
            Dialect::CudaC => format!("  __shared__ {scalar} {name}{};\n", bracketed(&sizes)),
            Dialect::Wgsl => format!("var<workgroup> {name}: {};\n", arrays(scalar, &sizes)),
        };
        Ok(next + 1)
    }

    /// The sizes of an array, and where they end.
    fn sizes(&mut self, tokens: &[Token], mut at: usize) -> Result<(Vec<String>, usize)> {
        let mut sizes = Vec::new();
        while tokens.get(at) == Some(&Token::Sign("[")) {
            let close = tokens[at..].iter().position(|t| *t == Token::Sign("]"));
            let close = at + close.ok_or_else(|| malformed("an array without an end"))?;
            sizes.push(self.expression(&tokens[at + 1..close])?);
            at = close + 1;
        }
        Ok((sizes, at))
    }

    /// A declaration up to its initial value.
    fn declaration(&mut self, tokens: &[Token], at: usize, constant: bool) -> Result<usize> {
        let (Some(Token::Word(ty)), Some(Token::Word(name))) = (tokens.get(at), tokens.get(at + 1)) else {
            return Err(malformed("a declaration without a name"));
        };
        let scalar = Scalar::named(ty).ok_or_else(|| malformed(ty))?.spelled(self.dialect);
        let name = self.word(name);
        let (sizes, mut next) = self.sizes(tokens, at + 2)?;
        let text = match (self.wgsl(), constant) {
            (true, true) => format!("let {name}: {}", arrays(scalar, &sizes)),
            (true, false) => format!("var {name}: {}", arrays(scalar, &sizes)),
            (false, true) => format!("const {scalar} {name}{}", bracketed(&sizes)),
            (false, false) => format!("{scalar} {name}{}", bracketed(&sizes)),
        };
        self.push(&text);
        if tokens.get(next) == Some(&Token::Sign("=")) {
            self.push(" = ");
            next += 1;
        }
        Ok(next)
    }

    /// An expression, or an assignment, or a call; no declaration.
    fn expression(&mut self, tokens: &[Token]) -> Result<String> {
        let mut out = String::new();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                Token::Line => {}
                Token::Number(number) => out += number,
                Token::Sign(sign) => {
                    let spaced = !matches!(*sign, "(" | ")" | "[" | "]" | "!" | "~" | "." | ",");
                    out += &match *sign {
                        "," => ", ".to_owned(),
                        // A sign before a number or name needs no room, but does no harm either.
                        sign if spaced => format!(" {sign} "),
                        sign => sign.to_owned(),
                    };
                }
                Token::Word(word) => {
                    let call = tokens.get(at + 1) == Some(&Token::Sign("("));
                    if call {
                        let (arguments, end) = self.arguments(tokens, at + 1)?;
                        out += &self.call(word, &arguments)?;
                        at = end;
                        continue;
                    }
                    out += &self.word(word);
                    if word == "return" || word == "else" {
                        out.push(' ');
                    }
                }
            }
            at += 1;
        }
        Ok(out)
    }

    fn word(&self, word: &str) -> String {
        if let Some((_, value)) = self.source.constants.iter().find(|(name, _)| *name == word) {
            return format!("{value}u");
        }
        let builtin = match (word, self.dialect) {
            ("GROUP_X", Dialect::OpenClC) => "(uint)get_group_id(0)",
            ("GROUP_Y", Dialect::OpenClC) => "(uint)get_group_id(1)",
            ("GROUP_Z", Dialect::OpenClC) => "(uint)get_group_id(2)",
            ("ITEM", Dialect::OpenClC) => "(uint)get_local_id(0)",
            ("GROUP_X", Dialect::CudaC) => "blockIdx.x",
            ("GROUP_Y", Dialect::CudaC) => "blockIdx.y",
            ("GROUP_Z", Dialect::CudaC) => "blockIdx.z",
            ("ITEM", Dialect::CudaC) => "threadIdx.x",
            ("GROUP_X", Dialect::Wgsl) => "group_.x",
            ("GROUP_Y", Dialect::Wgsl) => "group_.y",
            ("GROUP_Z", Dialect::Wgsl) => "group_.z",
            ("ITEM", Dialect::Wgsl) => "item_",
            ("LINEAR", Dialect::OpenClC) => {
                return format!(
                    "(((uint)get_group_id(1) * (uint)get_num_groups(0) + (uint)get_group_id(0)) * {0}u + (uint)get_local_id(0))",
                    self.source.items
                );
            }
            ("LINEAR", Dialect::CudaC) => {
                return format!("((blockIdx.y * gridDim.x + blockIdx.x) * {0}u + threadIdx.x)", self.source.items);
            }
            ("LINEAR", Dialect::Wgsl) => {
                return format!("((group_.y * groups_.x + group_.x) * {0}u + item_)", self.source.items);
            }
            (reserved, Dialect::Wgsl) if WGSL_RESERVED.contains(&reserved) => return format!("{reserved}_"),
            _ => word,
        };
        builtin.to_owned()
    }

    /// The arguments of a call whose parenthesis is at `open`, translated, and the position behind it.
    fn arguments(&mut self, tokens: &[Token], open: usize) -> Result<(Vec<String>, usize)> {
        let mut depth = 0usize;
        let mut begin = open + 1;
        let mut arguments = Vec::new();
        for at in open..tokens.len() {
            match &tokens[at] {
                Token::Sign("(" | "[") => depth += 1,
                Token::Sign(")" | "]") => {
                    depth -= 1;
                    if depth == 0 {
                        if at > begin {
                            arguments.push(self.expression(&tokens[begin..at])?);
                        }
                        return Ok((arguments, at + 1));
                    }
                }
                Token::Sign(",") if depth == 1 => {
                    arguments.push(self.expression(&tokens[begin..at])?);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        Err(malformed("a call without an end"))
    }

    fn call(&mut self, name: &str, arguments: &[String]) -> Result<String> {
        let wgsl = self.wgsl();
        let text = |at: usize| {
            arguments.get(at).map(String::as_str).ok_or_else(|| malformed(&format!("{name} lacks an argument")))
        };
        Ok(match name {
            "LOAD" => self.load(text(0)?, text(1)?)?,
            "STORE" => self.store(text(0)?, text(1)?, text(2)?)?,
            "pick" if wgsl => format!("select({}, {}, {})", text(2)?, text(1)?, text(0)?),
            "pick" => format!("(({}) ? ({}) : ({}))", text(0)?, text(1)?, text(2)?),
            "float_bits" => match self.dialect {
                Dialect::OpenClC => format!("as_uint({})", text(0)?),
                Dialect::CudaC => format!("__float_as_uint({})", text(0)?),
                Dialect::Wgsl => format!("bitcast<u32>({})", text(0)?),
            },
            "bits_float" => match self.dialect {
                Dialect::OpenClC => format!("as_float({})", text(0)?),
                Dialect::CudaC => format!("__uint_as_float({})", text(0)?),
                Dialect::Wgsl => format!("bitcast<f32>({})", text(0)?),
            },
            // From a function's argument, so that it is no expression of constants.
            "infinity" if wgsl => format!("bitcast<f32>({INFINITY} | ({} & 0u))", text(0)?),
            "infinity" => {
                format!("({})", if self.dialect == Dialect::CudaC { "__int_as_float(0x7f800000)" } else { "INFINITY" })
            }
            "if" | "while" => format!("{name} ({}) ", text(0)?),
            "return" => format!("return ({})", text(0)?),
            _ => {
                if let Some(scalar) = name.strip_prefix("to_").and_then(Scalar::named) {
                    return Ok(if wgsl {
                        format!("{}({})", scalar.spelled(self.dialect), text(0)?)
                    } else {
                        format!("(({})({}))", scalar.spelled(self.dialect), text(0)?)
                    });
                }
                self.called.insert(name.to_owned());
                let known = if wgsl { WGSL_NAMES } else { C_NAMES };
                let spelled = known.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| *theirs);
                format!("{spelled}({})", arguments.join(", "))
            }
        })
    }

    fn port(&self, name: &str) -> Result<&Port> {
        self.source.ports.iter().find(|port| port.name == name).ok_or_else(|| malformed(&format!("no buffer '{name}'")))
    }

    fn load(&self, name: &str, index: &str) -> Result<String> {
        let port = self.port(name)?;
        if self.wgsl() {
            let direct = port.pieces == 1 && packed(port.dtype, self.source.half).is_none();
            return Ok(match (direct, port.dtype) {
                (true, DType::F16) => format!("f32({name}[{index}])"),
                (true, _) => format!("{name}[{index}]"),
                (false, _) => format!("load_{name}(u32({index}))"),
            });
        }
        Ok(match (port.dtype, self.dialect) {
            (DType::Bool, _) => format!("({name}[{index}] != 0)"),
            (DType::F16, Dialect::OpenClC) => format!("vload_half({index}, {name})"),
            (DType::F16, _) => format!("half_float({name}[{index}])"),
            (DType::BF16, Dialect::OpenClC) => format!("as_float((uint){name}[{index}] << 16)"),
            (DType::BF16, _) => format!("__uint_as_float((unsigned int){name}[{index}] << 16)"),
            (DType::I8 | DType::I16, _) => format!("(int){name}[{index}]"),
            (DType::U8 | DType::U16, _) => format!("(uint){name}[{index}]"),
            _ => format!("{name}[{index}]"),
        })
    }

    fn store(&mut self, name: &str, index: &str, value: &str) -> Result<String> {
        let port = self.port(name)?.clone();
        if port.dtype == DType::BF16 {
            self.called.insert("bfloat_bits".to_owned());
        }
        if self.wgsl() {
            let direct = port.pieces == 1 && packed(port.dtype, self.source.half).is_none();
            return Ok(match (direct, port.dtype) {
                (true, DType::F16) => format!("{name}[{index}] = f16({value})"),
                (true, _) => format!("{name}[{index}] = {value}"),
                (false, _) => format!("store_{name}(u32({index}), {value})"),
            });
        }
        Ok(match (port.dtype, self.dialect) {
            (DType::Bool, _) => format!("{name}[{index}] = ({value}) ? 1 : 0"),
            (DType::F16, Dialect::OpenClC) => format!("vstore_half({value}, {index}, {name})"),
            (DType::F16, _) => format!("{name}[{index}] = float_half({value})"),
            (DType::BF16, _) => format!("{name}[{index}] = (unsigned short)bfloat_bits({value})"),
            (DType::I8, _) => format!("{name}[{index}] = (signed char)({value})"),
            (DType::U8, _) => format!("{name}[{index}] = (unsigned char)({value})"),
            (DType::I16, _) => format!("{name}[{index}] = (short)({value})"),
            (DType::U16, _) => format!("{name}[{index}] = (unsigned short)({value})"),
            _ => format!("{name}[{index}] = {value}"),
        })
    }
}

/// Functions of the kernel language that a dialect has under another name.
const C_NAMES: &[(&str, &str)] =
    &[("abs_float", "fabs"), ("max_float", "fmax"), ("min_float", "fmin"), ("round_even", "rint")];
const WGSL_NAMES: &[(&str, &str)] = &[
    ("abs_float", "abs"),
    ("max_float", "max"),
    ("min_float", "min"),
    ("round_even", "round"),
    ("rsqrt", "inverseSqrt"),
];

/// Names of variables that are reserved in WGSL; they get an underline there.
const WGSL_RESERVED: &[&str] =
    &["active", "common", "filter", "final", "get", "pass", "ref", "sample", "set", "target"];

fn declares(tokens: &[Token], at: usize) -> bool {
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) => Some(word.as_str()),
        _ => None,
    };
    word(at) == Some("const") || (word(at).and_then(Scalar::named).is_some() && word(at + 1).is_some())
}

fn bracketed(sizes: &[String]) -> String {
    sizes.iter().map(|size| format!("[{size}]")).collect()
}

fn arrays(element: &str, sizes: &[String]) -> String {
    sizes.iter().rev().fold(element.to_owned(), |inner, size| format!("array<{inner}, {size}>"))
}

/// What stands in front of every text: names that a dialect lacks, and those of [`FUNCTIONS`] that `called` needs.
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

/// Names that CUDA C has otherwise than OpenCL C.
const CUDA: &str = "typedef unsigned int uint;\ntypedef unsigned long long ulong_;\n";
/// Conversions of 16-bit floats, in the instructions that every supported chip has.
const CUDA_HALF: &str = "static __device__ __forceinline__ float half_float(unsigned short bits) {\n  float value;\n  \
     asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(value) : \"h\"(bits));\n  return value;\n}\n\
     static __device__ __forceinline__ unsigned short float_half(float value) {\n  unsigned short bits;\n  \
     asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(bits) : \"f\"(value));\n  return bits;\n}\n";

/// Functions in the kernel language that kernels call.
const FUNCTIONS: &str = include_str!("sources/functions.c");

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

/// The functions of [`FUNCTIONS`], each written as `type name(type a, …) {`, its body, and `}` on a line of its own.
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
        let mut emitter = Emitter {
            dialect,
            source: &source,
            out: String::new(),
            local: String::new(),
            called: HashSet::new(),
            depth: 1,
        };
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
