//! Places: a name in a folder that is held open, so that nobody can exchange what lies before the
//! name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::{READ, SEARCH};

/// The most links that lead from one to the next, as in the kernel.
const MOST_LINKS: usize = 40;

/// A name in an opened folder; it was no link when it was looked at.
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
}

impl Place {
    /// Finds the place that a path leads to: links at its end are followed one by one.
    /// The name need not exist.
    pub(super) fn find(start: impl AsFd, path: &Path) -> Result<Place, Errno> {
        let (folder, name) = split(path.as_os_str());
        let mut place = Place { folder: openat(start, folder, SEARCH, Mode::empty())?, name: name.to_owned() };
        for _ in 0..MOST_LINKS {
            let link = match readlinkat(&place.folder, &place.name, Vec::new()) {
                Ok(link) => OsString::from_vec(link.into_bytes()),
                // It is no link, or there is nothing.
                Err(Errno::INVAL | Errno::NOENT) => return Ok(place),
                Err(error) => return Err(error),
            };
            let (folder, name) = split(&link);
            let folder = openat(&place.folder, folder, SEARCH, Mode::empty())?;
            place = Place { folder, name: name.to_owned() };
        }
        Err(Errno::LOOP)
    }

    /// Opens what is there for reading, unless it has become a link.
    pub(super) fn open(&self) -> Result<File, Errno> {
        openat(&self.folder, &self.name, READ | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
    }
}

/// Divides a path into a folder and the name in it, which is `.` where the path names a folder.
pub(super) fn split(path: &OsStr) -> (&OsStr, &OsStr) {
    let bytes = path.as_bytes();
    let (folder, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => bytes.split_at(slash + 1),
        None => (&b"."[..], bytes),
    };
    match name {
        b"" | b"." | b".." => (path, OsStr::new(".")),
        name => (OsStr::from_bytes(folder), OsStr::from_bytes(name)),
    }
}

/// Returns what tells an opened file or folder from every other: its device and its number there.
pub(super) fn identity(opened: impl AsFd) -> Result<(u64, u64), Errno> {
    // The types of these numbers differ between systems.
    #[allow(clippy::unnecessary_cast)]
    fstat(opened).map(|about| (about.st_dev as u64, about.st_ino as u64))
}
