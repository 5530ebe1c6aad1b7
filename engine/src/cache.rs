//! A folder of compiled programs, by which a later process compiles faster.
//!
//! A file is the result of [`Executable::serialize`], under the program's fingerprint, the device
//! and its driver's version.
//! The device decides whether the file fits.
//! A digest at the file's end tells whether it is damaged; a damaged file is written again.
//! Errors of the folder are no errors of a compilation; the first one is kept for whoever asks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use hetero_hal::{DeviceInfo, Executable, Program};
use hetero_kit::digest;

/// The bytes that the folder may hold, unless the builder says otherwise.
pub(crate) const LIMIT: u64 = 4 << 30;

/// The ending of the names of the folder's files; files with another ending are left alone.
const ENDING: &str = "bin";

/// The bytes of the digest at a file's end.
const SEAL: usize = 16;

/// The folder in which compiled programs are kept, and its limit.
#[derive(Clone, Debug)]
pub(crate) struct ProgramCache {
    pub(crate) folder: PathBuf,
    /// The most bytes that all files may have together.
    pub(crate) limit: u64,
    /// The first error of writing to the folder.
    trouble: Arc<OnceLock<String>>,
}

impl ProgramCache {
    pub(crate) fn new(folder: PathBuf, limit: u64) -> ProgramCache {
        ProgramCache { folder, limit, trouble: Arc::default() }
    }

    /// Returns why a program could not be kept, where that happened.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// Returns the path of the file for a program on a device.
    fn path(&self, program: &Program, device: &DeviceInfo) -> PathBuf {
        let driver = digest([&*device.vendor, &*device.name, &*device.driver_version].join("\0").as_bytes());
        // Some systems allow no colons in names.
        let id = format!("{}-{}", device.id.driver(), device.id.ordinal());
        self.folder.join(format!("{}-{id}-{driver:032x}.{ENDING}", program.fingerprint()))
    }

    /// Returns the bytes that an earlier compilation of the program for the device has left.
    pub(crate) fn find(&self, program: &Program, device: &DeviceInfo) -> Option<Bytes> {
        // A file that is larger than all files together may be is not this cache's.
        let sealed = hetero_files::read(self.path(program, device), self.limit).ok()?;
        // A damaged file counts as absent, and is written again.
        let (content, seal) = sealed.split_last_chunk::<SEAL>()?;
        (digest(content).to_le_bytes() == *seal).then(|| sealed.slice(..content.len()))
    }

    /// Keeps a compiled program, where it has a serial form, and removes the oldest files where
    /// there is no room.
    pub(crate) fn keep(&self, program: &Program, device: &DeviceInfo, executable: &dyn Executable) {
        let Ok(mut bytes) = executable.serialize() else { return };
        bytes.extend_from_slice(&digest(&bytes).to_le_bytes());
        if bytes.len() as u64 > self.limit {
            return;
        }
        // Where the cache cannot be written, there is no cache, and that is no error.
        if let Err(error) = write(&self.path(program, device), &bytes) {
            let _ = self.trouble.set(format!("{}: {error}", self.folder.display()));
        }
        let _ = self.trim();
    }

    /// Removes the files that were written first, until the others are small enough.
    fn trim(&self) -> std::io::Result<()> {
        hetero_files::remove_old_drafts(&self.folder);
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            let Ok(about) = entry.metadata() else { continue };
            if about.is_file() && path.extension().is_some_and(|ending| ending == ENDING) {
                files.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), about.len(), path));
            }
        }
        files.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
        let mut total = 0u64;
        for (_, bytes, path) in files {
            total = total.saturating_add(bytes);
            if total > self.limit {
                // Another process may have removed the file already.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(())
    }
}

/// Writes a file as a whole or not at all, as other threads and processes may read it.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(hetero_files::replace(path, bytes)?)
}
