//! The profile, with its file: what was measured, when, and with which drivers.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hetero_hal::{DeviceId, DeviceInfo, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::date;

/// The version of the file's form.
const VERSION: u32 = 2;
/// The bytes that a profile's file may have; a full profile of 20 devices has about two million.
const LARGEST: u64 = 16 << 20;
/// A time in seconds that no measurement takes.
const LONGEST: f64 = 1e6;
const REMEDY: &str = "delete the file, or make a new one with `hetero calibrate`";

/// The measured times of the devices of one machine and of the ways between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The version of the form; readers refuse any version but their own.
    pub version: u32,
    /// The time at which the profile was made: UTC, as RFC 3339 writes it.
    pub created: String,
    /// The description of the machine.
    pub host: HostDescription,
    /// The devices, each with the times of its operators.
    pub devices: Vec<DeviceProfile>,
    /// The ways between the devices, and between them and the host.
    pub links: Vec<LinkProfile>,
}

/// The description of the machine that a profile is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDescription {
    /// The operating system, as Rust names it.
    pub os: String,
    /// The instruction set, as Rust names it.
    pub architecture: String,
    /// The processor's product name; empty where the system does not tell.
    pub processor: String,
    /// The cores that this process may use.
    pub cores: usize,
}

impl HostDescription {
    /// Returns the description of this machine.
    #[must_use]
    pub fn here() -> Self {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("model name"));
        HostDescription {
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            processor: line.and_then(|line| line.split_once(':')).map_or("", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The measured times of one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// The device's id.
    #[serde(with = "device_id")]
    pub id: DeviceId,
    /// The device's product name.
    pub name: String,
    /// The driver's version.
    pub driver_version: String,
    /// Whether the device was an emulator or a simulator; its times then say nothing about a chip.
    pub emulated: bool,
    /// The time of an empty piece of work: submitted, done, and waited for.
    /// `None` where it could not be measured.
    pub submission: Option<Spread>,
    /// The times of operators, a submission included.
    pub operators: Vec<OperatorProfile>,
    /// The cases that the device does not do, or failed to do, with the reason.
    pub absent: Vec<Absent>,
    /// The times of the nodes of whole models, in runs of these models.
    /// They are without a submission, and count the time that a device saves by doing several nodes
    /// as one.
    pub nodes: Vec<NodeProfile>,
}

impl DeviceProfile {
    /// Makes the profile of a device of which nothing is measured yet.
    #[must_use]
    pub fn new(info: &DeviceInfo) -> Self {
        DeviceProfile {
            id: info.id.clone(),
            name: info.name.clone(),
            driver_version: info.driver_version.clone(),
            emulated: info.emulated,
            submission: None,
            operators: Vec::new(),
            absent: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Returns the seconds that the shortest program takes beyond the least piece of work, which a
    /// driver may do on the host: the cost of running kernels at all.
    /// Returns zero where nothing was measured.
    #[must_use]
    pub fn launch(&self) -> f64 {
        let shortest = self.operators.iter().map(|operator| operator.seconds.median).fold(f64::INFINITY, f64::min);
        let beyond = self.submission.map_or(0.0, |submission| shortest - submission.median);
        if beyond.is_finite() { beyond.max(0.0) } else { 0.0 }
    }

    /// Takes the measurements of a model's nodes, in place of the known ones of nodes of the same
    /// signatures.
    /// Of several nodes of one signature, it keeps the node that took the median time.
    pub fn take_nodes(&mut self, nodes: Vec<NodeProfile>) {
        let mut alike: BTreeMap<String, Vec<NodeProfile>> = BTreeMap::new();
        for node in nodes {
            alike.entry(node.signature.clone()).or_default().push(node);
        }
        self.nodes.retain(|node| !alike.contains_key(&node.signature));
        self.nodes.extend(alike.into_values().filter_map(|mut nodes| {
            nodes.sort_by(|a, b| a.seconds.median.total_cmp(&b.seconds.median));
            let middle = nodes.len() / 2;
            (middle < nodes.len()).then(|| nodes.swap_remove(middle))
        }));
    }

    /// Takes over from an older profile of the same product and driver whatever this one has not
    /// measured anew.
    fn keep(&mut self, older: DeviceProfile) {
        if self.operators.is_empty() && self.absent.is_empty() {
            self.operators = older.operators;
            self.absent = older.absent;
        }
        self.submission = self.submission.or(older.submission);
        let known: HashSet<&str> = self.nodes.iter().map(|node| node.signature.as_str()).collect();
        let lost: Vec<NodeProfile> =
            older.nodes.into_iter().filter(|node| !known.contains(node.signature.as_str())).collect();
        self.nodes.extend(lost);
    }
}

/// The time of a node of a model on a device, in a run of the whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeProfile {
    /// The signature, which tells nodes apart that may cost differently: operator, attributes,
    /// types, and the operators around it.
    /// The caller that measures makes it.
    pub signature: String,
    /// The family of operators that the node belongs to; empty where it costs like no other.
    pub family: String,
    /// The operator and the sizes, for people.
    pub case: String,
    /// Whether the device itself calls the node slow.
    pub slow: bool,
    /// The floating-point operations, a multiply-add counting as two, with those of the nodes that
    /// were done along with it.
    pub flops: u64,
    /// The bytes of inputs, weights and outputs, each once, of all these nodes.
    pub bytes: u64,
    /// The time of one run; zero where the node was done along with another node.
    pub seconds: Spread,
}

/// The time of one operator of one size on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorProfile {
    /// The family of operators that it stands for.
    pub family: String,
    /// The operator and the sizes.
    pub case: String,
    /// Whether the device itself calls the operator slow.
    pub slow: bool,
    /// The floating-point operations, a multiply-add counting as two.
    pub flops: u64,
    /// The bytes of inputs, weights and outputs, each once.
    pub bytes: u64,
    /// The time of one run.
    pub seconds: Spread,
}

/// An operator of one size that a device does not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// The family of operators.
    pub family: String,
    /// The operator and the sizes.
    pub case: String,
    /// The reason why the device does not do it.
    pub reason: String,
}

/// The times of one transport from one endpoint to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkProfile {
    /// The sender; the host is `host:0`.
    #[serde(with = "device_id")]
    pub from: DeviceId,
    /// The receiver.
    #[serde(with = "device_id")]
    pub to: DeviceId,
    /// The transport's name.
    pub transport: String,
    /// The measured samples, by growing size; empty where the transport does not work here.
    pub samples: Vec<Sample>,
    /// The reason why there is no sample, or none of larger sizes; `None` where nothing is missing.
    pub stopped: Option<String>,
}

