//! Transports of one's own: sessions carry by them, reports name them, and measuring times them.

#![allow(clippy::unwrap_used)]

mod fakes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fakes::{CHAIN, Fake, FakeDriver, chain, close, model, tensor};
use hetero::comm::{Carriage, Endpoint, Inapplicable, MeasureOptions, Profile, Transport, measure};
use hetero::hal::{Buffer, DeviceId, Error, ErrorKind, Result, Work};
use hetero::{DeviceOptions, HeteroEngine, Session, Traffic};

/// A transport that counts: it copies by the host, and notes how often.
struct Counting {
    carriage: Carriage,
    /// The device that nothing is carried to.
    refused: Option<DeviceId>,
    /// Whether its copies fail.
    broken: bool,
    carried: Arc<AtomicUsize>,
}

impl Default for Counting {
    fn default() -> Self {
        Counting { carriage: Carriage::ByReceiver, refused: None, broken: false, carried: Arc::default() }
    }
}

impl Transport for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<Carriage, Inapplicable> {
        match (from.device(), to.device()) {
            (Some(_), Some(device)) if self.refused.as_ref() != Some(&device.info().id) => Ok(self.carriage),
            _ => Err(Inapplicable::Endpoint(to.id())),
        }
    }

    fn carry(&self, _: &Endpoint, _: &Endpoint, source: &Buffer, target: &Buffer) -> Result<Work> {
        let (source, target, carried, broken) = (source.clone(), target.clone(), self.carried.clone(), self.broken);
        Ok(Work::host(Arc::new(move || {
            if broken {
                return Err(Error::new(ErrorKind::Execution, "the wire is cut"));
            }
            carried.fetch_add(1, Ordering::Relaxed);
            let mut bytes = vec![0; source.len()];
            source.read(0, &mut bytes)?;
            target.write(0, &bytes)
        })))
    }
}

/// Makes an engine with these devices and transport, on which the chain crosses from `fake:0` to
/// `fake:1` and back, and back again.
fn engine(fakes: Vec<Fake>, transport: Counting, profile: Option<Profile>) -> HeteroEngine {
    let count = fakes.len();
    let places = "one=fake:0,two=fake:1,three=fake:0,four=fake:1".parse().unwrap();
    let builder = HeteroEngine::builder().driver(Arc::new(FakeDriver(fakes))).place(places);
    let builder = builder.transport(Arc::new(transport)).deadline(Duration::from_secs(60));
    let mut engine = match profile {
        Some(profile) => builder.profile(profile).build(),
        None => builder.build(),
    };
    for ordinal in 0..count {
        engine.add_device(&format!("fake:{ordinal}"), DeviceOptions::default()).unwrap();
    }
    engine
}

fn two() -> Vec<Fake> {
    vec![Fake::default(), Fake::default()]
}

fn session(engine: &HeteroEngine) -> Arc<Session> {
    engine.session(&engine.analyze_model(&model(1000, &CHAIN)).unwrap()).unwrap()
}

/// Runs the chain several times, and returns the edges there and back.
fn ran(session: &Session) -> [Traffic; 2] {
    for round in 0..3 {
        let x = tensor(1000, round as f32);
        close(session.run(&[("x", x.clone())]).unwrap().tensor("y").unwrap(), &chain(&x));
    }
    [("fake:0", "fake:1"), ("fake:1", "fake:0")]
        .map(|(from, to)| session.report().edges.into_iter().find(|edge| edge.from == from && edge.to == to).unwrap())
}

#[test]
fn a_registered_transport_carries_and_the_report_names_it() {
    for carriage in [Carriage::ByReceiver, Carriage::BySender] {
        let transport = Counting { carriage, ..Counting::default() };
        let carried = transport.carried.clone();
        let fakes = two();
        let queued = [0, 1].map(|device: usize| fakes[device].transfers.clone());
        let session = session(&engine(fakes, transport, None));
        let [there, back] = ran(&session);
        assert_eq!((there.values, there.zero_copy_bytes, there.staged_bytes), (2, 0, 8000));
        assert_eq!((there.transports, back.transports), (vec!["counting".to_owned()], vec!["counting".to_owned()]));
        assert_eq!(there.reason.as_deref(), Some("counting is registered in front of zero-copy"));
        // In each of three runs, two values go there and one comes back.
        assert_eq!(carried.load(Ordering::Relaxed), 9);
        let counts = queued.map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, if carriage == Carriage::ByReceiver { [3, 6] } else { [6, 3] });
    }
}

#[test]
fn a_transport_that_refuses_a_pair_is_passed_over() {
    let refused = || Some(DeviceId::new("fake", 0));
    let transport = Counting { refused: refused(), ..Counting::default() };
    let carried = transport.carried.clone();
    let [there, back] = ran(&session(&engine(two(), transport, None)));
    assert_eq!((there.transports, back.transports), (vec!["counting".to_owned()], vec!["zero-copy".to_owned()]));
    assert_eq!((back.zero_copy_bytes, back.reason), (4000, None));
    assert_eq!(carried.load(Ordering::Relaxed), 6);
    // Where nothing is in place either, the last of the standard transports carries.
    let transport = Counting { refused: refused(), ..Counting::default() };
    let [_, back] = ran(&session(&engine(vec![Fake::default(), Fake::without_import()], transport, None)));
    assert_eq!((back.transports, back.staged_bytes), (vec!["staged".to_owned()], 4000));
    assert_eq!(back.reason.as_deref(), Some("fake:1 imports no host memory"));
}

/// Measuring times the registered transport as it does the standard ones, and a session takes the
/// quickest of all that were measured.
#[test]
fn a_registered_transport_is_measured_and_the_profile_decides() {
    let transport = Counting::default();
    let carried = transport.carried.clone();
    let first = engine(two(), transport, None);
    let options = MeasureOptions { sizes: vec![4096], ..MeasureOptions::default() };
    let options = MeasureOptions { per_link: Duration::from_millis(200), ..options };
    let mut profile = Profile::new();
    profile.devices = first.devices().iter().map(|device| hetero::comm::DeviceProfile::new(device.info())).collect();
    profile.links = measure(first.devices(), first.fleet().transports(), &options, &mut |_| ());
    let counting = profile.links.iter().filter(|link| link.transport == "counting");
    assert!(counting.clone().count() == 2 && counting.clone().all(|link| !link.samples.is_empty()), "{profile:?}");
    assert!(carried.load(Ordering::Relaxed) > 10);
    // With times that are told apart, the quickest carries.
    for (quickest, other) in [("counting", "zero-copy"), ("zero-copy", "counting")] {
        let mut profile = profile.clone();
        profile.links.retain(|link| link.transport == quickest || link.transport == other);
        for link in &mut profile.links {
            link.samples[0].seconds.median = if link.transport == quickest { 1e-6 } else { 9e-6 };
        }
        let [there, back] = ran(&session(&engine(two(), Counting::default(), Some(profile))));
        assert_eq!((there.transports, back.transports), (vec![quickest.to_owned()], vec![quickest.to_owned()]));
    }
}

#[test]
fn a_transport_that_fails_fails_the_run_and_nothing_hangs() {
    let session = session(&engine(two(), Counting { broken: true, ..Counting::default() }, None));
    let error = session.run(&[("x", tensor(1000, 0.0))]).unwrap_err();
    assert!(error.to_string().contains("the wire is cut"), "{error}");
    assert!(session.run(&[("x", tensor(1000, 0.0))]).is_err());
}
