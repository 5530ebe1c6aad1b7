//! Mistakes made on purpose, each in one operator; the conformance tests have to notice each of
//! them.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::workspace::{Result, Workspace, run, succeeds};

/// One mistake: the operator, its file, a text that stands there once, and the wrong text that
/// takes its place.
struct Mutant {
    operator: &'static str,
    file: &'static str,
    original: &'static str,
    mistake: &'static str,
}

const fn mutant(operator: &'static str, file: &'static str, original: &'static str, mistake: &'static str) -> Mutant {
    Mutant { operator, file, original, mistake }
}

const MUTANTS: [Mutant; 37] = [
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
    mutant("AveragePool", "backends/cpu/src/kernels/pooling.rs", "|&tap| tap < limit", "|&tap| tap <= limit"),
    mutant(
        "GlobalAveragePool",
        "backends/cpu/src/kernels/pooling.rs",
        "/ self.plane.len() as f32",
        "/ (self.plane.len() + 1) as f32",
    ),
    mutant("LRN", "backends/cpu/src/kernels/normalize.rs", "(self.size - 1) / 2", "self.size / 2"),
    mutant("LSTM", "backends/cpu/src/kernels/lstm.rs", "simd::sigmoid::<S>(gate(2))", "simd::sigmoid::<S>(gate(1))"),
    mutant("Min", "backends/cpu/src/kernels/vector.rs", "S::select_nan(a, S::min(a, b))", "S::min(a, b)"),
    mutant("Max", "backends/cpu/src/kernels/vector.rs", "S::select_nan(a, S::max(a, b))", "S::max(a, b)"),
    mutant(
        "PRelu",
        "backends/cpu/src/kernels/vector.rs",
        "S::select_lt(a, S::splat(0.0), S::mul(a, b), a)",
        "S::select_lt(a, S::splat(0.0), S::add(a, b), a)",
    ),
    mutant("Sigmoid", "backends/cpu/src/simd/math.rs", "exp::<S>(S::sub(S::splat(0.0), x))))", "exp::<S>(x)))"),
    mutant("Transpose", "backends/cpu/src/kernels/movement.rs", "if step == 1 {", "if step >= 1 {"),
    mutant(
        "Conv, plain",
        "backends/cpu/src/kernels/conv/plain.rs",
        "tap % g.kernel[1] * g.dilations[1]",
        "tap % g.kernel[1]",
    ),
    mutant(
        "Conv, blocked",
        "backends/cpu/src/kernels/conv/blocked.rs",
        "(halo.left - g.begin[1]) * lanes",
        "halo.left * lanes",
    ),
    mutant(
        "Conv, depthwise",
        "backends/cpu/src/kernels/conv/depthwise.rs",
        "g.begin[1] * lanes;",
        "g.begin[0] * lanes;",
    ),
    mutant("MatMul", "backends/cpu/src/kernels/matmul.rs", "keep || !first", "keep"),
    mutant(
        "chains",
        "backends/cpu/src/kernels/chain.rs",
        "if last || index != operation.into",
        "if index != operation.into",
    ),
    mutant(
        "per-channel factors",
        "backends/cpu/src/lower/survey.rs",
        "Some((ones(), negated(&constant)))",
        "Some((ones(), constant))",
    ),
    mutant(
        "GRU",
        "backends/cpu/src/kernels/gru.rs",
        "S::sub(before, candidate), candidate)",
        "S::sub(before, candidate), before)",
    ),
    mutant(
        "Gather",
        "backends/cpu/src/kernels/select.rs",
        "if value < 0 { value + size as i64 }",
        "if value <= 0 { value + size as i64 }",
    ),
    mutant("Resize", "backends/cpu/src/kernels/resize.rs", "(weight / 2.0) as f32", "weight as f32"),
    mutant(
        "ConvTranspose",
        "backends/cpu/src/kernels/transposed.rs",
        "tap_x * self.dilations[1] - self.begin[1]",
        "tap_x * self.dilations[1] - self.begin[0]",
    ),
    mutant(
        "Conv, minimal filtering",
        "backends/cpu/src/kernels/conv/winograd.rs",
        "of(A, difference, scaled(B, difference_b))",
        "of(A, difference, scaled(A, difference_b))",
    ),
    mutant(
        "Conv, plain depthwise",
        "backends/cpu/src/kernels/planes.rs",
        "((y + f.begin[0]) % f.strides[0],",
        "((y + f.begin[1]) % f.strides[0],",
    ),
    mutant(
        "Concat in place",
        "backends/cpu/src/arena.rs",
        "last_use.insert(own(form), step)",
        "last_use.insert(form, step)",
    ),
    mutant("Conv, pooled", "backends/cpu/src/kernels/conv/pooled.rs", "next = end;", "next = end + 1;"),
    mutant("Mod", "backends/cpu/src/kernels/numbers.rs", "rest != 0 && differs", "rest != 0"),
    mutant("ReduceMean", "backends/cpu/src/kernels/folds.rs", "move |sum| sum / count)", "move |sum| sum)"),
    mutant(
        "Cast to f16",
        "backends/cpu/src/simd/half.rs",
        "0x3800_0000 - 0xfff - ((size >> 13) & 1)",
        "0x3800_0000 - 0xfff",
    ),
    mutant("layouts", "backends/cpu/src/kernels/reorder.rs", "(0, row * pixels)", "(0, row * to.width)"),
];

