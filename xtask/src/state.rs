//! The state in which a benchmark was run: date, processor, threads, commit and command.

use std::process::Command;

use crate::workspace::{Result, Workspace};

/// Returns two lines with the date, the processor with its instruction set, the number of its
/// threads, the commit, and the command of this process.
///
/// # Errors
/// An error where `date` or `git` cannot be run.
pub(crate) fn line(workspace: &Workspace) -> Result<String> {
    let date = output(&mut Command::new("date"), &["-u", "+%F"])?;
    let git = |arguments: &[&str]| output(&mut workspace.command("git", &[]), arguments);
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    // Where there is no such file, the processor is unknown.
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let plural = if threads == 1 { "thread" } else { "threads" };
    let changed = if changed { " with changes" } else { "" };
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--write");
    let command: Vec<String> = ["cargo", "xtask"].map(str::to_owned).into_iter().chain(arguments).collect();
    let (processor, command) = (processor(&cpuinfo), command.join(" "));
    Ok(format!("{date}, {processor}, {threads} {plural}, commit {commit}{changed}.\nIt is the report of `{command}`."))
}

/// Returns what a command prints.
fn output(command: &mut Command, arguments: &[&str]) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.args(arguments).output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns the name of the processor and its widest instruction set, as `/proc/cpuinfo` tells them.
fn processor(cpuinfo: &str) -> String {
    let field = |names: [&str; 2]| {
        let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines
            .map(|(key, value)| (key.trim(), value.trim()))
            .find(|(key, _)| names.contains(key))
            .map(|(_, value)| value)
    };
    let name = field(["model name", "Model"]).unwrap_or("a processor without a name");
    let flags: Vec<&str> = field(["flags", "Features"]).unwrap_or_default().split(' ').collect();
    let has = |wanted: &[&str]| wanted.iter().all(|flag| flags.contains(flag));
    // These are the sets of which the CPU device has kernels, and what it asks for.
    let set = if has(&["avx512f", "avx512dq", "avx512bw", "avx512vl"]) {
        "AVX-512"
    } else if has(&["avx2", "fma"]) {
        "AVX2"
    } else if has(&["asimd"]) {
        "NEON"
    } else {
        "no vector instructions that hetero knows"
    };
    format!("{name} ({set})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_told_with_its_widest_instruction_set() {
        let of = |flags: &str| processor(&format!("processor\t: 0\nmodel name\t: Chip 9\nflags\t\t: fpu {flags}\n"));
        assert_eq!(of("fma avx2"), "Chip 9 (AVX2)");
        assert_eq!(of("fma avx2 avx512f avx512dq avx512bw avx512vl"), "Chip 9 (AVX-512)");
        assert_eq!(of("avx2"), "Chip 9 (no vector instructions that hetero knows)");
        assert_eq!(processor("Features : fp asimd\n"), "a processor without a name (NEON)");
    }
}
