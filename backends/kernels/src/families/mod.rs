//! The families of operators that have kernels, other than the element-wise ones.

mod conv;
mod gather;
mod movement;
mod normalize;
mod pool;
mod product;
mod recurrent;
mod reduce;
mod resize;

use hetero_hal::Node;

use crate::draft::Drafts;
use crate::site::{Answer, Output, Site};

pub(crate) use movement::copy;

/// A function that makes the launches of a node.
type Family = fn(Site<'_>, Output<'_>) -> Answer<Drafts>;

fn family(name: &str) -> Option<Family> {
    Some(match name {
        "Conv" => conv::conv,
        "ConvTranspose" => conv::transposed,
        "MatMul" => product::matmul,
        "MatMulInteger" => product::integers,
        "Gemm" => product::gemm,
        "MaxPool" => pool::max,
        "AveragePool" => pool::average,
        "LpPool" => pool::lp,
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => reduce::global,
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce::reduce,
        "ArgMax" | "ArgMin" => reduce::arg,
        "Softmax" | "LogSoftmax" => reduce::softmax,
        "CumSum" => reduce::cumulative,
        "LayerNormalization" | "RMSNormalization" => normalize::layer,
        "InstanceNormalization" => normalize::instance,
        "GroupNormalization" => normalize::group,
        "MeanVarianceNormalization" => normalize::mean_variance,
        "LpNormalization" => normalize::lp,
        "LRN" => normalize::lrn,
        "Transpose" => movement::transpose,
        "Slice" => movement::slice,
        "Expand" => movement::expand,
        "Concat" => movement::concat,
        "Split" => movement::split,
        "Tile" => movement::tile,
        "DepthToSpace" => movement::depth_to_space,
        "SpaceToDepth" => movement::space_to_depth,
        "Pad" => movement::pad,
        "Trilu" => movement::trilu,
        "Gather" => gather::gather,
        "GatherElements" => gather::elements,
        "GatherND" => gather::nd,
        "OneHot" => gather::one_hot,
        "Resize" | "Upsample" => resize::resize,
        "LSTM" => recurrent::lstm,
        "GRU" => recurrent::gru,
        "RNN" => recurrent::rnn,
        _ => return None,
    })
}

/// Makes the launches of a node that is not element-wise.
pub(crate) fn drafts(site: Site<'_>, output: Output<'_>) -> Answer<Drafts> {
    let name = &*site.node.operator.name;
    family(name).ok_or_else(|| format!("there is no kernel for {name}"))?(site, output)
}

/// Tells whether element-wise nodes can be done behind this one, in its kernel.
pub(crate) fn takes_tail(node: &Node) -> bool {
    let name = &*node.operator.name;
    let single = node.outputs.iter().skip(1).all(Option::is_none);
    single
        && matches!(
            name,
            "Conv"
                | "ConvTranspose"
                | "MatMul"
                | "Gemm"
                | "MaxPool"
                | "AveragePool"
                | "GlobalAveragePool"
                | "InstanceNormalization"
        )
}
