//! Pooling by windows over up to three spatial dimensions.

use hetero_reference::Window;

use crate::draft::{Draft, Drafts};
use crate::site::{Answer, Output, Site};

/// Windows over three dimensions; where there are fewer, the first ones have size 1.
pub(super) struct Windows {
    pub(super) input: [usize; 3],
    pub(super) output: [usize; 3],
    pub(super) kernel: [usize; 3],
    pub(super) strides: [usize; 3],
    pub(super) dilations: [usize; 3],
    pub(super) begin: [usize; 3],
    pub(super) end: [usize; 3],
}

/// Returns a list of one to three numbers, with `fill` in front so often that there are three.
pub(super) fn three(list: &[usize], fill: usize) -> Answer<[usize; 3]> {
    let mut all = [fill; 3];
    let lead = 3usize.checked_sub(list.len()).ok_or("more than three spatial dimensions")?;
    all[lead..].copy_from_slice(list);
    Ok(all)
}

impl Windows {
    pub(super) fn new(site: &Site<'_>, kernel: &[usize]) -> Answer<Windows> {
        let shape = &site.need(0)?.shape;
        let spatial = shape.get(2..).filter(|spatial| !spatial.is_empty()).ok_or("it has no spatial dimension")?;
        let window = Window::resolve(site.operator(), spatial, kernel).map_err(|error| error.to_string())?;
        Ok(Windows {
            input: three(spatial, 1)?,
            output: three(&window.output, 1)?,
            kernel: three(&window.kernel, 1)?,
            strides: three(&window.strides, 1)?,
            dilations: three(&window.dilations, 1)?,
            begin: three(&window.begin, 0)?,
            end: three(&window.end, 0)?,
        })
    }

    /// Adds the sizes of the [`Windows`] to a launch.
    pub(super) fn describe(&self, mut draft: Draft) -> Draft {
        for (at, letter) in ["d", "h", "w"].into_iter().enumerate() {
            draft = draft
                .signed(format!("i{letter}"), self.input[at] as i64)
                .signed(format!("o{letter}"), self.output[at] as i64)
                .signed(format!("k{letter}"), self.kernel[at] as i64)
                .signed(format!("s{letter}"), self.strides[at] as i64)
                .signed(format!("g{letter}"), self.dilations[at] as i64)
                .signed(format!("p{letter}"), self.begin[at] as i64);
        }
        draft
    }
}

fn pool(site: Site<'_>, output: Output<'_>, begin: &str, element: &str, end: &str) -> Answer<Drafts> {
    site.floats(&[0])?;
    if (1..site.node.outputs.len()).any(|index| site.output_id(index).is_some()) {
        return Err("positions of the largest elements as an output".to_owned());
    }
    let kernel = site.ints("kernel_shape")?.ok_or("its kernel_shape is missing")?;
    let kernel: Vec<usize> = kernel.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
    let windows = Windows::new(&site, &kernel)?;
    let count = output.value.elements();
    let body =
        include_str!("../sources/pool.c").replace("$BEGIN", begin).replace("$ELEMENT", element).replace("$END", end);
    let mut draft = windows.describe(Draft::new("pool", body).number("n", count).line(count, 64, site.target.groups));
    for (at, letter) in ["d", "h", "w"].into_iter().enumerate() {
        draft = draft.signed(format!("e{letter}"), windows.end[at] as i64);
    }
    Ok(Drafts::of(output.attach(site.reads(draft, "x", 0)?)))
}

pub(super) fn max(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    pool(site, output, "e", "max2(s, e)", "s")
}

pub(super) fn average(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let padded = site.int("count_include_pad", 0)? != 0;
    let end = if padded { "s / to_float(padded)" } else { "s / to_float(inside)" };
    pool(site, output, "e", "s + e", end)
}

pub(super) fn lp(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let p = site.int("p", 2)?;
    let (power, root) = match p {
        1 => ("abs_float(e)".to_owned(), "s".to_owned()),
        2 => ("e * e".to_owned(), "sqrt(s)".to_owned()),
        p => (format!("power(abs_float(e), {p}.0f)"), format!("power(s, 1.0f / {p}.0f)")),
    };
    pool(site, output, &power, &format!("s + {power}"), &root)
}
