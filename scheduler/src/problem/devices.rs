//! The devices that tasks run on, and the links that carry values between them.

use std::collections::HashSet;

use crate::error::{Error, check_seconds};

/// The number of a device in the list of [`Devices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(pub usize);

/// A device, as far as planning needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// The name of the device in plans, such as `cpu:0`.
    pub id: String,
    /// The bytes that tasks may hold on the device together; `None` where nothing limits them.
    pub memory: Option<u64>,
    /// The name of the processor that computes for the device; `None` where the device has a chip
    /// of its own.
    /// Devices that name the same processor do one thing at a time between them, as do drivers that
    /// run on the host's processor.
    pub processor: Option<String>,
}

impl DeviceSpec {
    /// Creates a device whose memory sets no limit.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), memory: None, processor: None }
    }

    /// Limits the bytes that tasks may hold on the device.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }
}

impl DeviceSpec {
    /// Names the processor that computes for the device.
    #[must_use]
    pub fn with_processor(mut self, name: impl Into<String>) -> Self {
        self.processor = Some(name.into());
        self
    }
}

/// The way from one device to another.
/// A transfer takes `latency + bytes / bandwidth` seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The seconds before the first byte arrives.
    /// A transfer costs them even where nothing but the news of completion passes.
    pub latency: f64,
    /// The bytes per second, positive; infinite where bytes cost nothing, as in memory that both
    /// devices map.
    pub bandwidth: f64,
}

impl Link {
    fn seconds(&self, bytes: u64) -> f64 {
        self.latency + bytes as f64 / self.bandwidth
    }
}

/// Devices and the links between them, at most one link for each ordered pair.
/// A value that stays on its device takes no time.
///
/// Where a benchmark gives communication costs instead of sizes, a latency of 0 and a bandwidth of
/// 1 make bytes of the costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Devices {
    devices: Vec<DeviceSpec>,
    /// The number of each device's processor.
    processors: Vec<usize>,
    /// The link of each ordered pair of devices, in row-major order with a row for each sender.
    links: Vec<Option<Link>>,
}

/// The seconds of a transfer as a function of its bytes: `latency + bytes * per_byte`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    pub(crate) latency: f64,
    pub(crate) per_byte: f64,
}

impl Affine {
    pub(crate) fn seconds(self, bytes: f64) -> f64 {
        self.latency + bytes * self.per_byte
    }
}

impl Devices {
    /// The largest number of devices; the memory of the links grows with its square.
    pub const LIMIT: usize = 4096;

    /// Creates devices without links; see [`Devices::connect`].
    ///
    /// # Errors
    /// [`Error::NoDevice`] for an empty list, [`Error::DuplicateDevice`] where two devices have one
    /// id, or [`Error::TooMany`] beyond [`Devices::LIMIT`].
    pub fn new(devices: impl IntoIterator<Item = DeviceSpec>) -> Result<Self, Error> {
        let devices: Vec<DeviceSpec> = devices.into_iter().collect();
        if devices.is_empty() {
            return Err(Error::NoDevice);
        }
        if devices.len() > Self::LIMIT {
            return Err(Error::TooMany { what: "devices", count: devices.len(), limit: Self::LIMIT });
        }
        let mut seen = HashSet::new();
        if let Some(twice) = devices.iter().find(|device| !seen.insert(device.id.as_str())) {
            return Err(Error::DuplicateDevice(twice.id.clone()));
        }
        let links = vec![None; devices.len() * devices.len()];
        // Each device stands for its own processor, or the first device that names the same
        // processor does.
        let first = |(index, device): (usize, &DeviceSpec)| {
            let same = |other: &DeviceSpec| device.processor.is_some() && other.processor == device.processor;
            devices.iter().position(same).unwrap_or(index)
        };
        let processors = devices.iter().enumerate().map(first).collect();
        Ok(Self { devices, processors, links })
    }

    /// Creates devices that all reach one another by links of the same kind.
    ///
    /// # Errors
    /// The errors of [`Devices::new`] and [`Devices::connect`].
    pub fn uniform(devices: impl IntoIterator<Item = DeviceSpec>, link: Link) -> Result<Self, Error> {
        let mut devices = Self::new(devices)?;
        for from in devices.ids() {
            for to in devices.ids().filter(|&to| to != from) {
                devices.connect(from, to, link)?;
            }
        }
        Ok(devices)
    }

    /// Sets the link from one device to another.
    /// The way back is a link of its own; a link from a device to itself is never used.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`] for a number that no device has, or [`Error::Number`] for an
    /// impossible latency or bandwidth.
    pub fn connect(&mut self, from: DeviceIndex, to: DeviceIndex, link: Link) -> Result<(), Error> {
        let count = self.len();
        for id in [from, to] {
            if id.0 >= count {
                return Err(Error::UnknownDevice { index: id.0, count });
            }
        }
        let what = |of: &str| format!("the {of} from '{}' to '{}'", self.devices[from.0].id, self.devices[to.0].id);
        check_seconds(link.latency, || what("latency"))?;
        // A bandwidth is also refused where it is so small that a byte takes infinitely long.
        if link.bandwidth.is_nan() || link.bandwidth <= 0.0 || !link.bandwidth.recip().is_finite() {
            let wanted = "bytes per second, more than zero";
            return Err(Error::Number { what: what("bandwidth"), value: link.bandwidth, wanted });
        }
        self.links[from.0 * count + to.0] = Some(link);
        Ok(())
    }

    /// Returns the number of devices, which is at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Returns the numbers of all devices.
    pub fn ids(&self) -> impl Iterator<Item = DeviceIndex> + use<> {
        (0..self.len()).map(DeviceIndex)
    }

