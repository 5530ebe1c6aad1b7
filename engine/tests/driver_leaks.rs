//! 10 000 runs and 500 sessions over every device that is here, through the drivers themselves,
//! leave no memory, no threads and no files open.
//! The test is alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod fakes;
mod leak;

use std::time::{Duration, Instant};

use fakes::{model, tensor};
use hetero::{DeviceOptions, HeteroEngine, Placement, builtin_drivers};
use leak::{entries, resident, sessions, threads};

const RUNS: usize = 10_000;
const SESSIONS: usize = 500;
const LENGTH: usize = 4096;
/// The bytes that drivers' own pools may grow by.
/// A leak of one value of the model for each session, or of 2 KiB for each run, would be more.
const GROWTH: u64 = 16 << 20;

fn allocated(engine: &HeteroEngine) -> u64 {
    engine.devices().iter().filter_map(|device| device.telemetry().allocated_bytes).sum()
}

#[test]
fn ten_thousand_runs_and_five_hundred_sessions_on_every_driver_leak_nothing() {
    let others: Vec<String> = builtin_drivers()
        .iter()
        .filter(|driver| driver.name() != "cpu")
        .flat_map(|driver| driver.probe().unwrap_or_default())
        .map(|info| info.id.to_string())
        .collect();
    if others.is_empty() {
        assert!(std::env::var_os("HETERO_REQUIRE_DRIVERS").is_none_or(|value| value != "1"), "no device but the CPU");
        println!("skipped: there is no device but the CPU");
        return;
    }
    // The chain is x -> Neg -> Abs -> Neg -> Abs … -> y, on each device in turn, and back on the
    // CPU.
    let places: Vec<String> =
        std::iter::once("cpu:0".to_owned()).chain(others.iter().cloned()).chain(["cpu:0".to_owned()]).collect();
    let names: Vec<[String; 3]> = (0..places.len())
        .map(|at| {
            [format!("node{at}"), if at == 0 { "x".to_owned() } else { format!("v{at}") }, format!("v{}", at + 1)]
        })
        .collect();
    let inputs: Vec<[&str; 1]> = names.iter().map(|[_, input, _]| [&**input]).collect();
    let nodes: Vec<(&str, &str, &[&str], &str)> = names
        .iter()
        .zip(&inputs)
        .enumerate()
        .map(|(at, ([name, _, output], input))| {
            (&**name, if at % 2 == 0 { "Neg" } else { "Abs" }, &input[..], &**output)
        })
        .collect();
    let placement: Vec<String> =
        names.iter().zip(&places).map(|([name, ..], place)| format!("{name}={place}")).collect();
    let placement: Placement = placement.join(",").parse().unwrap();
    let mut engine = HeteroEngine::builder().place(placement).deadline(Duration::from_secs(120)).build();
    engine.add_device("cpu:0", DeviceOptions { threads: Some(1), ..DeviceOptions::default() }).unwrap();
    for id in &others {
        engine.add_device(id, DeviceOptions::default()).unwrap();
    }
    let model = model(LENGTH, &nodes);
    let x = tensor(LENGTH, 0.1);
    let expected: Vec<f32> = x
        .view::<f32>()
        .unwrap()
        .iter()
        .map(|&x| (0..places.len()).fold(x, |x, at| if at % 2 == 0 { -x } else { x.abs() }))
        .collect();

    let output = &*names.last().unwrap()[2];
    let plan = engine.analyze_model(&model).unwrap();
    let session = engine.session(&plan).unwrap();
    let run = |count: usize| {
        for number in 0..count {
            // Now and then a run is given up.
            if number % 100 == 0 {
                drop(session.start(std::slice::from_ref(&x)).unwrap());
            }
            let outputs = session.run(&[("x", x.clone())]).unwrap();
            if number % 500 == 0 {
                assert_eq!(outputs.tensor(output).unwrap().view::<f32>().unwrap(), expected);
            }
        }
    };
    run(500);
    let (bytes, held, files) = (resident(), allocated(&engine), entries("/proc/self/fd"));
    let began = Instant::now();
    run(RUNS);
    println!("{others:?}: {RUNS} runs in {:?}, {bytes} bytes, then {}", began.elapsed(), resident());
    assert!(resident() < bytes + GROWTH, "{bytes} bytes grew to {}", resident());
    assert_eq!((allocated(&engine), entries("/proc/self/fd")), (held, files));
    drop(session);
    drop(plan);

    sessions(&engine, &model, &x, 50);
    let (bytes, count) = (resident(), threads());
    let began = Instant::now();
    sessions(&engine, &model, &x, SESSIONS);
    println!("{SESSIONS} sessions in {:?}, {bytes} bytes, then {}", began.elapsed(), resident());
    // Given-up work may end a moment later, and queues' threads with it.
    let patience = Instant::now() + Duration::from_secs(20);
    while (allocated(&engine) > 0 || threads() > count) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(allocated(&engine), 0);
    assert!(threads() <= count, "{count} threads grew to {}", threads());
    assert!(resident() < bytes + GROWTH, "{bytes} bytes grew to {}", resident());
}
