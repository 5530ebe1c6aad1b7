//! What a release needs beside tests: packages, dependencies and interfaces.

use std::path::Path;

use serde_json::Value;

use super::together;
use crate::setup;
use crate::workspace::{Result, Workspace, succeeds};

/// Checks what a release needs, and publishes nothing.
/// With `baseline`, the interfaces are compared with those of that commit; before the first release
/// there is nothing else to compare with.
pub(crate) fn publish(workspace: &Workspace, baseline: Option<&str>) -> Result<()> {
    // Each package is built from what it would be published with.
    let packages = || workspace.cargo(&["publish", "--workspace", "--dry-run", "--allow-dirty"]);
    let deny = |checks: &[&str]| {
        let deny = setup::cargo_deny(workspace)?;
        workspace.run(deny, &[&["check"], checks].concat())
    };
    let interfaces = || {
        let Some(baseline) = baseline else {
            println!("interfaces: skipped, because no baseline was named: see --baseline");
            return Ok(());
        };
        // A binary of the cache gets the subcommand's name first, as from cargo.
        let new = newer_than(workspace, baseline)?;
        let excluded = new.iter().flat_map(|name| ["--exclude", name]);
        let arguments = ["semver-checks", "check-release", "--workspace", "--baseline-rev", baseline];
        let arguments: Vec<&str> = arguments.into_iter().chain(excluded).collect();
        workspace.run(setup::cargo_semver_checks(workspace)?, &arguments)
    };
    together([
        ("packages", packages()),
        ("licences, duplicates and sources", deny(&["licenses", "bans", "sources"])),
        // The list of advisories is fetched from its repository.
        ("advisories", deny(&["advisories"])),
        ("interfaces", interfaces()),
    ])
}

/// Returns the names of the packages that a commit does not have, which have nothing to be compared
/// with.
fn newer_than(workspace: &Workspace, commit: &str) -> Result<Vec<String>> {
    let packages = workspace.packages(&["--no-deps"])?;
    let is_new = |package: &&Value| {
        let path = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let path = path.strip_prefix(&workspace.root).unwrap_or(path).to_string_lossy().into_owned();
        !succeeds(&mut workspace.command("git", &["cat-file", "-e", &format!("{commit}:{path}")]))
    };
    let names = packages.iter().filter(is_new).filter_map(|package| package["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}
