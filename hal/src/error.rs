//! Errors: failures as values that travel.

use std::fmt;
use std::sync::Arc;

use crate::driver::DeviceId;
use crate::graph::NodeId;

/// The result of a call of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure; the rest of an [`Error`] says what failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A model, program or tensor breaks the rules of its format or of the ONNX standard.
    #[error("invalid model")]
    InvalidModel,
    /// A caller's argument is wrong: an unknown id, a wrong shape, a range outside a buffer.
    #[error("invalid argument")]
    InvalidArgument,
    /// The request is well-formed, but this device or version does not support it.
    #[error("unsupported")]
    Unsupported,
    /// The memory of the host or of a device does not suffice, or a set limit forbids the
    /// allocation.
    #[error("out of memory")]
    OutOfMemory,
    /// A driver, library or device is absent.
    #[error("unavailable")]
    Unavailable,
    /// The device is gone; every timeline of the device fails with this kind.
    #[error("device lost")]
    DeviceLost,
    /// A device's compiler turned a program or kernel down.
    #[error("compilation failed")]
    Compile,
    /// Some work started and failed.
    #[error("execution failed")]
    Execution,
    /// A deadline passed.
    #[error("deadline passed")]
    Timeout,
    /// Somebody cancelled the call.
    #[error("cancelled")]
    Cancelled,
    /// The operating system refused to read or write.
    #[error("input/output failed")]
    Io,
    /// A rule of the contract was broken inside hetero or a backend: a bug to report.
    #[error("internal error")]
    Internal,
}

/// The sizes in bytes behind a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The bytes that were asked for.
    pub requested: u64,
    /// The bytes that there were, where known.
    pub available: Option<u64>,
}

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    device: Option<DeviceId>,
    operator: Option<String>,
    node: Option<NodeId>,
    sizes: Option<Sizes>,
    vendor_code: Option<i64>,
    remedy: Option<String>,
    retryable: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// A failure anywhere behind the contract.
///
/// An error is cheap to clone, because a failed [`Timeline`](crate::Timeline) hands the same error
/// to every waiter.
/// Anyone can build one, a backend outside this repository too:
///
/// ```
/// use hetero_hal::{DeviceId, Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::OutOfMemory, "cannot allocate the arena")
///     .on(DeviceId::new("cpu", 0))
///     .with_sizes(4096, Some(1024))
///     .with_remedy("bind a smaller batch");
/// assert_eq!(
///     error.to_string(),
///     "cpu:0: out of memory: cannot allocate the arena (4096 bytes asked for, 1024 available); bind a smaller batch"
/// );
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

