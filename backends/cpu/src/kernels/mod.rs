//! Kernels: one type per family, made for a node's shapes, run many times.

pub(crate) mod affine;
mod arg;
pub(crate) mod chain;
pub(crate) mod conv;
mod convert;
pub(crate) mod elementwise;
mod gru;
mod integers;
mod lines;
mod lstm;
mod matmul;
mod moments;
mod movement;
mod normalize;
mod oracle;
mod pad;
mod planes;
pub(crate) mod pooling;
mod recurrent;
mod reduce;
pub(crate) mod reorder;
mod resize;
mod select;
mod tile;
mod transposed;
pub(crate) mod vector;

use std::fmt::Arguments as Text;
use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{
    DType, Error, ErrorKind, Extents, Node, Operator, OperatorSet, Program, ProgramValue, Result, Tensor,
};
use hetero_kit::Held;
use hetero_reference::Standard;

use crate::lower::Recipe;
use crate::operand::Arguments;
use crate::pool::Pool;
use crate::saved::Packer;
use crate::simd::Isa;

/// A compiled node.
pub(crate) trait Kernel: Send + Sync {
    /// Computes the outputs, on the threads of the runtime's pool.
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()>;

    /// Bytes of memory that a run on so many threads needs besides its operands.
    fn workspace(&self, threads: usize) -> usize {
        let _ = threads;
        0
    }

    /// Inputs whose memory the first output may share.
    fn in_place(&self) -> &'static [usize] {
        &[]
    }

    /// Bytes of each input, where the output is nothing but the inputs one behind the other. A run leaves alone what lies there already.
    fn joins(&self) -> Option<&[usize]> {
        None
    }

    /// The packed weights that a run reads.
    fn weights(&self) -> Vec<&Packed> {
        Vec::new()
    }

    /// What profiles call it.
    fn name(&self) -> &'static str {
        let path = std::any::type_name::<Self>();
        path.split_once("kernels::").map_or(path, |(_, name)| name)
    }

    /// Does a run read this input? Constants that were packed are not.
    fn reads(&self, input: usize) -> bool {
        let _ = input;
        true
    }
}

/// A constant as a kernel reads it, shared by all kernels of the device that read it so.
/// A kernel takes its value once in a run.
pub(crate) type Packed = Arc<Held<Vec<f32>>>;

/// A constant of a program.
pub(crate) struct Constant {
    pub(crate) name: Arc<str>,
    pub(crate) content: Tensor,
}

/// Zeros, to pack a constant into.
/// A plain allocation that fails would end the process, so the system is asked first.
fn zeros(count: usize) -> Result<Vec<f32>> {
    let mut probe: Vec<f32> = Vec::new();
    probe.try_reserve_exact(count).map_err(|error| {
        let bytes = count.saturating_mul(size_of::<f32>()) as u64;
        Error::new(ErrorKind::OutOfMemory, "cannot allocate memory for packed weights")
            .with_sizes(bytes, None)
            .with_remedy("evict other weights, or divide the model among more devices")
            .caused_by(error)
    })?;
    // The compiler must not take the allocation away.
    drop(std::hint::black_box(probe));
    Ok(vec![0.0; count])
}

/// Scalar operations that pay for handing a task to a thread.
const TASK: usize = 1 << 13;

/// Longest dimension whose positions a kernel keeps a table of. A model chooses its sizes, and asking whether there is a kernel must not take
/// the memory that a run of it would.
const TABLE: usize = 1 << 20;

/// What a run knows beside its operands.
pub(crate) struct Runtime<'a> {
    /// True sizes of what depends on data.
    pub(crate) extents: Option<&'a Extents>,
    /// The device's threads.
    pub(crate) pool: &'a Pool,
    /// When the run gives up.
    pub(crate) deadline: Option<Instant>,
}

