//! Drivers: how a backend is found, asked for its devices, and opened.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::device::Device;
use crate::error::{Error, ErrorKind, Result};

/// A backend: it finds devices, opens them, and says why there is none.
///
/// Each driver library has one value of this type, which is registered on the engine's builder.
/// Absent hardware is normal: [`Driver::probe`] answers with a typed reason and a remedy, and never
/// panics.
pub trait Driver: Send + Sync {
    /// Returns the short lower-case name of the driver, which is the first half of a [`DeviceId`]:
    /// `cpu`, `cuda`, `opencl`.
    fn name(&self) -> &str;

    /// Lists the devices that can be opened now, in the order of their ordinals.
    ///
    /// # Errors
    /// [`Unavailable`] says why there is none and what would mend it.
    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable>;

    /// Tells whether one of the devices may be a chip of its own, as far as that is known without
    /// loading the vendor's library, which may take a lot of memory for the rest of the process.
    /// A driver that says no may have devices all the same: emulators, and the host's processor.
    /// The default says yes, as does a driver that does not know.
    fn may_have_chips(&self) -> bool {
        true
    }

    /// Opens the device at position `ordinal` of [`Driver::probe`]'s list.
    ///
    /// # Errors
    /// `Unavailable` where the device is gone, `InvalidArgument` for an ordinal or option that the
    /// driver does not know.
    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>>;
}

/// The reason why a driver offers no device on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}; {remedy}")]
pub struct Unavailable {
    /// The kind of the reason.
    pub reason: UnavailableReason,
    /// The thing that was looked for and not found.
    pub detail: String,
    /// The step that the reader can take about it.
    pub remedy: String,
}

/// The kinds of absence, told apart because their remedies differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum UnavailableReason {
    /// The backend was not compiled in.
    #[error("feature off")]
    FeatureOff,
    /// The vendor's library cannot be loaded.
    #[error("library missing")]
    LibraryMissing,
    /// The library is there and reports no device.
    #[error("no device")]
    NoDevice,
    /// The library or device is there, in a version that cannot be used.
    #[error("version too old")]
    VersionTooOld,
    /// The operating system refuses access.
    #[error("permission denied")]
    PermissionDenied,
    /// The device is there, and did not pass its examination: it computes wrong results, crashes or
    /// does not answer.
    #[error("not to be trusted")]
    Untrusted,
}

impl Unavailable {
    /// Returns the error of a device that cannot be opened for this reason.
    /// Its source is the reason itself.
    #[must_use]
    pub fn into_error(self, device: DeviceId) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{}: {}", self.reason, self.detail))
            .on(device)
            .with_remedy(self.remedy.clone())
            .caused_by(self)
    }
}

/// The name of a device: its driver and ordinal, written `cpu:0`.
/// For a device of another host the name has that host in front: `node7/cpu:0`.
/// Case does not matter on input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    host: Option<Arc<str>>,
    driver: Arc<str>,
    ordinal: usize,
}

impl DeviceId {
    /// Returns the name of the device with this ordinal of this driver, on this host.
    #[must_use]
    pub fn new(driver: &str, ordinal: usize) -> Self {
        DeviceId { host: None, driver: driver.to_ascii_lowercase().into(), ordinal }
    }

    /// Returns the name of the device with the same driver and ordinal on another host.
    #[must_use]
    pub fn at(self, host: &str) -> Self {
        DeviceId { host: Some(host.to_ascii_lowercase().into()), ..self }
    }

    /// Returns the host's name; `None` for this host.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Returns the driver's name.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Returns the position of the device in the driver's list.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        write!(f, "{}:{}", self.driver, self.ordinal)
    }
}

impl FromStr for DeviceId {
    type Err = Error;

    /// Parses `driver:ordinal` or `host/driver:ordinal`.
    /// Text without an ordinal names the driver's first device.
    fn from_str(text: &str) -> Result<Self> {
        let (host, device) = text.split_once('/').map_or((None, text), |(host, device)| (Some(host), device));
        let (driver, ordinal) = device.split_once(':').unwrap_or((device, "0"));
        let named = |text: &str, also: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c) || also.contains(c))
        };
        match ordinal.parse() {
            Ok(ordinal) if named(driver, "") && host.is_none_or(|host| named(host, ".")) => {
                let id = DeviceId::new(driver, ordinal);
                Ok(host.map_or(id.clone(), |host| id.at(host)))
            }
            _ => Err(Error::invalid_argument(format!("'{text}' is not a device id"))
                .with_remedy("write driver:ordinal, such as cpu:0")),
        }
    }
}

