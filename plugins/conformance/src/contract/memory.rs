//! Rules about memory: imports of all kinds, and alignment.

use bytes::Bytes;
use hetero_hal::{
    Buffer, BufferLayout, Direction, ErrorKind, ExternalMemory, HandleKind, HostMemory, HostSemantics, Result, Work,
};

use super::tools::{COUNT, Made, content, ensure, failure, queue, run};
use super::{Bench, Checked, Fault};

/// The bytes of imported memory, which are whole pages on any system.
const BYTES: usize = 4 * COUNT;
const PAGE: usize = 4096;

/// Returns `Unsupported` where the device imports no host memory, so that there is nothing to
/// check.
fn imports(bench: &Bench<'_>) -> Checked {
    if bench.device.capabilities().imports.contains(&HandleKind::Host) {
        return Ok(());
    }
    Err(Fault::Unsupported("the device imports no host memory".to_owned()))
}

fn import(bench: &Bench<'_>, host: &HostMemory, semantics: HostSemantics) -> Result<Buffer> {
    bench.device.import(ExternalMemory::Host(host.clone()), semantics)
}

/// Returns constant bytes at a page's beginning.
fn constant(content: &[u8]) -> HostMemory {
    let mut storage = vec![0; content.len() + PAGE];
    let lead = (storage.as_ptr() as usize).next_multiple_of(PAGE) - storage.as_ptr() as usize;
    storage[lead..lead + content.len()].copy_from_slice(content);
    HostMemory::constant(Bytes::from(storage).slice(lead..lead + content.len()))
}

pub(super) fn immutable(bench: &Bench<'_>) -> Checked {
    imports(bench)?;
    let (device, made) = (bench.device, Made::rectifiers(1)?);
    let host = constant(made.inputs[0].bytes());
    let imported = import(bench, &host, HostSemantics::Immutable)?;
    let prepared = made.prepare(device)?;
    prepared.execution.bindings.set(0, imported.clone())?;
    run(device, Work::execute(prepared.execution.clone()))?;
    made.compare(&prepared.outputs()?)?;
    ensure(content(&imported)? == made.inputs[0].bytes()[..], || "the imported bytes are others".to_owned())?;
    // Neither the host nor work may write the memory.
    failure(imported.write(0, &[1]), "a write of constant memory")?;
    let position = prepared.execution.executable.bindings().iter().position(|info| info.direction == Direction::Output);
    prepared.execution.bindings.set(position.unwrap_or_default(), imported.clone())?;
    let (queue, line) = (queue(device)?, device.timeline(0)?);
    for work in [
        Work::execute(prepared.execution.clone()),
        Work::fill(imported.clone(), [9u8]),
        Work::copy(prepared.buffers[1].clone(), imported.clone()),
    ] {
        let what = format!("{work:?}");
        let error = failure(queue.submit(&[], work, &[line.at(1)]), &what)?;
        ensure(error.kind() == ErrorKind::InvalidArgument, || format!("{what} is answered with: {error}"))?;
    }
    failure(import(bench, &host, HostSemantics::Shared), "sharing constant memory for writing")?;
    ensure(content(&imported)? == made.inputs[0].bytes()[..], || "constant memory was written".to_owned())
}

pub(super) fn shared(bench: &Bench<'_>) -> Checked {
    imports(bench)?;
    let (device, made) = (bench.device, Made::rectifiers(2)?);
    let prepared = made.prepare(device)?;
    let infos = prepared.execution.executable.bindings();
    // Every binding is imported, and each is seen through another import of the same pages.
    let mut seen = Vec::new();
    let mut given = made.inputs.iter();
    for (position, info) in infos.iter().enumerate() {
        let host = HostMemory::allocate(BYTES)?;
        let (bound, other) =
            (import(bench, &host, HostSemantics::Shared)?, import(bench, &host, HostSemantics::Shared)?);
        ensure(content(&bound)? == [0; BYTES], || "fresh pages are not zero".to_owned())?;
        if let (Direction::Input, Some(tensor)) = (info.direction, given.next()) {
            other.write(0, tensor.bytes())?;
        }
        prepared.execution.bindings.set(position, bound)?;
        seen.push((info.direction, other));
    }
    run(device, Work::execute(prepared.execution.clone()))?;
    let outputs = seen.iter().filter(|(direction, _)| *direction == Direction::Output);
    for ((_, output), expected) in outputs.zip(&made.expected) {
        ensure(content(output)? == expected.bytes()[..], || "what the device wrote is not on the pages".to_owned())?;
    }
    Ok(())
}

pub(super) fn copied(bench: &Bench<'_>) -> Checked {
    imports(bench)?;
    // The range begins at no page's beginning, and has no whole number of words.
    let whole = constant(&[5; 1024]);
    let copy = import(bench, &whole.slice(3..1000)?, HostSemantics::Copy)?;
    ensure(content(&copy)? == [5; 997], || "a copy has other bytes".to_owned())?;
    copy.write(0, &[6; 997])?;
    ensure(content(&copy)? == [6; 997], || "a copy cannot be written".to_owned())?;
    let host = HostMemory::allocate(BYTES)?;
    let (copy, pages) = (import(bench, &host, HostSemantics::Copy)?, import(bench, &host, HostSemantics::Shared)?);
    pages.write(0, &[7; BYTES])?;
    ensure(content(&copy)? == [0; BYTES], || "a copy changes with what it was copied from".to_owned())
}

