//! The steps that run real models and compare them with ONNX Runtime, and generated cases with the
//! oracle.

use std::path::PathBuf;

use super::{lint, together};
use crate::devices::{self, Sample};
use crate::setup;
use crate::workspace::{Result, Workspace, drivers_required, run};

/// The models whose operators are compared one by one; the oracle takes too long for larger models.
const ONE_BY_ONE: [&str; 6] = ["silero", "magika", "open-nsfw", "shufflenet", "squeezenet", "resnet50"];

/// Runs generated cases on every device, then the standard's own cases on the CPU, through the
/// command line.
pub(crate) fn conformance(workspace: &Workspace, sample: &Sample) -> Result<()> {
    let package = setup::models(workspace, &["onnx".to_owned()]);
    let hetero = workspace.tested_hetero()?;
    let data = workspace.cache.join("onnx-1.22.0/onnx/backend/test/data");
    let standard = |data: &str| workspace.run(&hetero, &["conformance", "onnx", data]);
    together([
        ("generated cases", devices::conformance(workspace, &hetero, sample)),
        ("the standard's cases", package.and_then(|()| standard(&data.to_string_lossy()))),
        ("docs/operators.md", lint::operators_are_new(workspace)),
    ])
}

/// Compares ONNX Runtime with the oracle on generated cases.
pub(crate) fn oracle(workspace: &Workspace, seed: u64) -> Result<()> {
    setup::setup(workspace)?;
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

/// Returns the folder of references for a seed.
/// Its name changes with the script, so that no reference is stale.
fn references(workspace: &Workspace, seed: u64) -> Result<PathBuf> {
    let script = workspace.script("models.py");
    let text = std::fs::read(&script).map_err(|error| format!("cannot read {}: {error}", script.display()))?;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in text {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Ok(workspace.cache.join(format!("references-{:08x}-{seed}", hash as u32)))
}

/// Makes the references that are not there yet.
pub(super) fn prepare(workspace: &Workspace, seed: u64, names: &[String]) -> Result<PathBuf> {
    setup::setup(workspace)?;
    setup::models(workspace, &[])?;
    let folder = references(workspace, seed)?;
    let seed = seed.to_string();
    let (script, cache) = (workspace.script("models.py"), &workspace.cache);
    let (script, cache, out) = (script.to_string_lossy(), cache.to_string_lossy(), folder.to_string_lossy());
    let mut arguments = vec![&*script, &*cache, &*out, &*seed];
    arguments.extend(names.iter().map(String::as_str));
    workspace.run(workspace.python(), &arguments)?;
    Ok(folder)
}

pub(crate) fn models(workspace: &Workspace, seed: u64, names: &[String]) -> Result<()> {
    let hetero = workspace.tested_hetero()?;
    let folder = prepare(workspace, seed, names)?;
    let script = workspace.script("check.py");
    let (script, hetero, folder) = (script.to_string_lossy(), hetero.to_string_lossy(), folder.to_string_lossy());
    let mut arguments = vec![&*script, &*hetero, &*folder];
    arguments.extend(names.iter().map(String::as_str));
    let whole = workspace.run(workspace.python(), &arguments);
    let chosen = ONE_BY_ONE.into_iter().filter(|name| names.is_empty() || names.iter().any(|wanted| wanted == name));
    let one_by_one = chosen.map(|name| {
        let model = format!("{folder}/{name}/model.onnx");
        (name, workspace.run(&*hetero, &["conformance", "model", &model]))
    });
    together([("whole models", whole), ("operators one by one", together(one_by_one))])
}

/// Downloads the packages of the trained models of many kinds, with what their inputs need.
pub(super) fn trained_packages(workspace: &Workspace) -> Result<()> {
    setup::npm(workspace)?;
    setup::models(workspace, &["trained", "scikit-learn"].map(str::to_owned))
}

/// Compares trained models of many kinds with ONNX Runtime.
pub(crate) fn trained(workspace: &Workspace, seed: u64, names: &[String]) -> Result<()> {
    together([("Python", setup::python(workspace)), ("packages", trained_packages(workspace))])?;
    let hetero = workspace.tested_hetero()?;
    let (script, seed) = (workspace.script("trained.py"), seed.to_string());
    let paths = [&script, &hetero, &workspace.cache].map(|path| path.to_string_lossy());
    let mut arguments: Vec<&str> = paths.iter().map(|path| &**path).chain([&*seed]).collect();
    arguments.extend(names.iter().map(String::as_str));
    workspace.run(workspace.python(), &arguments)
}

/// Runs models whole on each device, and split over several devices.
pub(crate) fn placements(workspace: &Workspace, seed: u64) -> Result<()> {
    let hetero = workspace.tested_hetero()?;
    let names = ["resnet50", "open-nsfw", "silero"].map(str::to_owned);
    let folder = prepare(workspace, seed, &names)?;
    let script = workspace.script("placements.py");
    let digits = workspace.root.join("engine/cli/demo/digits.onnx");
    let paths = [&script, &hetero, &folder, &digits, &workspace.cache].map(|path| path.to_string_lossy().into_owned());
    let seed = seed.to_string();
    let mut arguments: Vec<&str> = paths.iter().map(String::as_str).chain([&*seed]).collect();
    arguments.extend((devices::ALL_REQUIRED && drivers_required()).then_some("--required"));
    workspace.run(workspace.python(), &arguments)
}

pub(crate) fn mutations(workspace: &Workspace, count: u64, seed: u64) -> Result<()> {
    setup::models(workspace, &[])?;
    // As in `Workspace::tested_hetero`, the whole workspace is named.
    let arguments = ["test", "--workspace", "--test", "mutations", "--", "--nocapture"];
    run(workspace
        .command("cargo", &arguments)
        .env("HETERO_MUTATIONS", count.to_string())
        .env("HETERO_SEED", seed.to_string()))
}

/// Kills commands so many times in each phase.
pub(crate) fn kills(workspace: &Workspace, count: u32) -> Result<()> {
    // As in `Workspace::tested_hetero`, the whole workspace is named.
    let arguments = ["test", "--workspace", "--test", "processes", "--", "--nocapture"];
    run(workspace.command("cargo", &arguments).env("HETERO_KILLS", count.to_string()))
}
