//! A conformance run as checked and opened: the device, and the cases that were asked for.

use std::sync::Arc;

use hetero::HeteroEngine;
use hetero::hal::Device;
use hetero_conformance::{Case, ContractCase, WeightCase, contract_cases, suite, weight_cases};

use crate::arguments::ConformanceOptions;
use crate::devices;
use crate::failure::{Failure, Result};

/// The number of random networks that run behind the cases of single operators.
pub(super) const NETWORKS: u64 = 100;

/// Tells whether the caller wants a case of this name.
fn wanted(filter: Option<&str>, name: &str) -> bool {
    filter.is_none_or(|filter| name.contains(filter))
}

pub(super) fn nothing_wanted() -> Failure {
    Failure::usage("no case has this filter in its name", "leave out --filter to run all")
}

/// Returns the generated cases whose names contain a text.
pub(super) fn cases(seed: u64, filter: Option<&str>) -> Vec<Case> {
    let mut cases = suite(seed);
    cases.retain(|case| wanted(filter, &case.name));
    cases
}

/// The one device of a run, with its generated cases.
pub(super) struct Job {
    pub(super) engine: HeteroEngine,
    pub(super) cases: Vec<Case>,
    /// The numbers of random networks, with their names.
    pub(super) networks: Vec<(u64, String)>,
    pub(super) rules: Vec<ContractCase>,
    pub(super) weights: Vec<WeightCase>,
}

impl Job {
    pub(super) fn new(options: &ConformanceOptions) -> Result<Job> {
        let mut engine = HeteroEngine::builder().build();
        devices::add(&mut engine, &options.devices)?;
        device(&engine)?;
        let (filter, every) = (options.filter.as_deref(), options.every as usize);
        let cases: Vec<Case> = cases(options.seed, filter).into_iter().step_by(every).collect();
        let networks = (0..NETWORKS).map(|number| (number, format!("network {number}")));
        let networks: Vec<_> = networks.filter(|(_, name)| wanted(filter, name)).step_by(every).collect();
        let rules = contract_cases().into_iter().filter(|rule| wanted(filter, &rule.name()));
        let rules: Vec<_> = rules.step_by(every).collect();
        let weights = weight_cases().into_iter().filter(|rule| wanted(filter, &rule.name()));
        let weights: Vec<_> = weights.step_by(every).collect();
        if cases.is_empty() && networks.is_empty() && rules.is_empty() && weights.is_empty() {
            return Err(nothing_wanted());
        }
        Ok(Job { engine, cases, networks, rules, weights })
    }
}

/// Returns the one device of an engine.
pub(super) fn device(engine: &HeteroEngine) -> Result<&Arc<dyn Device>> {
    match engine.devices() {
        [device] => Ok(device),
        _ => Err(Failure::usage("conformance is of one device", "name it with `--device ID`")),
    }
}
