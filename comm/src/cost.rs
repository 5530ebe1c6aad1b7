//! The costs of transfers, as a profile tells them.

use std::time::Duration;

use hetero_hal::{DeviceId, DeviceInfo, Edge, Topology};

use crate::profile::{DeviceProfile, LinkProfile, Profile, Usability};

/// The cheapest way for a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice<'a> {
    /// The name of the transport.
    pub transport: &'a str,
    /// The seconds that it is expected to take.
    pub seconds: f64,
}

impl LinkProfile {
    /// Returns the seconds that `bytes` bytes are expected to take, or `None` where nothing was
    /// measured.
    ///
    /// The estimate is linear between the measured sizes, constant below the smallest, and above
    /// the largest as steep as between the last two.
    /// More bytes never take less, and one size that was measured wrongly moves nothing but itself.
    #[must_use]
    pub fn seconds(&self, bytes: u64) -> Option<f64> {
        let points = self.points();
        let bytes = bytes as f64;
        let (first, last) = (points.first()?, points.last()?);
        if bytes <= first.0 {
            return Some(first.1);
        }
        let above = points.iter().position(|point| bytes <= point.0);
        let (start, end) = match (above, points.len()) {
            (Some(index), _) => (points[index - 1], points[index]),
            // With a single size, it is safe to say that twice as many bytes take at most twice as
            // long.
            (None, 1) => ((0.0, 0.0), (last.0.max(1.0), last.1)),
            (None, count) => (points[count - 2], *last),
        };
        Some(start.1 + (bytes - start.0) * ((end.1 - start.1) / (end.0 - start.0)))
    }

    /// Returns sizes and seconds, both growing.
    /// Each median is replaced by the median of it and its neighbours, which leaves growing ones as
    /// they are, and then by the largest so far.
    fn points(&self) -> Vec<(f64, f64)> {
        let median = |index: usize| self.samples.get(index).map(|sample| sample.seconds.median);
        let mut largest = 0.0f64;
        let points = self.samples.iter().enumerate().map(|(index, sample)| {
            let own = sample.seconds.median;
            let smoothed = match (index.checked_sub(1).and_then(median), median(index + 1)) {
                (Some(before), Some(behind)) => own.clamp(before.min(behind), before.max(behind)),
                // The smallest size takes no longer than the longer of the next two, of which one
                // may be wrong.
                (None, Some(behind)) => own.min(median(index + 2).map_or(behind, |next| next.max(behind))),
                _ => own,
            };
            largest = largest.max(smoothed);
            (sample.bytes as f64, largest)
        });
        points.collect()
    }
}

