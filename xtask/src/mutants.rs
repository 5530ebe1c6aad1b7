//! Mistakes made on purpose: each in one operator, each has to be noticed by the conformance tests.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::workspace::{Result, Workspace, run, succeeds};

/// One mistake: the operator, its file, what stands there once, and what is put in its place.
struct Mutant {
    operator: &'static str,
    file: &'static str,
    original: &'static str,
    mistake: &'static str,
}

const fn mutant(operator: &'static str, file: &'static str, original: &'static str, mistake: &'static str) -> Mutant {
    Mutant { operator, file, original, mistake }
}

const MUTANTS: [Mutant; 20] = [
    mutant("Attention", "hal/reference/src/attention.rs", "j > i + past", "j >= i + past"),
    mutant("Clip", "hal/reference/src/select.rs", "if x > high { high }", "if x < high { high }"),
    mutant("ConvInteger", "hal/reference/src/conv.rs", "*value -= zeros[", "*value += zeros["),
    mutant("DynamicQuantizeLinear", "hal/reference/src/quantize.rs", "(high - low) / 255.0", "(high - low) / 256.0"),
    mutant("LogSoftmax", "hal/reference/src/softmax.rs", "- largest - sum.ln()", "- largest + sum.ln()"),
    mutant("MaxPool", "hal/reference/src/pool.rs", "if !column_major {", "if column_major {"),
    mutant("NonMaxSuppression", "hal/reference/src/detection.rs", "kept.len() >= most", "kept.len() > most"),
    mutant("RNN", "hal/reference/src/recurrent.rs", "(a * x + b).clamp(0.0, 1.0)", "(a * x - b).clamp(0.0, 1.0)"),
    mutant(
        "Max",
        "hal/reference/src/binary.rs",
        "if a.is_nan() || b.is_nan() { f64::NAN }",
        "if a.is_nan() && b.is_nan() { f64::NAN }",
    ),
    mutant("Trilu", "hal/reference/src/slicing.rs", "if upper { distance >= k }", "if upper { distance > k }"),
    mutant("AveragePool", "backends/cpu/src/kernels/pool.rs", "|&tap| tap < limit", "|&tap| tap <= limit"),
    mutant(
        "Conv",
        "backends/cpu/src/kernels/conv.rs",
        ".saturating_sub(shift).div_ceil(g.strides[1]).min(g.output[1])",
        ".saturating_sub(shift).div_ceil(g.strides[1]).saturating_sub(1).min(g.output[1])",
    ),
    mutant(
        "GlobalAveragePool",
        "backends/cpu/src/kernels/pool.rs",
        "/ plane.len() as f32",
        "/ (plane.len() + 1) as f32",
    ),
    mutant("LRN", "backends/cpu/src/kernels/normalize.rs", "(self.size - 1) / 2", "self.size / 2"),
    mutant("LSTM", "backends/cpu/src/kernels/lstm.rs", "sigmoid(gate(2)) * c[at]", "sigmoid(gate(1)) * c[at]"),
    mutant("Min", "backends/cpu/src/kernels/elementwise.rs", "else { a.min(b) }", "else { a.max(b) }"),
    mutant(
        "Max",
        "backends/cpu/src/kernels/elementwise.rs",
        "if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }",
        "if a.is_nan() && b.is_nan() { f32::NAN } else { a.max(b) }",
    ),
    mutant("PRelu", "backends/cpu/src/kernels/elementwise.rs", "{ slope * x }", "{ slope + x }"),
    mutant("Sigmoid", "backends/cpu/src/kernels/elementwise.rs", "{ 1.0 / (1.0 + e) }", "{ e / (1.0 + e) }"),
    mutant("Transpose", "backends/cpu/src/kernels/movement.rs", "if step == 1 {", "if step >= 1 {"),
];

/// The tests that have to notice.
const TESTS: [&str; 9] =
    ["test", "--quiet", "--package", "hetero-conformance", "--test", "standard", "--test", "cpu", "--no-fail-fast"];

/// Makes each mistake in a copy of the sources and runs the conformance tests on it.
pub(crate) fn mutants(workspace: &Workspace) -> Result<()> {
    crate::setup::setup(workspace)?;
    crate::setup::models(workspace, &["onnx".to_owned()])?;
    let copy = workspace.root.join("target").join("mutants");
    let said = |what: &str, path: &Path, error: std::io::Error| format!("cannot {what} {}: {error}", path.display());
    if copy.exists() {
        std::fs::remove_dir_all(&copy).map_err(|error| said("remove", &copy, error))?;
    }
    std::fs::create_dir_all(&copy).map_err(|error| said("make", &copy, error))?;
    // What git tracks or would track, and nothing that was built.
    let list = "git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents -t target/mutants --";
    workspace.run("sh", &["-c", list])?;
    let here = Workspace { root: copy.clone(), cache: workspace.cache.clone() };
    let target = workspace.root.join("target").join("mutants-build");
    let command = |arguments: &[&str]| {
        let mut command = here.command("cargo", arguments);
        command.env("CARGO_TARGET_DIR", &target);
        command
    };
    run(&mut command(&TESTS)).map_err(|error| format!("the sources without a mistake: {error}"))?;
    if !agrees(&here, command(&["run", "--quiet", "--package", "hetero-cli", "--"])) {
        return Err("the sources without a mistake: ONNX Runtime does not agree; see `cargo xtask test oracle`".into());
    }
    let mut alive = Vec::new();
    for Mutant { operator, file, original, mistake } in MUTANTS {
        let path = copy.join(file);
        let source = std::fs::read_to_string(&path).map_err(|error| said("read", &path, error))?;
        if source.matches(original).count() != 1 {
            return Err(format!("{operator}: '{original}' does not stand once in {file}"));
        }
        std::fs::write(&path, source.replace(original, mistake)).map_err(|error| said("write", &path, error))?;
        let began = Instant::now();
        if !succeeds(&mut command(&[&TESTS[..], &["--no-run"]].concat())) {
            return Err(format!("{operator}: '{mistake}' does not compile"));
        }
        // Where the standard's cases and the CPU's kernels do not notice, ONNX Runtime has to.
        let by = if !succeeds(&mut command(&TESTS)) {
            Some("tests")
        } else if !agrees(&here, command(&["run", "--quiet", "--package", "hetero-cli", "--"])) {
            Some("ONNX Runtime")
        } else {
            None
        };
        std::fs::write(&path, source).map_err(|error| said("write", &path, error))?;
        let verdict = by.map_or_else(|| "ALIVE".to_owned(), |by| format!("killed by {by}"));
        let seconds = began.elapsed().as_secs_f64();
        println!("{verdict:22} {seconds:5.1} s  {operator:22} {file}: {original}  ->  {mistake}");
        if by.is_none() {
            alive.push(operator);
        }
    }
    println!("{} mutants, {} killed", MUTANTS.len(), MUTANTS.len() - alive.len());
    if alive.is_empty() { Ok(()) } else { Err(format!("nobody noticed the mistakes in {}", alive.join(", "))) }
}

/// Does ONNX Runtime agree with the oracle on the generated cases that this command line writes?
fn agrees(workspace: &Workspace, mut hetero: Command) -> bool {
    let cases = workspace.root.join("target").join("cases");
    let exceptions = workspace.root.join("plugins/conformance/expected/onnxruntime-1.32.0.txt");
    let written = succeeds(hetero.args(["conformance", "save"]).arg(&cases));
    let mut compare = Command::new(workspace.python());
    written && succeeds(compare.arg(workspace.script("oracle.py")).arg(&cases).arg(&exceptions))
}
