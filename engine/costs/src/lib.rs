//! Cost models: how long a node of a program takes on a device.
//!
//! A [`CostModel`] answers in seconds, and in joules where it knows them.
//! There are two here, and a planner takes any other:
//!
//! - [`Roofline`] guesses from a node's [`flops()`] and [`bytes()`] and from what drivers say of
//!   their devices.
//! - [`Calibrated`] answers by a [`Profile`](hetero_comm::Profile) of measurements: by what nodes
//!   of the same signature ([`signatures()`]) took in runs of whole models, else by a roofline
//!   fitted to the node's [`Family`] on that device.
//!
//! The crate stands below the engine and knows neither plans nor sessions.
//! It measures nothing: the command `hetero calibrate` makes profiles.
//!
//! ```
//! use std::sync::Arc;
//! use hetero_costs::{CostModel, Roofline, bytes};
//! use hetero_hal::{
//!     DType, DeviceId, DeviceInfo, DeviceKind, Graph, Node, Operator, Program, Quality, TensorType, Value, ValueId,
//! };
//! use hetero_reference::Standard;
//!
//! let value = |name: &str| Value {
//!     name: name.into(),
//!     ty: TensorType::exact(DType::F32, &[1_000_000]),
//!     constant: None,
//! };
//! let relu = Node {
//!     name: "relu".into(),
//!     operator: Operator::new("Relu", 17),
//!     inputs: vec![Some(ValueId(0))],
//!     outputs: vec![Some(ValueId(1))],
//! };
//! let graph = Graph {
//!     name: "rectifier".into(),
//!     values: vec![value("x"), value("y")],
//!     nodes: vec![relu],
//!     inputs: vec![ValueId(0)],
//!     outputs: vec![ValueId(1)],
//!     captures: vec![],
//! };
//! let program = Program::new(graph, vec![])?;
//! let mut chip = DeviceInfo::new(DeviceId::new("gpu", 0), DeviceKind::Gpu, "chip");
//! chip.peak_flops = Some(1e13);
//! chip.peak_bandwidth = Some(1e11);
//!
//! // The kernel reads 4 MB and writes 4 MB, at 100 GB/s, and takes some time to start.
//! let node = &program.nodes()[0];
//! assert_eq!(bytes(&program, node), 8_000_000);
//! let costs = Roofline { operators: Arc::new(Standard) };
//! let seconds = costs.seconds(&program, node, &chip, &Quality::Native);
//! assert!(seconds > 80e-6 && seconds < 100e-6);
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

mod calibrated;
mod family;
mod fit;
mod fnv;
mod model;
mod roofline;
mod signature;

pub use calibrated::Calibrated;
pub use family::Family;
pub use model::CostModel;
pub use roofline::{Roofline, bytes, flops};
pub use signature::signatures;
