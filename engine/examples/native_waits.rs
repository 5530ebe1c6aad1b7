//! The cost of a hand-over between two OpenCL devices of one platform, for a chain of nodes that is
//! cut over both.
//!
//! The example runs on two devices of Intel's FPGA emulator with:
//!
//! ```sh
//! CL_CONFIG_CPU_EMULATE_DEVICES=2 \
//!   cargo run --release -p hetero --features cpu,fpga --example native_waits
//! ```
//!
//! The arguments are the two devices' ids, the number of hand-overs in a run, and the number of
//! elements.
//!
//! For a whole chain on one device and for the same chain cut at every node, it prints the median
//! and the 99th percentile of the times of a run.
//! It also prints how often threads of the process went to sleep and were woken in a run
//! (`voluntary_ctxt_switches`, Linux), which is the work that the host has to do.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use hetero::hal::{DType, Graph, Model, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, HeteroEngine, OutputBuffer, Placement, Tensor};

const RUNS: usize = 2000;

/// Makes x -> Neg -> … -> y, with the given number of nodes `n0`, `n1`, ….
fn chain(nodes: usize, elements: usize) -> Model {
    let value = |number: usize| Value {
        name: if number == 0 { "x".into() } else { format!("v{number}").into() },
        ty: TensorType::exact(DType::F32, &[elements]),
        constant: None,
    };
    let node = |number: usize| Node {
        name: format!("n{number}").into(),
        operator: Operator::new("Neg", 13),
        inputs: vec![Some(ValueId(number as u32))],
        outputs: vec![Some(ValueId(number as u32 + 1))],
    };
    let graph = Graph {
        name: "chain".into(),
        values: (0..=nodes).map(value).collect(),
        nodes: (0..nodes).map(node).collect(),
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(nodes as u32)],
        captures: vec![],
    };
    Model { graph, opsets: [("".into(), 18)].into(), ..Model::default() }
}

/// Returns how often threads of this process have gone to sleep.
fn sleeps() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |path: std::path::PathBuf| -> Option<u64> {
        let text = std::fs::read_to_string(path.join("status")).ok()?;
        let line = text.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    tasks.filter_map(|task| of(task.path())).sum()
}

fn main() -> hetero::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let id = |number: usize, default: &str| arguments.get(number).map_or(default.to_owned(), Clone::clone);
    let number = |at: usize, default: usize| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let (first, second) = (id(0, "fpga:0"), id(1, "fpga:1"));
    let (crossings, elements) = (number(2, 4), number(3, 16));
    let nodes = crossings + 1;
    let input = [Tensor::from_vec(&[elements], vec![1.0f32; elements])?];
    for cut in [false, true] {
        let mut placement = Placement::default();
        for node in 0..nodes {
            let device = if cut && node % 2 == 1 { &second } else { &first };
            placement = placement.pin(format!("n{node}"), device.parse()?);
        }
        let mut engine = HeteroEngine::builder().place(placement).build();
        engine.add_device(&first, DeviceOptions::default())?;
        engine.add_device(&second, DeviceOptions::default())?;
        let plan = engine.analyze_model(&chain(nodes, elements))?;
        let session = engine.session(&plan)?;
        let mut outputs = vec![OutputBuffer::default()];
        let mut times = Vec::with_capacity(RUNS);
        for _ in 0..RUNS / 10 {
            session.run_into(&input, &mut outputs)?;
        }
        let before = sleeps();
        for _ in 0..RUNS {
            let began = Instant::now();
            session.run_into(&input, &mut outputs)?;
            times.push(began.elapsed());
        }
        let woken = (sleeps() - before) as f64 / RUNS as f64;
        let first = f32::from_le_bytes(outputs[0].bytes[..4].try_into().unwrap());
        assert_eq!(first, if nodes % 2 == 1 { -1.0 } else { 1.0 });
        times.sort_unstable();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let report = session.report();
        println!(
            "{} partitions: p50 {:.1} µs, p99 {:.1} µs, {woken:.2} sleeps a run",
            report.partitions,
            micros(times[RUNS / 2]),
            micros(times[RUNS * 99 / 100]),
        );
        report.edges.iter().for_each(|edge| println!("    {edge}"));
    }
    Ok(())
}
