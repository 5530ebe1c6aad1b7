//! A run as checked and opened: the model is planned and compiled, and its inputs are there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::{HeteroEngine, Plan, Session, Tensor};

use crate::arguments::JobOptions;
use crate::failure::{Failure, Result};
use crate::output::note;
use crate::planning::{binding, engine, load, warn_of_idle_pins};
use crate::progress::Spinner;
use crate::tensors;

/// The bytes that a plan may have; one of a million nodes has some hundred million.
const LARGEST_PLAN: u64 = 1 << 30;

/// A model, ready to run with its inputs.
pub(crate) struct Prepared {
    pub(super) engine: HeteroEngine,
    pub(crate) plan: Plan,
    pub(crate) session: Arc<hetero::Session>,
    /// The inputs, by name.
    pub(super) inputs: Vec<(String, Tensor)>,
    /// The names of the inputs that were bound as constants.
    pub(super) fixed: Vec<String>,
    pub(super) load_time: Duration,
    pub(super) plan_time: Duration,
    pub(super) compile_time: Duration,
}

impl Prepared {
    pub(crate) fn new(options: &JobOptions, spinner: &Spinner) -> Result<Prepared> {
        let engine = engine(&options.model, &options.devices, (&options.place, &options.cache), None, &options.faults)?;
        spinner.say("reading the model");
        let (model, load_time) = load(&options.model, options.devices.memory_limit)?;
        let mut given: Vec<(String, Tensor)> = Vec::new();
        for (name, path) in &options.inputs {
            let values = model.graph.inputs.iter().map(|id| &model.graph.values[id.index()]);
            let wanted = values.into_iter().find(|value| *value.name == **name).and_then(|value| value.ty.dtype);
            given.push((name.clone(), tensors::read(path, wanted)?));
        }
        spinner.say("planning");
        let began = Instant::now();
        let plan = match &options.plan {
            Some(path) => {
                let text =
                    hetero_files::read_text(path, LARGEST_PLAN).map_err(|error| Failure::file("read", path, &error))?;
                engine.load_plan(&model, &text)?
            }
            None => {
                let given: Vec<(&str, Tensor)> = given.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
                engine.analyze_with_inputs(&model, &binding(&options.model), &given)?
            }
        };
        let plan_time = began.elapsed();
        // The plan has what it needs of the model, which may be as large.
        drop(model);
        warn_of_idle_pins(&plan);
        spinner.say("compiling");
        let began = Instant::now();
        let session = engine.session(&plan)?;
        let compile_time = began.elapsed();
        if let Some(trouble) = engine.fleet().cache_trouble() {
            note!("compiled programs are not kept: cannot write to the cache {trouble}");
        }
        // An input that was bound as a constant is no input any more.
        let fixed = plan.fixed().to_vec();
        let mut inputs = given;
        inputs.retain(|(name, _)| !fixed.contains(name));
        let given: HashSet<String> = inputs.iter().map(|(name, _)| name.clone()).collect();
        for (index, port) in session.inputs().iter().enumerate() {
            if given.contains(&*port.name) {
                continue;
            }
            let Some(seed) = options.random else {
                return Err(Failure::usage(
                    format!("input '{}' ({}{:?}) has no content", port.name, port.dtype, port.shape),
                    "give `--input NAME=FILE`, or `--random SEED` for all that have none",
                ));
            };
            // Each input has numbers of its own.
            let seed = seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9));
            inputs.push((port.name.to_string(), tensors::random(port.dtype, &port.shape, seed)?));
        }
        Ok(Prepared { engine, plan, session, inputs, fixed, load_time, plan_time, compile_time })
    }

    /// Returns the inputs in the session's order.
    pub(crate) fn ordered(&self) -> Result<Vec<Tensor>> {
        // The first of one name counts.
        let given: HashMap<&str, &Tensor> = self.inputs.iter().rev().map(|(name, tensor)| (&**name, tensor)).collect();
        let found = self.session.inputs().iter().map(|port| given.get(&*port.name).copied().cloned());
        found.collect::<Option<Vec<_>>>().ok_or_else(|| Failure::failed("an input is missing"))
    }

    /// Calls `run` with the session.
    /// Where a device is lost in it, calls it again with a session that does without the device,
    /// and says so.
    pub(super) fn with_session<T>(&mut self, run: impl FnMut(&Arc<Session>) -> hetero::Result<T>) -> Result<T> {
        let before = self.session.clone();
        let done = self.engine.carry_on(&self.plan, &mut self.session, run);
        // A report takes longer than a run of a small model: it is made only where there is news.
        if !Arc::ptr_eq(&before, &self.session) {
            let told = before.report().moved.len();
            // The lines that were told before come first.
            self.session.report().moved.iter().skip(told).for_each(|line| note!("{line}"));
        }
        Ok(done?)
    }
}
