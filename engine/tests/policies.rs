//! Policies of devices: what it means that a device is required, preferred or allowed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod fakes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fakes::{CHAIN, Fake, FakeDriver, chain, close, model, tensor};
use hetero::hal::{Device, DeviceInfo, Driver, ErrorKind, Node, Program, Quality, Unavailable};
use hetero::{Binding, CostModel, DeviceOptions, Error, HeteroEngine, Plan, Policy, Tensor};
use hetero_layers::{Fault, Faulty};

/// The seconds of each node on the fake devices, by their number; estimates may be off by a
/// quarter.
struct Seconds([f64; 2]);

impl CostModel for Seconds {
    fn seconds(&self, _: &Program, _: &Node, device: &DeviceInfo, _: &Quality) -> f64 {
        self.0[device.id.ordinal()]
    }
}

/// Makes an engine of two devices with these costs of a node and these policies.
fn engine_of(driver: Arc<dyn Driver>, seconds: [f64; 2], policies: [Policy; 2]) -> HeteroEngine {
    let mut engine = HeteroEngine::builder().driver(driver).cost_model(Arc::new(Seconds(seconds))).build();
    for (ordinal, policy) in policies.into_iter().enumerate() {
        let id = format!("fake:{ordinal}");
        assert!(engine.add_device_with(&id, DeviceOptions::default(), policy).unwrap().is_some());
    }
    engine
}

fn engine(seconds: [f64; 2], policies: [Policy; 2]) -> HeteroEngine {
    engine_of(Arc::new(FakeDriver(vec![Fake::default(), Fake::default()])), seconds, policies)
}

/// Returns the share of nodes that the second device has.
fn second(plan: &Plan) -> f64 {
    let shares = plan.shares();
    shares.devices.iter().find(|share| share.device.ordinal() == 1).map_or(0.0, |share| share.of_nodes)
}

#[test]
fn a_required_device_that_is_missing_is_an_error() {
    let mut engine = HeteroEngine::builder().driver(Arc::new(FakeDriver(vec![Fake::default()]))).build();
    for id in ["fake:7", "tpu:0"] {
        let error = engine.add_device_with(id, DeviceOptions::default(), Policy::Require).unwrap_err().to_string();
        assert!(error.contains(id) && error.contains("it is required, and"), "{error}");
    }
}

#[test]
fn a_preferred_device_that_is_missing_drops_out_with_a_line() {
    let mut engine = HeteroEngine::builder().driver(Arc::new(FakeDriver(vec![Fake::default()]))).build();
    assert_eq!(engine.add_device_with("tpu:0", DeviceOptions::default(), Policy::Prefer).unwrap(), None);
    assert!(engine.add_device_with("fake:0", DeviceOptions::default(), Policy::Prefer).unwrap().is_some());
    let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
    assert!(plan.notes()[0].starts_with("tpu:0 is not used: no driver 'tpu'"), "{:?}", plan.notes());
    let x = tensor(30, 0.0);
    close(engine.run(&[("x", x.clone())], &plan).unwrap().tensor("y").unwrap(), &chain(&x));
    // A text that is no device's id, and a device that was added already, are mistakes whatever the
    // policy.
    for id in ["::", "fake:0"] {
        assert!(engine.add_device_with(id, DeviceOptions::default(), Policy::Prefer).is_err(), "{id}");
    }
    assert!(engine.add_device_with("tpu:0", DeviceOptions::default(), Policy::Allow).is_err());
}