/// The sort of chip that a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A central processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A field-programmable gate array.
    Fpga,
    /// A neural or machine-learning unit.
    Npu,
    /// A chip of any other sort.
    Other,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Cpu => "CPU",
            DeviceKind::Gpu => "GPU",
            DeviceKind::Fpga => "FPGA",
            DeviceKind::Npu => "NPU",
            DeviceKind::Other => "other",
        })
    }
}

/// The facts that a driver knows of a device before it is opened.
///
/// A driver begins with [`DeviceInfo::new`] and sets what it knows beyond that.
/// More fields may come in later versions.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The device's name in plans and on the command line.
    pub id: DeviceId,
    /// The sort of chip.
    pub kind: DeviceKind,
    /// The product's name, as the driver tells it.
    pub name: String,
    /// The vendor's name, as the driver tells it.
    pub vendor: String,
    /// The version of the driver or library behind the device.
    pub driver_version: String,
    /// What else the code depends on that the driver makes or runs, such as the library's file and
    /// the environment variables that it reads.
    /// The text has no form: whoever examined the device does so again where the text is another.
    pub identity: String,
    /// What a user has to know of the device beside the fact that it can be used, such as what its
    /// driver does wrong and what was done about it; `None` where nothing is unusual.
    pub notice: Option<String>,
    /// The memory that the device can allocate, in bytes; `None` where the driver does not tell.
    pub memory_bytes: Option<u64>,
    /// A mark of an emulator or simulator, whose times say nothing about a chip.
    pub emulated: bool,
    /// The processor that computes for the device, where others may use the same one.
    /// `None` stands for a processor of the device's own.
    /// Devices of one processor take their time from one another.
    /// The host's processor is [`DeviceInfo::HOST`].
    pub processor: Option<Arc<str>>,
    /// The peak rate in f32 operations per second, a first guess until the device is measured;
    /// `None` where nothing is known.
    pub peak_flops: Option<f64>,
    /// The peak memory bandwidth in bytes per second, a first guess until the device is measured;
    /// `None` where nothing is known.
    pub peak_bandwidth: Option<f64>,
}

impl DeviceInfo {
    /// The name of the host's processor in [`DeviceInfo::processor`].
    pub const HOST: &str = "host";

    /// Returns the facts of a device of which nothing else is known: a chip of its own, with
    /// unknown memory and rates.
    #[must_use]
    pub fn new(id: DeviceId, kind: DeviceKind, name: impl Into<String>) -> Self {
        DeviceInfo {
            id,
            kind,
            name: name.into(),
            vendor: String::new(),
            driver_version: String::new(),
            identity: String::new(),
            notice: None,
            memory_bytes: None,
            emulated: false,
            processor: None,
            peak_flops: None,
            peak_bandwidth: None,
        }
    }

    /// Returns the facts of the same device, for which the host's processor computes.
    #[must_use]
    pub fn hosted(mut self) -> Self {
        self.processor = Some(Self::HOST.into());
        self
    }

    /// Tells whether the host's processor computes for the device, as for an emulator and for
    /// another driver of the same processor.
    #[must_use]
    pub fn runs_on_host(&self) -> bool {
        self.processor.as_deref() == Some(Self::HOST)
    }
}

/// The options with which a device is opened.
/// `Default` suits most callers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenOptions {
    /// The number of worker threads for a device that computes on host threads; `None` means one
    /// for each core that it may use.
    pub threads: Option<usize>,
    /// The bytes that the device may allocate in all; `None` means as many as
    /// [`DeviceInfo::memory_bytes`] says.
    pub memory_limit: Option<u64>,
    /// The options that only this driver knows, as pairs of key and value; an unknown key is an
    /// error.
    pub extra: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_parse_in_any_case_and_print_in_one() {
        assert_eq!("CPU:0".parse::<DeviceId>().unwrap().to_string(), "cpu:0");
        assert_eq!("fpga".parse::<DeviceId>().unwrap(), DeviceId::new("FPGA", 0));
        let remote: DeviceId = "Node-7.Rack2/CPU:1".parse().unwrap();
        assert_eq!((remote.to_string().as_str(), remote.host()), ("node-7.rack2/cpu:1", Some("node-7.rack2")));
        assert_ne!(remote, DeviceId::new("cpu", 1));
        for bad in ["", ":0", "cpu:", "cpu:-1", "cpu:x", "c pu:0", "cpu:99999999999999999999", "/cpu:0", "a/b/cpu:0"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }
}
