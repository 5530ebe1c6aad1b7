//! Rules about devices: telemetry, refusals, compilations that end early, and edges between two
//! devices.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hetero_hal::{
    BufferLayout, CompileOptions, DType, ErrorKind, Graph, Node, NodeId, Operator, Program, Reach, Source, SyncMode,
    TensorType, Timeline, Value, ValueId, Work,
};

use super::tools::{COUNT, Made, ensure, failure, queue, run, wait};
use super::{Bench, Checked, Fault};
use crate::{program, soon, suite};

pub(super) fn allocations(bench: &Bench<'_>) -> Checked {
    const BYTES: u64 = 1 << 20;
    let untold = || Fault::Unsupported("the device does not tell what is allocated".to_owned());
    let told = || bench.device.telemetry().allocated_bytes.ok_or_else(untold);
    let before = told()?;
    let buffer = bench.device.allocate(BufferLayout::new(BYTES as usize))?;
    let (with, part) = (told()?, buffer.slice(0..64)?);
    ensure(with >= before + BYTES, || format!("{with} bytes after an allocation of {BYTES}, {before} before"))?;
    drop(buffer);
    ensure(told()? >= before + BYTES, || "memory of which a part is held does not count".to_owned())?;
    drop(part);
    ensure(soon(|| told().is_ok_and(|now| now <= before)), || "freed memory goes on counting".to_owned())
}

pub(super) fn work(bench: &Bench<'_>) -> Checked {
    let told = || bench.device.telemetry().busy;
    let Some(before) = told() else {
        return Err(Fault::Unsupported("the device does not tell for how long it has worked".to_owned()));
    };
    let (made, began) = (Made::rectifiers(1)?, Instant::now());
    let prepared = made.prepare(bench.device)?;
    for _ in 0..10 {
        run(bench.device, Work::execute(prepared.execution.clone()))?;
    }
    ensure(soon(|| told() > Some(before)), || format!("ten runs leave it busy for {before:?}"))?;
    let spent = told().unwrap_or_default().saturating_sub(before);
    // Work of several queues may overlap, but this work was done one piece after the other.
    ensure(spent <= began.elapsed(), || format!("{spent:?} of work within {:?}", began.elapsed()))
}

pub(super) fn element_types(bench: &Bench<'_>) -> Checked {
    let mut unseen = bench.device.capabilities().dtypes.clone();
    ensure(!unseen.is_empty(), || "it lists no element type".to_owned())?;
    for case in suite(1)? {
        let (program, _) = program(&case)?;
        let claims = bench.device.claims(&program);
        for id in claims.iter().flat_map(|claim| &claim.nodes) {
            let node = &program.nodes()[id.index()];
            for value in node.uses().chain(node.outputs.iter().flatten().copied()) {
                let found = program.value(value)?.dtype;
                unseen.retain(|listed| *listed != found);
            }
        }
        if unseen.is_empty() {
            return Ok(());
        }
    }
    Err(Fault::Broken(format!("it lists {unseen:?}, and claims no case of these types")))
}

pub(super) fn refusals(bench: &Bench<'_>) -> Checked {
    let value = |name: &str| Value { name: name.into(), ty: TensorType::exact(DType::F32, &[4]), constant: None };
    let operator = Operator { domain: "conformance".into(), ..Operator::new("Unheard", 1) };
    let graph = Graph {
        name: "unheard".into(),
        values: vec![value("x"), value("y")],
        nodes: vec![Node {
            name: "node".into(),
            operator,
            inputs: vec![Some(ValueId(0))],
            outputs: vec![Some(ValueId(1))],
        }],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(1)],
        captures: vec![],
    };
    let program = Program::new(graph, vec![])?;
    ensure(bench.device.claims(&program).is_empty(), || "it claims an operator that nobody has defined".to_owned())?;
    let outcome = bench.device.compile(Source::Program(&program), &CompileOptions::default());
    let error = failure(outcome.map(drop), "compiling what is not claimed")?;
    let kind = error.kind();
    ensure(matches!(kind, ErrorKind::Unsupported | ErrorKind::Compile), || format!("it compiles to: {error}"))?;
    match bench.device.refusal(&program, NodeId(0)) {
        None => Err(Fault::Unsupported("the device does not tell why".to_owned())),
        Some(why) => ensure(!why.trim().is_empty(), || "the reason is empty".to_owned()),
    }
}

pub(super) fn cancelled(bench: &Bench<'_>) -> Checked {
    let made = Made::rectifiers(2)?;
    let cancel = Some(Arc::new(AtomicBool::new(true)));
    let late = Some(Instant::now());
    for (options, kind) in [
        (CompileOptions { cancel, ..CompileOptions::default() }, ErrorKind::Cancelled),
        (CompileOptions { deadline: late, ..CompileOptions::default() }, ErrorKind::Timeout),
    ] {
        let error = failure(bench.device.compile(Source::Program(&made.program), &options).map(drop), "an early end")?;
        ensure(error.kind() == kind, || format!("{kind:?} was expected, and it says: {error}"))?;
    }
    Ok(())
}

pub(super) fn native_waits(bench: &Bench<'_>) -> Checked {
    const ROUNDS: u64 = 20;
    let device = bench.device;
    let native = |peer: &&Arc<dyn hetero_hal::Device>| {
        let same = peer.info().id == device.info().id;
        !same && device.edge_to(peer.info()).wait == SyncMode::Native
    };
    let Some(peer) = bench.peers.iter().find(native) else {
        return Err(Fault::Unsupported("no other device's points can be waited for without the host".to_owned()));
    };
    let made = Made::rectifiers(3)?;
    let (first, second) = (made.prepare(&**peer)?, made.prepare(device)?);
    let (theirs, ours) = (queue(&**peer)?, queue(device)?);
    let (gate, line, end) = (Timeline::new(0), peer.timeline(0)?, device.timeline(0)?);
    let reads = device.edge_to(peer.info()).read >= Reach::Copy;
    // The first round waits for the host, so that all the others are submitted before they can
    // begin.
    for round in 1..=ROUNDS {
        let before = if round == 1 { gate.at(1) } else { end.at(2 * round - 2) };
        theirs.submit(&[before], Work::execute(first.execution.clone()), &[line.at(round)])?;
        // The peer's output becomes this device's input.
        let (from, to) = (first.buffers[2].clone(), second.buffers[0].clone());
        let move_over = if reads { Work::copy(from, to) } else { Work::fill(second.buffers[2].clone(), [0u8]) };
        ours.submit(&[line.at(round)], move_over, &[end.at(2 * round - 1)])?;
        ours.submit(
            &[end.at(2 * round - 1), line.at(round)],
            Work::execute(second.execution.clone()),
            &[end.at(2 * round)],
        )?;
    }
    ensure(line.value() == 0 && end.value() == 0, || "work began before its point was reached".to_owned())?;
    gate.advance(1);
    wait(&end.at(2 * ROUNDS))?;
    ensure(line.value() == ROUNDS, || format!("the peer's timeline stands at {}", line.value()))?;
    made.compare(&first.outputs()?)?;
    // Rectifying twice gives the same as rectifying once.
    ensure(second.buffers[2].len() == 4 * COUNT, || "the output has another length".to_owned())?;
    made.compare(&second.outputs()?)
}
