//! `hetero calibrate`: measures devices, and the ways between them, and keeps the result as a
//! profile.

mod cases;
mod models;
mod plans;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use hetero::comm::{
    Absent, DeviceProfile, LinkProfile, MeasureOptions, OperatorProfile, Profile, Spread, Usability, measure,
};
use hetero::hal::{
    BindingTable, BufferLayout, CompileOptions, Device, DeviceId, DeviceInfo, Direction, Error, Execution, Extents,
    Quality, Queue, QueueOptions, Result, Source, Timeline, TraceSink, Work,
};
use hetero::{Family, HeteroEngine, Session, Tensor};
use hetero_conformance::Case;
use hetero_reference::Standard;
use serde_json::json;

use plans::{Comparison, Plans};

use crate::arguments::CalibrateOptions;
use crate::devices;
use crate::failure::{self, Failure};
use crate::progress::Spinner;

/// The number of runs of a case, at least and at most.
const RUNS: (usize, usize) = (5, 500);
/// The number of runs before time is taken, and the seconds after which one run is enough.
const WARM_UP: (usize, f64) = (2, 1.0);
/// The seed of models' inputs; no kernel's time depends on it.
const SEED: u64 = 1;
/// The longest that a device may stay silent, or compile a case.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn calibrate(options: &CalibrateOptions) -> failure::Result<()> {
    let named = options.out.clone().or_else(|| options.devices.profile.clone()).or_else(Profile::default_path);
    let Some(path) = named else {
        return Err(Failure::usage("there is no cache folder for the profile", "name a file with `--out FILE`"));
    };
    let mut engine = HeteroEngine::new()?;
    devices::add_all(&mut engine, &options.devices)?;
    let spinner = Spinner::start("measuring");
    if options.check {
        let profile = Profile::load(&path).map_err(|error| Failure::failed(error.to_string()))?;
        return check(&engine, &profile, options, spinner);
    }
    let older = older(&path);
    let known = |device: &DeviceInfo| {
        older.as_ref().is_some_and(|profile| {
            profile.usability(device) == Usability::Fits
                && profile.device(&device.id).is_some_and(|device| !device.operators.is_empty())
        })
    };
    let mut profile = Profile::new();
    let seconds = Duration::from_secs(options.seconds.into());
    // With models, the profile keeps what it knows of single operators and of the ways between
    // devices.
    let stays = !options.models.is_empty() && engine.devices().iter().all(|device| known(device.info()));
    if stays {
        profile.devices = engine.devices().iter().map(|device| DeviceProfile::new(device.info())).collect();
    } else {
        general(&engine, &mut profile, seconds, &spinner)?;
    }
    if let Some(older) = older {
        profile.keep(older);
    }
    for (model, device) in pairs(&engine, options) {
        spinner.say(format!("measuring {} on {}", model.display(), device.id));
        let measured = models::measure(model, device, &options.devices, seconds / 10, &profile);
        let own = profile.devices.iter_mut().find(|own| own.id == device.id);
        match measured {
            Ok(measured) => own.into_iter().for_each(|own| own.take_nodes(measured.nodes())),
            Err(error) => eprintln!("{} on {}: not measured: {error}", model.display(), device.id),
        }
    }
    drop(spinner);
    profile.save(&path).map_err(|error| Failure::failed(error.to_string()))?;
    if options.output.json {
        println!("{}", profile.to_json().map_err(|error| Failure::failed(error.to_string()))?);
        return Ok(());
    }
    let measured = |id: &DeviceId| engine.devices().iter().any(|device| device.info().id == *id);
    profile.devices.iter().filter(|device| measured(&device.id)).for_each(print_device);
    profile.links.iter().filter(|_| !stays).for_each(|link| println!("{}", link_line(link)));
    println!("written to {}", path.display());
    Ok(())
}

/// Measures operators by themselves, and the ways between devices.
fn general(engine: &HeteroEngine, profile: &mut Profile, seconds: Duration, spinner: &Spinner) -> failure::Result<()> {
    let cases: Arc<[Case]> = cases::all().map_err(hetero::Error::from)?.into();
    for device in engine.devices() {
        spinner.say(format!("measuring operators on {}", device.info().id));
        profile.devices.push(operators(device, &cases, seconds));
    }
    let limits = MeasureOptions { per_link: seconds / 20, ..MeasureOptions::default() };
    profile.links = measure(engine.devices(), engine.fleet().transports(), &limits, &mut |link| {
        spinner.say(format!("measuring from {} to {}", link.from, link.to));
    });
    Ok(())
}

