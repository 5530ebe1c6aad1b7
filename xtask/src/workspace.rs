//! The places of the checkout's files, and how commands are run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::drivers;

/// A result whose error is a message for the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// The checkout and its cache.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) cache: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().ok_or("the workspace is not there")?.to_path_buf();
        let cache = std::env::var_os("HETERO_CACHE")
            .map_or_else(|| root.join("target").join("hetero-cache"), |folder| root.join(folder));
        std::fs::create_dir_all(&cache).map_err(|error| format!("cannot make {}: {error}", cache.display()))?;
        Ok(Workspace { root, cache })
    }

    /// Returns the Python of the environment that `setup` makes.
    pub(crate) fn python(&self) -> PathBuf {
        self.cache.join("python").join("bin").join("python")
    }

    pub(crate) fn script(&self, name: &str) -> PathBuf {
        self.root.join("xtask").join("python").join(name)
    }

    /// Returns the folder with the `.icd` files of the OpenCL drivers that `setup` installs.
    pub(crate) fn icd_folder(&self) -> PathBuf {
        self.cache.join("drivers").join("icd")
    }

    /// Makes a command in the workspace's root.
    /// It sees the cache and the drivers in the cache, and its tests may not skip a driver that is
    /// missing.
    /// The caller's environment comes first where it sets these things.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root).env("HETERO_CACHE", &self.cache);
        command.env("HETERO_REQUIRE_DRIVERS", if drivers_required() { "1" } else { "0" });
        // Mesa's layer that chooses a device asks a window system first, and complains where there
        // is none.
        if std::env::var_os("NODEVICE_SELECT").is_none() {
            command.env("NODEVICE_SELECT", "1");
        }
        // A loader that is pointed at a missing folder finds no driver at all.
        let drivers = self.icd_folder();
        if std::env::var_os("OCL_ICD_VENDORS").is_none_or(|named| named.is_empty()) && drivers.is_dir() {
            command.env("OCL_ICD_VENDORS", drivers);
        }
        if let Some(target) = drivers::target(self) {
            command.env(drivers::TARGET, target);
        }
        command
    }

    pub(crate) fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<()> {
        run(&mut self.command(program, arguments))
    }

    pub(crate) fn cargo(&self, arguments: &[&str]) -> Result<()> {
        self.run("cargo", arguments)
    }

    /// Returns what `cargo metadata` says of each package, the dependencies included.
    pub(crate) fn packages(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let arguments = [&["metadata", "--locked", "--format-version", "1"], arguments].concat();
        let output = self.command("cargo", &arguments).output();
        let output = output.map_err(|error| format!("cannot start cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let mut document: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cargo metadata is not understood: {error}"))?;
        match document["packages"].take() {
            Value::Array(packages) => Ok(packages),
            _ => Err("cargo metadata names no packages".to_owned()),
        }
    }

    /// Builds the release binary, and returns its path.
    pub(crate) fn hetero(&self) -> Result<PathBuf> {
        self.cargo(&["build", "--release", "--package", "hetero-cli"])?;
        Ok(self.release_folder().join("hetero"))
    }

    /// Returns the folder of release builds.
    pub(crate) fn release_folder(&self) -> PathBuf {
        self.target().join("release")
    }

    /// Builds the binary that the tests of the command line run, with assertions and overflow
    /// checks, and returns its path.
    pub(crate) fn tested_hetero(&self) -> Result<PathBuf> {
        // The whole workspace is named, so that packages have the features that all tests give
        // them, and nothing is built twice.
        self.cargo(&["test", "--quiet", "--workspace", "--test", "cli", "--no-run"])?;
        Ok(self.debug_folder().join("hetero"))
    }

    /// Returns the folder of what tests build.
    pub(crate) fn debug_folder(&self) -> PathBuf {
        self.target().join("debug")
    }

    fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from)
    }
}

/// Tells whether a missing driver fails a test.
/// It does unless `HETERO_REQUIRE_DRIVERS` says otherwise, because a green run that skips drivers
/// would not be honest.
pub(crate) fn drivers_required() -> bool {
    std::env::var_os("HETERO_REQUIRE_DRIVERS").is_none_or(|value| value == "1")
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    println!("+ {}", line.join(" "));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} ended with {status}", line.join(" "))),
        Err(error) => Err(format!("cannot start {}: {error}", line[0])),
    }
}

/// Tells whether a command runs and succeeds, without showing its output.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
