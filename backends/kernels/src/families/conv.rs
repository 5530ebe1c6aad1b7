//! Convolutions.
//! Most are a product of the weights with the image's windows, which are never stored as a matrix.
//! Where groups are small, one element is computed after the other.

use crate::draft::{Draft, Drafts};
use crate::families::pool::{Windows, three};
use crate::families::product::Tiling;
use crate::site::{Answer, Output, Site};

/// The number of rows of a group's product from which on tiles pay.
const TILED: usize = 4;

pub(super) fn conv(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0, 1, 2])?;
    let (x, w) = (site.need(0)?, site.need(1)?);
    let kernel = w.shape.get(2..).ok_or("its weights have no spatial dimension")?;
    let windows = Windows::new(&site, kernel)?;
    let groups = usize::try_from(site.int("group", 1)?).ok().filter(|&groups| groups > 0).ok_or("no groups")?;
    let (batch, channels, filters) = (x.shape[0], x.shape[1], w.shape[0]);
    let (inputs, outputs) = (channels / groups, filters / groups);
    let positions: usize = windows.output.iter().product();
    let taps: usize = windows.kernel.iter().product();
    let pointwise = taps == 1 && windows.strides == [1; 3] && windows.begin == [0; 3] && windows.end == [0; 3];
    let biased = site.input(2).is_some() || output.folded.is_some();
    let draft = if outputs >= TILED && inputs * taps >= TILED {
        let draft = if site.target.tiles {
            let draft = Draft::new("conv", include_str!("../sources/conv.c"));
            Tiling::of(outputs, positions).describe(draft, outputs, positions, batch * groups)
        } else {
            let draft = Draft::new("conv", include_str!("../sources/conv_lanes.c"));
            Tiling::lanes(draft, [outputs, positions, inputs * taps], batch * groups, &site)
        };
        let draft = draft.flag("POINTWISE", pointwise).number("rows", outputs).number("columns", positions);
        let draft = draft.number("depth", inputs * taps).number("filters", filters);
        if pointwise {
            draft.number("groups", groups).number("inputs", inputs)
        } else if !site.target.tiles {
            windows.describe(draft).number("groups", groups).signed("inputs", inputs as i64)
        } else {
            // For each row of the windows' matrix, the table has its channel's place, and how far
            // it is from a window's beginning.
            let mut table = Vec::with_capacity(inputs * taps * 4);
            let [id, ih, iw] = windows.input;
            for row in 0..inputs * taps {
                let (channel, tap) = (row / taps, row % taps);
                let [_, kh, kw] = windows.kernel;
                let at = [tap / (kh * kw), tap / kw % kh, tap % kw];
                let at = [0, 1, 2].map(|axis| at[axis] * windows.dilations[axis]);
                table.extend([channel * id * ih * iw, at[0], at[1], at[2]].map(|number| number as i32));
            }
            windows.describe(draft).number("groups", groups).signed("inputs", inputs as i64).table("taps", table)
        }
    } else {
        let count = output.value.elements();
        let draft = Draft::new("conv_direct", include_str!("../sources/conv_direct.c")).number("n", count);
        let draft = windows.describe(draft.line(count, 64, site.target.groups));
        [("inputs", inputs), ("outputs", outputs), ("filters", filters), ("groups", groups)]
            .into_iter()
            .fold(draft, |draft, (name, number)| draft.signed(name, number as i64))
    };
    let draft = site.reads(draft.flag("BIASED", biased), "x", 0)?;
    let draft = match output.folded {
        Some(folded) => draft.holds("w", &folded.weights).holds("bias", &folded.bias),
        None if biased => site.reads(site.reads(draft, "w", 1)?, "bias", 2)?,
        None => site.reads(draft, "w", 1)?,
    };
    Ok(Drafts::of(output.attach(draft)))
}

/// Computes a transposed convolution: each element of the result gathers the elements whose windows
/// reach it.
pub(super) fn transposed(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0, 1, 2])?;
    let (x, w) = (site.need(0)?, site.need(1)?);
    let spatial = x.shape.get(2..).filter(|spatial| !spatial.is_empty()).ok_or("it has no spatial dimension")?;
    let rank = spatial.len();
    let result = &output.value.shape[2..];
    let list = |name: &str| -> Answer<Vec<usize>> {
        let given = site.ints(name)?.map(|list| list.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect());
        Ok(given.unwrap_or_else(|| vec![1; rank]))
    };
    let (steps, dilations) = (list("strides")?, list("dilations")?);
    let kernel = &w.shape[2..];
    let added: Vec<usize> =
        site.ints("output_padding")?.map_or(vec![0; rank], |list| list.iter().map(|&n| n as usize).collect());
    let explicit = site.ints("pads")?.map_or(vec![0; 2 * rank], <[i64]>::to_vec);
    let rule = site.text("auto_pad")?.unwrap_or("NOTSET");
    let shaped = site.ints("output_shape")?.is_some();
    let mut begin = Vec::new();
    for axis in 0..rank {
        let full = steps[axis] * (spatial[axis] - 1) + added[axis] + (kernel[axis] - 1) * dilations[axis] + 1;
        begin.push(match rule {
            "NOTSET" | "" if !shaped => explicit[axis] as i64,
            "VALID" if !shaped => 0,
            _ => {
                let total = full as i64 - result[axis] as i64;
                if rule == "SAME_UPPER" { total / 2 } else { total - total / 2 }
            }
        });
    }
    if begin.iter().any(|&begin| begin < 0) {
        return Err("a result that is larger than what its windows reach".to_owned());
    }
    let begin: Vec<usize> = begin.into_iter().map(|begin| begin as usize).collect();
    let groups = usize::try_from(site.int("group", 1)?).ok().filter(|&groups| groups > 0).ok_or("no groups")?;
    let windows = Windows {
        input: three(spatial, 1)?,
        output: three(result, 1)?,
        kernel: three(kernel, 1)?,
        strides: three(&steps, 1)?,
        dilations: three(&dilations, 1)?,
        begin: three(&begin, 0)?,
        end: [0; 3],
    };
    let biased = site.input(2).is_some();
    let count = output.value.elements();
    let draft = Draft::new("conv_transposed", include_str!("../sources/conv_transposed.c")).number("n", count);
    let draft = windows.describe(draft.line(count, 64, site.target.groups));
    let draft = draft
        .signed("inputs", (x.shape[1] / groups) as i64)
        .signed("outputs", w.shape[1] as i64)
        .signed("filters", (w.shape[1] * groups) as i64)
        .signed("groups", groups as i64)
        .flag("BIASED", biased);
    let draft = site.reads(site.reads(draft, "x", 0)?, "w", 1)?;
    let draft = if biased { site.reads(draft, "bias", 2)? } else { draft };
    Ok(Drafts::of(output.attach(draft)))
}
