//! Operators that pick elements by indexes that are known only in the run.
//! A kernel touches no memory but the input's: in place of an index outside, it takes the nearest
//! index inside, and says so in the run's word of faults, so that the run fails.
//! Indexes that are known when compiling are checked then, and cost nothing in the run.

use hetero_hal::DType;

use crate::draft::{Draft, Drafts, FAULT, Operand};
use crate::language::Scalar;
use crate::site::{Answer, Output, Site, strides};

const ITEMS: u32 = 64;

/// Returns the type as which elements are moved.
fn moved(dtype: DType, long: bool) -> Answer<DType> {
    Ok(match dtype.bits() {
        8 => DType::U8,
        16 => DType::U16,
        32 => DType::U32,
        64 if long => DType::U64,
        bits => return Err(format!("kernels do not gather elements of {bits} bits on this device")),
    })
}

fn indexes(site: &Site<'_>, index: usize) -> Answer<()> {
    match Scalar::of(site.need(index)?.dtype) {
        Some(Scalar::Int | Scalar::Long) => Ok(()),
        _ => Err(format!("indexes of type {}", site.need(index)?.dtype)),
    }
}

/// Tells whether the indexes, which pick from dimensions of these sizes in turn, have to be checked
/// in the run.
///
/// # Errors
/// The reason why the node has no kernel, where an index that is known lies outside.
fn checked(site: &Site<'_>, sizes: &[usize]) -> Answer<bool> {
    let Some(content) = site.constant(1) else { return Ok(true) };
    let list = content.to_i64_vec().map_err(|error| error.to_string())?;
    let outside = list.iter().zip(sizes.iter().cycle()).find(|&(&index, &size)| {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        index < -size || index >= size
    });
    outside.map_or(Ok(false), |(index, size)| Err(format!("index {index} is outside a dimension of size {size}")))
}

/// Returns statements that make `name` the index at an expression, counted from the front and
/// within bounds.
fn index(name: &str, at: &str, size: &str, dtype: DType, checked: bool) -> String {
    let (ty, suffix) = if dtype == DType::I64 { ("long", "long") } else { ("int", "int") };
    let given = format!("const {ty} {name}_i = LOAD(i, {at});\nconst {ty} {name}_n = to_{ty}({size});\n");
    let check = format!("if ({name}_i < -{name}_n || {name}_i >= {name}_n) {{\nSTORE(fault, 0u, {FAULT});\n}}\n");
    given
        + if checked { &check } else { "" }
        + &format!(
            "int {name} = to_int(min2_{suffix}(max2_{suffix}({name}_i, -{name}_n), {name}_n - to_{ty}(1)));\n\
             if ({name} < 0) {{\n{name} = {name} + to_int({size});\n}}\n"
        )
}

fn draft(site: Site<'_>, output: Output<'_>, family: &'static str, inner: &str, checked: bool) -> Answer<Draft> {
    let (value, elements) = (site.need(0)?, output.value.elements());
    let unit = moved(value.dtype, site.target.long)?;
    let body = format!("const uint o = LINEAR;\nif (o < n) {{\n{inner}}}\n");
    let draft = Draft::new(family, body).number("n", elements).line(elements, ITEMS, site.target.groups).read(
        "x",
        unit,
        value.elements(),
        Operand::Value(site.id(0).ok_or("its input is missing")?),
    );
    let draft = site.reads(draft, "i", 1)?;
    let draft = draft.write("y", unit, elements, Operand::Value(output.id));
    let what = || format!("an index is outside its dimension of {:?}", value.shape);
    Ok(if checked { draft.faults(what()) } else { draft })
}

pub(super) fn gather(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    indexes(&site, 1)?;
    let shape = &site.need(0)?.shape;
    let at = site.axis("axis", 0, shape.len())?;
    let inner: usize = shape[at + 1..].iter().product();
    let count = site.need(1)?.elements();
    let checked = checked(&site, &shape[at..=at])?;
    let text = index("k", "(o / inner) % count", "size", site.need(1)?.dtype, checked)
        + "STORE(y, o, LOAD(x, (o / inner / count * size + to_uint(k)) * inner + o % inner));\n";
    let draft = draft(site, output, "gather", &text, checked)?;
    Ok(Drafts::of(draft.number("inner", inner).number("count", count).number("size", shape[at])))
}

