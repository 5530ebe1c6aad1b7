//! Transposed convolution over one or two spatial dimensions, on f32.
//! It is the product of the weights with the input's pixels, whose rows are then added to the
//! planes of the output, each where its tap lies.

use hetero_hal::{DType, Result};

use super::matmul::{Operands, Product, Shape};
use super::panels::Panels;
use super::tile::piece;
use super::vector::{Pairwise, Second};
use super::{Kernel, Packed, Runtime, Site};
use crate::floats::Floats;
use crate::operand::{Arguments, Shared};
use crate::simd::Isa;

/// The largest number of elements of a product; larger ones are left to the oracle, because the
/// workspace holds the product.
const MOST: usize = 1 << 28;

pub(super) fn compile(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let operator = site.operator();
    let (Some(x), Some(w), Some(output)) = (site.shape(0), site.shape(1), site.output(0)) else { return Ok(None) };
    let rank = x.len().saturating_sub(2);
    let groups = usize::try_from(operator.int("group")?.unwrap_or(1)).unwrap_or(0);
    let fits = matches!(rank, 1 | 2)
        && w.len() == x.len()
        && site.all(DType::F32)
        && groups > 0
        && x[1] == w[0]
        && x[1].is_multiple_of(groups)
        && site.shape(2).is_none_or(|bias| bias == [w[1] * groups]);
    if !fits || output.elements() == 0 || x.contains(&0) || w.contains(&0) {
        return Ok(None);
    }
    // One dimension is taken as two, the first of size 1.
    let axis = |list: &[usize], one: usize| if rank == 1 { [one, list[0]] } else { [list[0], list[1]] };
    let attribute = |name: &str, count: usize, default: usize| -> Result<Option<Vec<usize>>> {
        let Some(list) = operator.ints(name)? else { return Ok(Some(vec![default; count])) };
        let list = list.iter().map(|&value| usize::try_from(value).ok()).collect::<Option<Vec<_>>>();
        Ok(list.filter(|list| list.len() == count))
    };
    let (Some(strides), Some(dilations)) = (attribute("strides", rank, 1)?, attribute("dilations", rank, 1)?) else {
        return Ok(None);
    };
    let (Some(pads), Some(extra)) = (attribute("pads", 2 * rank, 0)?, attribute("output_padding", rank, 0)?) else {
        return Ok(None);
    };
    let rule = operator.text("auto_pad")?.unwrap_or("NOTSET");
    let sized = operator.ints("output_shape")?.is_some() || rule.starts_with("SAME");
    let mut begin = vec![0; rank];
    for (axis, begin) in begin.iter_mut().enumerate() {
        // Where the output's size is given, the excess is cut off on both sides.
        let full = (x[axis + 2] - 1) * strides[axis] + extra[axis] + (w[axis + 2] - 1) * dilations[axis] + 1;
        let cut = full.saturating_sub(output.shape[axis + 2]);
        *begin = match (sized, rule) {
            (false, _) => pads[axis],
            (true, "SAME_UPPER") => cut / 2,
            (true, _) => cut - cut / 2,
        };
    }
    let (input, kernel) = (axis(&x[2..], 1), axis(&w[2..], 1));
    let (channels, outputs) = (x[1] / groups, w[1]);
    let (pixels, rows) = (input[0] * input[1], outputs * kernel[0] * kernel[1]);
    if rows.checked_mul(pixels).is_none_or(|elements| elements > MOST) {
        return Ok(None);
    }
    // Constant weights are transposed, so that the product reads them in one stream.
    let weights = site.packed(
        1,
        format_args!("{groups} groups, {rows} rows of {channels} channels"),
        w.iter().product(),
        move |from| {
            let mut into = Floats::zeros(from.len())?;
            for (from, into) in from.chunks_exact(channels * rows).zip(into.chunks_exact_mut(channels * rows)) {
                for (row, line) in into.chunks_exact_mut(channels).enumerate() {
                    line.iter_mut().enumerate().for_each(|(channel, value)| *value = from[channel * rows + row]);
                }
            }
            Ok(into)
        },
    )?;
    let a = if weights.is_some() { (channels, 1) } else { (1, rows) };
    let product = Shape { m: rows, n: pixels, k: channels, a, b: (pixels, 1) };
    Ok(Some(Box::new(Transposed {
        product: Product::new(site.isa, product),
        isa: site.isa,
        weights,
        batch: x[0],
        groups,
        channels,
        outputs,
        input,
        kernel,
        strides: axis(&strides, 1),
        dilations: axis(&dilations, 1),
        begin: axis(&begin, 0),
        output: axis(&output.shape[2..], 1),
    })))
}