/// The time of a transfer of one size: from the submission of a small piece of work that writes on
/// the sender to the end of one that reads on the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The bytes that are handed over.
    pub bytes: u64,
    /// The time of one hand-over.
    pub seconds: Spread,
}

/// Repeated measurements in seconds, in a form that single wild measurements do not move.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The median absolute deviation from the median.
    pub deviation: f64,
    /// The number of measurements.
    pub count: u32,
}

impl Spread {
    /// Returns the spread of these times, or `None` where there is none.
    #[must_use]
    pub fn of(times: &[std::time::Duration]) -> Option<Spread> {
        let mut seconds: Vec<f64> = times.iter().map(std::time::Duration::as_secs_f64).collect();
        let median = median(&mut seconds)?;
        let mut distances: Vec<f64> = seconds.iter().map(|value| (value - median).abs()).collect();
        let deviation = median_or_zero(&mut distances);
        Some(Spread { median, deviation, count: u32::try_from(times.len()).unwrap_or(u32::MAX) })
    }

    fn check(&self) -> bool {
        let sound = |value: f64| (0.0..=LONGEST).contains(&value);
        sound(self.median) && sound(self.deviation) && self.count > 0
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

fn median_or_zero(values: &mut [f64]) -> f64 {
    median(values).unwrap_or(0.0)
}

/// An answer to whether a profile may be used for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Usability {
    /// The profile is of this device, with this driver.
    Fits,
    /// The profile has nothing of a device of this id.
    Unmeasured,
    /// The id now belongs to another product.
    OtherDevice {
        /// The product that was measured.
        measured: String,
        /// The product that is there.
        found: String,
    },
    /// The driver is of another version now.
    OtherDriver {
        /// The version that was measured.
        measured: String,
        /// The version that is there.
        found: String,
    },
}

impl fmt::Display for Usability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Usability::Fits => f.write_str("measured"),
            Usability::Unmeasured => f.write_str("not measured"),
            Usability::OtherDevice { measured, found } => write!(f, "measured was '{measured}', this is '{found}'"),
            Usability::OtherDriver { measured, found } => {
                write!(f, "measured with driver version '{measured}', this is '{found}'")
            }
        }
    }
}

