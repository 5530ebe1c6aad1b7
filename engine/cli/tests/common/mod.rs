//! What the tests of the binary share.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::PathBuf;
use std::process::{Command, Output};

use hetero::hal::{DType, Dim, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{Model, Tensor};

/// A folder that is removed when it is dropped, with a model of y = x * w for any batch of rows of
/// three.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hetero-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let dims = vec![Dim::Symbol("batch".into()), Dim::Known(3)];
        let constant = Tensor::from_vec(&[3], vec![1.0f32, 10.0, 100.0]).unwrap();
        let node = Node {
            name: "scale".into(),
            operator: Operator::new("Mul", 17),
            inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
            outputs: vec![Some(ValueId(2))],
        };
        let graph = Graph {
            name: "scale".into(),
            values: vec![
                Value { name: "x:0".into(), ty: TensorType::new(DType::F32, dims), constant: None },
                Value { name: "w".into(), ty: TensorType::exact(DType::F32, &[3]), constant: Some(constant) },
                Value { name: "out/y".into(), ..Value::default() },
            ],
            nodes: vec![node],
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(2)],
            captures: vec![],
        };
        let mut other = graph.clone();
        other.nodes[0].operator = Operator::new("Frobnicate", 17);
        for (name, graph) in [("model.onnx", graph), ("missing.onnx", other)] {
            let model = Model { graph, opsets: [("".into(), 17)].into(), ..Model::default() };
            hetero_onnx::write(&model, folder.join(name)).unwrap();
        }
        Folder(folder)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
        // The tests use a profile of their own, not the user's.
        command.args(arguments).current_dir(&self.0).env("HETERO_PROFILE", "profile.json").output().unwrap()
    }

    /// Returns the exit code and the standard error.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("RUST_BACKTRACE") && !said.contains("panicked"), "{said}");
        (output.status.code().unwrap(), said)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns a report without the breaks of its lines.
pub(crate) fn unwrapped(said: &str) -> String {
    said.replace(['\n', '│'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}
