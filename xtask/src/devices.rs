//! The generated conformance cases on every device that is found, and the devices that have to be
//! found.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::drivers;
use crate::workspace::{Result, Workspace, drivers_required};

/// A device that a machine has on which `cargo xtask setup` ran.
struct Expected {
    what: &'static str,
    driver: &'static str,
    /// Texts of which one is in its name, vendor or driver version, in lower case.
    texts: &'static [&'static str],
    emulated: bool,
}

const EXPECTED: [Expected; 5] = [
    Expected { what: "the CPU", driver: "cpu", texts: &[""], emulated: false },
    Expected {
        what: "PoCL",
        driver: "opencl",
        texts: &["pocl", "pthread-", "portable computing language"],
        emulated: false,
    },
    // PoCL names the processor that it runs on, so Intel's name alone is not enough.
    Expected {
        what: "Intel CPU OpenCL",
        driver: "opencl",
        texts: &["intel(r) corporation", "intel(r) opencl"],
        emulated: false,
    },
    Expected { what: "the Intel FPGA emulator", driver: "fpga", texts: &["fpga emulat"], emulated: true },
    Expected { what: "lavapipe", driver: "wgpu", texts: &["llvmpipe"], emulated: true },
];

/// Whether the step fails where one of [`EXPECTED`] is not listed.
pub(crate) const ALL_REQUIRED: bool = true;
/// The number of cases of the whole suite that each device has to pass at least.
const LEAST_PASSED: u32 = 3000;
/// What the step runs of the suite: on devices other than the CPU one case in `every`, because
/// their drivers take up to half a second to compile a case.
pub(crate) struct Sample {
    pub(crate) every: u32,
    pub(crate) seed: u64,
}

/// The number of devices that are tested at the same time, because drivers compile on one thread.
const AT_ONCE: usize = 2;

/// One device in the output of `hetero devices`.
struct Found {
    id: String,
    described: String,
    emulated: bool,
}

impl Found {
    fn is(&self, expected: &Expected) -> bool {
        self.id.split(':').next() == Some(expected.driver)
            && (self.emulated || !expected.emulated)
            && expected.texts.iter().any(|text| self.described.contains(text))
    }
}