impl Profile {
    /// Makes a profile of this machine and this moment that holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Profile {
            version: VERSION,
            created: date::rfc3339(SystemTime::now()),
            host: HostDescription::here(),
            devices: Vec::new(),
            links: Vec::new(),
        }
    }

    /// Returns the measurements of a device, whatever its driver is now.
    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&DeviceProfile> {
        self.devices.iter().find(|device| device.id == *id)
    }

    /// Tells whether the profile may be used for this device.
    #[must_use]
    pub fn usability(&self, info: &DeviceInfo) -> Usability {
        match self.device(&info.id) {
            None => Usability::Unmeasured,
            Some(device) if device.name != info.name => {
                Usability::OtherDevice { measured: device.name.clone(), found: info.name.clone() }
            }
            Some(device) if device.driver_version != info.driver_version => {
                Usability::OtherDriver { measured: device.driver_version.clone(), found: info.driver_version.clone() }
            }
            Some(_) => Usability::Fits,
        }
    }

    /// Takes over from an older profile of the same machine whatever this one has not measured
    /// anew.
    /// Links to a device whose product or driver has changed since are not taken over.
    pub fn keep(&mut self, older: Profile) {
        if older.host != self.host {
            return;
        }
        let same = |id: &DeviceId| match (self.device(id), older.device(id)) {
            (Some(new), Some(old)) => new.name == old.name && new.driver_version == old.driver_version,
            _ => true,
        };
        let measured_anew =
            |link: &LinkProfile| self.links.iter().any(|own| own.from == link.from && own.to == link.to);
        let holds = |link: &&LinkProfile| !measured_anew(link) && same(&link.from) && same(&link.to);
        let links: Vec<LinkProfile> = older.links.iter().filter(holds).cloned().collect();
        self.links.extend(links);
        for device in older.devices {
            match self.devices.iter_mut().find(|own| own.id == device.id) {
                Some(own) if own.name == device.name && own.driver_version == device.driver_version => {
                    own.keep(device);
                }
                Some(_) => {}
                None => self.devices.push(device),
            }
        }
        self.devices.sort_by(|a, b| a.id.cmp(&b.id));
    }

    /// Returns the path of the profile if nobody says otherwise: `HETERO_PROFILE`, else
    /// `hetero/profile.json` in the user's cache folder.
    /// Returns `None` where there is no such folder.
    #[must_use]
    pub fn default_path() -> Option<PathBuf> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        default_path(set("HETERO_PROFILE"), set("XDG_CACHE_HOME"), set("HOME"))
    }

    /// Reads the profile at [`Profile::default_path`]; returns `None` where there is none.
    ///
    /// A caller that nobody named a profile to can go on where this fails, and say so.
    ///
    /// # Errors
    /// The errors of [`Profile::load`].
    pub fn load_default() -> Result<Option<Profile>> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        let Some(path) = Profile::default_path() else { return Ok(None) };
        match hetero_files::read_text(&path, LARGEST) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
            text => Profile::of_file(&path, text).map(Some),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `Io` where the file cannot be read.
    /// `InvalidArgument` where it is no file, larger than 16 MiB or no profile.
    pub fn load(path: &Path) -> Result<Profile> {
        Profile::of_file(path, hetero_files::read_text(path, LARGEST))
    }

    /// Returns the profile of a file that was read, or the reason why it was not.
    fn of_file(path: &Path, text: hetero_files::Result<String>) -> Result<Profile> {
        use hetero_files::Error as FileError;
        let wrong = |reason: String| {
            Error::invalid_argument(format!("{} is no profile: {reason}", path.display())).with_remedy(REMEDY)
        };
        match text {
            Ok(text) => Profile::parse(&text).map_err(wrong),
            Err(error @ (FileError::TooLarge { .. } | FileError::NotText(_) | FileError::NotRegular(_))) => {
                Err(wrong(error.to_string()))
            }
            Err(error) => {
                let message = format!("cannot read the profile {}: {error}", path.display());
                Err(Error::new(ErrorKind::Io, message).with_remedy("make one with `hetero calibrate`").caused_by(error))
            }
        }
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// `InvalidArgument` where the text is no profile, is of another version, or holds a value that
    /// no measurement gives.
    pub fn from_json(text: &str) -> Result<Profile> {
        Profile::parse(text)
            .map_err(|reason| Error::invalid_argument(format!("this is no profile: {reason}")).with_remedy(REMEDY))
    }

    fn parse(text: &str) -> Result<Profile, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let versioned: Versioned = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if versioned.version != VERSION {
            return Err(format!("it has version {}, and this program reads version {VERSION}", versioned.version));
        }
        let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), String> {
        if !date::plausible(&self.created) {
            return Err("its date is none".to_owned());
        }
        for device in &self.devices {
            let times = device.submission.iter().chain(device.operators.iter().map(|operator| &operator.seconds));
            let times = times.chain(device.nodes.iter().map(|node| &node.seconds));
            if !times.into_iter().all(Spread::check) {
                return Err(format!("a time of {} is none", device.id));
            }
        }
        for link in &self.links {
            let grow = link.samples.windows(2).all(|pair| pair[0].bytes < pair[1].bytes);
            if !grow || !link.samples.iter().all(|sample| sample.seconds.check()) {
                return Err(format!("the samples from {} to {} are none", link.from, link.to));
            }
        }
        Ok(())
    }

    /// Returns the profile as JSON.
    ///
    /// # Errors
    /// `Internal` where a time is not a number.
    pub fn to_json(&self) -> Result<String> {
        self.check().map_err(|reason| Error::internal(format!("this profile cannot be written: {reason}")))?;
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("a profile cannot be written as JSON").caused_by(error))
    }

    /// Writes the profile to a file, whole or not at all, and makes the folder.
    ///
    /// # Errors
    /// `Io` where the system refuses.
    /// Otherwise the errors of [`Profile::to_json`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = self.to_json()?;
        let write = || {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder {
                std::fs::create_dir_all(folder)?;
                hetero_files::remove_old_drafts(folder);
            }
            hetero_files::replace(path, text)
        };
        write().map_err(|source: hetero_files::Error| {
            let message = format!("cannot write the profile {}: {source}", path.display());
            Error::new(ErrorKind::Io, message).with_remedy("name another file").caused_by(source)
        })
    }
}

