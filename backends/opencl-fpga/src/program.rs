//! The sources of built programs: the vendor's compiler, or a binary that it made before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hetero_hal::{ErrorKind, Result};

use crate::handle::{Context, DeviceHandle, Program};
use crate::processor::{self, Processor};

/// The library that returns built programs for texts.
/// A flow in which binaries are made beforehand, as FPGAs need it, is another way to fill it.
pub(crate) struct Library {
    device: DeviceHandle,
    /// The device and driver that binaries are made for.
    maker: String,
    /// The host's processor, because some drivers compile for it, and a folder of binaries may come
    /// from another machine.
    host: String,
    /// The instruction set that the driver was told to compile for.
    target: String,
    options: String,
    folder: Option<PathBuf>,
    built: Mutex<HashMap<u128, Weak<Program>>>,
}

/// A built program, and the key of its binary.
pub(crate) struct Built {
    pub(crate) program: Arc<Program>,
    key: u128,
}

/// The first bytes of a file of the cache; each version of the format has its own.
const MAGIC: &[u8; 8] = b"heteroc2";

/// The bytes that a file of the cache may have; a binary for a large FPGA has some hundred million.
const LARGEST: u64 = 1 << 30;

/// Returns the FNV-1a hash of 128 bits, which tells texts apart and is no proof against forgery.
fn hash(parts: &[&[u8]]) -> u128 {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        for byte in part.iter().copied().chain([0]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    hash
}

impl Library {
    pub(crate) fn new(device: DeviceHandle, maker: String, options: &str, folder: Option<PathBuf>) -> Self {
        let (host, target) = (Processor::host().to_string(), processor::told());
        Library { device, maker, host, target, options: options.to_owned(), folder, built: Mutex::new(HashMap::new()) }
    }

    /// Returns everything that a program's binary depends on, as one number.
    fn key(&self, source: &str) -> u128 {
        let parts = [source, &self.options, &self.maker, &self.host, &self.target];
        hash(&parts.map(str::as_bytes))
    }

    /// Returns the built program of a text: one that is in use already, `cached`, one of the
    /// folder, or a newly compiled one.
    pub(crate) fn program(&self, context: &Context, source: &str, cached: Option<&[u8]>) -> Result<Built> {
        let key = self.key(source);
        let known = self.built.lock().unwrap_or_else(PoisonError::into_inner).get(&key).and_then(Weak::upgrade);
        if let Some(program) = known {
            return Ok(Built { program, key });
        }
        let program = Arc::new(
            match cached.and_then(|bytes| self.load(context, key, bytes)).or_else(|| self.find(context, key)) {
                Some(program) => program,
                None => self.compile(context, key, source)?,
            },
        );
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        built.retain(|_, program| program.strong_count() > 0);
        built.insert(key, Arc::downgrade(&program));
        Ok(Built { program, key })
    }

    /// Returns a built program's binary with the proof that it fits, as [`Library::program`] takes
    /// it.
    pub(crate) fn serialize(&self, built: &Built) -> Result<Vec<u8>> {
        Ok(sealed(built.key, &built.program.binary(self.device)?))
    }

    fn compile(&self, context: &Context, key: u128, source: &str) -> Result<Program> {
        let program = twice(|| {
            let program = Program::from_source(context, source)?;
            program.build(self.device, &self.options).map(|()| program)
        })?;
        if let (Some(path), Ok(binary)) = (self.path(key), program.binary(self.device)) {
            // A cache that cannot be written is left unused.
            let _ = store(&path, key, &binary);
        }
        Ok(program)
    }

    fn path(&self, key: u128) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{key:032x}.bin")))
    }

    /// Returns a binary of the cache, where there is one that the driver takes.
    /// A binary that the driver does not take is made again.
    fn find(&self, context: &Context, key: u128) -> Option<Program> {
        self.load(context, key, &hetero_files::read(self.path(key)?, LARGEST).ok()?)
    }

    /// Returns the program of a sealed binary, where it has this key and the driver takes it.
    fn load(&self, context: &Context, key: u128, bytes: &[u8]) -> Option<Program> {
        let binary = bytes.strip_prefix(MAGIC)?.strip_prefix(&key.to_le_bytes())?;
        // Drivers load the bytes that they are given, some as machine code, so truncated or changed
        // bytes must not reach them.
        let (sum, binary) = binary.split_at_checked(16)?;
        if hash(&[binary]) != u128::from_le_bytes(sum.try_into().ok()?) {
            return None;
        }
        let program = Program::from_binary(context, self.device, binary).ok()?;
        program.build(self.device, &self.options).ok()?;
        Some(program)
    }
}

