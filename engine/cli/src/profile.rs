//! `hetero profile`: shows where a run's time goes, beside what the processor could do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero::Tensor;
use hetero::hal::{DeviceId, Node, Program, TraceEvent, TraceKind, TraceSink};
use hetero_cpu::Ceiling;
use hetero_reference::Standard;
use serde_json::json;

use crate::arguments::ProfileOptions;
use crate::failure::Result;
use crate::progress::Spinner;
use crate::run::Prepared;

/// The times of one part of a run, run after run.
struct Part {
    device: DeviceId,
    nodes: Vec<Arc<str>>,
    kernel: String,
    times: Vec<Duration>,
}

/// A collector of trace events.
/// The kernels of a run come in the same order every time, device by device.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Recorded>);

#[derive(Default)]
struct Recorded {
    parts: Vec<Part>,
    /// The kernels of each device that the run has told of: the places of their parts, and how many
    /// have come so far.
    told: Vec<(DeviceId, Vec<usize>, usize)>,
    /// The time and the bytes of the work beside kernels, in all runs: transfers, waits and host
    /// functions.
    beside: Vec<(TraceKind, DeviceId, Duration, u64)>,
}

impl Recorder {
    pub(crate) fn begin(&self) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.told.iter_mut().for_each(|(_, _, next)| *next = 0);
    }

    /// Calls `make` with the names of each part's nodes and with the part's times in each run, and
    /// returns what it makes.
    pub(crate) fn parts<T>(&self, mut make: impl FnMut(&[Arc<str>], &[Duration]) -> Option<T>) -> Vec<T> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.parts.iter().filter_map(|part| make(&part.nodes, &part.times)).collect()
    }

    /// Returns the time of a run on each device that was no kernel's, and the bytes that were
    /// moved, by kind of work.
    fn beside(&self, runs: usize) -> Vec<(TraceKind, DeviceId, f64, u64)> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = |(kind, device, time, bytes): &(TraceKind, DeviceId, Duration, u64)| {
            (*kind, device.clone(), time.as_secs_f64() / runs.max(1) as f64, bytes / runs.max(1) as u64)
        };
        recorded.beside.iter().map(each).collect()
    }
}

impl TraceSink for Recorder {
    fn event(&self, event: &TraceEvent<'_>) {
        let took = event.end.saturating_duration_since(event.begin);
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Recorded { parts, told, beside } = &mut *recorded;
        if event.kind != TraceKind::Kernel {
            let of = |(kind, device, ..): &&mut (TraceKind, DeviceId, Duration, u64)| {
                *kind == event.kind && device == event.device
            };
            match beside.iter_mut().find(of) {
                Some((_, _, time, bytes)) => (*time, *bytes) = (*time + took, *bytes + event.bytes),
                None => beside.push((event.kind, event.device.clone(), took, event.bytes)),
            }
            return;
        }
        let device = told.iter().position(|(device, ..)| device == event.device).unwrap_or_else(|| {
            told.push((event.device.clone(), Vec::new(), 0));
            told.len() - 1
        });
        let (_, places, next) = &mut told[device];
        match places.get(*next).and_then(|&place| parts.get_mut(place)) {
            Some(part) => part.times.push(took),
            None => {
                places.push(parts.len());
                let (nodes, kernel) = (event.nodes.to_vec(), event.name.to_owned());
                parts.push(Part { device: event.device.clone(), nodes, kernel, times: vec![took] });
            }
        }
        *next += 1;
    }
}

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
}

pub(crate) fn profile(options: &ProfileOptions) -> Result<()> {
    let spinner = Spinner::start("reading the model");
    let prepared = Prepared::new(&options.run, &spinner)?;
    let session = &prepared.session;
    let inputs: Vec<Tensor> = prepared.ordered()?;
    let mut outputs = vec![hetero::OutputBuffer::default(); session.outputs().len()];
    spinner.say("measuring the ceiling");
    let threads = options.run.devices.threads.map_or_else(cores, |threads| threads as usize);
    let ceiling = Ceiling::measure(threads).map_err(hetero::Error::from)?;
    spinner.say("running");
    for _ in 0..options.run.warmup.max(2) {
        session.run_into(&inputs, &mut outputs)?;
    }
    let recorder = Arc::new(Recorder::default());
    let trace: Arc<dyn TraceSink> = recorder.clone();
    let mut whole = Vec::new();
    for _ in 0..options.run.repeat.max(5) {
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
    let floor: f64 = rows.iter().map(|row| row.floor(&ceiling)).sum();
    let flops: f64 = rows.iter().map(|row| row.flops).sum();
    if options.run.output.json {
        let described = rows.iter().map(|row| {
            json!({
                "device": row.device, "node": row.label, "operators": row.operators, "kernel": row.kernel, "us": row.seconds * 1e6,
                "flops": row.flops, "bytes": row.bytes, "floor_us": row.floor(&ceiling) * 1e6,
            })
        });
        println!(
            "{}",
            json!({
                "threads": threads,
                "ceiling": { "flops_per_s": ceiling.flops, "bytes_per_s": ceiling.bandwidth,
                             "hot_region_us": ceiling.hot_region.as_secs_f64() * 1e6,
                             "cold_region_us": ceiling.cold_region.as_secs_f64() * 1e6 },
                "whole_us": whole * 1e6,
                "floor_us": floor * 1e6,
                "rows": described.collect::<Vec<_>>(),
                "beside": beside.iter().map(|(kind, device, seconds, bytes)| json!({
                    "device": device.to_string(), "kind": kind.to_string(), "us": seconds * 1e6, "bytes": bytes,
                })).collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }
    println!(
        "ceiling with {threads} threads: {:.0} GFLOP/s, {:.1} GB/s; a parallel region starts and ends in {:.1} µs hot, {:.1} µs cold; measured now",
        ceiling.flops / 1e9,
        ceiling.bandwidth / 1e9,
        ceiling.hot_region.as_secs_f64() * 1e6,
        ceiling.cold_region.as_secs_f64() * 1e6
    );
    println!(
        "{:>9} {:>6} {:>9} {:>6} {:>9}  operators, kernel, first node",
        "µs", "share", "GFLOP/s", "peak", "floor µs"
    );
    for row in &rows {
        println!(
            "{:9.1} {:5.1}% {:9.1} {:5.1}% {:9.1}  {}  {}  {}  {}",
            row.seconds * 1e6,
            row.seconds / whole * 100.0,
            row.flops / row.seconds.max(1e-12) / 1e9,
            row.flops / row.seconds.max(1e-12) / ceiling.flops * 100.0,
            row.floor(&ceiling) * 1e6,
            row.device,
            if row.operators.is_empty() { "(layout)" } else { &row.operators },
            row.kernel,
            row.label
        );
    }
    println!(
        "whole run {:.1} µs, {:.1} GFLOP/s, {:.1} % of the peak; floor {:.1} µs (the larger of operations ÷ peak and bytes ÷ bandwidth, of each part)",
        whole * 1e6,
        flops / whole / 1e9,
        flops / whole / ceiling.flops * 100.0,
        floor * 1e6
    );
    for (kind, device, seconds, bytes) in &beside {
        println!("{device}: {kind} {:.1} µs of a run, {bytes} bytes moved", seconds * 1e6);
    }
    if rows.iter().any(|row| row.flops > ceiling.flops * row.seconds) {
        println!(
            "operations are those of the definition; kernels of minimal filtering (winograd) need fewer, and go beyond the peak"
        );
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
