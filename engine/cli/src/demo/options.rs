//! The options of `hetero demo`, as parsed.

use clap::Args;

use crate::arguments::{DeviceOptions, JsonOptions};

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}