impl Error {
    /// Makes a failure of `kind`; `message` says what happened, and to what.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            device: None,
            operator: None,
            node: None,
            sizes: None,
            vendor_code: None,
            remedy: None,
            retryable: false,
            source: None,
        }))
    }

    /// Makes an error of [`ErrorKind::InvalidModel`] with a message.
    pub fn invalid_model(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidModel, message)
    }

    /// Makes an error of [`ErrorKind::InvalidArgument`] with a message.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// Makes an error of [`ErrorKind::Unsupported`] with a message.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// Makes an error of [`ErrorKind::Internal`] with a message.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Returns the error with the device that it happened on.
    #[must_use]
    pub fn on(self, device: DeviceId) -> Self {
        self.edit(|inner| inner.device = Some(device))
    }

    /// Returns the error with the device that it happened on, unless it names one already.
    #[must_use]
    pub fn or_on(self, device: &DeviceId) -> Self {
        if self.device().is_none() { self.on(device.clone()) } else { self }
    }

    /// Returns the error with the node and operator that it happened at, such as `conv1 (Conv)`.
    /// An inner location that is already set stays.
    #[must_use]
    pub fn at(self, operator: impl Into<String>) -> Self {
        self.edit(|inner| {
            inner.operator.get_or_insert_with(|| operator.into());
        })
    }

    /// Returns the error with the node that it happened at, and the node's name and operator for
    /// people as in [`Error::at`].
    /// The id is the node's in the program that the failed call was given.
    /// Whoever cut that program out of a larger one puts the id in the larger program in its place.
    /// A text that is already set stays.
    #[must_use]
    pub fn at_node(self, node: NodeId, operator: impl Into<String>) -> Self {
        self.edit(|inner| inner.node = Some(node)).at(operator)
    }

    /// Returns the error with the bytes that were asked for and the bytes that there were.
    #[must_use]
    pub fn with_sizes(self, requested: u64, available: Option<u64>) -> Self {
        self.edit(|inner| inner.sizes = Some(Sizes { requested, available }))
    }

    /// Returns the error with the number that the vendor's library gave.
    #[must_use]
    pub fn with_code(self, vendor_code: i64) -> Self {
        self.edit(|inner| inner.vendor_code = Some(vendor_code))
    }

    /// Returns the error with the step that the reader can take about it.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        self.edit(|inner| inner.remedy = Some(remedy.into()))
    }

    /// Returns the error with the mark that the same call may succeed later.
    #[must_use]
    pub fn retryable(self) -> Self {
        self.edit(|inner| inner.retryable = true)
    }

    /// Returns the error with the failure underneath it.
    #[must_use]
    pub fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.edit(|inner| inner.source = Some(Arc::new(source)))
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the text that says what happened, without the context that [`fmt::Display`] adds.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the device, where one is to blame.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        self.0.device.as_ref()
    }

    /// Returns the node and operator, where one is to blame.
    #[must_use]
    pub fn operator(&self) -> Option<&str> {
        self.0.operator.as_deref()
    }

    /// Returns the node's id, where a node is to blame and the failed call knew it.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.0.node
    }

    /// Returns the sizes, where memory is to blame.
    #[must_use]
    pub fn sizes(&self) -> Option<Sizes> {
        self.0.sizes
    }

    /// Returns the vendor library's own code.
    #[must_use]
    pub fn vendor_code(&self) -> Option<i64> {
        self.0.vendor_code
    }

    /// Returns the step that the reader can take about the failure.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// Tells whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(device) = &inner.device {
            write!(f, "{device}: ")?;
        }
        write!(f, "{}: ", inner.kind)?;
        if let Some(operator) = &inner.operator {
            write!(f, "{operator}: ")?;
        }
        f.write_str(&inner.message)?;
        if let Some(Sizes { requested, available }) = inner.sizes {
            write!(f, " ({requested} bytes asked for")?;
            if let Some(available) = available {
                write!(f, ", {available} available")?;
            }
            f.write_str(")")?;
        }
        if let Some(code) = inner.vendor_code {
            write!(f, " [driver code {code}]")?;
        }
        if let Some(remedy) = &inner.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn context_is_kept_and_shown() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::new(ErrorKind::Execution, "kernel failed")
            .on(DeviceId::new("opencl", 1))
            .at("conv1 (Conv)")
            .at("outer (If)")
            .with_code(-5)
            .retryable()
            .caused_by(io);
        assert_eq!(error.to_string(), "opencl:1: execution failed: conv1 (Conv): kernel failed [driver code -5]");
        assert!(error.is_retryable());
        assert_eq!(error.vendor_code(), Some(-5));
        assert_eq!(error.source().map(ToString::to_string), Some("disk on fire".into()));
        let copy = error.clone().with_remedy("restart");
        assert_eq!(error.remedy(), None);
        assert_eq!(copy.remedy(), Some("restart"));
        let inner = Error::unsupported("no kernel").at_node(NodeId(0), "conv1 (Conv)");
        let outer = inner.clone().at_node(NodeId(7), "another text");
        assert_eq!((inner.node(), outer.node(), error.node()), (Some(NodeId(0)), Some(NodeId(7)), None));
        assert_eq!(outer.operator(), Some("conv1 (Conv)"));
    }
}
