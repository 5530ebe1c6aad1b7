//! The steps that read the code and its docs and run nothing of it.

use super::together;
use crate::workspace::{Result, Workspace, run};

pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"];
    let mut doc = workspace.command("cargo", &["doc", "--workspace", "--no-deps", "--keep-going"]);
    together([
        ("formatting", workspace.cargo(&["fmt", "--all", "--check"])),
        ("clippy", workspace.cargo(&clippy)),
        ("docs", run(doc.env("RUSTDOCFLAGS", "-D warnings"))),
    ])
}

/// The table of operators, as the CPU device makes it.
fn operators(workspace: &Workspace) -> Result<String> {
    let hetero = workspace.hetero()?;
    let output = workspace.command(&hetero, &["conformance", "operators", "--device", "cpu:0"]).output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", hetero.display()))?;
    if !output.status.success() {
        return Err(format!("the table of operators: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn docs(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("docs").join("operators.md");
    let written = std::fs::create_dir_all(workspace.root.join("docs")).and_then(|()| {
        operators(workspace).map_or_else(|error| Err(std::io::Error::other(error)), |text| std::fs::write(&path, text))
    });
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Is docs/operators.md what the command writes?
pub(super) fn operators_are_new(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("docs").join("operators.md");
    let found = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if found == operators(workspace)? { Ok(()) } else { Err("docs/operators.md is old; run `cargo xtask docs`".into()) }
}
