//! A conformance run as checked and opened: the device, and the cases that were asked for.

use std::sync::Arc;

use hetero::HeteroEngine;
use hetero::hal::Device;
use hetero_conformance::{Case, DeviceTest, limits, suite};
use hetero_layers::Validated;

use crate::arguments::ConformanceOptions;
use crate::devices;
use crate::failure::{Failure, Result};

/// The number of random networks that run behind the cases of single operators.
const NETWORKS: u64 = 100;

/// Tells whether the caller wants a case of this name.
fn wanted(filter: Option<&str>, name: &str) -> bool {
    filter.is_none_or(|filter| name.contains(filter))
}

pub(super) fn nothing_wanted() -> Failure {
    Failure::usage("no case has this filter in its name", "leave out --filter to run all")
}

/// Returns the generated cases, and those of numbers at their limits, whose names contain a text.
pub(super) fn cases(seed: u64, filter: Option<&str>) -> Result<Vec<Case>> {
    let mut cases = suite(seed).map_err(hetero::Error::from)?;
    cases.extend(limits().map_err(hetero::Error::from)?);
    cases.retain(|case| wanted(filter, &case.name));
    Ok(cases)
}

/// The kinds of tests, in the order in which they run.
const KINDS: [fn(&DeviceTest) -> bool; 4] = [
    |test| matches!(test, DeviceTest::Operator(_) | DeviceTest::Limit(_) | DeviceTest::Program(_)),
    |test| matches!(test, DeviceTest::Network { .. }),
    |test| matches!(test, DeviceTest::Contract(_)),
    |test| matches!(test, DeviceTest::Weights(_)),
];

/// Returns each N-th test of each kind that the caller wants, beginning with the one that the seed
/// chooses, so that N seeds in a row choose all of them.
fn chosen(options: &ConformanceOptions) -> Result<[Vec<DeviceTest>; 4]> {
    let all = DeviceTest::all(options.seed, NETWORKS).map_err(hetero::Error::from)?;
    let wanted = |test: &&DeviceTest| wanted(options.filter.as_deref(), &test.name());
    let every = options.every as usize;
    let first = (options.seed % u64::from(options.every)) as usize;
    let first = (first + every - 1) % every;
    let of = |kind: fn(&DeviceTest) -> bool| {
        let mut tests: Vec<DeviceTest> = all.iter().filter(|test| kind(test)).filter(wanted).cloned().collect();
        // Of few cases, one runs whatever the seed.
        tests.drain(..first.min(tests.len().saturating_sub(1)));
        tests.into_iter().step_by(every).collect()
    };
    Ok(KINDS.map(of))
}

/// Returns an engine, and with `validate` a layer over all its drivers that checks their callers.
fn engine(validate: bool, unexamined: bool) -> (HeteroEngine, Option<Validated>) {
    let mut builder = devices::builder(unexamined, &[]);
    let mut layer: Option<Validated> = None;
    if validate {
        for driver in hetero::builtin_drivers() {
            let beside = match &layer {
                Some(layer) => layer.beside(driver),
                None => Validated::over(driver),
            };
            builder = builder.driver(Arc::new(beside.clone()));
            layer = Some(beside);
        }
    }
    (builder.build(), layer)
}

/// The one device of a run, with its generated tests.
pub(super) struct Job {
    pub(super) engine: HeteroEngine,
    /// The layer that checks the callers of all drivers, where that was asked for.
    pub(super) layer: Option<Validated>,
    /// The tests of each kind: operators and small programs, networks, rules of the contract and of
    /// weights.
    pub(super) tests: [Vec<DeviceTest>; 4],
}

impl Job {
    pub(super) fn new(options: &ConformanceOptions) -> Result<Job> {
        let (mut engine, layer) = engine(options.validate, options.devices.unexamined);
        devices::add(&mut engine, &options.devices)?;
        device(&engine)?;
        let tests = chosen(options)?;
        if tests.iter().all(Vec::is_empty) {
            return Err(nothing_wanted());
        }
        Ok(Job { engine, layer, tests })
    }
}

/// Returns the one device of an engine.
pub(super) fn device(engine: &HeteroEngine) -> Result<&Arc<dyn Device>> {
    match engine.devices() {
        [device] => Ok(device),
        _ => Err(Failure::usage("conformance is of one device", "name it with `--device ID`")),
    }
}
