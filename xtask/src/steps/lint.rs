//! The steps that read the code and its docs, and run none of the code.

use std::path::PathBuf;

use super::together;
use crate::prose::prose;
use crate::source::{api, files, words};
use crate::workspace::{Result, Workspace, run};

pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"];
    let mut doc = workspace.command("cargo", &["doc", "--workspace", "--no-deps", "--keep-going"]);
    together([
        ("formatting", workspace.cargo(&["fmt", "--all", "--check"])),
        ("clippy", workspace.cargo(&clippy)),
        ("docs", run(doc.env("RUSTDOCFLAGS", "-D warnings"))),
        ("docs/api", api_is_new(workspace)),
        ("names of types", words::check(&workspace.root)),
        ("files", files::check(&workspace.root)),
        ("prose", prose(workspace, None)),
        ("oldest compiler", dependencies_compile(workspace)),
    ])
}

/// Checks that no package needs a newer compiler than the `rust-version` that the workspace
/// promises.
/// Whether the code itself calls newer functions of the standard library is clippy's part.
fn dependencies_compile(workspace: &Workspace) -> Result<()> {
    let packages = workspace.packages(&[])?;
    let promised = packages.iter().find(|package| package["name"] == "hetero");
    let promised = promised.and_then(|package| package["rust_version"].as_str());
    let promised = promised.ok_or("package hetero has no rust-version")?;
    let newer = packages.iter().filter_map(|package| {
        let needed = package["rust_version"].as_str()?;
        let named = || format!("{} {} needs {needed}", package["name"], package["version"]).replace('"', "");
        (version(needed) > version(promised)).then(named)
    });
    let newer: Vec<String> = newer.collect();
    if newer.is_empty() {
        println!("{} packages compile with Rust {promised}, by what they say", packages.len());
        Ok(())
    } else {
        Err(format!("rust-version is {promised}, and {}", newer.join(", ")))
    }
}

/// Returns the numbers of a version; one that is left out is 0.
fn version(text: &str) -> [u64; 3] {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    [(); 3].map(|()| numbers.next().unwrap_or(0))
}

/// Returns the public interface of the contract, as it is now.
fn api_now(workspace: &Workspace) -> Result<String> {
    api::listing(&workspace.root.join("hal").join("src").join("lib.rs"))
}

fn api_path(workspace: &Workspace) -> PathBuf {
    workspace.root.join("docs").join("api").join("hal.txt")
}

/// Writes the listing of the contract's public interface.
pub(crate) fn write_api(workspace: &Workspace) -> Result<()> {
    let (path, listing) = (api_path(workspace), api_now(workspace)?);
    let folder = path.parent().unwrap_or(&workspace.root);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, &listing))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!("{}: {} names, {} lines", path.display(), api::names(&listing).len(), listing.lines().count());
    Ok(())
}

/// Checks that docs/api/hal.txt is what the command writes, so that a change of the contract is
/// seen in review.
fn api_is_new(workspace: &Workspace) -> Result<()> {
    let path = api_path(workspace);
    let found = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    match api::difference(&found, &api_now(workspace)?) {
        None => Ok(()),
        Some(lines) => Err(format!(
            "the contract's public interface is not what docs/api/hal.txt says:\n{lines}run `cargo xtask docs --api` \
             and check in what it writes, if this is meant"
        )),
    }
}

/// Returns the table of operators, as the CPU device makes it.
fn operators(workspace: &Workspace) -> Result<String> {
    let hetero = workspace.tested_hetero()?;
    let output = workspace.command(&hetero, &["conformance", "operators", "--device", "cpu:0"]).output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", hetero.display()))?;
    if !output.status.success() {
        return Err(format!("the table of operators: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes the files that are checked in and made by commands.
/// The listing of the contract comes first, because nothing is built for it.
pub(crate) fn docs(workspace: &Workspace) -> Result<()> {
    together([("docs/api", write_api(workspace)), ("docs/operators.md", write_operators(workspace))])
}

fn write_operators(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("docs").join("operators.md");
    let written = std::fs::create_dir_all(workspace.root.join("docs")).and_then(|()| {
        operators(workspace).map_or_else(|error| Err(std::io::Error::other(error)), |text| std::fs::write(&path, text))
    });
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Checks that docs/operators.md is what the command writes.
pub(super) fn operators_are_new(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("docs").join("operators.md");
    let found = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if found == operators(workspace)? { Ok(()) } else { Err("docs/operators.md is old; run `cargo xtask docs`".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(version("1.90"), version("1.90.0"));
        assert!(version("1.100") > version("1.90.3") && version("2") > version("1.90"));
    }
}
