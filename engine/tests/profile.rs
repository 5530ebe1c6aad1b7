//! Planning with measurements: the CPU and null devices, with various profiles of them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hetero::comm::{DeviceProfile, LinkProfile, OperatorProfile, Profile, Sample, Spread};
use hetero::hal::{DType, DeviceId, Graph, Node, Operator, TensorType, Value, ValueId};
use hetero::{DeviceOptions, Family, HeteroEngine, Model};
use hetero_null::NullDriver;

/// Makes x -> Exp -> Relu -> Exp -> y, over a million floats.
fn model() -> Model {
    let value = |index: usize| Value {
        name: format!("v{index}").into(),
        ty: TensorType::exact(DType::F32, &[1 << 20]),
        constant: None,
    };
    let node = |(index, name): (usize, &&str)| Node {
        name: format!("{name}{index}").into(),
        operator: Operator::new(name, 17),
        inputs: vec![Some(ValueId(index as u32))],
        outputs: vec![Some(ValueId(index as u32 + 1))],
    };
    Model {
        graph: Graph {
            name: "chain".into(),
            values: (0..4).map(value).collect(),
            nodes: ["Exp", "Relu", "Exp"].iter().enumerate().map(node).collect(),
            inputs: vec![ValueId(0)],
            outputs: vec![ValueId(3)],
            captures: vec![],
        },
        opsets: [("".into(), 17)].into(),
        ..Model::default()
    }
}

fn spread(median: f64) -> Spread {
    Spread { median, deviation: 0.0, count: 9 }
}

/// Makes an engine with the CPU, on which a million elements take 10 ms, and a null device, on
/// which they take 1 µs.
/// A transfer between them takes `transfer` seconds.
fn engine(transfer: f64, change: impl Fn(&mut Profile)) -> HeteroEngine {
    let mut probe = HeteroEngine::builder().driver(Arc::new(NullDriver)).build();
    let mut profile = Profile::new();
    for (id, seconds) in [("cpu:0", 10e-3), ("null:0", 1e-6)] {
        probe.add_device(id, DeviceOptions::default()).unwrap();
        let mut device = DeviceProfile::new(probe.devices().last().unwrap().info());
        device.operators = [1u64 << 10, 1 << 20]
            .map(|count| OperatorProfile {
                family: Family::Elementwise.name().to_owned(),
                case: format!("Relu {count}"),
                slow: false,
                flops: count,
                bytes: count * 8,
                seconds: spread(seconds * count as f64 / f64::from(1 << 20)),
            })
            .into();
        profile.devices.push(device);
    }
    for (from, to) in [("cpu", "null"), ("null", "cpu")] {
        profile.links.push(LinkProfile {
            from: DeviceId::new(from, 0),
            to: DeviceId::new(to, 0),
            transport: "staged".into(),
            samples: [4096, 1 << 22].map(|bytes| Sample { bytes, seconds: spread(transfer) }).into(),
            stopped: None,
        });
    }
    change(&mut profile);
    let mut engine = HeteroEngine::builder().driver(Arc::new(NullDriver)).profile(profile).build();
    for id in ["cpu:0", "null:0"] {
        engine.add_device(id, DeviceOptions::default()).unwrap();
    }
    engine
}

fn relu_runs_on(engine: &HeteroEngine) -> String {
    engine.analyze_model(&model()).unwrap().placement()["Relu1"].to_owned()
}

#[test]
fn costs_and_edges_are_those_of_the_profile() {
    let near = engine(1e-5, |_| ());
    assert_eq!(relu_runs_on(&near), "null:0");
    let edge = near.topology().edge(&DeviceId::new("cpu", 0), &DeviceId::new("null", 0));
    assert_eq!((edge.latency.map(|time| time.as_micros()), edge.bandwidth), (Some(10), Some(f64::INFINITY)));
    assert_eq!(relu_runs_on(&engine(20e-3, |_| ())), "cpu:0");
}

#[test]
fn another_driver_or_product_is_planned_for_by_guesses() {
    for change in [(|profile| profile.devices[1].driver_version = "older".into()) as fn(&mut Profile), |profile| {
        profile.devices[1].name = "another".into()
    }] {
        let engine = engine(20e-3, change);
        let edge = engine.topology().edge(&DeviceId::new("cpu", 0), &DeviceId::new("null", 0));
        assert_eq!((edge.latency, edge.bandwidth), (None, None));
        // The CPU's measured 10 ms stand against a guess of about 2 ms and two unmeasured
        // transfers.
        assert_eq!(relu_runs_on(&engine), "null:0");
    }
}

/// Inputs come from the host once and outputs go back once, by the ways that were measured.
#[test]
fn what_passes_between_host_and_device_counts() {
    let link = |from: &str, to: &str, seconds: f64| LinkProfile {
        from: DeviceId::new(from, 0),
        to: DeviceId::new(to, 0),
        transport: "staged".into(),
        samples: [4096, 1 << 22].map(|bytes| Sample { bytes, seconds: spread(seconds) }).into(),
        stopped: None,
    };
    let seconds = |engine: &HeteroEngine| engine.analyze_model(&model()).unwrap().partitioning().estimated_makespan;
    let without = seconds(&engine(20e-3, |_| ()));
    let with = engine(20e-3, |profile| profile.links.extend([link("host", "cpu", 3e-3), link("cpu", "host", 5e-3)]));
    assert!((seconds(&with) - without - 8e-3).abs() < 1e-9, "{} {without}", seconds(&with));
}
