//! Reductions along axes: sums, extremes and their positions, soft maxima, and running sums.

use hetero_hal::DType;

use crate::draft::{Draft, Drafts, Operand};
use crate::language::{Number, Scalar};
use crate::site::{Answer, Output, Site, axis, indexed, strides};

/// The number of work items that reduce together, where there is work for them; a power of two.
const GROUP: usize = 64;

/// The dimensions that are kept and those that are reduced: each with its size and stride.
struct Axes {
    kept: Vec<(usize, usize)>,
    reduced: Vec<(usize, usize)>,
    results: usize,
    length: usize,
}

impl Axes {
    fn new(shape: &[usize], axes: &[usize]) -> Axes {
        let own = strides(shape);
        let mut kept: Vec<(usize, usize)> = Vec::new();
        let mut reduced: Vec<(usize, usize)> = Vec::new();
        for (at, (&size, &stride)) in shape.iter().zip(&own).enumerate() {
            let list = if axes.contains(&at) { &mut reduced } else { &mut kept };
            match list.last_mut() {
                _ if size == 1 => {}
                Some((before, outer)) if *outer == stride * size => (*before, *outer) = (*before * size, stride),
                _ => list.push((size, stride)),
            }
        }
        let product = |list: &[(usize, usize)]| list.iter().map(|&(size, _)| size).product();
        Axes { results: product(&kept), length: product(&reduced), kept, reduced }
    }

    /// Returns the two parts of the index of element `k` of result `r`.
    fn index(&self, numbers: &mut Vec<(String, Number, u32)>) -> (String, String) {
        (indexed("a", "r", &self.kept, numbers), indexed("b", "k", &self.reduced, numbers))
    }

    /// Returns the number of work items for each result.
    fn items(&self) -> usize {
        if self.length >= GROUP { GROUP } else { 1 }
    }

    /// Gives each result [`Axes::items`] work items; where that is one item, a group does many
    /// results.
    fn spread(&self, draft: Draft, longest: u32) -> Draft {
        match self.items() {
            1 => draft.line(self.results, 64, longest),
            items => {
                let draft = draft.line(self.results * items, items as u32, longest);
                draft.flag("GROUPED", true)
            }
        }
    }
}

fn axes_of(site: &Site<'_>, rank: usize) -> Answer<Vec<usize>> {
    let listed = match site.ints("axes")? {
        Some(axes) => Some(axes.to_vec()),
        None => site.numbers(1)?,
    };
    match listed {
        Some(axes) if !axes.is_empty() => axes.into_iter().map(|at| axis(at, rank)).collect(),
        _ if site.int("noop_with_empty_axes", 0)? != 0 => Ok(vec![]),
        _ => Ok((0..rank).collect()),
    }
}

/// The code of a reduction: its first value, what it does with an element `e`, how it joins `s`
/// with `t`, and its last step.
struct Rule {
    begin: String,
    element: String,
    join: String,
    end: String,
}

fn rule(name: &str, scalar: Scalar) -> Answer<Rule> {
    let ending = |function: &str| match scalar {
        Scalar::Float => function.to_owned(),
        other => format!("{function}_{}", other.name()),
    };
    let (zero, one) = match scalar {
        Scalar::Float => ("0.0f", "1.0f"),
        Scalar::Uint => ("0u", "1u"),
        Scalar::Long => ("to_long(0)", "to_long(1)"),
        Scalar::Ulong => ("to_ulong(0u)", "to_ulong(1u)"),
        _ => ("0", "1"),
    };
    let sum = |element: &str, end: &str| Rule {
        begin: zero.to_owned(),
        element: format!("s + {element}"),
        join: "s + t".to_owned(),
        end: end.to_owned(),
    };
    // An extreme begins with the first element, because not every type has a least number.
    let extreme = |function: &str| Rule {
        begin: "first".to_owned(),
        element: format!("{}(s, e)", ending(function)),
        join: format!("{}(s, t)", ending(function)),
        end: "s".to_owned(),
    };
    let float = scalar == Scalar::Float;
    Ok(match name {
        "ReduceSum" => sum("e", "s"),
        "ReduceMean" if float => sum("e", "s / to_float(length)"),
        "ReduceSumSquare" => sum("e * e", "s"),
        "ReduceL1" if float => sum("abs_float(e)", "s"),
        "ReduceL2" if float => sum("e * e", "sqrt(s)"),
        "ReduceLogSum" if float => sum("e", "log(s)"),
        "ReduceMax" => extreme("max2"),
        "ReduceMin" => extreme("min2"),
        "ReduceProd" => {
            Rule { begin: one.to_owned(), element: "s * e".to_owned(), join: "s * t".to_owned(), end: "s".to_owned() }
        }
        _ => return Err(format!("{name} on {}", scalar.name())),
    })
}

