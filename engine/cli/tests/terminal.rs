//! Tests of what the binary prints and where: pipes that nobody reads, full devices, closed
//! descriptors, names that would move a cursor, outputs that would share a file.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use hetero::Model;
use hetero::hal::{DType, Graph, Node, Operator, TensorType, Value, ValueId};

/// What a name must not bring to a terminal: escapes, a line of its own, text that runs backwards.
const HOSTILE: &str = "n\x1b[2J\x1b]0;t\x07\r\nfake: done\u{9b}1m\u{202e}\u{2028}层";
/// The same name as it is shown.
const SHOWN: &str = "n\\u{1b}[2J\\u{1b}]0;t\\u{7}\\r\\nfake: done\\u{9b}1m\\u{202e}\\u{2028}层";

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hetero-terminal-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    /// Writes a model whose only input feeds one `operator` for each output.
    fn model(&self, file: &str, operator: &str, input: &str, outputs: &[&str]) {
        let ty = || TensorType::exact(DType::F32, &[2]);
        let mut values = vec![Value { name: input.into(), ty: ty(), constant: None }];
        let mut nodes = vec![];
        for (index, name) in outputs.iter().enumerate() {
            values.push(Value { name: (*name).into(), ..Value::default() });
            nodes.push(Node {
                name: format!("{name}{index}").into(),
                operator: Operator::new(operator, 17),
                inputs: vec![Some(ValueId(0))],
                outputs: vec![Some(ValueId(index as u32 + 1))],
            });
        }
        let outputs = (1..values.len() as u32).map(ValueId).collect();
        let graph = Graph { name: "g".into(), values, nodes, inputs: vec![ValueId(0)], outputs, captures: vec![] };
        let model = Model { graph, opsets: [("".into(), 17)].into(), producer: HOSTILE.into(), ..Model::default() };
        hetero_onnx::write(&model, self.0.join(file)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
        command.args(arguments).current_dir(&self.0).env("HETERO_PROFILE", "profile.json");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a line of the shell, in which `hetero` is the binary.
    fn shell(&self, line: &str) -> Output {
        let line = format!("hetero() {{ '{}' \"$@\"; }}; {line}", env!("CARGO_BIN_EXE_hetero"));
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(&self.0).env("HETERO_PROFILE", "profile.json").output().unwrap()
    }

    fn files(&self, folder: &str) -> Vec<String> {
        let all = std::fs::read_dir(self.0.join(folder)).unwrap();
        all.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns a pipe that nobody reads.
fn unread() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The commands that print something each way: text, JSON, help, a table.
const PRINTING: [&[&str]; 8] = [
    &["inspect", "m.onnx"],
    &["inspect", "m.onnx", "--json"],
    &["plan", "m.onnx", "--device", "cpu:0", "--explain"],
    &["run", "m.onnx", "--device", "cpu:0", "--random", "1"],
    &["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--stream", "3"],
    &["plan", "m.onnx", "--device", "cpu:0", "--timing"],
    &["--help"],
    &["--version"],
];

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let folder = Folder::new("pipe");
    folder.model("m.onnx", "Relu", "x", &["y"]);
    for arguments in PRINTING {
        let output = folder.command(arguments).stdout(unread()).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), String::new()), "{arguments:?}");
    }
    let output = folder.shell("{ hetero inspect m.onnx; echo $? >code; } | head -c 0");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(["0\n", "141\n"].contains(&&*std::fs::read_to_string(folder.0.join("code")).unwrap()));
    // The standard output may be named as a file, and a file may be a pipe.
    let named = ["plan", "m.onnx", "--device", "cpu:0", "--dot", "/dev/stdout"];
    let output = folder.command(&named).stdout(unread()).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(141), String::new()));
    // A command that answers for as long as it is asked ends when nobody hears the answers.
    let mut asked = folder.command(&["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--on-request"]);
    let mut asked = asked.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut questions, mut answers) = (asked.stdin.take().unwrap(), BufReader::new(asked.stdout.take().unwrap()));
    questions.write_all(b"\n").unwrap();
    let mut answer = String::new();
    answers.read_line(&mut answer).unwrap();
    assert!(answer.trim().parse::<f64>().is_ok(), "{answer}");
    drop(answers);
    questions.write_all(b"\n").unwrap();
    let status = asked.wait().unwrap();
    let mut said = String::new();
    asked.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(141), ""));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_device_is_an_error_that_says_so() {
    let folder = Folder::new("full");
    folder.model("m.onnx", "Relu", "x", &["y"]);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for arguments in PRINTING {
        let output = folder.command(arguments).stdout(full()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("cannot write to the standard output: No space left on device"), "{said}");
    }
    // The exit code is the command's where only the standard error is full.
    let absent: &[&str] = &["inspect", "absent.onnx"];
    for (arguments, code) in [(PRINTING[0], 0), (absent, 1), (&["fly"], 2)] {
        let output = folder.command(arguments).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
    assert_eq!(folder.command(absent).stdout(full()).stderr(full()).output().unwrap().status.code(), Some(1));
    let html = folder.run(&["plan", "m.onnx", "--device", "cpu:0", "--html", "/dev/full"]);
    assert_eq!(html.status.code(), Some(1));
    assert!(text(&html.stderr).contains("cannot write /dev/full"), "{html:?}");
}

#[test]
fn closed_descriptors_break_nothing() {
    let folder = Folder::new("closed");
    folder.model("m.onnx", "Relu", "x", &["y"]);
    let written = |name: &str| std::fs::read(folder.0.join(name)).unwrap();
    let plan = "hetero plan m.onnx --device cpu:0 -o";
    assert!(folder.shell(&format!("{plan} whole.json")).status.success());
    for (index, closed) in [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", ">&- 2>/dev/full"].iter().enumerate() {
        let file = format!("{index}.json");
        let output = folder.shell(&format!("{plan} {file} {closed}"));
        assert_eq!(output.status.code(), Some(0), "{closed}: {output:?}");
        // Nothing that was printed went into the file that was opened next.
        assert_eq!(written(&file), written("whole.json"), "{closed}");
        for (arguments, code) in [("inspect absent.onnx", 1), ("fly", 2)] {
            let output = folder.shell(&format!("hetero {arguments} {closed}"));
            assert_eq!(output.status.code(), Some(code), "{closed}: {output:?}");
        }
    }
    let mut silent = folder.command(&["inspect", "absent.onnx"]);
    assert_eq!(silent.stderr(unread()).output().unwrap().status.code(), Some(1));
}

#[test]
fn the_standard_output_can_be_named() {
    let folder = Folder::new("named");
    folder.model("m.onnx", "Relu", "x", &["y"]);
    let output = folder.run(&["plan", "m.onnx", "--device", "cpu:0", "--html", "/dev/stdout"]);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.starts_with("<!doctype html>") && said.contains("plan: "), "{output:?}");
    // A file cannot be both.
    let output = folder.shell("hetero plan m.onnx --device cpu:0 --html p.html >p.html");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--html and the standard output write to one file"), "{output:?}");
}