/// Returns each model with each device.
fn pairs<'a>(
    engine: &'a HeteroEngine,
    options: &'a CalibrateOptions,
) -> impl Iterator<Item = (&'a Path, &'a DeviceInfo)> {
    let devices = engine.devices().iter().map(|device| device.info());
    options.models.iter().flat_map(move |model| devices.clone().map(move |device| (model.as_path(), device)))
}

/// Compares what a profile says of models with what they take now.
fn check(
    engine: &HeteroEngine,
    profile: &Profile,
    options: &CalibrateOptions,
    spinner: Spinner,
) -> failure::Result<()> {
    let seconds = Duration::from_secs(options.seconds.into()) / 10;
    let mut checks = Vec::new();
    for (model, device) in pairs(engine, options) {
        spinner.say(format!("measuring {} on {}", model.display(), device.id));
        match models::measure(model, device, &options.devices, seconds, profile) {
            Ok(measured) => checks.push(measured.check(model, device, profile)),
            Err(error) => eprintln!("{} on {}: not measured: {error}", model.display(), device.id),
        }
    }
    let comparison = Comparison {
        devices: engine.devices().iter().map(|device| device.info()).collect(),
        options: &options.devices,
        profile,
        cuts: options.cuts,
        seed: options.seed,
        seconds: seconds / 4,
    };
    let mut plans = Vec::new();
    for model in options.models.iter().filter(|_| comparison.devices.len() > 1) {
        spinner.say(format!("running plans of {}", model.display()));
        match comparison.of(model) {
            Ok(compared) => plans.push(compared),
            Err(error) => eprintln!("{}: no plan was run: {error}", model.display()),
        }
    }
    drop(spinner);
    let medians = models::Check::medians(&checks);
    let split = Plans::summary(&plans);
    if options.output.json {
        let rows: Vec<_> = checks.iter().map(models::Check::json).collect();
        let devices: Vec<_> = medians
            .iter()
            .map(|(device, known, held_out)| json!({ "device": device, "known": known, "held_out": held_out }))
            .collect();
        let split = split.map(|(count, median, most)| json!({ "count": count, "median": median, "most": most }));
        let plans: Vec<_> = plans.iter().map(Plans::json).collect();
        println!("{}", json!({ "checks": rows, "medians": devices, "plans": plans, "split": split }));
        return Ok(());
    }
    println!("errors of predictions: with all that the profile knows, then without what it knows of nodes like these");
    println!("{}", models::Check::heading());
    checks.iter().for_each(|check| println!("{}", check.line()));
    for (device, known, held_out) in medians {
        println!("{device}: median error {:.1} %, without nodes like these {:.1} %", known * 100.0, held_out * 100.0);
    }
    if !plans.is_empty() {
        println!("\nwhole plans\n{}", Plans::heading());
        plans.iter().flat_map(Plans::lines).for_each(|line| println!("{line}"));
    }
    if let Some((count, median, most)) = split {
        println!("{count} split plans: median error {:.1} %, largest {:.1} %", median * 100.0, most * 100.0);
    }
    Ok(())
}

/// Returns the profile that is there already.
fn older(path: &Path) -> Option<Profile> {
    if !path.exists() {
        return None;
    }
    Profile::load(path).map_err(|error| eprintln!("the old profile is replaced: {error}")).ok()
}

/// The messages of a device's thread.
enum News {
    Submission(Spread),
    Operator(OperatorProfile),
    Absent(Absent),
}

