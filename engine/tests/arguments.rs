//! Arguments that are too large for sums and lists end in an error or are taken as very large.

#![allow(clippy::unwrap_used)]

mod fakes;

use std::sync::Arc;
use std::time::Duration;

use fakes::{close, model, tensor};
use hetero::{Config, HeteroEngine};

fn ones() -> hetero::Model {
    let nodes: [(&str, &str, &[&str], &str); 3] =
        [("left", "Neg", &["x"], "a"), ("sum", "Add", &["a", "x"], "b"), ("right", "Exp", &["b"], "y")];
    model(8, &nodes)
}

#[test]
fn a_deadline_that_no_clock_can_represent_is_a_very_late_one() {
    let mut engine = HeteroEngine::builder().deadline(Duration::MAX).build();
    engine.add_device("cpu:0", hetero::DeviceOptions::default()).unwrap();
    let plan = engine.analyze_model(&ones()).unwrap();
    let session = Arc::new(engine.session(&plan).unwrap());
    close(session.run(&[("x", tensor(8, 0.5))]).unwrap().tensor("y").unwrap(), &[1.0; 8]);
    let mut stream = session.stream(0);
    assert!(stream.push(&[tensor(8, 0.5)]).unwrap().is_none());
    close(stream.pull().unwrap().unwrap().tensor("y").unwrap(), &[1.0; 8]);
}

#[test]
fn a_stream_of_any_depth_takes_memory_for_the_runs_that_are_under_way() {
    let text = format!("scheduling: {{max_in_flight: {}}}", i64::MAX);
    let mut engine = HeteroEngine::builder().config(Config::parse(&text, "test").unwrap()).build();
    engine.add_device("cpu:0", hetero::DeviceOptions::default()).unwrap();
    let plan = engine.analyze_model(&ones()).unwrap();
    // Runs that cannot have their memory at once are refused with sizes.
    match engine.session(&plan) {
        Ok(session) => {
            let mut stream = Arc::new(session).stream(usize::MAX);
            assert!(stream.push(&[tensor(8, 0.5)]).unwrap().is_none());
            close(stream.pull().unwrap().unwrap().tensor("y").unwrap(), &[1.0; 8]);
        }
        Err(error) => assert!(error.to_string().contains("runs at once"), "{error}"),
    }
}
