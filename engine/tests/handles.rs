//! Handles that own all that they need, runs of bounded number, outputs in the caller's memory, and
//! traces.

#![allow(clippy::unwrap_used, clippy::panic)]

mod fakes;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use fakes::{CHAIN, CHAIN_PLACES, Fake, chain, close, engine, model, tensor};
use hetero::comm::host_buffer;
use hetero::hal::{DType, ErrorKind, HostMemory, TraceEvent, TraceKind, TraceSink};
use hetero::{Config, DeviceOptions, Error, HeteroEngine, HostOutput, OutputBuffer, Report, Session, Tensor};

const COUNT: usize = 1000;

/// Makes a session of a chain on `cpu:0`.
fn on_cpu(config: &str, limit: Option<u64>) -> Result<Arc<Session>, Error> {
    let builder = limit.map_or_else(HeteroEngine::builder, |bytes| HeteroEngine::builder().memory_limit(bytes));
    let builder = builder.config(Config::parse(config, "test").unwrap());
    let mut engine = builder.build();
    engine.add_device("cpu:0", DeviceOptions::default())?;
    let plan = engine.analyze_model(&model(COUNT, &CHAIN))?;
    engine.session(&plan)
}

fn device(error: Error) -> hetero::hal::Error {
    match error {
        Error::Device(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn runs_and_streams_outlive_their_engine_and_move_to_other_threads() {
    let session = {
        let engine = engine(vec![Fake::default(), Fake::default(), Fake::default()], CHAIN_PLACES);
        let plan = engine.analyze_model(&model(COUNT, &CHAIN)).unwrap();
        engine.session(&plan).unwrap()
    };
    let x = tensor(COUNT, 0.0);
    let run = session.start(std::slice::from_ref(&x)).unwrap();
    let mut stream = session.stream(2);
    drop(session);
    let expected = chain(&x);
    std::thread::spawn(move || {
        close(run.finish().unwrap().tensor("y").unwrap(), &expected);
        assert!(stream.push(std::slice::from_ref(&x)).unwrap().is_none());
        close(stream.pull().unwrap().unwrap().tensor("y").unwrap(), &expected);
    })
    .join()
    .unwrap();
}

#[test]
fn no_more_runs_are_under_way_than_the_configuration_allows() {
    let session = on_cpu("scheduling: { max_in_flight: 2 }", None).unwrap();
    assert_eq!((session.max_in_flight(), session.stream(9).depth()), (2, 2));
    let x = [tensor(COUNT, 0.0)];
    let (first, second) = (session.start(&x).unwrap(), session.start(&x).unwrap());
    let refused = device(session.start(&x).err().unwrap());
    assert!(refused.is_retryable() && refused.remedy().unwrap().contains("max_in_flight"), "{refused}");
    close(first.finish().unwrap().tensor("y").unwrap(), &chain(&x[0]));
    session.start(&x).unwrap().finish().unwrap();
    // A run that was given up makes room too.
    drop(second);
    session.start(&x).unwrap();
    // Runs on threads wait for their turn.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| close(session.run(&[("x", x[0].clone())]).unwrap().tensor("y").unwrap(), &chain(&x[0])));
        }
    });
}

#[test]
fn the_memory_of_all_runs_that_may_be_under_way_has_to_fit() {
    let refused = |config: &str, limit: u64| device(on_cpu(config, Some(limit)).err().unwrap());
    let held = refused("{}", 1000).sizes().unwrap().requested;
    let limit = held * 5 / 2;
    assert_eq!(on_cpu("{}", Some(limit)).unwrap().max_in_flight(), 2);
    assert_eq!(on_cpu("scheduling: { max_in_flight: 2 }", Some(limit)).unwrap().max_in_flight(), 2);
    let error = refused("scheduling: { max_in_flight: 3 }", limit);
    let sizes = error.sizes().unwrap();
    assert_eq!((error.kind(), sizes.requested, sizes.available), (ErrorKind::OutOfMemory, held * 3, Some(limit)));
    assert!(error.message().contains("3 runs") && error.remedy().unwrap().contains("max_in_flight"), "{error}");
}

fn read(output: &HostOutput) -> Tensor {
    let mut bytes = vec![0; COUNT * 4];
    host_buffer(output.memory.clone()).read(0, &mut bytes).unwrap();
    Tensor::from_bytes(DType::F32, &output.shape, bytes.into()).unwrap()
}

fn out(report: &Report) -> (u64, u64) {
    let edge = report.edges.iter().find(|edge| edge.to == "host").unwrap();
    (edge.zero_copy_bytes, edge.staged_bytes)
}

