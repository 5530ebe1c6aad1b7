//! Sessions over several devices: partitions that run at the same time, values that cross without a
//! copy, and streams.

#![allow(clippy::unwrap_used)]

mod fakes;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fakes::{CHAIN, CHAIN_PLACES, Fake, FakeDriver, Meeting, chain, close, engine, model, tensor};
use hetero::comm::{DeviceProfile, LinkProfile, Profile, Sample, Spread};
use hetero::hal::Driver;
use hetero::{DeviceOptions, HeteroEngine, Report, Traffic};

fn edge<'a>(report: &'a Report, from: &str, to: &str) -> &'a Traffic {
    report.edges.iter().find(|edge| edge.from == from && edge.to == to).unwrap()
}

/// Each of the two partitions waits until the other has begun.
#[test]
fn independent_partitions_run_at_the_same_time() {
    let meeting = Arc::new(Meeting::default());
    let fake = || Fake { meeting: Some(meeting.clone()), ..Fake::default() };
    let fakes = vec![fake(), fake(), Fake::default()];
    let engine = engine(fakes, "left=fake:0,right=fake:1,sum=fake:2");
    let nodes: [(&str, &str, &[&str], &str); 3] =
        [("left", "Neg", &["x"], "a"), ("right", "Exp", &["x"], "b"), ("sum", "Add", &["a", "b"], "y")];
    let plan = engine.analyze_model(&model(9, &nodes)).unwrap();
    let session = engine.session(&plan).unwrap();
    for round in 0..5 {
        let x = tensor(9, round as f32);
        let expected: Vec<f32> = x.view::<f32>().unwrap().iter().map(|x| x.exp() - x).collect();
        close(session.run(&[("x", x)]).unwrap().tensor("y").unwrap(), &expected);
    }
}

/// `right` is planned behind `left`, and its result could lie where `left` reads.
/// Then it would wait for `left`, which waits for it.
#[test]
fn room_in_the_shared_arena_is_not_given_where_somebody_would_wait_for_it() {
    let meeting = Arc::new(Meeting::default());
    let fake = || Fake { meeting: Some(meeting.clone()), ..Fake::default() };
    let engine = engine(vec![fake(), fake(), Fake::default()], "feed=fake:2,left=fake:1,right=fake:0,end=fake:2");
    let nodes: [(&str, &str, &[&str], &str); 4] = [
        ("feed", "Neg", &["x"], "a"),
        ("left", "Exp", &["a"], "y"),
        ("right", "Abs", &["x"], "b"),
        ("end", "Neg", &["b"], "z"),
    ];
    let model = model(64, &nodes);
    let mut partitioning = engine.analyze_model(&model).unwrap().partitioning().clone();
    let position =
        |partition: &hetero::scheduler::Partition| nodes.iter().position(|node| node.0 == partition.tasks[0]);
    partitioning.partitions.sort_by_key(position);
    let plan = engine.load_plan(&model, &partitioning.to_json().unwrap()).unwrap();
    let x = tensor(64, 0.0);
    let outputs = engine.run(&[("x", x.clone())], &plan).unwrap();
    let expected = |f: fn(f32) -> f32| x.view::<f32>().unwrap().iter().map(|&x| f(x)).collect::<Vec<_>>();
    close(outputs.tensor("y").unwrap(), &expected(|x| (-x).exp()));
    close(outputs.tensor("z").unwrap(), &expected(|x| -x.abs()));
}

/// A buffer takes a whole page at least, so that a million outputs of one number each would take
/// 4 GB.
#[test]
fn small_outputs_lie_in_one_buffer_and_large_ones_in_one_each() {
    let buffers = [9, 5000].map(|length| {
        // An input that happens to be aligned would be imported and take no buffer.
        let fake = Fake { alignment: 256, ..Fake::without_import() };
        let allocations = fake.allocations.clone();
        let engine = engine(vec![fake], "*=fake:0");
        let nodes: [(&str, &str, &[&str], &str); 4] = [
            ("a", "Neg", &["x"], "na"),
            ("b", "Exp", &["x"], "ex"),
            ("c", "Sin", &["x"], "si"),
            ("d", "Cos", &["x"], "co"),
        ];
        let session = engine.session(&engine.analyze_model(&model(length, &nodes)).unwrap()).unwrap();
        let of = |name: &str, x: f32| match name {
            "na" => -x,
            "ex" => x.exp(),
            "si" => x.sin(),
            _ => x.cos(),
        };
        for round in 0..2 {
            let x = tensor(length, round as f32);
            let outputs = session.run(&[("x", x.clone())]).unwrap();
            for name in ["na", "ex", "si", "co"] {
                let expected: Vec<f32> = x.view::<f32>().unwrap().iter().map(|&x| of(name, x)).collect();
                close(outputs.tensor(name).unwrap(), &expected);
            }
        }
        allocations.load(Ordering::Relaxed)
    });
    assert_eq!(buffers[1] - buffers[0], 3, "{buffers:?}");
}

