//! Kernels that devices share: one source for each family of operators, and the lowering of
//! programs to launches of kernels.
//!
//! [`lower`] turns a [`Program`] into [`Launch`]es over bound buffers, constants and one scratch
//! buffer.
//! The kernels are written once, in a small C (`src/sources`, described in `language`), and become
//! OpenCL C, CUDA C for NVRTC, or WGSL.
//! Element-wise nodes are put together into one kernel, or behind the kernel whose result they
//! change.
//! Shapes are numbers of a launch and not part of the text, so that a network needs few kernels.
//! A backend compiles the texts, uploads the constants and replays the launches in order, by its
//! own means.
//!
//! This crate knows [`hetero_hal`]'s programs, so it stands above floor 0, where a mere collection
//! of texts would stand.
//! The reason is that OpenCL, CUDA and WebGPU devices share more than the text of kernels: they
//! share the choice of the kernels that a program needs.
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
mod faults;
mod fold;
mod language;
mod lower;
mod site;

use hetero_hal::{Claim, NodeId, Program};

pub use faults::{FaultWords, KernelFault};
pub use language::{Access, Dialect};
pub use lower::{BufferRange, Kernel, Launch, Lowered, Place, lower, support};

/// Returns a claim for each node that kernels can do, each node by itself.
#[must_use]
pub fn claims(program: &Program, target: &Target) -> Vec<Claim> {
    let claim = |(id, node)| {
        support(program, node, target).ok()?;
        Some(Claim::native(id))
    };
    program.node_ids().filter_map(claim).collect()
}

/// Returns why kernels cannot do a node, or `None` where they can or there is no such node.
#[must_use]
pub fn refusal(program: &Program, node: NodeId, target: &Target) -> Option<String> {
    support(program, program.nodes().get(node.index())?, target).err()
}

/// Tells whether kernels for this device compute on elements of a type.
#[must_use]
pub fn computes(dtype: hetero_hal::DType, target: &Target) -> bool {
    match language::Scalar::of(dtype) {
        None => false,
        Some(language::Scalar::Long | language::Scalar::Ulong) => target.long,
        Some(_) => dtype != hetero_hal::DType::F16 || target.half,
    }
}

/// The properties of a device that lowering must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The language that the device's compiler takes.
    pub dialect: Dialect,
    /// Whether elements may be 16-bit floats, which are computed in 32 bits.
    pub half: bool,
    /// Whether there are 64-bit integers.
    pub long: bool,
    /// Whether groups share memory of their own, so that tiles in it pay.
    /// Tiles do not pay where work items are lanes of a processor's vectors.
    pub tiles: bool,
    /// The largest number of work items in a group.
    pub items: u32,
    /// The bytes of memory that a work group shares.
    pub local_bytes: u32,
    /// The largest number of work groups along one dimension.
    pub groups: u32,
    /// The largest number of buffers that a kernel binds.
    pub buffers: u32,
    /// The largest number of bytes of a kernel's arguments: 8 for a buffer and 4 for a number.
    pub argument_bytes: u32,
    /// The largest number of bytes that are bound as one buffer; a larger buffer is bound in
    /// pieces.
    pub binding_bytes: u64,
    /// The alignment of bound ranges, in bytes.
    pub alignment: usize,
}

impl Target {
    /// Returns a device with the least that drivers of this dialect promise: for WGSL, neither
    /// 16-bit floats nor 64-bit integers.
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
            argument_bytes: if wgsl { 16 << 10 } else { 1024 },
            binding_bytes: if wgsl { 128 << 20 } else { u64::MAX },
            alignment: if wgsl { 256 } else { 128 },
        }
    }
}
