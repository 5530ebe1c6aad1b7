//! Tests of hostile files: what is no file, and files that change while or after they are read.

#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use hetero_hal::{Allowance, DType, Model};

use crate::hostile::{model, node, tensor};
use crate::proto::{StringStringEntryProto, tensor_proto::DataLocation};
use crate::{ReadOptions, Result, read, read_tensor, read_with, weigh};

/// A folder of a test's own, removed when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let folder = std::env::temp_dir().join(format!("hetero-onnx-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    /// Writes such a model with two floats at the beginning of each file.
    fn model(&self, name: &str, locations: &[&str]) -> PathBuf {
        let places: Vec<(&str, u64, u64)> = locations.iter().map(|&location| (location, 0, 8)).collect();
        self.model_of(name, &places)
    }

    /// Writes y = x + 1.5 with weights that nobody reads, each of so many bytes from one of a file.
    fn model_of(&self, name: &str, places: &[(&str, u64, u64)]) -> PathBuf {
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        let bytes = model(|_, g| {
            for (number, &(location, offset, length)) in places.iter().enumerate() {
                let mut weights = tensor(&format!("w{number}"), DType::F32, &[length as i64 / 4], vec![]);
                weights.raw_data = None;
                weights.data_location = Some(DataLocation::External as i32);
                let numbers = [("offset", offset), ("length", length)];
                weights.external_data = vec![entry("location", location.into())];
                weights.external_data.extend(numbers.map(|(key, number)| entry(key, number.to_string())));
                g.initializer.push(weights);
            }
            g.initializer.push(tensor("inside", DType::F32, &[2], [1.5f32.to_le_bytes(); 2].concat()));
            g.node = vec![node("Add", &["x", "inside"], &["y"])];
        });
        self.file(name, &bytes)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn weights(&self, name: &str) -> PathBuf {
        self.file(name, &[2.5f32.to_le_bytes(); 2].concat())
    }

    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns what a call says that must not hang.
fn says<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> String {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(call().map(|_| ()).unwrap_err().to_string()));
    outcome.recv_timeout(Duration::from_secs(60)).unwrap()
}

fn constants(model: &Model) -> Vec<Vec<f32>> {
    let constants = model.graph.values.iter().filter_map(|value| value.constant.as_ref());
    constants.map(|tensor| tensor.view::<f32>().unwrap().into_owned()).collect()
}

#[test]
fn what_is_no_file_ends_at_once() {
    let scratch = Scratch::new("kinds");
    for (path, word) in
        [(scratch.pipe("pipe"), "a pipe"), ("/dev/zero".into(), "a device"), (scratch.0.clone(), "a folder")]
    {
        let [first, second, third] = [path.clone(), path.clone(), path.clone()];
        let mapped = ReadOptions { map: true, ..ReadOptions::default() };
        for said in [says(|| read(first)), says(move || read_with(second, mapped)), says(|| read_tensor(third))] {
            assert!(said.contains(&format!("it is {word}")), "{said}");
        }
    }
    symlink("/dev/zero", scratch.0.join("zero")).unwrap();
    for (location, word) in [("pipe", "it is a pipe"), ("zero", "outside the model's folder"), ("/dev/zero", "outside")]
    {
        let path = scratch.model("m.onnx", &[location]);
        let said = says(|| read(path));
        assert!(said.contains(word) && said.contains("'w0'"), "{location}: {said}");
    }
}

#[test]
fn a_model_that_was_read_outlives_its_files() {
    let scratch = Scratch::new("outlive");
    let weights = scratch.weights("w.bin");
    let path = scratch.model("m.onnx", &["w.bin"]);
    let mapped = read_with(&path, ReadOptions { map: true, ..ReadOptions::default() }).unwrap();
    assert_eq!(constants(&mapped), [[2.5, 2.5], [1.5, 1.5]]);
    drop(mapped);
    let copied = read(&path).unwrap();
    for file in [&path, &weights] {
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
    }
    // Mapped weights would end the process here.
    assert_eq!(constants(&copied), [[2.5, 2.5], [1.5, 1.5]]);
}

/// Reads a model whose files and content take at most so many bytes together.
fn within(path: &Path, bytes: usize) -> Result<Model> {
    read_with(path, ReadOptions { map: false, count_files: true, allowance: Allowance::new(bytes) })
}

#[test]
fn files_beyond_the_bytes_that_the_caller_allows_are_refused_with_sizes() {
    let scratch = Scratch::new("most");
    scratch.weights("w.bin");
    let path = scratch.model("m.onnx", &["w.bin"]);
    let own = std::fs::metadata(&path).unwrap().len() as usize;
    let messages = weigh::model(&std::fs::read(&path).unwrap());
    assert!(within(&path, own + messages + 8).is_ok());
    let said = within(&path, own - 1).unwrap_err().to_string();
    assert!(said.contains(&format!("larger than {} bytes", own - 1)) && said.contains(&own.to_string()), "{said}");
    let said = within(&path, own + messages - 1).unwrap_err().to_string();
    assert!(said.contains("the work needs more memory than it may take"), "{said}");
    let said = within(&path, own + messages + 7).unwrap_err().to_string();
    assert!(said.contains("external data in 'w.bin'") && said.contains("8 bytes") && said.contains('7'), "{said}");
    // A message of protobuf has at most 2 GiB, and this file takes no room on the disk.
    let hole = scratch.file("hole.onnx", b"");
    std::fs::OpenOptions::new().write(true).open(&hole).unwrap().set_len(1 << 32).unwrap();
    for map in [false, true] {
        let said = read_with(&hole, ReadOptions { map, ..ReadOptions::default() }).unwrap_err().to_string();
        assert!(said.contains("larger than 2147483647 bytes") && said.contains("4294967296"), "{said}");
    }
}

