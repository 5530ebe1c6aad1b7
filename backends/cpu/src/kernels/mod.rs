//! Kernels: one type for each family, made for a node's shapes and run many times.

pub(crate) mod affine;
mod arg;
pub(crate) mod attention;
mod batched;
mod bytes;
mod cast;
pub(crate) mod chain;
pub(crate) mod channelwise;
pub(crate) mod control;
pub(crate) mod conv;
mod convert;
mod einsum;
pub(crate) mod elementwise;
mod finders;
mod folds;
mod forest;
mod gru;
mod halves;
mod lines;
mod lstm;
mod matmul;
mod maxima;
mod moments;
mod movement;
mod nbits;
mod normalize;
mod numbers;
mod oracle;
mod pad;
mod panels;
mod plain;
mod planes;
pub(crate) mod pooling;
mod products;
pub(crate) mod quantised;
pub(crate) mod recipe;
mod recurrent;
mod reduce;
pub(crate) mod reorder;
mod resize;
mod rnn;
mod rotary;
mod running;
mod sample;
mod scatter;
mod select;
mod spectral;
mod tile;
mod top;
mod transposed;
mod trees;
pub(crate) mod vector;

use std::fmt::Arguments as Text;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hetero_hal::{
    Allowance, DType, Error, Extents, LateId, Node, Operator, OperatorSet, Program, ProgramValue, Result, Tensor,
};
use hetero_kit::Tracer;
use hetero_reference::{Standard, ml};

use crate::device::Shared;
use crate::floats::Floats;
use crate::lower::regions::may_be_in_a_region;
use crate::lower::wide;
use crate::memory;
use crate::operand::Arguments;
use crate::pool::Pool;
pub(crate) use crate::saved::Packed;
use crate::saved::Packer;
use crate::simd::{Half, Isa, floats, widened_bytes};
use panels::{Panels, narrowed};

/// A compiled node.
pub(crate) trait Kernel: Send + Sync {
    /// Computes the outputs, on the threads of the runtime's pool.
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()>;

    /// Returns the bytes of memory that a run on the given number of threads needs besides its
    /// operands.
    fn workspace(&self, threads: usize) -> usize {
        let _ = threads;
        0
    }

    /// Returns the inputs whose memory the first output may share.
    fn in_place(&self) -> &'static [usize] {
        &[]
    }

    /// Returns the bytes of each input, where the output is only the inputs one behind the other.
    /// A run does not move inputs that lie in place already.
    fn joins(&self) -> Option<&[usize]> {
        None
    }

    /// Returns the packed weights that a run reads.
    fn weights(&self) -> Vec<&Packed> {
        Vec::new()
    }

    /// Returns the kernel's name in profiles.
    fn name(&self) -> &'static str {
        let path = std::any::type_name::<Self>();
        path.split_once("kernels::").map_or(path, |(_, name)| name)
    }

    /// Tells whether the kernel itself tells a tracer what it does.
    fn traces_inside(&self) -> bool {
        false
    }

    /// Tells whether a run reads this input.
    /// Constants that were packed are not read.
    fn reads(&self, input: usize) -> bool {
        let _ = input;
        true
    }
}

/// A constant of a program.
pub(crate) struct Constant {
    pub(crate) name: Arc<str>,
    pub(crate) content: Tensor,
}

/// Returns the distance of neighbours in each dimension of a tensor whose elements lie in order.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

/// The scalar operations that make handing a task to a thread worthwhile.
const TASK: usize = 1 << 13;

/// The longest dimension for whose positions a kernel keeps a table.
/// A model chooses its sizes, and the question whether there is a kernel must not take the memory
/// that a run of it would take.
const TABLE: usize = 1 << 20;

/// The most entries of a kernel's table with one entry for each position of a plane or of a batch.
const PLACES: usize = 1 << 24;

/// Tells whether a table of this many entries in each dimension may be kept.
fn keeps_table(sizes: &[usize], most: usize) -> bool {
    hetero_hal::element_count(sizes).is_some_and(|count| count <= most) && sizes.iter().all(|&size| size <= most)
}