/// Checks that a text has no character that moves a cursor but the ends of its lines.
fn is_calm(said: &str) -> bool {
    !said.contains(|c: char| c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}'))
        && said.lines().all(|line| !line.trim_start_matches([' ', '│']).starts_with("fake: done"))
}

#[test]
fn names_are_shown_escaped_in_all_that_is_printed() {
    let folder = Folder::new("names");
    let result = format!("{HOSTILE}!");
    folder.model("m.onnx", "Relu", HOSTILE, &[&result]);
    folder.model("missing.onnx", &format!("Op{HOSTILE}"), "x", &[&result]);
    std::fs::copy(folder.0.join("m.onnx"), folder.0.join(HOSTILE)).unwrap();
    let shape = format!("{HOSTILE}=3");
    let input = format!("{HOSTILE}=absent\x1b.npy");
    let place = format!("{HOSTILE}!0=cpu:7");
    let idle = format!("{HOSTILE}no=cpu:0");
    let commands: [&[&str]; 16] = [
        &["inspect", "m.onnx"],
        &["inspect", HOSTILE],
        &["inspect", HOSTILE, "--json"],
        &["inspect", "missing.onnx"],
        &["inspect", "missing.onnx", "--json"],
        &["run", "missing.onnx", "--random", "1"],
        &["plan", "m.onnx", "--device", "cpu:0", "--explain"],
        &["plan", "m.onnx", "--device", "cpu:0", "--explain", "--json"],
        &["plan", "m.onnx", "--device", "cpu:0", "--json", "--html", "p.html", "--dot", "p.dot"],
        &["plan", "m.onnx", "--device", "cpu:0", "--place", &place],
        &["plan", "m.onnx", "--device", "cpu:0", "--place", &idle],
        &["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--output", HOSTILE],
        &["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--output", "out", "--json"],
        &["run", "m.onnx", "--device", "cpu:0"],
        &["run", "m.onnx", "--device", "cpu:0", "--input", &input],
        &["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--shape", &shape],
    ];
    for arguments in commands {
        let output = folder.run(arguments);
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        assert!(is_calm(&said) && is_calm(&told), "{arguments:?}: {said:?} {told:?}");
        assert!(!told.contains("panicked"), "{told}");
    }
    for written in ["p.html", "p.dot"] {
        let page = std::fs::read_to_string(folder.0.join(written)).unwrap();
        assert!(is_calm(&page), "{page:?}");
    }
    let said = text(&folder.run(&["inspect", "m.onnx"]).stdout);
    for line in [format!("    {SHOWN}: float32[2]\n"), format!("    {SHOWN}!: ")] {
        assert!(said.contains(&line), "{said}");
    }
    assert!(text(&folder.run(&["inspect", "missing.onnx"]).stdout).contains(&format!(" at '{SHOWN}!0'\n")));
    // JSON has the name itself.
    let inspected = folder.run(&["inspect", "m.onnx", "--json"]);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!((&inspected["inputs"][0]["name"], &inspected["producer"]), (&HOSTILE.into(), &HOSTILE.into()));
    // Usage errors quote arguments.
    for arguments in [&["fly\x1b[2J\nfake: done"][..], &["run", "m.onnx", "--shape", "\x1b\nfake: done=q"]] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(is_calm(&text(&output.stderr)) && text(&output.stderr).contains("\\u{1b}"), "{output:?}");
    }
}

