//! Operators that move elements and compute nothing: they treat elements of any type as bits.

use hetero_hal::{DType, ProgramValue, ValueId};
use hetero_reference::split_sizes;

use crate::draft::{Draft, Drafts, Operand};
use crate::language::Number;
use crate::site::{Answer, Output, Site, axis, strides};

const ITEMS: u32 = 64;

/// A dimension of a region: its size, and the steps along it in the input and in the output.
/// A step backwards is an unsigned number that wraps.
#[derive(Clone, Copy, Debug)]
struct Span {
    size: usize,
    read: usize,
    write: usize,
}

/// A region of one tensor that becomes a region of another.
struct Region {
    spans: Vec<Span>,
    read_from: usize,
    write_to: usize,
}

/// Returns the type as which elements of a type are moved, and how many units make one element.
fn units(dtype: DType) -> Answer<(DType, usize)> {
    Ok(match dtype.bits() {
        8 => (DType::U8, 1),
        16 => (DType::U16, 1),
        32 => (DType::U32, 1),
        64 => (DType::U32, 2),
        bits => return Err(format!("kernels do not move elements of {bits} bits")),
    })
}

impl Region {
    /// Makes a region of all of a row-major tensor of this shape, read with other steps.
    fn whole(shape: &[usize], read: &[usize]) -> Region {
        let spans =
            shape.iter().zip(read).zip(strides(shape)).map(|((&size, &read), write)| Span { size, read, write });
        Region { spans: spans.collect(), read_from: 0, write_to: 0 }
    }

    /// Makes the launch that moves the region.
    fn draft(
        mut self,
        site: Site<'_>,
        input: (ValueId, &ProgramValue),
        output: (ValueId, &ProgramValue),
    ) -> Answer<Draft> {
        let (unit, count) = units(output.1.dtype)?;
        if count > 1 {
            for span in &mut self.spans {
                (span.read, span.write) = (span.read.wrapping_mul(count), span.write.wrapping_mul(count));
            }
            self.spans.push(Span { size: count, read: 1, write: 1 });
            (self.read_from, self.write_to) = (self.read_from * count, self.write_to * count);
        }
        let mut spans: Vec<Span> = Vec::new();
        for span in self.spans.into_iter().filter(|span| span.size != 1) {
            match spans.last_mut() {
                Some(last)
                    if last.read == span.read.wrapping_mul(span.size)
                        && last.write == span.write.wrapping_mul(span.size) =>
                {
                    *last = Span { size: last.size * span.size, ..span };
                }
                _ => spans.push(span),
            }
        }
        let elements: usize = spans.iter().map(|span| span.size).product();
        let mut numbers = Vec::new();
        let read =
            offset("r", &spans.iter().map(|s| (s.size, s.read)).collect::<Vec<_>>(), self.read_from, &mut numbers);
        let write =
            offset("w", &spans.iter().map(|s| (s.size, s.write)).collect::<Vec<_>>(), self.write_to, &mut numbers);
        let body = format!("const uint o = LINEAR;\nif (o < n) {{\nSTORE(y, {write}, LOAD(x, {read}));\n}}\n");
        let mut draft = Draft::new("move", body)
            .number("n", elements)
            .line(elements, ITEMS, site.target.groups)
            .read("x", unit, input.1.elements() * count, Operand::Value(input.0))
            .write("y", unit, output.1.elements() * count, Operand::Value(output.0));
        draft.numbers.extend(numbers);
        Ok(draft)
    }
}

/// Returns the expression of an offset that begins at `from`.
fn offset(name: &str, terms: &[(usize, usize)], from: usize, numbers: &mut Vec<(String, Number, u32)>) -> String {
    let text = crate::site::indexed(name, "o", terms, numbers);
    if from == 0 {
        return text;
    }
    numbers.push((format!("{name}_0"), Number::Uint, from as u32));
    format!("{name}_0 + {text}")
}

