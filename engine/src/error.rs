//! The errors of the engine.

use std::path::PathBuf;

/// The result of a function of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why the engine could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model cannot be read or bound.
    #[error(transparent)]
    Model(#[from] hetero_onnx::Error),
    /// A device, or the contract in front of it, answered with an error.
    #[error(transparent)]
    Device(#[from] hetero_hal::Error),
    /// There is no plan, or a plan does not fit.
    #[error(transparent)]
    Plan(#[from] hetero_scheduler::Error),
    /// A node cannot run on the device that it is pinned to.
    #[error("node '{node}' ({operator}) cannot be placed on {device}: {reason}")]
    Placement {
        /// The node's name.
        node: String,
        /// The operator's name.
        operator: String,
        /// The device's id.
        device: String,
        /// The reason why the node cannot run there, and what there is instead.
        reason: String,
    },
    /// None of the engine's devices takes a node.
    #[error("no device takes {node} on {types}: {reason}")]
    Unclaimed {
        /// The node's name and operator.
        node: String,
        /// The element types of its inputs and outputs.
        types: String,
        /// What can be done about it, or why nothing can.
        reason: String,
    },
    /// There is a budget of energy, and nothing says what a device spends.
    #[error(
        "the energy budget of {budget} J cannot be kept: nothing says what {device} spends; set its device_params.watts"
    )]
    UnknownEnergy {
        /// The device's id.
        device: String,
        /// The budget in joules.
        budget: f64,
    },
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device is unknown: nobody registered its driver, or the driver has no such device.
    #[error("device '{device}': {reason}")]
    UnknownDevice {
        /// The device that was asked for.
        device: String,
        /// The reason why there is no such device, and what to do.
        reason: String,
    },
    /// A required device has no part in a plan.
    #[error("{device} is required: {reason}")]
    Required {
        /// The device's id.
        device: String,
        /// The reason why the device has no part, and what to do.
        reason: String,
    },
    /// A plan has nodes that devices execute slowly, and
    /// [`Scheduling::deny_slow`](crate::Scheduling::deny_slow) forbids that.
    #[error(
        "{} of {} nodes would run slowly, {} of the estimated time, which is forbidden: {}", .0.len(), .0.of_nodes,
        crate::share::Percent(.0.of_time()), .0.listed(3)
    )]
    Slow(crate::slow::SlowNodes),
    /// An input does not suit the model.
    #[error("input '{name}': {reason}")]
    Input {
        /// The input's name.
        name: String,
        /// The reason why the model does not take it.
        reason: String,
    },
    /// The model does not have an output of that name.
    #[error("the model has no output '{name}'; it has '{known}'")]
    Output {
        /// The name that was asked for.
        name: String,
        /// The names of the outputs that there are.
        known: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
}

/// A key or value that is wrong, with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ConfigError {
    /// The name of the file, or of the text that stands for it.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
    /// The message: what is wrong, and the nearest valid name.
    pub message: String,
}
