//! `hetero calibrate`: measures devices, and the ways between them, and keeps the result as a
//! profile.

mod cases;
mod job;
mod models;
mod operators;
pub(crate) mod options;
mod plans;
mod report;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::comm::{DeviceProfile, MeasureOptions, Profile, Usability, measure};
use hetero::hal::{DeviceId, DeviceInfo, TraceSink};
use hetero::{HeteroEngine, Session, Tensor};
use hetero_conformance::Case;
use serde_json::json;

use job::Job;
use plans::{Comparison, Plans};
use report::{link_line, print_device};

use crate::arguments::CalibrateOptions;
use crate::failure::{self, Failure};
use crate::output::{document, note, say};
use crate::progress::Spinner;

/// The number of runs of a case, at least and at most.
const RUNS: (usize, usize) = (5, 500);
/// The number of runs before time is taken, and the seconds after which one run is enough.
const WARM_UP: (usize, f64) = (2, 1.0);
/// The seed of models' inputs; no kernel's time depends on it.
const SEED: u64 = 1;

pub(crate) fn calibrate(options: &CalibrateOptions) -> failure::Result<()> {
    let Job { path, engine } = Job::new(options)?;
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
            Err(error) => note!("{} on {}: not measured: {error}", model.display(), device.id),
        }
    }
    spinner.say("writing the profile");
    let saved = profile.save(&path);
    drop(spinner);
    saved.map_err(|error| Failure::failed(error.to_string()))?;
    if options.output.json {
        document(profile.to_json().map_err(|error| Failure::failed(error.to_string()))?)?;
        return Ok(());
    }
    let measured = |id: &DeviceId| engine.devices().iter().any(|device| device.info().id == *id);
    profile.devices.iter().filter(|device| measured(&device.id)).try_for_each(print_device)?;
    profile.links.iter().filter(|_| !stays).try_for_each(|link| say!("{}", link_line(link)))?;
    say!("written to {}", path.display())?;
    Ok(())
}

/// Measures operators by themselves, and the ways between devices.
fn general(engine: &HeteroEngine, profile: &mut Profile, seconds: Duration, spinner: &Spinner) -> failure::Result<()> {
    let cases: Arc<[Case]> = cases::all().map_err(hetero::Error::from)?.into();
    for device in engine.devices() {
        spinner.say(format!("measuring operators on {}", device.info().id));
        profile.devices.push(operators::operators(device, &cases, seconds));
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
            Err(error) => note!("{} on {}: not measured: {error}", model.display(), device.id),
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
            Err(error) => note!("{}: no plan was run: {error}", model.display()),
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
        document(json!({ "checks": rows, "medians": devices, "plans": plans, "split": split }))?;
        return Ok(());
    }
    say!("errors of predictions: with all that the profile knows, then without what it knows of nodes like these")?;
    say!("{}", models::Check::heading())?;
    checks.iter().try_for_each(|check| say!("{}", check.line()))?;
    for (device, known, held_out) in medians {
        say!("{device}: median error {:.1} %, without nodes like these {:.1} %", known * 100.0, held_out * 100.0)?;
    }
    if !plans.is_empty() {
        say!()?;
        say!("whole plans")?;
        say!("{}", Plans::heading())?;
        plans.iter().flat_map(Plans::lines).try_for_each(|line| say!("{line}"))?;
    }
    if let Some((count, median, most)) = split {
        say!("{count} split plans: median error {:.1} %, largest {:.1} %", median * 100.0, most * 100.0)?;
    }
    Ok(())
}

/// Returns the profile that is there already.
fn older(path: &Path) -> Option<Profile> {
    if !path.exists() {
        return None;
    }
    Profile::load(path).map_err(|error| note!("the old profile is replaced: {error}")).ok()
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
