//! What `plan` and `run` do first: the engine that the options ask for, and the model with its
//! shapes.

use std::time::{Duration, Instant};

use hetero::hal::DeviceId;
use hetero::{Binding, Config, HeteroEngine, Model, Plan, ReadOptions, Strategy};
use hetero_layers::Fault;

use crate::arguments::{CacheOptions, DeviceOptions, ModelOptions, PlaceOptions};
use crate::devices;
use crate::failure::{Failure, Result};
use crate::limits;
use crate::output::note;

/// Makes the engine that the options ask for, with its devices.
pub(crate) fn engine(
    model: &ModelOptions,
    devices: &DeviceOptions,
    (place, cache): (&PlaceOptions, &CacheOptions),
    strategy: Option<&str>,
    faults: &[(DeviceId, Fault)],
) -> Result<HeteroEngine> {
    let mut config = match &model.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    if let Some(strategy) = strategy.and_then(Strategy::from_name) {
        config.scheduling.strategy = strategy;
    }
    config.scheduling.deny_slow |= place.deny_slow;
    let mut builder = devices::builder(devices.unexamined, faults).config(config);
    if let Some(bytes) = devices.memory_limit {
        builder = builder.memory_limit(bytes);
    }
    if let Some(left) = limits::left() {
        builder = builder.deadline(left);
    }
    if let Some(folder) = &cache.cache {
        builder = builder.cache(folder);
    }
    if let Some(placement) = &place.place {
        builder = builder.place(placement.clone());
    }
    if let Some(profile) = devices::profile(devices)? {
        builder = builder.profile(profile);
    }
    let mut engine = builder.build();
    devices::add(&mut engine, devices)?;
    let known = |id: &DeviceId| {
        let absent = engine.fleet().absent().iter().map(|absent| &absent.device);
        engine.devices().iter().map(|device| &device.info().id).chain(absent).any(|known| known == id)
    };
    if let Some((id, _)) = faults.iter().find(|(id, _)| !known(id)) {
        return Err(Failure::usage(format!("--inject: the device {id} is not used"), "`--device` adds it"));
    }
    Ok(engine)
}

/// Prints which pins match no node: they are misspelt, or the nodes were folded away.
pub(crate) fn warn_of_idle_pins(plan: &Plan) {
    for pattern in plan.idle_pins() {
        note!("--place: no node matches '{pattern}'");
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Reads a model within the command's limits, and tells how long that took.
pub(crate) fn load(options: &ModelOptions, memory_limit: Option<u64>) -> Result<(Model, Duration)> {
    let began = Instant::now();
    let how = ReadOptions {
        map: options.map_weights,
        count_files: memory_limit.is_some(),
        allowance: limits::allowance(memory_limit),
    };
    let model = hetero::read_model_with(&options.model, how).map_err(hetero::Error::from)?;
    Ok((model, began.elapsed()))
}

/// Returns the binding by `--shape`; open dimensions are taken as 1.
pub(crate) fn binding(model: &ModelOptions) -> Binding {
    let shapes = model.shapes.iter().cloned().collect();
    Binding { shapes, default_size: Some(1), allowance: limits::allowance(None), ..Binding::default() }
}
