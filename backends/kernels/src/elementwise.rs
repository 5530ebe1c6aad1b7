//! Element-wise operators: expressions that are put together into one kernel, or behind another
//! kernel's result.

use std::collections::HashMap;

use hetero_hal::{DType, Node, ProgramValue, Tensor, ValueId};

use crate::draft::{Argument, Draft, Drafts, Operand, Store};
use crate::fold::Affine;
use crate::language::{Number, Scalar};
use crate::site::{Answer, Output, Site, Tail, broadcast, reading};

mod joined;

pub(crate) use joined::joined;

/// The work items of a group of an element-wise kernel.
const ITEMS: u32 = 64;

/// Tells whether the node's operator computes each element of its first output from the elements at
/// the same place of its inputs.
pub(crate) fn is(node: &Node) -> bool {
    let single = node.outputs.iter().skip(1).all(Option::is_none);
    single
        && NAMES.contains(&&*node.operator.name)
        && node.operator.domain.is_empty()
        && !(joins(node) && node.inputs.len() > MOST_OPERANDS)
}

/// The largest number of operands that one kernel joins.
const MOST_OPERANDS: usize = 16;

/// Tells whether the node's operator joins any number of operands, two by two.
pub(crate) fn joins(node: &Node) -> bool {
    node.operator.domain.is_empty() && matches!(&*node.operator.name, "Sum" | "Mean" | "Max" | "Min")
}

const NAMES: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BatchNormalization",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Div",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Where",
    "Xor",
];

/// The state of putting the expressions of nodes together.
struct Chain<'a> {
    site: Site<'a>,
    /// The shape of the result.
    shape: &'a [usize],
    statements: String,
    /// The name and type of each value that has been read or computed.
    names: HashMap<ValueId, (String, Scalar)>,
    tail: Tail,
    /// A counter that makes names unique.
    count: usize,
}

/// The operands and numbers of which one node's expression is made.
struct Operands<'a, 'b> {
    site: Site<'a>,
    list: Vec<Option<(String, Scalar)>>,
    numbers: &'b mut Vec<(String, Number, u32)>,
    prefix: String,
}

/// Returns the statements of nodes, in order, the last of which gives the result.
/// `base` is a value that another kernel has computed, as `v0`.
pub(crate) fn chain(site: Site<'_>, nodes: &[&Node], base: Option<ValueId>) -> Answer<Tail> {
    let last = nodes.last().ok_or("no nodes")?;
    let output = last.outputs.first().copied().flatten().ok_or("it has no output")?;
    let shape = &site.value(output).ok_or("it has no output")?.shape;
    let tail =
        Tail { store: Store { statements: String::new(), value: String::new() }, arguments: vec![], numbers: vec![] };
    let mut chain = Chain { site, shape, statements: String::new(), names: HashMap::new(), tail, count: 0 };
    if let Some(base) = base {
        let value = site.value(base).ok_or("it has no such value")?;
        let name = chain.rounded("v0".to_owned(), value.dtype);
        chain.names.insert(base, (name, Scalar::Float));
    }
    for node in nodes {
        chain.node(node, output)?;
    }
    let (value, _) = chain.names.get(&output).cloned().ok_or("it has no output")?;
    chain.tail.store = Store { statements: chain.statements, value };
    Ok(chain.tail)
}

/// Makes a kernel of its own of element-wise nodes.
pub(crate) fn kernel(site: Site<'_>, nodes: &[&Node], output: Output<'_>) -> Answer<Drafts> {
    let Tail { store, arguments, numbers } = chain(site, nodes, None)?;
    let count = output.value.elements();
    let body =
        format!("const uint o = LINEAR;\nif (o < n) {{\n{}STORE(y, o, {});\n}}\n", store.statements, store.value);
    let mut draft = Draft::new("elementwise", body).number("n", count).line(count, ITEMS, site.target.groups);
    draft.arguments = arguments;
    draft.numbers.extend(numbers);
    Ok(Drafts::of(draft.write("y", output.value.dtype, count, Operand::Value(output.id))))
}

