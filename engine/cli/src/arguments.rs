//! The shape of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Run ONNX models across chips of different kinds.
#[derive(Debug, Parser)]
#[command(name = "hetero", version, about, propagate_version = true)]
#[command(
    after_help = "Examples:\n  hetero demo\n  hetero inspect model.onnx\n  hetero run model.onnx --random 1 --repeat 20\n\nExit codes: 0 done, 1 the run failed, 2 bad usage."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
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
        after_help = "Examples:\n  hetero run model.onnx --input x=x.npy --output out\n  hetero run model.onnx --random 1 --warmup 3 --repeat 50 --threads 2 --json\n  hetero run model.onnx --plan plan.json --input x=input_0.pb\n  hetero run model.onnx --random 1 --device cpu:0 --device 'fpga:0!' --device 'wgpu:0?'\n  hetero run model.onnx --random 1 --place 'Conv*=cpu:0' --stream 100\n\nFILE is .npy, or an ONNX TensorProto (.pb). DIR gets NAME.npy for each output; '/' and ':' in names become '_'."
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
}

#[derive(Debug, Args)]
pub(crate) struct JsonOptions {
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// Check drivers and devices.
    #[arg(long, required = true)]
    pub(crate) compatibility: bool,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
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
    /// Read the configuration from this YAML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
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

#[derive(Debug, Args)]
pub(crate) struct InspectOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Args)]
pub(crate) struct PlanOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    #[command(flatten)]
    pub(crate) place: PlaceOptions,
    #[command(flatten)]
    pub(crate) cache: CacheOptions,
    /// The strategy, which says what to optimise.
    #[arg(long, value_name = "STRATEGY", value_parser = clap::builder::PossibleValuesParser::new(hetero::Strategy::NAMES))]
    pub(crate) strategy: Option<String>,
    /// Write the plan as JSON to this file.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Say why each partition is where and when it is, what the run waits for, what transfers cost,
    /// and what other placements would take.
    /// With `--json`, the explanation is the document.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Write the explanation as a page with a Gantt chart to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Say how long planning takes: plan several times, compile once, and print the milliseconds of
    /// each step.
    /// With `--json`, the timing is the document.
    #[arg(long, conflicts_with_all = ["explain", "html", "dot"])]
    pub(crate) timing: bool,
    /// Write the partitions as a graph in Graphviz's language to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) dot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    #[command(flatten)]
    pub(crate) place: PlaceOptions,
    #[command(flatten)]
    pub(crate) cache: CacheOptions,
    /// Run this plan, made by `hetero plan -o`.
    #[arg(long, value_name = "FILE", conflicts_with = "place")]
    pub(crate) plan: Option<PathBuf>,
    /// The content of an input; the option may be repeated.
    #[arg(long = "input", value_name = "NAME=FILE", value_parser = parse_input)]
    pub(crate) inputs: Vec<(String, PathBuf)>,
    /// Fill inputs that have no file with pseudo-random numbers of this seed.
    #[arg(long, value_name = "SEED")]
    pub(crate) random: Option<u64>,
    /// Write each output to NAME.npy in this folder.
    #[arg(long = "output", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The number of runs before time is taken.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warmup: u32,
    /// The number of runs whose time is taken.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Run N inputs one by one, then again as a pipeline in which several are under way, and
    /// compare their throughput.
    #[arg(long, value_name = "N", conflicts_with_all = ["repeat", "on_request"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stream: Option<u32>,
    /// The most inputs under way at once in a stream; without it, one more than the number of
    /// devices that are used.
    #[arg(long, value_name = "N", requires = "stream", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) depth: Option<u32>,
    /// Make a device fail, to see what comes of it: ID=lose:3, lose-running:3, hang:3, memory:2,
    /// compile:0 (counting submissions, allocations and compilations from 0) or delay:500us.
    /// The option may be repeated.
    #[arg(long = "inject", value_name = "ID=FAULT", value_parser = parse_fault)]
    pub(crate) faults: Vec<(hetero::hal::DeviceId, hetero_layers::Fault)>,
    /// Run once for each line of the standard input, and answer with the run's microseconds: for
    /// benchmarks that alternate between programs.
    #[arg(long, conflicts_with_all = ["repeat", "json", "out"])]
    pub(crate) on_request: bool,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileOptions {
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// Print a line for each kernel in the order of the run, instead of a line for each kind.
    #[arg(long)]
    pub(crate) layers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConformanceOptions {
    #[command(subcommand)]
    pub(crate) command: Option<ConformanceCommand>,
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    /// Run only cases with this text in their name, such as `Conv`.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Run only each N-th case.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) every: u32,
    /// Check that the suite keeps the rules for callers of a device, such as the order of accesses.
    #[arg(long)]
    pub(crate) validate: bool,
    /// Write the results as JUnit XML to this file, with a test case for each case.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// The seed of the generated cases.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConformanceCommand {
    /// Run the cases that the package `onnx` ships.
    Onnx(StandardOptions),
    /// Write the generated cases as models with inputs and the reference's outputs, for other
    /// runtimes.
    Save(SaveOptions),
    /// Run the operators of a model one by one, with the attributes, shapes and weights that they
    /// have in the model.
    Model(ModelCasesOptions),
    /// Print a table of the operators, and of how the devices run them, as Markdown.
    Operators(OperatorsOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ModelCasesOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    /// The device to run on.
    #[arg(long, value_name = "ID", default_value = "cpu:0")]
    pub(crate) device: String,
    /// The seed of the inputs that the model does not hold.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct OperatorsOptions {
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
}

#[derive(Debug, Args)]
pub(crate) struct SaveOptions {
    /// The folder for the cases, each in a folder of its number; `names.txt` lists their names.
    pub(crate) folder: PathBuf,
    /// Write only cases with this text in their name.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// The seed of the generated cases.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StandardOptions {
    /// The folder `onnx/backend/test/data`, a folder in it, or a single case.
    pub(crate) folder: PathBuf,
    /// The device to run on.
    #[arg(long, value_name = "ID", default_value = "cpu:0")]
    pub(crate) device: String,
    /// A file of the cases that are expected to fail, with a pattern and a reason on each line;
    /// without it, the list for onnx 1.22.0 on the CPU.
    #[arg(long, value_name = "FILE")]
    pub(crate) expected: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Args)]
pub(crate) struct CalibrateOptions {
    /// The models whose nodes are measured too, in runs of the whole model.
    /// Plans of these models, and of models with nodes like theirs, are made with the measured
    /// times.
    #[arg(value_name = "MODEL")]
    pub(crate) models: Vec<PathBuf>,
    /// Measure the models, and compare the result with what the profile says of them.
    /// With several devices, whole plans are compared too: each device alone, the plan that is made
    /// for all of them, and plans that are cut at random.
    /// This writes nothing.
    #[arg(long, requires = "models")]
    pub(crate) check: bool,
    /// With `--check`, the number of plans of each model that are cut at random.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "check", value_parser = clap::value_parser!(u32).range(..=100))]
    pub(crate) cuts: u32,
    /// With `--check`, the seed of the cuts.
    #[arg(long, value_name = "SEED", default_value_t = 1, requires = "check")]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    /// The seconds for the operators of each device; each way between devices gets a twentieth of
    /// that, and each model on a device a tenth.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Write the profile to this file.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Args)]
pub(crate) struct AssignOptions {
    /// The file of the problem, as text or JSON.
    pub(crate) file: PathBuf,
    /// The seconds after which the best assignment found is taken; the search ends earlier where
    /// that is proven to be the best.
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = parse_seconds)]
    pub(crate) seconds: f64,
    /// The seed of the search's choices.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The objective to minimise, whatever the file says.
    #[arg(long, value_enum)]
    pub(crate) objective: Option<AssignObjective>,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

/// The objective that an assignment minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AssignObjective {
    /// The sum of all costs.
    Total,
    /// The greatest sum of costs of any device.
    Makespan,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
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

fn parse_input(text: &str) -> Result<(String, PathBuf), String> {
    // Neither names nor files are likely to hold '=', so the first one divides.
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err(format!("'{text}' is not NAME=FILE")),
    }
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

fn parse_fault(text: &str) -> Result<(hetero::hal::DeviceId, hetero_layers::Fault), String> {
    let (id, fault) = text.split_once('=').ok_or_else(|| format!("'{text}' is not ID=FAULT"))?;
    let read = |error: hetero::hal::Error| error.to_string();
    Ok((id.parse().map_err(read)?, fault.parse().map_err(read)?))
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

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=86400.0).contains(seconds));
    seconds.ok_or_else(|| format!("'{text}' is not a number of seconds from 0 to 86400"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
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
        assert!(parse_input("x=").is_err());
        assert_eq!(parse_seconds("0.5"), Ok(0.5));
        assert!(parse_seconds("-1").is_err() && parse_seconds("nan").is_err() && parse_seconds("1e9").is_err());
        assert!(
            parse_fault("cpu:0=lose:1").is_ok() && parse_fault("cpu:0").is_err() && parse_fault("cpu:0=x").is_err()
        );
    }
}