impl Runtime<'_> {
    /// Into how many tasks `count` things are divided that cost so many scalar operations each: enough for all threads to be busy until the
    /// end, where each task is still worth its handing over.
    pub(crate) fn pieces(&self, count: usize, cost: usize) -> usize {
        let worth = count.saturating_mul(cost) / TASK;
        worth.clamp(1, self.pool.threads() * 8).min(count)
    }
}

/// How a node is supported.
pub(crate) enum Support {
    /// By a kernel of this crate.
    Native,
    /// By the reference implementation.
    Oracle,
}

/// A node with its program: what kernels are made from.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) program: &'a Program,
    pub(crate) node: &'a Node,
    /// Instructions that kernels are made for.
    pub(crate) isa: Isa,
    /// Where packed weights come from; none where it is only asked whether there is a kernel.
    pub(crate) weights: Option<Packer<'a>>,
}

impl<'a> Site<'a> {
    pub(crate) fn operator(&self) -> &'a Operator {
        &self.node.operator
    }

    /// An input's value, where it is there.
    pub(crate) fn input(&self, index: usize) -> Option<&'a ProgramValue> {
        let id = self.node.inputs.get(index).copied().flatten()?;
        self.program.values().get(id.index())
    }

    /// An output's value, where it is wanted.
    pub(crate) fn output(&self, index: usize) -> Option<&'a ProgramValue> {
        let id = self.node.outputs.get(index).copied().flatten()?;
        self.program.values().get(id.index())
    }

    /// Shape of an input; `None` where it is left out.
    pub(crate) fn shape(&self, index: usize) -> Option<&'a [usize]> {
        self.input(index).map(|value| value.shape.as_slice())
    }

    /// An input's content, where it is constant.
    pub(crate) fn constant(&self, index: usize) -> Option<&'a Tensor> {
        self.input(index)?.constant.as_ref()
    }

    /// An input as a kernel reads it, where it is constant and weights are packed: so many
    /// elements.
    /// `layout` says all that `pack` depends on beside the constant.
    fn packed(
        &self,
        index: usize,
        layout: Text<'_>,
        elements: usize,
        pack: impl Fn(&[f32]) -> Result<Vec<f32>> + Send + Sync + 'static,
    ) -> Result<Option<Packed>> {
        let (Some(weights), Some(value)) = (self.weights, self.input(index)) else { return Ok(None) };
        let Some(content) = &value.constant else { return Ok(None) };
        let make = move |sources: &[Tensor]| pack(&sources[0].view::<f32>()?);
        weights.get(&value.name, std::slice::from_ref(content), (&layout.to_string(), elements), make).map(Some)
    }

    /// All values that the node touches.
    fn values(&self) -> impl Iterator<Item = &'a ProgramValue> {
        let (program, node) = (self.program, self.node);
        node.uses().chain(node.outputs.iter().flatten().copied()).filter_map(|id| program.values().get(id.index()))
    }

    /// Are all inputs and outputs of this element type?
    pub(crate) fn all(&self, dtype: DType) -> bool {
        self.values().all(|value| value.dtype == dtype)
    }
}

/// Does anything here compute on this element type?
pub(crate) fn computes(dtype: DType) -> bool {
    // Strings have no bytes, and nothing in the standard computes on pairs.
    !matches!(dtype, DType::String | DType::C64 | DType::C128)
}

/// How a node is supported; `None` where it is not.
pub(crate) fn support(program: &Program, node: &Node, isa: Isa) -> Option<Support> {
    let site = Site { program, node, isa, weights: None };
    Standard.find(&node.operator)?;
    if !site.values().all(|value| computes(value.dtype)) {
        return None;
    }
    match native(site) {
        Ok(Some(_)) => Some(Support::Native),
        _ => Some(Support::Oracle),
    }
}

