//! What this crate asks of Unix.

mod folder;
mod pipe;
mod place;
mod write;

use std::fs::{File, FileType};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::Result;

pub use folder::Folder;
pub(crate) use pipe::given_pipe;
pub(crate) use write::{Target, remove_abandoned, target};

/// The flags with which files are opened for reading: none waits for a pipe's other end, and a
/// terminal does not become the process's own.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The flags with which folders are opened, to open files relative to them.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEARCH: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens whatever a path names, for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    Ok(File::from(openat(CWD, path, READ, Mode::empty()).map_err(std::io::Error::from)?))
}

/// Returns the numbers that tell an opened file from all others.
pub(crate) fn identity_of(file: &File) -> Option<(u64, u64)> {
    place::identity(file).ok()
}

/// Returns the words for what is no regular file.
pub(crate) fn what(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        kind if kind.is_dir() => "a folder",
        _ => "something else",
    }
}
