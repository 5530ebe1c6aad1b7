//! The products of a layer whose weights are bytes, and whose inputs and states are quantised while
//! it runs, as DynamicQuantizeLSTM has them.
//!
//! All vectors of a product are quantised together, to 256 steps over their range.

use std::sync::Arc;

use hetero_hal::{DType, Error, Result};

use super::Layer;
use crate::floats::Floats;
use crate::kernels::quantised::linear::{RANGE_PARTS, bytes, range, steps};
use crate::kernels::quantised::matmul::{right_of, signed};
use crate::kernels::quantised::product::{Operands, Product, Shape};
use crate::kernels::{Packed, Runtime, Site};
use crate::operand::Arguments;
use crate::simd::Isa;

/// The number of the input with the scales of the weights at this input; zero points stand behind
/// them.
fn scales_of(weights: usize) -> usize {
    6 + 2 * weights
}

/// Tells whether scales and zero points of weights are what the operator says.
pub(super) fn fits(site: Site<'_>, weights: usize, [directions, rows]: [usize; 2]) -> bool {
    let scales = scales_of(weights);
    let typed = |index: usize, dtype: DType| site.input(index).is_some_and(|value| value.dtype == dtype);
    let bytes = site.input(weights).and_then(|value| signed(value.dtype).map(|_| value.dtype));
    bytes.is_some_and(|bytes| typed(scales + 1, bytes))
        && typed(scales, DType::F32)
        && site.shape(scales) == site.shape(scales + 1)
        && site.shape(scales).is_some_and(|shape| shape == [directions, rows] || shape == [directions])
}

/// A product of vectors, quantised in each run, with the weights of one direction.
pub(super) struct Dynamic {
    isa: Isa,
    product: Product,
    /// The numbers of the node's inputs that hold the weights, and their scales.
    input: usize,
    scales: usize,
    direction: usize,
    /// The scales and zero points of a direction: one, or one for each row of the weights.
    lines: usize,
}

impl Dynamic {
    /// Makes the product of `count` vectors of `width` with the weights `input`.
    ///
    /// # Errors
    /// `Unsupported` where memory could not hold them.
    pub(super) fn new(
        site: Site<'_>,
        layer: &Layer,
        (input, direction): (usize, usize),
        (count, width): (usize, usize),
    ) -> Result<Self> {
        let is_signed = site.input(input).and_then(|value| signed(value.dtype)).unwrap_or_default();
        let n = layer.rows();
        let shape = Shape { m: count, n, k: width, a: (width, 1), b: (n, 1), signed: (false, is_signed) };
        let right = right_of(site, input);
        let product = Product::of_part(site, shape, right.as_ref(), direction * n * width)?;
        let scales = scales_of(input);
        let lines = if site.shape(scales).is_some_and(|shape| shape.len() == 2) { n } else { 1 };
        let product = product.ok_or_else(|| Error::unsupported("a product is larger than memory can be"))?;
        Ok(Dynamic { isa: site.isa, product, input, scales, direction, lines })
    }

    pub(super) fn panels(&self) -> Result<Option<Arc<Floats>>> {
        self.product.panels()
    }

    pub(super) fn packed(&self) -> Option<&Packed> {
        self.product.packed()
    }

    /// Returns the words of the workspace: of ranges, of the quantised vectors, of scales and of a
    /// bias in whole vectors, and of the product.
    fn spaces(&self) -> [usize; 4] {
        let Shape { m, k, .. } = self.product.shape;
        [2 * RANGE_PARTS, (m * k).div_ceil(size_of::<f32>()), self.product.padded(), self.product.padded()]
    }

    pub(super) fn workspace(&self) -> usize {
        (self.spaces().iter().sum::<usize>() + self.product.workspace()) * size_of::<f32>()
    }

    /// Computes `into = vectors * weights + bias`.
    pub(super) fn run(
        &self,
        panels: Option<&[f32]>,
        (vectors, bias): (&[f32], Option<&[f32]>),
        into: &mut [f32],
        space: &mut [f32],
        (arguments, runtime): (&Arguments<'_>, &Runtime<'_>),
    ) -> Result<()> {
        let Shape { m, n, k, .. } = self.product.shape;
        let [ranges, codes, padded, _] = self.spaces();
        let lacks = vectors.len() < m * k || into.len() < m * n || size_of_val(space) < self.workspace();
        if lacks || bias.is_some_and(|bias| bias.len() < n) {
            return Err(Error::internal("a product has less memory than it said"));
        }
        let (ranges, rest) = space.split_at_mut(ranges);
        let (codes, rest) = rest.split_at_mut(codes);
        let (scale_space, rest) = rest.split_at_mut(padded);
        let (bias_space, rest) = rest.split_at_mut(padded);
        // SAFETY: bytes and whole numbers have every pattern of bits, and are aligned no more
        // strictly.
        let (codes, rest) = unsafe {
            let bytes = std::slice::from_raw_parts_mut(codes.as_mut_ptr().cast::<u8>(), size_of_val(codes));
            (bytes, std::slice::from_raw_parts_mut(rest.as_mut_ptr().cast::<i32>(), rest.len()))
        };
        let (vectors, codes) = (&vectors[..m * k], &mut codes[..m * k]);
        let (step, zero) = steps(range(self.isa, vectors, ranges, runtime));
        bytes(self.isa, vectors, (step, zero), codes, runtime);
        let (scales, zeros) = (arguments.input::<f32>(self.scales)?, arguments.input::<u8>(self.scales + 1)?);
        let own = self.direction * self.lines..(self.direction + 1) * self.lines;
        let (Some(scales), Some(zeros)) = (scales.get(own.clone()), zeros.get(own)) else {
            return Err(Error::internal("a product has fewer scales than its shape says"));
        };
        scale_space.fill(0.0);
        if let &[scale] = scales {
            scale_space[..n].fill(scale * step);
        } else {
            scale_space.iter_mut().zip(scales).for_each(|(into, scale)| *into = scale * step);
        }
        let bias = bias.map(|bias| {
            if n == padded {
                return bias;
            }
            bias_space.fill(0.0);
            bias_space[..n].copy_from_slice(&bias[..n]);
            &*bias_space
        });
        let start = self.direction * n * k;
        let right = if panels.is_some() { &[][..] } else { arguments.input::<u8>(self.input)? };
        let right = right.get(start..).unwrap_or_default();
        let operands = Operands { left: codes, right, panels, left_zeros: &[zero as u8], right_zeros: zeros };
        let clamp = (f32::NEG_INFINITY, f32::INFINITY);
        self.product.run_real(operands, into, (scale_space, bias), clamp, rest, runtime)
    }
}