/// The kernel of a recipe.
pub(crate) fn make(site: Site<'_>, recipe: &Recipe) -> Result<Box<dyn Kernel>> {
    let isa = site.isa;
    Ok(match recipe {
        Recipe::Node => match native(site)? {
            Some(kernel) => kernel,
            None => Box::new(oracle::Oracle::new(site)?),
        },
        Recipe::Conv { geometry, input, output, weights, finish, filters } => {
            let (weights, finish) = (conv::Filters::of(site, weights)?, finish.clone());
            match (input, output) {
                (Some(from), Some(to)) if geometry.is_depthwise() => {
                    Box::new(conv::Depthwise::new(isa, *geometry, *from, *to, weights, finish)?)
                }
                (Some(from), Some(to)) if *filters && conv::Winograd::pays(geometry, isa.lanes()) => {
                    Box::new(conv::Winograd::new(isa, *geometry, *from, *to, weights, finish)?)
                }
                (from, Some(to)) => Box::new(conv::Blocked::new(isa, *geometry, *from, *to, weights, finish)?),
                _ if geometry.channels == 1 => {
                    Box::new(conv::PlainDepthwise::finished(isa, *geometry, weights, finish)?)
                }
                _ => Box::new(conv::Plain::finished(isa, *geometry, weights, finish)?),
            }
        }
        Recipe::ConvPool { geometry, input, between, output, weights, finish } => {
            let (weights, pool) = (conv::Filters::of(site, weights)?, pooling::blocked(site, *between, *output)?);
            Box::new(conv::Pooled::new(isa, *geometry, *input, weights, finish.clone(), pool)?)
        }
        Recipe::Affine(affine) => Box::new(affine.clone()),
        Recipe::Chain(chain) => Box::new(chain.clone()),
        Recipe::Pool { input, output } => Box::new(pooling::blocked(site, *input, *output)?),
        &Recipe::Unary(function) => Box::new(elementwise::Unary { isa, function }),
        &Recipe::Pairwise(function) => Box::new(elementwise::Same { isa, function, inputs: site.node.inputs.len() }),
        Recipe::Concat { rows, blocks } => Box::new(movement::Concat { rows: *rows, blocks: blocks.clone() }),
        Recipe::Reorder(reorder) => Box::new(*reorder),
    })
}

/// The native kernel for a node, where there is one for its types and shapes.
fn native(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Native kernels are made for exact shapes, and for elements that do not share a byte.
    let exact = |value: &ProgramValue| !value.is_dynamic() && value.dtype.bits().is_multiple_of(8);
    if !site.operator().domain.is_empty() || !site.values().all(exact) {
        return Ok(None);
    }
    match &*site.operator().name {
        "Conv" => conv::compile(site),
        "ConvTranspose" => transposed::compile(site),
        "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => pooling::compile(site),
        "Gemm" => matmul::gemm(site),
        "MatMul" => matmul::matmul(site),
        "LSTM" => lstm::compile(site),
        "GRU" => gru::compile(site),
        "BatchNormalization" => normalize::batch(site),
        "LRN" => normalize::lrn(site),
        "LayerNormalization" | "RMSNormalization" => moments::layer(site),
        "InstanceNormalization" | "GroupNormalization" => moments::channels(site),
        "MeanVarianceNormalization" => moments::mean_variance(site),
        "Softmax" | "LogSoftmax" => lines::softmax(site),
        "LpNormalization" => lines::lp(site),
        "Identity" | "Dropout" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => movement::copy(site),
        "Cast" => convert::cast(site),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => convert::compare(site),
        "ArgMax" | "ArgMin" => arg::compile(site),
        name if name.starts_with("Reduce") => reduce::compile(site),
        "IsNaN" | "IsInf" => integers::kinds(site),
        "And" | "Or" | "Xor" | "Not" => integers::logic(site),
        "Concat" => movement::concat(site),
        "Split" => movement::split(site),
        "Transpose" | "Expand" | "Slice" | "Tile" | "DepthToSpace" | "SpaceToDepth" => movement::view(site),
        "Gather" => select::gather(site),
        "GatherElements" => select::gather_elements(site),
        "Where" => select::choose(site),
        "Pad" => pad::compile(site),
        "Resize" | "Upsample" => resize::compile(site),
        _ if site.all(DType::F32) => elementwise::compile(site),
        _ => integers::compile(site),
    }
}
