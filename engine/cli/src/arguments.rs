//! The shape of the command line, and the options that several commands have.
//!
//! A command's folder has its own options, as parsed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use crate::assign::options::{AssignObjective, AssignOptions};
pub(crate) use crate::calibrate::options::CalibrateOptions;
pub(crate) use crate::conformance::options::{
    ConformanceCommand, ConformanceOptions, ModelCasesOptions, OperatorsOptions, SaveOptions, StandardOptions,
};
pub(crate) use crate::demo::options::DemoOptions;
pub(crate) use crate::devices::options::{CheckOptions, ExamineOptions};
pub(crate) use crate::inspect::options::InspectOptions;
pub(crate) use crate::plan::options::PlanOptions;
pub(crate) use crate::profile::options::ProfileOptions;
pub(crate) use crate::run::options::{JobOptions, RunOptions};
use crate::{outfile, output};

/// Run ONNX models across chips of different kinds.
#[derive(Debug, Parser)]
#[command(name = "hetero", version, about, propagate_version = true)]
#[command(
    after_help = "Examples:\n  hetero demo\n  hetero inspect model.onnx\n  hetero run model.onnx --random 1 --repeat 20\n\nExit codes: 0 done, 1 the run failed or its output could not be written, 2 bad usage,\n141 nobody reads the output any more (a closed pipe). A signal ends any command at once:\na shell then says 128 and its number, such as 130 for Ctrl-C."
)]
pub(crate) struct Arguments {
    /// The seconds after which the command gives up, such as 5 or 0.5, whatever it is doing then.
    /// Without it, a run may take an hour.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = parse_deadline)]
    pub(crate) deadline: Option<Duration>,
    /// Tell each step as a line on the standard error when it begins, also where that is no
    /// terminal.
    #[arg(long, global = true)]
    pub(crate) progress: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Reads the arguments of the process, of which the first one is its name.
    ///
    /// # Errors
    /// Bad usage, where two options name one file to write among others, or a question for help.
    pub(crate) fn read(given: Vec<OsString>) -> Result<Arguments, clap::Error> {
        Arguments::parsed(&given).map_err(|error| {
            // The error quotes arguments; those that it quotes are escaped.
            let shown = given.iter().map(|argument| output::shown(&argument.to_string_lossy()).into_owned().into());
            Arguments::parsed(&shown.collect::<Vec<_>>()).err().unwrap_or(error)
        })
    }

    fn parsed(given: &[OsString]) -> Result<Arguments, clap::Error> {
        let mut command = Arguments::command();
        let matches = command.try_get_matches_from_mut(given)?;
        outfile::check(&mut command, &matches)?;
        Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the devices that can be used now.
    #[command(after_help = "Examples:\n  hetero devices\n  hetero devices --json")]
    Devices(JsonOptions),
    /// Say of each driver whether it is usable, or else why not and how to mend it.
    #[command(after_help = "Examples:\n  hetero check --compatibility")]
    Check(CheckOptions),
    /// Show a model: its inputs, outputs, operators, missing operators, parameters, operations and
    /// activations.
    #[command(
        after_help = "Examples:\n  hetero inspect model.onnx\n  hetero inspect model.onnx --shape image=8x3x224x224 --json"
    )]
    Inspect(InspectOptions),
    /// Divide a model among devices, without running it.
    #[command(
        after_help = "Examples:\n  hetero plan model.onnx\n  hetero plan model.onnx --device cpu:0 -o plan.json\n  hetero plan model.onnx --place 'Conv*=cpu:0'\n  hetero plan model.onnx --device cpu:0 --device wgpu:0 --explain --html plan.html\n  hetero plan model.onnx --dot plan.dot && dot -Tsvg plan.dot -o plan.svg"
    )]
    Plan(PlanOptions),
    /// Run a model.
    #[command(
        after_help = "Examples:\n  hetero run model.onnx --input x=x.npy --output out\n  hetero run model.onnx --random 1 --warmup 3 --repeat 50 --threads 2 --json\n  hetero run model.onnx --plan plan.json --input x=input_0.pb\n  hetero run model.onnx --random 1 --device cpu:0 --device 'fpga:0!' --device 'wgpu:0?'\n  hetero run model.onnx --random 1 --place 'Conv*=cpu:0' --stream 100\n\nFILE is .npy, or an ONNX TensorProto (.pb). DIR gets NAME.npy for each output; what no file name should hold, such as '/' and ':', becomes '_',\nand the command says which file has an output whose name was changed."
    )]
    Run(RunOptions),
    /// Say where a run's time goes: the time, the GFLOP/s and the share of the measured ceiling, by
    /// kind of kernel or layer by layer.
    #[command(
        after_help = "Examples:\n  hetero profile model.onnx --random 1 --threads 1\n  hetero profile model.onnx --random 1 --layers --repeat 20"
    )]
    Profile(ProfileOptions),
    /// Compare what a device computes with the reference implementation, operator by operator.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  hetero conformance --device cpu:0\n  hetero conformance --device cpu:0 --filter Conv --junit report.xml\n  hetero conformance --device cpu:0 --filter network\n  hetero conformance onnx onnx/backend/test/data\n\nExit code 1 where a case went worse, or better, than expected."
    )]
    Conformance(ConformanceOptions),
    /// Measure how long operators take on each device, and transfers between devices, and keep the
    /// result as a profile that plans are made with.
    #[command(
        after_help = "Examples:\n  hetero calibrate\n  hetero calibrate --device cpu:0 --seconds 5 --out profile.json\n  hetero calibrate model.onnx --device cpu:0\n  hetero calibrate --check model.onnx --device cpu:0\n\nThe profile is written to --out, else to $HETERO_PROFILE, else to hetero/profile.json in the user's cache folder."
    )]
    Calibrate(CalibrateOptions),
    /// Give each job of a problem in a file to a device: least total cost within one budget or a
    /// budget per device, or least makespan.
    #[command(
        after_help = "Examples:\n  hetero assign e20100.txt --seconds 5\n  hetero assign jobs.json --objective makespan --json\n\nFILE is in the text form of Beasley's OR-Library for generalised assignment: the numbers of devices m and of jobs n, m rows of n costs, m rows of n\nresources, m budgets. Or it is JSON, here with three jobs on two devices:\n  {\"objective\": \"total\", \"costs\": [[2.5, 1], [3, null], [1, 4]], \"resources\": [[2, 1], [3, 1], [1, 2]], \"budget\": [4, 3]}\n  {\"objective\": \"makespan\", \"work\": [6, 3, 9], \"speeds\": [1, 2.5], \"resources\": [2, 3, 1], \"budget\": [4, 3]}\n`objective` is total, the default, or makespan. `costs` has a row for each job, with null where a device does not claim it; or `work` and `speeds`\ngive costs as quotients. `resources` are whole numbers: a row for each job, or one number. `budget` is one for all devices together, or a list with one for\neach; without it, nothing limits resources."
    )]
    Assign(AssignOptions),
    /// Classify 500 held-out digits with a small network, on the devices found.
    #[command(after_help = "Examples:\n  hetero demo\n  hetero demo --device cpu:0 --json")]
    Demo(DemoOptions),
    /// Examine the device that another process asks for, and answer it.
    #[command(hide = true)]
    Examine(ExamineOptions),
}