fn input<'a>(site: &Site<'a>, index: usize) -> Answer<(ValueId, &'a ProgramValue)> {
    Ok((site.id(index).ok_or_else(|| format!("its input {index} is missing"))?, site.need(index)?))
}

/// Copies the input as it is.
pub(crate) fn copy(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let from = input(&site, 0)?;
    let region =
        Region { spans: vec![Span { size: output.value.elements(), read: 1, write: 1 }], read_from: 0, write_to: 0 };
    Ok(Drafts::of(region.draft(site, from, (output.id, output.value))?))
}

fn moved(site: Site<'_>, output: Output<'_>, region: Region) -> Answer<Drafts> {
    Ok(Drafts::of(region.draft(site, input(&site, 0)?, (output.id, output.value))?))
}

pub(super) fn transpose(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let shape = &site.need(0)?.shape;
    let reversed: Vec<i64> = (0..shape.len() as i64).rev().collect();
    let own = strides(shape);
    let read = site.ints("perm")?.unwrap_or(&reversed).iter().map(|&at| axis(at, shape.len()).map(|at| own[at]));
    moved(site, output, Region::whole(&output.value.shape, &read.collect::<Answer<Vec<_>>>()?))
}

pub(super) fn expand(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let shape = &site.need(0)?.shape;
    let lead = output.value.shape.len().checked_sub(shape.len()).ok_or("its result has fewer dimensions")?;
    let mut read = vec![0; lead];
    read.extend(shape.iter().zip(strides(shape)).map(|(&size, stride)| if size == 1 { 0 } else { stride }));
    moved(site, output, Region::whole(&output.value.shape, &read))
}

pub(super) fn slice(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let shape = &site.need(0)?.shape;
    let list = |index: usize, name: &str| -> Answer<Option<Vec<i64>>> {
        match site.numbers(index)? {
            Some(given) => Ok(Some(given)),
            None => Ok(site.ints(name)?.map(<[i64]>::to_vec)),
        }
    };
    let starts = list(1, "starts")?.ok_or("where it starts is missing")?;
    let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = site.numbers(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let mut read = strides(shape);
    let own = read.clone();
    let mut from = 0;
    for ((&start, &at), &step) in starts.iter().zip(&axes).zip(&steps) {
        let at = axis(at, shape.len())?;
        let size = shape[at] as i64;
        let start = if start < 0 { start.saturating_add(size) } else { start };
        let start = if step < 0 { start.clamp(0, (size - 1).max(0)) } else { start.clamp(0, size) };
        from += start as usize * own[at];
        read[at] = own[at].wrapping_mul(step as usize);
    }
    if output.value.elements() == 0 {
        return Ok(Drafts::default());
    }
    let mut region = Region::whole(&output.value.shape, &read);
    region.read_from = from;
    moved(site, output, region)
}

pub(super) fn concat(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let at = site.axis("axis", 0, output.value.shape.len())?;
    let whole = strides(&output.value.shape);
    let mut drafts = Drafts::default();
    let mut position = 0;
    for index in 0..site.node.inputs.len() {
        let part = input(&site, index)?;
        let shape = &part.1.shape;
        let size = *shape.get(at).ok_or("an input has fewer dimensions")?;
        if part.1.elements() > 0 {
            let spans = shape.iter().zip(strides(shape)).zip(&whole);
            let spans = spans.map(|((&size, read), &write)| Span { size, read, write }).collect();
            let region = Region { spans, read_from: 0, write_to: position * whole[at] };
            drafts.launches.push(region.draft(site, part, (output.id, output.value))?);
        }
        position += size;
    }
    Ok(drafts)
}

pub(super) fn split(site: Site<'_>, _: Output<'_>) -> Answer<Drafts> {
    let whole = input(&site, 0)?;
    let at = site.axis("axis", 0, whole.1.shape.len())?;
    let own = strides(&whole.1.shape);
    let mut drafts = Drafts::default();
    let sizes = split_sizes(site.program, site.node).map_err(|error| error.to_string())?;
    let sizes = sizes.ok_or("an output is left out, and a run lists the sizes")?;
    let mut position = 0;
    for (index, size) in sizes.into_iter().enumerate() {
        if let (Some(id), Some(part)) = (site.output_id(index), site.output(index))
            && part.elements() > 0
        {
            let mut region = Region::whole(&part.shape, &own);
            region.read_from = position * own[at];
            drafts.launches.push(region.draft(site, whole, (id, part))?);
        }
        position += size;
    }
    Ok(drafts)
}

pub(super) fn tile(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let shape = &site.need(0)?.shape;
    let whole = strides(&output.value.shape);
    let mut spans = Vec::new();
    for ((&size, read), (&of, &write)) in shape.iter().zip(strides(shape)).zip(output.value.shape.iter().zip(&whole)) {
        spans.push(Span { size: of.checked_div(size).unwrap_or(0), read: 0, write: write * size });
        spans.push(Span { size, read, write });
    }
    moved(site, output, Region { spans, read_from: 0, write_to: 0 })
}

/// Reshapes to more dimensions and transposes these: `split` has their sizes, and `order` says
/// which of them each output dimension is.
fn rearranged(site: Site<'_>, output: Output<'_>, split: &[usize], order: &[usize]) -> Answer<Drafts> {
    let read = strides(split);
    let (shape, steps): (Vec<usize>, Vec<usize>) = order.iter().map(|&at| (split[at], read[at])).unzip();
    moved(site, output, Region::whole(&shape, &steps))
}

fn blocks<'a>(site: &Site<'a>) -> Answer<(&'a [usize], usize)> {
    let shape = &site.need(0)?.shape;
    let size = usize::try_from(site.int("blocksize", 1)?).unwrap_or(0);
    if shape.len() != 4 || size == 0 {
        return Err("blocks of what is no image".to_owned());
    }
    Ok((shape, size))
}

