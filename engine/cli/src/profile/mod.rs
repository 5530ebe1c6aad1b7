//! `hetero profile`: shows where a run's time goes, beside what the processor could do.

mod ceiling;
pub(crate) mod options;
mod recorder;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hetero::Tensor;
use hetero::hal::{Node, Program, TraceSink};
use hetero_reference::Standard;
use serde_json::{Value, json};

use ceiling::Ceiling;
pub(crate) use recorder::Recorder;

use crate::arguments::ProfileOptions;
use crate::failure::Result;
use crate::output::{document, say};
use crate::progress::Spinner;
use crate::run::Prepared;

/// Returns the bytes that nodes done as one read from outside and write for it, each value once.
pub(crate) fn outer_bytes(program: &Program, nodes: &[&Node]) -> u64 {
    let inside: Vec<_> = nodes.iter().flat_map(|node| node.outputs.iter().flatten()).collect();
    let last = nodes.last().map(|node| node.outputs.clone()).unwrap_or_default();
    let outer = nodes.iter().flat_map(|node| node.uses()).filter(|id| !inside.contains(&id));
    let mut touched: Vec<_> = outer.chain(last.into_iter().flatten()).collect();
    touched.sort_unstable();
    touched.dedup();
    let bytes = |id: &hetero::hal::ValueId| program.values().get(id.index()).map_or(0, |value| value.bytes() as u64);
    touched.iter().map(bytes).sum()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A row of the report.
struct Row {
    device: String,
    label: String,
    operators: String,
    kernel: String,
    seconds: f64,
    flops: f64,
    /// The bytes of inputs, weights and outputs, each once.
    bytes: f64,
}

impl Row {
    /// Returns the least time that operations and bytes allow.
    fn floor(&self, ceiling: &Ceiling) -> f64 {
        (self.flops / ceiling.flops).max(self.bytes / ceiling.bandwidth)
    }

    /// Returns the operations of each second.
    fn rate(&self) -> f64 {
        self.flops / self.seconds.max(1e-12)
    }
}

pub(crate) fn profile(options: &ProfileOptions) -> Result<()> {
    let spinner = Spinner::start("opening devices");
    let prepared = Prepared::new(&options.job, &spinner)?;
    let session = &prepared.session;
    let inputs: Vec<Tensor> = prepared.ordered()?;
    let mut outputs = vec![hetero::OutputBuffer::default(); session.outputs().len()];
    spinner.say("measuring the ceiling");
    let threads = options.job.devices.threads.map_or_else(cores, |threads| threads as usize);
    let ceiling = Ceiling::measure(threads)?;
    spinner.say("running");
    for _ in 0..options.job.warmup.max(2) {
        session.run_into(&inputs, &mut outputs)?;
    }
    let recorder = Arc::new(Recorder::default());
    let trace: Arc<dyn TraceSink> = recorder.clone();
    let mut whole = Vec::new();
    for _ in 0..options.job.repeat.max(5) {
        recorder.begin();
        let began = Instant::now();
        session.run_traced(&inputs, &mut outputs, Some(&trace))?;
        whole.push(began.elapsed());
    }
    drop(spinner);
    let whole_runs = whole.len();
    let whole = median(&mut whole).as_secs_f64();
    let program = prepared.plan.program();
    let by_name: HashMap<&str, _> = program.nodes().iter().map(|node| (&*node.name, node)).collect();
    let beside = recorder.beside(whole_runs);
    let mut recorded = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
    let rows: Vec<Row> = recorded
        .parts
        .iter_mut()
        .map(|part| {
            let nodes: Vec<_> = part.nodes.iter().filter_map(|name| by_name.get(&**name).copied()).collect();
            Row {
                device: part.device.to_string(),
                label: part.nodes.first().map_or_else(|| "-".to_owned(), ToString::to_string),
                operators: nodes.iter().map(|node| &*node.operator.name).collect::<Vec<_>>().join("+"),
                kernel: part.kernel.clone(),
                seconds: median(&mut part.times).as_secs_f64(),
                flops: nodes.iter().map(|node| hetero::flops(program, node, &Standard) as f64).sum(),
                bytes: outer_bytes(program, &nodes) as f64,
            }
        })
        .collect();
    let rows = if options.layers { rows } else { by_kind(rows) };
    let floor = ceiling.as_ref().map(|ceiling| rows.iter().map(|row| row.floor(ceiling)).sum::<f64>());
    let flops: f64 = rows.iter().map(|row| row.flops).sum();
    if options.output.json {
        let described = rows.iter().map(|row| {
            json!({
                "device": row.device, "node": row.label, "operators": row.operators, "kernel": row.kernel, "us": row.seconds * 1e6,
                "flops": row.flops, "bytes": row.bytes, "floor_us": ceiling.as_ref().map(|ceiling| row.floor(ceiling) * 1e6),
            })
        });
        document(json!({
            "threads": threads,
            "ceiling": ceiling.as_ref().map(ceiling_json),
            "whole_us": whole * 1e6,
            "floor_us": floor.map(|floor| floor * 1e6),
            "rows": described.collect::<Vec<_>>(),
            "beside": beside.iter().map(|(kind, device, seconds, bytes)| json!({
                "device": device.to_string(), "kind": kind.to_string(), "us": seconds * 1e6, "bytes": bytes,
            })).collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    match &ceiling {
        Some(ceiling) => say!(
            "ceiling with {threads} threads: {:.0} GFLOP/s, {:.1} GB/s; a parallel region starts and ends in {:.1} µs hot, {:.1} µs cold; measured now",
            ceiling.flops / 1e9,
            ceiling.bandwidth / 1e9,
            ceiling.hot_region.as_secs_f64() * 1e6,
            ceiling.cold_region.as_secs_f64() * 1e6
        )?,
        None => say!("ceiling unknown: the CPU backend measures it, and this build is without it")?,
    }
    say!("{:>9} {:>6} {:>9} {:>6} {:>9}  operators, kernel, first node", "µs", "share", "GFLOP/s", "peak", "floor µs")?;
    for row in &rows {
        let (peak, floor) = match &ceiling {
            Some(ceiling) => {
                let peak = row.rate() / ceiling.flops * 100.0;
                (format!("{peak:5.1}%"), format!("{:9.1}", row.floor(ceiling) * 1e6))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        say!(
            "{:9.1} {:5.1}% {:9.1} {peak:>6} {floor:>9}  {}  {}  {}  {}",
            row.seconds * 1e6,
            row.seconds / whole * 100.0,
            row.rate() / 1e9,
            row.device,
            if row.operators.is_empty() { "(layout)" } else { &row.operators },
            row.kernel,
            row.label
        )?;
    }
    let rates = format!("whole run {:.1} µs, {:.1} GFLOP/s", whole * 1e6, flops / whole / 1e9);
    match (&ceiling, floor) {
        (Some(ceiling), Some(floor)) => say!(
            "{rates}, {:.1} % of the peak; floor {:.1} µs (the larger of operations ÷ peak and bytes ÷ bandwidth, of each part)",
            flops / whole / ceiling.flops * 100.0,
            floor * 1e6
        )?,
        _ => say!("{rates}")?,
    }
    for (kind, device, seconds, bytes) in &beside {
        say!("{device}: {kind} {:.1} µs of a run, {bytes} bytes moved", seconds * 1e6)?;
    }
    if ceiling.is_some_and(|ceiling| rows.iter().any(|row| row.flops > ceiling.flops * row.seconds)) {
        say!(
            "operations are those of the definition; kernels of minimal filtering (winograd) need fewer, and go beyond the peak"
        )?;
    }
    Ok(())
}

/// Sums rows of the same operators and kernel, and sorts them with the longest first.
fn by_kind(rows: Vec<Row>) -> Vec<Row> {
    let mut sums: Vec<(Row, usize)> = Vec::new();
    for row in rows {
        match sums
            .iter_mut()
            .find(|(sum, _)| (&sum.device, &sum.operators, &sum.kernel) == (&row.device, &row.operators, &row.kernel))
        {
            Some((sum, count)) => {
                sum.seconds += row.seconds;
                sum.flops += row.flops;
                sum.bytes += row.bytes;
                *count += 1;
            }
            None => sums.push((row, 1)),
        }
    }
    sums.sort_by(|a, b| b.0.seconds.total_cmp(&a.0.seconds));
    sums.into_iter().map(|(row, count)| Row { label: format!("×{count}"), ..row }).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn ceiling_json(ceiling: &Ceiling) -> Value {
    json!({
        "flops_per_s": ceiling.flops,
        "bytes_per_s": ceiling.bandwidth,
        "hot_region_us": ceiling.hot_region.as_secs_f64() * 1e6,
        "cold_region_us": ceiling.cold_region.as_secs_f64() * 1e6,
    })
}
