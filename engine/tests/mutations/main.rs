//! Mutated real models, plans, configurations and profiles.
//! Each ends in an error or a result, soon, in bounded memory.
//!
//! The models come from the cache (`HETERO_CACHE`); `HETERO_MUTATIONS` and `HETERO_SEED` choose how
//! many and which.
//! `HETERO_FIRST` begins at a number, so that one mutation can be run again.
//! Without the cache the test mutates a model of its own.
//! Half of a model's mutations change bytes, and half its structure; see [`structure`].

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../counting/mod.rs"]
mod counting;
mod structure;
mod texts;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use counting::Counting;
use hetero::hal::{DType, Graph, Model, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, HeteroEngine, Tensor};
use hetero_testkit::SplitMix64;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The longest that one mutation may take.
const SLOWEST: Duration = Duration::from_secs(20);
/// The bytes that the engine may spend on constants and on intermediate values, each.
const LIMIT: usize = 64 << 20;

/// The networks of the standard's own data; their weights are made by nodes.
const NETWORKS: [&str; 9] = [
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
];

/// Returns small real models of the cache: whole networks, and operator cases of the standard.
fn models() -> Vec<Vec<u8>> {
    let Some(cache) = std::env::var_os("HETERO_CACHE") else { return vec![] };
    let data = Path::new(&cache).join("onnx-1.22.0/onnx/backend/test/data");
    let mut paths = vec![
        Path::new(&cache).join("silero-vad-6.2.3/silero_vad/data/silero_vad_16k_sequence.onnx"),
        Path::new(&cache).join("silero-vad-6.2.3/silero_vad/data/silero_vad.onnx"),
        Path::new(&cache).join("magika-1.0.3/magika/models/standard_v3_3/model.onnx"),
    ];
    for name in NETWORKS {
        paths.push(data.join(format!("light/light_{name}.onnx")));
    }
    if let Ok(entries) = std::fs::read_dir(data.join("node")) {
        let mut cases: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path().join("model.onnx"))).collect();
        cases.sort();
        paths.extend(cases);
    }
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// Makes a model of this test's own: a chain with a reshape and a constant.
fn own_model() -> Vec<u8> {
    let value = |name: &str, shape: &[usize]| Value {
        name: name.into(),
        ty: TensorType::exact(DType::F32, shape),
        constant: None,
    };
    let mut target = Value { name: "shape".into(), ..Value::default() };
    target.constant = Some(Tensor::from_vec(&[2], vec![2i64, -1]).unwrap());
    let node = |name: &str, inputs: &[u32], output: u32| Node {
        name: name.into(),
        operator: Operator::new(name, 17),
        inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
        outputs: vec![Some(ValueId(output))],
    };
    let graph = Graph {
        name: "own".into(),
        values: vec![value("x", &[4, 3]), target, value("r", &[2, 6]), value("y", &[2, 6])],
        nodes: vec![node("Reshape", &[0, 1], 2), node("Relu", &[2], 3)],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(3)],
        captures: vec![],
    };
    hetero_onnx::to_bytes(&Model { graph, opsets: [("".into(), 17)].into(), ..Model::default() }).unwrap()
}

fn mutated(model: &[u8], random: &mut SplitMix64) -> Vec<u8> {
    let mut bytes = model.to_vec();
    // Structure is near the ends of a file and weights are in the middle; small models are
    // structure all over.
    // One small change reaches further into the importer than many, so most mutations have one.
    for _ in 0..[1, 1, 1, 3][random.below(4)] {
        let at = random.below(bytes.len());
        // The kinds that keep the length come twice.
        match [0, 0, 1, 1, 2, 3, 4, 5, 6, 6][random.below(10)] {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            2 => bytes.truncate(at.max(1)),
            3 => {
                let from = random.below(bytes.len());
                let piece: Vec<u8> = bytes[from..(from + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let end = (at + 1 + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            // A varint becomes the largest there is: a size, a length, a type.
            5 => {
                let end = (at + 9).min(bytes.len());
                bytes[at..end].fill(0xff);
            }
            // A name or a small number becomes another.
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
    bytes
}

/// Reads, binds, compiles and runs a model; the inputs are zeros.
fn attempt(engine: &HeteroEngine, bytes: Vec<u8>) -> Result<(), hetero::Error> {
    let model = hetero::read_model_bytes(bytes.into())?;
    let plan = engine.analyze_model(&model)?;
    let session = engine.session(&plan)?;
    let mut inputs = Vec::new();
    for port in session.inputs() {
        let count: usize = port.shape.iter().product();
        let bytes = port.dtype.bytes_for(count).unwrap_or(usize::MAX);
        if bytes > LIMIT || port.dtype == DType::String {
            return Ok(());
        }
        inputs.push((&*port.name, Tensor::from_bytes(port.dtype, &port.shape, vec![0; bytes].into())?));
    }
    session.run(&inputs)?;
    Ok(())
}

/// The panics of this process; those of a device's worker are errors of the run to the caller.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The tests count for the whole process, so that one works at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(hook);
}

fn hook() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(info);
    }));
}

/// Returns the model with this number as bytes, and what is changed in it.
fn mutation(models: &[Vec<u8>], seed: u64, number: u64) -> (Vec<u8>, String) {
    // Each mutation has a generator of its own, so that it can be run again by its number.
    let mut random = SplitMix64::new(seed << 32 | number);
    let index =
        if number % 4 < 2 { random.below((NETWORKS.len() + 3).min(models.len())) } else { random.below(models.len()) };
    let whole = &models[index];
    if number.is_multiple_of(2)
        && let Ok(model) = hetero::read_model_bytes(whole.clone().into())
    {
        let changed = structure::mutated(&model, &mut random);
        if let Ok(bytes) = hetero_onnx::to_bytes(&changed) {
            return (bytes, format!("model {index}: {}", structure::difference(&model, &changed)));
        }
    }
    (mutated(whole, &mut random), format!("model {index}: bytes"))
}

#[test]
fn mutated_models_end_in_an_error_or_a_result() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, seed) = (setting("HETERO_MUTATIONS", 300), setting("HETERO_SEED", 1));
    let mut models = models();
    if models.is_empty() {
        println!(
            "no models in the cache (run `cargo xtask models` and set HETERO_CACHE): mutating one of the test's own"
        );
        models.push(own_model());
    }
    count_panics();
    let mut engine = HeteroEngine::builder().memory_limit(LIMIT as u64).deadline(SLOWEST).build();
    engine.add_device("cpu:0", DeviceOptions { memory_limit: Some(LIMIT as u64), ..DeviceOptions::default() }).unwrap();
    let first = setting("HETERO_FIRST", 0);
    let (mut results, mut errors, mut slowest, mut largest) = (0, 0, (Duration::ZERO, 0), (0, 0));
    for number in first..count {
        let (bytes, change) = mutation(&models, seed, number);
        let size = bytes.len();
        let before = counting::watch_peak();
        let began = Instant::now();
        match attempt(&engine, bytes) {
            Ok(()) => results += 1,
            Err(_) => errors += 1,
        }
        let took = began.elapsed();
        let grown = counting::peak().saturating_sub(before);
        assert!(took < SLOWEST, "mutation {number} of seed {seed} took {took:?}; {change}");
        // The memory is for constants and values within their limits, for the oracle's wide numbers
        // beside them, and for a multiple of the file.
        let allowed = 12 * LIMIT + 256 * size;
        assert!(
            grown <= allowed,
            "mutation {number} of seed {seed} took {grown} bytes for a model of {size}; {change}"
        );
        (slowest, largest) = (slowest.max((took, number)), largest.max((grown, number)));
    }
    println!("{} mutations of {} models, seed {seed}: {results} results, {errors} errors", count - first, models.len(),);
    println!("slowest {:?}, mutation {} of {}", slowest.0, slowest.1, mutation(&models, seed, slowest.1).1);
    println!("most memory {} MiB, mutation {} of {}", largest.0 >> 20, largest.1, mutation(&models, seed, largest.1).1);
    assert_eq!(results + errors, count - first);
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "panics; their messages stand above");
}