#[test]
fn outputs_are_written_into_the_callers_pages_where_the_device_imports_them() {
    let session = on_cpu("{}", None).unwrap();
    let bytes = COUNT as u64 * 4;
    let mut pages = [0, 1].map(|_| [HostOutput::new(HostMemory::allocate(COUNT * 4).unwrap())]);
    let mut copied = [OutputBuffer::default()];
    for round in 0..6 {
        let x = [tensor(COUNT, round as f32)];
        let target = &mut pages[round % 2];
        session.run_to(&x, target).unwrap();
        close(&read(&target[0]), &chain(&x[0]));
        assert_eq!(out(&session.report()), (bytes, 0));
        // A run into other memory leaves the pages alone.
        let other = [tensor(COUNT, 100.0 + round as f32)];
        session.run_into(&other, &mut copied).unwrap();
        close(&read(&target[0]), &chain(&x[0]));
        let copy = Tensor::from_bytes(DType::F32, &copied[0].shape, copied[0].bytes.clone().into()).unwrap();
        close(&copy, &chain(&other[0]));
    }
    // Memory that is short, or that nobody may write, is refused before anything runs.
    let short = HostOutput::new(HostMemory::allocate(COUNT * 4).unwrap().slice(0..COUNT).unwrap());
    let constant = HostOutput::new(HostMemory::constant(vec![0; COUNT * 4].into()));
    for wrong in [short, constant] {
        let error = device(session.run_to(&[tensor(COUNT, 0.0)], &mut [wrong]).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

/// The elements of a chain whose result is long enough to be written in place.
const LONG: usize = 20_000;

#[test]
fn large_results_are_written_in_place_and_their_pages_serve_again_once_nobody_holds_them() {
    let mut engine = HeteroEngine::builder().build();
    engine.add_device("cpu:0", DeviceOptions::default()).unwrap();
    let plan = engine.analyze_model(&model(LONG, &CHAIN)).unwrap();
    let session = engine.session(&plan).unwrap();
    let x = |phase: f32| [tensor(LONG, phase)];
    let address = |outputs: &hetero::Outputs| outputs.tensor("y").unwrap().bytes().as_ptr();
    let first = session.run_ordered(&x(0.0)).unwrap();
    assert_eq!(out(&session.report()), (LONG as u64 * 4, 0));
    // While a result is held, no other run writes to it.
    let second = session.run_ordered(&x(1.0)).unwrap();
    assert_ne!(address(&first), address(&second));
    close(first.tensor("y").unwrap(), &chain(&x(0.0)[0]));
    let (place, part) = (address(&first), first.tensor("y").unwrap().bytes().slice(8..16));
    let bytes = part.to_vec();
    drop(first);
    session.run_ordered(&x(2.0)).unwrap();
    assert_eq!(part, bytes, "a part of a result is still held");
    drop(part);
    let pages: Vec<_> = (3..5).map(|phase| session.run_ordered(&x(phase as f32)).unwrap()).collect();
    assert!(pages.iter().any(|outputs| address(outputs) == place));
    // Runs under way together have pages of their own, and results outlive the session.
    let runs: Vec<_> = (5..8).map_while(|phase| session.start(&x(phase as f32)).ok()).collect();
    assert!(runs.len() > 1);
    let results: Vec<_> = runs.into_iter().map(|run| run.finish().unwrap()).collect();
    drop((session, engine));
    for (phase, outputs) in (5..).zip(&results) {
        close(outputs.tensor("y").unwrap(), &chain(&x(phase as f32)[0]));
    }
    close(second.tensor("y").unwrap(), &chain(&x(1.0)[0]));
}

#[test]
fn outputs_are_copied_into_the_callers_pages_where_the_device_imports_none() {
    let fake = || Fake { imports: false, ..Fake::default() };
    let engine = engine(vec![fake(), fake(), fake()], CHAIN_PLACES);
    let plan = engine.analyze_model(&model(COUNT, &CHAIN)).unwrap();
    let session = engine.session(&plan).unwrap();
    let x = [tensor(COUNT, 0.0)];
    let mut pages = [HostOutput::new(HostMemory::allocate(COUNT * 4).unwrap())];
    session.run_to(&x, &mut pages).unwrap();
    close(&read(&pages[0]), &chain(&x[0]));
    assert_eq!(out(&session.report()), (0, COUNT as u64 * 4));
}

/// A record of a trace: the device, the kind, the nodes, begin and end.
type Told = (String, TraceKind, Vec<String>, Instant, Instant);

#[derive(Default)]
struct Recorder(Mutex<Vec<Told>>);

impl TraceSink for Recorder {
    fn event(&self, event: &TraceEvent<'_>) {
        let nodes = event.nodes.iter().map(ToString::to_string).collect();
        let told = (event.device.to_string(), event.kind, nodes, event.begin, event.end);
        self.0.lock().unwrap().push(told);
    }
}

#[test]
fn a_traced_run_tells_of_each_node_within_the_run_and_of_transfers_and_waits() {
    // No device imports memory, so that values are copied from device to device.
    let fake = || Fake { imports: false, ..Fake::default() };
    let engine = engine(vec![fake(), fake(), fake()], CHAIN_PLACES);
    let plan = engine.analyze_model(&model(COUNT, &CHAIN)).unwrap();
    let session = engine.session(&plan).unwrap();
    let x = [tensor(COUNT, 0.0)];
    let recorder = Arc::new(Recorder::default());
    let sink: Arc<dyn TraceSink> = recorder.clone();
    let began = Instant::now();
    let mut outputs = [OutputBuffer::default()];
    session.run_traced(&x, &mut outputs, Some(&sink)).unwrap();
    let ended = Instant::now();
    let told = recorder.0.lock().unwrap();
    let mut nodes: Vec<&str> = told.iter().flat_map(|(_, _, nodes, ..)| nodes).map(String::as_str).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["four", "one", "three", "two"]);
    assert!(told.iter().all(|(_, _, _, begin, end)| began <= *begin && begin <= end && *end <= ended));
    // A value passes between devices three times, through the host, and each device that needs it
    // waits.
    let count = |wanted: TraceKind| told.iter().filter(|(_, kind, ..)| *kind == wanted).count();
    assert_eq!(count(TraceKind::Transfer) + count(TraceKind::Host), 3);
    assert!(count(TraceKind::Wait) > 0);
    let report = session.report();
    let waits: usize = report.edges.iter().map(|edge| edge.host_waits).sum();
    assert!(waits >= 3 && report.edges.iter().all(|edge| edge.native_waits == 0), "{:?}", report.edges);
}
