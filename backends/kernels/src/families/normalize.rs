//! Normalisations of rows: by mean and variance, or by a norm.

use hetero_hal::{DType, ValueId};

use crate::draft::{Draft, Drafts, Operand};
use crate::language::Number;
use crate::site::{Answer, Output, Site, indexed, strides};

/// The work items for each row, a power of two.
const ITEMS: usize = 64;

/// A normalisation of rows that lie together in memory.
struct Rows {
    count: usize,
    length: usize,
    /// The index of the scale for element `k` of row `r`; `None` where there is no scale.
    scale: Option<(usize, String)>,
    bias: Option<(usize, String)>,
    epsilon: f32,
    /// Whether rows are divided by their root mean square, and no mean is subtracted.
    square: bool,
    numbers: Vec<(String, Number, u32)>,
}

impl Rows {
    fn drafts(self, site: Site<'_>, output: Output<'_>, statistics: [Option<ValueId>; 2]) -> Answer<Drafts> {
        let index = |of: &Option<(usize, String)>| of.as_ref().map_or_else(String::new, |(_, text)| text.clone());
        let body = include_str!("../sources/normalize.c")
            .replace("$SCALE_INDEX", &index(&self.scale))
            .replace("$BIAS_INDEX", &index(&self.bias));
        let draft = Draft::new("normalize", body)
            .constant("ITEMS", ITEMS)
            .flag("SCALED", self.scale.is_some())
            .flag("BIASED", self.bias.is_some())
            .flag("SQUARE", self.square)
            .flag("MEAN", statistics[0].is_some())
            .flag("INVERSE", statistics[1].is_some())
            .number("results", self.count)
            .number("length", self.length)
            .float("epsilon", self.epsilon)
            .line(self.count * ITEMS, ITEMS as u32, site.target.groups);
        let mut draft = site.reads(draft, "x", 0)?;
        if let Some((input, _)) = self.scale {
            draft = site.reads(draft, "scale", input)?;
        }
        if let Some((input, _)) = self.bias {
            draft = site.reads(draft, "bias", input)?;
        }
        for (name, id) in ["mean_out", "inverse_out"].into_iter().zip(statistics) {
            if let Some(id) = id {
                draft = draft.write(name, DType::F32, self.count, Operand::Value(id));
            }
        }
        draft.numbers.extend(self.numbers);
        Ok(Drafts::of(output.attach(draft)))
    }
}

pub(super) fn layer(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0, 1, 2])?;
    let shape = &site.need(0)?.shape;
    let at = site.axis("axis", -1, shape.len())?;
    let length: usize = shape[at..].iter().product();
    let mut numbers = Vec::new();
    let mut index = |input: usize, name: &str| -> Answer<Option<(usize, String)>> {
        let Some(value) = site.input(input) else { return Ok(None) };
        // The operand may repeat over the row, or differ between rows too.
        let text = crate::site::broadcast(name, "at", &value.shape, shape, &mut numbers);
        Ok(Some((input, text)))
    };
    let (scale, bias) = (index(1, "sc")?, index(2, "bi")?);
    let rms = &*site.node.operator.name == "RMSNormalization";
    for statistic in 1..site.node.outputs.len() {
        if site.output(statistic).is_some_and(|value| value.dtype != DType::F32) {
            return Err("statistics of another type than f32".to_owned());
        }
    }
    let statistics = [site.output_id(1), site.output_id(2)];
    let epsilon = site.float("epsilon", 1e-5)?;
    let count = shape[..at].iter().product();
    Rows { count, length, scale, bias, epsilon, square: rms, numbers }.drafts(site, output, statistics)
}

/// Normalises rows of images: one row for each image and group of channels.
fn channels(site: Site<'_>, output: Output<'_>, groups: usize, scaled: bool) -> Answer<Drafts> {
    site.floats(&[0, 1, 2])?;
    let shape = &site.need(0)?.shape;
    let [batch, channels, ref spatial @ ..] = shape[..] else { return Err("it has no channels".to_owned()) };
    let inner: usize = spatial.iter().product();
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err("its channels are no whole number of groups".to_owned());
    }
    let own = strides(&[channels]);
    let mut numbers = Vec::new();
    let mut index = |name: &str| indexed(name, "at", &[(batch, 0), (channels, own[0]), (inner, 0)], &mut numbers);
    let (scale, bias) = if scaled { (Some((1, index("sc"))), Some((2, index("bi")))) } else { (None, None) };
    if scaled && site.need(1)?.elements() != channels {
        return Err("a scale for each group".to_owned());
    }
    let epsilon = site.float("epsilon", 1e-5)?;
    let (count, length) = (batch * groups, channels / groups * inner);
    Rows { count, length, scale, bias, epsilon, square: false, numbers }.drafts(site, output, [None, None])
}

