//! Rules about runs: binding tables, queues, timelines and traces.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero_hal::{
    BindingTable, Buffer, BufferLayout, Direction, Error, ErrorKind, Execution, Result, Timeline, TraceKind, Work,
};

use super::tools::{COUNT, Made, Memory, buffer, content, ensure, failure, queue, run, wait};
use super::{Bench, Checked};
use hetero_examine::Prepared;

use crate::DEADLINE;

/// The largest error of a device's clock that was compared with the host's once.
const CLOCKS: Duration = Duration::from_millis(5);

fn outputs(prepared: &Prepared) -> Vec<(usize, &Buffer)> {
    let bound = prepared.execution.executable.bindings().iter().zip(&prepared.buffers).enumerate();
    let outputs = bound.filter(|(_, (info, _))| info.direction == Direction::Output);
    outputs.map(|(position, (_, buffer))| (position, buffer)).collect()
}

pub(super) fn one_buffer_is_replaced(bench: &Bench<'_>) -> Checked {
    let (device, made, other) = (bench.device, Made::rectifiers(1)?, Made::rectifiers(2)?);
    let prepared = made.prepare(device)?;
    run(device, Work::execute(prepared.execution.clone()))?;
    made.compare(&prepared.outputs()?)?;
    // The first input and the first output change, and the second ones stay.
    let first = outputs(&prepared)[0].0;
    let (input, output) = (buffer(device, other.inputs[0].bytes())?, buffer(device, &[0xff; 4 * COUNT])?);
    let table = &prepared.execution.bindings;
    let former = table.set(0, input)?;
    ensure(former.same_allocation(&prepared.buffers[0]), || "the former buffer is another".to_owned())?;
    let former = table.set(first, output.clone())?;
    former.write(0, &[0x7f; 4 * COUNT])?;
    let second = outputs(&prepared)[1].1;
    second.write(0, &[0x7f; 4 * COUNT])?;
    run(device, Work::execute(prepared.execution.clone()))?;
    ensure(content(&output)? == other.expected[0].bytes()[..], || "the new output is wrong".to_owned())?;
    ensure(content(second)? == made.expected[1].bytes()[..], || "the output that stayed is wrong".to_owned())?;
    ensure(content(&former)? == [0x7f; 4 * COUNT], || "the former output was written".to_owned())
}

pub(super) fn positions_are_checked(bench: &Bench<'_>) -> Checked {
    let (device, made) = (bench.device, Made::rectifiers(1)?);
    let prepared = made.prepare(device)?;
    let (table, count) = (&prepared.execution.bindings, prepared.buffers.len());
    for position in [count, usize::MAX] {
        let error = failure(table.set(position, buffer(device, &[0; 4])?), "a position behind the last")?;
        ensure(error.kind() == ErrorKind::InvalidArgument, || format!("a wrong position is answered with: {error}"))?;
    }
    run(device, Work::execute(prepared.execution.clone()))?;
    made.compare(&prepared.outputs()?)
}

/// Checks that the work is refused with `InvalidArgument`, that its signals are left as they are,
/// and that the queue takes more work.
fn refused(bench: &Bench<'_>, made: &Made, execution: Execution, what: &str) -> Checked {
    let (device, queue) = (bench.device, queue(bench.device)?);
    let line = device.timeline(0)?;
    let error = failure(queue.submit(&[], Work::execute(execution), &[line.at(1)]), what)?;
    ensure(error.kind() == ErrorKind::InvalidArgument, || format!("{what} is answered with: {error}"))?;
    ensure(line.value() == 0 && line.failure().is_none(), || "the signal of refused work was settled".to_owned())?;
    let prepared = made.prepare(device)?;
    queue.submit(&[], Work::execute(prepared.execution.clone()), &[line.at(1)])?;
    wait(&line.at(1))?;
    made.compare(&prepared.outputs()?)
}

pub(super) fn small_buffers_are_refused(bench: &Bench<'_>) -> Checked {
    let made = Made::rectifiers(1)?;
    for position in 0..4 {
        let prepared = made.prepare(bench.device)?;
        let small = bench.device.allocate(BufferLayout::new(4 * COUNT - 4))?;
        prepared.execution.bindings.set(position, small)?;
        refused(bench, &made, prepared.execution, "a buffer that is too small")?;
    }
    Ok(())
}

pub(super) fn short_tables_are_refused(bench: &Bench<'_>) -> Checked {
    let made = Made::rectifiers(1)?;
    let prepared = made.prepare(bench.device)?;
    let table = BindingTable::new(&prepared.buffers[..3]);
    let execution = Execution::new(prepared.execution.executable.clone(), table);
    let execution = execution.with_scratch(prepared.execution.scratch.clone());
    refused(bench, &made, execution, "a table with too few buffers")
}