pub(super) fn elements(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    indexes(&site, 1)?;
    let shape = &site.need(0)?.shape;
    let at = site.axis("axis", 0, shape.len())?;
    let own = strides(shape);
    let terms: Vec<(usize, usize)> = output
        .value
        .shape
        .iter()
        .zip(&own)
        .enumerate()
        .map(|(number, (&size, &stride))| (size, if number == at { 0 } else { stride }))
        .collect();
    let mut numbers = Vec::new();
    let rest = crate::site::indexed("x", "o", &terms, &mut numbers);
    let checked = checked(&site, &shape[at..=at])?;
    let text = index("k", "o", "size", site.need(1)?.dtype, checked)
        + &format!("STORE(y, o, LOAD(x, {rest} + to_uint(k) * step));\n");
    let mut draft =
        draft(site, output, "gather_elements", &text, checked)?.number("size", shape[at]).number("step", own[at]);
    draft.numbers.extend(numbers);
    Ok(Drafts::of(draft))
}

pub(super) fn nd(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    indexes(&site, 1)?;
    let (shape, list) = (&site.need(0)?.shape, &site.need(1)?.shape);
    let batch = usize::try_from(site.int("batch_dims", 0)?).map_err(|_| "negative batch_dims".to_owned())?;
    let depth = *list.last().ok_or("its indexes have no dimension")?;
    if batch + depth > shape.len() || list.len() <= batch {
        return Err("its indexes do not fit its input".to_owned());
    }
    let checked = checked(&site, &shape[batch..batch + depth])?;
    let own = strides(shape);
    let inner: usize = shape[batch + depth..].iter().product();
    let per: usize = list[batch..list.len() - 1].iter().product();
    let mut text = String::from("const uint tuple = o / inner;\nuint at = tuple / per * block + o % inner;\n");
    let mut numbers = vec![];
    for axis in 0..depth {
        let (name, at) = (format!("k{axis}"), format!("tuple * depth + {axis}u"));
        text += &index(&name, &at, &format!("m{axis}"), site.need(1)?.dtype, checked);
        text += &format!("at = at + to_uint(k{axis}) * s{axis};\n");
        numbers.push((format!("m{axis}"), shape[batch + axis]));
        numbers.push((format!("s{axis}"), own[batch + axis]));
    }
    text += "STORE(y, o, LOAD(x, at));\n";
    let block: usize = shape[batch..].iter().product();
    let mut draft = draft(site, output, "gather_tuples", &text, checked)?
        .number("inner", inner)
        .number("per", per)
        .number("block", block)
        .number("depth", depth);
    for (name, number) in numbers {
        draft = draft.number(name, number);
    }
    Ok(Drafts::of(draft))
}

pub(super) fn one_hot(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let list = site.need(0)?;
    let scalar = Scalar::of(list.dtype).ok_or("indexes of this type")?;
    let values = site.need(2)?;
    let unit = moved(values.dtype, site.target.long)?;
    let shape = &output.value.shape;
    let at = site.axis("axis", -1, shape.len())?;
    let inner: usize = shape[at + 1..].iter().product();
    if scalar == Scalar::Bool {
        return Err("indexes of booleans".to_owned());
    }
    // Indexes are compared as they are, because a narrower type would make others of them.
    let ty = scalar.name();
    let signed = matches!(scalar, Scalar::Int | Scalar::Long | Scalar::Float);
    let back = format!("if (k < to_{ty}(0)) {{\nk = k + to_{ty}(size);\n}}\n");
    let found = format!("{ty} k = LOAD(i, place);\n{}", if signed { &back } else { "" });
    let body = format!(
        "const uint o = LINEAR;\nif (o < n) {{\nconst uint place = o / inner / size * inner + o % inner;\n{found}\
         const uint which = pick(k == to_{ty}((o / inner) % size), 1u, 0u);\nSTORE(y, o, LOAD(v, which));\n}}\n"
    );
    let elements = output.value.elements();
    let draft = Draft::new("one_hot", body)
        .number("n", elements)
        .number("inner", inner)
        .number("size", shape[at])
        .line(elements, ITEMS, site.target.groups);
    let draft = site.reads(draft, "i", 0)?;
    let draft = draft.read("v", unit, values.elements(), Operand::Value(site.id(2).ok_or("its values are missing")?));
    Ok(Drafts::of(draft.write("y", unit, elements, Operand::Value(output.id))))
}
