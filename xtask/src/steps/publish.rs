//! What a release needs beside tests: packages, dependencies and interfaces.

use super::together;
use crate::setup;
use crate::workspace::{Result, Workspace};

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
        let arguments = ["semver-checks", "check-release", "--workspace", "--baseline-rev", baseline];
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
