//! Devices that die, hang or have no memory: one error names the device, nothing hangs, and the
//! plan goes on without it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod fakes;

use std::sync::Arc;
use std::time::Duration;

use fakes::{CHAIN, CHAIN_PLACES, Fake, FakeDriver, chain, close, engine_with, model, tensor};
use hetero::hal::ErrorKind;
use hetero::{DeviceOptions, Error, Examination, HeteroEngine, Tensor};
use hetero_layers::{Fault, Faulty};

fn faulty(ordinal: usize, fault: Fault, placement: &str) -> HeteroEngine {
    let fakes = vec![Fake::default(), Fake::without_import(), Fake::default()];
    engine_with(fakes, placement.parse().unwrap(), |driver| Arc::new(Faulty::over(driver).with(ordinal, fault)))
}

fn device_error(error: Error) -> hetero::hal::Error {
    match error {
        Error::Device(error) => error,
        other => panic!("{other}"),
    }
}

/// The submissions of each device in a run of the chain: a transfer of each value that is copied,
/// and the partitions.
const SUBMISSIONS: [u64; 3] = [2, 2, 2];

fn losses() -> Vec<(usize, Fault)> {
    let mut all = Vec::new();
    for (ordinal, count) in SUBMISSIONS.into_iter().enumerate() {
        // The faults come in the submissions of the first run, and in those of the second.
        for submission in 0..2 * count {
            all.push((ordinal, Fault::Lose { submission }));
            all.push((ordinal, Fault::LoseRunning { submission }));
        }
    }
    all
}

#[test]
fn a_device_that_dies_at_any_step_is_named_and_replaced() {
    let x = tensor(30, 0.3);
    for (ordinal, fault) in losses() {
        let id = format!("fake:{ordinal}");
        // The session alone fails with an error.
        let engine = faulty(ordinal, fault, CHAIN_PLACES);
        let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
        let session = engine.session(&plan).unwrap();
        let failed = (0..3).find_map(|_| session.run(&[("x", x.clone())]).err());
        let error = device_error(failed.unwrap_or_else(|| panic!("{id} {fault}: it was not lost")));
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{id} {fault}: {error}");
        assert_eq!(error.device().unwrap().to_string(), id, "{fault}: {error}");
        // The engine runs the same plan without the device.
        for _ in 0..2 {
            close(engine.run(&[("x", x.clone())], &plan).unwrap().tensor("y").unwrap(), &chain(&x));
        }
        let report = engine.session(&plan).unwrap().report();
        assert!(!report.placement.values().any(|device| **device == *id), "{id} {fault}");
        assert_eq!(report.moved.len(), 1, "{:?}", report.moved);
        assert!(report.moved[0].contains(&format!("of {id} moved to")), "{:?}", report.moved);
        assert_eq!(engine.lost().len(), 1);
    }
}

#[test]
fn a_device_that_dies_in_a_stream_is_replaced() {
    let inputs: Vec<[Tensor; 1]> = (0..12).map(|i| [tensor(30, i as f32)]).collect();
    for (ordinal, fault) in losses() {
        let engine = faulty(ordinal, fault, CHAIN_PLACES);
        let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
        let mut session = engine.session(&plan).unwrap();
        let mut outputs = Vec::new();
        let mut losses = 0;
        while outputs.len() < inputs.len() {
            // The inputs whose outputs have not come out are pushed again.
            let outcome = (|| {
                let mut stream = session.stream(3);
                for input in &inputs[outputs.len()..] {
                    outputs.extend(stream.push(input)?);
                }
                while let Some(output) = stream.pull()? {
                    outputs.push(output);
                }
                Ok(())
            })();
            if let Err(error) = outcome {
                losses += 1;
                session = engine.recover(&plan, &session, error).unwrap();
            }
        }
        assert_eq!(losses, 1, "fake:{ordinal} {fault}");
        inputs.iter().zip(&outputs).for_each(|([x], output)| close(output.tensor("y").unwrap(), &chain(x)));
    }
}

#[test]
fn two_devices_may_die_and_the_last_may_not() {
    let fakes = vec![Fake::default(), Fake::default(), Fake::default()];
    let lose = |submission| Fault::Lose { submission };
    let engine = engine_with(fakes, CHAIN_PLACES.parse().unwrap(), |driver| {
        Arc::new(Faulty::over(driver).with(0, lose(0)).with(1, Fault::LoseRunning { submission: 0 }).with(2, lose(3)))
    });
    let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
    let x = tensor(30, 0.0);
    close(engine.run(&[("x", x.clone())], &plan).unwrap().tensor("y").unwrap(), &chain(&x));
    assert_eq!(engine.lost().len(), 2);
    let failed = (0..4).find_map(|_| engine.run(&[("x", x.clone())], &plan).err()).unwrap();
    let said = failed.to_string();
    assert!(said.contains("fake:2") && said.contains("no other device can take over"), "{said}");
}

#[test]
fn a_device_that_hangs_is_named_when_the_deadline_passes() {
    for (ordinal, submissions) in SUBMISSIONS.into_iter().enumerate() {
        for submission in 0..submissions {
            let driver =
                Faulty::over(Arc::new(FakeDriver(vec![Fake::default(), Fake::without_import(), Fake::default()])));
            let mut engine = HeteroEngine::builder()
                .driver(Arc::new(driver.with(ordinal, Fault::Hang { submission })))
                .examination(Examination::off())
                .place(CHAIN_PLACES.parse().unwrap())
                .deadline(Duration::from_millis(150))
                .build();
            for id in ["fake:0", "fake:1", "fake:2"] {
                engine.add_device(id, DeviceOptions::default()).unwrap();
            }
            let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
            let error = device_error(engine.run(&[("x", tensor(30, 0.0))], &plan).err().unwrap());
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert_eq!(error.device().unwrap().to_string(), format!("fake:{ordinal}"), "{submission}: {error}");
        }
    }
}

#[test]
fn no_memory_and_no_compiler_are_told_or_worked_around() {
    let x = tensor(30, 0.0);
    let engine = faulty(1, Fault::OutOfMemory { allocation: 0 }, CHAIN_PLACES);
    let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
    let error = device_error(engine.run(&[("x", x.clone())], &plan).err().unwrap());
    assert!(error.kind() == ErrorKind::OutOfMemory && error.device().unwrap().to_string() == "fake:1", "{error}");
    // Memory is there again.
    close(engine.run(&[("x", x.clone())], &plan).unwrap().tensor("y").unwrap(), &chain(&x));
    // A node that is pinned does not move silently; a node that is not pinned moves.
    let compile = Fault::Compile { compilation: 0 };
    let engine = faulty(1, compile, CHAIN_PLACES);
    let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
    let error = device_error(engine.run(&[("x", x.clone())], &plan).err().unwrap());
    assert!(error.kind() == ErrorKind::Compile && error.operator() == Some("two (Abs)"), "{error}");
    let free = faulty(0, compile, "five=fake:1");
    let plan = free.analyze_model(&model(30, &CHAIN)).unwrap();
    if plan.partitioning().partitions.iter().any(|partition| partition.device == "fake:0") {
        close(free.run(&[("x", x.clone())], &plan).unwrap().tensor("y").unwrap(), &chain(&x));
        assert_eq!(free.session(&plan).unwrap().report().moved.len(), 1);
    }
}
