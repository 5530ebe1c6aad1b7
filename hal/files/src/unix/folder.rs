//! Files that have to lie in a folder, opened relative to it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, openat};
use rustix::io::Errno;

use super::place::{Place, identity, split};
use super::{READ, SEARCH};
use crate::error::{Error, Result};
use crate::opened::Opened;

/// The most folders above a file that are looked at.
const DEEPEST: usize = 4096;

/// The folder of a file that was opened, held open itself, in which files beside that file are
/// opened.
///
/// A path or a link on it may lead anywhere inside the folder, and nowhere else.
/// Where the file was named by a link, there are two such folders: that of the link, and that of
/// the file that it leads to.
/// Caches of downloads need this: `snapshots/1/model.onnx` and `snapshots/1/model.onnx_data` are
/// links into one folder `blobs`.
#[derive(Debug)]
pub struct Folder {
    named: OwnedFd,
    /// The folder of the file that a link leads to, where that is another one.
    linked: Option<OwnedFd>,
}

impl Folder {
    /// Opens a file, and the folder that it lies in.
    /// The file is opened relative to the folder, so that both are of the same moment.
    ///
    /// # Errors
    /// The errors of [`Opened::open`].
    pub fn around(path: impl AsRef<Path>) -> Result<(Folder, Opened)> {
        let (folder, name) = split(path.as_ref().as_os_str());
        let named = openat(CWD, folder, SEARCH, Mode::empty()).map_err(system)?;
        let file = Opened::of(openat(&named, name, READ, Mode::empty()).map_err(system)?.into())?;
        let linked = Place::find(&named, Path::new(name)).ok().filter(|place| {
            let same = place.open().and_then(identity).ok() == identity(&file.file).ok();
            same && identity(&place.folder).ok() != identity(&named).ok()
        });
        Ok((Folder { named, linked: linked.map(|place| place.folder) }, file))
    }

    /// Opens a file whose path begins in this folder.
    ///
    /// # Errors
    /// `Outside` where the path or a link on it leads out of the folder.
    /// Otherwise the errors of [`Opened::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Opened> {
        let path = path.as_ref();
        match self.open_beneath(path) {
            Ok(file) => Opened::of(file),
            // The path leads out of the folder, and possibly back; or the system does not have the
            // call or does not let this process use it; or somebody moves folders meanwhile.
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::AGAIN) => self.open_checked(path),
            Err(error) => Err(system(error)),
        }
    }

    /// Opens a file by a path that stays below the folder in each of its steps, which the kernel
    /// sees to.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn open_beneath(&self, path: &Path) -> std::result::Result<File, Errno> {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.named, path, READ, Mode::empty(), resolve).map(File::from)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn open_beneath(&self, _: &Path) -> std::result::Result<File, Errno> {
        Err(Errno::NOSYS)
    }

    /// Opens the folder that a path ends in, checks that it lies in this one, and then opens the
    /// file as an entry of the folder that was checked.
    pub(crate) fn open_checked(&self, path: &Path) -> Result<Opened> {
        let place = Place::find(&self.named, path).map_err(system)?;
        if !self.holds(&place.folder).map_err(system)? {
            return Err(Error::Outside);
        }
        Opened::of(place.open().map_err(system)?)
    }

    /// Tells whether an opened folder is this one or lies below it.
    fn holds(&self, folder: &OwnedFd) -> std::result::Result<bool, Errno> {
        let mut homes = vec![identity(&self.named)?];
        if let Some(linked) = &self.linked {
            homes.push(identity(linked)?);
        }
        let mut here = folder.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        for _ in 0..DEEPEST {
            let own = identity(&here)?;
            if homes.contains(&own) {
                return Ok(true);
            }
            let above = openat(&here, "..", SEARCH, Mode::empty())?;
            // The root is its own parent.
            if identity(&above)? == own {
                return Ok(false);
            }
            here = above;
        }
        Ok(false)
    }
}

fn system(error: Errno) -> Error {
    std::io::Error::from(error).into()
}
