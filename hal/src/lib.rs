//! The contract of hetero: what engines ask for and backends offer.
//!
//! A [`Driver`] finds and opens [`Device`]s. A device compiles a [`Program`], a graph of standard ONNX operators with static shapes, into an
//! [`Executable`]; its [`Queue`]s run executables on [`Buffer`]s, ordered by [`Timeline`]s and by nothing else. A [`Model`] is what a
//! file holds before anybody has said which sizes to run with; a [`Definition`] says what an operator means; a [`Topology`] says how
//! devices reach each other's memory; an [`Error`] is a value that travels.
//!
//! ```
//! use hetero_hal::{Graph, Node, Operator, Program, TensorType, DType, Value, ValueId};
//!
//! // y = Relu(x), over four floats.
//! let value = |name: &str| Value {
//!     name: name.into(),
//!     ty: TensorType::exact(DType::F32, &[4]),
//!     constant: None,
//! };
//! let graph = Graph {
//!     name: "rectifier".into(),
//!     values: vec![value("x"), value("y")],
//!     nodes: vec![Node {
//!         name: "relu".into(),
//!         operator: Operator::new("Relu", 14),
//!         inputs: vec![Some(ValueId(0))],
//!         outputs: vec![Some(ValueId(1))],
//!     }],
//!     inputs: vec![ValueId(0)],
//!     outputs: vec![ValueId(1)],
//!     captures: vec![],
//! };
//! let program = Program::new(graph, vec![])?;
//! assert_eq!(program.value(program.outputs()[0])?.bytes(), 16);
//! # Ok::<(), hetero_hal::Error>(())
//! ```
//!
//! # Where the shape departs from a first sketch, and why
//! - An [`Operator`] is a name, a version and attributes, not an enum with a variant for each: operators of other domains and functions
//!   pass through untouched, and adding one changes no type here.
//! - A part of a buffer is a [`Buffer`] too, so that bindings, copies and arenas need no second noun.
//! - Methods are safe to call, yet nothing here orders accesses but the caller's points. Two accesses that nothing orders, one of them a
//!   write, leave unspecified bytes. A validating layer finds such callers; devices do not pay for it.

#![forbid(unsafe_code)]

mod binding;
mod device;
mod driver;
mod dtype;
mod error;
mod fingerprint;
mod graph;
mod memory;
mod model;
mod operators;
mod program;
mod queue;
mod telemetry;
mod tensor;
mod timeline;
mod topology;
mod trace;
mod weight;

pub use binding::{BindingInfo, BindingTable, BoundBuffers, Direction};
pub use device::{
    Capabilities, Claim, CompileOptions, Device, Executable, KernelFormat, KernelSignature, Quality, Source,
};
pub use driver::{DeviceId, DeviceInfo, DeviceKind, Driver, OpenOptions, Unavailable, UnavailableReason};
pub use dtype::{Bool, DType, Element};
pub use error::{Error, ErrorKind, Result, Sizes};
pub use fingerprint::Fingerprint;
pub use graph::{Attribute, Capture, Dim, ExtentId, Graph, Node, NodeId, Operator, TensorType, Value, ValueId};
pub use memory::{
    Buffer, BufferLayout, ExternalMemory, HandleKind, HostMemory, HostSemantics, Memory, MemoryKind, check_range,
};
pub use model::Model;
pub use operators::{
    Definition, EvaluateFn, Evaluation, FlopsFn, InferFn, Inference, InputFact, OperatorSet, SubgraphFn,
};
pub use program::{Extent, Program, ProgramValue};
pub use queue::{Execution, Extents, HostTask, Operation, Queue, QueueOptions, Work, submit_and_wait};
pub use telemetry::Telemetry;
pub use tensor::{Tensor, element_count};
pub use timeline::{Callback, NativeTimeline, Point, Timeline, Watcher};
pub use topology::{Edge, Reach, SyncMode, Topology};
pub use trace::{TraceEvent, TraceKind, TraceSink};
pub use weight::{Weight, distinct_weights};