/// A plan of the test's own model on two CPUs, as text.
fn plan(engine: &HeteroEngine, model: &Model) -> String {
    engine.analyze_model(model).unwrap().to_json().unwrap()
}

#[test]
fn mutated_plans_configurations_and_profiles_end_in_an_error_or_are_taken() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (count, seed) = (setting("HETERO_MUTATIONS", 300), setting("HETERO_SEED", 1));
    let mut engine = HeteroEngine::builder().memory_limit(LIMIT as u64).deadline(SLOWEST).build();
    let cpu = engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
    let model = hetero::read_model_bytes(own_model().into()).unwrap();
    let mut profile = hetero::comm::Profile::new();
    let info = engine.devices().iter().find(|device| device.info().id == cpu).unwrap().info().clone();
    profile.devices.push(hetero::comm::DeviceProfile::new(&info));
    let texts = [plan(&engine, &model), CONFIGURATION.to_owned(), profile.to_json().unwrap()];
    count_panics();
    let (mut taken, mut errors, mut slowest, mut largest) = ([0; 3], [0; 3], Duration::ZERO, 0);
    for number in 0..count * 3 {
        let mut random = SplitMix64::new(seed << 32 | number | 1 << 31);
        let kind = (number % 3) as usize;
        let text = texts::mutated(&texts[kind], &mut random);
        let before = counting::watch_peak();
        let began = Instant::now();
        let outcome = match kind {
            0 => engine.load_plan(&model, &text).and_then(|plan| engine.session(&plan).map(drop)).is_ok(),
            1 => hetero::Config::parse(&text, "mutated.yaml").is_ok_and(|config| {
                let mut engine = HeteroEngine::builder().config(config).memory_limit(LIMIT as u64).build();
                engine.add_device("cpu:0", DeviceOptions::default()).is_ok() && engine.analyze_model(&model).is_ok()
            }),
            _ => hetero::comm::Profile::from_json(&text).is_ok_and(|profile| {
                let mut engine = HeteroEngine::builder().profile(profile).memory_limit(LIMIT as u64).build();
                engine.add_device("cpu:0", DeviceOptions::default()).is_ok() && engine.analyze_model(&model).is_ok()
            }),
        };
        let (took, grown) = (began.elapsed(), counting::peak().saturating_sub(before));
        assert!(took < SLOWEST, "text {number} of seed {seed} took {took:?}");
        (slowest, largest) = (slowest.max(took), largest.max(grown));
        *(if outcome { &mut taken } else { &mut errors }).get_mut(kind).unwrap() += 1;
    }
    println!(
        "{count} mutations of each, seed {seed}: plans, configurations and profiles, taken {taken:?}, errors {errors:?}, slowest {slowest:?}, most memory {} MiB",
        largest >> 20
    );
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "panics; their messages stand above");
    assert!(errors.iter().all(|&count| count > 0), "no mutation of a kind was refused: {errors:?}");
}

/// A configuration with most keys, as JSON, which is YAML too.
const CONFIGURATION: &str = r#"{
    "scheduling": {"strategy": "latency_aware", "time_limit_ms": 200, "tile_size": 512, "batch_split_size": 2,
                   "max_in_flight": 4, "energy_budget": 100.0},
    "device_params": {"gpu_mem_threshold": 0.8, "watts": {"cpu:0": 65.0}},
    "devices": {"cpu:0": "allow"}
}"#;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
