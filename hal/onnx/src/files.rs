//! The files of a model: its own, and external data beside it.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use hetero_files::{Folder, Opened};
use hetero_hal::Allowance;
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::proto::TensorProto;

/// The most bytes of a message of protobuf, by its own rules.
const LARGEST_MESSAGE: u64 = i32::MAX as u64;

/// How the bytes of a model's files come into memory.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Whether files are mapped instead of being read into memory.
    ///
    /// A mapped model is there at once, its weights take memory as they are used, and the system
    /// can take that memory back, which counts where models are large.
    /// But the files must then stay as they are while any tensor of the model lives: where a file
    /// becomes shorter, the system ends the process (`SIGBUS`), and where its content changes, so
    /// do the weights, which safe Rust takes for constant.
    /// Use this only for files that nobody else may write.
    pub map: bool,
    /// Whether the bytes of files that are read into memory count against the allowance.
    /// Where they do not, a model may have files of any size.
    pub count_files: bool,
    /// The memory that the files' content may take besides the files, and the time for all of it:
    /// decoded messages, functions that are expanded, and sparse tensors in their dense form.
    pub allowance: Allowance,
}

/// The files of one model, each loaded once, none outside the model's folder.
pub(crate) struct Files {
    /// The model's folder; a model that came from memory has none and may not name files.
    folder: Option<Folder>,
    map: bool,
    count_files: bool,
    /// What is left for all that takes memory.
    pub(crate) allowance: Allowance,
    /// The files by what tells them apart: their identity, or else their name.
    loaded: HashMap<(Option<(u64, u64)>, String), Bytes>,
}

impl Files {
    /// Returns the files of a model that came from memory: none.
    pub(crate) fn none(allowance: Allowance) -> Self {
        Files::new(None, ReadOptions { allowance, ..ReadOptions::default() })
    }

    fn new(folder: Option<Folder>, options: ReadOptions) -> Self {
        let ReadOptions { map, count_files, allowance } = options;
        Files { folder, map, count_files, allowance, loaded: HashMap::new() }
    }

    /// Tells whether files are mapped.
    pub(crate) fn are_mapped(&self) -> bool {
        self.map
    }

    /// Opens a file that holds one message, and returns its bytes and the files beside it.
    pub(crate) fn open(path: &Path, options: ReadOptions) -> Result<(Bytes, Self)> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        let (folder, file) = Folder::around(path).map_err(failed)?;
        let mut files = Files::new(Some(folder), options);
        let bytes = files.bytes(file, LARGEST_MESSAGE).map_err(failed)?;
        Ok((bytes, files))
    }

    /// Returns all bytes of a file that has at most `most`.
    fn bytes(&mut self, file: Opened, most: u64) -> hetero_files::Result<Bytes> {
        if self.map {
            return map(&file, most);
        }
        if !self.count_files {
            return file.read(most);
        }
        let bytes = file.read(most.min(self.allowance.bytes as u64))?;
        self.allowance.bytes = self.allowance.bytes.saturating_sub(bytes.len());
        Ok(bytes)
    }

    /// Returns the external data of a tensor.
    pub(crate) fn external(&mut self, tensor: &TensorProto) -> Result<Bytes> {
        let fail = |reason: String| Error::ExternalData { tensor: tensor.name().to_owned(), reason };
        let entry = |key: &str| {
            tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value().to_owned())
        };
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => {
                text.parse::<usize>().map(Some).map_err(|_| fail(format!("its {key} '{text}' is not a size")))
            }
        };
        let location = entry("location").ok_or_else(|| fail("it names no location".into()))?;
        let file = self.beside(&location).map_err(fail)?;
        let offset = number("offset")?.unwrap_or(0);
        let length = match number("length")? {
            Some(length) => length,
            None => file.len().saturating_sub(offset),
        };
        match offset.checked_add(length) {
            Some(end) if end <= file.len() => Ok(file.slice(offset..end)),
            _ => Err(fail(format!(
                "bytes {offset} to {offset}+{length} reach past the end of '{location}' ({} bytes)",
                file.len()
            ))),
        }
    }

    /// Returns the bytes of a file in the model's folder, or a sentence that says what is wrong.
    fn beside(&mut self, location: &str) -> Result<Bytes, String> {
        let Some(folder) = &self.folder else {
            return Err(format!("'{location}' cannot be found for a model that was read from memory"));
        };
        let file = folder.open(location).map_err(|error| match error {
            hetero_files::Error::Outside => format!("'{location}' lies outside the model's folder"),
            error => format!("cannot open '{location}' in the model's folder: {error}"),
        })?;
        // Many spellings lead to one file, and each is looked up by what was opened.
        let identity = file.identity();
        let key = (identity, if identity.is_some() { String::new() } else { location.to_owned() });
        if let Some(bytes) = self.loaded.get(&key) {
            return Ok(bytes.clone());
        }
        let bytes = self.bytes(file, u64::MAX).map_err(|error| format!("cannot read '{location}': {error}"))?;
        self.loaded.insert(key, bytes.clone());
        Ok(bytes)
    }
}

/// Maps a whole file read-only.
fn map(file: &Opened, most: u64) -> hetero_files::Result<Bytes> {
    match file.bytes() {
        // Nothing cannot be mapped.
        0 => return Ok(Bytes::new()),
        found if found > most => return Err(hetero_files::Error::TooLarge { found, most }),
        _ => {}
    }
    // SAFETY: the mapping is private and read-only, and the file was looked at.
    // Only a process that shortens or rewrites the file while it is mapped breaks it, and whoever
    // sets `ReadOptions::map` has read that it must not.
    let map = unsafe { Mmap::map(file.file()) }?;
    Ok(Bytes::from_owner(map))
}
