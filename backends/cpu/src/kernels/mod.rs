//! Kernels: one type per family, made for a node's shapes, run many times.

mod conv;
mod elementwise;
mod lstm;
mod matmul;
mod movement;
mod normalize;
mod oracle;
mod pool;

use hetero_hal::{DType, Extents, Node, Operator, OperatorSet, Program, ProgramValue, Result, Tensor};
use hetero_reference::Standard;

use crate::operand::Arguments;

/// A compiled node.
pub(crate) trait Kernel: Send + Sync {
    /// Computes the outputs, on the threads of the pool that it is called in.
    fn run(&self, arguments: &mut Arguments<'_>, runtime: &Runtime<'_>) -> Result<()>;

    /// Bytes of memory that a run needs besides its operands.
    fn workspace(&self) -> usize {
        0
    }

    /// Inputs whose memory the first output may share.
    fn in_place(&self) -> &'static [usize] {
        &[]
    }
}

/// What a run knows beside its operands.
pub(crate) struct Runtime<'a> {
    /// True sizes of what depends on data.
    pub(crate) extents: Option<&'a Extents>,
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
    program: &'a Program,
    pub(crate) node: &'a Node,
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
pub(crate) fn support(program: &Program, node: &Node) -> Option<Support> {
    let site = Site { program, node };
    Standard.find(&node.operator)?;
    if !site.values().all(|value| computes(value.dtype)) {
        return None;
    }
    match native(site) {
        Ok(Some(_)) => Some(Support::Native),
        _ => Some(Support::Oracle),
    }
}

/// The kernel for a node.
pub(crate) fn compile(program: &Program, node: &Node) -> Result<Box<dyn Kernel>> {
    let site = Site { program, node };
    match native(site)? {
        Some(kernel) => Ok(kernel),
        None => Ok(Box::new(oracle::Oracle::new(site)?)),
    }
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
        "MaxPool" | "AveragePool" | "GlobalAveragePool" | "GlobalMaxPool" => pool::compile(site),
        "Gemm" => matmul::gemm(site),
        "MatMul" => matmul::matmul(site),
        "LSTM" => lstm::compile(site),
        "BatchNormalization" => normalize::batch(site),
        "LRN" => normalize::lrn(site),
        "Softmax" => normalize::softmax(site),
        "Identity" | "Dropout" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => movement::copy(site),
        "Concat" => movement::concat(site),
        "Transpose" => movement::transpose(site),
        _ => elementwise::compile(site),
    }
}