impl Default for Profile {
    fn default() -> Self {
        Profile::new()
    }
}

fn default_path(named: Option<PathBuf>, cache: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let folder = || cache.or_else(|| Some(home?.join(".cache")));
    named.or_else(|| Some(folder()?.join("hetero").join("profile.json")))
}

/// Device ids, which are written as `cpu:0`.
mod device_id {
    use hetero_hal::DeviceId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeviceId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hetero_hal::DeviceKind;

    use super::*;

    fn info(id: &str) -> DeviceInfo {
        let mut info = DeviceInfo::new(id.parse().unwrap(), DeviceKind::Gpu, "chip");
        info.vendor = "us".into();
        info.driver_version = "1".into();
        info.emulated = true;
        info
    }

    fn link(from: &str, to: &str) -> LinkProfile {
        let seconds = Spread { median: 1e-5, deviation: 1e-7, count: 9 };
        LinkProfile {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            transport: "staged".into(),
            samples: vec![Sample { bytes: 4096, seconds }, Sample { bytes: 16384, seconds }],
            stopped: None,
        }
    }

    fn full() -> Profile {
        let mut profile = Profile::new();
        profile.devices = vec![DeviceProfile::new(&info("gpu:0")), DeviceProfile::new(&info("gpu:1"))];
        profile.links = vec![link("gpu:0", "gpu:1"), link("gpu:1", "host:0"), link("host:0", "gpu:0")];
        profile
    }

