//! `hetero plan` and `hetero run`: plan a model, and run it.

mod stream;
mod timing;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::hal::DeviceId;
use hetero::{Binding, Config, HeteroEngine, Model, Plan, Session, Strategy, Tensor};
use hetero_layers::{Fault, Faulty};
use serde_json::{Value, json};

use crate::arguments::{CacheOptions, DeviceOptions, ModelOptions, PlaceOptions, PlanOptions, RunOptions};
use crate::failure::{Failure, Result};
use crate::progress::Spinner;
use crate::tensors;
use crate::{devices, explain};

fn engine(
    model: &ModelOptions,
    devices: &DeviceOptions,
    (place, cache): (&PlaceOptions, &CacheOptions),
    strategy: Option<&str>,
    faults: &[(DeviceId, Fault)],
) -> Result<HeteroEngine> {
    let mut config = match &model.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    if let Some(strategy) = strategy.and_then(Strategy::from_name) {
        config.scheduling.strategy = strategy;
    }
    let mut builder = HeteroEngine::builder().config(config);
    if let Some(bytes) = devices.memory_limit {
        builder = builder.memory_limit(bytes);
    }
    if let Some(folder) = &cache.cache {
        builder = builder.cache(folder);
    }
    if let Some(placement) = &place.place {
        builder = builder.place(placement.clone());
    }
    for driver in hetero::builtin_drivers() {
        let of: Vec<_> = faults.iter().filter(|(id, _)| id.driver() == driver.name()).collect();
        if !of.is_empty() {
            let add = |layer: Faulty, (id, fault): &(DeviceId, Fault)| layer.with(id.ordinal(), *fault);
            let layer = of.into_iter().fold(Faulty::over(driver), add);
            builder = builder.driver(Arc::new(layer));
        }
    }
    if let Some(profile) = devices::profile(devices)? {
        builder = builder.profile(profile);
    }
    let mut engine = builder.build();
    devices::add(&mut engine, devices)?;
    if let Some((id, _)) = faults.iter().find(|(id, _)| !engine.devices().iter().any(|device| device.info().id == *id))
    {
        return Err(Failure::usage(format!("--inject: the device {id} is not used"), "`--device` adds it"));
    }
    Ok(engine)
}

/// Prints which pins match no node: they are misspelt, or the nodes were folded away.
fn warn_of_idle_pins(plan: &Plan) {
    for pattern in plan.idle_pins() {
        eprintln!("--place: no node matches '{pattern}'");
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn load(path: &Path) -> Result<(Model, Duration)> {
    let began = Instant::now();
    let model = hetero::read_model(path).map_err(hetero::Error::from)?;
    Ok((model, began.elapsed()))
}

pub(crate) fn plan(options: &PlanOptions) -> Result<()> {
    let spinner = Spinner::start("reading the model");
    let engine =
        engine(&options.model, &options.devices, (&options.place, &options.cache), options.strategy.as_deref(), &[])?;
    let (model, _) = load(&options.model.model)?;
    spinner.say("planning");
    let binding = binding(&options.model);
    if options.timing {
        return timing::timing(&engine, &model, &binding, spinner, options.output.json);
    }
    let plan = engine.analyze(&model, &binding)?;
    drop(spinner);
    warn_of_idle_pins(&plan);
    let text = plan.to_json()?;
    if let Some(path) = &options.out {
        std::fs::write(path, &text).map_err(|error| Failure::file("write", path, &error))?;
    }
    let asked = options.explain || options.html.is_some() || options.dot.is_some();
    let explanation = asked.then(|| explain::explain(&engine, &plan, options)).transpose()?;
    if options.output.json {
        match &explanation {
            Some(explanation) if options.explain => println!("{}", json!(explanation)),
            _ => println!("{text}"),
        }
    } else {
        summary(&plan);
        println!("{}", plan.shares());
        if let Some(explanation) = explanation.filter(|_| options.explain) {
            explain::print(&explanation);
        }
        if let Some(path) = &options.out {
            println!("written to {}", path.display());
        }
    }
    Ok(())
}

/// Prints the plan in a few lines.
pub(crate) fn summary(plan: &Plan) {
    let partitioning = plan.partitioning();
    println!(
        "plan: {} partitions by {}, {} transfers, {:.3} ms estimated",
        partitioning.partitions.len(),
        partitioning.strategy,
        partitioning.transfers.len(),
        partitioning.estimated_makespan * 1e3
    );
    for partition in &partitioning.partitions {
        println!("    {}: {} nodes", partition.device, partition.tasks.len());
    }
    if !plan.assumed().is_empty() {
        println!("    open dimensions taken as 1: {}", plan.assumed().join(", "));
    }
    plan.notes().iter().for_each(|note| println!("    {note}"));
}

/// Returns what share of the model each device has, for `--json`.
fn shares_json(shares: &hetero::PlacementShares) -> Value {
    let share = |share: &hetero::PlacementShare| {
        json!({
            "device": share.device.to_string(), "nodes": share.nodes, "of_nodes": share.of_nodes, "of_time": share.of_time,
            "of_bytes": share.of_bytes,
        })
    };
    shares.devices.iter().map(share).collect()
}

/// Returns what passes between devices, for `--json`.
fn edges(report: &hetero::Report) -> Value {
    let edge = |edge: &hetero::Traffic| {
        json!({
            "from": edge.from, "to": edge.to, "values": edge.values, "transports": edge.transports,
            "zero_copy_bytes": edge.zero_copy_bytes, "staged_bytes": edge.staged_bytes, "native_waits": edge.native_waits,
            "host_waits": edge.host_waits, "reason": edge.reason,
        })
    };
    report.edges.iter().map(edge).collect()
}

/// Returns what devices did of groups of tiles, for `--json`.
fn tiles(report: &hetero::Report) -> Value {
    let share = |share: &hetero::TileShare| {
        json!({
            "group": share.group, "device": share.device, "planned": share.planned, "done": share.done,
            "stolen": share.stolen,
        })
    };
    report.tiles.iter().map(share).collect()
}

/// Prints what moved, and what passes between devices in a run.
fn print_report(report: &hetero::Report) {
    report.moved.iter().for_each(|line| println!("    {line}"));
    report.edges.iter().for_each(|edge| println!("    {edge}"));
    report.tiles.iter().for_each(|share| println!("    {share}"));
}

/// The times of runs, sorted.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Latencies(times)
    }

    /// Returns the time that this share of the runs do not exceed, in microseconds (nearest rank).
    fn microseconds(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil().max(1.0) as usize;
        self.0.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "min": self.microseconds(0.0),
            "p50": self.microseconds(0.5),
            "p90": self.microseconds(0.9),
            "p99": self.microseconds(0.99),
        })
    }
}

