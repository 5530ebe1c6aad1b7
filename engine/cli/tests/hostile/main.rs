//! Hostile models, each of which is small and asks for much, end in a result or in one clear error,
//! within the command's limits of memory and time.

#![allow(clippy::unwrap_used)]

mod models;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The memory that a command may have at most, under a limit of 1 GiB for the model.
const MOST_BYTES: u64 = 1_300_000_000;

/// The time after which a command counts as hung; its own deadline is 5 s.
/// The time that it took is printed and not checked, as machines are slow at times.
const HANGS: Duration = Duration::from_secs(60);

/// The end of a command.
struct Ended {
    code: Option<i32>,
    peak: u64,
    time: Duration,
    said: String,
}

/// Runs a command, and watches the memory that it takes.
fn watched(folder: &Path, arguments: &[&str]) -> Ended {
    let file = |name: &str| std::fs::File::create(folder.join(name)).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hetero"))
        .args(arguments)
        .current_dir(folder)
        .env("HETERO_PROFILE", "none.json")
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let code = loop {
        // The high-water mark only grows, so the last look before the end has nearly all of it.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(mark.unwrap_or(0u64) * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if began.elapsed() > HANGS {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let said = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    Ended { code, peak, time: began.elapsed(), said }
}

#[test]
fn hostile_models_stay_within_memory_and_deadline() {
    let folder: PathBuf = std::env::temp_dir().join(format!("hetero-hostile-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let only = std::env::var("HETERO_HOSTILE").ok();
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (name, bytes) in models::all() {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        std::fs::write(folder.join("model.onnx"), &bytes).unwrap();
        let limits = ["--memory-limit", "1G", "--deadline", "5", "--device", "cpu:0"];
        let run = [&["run", "model.onnx", "--random", "1"][..], &limits].concat();
        let Ended { code, peak, time, said } = watched(&folder, &run);
        let first = said.lines().find(|line| line.contains('×')).unwrap_or("a result").trim();
        let (size, peak_mb, seconds) = (bytes.len(), peak / 1_000_000, time.as_secs_f64());
        writeln!(table, "{size:>8} B {peak_mb:>6} MB {seconds:>6.2} s  {code:?}  {name}: {first}").unwrap();
        // A signal or a panic has no code, or another one.
        if !matches!(code, Some(0..=2)) || said.contains("panicked") {
            wrong.push(format!("{name}: {code:?}: {said}"));
        }
        if peak > MOST_BYTES {
            wrong.push(format!("{name}: {peak} bytes"));
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    println!("{table}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