#[derive(Debug, Args)]
pub(crate) struct JsonOptions {
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The model, and the shapes that it is bound to.
#[derive(Debug, Args)]
pub(crate) struct ModelOptions {
    /// The ONNX file of the model.
    pub(crate) model: PathBuf,
    /// The shape of an input; the option may be repeated.
    /// Open dimensions that no shape or input file decides are taken as 1.
    #[arg(long = "shape", value_name = "NAME=1x3x224x224", value_parser = parse_shape)]
    pub(crate) shapes: Vec<(String, Vec<usize>)>,
    /// Read the configuration from this YAML file, or from a pipe that is named /dev/stdin.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Map the model's files instead of reading them into memory, so that a large model is there at
    /// once and its weights can leave memory again.
    /// Nobody may write the files meanwhile: where one becomes shorter, the system ends the
    /// process.
    #[arg(long)]
    pub(crate) map_weights: bool,
}

/// The devices to use, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeviceOptions {
    /// A device to use, such as cpu:0; the option may be repeated.
    /// Plain `cpu:0` allows the device to be used, and the planner decides what it gives the
    /// device.
    /// `fpga:0!` requires it: it is an error where the device is absent, gets nothing or is lost.
    /// `wgpu:0?` prefers it: it keeps what it takes unless another device is clearly faster, and
    /// drops out where it is absent.
    /// Without --device, the configuration's `devices` are used, or else every device found that is
    /// a chip of its own: no emulator, and no driver of the host's processor but cpu:0.
    /// Where the machine has no such chip, other drivers than the CPU's are not even loaded.
    #[arg(long = "device", value_name = "ID[!|?]", value_parser = parse_device)]
    pub(crate) devices: Vec<DeviceChoice>,
    /// The threads of the CPU device; without it, one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,
    /// The bytes that constants and intermediate values may take, such as 512M or 2G.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) memory_limit: Option<u64>,
    /// Plan with the profile that `hetero calibrate` wrote to this file; without it, with the
    /// user's profile where there is one.
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// An option that only this driver knows, such as cpu.isa=avx2 or cpu.convolution=direct; the
    /// option may be repeated.
    #[arg(long = "option", value_name = "DRIVER.KEY=VALUE", value_parser = parse_option)]
    pub(crate) options: Vec<DriverOption>,
    /// Use devices without examining them first; so does HETERO_EXAMINE=off in the environment.
    /// Otherwise, a device that computes wrong results, crashes or hangs is not used.
    #[arg(long)]
    pub(crate) unexamined: bool,
}

