//! The benchmark instances, which are not in the repository.

#![allow(clippy::print_stdout, reason = "a test says what it skips")]

use std::path::{Path, PathBuf};

/// Reads a file of the folder named by `HETERO_DATA`, or else of the folder beside the workspace.
/// Where the file does not exist, it prints a message and returns `None`.
pub(crate) fn read(name: &str) -> Option<String> {
    let path = folder().join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        let path = path.display();
        println!("skipped: there is no {path}; set HETERO_DATA to the folder with the benchmark instances");
    }
    text
}

fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    std::env::var_os("HETERO_DATA").map_or_else(beside, PathBuf::from)
}
