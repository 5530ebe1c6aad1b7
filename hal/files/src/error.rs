//! The reasons why a file cannot be opened, read or written.

use std::sync::Arc;

/// The result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a file cannot be opened, read or written.
///
/// A message says what is wrong, and leaves the file's name to the caller, who knows how the user
/// wrote it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refuses.
    #[error("{0}")]
    System(Arc<std::io::Error>),
    /// The path names something that is no file, such as a pipe, a device or a folder.
    #[error("it is {0}, not a regular file")]
    NotRegular(&'static str),
    /// The file has more bytes than such a file may have.
    #[error("it is larger than {most} bytes, which are the most that such a file may have: it has {found}")]
    TooLarge {
        /// The bytes that were found; of a pipe, those that had come by then.
        found: u64,
        /// The most bytes that the caller allows.
        most: u64,
    },
    /// The file became longer or shorter while it was read.
    #[error("it had {before} bytes when it was opened, and {after} while it was read; wait until it is written")]
    Changed {
        /// The bytes when the file was opened.
        before: u64,
        /// The bytes while it was read.
        after: u64,
    },
    /// The file has no such part.
    #[error("bytes {} to {} lie beyond its end: it has {bytes}", part.start, part.end)]
    PastEnd {
        /// The bytes that were asked for, from the first to before the last.
        part: std::ops::Range<u64>,
        /// The bytes that the file has.
        bytes: u64,
    },
    /// A path, or a link on it, leads out of the folder in which the file has to lie.
    #[error("it lies outside the folder")]
    Outside,
    /// A pipe is open at its other end, and nothing passed through it for this time.
    #[error("nothing passed through the pipe for {seconds} seconds")]
    Stalled {
        /// The seconds after which the wait was given up.
        seconds: u64,
    },
    /// The bytes are no text.
    #[error("it is not text in UTF-8: {0}")]
    NotText(std::str::Utf8Error),
}

impl Error {
    /// Returns the kind of error that the standard library has for this reason, such as `NotFound`.
    #[must_use]
    pub fn kind(&self) -> std::io::ErrorKind {
        use std::io::ErrorKind;
        match self {
            Error::System(error) => error.kind(),
            Error::NotRegular(_) | Error::PastEnd { .. } => ErrorKind::InvalidInput,
            Error::TooLarge { .. } => ErrorKind::FileTooLarge,
            Error::Changed { .. } | Error::NotText(_) => ErrorKind::InvalidData,
            Error::Outside => ErrorKind::PermissionDenied,
            Error::Stalled { .. } => ErrorKind::TimedOut,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        // An error of this crate may have passed through an interface of the standard library.
        match error.downcast::<Error>() {
            Ok(own) => own,
            Err(other) => Error::System(Arc::new(other)),
        }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::new(error.kind(), error)
    }
}
