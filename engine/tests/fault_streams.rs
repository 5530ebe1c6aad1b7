//! Streams over devices of which one fails: each input is answered once, in order and right, or
//! there is one clear error.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod fakes;

use std::sync::Arc;
use std::time::Duration;

use fakes::{CHAIN, Fake, FakeDriver, chain, model, tensor};
use hetero::hal::{Driver, ErrorKind};
use hetero::{DeviceOptions, Error, HeteroEngine, Model, Outputs, Session, Tensor, builtin_drivers};
use hetero_layers::{Fault, Faulty};

const LENGTH: usize = 30;
/// The longest that a run may take where nothing hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A stream through devices of which one has a fault.
struct Trial<'a> {
    devices: &'a [String],
    /// The position of the device that fails.
    faulty: usize,
    fault: Fault,
    /// The longest that a run may take where something hangs.
    patience: Duration,
}

/// The end of a stream.
struct End {
    /// The number of inputs that were answered.
    answered: usize,
    /// The number of sessions that were made anew without a device.
    recovered: usize,
    error: Option<Error>,
}

/// The faults, early, in the middle and late in a stream of so many inputs.
fn faults(inputs: u64) -> Vec<Fault> {
    let late = [0, 1, inputs / 2, inputs - 1];
    let mut all = vec![Fault::Delay { most: Duration::from_micros(200), seed: 7 }];
    all.extend(late.iter().flat_map(|&at| [Fault::Lose { submission: at }, Fault::LoseRunning { submission: at }]));
    all.extend([0, inputs / 2].map(|submission| Fault::Hang { submission }));
    all.extend([0, 1].map(|compilation| Fault::Compile { compilation }));
    all.extend([0, 3, 5].map(|allocation| Fault::OutOfMemory { allocation }));
    all
}

fn drivers() -> Vec<Arc<dyn Driver>> {
    let mut drivers = builtin_drivers();
    drivers.push(Arc::new(FakeDriver(vec![Fake::default(), Fake::without_import()])));
    drivers
}

fn engine(trial: &Trial<'_>) -> HeteroEngine {
    let split = |id: &str| id.split_once(':').map(|(name, ordinal)| (name.to_owned(), ordinal.parse().unwrap()));
    let (failing, ordinal): (String, usize) = split(&trial.devices[trial.faulty]).unwrap();
    let hangs = matches!(trial.fault, Fault::Hang { .. });
    let nodes = CHAIN.iter().zip(trial.devices.iter().cycle());
    let places: Vec<String> = nodes.map(|((node, ..), device)| format!("{node}={device}")).collect();
    let mut builder = HeteroEngine::builder()
        .deadline(if hangs { trial.patience } else { DEADLINE })
        .place(places.join(",").parse().unwrap());
    for driver in drivers() {
        let fails = driver.name() == failing;
        builder =
            builder.driver(if fails { Arc::new(Faulty::over(driver).with(ordinal, trial.fault)) } else { driver });
    }
    let mut engine = builder.build();
    for id in trial.devices {
        engine.add_device(id, DeviceOptions::default()).unwrap();
    }
    engine
}

fn is_right(outputs: &Outputs, input: &Tensor) -> bool {
    let (values, expected) = (outputs.tensor("y").unwrap(), chain(input));
    let values = values.view::<f32>().unwrap();
    values.len() == expected.len() && values.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5)
}