/// The data that a run has beside its operands.
pub(crate) struct Runtime<'a> {
    /// The true sizes of dimensions that depend on data.
    pub(crate) extents: Option<&'a Extents>,
    /// The device's threads.
    pub(crate) pool: &'a Pool,
    /// The device's own.
    pub(crate) shared: &'a Shared,
    /// The memory that is left on the device, and the run's deadline.
    pub(crate) allowance: Allowance,
    /// Who is told of the steps.
    pub(crate) tracer: Option<&'a Tracer>,
    /// Whether a kernel was ended by the deadline, with a result that is not whole.
    late: AtomicBool,
}

/// The scalar operations of a piece of work after which the deadline is looked at, at the latest.
const LOOK: usize = 1 << 26;

impl<'a> Runtime<'a> {
    pub(crate) fn new(extents: Option<&'a Extents>, shared: &'a Shared, allowance: Allowance) -> Self {
        Runtime { extents, pool: &shared.pool, shared, allowance, tracer: None, late: AtomicBool::new(false) }
    }

    /// Returns the same runtime, whose steps this tracer is told of.
    pub(crate) fn told(self, tracer: Option<&'a Tracer>) -> Self {
        Runtime { tracer, ..self }
    }

    /// Returns the content of a late value.
    ///
    /// # Errors
    /// `Internal` where nothing has made it.
    pub(crate) fn late(&self, id: LateId) -> Result<Tensor> {
        self.extents.ok_or_else(|| Error::internal("a run has no room for late values"))?.late(id)
    }

    /// Keeps the content of a late value, whose bytes count against the device's memory for as long
    /// as anybody holds them.
    ///
    /// # Errors
    /// `OutOfMemory` where the device's limit forbids it.
    pub(crate) fn put(&self, id: LateId, content: Tensor) -> Result<()> {
        let extents = self.extents.ok_or_else(|| Error::internal("a run has no room for late values"))?;
        extents.put(id, memory::counted(content, &self.shared.id, &self.shared.budget)?)
    }

    /// Does pieces of work on the device's threads, as [`Pool::for_each`] does, until the deadline.
    /// A deadline that passed is an error of [`Runtime::check`], which is called after each step.
    pub(crate) fn for_each(&self, pieces: usize, body: impl Fn(usize, usize) + Sync) {
        self.pool.for_each(pieces, |number, thread| {
            // Reading the clock takes as long as some pieces do, so not each of them does so.
            if number % 4 == 3 && self.allowance.check().is_err() {
                self.late.store(true, Ordering::Relaxed);
            }
            if !self.late.load(Ordering::Relaxed) {
                body(number, thread);
            }
        });
    }

    /// Checks whether the run may go on.
    ///
    /// # Errors
    /// `Timeout` once its deadline has passed.
    pub(crate) fn check(&self) -> Result<()> {
        self.allowance.check()
    }

    /// Checks whether all that was done since the run began is whole.
    ///
    /// # Errors
    /// `Timeout` where the deadline ended a kernel.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.late.load(Ordering::Relaxed) { self.check() } else { Ok(()) }
    }

    /// Returns into how many tasks `count` pieces of work are divided that cost `cost` scalar
    /// operations each.
    /// There are enough tasks for all threads to be busy until the end, and each task is still
    /// worth handing over; and no task is so long that the deadline waits for it.
    pub(crate) fn pieces(&self, count: usize, cost: usize) -> usize {
        let work = count.saturating_mul(cost);
        (work / TASK).clamp(1, self.pool.threads() * 8).max(work / LOOK).min(count)
    }
}

/// The way in which a node is supported.
pub(crate) enum Support {
    /// A kernel of this crate supports the node.
    Native,
    /// The reference implementation supports the node; the word says why no kernel does.
    Oracle(&'static str),
}

/// A node with its program, from which kernels are made.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) program: &'a Program,
    pub(crate) node: &'a Node,
    /// The instruction set that kernels are made for.
    pub(crate) isa: Isa,
    /// The source of packed weights; `None` where the question is only whether there is a kernel.
    pub(crate) weights: Option<Packer<'a>>,
}

