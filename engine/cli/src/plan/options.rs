//! The options of `hetero plan`, as parsed.

use clap::Args;

use crate::arguments::{CacheOptions, DeviceOptions, JsonOptions, ModelOptions, PlaceOptions};
use crate::outfile::OutFile;

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
    #[arg(short = 'o', long = "out", value_name = "FILE", value_parser = OutFile::parser())]
    pub(crate) out: Option<OutFile>,
    /// Say why each partition is where and when it is, what the run waits for, what transfers cost,
    /// and what other placements would take.
    /// With `--json`, the explanation is the document.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Write the explanation as a page with a Gantt chart to this file.
    #[arg(long, value_name = "FILE", value_parser = OutFile::parser())]
    pub(crate) html: Option<OutFile>,
    /// Say how long planning takes: plan several times, compile once, and print the milliseconds of
    /// each step.
    /// With `--json`, the timing is the document.
    #[arg(long, conflicts_with_all = ["explain", "html", "dot"])]
    pub(crate) timing: bool,
    /// Write the partitions as a graph in Graphviz's language to this file.
    #[arg(long, value_name = "FILE", value_parser = OutFile::parser())]
    pub(crate) dot: Option<OutFile>,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}
