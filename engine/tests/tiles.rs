//! Tiles of matrix products over several devices, which take them from each other; the devices are
//! synthetic.

#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use std::sync::Arc;
use std::time::Duration;

use hetero::hal::ErrorKind;
use hetero::{Error, HeteroEngine, Outputs, Plan, Session, Tensor};
use hetero_layers::{Fault, Faulty};
use synthetic::{Speed, engine, engine_with, product, tensor};

/// The sizes m, k and n of a product that is cut into 64 tiles of 16 by 16.
const SIZES: [usize; 3] = [128, 32, 128];

fn inputs(phase: f32) -> [(&'static str, Tensor); 2] {
    let [m, k, n] = SIZES;
    [("a", tensor(&[m, k], phase)), ("b", tensor(&[k, n], 0.5 - phase))]
}

/// Computes relu(a·b) in the plain way.
fn expected(inputs: &[(&str, Tensor)], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let (a, b) = (inputs[0].1.view::<f32>().unwrap(), inputs[1].1.view::<f32>().unwrap());
    let element = |i: usize, j: usize| (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum::<f64>();
    (0..m * n).map(|at| element(at / n, at % n).max(0.0) as f32).collect()
}

fn check(outputs: &Outputs, expected: &[f32]) {
    let y = outputs.tensor("y").unwrap().view::<f32>().unwrap();
    assert_eq!(y.len(), expected.len());
    y.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
}

/// Returns the number of tiles that each device was given, did, and took from others.
fn shares(session: &Session) -> Vec<[usize; 3]> {
    session.report().tiles.iter().map(|share| [share.planned, share.done, share.stolen]).collect()
}

fn plan(engine: &HeteroEngine) -> Plan {
    engine.analyze_model(&product(SIZES, None)).unwrap()
}

#[test]
fn tiles_over_two_devices_compute_what_one_does() {
    let engine = engine(&[Speed::ms(0).planned(1), Speed::ms(0).planned(1)], 16);
    let plan = plan(&engine);
    let session = engine.session(&plan).unwrap();
    for run in 0..20 {
        let inputs = inputs(run as f32);
        check(&session.run(&inputs).unwrap(), &expected(&inputs, SIZES));
        let shares = shares(&session);
        assert_eq!(shares.iter().map(|share| share[1]).sum::<usize>(), 64, "{shares:?}");
        assert_eq!(shares.iter().map(|share| share[0]).collect::<Vec<_>>(), [32, 32]);
    }
    // The plan is read again from JSON, with its tiles.
    let again = engine.load_plan(&product(SIZES, None), &plan.to_json().unwrap()).unwrap();
    let inputs = inputs(0.2);
    check(&engine.run(&inputs, &again).unwrap(), &expected(&inputs, SIZES));
}

#[test]
fn constants_and_ragged_edges() {
    let sizes = [50, 20, 37];
    let inputs = [("a", tensor(&[50, 20], 0.1)), ("b", tensor(&[20, 37], 0.3))];
    let engine = engine(&[Speed::ms(1), Speed::ms(1)], 8);
    let plan = engine.analyze_model(&product(sizes, Some(inputs[1].1.clone()))).unwrap();
    assert_eq!(plan.partitioning().partitions.iter().filter(|partition| partition.tiles.is_some()).count(), 7 * 5);
    for _ in 0..3 {
        check(&engine.run(&inputs[..1], &plan).unwrap(), &expected(&inputs, sizes));
    }
}

#[test]
fn who_is_slower_than_planned_is_relieved() {
    let engine = engine(&[Speed::ms(1), Speed::ms(10).planned(1)], 16);
    let session = engine.session(&plan(&engine)).unwrap();
    let inputs = inputs(0.3);
    check(&session.run(&inputs).unwrap(), &expected(&inputs, SIZES));
    let [quick, slow] = shares(&session)[..] else { panic!() };
    assert_eq!((quick[0], slow[0], quick[1] + slow[1]), (32, 32, 64));
    assert!(quick[2] >= 15 && slow[2] == 0, "{quick:?} {slow:?}");
}

#[test]
fn several_runs_are_under_way() {
    let engine = engine(&[Speed::ms(0).planned(1), Speed::ms(0).planned(1)], 16);
    let session = engine.session(&plan(&engine)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let session = &session;
            scope.spawn(move || {
                for run in 0..5 {
                    let inputs = inputs((thread * 10 + run) as f32);
                    check(&session.run(&inputs).unwrap(), &expected(&inputs, SIZES));
                }
            });
        }
    });
    let all: Vec<_> = (0..8).map(|run| inputs(run as f32)).collect();
    let mut stream = session.stream(3);
    let mut outputs = Vec::new();
    for inputs in &all {
        outputs.extend(stream.push(&[inputs[0].1.clone(), inputs[1].1.clone()]).unwrap());
    }
    while let Some(output) = stream.pull().unwrap() {
        outputs.push(output);
    }
    all.iter().zip(&outputs).for_each(|(inputs, output)| check(output, &expected(inputs, SIZES)));
    // A run that is given up leaves the session as it was.
    let inputs = inputs(0.4);
    drop(session.start(&[inputs[0].1.clone(), inputs[1].1.clone()]).unwrap());
    check(&session.run(&inputs).unwrap(), &expected(&inputs, SIZES));
}

