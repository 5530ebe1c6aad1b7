//! Writes `proto.rs` from the standard's `onnx.proto` (in the Python package onnx 1.22.0):
//!
//! ```text
//! cargo run --manifest-path hal/onnx/generate/Cargo.toml -- path/to/onnx.proto hal/onnx/src/proto.rs
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(schema), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: hetero-onnx-generate onnx.proto target.rs".into());
    };
    let folder = schema.parent().unwrap_or(Path::new("."));
    let descriptors = protox::compile([&schema], [folder])?;
    let out = std::env::temp_dir().join(format!("hetero-onnx-generate-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    prost_build::Config::new()
        // `Bytes` are slices of the mapped file, where `Vec<u8>` would copy every weight.
        .bytes(["."])
        // The schema's comments are the standard's text, and long.
        .disable_comments(["."])
        .out_dir(&out)
        .compile_fds(descriptors)?;
    let text = std::fs::read_to_string(out.join("onnx.rs"))?;
    std::fs::remove_dir_all(&out)?;
    std::fs::write(target, text)?;
    Ok(())
}
