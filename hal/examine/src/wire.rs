//! What the process that uses a device and the process that examines it tell each other.
//!
//! The request is in an environment variable.
//! The answers are lines among whatever the driver prints, each behind a mark that holds a number
//! of the request, so that they are not mistaken for the driver's words.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hetero_hal::{DeviceInfo, OpenOptions};
use hetero_kit::digest;
use serde::{Deserialize, Serialize};

use crate::verdict::Verdict;

/// The variable that holds the request, and that marks a process which examines a device.
pub(crate) const REQUEST: &str = "HETERO_EXAMINING";
/// The most bytes of a request; systems bound the length of a variable.
pub(crate) const LONGEST: usize = 32 << 10;

/// The beginning of the names of folders for caches; a request's number follows.
const FOLDER: &str = "hetero-examination-";

/// What the examining process is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// A number that other requests do not have.
    number: u128,
    /// The device's id.
    pub(crate) device: String,
    /// What is known of the device: another one under the same id is not the one that is meant.
    pub(crate) of: u128,
    /// The options that only the driver knows.
    extra: Vec<(String, String)>,
    /// The milliseconds that the examination may take.
    limit: u64,
    /// The folder that stands for the user's folder for caches, so that compilers work anew.
    pub(crate) caches: Option<PathBuf>,
}

/// Returns the options with which a device is examined: those that may change its code.
/// Limits of memory and threads are for the caller's work.
pub(crate) fn options(extra: &[(String, String)]) -> OpenOptions {
    OpenOptions { extra: extra.to_vec(), ..OpenOptions::default() }
}

/// Returns a number that changes with what is known of a device.
pub(crate) fn about(info: &DeviceInfo) -> u128 {
    digest([&*info.name, &*info.vendor, &*info.driver_version, &*info.identity].join("\0").as_bytes())
}

impl Request {
    pub(crate) fn new(info: &DeviceInfo, options: &OpenOptions, limit: Duration) -> Request {
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed);
        Request {
            number: digest(format!("{} {time} {count}", std::process::id()).as_bytes()),
            device: info.id.to_string(),
            of: about(info),
            extra: options.extra.clone(),
            limit: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            caches: None,
        }
    }

    pub(crate) fn options(&self) -> OpenOptions {
        options(&self.extra)
    }

    pub(crate) fn limit(&self) -> Duration {
        Duration::from_millis(self.limit)
    }

    /// Makes an empty folder for the caches of the process that examines.
    /// Drivers and backends keep compiled kernels in the user's folder, and an examination that is
    /// answered by those says nothing of the compiler.
    /// Returns the folder opened, too: its lock tells others that it is in use.
    pub(crate) fn with_caches(mut self) -> (Request, Option<File>) {
        let temporary = std::env::temp_dir();
        remove_old_caches(&temporary);
        let folder = temporary.join(format!("{FOLDER}{:032x}", self.number));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // Without the folder, the user's caches are used.
        self.caches = builder.create(&folder).is_ok().then_some(folder);
        let opened = self.caches.as_ref().and_then(|folder| File::open(folder).ok());
        // Where there are no locks, the folder's age tells.
        let locked = opened.filter(|opened| opened.try_lock().is_ok());
        (self, locked)
    }

    /// Removes the folder of [`Request::with_caches`], whatever was put into it.
    pub(crate) fn remove_caches(&self) {
        if let Some(folder) = &self.caches {
            // A process that the driver has started may write into it still; a later examination
            // removes what is left there.
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    /// Returns what stands in front of each answer.
    pub(crate) fn mark(&self) -> String {
        format!("@hetero {:032x} ", self.number)
    }
}

/// Removes the folders for caches of examinations whose processes were ended by the system.
/// Such a folder is not locked and older than a minute, or where there are no locks, than a day.
fn remove_old_caches(temporary: &Path) {
    const ENDED: Duration = Duration::from_secs(60);
    const OLD: Duration = Duration::from_secs(24 * 3600);
    let Ok(entries) = std::fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().and_then(|name| name.strip_prefix(FOLDER)).is_some_and(is_number);
        // The metadata are those of a link itself, where somebody has put one there.
        let Some(about) = entry.metadata().ok().filter(|about| is_ours && about.is_dir()) else { continue };
        let Some(age) = about.modified().ok().and_then(|then| then.elapsed().ok()) else { continue };
        let least = match File::open(entry.path()).map(|folder| folder.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => continue,
            Ok(Ok(())) => ENDED,
            Ok(Err(TryLockError::Error(_))) | Err(_) => OLD,
        };
        if age > least {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_number(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A line of the examining process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The process examines devices, and begins.
    Begun,
    /// The process does not know the device that is meant.
    Unknown,
    /// The next question.
    Asks(String),
    /// The result.
    Found(Verdict),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn folders_for_caches_of_ended_processes_are_removed_and_those_in_use_stay() {
        let temporary = std::env::temp_dir().join(format!("hetero-wire-{}", std::process::id()));
        let number = |number: u32| format!("{FOLDER}{number:032x}");
        let made = |name: &str, age: u64| {
            let folder = temporary.join(name);
            std::fs::create_dir_all(folder.join("kernels")).unwrap();
            let opened = File::open(&folder).unwrap();
            opened.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            opened
        };
        let used = made(&number(1), 7200);
        used.try_lock().unwrap();
        for (name, age) in [(number(2), 7200), (number(3), 0), (format!("{FOLDER}notes"), 7200)] {
            made(&name, age);
        }
        remove_old_caches(&temporary);
        let left = std::fs::read_dir(&temporary).unwrap();
        let mut left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        std::fs::remove_dir_all(&temporary).unwrap();
        assert_eq!(left, [number(1), number(3), format!("{FOLDER}notes")]);
    }
}
