//! The options of `hetero check` and of the process that examines devices, as parsed.

use clap::Args;
use hetero::hal::DeviceId;

use crate::arguments::JsonOptions;

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// Check drivers and devices.
    #[arg(long, required = true)]
    pub(crate) compatibility: bool,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ExamineOptions {
    /// A fault that the examined driver always has.
    #[arg(long = "inject", value_name = "ID=FAULT", value_parser = parse_fault)]
    pub(crate) faults: Vec<(DeviceId, hetero_layers::Fault)>,
}

pub(crate) fn parse_fault(text: &str) -> Result<(DeviceId, hetero_layers::Fault), String> {
    let (id, fault) = text.split_once('=').ok_or_else(|| format!("'{text}' is not ID=FAULT"))?;
    let read = |error: hetero::hal::Error| error.to_string();
    Ok((id.parse().map_err(read)?, fault.parse().map_err(read)?))
}