#[test]
fn a_required_device_that_gets_nothing_is_an_error_with_the_reason() {
    let said = |engine: &HeteroEngine| match engine.analyze_model(&model(30, &CHAIN)) {
        Err(Error::Required { device, reason }) => {
            assert_eq!(device, "fake:1");
            reason
        }
        Err(other) => panic!("{other}"),
        Ok(plan) => panic!("{:?}", plan.placement()),
    };
    let policies = [Policy::Allow, Policy::Require];
    let slower = said(&engine([1.0, 10.0], policies));
    assert!(slower.contains("it takes 4 of the model's 4 nodes") && slower.contains("clearly sooner"), "{slower}");
    let idle = FakeDriver(vec![Fake::default(), Fake { idle: true, ..Fake::default() }]);
    let idle = said(&engine_of(Arc::new(idle), [1.0, 1.0], policies));
    assert!(idle.contains("it takes none of the model's 4 nodes"), "{idle}");
    let driver = Arc::new(FakeDriver(vec![Fake::default(), Fake::default()]));
    let mut pinned = HeteroEngine::builder().driver(driver).place("*=fake:0".parse().unwrap()).build();
    pinned.add_device("fake:0", DeviceOptions::default()).unwrap();
    pinned.add_device_with("fake:1", DeviceOptions::default(), Policy::Require).unwrap();
    let pinned = said(&pinned);
    assert!(pinned.contains("pinned to others"), "{pinned}");
    // A loaded plan that was made without the device is an error too.
    let free = engine([1.0, 10.0], [Policy::Allow, Policy::Allow]).analyze_model(&model(30, &CHAIN)).unwrap();
    let loaded = engine([1.0, 10.0], policies).load_plan(&model(30, &CHAIN), &free.to_json().unwrap());
    assert!(matches!(loaded, Err(Error::Required { .. })));
}

/// Nodes that estimates cannot tell apart go to the device that is wanted; nodes that are clearly
/// faster elsewhere do not.
#[test]
fn wanted_devices_keep_what_others_do_not_do_clearly_faster() {
    let of =
        |seconds, policy| second(&engine(seconds, [Policy::Allow, policy]).analyze_model(&model(30, &CHAIN)).unwrap());
    assert!(of([1.0, 1.2], Policy::Allow) < 0.01);
    assert!(of([1.0, 1.2], Policy::Prefer) > 0.99);
    assert!(of([1.0, 1.2], Policy::Require) > 0.99);
    assert!(of([1.0, 2.0], Policy::Prefer) < 0.01);
}

#[test]
fn devices_of_the_configuration_have_its_policies() {
    let text = "devices: { \"fake:1\": prefer, \"fake:0\": allow, \"tpu:0\": prefer }";
    let driver = Arc::new(FakeDriver(vec![Fake::default(), Fake::default()]));
    let builder = HeteroEngine::builder().driver(driver).cost_model(Arc::new(Seconds([1.0, 1.2])));
    let mut engine = builder.config(hetero::Config::parse(text, "c").unwrap()).build();
    let added = engine.add_default_devices(&DeviceOptions::default()).unwrap();
    assert_eq!(added.iter().map(ToString::to_string).collect::<Vec<_>>(), ["fake:0", "fake:1"]);
    assert_eq!(engine.fleet().absent().len(), 1);
    assert!(second(&engine.analyze_model(&model(30, &CHAIN)).unwrap()) > 0.99);
}

/// A driver without devices that counts how often it is asked for them.
struct Asked {
    may_have_chips: bool,
    probes: AtomicUsize,
}

impl Driver for Asked {
    fn name(&self) -> &str {
        "asked"
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        Ok(vec![])
    }

    fn may_have_chips(&self) -> bool {
        self.may_have_chips
    }

    fn open(&self, _: usize, _: &DeviceOptions) -> hetero::hal::Result<Arc<dyn Device>> {
        Err(hetero::hal::Error::internal("there is no device"))
    }
}

/// Probing loads a driver's libraries, which take memory until the process ends.
#[test]
fn the_default_asks_no_driver_that_has_no_chip_for_sure() {
    for may_have_chips in [false, true] {
        let driver = Arc::new(Asked { may_have_chips, probes: AtomicUsize::new(0) });
        let engine = HeteroEngine::builder().driver(driver.clone()).build();
        assert!(engine.default_devices().iter().any(|id| id.driver() == "cpu"));
        assert_eq!(driver.probes.load(Ordering::Relaxed), usize::from(may_have_chips));
        assert!(!engine.found().is_empty());
        assert_eq!(driver.probes.load(Ordering::Relaxed), 1 + usize::from(may_have_chips));
    }
}

