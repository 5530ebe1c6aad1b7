//! The options of `hetero conformance` and of the commands below it, as parsed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::{DeviceOptions, JsonOptions, ModelOptions};
use crate::outfile::OutFile;

#[derive(Debug, Args)]
pub(crate) struct ConformanceOptions {
    #[command(subcommand)]
    pub(crate) command: Option<ConformanceCommand>,
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    /// Run only cases with this text in their name, such as `Conv`.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// Run only each N-th case, beginning with the one that the seed chooses: 1 the first, 2 the
    /// second, and so on.
    /// Random networks are others for each seed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) every: u32,
    /// Check that the suite keeps the rules for callers of a device, such as the order of accesses.
    #[arg(long)]
    pub(crate) validate: bool,
    /// Write the results as JUnit XML to this file, with a test case for each case.
    #[arg(long, value_name = "FILE", value_parser = OutFile::parser())]
    pub(crate) junit: Option<OutFile>,
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
