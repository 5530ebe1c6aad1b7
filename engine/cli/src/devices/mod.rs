//! `hetero devices` and `hetero check`: list devices, and say which drivers are usable.

mod open;
pub(crate) mod options;

use hetero::HeteroEngine;
use hetero::hal::DeviceInfo;
use serde_json::{Value, json};

pub(crate) use open::{add, add_all, open, profile};

use crate::arguments::{CheckOptions, JsonOptions};
use crate::failure::Result;
use crate::output::{document, say};

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
    let found: Vec<DeviceInfo> = engine.found();
    if options.json {
        document(json!({ "devices": found.iter().map(described).collect::<Vec<_>>() }))?;
    } else if found.is_empty() {
        say!("no device; `hetero check --compatibility` says why")?;
    } else {
        found.iter().try_for_each(|info| say!("{}", line(info)))?;
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
                say!("{}: usable", driver.name())?;
                devices.iter().try_for_each(|info| say!("    {}", line(info)))?;
                notices(driver.name()).iter().try_for_each(|notice| say!("    {notice}"))?;
            }
            Err(why) => {
                say!("{}: {}", driver.name(), why.reason)?;
                say!("    {}", why.detail)?;
                say!("    remedy: {}", why.remedy)?;
            }
        }
    }
    if options.output.json {
        document(json!({ "compatibility": options.compatibility, "drivers": entries }))?;
    }
    Ok(())
}

/// Returns what users have to know of a driver's devices beside the fact that they can be used: one
/// line a device.
fn notices(driver: &str) -> Vec<String> {
    match driver {
        #[cfg(feature = "opencl")]
        "opencl" => hetero_opencl::OpenClDriver::processors().notices(),
        #[cfg(feature = "fpga")]
        "fpga" => hetero_opencl::OpenClDriver::accelerators().notices(),
        _ => vec![],
    }
}
