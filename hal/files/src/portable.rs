//! What this crate asks of a system that is no Unix, by the standard library alone.

use std::fs::{File, FileType};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::opened::Opened;
use crate::write::draft_name;

/// Opens whatever a path names, for reading.
pub(crate) fn open(path: &Path) -> Result<File> {
    Ok(File::open(path)?)
}

/// Returns nothing: the standard library tells no numbers of files here.
pub(crate) fn identity_of(_: &File) -> Option<(u64, u64)> {
    None
}

/// Returns the words for what is no regular file.
pub(crate) fn what(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device" }
}

/// Returns nothing: no path stands for a pipe that this process was given.
pub(crate) fn given_pipe(_: &Path) -> Result<Option<std::io::Empty>> {
    Ok(None)
}

/// The folder of a file that was opened, in which files beside that file are opened.
///
/// A path or a link on it may lead anywhere inside the folder, and nowhere else.
/// Where the file was named by a link, the folder of the file that it leads to counts too.
#[derive(Debug)]
pub struct Folder {
    named: PathBuf,
    linked: PathBuf,
}

impl Folder {
    /// Opens a file, and finds the folder that it lies in.
    ///
    /// # Errors
    /// The errors of [`Opened::open`].
    pub fn around(path: impl AsRef<Path>) -> Result<(Folder, Opened)> {
        let path = path.as_ref();
        let file = Opened::open(path)?;
        let parent = |path: &Path| path.parent().map(Path::to_owned).filter(|path| !path.as_os_str().is_empty());
        let named = parent(path).unwrap_or_else(|| PathBuf::from(".")).canonicalize()?;
        let linked = parent(&path.canonicalize()?).unwrap_or_else(|| named.clone());
        Ok((Folder { named, linked }, file))
    }

    /// Opens a file whose path begins in this folder.
    ///
    /// # Errors
    /// `Outside` where the path or a link on it leads out of the folder.
    /// Otherwise the errors of [`Opened::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Opened> {
        let path = self.named.join(path).canonicalize()?;
        if [&self.named, &self.linked].iter().any(|home| path.starts_with(home)) {
            Opened::open(path)
        } else {
            Err(Error::Outside)
        }
    }
}

/// What a path leads to.
pub(crate) enum Target {
    /// A file, there or not, by way of its draft.
    File(Draft),
    /// Something that is no file.
    Stream(Box<dyn Write>),
}

/// Finds out what a path leads to, and makes the draft of a file.
pub(crate) fn target(path: &Path) -> Result<Target> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match path.metadata() {
        Ok(about) if about.is_dir() => Err(Error::NotRegular("a folder")),
        Ok(about) if !about.is_file() => {
            Ok(Target::Stream(Box::new(std::fs::OpenOptions::new().write(true).open(path)?)))
        }
        about => {
            let draft = Draft::new(path)?;
            if let Ok(about) = about {
                draft.file.set_permissions(about.permissions())?;
            }
            Ok(Target::File(draft))
        }
    }
}

/// A file that is being written, beside the one that it will replace.
/// It is removed when it is dropped before it took that one's name.
pub(crate) struct Draft {
    pub(crate) file: File,
    path: PathBuf,
    name: PathBuf,
    kept: bool,
}

impl Draft {
    fn new(path: PathBuf) -> Result<Draft> {
        let name = path.with_file_name(draft_name());
        Ok(Draft { file: File::create_new(&name)?, path, name, kept: false })
    }

    /// Gives the draft its file's name.
    pub(crate) fn keep(mut self) -> Result<()> {
        std::fs::rename(&self.name, &self.path)?;
        self.kept = true;
        Ok(())
    }
}

/// Returns `false`: drafts are told by their age alone.
pub(crate) fn remove_abandoned(_: &Path) -> bool {
    false
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // Nobody needs the draft; the error that came first is the one to tell.
            let _ = std::fs::remove_file(&self.name);
        }
    }
}
