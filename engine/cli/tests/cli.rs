//! Tests of the binary from outside: exit codes, files, JSON.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::Path;
use std::process::Command;

use hetero::hal::{Dim, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{DType, Model, Tensor};

use common::{Folder, unwrapped};

/// Writes a little-endian .npy file of float32.
fn npy(path: &Path, shape: &str, values: &[f32]) {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_run_reads_and_writes_files() {
    let folder = Folder::new("run");
    npy(&folder.0.join("x.npy"), "(2, 3)", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let report = folder.json(&[
        "run",
        "model.onnx",
        "--input",
        "x:0=x.npy",
        "--output",
        "out",
        "--repeat",
        "3",
        "--threads",
        "1",
        "--json",
    ]);
    for key in ["min", "p50", "p90", "p99"] {
        assert!(report["latency_us"][key].as_f64().unwrap() > 0.0);
    }
    for key in ["load_ms", "plan_ms", "compile_ms", "arena_bytes"] {
        assert!(report[key].is_number(), "{key}");
    }
    assert_eq!(report["placement"]["scale"], "cpu:0");
    assert_eq!(report["moved"], serde_json::json!([]));
    let written = std::fs::read(folder.0.join("out/out_y.npy")).unwrap();
    let values: Vec<f32> =
        written[written.len() - 24..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values, [1.0, 20.0, 300.0, 4.0, 50.0, 600.0]);
    // The same input comes through a TensorProto.
    let tensor = Tensor::from_vec(&[1, 3], vec![1.0f32; 3]).unwrap();
    std::fs::write(folder.0.join("x.pb"), hetero_onnx::value_to_bytes("x:0", &tensor)).unwrap();
    assert!(folder.run(&["run", "model.onnx", "--input", "x:0=x.pb"]).status.success());
}

#[test]
fn texts_and_sequences_are_read_and_written() {
    let folder = Folder::new("texts");
    let texts = |list: &[&str]| Tensor::from_strings(&[list.len()], list.iter().map(|&text| text.into()).collect());
    let port = |name: &str, ty| Value { name: name.into(), ty, constant: None };
    let node = |name: &str, inputs: &[u32], output: u32| Node {
        name: name.into(),
        operator: Operator::new(name, 20),
        inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
        outputs: vec![Some(ValueId(output))],
    };
    let graph = Graph {
        name: "texts".into(),
        values: vec![
            port("words", TensorType::exact(DType::String, &[2])),
            port("list", TensorType::new(DType::Sequence, vec![Dim::Unknown])),
            port("joined", TensorType::default()),
            port("longer", TensorType::default()),
        ],
        nodes: vec![node("StringConcat", &[0, 0], 2), node("SequenceInsert", &[1, 2], 3)],
        inputs: vec![ValueId(0), ValueId(1)],
        outputs: vec![ValueId(2), ValueId(3)],
        captures: vec![],
    };
    let model = Model { graph, opsets: [("".into(), 20)].into(), ..Model::default() };
    hetero_onnx::write(&model, folder.0.join("texts.onnx")).unwrap();
    let words = "é\0\0da\0";
    let data: Vec<u8> = words.chars().flat_map(|character| u32::from(character).to_le_bytes()).collect();
    let header = "{'descr': '<U3', 'fortran_order': False, 'shape': (2,)}\n";
    let length = (header.len() as u16).to_le_bytes();
    let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &data].concat();
    std::fs::write(folder.0.join("words.npy"), file).unwrap();
    let list = Tensor::from_parts(DType::Sequence, vec![texts(&["x"]).unwrap()]).unwrap();
    std::fs::write(folder.0.join("list.pb"), hetero_onnx::value_to_bytes("list", &list)).unwrap();
    let arguments =
        ["run", "texts.onnx", "--input", "words=words.npy", "--input", "list=list.pb", "--output", "out", "--json"];
    folder.json(&arguments);
    let written = std::fs::read(folder.0.join("out/joined.npy")).unwrap();
    let ended: Vec<u8> = "éé\0\0dada".chars().flat_map(|character| u32::from(character).to_le_bytes()).collect();
    assert!(written.ends_with(&ended), "{written:?}");
    // The processor has no kernels for such values, and commands say so.
    let input = ["--input", "words=words.npy", "--input", "list=list.pb"];
    let run = [&["run", "texts.onnx"], &input[..]].concat();
    let said = |arguments: &[&str]| unwrapped(&String::from_utf8(folder.run(arguments).stdout).unwrap());
    let told = "slow: 2 of 2 nodes, 100 % of the estimated time: ";
    for arguments in [&run[..], &["plan", "texts.onnx"], &["inspect", "texts.onnx"]] {
        let said = said(arguments);
        assert!(said.contains(told), "{said}");
        assert!(said.contains("1 StringConcat (text)") && said.contains("1 SequenceInsert"), "{said}");
    }
    assert_eq!(folder.json(&["inspect", "texts.onnx", "--json"])["slow"]["nodes"], 2);
    let (code, error) = folder.fails(&[&run[..], &["--deny-slow"]].concat());
    let error = unwrapped(&error);
    assert!(code == 1 && error.contains("1 StringConcat 'StringConcat' (text)"), "{error}");
    assert!(error.contains("--device"), "{error}");
    let (code, error) = folder.fails(&["plan", "texts.onnx", "--deny-slow"]);
    assert!(code == 1 && unwrapped(&error).contains("is forbidden"), "{error}");
    assert!(!said(&["plan", "model.onnx"]).contains("slow"));
    assert!(folder.run(&["plan", "model.onnx", "--deny-slow"]).status.success());
    let (_, longer) = hetero_onnx::read_value(folder.0.join("out/longer.pb"), DType::Sequence).unwrap();
    assert_eq!(longer.parts().unwrap(), [texts(&["x"]).unwrap(), texts(&["éé", "dada"]).unwrap()]);
}

#[test]
fn a_plan_is_written_and_run() {
    let folder = Folder::new("plan");
    assert!(folder.run(&["plan", "model.onnx", "--shape", "x:0=4x3", "-o", "plan.json"]).status.success());
    let report = folder.json(&["run", "model.onnx", "--plan", "plan.json", "--random", "1", "--json"]);
    assert_eq!(report["outputs"][0]["shape"], serde_json::json!([4, 3]));
    std::fs::write(folder.0.join("bad.json"), "{\"version\": 99}").unwrap();
    let (code, said) = folder.fails(&["run", "model.onnx", "--plan", "bad.json", "--random", "1"]);
    assert!(code == 1 && said.contains("99"), "{said}");
}

#[test]
fn listings_are_json_too() {
    let folder = Folder::new("list");
    assert_eq!(folder.json(&["devices", "--json"])["devices"][0]["id"], "cpu:0");
    assert_eq!(folder.json(&["check", "--compatibility", "--json"])["drivers"][0]["usable"], true);
    let whole = folder.json(&["inspect", "model.onnx", "--json"]);
    assert_eq!((&whole["inputs"][0]["type"], &whole["flops"]), (&"float32[batch,3]".into(), &3.into()));
    let missing = folder.json(&["inspect", "missing.onnx", "--json"]);
    assert_eq!(missing["missing"][0]["operator"], "Frobnicate");
}

#[test]
fn failures_are_reports_with_exit_codes() {
    let folder = Folder::new("fail");
    npy(&folder.0.join("x.npy"), "(2, 2)", &[0.0; 4]);
    let usage: [&[&str]; 8] = [
        &["run"],
        &["fly"],
        &["run", "model.onnx"],
        &["run", "model.onnx", "--input", "z=x.npy"],
        &["run", "model.onnx", "--input", "x:0=x.npy"],
        &["run", "model.onnx", "--random", "1", "--device", "gpu:0"],
        &["run", "model.onnx", "--random", "1", "--shape", "x:0=axb"],
        &["plan", "model.onnx", "--strategy", "fastest"],
    ];
    for arguments in usage {
        let (code, said) = folder.fails(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(!said.trim().is_empty());
    }
    std::fs::write(folder.0.join("c.yaml"), "scheduling:\n  stratgy: throughput\n").unwrap();
    let (code, said) = folder.fails(&["plan", "model.onnx", "--config", "c.yaml"]);
    assert!(code == 2 && said.contains("c.yaml:2") && said.contains("'strategy'"), "{said}");
    std::fs::write(folder.0.join("broken.onnx"), b"\xff\xff\xff\xff").unwrap();
    for (arguments, word) in [
        (&["run", "absent.onnx"][..], "absent.onnx"),
        (&["run", "broken.onnx"], "not valid ONNX"),
        (&["run", "missing.onnx", "--random", "1"], "Frobnicate (opset 17)"),
        (&["run", "model.onnx", "--input", "x:0=absent.npy"], "absent.npy"),
        (&["run", "model.onnx", "--random", "1", "--shape", "x:0=1000000000x3", "--memory-limit", "1M"], "memory"),
    ] {
        let (code, said) = folder.fails(arguments);
        assert!(code == 1 && said.contains(word), "{arguments:?}: {code} {said}");
    }
    // A path is told in one piece, however long it is and whatever is in it.
    let long = format!("a folder-of-mine/{}/model.onnx", "part-of-a-long-path/with blanks ".repeat(6));
    let (code, said) = folder.fails(&["run", &long]);
    assert!(code == 1 && said.contains(&long), "{said}");
}

#[test]
fn conformance_counts_and_writes_junit() {
    let folder = Folder::new("conformance");
    let arguments = ["conformance", "--device", "cpu:0", "--filter", "Relu", "--junit", "report.xml", "--json"];
    let report = folder.json(&arguments);
    assert!(report["passed"].as_u64().unwrap() >= 6 && report["passed"] == report["cases"]);
    let text = std::fs::read_to_string(folder.0.join("report.xml")).unwrap();
    assert!(text.contains("failures=\"0\"") && text.contains("classname=\"Relu\""));
    assert_eq!(folder.fails(&["conformance", "--device", "cpu:0", "--filter", "no such case"]).0, 2);
    assert_eq!(folder.fails(&["conformance", "onnx", "."]).0, 2);
}

#[test]
fn a_stream_is_compared_with_runs_one_by_one() {
    let folder = Folder::new("stream");
    let arguments =
        ["run", "model.onnx", "--random", "1", "--stream", "20", "--depth", "3", "--output", "out", "--json"];
    let report = folder.json(&arguments);
    assert_eq!((&report["runs"], &report["depth"]), (&20.into(), &3.into()));
    let rate = |key: &str| report[key].as_f64().unwrap();
    assert!((rate("stream_per_s") / rate("sequential_per_s") - rate("ratio")).abs() < 1e-6);
    assert!(report["busy"]["stream"]["cpu:0"].as_f64().unwrap() > 0.0);
    assert!(folder.0.join("out/out_y.npy").exists());
    assert_eq!(folder.fails(&["run", "model.onnx", "--random", "1", "--depth", "3"]).0, 2);
}

#[test]
fn edges_are_reported() {
    let folder = Folder::new("edges");
    let report = folder.json(&["run", "model.onnx", "--random", "1", "--json"]);
    let edges = report["edges"].as_array().unwrap();
    let ends: Vec<_> =
        edges.iter().map(|edge| (edge["from"].as_str().unwrap(), edge["to"].as_str().unwrap())).collect();
    assert_eq!(ends, [("host", "cpu:0"), ("cpu:0", "host")]);
    assert_eq!(edges[1]["staged_bytes"], 12);
    let output = folder.run(&["run", "model.onnx", "--random", "1"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("cpu:0 -> host: 1 value"));
}

#[test]
fn pins_are_kept_or_refused() {
    let folder = Folder::new("pins");
    let output = folder.run(&["plan", "model.onnx", "--place", "Mul=cpu:0,Cnov*=cpu:0"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("'Cnov*'") && !said.contains("'Mul'"), "{said}");
    for (place, word) in [("Mul=tpu:0", "tpu:0"), ("scale=tpu:0", "'scale' (Mul)"), ("Mul", "PATTERN=DEVICE")] {
        let (code, said) = folder.fails(&["run", "model.onnx", "--random", "1", "--place", place]);
        assert!(code == 2 && said.contains(word), "{place}: {said}");
    }
}

#[test]
fn injected_faults_end_in_reports() {
    let folder = Folder::new("faults");
    let base = ["run", "model.onnx", "--random", "1", "--repeat", "5", "--inject"];
    for (fault, words) in [
        ("cpu:0=lose:3", ["device lost", "no other device can take over"]),
        ("cpu:0=lose-running:0", ["device lost", "no other device can take over"]),
        ("cpu:0=memory:0", ["out of memory", "injected"]),
        ("cpu:0=compile:0", ["compilation failed", "scale"]),
    ] {
        let (code, said) = folder.fails(&[&base[..], &[fault]].concat());
        // Reports are wrapped.
        let said = said.replace(['\n', '│'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == 1 && said.contains("cpu:0") && words.iter().all(|word| said.contains(word)), "{fault}: {said}");
    }
    assert!(folder.run(&[&base[..], &["cpu:0=lose:5"]].concat()).status.success());
    assert_eq!(folder.fails(&[&base[..], &["tpu:0=lose:5"]].concat()).0, 2);
}

/// The command line with a folder for caches of its own, in which no verdict is kept yet.
fn examined(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
    command.args(arguments).current_dir(&folder.0).env("HETERO_PROFILE", "profile.json");
    command.env("XDG_CACHE_HOME", folder.0.join("caches")).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), unwrapped(&said))
}

#[test]
fn a_driver_that_lies_or_crashes_is_not_used_and_the_report_says_why() {
    let folder = Folder::new("examined");
    let run = |fault: &'static str, more: &[&'static str]| {
        [&["run", "model.onnx", "--random", "1", "--inject", fault][..], more].concat()
    };
    let crash = if cfg!(unix) { "signal 6 (SIGABRT) at: Relu" } else { "it ended the process" };
    for (fault, words) in [
        ("cpu:0=wrong", "wrong results: Relu: normalised error"),
        ("cpu:0=crash-compile", crash),
        ("cpu:0=crash-run", crash),
    ] {
        // The second time, the verdict is taken from the folder.
        for device in ["cpu:0", "cpu:0!", "cpu:0"] {
            let (code, said) = examined(&folder, &run(fault, &["--device", device]), &[]);
            assert!(code == 1 && said.contains(words) && said.contains("use another device"), "{fault}: {said}");
        }
    }
    // One that nobody named drops out, and so does one that is preferred.
    for more in [&[][..], &["--device", "cpu:0?"]] {
        let (code, said) = examined(&folder, &run("cpu:0=wrong", more), &[]);
        assert!(code == 1 && said.contains("there is no device: cpu:0 is not used: not to be trusted"), "{said}");
    }
    // Faults that are events do not disturb the examination, and nobody has to have it.
    assert_eq!(examined(&folder, &run("cpu:0=lose:900", &[]), &[]).0, 0);
    assert_eq!(examined(&folder, &run("cpu:0=wrong", &["--unexamined"]), &[]).0, 0);
    assert_eq!(examined(&folder, &run("cpu:0=wrong", &[]), &[("HETERO_EXAMINE", "off")]).0, 0);
    // Without a folder that can be written, each process examines.
    std::fs::write(folder.0.join("file"), "").unwrap();
    let file = folder.0.join("file");
    let (code, said) = examined(&folder, &run("cpu:0=wrong", &[]), &[("XDG_CACHE_HOME", file.to_str().unwrap())]);
    assert!(code == 1 && said.contains("wrong results"), "{said}");
    let (code, said) = examined(&folder, &run("cpu:0=wrong", &[]), &[("XDG_CACHE_HOME", ""), ("HOME", "")]);
    assert!(code == 1 && said.contains("wrong results"), "{said}");
}

#[test]
fn the_process_that_examines_is_for_programs_and_not_for_people() {
    let folder = Folder::new("examiner");
    assert_eq!(examined(&folder, &["examine"], &[]).0, 2);
    assert_eq!(examined(&folder, &["examine"], &[("HETERO_EXAMINING", "{}")]).0, 2);
    let (code, said) = examined(&folder, &["--help"], &[]);
    assert!(code == 0 && !said.contains("examine "), "{said}");
    let (code, said) = examined(&folder, &["check", "--compatibility", "--json"], &[]);
    assert!(code == 0 && said.contains("examination"), "{said}");
}

#[test]
fn devices_are_required_preferred_or_allowed() {
    let folder = Folder::new("policies");
    let base = ["run", "model.onnx", "--random", "1", "--repeat", "5"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    let (code, said) = folder.fails(&with(&["--device", "cpu:0", "--device", "tpu:0!"]));
    assert!(code == 2 && unwrapped(&said).contains("'tpu:0': it is required, and no driver 'tpu'"), "{said}");
    let output = folder.run(&with(&["--device", "cpu:0", "--device", "tpu:0?"]));
    let (said, shown) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success() && said.contains("tpu:0 is not used: no driver 'tpu'"), "{said}");
    assert!(shown.contains("placement: cpu:0 100 % of 1 node, 100 % of the estimated time, 100 % of bytes"), "{shown}");
    let report = folder.json(&with(&["--device", "cpu:0!", "--device", "tpu:0?", "--json"]));
    assert!(report["notes"][0].as_str().unwrap().contains("tpu:0 is not used"), "{report}");
    assert_eq!((&report["shares"][0]["device"], &report["shares"][0]["of_nodes"]), (&"cpu:0".into(), &1.0.into()));
    for how in [&["--stream", "8"][..], &[]] {
        let arguments = ["run", "model.onnx", "--random", "1", "--device", "cpu:0!", "--inject", "cpu:0=lose:0"];
        let (code, said) = folder.fails(&[&arguments[..], how].concat());
        let said = unwrapped(&said);
        assert!(code == 1 && said.contains("it is required, so no other device takes over"), "{how:?}: {said}");
    }
    std::fs::write(folder.0.join("c.yaml"), "devices: { \"cpu:0\": require, \"tpu:0\": prefer }\n").unwrap();
    let report = folder.json(&with(&["--config", "c.yaml", "--json"]));
    assert!(report["notes"][0].as_str().unwrap().contains("tpu:0 is not used"), "{report}");
    std::fs::write(folder.0.join("d.yaml"), "devices:\n  \"cpu:0\": always\n").unwrap();
    let (code, said) = folder.fails(&with(&["--config", "d.yaml"]));
    assert!(code == 2 && unwrapped(&said).contains("write require, prefer or allow"), "{said}");
    let help = folder.run(&["run", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("`fpga:0!` requires it") && help.contains("`wgpu:0?` prefers it"), "{help}");
}

#[test]
fn the_time_of_planning_is_told_step_by_step() {
    let folder = Folder::new("timing");
    let report = folder.json(&["plan", "model.onnx", "--device", "cpu:0", "--timing", "--json"]);
    for step in ["bind", "passes", "divide"] {
        assert!(report[step]["least_ms"].as_f64().unwrap() <= report[step]["first_ms"].as_f64().unwrap(), "{report}");
    }
    assert!(report["session_ms"].is_number() && report["nodes"] == 1);
}

#[test]
fn a_plan_explains_itself() {
    let folder = Folder::new("explain");
    let arguments = ["plan", "model.onnx", "--device", "cpu:0", "--explain", "--html", "p.html", "--dot", "p.dot"];
    let output = folder.run(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in ["no plan takes less than", "partition 0 on cpu:0 (scale)", "critical path", "holds 12 B"] {
        assert!(said.contains(expected), "{said}");
    }
    let read = |name: &str| std::fs::read_to_string(folder.0.join(name)).unwrap();
    assert!(read("p.html").contains("<svg") && read("p.dot").starts_with("digraph \"model.onnx\""));
    let output = folder.run(&["plan", "model.onnx", "--device", "cpu:0", "--explain", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["partitions"][0]["device"], "cpu:0");
    assert_eq!(said["critical_path"][0]["partition"]["partition"], 0);
}

#[test]
fn a_calibration_is_kept_and_planned_with() {
    let folder = Folder::new("calibrate");
    let arguments = ["plan", "model.onnx", "--device", "cpu:0"];
    assert!(folder.run(&arguments).stderr.is_empty(), "there is no profile yet");
    let report = folder.json(&["calibrate", "--device", "cpu:0", "--threads", "1", "--seconds", "1", "--json"]);
    let device = &report["devices"][0];
    assert!(device["id"] == "cpu:0" && device["submission"]["median"].is_number());
    assert!(!device["operators"].as_array().unwrap().is_empty());
    // The CPU takes everything, but a second may not suffice for it.
    for absent in device["absent"].as_array().unwrap() {
        assert!(absent["reason"].as_str().unwrap().contains("no time was left"), "{absent}");
    }
    assert!(report["links"].as_array().unwrap().iter().any(|link| link["transport"] == "zero-copy"));
    let written = std::fs::read_to_string(folder.0.join("profile.json")).unwrap();
    let said = |arguments: &[&str]| String::from_utf8(folder.run(arguments).stderr).unwrap();
    let date = report["created"].as_str().unwrap();
    assert!(said(&arguments).contains(&format!("planning with the profile of {date}\n")), "{}", said(&arguments));
    // A model's nodes are added to the profile, and then checked.
    let report =
        folder.json(&["calibrate", "model.onnx", "--device", "cpu:0", "--threads", "1", "--seconds", "1", "--json"]);
    assert!(report["devices"][0]["nodes"][0]["signature"].as_str().unwrap().starts_with("Mul "));
    assert_eq!(report["devices"][0]["operators"], device["operators"]);
    let checked = ["calibrate", "--check", "model.onnx", "--device", "cpu:0", "--seconds", "1", "--json"];
    let report = folder.json(&checked);
    assert_eq!((&report["checks"][0]["operators"], &report["checks"][0]["device"]), (&1.into(), &"cpu:0".into()));
    assert!(report["medians"][0]["known"].as_f64().unwrap().is_finite());
    assert_eq!(folder.fails(&["calibrate", "--check"]).0, 2);
    let version = device["driver_version"].as_str().unwrap();
    std::fs::write(folder.0.join("other.json"), written.replace(&format!("\"{version}\""), "\"none\"")).unwrap();
    let other = ["run", "model.onnx", "--random", "1", "--profile", "other.json"];
    assert!(said(&other).contains("not for cpu:0: measured with driver version 'none'"), "{}", said(&other));
    std::fs::write(folder.0.join("profile.json"), &written[..written.len() / 2]).unwrap();
    let damaged = said(&arguments);
    assert!(damaged.contains("is no profile") && damaged.contains("delete the file"), "{damaged}");
    assert_eq!(folder.fails(&["run", "model.onnx", "--random", "1", "--profile", "absent.json"]).0, 1);
}

/// Puts a network into the folder, and tells whether there is an OpenCL device to run it on.
/// There has to be one where drivers are required.
#[cfg(feature = "opencl")]
fn digits_for_opencl(folder: &Folder) -> bool {
    let drivers = folder.json(&["check", "--compatibility", "--json"]);
    let usable = drivers["drivers"]
        .as_array()
        .unwrap()
        .iter()
        .any(|driver| driver["driver"] == "opencl" && driver["usable"] == true);
    if !usable {
        assert!(std::env::var("HETERO_REQUIRE_DRIVERS").as_deref() != Ok("1"), "{drivers}");
        eprintln!("skipped: there is no OpenCL device");
    }
    std::fs::write(folder.0.join("digits.onnx"), include_bytes!("../demo/digits.onnx")).unwrap();
    usable
}

/// With several devices, a check runs whole plans too: each device alone, the engine's own plan,
/// and cuts, which depend on the seed.
#[test]
#[cfg(feature = "opencl")]
fn a_check_runs_whole_plans() {
    let folder = Folder::new("plans");
    if !digits_for_opencl(&folder) {
        return;
    }
    let both = ["--device", "cpu:0", "--device", "opencl:0", "--seconds", "1", "--json"];
    folder.json(&[&["calibrate", "digits.onnx"][..], &both].concat());
    let check = |seed: &str| {
        let arguments = ["calibrate", "--check", "digits.onnx", "--cuts", "3", "--seed", seed];
        folder.json(&[&arguments[..], &both].concat())
    };
    let report = check("5");
    let plans = report["plans"][0]["plans"].as_array().unwrap();
    let names: Vec<&str> = plans.iter().map(|plan| plan["plan"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpu:0 alone", "opencl:0 alone", "planned", "cut 1", "cut 2", "cut 3"]);
    for plan in plans {
        assert!(plan["predicted"].as_f64().unwrap() > 0.0 && plan["measured"].as_f64().unwrap() > 0.0, "{plan}");
    }
    assert!(plans[3..].iter().any(|plan| plan["devices"].as_array().unwrap().len() == 2), "{plans:?}");
    assert!(report["plans"][0]["best_alone"]["ratio"].as_f64().unwrap() > 0.0);
    let cuts = |report: &serde_json::Value| -> Vec<u64> {
        report["plans"][0]["plans"].as_array().unwrap()[3..]
            .iter()
            .map(|plan| plan["partitions"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(cuts(&report), cuts(&check("5")));
}

/// A whole network goes on without the OpenCL device that it is planned on.
#[test]
#[cfg(feature = "opencl")]
fn a_network_goes_on_without_a_lost_device() {
    let folder = Folder::new("lost");
    if !digits_for_opencl(&folder) {
        return;
    }
    let base = ["run", "digits.onnx", "--random", "1", "--repeat", "4", "--device", "cpu:0", "--device", "opencl:0"];
    let pinned = [&base[..], &["--place", "Conv*=opencl:0"]].concat();
    let whole = folder.json(&[&pinned[..], &["--json"]].concat());
    assert!(whole["placement"].as_object().unwrap().values().any(|device| device == "opencl:0"), "{whole}");
    for fault in ["opencl:0=lose:1", "opencl:0=lose-running:1"] {
        // Without a pin, the network may be planned without the device, whose fault then never
        // comes.
        let report = folder.json(&[&pinned[..], &["--inject", fault, "--json"]].concat());
        let moved = report["moved"][0].as_str().unwrap_or_default();
        assert!(moved.contains("opencl:0 moved to cpu:0") && moved.contains("injected"), "{fault}: {report}");
        assert!(report["placement"].as_object().unwrap().values().all(|device| device == "cpu:0"), "{report}");
    }
}

/// The dynamic linker of the GNU C library tells which libraries it is asked for.
#[test]
#[cfg(all(feature = "opencl", feature = "wgpu", target_os = "linux", target_env = "gnu"))]
fn a_plain_run_loads_no_driver_that_it_cannot_use() {
    let folder = Folder::new("plain");
    let asked_for = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
        command.args(arguments).current_dir(&folder.0).env("HETERO_PROFILE", "profile.json").env("LD_DEBUG", "libs");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        ["libOpenCL", "libvulkan"].map(|library| said.contains(&format!("find library={library}")))
    };
    assert_eq!(asked_for(&["devices"]), [true, true], "`hetero devices` asks every driver");
    let run = ["run", "model.onnx", "--random", "1"];
    assert_eq!(asked_for(&[&run[..], &["--device", "cpu:0"]].concat()), [false, false]);
    let chips = hetero::builtin_drivers().iter().any(|driver| driver.name() == "opencl" && driver.may_have_chips());
    assert_eq!(asked_for(&run), [chips, chips]);
}

/// A machine without OpenCL's loader, and one with a loader that knows no driver, are told what is
/// missing and how to get it.
#[test]
#[cfg(all(feature = "opencl", feature = "fpga", target_os = "linux"))]
fn a_bare_machine_is_told_what_is_missing() {
    let folder = Folder::new("bare");
    // This file is found before the system's loader, and is no loader: the dynamic linker then
    // looks no further.
    let (loader, vendors) = (folder.0.join("loader"), folder.0.join("vendors"));
    std::fs::create_dir_all(&loader).unwrap();
    std::fs::create_dir_all(&vendors).unwrap();
    std::fs::write(loader.join("libOpenCL.so.1"), [0; 4096]).unwrap();
    let cases =
        [("LD_LIBRARY_PATH", &loader, "ocl-icd-libopencl1"), ("OCL_ICD_VENDORS", &vendors, "PyPI: intel-opencl")];
    for (variable, value, package) in cases {
        let check = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
            command.args(["check", "--compatibility"]).args(arguments).env_remove("OPENCL_DYLIB_PATH");
            let output = command.current_dir(&folder.0).env(variable, value).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("panicked"), "{said}");
            output.stdout
        };
        let report: serde_json::Value = serde_json::from_slice(&check(&["--json"])).unwrap();
        let told = String::from_utf8(check(&[])).unwrap();
        let drivers = report["drivers"].as_array().unwrap();
        assert!(drivers.iter().any(|driver| driver["driver"] == "cpu" && driver["usable"] == true), "{report}");
        for name in ["opencl", "fpga"] {
            let driver = drivers.iter().find(|driver| driver["driver"] == name).unwrap();
            // A machine that was bare before has no loader in either case.
            let without_loader = driver["detail"].as_str().is_some_and(|detail| detail.contains("libOpenCL"));
            assert!(driver["usable"] == false && (without_loader || variable == "OCL_ICD_VENDORS"), "{driver}");
            let remedy = driver["remedy"].as_str().unwrap();
            assert!(without_loader && variable == "OCL_ICD_VENDORS" || remedy.contains(package), "{remedy}");
            assert!(remedy.contains("cargo xtask setup") && told.contains(remedy), "{told}");
        }
    }
}

#[test]
fn assign_reads_both_forms_and_says_what_is_wrong() {
    let folder = Folder::new("assign");
    let write = |name: &str, text: &str| std::fs::write(folder.0.join(name), text).unwrap();
    write("gap.txt", "2 3\n1 2 3\n4 5 6\n1 1 1\n2 2 2\n2 4\n");
    let result = folder.json(&["assign", "gap.txt", "--json"]);
    // Two jobs fit on the first device; the difference is 3 for each, so any one of them may go to
    // the second.
    assert_eq!((result["value"].as_f64(), result["bound"].as_f64()), (Some(9.0), Some(9.0)));
    assert_eq!(result["proved"], true);
    assert_eq!(result["devices"][0]["jobs"], 2);
    let result = folder.json(&["assign", "gap.txt", "--objective", "makespan", "--json"]);
    assert_eq!((result["objective"].as_str(), result["value"].as_f64()), (Some("makespan"), Some(5.0)));
    write("work.json", r#"{"work": [6, 3, 9], "speeds": [1, 3], "resources": [2, 3, 1], "budget": [4, 3]}"#);
    assert_eq!(folder.json(&["assign", "work.json", "--json"])["value"].as_f64(), Some(8.0));
    let said = folder.run(&["assign", "work.json"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("proven"));

    write("wrong.txt", "2 3\n1 2 x\n");
    let (code, said) = folder.fails(&["assign", "wrong.txt"]);
    assert!(code == 2 && said.contains("line 2, number 3"), "{code}: {said}");
    write("tight.json", r#"{"costs": [[1, 2], [2, 1]], "resources": [2, 2], "budget": 3}"#);
    let (code, said) = folder.fails(&["assign", "tight.json"]);
    assert!(code == 1 && said.contains("no assignment is possible"), "{code}: {said}");
    let (code, _) = folder.fails(&["assign", "tight.json", "--objective", "makespan"]);
    assert_eq!(code, 2);
    assert_eq!(folder.fails(&["assign", "nothing.txt"]).0, 1);
    assert_eq!(folder.fails(&["assign", "gap.txt", "--seconds", "-1"]).0, 2);
}
