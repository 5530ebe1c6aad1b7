//! The step that checks that the crates can be published: their descriptions, packages and
//! dependencies, and the oldest compiler that they name.

use std::process::Command;

use serde_json::Value;

use super::together;
use crate::setup;
use crate::workspace::{Result, Workspace, run, succeeds};

/// The workspace's packages that are not for users.
const OWN_USE: [&str; 2] = ["image-pipeline", "xtask"];

/// Checks what a registry and its users would see.
///
/// With `whole`, each package is built from what it holds and nothing else, the dependencies are
/// compared with the list of known vulnerabilities, and all is checked by the oldest compiler.
pub(crate) fn release(workspace: &Workspace, whole: bool) -> Result<()> {
    let mut parts = vec![
        ("descriptions", descriptions(&metadata(workspace)?)),
        ("packages", packages(workspace, whole)),
        ("dependencies", dependencies(workspace, whole)),
    ];
    if whole {
        parts.push(("the oldest compiler", oldest_compiler(workspace)));
    }
    together(parts)
}

/// Returns what Cargo says of the workspace's packages.
pub(super) fn metadata(workspace: &Workspace) -> Result<Value> {
    let asked = workspace.command("cargo", &["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = asked.map_err(|error| format!("cannot start cargo metadata: {error}"))?.stdout;
    serde_json::from_slice(&output).map_err(|error| format!("cargo metadata is not understood: {error}"))
}

/// Checks that each package that is published says what a registry asks for, and that no other is
/// published.
fn descriptions(metadata: &Value) -> Result<()> {
    let packages = metadata["packages"].as_array().ok_or("cargo metadata has no packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        // The list of registries is empty where nothing may be published, and absent where all may.
        let published = package["publish"].is_null();
        if published == OWN_USE.contains(&name) {
            wrong.push(format!("{name}: it is {}published", if published { "" } else { "not " }));
        }
        let lacks = |field: &&str| package[*field].as_str().is_none_or(str::is_empty);
        let lacking: Vec<&str> = ["description", "license", "rust_version"].into_iter().filter(lacks).collect();
        if published && !lacking.is_empty() {
            wrong.push(format!("{name}: it lacks {}", lacking.join(", ")));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Makes the packages of all crates, as for publishing them in the order of their dependencies.
fn packages(workspace: &Workspace, build: bool) -> Result<()> {
    let mut arguments = vec!["publish", "--workspace", "--dry-run", "--allow-dirty"];
    arguments.extend((!build).then_some("--no-verify"));
    workspace.cargo(&arguments)
}

/// Checks licences, sources and duplicates of all dependencies against deny.toml; with
/// `advisories` also the list of known vulnerabilities, which is downloaded.
fn dependencies(workspace: &Workspace, advisories: bool) -> Result<()> {
    let mut arguments = vec!["--workspace", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    arguments.extend(advisories.then_some("advisories"));
    workspace.run(setup::cargo_deny(workspace)?, &arguments)
}

/// Checks the workspace with the oldest compiler that its packages name.
fn oldest_compiler(workspace: &Workspace) -> Result<()> {
    let metadata = metadata(workspace)?;
    let version = metadata["packages"][0]["rust_version"].as_str().ok_or("no package names a compiler")?;
    if !succeeds(Command::new("rustup").args(["run", version, "rustc", "--version"])) {
        workspace.run("rustup", &["toolchain", "install", version, "--profile", "minimal"])?;
    }
    let target = workspace.target().join("oldest-compiler");
    let target = target.to_string_lossy();
    run(workspace
        .command("cargo", &["check", "--workspace", "--all-targets", "--target-dir", &*target])
        .env("RUSTUP_TOOLCHAIN", version))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_published_package_says_what_it_is() {
        let package = |name: &str, publish: Value, description: &str| {
            json!({
                "name": name, "publish": publish, "description": description, "license": "MIT", "rust_version": "1.90",
            })
        };
        let of = |package: Value| descriptions(&json!({ "packages": [package] }));
        assert_eq!(of(package("hetero", Value::Null, "A layer")), Ok(()));
        assert_eq!(of(package("hetero", Value::Null, "")), Err("hetero: it lacks description".to_owned()));
        assert_eq!(of(package("hetero", json!([]), "A layer")), Err("hetero: it is not published".to_owned()));
        assert_eq!(of(package("xtask", json!([]), "")), Ok(()));
        assert_eq!(of(package("xtask", Value::Null, "Tasks")), Err("xtask: it is published".to_owned()));
    }
}