/// A model, ready to run with its inputs.
pub(crate) struct Prepared {
    engine: HeteroEngine,
    pub(crate) plan: Plan,
    pub(crate) session: Arc<hetero::Session>,
    /// The inputs, by name.
    inputs: Vec<(String, Tensor)>,
    /// The names of the inputs that were bound as constants.
    fixed: Vec<String>,
    load_time: Duration,
    plan_time: Duration,
    compile_time: Duration,
}

impl Prepared {
    pub(crate) fn new(options: &RunOptions, spinner: &Spinner) -> Result<Prepared> {
        let engine = engine(&options.model, &options.devices, (&options.place, &options.cache), None, &options.faults)?;
        let (model, load_time) = load(&options.model.model)?;
        let mut given: Vec<(String, Tensor)> = Vec::new();
        for (name, path) in &options.inputs {
            given.push((name.clone(), tensors::read(path)?));
        }
        spinner.say("planning");
        let began = Instant::now();
        let plan = match &options.plan {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
                engine.load_plan(&model, &text)?
            }
            None => {
                let given: Vec<(&str, Tensor)> = given.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
                engine.analyze_with_inputs(&model, &binding(&options.model), &given)?
            }
        };
        let plan_time = began.elapsed();
        warn_of_idle_pins(&plan);
        spinner.say("compiling");
        let began = Instant::now();
        let session = engine.session(&plan)?;
        let compile_time = began.elapsed();
        // An input that was bound as a constant is no input any more.
        let fixed = plan.fixed().to_vec();
        let mut inputs = given;
        inputs.retain(|(name, _)| !fixed.contains(name));
        for (index, port) in session.inputs().iter().enumerate() {
            if inputs.iter().any(|(name, _)| **name == *port.name) {
                continue;
            }
            let Some(seed) = options.random else {
                return Err(Failure::usage(
                    format!("input '{}' ({}{:?}) has no content", port.name, port.dtype, port.shape),
                    "give `--input NAME=FILE`, or `--random SEED` for all that have none",
                ));
            };
            // Each input has numbers of its own.
            let seed = seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9));
            inputs.push((port.name.to_string(), tensors::random(port.dtype, &port.shape, seed)?));
        }
        Ok(Prepared { engine, plan, session, inputs, fixed, load_time, plan_time, compile_time })
    }

    /// Returns the inputs in the session's order.
    pub(crate) fn ordered(&self) -> Result<Vec<Tensor>> {
        let ports = self.session.inputs().iter();
        let found = ports.map(|port| self.inputs.iter().find(|(name, _)| **name == *port.name).map(|(_, t)| t.clone()));
        found.collect::<Option<Vec<_>>>().ok_or_else(|| Failure::failed("an input is missing"))
    }

    /// Calls `run` with the session.
    /// Where a device is lost in it, calls it again with a session that does without the device,
    /// and says so.
    fn with_session<T>(&mut self, run: impl FnMut(&Arc<Session>) -> hetero::Result<T>) -> Result<T> {
        let before = self.session.clone();
        let done = self.engine.carry_on(&self.plan, &mut self.session, run);
        // A report takes longer than a run of a small model: it is made only where there is news.
        if !Arc::ptr_eq(&before, &self.session) {
            let told = before.report().moved.len();
            // The lines that were told before come first.
            self.session.report().moved.iter().skip(told).for_each(|line| eprintln!("{line}"));
        }
        Ok(done?)
    }
}

