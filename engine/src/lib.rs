//! hetero: a compute layer between AI frameworks and chips of many kinds.
//!
//! A [`HeteroEngine`] reads a model, binds it to shapes, rewrites it with [`passes`], gives each
//! node to the device that suits it, and replays the plan.
//! Backends are feature flags; drivers, partitioners, cost models, transports and passes of your
//! own are registered on the engine's builder, as is a [`Placement`] of nodes by hand.
//!
//! The engine is a [`Fleet`] and a planner.
//! The fleet has the devices, how much each is wanted ([`Policy`]), how they reach each other, and
//! which were lost; it is all that a session knows of the engine.
//!
//! Before a device is used for the first time with its driver, it is [examined](Examination): a
//! driver that computes wrongly, crashes or hangs is not used.
//!
//! A [`Session`] is a compiled plan, ready to run.
//! Partitions that do not depend on each other run at the same time.
//! Between devices that both import host memory, a value passes without a copy.
//! [`Session::report`] says what passes on which edge, why something is copied, and whether a
//! driver or the host waits.
//! Several runs may be under way: on threads of the caller's, begun by [`Session::start`], or as a
//! pipeline with [`Session::stream`].
//! A [`Run`] and a [`Stream`] own their session, and [`Session::max_in_flight`] bounds how many
//! runs there are.
//! Large results of a device whose memory is the host's are written in place, into pages that the
//! returned tensors hold; [`Session::run_to`] writes outputs into memory of the caller's.
//! Where a device is lost, the run fails with one error that names it, and [`HeteroEngine::run`]
//! goes on without it.
//! A caller that holds a session goes on by [`HeteroEngine::recover`].
//!
//! ```
//! use hetero::{DeviceOptions, HeteroEngine, Tensor};
//! # use hetero::hal::{Graph, Model, Node, Operator, TensorType, DType, Value, ValueId};
//! # let model = Model {
//! #     graph: Graph {
//! #         name: "rectifier".into(),
//! #         values: vec![
//! #             Value { name: "x".into(), ty: TensorType::exact(DType::F32, &[3]), constant: None },
//! #             Value { name: "y".into(), ..Value::default() },
//! #         ],
//! #         nodes: vec![Node {
//! #             name: "relu".into(),
//! #             operator: Operator::new("Relu", 17),
//! #             inputs: vec![Some(ValueId(0))],
//! #             outputs: vec![Some(ValueId(1))],
//! #         }],
//! #         inputs: vec![ValueId(0)],
//! #         outputs: vec![ValueId(1)],
//! #         captures: vec![],
//! #     },
//! #     opsets: [("".into(), 17)].into(),
//! #     ..Model::default()
//! # };
//!
//! let mut engine = HeteroEngine::new()?;
//! engine.add_device("CPU:0", DeviceOptions::default())?;
//! // let model = hetero::read_model("model.onnx")?;
//! let plan = engine.analyze_model(&model)?;
//! let outputs = engine.run(&[("x", Tensor::from_vec(&[3], vec![-1.0f32, 0.0, 2.0])?)], &plan)?;
//! assert_eq!(&*outputs.tensor("y")?.view::<f32>()?, [0.0, 0.0, 2.0]);
//! # Ok::<(), hetero::Error>(())
//! ```

#![forbid(unsafe_code)]

mod annotated;
mod builder;
mod cache;
mod config;
mod covered;
mod engine;
mod error;
mod fleet;
mod join;
mod loaded;
mod names;
pub mod passes;
mod place;
mod plan;
mod planner;
mod policy;
mod problem;
mod replan;
mod running;
mod session;
mod share;
mod slow;

pub use builder::{Builder, builtin_drivers};
pub use config::{Config, DeviceParams, Scheduling, Strategy};
pub use engine::HeteroEngine;
pub use error::{ConfigError, Error, Result};
pub use fleet::{AbsentDevice, Fleet};
pub use hetero_comm as comm;
pub use hetero_costs as costs;
pub use hetero_costs::{Calibrated, CostModel, Family, Roofline, bytes, flops, signatures};
pub use hetero_examine::{Examination, Failure, FailureKind, Verdict, answer_examination, is_examination};
pub use hetero_hal as hal;
pub use hetero_hal::{DType, Model, OpenOptions as DeviceOptions, Tensor};
pub use hetero_onnx::{
    Binding, Error as ModelError, ReadOptions, bind, check_operators, read as read_model,
    read_bytes as read_model_bytes, read_bytes_within as read_model_bytes_within, read_tensor, read_value,
    read_with as read_model_with, value_to_bytes,
};
pub use hetero_scheduler as scheduler;
pub use loaded::LoadedModel;
pub use place::Placement;
pub use plan::Plan;
pub use planner::PlanTiming;
pub use policy::Policy;
pub use session::{HostOutput, OutputBuffer, Outputs, Port, Report, Run, Session, Stream, TileShare, Traffic};
pub use share::{PlacementShare, PlacementShares};
pub use slow::{SlowGroup, SlowNodes};
