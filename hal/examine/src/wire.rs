//! What the process that uses a device and the process that examines it tell each other.
//!
//! The request is in an environment variable.
//! The answers are lines among whatever the driver prints, each behind a mark that holds a number
//! of the request, so that they are not mistaken for the driver's words.

use std::path::PathBuf;
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
    pub(crate) fn with_caches(mut self) -> Request {
        let folder = std::env::temp_dir().join(format!("hetero-examination-{:032x}", self.number));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // Without the folder, the user's caches are used.
        self.caches = builder.create(&folder).is_ok().then_some(folder);
        self
    }

    /// Removes the folder of [`Request::with_caches`], whatever was put into it.
    pub(crate) fn remove_caches(&self) {
        if let Some(folder) = &self.caches {
            // A process that the driver has started may write into it still; the system removes
            // what is left there some day.
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    /// Returns what stands in front of each answer.
    pub(crate) fn mark(&self) -> String {
        format!("@hetero {:032x} ", self.number)
    }
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
