//! The ways of values between devices: which transport serves a pair, for a number of bytes.
//!
//! The transports that apply to a pair stand in the order in which the fleet has them: those that
//! were registered in front, then the standard ones.
//! The first is taken, unless the profile says that another one is quicker for that size.
//! What the profile does not know is no reason to leave the first.

use std::sync::Arc;

use hetero_comm::{Carriage, Choice, Endpoint, Profile, Transport, Usability};
use hetero_hal::{Device, Error as HalError};

use crate::Result;
use crate::fleet::Fleet;

/// How a value gets from one device to another.
pub(super) struct Way {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) carriage: Carriage,
    /// The reason why the value is copied; `None` where it is not.
    pub(super) reason: Option<String>,
}

/// The transports of one ordered pair of devices.
#[derive(Default)]
struct Pair<'a> {
    /// The transports that apply, in order.
    serving: Vec<(&'a Arc<dyn Transport>, Carriage)>,
    /// The measurements, where they are of these devices.
    profile: Option<&'a Profile>,
}

/// The ways between the devices of a session, which are given by their numbers.
pub(super) struct Ways<'a> {
    devices: &'a [Arc<dyn Device>],
    pairs: Vec<Pair<'a>>,
}

impl<'a> Ways<'a> {
    /// Asks each transport of the fleet about each ordered pair of these devices.
    pub(super) fn new(fleet: &'a Fleet, devices: &'a [Arc<dyn Device>]) -> Self {
        let ends: Vec<Endpoint> = devices.iter().cloned().map(Endpoint::Device).collect();
        let known = |device: &Arc<dyn Device>| {
            fleet.profile().filter(|profile| profile.usability(device.info()) == Usability::Fits)
        };
        let profiles: Vec<Option<&Profile>> = devices.iter().map(known).collect();
        let pair = |from: usize, to: usize| Pair {
            serving: fleet
                .transports()
                .iter()
                .filter_map(|transport| Some((transport, transport.applies(&ends[from], &ends[to]).ok()?)))
                .collect(),
            profile: profiles[from].and(profiles[to]),
        };
        let count = devices.len();
        let pairs = (0..count * count).map(|index| match (index / count, index % count) {
            (from, to) if from == to => Pair::default(),
            (from, to) => pair(from, to),
        });
        Ways { devices, pairs: pairs.collect() }
    }

    /// Returns the way of this many bytes from one device to another, where both can use the same
    /// memory only if `shares`.
    ///
    /// # Errors
    /// `Unsupported` where no transport applies.
    pub(super) fn choose(&self, from: usize, to: usize, bytes: usize, shares: bool) -> Result<Way> {
        let ids = [from, to].map(|device| &self.devices[device].info().id);
        let Pair { serving, profile } = &self.pairs[from * self.devices.len() + to];
        let usable = serving.iter().filter(|(_, carriage)| shares || *carriage != Carriage::InPlace);
        let usable: Vec<_> = usable.copied().collect();
        let Some(&first) = usable.first() else {
            return Err(HalError::unsupported(format!("no transport serves the way from {} to {}", ids[0], ids[1]))
                .on(ids[1].clone())
                .into());
        };
        let names: Vec<&str> = usable.iter().map(|(transport, _)| transport.name()).collect();
        let quicker = profile.and_then(|profile| profile.quicker(ids[0], ids[1], bytes as u64, &names));
        let chosen =
            quicker.and_then(|(best, _)| usable.iter().find(|(transport, _)| transport.name() == best.transport));
        let (transport, carriage) = chosen.copied().unwrap_or(first);
        // Where nothing could be in place anyway, the layout knows why.
        let in_place = usable.iter().find(|(_, carriage)| *carriage == Carriage::InPlace);
        let reason = in_place.filter(|_| carriage != Carriage::InPlace).map(|(in_place, _)| match quicker {
            Some((best, first)) => {
                let way = |choice: Choice<'_>| format!("{} takes {:.1} µs", choice.transport, choice.seconds * 1e6);
                format!("by the profile {}, {}", way(best), way(first))
            }
            None => format!("{} is registered in front of {}", transport.name(), in_place.name()),
        });
        Ok(Way { transport: transport.clone(), carriage, reason })
    }
}
