//! The translation of tokens into a dialect: declarations, calls and builtins are spelled anew, all
//! else stays.

use std::collections::HashSet;

use hetero_hal::{DType, Result};

use super::buffers::packed;
use super::tokens::Token;
use super::{Dialect, Port, Scalar, Source, malformed};

/// The state of a translation, token by token.
pub(super) struct Emitter<'a> {
    dialect: Dialect,
    source: &'a Source,
    pub(super) out: String,
    /// The declarations of WGSL's work group memory, which stand outside the function.
    pub(super) local: String,
    /// The functions that the text calls.
    pub(super) called: HashSet<String>,
    depth: usize,
}

impl<'a> Emitter<'a> {
    pub(super) fn new(dialect: Dialect, source: &'a Source) -> Self {
        let (out, local) = (String::new(), String::new());
        Emitter { dialect, source, out, local, called: HashSet::new(), depth: 1 }
    }

    fn wgsl(&self) -> bool {
        self.dialect == Dialect::Wgsl
    }

    fn push(&mut self, text: &str) {
        self.out += text;
    }

    /// Translates statements.
    pub(super) fn block(&mut self, tokens: &[Token]) -> Result<()> {
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
                    // The next token is the parenthesis; a declaration may follow it.
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

    /// Returns the sizes of an array, and the position behind them.
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

    /// Translates a declaration up to its initial value.
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

    /// Translates an expression, an assignment or a call, but no declaration.
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
                        // A sign before a number or name needs no space, but a space does no harm
                        // either.
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
            (reserved, _) if RESERVED.contains(&reserved) => return format!("{reserved}_"),
            _ => word,
        };
        builtin.to_owned()
    }

    /// Returns the translated arguments of a call whose parenthesis is at `open`, and the position
    /// behind them.
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
            "if" => format!("{name} ({}) ", text(0)?),
            "return" => format!("return ({})", text(0)?),
            _ => {
                if let Some(scalar) = name.strip_prefix("to_").and_then(Scalar::named) {
                    return Ok(if wgsl {
                        format!("{}({})", scalar.spelled(self.dialect), text(0)?)
                    } else {
                        format!("(({})({}))", scalar.spelled(self.dialect), text(0)?)
                    });
                }
                let known = if wgsl { WGSL_NAMES } else { C_NAMES };
                let spelled = known.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| *theirs);
                if spelled == name {
                    self.called.insert(name.to_owned());
                }
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

/// Functions of the kernel language that have another name in a dialect.
const C_NAMES: &[(&str, &str)] = &[
    ("abs_float", "fabs"),
    ("acos_", "acos"),
    ("asin_", "asin"),
    ("atan_", "atan"),
    ("cos_", "cos"),
    ("remainder_", "fmod"),
    ("round_even", "rint"),
    ("sin_", "sin"),
    ("tan_", "tan"),
];
const WGSL_NAMES: &[(&str, &str)] = &[("abs_float", "abs"), ("round_even", "round")];

/// Names of variables that are reserved in one of the dialects or by a vendor's compiler
/// (`channel`: Intel's for FPGAs).
/// They get an underscore.
const RESERVED: &[&str] = &[
    "active", "channel", "common", "constant", "filter", "final", "generic", "get", "global", "kernel", "local",
    "pass", "pipe", "private", "ref", "register", "sample", "set", "target", "uniform",
];

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
