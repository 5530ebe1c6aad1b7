//! Tests of the binary with paths that are no files, with a disk that is full, and with damage.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::Folder;

/// Waits for a process that must not hang.
fn ended(child: Child) -> Output {
    let (done, outcome) = mpsc::channel();
    let number = child.id().to_string();
    std::thread::spawn(move || done.send(child.wait_with_output().unwrap()));
    outcome.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-9", &number]).status();
        panic!("the process hangs")
    })
}

impl Folder {
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
        command.args(arguments).current_dir(&self.0).env("HETERO_PROFILE", "profile.json");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command of a shell, in which `$HETERO` is the binary.
    fn shell(&self, line: &str) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.0);
        command.env("HETERO_PROFILE", "profile.json").env("HETERO", env!("CARGO_BIN_EXE_hetero"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ended(command.spawn().unwrap())
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn said(output: &Output) -> String {
    common::unwrapped(&String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_no_file_ends_a_command_at_once() {
    let folder = Folder::new("kinds");
    for name in ["pipe", "pipe.npy", "pipe.pb"] {
        assert!(Command::new("mkfifo").arg(folder.0.join(name)).status().unwrap().success());
    }
    for name in ["zero", "zero.npy", "zero.pb"] {
        std::os::unix::fs::symlink("/dev/zero", folder.0.join(name)).unwrap();
    }
    for (name, word) in [("pipe", "it is a pipe"), ("zero", "it is a device"), (".", "it is a folder")] {
        let mut commands = vec![
            format!("inspect {name}"),
            format!("plan model.onnx --config {name}"),
            format!("plan model.onnx --profile {name}"),
            format!("run model.onnx --random 1 --plan {name}"),
            format!("assign {name}"),
        ];
        if name != "." {
            commands.extend([".npy", ".pb"].map(|ending| format!("run model.onnx --input x:0={name}{ending}")));
        }
        for command in commands {
            let arguments: Vec<&str> = command.split(' ').collect();
            let output = ended(folder.start(&arguments));
            assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
            assert!(said(&output).contains(word), "{command}: {}", said(&output));
        }
    }
}

#[test]
fn a_text_comes_through_the_standard_input() {
    let folder = Folder::new("stdin");
    let fed = |text: &str, arguments: &[&str]| {
        let mut child = folder.start(arguments);
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        ended(child)
    };
    let output = fed("scheduling:\n  strategy: throughput\n", &["plan", "model.onnx", "--config", "/dev/stdin"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = fed("scheduling:\n  stratgy: throughput\n", &["plan", "model.onnx", "--config", "/dev/stdin"]);
    assert!(said(&output).contains("/dev/stdin:2"), "{}", said(&output));
}

#[test]
fn a_full_disk_leaves_old_files_and_no_parts() {
    let folder = Folder::new("full");
    assert!(folder.run(&["plan", "model.onnx", "-o", "plan.json"]).status.success());
    let (plan, names) = (std::fs::read(folder.0.join("plan.json")).unwrap(), folder.names());
    for command in [
        "plan model.onnx --shape x:0=2x3 -o plan.json",
        "plan model.onnx -o fresh.json",
        "plan model.onnx --html page.html",
        "plan model.onnx --dot graph.dot",
        "run model.onnx --random 1 --output .",
        "conformance --device cpu:0 --filter Relu --junit junit.xml",
    ] {
        // No file may grow; the shell takes the signal off that would end the process.
        let output = folder.shell(&format!("trap '' XFSZ; ulimit -f 0; exec \"$HETERO\" {command}"));
        assert_eq!(output.status.code(), Some(1), "{command}: {}", said(&output));
        assert!(said(&output).contains("File too large"), "{command}: {}", said(&output));
        assert_eq!(folder.names(), names, "{command}");
        assert_eq!(std::fs::read(folder.0.join("plan.json")).unwrap(), plan, "{command}");
    }
    // A cache that cannot be written is none, and no error.
    std::fs::write(folder.0.join("digits.onnx"), include_bytes!("../demo/digits.onnx")).unwrap();
    let entries = |cache: &str| std::fs::read_dir(folder.0.join(cache)).map_or(0, Iterator::count);
    for (cache, limit, kept) in [("kept", "trap '' XFSZ; ulimit -f 0;", false), ("full", "", true)] {
        let run = format!("{limit} exec \"$HETERO\" run digits.onnx --random 1 --device cpu:0 --cache {cache}");
        let output = folder.shell(&run);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(entries(cache) > 0, kept, "{cache}");
    }
}

#[test]
fn devices_and_pipes_are_written_to_and_stay_what_they_are() {
    let folder = Folder::new("streams");
    let output = folder.run(&["plan", "model.onnx", "-o", "/dev/stdout"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("\"partitions\""));
    let output = folder.run(&["plan", "model.onnx", "-o", "/dev/full"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("No space left"), "{}", said(&output));
    assert!(folder.run(&["plan", "model.onnx", "-o", "/dev/null"]).status.success());
    assert!(!Path::new("/dev/null").is_file() && !Path::new("/dev/full").is_file());
    let pipe = folder.0.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = ended(folder.start(&["plan", "model.onnx", "-o", "pipe"]));
    assert!(output.status.code() == Some(1) && said(&output).contains("nobody reads"), "{}", said(&output));
    let output = folder.shell("cat pipe & until \"$HETERO\" plan model.onnx -o pipe > report; do :; done; wait");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"partitions\""), "{}", said(&output));
}

/// The model is shortened between two runs, as an editor or a download may do.
#[test]
fn a_run_outlives_its_model() {
    let folder = Folder::new("shrinks");
    let mut child = folder.start(&["run", "model.onnx", "--random", "1", "--device", "cpu:0", "--on-request"]);
    let (mut ask, mut answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (told, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while answers.read(&mut byte).is_ok_and(|count| count > 0) {
            if byte[0] == b'\n' && told.send(()).is_err() {
                break;
            }
        }
    });
    for _ in 0..3 {
        ask.write_all(b"\n").unwrap();
        answer.recv_timeout(Duration::from_secs(120)).unwrap();
        std::fs::OpenOptions::new().write(true).open(folder.0.join("model.onnx")).unwrap().set_len(0).unwrap();
    }
    drop(ask);
    assert!(ended(child).status.success());
}

#[test]
fn a_damaged_profile_of_the_user_is_a_warning_and_a_named_one_an_error() {
    let folder = Folder::new("profile");
    let profile = folder.0.join("profile.json");
    for damage in [&b"{\"version\": 2"[..], b"\xff", b"", &vec![b' '; (16 << 20) + 1]] {
        std::fs::write(&profile, damage).unwrap();
        let output = folder.run(&["run", "model.onnx", "--random", "1"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("without a profile") && said(&output).contains("is no profile"));
        let output = folder.run(&["run", "model.onnx", "--random", "1", "--profile", "profile.json"]);
        assert!(output.status.code() == Some(1) && said(&output).contains("is no profile"), "{}", said(&output));
    }
    std::fs::remove_file(&profile).unwrap();
    assert!(Command::new("mkfifo").arg(&profile).status().unwrap().success());
    let output = ended(folder.start(&["run", "model.onnx", "--random", "1"]));
    assert!(output.status.success() && said(&output).contains("it is a pipe"), "{}", said(&output));
}