#[test]
fn values_cross_in_place_where_both_sides_import_and_by_copies_elsewhere() {
    let model = model(1000, &CHAIN);
    let x = tensor(1000, 0.5);
    let fakes = vec![
        Fake::default(),
        Fake { import_alignment: 4096, alignment: 256, ..Fake::default() },
        Fake::without_import(),
    ];
    let transfers: Vec<_> = fakes.iter().map(|fake| fake.transfers.clone()).collect();
    let engine = engine(fakes, CHAIN_PLACES);
    let session = engine.session(&engine.analyze_model(&model).unwrap()).unwrap();
    for _ in 0..2 {
        close(session.run(&[("x", x.clone())]).unwrap().tensor("y").unwrap(), &chain(&x));
    }
    let report = session.report();
    let direct = edge(&report, "fake:0", "fake:1");
    assert_eq!((direct.values, direct.zero_copy_bytes, direct.staged_bytes, &direct.reason), (1, 4000, 0, &None));
    let staged = edge(&report, "fake:1", "fake:2");
    assert_eq!((staged.zero_copy_bytes, staged.staged_bytes), (0, 4000));
    assert_eq!(staged.reason.as_deref(), Some("fake:2 imports no host memory"));
    assert_eq!(edge(&report, "fake:2", "fake:0").staged_bytes, 4000);
    assert_eq!(edge(&report, "fake:0", "host").staged_bytes, 4000);
    assert_eq!(edge(&report, "host", "fake:0").values, 1);
    // In two runs there is a transfer each for the two staged values, on the receiver's queue.
    let counts: Vec<usize> = transfers.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(counts, [2, 0, 2]);
}

#[test]
fn a_refused_import_is_staged_and_told() {
    let fakes = vec![Fake::default(), Fake { refuses: true, ..Fake::default() }, Fake::default()];
    let engine = engine(fakes, CHAIN_PLACES);
    let session = engine.session(&engine.analyze_model(&model(100, &CHAIN)).unwrap()).unwrap();
    let x = tensor(100, 0.0);
    close(session.run(&[("x", x.clone())]).unwrap().tensor("y").unwrap(), &chain(&x));
    let report = session.report();
    for (from, to) in [("fake:0", "fake:1"), ("fake:1", "fake:2")] {
        let edge = edge(&report, from, to);
        assert_eq!((edge.zero_copy_bytes, edge.staged_bytes), (0, 400));
        assert!(edge.reason.as_ref().unwrap().contains("no pages left to pin"), "{edge}");
    }
    assert_eq!(edge(&report, "fake:2", "fake:0").zero_copy_bytes, 400);
}

/// For 4000 bytes the profile says that a copy from the first device to the second takes less than
/// handing over in place, and that it takes more from the second to the third.
#[test]
fn values_are_copied_where_the_profile_says_that_it_takes_less() {
    let fakes = || vec![Fake::default(), Fake::default(), Fake::default()];
    let driver = Arc::new(FakeDriver(fakes()));
    let mut profile = Profile::new();
    profile.devices = driver.probe().unwrap().iter().map(DeviceProfile::new).collect();
    let link = |from: &str, to: &str, transport: &str, seconds: f64| LinkProfile {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        transport: transport.into(),
        samples: vec![Sample { bytes: 4000, seconds: Spread { median: seconds, deviation: 0.0, count: 9 } }],
        stopped: None,
    };
    profile.links = vec![
        link("fake:0", "fake:1", "zero-copy", 9e-6),
        link("fake:0", "fake:1", "staged", 3e-6),
        link("fake:1", "fake:2", "zero-copy", 3e-6),
        link("fake:1", "fake:2", "staged", 9e-6),
        link("fake:2", "fake:0", "staged", 1e-9),
    ];
    let (builder, places) = (HeteroEngine::builder().driver(driver), CHAIN_PLACES.parse().unwrap());
    let mut engine = builder.place(places).profile(profile).build();
    for ordinal in 0..3 {
        engine.add_device(&format!("fake:{ordinal}"), DeviceOptions::default()).unwrap();
    }
    let session = engine.session(&engine.analyze_model(&model(1000, &CHAIN)).unwrap()).unwrap();
    let x = tensor(1000, 0.0);
    close(session.run(&[("x", x.clone())]).unwrap().tensor("y").unwrap(), &chain(&x));
    let report = session.report();
    let bytes = |from, to| (edge(&report, from, to).zero_copy_bytes, edge(&report, from, to).staged_bytes);
    assert_eq!(bytes("fake:0", "fake:1"), (0, 4000));
    let reason = edge(&report, "fake:0", "fake:1").reason.clone().unwrap();
    assert_eq!(reason, "by the profile staged takes 3.0 µs, zero-copy takes 9.0 µs");
    assert_eq!((bytes("fake:1", "fake:2"), bytes("fake:2", "fake:0")), ((4000, 0), (4000, 0)));
}

