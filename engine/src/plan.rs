//! Plans, each with the program that it is for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hetero_hal::Program;

use crate::planner::{PlanTiming, Planned};
use crate::session::Session;
use crate::share::PlacementShares;

/// A plan: it says which node runs where, for one model bound to shapes.
/// It is cheap to clone, and clones share the session that runs it.
#[derive(Clone)]
pub struct Plan(Arc<Inner>);

struct Inner {
    planned: Planned,
    /// The session that the first run makes.
    session: Mutex<Option<Arc<Session>>>,
}

impl Plan {
    pub(crate) fn new(planned: Planned) -> Plan {
        Plan(Arc::new(Inner { planned, session: Mutex::new(None) }))
    }

    pub(crate) fn planned(&self) -> &Planned {
        &self.0.planned
    }

    /// Returns the session that runs the plan, where there is one.
    /// A caller that makes one keeps others waiting for it.
    pub(crate) fn session(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.0.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the plan as data.
    #[must_use]
    pub fn partitioning(&self) -> &hetero_scheduler::Partitioning {
        &self.planned().partitioning
    }

    /// Returns the bound and rewritten program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.planned().annotated.program
    }

    /// Returns the open dimensions of the model that nobody gave a size, and that were taken as 1.
    #[must_use]
    pub fn assumed(&self) -> &[String] {
        &self.planned().assumed
    }

    /// Returns the wishes that were not met, each with the reason: a batch that is not split, a
    /// preferred device that is not there.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.planned().notes
    }

    /// Returns the inputs that were bound as constants, and that runs do not take; see
    /// [`HeteroEngine::analyze_with_inputs`](crate::HeteroEngine::analyze_with_inputs).
    #[must_use]
    pub fn fixed(&self) -> &[String] {
        &self.planned().fixed
    }

    /// Returns the patterns of the engine's placement that no node matches: they are misspelt, or
    /// passes have folded their nodes away.
    #[must_use]
    pub fn idle_pins(&self) -> &[String] {
        &self.planned().idle_pins
    }

    /// Returns the time that making the plan took.
    #[must_use]
    pub fn timing(&self) -> PlanTiming {
        self.planned().timing
    }

    /// Returns the device of each node.
    #[must_use]
    pub fn placement(&self) -> BTreeMap<&str, &str> {
        self.partitioning().placement()
    }

    /// Returns the share of the nodes, of the estimated time and of the bytes that each device has.
    #[must_use]
    pub fn shares(&self) -> PlacementShares {
        PlacementShares::of(self.program(), self.partitioning())
    }

    /// Returns the plan as JSON, for [`HeteroEngine::load_plan`](crate::HeteroEngine::load_plan).
    ///
    /// # Errors
    /// An error where an estimate is not a number.
    pub fn to_json(&self) -> crate::Result<String> {
        Ok(self.partitioning().to_json()?)
    }
}
