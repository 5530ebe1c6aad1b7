//! A plan with the program that it is for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hetero_hal::{Program, Tensor};

use crate::fnv::Fnv;
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

/// A fingerprint of a program: its nodes, types and, sampled at both ends, its constants ([`Fnv`]).
pub(crate) fn fingerprint(program: &Program) -> String {
    const SAMPLE: usize = 4096;
    let mut hash = Fnv::new();
    let mut add = |bytes: &[u8]| hash.add(bytes);
    for node in program.nodes() {
        add(node.name.as_bytes());
        add(node.operator.to_string().as_bytes());
        for id in node.inputs.iter().chain(&node.outputs).flatten() {
            add(&id.0.to_le_bytes());
        }
    }
    for value in program.values() {
        add(value.dtype.name().as_bytes());
        value.shape.iter().for_each(|size| add(&size.to_le_bytes()));
        if let Some(bytes) = value.constant.as_ref().map(Tensor::bytes) {
            add(&bytes[..bytes.len().min(SAMPLE)]);
            add(&bytes[bytes.len().saturating_sub(SAMPLE)..]);
        }
    }
    hash.text()
}
