//! What a path that is to be written leads to, and the draft of a file.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::READ;
use super::pipe::{Patient, is_given};
use super::place::Place;
use crate::error::{Error, Result};
use crate::write::draft_name;

/// The flags with which something that is there is opened for writing, without waiting.
const WRITE: OFlags = OFlags::WRONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The permissions of a new file, before the process's mask is taken off.
const FRESH: u32 = 0o666;

/// What a path leads to.
pub(crate) enum Target {
    /// A file, there or not, by way of its draft.
    File(Draft),
    /// Something that is no file, or a descriptor that this process was given.
    Stream(Box<dyn Write>),
}

/// Finds out what a path leads to, and makes the draft of a file.
pub(crate) fn target(path: &Path) -> Result<Target> {
    if is_given(path) {
        return given(path).map(Target::Stream);
    }
    let place = Place::find(CWD, path).map_err(refused)?;
    let there = match openat(&place.folder, &place.name, WRITE | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Draft::new(place, None).map(Target::File),
        Err(error) => return Err(refused(error)),
    };
    let about = there.metadata()?;
    if about.is_file() {
        return Draft::new(place, Some(about.permissions().mode() & 0o7777)).map(Target::File);
    }
    Ok(Target::Stream(Box::new(Patient(there))))
}

/// Opens a descriptor that this process was given.
fn given(path: &Path) -> Result<Box<dyn Write>> {
    // The standard streams themselves, in contrast to files opened anew, know how far they were
    // written.
    match path.file_name().and_then(|name| name.to_str()) {
        Some("stdout" | "1") => return Ok(Box::new(std::io::stdout())),
        Some("stderr" | "2") => return Ok(Box::new(std::io::stderr())),
        _ => {}
    }
    let file = File::from(openat(CWD, path, WRITE, Mode::empty()).map_err(refused)?);
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(Box::new(Patient(file)))
}

/// A file that is being written, beside the one that it will replace.
/// It is removed when it is dropped before it took that one's name.
pub(crate) struct Draft {
    pub(crate) file: File,
    place: Place,
    name: OsString,
    kept: bool,
}

impl Draft {
    /// Makes the draft of a file, with the permissions of the old one where there is one.
    fn new(place: Place, permissions: Option<u32>) -> Result<Draft> {
        /// The names that are tried; a process of another container may have the same number.
        const TRIES: usize = 100;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The type of a mode differs between systems.
        #[allow(clippy::unnecessary_cast)]
        let mode = Mode::from_raw_mode(permissions.unwrap_or(FRESH) as _);
        for _ in 0..TRIES {
            let name = draft_name();
            let file = match openat(&place.folder, &name, flags, mode) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(refused(error)),
            };
            if !is_claimed(&file) {
                continue;
            }
            let draft = Draft { file, place, name, kept: false };
            if let Some(permissions) = permissions {
                draft.file.set_permissions(std::fs::Permissions::from_mode(permissions))?;
            }
            return Ok(draft);
        }
        Err(refused(Errno::EXIST))
    }

    /// Gives the draft its file's name.
    pub(crate) fn keep(mut self) -> Result<()> {
        renameat(&self.place.folder, &self.name, &self.place.folder, &self.place.name).map_err(refused)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody needs the draft; the error that came first is the one to tell.
            let _ = unlinkat(&self.place.folder, &self.name, AtFlags::empty());
        }
    }
}

/// Claims a new draft for this process, by a lock that the system takes off when the process ends.
/// Returns `false` where another process took the draft for one that nobody writes any more, and
/// removes it.
/// A file system without locks has drafts that are told by their age alone.
fn is_claimed(draft: &File) -> bool {
    match draft.try_lock() {
        Err(TryLockError::WouldBlock) => false,
        Ok(()) | Err(TryLockError::Error(_)) => !is_removed(draft),
    }
}

fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|about| about.nlink() == 0)
}

/// Removes a draft where its writer has ended, and tells whether it is known if that is so.
pub(crate) fn remove_abandoned(draft: &Path) -> bool {
    let Ok(opened) = openat(CWD, draft, READ | OFlags::NOFOLLOW, Mode::empty()) else { return false };
    let opened = File::from(opened);
    match opened.try_lock() {
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => false,
        Ok(()) => {
            // The lock stays until the name is gone, so that nobody gets it for a new draft before.
            if !is_removed(&opened) {
                let _ = std::fs::remove_file(draft);
            }
            true
        }
    }
}

fn refused(error: Errno) -> Error {
    match error {
        Errno::ISDIR => Error::NotRegular("a folder"),
        // The system's words, 'No such device or address', say little.
        Errno::NXIO => Error::NotRegular("a pipe or device that nobody reads from"),
        error => std::io::Error::from(error).into(),
    }
}