#[test]
fn no_two_outputs_share_a_file() {
    let folder = Folder::new("outputs");
    let long = "l".repeat(300);
    let names = ["a/b", "a_b", "A_B", "a:b", ".", "..", "a\x1bb", "a\nb", &long, "plain"];
    folder.model("m.onnx", "Relu", "x", &names);
    let run = ["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--output"];
    let output = folder.run(&[&run[..], &["out", "--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = |report: &serde_json::Value| -> Vec<(String, String)> {
        let part = |output: &serde_json::Value, key: &str| output[key].as_str().unwrap().to_owned();
        let outputs = report["outputs"].as_array().unwrap().iter();
        outputs.map(|output| (part(output, "name"), part(output, "file"))).collect()
    };
    let files = told(&report);
    assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
    let mut different: Vec<String> = files.iter().map(|(_, file)| file.to_lowercase()).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!((different.len(), folder.files("out").len()), (names.len(), names.len()));
    assert!(files.iter().all(|(_, file)| folder.0.join(file).is_file()));
    assert_eq!((&*files[1].1, &*files[9].1), ("out/a_b.npy", "out/plain.npy"));
    // The same names have the same files each time, in a stream too, and people are told of them.
    let stream = folder.run(&[&run[..], &["out", "--stream", "2", "--json"]].concat());
    assert_eq!(told(&serde_json::from_slice(&stream.stdout).unwrap()), files);
    for more in [&["out"][..], &["out", "--stream", "2"]] {
        let said = text(&folder.run(&[&run[..], more].concat()).stdout);
        assert!(said.contains(&format!("output a/b is in {}\n", files[0].1)), "{said}");
        assert!(said.contains(&format!("output a\\u{{1b}}b is in {}\n", files[6].1)), "{said}");
        assert!(!said.contains("plain is in"), "{said}");
    }
    // Two names of one file are found where only the file system knows that they are.
    std::fs::create_dir(folder.0.join("linked")).unwrap();
    std::os::unix::fs::symlink("a_b.npy", folder.0.join("linked/plain.npy")).unwrap();
    let linked = folder.run(&[&run[..], &["linked", "--json"]].concat());
    let files = told(&serde_json::from_slice(&linked.stdout).unwrap());
    assert!(files[9].1 == "linked/plain-2.npy" && folder.0.join(&files[9].1).is_file(), "{files:?}");
}

#[test]
fn options_that_name_one_file_are_turned_down_before_any_work() {
    let folder = Folder::new("same");
    folder.model("m.onnx", "Relu", "x", &["y"]);
    let before = std::fs::read(folder.0.join("m.onnx")).unwrap();
    for (options, said) in [
        (["--html", "p", "--dot", "./p"], "--dot and --html write to one file"),
        (["-o", "p", "--html", "p"], "write to one file"),
        (["-o", "q", "--dot", "m.onnx"], "--dot would write over the file that <MODEL> names"),
    ] {
        let output = folder.run(&[&["plan", "m.onnx", "--device", "cpu:0"][..], &options].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(text(&output.stderr).contains(said) && output.stdout.is_empty(), "{output:?}");
        assert!(!folder.0.join("p").exists() && !folder.0.join("q").exists());
    }
    assert_eq!(std::fs::read(folder.0.join("m.onnx")).unwrap(), before);
}

/// A driver prints to descriptor 1 when it is loaded, and to C's buffer of the standard output,
/// which is written when the process ends.
#[test]
#[cfg(all(feature = "opencl", target_os = "linux"))]
fn what_a_driver_prints_is_not_among_the_results() {
    let folder = Folder::new("chatter");
    let source = "#include <stdio.h>\n#include <unistd.h>\n\
        __attribute__((constructor)) static void load(void) { write(1, \"at once\\n\", 8); printf(\"at the end\\n\"); }";
    std::fs::write(folder.0.join("loader.c"), source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-w", "loader.c", "-o", "libOpenCL.so.1"]).current_dir(&folder.0);
    assert!(compiler.status().unwrap().success());
    let mut check = folder.command(&["check", "--compatibility", "--json"]);
    let check = check.env("LD_LIBRARY_PATH", &folder.0).env_remove("OPENCL_DYLIB_PATH").output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(report["drivers"].is_array());
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(said.contains("at once\n") && said.contains("at the end\n"), "{said}");
}

/// Ctrl-C ends a command in the middle of its work.
#[test]
fn an_interrupt_ends_a_command() {
    let folder = Folder::new("interrupt");
    folder.model("m.onnx", "Relu", "x", &["y"]);
    let mut working = folder.command(&["run", "m.onnx", "--device", "cpu:0", "--random", "1", "--on-request"]);
    let mut working = working.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut questions = working.stdin.take().unwrap();
    questions.write_all(&[b'\n'; 30_000]).unwrap();
    let mut answers = BufReader::new(working.stdout.take().unwrap());
    answers.read_line(&mut String::new()).unwrap();
    assert!(Command::new("kill").args(["-INT", &working.id().to_string()]).status().unwrap().success());
    // Its input stays open, so nothing else ends it.
    assert_eq!(working.wait().unwrap().signal(), Some(2));
    drop(questions);
}
