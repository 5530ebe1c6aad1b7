//! A product of two square matrices on devices alone, and in tiles over several of them:
//! `tiles [SIZE] [SECONDS]`, for `cargo xtask bench tiles`.
//! The example prints a JSON object for each case.
//!
//! The time of a tile on each device is measured first, and planned with.
//! One more case gives the second device half of the tiles on purpose, so that the first has
//! something to take from it.
//! The synthetic devices of `tests/synthetic` compute small tiles and then wait for a stated time.
//! Their times tell about planning and stealing, and about no chip.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::hal::{DeviceInfo, Node, Program, Quality};
use hetero::{
    Config, CostModel, DeviceOptions, Error, HeteroEngine, Model, OutputBuffer, Roofline, Session, Tensor, flops,
};
use hetero_cpu::Ceiling;
use hetero_testkit::median;
use synthetic::{Speed, product, tensor};

/// The number of rows and of columns of tiles.
const TILE: usize = 512;

/// The measured rates of devices, in operations per second of products.
struct Measured {
    rates: BTreeMap<String, f64>,
    /// The device that gets every second tile, though it takes longer there.
    favoured: Option<String>,
    others: Roofline,
}

impl CostModel for Measured {
    fn seconds(&self, program: &Program, node: &Node, device: &DeviceInfo, quality: &Quality) -> f64 {
        let id = device.id.to_string();
        match self.rates.get(&id) {
            Some(rate) if node.operator.is("MatMul") => {
                let seconds = flops(program, node, &*self.others.operators) as f64 / rate;
                let odd = node.name.bytes().last().is_some_and(|digit| digit % 2 == 1);
                if odd && self.favoured.as_ref() == Some(&id) { seconds * 1e-3 } else { seconds }
            }
            _ => self.others.seconds(program, node, device, quality),
        }
    }
}

fn roofline() -> Roofline {
    Roofline { operators: Arc::new(hetero_reference::Standard) }
}

fn engine(
    devices: &[&str],
    tile: Option<usize>,
    rates: &BTreeMap<String, f64>,
    favoured: Option<&str>,
) -> Result<HeteroEngine, Error> {
    let mut config = Config::default();
    config.scheduling.tile_size = tile;
    let costs = Measured { rates: rates.clone(), favoured: favoured.map(str::to_owned), others: roofline() };
    let mut engine = HeteroEngine::builder().config(config).cost_model(Arc::new(costs)).build();
    for device in devices {
        engine.add_device(device, DeviceOptions::default())?;
    }
    Ok(engine)
}

/// A product on some devices, ready to run.
struct Case {
    name: String,
    tile: usize,
    /// The number of tiles that the plan gives each device.
    planned: BTreeMap<String, usize>,
    session: Arc<Session>,
    inputs: Vec<Tensor>,
    outputs: Vec<OutputBuffer>,
    seconds: Vec<f64>,
}

impl Case {
    fn new(name: &str, tile: usize, engine: &HeteroEngine, model: &Model, inputs: &[Tensor]) -> Result<Case, Error> {
        let plan = engine.analyze_model(model)?;
        let mut planned: BTreeMap<String, usize> = BTreeMap::new();
        for partition in plan.partitioning().partitions.iter().filter(|partition| partition.tiles.is_some()) {
            *planned.entry(partition.device.clone()).or_default() += 1;
        }
        let (name, session, inputs) = (name.to_owned(), engine.session(&plan)?, inputs.to_vec());
        Ok(Case { name, tile, planned, session, inputs, outputs: vec![OutputBuffer::default()], seconds: vec![] })
    }

    fn run(&mut self) -> Result<Duration, Error> {
        let start = Instant::now();
        self.session.run_into(&self.inputs, &mut self.outputs)?;
        Ok(start.elapsed())
    }

    fn run_timed(&mut self) -> Result<(), Error> {
        let took = self.run()?;
        self.seconds.push(took.as_secs_f64());
        Ok(())
    }

    /// Runs until the time is over, and at least once, after a run that is not counted.
    fn run_for(&mut self, budget: Duration) -> Result<(), Error> {
        self.run()?;
        let began = Instant::now();
        while self.seconds.is_empty() || (began.elapsed() < budget && self.seconds.len() < 15) {
            self.run_timed()?;
        }
        Ok(())
    }

    fn shares(&self) -> String {
        let row = |device: &str, planned: usize, done: usize, stolen: usize| {
            format!("{{\"device\":\"{device}\",\"planned\":{planned},\"done\":{done},\"stolen\":{stolen}}}")
        };
        let report = self.session.report();
        let shares: Vec<String> = if report.tiles.is_empty() {
            // No tiles are shared: each device does what the plan gives it.
            self.planned.iter().map(|(device, count)| row(device, *count, *count, 0)).collect()
        } else {
            report.tiles.iter().map(|share| row(&share.device, share.planned, share.done, share.stolen)).collect()
        };
        format!("[{}]", shares.join(","))
    }

    /// Prints the measurements, and how far the result is from another's.
    fn say(&self, size: usize, reference: &[u8]) {
        let (Case { name, tile, seconds, .. }, shares) = (self, self.shares());
        let error = nmse(&self.outputs[0].bytes, reference);
        println!(
            "{{\"case\":\"{name}\",\"size\":{size},\"tile\":{tile},\"seconds\":{seconds:?},\"shares\":{shares},\"nmse\":{error:e}}}"
        );
    }
}