fn launch(site: Site<'_>, output: Output<'_>, axes: &Axes, rule: &Rule) -> Answer<Drafts> {
    let value = site.need(0)?;
    let scalar = Scalar::of(value.dtype).ok_or_else(|| format!("kernels do not compute on {}", value.dtype))?;
    if scalar == Scalar::Bool || (output.tail.is_some() && scalar != Scalar::Float) {
        return Err(format!("a reduction of {}", value.dtype));
    }
    let mut numbers = Vec::new();
    let (outer, inner) = axes.index(&mut numbers);
    let body = include_str!("../sources/reduce.c")
        .replace("$T", scalar.name())
        .replace("$OUTER", &outer)
        .replace("$INNER", &inner)
        .replace("$BEGIN", &rule.begin)
        .replace("$ELEMENT", &rule.element)
        .replace("$JOIN", &rule.join)
        .replace("$END", &rule.end);
    // A result of another type than float is stored as it is, without a tail.
    let body = if scalar == Scalar::Float { body } else { body.replace("RESULT(", "STORE(y, ") };
    let draft = Draft::new("reduce", body).constant("ITEMS", axes.items());
    let draft = axes.spread(draft, site.target.groups).number("results", axes.results).number("length", axes.length);
    let mut draft = site.reads(draft, "x", 0)?;
    draft.numbers.extend(numbers);
    Ok(Drafts::of(output.attach(draft)))
}

pub(super) fn reduce(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let value = site.need(0)?;
    let axes = axes_of(&site, value.shape.len())?;
    let name = &*site.node.operator.name;
    let scalar = Scalar::of(value.dtype).ok_or_else(|| format!("kernels do not compute on {}", value.dtype))?;
    let axes = Axes::new(&value.shape, &axes);
    if name == "ReduceLogSumExp" {
        return exponentials(site, output, &axes);
    }
    launch(site, output, &axes, &rule(name, scalar)?)
}

/// Computes log(sum(exp(x))), relative to the largest element.
fn exponentials(site: Site<'_>, output: Output<'_>, axes: &Axes) -> Answer<Drafts> {
    site.floats(&[0])?;
    rows(site, output, axes, "SUM")
}

/// Reduces all spatial dimensions to one element.
pub(super) fn global(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let value = site.need(0)?;
    site.floats(&[0])?;
    if value.shape.len() < 3 {
        return Err("it has no spatial dimension".to_owned());
    }
    let axes: Vec<usize> = (2..value.shape.len()).collect();
    let axes = Axes::new(&value.shape, &axes);
    match &*site.node.operator.name {
        "GlobalAveragePool" => launch(site, output, &axes, &rule("ReduceMean", Scalar::Float)?),
        "GlobalMaxPool" => launch(site, output, &axes, &rule("ReduceMax", Scalar::Float)?),
        _ => {
            let p = site.int("p", 2)?;
            let rule = match p {
                1 => rule("ReduceL1", Scalar::Float)?,
                2 => rule("ReduceL2", Scalar::Float)?,
                p => Rule {
                    begin: "0.0f".to_owned(),
                    element: format!("s + power(abs_float(e), {p}.0f)"),
                    join: "s + t".to_owned(),
                    end: format!("power(s, 1.0f / {p}.0f)"),
                },
            };
            launch(site, output, &axes, &rule)
        }
    }
}