/// Runs whenever a line comes in, until the input ends.
fn on_request(prepared: &mut Prepared) -> Result<()> {
    let inputs = prepared.ordered()?;
    let mut outputs = vec![hetero::OutputBuffer::default(); prepared.session.outputs().len()];
    for line in std::io::stdin().lines() {
        line.map_err(|error| Failure::failed(format!("cannot read the standard input: {error}")))?;
        let began = Instant::now();
        prepared.with_session(|session| session.run_into(&inputs, &mut outputs))?;
        println!("{:.3}", began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}

pub(crate) fn run(options: &RunOptions) -> Result<()> {
    let spinner = Spinner::start("reading the model");
    if options.on_request {
        let mut prepared = Prepared::new(options, &spinner)?;
        drop(spinner);
        return on_request(&mut prepared);
    }
    let mut prepared = Prepared::new(options, &spinner)?;
    if let Some(count) = options.stream {
        return stream::stream(options, &mut prepared, spinner, count as usize);
    }
    spinner.say("running");
    let inputs = prepared.inputs.clone();
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    for _ in 0..options.warmup {
        prepared.with_session(|session| session.run(&inputs))?;
    }
    let mut times = Vec::with_capacity(options.repeat as usize);
    let mut outputs = None;
    for _ in 0..options.repeat {
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
    let Prepared { plan, session, fixed, load_time, plan_time, compile_time, .. } = prepared;
    drop(spinner);
    let outputs = outputs.ok_or_else(|| Failure::failed("nothing was run"))?;
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, &error))?;
        for (name, tensor) in outputs.iter() {
            tensors::write_npy(&tensors::output_path(folder, name), tensor)?;
        }
    }
    let latencies = Latencies::new(times);
    let report = session.report();
    if options.output.json {
        let described = outputs
            .iter()
            .map(|(name, tensor)| json!({ "name": name, "dtype": tensor.dtype().name(), "shape": tensor.shape() }));
        println!(
            "{}",
            json!({
                "latency_us": latencies.json(),
                "load_ms": milliseconds(load_time),
                "plan_ms": milliseconds(plan_time),
                "compile_ms": milliseconds(compile_time),
                "arena_bytes": report.arena_bytes,
                "resident_bytes": report.resident_bytes,
                "partitions": report.partitions,
                "placement": report.placement,
                "shares": shares_json(session.placement()),
                "moved": report.moved,
                "edges": edges(&report),
                "tiles": tiles(&report),
                "notes": plan.notes(),
                "assumed_one": plan.assumed(),
                "bound_as_constants": fixed,
                "outputs": described.collect::<Vec<_>>(),
            })
        );
        return Ok(());
    }
    summary(&plan);
    println!("{}", session.placement());
    print_report(&report);
    if !fixed.is_empty() {
        println!("    inputs bound as constants, because shapes depend on them: {}", fixed.join(", "));
    }
    for (name, tensor) in outputs.iter() {
        println!("output {name}: {}{:?}", tensor.dtype(), tensor.shape());
    }
    println!(
        "latency of {} runs: min {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0} µs; arena {} bytes",
        options.repeat,
        latencies.microseconds(0.0),
        latencies.microseconds(0.5),
        latencies.microseconds(0.9),
        latencies.microseconds(0.99),
        report.arena_bytes
    );
    Ok(())
}

/// Returns the binding by `--shape`; open dimensions are taken as 1.
fn binding(model: &ModelOptions) -> Binding {
    Binding { shapes: model.shapes.iter().cloned().collect(), default_size: Some(1), ..Binding::default() }
}