/// Returns the normalised mean squared error.
fn nmse(found: &[u8], expected: &[u8]) -> f64 {
    let floats = |bytes: &[u8]| -> Vec<f64> {
        bytes.chunks_exact(4).map(|b| f64::from(f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))).collect()
    };
    let (found, expected) = (floats(found), floats(expected));
    let square: f64 = expected.iter().map(|x| x * x).sum();
    found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / square.max(f64::MIN_POSITIVE)
}

fn real(size: usize, budget: Duration) -> Result<(), Error> {
    let (cpu, opencl) = ("cpu:0", "opencl:0");
    let both = [cpu, opencl];
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let ceiling = Ceiling::measure(threads)?;
    let floor = 2.0 * (size as f64).powi(3) / ceiling.flops;
    println!("{{\"ceiling\":{:e},\"threads\":{threads},\"floor\":{floor}}}", ceiling.flops);
    let small = product([TILE, size, TILE], None);
    let tiles = [tensor(&[TILE, size], 0.1), tensor(&[size, TILE], 0.2)];
    let mut rates = BTreeMap::new();
    for device in both {
        let name = format!("one tile on {device}");
        let mut case = Case::new(&name, 0, &engine(&[device], Some(0), &rates, None)?, &small, &tiles)?;
        case.run_for(budget / 60)?;
        rates.insert(device.to_owned(), 2.0 * (TILE * TILE * size) as f64 / median(&case.seconds).unwrap_or(f64::NAN));
        let bytes = case.outputs[0].bytes.clone();
        case.say(size, &bytes);
    }
    let inputs = [tensor(&[size, size], 0.1), tensor(&[size, size], 0.2)];
    let model = product([size, size, size], None);
    // A layer's weights are a constant, which devices bring into their own order before the first
    // run.
    let weights = product([size, size, size], Some(inputs[1].clone()));
    let engine = |devices: &[&str], tile, favoured| engine(devices, Some(tile), &rates, favoured);
    let alone = engine(&[cpu], 0, None)?;
    let tiled = engine(&both, TILE, None)?;
    let mut cases = [
        Case::new("cpu:0 alone", 0, &alone, &model, &inputs)?,
        Case::new("tiles over cpu:0 and opencl:0", TILE, &tiled, &model, &inputs)?,
        Case::new("constant: cpu:0 alone", 0, &alone, &weights, &inputs[..1])?,
        Case::new("constant: tiles over cpu:0 and opencl:0", TILE, &tiled, &weights, &inputs[..1])?,
    ];
    let halves = engine(&both, TILE, Some(opencl))?;
    let mut halved = Case::new("tiles, half of them planned for opencl:0", TILE, &halves, &model, &inputs)?;
    let mut slow = Case::new("opencl:0 alone", 0, &engine(&[opencl], 0, None)?, &model, &inputs)?;
    cases.iter_mut().try_for_each(|case| case.run().map(drop))?;
    let began = Instant::now();
    // The cases run in turn, there and back, as the machine may become slower meanwhile.
    for round in 0_usize.. {
        if round.is_multiple_of(2) {
            cases.iter_mut().try_for_each(Case::run_timed)?;
        } else {
            cases.iter_mut().rev().try_for_each(Case::run_timed)?;
        }
        if began.elapsed() >= budget {
            break;
        }
    }
    // Nothing is compared closely with these cases.
    halved.run_timed()?;
    let all = 2.0 * (size as f64).powi(3) / rates.get(opencl).copied().unwrap_or(f64::INFINITY);
    if all < budget.as_secs_f64() / 2.0 {
        slow.run_timed()?;
    }
    let reference = cases[0].outputs[0].bytes.clone();
    cases.iter().chain([&halved]).for_each(|case| case.say(size, &reference));
    if slow.seconds.is_empty() {
        // The case is too slow to wait for.
        "opencl:0, by what a tile takes, alone".clone_into(&mut slow.name);
        slow.seconds.push(all);
        slow.outputs[0].bytes.clone_from(&reference);
    }
    slow.say(size, &reference);
    Ok(())
}

/// Runs 64 tiles that are said to take 10 ms each.
fn synthetic_pair() -> Result<(), Error> {
    let model = product([256, 64, 256], None);
    let inputs = [tensor(&[256, 64], 0.1), tensor(&[64, 256], 0.2)];
    let mut whole = Vec::new();
    for (case, speeds) in [
        ("synthetic:0 alone", &[Speed::ms(10)][..]),
        ("two synthetic devices of equal speed", &[Speed::ms(10), Speed::ms(10)]),
        (
            "two synthetic devices, the second four times as slow as planned",
            &[Speed::ms(10), Speed::ms(40).planned(10)],
        ),
    ] {
        let mut one = Case::new(case, 32, &synthetic::engine(speeds, 32), &model, &inputs)?;
        one.run_for(Duration::from_secs(4))?;
        if whole.is_empty() {
            whole.clone_from(&one.outputs[0].bytes);
        }
        one.say(256, &whole);
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let size = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(4096);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(120);
    synthetic_pair()?;
    if let Err(error) = real(size, Duration::from_secs(seconds)) {
        eprintln!("the real devices were not measured: {error}");
    }
    Ok(())
}
