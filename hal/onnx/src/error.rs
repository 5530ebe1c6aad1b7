//! Errors of reading, writing, checking and binding models.

use std::path::PathBuf;

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a model cannot be read, written or bound.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened, read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The reason, such as the operating system's.
        source: hetero_files::Error,
    },
    /// The bytes are not a protobuf message of the expected kind.
    #[error("{what} is not valid ONNX: {source}; the file may be truncated or of another format")]
    Decode {
        /// The name of the file or message that was being decoded.
        what: String,
        /// The decoder's reason.
        source: prost::DecodeError,
    },
    /// The message decodes, but breaks a rule of the standard.
    #[error("invalid model: {0}")]
    Invalid(String),
    /// External data is missing, too short, or outside the model's folder.
    #[error("external data of tensor '{tensor}': {reason}")]
    ExternalData {
        /// The name of the tensor.
        tensor: String,
        /// The text that says what is wrong.
        reason: String,
    },
    /// The model uses operators that the operator set does not define.
    #[error(transparent)]
    Missing(MissingOperators),
    /// The shapes given for the inputs do not fit the model.
    #[error("shapes do not fit the model: {0}")]
    Shapes(String),
    /// A rule of inference or an evaluation turned the model down.
    #[error(transparent)]
    Hal(#[from] hetero_hal::Error),
}

impl Error {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Error::Invalid(text.into())
    }
}

impl From<Error> for hetero_hal::Error {
    fn from(error: Error) -> Self {
        use hetero_hal::ErrorKind;
        let kind = match &error {
            Error::Hal(inner) => return inner.clone(),
            Error::Io { .. } => ErrorKind::Io,
            Error::Missing(_) => ErrorKind::Unsupported,
            Error::Shapes(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::InvalidModel,
        };
        hetero_hal::Error::new(kind, error.to_string()).caused_by(error)
    }
}

/// A report of every node whose operator the operator set does not define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingOperators(pub Vec<MissingOperator>);

/// A node whose operator the operator set does not define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingOperator {
    /// The name of the node.
    pub node: String,
    /// The operator, with its domain where that is not the standard's.
    pub operator: String,
    /// The version of the operator set that the model imports for the domain.
    pub version: u32,
}

impl std::fmt::Display for MissingOperators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} nodes use operators that hetero does not have:", self.0.len())?;
        for MissingOperator { node, operator, version } in &self.0 {
            write!(f, "\n  {operator} (opset {version}) at node '{node}'")?;
        }
        f.write_str("\nregister an operator set that defines them, or export the model without them")
    }
}

impl std::error::Error for MissingOperators {}
