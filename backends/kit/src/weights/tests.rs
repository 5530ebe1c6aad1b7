use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use hetero_hal::Weight;

use super::*;

fn weights() -> Weights<Vec<f32>> {
    Weights::new(DeviceId::new("cpu", 0))
}

fn constant(phase: f32) -> Tensor {
    Tensor::from_vec(&[10_000], (0..10_000).map(|i| i as f32 + phase).collect()).unwrap()
}

/// Returns the same numbers at another address.
fn copy(tensor: &Tensor) -> Tensor {
    Tensor::from_vec(tensor.shape(), tensor.view::<f32>().unwrap().into_owned()).unwrap()
}

fn negated(sources: &[Tensor]) -> Result<Vec<f32>> {
    Ok(sources[0].view::<f32>()?.iter().map(|x| -x).collect())
}

/// Returns a maker that counts its calls.
fn counted(calls: &Arc<AtomicUsize>) -> impl Fn(&[Tensor]) -> Result<Vec<f32>> + Send + Sync + 'static {
    let calls = calls.clone();
    move |sources| {
        calls.fetch_add(1, Ordering::SeqCst);
        negated(sources)
    }
}

#[test]
fn constants_are_shared_by_address_and_by_content() {
    let (weights, calls) = (weights(), Arc::new(AtomicUsize::new(0)));
    let source = constant(0.5);
    let one = weights.get("w", std::slice::from_ref(&source), "negated", counted(&calls)).unwrap();
    let same = weights.get("w", std::slice::from_ref(&source), "negated", counted(&calls)).unwrap();
    let equal = weights.get("v", &[copy(&source)], "negated", counted(&calls)).unwrap();
    assert!(Arc::ptr_eq(&one, &same) && Arc::ptr_eq(&one, &equal));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!((one.name(), one.layout(), one.bytes()), ("w", "negated", 40_000));
    assert_eq!(one.value().unwrap()[3], -3.5);
}

#[test]
fn layout_shape_element_type_and_number_of_constants_tell_weights_apart() {
    let (weights, source) = (weights(), constant(0.0));
    let bits = Tensor::from_bytes(DType::I32, source.shape(), source.bytes().clone()).unwrap();
    let kept: Vec<_> = [
        (vec![source.clone()], "one"),
        (vec![source.clone()], "other"),
        (vec![source.reshaped(&[100, 100]).unwrap()], "one"),
        (vec![bits], "one"),
        (vec![source.clone(), source.clone()], "one"),
    ]
    .into_iter()
    .map(|(sources, layout)| weights.get("w", &sources, layout, |_| Ok(vec![1.0])).unwrap())
    .collect();
    for (number, one) in kept.iter().enumerate() {
        assert!(kept[..number].iter().all(|other| !Arc::ptr_eq(one, other)), "number {number}");
    }
}

#[test]
fn an_equal_sample_of_other_bytes_is_no_hit() {
    let (weights, source) = (weights(), constant(0.0));
    // Some bytes are in no sample: one byte after the other is changed until such a one is found.
    let sample = sampled(std::slice::from_ref(&source));
    let other = (0..10_000).find_map(|at| {
        let mut numbers = source.view::<f32>().unwrap().into_owned();
        numbers[at] += 0.25;
        let other = Tensor::from_vec(&[10_000], numbers).unwrap();
        (sampled(std::slice::from_ref(&other)) == sample).then_some((at, other))
    });
    let (at, other) = other.unwrap();
    let one = weights.get("w", &[source], "negated", negated).unwrap();
    let two = weights.get("w", &[other], "negated", negated).unwrap();
    assert!(!Arc::ptr_eq(&one, &two));
    assert_eq!(two.value().unwrap()[at], -(at as f32 + 0.25));
    assert_eq!(one.value().unwrap()[at], -(at as f32));
}

#[test]
fn strings_are_compared_by_content() {
    let weights = weights();
    let of = |text: &str| Tensor::from_strings(&[1], vec![text.into()]).unwrap();
    let kept = ["a", "b", "a"].map(|text| weights.get("w", &[of(text)], "length", |_| Ok(vec![1.0])).unwrap());
    assert!(!Arc::ptr_eq(&kept[0], &kept[1]) && Arc::ptr_eq(&kept[0], &kept[2]));
}