pub(super) fn instance(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let groups = *site.need(0)?.shape.get(1).ok_or("it has no channels")?;
    channels(site, output, groups, true)
}

pub(super) fn group(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let groups = usize::try_from(site.int("num_groups", 0)?).unwrap_or(0);
    channels(site, output, groups, true)
}

pub(super) fn mean_variance(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0])?;
    let shape = &site.need(0)?.shape;
    let axes: Vec<usize> = match site.ints("axes")? {
        Some(axes) => axes.iter().map(|&at| crate::site::axis(at, shape.len())).collect::<Answer<_>>()?,
        None => vec![0, 2, 3],
    };
    statistics(site, output, shape, &axes, "(v - mean) / (sqrt(max2(square - mean * mean, 0.0f)) + 0.000000001f)")
}

pub(super) fn lp(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0])?;
    let shape = &site.need(0)?.shape;
    let at = site.axis("axis", -1, shape.len())?;
    let value = match site.int("p", 2)? {
        1 => "pick(total == 0.0f, 0.0f, v / total)",
        2 => "pick(square == 0.0f, 0.0f, v / sqrt(square * to_float(length)))",
        p => return Err(format!("the norm of power {p}")),
    };
    statistics(site, output, shape, &[at], value)
}

/// Computes each element from the sums along axes: one work item for each line.
fn statistics(site: Site<'_>, output: Output<'_>, shape: &[usize], axes: &[usize], value: &str) -> Answer<Drafts> {
    let own = strides(shape);
    let terms = |inside: bool| -> Vec<(usize, usize)> {
        (0..shape.len()).filter(|at| axes.contains(at) == inside).map(|at| (shape[at], own[at])).collect()
    };
    let (kept, reduced) = (terms(false), terms(true));
    let product = |terms: &[(usize, usize)]| terms.iter().map(|&(size, _)| size).product::<usize>();
    let (count, length) = (product(&kept), product(&reduced));
    let mut numbers = Vec::new();
    let (outer, inner) = (indexed("a", "r", &kept, &mut numbers), indexed("b", "k", &reduced, &mut numbers));
    let body = include_str!("../sources/statistics.c")
        .replace("$OUTER", &outer)
        .replace("$INNER", &inner)
        .replace("$VALUE", value);
    let draft = Draft::new("statistics", body).number("results", count).number("length", length).line(
        count,
        64,
        site.target.groups,
    );
    let mut draft = site.reads(draft, "x", 0)?;
    draft.numbers.extend(numbers);
    let (id, value) = (output.id, output.value);
    Ok(Drafts::of(draft.write("y", value.dtype, value.elements(), Operand::Value(id))))
}

/// Computes local response normalization: over the channels next to an element's own.
pub(super) fn lrn(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0])?;
    let x = site.need(0)?;
    let (channels, plane) = match x.shape[..] {
        [_, channels, ref rest @ ..] => (channels, rest.iter().product::<usize>()),
        _ => (1, 1),
    };
    let size = usize::try_from(site.int("size", 0)?).ok().filter(|&size| size > 0).ok_or("it has no size")?;
    // No window is wider than there are channels.
    let (before, after) = (((size - 1) / 2).min(channels), (size / 2).min(channels));
    let count = output.value.elements();
    let draft = Draft::new("lrn", include_str!("../sources/lrn.c"))
        .number("n", count)
        .number("plane", plane)
        .number("channels", channels)
        .number("before", before)
        .number("after", after)
        .float("offset", site.float("bias", 1.0)?)
        .float("factor", site.float("alpha", 1e-4)? / size as f32)
        .float("beta", site.float("beta", 0.75)?)
        .line(count, ITEMS as u32, site.target.groups);
    Ok(Drafts::of(output.attach(site.reads(draft, "x", 0)?)))
}
