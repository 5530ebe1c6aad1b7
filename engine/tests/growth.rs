//! 1 000 sessions that stream take no thread and no file of their own, and those that are kept take
//! a bounded memory each.
//! The test is alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod fakes;
mod leak;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fakes::{CHAIN, chain, close, model, tensor};
use hetero::{DeviceOptions, HeteroEngine, Session, Tensor};
use leak::{entries, resident, threads};

const LENGTH: usize = 64;
/// The sessions after which the process is looked at for the first time, and for the last.
const SESSIONS: (usize, usize) = (200, 1000);
/// The most bytes that a session of the chain may keep, with its plan and its contexts.
const KEPT: u64 = 128 << 10;
/// The threads that may be on their way to sleep beside those that are counted.
const SLACK: usize = 4;

/// Streams three inputs and checks their outputs.
fn stream(session: &Arc<Session>, inputs: &[[Tensor; 1]; 3]) {
    let mut stream = session.stream(2);
    let mut outputs = Vec::new();
    inputs.iter().for_each(|input| outputs.extend(stream.push(input).unwrap()));
    outputs.extend(std::iter::from_fn(|| stream.pull().unwrap()));
    assert_eq!(outputs.len(), inputs.len());
    outputs.iter().zip(inputs).for_each(|(output, [x])| close(output.tensor("y").unwrap(), &chain(x)));
}

#[test]
fn a_thousand_sessions_that_stream_take_no_thread_each() {
    let mut engine = HeteroEngine::builder().deadline(Duration::from_secs(120)).build();
    engine.add_device("cpu:0", DeviceOptions { threads: Some(2), ..DeviceOptions::default() }).unwrap();
    let model = model(LENGTH, &CHAIN);
    let inputs = [0.0, 1.0, 2.0].map(|phase| [tensor(LENGTH, phase)]);
    let mut kept = Vec::new();
    let mut first = None;
    for number in 1..=SESSIONS.1 {
        let plan = engine.analyze_model(&model).unwrap();
        let session = engine.session(&plan).unwrap();
        stream(&session, &inputs);
        // One of two sessions is dropped, and some of these with a run under way.
        if number % 2 == 0 {
            kept.push((plan, session));
        } else if number % 10 == 1 {
            drop(session.start(&inputs[0]).unwrap());
        }
        if number == SESSIONS.0 {
            first = Some((kept.len(), threads(), entries("/proc/self/fd"), resident()));
        }
    }
    let (before, at_first, files, bytes) = first.unwrap();
    let (more, grown) = ((kept.len() - before) as u64, resident().saturating_sub(bytes));
    println!("{} sessions: {at_first} threads, {files} files, {bytes} bytes", SESSIONS.0);
    println!("{} sessions: {} threads, {} bytes for each kept session", SESSIONS.1, threads(), grown / more);
    assert!(threads() <= at_first + SLACK, "{at_first} threads grew to {}", threads());
    assert_eq!(entries("/proc/self/fd"), files);
    assert!(grown < more * KEPT, "{more} sessions more took {grown} bytes");

    // All sessions have a run under way at once.
    let mut streams: Vec<_> = kept.iter().map(|(_, session)| session.stream(2)).collect();
    let mut most = 0;
    for stream in &mut streams {
        assert!(stream.push(&inputs[0]).unwrap().is_none());
        most = most.max(threads());
    }
    for stream in &mut streams {
        close(stream.pull().unwrap().unwrap().tensor("y").unwrap(), &chain(&inputs[0][0]));
    }
    println!("{} streams at once: {most} threads", streams.len());
    let places = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).saturating_mul(2).max(16);
    assert!(most <= at_first + places + SLACK, "{at_first} threads grew to {most}");
    // Threads without work end.
    let patience = Instant::now() + Duration::from_secs(60);
    while at_first > 0 && threads() >= at_first && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(threads() < at_first || at_first == 0, "{} threads stay", threads());
}