pub(super) fn replaced(bench: &Bench<'_>) -> Checked {
    imports(bench)?;
    let (device, made) = (bench.device, Made::rectifiers(3)?);
    let prepared = made.prepare(device)?;
    // The place first holds nothing, then memory of the device's own, then imports of other
    // lengths.
    let mut buffer = Buffer::nothing();
    for round in 0..4 {
        let other = Made::rectifiers(10 + round)?;
        let host = constant(other.inputs[0].bytes());
        if round == 1 {
            buffer = device.allocate(BufferLayout::new(64))?;
        }
        let former = std::mem::replace(&mut buffer, Buffer::nothing());
        let imported = device.reimport(ExternalMemory::Host(host), former)?;
        ensure(imported.len() == BYTES && *imported.device() == device.info().id, || format!("it is {imported:?}"))?;
        ensure(content(&imported)? == other.inputs[0].bytes()[..], || "it has other bytes".to_owned())?;
        // The table holds the buffer during the run, and gives it back for the next one.
        drop(prepared.execution.bindings.set(0, imported)?);
        run(device, Work::execute(prepared.execution.clone()))?;
        let first = &prepared.outputs()?[0];
        ensure(*first == other.expected[0], || "a run with it is wrong".to_owned())?;
        buffer = prepared.execution.bindings.set(0, Buffer::nothing())?;
    }
    Ok(())
}

pub(super) fn held(bench: &Bench<'_>) -> Checked {
    imports(bench)?;
    let (first, second) = (constant(&[1; BYTES]), constant(&[2; 2 * BYTES]));
    let former = import(bench, &first, HostSemantics::Immutable)?;
    let (kept, part) = (former.clone(), former.slice(PAGE..2 * PAGE)?);
    let imported = bench.device.reimport(ExternalMemory::Host(second), former)?;
    ensure(content(&imported)? == [2; 2 * BYTES], || "the new buffer has other bytes".to_owned())?;
    ensure(content(&kept)? == [1; BYTES], || "a buffer that is held has changed".to_owned())?;
    ensure(content(&part)? == [1; PAGE], || "a part of a buffer that is held has changed".to_owned())
}

pub(super) fn aligned(bench: &Bench<'_>) -> Checked {
    let (device, alignment) = (bench.device, bench.device.capabilities().alignment);
    ensure(alignment.is_power_of_two(), || format!("an alignment of {alignment}"))?;
    // A binding may begin at any multiple of the alignment.
    let made = Made::rectifiers(4)?;
    let prepared = made.prepare(device)?;
    let places: Vec<usize> = (0..4).map(|number| number * BYTES.next_multiple_of(alignment) + alignment).collect();
    let whole = device.allocate(BufferLayout::new(places[3] + BYTES.next_multiple_of(alignment)))?;
    for (position, place) in places.iter().enumerate() {
        let part = whole.slice(*place..place + BYTES)?;
        if let Some(tensor) = made.inputs.get(position) {
            part.write(0, tensor.bytes())?;
        }
        prepared.execution.bindings.set(position, part)?;
    }
    run(device, Work::execute(prepared.execution.clone()))?;
    for (expected, place) in made.expected.iter().zip(&places[2..]) {
        let part = whole.slice(*place..place + BYTES)?;
        ensure(content(&part)? == expected.bytes()[..], || format!("a binding at byte {place} is wrong"))?;
    }
    Ok(())
}

pub(super) fn every_kind(bench: &Bench<'_>) -> Checked {
    let capabilities = bench.device.capabilities();
    imports(bench)?;
    for kind in &capabilities.imports {
        let HandleKind::Host = kind else {
            return Err(Fault::Unsupported(format!("the suite has no memory of the kind {kind:?}")));
        };
        // Parts begin at the least alignment that the device asks for; 0 stands for the alignment
        // of bindings.
        let step = match capabilities.import_alignment {
            0 => capabilities.alignment,
            step => step,
        };
        let host = HostMemory::allocate(4 * step.max(PAGE))?;
        let (whole, part) = (
            import(bench, &host, HostSemantics::Shared)?,
            import(bench, &host.slice(step..3 * step)?, HostSemantics::Shared)?,
        );
        whole.write(0, &vec![3; whole.len()])?;
        ensure(content(&part)? == vec![3; 2 * step], || "an imported part has other bytes".to_owned())?;
        run(bench.device, Work::fill(part, [4u8]))?;
        let seen = content(&whole)?;
        let filled = |at: usize| (step..3 * step).contains(&at);
        let inside = seen.iter().enumerate().all(|(at, &byte)| byte == if filled(at) { 4 } else { 3 });
        ensure(inside, || format!("a fill of an imported part at {step} went elsewhere"))?;
    }
    Ok(())
}
