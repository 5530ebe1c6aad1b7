//! The configuration, which is written in YAML.
//!
//! ```yaml
//! scheduling:
//!   strategy: latency_aware     # or throughput
//!   time_limit_ms: 300          # what planning may take
//!   batch_split_size: 128
//!   max_in_flight: 4            # runs of a session under way at once
//!   tile_size: 512              # of matrix products; 0 cuts none
//!   energy_budget: 2.5          # joules of a run
//!   deny_slow: true             # no node by code that its device calls slow
//! device_params:
//!   gpu_mem_threshold: 85%      # or 0.85
//!   watts:                      # what devices spend while they compute
//!     "cpu:0": 65
//! devices:                      # what to use, and how much that is wanted
//!   "cpu:0": allow              # or prefer, or require
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hetero_hal::DeviceId;
use serde::Deserialize;

use crate::error::{ConfigError, Error};
use crate::policy::Policy;

/// The configuration: how the engine plans and runs.
/// Every key may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The keys that say how work is divided.
    pub scheduling: Scheduling,
    /// The devices' limits, and the power that they take.
    pub device_params: DeviceParams,
    /// The devices of [`HeteroEngine::default_devices`](crate::HeteroEngine::default_devices), and
    /// how much each is wanted; none leaves the choice to the engine.
    #[serde(deserialize_with = "policies")]
    pub devices: BTreeMap<DeviceId, Policy>,
}

/// The keys that say how work is divided.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scheduling {
    /// The quantity that the planner optimises.
    pub strategy: Strategy,
    /// The time that the planner may take for a plan, written in milliseconds as
    /// `time_limit_ms: 500`.
    /// `None` means 300 ms.
    #[serde(rename = "time_limit_ms", deserialize_with = "milliseconds")]
    pub time_limit: Option<Duration>,
    /// The largest batch that is given to a device as a whole; larger ones are split.
    /// `None` splits nothing.
    /// A model that is not known to keep the rows of its batch apart stays whole, and
    /// [`Plan::notes`](crate::Plan::notes) says why.
    #[serde(deserialize_with = "positive")]
    pub batch_split_size: Option<usize>,
    /// The most runs of a session under way at once.
    /// Each has memory of its own, and all of them have to fit the devices' memory together.
    /// `None` means as many as fit, at most 64.
    #[serde(deserialize_with = "positive")]
    pub max_in_flight: Option<usize>,
    /// The number of rows and of columns of the tiles that large products of matrices are cut into,
    /// for several devices to share; 0 cuts none.
    /// `None` means 512 where devices do not all share one processor, else 0.
    pub tile_size: Option<usize>,
    /// The joules that the nodes of a run may spend together, by
    /// [`CostModel::joules`](crate::CostModel::joules) or [`DeviceParams::watts`].
    /// `None` sets no limit.
    #[serde(deserialize_with = "joules")]
    pub energy_budget: Option<f64>,
    /// Whether a plan with nodes that their devices execute slowly is an error; see
    /// [`HeteroEngine::slow_nodes`](crate::HeteroEngine::slow_nodes).
    pub deny_slow: bool,
}

/// The quantity that the planner optimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The time of one run.
    #[default]
    LatencyAware,
    /// The runs per second of a stream.
    Throughput,
}

impl Strategy {
    /// The names of all strategies.
    pub const NAMES: [&str; 2] = ["latency_aware", "throughput"];

    /// Returns the strategy of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Strategy> {
        match name {
            "latency_aware" => Some(Strategy::LatencyAware),
            "throughput" => Some(Strategy::Throughput),
            _ => None,
        }
    }

    /// Returns the strategy's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Strategy::LatencyAware => "latency_aware",
            Strategy::Throughput => "throughput",
        }
    }
}

/// The devices' limits, and the power that they take.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeviceParams {
    /// The share of a device's memory that plans may use, above 0 and at most 1; it is written
    /// `85%` or `0.85`.
    /// `None` means all of the memory.
    #[serde(deserialize_with = "share")]
    pub gpu_mem_threshold: Option<f64>,
    /// The watts that devices spend while they compute, by id, for [`Scheduling::energy_budget`].
    #[serde(deserialize_with = "watts")]
    pub watts: BTreeMap<String, f64>,
}