pub(super) fn depth_to_space(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let (shape, size) = blocks(&site)?;
    let channels = shape[1] / (size * size);
    if site.text("mode")? == Some("CRD") {
        return rearranged(site, output, &[shape[0], channels, size, size, shape[2], shape[3]], &[0, 1, 4, 2, 5, 3]);
    }
    rearranged(site, output, &[shape[0], size, size, channels, shape[2], shape[3]], &[0, 3, 4, 1, 5, 2])
}

pub(super) fn space_to_depth(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let (shape, size) = blocks(&site)?;
    let split = [shape[0], shape[1], shape[2] / size, size, shape[3] / size, size];
    rearranged(site, output, &split, &[0, 3, 5, 1, 2, 4])
}

/// Pads by a table for each axis, which says which position of the input stands at each position of
/// the result.
pub(super) fn pad(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let value = site.need(0)?;
    let (shape, rank) = (&value.shape, value.shape.len());
    let pads = match site.numbers(1)? {
        Some(pads) => pads,
        None => site.ints("pads")?.ok_or("its pads are missing")?.to_vec(),
    };
    let axes: Vec<usize> = match site.numbers(3)? {
        Some(axes) => axes.into_iter().map(|at| axis(at, rank)).collect::<Answer<_>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err("its pads do not fit its dimensions".to_owned());
    }
    let mode = site.text("mode")?.unwrap_or("constant");
    let own = strides(shape);
    let mut begin = vec![0i64; rank];
    for (number, &at) in axes.iter().enumerate() {
        begin[at] = pads[number];
    }
    let (unit, count) = units(value.dtype)?;
    let mut table: Vec<i32> = Vec::new();
    let mut starts = Vec::new();
    for at in 0..rank {
        starts.push(table.len());
        let size = shape[at] as i64;
        for position in 0..output.value.shape[at] as i64 {
            let from = position - begin[at];
            let inside = (0..size).contains(&from);
            let from = match mode {
                _ if inside => Some(from),
                "constant" => None,
                "edge" => Some(from.clamp(0, size - 1)),
                "reflect" if size > 1 => {
                    let turn = from.rem_euclid(2 * (size - 1));
                    Some(if turn < size { turn } else { 2 * (size - 1) - turn })
                }
                "reflect" => Some(0),
                "wrap" => Some(from.rem_euclid(size)),
                other => return Err(format!("the mode '{other}'")),
            };
            table.push(from.map_or(-1, |from| (from as usize * own[at] * count) as i32));
        }
    }
    let mut body = String::from("const uint o = LINEAR;\nif (o < n) {\nint at = 0;\nbool inside = true;\n");
    let mut numbers = vec![];
    let whole = strides(&output.value.shape);
    for at in (0..rank).filter(|&at| output.value.shape[at] > 1 || shape[at] != output.value.shape[at]) {
        body += &format!(
            "{{\nconst int p = LOAD(t, t{at} + (o / d{at}) % m{at});\ninside = inside && p >= 0;\nat = at + p;\n}}\n"
        );
        for (name, number) in [("t", starts[at]), ("d", whole[at] * count), ("m", output.value.shape[at])] {
            numbers.push((format!("{name}{at}"), Number::Uint, number as u32));
        }
    }
    if count > 1 {
        body += "at = at + to_int(o % 2u);\n";
    }
    let filled = site.input(2).is_some();
    if filled && units(site.need(2)?.dtype)?.1 != count {
        return Err("its padding is of another type".to_owned());
    }
    let index = if count > 1 { "o % 2u" } else { "0u" };
    let fill = match (filled, site.operator().float("value").ok().flatten()) {
        (true, _) => format!("LOAD(f, {index})"),
        (false, Some(value)) if value != 0.0 => {
            numbers.push(("f".to_owned(), Number::Uint, value.to_bits()));
            "f".to_owned()
        }
        _ => "0u".to_owned(),
    };
    body += &format!("if (inside) {{\nSTORE(y, o, LOAD(x, to_uint(at)));\n}} else {{\nSTORE(y, o, {fill});\n}}\n}}\n");
    let elements = output.value.elements() * count;
    let mut draft = Draft::new("pad", body).number("n", elements).line(elements, ITEMS, site.target.groups).read(
        "x",
        unit,
        value.elements() * count,
        Operand::Value(site.id(0).ok_or("its input is missing")?),
    );
    draft = draft.table("t", table);
    if filled {
        let id = site.id(2).ok_or("its padding is missing")?;
        draft = draft.read("f", unit, count, Operand::Value(id));
    }
    draft.numbers.extend(numbers);
    Ok(Drafts::of(draft.write("y", unit, elements, Operand::Value(output.id))))
}

pub(super) fn trilu(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let value = site.need(0)?;
    let (unit, count) = units(value.dtype)?;
    let [.., rows, columns] = value.shape[..] else { return Err("a triangle of what is no matrix".to_owned()) };
    let diagonal = site.numbers(1)?.and_then(|k| k.first().copied()).unwrap_or(0).clamp(-(1 << 30), 1 << 30);
    let upper = site.int("upper", 1)? != 0;
    let body = format!(
        "const uint o = LINEAR;\nif (o < n) {{\nconst int c = to_int((o / units) % columns);\n\
         const int r = to_int((o / units / columns) % rows);\n\
         STORE(y, o, pick(c - r {} diagonal, LOAD(x, o), 0u));\n}}\n",
        if upper { ">=" } else { "<=" }
    );
    let elements = value.elements() * count;
    let draft = Draft::new("triangle", body)
        .number("n", elements)
        .number("units", count)
        .number("columns", columns)
        .number("rows", rows)
        .signed("diagonal", diagonal)
        .line(elements, ITEMS, site.target.groups)
        .read("x", unit, elements, Operand::Value(site.id(0).ok_or("its input is missing")?));
    Ok(Drafts::of(draft.write("y", unit, elements, Operand::Value(output.id))))
}