impl<'a> Site<'a> {
    pub(crate) fn operator(&self) -> &'a Operator {
        &self.node.operator
    }

    /// Returns an input's value, where it is there.
    pub(crate) fn input(&self, index: usize) -> Option<&'a ProgramValue> {
        let id = self.node.inputs.get(index).copied().flatten()?;
        self.program.values().get(id.index())
    }

    /// Returns an output's value, where it is wanted.
    pub(crate) fn output(&self, index: usize) -> Option<&'a ProgramValue> {
        let id = self.node.outputs.get(index).copied().flatten()?;
        self.program.values().get(id.index())
    }

    /// Returns the shape of an input, or `None` where it is left out.
    pub(crate) fn shape(&self, index: usize) -> Option<&'a [usize]> {
        self.input(index).map(|value| value.shape.as_slice())
    }

    /// Returns an input's content, where it is constant.
    pub(crate) fn constant(&self, index: usize) -> Option<&'a Tensor> {
        self.input(index)?.constant.as_ref()
    }

    /// Returns an input in the form in which a kernel reads it, with the given number of elements,
    /// where it is constant and weights are packed.
    /// `layout` says all that `pack` depends on beside the constant.
    /// Weights of 16 bits keep them.
    fn packed(
        &self,
        index: usize,
        layout: Text<'_>,
        elements: usize,
        pack: impl Fn(&[f32]) -> Result<Floats> + Send + Sync + 'static,
    ) -> Result<Option<Panels>> {
        let (Some(weights), Some(value)) = (self.weights, self.input(index)) else { return Ok(None) };
        let Some(content) = &value.constant else { return Ok(None) };
        let half = Half::of(content.dtype());
        let make = move |sources: &[Tensor]| {
            let packed = pack(&floats(&sources[0])?)?;
            match half {
                None => Ok(packed),
                Some(half) => narrowed(half, &packed),
            }
        };
        // One of 16 bits is packed as f32 first.
        let wide = if half.is_some() { elements.saturating_mul(size_of::<f32>()) } else { 0 };
        let beside = widened_bytes(content).saturating_add(wide);
        let layout = (&*layout.to_string(), Panels::words(half, elements), beside);
        let packed = weights.get(&value.name, std::slice::from_ref(content), layout, make)?;
        Ok(Some(Panels { packed, half }))
    }

    /// Returns all values that the node touches.
    fn values(&self) -> impl Iterator<Item = &'a ProgramValue> {
        let (program, node) = (self.program, self.node);
        node.uses().chain(node.outputs.iter().flatten().copied()).filter_map(|id| program.values().get(id.index()))
    }

    /// Tells whether all inputs and outputs have this element type.
    pub(crate) fn all(&self, dtype: DType) -> bool {
        self.values().all(|value| value.dtype == dtype)
    }
}

/// Tells whether this device computes on an element type.
pub(crate) fn computes(dtype: DType) -> bool {
    // Strings and sequences have no bytes, and nothing in the standard computes on pairs.
    dtype.bits() > 0 && !matches!(dtype, DType::C64 | DType::C128)
}

/// Returns how a node is supported, or `None` where it is not.
pub(crate) fn support(program: &Program, node: &Node, isa: Isa) -> Option<Support> {
    let site = Site { program, node, isa, weights: None };
    Standard.find(&node.operator)?;
    // The reference implementation computes on strings too.
    if !site.values().all(|value| computes(value.dtype) || value.dtype.bits() == 0) {
        return None;
    }
    if node.subgraphs().next().is_some() {
        return Some(if control::suits(site) { Support::Native } else { Support::Oracle(plain::reason(site)) });
    }
    if finders::find(site).is_some() {
        return Some(Support::Native);
    }
    // Where a region compiles the node for the sizes of each run, the bounds stand for these.
    let open = site.values().any(ProgramValue::is_dynamic);
    if may_be_in_a_region(program, node) && site.values().any(|value| value.late.is_some()) {
        // Nothing is known of the shape, and the run of the region finds the kernel for it.
        return Some(Support::Native);
    }
    let of = |site| if open && may_be_in_a_region(program, node) { of_bounds(site) } else { native(site) };
    if matches!(of(site), Ok(Some(_))) || in_bytes(site) {
        return Some(Support::Native);
    }
    // Where there is no kernel for 16 bits, the one for f32 does.
    let wide = wide::alone(program, node);
    let made = wide.as_ref().map(|wide| wide.nodes().iter().map(|node| of(Site { program: wide, node, ..site })));
    match made.and_then(|mut made| made.next()) {
        Some(Ok(Some(_))) => Some(Support::Native),
        _ => Some(Support::Oracle(plain::reason(site))),
    }
}

/// Tells whether lowering makes a convolution of bytes of a node, which has no other kernel.
fn in_bytes(site: Site<'_>) -> bool {
    let is_one = site.operator().is("QLinearConv") || site.operator().is("ConvInteger");
    is_one && crate::lower::quantised::takes(site)
}

