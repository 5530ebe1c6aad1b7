//! What an engine makes of devices that do not pass their examination.

#![allow(clippy::unwrap_used, clippy::panic)]

mod fakes;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use fakes::{Fake, FakeDriver, model, tensor};
use hetero::hal::{DeviceId, ErrorKind, OpenOptions, Unavailable, UnavailableReason};
use hetero::{Builder, Config, DeviceOptions, Error, Examination, FailureKind, HeteroEngine, Policy};
use hetero_layers::{Fault, Faulty};

fn builder(examination: Examination) -> Builder {
    let fakes = FakeDriver(vec![Fake::default(), Fake::default()]);
    let driver = Faulty::over(Arc::new(fakes)).with(1, Fault::Wrong);
    HeteroEngine::builder().driver(Arc::new(driver)).examination(examination)
}

/// An engine that examines `fake:0`, which is right, and `fake:1`, which computes wrongly.
fn engine() -> HeteroEngine {
    builder(Examination::here().kept_in(None)).build()
}

#[test]
fn a_device_that_computes_wrongly_is_unavailable_with_reason_and_remedy() {
    let mut engine = engine();
    engine.add_device("fake:0", DeviceOptions::default()).unwrap();
    for policy in [Policy::Allow, Policy::Require] {
        let error = engine.add_device_with("fake:1", DeviceOptions::default(), policy).unwrap_err();
        let Error::Device(error) = error else { panic!("{error}") };
        assert_eq!((error.kind(), error.device()), (ErrorKind::Unavailable, Some(&DeviceId::new("fake", 1))));
        let why = error.source().and_then(|source| source.downcast_ref::<Unavailable>()).unwrap();
        assert_eq!(why.reason, UnavailableReason::Untrusted);
        let text = error.to_string();
        assert!(text.contains("wrong results") && text.contains("normalised error"), "{text}");
        assert!(text.contains("install another version of the driver"), "{text}");
    }
    assert_eq!(engine.devices().len(), 1);
}

#[test]
fn a_preferred_device_that_computes_wrongly_drops_out_and_the_run_goes_on_elsewhere() {
    let mut engine = engine();
    engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
    let there = engine.add_device_with("fake:1", DeviceOptions::default(), Policy::Prefer).unwrap();
    assert_eq!(there, None);
    let plan = engine.analyze_model(&model(5, &[("neg", "Neg", &["x"], "y")])).unwrap();
    let note = &plan.notes()[0];
    assert!(note.starts_with("fake:1 is not used: not to be trusted: wrong results: "), "{note}");
    engine.run(&[("x", tensor(5, 0.1))], &plan).unwrap();
}

#[test]
fn a_device_that_nobody_named_drops_out_with_a_note_and_one_that_the_configuration_names_does_not() {
    let id = DeviceId::new("fake", 1);
    let mut engine = engine();
    assert_eq!(engine.add_default_device(&id, OpenOptions::default()).unwrap(), None);
    assert_eq!(engine.fleet().absent()[0].device, id);
    assert!(engine.add_default_device(&DeviceId::new("fake", 0), OpenOptions::default()).unwrap().is_some());
    let config = Config::parse("devices: { \"fake:1\": allow }", "test").unwrap();
    let mut engine = builder(Examination::here().kept_in(None)).config(config).build();
    let error = engine.add_default_devices(&OpenOptions::default()).unwrap_err();
    assert!(error.to_string().contains("wrong results"), "{error}");
}

#[test]
fn a_driver_that_hangs_is_given_up_and_said_so() {
    let hangs = Faulty::over(Arc::new(FakeDriver(vec![Fake::default()]))).with(0, Fault::HangCompile);
    let examination = Examination::here().kept_in(None).within(Duration::from_millis(200));
    let mut engine = HeteroEngine::builder().driver(Arc::new(hangs)).examination(examination).build();
    let error = engine.add_device("fake:0", DeviceOptions::default()).unwrap_err();
    assert!(error.to_string().contains("did not end within 0.2 s"), "{error}");
}

#[test]
fn a_fault_that_is_told_is_no_reason_against_a_device() {
    let lost = Faulty::over(Arc::new(FakeDriver(vec![Fake::default()]))).with(0, Fault::Lose { submission: 0 });
    let examination = Examination::here().kept_in(None);
    let mut engine = HeteroEngine::builder().driver(Arc::new(lost)).examination(examination.clone()).build();
    let id = engine.add_device("fake:0", DeviceOptions::default()).unwrap();
    let verdict = engine.examine(&examination, &id, &DeviceOptions::default()).unwrap();
    assert!(verdict.failure.is_none() && verdict.passed.is_empty() && !verdict.refused.is_empty(), "{verdict}");
}

#[test]
fn examinations_can_be_turned_off_and_done_anew_and_hetero_does_not_examine_itself() {
    let mut off = builder(Examination::off()).build();
    off.add_device("fake:1", DeviceOptions::default()).unwrap();
    let engine = engine();
    let examine = |examination: &Examination, id: &str| {
        engine.examine(examination, &id.parse().unwrap(), &DeviceOptions::default())
    };
    assert_eq!(examine(&Examination::off(), "fake:1"), None);
    let kept = Examination::here().kept_in(None);
    let first = examine(&kept, "fake:1").unwrap();
    assert_eq!(first.failure.as_ref().unwrap().kind, FailureKind::Wrong);
    assert_eq!(examine(&kept, "fake:1").unwrap(), first, "the time that it took is the same");
    assert_ne!(examine(&kept.clone().anew(), "fake:1").unwrap().seconds, first.seconds);
    assert_eq!((examine(&kept, "cpu:0"), examine(&kept, "fake:7"), examine(&kept, "tpu:0")), (None, None, None));
}