fn policies<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<DeviceId, Policy>, D::Error> {
    let written = BTreeMap::<String, String>::deserialize(deserializer)?;
    let mut policies = BTreeMap::new();
    for (device, policy) in written {
        let wrong = |reason: &str| serde::de::Error::custom(format!("device '{device}': {reason}"));
        let id = device.parse::<DeviceId>().map_err(|_| wrong("that is no device's id, such as cpu:0"))?;
        let known = Policy::from_name(&policy);
        let known = known.ok_or_else(|| wrong(&format!("'{policy}' is no policy; write require, prefer or allow")))?;
        if policies.insert(id, known).is_some() {
            return Err(wrong("it is there twice"));
        }
    }
    Ok(policies)
}

fn joules<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match f64::deserialize(deserializer)? {
        value if value.is_finite() && value >= 0.0 => Ok(Some(value)),
        value => Err(serde::de::Error::custom(format!("energy_budget is {value}; it must be a number of joules"))),
    }
}

fn watts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let written = BTreeMap::<String, f64>::deserialize(deserializer)?;
    let named = |(device, watts): (String, f64)| {
        let wrong = |reason: &str| serde::de::Error::custom(format!("watts of '{device}': {reason}"));
        let id = device.parse::<DeviceId>().map_err(|_| wrong("that is no device's id, such as cpu:0"))?;
        if watts.is_finite() && watts >= 0.0 {
            Ok((id.to_string(), watts))
        } else {
            Err(wrong(&format!("{watts} is no number of watts")))
        }
    };
    written.into_iter().map(named).collect()
}

fn positive<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match i64::deserialize(deserializer)? {
        value if value > 0 => Ok(usize::try_from(value).ok()),
        value => Err(serde::de::Error::custom(format!("{value} is given; it must be a positive whole number"))),
    }
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match i64::deserialize(deserializer)? {
        value @ 0..=3_600_000 => Ok(Some(Duration::from_millis(value.unsigned_abs()))),
        value => Err(serde::de::Error::custom(format!("time_limit_ms is {value}; it must be from 0 to 3600000"))),
    }
}

fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|value| value / 100.0),
        None => text.parse::<f64>(),
    };
    match number {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(Some(value)),
        _ => Err(serde::de::Error::custom(format!(
            "gpu_mem_threshold is '{text}'; write a share above 0 and at most 1, such as 85% or 0.85"
        ))),
    }
}

/// The bytes that a configuration may have.
const LARGEST: u64 = 16 << 20;

/// The names that may stand in a configuration.
const NAMES: [&str; 17] = [
    "scheduling",
    "strategy",
    "time_limit_ms",
    "batch_split_size",
    "max_in_flight",
    "tile_size",
    "energy_budget",
    "deny_slow",
    "device_params",
    "gpu_mem_threshold",
    "watts",
    "latency_aware",
    "throughput",
    "devices",
    "require",
    "prefer",
    "allow",
];

impl Config {
    /// Reads a file of at most 16 MiB, or such a text from a pipe that this process was given, as
    /// `hetero_files` says.
    ///
    /// # Errors
    /// `File`, or `Config` with the file, the line and the nearest valid name.
    pub fn read(path: impl AsRef<Path>) -> Result<Config, Error> {
        let path = path.as_ref();
        let text = hetero_files::read_text(path, LARGEST)
            .map_err(|error| Error::File { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Config::parse(&text, &path.display().to_string())?)
    }

    /// Reads a text; `file` is the name by which errors call it.
    ///
    /// # Errors
    /// An error with the file, the line and the nearest valid name.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Config::default());
        }
        serde_saphyr::from_str(text).map_err(|error| {
            let said = error.without_snippet().to_string();
            let line = error.location().map_or(1, |location| location.line());
            ConfigError { file: file.to_owned(), line, message: with_suggestion(&said) }
        })
    }
}

