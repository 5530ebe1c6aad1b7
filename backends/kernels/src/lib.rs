//! Kernels that devices share: one source per family of operators, and the lowering of programs to launches of them.
//!
//! [`lower`] turns a [`Program`] into [`Launch`]es over bound buffers, constants and one scratch buffer. The kernels are written once, in a
//! small C (`src/sources`, described in `language`), and become OpenCL C, CUDA C for NVRTC, or WGSL. Element-wise nodes are put together into one kernel, or
//! behind the kernel whose result they change; shapes are numbers of a launch, not of a text, so that a network needs few kernels. A backend
//! compiles the texts, uploads the constants and replays the launches in order; how it does so is its own affair.
//!
//! This crate knows [`hetero_hal`]'s programs, so it stands above floor 0, where a mere collection of texts would be: what OpenCL, CUDA and WebGPU devices have
//! in common is not the text of kernels alone but which of them a program needs.
//!
//! ```
//! use hetero_hal::{DType, Graph, Node, Operator, Program, TensorType, Value, ValueId};
//! use hetero_kernels::{Dialect, Target, lower};
//!
//! let value = |name: &str| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[2, 3]), constant: None };
//! let graph = Graph {
//!     values: vec![value("x"), value("y")],
//!     nodes: vec![Node {
//!         name: "relu".into(),
//!         operator: Operator::new("Relu", 14),
//!         inputs: vec![Some(ValueId(0))],
//!         outputs: vec![Some(ValueId(1))],
//!     }],
//!     inputs: vec![ValueId(0)],
//!     outputs: vec![ValueId(1)],
//!     ..Graph::default()
//! };
//! let lowered = lower(&Program::new(graph, vec![])?, &Target::new(Dialect::OpenClC))?;
//! assert_eq!(lowered.launches.len(), 1);
//! assert!(lowered.kernels[0].code.contains("__kernel"));
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

mod draft;
mod elementwise;
mod families;
mod fold;
mod language;
mod lower;
mod site;

use hetero_hal::{Claim, NodeId, Program};

pub use language::{Access, Dialect};
pub use lower::{BufferRange, Kernel, Launch, Lowered, Place, lower, support};

/// Claims of each node that kernels can do, each by itself.
#[must_use]
pub fn claims(program: &Program, target: &Target) -> Vec<Claim> {
    let claim = |(id, node)| {
        support(program, node, target).ok()?;
        Some(Claim::native(id))
    };
    program.node_ids().filter_map(claim).collect()
}

/// Why kernels cannot do a node; `None` where they can, or there is no such node.
#[must_use]
pub fn refusal(program: &Program, node: NodeId, target: &Target) -> Option<String> {
    support(program, program.nodes().get(node.index())?, target).err()
}

/// Do kernels for this device compute on elements of a type?
#[must_use]
pub fn computes(dtype: hetero_hal::DType, target: &Target) -> bool {
    match language::Scalar::of(dtype) {
        None => false,
        Some(language::Scalar::Long | language::Scalar::Ulong) => target.long,
        Some(_) => dtype != hetero_hal::DType::F16 || target.half,
    }
}

/// What lowering must know of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What its compiler takes.
    pub dialect: Dialect,
    /// May elements be 16-bit floats? They are computed in 32 bits.
    pub half: bool,
    /// Are there 64-bit integers?
    pub long: bool,
    /// Do groups share memory of their own, so that tiles in it pay? Where work items are lanes of a processor's vectors, they don't.
    pub tiles: bool,
    /// Most work items of a group.
    pub items: u32,
    /// Bytes of memory that a work group shares.
    pub local_bytes: u32,
    /// Most work groups along one dimension.
    pub groups: u32,
    /// Most buffers that a kernel binds.
    pub buffers: u32,
    /// Most bytes of a buffer that are bound as one; a larger one is bound in pieces.
    pub binding_bytes: u64,
    /// Alignment of what is bound, in bytes.
    pub alignment: usize,
}

impl Target {
    /// A device of the least that drivers of this dialect promise, and no narrower types than 32 bits' floats.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let wgsl = dialect == Dialect::Wgsl;
        Target {
            dialect,
            half: !wgsl,
            long: !wgsl,
            tiles: true,
            items: 256,
            local_bytes: 16 << 10,
            groups: 65_535,
            buffers: if wgsl { 8 } else { 64 },
            binding_bytes: if wgsl { 128 << 20 } else { u64::MAX },
            alignment: if wgsl { 256 } else { 128 },
        }
    }
}