/// Returns a binary with its key and checksum.
fn sealed(key: u128, binary: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(binary.len() + 40);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&key.to_le_bytes());
    bytes.extend_from_slice(&hash(&[binary]).to_le_bytes());
    bytes.extend_from_slice(binary);
    bytes
}

/// Writes a file as a whole or not at all, because other processes may read it.
fn store(path: &Path, key: u128, binary: &[u8]) -> std::io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    hetero_files::remove_old_drafts(folder);
    Ok(hetero_files::replace(path, sealed(key, binary))?)
}

/// Builds a program, and once more where the compiler turns it down.
///
/// Drivers keep what they compiled in a cache of their own in the user's folder, which all
/// processes share, and a build fails where another process wins a race for an entry.
/// The entry is there then, and the second build finds it.
/// A source that is wrong fails again, and that error is returned, with the compiler's log.
fn twice<T>(build: impl Fn() -> Result<T>) -> Result<T> {
    match build() {
        Err(error) if error.kind() == ErrorKind::Compile => build(),
        done => done,
    }
}

/// Returns the user's cache folder for programs.
pub(crate) fn folder() -> Option<PathBuf> {
    Some(hetero_kit::cache_folder()?.join("opencl"))
}

#[cfg(test)]
mod tests {
    use hetero_hal::Error;

    use super::*;

    fn library() -> Library {
        Library::new(DeviceHandle(std::ptr::null_mut()), "maker".into(), "options", None)
    }

    /// Calls [`twice`] with builds that end in these ways, and returns how many were made.
    fn builds(outcomes: &[Option<ErrorKind>]) -> (usize, Result<usize>) {
        let made = std::cell::Cell::new(0);
        let built = twice(|| {
            let number = made.replace(made.get() + 1);
            outcomes[number].map_or(Ok(number), |kind| Err(Error::new(kind, format!("log {number}"))))
        });
        (made.get(), built)
    }

    #[test]
    fn a_build_that_the_compiler_turns_down_is_tried_once_more() {
        let (turned_down, lost) = (Some(ErrorKind::Compile), Some(ErrorKind::DeviceLost));
        assert!(matches!(builds(&[None]), (1, Ok(0))));
        assert!(matches!(builds(&[turned_down, None]), (2, Ok(1))));
        let (made, built) = builds(&[turned_down, turned_down, None]);
        let error = built.unwrap_err();
        assert!(made == 2 && error.kind() == ErrorKind::Compile && error.message().contains("log 1"), "{error}");
        let (made, built) = builds(&[lost, None]);
        assert!(made == 1 && built.unwrap_err().kind() == ErrorKind::DeviceLost);
    }

    #[test]
    fn a_binary_is_of_its_source_driver_options_processor_and_target() {
        let key = library().key("source");
        assert_eq!(library().key("source"), key);
        let changed = [
            Library { maker: "other".into(), ..library() },
            Library { options: "other".into(), ..library() },
            Library { host: "other".into(), ..library() },
            Library { target: "other".into(), ..library() },
        ];
        assert!(changed.iter().all(|library| library.key("source") != key));
        assert_ne!(library().key("other"), key);
    }
}
