//! The options of `hetero calibrate`, as parsed.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::{DeviceOptions, JsonOptions};
use crate::outfile::OutFile;

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
    #[arg(short = 'o', long = "out", value_name = "FILE", value_parser = OutFile::parser())]
    pub(crate) out: Option<OutFile>,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}
