//! Lost devices: noted once, and no plan uses them again.
//!
//! A run that fails because its device is gone fails for good; the plan keeps its program, so that the engine divides that again among the
//! devices that are left.

use std::sync::{Arc, PoisonError};

use hetero_hal::{DeviceId, Error as HalError, ErrorKind};

use crate::session::Session;
use crate::{Error, HeteroEngine, Plan, Result};

impl HeteroEngine {
    pub(crate) fn with_session<T>(&self, plan: &Plan, mut run: impl FnMut(&Session) -> Result<T>) -> Result<T> {
        let mut session = self.session(plan)?;
        loop {
            let error = match run(&session) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            session = self.recover(plan, &session, error)?;
        }
    }

    /// After a run of `session` that failed with `error`: where that tells of a lost device, gives the session of the plan without it, from now
    /// on the one of [`HeteroEngine::session`]. No plan of this engine uses the device again.
    ///
    /// # Errors
    /// `error`, where it tells of no lost device or the session did without it already; the like, with what stands in the way, where
    /// no other device takes its nodes.
    pub fn recover(&self, plan: &Plan, session: &Arc<Session>, error: Error) -> Result<Arc<Session>> {
        if !self.lose(&error) {
            return Err(error);
        }
        let next = self.session(plan)?;
        if Arc::ptr_eq(&next, session) { Err(error) } else { Ok(next) }
    }

    /// Notes the device that an error says is lost; `false` where it says none.
    pub(crate) fn lose(&self, error: &Error) -> bool {
        let Error::Device(error) = error else { return false };
        let device = error.device().and_then(|id| self.position(&id.to_string()));
        let (Some(device), ErrorKind::DeviceLost) = (device, error.kind()) else { return false };
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if !lost.iter().any(|(other, _)| *other == device) {
            lost.push((device, error.clone()));
        }
        true
    }

    /// The devices that were lost, each with the error that told; see [`HeteroEngine::recover`].
    #[must_use]
    pub fn lost(&self) -> Vec<(DeviceId, HalError)> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.iter().map(|(device, error)| (self.devices()[*device].info().id.clone(), error.clone())).collect()
    }

    /// Is it a device that was lost?
    pub(crate) fn is_lost(&self, id: &str) -> bool {
        self.lost().iter().any(|(lost, _)| lost.to_string() == id)
    }
}

/// Does a plan run anything on a device, or let it take tiles?
pub(crate) fn uses(plan: &hetero_scheduler::Partitioning, id: &DeviceId) -> bool {
    let id = id.to_string();
    let takes = |tiles: &hetero_scheduler::Tiles| tiles.devices.contains_key(&id);
    plan.partitions.iter().any(|partition| partition.device == id || partition.tiles.as_ref().is_some_and(takes))
}

/// The line that tells what became of a lost device's nodes; `None` where it had none.
pub(crate) fn takeover(
    id: &DeviceId,
    error: &HalError,
    before: &hetero_scheduler::Partitioning,
    now: &hetero_scheduler::Partitioning,
) -> Option<String> {
    let id = id.to_string();
    let (before, now) = (before.placement(), now.placement());
    let nodes: Vec<&str> = before.iter().filter(|(_, device)| **device == id).map(|(node, _)| *node).collect();
    let mut takers: Vec<&str> = nodes.iter().filter_map(|node| now.get(node).copied()).collect();
    takers.sort_unstable();
    takers.dedup();
    let plural = if nodes.len() == 1 { "node" } else { "nodes" };
    let line = format!("{} {plural} of {id} moved to {}, as it was lost: {error}", nodes.len(), takers.join(", "));
    (!nodes.is_empty()).then_some(line)
}
