//! The fleet: the devices that plans are made for and sessions run on, and what is known of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_comm::{Profile, Transport};
use hetero_hal::{
    Allowance, Claim, Device, DeviceId, DeviceInfo, Error as HalError, ErrorKind, Fingerprint, Program, Topology,
};

use crate::Error;
use crate::cache::ProgramCache;
use crate::policy::Policy;

/// The number of programs whose claims are remembered.
const MOST_PROGRAMS: usize = 64;

/// Opened devices with their topology, limits, losses and claims: all that a plan or a session
/// needs to know of the machine.
///
/// A fleet only grows, so that a device keeps its position.
/// Clones are snapshots that share what is found out later: which devices are lost, and what
/// devices claim.
#[derive(Clone)]
pub struct Fleet {
    devices: Vec<Arc<dyn Device>>,
    /// The policy of each device, by position.
    policies: Vec<Policy>,
    /// The devices that are not there, of those that were preferred or nobody named.
    absent: Vec<AbsentDevice>,
    topology: Topology,
    profile: Option<Arc<Profile>>,
    transports: Arc<[Arc<dyn Transport>]>,
    limits: Limits,
    shared: Arc<Shared>,
}

/// A device that is not there, which was preferred or which nobody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsentDevice {
    /// The id of the device.
    pub device: DeviceId,
    /// The reason why there is no such device, and a remedy.
    pub reason: String,
}

impl std::fmt::Display for AbsentDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not used: {}", self.device, self.reason)
    }
}

/// The limits of a run.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The bytes that folded constants, and each device's intermediate values, may take; `None`
    /// leaves the limit to the devices' memory.
    pub(crate) memory: Option<u64>,
    /// The share of a device's memory that plans may use.
    pub(crate) memory_share: f64,
    /// The longest time of a run.
    pub(crate) deadline: Duration,
    /// The most runs of a session under way at once; `None` leaves the number to the devices'
    /// memory.
    pub(crate) max_in_flight: Option<usize>,
    /// The cache in which compiled programs are kept; `None` keeps none.
    pub(crate) cache: Option<ProgramCache>,
}

/// The knowledge that all clones of a fleet share.
#[derive(Default)]
struct Shared {
    /// The devices that were lost, by position, each with the error that told of the loss.
    lost: Mutex<Vec<(usize, HalError)>>,
    claims: Mutex<Claims>,
}

impl Fleet {
    /// Makes a fleet without devices.
    pub(crate) fn new(profile: Option<Arc<Profile>>, transports: Vec<Arc<dyn Transport>>, limits: Limits) -> Fleet {
        Fleet {
            devices: Vec::new(),
            policies: Vec::new(),
            absent: Vec::new(),
            topology: Topology::default(),
            profile,
            transports: transports.into(),
            limits,
            shared: Arc::default(),
        }
    }

    /// Adds a device behind the others.
    pub(crate) fn add(&mut self, device: Arc<dyn Device>, policy: Policy) {
        for other in self.devices.iter().chain([&device]) {
            let (a, b) = (device.info(), other.info());
            self.topology.insert(a.id.clone(), b.id.clone(), device.edge_to(b));
            self.topology.insert(b.id.clone(), a.id.clone(), other.edge_to(a));
        }
        self.devices.push(device);
        self.policies.push(policy);
        if let Some(profile) = &self.profile {
            let infos: Vec<_> = self.devices.iter().map(|device| device.info()).collect();
            profile.apply(&infos, &mut self.topology);
        }
    }

    /// Records a device that is not there.
    pub(crate) fn miss(&mut self, absent: AbsentDevice) {
        self.absent.push(absent);
    }

    /// Returns the devices that are not there, of those that were preferred or nobody named.
    #[must_use]
    pub fn absent(&self) -> &[AbsentDevice] {
        &self.absent
    }

    /// Returns how much the device at a position is wanted; [`Policy::Allow`] where there is none.
    #[must_use]
    pub fn policy(&self, position: usize) -> Policy {
        self.policies.get(position).copied().unwrap_or_default()
    }

    /// Tells whether a device is required.
    pub(crate) fn requires(&self, id: &DeviceId) -> bool {
        self.position(id).is_some_and(|position| self.policy(position) == Policy::Require)
    }

    /// Returns the opened devices, in the order in which they were added.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    /// Returns the position of a device among [`Fleet::devices`].
    #[must_use]
    pub fn position(&self, id: &DeviceId) -> Option<usize> {
        self.devices.iter().position(|device| device.info().id == *id)
    }

    /// Returns the position of the device that a plan names.
    pub(crate) fn position_of(&self, name: &str) -> Option<usize> {
        self.position(&name.parse().ok()?)
    }