pub(super) fn points_order_work(bench: &Bench<'_>) -> Checked {
    const ROUNDS: u64 = 8;
    let device = bench.device;
    let (queue, other) = (queue(device)?, queue(device)?);
    let (gate, line) = (Timeline::new(0), device.timeline(0)?);
    let buffer = buffer(device, &[0; 64])?;
    // The last piece of work is submitted first, on two queues in turn.
    for round in (1..=ROUNDS).rev() {
        let before = if round == 1 { gate.at(1) } else { line.at(round - 1) };
        let queue = if round % 2 == 0 { &queue } else { &other };
        queue.submit(&[before], Work::fill(buffer.clone(), [round as u8]), &[line.at(round)])?;
    }
    ensure(line.value() == 0, || "work began before its point was reached".to_owned())?;
    gate.advance(1);
    wait(&line.at(ROUNDS))?;
    ensure(content(&buffer)? == [ROUNDS as u8; 64], || "the last fill was not the last".to_owned())
}

/// Checks that work for the host is not overtaken.
/// The host does work that a driver cannot do itself, such as a pattern of odd length, and work on
/// empty ranges; it waits all the same.
pub(super) fn nothing_is_overtaken(bench: &Bench<'_>) -> Checked {
    const BYTES: usize = 12 << 20;
    const ODD: usize = 4095;
    let device = bench.device;
    let (queue, large) = (queue(device)?, buffer(device, &[0; BYTES])?);
    for round in 0..3 {
        let (line, odd, empty) = (device.timeline(0)?, device.timeline(0)?, device.timeline(0)?);
        queue.submit(&[], Work::fill(large.clone(), [round]), &[line.at(1)])?;
        queue.submit(&[line.at(1)], Work::fill(large.slice(0..ODD)?, [7u8, 8, 9]), &[odd.at(1)])?;
        queue.submit(&[line.at(1)], Work::fill(large.slice(0..0)?, [1u8]), &[empty.at(1)])?;
        wait(&empty.at(1))?;
        ensure(line.value() == 1, || "work of no bytes ended before what it waits for".to_owned())?;
        wait(&odd.at(1))?;
        let seen = content(&large)?;
        let (head, tail) = seen.split_at(ODD);
        let kept = head.chunks(3).all(|three| three == [7, 8, 9]) && tail.iter().all(|&byte| byte == round);
        ensure(kept, || "a fill was overtaken by the one that waits for it".to_owned())?;
    }
    Ok(())
}

pub(super) fn failures_travel(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let (queue, buffer) = (queue(device)?, buffer(device, &[0; 64])?);
    let lost = || Error::new(ErrorKind::DeviceLost, "lost on purpose");
    let gate = Timeline::new(0);
    let late = [device.timeline(0)?, device.timeline(0)?, device.timeline(0)?];
    // These are submitted before the failure, behind work that fails, and after the failure.
    queue.submit(&[gate.at(1)], Work::fill(buffer.clone(), [1u8]), &[late[0].at(1)])?;
    queue.submit(&[late[0].at(1)], Work::fill(buffer.clone(), [2u8]), &[late[1].at(1)])?;
    gate.fail(lost());
    queue.submit(&[gate.at(1)], Work::fill(buffer.clone(), [3u8]), &[late[2].at(1)])?;
    let task = Arc::new(move || -> Result<()> { Err(lost()) });
    let own = device.timeline(0)?;
    queue.submit(&[], Work::host(task), &[own.at(1)])?;
    for line in late.iter().chain([&own]) {
        let error = failure(wait(&line.at(1)), "a failed wait")?;
        let same = error.kind() == ErrorKind::DeviceLost && error.message().contains("lost on purpose");
        ensure(same, || format!("the first error was replaced by: {error}"))?;
        ensure(line.value() == 0, || "a failed timeline has moved".to_owned())?;
    }
    ensure(content(&buffer)? == [0; 64], || "work behind a failed wait has run".to_owned())
}

pub(super) fn run_returns_at_the_end(bench: &Bench<'_>) -> Checked {
    let (device, made) = (bench.device, Made::rectifiers(3)?);
    let (queue, line) = (queue(device)?, device.timeline(0)?);
    for signalled in [true, false] {
        let prepared = made.prepare(device)?;
        let signal = [line.at(1)];
        let signal: &[_] = if signalled { &signal } else { &[] };
        queue.run(&[], Work::execute(prepared.execution.clone()), signal, Instant::now() + DEADLINE)?;
        ensure(line.value() == 1, || "the run returned before its point was reached".to_owned())?;
        made.compare(&prepared.outputs()?)?;
    }
    Ok(())
}

pub(super) fn native_points_are_the_hosts(bench: &Bench<'_>) -> Checked {
    const STEPS: u64 = 10;
    let (device, made) = (bench.device, Made::rectifiers(4)?);
    let queues = [queue(device)?, queue(device)?];
    let line = device.timeline(5)?;
    ensure(line.value() == 5, || format!("a timeline that begins at 5 stands at {}", line.value()))?;
    let prepared = made.prepare(device)?;
    let (told, heard) = std::sync::mpsc::channel();
    line.on_reach(5 + STEPS, Box::new(move |outcome| drop(told.send(outcome))));
    // The steps go across two queues, each behind the one before.
    for step in 0..STEPS {
        let (before, after) = (line.at(5 + step), line.at(6 + step));
        let work = Work::execute(prepared.execution.clone());
        queues[step as usize % 2].submit(&[before], work, &[after])?;
    }
    wait(&line.at(5 + STEPS))?;
    ensure(line.value() == 5 + STEPS && line.at(6).is_reached(), || format!("the timeline stands at {line:?}"))?;
    let outcome = heard.recv_timeout(DEADLINE).map_err(|_| "nobody told the host of a point".to_owned())?;
    outcome?;
    made.compare(&prepared.outputs()?)
}