#[test]
fn inputs_say_how_they_came() {
    let engine = engine(
        vec![Fake { alignment: 16, ..Fake::default() }, Fake { import_alignment: 4096, ..Fake::default() }],
        "left=fake:0,right=fake:1",
    );
    let nodes: [(&str, &str, &[&str], &str); 2] = [("left", "Neg", &["x"], "y"), ("right", "Exp", &["x"], "z")];
    let session = engine.session(&engine.analyze_model(&model(8, &nodes)).unwrap()).unwrap();
    // The bytes of a vector of u64 are aligned to 8.
    // One slice of them is aligned to 16, and a slice 8 bytes behind it is not.
    let bytes = hetero::Tensor::from_vec(&[64], vec![0u64; 64]).unwrap().bytes().clone();
    let start = (bytes.as_ptr() as usize).next_multiple_of(16) - bytes.as_ptr() as usize;
    for (offset, zero_copy) in [(start, 32), (start + 8, 0)] {
        let x = hetero::Tensor::from_bytes(hetero::DType::F32, &[8], bytes.slice(offset..offset + 32)).unwrap();
        session.run(&[("x", x)]).unwrap();
        let report = session.report();
        assert_eq!(edge(&report, "host", "fake:0").zero_copy_bytes, zero_copy);
        let paged = edge(&report, "host", "fake:1");
        assert!(paged.staged_bytes == 32 && paged.reason.as_ref().unwrap().contains("4096"), "{paged}");
    }
}

#[test]
fn pins_that_cannot_be_kept_are_refused() {
    let model = model(4, &CHAIN);
    let said = |placement: &str| {
        let engine = engine(vec![Fake::default(), Fake::default()], placement);
        engine.analyze_model(&model).err().unwrap().to_string()
    };
    let unknown = said("Exp=gpu:7");
    assert!(["'three'", "(Exp)", "gpu:7", "fake:0, fake:1"].iter().all(|word| unknown.contains(word)), "{unknown}");
    let engine = engine(vec![Fake::default(), Fake::default()], "Neg=fake:1,t*=fake:0,*=fake:1");
    let plan = engine.analyze_model(&model).unwrap();
    let placed: Vec<&str> = ["one", "two", "three", "four"].iter().map(|node| plan.placement()[node]).collect();
    assert_eq!(placed, ["fake:1", "fake:0", "fake:0", "fake:1"]);
}

#[test]
fn a_stream_keeps_the_order_and_its_depth() {
    let engine = engine(vec![Fake::default(), Fake::without_import(), Fake::default()], CHAIN_PLACES);
    let session = engine.session(&engine.analyze_model(&model(50, &CHAIN)).unwrap()).unwrap();
    for depth in [0, 1, 3] {
        let mut stream = session.stream(depth);
        assert_eq!(stream.depth(), if depth == 0 { 4 } else { depth });
        let inputs: Vec<_> = (0..40).map(|i| tensor(50, i as f32)).collect();
        let mut outputs = Vec::new();
        for (count, input) in inputs.iter().enumerate() {
            outputs.extend(stream.push(std::slice::from_ref(input)).unwrap());
            assert_eq!(outputs.len(), (count + 1).saturating_sub(stream.depth()));
        }
        assert!(stream.push(&[tensor(3, 0.0)]).is_err(), "the shape is wrong");
        while let Some(output) = stream.pull().unwrap() {
            outputs.push(output);
        }
        assert_eq!(outputs.len(), inputs.len());
        inputs.iter().zip(&outputs).for_each(|(x, output)| close(output.tensor("y").unwrap(), &chain(x)));
    }
}

/// Runs that nobody waits for leave the session usable, and hold none of its memory.
#[test]
fn abandoned_runs_do_no_harm() {
    let engine = engine(vec![Fake::default(), Fake::default(), Fake::default()], CHAIN_PLACES);
    let session = engine.session(&engine.analyze_model(&model(50, &CHAIN)).unwrap()).unwrap();
    for round in 0..50 {
        let x = tensor(50, round as f32);
        let kept = session.start(std::slice::from_ref(&x)).unwrap();
        drop(session.start(&[tensor(50, 0.0)]).unwrap());
        close(kept.finish().unwrap().tensor("y").unwrap(), &chain(&x));
    }
}
