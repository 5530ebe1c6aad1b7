//! The options of `hetero run`, as parsed.

use std::path::{Path, PathBuf};

use clap::Args;
use hetero::hal::DeviceId;

use crate::arguments::{CacheOptions, DeviceOptions, JsonOptions, ModelOptions, PlaceOptions};
use crate::devices::options::parse_fault;

/// What `run` and `profile` run: a model on devices, with its inputs, so many times.
#[derive(Debug, Args)]
pub(crate) struct JobOptions {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) devices: DeviceOptions,
    #[command(flatten)]
    pub(crate) place: PlaceOptions,
    #[command(flatten)]
    pub(crate) cache: CacheOptions,
    /// Run this plan, made by `hetero plan -o`, which has its own shapes; it may be a pipe that is
    /// named /dev/stdin.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["place", "shapes"])]
    pub(crate) plan: Option<PathBuf>,
    /// The content of an input; the option may be repeated.
    #[arg(long = "input", value_name = "NAME=FILE", value_parser = parse_input)]
    pub(crate) inputs: Vec<(String, PathBuf)>,
    /// Fill inputs that have no file with pseudo-random numbers of this seed.
    #[arg(long, value_name = "SEED")]
    pub(crate) random: Option<u64>,
    /// The number of runs before time is taken.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warmup: u32,
    /// The number of runs whose time is taken.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Make a device fail, to see what comes of it: ID=lose:3, lose-running:3, hang:3, memory:2,
    /// compile:0 (counting submissions, allocations and compilations from 0) or delay:500us.
    /// Or make its driver one that always fails, which the examination of devices finds: wrong,
    /// crash-compile, crash-run, hang-compile or hang-run.
    /// The option may be repeated.
    #[arg(long = "inject", value_name = "ID=FAULT", value_parser = parse_fault)]
    pub(crate) faults: Vec<(DeviceId, hetero_layers::Fault)>,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) job: JobOptions,
    /// Write each output to NAME.npy in this folder, or to NAME.pb where it is a sequence.
    #[arg(long = "output", value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Run N inputs one by one, then again as a pipeline in which several are under way, and
    /// compare their throughput.
    #[arg(long, value_name = "N", conflicts_with_all = ["repeat", "on_request"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stream: Option<u32>,
    /// The most inputs under way at once in a stream; without it, one more than the number of
    /// devices that are used.
    #[arg(long, value_name = "N", requires = "stream", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) depth: Option<u32>,
    /// Run once for each line of the standard input, and answer with the run's microseconds: for
    /// benchmarks that alternate between programs.
    #[arg(long, conflicts_with_all = ["repeat", "json", "out"])]
    pub(crate) on_request: bool,
    #[command(flatten)]
    pub(crate) output: JsonOptions,
}

fn parse_input(text: &str) -> Result<(String, PathBuf), String> {
    // Names and files may hold '=' too, so the first one divides behind which a file's name is.
    let divisions = text.match_indices('=').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let whole: Vec<(&str, &str)> = divisions.filter(|(name, file)| !name.is_empty() && !file.is_empty()).collect();
    let there = whole.iter().find(|(_, file)| Path::new(file).exists());
    let (name, file) = there.or(whole.first()).ok_or_else(|| format!("'{text}' is not NAME=FILE"))?;
    Ok(((*name).to_owned(), file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_parse_or_say_how() {
        assert!(parse_input("x=").is_err() && parse_input("=x").is_err() && parse_input("x").is_err());
        let of = |name: &str, file: &str| Ok((name.to_owned(), PathBuf::from(file)));
        assert_eq!(parse_input("x=a=b.npy"), of("x", "a=b.npy"), "no such file is there");
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(parse_input(&format!("x=a={here}")), of("x=a", here));
        assert!(
            parse_fault("cpu:0=lose:1").is_ok() && parse_fault("cpu:0").is_err() && parse_fault("cpu:0=x").is_err()
        );
    }
}