impl Chain<'_> {
    /// Returns the name of a value at the index `o`, and reads the value where it is not computed
    /// here.
    fn operand(&mut self, id: ValueId, shape: &[usize]) -> Answer<(String, Scalar)> {
        if let Some(known) = self.names.get(&id) {
            return Ok(known.clone());
        }
        let value = self.site.value(id).ok_or("it has no such value")?;
        let scalar = Scalar::of(value.dtype).ok_or_else(|| format!("kernels do not compute on {}", value.dtype))?;
        let name = format!("in{}", self.tail.arguments.len() + self.tail.numbers.len());
        // The launch carries a number that is known.
        if let Some(content) = value.constant.as_ref().filter(|content| content.len() == 1)
            && let Some((number, bits)) = literal(scalar, content)
        {
            self.tail.numbers.push((name.clone(), number, bits));
            self.names.insert(id, (name.clone(), scalar));
            return Ok((name, scalar));
        }
        let index = broadcast(&name, "o", shape, self.shape, &mut self.tail.numbers);
        self.tail.arguments.push(reading(name.clone(), id, value));
        let local = format!("{name}_v");
        self.statements += &format!("const {} {local} = LOAD({name}, {index});\n", scalar.name());
        self.names.insert(id, (local.clone(), scalar));
        Ok((local, scalar))
    }

    /// Returns the name of a computed float as a value of its type, which may be narrower than the
    /// type that kernels compute in.
    /// What a kernel stores is rounded there, so this is for values that the same kernel goes on
    /// with: a `Cast` to such a type is there to round.
    fn rounded(&mut self, name: String, dtype: DType) -> String {
        let round = match dtype {
            DType::F16 => "to_half",
            DType::BF16 => "to_bfloat",
            _ => return name,
        };
        let rounded = format!("{name}_r");
        self.statements += &format!("const float {rounded} = {round}({name});\n");
        rounded
    }

    /// Adds a multiplication and an addition for each channel.
    fn affine(
        &mut self,
        affine: &Affine,
        x: ValueId,
        (output, result): (ValueId, &ProgramValue),
        last: ValueId,
    ) -> Answer<()> {
        let value = self.site.value(x).ok_or("it has no such value")?;
        let (x, _) = self.operand(x, &value.shape)?;
        self.count += 1;
        let name = format!("v{}", self.count);
        let shape = per_channel(vec![affine.factors.len()], result);
        let mut read = |what: &str, numbers: &[f32]| -> Answer<String> {
            let table = format!("{name}_{what}");
            let index = broadcast(&table, "o", &shape, self.shape, &mut self.tail.numbers);
            let content = Tensor::from_vec(&[numbers.len()], numbers.to_vec()).map_err(|error| error.to_string())?;
            self.tail.arguments.push(Argument::holding(table.clone(), content));
            Ok(format!("LOAD({table}, {index})"))
        };
        let (factor, term) = (read("factor", &affine.factors)?, read("term", &affine.terms)?);
        self.statements += &format!("const float {name} = {x} * {factor} + {term};\n");
        let name = if output == last { name } else { self.rounded(name, result.dtype) };
        self.names.insert(output, (name, Scalar::Float));
        Ok(())
    }

    /// Adds a node; `last` is the value that the kernel stores.
    fn node(&mut self, node: &Node, last: ValueId) -> Answer<()> {
        let site = Site { node, ..self.site };
        let output = site.output_id(0).ok_or("it has no output")?;
        let result = site.result()?;
        let scalar = Scalar::of(result.dtype).ok_or_else(|| format!("kernels do not compute on {}", result.dtype))?;
        if let (Some(affine), Scalar::Float, Some(x)) = (Affine::of(site), scalar, site.id(0)) {
            return self.affine(&affine, x, (output, result), last);
        }
        let mut list = Vec::new();
        for (index, id) in node.inputs.iter().enumerate() {
            let unused = &*node.operator.name == "CastLike" && index == 1;
            let Some(id) = id.filter(|_| !unused) else {
                list.push(None);
                continue;
            };
            let value = site.value(id).ok_or("it has no such value")?;
            let mut shape = value.shape.clone();
            if &*node.operator.name == "BatchNormalization" && index > 0 {
                shape = per_channel(shape, result);
            }
            list.push(Some(self.operand(id, &shape)?));
        }
        self.count += 1;
        let prefix = format!("k{}", self.count);
        let mut operands = Operands { site, list, numbers: &mut self.tail.numbers, prefix };
        let text = operands.expression(scalar)?;
        let text = narrowed(&text, result.dtype);
        let name = format!("v{}", self.count);
        self.statements += &format!("const {} {name} = {text};\n", scalar.name());
        let name = if output == last { name } else { self.rounded(name, result.dtype) };
        self.names.insert(output, (name, scalar));
        Ok(())
    }
}

