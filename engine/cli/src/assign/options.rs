//! The options of `hetero assign`, as parsed.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::JsonOptions;

#[derive(Debug, Args)]
pub(crate) struct AssignOptions {
    /// The file of the problem, as text or JSON, or a pipe that is named /dev/stdin.
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

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=86400.0).contains(seconds));
    seconds.ok_or_else(|| format!("'{text}' is not a number of seconds from 0 to 86400"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_parse_or_say_how() {
        assert_eq!(parse_seconds("0.5"), Ok(0.5));
        assert!(parse_seconds("-1").is_err() && parse_seconds("nan").is_err() && parse_seconds("1e9").is_err());
    }
}