/// The folder in which compiled programs are kept.
#[derive(Debug, Args)]
pub(crate) struct CacheOptions {
    /// Keep compiled programs in this folder, and take them from it, so that a model is ready
    /// sooner the next time.
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

/// The nodes that run where the user says, whatever the planner thinks.
#[derive(Debug, Args)]
pub(crate) struct PlaceOptions {
    /// Pin nodes to devices: patterns of operator or node names, with * and ?.
    /// The first pattern that matches wins, and the planner places the other nodes.
    #[arg(long, value_name = "PATTERN=ID,…")]
    pub(crate) place: Option<hetero::Placement>,
    /// Refuse a plan with nodes that a device executes slowly: by plain code, for want of a kernel.
    #[arg(long)]
    pub(crate) deny_slow: bool,
}

/// A device, and how much it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceChoice {
    pub(crate) id: hetero::hal::DeviceId,
    /// The policy; `None` leaves it to the configuration.
    pub(crate) policy: Option<hetero::Policy>,
}

/// An option of a driver: the driver, the key, and the value.
#[derive(Clone, Debug)]
pub(crate) struct DriverOption {
    pub(crate) driver: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

fn parse_shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let usage = || format!("'{text}' is not NAME=1x3x224x224");
    let (name, sizes) = text.rsplit_once('=').ok_or_else(usage)?;
    let sizes = match sizes {
        // A scalar has no sizes.
        "" => vec![],
        sizes => sizes.split('x').map(str::parse).collect::<Result<_, _>>().map_err(|_| usage())?,
    };
    if name.is_empty() { Err(usage()) } else { Ok((name.to_owned(), sizes)) }
}

fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    let (id, policy) = match (text.strip_suffix('!'), text.strip_suffix('?')) {
        (Some(id), _) => (id, Some(hetero::Policy::Require)),
        (None, Some(id)) => (id, Some(hetero::Policy::Prefer)),
        (None, None) => (text, None),
    };
    let id = id.parse().map_err(|error: hetero::hal::Error| error.to_string())?;
    Ok(DeviceChoice { id, policy })
}

fn parse_option(text: &str) -> Result<DriverOption, String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once('.')?, value)));
    match parts {
        Some(((driver, key), value)) if !driver.is_empty() && !key.is_empty() => {
            Ok(DriverOption { driver: driver.to_ascii_lowercase(), key: key.to_owned(), value: value.to_owned() })
        }
        _ => Err(format!("'{text}' is not DRIVER.KEY=VALUE")),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1u64 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| format!("'{text}' is not a number of bytes such as 512M"))
}

fn parse_deadline(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|&seconds| seconds > 0.0);
    let deadline = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    deadline.ok_or_else(|| format!("'{text}' is not a number of seconds such as 5 or 0.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_parse_or_say_how() {
        assert_eq!(parse_deadline("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "1e99", "soon"] {
            assert!(parse_deadline(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_that_would_be_ignored_are_turned_down() {
        use clap::error::ErrorKind;
        let fails = |arguments: &[&str]| {
            let line = ["hetero"].iter().chain(arguments);
            Arguments::try_parse_from(line).err().map(|error| error.kind())
        };
        assert_eq!(fails(&["run", "m.onnx", "--plan", "plan.json"]), None);
        // A plan has its own shapes and places.
        let shape = ["run", "m.onnx", "--plan", "plan.json", "--shape", "x=1x3"];
        assert_eq!(fails(&shape), Some(ErrorKind::ArgumentConflict));
        let place = ["run", "m.onnx", "--plan", "plan.json", "--place", "*=cpu:0"];
        assert_eq!(fails(&place), Some(ErrorKind::ArgumentConflict));
        // A profile writes no outputs, and runs one input after the other.
        assert_eq!(fails(&["profile", "m.onnx", "--repeat", "3", "--layers", "--json"]), None);
        for extra in [&["--output", "out"][..], &["--stream", "5"], &["--depth", "2"], &["--on-request"]] {
            let kind = fails(&[&["profile", "m.onnx"][..], extra].concat());
            assert_eq!(kind, Some(ErrorKind::UnknownArgument), "{extra:?}");
        }
    }

    #[test]
    fn values_parse_or_say_how() {
        assert_eq!(parse_shape("x:0=1x3"), Ok(("x:0".into(), vec![1, 3])));
        assert_eq!(parse_shape("s="), Ok(("s".into(), vec![])));
        assert!(parse_shape("x").is_err() && parse_shape("=1").is_err() && parse_shape("x=1x-2").is_err());
        assert_eq!(parse_bytes("2G"), Ok(2 << 30));
        assert!(parse_bytes("0").is_err() && parse_bytes("99999999999G").is_err());
        let device = |id: &str, policy| DeviceChoice { id: id.parse().unwrap(), policy };
        assert_eq!(parse_device("fpga:0!"), Ok(device("fpga:0", Some(hetero::Policy::Require))));
        assert_eq!(parse_device("WGPU:1?"), Ok(device("wgpu:1", Some(hetero::Policy::Prefer))));
        assert_eq!(parse_device("cpu:0"), Ok(device("cpu:0", None)));
        assert!(parse_device("!").is_err() && parse_device("cpu:0?!").is_err());
    }
}
