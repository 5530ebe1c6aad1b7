//! The options of `hetero inspect`, as parsed.

use clap::Args;

use crate::arguments::{JsonOptions, ModelOptions};

#[derive(Debug, Args)]
pub(crate) struct InspectOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}