/// Measures a device.
/// It does so on a thread of its own, as a driver's call may never return.
fn operators(device: &Arc<dyn Device>, cases: &Arc<[Case]>, seconds: Duration) -> DeviceProfile {
    let mut profile = DeviceProfile::new(device.info());
    let (sender, news) = mpsc::channel();
    let gave_up = |profile: &mut DeviceProfile, reason: String| {
        let told = profile.operators.len() + profile.absent.len();
        for case in cases.iter().skip(told) {
            profile.absent.push(absent(case, reason.clone()));
        }
    };
    let (measured, list) = (device.clone(), cases.clone());
    let task = move || tell(&*measured, &list, seconds, &sender);
    if let Err(error) = std::thread::Builder::new().name("hetero-calibrate".to_owned()).spawn(task) {
        gave_up(&mut profile, format!("no thread to measure with: {error}"));
        return profile;
    }
    loop {
        match news.recv_timeout(seconds + PATIENCE * 2) {
            Ok(News::Submission(spread)) => profile.submission = Some(spread),
            Ok(News::Operator(operator)) => profile.operators.push(operator),
            Ok(News::Absent(absent)) => profile.absent.push(absent),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                gave_up(&mut profile, "the device did not answer".to_owned());
                return profile;
            }
        }
    }
    gave_up(&mut profile, "the device's thread ended early".to_owned());
    profile
}

fn family(case: &Case) -> String {
    Family::of(&case.operator).map_or("none", Family::name).to_owned()
}

fn absent(case: &Case, reason: String) -> Absent {
    Absent { family: family(case), case: case.name.clone(), reason }
}

/// Measures everything, and sends one message for each case, in order.
/// Where nobody listens any more, the rest is not worth the time.
fn tell(device: &dyn Device, cases: &[Case], seconds: Duration, sender: &Sender<News>) {
    let began = Instant::now();
    let bench = match Bench::new(device) {
        Ok(bench) => bench,
        Err(error) => {
            cases.iter().for_each(|case| drop(sender.send(News::Absent(absent(case, error.to_string())))));
            return;
        }
    };
    if let Some(spread) = bench.submission(seconds / 100).ok().flatten() {
        let _ = sender.send(News::Submission(spread));
    }
    for (index, case) in cases.iter().enumerate() {
        // The time that one case does not need is left to the others.
        let share = seconds.saturating_sub(began.elapsed()) / u32::try_from(cases.len() - index).unwrap_or(1);
        let outcome = if share.is_zero() {
            Err(Error::new(hetero::hal::ErrorKind::Timeout, "no time was left"))
        } else {
            bench.case(case, share)
        };
        let news = match outcome {
            Ok(operator) => News::Operator(operator),
            Err(error) => News::Absent(absent(case, error.to_string())),
        };
        if sender.send(news).is_err() {
            return;
        }
    }
}

/// Times something again and again until the time is over, within the given least and most numbers
/// of runs.
fn repeat<E>(
    (least, most): (usize, usize),
    share: Duration,
    mut once: impl FnMut() -> std::result::Result<Duration, E>,
) -> std::result::Result<Vec<Duration>, E> {
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < most && (times.len() < least || began.elapsed() < share) {
        times.push(once()?);
    }
    Ok(times)
}

/// Sorts values, and returns the one in the middle, or the upper one of two.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Does something before its time is taken: the first time touches pages, and compiles code that a
/// driver compiles lazily.
fn warm_up<E>(mut once: impl FnMut() -> std::result::Result<Duration, E>) -> std::result::Result<(), E> {
    for _ in 0..WARM_UP.0 {
        if once()?.as_secs_f64() > WARM_UP.1 {
            break;
        }
    }
    Ok(())
}

/// Returns the time of a run.
fn timed(session: &Session, inputs: &[Tensor], trace: Option<&Arc<dyn TraceSink>>) -> failure::Result<Duration> {
    let mut outputs = vec![hetero::OutputBuffer::default(); session.outputs().len()];
    let began = Instant::now();
    session.run_traced(inputs, &mut outputs, trace)?;
    Ok(began.elapsed())
}

/// A device with a queue, ready to be timed.
struct Bench<'a> {
    device: &'a dyn Device,
    queue: Arc<dyn Queue>,
    timeline: Timeline,
}

impl<'a> Bench<'a> {
    fn new(device: &'a dyn Device) -> Result<Self> {
        let queue = device.queue(&QueueOptions { name: "calibrate".to_owned(), capacity: None })?;
        Ok(Bench { device, queue, timeline: device.timeline(0)? })
    }

    /// Times pieces of work, one after the other, until the time is over.
    fn times(&self, work: &Work, share: Duration) -> Result<Vec<Duration>> {
        let deadline = Instant::now() + share + PATIENCE;
        let once = || -> Result<Duration> {
            let done = self.timeline.at(self.timeline.value() + 1);
            let began = Instant::now();
            self.queue.run(&[], work.clone(), std::slice::from_ref(&done), deadline)?;
            Ok(began.elapsed())
        };
        let start = Instant::now();
        warm_up(&once)?;
        repeat(RUNS, share.saturating_sub(start.elapsed()), once)
    }