    #[test]
    fn one_wild_time_moves_neither_median_nor_deviation_far() {
        let times = |last| [9, 10, 11, 10, last].map(Duration::from_micros);
        let spread = Spread::of(&times(1_000_000)).unwrap();
        assert!((spread.median - 10e-6).abs() < 1e-12 && (spread.deviation - 1e-6).abs() < 1e-12, "{spread:?}");
        assert!((Spread::of(&times(1_000_000)[..2]).unwrap().median - 9.5e-6).abs() < 1e-12);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn files_are_read_as_they_were_written_and_corrupt_ones_named() {
        let folder = std::env::temp_dir().join(format!("hetero-profile-{}", std::process::id()));
        let path = folder.join("deep").join("profile.json");
        let profile = full();
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let text = std::fs::read(&path).unwrap();
        for (content, word) in [
            (text[..text.len() / 2].to_vec(), "is no profile"),
            (b"\xff\xfe".to_vec(), "is no profile"),
            (vec![b' '; LARGEST as usize + 1], "larger than"),
            (vec![b'['; 100_000], "is no profile"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Profile::load(&path).unwrap_err();
            assert!(error.message().contains(word) && error.remedy().is_some(), "{error}");
        }
        for (path, word) in [(Path::new("/dev/zero"), "a device"), (&folder, "a folder")] {
            let error = Profile::load(path).unwrap_err();
            assert!(error.message().contains(word) && error.remedy().is_some(), "{error}");
        }
        assert_eq!(Profile::load(&folder.join("absent.json")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(profile.save(&folder).unwrap_err().kind(), ErrorKind::Io);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_no_measurement_gives_is_refused() {
        let text = full().to_json().unwrap();
        assert!(Profile::from_json(&text.replacen("\"version\": 2", "\"version\": 1", 1)).is_err());
        assert!(Profile::from_json(&text.replacen("\"created\"", "\"createt\"", 1)).is_err());
        assert!(Profile::from_json(&text.replacen("gpu:0", "gpu::0", 1)).is_err());
        let changes: [fn(&mut Profile); 5] = [
            |p| p.links[0].samples[1].seconds.median = f64::NAN,
            |p| p.links[0].samples[0].seconds.median = -1.0,
            |p| p.links[0].samples[0].seconds.count = 0,
            |p| p.links[0].samples.reverse(),
            |p| p.created = "\x1b[2J".into(),
        ];
        for change in changes {
            let mut profile = full();
            change(&mut profile);
            assert!(profile.to_json().is_err());
        }
        let negative = text.replacen("\"median\": 0.00001", "\"median\": -0.00001", 1);
        assert_ne!(negative, text);
        assert!(Profile::from_json(&negative).is_err());
    }

    fn node(signature: &str, median: f64) -> NodeProfile {
        let seconds = Spread { median, deviation: 0.0, count: 3 };
        let (signature, family, case) = (signature.to_owned(), String::new(), String::new());
        NodeProfile { signature, family, case, slow: false, flops: 1, bytes: 1, seconds }
    }

    #[test]
    fn nodes_of_a_model_replace_older_ones_and_operators_stay() {
        let mut device = DeviceProfile::new(&info("gpu:0"));
        device.take_nodes(vec![node("a", 1.0), node("b", 5.0), node("b", 2.0), node("b", 3.0)]);
        let mut seconds: Vec<f64> = device.nodes.iter().map(|node| node.seconds.median).collect();
        assert_eq!(seconds, [1.0, 3.0]);
        device.submission = Some(Spread { median: 1e-6, deviation: 0.0, count: 3 });
        device.absent.push(Absent { family: String::new(), case: String::new(), reason: "why".into() });
        let mut older = full();
        older.devices[0] = device;
        let mut profile = Profile::new();
        let mut again = DeviceProfile::new(&info("gpu:0"));
        again.take_nodes(vec![node("b", 4.0)]);
        profile.devices.push(again);
        profile.keep(older);
        let kept = &profile.devices[0];
        seconds = kept.nodes.iter().map(|node| node.seconds.median).collect();
        assert_eq!((seconds.as_slice(), kept.absent.len(), kept.submission.is_some()), (&[4.0, 1.0][..], 1, true));
        assert_eq!((profile.devices.len(), profile.links.len()), (2, 3));
        assert_eq!(Profile::from_json(&profile.to_json().unwrap()).unwrap(), profile);
    }

    #[test]
    fn another_product_or_driver_is_not_the_measured_one() {
        let profile = full();
        assert_eq!(profile.usability(&info("gpu:0")), Usability::Fits);
        assert_eq!(profile.usability(&info("gpu:2")), Usability::Unmeasured);
        let mut newer = info("gpu:0");
        newer.driver_version = "2".into();
        let said = profile.usability(&newer).to_string();
        assert!(said.contains("'1'") && said.contains("'2'"), "{said}");
        let mut other = newer;
        other.name = "other".into();
        assert!(matches!(profile.usability(&other), Usability::OtherDevice { .. }));
    }

    #[test]
    fn a_new_profile_keeps_of_the_old_what_it_did_not_measure() {
        let mut older = full();
        older.devices[1].name = "old".into();
        older.devices.push(DeviceProfile::new(&info("gpu:2")));
        older.devices.push(DeviceProfile::new(&info("gpu:3")));
        older.links.extend([
            link("gpu:2", "gpu:3"),
            link("host:0", "gpu:2"),
            link("gpu:0", "gpu:2"),
            link("gpu:1", "gpu:2"),
        ]);
        let mut newer = full();
        newer.keep(older.clone());
        let ids: Vec<String> = newer.devices.iter().map(|device| device.id.to_string()).collect();
        assert_eq!(ids, ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]);
        assert_eq!(newer.devices[1].name, "chip");
        // All links are kept but the one to gpu:1, which is another product now.
        // Links that were measured anew are there once.
        assert_eq!(newer.links.len(), 3 + 3);
        assert!(!newer.links.contains(&link("gpu:1", "gpu:2")) && newer.links.contains(&link("gpu:0", "gpu:2")));
        older.host.cores += 1;
        let mut elsewhere = full();
        elsewhere.keep(older);
        assert_eq!(elsewhere.devices.len(), 2);
    }

    #[test]
    fn the_default_place_follows_the_environment() {
        let path = |name: &str| Some(PathBuf::from(name));
        assert_eq!(default_path(path("/p.json"), path("/cache"), path("/home")), path("/p.json"));
        assert_eq!(default_path(None, path("/cache"), path("/home")), path("/cache/hetero/profile.json"));
        assert_eq!(default_path(None, None, path("/home")), path("/home/.cache/hetero/profile.json"));
        assert_eq!(default_path(None, None, None), None);
    }
}
