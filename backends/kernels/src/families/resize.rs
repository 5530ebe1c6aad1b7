//! Resize and Upsample: one axis after the other, where each element is a weighted sum along the
//! axis.

use hetero_reference::Resampling;

use crate::draft::{Draft, Drafts, Operand};
use crate::site::{Answer, Output, Site};

pub(super) fn resize(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    site.floats(&[0])?;
    let value = site.need(0)?;
    for index in 1..site.node.inputs.len() {
        if site.input(index).is_some() && site.constant(index).is_none() {
            return Err("scales or sizes that are not known when compiling".to_owned());
        }
    }
    let axes = Resampling::resolve(site.operator(), &value.shape, |index| site.constant(index).cloned());
    let axes = axes.map_err(|error| error.to_string())?.ok_or("a region outside of its input")?;
    let mut shape = value.shape.clone();
    let id = site.id(0).ok_or("its input is missing")?;
    let mut from = (Operand::Value(id), value.dtype);
    if axes.is_empty() {
        return super::copy(site, output);
    }
    let mut drafts = Drafts::default();
    for (number, along) in axes.iter().enumerate() {
        let inner: usize = shape[along.axis + 1..].iter().product();
        let (size, count) = (shape[along.axis], along.taps.len());
        let before: usize = shape.iter().product();
        shape[along.axis] = count;
        let elements: usize = shape.iter().product();
        let (mut starts, mut places, mut weights) = (vec![0i32], vec![], vec![]);
        for list in &along.taps {
            places.extend(list.iter().map(|&(place, _)| place as i32));
            weights.extend(list.iter().map(|&(_, weight)| weight as f32));
            starts.push(places.len() as i32);
        }
        // A position without taps lies outside the input, and the operator extrapolates there.
        if along.taps.iter().any(Vec::is_empty) {
            return Err("positions outside of its input".to_owned());
        }
        let to = if number + 1 == axes.len() {
            (Operand::Value(output.id), output.value.dtype)
        } else {
            (drafts.workspace(elements * 4), hetero_hal::DType::F32)
        };
        let draft = Draft::new("resize", include_str!("../sources/resize.c"))
            .number("n", elements)
            .number("inner", inner)
            .number("count", count)
            .number("size", size)
            .line(elements, 64, site.target.groups)
            .read("x", from.1, before, from.0)
            .table("starts", starts)
            .table("places", places)
            .floats("weights", weights)
            .write("y", to.1, elements, to.0.clone());
        drafts.launches.push(draft);
        from = to;
    }
    if shape != output.value.shape {
        return Err("its result has another shape".to_owned());
    }
    Ok(drafts)
}