/// Returns the shape in which one number for each channel is repeated over a result.
fn per_channel(mut shape: Vec<usize>, result: &ProgramValue) -> Vec<usize> {
    shape.extend(std::iter::repeat_n(1, result.shape.len().saturating_sub(2)));
    shape
}

/// Returns a known number, where a launch can carry it.
fn literal(scalar: Scalar, content: &hetero_hal::Tensor) -> Option<(Number, u32)> {
    match scalar {
        Scalar::Float if content.dtype() == DType::F32 => {
            content.view::<f32>().ok()?.first().map(|value| (Number::Float, value.to_bits()))
        }
        Scalar::Int => content.to_i64_vec().ok()?.first().map(|&value| (Number::Int, value as i32 as u32)),
        Scalar::Uint => content.to_i64_vec().ok()?.first().map(|&value| (Number::Uint, value as u32)),
        _ => None,
    }
}

/// Narrows a result to a type that is narrower than the type it is computed in.
fn narrowed(text: &str, dtype: DType) -> String {
    match dtype {
        DType::I8 => format!("(({text}) << 24u) >> 24u"),
        DType::I16 => format!("(({text}) << 16u) >> 16u"),
        DType::U8 => format!("({text}) & 255u"),
        DType::U16 => format!("({text}) & 65535u"),
        _ => text.to_owned(),
    }
}

impl Operands<'_, '_> {
    fn at(&self, index: usize) -> Answer<&str> {
        self.there(index).ok_or_else(|| format!("its input {index} is missing"))
    }

    fn there(&self, index: usize) -> Option<&str> {
        self.list.get(index)?.as_ref().map(|(name, _)| name.as_str())
    }

    fn scalar(&self) -> Answer<Scalar> {
        self.list
            .first()
            .and_then(Option::as_ref)
            .map(|(_, scalar)| *scalar)
            .ok_or_else(|| "an input is missing".to_owned())
    }

    /// Returns an attribute as a number of the launch.
    fn attribute(&mut self, name: &str, default: f32) -> Answer<String> {
        let value = self.site.float(name, default)?;
        Ok(self.given(name, value))
    }

    fn given(&mut self, name: &str, value: f32) -> String {
        let name = format!("{}_{name}", self.prefix);
        self.numbers.push((name.clone(), Number::Float, value.to_bits()));
        name
    }

