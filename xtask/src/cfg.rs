//! Flags of the compiler's configuration (`--cfg`) that only the workspace's own crates are built
//! with.
//!
//! With `RUSTFLAGS`, every dependency would be built again for each flag.
//! Cargo starts a workspace's wrapper for the workspace's own crates alone, and keeps what each
//! wrapper has built apart by the wrapper's path.
//! So a copy of this program, named after the flag, is the wrapper.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::workspace::{Result, Workspace};

/// The variable by which Cargo is told of a wrapper.
const WRAPPER: &str = "RUSTC_WORKSPACE_WRAPPER";
/// The folder of the wrappers, which tells a wrapper that it is one.
const FOLDER: &str = "cfg-wrappers";

/// Makes a command that starts Cargo, with a flag set for the workspace's own crates.
pub(crate) fn cargo_with(workspace: &Workspace, flag: &str, arguments: &[&str]) -> Result<Command> {
    let folder = workspace.root.join("target").join(FOLDER);
    let wrapper = folder.join(format!("{flag}{}", std::env::consts::EXE_SUFFIX));
    let copied = std::fs::create_dir_all(&folder)
        .and_then(|()| std::env::current_exe())
        .and_then(|program| std::fs::copy(program, &wrapper));
    copied.map_err(|error| format!("cannot make {}: {error}", wrapper.display()))?;
    let mut command = workspace.command("cargo", arguments);
    command.env(WRAPPER, wrapper);
    Ok(command)
}

/// Compiles, where this process is such a wrapper: its first argument is the compiler.
pub(crate) fn compile() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let flag = flag_of(Path::new(&arguments.next()?))?;
    let mut compiler = Command::new(arguments.next()?);
    compiler.args(arguments).arg("--cfg").arg(flag);
    let done = compiler.status().is_ok_and(|status| status.success());
    Some(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the flag of a wrapper, and nothing for any other program.
fn flag_of(program: &Path) -> Option<OsString> {
    let is_wrapper = program.parent().and_then(Path::file_name).is_some_and(|folder| folder == FOLDER);
    is_wrapper.then(|| program.file_stem().map(Into::into)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_in_the_folder_of_wrappers_is_one() {
        assert_eq!(flag_of(Path::new("/x/target/cfg-wrappers/loom")), Some("loom".into()));
        assert_eq!(flag_of(Path::new("/x/target/debug/xtask")), None);
        assert_eq!(flag_of(Path::new("xtask")), None);
    }
}