    /// Returns the edges between the devices: what the devices say of themselves, and what was
    /// measured.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns the measurements of the devices, where plans are made with them.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_deref()
    }

    /// Returns the transports, the first to be asked first: those that were registered, then the
    /// standard ones.
    /// Sessions carry by them, and [`measure`](crate::comm::measure()) times them.
    #[must_use]
    pub fn transports(&self) -> &[Arc<dyn Transport>] {
        &self.transports
    }

    /// Returns the bytes that constants and intermediate values may take on a device, or `None`
    /// where nothing limits them.
    #[must_use]
    pub fn memory_limit(&self, device: &DeviceInfo) -> Option<u64> {
        let memory = device.memory_bytes.map(|bytes| (bytes as f64 * self.limits.memory_share) as u64);
        match (memory, self.limits.memory) {
            (Some(memory), Some(limit)) => Some(memory.min(limit)),
            (memory, limit) => memory.or(limit),
        }
    }

    /// Returns what reading, planning or computing plainly may take on the host, beginning now: the
    /// memory limit, or else half of the host's memory as far as it is known, and the deadline of
    /// a run.
    #[must_use]
    pub fn allowance(&self) -> Allowance {
        let half = || {
            let known = self.devices.iter().filter_map(|device| device.info().memory_bytes);
            known.max().map_or(1 << 32, |bytes| bytes / 2)
        };
        let bytes = usize::try_from(self.limits.memory.unwrap_or_else(half)).unwrap_or(usize::MAX);
        Allowance::new(bytes).until(Instant::now().checked_add(self.limits.deadline))
    }

    /// Returns the [`Fleet::allowance`], less the bytes that a model's constants hold where a limit
    /// was set.
    pub(crate) fn allowance_beside(&self, held: usize) -> Allowance {
        let mut allowance = self.allowance();
        if self.limits.memory.is_some() {
            allowance.bytes = allowance.bytes.saturating_sub(held);
        }
        allowance
    }

    /// Returns the most runs of a session under way at once, where the configuration says it.
    #[must_use]
    pub fn max_in_flight(&self) -> Option<usize> {
        self.limits.max_in_flight
    }

    /// Returns the longest time that a run may take.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.limits.deadline
    }

    /// Returns the cache in which compiled programs are kept, where there is one.
    pub(crate) fn cache(&self) -> Option<&ProgramCache> {
        self.limits.cache.as_ref()
    }

    /// Returns why the folder of [`Builder::cache`](crate::Builder::cache) did not take a compiled
    /// program, where that happened; the programs work all the same.
    #[must_use]
    pub fn cache_trouble(&self) -> Option<&str> {
        self.cache().and_then(ProgramCache::trouble)
    }

    /// Returns the devices that were lost, each with the error that told of the loss.
    #[must_use]
    pub fn lost(&self) -> Vec<(DeviceId, HalError)> {
        let lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lost.iter().filter_map(|(device, error)| Some((self.devices.get(*device)?, error)));
        known.map(|(device, error)| (device.info().id.clone(), error.clone())).collect()
    }

    /// Returns the positions of the devices that were lost.
    pub(crate) fn lost_positions(&self) -> Vec<usize> {
        let lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.iter().map(|(device, _)| *device).collect()
    }

    /// Tells whether a device was lost.
    #[must_use]
    pub fn is_lost(&self, id: &DeviceId) -> bool {
        self.position(id).is_some_and(|position| self.lost_positions().contains(&position))
    }

    /// Records the device that an error says is lost; returns `false` where it says none.
    /// The device's position stays, as plans count on it.
    pub(crate) fn lose(&self, error: &Error) -> bool {
        let Error::Device(error) = error else { return false };
        let device = error.device().and_then(|id| self.position(id));
        let (Some(device), ErrorKind::DeviceLost) = (device, error.kind()) else { return false };
        let mut lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if !lost.iter().any(|(other, _)| *other == device) {
            lost.push((device, error.clone()));
        }
        true
    }

    /// Returns what a device claims of a program.
    /// The device is asked once; the claims for the programs used last are remembered, by their
    /// fingerprints.
    pub(crate) fn claims(&self, position: usize, program: &Program) -> Arc<[Claim]> {
        let fingerprint = program.fingerprint();
        let known = |claims: &mut Claims| claims.find(fingerprint, position);
        if let Some(claims) = known(&mut self.shared.claims.lock().unwrap_or_else(PoisonError::into_inner)) {
            return claims;
        }
        // Nobody waits for the lock while the device decides.
        let claims: Arc<[Claim]> = self.devices.get(position).map_or_else(Arc::default, |d| d.claims(program).into());
        let mut all = self.shared.claims.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(fingerprint, position, claims.clone());
        claims
    }
}

/// The claims of devices by program, with the program used last at the end.
#[derive(Default)]
struct Claims(Vec<(Fingerprint, OfDevices)>);

/// The claims for one program, by the position of the device.
type OfDevices = Vec<(usize, Arc<[Claim]>)>;

impl Claims {
    fn find(&mut self, fingerprint: Fingerprint, device: usize) -> Option<Arc<[Claim]>> {
        let index = self.0.iter().rposition(|(known, _)| *known == fingerprint)?;
        let program = self.0.remove(index);
        let claims = program.1.iter().find(|(position, _)| *position == device).map(|(_, claims)| claims.clone());
        self.0.push(program);
        claims
    }

    fn insert(&mut self, fingerprint: Fingerprint, device: usize, claims: Arc<[Claim]>) {
        match self.0.iter_mut().rev().find(|(known, _)| *known == fingerprint) {
            Some((_, devices)) if devices.iter().any(|(position, _)| *position == device) => {}
            Some((_, devices)) => devices.push((device, claims)),
            None => {
                if self.0.len() >= MOST_PROGRAMS {
                    self.0.remove(0);
                }
                self.0.push((fingerprint, vec![(device, claims)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_kept_for_the_programs_that_were_used_last() {
        let mut claims = Claims::default();
        for number in 0..MOST_PROGRAMS {
            claims.insert(Fingerprint(number as u128), 0, Arc::default());
        }
        let [zero, one, more] = [0, 1, u128::MAX].map(Fingerprint);
        assert!(claims.find(zero, 0).is_some() && claims.find(zero, 1).is_none());
        claims.insert(zero, 1, Arc::default());
        claims.insert(more, 0, Arc::default());
        assert_eq!(claims.0.len(), MOST_PROGRAMS);
        assert!(claims.find(zero, 0).is_some() && claims.find(zero, 1).is_some());
        assert!(claims.find(one, 0).is_none(), "it was used longest ago");
    }
}
