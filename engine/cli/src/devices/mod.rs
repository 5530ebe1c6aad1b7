//! `hetero devices` and `hetero check`: list devices, and say which drivers are usable.

mod examine;
mod open;
pub(crate) mod options;

use hetero::HeteroEngine;
use hetero::hal::DeviceInfo;
use serde_json::{Value, json};

use examine::Examined;
pub(crate) use examine::{answer, builder};
pub(crate) use open::{add, add_all, open, profile};

use crate::arguments::{CheckOptions, JsonOptions};
use crate::failure::Result;
use crate::output::{document, say};
use crate::progress::Spinner;

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
    let engine = builder(false, &[]).build();
    let found = examined(&engine, engine.found(), false);
    let (unusable, usable): (Vec<_>, Vec<_>) = found.iter().partition(|(_, examined)| examined.unavailable().is_some());
    if options.json {
        let unusable = unusable.iter().map(|(info, examined)| with(described(info), "examination", examined.json()));
        let usable = usable.iter().map(|(info, _)| described(info));
        return document(json!({ "devices": Vec::from_iter(usable), "unavailable": Vec::from_iter(unusable) }));
    }
    if usable.is_empty() {
        say!("no device; `hetero check --compatibility` says why")?;
    }
    usable.iter().try_for_each(|(info, _)| say!("{}", line(info)))?;
    for (info, examined) in unusable {
        say!("{}", line(info))?;
        examined.lines().iter().try_for_each(|line| say!("    {line}"))?;
    }
    Ok(())
}

/// Examines devices one by one.
fn examined(engine: &HeteroEngine, infos: Vec<DeviceInfo>, anew: bool) -> Vec<(DeviceInfo, Examined)> {
    let spinner = Spinner::start("examining devices");
    let one = |info: DeviceInfo| {
        spinner.say(format!("examining {}", info.id));
        let examined = Examined::new(engine, &info, anew);
        (info, examined)
    };
    let examined = infos.into_iter().map(one).collect();
    drop(spinner);
    examine::warn_of_troubles();
    examined
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

pub(crate) fn check(options: &CheckOptions) -> Result<()> {
    let engine = builder(false, &[]).build();
    let mut entries = Vec::new();
    for driver in engine.drivers() {
        let probed = driver.probe().map(|infos| examined(&engine, infos, true));
        let usable = probed.as_ref().is_ok_and(|found| found.iter().any(|(_, one)| one.unavailable().is_none()));
        if options.output.json {
            let noticed = |info: &DeviceInfo| Some(format!("{}: {}", info.id, info.notice.as_ref()?));
            entries.push(match probed {
                Ok(found) => json!({
                    "driver": driver.name(),
                    "usable": usable,
                    "devices": found
                        .iter()
                        .map(|(info, examined)| with(described(info), "examination", examined.json()))
                        .collect::<Vec<_>>(),
                    "notices": found.iter().filter_map(|(info, _)| noticed(info)).collect::<Vec<_>>(),
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
            Ok(found) => {
                say!("{}: {}", driver.name(), if usable { "usable" } else { "no device that can be used" })?;
                for (info, examined) in found {
                    say!("    {}", line(&info))?;
                    info.notice.iter().try_for_each(|notice| say!("        {notice}"))?;
                    examined.lines().iter().try_for_each(|line| say!("        {line}"))?;
                }
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
