//! The devices that options ask for, opened; and the profile that is planned with.

use hetero::HeteroEngine;
use hetero::comm::{Profile, Usability};
use hetero::hal::DeviceId;

use super::examine;
use crate::arguments::{DeviceChoice, DeviceOptions, DriverOption};
use crate::failure::{Failure, Result};
use crate::output::note;
use crate::progress::Spinner;

/// Adds the devices that were asked for, or the engine's default.
pub(crate) fn add(engine: &mut HeteroEngine, options: &DeviceOptions) -> Result<()> {
    add_which(engine, options, HeteroEngine::default_devices)
}

/// Adds the devices that were asked for, or all that there are.
pub(crate) fn add_all(engine: &mut HeteroEngine, options: &DeviceOptions) -> Result<()> {
    add_which(engine, options, |engine| engine.found().into_iter().map(|info| info.id).collect())
}

type Default = fn(&HeteroEngine) -> Vec<DeviceId>;

fn add_which(engine: &mut HeteroEngine, options: &DeviceOptions, default: Default) -> Result<()> {
    let opened = open(engine, options, default);
    examine::warn_of_troubles();
    opened?;
    engine.fleet().absent().iter().for_each(|absent| note!("{absent}"));
    if let Some(profile) = engine.profile() {
        note!("{}", used(profile, engine));
    }
    Ok(())
}

/// Adds the devices that were asked for, or else those of `default`, and says nothing.
pub(crate) fn open(engine: &mut HeteroEngine, options: &DeviceOptions, default: Default) -> Result<()> {
    // Only those drivers are asked that have to be.
    let named = !options.devices.is_empty();
    let choices = if named {
        options.devices.clone()
    } else {
        default(engine).into_iter().map(|id| DeviceChoice { id, policy: None }).collect()
    };
    if choices.is_empty() {
        return Err(Failure::failed("there is no device; `hetero check --compatibility` says why"));
    }
    let of = |choice: &DeviceChoice, option: &DriverOption| choice.id.driver() == option.driver;
    if let Some(option) = options.options.iter().find(|option| !choices.iter().any(|choice| of(choice, option))) {
        let used: Vec<String> = choices.iter().map(|choice| choice.id.to_string()).collect();
        let used = format!("the devices are {}", used.join(", "));
        return Err(Failure::usage(format!("no device of the driver '{}' is used", option.driver), used));
    }
    for choice in choices {
        let extra = options.options.iter().filter(|option| of(&choice, option));
        let open = hetero::DeviceOptions {
            threads: options.threads.map(|threads| threads as usize),
            memory_limit: options.memory_limit,
            extra: extra.map(|option| (option.key.clone(), option.value.clone())).collect(),
        };
        // A device that was never examined takes a while.
        let _spinner = Spinner::start(format!("opening {}", choice.id));
        if named {
            let policy = choice.policy.unwrap_or_else(|| engine.configured_policy(&choice.id));
            engine.add_device_with(&choice.id.to_string(), open, policy)?;
        } else {
            engine.add_default_device(&choice.id, open)?;
        }
    }
    if engine.devices().is_empty() {
        let reasons: Vec<String> = engine.fleet().absent().iter().map(ToString::to_string).collect();
        return Err(Failure::failed(format!("there is no device: {}", reasons.join("; "))));
    }
    Ok(())
}

/// Returns the profile to plan with: the one that was named, else the user's, where there is one.
/// A named profile that cannot be read is an error; the user's is done without, and this says so.
pub(crate) fn profile(options: &DeviceOptions) -> Result<Option<Profile>> {
    match &options.profile {
        Some(path) => Profile::load(path).map(Some).map_err(|error| Failure::failed(error.to_string())),
        None => Ok(Profile::load_default().unwrap_or_else(|error| {
            note!("planning without a profile: {error}");
            None
        })),
    }
}

/// Tells which profile is planned with, and for which devices it cannot be used.
fn used(profile: &Profile, engine: &HeteroEngine) -> String {
    let mut line = format!("planning with the profile of {}", profile.created);
    for device in engine.devices() {
        let usability = profile.usability(device.info());
        if usability != Usability::Fits {
            line += &format!("; not for {}: {usability}", device.info().id);
        }
    }
    line
}