    /// Returns a device, where the number is one of these.
    #[must_use]
    pub fn get(&self, id: DeviceIndex) -> Option<&DeviceSpec> {
        self.devices.get(id.0)
    }

    /// Returns the devices in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &DeviceSpec> {
        self.devices.iter()
    }

    /// Returns the device that stands for a device's processor: the first of the devices that share
    /// it.
    #[must_use]
    pub fn processor(&self, id: DeviceIndex) -> DeviceIndex {
        DeviceIndex(self.processors.get(id.0).copied().unwrap_or(id.0))
    }

    /// Returns the link from one device to another, where there is one.
    #[must_use]
    pub fn link(&self, from: DeviceIndex, to: DeviceIndex) -> Option<Link> {
        if to.0 >= self.len() {
            return None;
        }
        self.links.get(from.0.checked_mul(self.len())?.checked_add(to.0)?).copied().flatten()
    }

    /// Returns the seconds of a transfer from one device to another; `None` where there is no link.
    #[must_use]
    pub fn seconds(&self, from: DeviceIndex, to: DeviceIndex, bytes: u64) -> Option<f64> {
        if from == to { Some(0.0) } else { self.link(from, to).map(|link| link.seconds(bytes)) }
    }

    /// Tells whether a value can stay on one device or go from it to the other.
    pub(crate) fn reaches(&self, from: DeviceIndex, to: DeviceIndex) -> bool {
        from == to || self.link(from, to).is_some()
    }

    /// Tells whether each device reaches each other device.
    pub(crate) fn all_linked(&self) -> bool {
        self.ids().all(|from| self.ids().all(|to| self.reaches(from, to)))
    }

    fn used_links(&self) -> impl Iterator<Item = Link> {
        self.ids()
            .flat_map(move |from| self.ids().filter(move |&to| to != from).filter_map(move |to| self.link(from, to)))
    }

    /// Returns the mean seconds of a transfer over all links.
    pub(crate) fn mean(&self) -> Affine {
        let count = self.used_links().count().max(1) as f64;
        Affine {
            latency: self.used_links().map(|link| link.latency).sum::<f64>() / count,
            per_byte: self.used_links().map(|link| link.bandwidth.recip()).sum::<f64>() / count,
        }
    }

    /// Returns seconds that no transfer exceeds.
    pub(crate) fn worst(&self) -> Affine {
        Affine {
            latency: self.used_links().map(|link| link.latency).fold(0.0, f64::max),
            per_byte: self.used_links().map(|link| link.bandwidth.recip()).fold(0.0, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Devices {
        Devices::new(["cpu:0", "gpu:0", "gpu:1"].map(DeviceSpec::new)).unwrap()
    }

    #[test]
    fn links_are_one_way() {
        let mut devices = three();
        devices.connect(DeviceIndex(0), DeviceIndex(1), Link { latency: 1.0, bandwidth: 4.0 }).unwrap();
        assert_eq!(devices.seconds(DeviceIndex(0), DeviceIndex(1), 8), Some(3.0));
        assert_eq!(devices.seconds(DeviceIndex(1), DeviceIndex(0), 8), None);
        assert_eq!(devices.seconds(DeviceIndex(2), DeviceIndex(2), 8), Some(0.0));
        assert_eq!(devices.seconds(DeviceIndex(0), DeviceIndex(9), 8), None);
        assert_eq!(devices.seconds(DeviceIndex(usize::MAX), DeviceIndex(1), 8), None);
        assert!(!devices.all_linked());
    }

    #[test]
    fn devices_that_name_one_processor_share_it() {
        let shared = |id: &str, name: &str| DeviceSpec::new(id).with_processor(name);
        let all = [DeviceSpec::new("gpu:0"), shared("cpu:0", "host"), shared("x:0", "other"), shared("cl:0", "host")];
        let devices = Devices::new(all).unwrap();
        let processors: Vec<usize> = devices.ids().map(|id| devices.processor(id).0).collect();
        assert_eq!(processors, [0, 1, 2, 1]);
    }

    #[test]
    fn the_mean_leaves_out_devices_without_a_way() {
        let mut devices = three();
        assert_eq!(devices.mean(), Affine { latency: 0.0, per_byte: 0.0 });
        devices.connect(DeviceIndex(0), DeviceIndex(1), Link { latency: 1.0, bandwidth: 1.0 }).unwrap();
        devices.connect(DeviceIndex(1), DeviceIndex(0), Link { latency: 3.0, bandwidth: f64::INFINITY }).unwrap();
        assert_eq!(devices.mean(), Affine { latency: 2.0, per_byte: 0.5 });
        assert_eq!(devices.worst(), Affine { latency: 3.0, per_byte: 1.0 });
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Devices::new([]), Err(Error::NoDevice));
        assert_eq!(Devices::new(["a", "b", "a"].map(DeviceSpec::new)), Err(Error::DuplicateDevice("a".into())));
        let many = (0..=Devices::LIMIT).map(|index| DeviceSpec::new(index.to_string()));
        assert!(matches!(Devices::new(many), Err(Error::TooMany { what: "devices", .. })));
        let unknown = three().connect(DeviceIndex(0), DeviceIndex(3), Link { latency: 0.0, bandwidth: 1.0 });
        assert_eq!(unknown, Err(Error::UnknownDevice { index: 3, count: 3 }));
        for (latency, bandwidth) in [
            (-1.0, 1.0),
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
            (0.0, 0.0),
            (0.0, -1.0),
            (0.0, f64::NAN),
            (0.0, 1e-320),
        ] {
            let refused = three().connect(DeviceIndex(0), DeviceIndex(1), Link { latency, bandwidth });
            assert!(matches!(refused, Err(Error::Number { .. })), "{latency} {bandwidth}");
        }
    }
}