/// Returns the message with the valid name that is nearest to the unknown name that the message
/// quotes.
fn with_suggestion(message: &str) -> String {
    let said = message.lines().next().unwrap_or_default().to_owned();
    if !said.contains("unknown") {
        return said;
    }
    let quoted = said.split(['`', '\'', '"']).nth(1).unwrap_or_default();
    let nearest =
        NAMES.iter().max_by(|a, b| strsim::jaro_winkler(a, quoted).total_cmp(&strsim::jaro_winkler(b, quoted)));
    match nearest {
        Some(name) if !quoted.is_empty() => format!("{said}; did you mean '{name}'?"),
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_a_share() {
        for text in ["85%", "0.85", "'85 %'"] {
            let yaml = format!("device_params:\n  gpu_mem_threshold: {text}\n");
            assert_eq!(Config::parse(&yaml, "c").unwrap().device_params.gpu_mem_threshold, Some(0.85), "{text}");
        }
        let whole = "scheduling:\n  strategy: throughput\n  batch_split_size: 128\n  time_limit_ms: 50\n";
        let config = Config::parse(whole, "c").unwrap();
        assert_eq!(config.scheduling.time_limit, Some(Duration::from_millis(50)));
        assert_eq!((config.scheduling.strategy, config.scheduling.batch_split_size), (Strategy::Throughput, Some(128)));
        let energy = "scheduling:\n  energy_budget: 2\ndevice_params:\n  watts:\n    \"cpu:0\": 65\n";
        let config = Config::parse(energy, "c").unwrap();
        assert_eq!((config.scheduling.energy_budget, config.device_params.watts["cpu:0"]), (Some(2.0), 65.0));
        assert!(Config::parse("scheduling:\n  deny_slow: true\n", "c").unwrap().scheduling.deny_slow);
        let devices = "devices: { \"cpu:0\": prefer, \"FPGA:0\": require }\n";
        let wanted = Config::parse(devices, "c").unwrap().devices;
        assert_eq!(wanted[&DeviceId::new("cpu", 0)], Policy::Prefer);
        assert_eq!(wanted[&DeviceId::new("fpga", 0)], Policy::Require);
        assert_eq!(Config::parse("# nothing\n\n", "c").unwrap(), Config::default());
    }

    #[test]
    fn wrong_keys_and_values_name_the_line_and_the_nearest_name() {
        let error = |text: &str| Config::parse(text, "hetero.yaml").unwrap_err();
        let key = error("scheduling:\n  stratgy: throughput\n");
        assert_eq!((key.line, key.file.as_str()), (2, "hetero.yaml"));
        assert!(key.message.contains("did you mean 'strategy'"), "{key}");
        let value = error("\nscheduling:\n  strategy: latency_awar\n");
        assert!(value.line == 3 && value.message.contains("did you mean 'latency_aware'"), "{value}");
        for bad in ["0", "85", "-1", "many", "101%"] {
            let share = error(&format!("device_params:\n  gpu_mem_threshold: {bad}\n"));
            assert!(share.message.contains("85% or 0.85"), "{share}");
        }
        assert!(error("scheduling:\n  batch_split_size: 0\n").message.contains("positive"));
        assert!(error("scheduling:\n  time_limit_ms: -5\n").message.contains("from 0 to 3600000"));
        assert!(error("scheduling:\n  energy_budget: -5\n").message.contains("joules"));
        assert!(error("device_params:\n  watts:\n    cpu:x: 5\n").message.contains("'cpu:x'"));
        assert!(error("device_params:\n  watts:\n    \"cpu:0\": -5\n").message.contains("'cpu:0'"));
        let policy = error("devices:\n  \"cpu:0\": sometimes\n");
        assert!(policy.message.contains("'cpu:0'") && policy.message.contains("require, prefer or allow"), "{policy}");
        assert!(error("devices:\n  \"cpu:x\": allow\n").message.contains("'cpu:x'"));
        assert!(error("devices:\n  \"cpu:0\": allow\n  \"CPU:0\": allow\n").message.contains("twice"));
        assert!(error("scheduling: [1, 2\n").line >= 1);
        assert!(Config::parse("7", "c").is_err());
    }
}
