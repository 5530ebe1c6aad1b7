//! The options of `hetero check`, as parsed.

use clap::Args;

use crate::arguments::JsonOptions;

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// Check drivers and devices.
    #[arg(long, required = true)]
    pub(crate) compatibility: bool,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}
