//! `hetero devices` and `hetero check`.

use hetero::HeteroEngine;
use hetero::comm::{Profile, Usability};
use hetero::hal::DeviceInfo;
use serde_json::{Value, json};

use crate::arguments::{CheckOptions, DeviceOptions, JsonOptions};
use crate::failure::{Failure, Result};

fn described(info: &DeviceInfo) -> Value {
    json!({
        "id": info.id.to_string(),
        "kind": info.kind.to_string(),
        "name": info.name,
        "vendor": info.vendor,
        "driver_version": info.driver_version,
        "memory_bytes": info.memory_bytes,
        "emulated": info.emulated,
    })
}

fn line(info: &DeviceInfo) -> String {
    let memory = info.memory_bytes.map_or_else(|| "unknown memory".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    let emulated = if info.emulated { ", emulated" } else { "" };
    format!("{}  {} {} ({}), {memory}{emulated}", info.id, info.kind, info.name, info.driver_version)
}

pub(crate) fn list(options: &JsonOptions) -> Result<()> {
    let engine = HeteroEngine::new()?;
    let found: Vec<DeviceInfo> = engine.drivers().iter().filter_map(|driver| driver.probe().ok()).flatten().collect();
    if options.json {
        println!("{}", json!({ "devices": found.iter().map(described).collect::<Vec<_>>() }));
    } else if found.is_empty() {
        println!("no device; `hetero check --compatibility` says why");
    } else {
        found.iter().for_each(|info| println!("{}", line(info)));
    }
    Ok(())
}

pub(crate) fn check(options: &CheckOptions) -> Result<()> {
    let engine = HeteroEngine::new()?;
    let mut entries = Vec::new();
    for driver in engine.drivers() {
        let probed = driver.probe();
        if options.output.json {
            entries.push(match probed {
                Ok(devices) => json!({
                    "driver": driver.name(),
                    "usable": true,
                    "devices": devices.iter().map(described).collect::<Vec<_>>(),
                    "notices": notices(driver.name()),
                }),
                Err(why) => json!({
                    "driver": driver.name(),
                    "usable": false,
                    "reason": why.reason.to_string(),
                    "detail": why.detail,
                    "remedy": why.remedy,
                }),
            });
            continue;
        }
        match probed {
            Ok(devices) => {
                println!("{}: usable", driver.name());
                devices.iter().for_each(|info| println!("    {}", line(info)));
                notices(driver.name()).iter().for_each(|notice| println!("    {notice}"));
            }
            Err(why) => println!("{}: {}\n    {}\n    remedy: {}", driver.name(), why.reason, why.detail, why.remedy),
        }
    }
    if options.output.json {
        println!("{}", json!({ "compatibility": options.compatibility, "drivers": entries }));
    }
    Ok(())
}

/// What a driver's devices need to be known of them beside that they can be used: one line a device.
fn notices(driver: &str) -> Vec<String> {
    match driver {
        #[cfg(feature = "opencl")]
        "opencl" => hetero_opencl::OpenClDriver::processors().notices(),
        #[cfg(feature = "fpga")]
        "fpga" => hetero_opencl::OpenClDriver::accelerators().notices(),
        _ => vec![],
    }
}

/// Is it a chip of its own? An emulator is none, nor is the host's processor under another driver's name: either would take its time from `cpu:0`.
fn own_chip(info: &DeviceInfo) -> bool {
    !info.runs_on_host() || info.id.driver() == "cpu"
}

/// Adds the devices that were asked for, or all that are chips of their own.
pub(crate) fn add(engine: &mut HeteroEngine, options: &DeviceOptions) -> Result<()> {
    add_which(engine, options, own_chip)
}

/// Adds the devices that were asked for, or all that there are.
pub(crate) fn add_all(engine: &mut HeteroEngine, options: &DeviceOptions) -> Result<()> {
    add_which(engine, options, |_| true)
}

fn add_which(engine: &mut HeteroEngine, options: &DeviceOptions, wanted: fn(&DeviceInfo) -> bool) -> Result<()> {
    open(engine, options, wanted)?;
    if let Some(profile) = engine.profile() {
        eprintln!("{}", used(profile, engine));
    }
    Ok(())
}

/// Adds the devices that were asked for, or those that are wanted, and says nothing.
pub(crate) fn open(engine: &mut HeteroEngine, options: &DeviceOptions, wanted: fn(&DeviceInfo) -> bool) -> Result<()> {
    let mut ids = options.devices.clone();
    if ids.is_empty() {
        let found = engine.drivers().iter().filter_map(|driver| driver.probe().ok()).flatten();
        // A driver may stand in front of another of its name.
        for id in found.filter(wanted).map(|info| info.id.to_string()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
    }
    if ids.is_empty() {
        return Err(Failure::failed("there is no device; `hetero check --compatibility` says why"));
    }
    let of = |id: &str, driver: &str| id.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case(driver));
    if let Some(option) = options.options.iter().find(|option| !ids.iter().any(|id| of(id, &option.driver))) {
        let used = format!("the devices are {}", ids.join(", "));
        return Err(Failure::usage(format!("no device of the driver '{}' is used", option.driver), used));
    }
    for id in ids {
        let extra = options.options.iter().filter(|option| of(&id, &option.driver));
        let open = hetero::DeviceOptions {
            threads: options.threads.map(|threads| threads as usize),
            memory_limit: options.memory_limit,
            extra: extra.map(|option| (option.key.clone(), option.value.clone())).collect(),
        };
        engine.add_device(&id, open)?;
    }
    Ok(())
}

/// The profile to plan with: that which was named, else the user's, where there is one.
pub(crate) fn profile(options: &DeviceOptions) -> Result<Option<Profile>> {
    let loaded = match &options.profile {
        Some(path) => Profile::load(path).map(Some),
        None => Profile::load_default(),
    };
    loaded.map_err(|error| Failure::failed(error.to_string()))
}

/// Which profile is planned with, and for which devices it cannot be used.
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
