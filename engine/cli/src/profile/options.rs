//! The options of `hetero profile`, as parsed.

use clap::Args;

use crate::arguments::{JobOptions, JsonOptions};

#[derive(Debug, Args)]
pub(crate) struct ProfileOptions {
    #[command(flatten)]
    pub(crate) job: JobOptions,
    /// Print a line for each kernel in the order of the run, instead of a line for each kind.
    #[arg(long)]
    pub(crate) layers: bool,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}