#[test]
fn a_device_without_imports_keeps_its_tiles() {
    let speeds = [Speed::ms(1), Speed { imports: false, ..Speed::ms(1) }];
    let engine = engine(&speeds, 16);
    let session = engine.session(&plan(&engine)).unwrap();
    let inputs = inputs(0.3);
    check(&session.run(&inputs).unwrap(), &expected(&inputs, SIZES));
    assert_eq!(shares(&session), [[0; 3]; 0]);
}

#[test]
fn tiles_of_one_device_alone_run_as_their_product() {
    for constant in [false, true] {
        let inputs = inputs(0.6);
        let engine = engine(&[Speed::ms(1)], 16);
        let model = product(SIZES, constant.then(|| inputs[1].1.clone()));
        let plan = engine.analyze_model(&model).unwrap();
        assert_eq!(plan.partitioning().partitions.iter().filter(|partition| partition.tiles.is_some()).count(), 64);
        let session = engine.session(&plan).unwrap();
        let given = if constant { &inputs[..1] } else { &inputs[..] };
        check(&session.run(given).unwrap(), &expected(&inputs, SIZES));
        assert_eq!((session.report().partitions, shares(&session)), (1, vec![[64, 64, 0]]));
        let again = engine.load_plan(&model, &plan.to_json().unwrap()).unwrap();
        check(&engine.run(given, &again).unwrap(), &expected(&inputs, SIZES));
    }
}

#[test]
fn a_device_that_dies_among_its_tiles_is_named_and_replaced() {
    for ordinal in [0, 1] {
        for submission in [0, 1, 2, 7, 20, 31] {
            for fault in [Fault::Lose { submission }, Fault::LoseRunning { submission }] {
                let faulty = || {
                    engine_with(&[Speed::ms(1), Speed::ms(1)], 16, Duration::from_secs(30), |driver| {
                        Arc::new(Faulty::over(driver).with(ordinal, fault))
                    })
                };
                let inputs = inputs(0.7);
                let engine = faulty();
                let session = engine.session(&plan(&engine)).unwrap();
                let failed = (0..3).find_map(|_| session.run(&inputs).err());
                let Some(Error::Device(error)) = failed else { panic!("{ordinal} {fault}: {failed:?}") };
                assert_eq!(error.kind(), ErrorKind::DeviceLost, "{ordinal} {fault}: {error}");
                assert_eq!(error.device().unwrap().to_string(), format!("synthetic:{ordinal}"), "{fault}: {error}");
                let engine = faulty();
                let plan = plan(&engine);
                for _ in 0..3 {
                    check(&engine.run(&inputs, &plan).unwrap(), &expected(&inputs, SIZES));
                }
                assert_eq!(engine.lost().len(), 1, "{ordinal} {fault}");
            }
        }
    }
}

#[test]
fn a_device_that_hangs_in_a_tile_is_named_when_the_deadline_passes() {
    for ordinal in [0, 1] {
        let fault = Fault::Hang { submission: 9 };
        let engine = engine_with(&[Speed::ms(1), Speed::ms(1)], 16, Duration::from_millis(400), |driver| {
            Arc::new(Faulty::over(driver).with(ordinal, fault))
        });
        let session = engine.session(&plan(&engine)).unwrap();
        let Err(Error::Device(error)) = session.run(&inputs(0.7)) else { panic!("it does not hang") };
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert_eq!(error.device().unwrap().to_string(), format!("synthetic:{ordinal}"), "{error}");
    }
}

#[test]
fn a_tiled_plan_is_explained() {
    let engine = engine(&[Speed::ms(1), Speed::ms(1)], 16);
    let plan = plan(&engine);
    engine.explain(&plan, hetero::scheduler::Effort::time(Duration::from_millis(50))).unwrap();
}
