//! Batch normalization with known numbers: one multiplication and one addition for each channel.
//! Where these go into the weights of the convolution before it, nothing is left to do.

use std::collections::HashMap;

use hetero_hal::{DType, Program, Tensor, ValueId};

use crate::Target;
use crate::site::Site;

/// The effect of a normalization on the elements of each channel: a factor, then a term.
pub(crate) struct Affine {
    pub(crate) factors: Vec<f32>,
    pub(crate) terms: Vec<f32>,
}

impl Affine {
    /// Returns the effect of a node, or `None` where the node is no batch normalization of floats,
    /// or its numbers are unknown or not finite.
    pub(crate) fn of(site: Site<'_>) -> Option<Affine> {
        let floats = |index| numbers(site.constant(index)?);
        if !site.operator().is("BatchNormalization") || site.int("training_mode", 0).ok()? != 0 {
            return None;
        }
        let epsilon = f64::from(site.float("epsilon", 1e-5).ok()?);
        let (scale, bias, mean, variance) = (floats(1)?, floats(2)?, floats(3)?, floats(4)?);
        let channels = scale.len();
        if [bias.len(), mean.len(), variance.len()] != [channels; 3] {
            return None;
        }
        let factors: Vec<f64> = scale.iter().zip(&variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let terms: Vec<f32> =
            factors.iter().zip(mean).zip(bias).map(|((factor, mean), bias)| (bias - mean * factor) as f32).collect();
        let factors: Vec<f32> = factors.into_iter().map(|factor| factor as f32).collect();
        let finite = factors.iter().chain(&terms).all(|number| number.is_finite());
        finite.then_some(Affine { factors, terms })
    }
}

/// Returns the numbers of a constant, if all of them are finite.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    if tensor.dtype() != DType::F32 {
        return None;
    }
    let list: Vec<f64> = tensor.view::<f32>().ok()?.iter().map(|&number| f64::from(number)).collect();
    list.iter().all(|number| number.is_finite()).then_some(list)
}

/// The weights and bias of a convolution together with the normalization behind it.
pub(crate) struct Folded {
    /// The result of the normalization.
    pub(crate) result: ValueId,
    pub(crate) weights: Tensor,
    pub(crate) bias: Tensor,
}

/// The convolutions that take the normalization behind them into their weights, keyed by the
/// convolution's result.
pub(crate) type Folds = HashMap<ValueId, Folded>;

/// Finds these convolutions: their weights are known, and no other node reads their result.
pub(crate) fn folds(program: &Program, target: &Target) -> Folds {
    let (producers, consumers, outputs) = (program.producers(), program.consumers(), program.output_mask());
    let fold = |site: Site<'_>| {
        let (between, result) = (site.id(0)?, site.output_id(0)?);
        let producer = program.nodes().get(producers.get(between.index())?.as_ref()?.index())?;
        let conv = Site { node: producer, ..site };
        let alone = consumers.get(between.index())?.len() == 1 && !outputs[between.index()];
        if !alone || !conv.operator().is("Conv") {
            return None;
        }
        let affine = Affine::of(site)?;
        let weights = conv.constant(1).filter(|weights| weights.dtype() == DType::F32)?;
        let filters = weights.shape().first().copied().filter(|&filters| filters == affine.factors.len())?;
        let bias = match conv.id(2) {
            Some(_) => conv.constant(2).and_then(numbers)?,
            None => vec![0.0; filters],
        };
        if bias.len() != filters || weights.is_empty() {
            return None;
        }
        let each = weights.len() / filters;
        let rows = weights.view::<f32>().ok()?;
        let scaled =
            rows.chunks(each).zip(&affine.factors).flat_map(|(row, factor)| row.iter().map(move |w| w * factor));
        let weights = Tensor::from_vec(weights.shape(), scaled.collect::<Vec<f32>>()).ok()?;
        let bias = bias.iter().zip(&affine.factors).zip(&affine.terms);
        let bias: Vec<f32> = bias.map(|((b, &factor), &term)| (b * f64::from(factor)) as f32 + term).collect();
        let bias = Tensor::from_vec(&[filters], bias).ok()?;
        Some((between, Folded { result, weights, bias }))
    };
    program.nodes().iter().filter_map(|node| fold(Site { program, node, target })).collect()
}
