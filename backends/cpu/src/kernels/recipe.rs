//! Recipes: what a kernel is made of, once it is decided which nodes it does and how values lie.

use hetero_hal::{Error, Program, Result};

use super::affine::Affine;
use super::attention::Attention;
use super::chain::Chain;
use super::channelwise::Channelwise;
use super::conv::{self, Finish, Geometry};
use super::quantised::matmul::{Scaled, ScaledProduct};
use super::quantised::{self, depthwise::Depthwise, last};
use super::reorder::Reorder;
use super::vector::{Activation, Pairwise};
use super::{Constant, Kernel, Site, elementwise, halves, movement, native, oracle, pooling};
use crate::image::{Halo, Image};
use crate::simd::Half;

/// The recipe of a kernel.
/// Making the kernel may take long, because weights are packed.
/// Large recipes are boxed: of very many steps, most have a small one.
pub(crate) enum Recipe {
    /// A node as it stands, on plain operands.
    Node,
    /// A node of the program on f32, on operands in rows of f32.
    Wide,
    /// The way of a value from 16 bits to f32, or back.
    Widen(Half),
    Narrow(Half),
    Conv(Box<Convolution>),
    ConvPool(Box<PooledConvolution>),
    Affine(Box<Affine>),
    Chain(Box<Chain>),
    Attention(Box<Attention>),
    /// A pooling, with its input and its output.
    Pool(Box<(Image, Image)>),
    Unary(Activation),
    Pairwise(Pairwise),
    Channelwise(Box<Channelwise>),
    /// A concatenation; `blocks` has the bytes of each input in each of `rows` rows.
    Concat {
        rows: usize,
        blocks: Vec<usize>,
    },
    Reorder(Box<Reorder>),
    /// A product of bytes whose sums become real numbers.
    Scaled(Box<Scaled>),
    /// A part in 8 bits.
    Quantised(Box<Quantised>),
    /// A part of the program whose sizes only a run tells.
    Region(Box<Program>),
}

/// The recipe of a part in 8 bits.
pub(crate) enum Quantised {
    Conv(quantised::conv::Convolution),
    Pair(last::Pair),
    Parts(last::Parts),
    Pool(last::Pool),
    Pixels(last::Pixels),
    Turn(last::Turn),
}

/// The recipe of a convolution.
pub(crate) struct Convolution {
    pub(crate) geometry: Geometry,
    /// The halo of the input, where it is blocked.
    pub(crate) input: Option<Halo>,
    /// The halo of the output, where it is blocked.
    pub(crate) output: Option<Halo>,
    pub(crate) weights: Constant,
    pub(crate) finish: Finish,
    /// Whether minimal filtering is allowed.
    pub(crate) filters: bool,
}

/// The recipe of a convolution together with the pooling of its result.
pub(crate) struct PooledConvolution {
    pub(crate) geometry: Geometry,
    /// The halo of the input, where it is blocked.
    pub(crate) input: Option<Halo>,
    pub(crate) between: Image,
    pub(crate) output: Image,
    pub(crate) weights: Constant,
    pub(crate) finish: Finish,
}

/// Makes the kernel of a recipe.
pub(crate) fn make(site: Site<'_>, recipe: Recipe) -> Result<Box<dyn Kernel>> {
    let isa = site.isa;
    Ok(match recipe {
        Recipe::Node => match native(site)? {
            Some(kernel) => kernel,
            None => Box::new(oracle::Oracle::new(site)?),
        },
        Recipe::Wide => native(site)?.ok_or_else(|| Error::internal("a node has no kernel for f32"))?,
        Recipe::Widen(half) => Box::new(halves::Widen { isa, half }),
        Recipe::Narrow(half) => Box::new(halves::Narrow { isa, half }),
        Recipe::Conv(recipe) => convolution(site, *recipe)?,
        Recipe::ConvPool(recipe) => {
            let PooledConvolution { geometry, input, between, output, weights, finish } = *recipe;
            let (weights, pool) = (conv::Filters::of(site, &weights)?, pooling::blocked(site, between, output)?);
            Box::new(conv::Pooled::new(isa, geometry, input, weights, finish, pool)?)
        }
        Recipe::Affine(affine) => affine,
        Recipe::Chain(chain) => chain,
        Recipe::Attention(attention) => attention,
        Recipe::Pool(images) => Box::new(pooling::blocked(site, images.0, images.1)?),
        Recipe::Unary(function) => Box::new(elementwise::Unary { isa, function }),
        Recipe::Pairwise(function) => Box::new(elementwise::Same { isa, function, inputs: site.node.inputs.len() }),
        Recipe::Channelwise(kernel) => kernel,
        Recipe::Concat { rows, blocks } => Box::new(movement::Concat { rows, blocks }),
        Recipe::Reorder(reorder) => reorder,
        Recipe::Scaled(recipe) => match ScaledProduct::new(site, *recipe)? {
            Some(kernel) => Box::new(kernel),
            None => return Err(Error::internal("a product is larger than its lowering found")),
        },
        Recipe::Quantised(recipe) => match *recipe {
            Quantised::Conv(recipe) => match Depthwise::new(site, recipe)? {
                Ok(kernel) => Box::new(kernel),
                Err(recipe) => Box::new(quantised::conv::Conv::new(site, recipe)?),
            },
            Quantised::Pair(kernel) => Box::new(kernel),
            Quantised::Parts(kernel) => Box::new(kernel),
            Quantised::Pool(kernel) => Box::new(kernel),
            Quantised::Pixels(kernel) => Box::new(kernel),
            Quantised::Turn(kernel) => Box::new(kernel),
        },
        Recipe::Region(_) => return Err(Error::internal("a region is made by its executable")),
    })
}

fn convolution(site: Site<'_>, recipe: Convolution) -> Result<Box<dyn Kernel>> {
    let (isa, Convolution { geometry, input, output, weights, finish, filters }) = (site.isa, recipe);
    let weights = conv::Filters::of(site, &weights)?;
    Ok(match (input, output) {
        (Some(from), Some(to)) if geometry.is_depthwise() => {
            Box::new(conv::Depthwise::new(isa, geometry, from, to, weights, finish)?)
        }
        (Some(from), Some(to))
            if filters
                && conv::Winograd::pays(&geometry, isa.lanes())
                && conv::Winograd::suits(weights.content(), geometry.outputs) =>
        {
            Box::new(conv::Winograd::new(isa, geometry, from, to, weights, finish)?)
        }
        (from, Some(to)) => Box::new(conv::Blocked::new(isa, geometry, from, to, weights, finish)?),
        _ if geometry.channels == 1 => Box::new(conv::PlainDepthwise::finished(isa, geometry, weights, finish)?),
        _ => Box::new(conv::Plain::finished(isa, geometry, weights, finish)?),
    })
}
