//! Writes the sources of kernels into a folder, one file for each, so that compilers can check
//! them:
//!
//! ```text
//! cargo run -p hetero-kernels --example emit -- cuda|opencl|wgsl DIR
//! ```
//!
//! The kernels are those of the conformance suite's cases and of random graphs.
//! Where there are more than [`MOST`], a kernel that is the first with its family, first operator
//! and element types goes before the others, so that each such combination is kept as long as there
//! is room.
//! Otherwise kernels keep the order in which they are met.

#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

use hetero_kernels::{Dialect, Target};

#[path = "../tests/programs/mod.rs"]
mod programs;

/// The largest number of files, because a compiler takes its time for each.
const MOST: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dialect, folder] = &arguments[..] else { return usage() };
    let (dialect, ending) = match dialect.as_str() {
        "cuda" => (Dialect::CudaC, "cu"),
        "opencl" => (Dialect::OpenClC, "cl"),
        "wgsl" => (Dialect::Wgsl, "wgsl"),
        _ => return usage(),
    };
    let texts = programs::texts(&Target::new(dialect));
    let mut kinds = HashSet::new();
    let (first, others): (Vec<_>, Vec<_>) = texts.iter().partition(|text| kinds.insert(&*text.kind));
    println!("{} kernels of {} kinds; {} are written", texts.len(), first.len(), texts.len().min(MOST));
    if first.len() > MOST {
        println!("{} kinds are left out", first.len() - MOST);
    }
    let written =
        std::fs::create_dir_all(folder).and_then(|()| {
            first.into_iter().chain(others).take(MOST).try_for_each(|text| {
                std::fs::write(Path::new(folder).join(format!("{}.{ending}", text.entry)), &text.code)
            })
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cannot write to {folder}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    println!("usage: emit cuda|opencl|wgsl DIR");
    ExitCode::from(2)
}