pub(super) fn arg(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let value = site.need(0)?;
    let scalar = Scalar::of(value.dtype).ok_or_else(|| format!("kernels do not compute on {}", value.dtype))?;
    if scalar == Scalar::Bool || value.shape.is_empty() {
        return Err(format!("the largest of {}", value.dtype));
    }
    let at = site.axis("axis", 0, value.shape.len())?;
    let largest = &*site.node.operator.name == "ArgMax";
    let last = site.int("select_last_index", 0)? != 0;
    let inner: usize = value.shape[at + 1..].iter().product();
    let compare = match (largest, last) {
        (true, false) => "e > s",
        (true, true) => "e >= s",
        (false, false) => "e < s",
        (false, true) => "e <= s",
    };
    // NaN is both the largest and the smallest number, as in NumPy.
    let compare = match (scalar, last) {
        (Scalar::Float, false) => format!("({compare} && !is_nan(s)) || (is_nan(e) && !is_nan(s))"),
        (Scalar::Float, true) => format!("{compare} || is_nan(e)"),
        _ => compare.to_owned(),
    };
    let results = output.value.elements();
    let body = format!(
        "const uint o = LINEAR;\nif (o < n) {{\nconst uint base = o / inner * inner * size + o % inner;\n\
         {0} s = LOAD(x, base);\nuint found = 0u;\nfor (uint k = 1u; k < size; k += 1u) {{\n\
         const {0} e = LOAD(x, base + k * inner);\nif ({compare}) {{\ns = e;\nfound = k;\n}}\n}}\n\
         STORE(y, o, to_long(found));\n}}\n",
        scalar.name()
    );
    let draft = Draft::new("arg", body)
        .number("n", results)
        .number("inner", inner)
        .number("size", value.shape[at])
        .line(results, 64, site.target.groups);
    let draft = site.reads(draft, "x", 0)?;
    Ok(Drafts::of(draft.write("y", DType::I64, results, Operand::Value(output.id))))
}

pub(super) fn softmax(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0])?;
    let shape = &site.need(0)?.shape;
    let logarithm = &*site.node.operator.name == "LogSoftmax";
    // Before version 13 of the operator set, everything from the axis on is one row.
    let axes: Vec<usize> = if site.operator().version < 13 {
        (site.axis("axis", 1, shape.len())?..shape.len()).collect()
    } else {
        vec![site.axis("axis", -1, shape.len())?]
    };
    rows(site, output, &Axes::new(shape, &axes), if logarithm { "LOG" } else { "EXP" })
}

/// Computes the exponentials of rows relative to their largest elements, and their sum; the flag
/// `what` says which result is stored.
fn rows(site: Site<'_>, output: Output<'_>, axes: &Axes, what: &'static str) -> Answer<Drafts> {
    let mut numbers = Vec::new();
    let (outer, inner) = axes.index(&mut numbers);
    let body = include_str!("../sources/softmax.c").replace("$OUTER", &outer).replace("$INNER", &inner);
    let draft = Draft::new("softmax", body).constant("ITEMS", axes.items()).flag(what, true);
    let draft = axes.spread(draft, site.target.groups).number("results", axes.results).number("length", axes.length);
    let mut draft = site.reads(draft, "x", 0)?;
    draft.numbers.extend(numbers);
    let (id, value) = (output.id, output.value);
    Ok(Drafts::of(draft.write("y", value.dtype, value.elements(), Operand::Value(id))))
}

pub(super) fn cumulative(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let value = site.need(0)?;
    let scalar = Scalar::of(value.dtype).ok_or_else(|| format!("kernels do not compute on {}", value.dtype))?;
    if scalar == Scalar::Bool {
        return Err("a sum of booleans".to_owned());
    }
    let at = site.numbers(1)?.and_then(|axes| axes.first().copied()).ok_or("its axis is missing")?;
    let at = axis(at, value.shape.len())?;
    let inner: usize = value.shape[at + 1..].iter().product();
    let size = value.shape[at];
    let (exclusive, reverse) = (site.int("exclusive", 0)? != 0, site.int("reverse", 0)? != 0);
    let place = if reverse { "size - 1u - k" } else { "k" };
    let (before, after) = if exclusive { ("STORE(y, at, s);\n", "") } else { ("", "STORE(y, at, s);\n") };
    let body = format!(
        "const uint o = LINEAR;\nif (o < n) {{\nconst uint base = o / inner * inner * size + o % inner;\n\
         {0} s = to_{0}(0);\nfor (uint k = 0u; k < size; k += 1u) {{\nconst uint at = base + ({place}) * inner;\n\
         {before}s = s + LOAD(x, at);\n{after}}}\n}}\n",
        scalar.name()
    );
    let lines = value.elements() / size.max(1);
    let draft = Draft::new("cumulative", body).number("n", lines).number("inner", inner).number("size", size).line(
        lines,
        64,
        site.target.groups,
    );
    let draft = site.reads(draft, "x", 0)?;
    Ok(Drafts::of(draft.write("y", value.dtype, value.elements(), Operand::Value(output.id))))
}