/// The tests that have to notice the mistakes; the first that does is enough.
const TESTS: [&str; 12] = [
    "test",
    "--quiet",
    "--package",
    "hetero-conformance",
    "--package",
    "hetero-cpu",
    "--test",
    "standard",
    "--test",
    "cpu",
    "--test",
    "kernels",
];

/// Each mistake has these crates compiled again, so it matters more that this is quick than that
/// they are.
const QUICKLY: [&str; 4] = [
    "--config",
    "profile.dev.package.hetero-cpu.opt-level=1",
    "--config",
    "profile.dev.package.hetero-reference.opt-level=1",
];

/// Makes each mistake in a copy of the sources and runs the conformance tests on it.
pub(crate) fn mutants(workspace: &Workspace, names: &[String]) -> Result<()> {
    let wanted = |mutant: &Mutant| names.is_empty() || names.iter().any(|name| mutant.operator.contains(name.as_str()));
    let chosen: Vec<Mutant> = MUTANTS.into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Err(format!("no mistake is in an operator named {}", names.join(" or ")));
    }
    crate::setup::setup(workspace)?;
    crate::setup::models(workspace, &["onnx".to_owned()])?;
    let copy = workspace.root.join("target").join("mutants");
    let said = |what: &str, path: &Path, error: std::io::Error| format!("cannot {what} {}: {error}", path.display());
    if copy.exists() {
        std::fs::remove_dir_all(&copy).map_err(|error| said("remove", &copy, error))?;
    }
    std::fs::create_dir_all(&copy).map_err(|error| said("make", &copy, error))?;
    // The copy has the files that git tracks or would track, and nothing that was built.
    let list = "git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents -t target/mutants --";
    workspace.run("sh", &["-c", list])?;
    let here = Workspace { root: copy.clone(), cache: workspace.cache.clone() };
    let target = workspace.root.join("target").join("mutants-build");
    let command = |arguments: &[&str]| {
        let mut command = here.command("cargo", &[&QUICKLY[..], arguments].concat());
        command.env("CARGO_TARGET_DIR", &target);
        command
    };
    run(&mut command(&TESTS)).map_err(|error| format!("the sources without a mistake: {error}"))?;
    if !agrees(&here, command(&["run", "--quiet", "--package", "hetero-cli", "--"])) {
        return Err("the sources without a mistake: ONNX Runtime does not agree; see `cargo xtask test oracle`".into());
    }
    let mut alive = Vec::new();
    for &Mutant { operator, file, original, mistake } in &chosen {
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
    println!("{} mutants, {} killed", chosen.len(), chosen.len() - alive.len());
    if alive.is_empty() { Ok(()) } else { Err(format!("nobody noticed the mistakes in {}", alive.join(", "))) }
}

/// Tells whether ONNX Runtime agrees with the oracle on the generated cases that this command line
/// writes.
fn agrees(workspace: &Workspace, mut hetero: Command) -> bool {
    let cases = workspace.root.join("target").join("cases");
    let exceptions = workspace.root.join("plugins/conformance/expected/onnxruntime-1.32.0.txt");
    let written = succeeds(hetero.args(["conformance", "save"]).arg(&cases));
    let mut compare = Command::new(workspace.python());
    written && succeeds(compare.arg(workspace.script("oracle.py")).arg(&cases).arg(&exceptions))
}
