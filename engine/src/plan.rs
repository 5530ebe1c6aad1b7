//! A plan with the program that it is for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hetero_hal::Program;

use crate::session::Session;

/// Which node runs where, for one model bound to shapes. Cheap to clone; clones share the session that runs it.
#[derive(Clone)]
pub struct Plan(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) partitioning: hetero_scheduler::Partitioning,
    pub(crate) program: Arc<Program>,
    /// The same before its batch was split and its products were cut into tiles.
    pub(crate) unsplit: Arc<Program>,
    pub(crate) assumed: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// Made by the first run.
    pub(crate) session: Mutex<Option<Arc<Session>>>,
}

impl Plan {
    /// The plan as data.
    #[must_use]
    pub fn partitioning(&self) -> &hetero_scheduler::Partitioning {
        &self.0.partitioning
    }

    /// The bound and rewritten program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// Open dimensions of the model that nobody gave a size, and that were taken as 1.
    #[must_use]
    pub fn assumed(&self) -> &[String] {
        &self.0.assumed
    }

    /// What the configuration asked for and was not done, with the reason: a batch that is not split.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Device of each node.
    #[must_use]
    pub fn placement(&self) -> BTreeMap<&str, &str> {
        self.0.partitioning.placement()
    }

    /// The plan as JSON, for [`HeteroEngine::load_plan`](crate::HeteroEngine::load_plan).
    ///
    /// # Errors
    /// Where an estimate is not a number.
    pub fn to_json(&self) -> crate::Result<String> {
        Ok(self.0.partitioning.to_json()?)
    }
}

/// What plans name a program by.
pub(crate) fn fingerprint(program: &Program) -> String {
    program.fingerprint().to_string()
}