/// Makes the native kernel for a node, where there is one for its types and shapes.
pub(crate) fn native(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Native kernels are made for exact shapes.
    if site.values().any(ProgramValue::is_dynamic) { Ok(None) } else { of_bounds(site) }
}

/// Makes the native kernel for a node as if its bounds were its sizes.
fn of_bounds(site: Site<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Elements of native kernels are bytes, and share none.
    let whole = |value: &ProgramValue| value.dtype.bits() > 0 && value.dtype.bits().is_multiple_of(8);
    if !site.values().all(whole) {
        return Ok(None);
    }
    match (&*site.operator().domain, &*site.operator().name) {
        ("", _) => {}
        (ml::DOMAIN, "TreeEnsemble" | "TreeEnsembleClassifier" | "TreeEnsembleRegressor") => {
            return trees::compile(site);
        }
        // The other operators of this domain have bodies of the standard's.
        ("com.microsoft", "MatMulNBits") => return nbits::compile(site),
        ("com.microsoft", "DynamicQuantizeLSTM") => return lstm::compile(site),
        _ => return Ok(None),
    }
    match &*site.operator().name {
        "Conv" => conv::compile(site),
        "ConvTranspose" => transposed::compile(site),
        "MaxPool" if site.output(1).is_some() => maxima::pool(site),
        "MaxUnpool" => maxima::unpool(site),
        "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => pooling::compile(site),
        "Gemm" => matmul::gemm(site),
        "MatMul" => matmul::matmul(site),
        "MatMulInteger" => quantised::matmul::integer(site),
        "QLinearMatMul" => quantised::qlinear::compile(site),
        "QuantizeLinear" => quantised::linear::quantize(site),
        "DequantizeLinear" => quantised::linear::dequantize(site),
        "DynamicQuantizeLinear" => quantised::linear::dynamic(site),
        "Attention" => attention::compile(site),
        "Einsum" => einsum::compile(site),
        "LSTM" => lstm::compile(site),
        "GRU" => gru::compile(site),
        "RNN" => rnn::compile(site),
        "BatchNormalization" => normalize::batch(site),
        "LRN" => normalize::lrn(site),
        "LayerNormalization" | "RMSNormalization" => moments::layer(site),
        "InstanceNormalization" | "GroupNormalization" => moments::channels(site),
        "MeanVarianceNormalization" => moments::mean_variance(site),
        "Softmax" | "LogSoftmax" => lines::softmax(site),
        "LpNormalization" => lines::lp(site),
        "Identity" | "Dropout" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => movement::copy(site),
        "Cast" | "CastLike" => cast::compile(site),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" => convert::compare(site),
        "ArgMax" | "ArgMin" => arg::compile(site),
        name if name.starts_with("Reduce") => reduce::compile(site),
        "IsNaN" | "IsInf" => numbers::kinds(site),
        "And" | "Or" | "Xor" | "Not" => numbers::logic(site),
        "Concat" => movement::concat(site),
        "Split" => movement::split(site),
        "Transpose" | "Expand" | "Slice" | "Tile" | "DepthToSpace" | "SpaceToDepth" => movement::view(site),
        "Gather" => select::gather(site),
        "GatherElements" => select::gather_elements(site),
        "GatherND" => scatter::gather_blocks(site),
        "ScatterElements" | "Scatter" => scatter::elements(site),
        "ScatterND" => scatter::blocks(site),
        "TopK" => top::compile(site),
        "CumSum" | "CumProd" => running::compile(site),
        "Trilu" => bytes::triangle(site),
        "ReverseSequence" => bytes::reverse(site),
        "CenterCropPad" => bytes::center(site),
        "OneHot" => bytes::one_hot(site),
        "GridSample" => sample::grid(site),
        "RoiAlign" => sample::regions(site),
        "RotaryEmbedding" => rotary::compile(site),
        "DFT" => spectral::dft(site),
        "STFT" => spectral::stft(site),
        "Where" => select::choose(site),
        "Pad" => pad::compile(site),
        "Resize" | "Upsample" => resize::compile(site),
        _ if site.all(DType::F32) => match elementwise::compile(site)? {
            Some(kernel) => Ok(Some(kernel)),
            None => numbers::singles(site),
        },
        _ => numbers::compile(site),
    }
}
