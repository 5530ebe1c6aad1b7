//! What can go wrong in the engine.

use std::path::PathBuf;

use crate::config::ConfigError;

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the engine could not do what was asked.
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
        /// Why not, and what there is instead.
        reason: String,
    },
    /// There is a budget of energy, and nothing says what a device spends.
    #[error(
        "the energy budget of {budget} J cannot be kept: nothing says what {device} spends; set its device_params.watts"
    )]
    UnknownEnergy {
        /// The device's id.
        device: String,
        /// Joules.
        budget: f64,
    },
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A driver that nobody registered, or that has no device here.
    #[error("device '{device}': {reason}")]
    UnknownDevice {
        /// What was asked for.
        device: String,
        /// Why there is no such device, and what to do.
        reason: String,
    },
    /// A required device that has no part in a plan.
    #[error("{device} is required: {reason}")]
    Required {
        /// The device's id.
        device: String,
        /// Why it has none, and what to do.
        reason: String,
    },
    /// Inputs that the model does not take.
    #[error("input '{name}': {reason}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An output that the model does not have.
    #[error("the model has no output '{name}'; it has '{known}'")]
    Output {
        /// The output.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
}
