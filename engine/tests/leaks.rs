//! 10 000 runs and 500 sessions leave no memory and no threads behind.
//! The test is alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used)]

mod fakes;
mod leak;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fakes::{CHAIN, CHAIN_PLACES, Fake, engine_with, model, tensor};
use hetero::HeteroEngine;
use hetero_layers::{Fault, Faulty};
use leak::{resident, sessions, threads};

fn allocated(engine: &HeteroEngine) -> Vec<u64> {
    engine.devices().iter().map(|device| device.telemetry().allocated_bytes.unwrap()).collect()
}

#[test]
fn ten_thousand_runs_and_five_hundred_sessions_leak_nothing() {
    let length = 4096;
    let fakes = vec![Fake::default(), Fake::without_import(), Fake::default()];
    let delay = Fault::Delay { most: Duration::ZERO, seed: 0 };
    let engine =
        engine_with(fakes, CHAIN_PLACES.parse().unwrap(), |driver| Arc::new(Faulty::over(driver).with(1, delay)));
    let x = tensor(length, 0.1);
    let model = model(length, &CHAIN);
    let plan = engine.analyze_model(&model).unwrap();
    let session = engine.session(&plan).unwrap();
    let run = |count: usize| {
        for number in 0..count {
            // Now and then a run is given up.
            if number % 100 == 0 {
                drop(session.start(std::slice::from_ref(&x)).unwrap());
            }
            session.run(&[("x", x.clone())]).unwrap();
        }
    };
    run(200);
    let (before, bytes) = (allocated(&engine), resident());
    run(10_000);
    assert_eq!(allocated(&engine), before);
    // A leak of one value in a run of ten, or in a session, would be more than that.
    assert!(resident() < bytes + (4 << 20), "{bytes} bytes grew to {}", resident());
    drop(session);
    drop(plan);
    sessions(&engine, &model, &x, 20);
    let bytes = resident();
    sessions(&engine, &model, &x, 500);
    // Given-up work may end a moment later, and queues' threads with it.
    let patience = Instant::now() + Duration::from_secs(20);
    while (allocated(&engine).iter().any(|&bytes| bytes > 0) || threads() > 40) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(allocated(&engine), [0, 0, 0]);
    assert!(threads() <= 40, "{} threads", threads());
    assert!(resident() < bytes + (4 << 20), "{bytes} bytes grew to {}", resident());
}
