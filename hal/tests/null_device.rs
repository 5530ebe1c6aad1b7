//! Tests of the contract on the null device.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hetero_hal::{
    BufferLayout, DType, Driver, Error, ErrorKind, Graph, Node, OpenOptions, Operator, Program, QueueOptions, Result,
    TensorType, Value, ValueId, Work,
};
use hetero_null::NullDriver;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn work_waits_for_its_points_in_any_order_of_submission() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let timeline = device.timeline(0).unwrap();
    let order = Arc::new(AtomicUsize::new(0));
    let step = |expected: usize| {
        let order = order.clone();
        Work::host(Arc::new(move || -> Result<()> {
            match order.compare_exchange(expected, expected + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => Ok(()),
                Err(found) => Err(Error::internal(format!("step {expected} ran when {found} had"))),
            }
        }))
    };
    queue.submit(&[timeline.at(2)], step(1), &[timeline.at(3)]).unwrap();
    queue.submit(&[timeline.at(1)], step(0), &[timeline.at(2)]).unwrap();
    assert_eq!(timeline.value(), 0);
    timeline.advance(1);
    timeline.wait(3, soon()).unwrap();
    assert_eq!(order.load(Ordering::Acquire), 2);
}

#[test]
fn a_failure_travels_to_every_waiter_behind_it() {
    let device = NullDriver.open(1, &OpenOptions::default()).unwrap();
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let (first, second) = (device.timeline(0).unwrap(), device.timeline(0).unwrap());
    let lost = || -> Result<()> { Err(Error::new(ErrorKind::DeviceLost, "unplugged")) };
    queue.submit(&[first.at(1)], Work::host(Arc::new(|| -> Result<()> { Ok(()) })), &[second.at(1)]).unwrap();
    queue.submit(&[], Work::host(Arc::new(lost)), &[first.at(1)]).unwrap();
    assert_eq!(second.wait(1, soon()).unwrap_err().kind(), ErrorKind::DeviceLost);
}

#[test]
fn copies_and_fills() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let timeline = device.timeline(0).unwrap();
    let (a, b) = (device.allocate(BufferLayout::new(8)).unwrap(), device.allocate(BufferLayout::new(8)).unwrap());
    queue.submit(&[], Work::fill(a.clone(), [1u8, 2]), &[timeline.at(1)]).unwrap();
    queue.submit(&[timeline.at(1)], Work::copy(a.clone(), b.clone()), &[timeline.at(2)]).unwrap();
    timeline.wait(2, soon()).unwrap();
    let mut seen = [0; 8];
    b.read(0, &mut seen).unwrap();
    assert_eq!(seen, [1, 2, 1, 2, 1, 2, 1, 2]);
}

#[test]
fn what_it_does_not_take_it_does_not_claim_nor_compile() {
    let device = NullDriver.open(0, &OpenOptions::default()).unwrap();
    let value = |name: &str| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[2]), constant: None };
    let graph = Graph {
        name: "exp".into(),
        values: vec![value("x"), value("y")],
        nodes: vec![Node {
            name: "exp".into(),
            operator: Operator::new("Exp", 13),
            inputs: vec![Some(ValueId(0))],
            outputs: vec![Some(ValueId(1))],
        }],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(1)],
        captures: vec![],
    };
    let program = Program::new(graph, vec![]).unwrap();
    assert!(device.claims(&program).is_empty());
    let error = device.compile(hetero_hal::Source::Program(&program), &Default::default()).err().unwrap();
    assert_eq!((error.kind(), error.operator()), (ErrorKind::Unsupported, Some("exp (Exp)")));
}