    /// Returns the time of the smallest piece of work.
    fn submission(&self, share: Duration) -> Result<Option<Spread>> {
        let target = self.device.allocate(BufferLayout::new(64))?;
        Ok(Spread::of(&self.times(&Work::fill(target, [0u8; 4]), share)?))
    }

    fn case(&self, case: &Case, share: Duration) -> Result<OperatorProfile> {
        let (program, inputs) = hetero_conformance::program(case)?;
        let claims = self.device.claims(&program);
        let Some(claim) = claims.first() else { return Err(Error::unsupported("the device does not claim it")) };
        let options = CompileOptions { deadline: Some(Instant::now() + PATIENCE), ..CompileOptions::default() };
        let executable = self.device.compile(Source::Program(&program), &options)?;
        let mut given = inputs.iter();
        let mut bindings = Vec::new();
        for info in executable.bindings() {
            let buffer = self.device.allocate(BufferLayout::new(info.bytes))?;
            if info.direction == Direction::Input {
                let tensor = given.next().ok_or_else(|| Error::internal("a case lacks an input"))?;
                buffer.write(0, tensor.bytes())?;
            }
            bindings.push(buffer);
        }
        let scratch = executable.scratch();
        let scratch = if scratch.bytes > 0 { Some(self.device.allocate(scratch)?) } else { None };
        let extents = (!program.extents().is_empty()).then(|| Arc::new(Extents::new(program.extents().len())));
        let table = BindingTable::new(bindings);
        let execution = Execution::new(executable, table).with_scratch(scratch).with_extents(extents);
        let times = self.times(&Work::execute(execution), share)?;
        let node = program.nodes().first().ok_or_else(|| Error::internal("a case has no node"))?;
        Ok(OperatorProfile {
            family: family(case),
            case: case.name.clone(),
            slow: claim.quality != Quality::Native,
            flops: hetero::flops(&program, node, &Standard),
            bytes: hetero::bytes(&program, node),
            seconds: Spread::of(&times).ok_or_else(|| Error::internal("nothing was timed"))?,
        })
    }
}

fn print_device(device: &DeviceProfile) {
    let emulated = if device.emulated { ", emulated: its times say nothing about a chip" } else { "" };
    let submission = device.submission.map_or_else(
        || "unknown".to_owned(),
        |spread| format!("{:.1} ± {:.1} µs", spread.median * 1e6, spread.deviation * 1e6),
    );
    println!("{} ({}, driver {}{emulated})", device.id, device.name, device.driver_version);
    println!("    {:<20} {submission}", "submission");
    for family in Family::ALL {
        let of = |name: &str| name == family.name();
        let runs: Vec<&OperatorProfile> = device.operators.iter().filter(|run| of(&run.family)).collect();
        let missing: Vec<&Absent> = device.absent.iter().filter(|absent| of(&absent.family)).collect();
        let best = |work: fn(&OperatorProfile) -> u64| {
            runs.iter().map(|run| work(run) as f64 / run.seconds.median.max(1e-9) / 1e9).fold(0.0, f64::max)
        };
        let mut line = format!("    {:<20} {} cases", family.name(), runs.len());
        if !runs.is_empty() {
            line += &format!(", up to {:.1} GFLOP/s and {:.1} GB/s", best(|run| run.flops), best(|run| run.bytes));
        }
        if let Some(first) = missing.first() {
            line += &format!("; {} absent: {}", missing.len(), first.reason);
        }
        println!("{line}");
    }
}

fn link_line(link: &LinkProfile) -> String {
    let mut line = format!("{} -> {}  {:<10}", link.from, link.to, link.transport);
    let ends = [link.samples.first(), link.samples.get(1..).and_then(<[_]>::last)];
    for sample in ends.into_iter().flatten() {
        let (median, deviation) = (sample.seconds.median * 1e6, sample.seconds.deviation * 1e6);
        line += &format!("  {} KiB: {median:.1} ± {deviation:.1} µs", sample.bytes >> 10);
    }
    if let Some(reason) = &link.stopped {
        line += &format!("  ({reason})");
    }
    line
}