fn lossy(policy: Policy) -> HeteroEngine {
    let driver = Arc::new(FakeDriver(vec![Fake::default(), Fake::default()]));
    let driver = Faulty::over(driver).with(1, Fault::Lose { submission: 1 });
    engine_of(Arc::new(driver), [1.0, 1.0], [Policy::Allow, policy])
}

fn lost(error: Error) -> String {
    match error {
        Error::Device(error) if error.kind() == ErrorKind::DeviceLost => error.to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn a_required_device_that_is_lost_in_a_run_ends_it() {
    let engine = lossy(Policy::Require);
    let model = model(30, &CHAIN);
    let plan = engine.analyze_model(&model).unwrap();
    let error = (0..3).find_map(|_| engine.run(&[("x", tensor(30, 0.0))], &plan).err());
    let said = lost(error.unwrap());
    assert!(said.contains("fake:1") && said.contains("it is required, so no other device takes over"), "{said}");
    // A new plan does not do without the device either.
    let again = engine.analyze_model(&model).err().unwrap().to_string();
    assert!(again.contains("fake:1 is required: it was lost"), "{again}");
}

#[test]
fn a_device_that_is_lost_in_a_stream_is_replaced_unless_it_is_required() {
    for policy in [Policy::Require, Policy::Prefer] {
        let engine = lossy(policy);
        let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
        let session = engine.session(&plan).unwrap();
        assert!(second(&plan) > 0.99);
        let mut stream = session.stream(2);
        let outcome = (|| {
            for phase in 0..6 {
                stream.push(&[tensor(30, phase as f32)])?;
            }
            while stream.pull()?.is_some() {}
            Ok(())
        })();
        let recovered = engine.recover(&plan, &session, Result::err(outcome).unwrap());
        match (policy, recovered) {
            (Policy::Require, Err(error)) => {
                let said = lost(error);
                assert!(said.contains("it is required, so no other device takes over"), "{said}");
            }
            (Policy::Prefer, Ok(session)) => {
                let moved = session.report().moved;
                assert!(moved[0].starts_with("4 nodes of fake:1 moved to fake:0, as it was lost"), "{moved:?}");
                assert_eq!(session.placement().devices[0].device.to_string(), "fake:0");
            }
            (_, Ok(_)) => panic!("another device took over"),
            (_, Err(error)) => panic!("{error}"),
        }
    }
}

#[test]
fn shares_of_a_placement_are_told_in_one_line() {
    let driver = Arc::new(FakeDriver(vec![Fake::default(), Fake::default()]));
    let places = "one=fake:1,*=fake:0".parse().unwrap();
    let builder = HeteroEngine::builder().driver(driver).cost_model(Arc::new(Seconds([1.0, 1.0])));
    let mut engine = builder.place(places).build();
    for id in ["fake:0", "fake:1"] {
        engine.add_device(id, DeviceOptions::default()).unwrap();
    }
    let plan = engine.analyze_model(&model(30, &CHAIN)).unwrap();
    let line = "placement: fake:0 75 % of 4 nodes, 75 % of the estimated time, 75 % of bytes; \
                fake:1 25 % of 4 nodes, 25 % of the estimated time, 25 % of bytes";
    assert_eq!(engine.session(&plan).unwrap().placement().to_string(), line);
}

#[test]
fn devices_are_asked_once_for_what_they_claim_of_a_program() {
    let fakes = vec![Fake::default(), Fake::default()];
    let asked = fakes[0].asked.clone();
    let engine = engine_of(Arc::new(FakeDriver(fakes)), [1.0, 1.0], [Policy::Allow, Policy::Prefer]);
    for _ in 0..3 {
        engine.analyze_model(&model(30, &CHAIN)).unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    engine.analyze_model(&model(31, &CHAIN)).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// The shape of the output is an input.
/// It becomes a constant of the plan where it is small and of integers, and only where that is
/// needed.
#[test]
fn small_integer_inputs_become_constants_where_shapes_depend_on_them() {
    use hetero::hal::{DType, Graph, Operator, TensorType, Value, ValueId};
    let value = |name: &str, dtype, shape: &[usize]| Value {
        name: name.into(),
        ty: TensorType::exact(dtype, shape),
        constant: None,
    };
    let node = Node {
        name: "reshape".into(),
        operator: Operator::new("Reshape", 17),
        inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
        outputs: vec![Some(ValueId(2))],
    };
    let graph = Graph {
        name: "reshape".into(),
        values: vec![
            value("x", DType::F32, &[6]),
            value("shape", DType::I64, &[2]),
            Value { name: "y".into(), ..Value::default() },
        ],
        nodes: vec![node],
        inputs: vec![ValueId(0), ValueId(1)],
        outputs: vec![ValueId(2)],
        captures: vec![],
    };
    let reshape = hetero::Model { graph, opsets: [("".into(), 17)].into(), ..hetero::Model::default() };
    let engine = engine([1.0, 1.0], [Policy::Allow, Policy::Allow]);
    let x = tensor(6, 0.0);
    let shape = Tensor::from_vec(&[2], vec![2i64, 3]).unwrap();
    // Without the content, only a run tells the shape.
    let open = engine.analyze(&reshape, &Binding::default()).unwrap();
    assert!(open.fixed().is_empty() && open.program().lates() == 1);
    let inputs = [("x", x.clone()), ("shape", shape)];
    let plan = engine.analyze_with_inputs(&reshape, &Binding::default(), &inputs).unwrap();
    assert_eq!(plan.fixed(), ["shape"]);
    assert_eq!(engine.run(&[("x", x.clone())], &plan).unwrap().tensor("y").unwrap().shape(), [2, 3]);
    // Where shapes are known, integers stay inputs.
    let plan = engine.analyze_with_inputs(&model(6, &CHAIN), &Binding::default(), &[("x", x.clone())]).unwrap();
    assert!(plan.fixed().is_empty());
    let other = Binding { shapes: [("x".to_owned(), vec![7])].into(), ..Binding::default() };
    let error = engine.analyze_with_inputs(&model(6, &CHAIN), &other, &[("x", x)]).err().unwrap();
    assert!(matches!(&error, Error::Input { name, .. } if name == "x"), "{error}");
}

/// With a single device, the engine asks no partitioner of its own.
/// A partitioner of the caller's is asked, and the same strategy from outside gives the same plan.
#[test]
fn a_plan_for_one_device_is_what_its_strategy_finds() {
    use hetero::scheduler::{Cautious, LatencyAware};
    let plan = |outside: bool| {
        let driver = Arc::new(FakeDriver(vec![Fake::default()]));
        let mut builder = HeteroEngine::builder().driver(driver).cost_model(Arc::new(Seconds([0.1, 0.0])));
        if outside {
            let strategy = Cautious { strategy: LatencyAware::default(), margin: 0.25 };
            builder = builder.partitioner(Arc::new(strategy));
        }
        let mut engine = builder.build();
        engine.add_device("fake:0", DeviceOptions::default()).unwrap();
        let nodes: [(&str, &str, &[&str], &str); 5] = [
            ("one", "Neg", &["x"], "a"),
            ("two", "Abs", &["x"], "b"),
            ("three", "Exp", &["b"], "c"),
            ("four", "Add", &["a", "c"], "d"),
            ("five", "Neg", &["c"], "y"),
        ];
        engine.analyze_model(&model(30, &nodes)).unwrap().partitioning().clone()
    };
    assert_eq!(plan(false), plan(true));
}