pub(super) fn kernels_are_traced(bench: &Bench<'_>) -> Checked {
    let (device, made) = (bench.device, Made::rectifiers(5)?);
    let (prepared, sink) = (made.prepare(device)?, Arc::new(Memory::default()));
    let queue = queue(device)?;
    let line = device.timeline(0)?;
    // A clock that is compared when it is first used has been compared after this.
    queue.submit(&[], Work::execute(prepared.execution.clone()).traced(Some(sink)), &[line.at(1)])?;
    wait(&line.at(1))?;
    let sink = Arc::new(Memory::default());
    let submitted = Instant::now();
    queue.submit(&[], Work::execute(prepared.execution.clone()).traced(Some(sink.clone())), &[line.at(2)])?;
    wait(&line.at(2))?;
    let (reached, told) = (Instant::now(), sink.told()?);
    let kernels: Vec<_> = told.iter().filter(|told| told.kind == TraceKind::Kernel).collect();
    ensure(!kernels.is_empty(), || format!("no kernel is among {told:?}"))?;
    for told in &told {
        let inside = told.begin + CLOCKS >= submitted && told.end <= reached + CLOCKS;
        let order = told.begin <= told.end;
        ensure(inside && order, || format!("{told:?} is not between {submitted:?} and {reached:?}"))?;
    }
    for node in made.program.nodes() {
        let named = kernels.iter().any(|told| told.nodes.iter().any(|name| **name == *node.name));
        ensure(named, || format!("no kernel tells of the node '{}': {kernels:?}", node.name))?;
    }
    Ok(())
}

pub(super) fn transfers_are_traced(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let (source, target) = (buffer(device, &[0; 4096])?, buffer(device, &[1; 4096])?);
    for work in [Work::copy(source.clone(), target.clone()), Work::fill(target.clone(), [7u8; 4])] {
        let (sink, what) = (Arc::new(Memory::default()), format!("{work:?}"));
        run(device, work.traced(Some(sink.clone())))?;
        let told = sink.told()?;
        let bytes: u64 = told.iter().filter(|told| told.kind == TraceKind::Transfer).map(|told| told.bytes).sum();
        ensure(bytes == 4096, || format!("{what} of 4096 bytes tells of {bytes}: {told:?}"))?;
        ensure(told.iter().all(|told| told.begin <= told.end), || format!("{what} ends before it begins"))?;
    }
    ensure(content(&target)? == [7; 4096], || "a traced fill has filled nothing".to_owned())
}

pub(super) fn waits_are_traced(bench: &Bench<'_>) -> Checked {
    let (device, made) = (bench.device, Made::rectifiers(6)?);
    let (prepared, sink) = (made.prepare(device)?, Arc::new(Memory::default()));
    let (queue, gate, line) = (queue(device)?, Timeline::new(0), device.timeline(0)?);
    let submitted = Instant::now();
    let work = Work::execute(prepared.execution.clone()).traced(Some(sink.clone()));
    queue.submit(&[gate.at(1)], work, &[line.at(1)])?;
    std::thread::sleep(Duration::from_millis(20));
    gate.advance(1);
    wait(&line.at(1))?;
    let (reached, told) = (Instant::now(), sink.told()?);
    let mut waits = told.iter().filter(|told| told.kind == TraceKind::Wait);
    let inside = |begin: Instant, end: Instant| begin + CLOCKS >= submitted && begin <= end && end <= reached + CLOCKS;
    let found = waits.any(|told| inside(told.begin, told.end) && told.end - told.begin >= Duration::from_millis(10));
    ensure(found, || format!("no wait of 20 ms is among {told:?}"))?;
    made.compare(&prepared.outputs()?)
}

pub(super) fn traces_change_nothing(bench: &Bench<'_>) -> Checked {
    let device = bench.device;
    let mut made = Made::product(7)?;
    if !made.claimed(device) {
        made = Made::rectifiers(7)?;
    }
    let prepared = made.prepare(device)?;
    let sink = Arc::new(Memory::default());
    run(device, Work::execute(prepared.execution.clone()))?;
    let plain = prepared.outputs()?;
    outputs(&prepared).iter().try_for_each(|(_, buffer)| buffer.write(0, &vec![0x7f; buffer.len()]))?;
    run(device, Work::execute(prepared.execution.clone()).traced(Some(sink.clone())))?;
    made.compare(&prepared.outputs()?)?;
    ensure(plain == prepared.outputs()?, || "a traced run gives other bits than an untraced one".to_owned())?;
    sink.told().map(drop)
}
