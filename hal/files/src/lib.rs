//! Files for hetero: the one place in which its crates open, read and write them.
//!
//! Whatever a path names, a call ends.
//!
//! - **Opening** never waits, and what was opened is looked at, not its name: a pipe, a device or a
//!   folder in place of a file is an error at once.
//! - **Reading** is bounded: the caller says how many bytes such a file may have, and a file that
//!   is larger, or that changes its length meanwhile, is an error with both sizes.
//!   The bytes are a copy in memory of the process, so nothing that happens to the file afterwards
//!   reaches them.
//! - **A file beside another**, such as the weights of a model, is opened relative to the folder's
//!   descriptor ([`Folder`]), and cannot lie elsewhere.
//! - **Writing** replaces a file as a whole or not at all ([`replace`]).
//!
//! A text ([`read_text`]) may also come through a pipe that this process was given, which is
//! `/dev/stdin` or `/dev/fd/N`, as the shell's `<(command)` makes it.
//! It is read to its end within the same bound, and given up when nothing comes for ten seconds.
//! A pipe with a name of its own, as `mkfifo` makes it, is refused, as it may have no other end.
//!
//! ```
//! # fn main() -> Result<(), hetero_files::Error> {
//! # let folder = std::env::temp_dir().join(format!("hetero-files-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let path = folder.join("settings.txt");
//! hetero_files::replace(&path, b"depth = 3")?;
//! assert_eq!(hetero_files::read_text(&path, 1 << 20)?, "depth = 3");
//! let error = hetero_files::read(&path, 4).unwrap_err();
//! assert!(matches!(error, hetero_files::Error::TooLarge { found: 9, most: 4 }));
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod error;
mod opened;
#[cfg(not(unix))]
#[path = "portable.rs"]
mod system;
#[cfg(unix)]
#[path = "unix/mod.rs"]
mod system;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;

use bytes::Bytes;

pub use error::{Error, Result};
pub use opened::Opened;
pub use system::Folder;
pub use write::{remove_old_drafts, replace, replace_with};

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// `System` where the file cannot be opened or there is no memory for it, `NotRegular`, `TooLarge`
/// and `Changed`.
pub fn read(path: impl AsRef<Path>, most: u64) -> Result<Bytes> {
    Opened::open(path)?.read(most)
}

/// Reads a text of at most `most` bytes from a regular file, or from a pipe that this process was
/// given.
///
/// # Errors
/// The errors of [`read`], `Stalled` where nothing comes through a pipe, and `NotText`.
pub fn read_text(path: impl AsRef<Path>, most: u64) -> Result<String> {
    let bytes = match system::given_pipe(path.as_ref())? {
        Some(pipe) => opened::drain(pipe, most)?,
        None => read(path, most)?,
    };
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(Error::NotText)
}
