//! `hetero run`: runs a model.

mod job;
pub(crate) mod options;
mod outputs;
mod stream;

use std::time::{Duration, Instant};

use hetero::Tensor;
use serde_json::json;

pub(crate) use job::Prepared;

use crate::arguments::RunOptions;
use crate::failure::{Failure, Result};
use crate::output::{document, say};
use crate::planning::milliseconds;
use crate::progress::Spinner;
use crate::report::{Latencies, edges, placement, print_report, print_slow, shares_json, slow_json, summary, tiles};

/// Runs whenever a line comes in, until the input ends.
fn on_request(prepared: &mut Prepared) -> Result<()> {
    let inputs = prepared.ordered()?;
    for line in std::io::stdin().lines() {
        line.map_err(|error| Failure::failed(format!("cannot read the standard input: {error}")))?;
        let began = Instant::now();
        prepared.with_session(|session| session.run_ordered(&inputs).map(drop))?;
        say!("{:.3}", began.elapsed().as_secs_f64() * 1e6)?;
    }
    Ok(())
}

pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let spinner = Spinner::start("opening devices");
    let mut prepared = Prepared::new(&options.job, &spinner)?;
    if options.on_request {
        drop(spinner);
        return on_request(&mut prepared);
    }
    if let Some(count) = options.stream {
        return stream::stream(options, &mut prepared, spinner, count as usize);
    }
    spinner.say("running");
    let inputs = prepared.inputs.clone();
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    for _ in 0..options.job.warmup {
        prepared.with_session(|session| session.run(&inputs))?;
    }
    let mut times = Vec::with_capacity(options.job.repeat as usize);
    let mut outputs = None;
    for _ in 0..options.job.repeat {
        let mut took = Duration::ZERO;
        let results = prepared.with_session(|session| {
            let began = Instant::now();
            let results = session.run(&inputs)?;
            took = began.elapsed();
            Ok(results)
        })?;
        times.push(took);
        outputs = Some(results);
    }
    let Prepared { engine, plan, session, fixed, load_time, plan_time, compile_time, .. } = prepared;
    drop(spinner);
    let results = outputs.ok_or_else(|| Failure::failed("nothing was run"))?;
    let written = options.out.as_deref().map(|folder| outputs::write(folder, &results)).transpose()?;
    let written = written.unwrap_or_default();
    let latencies = Latencies::new(times);
    let report = session.report();
    let slow = engine.slow_nodes(&plan);
    if options.output.json {
        let described = results.iter().enumerate().map(|(index, (name, tensor))| {
            let file = written.get(index).map(|written| written.path.display().to_string());
            json!({ "name": name, "dtype": tensor.dtype().name(), "shape": tensor.shape(), "file": file })
        });
        document(json!({
            "latency_us": latencies.json(),
            "load_ms": milliseconds(load_time),
            "plan_ms": milliseconds(plan_time),
            "compile_ms": milliseconds(compile_time),
            "arena_bytes": report.arena_bytes,
            "resident_bytes": report.resident_bytes,
            "partitions": report.partitions,
            "placement": placement(&report),
            "shares": shares_json(session.placement()),
            "slow": slow_json(&slow),
            "moved": report.moved,
            "edges": edges(&report),
            "tiles": tiles(&report),
            "notes": plan.notes(),
            "assumed_one": plan.assumed(),
            "bound_as_constants": fixed,
            "outputs": described.collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    summary(&plan)?;
    say!("{}", session.placement())?;
    print_slow(&slow)?;
    print_report(&report)?;
    if !fixed.is_empty() {
        say!("    inputs bound as constants, because shapes depend on them: {}", fixed.join(", "))?;
    }
    for (name, tensor) in results.iter() {
        say!("output {name}: {}{:?}", tensor.dtype(), tensor.shape())?;
    }
    outputs::print_renamed(&written)?;
    say!(
        "latency of {} runs: min {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0} µs; arena {} bytes",
        options.job.repeat,
        latencies.microseconds(0.0),
        latencies.microseconds(0.5),
        latencies.microseconds(0.9),
        latencies.microseconds(0.99),
        report.arena_bytes
    )?;
    Ok(())
}