/// Streams inputs until an error, and returns the number of answers before it.
/// The outputs that come after the error are of later inputs, in order and right.
fn stream(session: &Arc<Session>, inputs: &[[Tensor; 1]]) -> Result<(usize, Option<Error>), String> {
    let mut stream = session.stream(3);
    let mut answered = 0;
    let mut failed = None;
    let mut take = |outputs: &Outputs| {
        let right = inputs.get(answered).is_some_and(|[input]| is_right(outputs, input));
        answered += 1;
        if right { Ok(()) } else { Err(format!("output {} is wrong or one too many", answered - 1)) }
    };
    for input in inputs {
        match stream.push(input) {
            Ok(outputs) => outputs.iter().try_for_each(&mut take)?,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    while failed.is_none() {
        match stream.pull() {
            Ok(Some(outputs)) => take(&outputs)?,
            Ok(None) => break,
            Err(error) => failed = Some(error),
        }
    }
    let mut next = answered;
    for _ in 0..=stream.depth() {
        let Ok(Some(outputs)) = stream.pull() else { continue };
        let at = inputs[next..].iter().position(|[input]| is_right(&outputs, input));
        next += 1 + at.ok_or("an output behind an error is of no later input")?;
    }
    Ok((answered, failed))
}

/// Streams all inputs, and goes on without a device that is lost as a caller would.
fn end(trial: &Trial<'_>, model: &Model, inputs: &[[Tensor; 1]]) -> Result<End, String> {
    let engine = engine(trial);
    let plan = engine.analyze_model(model).map_err(|error| format!("the planner says: {error}"))?;
    let mut end = End { answered: 0, recovered: 0, error: None };
    let mut session = match engine.session(&plan) {
        Ok(session) => session,
        Err(error) => return Ok(End { error: Some(error), ..end }),
    };
    loop {
        let (answered, error) = stream(&session, &inputs[end.answered..])?;
        end.answered += answered;
        let Some(error) = error else { return Ok(end) };
        match engine.recover(&plan, &session, error) {
            Ok(next) => session = next,
            Err(error) => return Ok(End { error: Some(error), ..end }),
        }
        end.recovered += 1;
    }
}

/// Says what is wrong with the end of a stream, if anything is.
fn verdict(trial: &Trial<'_>, end: &End, inputs: usize) -> Result<(), String> {
    let alone = trial.devices.len() == 1;
    let (kind, must_end_well) = match trial.fault {
        Fault::Delay { .. } => (None, true),
        Fault::Lose { .. } | Fault::LoseRunning { .. } => (Some(ErrorKind::DeviceLost), !alone),
        Fault::Hang { .. } => (Some(ErrorKind::Timeout), false),
        Fault::Compile { .. } => (Some(ErrorKind::Compile), false),
        Fault::OutOfMemory { .. } => (Some(ErrorKind::OutOfMemory), false),
        other => return Err(format!("there is no rule for {other}")),
    };
    let Some(error) = &end.error else {
        let happens = matches!(trial.fault, Fault::Hang { .. }) || alone && kind == Some(ErrorKind::DeviceLost);
        if end.answered != inputs || happens {
            return Err(format!("{} of {inputs} inputs are answered, and there is no error", end.answered));
        }
        return Ok(());
    };
    let Error::Device(device_error) = error else { return Err(format!("no device is named: {error}")) };
    let named = device_error.device().map(ToString::to_string);
    if must_end_well {
        Err(format!("it should have gone on: {error}"))
    } else if Some(device_error.kind()) != kind || named.as_ref() != Some(&trial.devices[trial.faulty]) {
        Err(format!("the error is of another kind or device: {error}"))
    } else {
        Ok(())
    }
}

/// Tries every fault on each device of each set.
fn try_all(sets: &[Vec<String>], count: usize, patience: Duration) {
    let model = model(LENGTH, &CHAIN);
    let inputs: Vec<[Tensor; 1]> = (0..count).map(|number| [tensor(LENGTH, number as f32)]).collect();
    let mut wrong = Vec::new();
    for devices in sets {
        for faulty in 0..devices.len() {
            for fault in faults(count as u64) {
                let trial = Trial { devices, faulty, fault, patience };
                let name = format!("{} with {fault} on {}", devices.join(" and "), devices[faulty]);
                let outcome = end(&trial, &model, &inputs);
                if let Ok(end) = &outcome {
                    let error = end.error.as_ref().map_or_else(String::new, |error| format!("; {error}"));
                    println!("{name}: {} of {count} answered, {} recoveries{error}", end.answered, end.recovered);
                }
                if let Err(why) = outcome.and_then(|end| verdict(&trial, &end, count)) {
                    wrong.push(format!("{name}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn set<const N: usize>(devices: [&str; N]) -> Vec<String> {
    devices.map(str::to_owned).to_vec()
}

#[test]
fn a_stream_over_a_device_that_fails_is_answered_or_ends_with_one_error() {
    try_all(&[set(["cpu:0"]), set(["cpu:0", "fake:0"]), set(["fake:1", "cpu:0"])], 64, Duration::from_secs(1));
}

/// The same with the drivers that are here, alone and in pairs.
#[test]
#[ignore = "it takes minutes"]
fn a_thousand_inputs_over_drivers_that_fail_are_answered_or_end_with_one_error() {
    let found = builtin_drivers().iter().flat_map(|driver| driver.probe().unwrap_or_default()).collect::<Vec<_>>();
    found.iter().for_each(|info| println!("{}: {} ({})", info.id, info.name, info.driver_version));
    let ids: Vec<String> = found.iter().map(|info| info.id.to_string()).collect();
    if ids.iter().all(|id| id.starts_with("cpu")) {
        assert!(std::env::var_os("HETERO_REQUIRE_DRIVERS").is_none_or(|value| value != "1"), "no device but the CPU");
        println!("there is no device but the CPU");
    }
    let pairs = ids.iter().enumerate().flat_map(|(at, one)| ids[at + 1..].iter().map(move |other| [one, other]));
    let pairs = pairs.map(|pair| pair.map(Clone::clone).to_vec());
    let sets: Vec<Vec<String>> = ids.iter().map(|id| vec![id.clone()]).chain(pairs).collect();
    try_all(&sets, 1000, Duration::from_secs(3));
}