    /// Returns the expression of the node's first output.
    fn expression(&mut self, out: Scalar) -> Answer<String> {
        let name = &*self.site.node.operator.name;
        if let "Cast" | "CastLike" = name {
            return self.cast(out);
        }
        if name == "Where" {
            return Ok(format!("pick({}, {}, {})", self.at(0)?, self.at(1)?, self.at(2)?));
        }
        let scalar = self.scalar()?;
        // Inference lets some operators pass though the standard wants their operands to be of one
        // type.
        let mixed = self.list.iter().flatten().any(|(_, other)| *other != scalar);
        if mixed && name != "Pow" {
            return Err(format!("{name} on operands of different types"));
        }
        if self.list.len() == 1
            && scalar == Scalar::Float
            && let Some(text) = self.unary()?
        {
            return Ok(text);
        }
        let x = self.at(0)?.to_owned();
        Ok(match (name, scalar) {
            ("BatchNormalization", Scalar::Float) => {
                if self.site.int("training_mode", 0)? != 0 {
                    return Err("BatchNormalization in training".to_owned());
                }
                let epsilon = self.attribute("epsilon", 1e-5)?;
                let (scale, bias, mean, variance) = (self.at(1)?, self.at(2)?, self.at(3)?, self.at(4)?);
                format!("({x} - {mean}) * ({scale} / sqrt({variance} + {epsilon})) + {bias}")
            }
            ("Not", Scalar::Bool) => format!("!{x}"),
            ("Neg", Scalar::Int | Scalar::Long) => format!("-{x}"),
            ("Abs", Scalar::Int | Scalar::Long) => {
                let zero = zero(scalar);
                format!("pick({x} < {zero}, -{x}, {x})")
            }
            ("Abs", Scalar::Uint | Scalar::Ulong) => x,
            ("Sign", Scalar::Int | Scalar::Long) => {
                let (zero, one) = (zero(scalar), one(scalar));
                format!("pick({x} > {zero}, {one}, pick({x} < {zero}, -{one}, {zero}))")
            }
            ("Sign", Scalar::Uint | Scalar::Ulong) => format!("pick({x} > {0}, {1}, {0})", zero(scalar), one(scalar)),
            ("Relu", Scalar::Int | Scalar::Long) => format!("pick({x} < {0}, {0}, {x})", zero(scalar)),
            ("BitwiseNot", _) if scalar != Scalar::Float && scalar != Scalar::Bool => format!("~{x}"),
            ("Clip", _) if scalar != Scalar::Bool => self.clip(&x, scalar)?,
            ("Equal", Scalar::Bool) | ("Xor", Scalar::Bool) => {
                format!("{x} {} {}", if name == "Xor" { "!=" } else { "==" }, self.at(1)?)
            }
            ("And" | "Or", Scalar::Bool) => format!("{x} {} {}", if name == "And" { "&&" } else { "||" }, self.at(1)?),
            (_, Scalar::Bool) => return Err(format!("{name} on booleans")),
            ("Add" | "Sum", _) => self.fold(|a, b| format!("({a} + {b})"))?,
            ("Mean", Scalar::Float) => {
                let sum = self.fold(|a, b| format!("({a} + {b})"))?;
                let count = self.list.len() as f32;
                let count = self.given("count", count);
                format!("{sum} / {count}")
            }
            ("Max", _) => self.fold(|a, b| format!("{}({a}, {b})", suffixed("max2", scalar)))?,
            ("Min", _) => self.fold(|a, b| format!("{}({a}, {b})", suffixed("min2", scalar)))?,
            ("Sub", _) => format!("{x} - {}", self.at(1)?),
            ("Mul", _) => format!("{x} * {}", self.at(1)?),
            ("Div", Scalar::Float) => format!("{x} / {}", self.at(1)?),
            // A division by zero has no result, and must not stop the device.
            ("Div", _) => format!("{x} / pick({0} == {1}, {2}, {0})", self.at(1)?, zero(scalar), one(scalar)),
            ("Equal", _) => format!("{x} == {}", self.at(1)?),
            ("Less", _) => format!("{x} < {}", self.at(1)?),
            ("LessOrEqual", _) => format!("{x} <= {}", self.at(1)?),
            ("Greater", _) => format!("{x} > {}", self.at(1)?),
            ("GreaterOrEqual", _) => format!("{x} >= {}", self.at(1)?),
            ("PRelu", Scalar::Float) => format!("pick({x} < 0.0f, {x} * {}, {x})", self.at(1)?),
            ("PRelu", _) => format!("pick({x} < {}, {x} * {}, {x})", zero(scalar), self.at(1)?),
            ("Pow", _) => self.power(&x, scalar)?,
            ("Mod", _) => self.modulo(&x, scalar)?,
            ("BitwiseAnd" | "BitwiseOr" | "BitwiseXor", Scalar::Int | Scalar::Uint | Scalar::Long | Scalar::Ulong) => {
                let sign = match name {
                    "BitwiseAnd" => "&",
                    "BitwiseOr" => "|",
                    _ => "^",
                };
                format!("{x} {sign} {}", self.at(1)?)
            }
            ("BitShift", Scalar::Uint) => {
                let left = self.site.text("direction")? == Some("LEFT");
                // A shift by the width or more leaves nothing.
                format!("pick({0} > 31u, 0u, {x} {1} ({0} & 31u))", self.at(1)?, if left { "<<" } else { ">>" })
            }
            _ => return Err(format!("{name} on {}", scalar.name())),
        })
    }

    /// Joins all inputs, two by two.
    fn fold(&self, join: impl Fn(&str, &str) -> String) -> Answer<String> {
        let mut text = self.at(0)?.to_owned();
        for index in 1..self.list.len() {
            text = join(&text, self.at(index)?);
        }
        Ok(text)
    }

