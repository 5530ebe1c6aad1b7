//! What `plan` and `run` do first: the engine that the options ask for, and the model with its
//! shapes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::hal::DeviceId;
use hetero::{Binding, Config, HeteroEngine, Model, Plan, ReadOptions, Strategy};
use hetero_layers::{Fault, Faulty};

use crate::arguments::{CacheOptions, DeviceOptions, ModelOptions, PlaceOptions};
use crate::devices;
use crate::failure::{Failure, Result};

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
    let mut builder = HeteroEngine::builder().config(config);
    if let Some(bytes) = devices.memory_limit {
        builder = builder.memory_limit(bytes);
    }
    if let Some(folder) = &cache.cache {
        builder = builder.cache(folder);
    }
    if let Some(placement) = &place.place {
        builder = builder.place(placement.clone());
    }
    for driver in hetero::builtin_drivers() {
        let of: Vec<_> = faults.iter().filter(|(id, _)| id.driver() == driver.name()).collect();
        if !of.is_empty() {
            let add = |layer: Faulty, (id, fault): &(DeviceId, Fault)| layer.with(id.ordinal(), *fault);
            let layer = of.into_iter().fold(Faulty::over(driver), add);
            builder = builder.driver(Arc::new(layer));
        }
    }
    if let Some(profile) = devices::profile(devices)? {
        builder = builder.profile(profile);
    }
    let mut engine = builder.build();
    devices::add(&mut engine, devices)?;
    if let Some((id, _)) = faults.iter().find(|(id, _)| !engine.devices().iter().any(|device| device.info().id == *id))
    {
        return Err(Failure::usage(format!("--inject: the device {id} is not used"), "`--device` adds it"));
    }
    Ok(engine)
}

/// Prints which pins match no node: they are misspelt, or the nodes were folded away.
pub(crate) fn warn_of_idle_pins(plan: &Plan) {
    for pattern in plan.idle_pins() {
        eprintln!("--place: no node matches '{pattern}'");
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Reads a model whose files take at most so many bytes, and tells how long that took.
pub(crate) fn load(options: &ModelOptions, most: Option<u64>) -> Result<(Model, Duration)> {
    let began = Instant::now();
    let how = ReadOptions { map: options.map_weights, most: most.unwrap_or(u64::MAX) };
    let model = hetero::read_model_with(&options.model, how).map_err(hetero::Error::from)?;
    Ok((model, began.elapsed()))
}

/// Returns the binding by `--shape`; open dimensions are taken as 1.
pub(crate) fn binding(model: &ModelOptions) -> Binding {
    Binding { shapes: model.shapes.iter().cloned().collect(), default_size: Some(1), ..Binding::default() }
}
