//! A product of two square matrices on devices alone, and in tiles over several of them: `tiles [SIZE] [SECONDS]`, for `cargo xtask bench tiles`.
//! Prints a JSON object for each case.
//!
//! What a tile takes on each device is measured first, and planned with. One more case gives the second device half of the tiles on purpose,
//! so that the first has something to take from it. The synthetic devices of `tests/synthetic` compute small tiles and then wait for a
//! stated time; what they tell is about planning and stealing, and about no chip.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::hal::{DeviceInfo, Node, Program, Quality};
use hetero::{Config, CostModel, DeviceOptions, Error, HeteroEngine, Model, OutputBuffer, Roofline, Tensor, flops};
use synthetic::{Speed, product, tensor};

/// Sides of tiles.
const TILE: usize = 512;

/// What devices were seen to do, in operations per second of products.
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

/// Seconds of runs, until the time is over; at least one, after one that is not counted unless it takes all the time.
fn time(
    engine: &HeteroEngine,
    model: &Model,
    inputs: &[Tensor],
    budget: Duration,
) -> Result<(Vec<f64>, Vec<u8>, String), Error> {
    let plan = engine.analyze_model(model)?;
    let session = engine.session(&plan)?;
    let mut outputs = vec![OutputBuffer::default()];
    let mut seconds = Vec::new();
    let began = Instant::now();
    let mut first = None;
    while seconds.is_empty() || (began.elapsed() < budget && seconds.len() < 15) {
        let start = Instant::now();
        session.run_into(inputs, &mut outputs)?;
        let took = start.elapsed();
        match first {
            None if took < budget / 2 => first = Some(took),
            _ => seconds.push(took.as_secs_f64()),
        }
    }
    let report = session.report();
    let mut planned: BTreeMap<&str, usize> = BTreeMap::new();
    for partition in plan.schedule().partitions.iter().filter(|partition| partition.tiles.is_some()) {
        *planned.entry(&partition.device).or_default() += 1;
    }
    let row = |device: &str, planned: usize, done: usize, stolen: usize| {
        format!("{{\"device\":\"{device}\",\"planned\":{planned},\"done\":{done},\"stolen\":{stolen}}}")
    };
    let shares: Vec<String> = if report.tiles.is_empty() {
        // Nobody shares: each device does what the plan gives it.
        planned.iter().map(|(device, count)| row(device, *count, *count, 0)).collect()
    } else {
        report.tiles.iter().map(|share| row(&share.device, share.planned, share.done, share.stolen)).collect()
    };
    Ok((seconds, outputs.remove(0).bytes, format!("[{}]", shares.join(","))))
}

/// Normalised mean squared error.
fn nmse(found: &[u8], expected: &[u8]) -> f64 {
    let floats = |bytes: &[u8]| -> Vec<f64> {
        bytes.chunks_exact(4).map(|b| f64::from(f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))).collect()
    };
    let (found, expected) = (floats(found), floats(expected));
    let square: f64 = expected.iter().map(|x| x * x).sum();
    found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / square.max(f64::MIN_POSITIVE)
}

fn say(case: &str, size: usize, tile: usize, seconds: &[f64], shares: &str, error: f64) {
    println!(
        "{{\"case\":\"{case}\",\"size\":{size},\"tile\":{tile},\"seconds\":{seconds:?},\"shares\":{shares},\"nmse\":{error:e}}}"
    );
}

fn real(size: usize, budget: Duration) -> Result<(), Error> {
    let devices = ["cpu:0", "opencl:0"];
    let small = product([TILE, size, TILE], None);
    let tiles = [tensor(&[TILE, size], 0.1), tensor(&[size, TILE], 0.2)];
    let mut rates = BTreeMap::new();
    for device in devices {
        let (seconds, ..) = time(&engine(&[device], Some(0), &rates, None)?, &small, &tiles, budget / 10)?;
        rates.insert(device.to_owned(), 2.0 * (TILE * TILE * size) as f64 / median(&seconds));
        say(&format!("one tile on {device}"), size, 0, &seconds, "[]", 0.0);
    }
    let (a, b) = (tensor(&[size, size], 0.1), tensor(&[size, size], 0.2));
    // A layer's weights are a constant, which devices bring into their own order before the first run.
    let weights = product([size, size, size], Some(b.clone()));
    let alone = time(&engine(&["cpu:0"], Some(0), &rates, None)?, &weights, std::slice::from_ref(&a), budget)?;
    let tiled = time(&engine(&devices, Some(TILE), &rates, None)?, &weights, std::slice::from_ref(&a), budget)?;
    say("constant: cpu:0 alone", size, 0, &alone.0, &alone.2, 0.0);
    say("constant: tiles over cpu:0 and opencl:0", size, TILE, &tiled.0, &tiled.2, nmse(&tiled.1, &alone.1));
    let model = product([size, size, size], None);
    let inputs = [a, b];
    // What devices do beside each other is timed beside each other, as the machine may become slower; the slowest comes last.
    let (seconds, whole, shares) = time(&engine(&["cpu:0"], Some(0), &rates, None)?, &model, &inputs, budget)?;
    say("cpu:0 alone", size, 0, &seconds, &shares, 0.0);
    for (case, favoured) in
        [("tiles over cpu:0 and opencl:0", None), ("tiles, half of them planned for opencl:0", Some("opencl:0"))]
    {
        let engine = engine(&devices, Some(TILE), &rates, favoured)?;
        let (seconds, bytes, shares) = time(&engine, &model, &inputs, budget)?;
        say(case, size, TILE, &seconds, &shares, nmse(&bytes, &whole));
    }
    let (seconds, bytes, shares) = time(&engine(&["opencl:0"], Some(0), &rates, None)?, &model, &inputs, budget)?;
    say("opencl:0 alone", size, 0, &seconds, &shares, nmse(&bytes, &whole));
    Ok(())
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// 64 tiles that are said to take 10 ms each.
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
        let (seconds, bytes, shares) = time(&synthetic::engine(speeds, 32), &model, &inputs, Duration::from_secs(4))?;
        if whole.is_empty() {
            whole = bytes.clone();
        }
        say(case, 256, 32, &seconds, &shares, nmse(&bytes, &whole));
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let size = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(4096);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(20);
    synthetic_pair()?;
    if let Err(error) = real(size, Duration::from_secs(seconds)) {
        eprintln!("the real devices were not measured: {error}");
    }
    Ok(())
}