struct Transposed {
    isa: Isa,
    /// The product of one group's weights and pixels, with a row for each filter and tap.
    product: Product,
    weights: Option<Panels>,
    batch: usize,
    groups: usize,
    /// The input channels of a group.
    channels: usize,
    /// The filters of a group.
    outputs: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    /// The rows and columns that are cut off before the first ones.
    begin: [usize; 2],
    output: [usize; 2],
}

impl Transposed {
    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Returns the elements of a group's product.
    fn product(&self) -> usize {
        self.outputs * self.taps() * self.input[0] * self.input[1]
    }

    /// Returns the elements of the workspace for a group's weights in f32.
    fn widened(&self) -> usize {
        let halves = self.weights.as_ref().is_some_and(|weights| weights.half.is_some());
        if halves { self.channels * self.outputs * self.taps() } else { 0 }
    }

    /// Returns the input's positions along an axis that a tap takes into the output.
    fn reach(&self, axis: usize, tap: usize) -> std::ops::Range<usize> {
        let (stride, offset) = (self.strides[axis], tap * self.dilations[axis]);
        let first = self.begin[axis].saturating_sub(offset).div_ceil(stride);
        let behind = (self.output[axis] + self.begin[axis]).saturating_sub(offset).div_ceil(stride);
        first.min(self.input[axis])..behind.min(self.input[axis])
    }

    /// Adds the rows of one filter's taps to its plane.
    fn add(&self, rows: &[f32], plane: &mut [f32]) {
        let pixels = self.input[0] * self.input[1];
        for (tap, row) in rows.chunks_exact(pixels).enumerate() {
            let (tap_y, tap_x) = (tap / self.kernel[1], tap % self.kernel[1]);
            let columns = self.reach(1, tap_x);
            if columns.is_empty() {
                continue;
            }
            for y in self.reach(0, tap_y) {
                let target = y * self.strides[0] + tap_y * self.dilations[0] - self.begin[0];
                let from = &row[y * self.input[1]..][columns.clone()];
                let start = columns.start * self.strides[1] + tap_x * self.dilations[1] - self.begin[1];
                let into = &mut plane[target * self.output[1]..][..self.output[1]][start..];
                if self.strides[1] == 1 {
                    Pairwise::Add.apply(self.isa, &mut into[..from.len()], Second::Same(from), false);
                } else {
                    into.iter_mut().step_by(self.strides[1]).zip(from).for_each(|(into, from)| *into += from);
                }
            }
        }
    }
}

impl Kernel for Transposed {
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()> {
        let input = arguments.input::<f32>(0)?;
        let packed = self.weights.as_ref().map(|weights| weights.packed.value()).transpose()?;
        let weights = match &packed {
            Some(weights) => &weights[..],
            None => arguments.input::<f32>(1)?,
        };
        let bias = arguments.optional::<f32>(2)?;
        let output = Shared::new(arguments.output::<f32>(0)?);
        let halves = self.weights.as_ref().zip(packed.as_ref()).and_then(|(weights, words)| weights.halves(words));
        let (product, space) = arguments.workspace::<f32>()?.split_at_mut(self.product());
        let (widened, space) = space.split_at_mut(self.widened());
        let (pixels, plane) = (self.input[0] * self.input[1], self.output[0] * self.output[1]);
        let rows = self.taps() * pixels;
        for number in 0..self.batch * self.groups {
            let group = number % self.groups;
            let size = self.channels * self.outputs * self.taps();
            let left = match halves {
                None => &weights[group * size..][..size],
                Some((half, halves)) => {
                    half.widen(self.isa, &halves[group * size..][..size], widened);
                    &*widened
                }
            };
            let right = &input[number * self.channels * pixels..][..self.channels * pixels];
            self.product.run(Operands { left, right, bias: None, keep: false }, product, space, runtime);
            let product = &*product;
            let pieces = runtime.pieces(self.outputs, rows + plane);
            runtime.for_each(pieces, |share, _| {
                for filter in piece(self.outputs, pieces, share) {
                    // SAFETY: each plane is one task's.
                    let into = unsafe { output.slice((number * self.outputs + filter) * plane, plane) };
                    into.fill(bias.map_or(0.0, |bias| bias[group * self.outputs + filter]));
                    self.add(&product[filter * rows..][..rows], into);
                }
            });
        }
        Ok(())
    }

    fn workspace(&self, threads: usize) -> usize {
        (self.product() + self.widened()) * size_of::<f32>() + self.product.workspace(threads)
    }

    fn weights(&self) -> Vec<&Packed> {
        self.weights.iter().map(|weights| &weights.packed).collect()
    }

    fn reads(&self, input: usize) -> bool {
        input != 1 || self.weights.is_none()
    }
}
