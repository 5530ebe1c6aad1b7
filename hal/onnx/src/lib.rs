//! ONNX files for hetero: reads and writes models, infers shapes and types, and binds a model to
//! shapes.
//!
//! A model's file, and what its tensors name of external data in its folder, is read into memory
//! once, and weights are slices of that.
//! So nothing that happens to a file reaches a model that was read; [`ReadOptions::map`] gives that
//! up for models that are large.
//! Symbolic dimensions, subgraphs and optional inputs are kept; functions that a file defines are
//! expanded.
//! The meaning of operators comes from an [`OperatorSet`](hetero_hal::OperatorSet), usually from
//! `hetero-reference`.
//!
//! ```
//! use hetero_hal::{DType, Graph, Model, Node, Operator, TensorType, Value, ValueId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // y = Relu(x), for any batch.
//! let dims = vec![hetero_hal::Dim::Symbol("batch".into()), hetero_hal::Dim::Known(3)];
//! let model = Model {
//!     graph: Graph {
//!         name: "rectifier".into(),
//!         values: vec![
//!             Value { name: "x".into(), ty: TensorType::new(DType::F32, dims), constant: None },
//!             Value { name: "y".into(), ..Value::default() },
//!         ],
//!         nodes: vec![Node {
//!             name: "relu".into(),
//!             operator: Operator::new("Relu", 17),
//!             inputs: vec![Some(ValueId(0))],
//!             outputs: vec![Some(ValueId(1))],
//!         }],
//!         inputs: vec![ValueId(0)],
//!         outputs: vec![ValueId(1)],
//!         captures: vec![],
//!     },
//!     opsets: [("".into(), 17)].into(),
//!     ..Model::default()
//! };
//! let read_again = hetero_onnx::read_bytes(hetero_onnx::to_bytes(&model)?.into())?;
//!
//! let mut binding = hetero_onnx::Binding::default();
//! binding.shapes.insert("x".into(), vec![8, 3]);
//! let bound = hetero_onnx::bind(&read_again, &binding, &hetero_reference::Standard)?;
//! assert_eq!(bound.symbols["batch"], 8);
//! assert_eq!(bound.program.value(bound.program.outputs()[0])?.shape, [8, 3]);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod bind;
mod body;
mod branches;
mod data;
mod early;
mod error;
// Memory maps are the only part of this crate that safe Rust cannot express.
#[allow(unsafe_code)]
mod files;
mod functions;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_files;
mod import;
mod infer;
mod open;
mod parts;
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[rustfmt::skip]
mod proto;
mod read;
mod tensor;
mod weigh;
mod write;

pub use bind::{Binding, BoundModel, bind};
pub use body::{BodyOutput, BoundBody, Given, unchanged};
pub use error::{Error, MissingOperator, MissingOperators, Result};
pub use files::ReadOptions;
pub use infer::{Inferred, check_operators, infer, infer_expanding};
pub use read::{read, read_bytes, read_bytes_within, read_tensor, read_value, read_with};
pub use write::{model_of, to_bytes, value_to_bytes, write};

/// The oldest version of the standard's operator set that is read.
/// Before version 7 some operators broadcast by attributes; these are reported as missing where the
/// file does not tell the ranks of their inputs.
pub const OLDEST_OPSET: u32 = 1;
/// The newest version of the standard's operator set that is read.
pub const NEWEST_OPSET: u32 = 27;
