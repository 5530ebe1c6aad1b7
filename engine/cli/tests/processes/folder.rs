//! A folder with a model whose results are known, and what may be found in the folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use hetero::hal::{DType, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{Model, Tensor};

use crate::started::Started;

/// The rows and the columns of the model's input.
const ROWS: usize = 16;
const COLUMNS: usize = 256;
/// How often the second output repeats the first one, so that writing it takes a while.
const REPEATS: usize = 512;
/// The number of products with a permutation, and of other nodes after each of them.
const PRODUCTS: usize = 40;
const OTHERS: usize = 20;

/// A folder that is removed when it is dropped.
/// In it are `m.onnx`, whose outputs `y` and `wide` are the input's columns in another order, and
/// the inputs `old.npy` and `new.npy`.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("hetero-processes-{name}-{}-{number}", std::process::id()));
        for part in ["", "home", "tmp"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let folder = Folder(folder.canonicalize().unwrap());
        hetero_onnx::write(&model(), folder.0.join("m.onnx")).unwrap();
        for (name, first) in [("old", 0), ("new", 1)] {
            std::fs::write(folder.0.join(name).with_extension("npy"), npy(&[ROWS, COLUMNS], &numbers(first))).unwrap();
        }
        folder
    }

    /// Returns a command of the binary that knows no folder of the user's but this one.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hetero"));
        command.args(arguments);
        self.surround(&mut command);
        command
    }

    /// Returns a command of the shell, in which `$HETERO` is the binary.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command.current_dir(&self.0).env("HETERO", env!("CARGO_BIN_EXE_hetero"));
        for variable in ["XDG_CACHE_HOME", "HETERO_PROFILE", "HETERO_EXAMINER", "HETERO_EXAMINE"] {
            command.env_remove(variable);
        }
        command.env("HOME", self.0.join("home")).env("TMPDIR", self.0.join("tmp"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Started::new(&mut self.command(arguments)).end()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.0.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns the names of what is in a folder, sorted; a folder that is not there has nothing.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Tells whether this is the name of a file that was being written.
pub(crate) fn is_draft(name: &str) -> bool {
    name.starts_with(".hetero-") && name.ends_with(".tmp")
}

/// Returns the elements of an input, which are whole numbers that f32 holds exactly.
fn numbers(first: usize) -> Vec<f32> {
    (0..ROWS * COLUMNS).map(|index| (first + index) as f32).collect()
}

/// Returns where a product of the model puts a column.
fn moved(column: usize, product: usize) -> usize {
    (column * 5 + product * 7 + 3) % COLUMNS
}

/// Returns the contents of the files of both outputs, by the definition of the model: `y` of the
/// input that begins with this number, and `wide`.
pub(crate) fn expected(first: usize) -> [(&'static str, Vec<u8>); 2] {
    let mut rows = numbers(first);
    for product in 0..PRODUCTS {
        let before = rows.clone();
        for (index, value) in before.into_iter().enumerate() {
            let (row, column) = (index / COLUMNS, index % COLUMNS);
            rows[row * COLUMNS + moved(column, product)] = value;
        }
    }
    [("y.npy", npy(&[ROWS, COLUMNS], &rows)), ("wide.npy", npy(&[ROWS * REPEATS, COLUMNS], &rows.repeat(REPEATS)))]
}

/// Returns a file of NumPy's format, version 1.
fn npy(shape: &[usize], elements: &[f32]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}");
    header += &" ".repeat(63 - (10 + header.len()) % 64);
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    elements.iter().for_each(|element| bytes.extend(element.to_le_bytes()));
    bytes
}

/// Returns the elements of a file of NumPy's format, whatever its header looks like.
pub(crate) fn elements(npy: &[u8]) -> &[u8] {
    assert!(npy.starts_with(b"\x93NUMPY\x01"), "no npy file");
    &npy[10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]))..]
}

/// Returns a model of products with permutations, of other nodes that change no positive number,
/// and of one that repeats the result.
fn model() -> Model {
    let shape = TensorType::exact(DType::F32, &[ROWS, COLUMNS]);
    let mut values = vec![Value { name: "x".into(), ty: shape, constant: None }];
    let mut nodes: Vec<Node> = vec![];
    let mut last = ValueId(0);
    let mut add = |values: &mut Vec<Value>, operator: &str, name: &str, inputs: Vec<ValueId>| {
        let output = ValueId(values.len() as u32);
        values.push(Value { name: name.into(), ..Value::default() });
        nodes.push(Node {
            name: format!("{operator}{}", nodes.len()).into(),
            operator: Operator::new(operator, 17),
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: vec![Some(output)],
        });
        output
    };
    let constant = |values: &mut Vec<Value>, tensor: Tensor| {
        let name = format!("w{}", values.len());
        let ty = TensorType::exact(tensor.dtype(), tensor.shape());
        values.push(Value { name: name.into(), ty, constant: Some(tensor) });
        ValueId(values.len() as u32 - 1)
    };
    for product in 0..PRODUCTS {
        for other in 0..OTHERS {
            let operator = if other % 2 == 0 { "Abs" } else { "Relu" };
            last = add(&mut values, operator, &format!("o{product}_{other}"), vec![last]);
        }
        let mut weights = vec![0.0f32; COLUMNS * COLUMNS];
        (0..COLUMNS).for_each(|column| weights[column * COLUMNS + moved(column, product)] = 1.0);
        let weights = constant(&mut values, Tensor::from_vec(&[COLUMNS, COLUMNS], weights).unwrap());
        let name = if product + 1 == PRODUCTS { "y".to_owned() } else { format!("p{product}") };
        last = add(&mut values, "MatMul", &name, vec![last, weights]);
    }
    let repeats = constant(&mut values, Tensor::from_vec(&[2], vec![REPEATS as i64, 1]).unwrap());
    let wide = add(&mut values, "Tile", "wide", vec![last, repeats]);
    let graph = Graph {
        name: "g".into(),
        values,
        nodes,
        inputs: vec![ValueId(0)],
        outputs: vec![last, wide],
        captures: vec![],
    };
    Model { graph, opsets: [("".into(), 17)].into(), ..Model::default() }
}