    fn clip(&mut self, x: &str, scalar: Scalar) -> Answer<String> {
        let mut text = x.to_owned();
        for (index, name, function) in [(1, "min", "max2"), (2, "max", "min2")] {
            let limit = match self.there(index) {
                Some(limit) => limit.to_owned(),
                None => match self.site.operator().float(name).map_err(|error| error.to_string())? {
                    Some(value) if scalar == Scalar::Float => self.given(name, value),
                    Some(_) => return Err("limits of integers as attributes".to_owned()),
                    None => continue,
                },
            };
            text = format!("{}({text}, {limit})", suffixed(function, scalar));
        }
        Ok(text)
    }

    fn power(&mut self, x: &str, scalar: Scalar) -> Answer<String> {
        let (y, other) = self.list.get(1).cloned().flatten().ok_or("its input 1 is missing")?;
        let known = self.site.constant(1).filter(|content| content.len() == 1 && content.dtype() == DType::F32);
        let known = known.and_then(|content| content.view::<f32>().ok()?.first().copied());
        Ok(match (scalar, other, known) {
            (Scalar::Float, _, Some(2.0)) => format!("{x} * {x}"),
            (Scalar::Float, _, Some(3.0)) => format!("{x} * {x} * {x}"),
            (Scalar::Float, Scalar::Float, _) => format!("power({x}, {y})"),
            (Scalar::Float, Scalar::Int | Scalar::Uint | Scalar::Long | Scalar::Ulong, _) => {
                format!("power({x}, to_float({y}))")
            }
            (Scalar::Int, Scalar::Int, _) => format!("power_int({x}, {y})"),
            (Scalar::Long, Scalar::Long, _) => format!("power_long({x}, {y})"),
            _ => return Err(format!("Pow of {} to {}", scalar.name(), other.name())),
        })
    }

    fn modulo(&mut self, x: &str, scalar: Scalar) -> Answer<String> {
        let y = self.at(1)?.to_owned();
        let dividend = self.site.int("fmod", 0)? != 0;
        Ok(match (scalar, dividend) {
            (Scalar::Float, true) => format!("remainder_({x}, {y})"),
            (Scalar::Float, false) => format!("modulo({x}, {y})"),
            (Scalar::Int, false) => format!("modulo_int({x}, {y})"),
            (Scalar::Long, false) => format!("modulo_long({x}, {y})"),
            _ => format!("{x} % pick({y} == {0}, {1}, {y})", zero(scalar), one(scalar)),
        })
    }

    fn cast(&mut self, out: Scalar) -> Answer<String> {
        let (x, from) = self.list.first().cloned().flatten().ok_or("its input 0 is missing")?;
        Ok(match (from, out) {
            (a, b) if a == b => x,
            // The bits, because a device may take the least numbers for 0 when it compares.
            (Scalar::Float, Scalar::Bool) => format!("(float_bits({x}) & 0x7fffffffu) != 0u"),
            (_, Scalar::Bool) => format!("{x} != {}", zero(from)),
            // A float that a type does not hold becomes the nearest number that it does.
            (Scalar::Float, _) => match self.site.result()?.dtype {
                DType::I8 => format!("cut_int(max2(min2({x}, 127.0f), -128.0f))"),
                DType::I16 => format!("cut_int(max2(min2({x}, 32767.0f), -32768.0f))"),
                DType::U8 => format!("cut_uint(min2({x}, 255.0f))"),
                DType::U16 => format!("cut_uint(min2({x}, 65535.0f))"),
                _ => format!("cut_{}({x})", out.name()),
            },
            // Some compilers widen by the sign of the wider type.
            (Scalar::Int, Scalar::Ulong) => format!("to_ulong(to_long({x}))"),
            (Scalar::Uint, Scalar::Long) => format!("to_long(to_ulong({x}))"),
            _ => format!("to_{}({x})", out.name()),
        })
    }

