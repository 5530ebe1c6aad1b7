//! Compiled programs are kept in a folder, taken from it, and checked before they are used.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use hetero::hal::{DType, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{Binding, DeviceOptions, HeteroEngine, Model, Tensor};

const WIDTH: usize = 96;

/// Makes `x * weight`, with a weight that `phase` decides.
fn model(phase: f32) -> Model {
    let weight = (0..WIDTH * WIDTH).map(|i| (i as f32 * 0.31 + phase).sin()).collect();
    let weight = Tensor::from_vec(&[WIDTH, WIDTH], weight).unwrap();
    let ty = TensorType::exact(DType::F32, &[WIDTH, WIDTH]);
    let graph = Graph {
        name: "product".into(),
        values: vec![
            Value { name: "x".into(), ty: ty.clone(), constant: None },
            Value { name: "weight".into(), ty, constant: Some(weight) },
            Value { name: "y".into(), ..Value::default() },
        ],
        nodes: vec![Node {
            name: "product".into(),
            operator: Operator::new("MatMul", 13),
            inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
            outputs: vec![Some(ValueId(2))],
        }],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(2)],
        captures: vec![],
    };
    Model { graph, opsets: [("".into(), 20)].into(), ..Model::default() }
}

/// Returns the output of the model on a new engine with a cache folder of at most `limit` bytes.
fn run(phase: f32, folder: Option<&Path>, limit: u64) -> Vec<f32> {
    let mut builder = HeteroEngine::builder().cache_limit(limit);
    if let Some(folder) = folder {
        builder = builder.cache(folder);
    }
    let mut engine = builder.build();
    engine.add_device("cpu:0", DeviceOptions { threads: Some(2), ..DeviceOptions::default() }).unwrap();
    let session = engine.session(&engine.analyze(&model(phase), &Binding::default()).unwrap()).unwrap();
    let x = (0..WIDTH * WIDTH).map(|i| (i as f32 * 0.17).cos()).collect();
    let outputs = session.run(&[("x", Tensor::from_vec(&[WIDTH, WIDTH], x).unwrap())]).unwrap();
    outputs.tensor("y").unwrap().view::<f32>().unwrap().into_owned()
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("hetero-cache-{name}-{}", std::process::id()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_dir(folder).map_or(vec![], |list| list.map(|entry| entry.unwrap().path()).collect());
    list.into_iter().filter(|path| path.is_file()).collect()
}

#[test]
fn a_second_engine_takes_what_the_first_has_left_and_damage_changes_no_result() {
    let folder = folder("damage");
    let expected = run(0.0, None, u64::MAX);
    assert_eq!(run(0.0, Some(&folder), u64::MAX), expected);
    let [path] = &files(&folder)[..] else { panic!("{:?}", files(&folder)) };
    let written = std::fs::read(path).unwrap();
    assert!(written.len() >= 4 * WIDTH * WIDTH);
    let modified = || std::fs::metadata(path).unwrap().modified().unwrap();
    let then = modified();
    assert_eq!(run(0.0, Some(&folder), u64::MAX), expected);
    assert_eq!((files(&folder).len(), modified()), (1, then), "what is there is not written again");
    let changes: [&dyn Fn() -> Vec<u8>; 4] =
        [&Vec::new, &|| written[..written.len() / 2].to_vec(), &|| written.iter().map(|byte| !byte).collect(), &|| {
            written.iter().enumerate().map(|(at, byte)| if at > 300 && at % 97 == 0 { !byte } else { *byte }).collect()
        }];
    for change in changes {
        std::fs::write(path, change()).unwrap();
        assert_eq!(run(0.0, Some(&folder), u64::MAX), expected);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_no_error() {
    let folder = folder("file");
    std::fs::write(&folder, "in the way").unwrap();
    assert_eq!(run(0.0, Some(&folder), u64::MAX), run(0.0, None, u64::MAX));
    std::fs::remove_file(&folder).unwrap();
}

#[test]
fn the_folder_stays_within_its_limit_and_strangers_are_left_alone() {
    let folder = folder("limit");
    std::fs::create_dir_all(&folder).unwrap();
    let stranger = folder.join("notes.txt");
    std::fs::write(&stranger, vec![0; 1 << 20]).unwrap();
    // There is room for two of these programs.
    let limit = 10 * (WIDTH * WIDTH) as u64;
    let mut last = vec![];
    for phase in 0..4 {
        run(phase as f32, Some(&folder), limit);
        let mut kept = files(&folder);
        kept.retain(|path| *path != stranger);
        let total: u64 = kept.iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(total <= limit && !kept.is_empty(), "{total} bytes in {kept:?}");
        assert!(kept.iter().any(|path| !last.contains(path)), "the newest is there");
        last = kept;
    }
    run(9.0, Some(&folder), 100);
    assert!(files(&folder).contains(&stranger));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[cfg(unix)]
fn an_entry_that_is_no_file_counts_as_absent() {
    let folder = folder("kinds");
    let _ = std::fs::remove_dir_all(&folder);
    let expected = run(1.0, Some(&folder), u64::MAX);
    let entry = files(&folder).pop().unwrap();
    for make in ["mkfifo", "ln -s /dev/zero", "mkdir"] {
        std::fs::remove_file(&entry).unwrap();
        let line = format!("{make} \"$0\"");
        assert!(std::process::Command::new("sh").args(["-c", &line]).arg(&entry).status().unwrap().success());
        let (done, outcome) = std::sync::mpsc::channel();
        let cache = folder.clone();
        std::thread::spawn(move || done.send(run(1.0, Some(&cache), u64::MAX)));
        assert_eq!(outcome.recv_timeout(std::time::Duration::from_secs(120)).unwrap(), expected, "{make}");
        if entry.is_dir() {
            break;
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}