#[test]
fn several_callers_make_a_weight_once() {
    for round in 0..20 {
        let (weights, calls, gate) = (weights(), Arc::new(AtomicUsize::new(0)), Barrier::new(8));
        let source = constant(round as f32);
        let (weights, calls, gate, source) = (&weights, &calls, &gate, &source);
        let kept: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn(move || {
                        let own = if number % 2 == 0 { source.clone() } else { copy(source) };
                        gate.wait();
                        weights.get("w", &[own], "negated", counted(calls)).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert!(kept.iter().all(|held| Arc::ptr_eq(held, &kept[0])));
    }
}

#[test]
fn one_weight_is_made_while_another_is_being_made() {
    let weights = weights();
    let (begun, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    std::thread::scope(|scope| {
        let (begun_there, go_there, weights) = (begun.clone(), go.clone(), &weights);
        let slow = scope.spawn(move || {
            let make = move |sources: &[Tensor]| {
                begun_there.wait();
                go_there.wait();
                negated(sources)
            };
            weights.get("slow", &[constant(1.0)], "negated", make).unwrap()
        });
        begun.wait();
        // The slow maker is held up until this weight is there.
        let quick = weights.get("quick", &[constant(2.0)], "negated", negated).unwrap();
        go.wait();
        assert!(!Arc::ptr_eq(&quick, &slow.join().unwrap()));
    });
}

#[test]
fn a_failed_or_panicking_maker_leaves_the_weight_to_the_next() {
    let (weights, source) = (weights(), constant(0.0));
    let sources = std::slice::from_ref(&source);
    let failed = weights.get("w", sources, "negated", |_| Err(Error::internal("on purpose")));
    assert_eq!(failed.err().unwrap().message(), "on purpose");
    let panicked = catch_unwind(AssertUnwindSafe(|| weights.get("w", sources, "negated", |_| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(weights.get("w", sources, "negated", negated).unwrap().value().unwrap()[1], -1.0);
}

#[test]
fn those_who_wait_for_a_maker_that_fails_try_themselves() {
    let (weights, source) = (weights(), constant(0.0));
    let (begun, calls) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        let (weights, source, begun_there, calls_there) = (&weights, &source, begun.clone(), calls.clone());
        let first = scope.spawn(move || {
            let make = move |_: &[Tensor]| {
                begun_there.wait();
                // Long enough for the other to wait, most of the time; either order has to end
                // well.
                std::thread::sleep(Duration::from_millis(20));
                Err(Error::internal("on purpose"))
            };
            weights.get("w", std::slice::from_ref(source), "negated", make).err().unwrap()
        });
        begun.wait();
        let second = weights.get("w", &[copy(source)], "negated", counted(&calls_there)).unwrap();
        assert_eq!(second.value().unwrap()[2], -2.0);
        assert_eq!(first.join().unwrap().message(), "on purpose");
    });
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_wait_for_another_maker_ends() {
    let making = Making { sources: vec![], over: Mutex::new(false), changed: Condvar::new() };
    assert_eq!(making.wait(Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::Timeout);
    making.end();
    making.wait(Duration::ZERO).unwrap();
}

#[test]
fn the_last_owner_frees_a_weight_and_its_entry_is_forgotten() {
    let weights = weights();
    let held = weights.get("w", &[constant(0.0)], "negated", negated).unwrap();
    let value = Arc::downgrade(&held.value().unwrap());
    drop(held);
    assert!(value.upgrade().is_none());
    let kept = weights.get("w", &[constant(-1.0)], "negated", negated).unwrap();
    for number in 0..10 * SWEEP {
        let layout = format!("negated {}", number % 7);
        weights.get("w", &[constant(number as f32)], &layout, |_| Ok(vec![])).unwrap();
    }
    let entries = weights.lock();
    assert!(entries.all.len() <= SWEEP);
    // Each entry has two marks.
    assert_eq!(2 * entries.all.len(), entries.marked.values().map(Vec::len).sum::<usize>());
    drop(entries);
    let again = weights.get("w", &[constant(-1.0)], "negated", negated).unwrap();
    assert!(Arc::ptr_eq(&kept, &again));
}

#[test]
fn a_weight_comes_back_after_it_was_evicted() {
    let (weights, calls) = (weights(), Arc::new(AtomicUsize::new(0)));
    let held = weights.get("w", &[constant(0.0)], "negated", counted(&calls)).unwrap();
    let before = held.value().unwrap();
    held.evict();
    held.evict();
    assert!(!held.is_resident());
    assert_eq!(held.bytes(), 40_000);
    // A run that began before the eviction keeps the value that it has.
    assert_eq!(before[7], -7.0);
    let alive = Arc::downgrade(&before);
    drop(before);
    assert!(alive.upgrade().is_none(), "the bytes outlive the eviction");
    held.restore().unwrap();
    assert!(held.is_resident());
    held.restore().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    held.evict();
    assert_eq!(held.value().unwrap()[7], -7.0);
    assert!(held.is_resident());
}

#[test]
fn a_restore_that_fails_says_what_and_how_large_and_the_next_may_succeed() {
    let weights = weights();
    let short = Arc::new(AtomicUsize::new(0));
    let left = short.clone();
    let make = move |sources: &[Tensor]| match left.load(Ordering::SeqCst) {
        1 => Err(Error::new(ErrorKind::OutOfMemory, "there is no memory left")),
        _ => negated(sources),
    };
    let held = weights.get("w", &[constant(0.0)], "negated", make).unwrap();
    held.evict();
    short.store(1, Ordering::SeqCst);
    let error = held.restore().unwrap_err();
    assert_eq!((error.kind(), error.sizes().unwrap().requested), (ErrorKind::OutOfMemory, 40_000));
    assert_eq!(error.device().unwrap().to_string(), "cpu:0");
    assert!(error.operator().unwrap().contains("'w' (negated)"), "{error}");
    assert!(!held.is_resident());
    short.store(0, Ordering::SeqCst);
    assert_eq!(held.value().unwrap()[1], -1.0);
}

#[test]
fn evictions_during_runs_disturb_none() {
    let weights = weights();
    let held = weights.get("w", &[constant(0.0)], "negated", negated).unwrap();
    let (held, over) = (&held, &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                for run in 0..200 {
                    let value = held.value().unwrap();
                    assert_eq!(value[run], -(run as f32));
                    assert_eq!(value[9_999], -9_999.0);
                }
                over.fetch_add(1, Ordering::SeqCst);
            });
        }
        while over.load(Ordering::SeqCst) < 3 {
            held.evict();
            std::thread::yield_now();
        }
    });
}