    /// Returns the expression of a function of one float, where the operator is one.
    fn unary(&mut self) -> Answer<Option<String>> {
        let x = self.at(0)?.to_owned();
        Ok(Some(match &*self.site.node.operator.name {
            "Relu" => format!("pick({x} < 0.0f, 0.0f, {x})"),
            "Sigmoid" => format!("sigmoid({x})"),
            "Tanh" => format!("tanh_({x})"),
            "Exp" => format!("exp({x})"),
            "Log" => format!("log({x})"),
            "Sqrt" => format!("sqrt({x})"),
            "Neg" => format!("-{x}"),
            "Abs" => format!("abs_float({x})"),
            "Reciprocal" => format!("1.0f / {x}"),
            "Floor" => format!("floor({x})"),
            "Ceil" => format!("ceil({x})"),
            "Round" => format!("round_even({x})"),
            "Sign" => format!("sign_({x})"),
            "Erf" => format!("erf_({x})"),
            "Softplus" => format!("softplus({x})"),
            "Softsign" => format!("{x} / (1.0f + abs_float({x}))"),
            "Mish" => format!("{x} * tanh_(softplus({x}))"),
            "Sin" => format!("sin_({x})"),
            "Cos" => format!("cos_({x})"),
            "Tan" => format!("tan_({x})"),
            "Asin" => format!("asin_({x})"),
            "Acos" => format!("acos_({x})"),
            "Atan" => format!("atan_({x})"),
            "Sinh" => format!("sinh_({x})"),
            "Cosh" => format!("cosh_({x})"),
            "Asinh" => format!("asinh_({x})"),
            "Acosh" => format!("acosh_({x})"),
            "Atanh" => format!("atanh_({x})"),
            "IsNaN" => format!("is_nan({x})"),
            "IsInf" => {
                let (negative, positive) = (self.site.int("detect_negative", 1)?, self.site.int("detect_positive", 1)?);
                match (negative != 0, positive != 0) {
                    (true, true) => format!("is_inf({x})"),
                    (true, false) => format!("is_inf({x}) && {x} < 0.0f"),
                    (false, true) => format!("is_inf({x}) && {x} > 0.0f"),
                    (false, false) => format!("is_inf({x}) && is_nan({x})"),
                }
            }
            "Elu" => format!("pick({x} < 0.0f, {} * expm1_({x}), {x})", self.attribute("alpha", 1.0)?),
            "Celu" => {
                let alpha = self.attribute("alpha", 1.0)?;
                format!("pick({x} < 0.0f, {alpha} * expm1_({x} / {alpha}), {x})")
            }
            "Selu" => {
                let (alpha, gamma) = (self.attribute("alpha", 1.673_263_2)?, self.attribute("gamma", 1.050_701)?);
                format!("{gamma} * pick({x} < 0.0f, {alpha} * expm1_({x}), {x})")
            }
            "LeakyRelu" => format!("pick({x} < 0.0f, {} * {x}, {x})", self.attribute("alpha", 0.01)?),
            "ThresholdedRelu" => format!("pick({x} > {}, {x}, 0.0f)", self.attribute("alpha", 1.0)?),
            "HardSigmoid" => {
                let (alpha, beta) = (self.attribute("alpha", 0.2)?, self.attribute("beta", 0.5)?);
                format!("max2(min2({alpha} * {x} + {beta}, 1.0f), 0.0f)")
            }
            "HardSwish" => format!("{x} * max2(min2({x} / 6.0f + 0.5f, 1.0f), 0.0f)"),
            "Swish" => format!("{x} * sigmoid({} * {x})", self.attribute("alpha", 1.0)?),
            "Shrink" => {
                let (lambd, bias) = (self.attribute("lambd", 0.5)?, self.attribute("bias", 0.0)?);
                format!("pick({x} < -{lambd}, {x} + {bias}, pick({x} > {lambd}, {x} - {bias}, 0.0f))")
            }
            "Gelu" if self.site.text("approximate")? == Some("tanh") => {
                format!("0.5f * {x} * (1.0f + tanh_(0.7978845608f * ({x} + 0.044715f * {x} * {x} * {x})))")
            }
            "Gelu" => format!("0.5f * {x} * (1.0f + erf_({x} * 0.7071067812f))"),
            _ => return Ok(None),
        }))
    }
}

fn zero(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Long => "to_long(0)",
        Scalar::Ulong => "to_ulong(0u)",
        Scalar::Uint => "0u",
        Scalar::Float => "0.0f",
        _ => "0",
    }
}

fn one(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Long => "to_long(1)",
        Scalar::Ulong => "to_ulong(1u)",
        Scalar::Uint => "1u",
        Scalar::Float => "1.0f",
        _ => "1",
    }
}

/// Returns the name of the function for this type; names without an ending are for floats.
fn suffixed(function: &str, scalar: Scalar) -> String {
    if scalar == Scalar::Float { function.to_owned() } else { format!("{function}_{}", scalar.name()) }
}