#[test]
fn a_file_that_many_tensors_name_is_read_once() {
    let scratch = Scratch::new("once");
    scratch.weights("w.bin");
    symlink("w.bin", scratch.0.join("link.bin")).unwrap();
    let path = scratch.model("m.onnx", &["w.bin", "./w.bin", "././w.bin", "link.bin"]);
    let own = std::fs::read(&path).unwrap();
    let model = within(&path, own.len() + weigh::model(&own) + 8).unwrap();
    assert_eq!(constants(&model).len(), 5);
}

#[test]
fn what_no_tensor_names_of_a_file_is_not_read() {
    let scratch = Scratch::new("parts");
    // The file takes little room on the disk, and a fifth of it is named.
    let large = scratch.weights("w.bin");
    let bytes: u64 = 50 << 20;
    let file = std::fs::OpenOptions::new().write(true).open(&large).unwrap();
    file.set_len(bytes).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[2.5f32.to_le_bytes(); 2].concat(), bytes - 8).unwrap();
    let part = 5 << 20;
    let places =
        [("w.bin", bytes - 8, 8), ("w.bin", 0, part), ("w.bin", part + 64, part), ("w.bin", part / 2, 1 << 20)];
    let path = scratch.model_of("m.onnx", &places);
    let own = std::fs::read(&path).unwrap();
    let needed = own.len() + weigh::model(&own) + 2 * part as usize + 64 + 8;
    let model = within(&path, needed).unwrap();
    let constants = constants(&model);
    assert_eq!((&constants[0][..], &constants[1][..3]), (&[2.5, 2.5][..], &[2.5, 2.5, 0.0][..]));
    assert!(within(&path, needed - 1).unwrap_err().to_string().contains("external data in 'w.bin'"));
    let mapped = read_with(&path, ReadOptions { map: true, ..ReadOptions::default() }).unwrap();
    assert_eq!(self::constants(&mapped), constants);
}

#[test]
fn names_that_overlap_hold_a_file_twice_at_most() {
    let scratch = Scratch::new("overlap");
    let content: Vec<u8> = (0..1000u32).flat_map(|number| (number as f32).to_le_bytes()).collect();
    scratch.file("w.bin", &content);
    let names: Vec<String> = (0..500).map(|number| format!("{}w.bin", "./".repeat(number))).collect();
    let places: Vec<(&str, u64, u64)> =
        names.iter().enumerate().map(|(number, name)| (&name[..], 4 * number as u64, 2000)).collect();
    let path = scratch.model_of("m.onnx", &places);
    let own = std::fs::read(&path).unwrap();
    let model = within(&path, own.len() + weigh::model(&own) + 2 * content.len()).unwrap();
    for (number, weights) in constants(&model).iter().take(500).enumerate() {
        assert_eq!((weights.len(), weights[0], weights[499]), (500, number as f32, (number + 499) as f32));
    }
}

/// Downloads are kept like this: a folder of links, and the files that these lead to in another.
#[test]
fn a_model_in_a_cache_of_downloads_has_its_external_data() {
    let scratch = Scratch::new("downloads");
    let whole = scratch.model("blobs/1", &["m.onnx_data"]);
    scratch.weights("blobs/2");
    scratch.weights("secret");
    let snapshot = scratch.0.join("snapshots/1");
    std::fs::create_dir_all(&snapshot).unwrap();
    symlink("../../blobs/1", snapshot.join("m.onnx")).unwrap();
    let data = snapshot.join("m.onnx_data");
    symlink("../../blobs/2", &data).unwrap();
    assert_eq!(constants(&read(snapshot.join("m.onnx")).unwrap()), [[2.5, 2.5], [1.5, 1.5]]);
    std::fs::remove_file(&data).unwrap();
    symlink("../../secret", &data).unwrap();
    let said = read(snapshot.join("m.onnx")).unwrap_err().to_string();
    assert!(said.contains("outside the model's folder"), "{said}");
    // Under its own name the model has no such data.
    assert!(read(whole).unwrap_err().to_string().contains("cannot open"));
}

#[test]
fn a_model_is_written_whole_or_not_at_all() {
    let scratch = Scratch::new("write");
    let model = read(scratch.model("m.onnx", &[])).unwrap();
    assert_eq!(crate::write(&model, Path::new("/dev/full")).unwrap_err().to_string().matches("/dev/full").count(), 1);
    crate::write(&model, scratch.0.join("again.onnx")).unwrap();
    assert_eq!(read(scratch.0.join("again.onnx")).unwrap().graph, model.graph);
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 2);
}