impl Profile {
    fn links_between<'a>(&'a self, from: &'a DeviceId, to: &'a DeviceId) -> impl Iterator<Item = &'a LinkProfile> {
        self.links.iter().filter(move |link| link.from == *from && link.to == *to)
    }

    /// Returns the transport that takes the least from one device to another (or from and to
    /// [`host_id`](crate::host_id)), and how long it takes.
    /// Of equal ones, it is the first in the profile.
    /// Returns `None` where none was measured.
    #[must_use]
    pub fn cheapest(&self, from: &DeviceId, to: &DeviceId, bytes: u64) -> Option<Choice<'_>> {
        // This is not `min_by` over borrowed ids, as the choice outlives them.
        let ways = self.links.iter().filter(|link| link.from == *from && link.to == *to);
        ways.filter_map(|link| Some(Choice { transport: &link.transport, seconds: link.seconds(bytes)? }))
            .min_by(|a, b| a.seconds.total_cmp(&b.seconds))
    }

    /// Returns the transport that is to be used in place of the first of these, and the first.
    /// That is the cheapest of these transports, where the first was measured and takes over a
    /// tenth longer; measurements differ by a tenth.
    /// Returns `None` where the first is best, or was not measured.
    #[must_use]
    pub fn quicker(
        &self,
        from: &DeviceId,
        to: &DeviceId,
        bytes: u64,
        transports: &[&str],
    ) -> Option<(Choice<'_>, Choice<'_>)> {
        let measured = |name: &&str| {
            let link =
                self.links.iter().find(|link| link.from == *from && link.to == *to && link.transport == *name)?;
            Some(Choice { transport: &link.transport, seconds: link.seconds(bytes)? })
        };
        let first = transports.first().and_then(measured)?;
        let best = transports.iter().filter_map(measured).min_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
        (best.seconds * 1.1 < first.seconds).then_some((best, first))
    }

    /// Returns the edge with the latency and bandwidth of the cheapest transports, or the edge as
    /// it was where nothing was measured.
    ///
    /// The latency is the time of the smallest size.
    /// The bandwidth is the median over the larger half of the sizes, by their time beyond the
    /// latency; it is infinite where they take no longer.
    /// A link is measured with the least piece of work on the sender.
    /// In a plan the sender has run a program, so its [`launch`](crate::DeviceProfile::launch)
    /// comes on top.
    #[must_use]
    pub fn edge(&self, from: &DeviceId, to: &DeviceId, edge: Edge) -> Edge {
        let mut sizes: Vec<u64> =
            self.links_between(from, to).flat_map(|link| &link.samples).map(|sample| sample.bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let seconds = |bytes: &u64| self.cheapest(from, to, *bytes).map(|choice| choice.seconds);
        let Some(latency) = sizes.first().and_then(seconds) else { return edge };
        let rates = sizes[sizes.len() / 2..].iter().filter_map(|bytes| {
            let beyond = seconds(bytes)? - latency;
            // A tenth more is within the difference between measurements.
            Some(if beyond > latency * 0.1 { *bytes as f64 / beyond } else { f64::INFINITY })
        });
        let mut rates: Vec<f64> = rates.collect();
        rates.sort_unstable_by(f64::total_cmp);
        let bandwidth = rates.get((rates.len().saturating_sub(1)) / 2).copied();
        let launch = self.device(from).map_or(0.0, DeviceProfile::launch);
        Edge { latency: Duration::try_from_secs_f64(latency + launch).ok(), bandwidth, ..edge }
    }

    /// Fills in the edges between these devices and between them and the host
    /// ([`host_id`](crate::host_id)), as [`Profile::edge`] does.
    /// Returns for each device whether the profile could be used.
    /// Edges of a device that the profile does not fit stay as they are.
    pub fn apply(&self, devices: &[&DeviceInfo], topology: &mut Topology) -> Vec<(DeviceId, Usability)> {
        let said: Vec<_> = devices.iter().map(|info| (info.id.clone(), self.usability(info))).collect();
        let usable = || said.iter().filter(|(_, usability)| *usability == Usability::Fits).map(|(id, _)| id);
        let host = crate::host_id();
        let ends = || usable().chain([&host]);
        for from in ends() {
            for to in ends().filter(|to| *to != from) {
                let edge = self.edge(from, to, topology.edge(from, to));
                topology.insert(from.clone(), to.clone(), edge);
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DeviceKind, Reach};
    use proptest::prelude::*;

    use super::*;
    use crate::profile::{OperatorProfile, Sample, Spread};

    fn link(from: &str, to: &str, transport: &str, samples: &[(u64, f64)]) -> LinkProfile {
        let sample = |&(bytes, median): &(u64, f64)| Sample {
            bytes,
            seconds: Spread { median, deviation: median / 10.0, count: 5 },
        };
        LinkProfile {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            transport: transport.into(),
            samples: samples.iter().map(sample).collect(),
            stopped: None,
        }
    }

    fn info(id: &str) -> DeviceInfo {
        let mut info = DeviceInfo::new(id.parse().unwrap(), DeviceKind::Other, "n");
        info.vendor = "v".into();
        info.driver_version = "1".into();
        info.emulated = false;
        info
    }

    #[test]
    fn sizes_between_and_beyond() {
        let link = link("a:0", "b:0", "staged", &[(100, 1.0), (200, 3.0), (300, 2.0), (500, 5.0)]);
        let at = |bytes| link.seconds(bytes).unwrap();
        // 200 bytes take no longer than 300, as one of both was measured wrongly.
        assert_eq!((at(0), at(100), at(150), at(200)), (1.0, 1.0, 1.5, 2.0));
        assert_eq!((at(250), at(300), at(400), at(700)), (2.5, 3.0, 4.0, 7.0));
        let single = super::tests::link("a:0", "b:0", "staged", &[(100, 1.0)]);
        assert_eq!((single.seconds(50), single.seconds(300)), (Some(1.0), Some(3.0)));
        assert_eq!(super::tests::link("a:0", "b:0", "staged", &[]).seconds(5), None);
    }

    #[test]
    fn the_cheapest_way_depends_on_the_size() {
        let mut profile = Profile::new();
        profile.links = vec![
            link("a:0", "b:0", "zero-copy", &[(1 << 12, 1e-5), (1 << 26, 1e-5)]),
            link("a:0", "b:0", "staged", &[(1 << 12, 5e-6), (1 << 26, 1e-2)]),
            link("b:0", "a:0", "staged", &[(1 << 12, 1e-6), (1 << 20, 1e-6 + 1e-3), (1 << 26, 1e-6 + 64e-3)]),
            link("b:0", "a:0", "peer-copy", &[]),
        ];
        let (a, b) = (DeviceId::new("a", 0), DeviceId::new("b", 0));
        assert_eq!(profile.cheapest(&a, &b, 0), Some(Choice { transport: "staged", seconds: 5e-6 }));
        assert_eq!(profile.cheapest(&a, &b, 1 << 20).map(|choice| choice.transport), Some("zero-copy"));
        assert_eq!(profile.cheapest(&b, &DeviceId::new("c", 0), 0), None);
        let all = ["zero-copy", "peer-copy", "staged"];
        let quicker = |from, to, bytes| profile.quicker(from, to, bytes, &all).map(|(best, _)| best.transport);
        assert_eq!([0, 1 << 20].map(|bytes| quicker(&a, &b, bytes)), [Some("staged"), None]);
        assert_eq!(quicker(&b, &a, 0), None, "in place was not measured");
        let from_staged = profile.quicker(&a, &b, 1 << 20, &["staged", "zero-copy"]);
        assert_eq!(from_staged.map(|(best, first)| (best.transport, first.transport)), Some(("zero-copy", "staged")));
        assert_eq!(profile.quicker(&a, &b, 0, &["zero-copy", "peer-copy"]), None, "staged is not among them");
        let shared = Edge { read: Reach::Import, ..Edge::default() };
        let there = profile.edge(&a, &b, shared);
        assert_eq!((there.read, there.latency), (Reach::Import, Some(Duration::from_secs_f64(5e-6))));
        let back = profile.edge(&b, &a, Edge::default());
        assert!((back.bandwidth.unwrap() / (1 << 20) as f64 / 1e3 - 1.0).abs() < 1e-6, "{back:?}");
        profile.links.remove(1);
        assert_eq!(profile.edge(&a, &b, shared).bandwidth, Some(f64::INFINITY));
    }

    #[test]
    fn a_topology_is_filled_in_for_devices_that_fit() {
        let mut profile = Profile::new();
        let infos = ["a:0", "b:0", "c:0"].map(info);
        profile.devices = infos.iter().map(DeviceProfile::new).collect();
        profile.devices[2].driver_version = "0".into();
        let pairs = [("a:0", "b:0"), ("b:0", "c:0"), ("c:0", "a:0")];
        profile.links = pairs.iter().map(|(from, to)| link(from, to, "staged", &[(4096, 1e-3)])).collect();
        let mut topology = Topology::default();
        let said = profile.apply(&infos.iter().collect::<Vec<_>>(), &mut topology);
        assert!(matches!(said[2].1, Usability::OtherDriver { .. }) && said[0].1 == Usability::Fits);
        assert_eq!(topology.edge(&infos[0].id, &infos[1].id).latency, Some(Duration::from_millis(1)));
        assert_eq!(topology.edge(&infos[1].id, &infos[2].id), Edge::default());
    }

    /// The driver does the least piece of work on the host, and a program on its chip.
    #[test]
    fn who_runs_a_program_before_it_hands_over_takes_longer_than_the_link_alone() {
        let spread = |median: f64| Spread { median, deviation: 0.0, count: 5 };
        let mut sender = DeviceProfile::new(&info("gpu:0"));
        assert_eq!(sender.launch(), 0.0);
        sender.submission = Some(spread(2e-6));
        sender.operators = [300e-6, 102e-6]
            .map(|median| OperatorProfile {
                family: "element-wise".into(),
                case: String::new(),
                slow: false,
                flops: 1,
                bytes: 8,
                seconds: spread(median),
            })
            .into();
        assert!((sender.launch() - 100e-6).abs() < 1e-12);
        let mut profile = Profile::new();
        profile.links.push(link("gpu:0", "cpu:0", "zero-copy", &[(4096, 5e-6), (1 << 26, 5e-6)]));
        profile.devices.push(sender);
        let edge = profile.edge(&"gpu:0".parse().unwrap(), &"cpu:0".parse().unwrap(), Edge::default());
        assert_eq!(edge.latency.map(|latency| latency.as_micros()), Some(105));
        profile.devices[0].submission = None;
        assert_eq!(profile.devices[0].launch(), 0.0);
    }

    proptest! {
        #[test]
        fn more_bytes_never_take_less_and_times_are_times(
            samples in prop::collection::btree_map(0u64..1 << 40, 0.0f64..1e6, 1..10),
            mut bytes in prop::collection::vec(any::<u64>(), 2..20),
        ) {
            let samples: Vec<_> = samples.into_iter().collect();
            let mut profile = Profile::new();
            profile.links = vec![link("a:0", "b:0", "staged", &samples)];
            bytes.extend(samples.iter().map(|(bytes, _)| *bytes));
            bytes.sort_unstable();
            let seconds: Vec<f64> = bytes.iter().map(|&bytes| profile.links[0].seconds(bytes).unwrap()).collect();
            prop_assert!(seconds.iter().all(|value| value.is_finite() && *value >= 0.0));
            // The order holds but for a rounding error.
            prop_assert!(seconds.windows(2).all(|pair| pair[0] <= pair[1] * (1.0 + 1e-12) + 1e-300));
            let edge = profile.edge(&DeviceId::new("a", 0), &DeviceId::new("b", 0), Edge::default());
            prop_assert!(edge.latency.is_some() && edge.bandwidth.is_some_and(|rate| rate > 0.0));
        }

        #[test]
        fn a_wild_size_moves_no_edge_far(wild in 1usize..8, factor in prop::sample::select(vec![1e-3, 0.1, 10.0, 1e3])) {
            let sizes: Vec<u64> = (0..8).map(|step| 4096 << (2 * step)).collect();
            let mut samples: Vec<_> = sizes.iter().map(|&bytes| (bytes, 1e-5 + bytes as f64 / 4e9)).collect();
            // The smallest size is the latency itself.
            samples[wild].1 *= factor;
            let link = link("a:0", "b:0", "staged", &samples);
            for &bytes in sizes.iter().take(7) {
                let ratio = link.seconds(bytes).unwrap() / (1e-5 + bytes as f64 / 4e9);
                prop_assert!((0.2..5.0).contains(&ratio), "{bytes}: {ratio}");
            }
            let mut profile = Profile::new();
            profile.links = vec![link];
            let edge = profile.edge(&DeviceId::new("a", 0), &DeviceId::new("b", 0), Edge::default());
            let bandwidth = edge.bandwidth.unwrap();
            prop_assert!((1e9..8e9).contains(&bandwidth), "{bandwidth}");
        }
    }
}
