//! The steps that compare operators, one by one, with what they mean: on each device, and the
//! oracle itself with ONNX Runtime.

use super::{devices, lint, together};
use crate::setup;
use crate::workspace::{Result, Workspace};

/// Runs generated cases on every device, then the standard's own cases on the CPU, through the
/// command line.
/// On devices other than the CPU one generated case in `every` is run.
pub(crate) fn conformance(workspace: &Workspace, every: u32) -> Result<()> {
    let package = setup::models(workspace, &["onnx".to_owned()]);
    let hetero = workspace.tested_hetero()?;
    let data = workspace.cache.join("onnx-1.22.0/onnx/backend/test/data");
    let standard = |data: &str| workspace.run(&hetero, &["conformance", "onnx", data]);
    together([
        ("generated cases", devices::conformance(workspace, &hetero, every)),
        ("the standard's cases", package.and_then(|()| standard(&data.to_string_lossy()))),
        ("docs/operators.md", lint::operators_are_new(workspace)),
    ])
}

/// Compares ONNX Runtime with the oracle on generated cases.
pub(crate) fn oracle(workspace: &Workspace, seed: u64) -> Result<()> {
    setup::python(workspace)?;
    let hetero = workspace.tested_hetero()?;
    let cases = workspace.cache.join(format!("generated-cases-{seed}"));
    // Cases of an older generator would be compared too.
    if cases.exists() {
        std::fs::remove_dir_all(&cases).map_err(|error| format!("cannot remove {}: {error}", cases.display()))?;
    }
    let (folder, seed) = (cases.to_string_lossy(), seed.to_string());
    workspace.run(&hetero, &["conformance", "save", &folder, "--seed", &seed])?;
    let exceptions = workspace.root.join("plugins/conformance/expected/onnxruntime-1.32.0.txt");
    let script = workspace.script("oracle.py");
    workspace.run(workspace.python(), &[&*script.to_string_lossy(), &*folder, &*exceptions.to_string_lossy()])
}
