//! Failures, which end a command with one readable report and an exit code.

use std::path::Path;

use miette::Diagnostic;

/// The result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The reason why a command did not do what was asked.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum Failure {
    /// The request itself is wrong.
    #[error("{message}")]
    #[diagnostic(code(hetero::usage))]
    Usage {
        message: String,
        #[help]
        help: Option<String>,
    },
    /// The run failed.
    #[error("{message}")]
    #[diagnostic(code(hetero::failed))]
    Failed {
        message: String,
        #[help]
        help: Option<String>,
    },
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Failure::Usage { message: message.into(), help: Some(help.into()) }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure::Failed { message: message.into(), help: None }
    }

    /// Returns the failure of a file that the system refused to read or write.
    pub(crate) fn file(verb: &str, path: &Path, error: &dyn std::fmt::Display) -> Self {
        Failure::failed(format!("cannot {verb} {}: {error}", path.display()))
    }

    /// Returns the exit code: 2 where the request is wrong, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage { .. } => 2,
            Failure::Failed { .. } => 1,
        }
    }
}

impl From<hetero::Error> for Failure {
    fn from(error: hetero::Error) -> Self {
        let message = error.to_string();
        match &error {
            // These errors are about words that the caller typed: a device, a configuration.
            hetero::Error::UnknownDevice { .. } => Failure::usage(message, "`hetero devices` lists what there is"),
            hetero::Error::Placement { .. } => {
                Failure::usage(message, "`hetero devices` lists devices; `hetero plan` shows what runs where")
            }
            hetero::Error::Required { .. } => Failure::Failed {
                message,
                help: Some("`--device ID?` prefers a device instead of requiring it".to_owned()),
            },
            hetero::Error::Config(_) => Failure::Usage { message, help: None },
            hetero::Error::Input { .. } => Failure::usage(message, "`hetero inspect MODEL` shows the inputs"),
            hetero::Error::Device(inner) if inner.kind() == hetero::hal::ErrorKind::InvalidArgument => {
                Failure::Usage { message, help: None }
            }
            hetero::Error::Model(hetero::ModelError::Shapes(_)) => Failure::usage(
                message,
                "`--shape NAME=1x3x224x224` sets a shape; `hetero inspect MODEL` shows the inputs",
            ),
            _ => Failure::Failed { message, help: None },
        }
    }
}