/// Runs the generated cases on each device.
pub(crate) fn conformance(workspace: &Workspace, hetero: &Path, sample: &Sample) -> Result<()> {
    let found = find(workspace, hetero, false)?;
    // Missing devices do not keep the others from being tested.
    let mut missing = Vec::from_iter(all_found(&found, "of the cache").err());
    if drivers::registered() {
        let plain = find(workspace, hetero, true).and_then(|found| all_found(&found, "registered for the system"));
        missing.extend(plain.err());
    }
    let waiting: Mutex<Vec<&str>> = Mutex::new(found.iter().map(|device| device.id.as_str()).collect());
    let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
    // This is not in the loop's head, where the lock would be held while the device is tested.
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(id) = next() {
                    let began = Instant::now();
                    let outcome = on_device(workspace, hetero, id, sample);
                    println!("{id}: {:.0} s", began.elapsed().as_secs_f64());
                    if let Err(error) = outcome {
                        println!("{error}");
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    missing.extend((!failed.is_empty()).then(|| format!("conformance of {}", failed.join(", "))));
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
}

fn on_device(workspace: &Workspace, hetero: &Path, id: &str, sample: &Sample) -> Result<()> {
    let report = workspace.root.join("target").join(format!("conformance-{}.xml", id.replace(':', "-")));
    let path = report.to_string_lossy();
    let every = if id.starts_with("cpu:") { 1 } else { sample.every };
    let (seed, least) = (sample.seed.to_string(), (LEAST_PASSED / every) as usize);
    let every = every.to_string();
    let arguments = ["conformance", "--device", id, "--every", &every, "--seed", &seed, "--validate", "--junit", &path];
    // The output is printed as a whole, because another device is tested at the same time.
    let output = workspace.command(hetero, &arguments).output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", hetero.display()))?;
    println!("+ hetero {}\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stdout));
    if !output.status.success() {
        return Err(format!("{id}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let text = std::fs::read_to_string(&report).map_err(|error| format!("cannot read {path}: {error}"))?;
    // A case that passed has nothing to say, so its element is empty.
    let passed = text.lines().filter(|line| line.contains("<testcase ") && !line.contains("</testcase>")).count();
    if passed >= least {
        Ok(())
    } else {
        Err(format!("{id}: {passed} cases passed, {least} have to at least; see {path}"))
    }
}

/// Returns every device; with `plain`, as a process finds them that this one has not started.
fn find(workspace: &Workspace, hetero: &Path, plain: bool) -> Result<Vec<Found>> {
    let mut command = workspace.command(hetero, &["devices", "--json"]);
    if plain {
        command.env_remove("OCL_ICD_VENDORS");
    }
    let output = command.output().map_err(|error| format!("cannot start {}: {error}", hetero.display()))?;
    if !output.status.success() {
        return Err(format!("`hetero devices`: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("`hetero devices --json` is not understood: {error}"))?;
    let devices = document["devices"].as_array().ok_or("`hetero devices --json` has no list of devices")?;
    let found = devices.iter().map(|device| {
        let text = |key: &str| device[key].as_str().unwrap_or_default();
        let described = [text("name"), text("vendor"), text("driver_version")].join(" ").to_lowercase();
        Found { id: text("id").to_owned(), described, emulated: device["emulated"] == true }
    });
    Ok(found.collect())
}

/// Checks that each of [`EXPECTED`] is among the devices.
/// Prints which device is which.
fn all_found(found: &[Found], which: &str) -> Result<()> {
    println!("devices, drivers {which}:");
    let mut missing = Vec::new();
    for expected in &EXPECTED {
        match found.iter().find(|device| device.is(expected)) {
            Some(device) => println!("    {}: {} ({})", device.id, expected.what, device.described),
            None => missing.push(expected.what),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = format!("not found: {}", missing.join(", "));
    if ALL_REQUIRED && drivers_required() {
        return Err(format!("{missing}; `hetero check --compatibility` says why"));
    }
    println!("    {missing}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns devices as OpenCL's and Vulkan's drivers describe themselves on an Intel processor,
    /// where PoCL's device has the processor's name too.
    fn listed() -> Vec<Found> {
        let found =
            |id: &str, described: &str, emulated| Found { id: id.into(), described: described.into(), emulated };
        vec![
            found("cpu:0", "intel(r) xeon(r) processor genuineintel 0.1.0", false),
            found("opencl:0", "pthread-skylake-avx512-intel(r) xeon(r) processor genuineintel 3.1+debian", false),
            found("opencl:1", "intel(r) xeon(r) processor intel(r) corporation 2024.18.12.0.05_160000", false),
            found("fpga:0", "intel(r) fpga emulation device intel(r) corporation 2024.18.12.0.05_160000", true),
            found("wgpu:0", "llvmpipe (llvm 15.0.6, 256 bits) mesa 22.3.6 (llvm 15.0.6)", true),
        ]
    }

    /// Returns the ids of the devices that match each expected device.
    fn matches(found: &[Found]) -> Vec<Vec<&str>> {
        let of =
            |expected| found.iter().filter(|device| device.is(expected)).map(|device| device.id.as_str()).collect();
        EXPECTED.iter().map(of).collect()
    }

    #[test]
    fn each_expected_device_is_one_of_the_listed() {
        assert_eq!(matches(&listed()), [["cpu:0"], ["opencl:0"], ["opencl:1"], ["fpga:0"], ["wgpu:0"]]);
    }

    #[test]
    fn an_emulator_that_does_not_say_so_is_not_the_expected_device() {
        let mut found = listed();
        found[3].emulated = false;
        assert_eq!(matches(&found)[3], Vec::<&str>::new());
    }

    #[test]
    fn one_driver_does_not_stand_for_another() {
        for (missing, expected) in EXPECTED.iter().enumerate() {
            let mut found = listed();
            found.remove(missing);
            assert_eq!(matches(&found)[missing], Vec::<&str>::new(), "{}", expected.what);
        }
    }
}
