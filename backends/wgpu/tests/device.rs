//! Tests of what the conformance suite does not look at: memory, queues, faults.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{compile, execution, filled, floats, program, run, soon};
use hetero_hal::{
    BindingInfo, BufferLayout, CompileOptions, DType, Direction, Driver, Error, ErrorKind, ExternalMemory, HandleKind,
    HostMemory, HostSemantics, KernelFormat, KernelSignature, OpenOptions, QueueOptions, Source, Timeline,
    UnavailableReason, Work,
};
use hetero_wgpu::WgpuDriver;

#[test]
fn any_range_is_read_and_written() {
    for memory in ["mapped", "staged"] {
        let Some(device) = common::device(&[("memory", memory)]) else { return };
        let buffer = device.allocate(BufferLayout::new(41)).unwrap();
        let mut expected = vec![7; 41];
        buffer.write(0, &expected).unwrap();
        for (offset, length) in [(0, 1), (3, 2), (5, 11), (16, 8), (40, 1), (37, 4), (9, 0), (0, 41)] {
            let content: Vec<u8> = (0..length).map(|at| (offset * 16 + at) as u8).collect();
            buffer.write(offset, &content).unwrap();
            expected[offset..offset + length].copy_from_slice(&content);
            let mut seen = vec![0; 41];
            buffer.read(0, &mut seen).unwrap();
            assert_eq!(seen, expected, "{memory} {offset} {length}");
            let mut part = vec![0; length];
            buffer.read(offset, &mut part).unwrap();
            assert_eq!(part, content);
        }
        assert!(buffer.write(40, &[0, 0]).is_err());
        assert_eq!(device.allocate(BufferLayout::new(0)).unwrap().len(), 0);
    }
}

#[test]
fn too_much_memory_is_an_error_with_sizes() {
    let Some(device) = common::device(&[]) else { return };
    let most = usize::try_from(device.capabilities().max_allocation.unwrap()).unwrap();
    let error = device.allocate(BufferLayout::new(most + 1)).unwrap_err();
    assert_eq!((error.kind(), error.sizes().unwrap().available), (ErrorKind::OutOfMemory, Some(most as u64)));
    let limited = WgpuDriver.open(0, &OpenOptions { memory_limit: Some(1000), ..OpenOptions::default() }).unwrap();
    let held = limited.allocate(BufferLayout::new(600)).unwrap();
    let error = limited.allocate(BufferLayout::new(600)).unwrap_err();
    assert_eq!((error.kind(), error.sizes().unwrap().available), (ErrorKind::OutOfMemory, Some(400)));
    drop(held);
    limited.allocate(BufferLayout::new(600)).unwrap();
    assert_eq!(limited.telemetry().allocated_bytes, Some(0));
}

#[test]
fn host_memory_is_used_in_place() {
    let Some(device) = common::device(&[]) else { return };
    if !device.capabilities().imports.contains(&HandleKind::Host) {
        println!("skipped: the driver cannot import host memory");
        return;
    }
    let count = 4096;
    let host = HostMemory::allocate(2 * 4 * count).unwrap();
    let halves = [host.slice(0..4 * count).unwrap(), host.slice(4 * count..8 * count).unwrap()];
    let before = device.telemetry().allocated_bytes;
    let [input, output] =
        halves.each_ref().map(|half| device.import(ExternalMemory::Host(half.clone()), HostSemantics::Shared).unwrap());
    // No memory was allocated that could hold a copy.
    assert_eq!(device.telemetry().allocated_bytes, before);
    let executable = compile(&*device, &program(&["Neg"], count));
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let view = |half: &HostMemory| {
        // SAFETY: the pages hold this many floats, live as long as `half`, and no work is under
        // way.
        unsafe { std::slice::from_raw_parts_mut(half.as_mut_ptr().unwrap().cast::<f32>(), count) }
    };
    let other = filled(&*device, std::iter::repeat_n(0.0, count));
    let work = Work::execute(execution(&executable, &*device, &[input.clone(), other, output.clone()]));
    for round in 1..4 {
        // The host writes through its pointer, and reads through its pointer what the shader wrote.
        view(&halves[0]).iter_mut().enumerate().for_each(|(at, value)| *value = (at * round) as f32);
        run(&*queue, work.clone()).unwrap();
        assert!(view(&halves[1]).iter().enumerate().all(|(at, &value)| value == -((at * round) as f32)));
    }
    // The pages live as long as the device may use them, even when all others have dropped them.
    drop((host, halves, input, output));
    run(&*queue, work).unwrap();
}

#[test]
fn an_unaligned_or_constant_import_is_right_or_refused() {
    let Some(device) = common::device(&[]) else { return };
    let host = HostMemory::allocate(8192).unwrap();
    let alignment = device.capabilities().alignment;
    let odd = host.slice(alignment / 2..4096).unwrap();
    let import = |memory: &HostMemory, semantics| device.import(ExternalMemory::Host(memory.clone()), semantics);
    let expected =
        if device.capabilities().imports.is_empty() { ErrorKind::Unsupported } else { ErrorKind::InvalidArgument };
    assert_eq!(import(&odd, HostSemantics::Shared).unwrap_err().kind(), expected);
    let copy = import(&odd, HostSemantics::Copy).unwrap();
    assert_eq!(copy.len(), odd.len());
    let constant = HostMemory::constant(bytes::Bytes::from(vec![3; 5000]));
    assert!(import(&constant, HostSemantics::Shared).is_err());
    let mut seen = vec![0; 5000];
    import(&constant, HostSemantics::Copy).unwrap().read(0, &mut seen).unwrap();
    assert_eq!(seen, vec![3; 5000]);
    // The next range lies in the middle of a page.
    if expected == ErrorKind::InvalidArgument {
        let part = host.slice(alignment..alignment + 1000).unwrap();
        let imported = import(&part, HostSemantics::Shared).unwrap();
        imported.write(0, &[9; 1000]).unwrap();
        let copied = device.allocate(BufferLayout::new(1000)).unwrap();
        let queue = device.queue(&QueueOptions::default()).unwrap();
        run(&*queue, Work::copy(imported, copied.clone())).unwrap();
        let mut seen = [0; 1000];
        copied.read(0, &mut seen).unwrap();
        assert_eq!(seen, [9; 1000]);
    }
}

#[test]
fn a_tensor_larger_than_a_binding_is_bound_in_pieces() {
    let Some(device) = common::device(&[]) else { return };
    let count = 40_000_000;
    let executable = compile(&*device, &program(&["Relu", "Add"], count));
    let number = |at: usize| (at % 1000) as f32 - 500.0;
    let a = filled(&*device, (0..count).map(number));
    let b = filled(&*device, (0..count).map(|at| (at / 1_000_000) as f32));
    let c = device.allocate(BufferLayout::new(4 * count)).unwrap();
    let queue = device.queue(&QueueOptions::default()).unwrap();
    run(&*queue, Work::execute(execution(&executable, &*device, &[a, b, c.clone()]))).unwrap();
    let wrong =
        floats(&c).into_iter().enumerate().find(|&(at, value)| value != number(at).max(0.0) + (at / 1_000_000) as f32);
    assert_eq!(wrong, None);
}

#[test]
fn work_waits_for_its_points_and_failures_travel() {
    let Some(device) = common::device(&[]) else { return };
    let queue = device.queue(&QueueOptions { capacity: Some(3), ..QueueOptions::default() }).unwrap();
    let executable = compile(&*device, &program(&["Add"], 100));
    let [a, b, c] = [1.0, 2.0, 0.0].map(|value| filled(&*device, std::iter::repeat_n(value, 100)));
    let gate = Timeline::new(0);
    let line = Timeline::new(0);
    // The work is: a + b into c once the gate is open, then c over a, then fives over b.
    let work = Work::execute(execution(&executable, &*device, &[a.clone(), b.clone(), c.clone()]));
    queue.submit(&[gate.at(1)], work.clone(), &[line.at(1)]).unwrap();
    queue.submit(&[line.at(1)], Work::copy(c.clone(), a.clone()), &[line.at(2)]).unwrap();
    let pattern = 5f32.to_le_bytes();
    queue.submit(&[line.at(2)], Work::fill(b.clone(), pattern), &[line.at(3)]).unwrap();
    let full = queue.submit(&[], work.clone(), &[]).unwrap_err();
    assert!(full.is_retryable(), "{full}");
    assert_eq!(line.value(), 0);
    gate.advance(1);
    line.wait(3, soon()).unwrap();
    assert_eq!((floats(&a), floats(&b)), (vec![3.0; 100], vec![5.0; 100]));
    // A part of a buffer, whose length is no multiple of four, is copied over another part of it.
    let text = device.allocate(BufferLayout::new(20)).unwrap();
    text.write(0, b"abcdefghijklmnopqrst").unwrap();
    let (source, target) = (text.slice(1..6).unwrap(), text.slice(11..16).unwrap());
    run(&*queue, Work::copy(source, target)).unwrap();
    let mut seen = [0; 20];
    text.read(0, &mut seen).unwrap();
    assert_eq!(&seen, b"abcdefghijkbcdefqrst");
    // A failed wait fails the work that waits behind it, and that work does not run.
    let failed = Timeline::new(0);
    queue.submit(&[gate.at(2)], Work::fill(b.clone(), [0u8]), &[failed.at(1)]).unwrap();
    gate.fail(Error::new(ErrorKind::Execution, "the gate fell"));
    assert!(failed.wait(1, soon()).unwrap_err().message().contains("fell"));
    assert_eq!(floats(&b), vec![5.0; 100]);
    let task = || Err(Error::new(ErrorKind::Io, "no disk"));
    assert_eq!(run(&*queue, Work::host(Arc::new(task))).unwrap_err().kind(), ErrorKind::Io);
    run(&*queue, work).unwrap();
}

#[test]
fn wrong_bindings_are_refused_before_they_are_taken() {
    let Some(device) = common::device(&[]) else { return };
    let other = WgpuDriver.open(0, &OpenOptions::default()).unwrap();
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let executable = compile(&*device, &program(&["Add"], 64));
    let own = || device.allocate(BufferLayout::new(256)).unwrap();
    let long = device.allocate(BufferLayout::new(1024)).unwrap();
    let step = device.capabilities().alignment / 2;
    let cases = [
        vec![own(), own()],
        vec![own(), own(), device.allocate(BufferLayout::new(252)).unwrap()],
        vec![own(), own(), other.allocate(BufferLayout::new(256)).unwrap()],
        vec![own(), own(), long.slice(step..step + 256).unwrap()],
    ];
    for bindings in cases {
        let work = Work::execute(execution(&executable, &*device, &bindings));
        let line = Timeline::new(0);
        assert_eq!(queue.submit(&[], work, &[line.at(1)]).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert!(line.failure().is_none());
    }
    let foreign = compile(&*other, &program(&["Add"], 64));
    let work = Work::execute(execution(&foreign, &*device, &[own(), own(), own()]));
    assert_eq!(queue.submit(&[], work, &[]).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

fn signature(entry: &str, elements: usize) -> KernelSignature {
    let binding = |name: &str, direction| BindingInfo {
        name: name.into(),
        direction,
        dtype: DType::F32,
        shape: vec![elements],
        extents: vec![],
        bytes: 4 * elements,
    };
    KernelSignature {
        entry: entry.to_owned(),
        bindings: vec![binding("x", Direction::Input), binding("y", Direction::Output)],
        global: [elements as u32, 1, 1],
        local: Some([64, 1, 1]),
    }
}

#[test]
fn a_raw_kernel_runs_and_a_wrong_one_says_why_not() {
    let Some(device) = common::device(&[]) else { return };
    let text = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn twice(@builtin(global_invocation_id) id: vec3<u32>) {
  if id.x < arrayLength(&x) { y[id.x] = 2.0 * x[id.x]; }
}";
    let compile = |code: &str, signature: &KernelSignature| {
        let source = Source::Kernel { format: KernelFormat::Wgsl, code: code.as_bytes(), signature };
        device.compile(source, &CompileOptions::default())
    };
    let executable = compile(text, &signature("twice", 100)).unwrap();
    let x = filled(&*device, (0u8..100).map(f32::from));
    let y = device.allocate(BufferLayout::new(400)).unwrap();
    let queue = device.queue(&QueueOptions::default()).unwrap();
    run(&*queue, Work::execute(execution(&executable, &*device, &[x, y.clone()]))).unwrap();
    assert_eq!(floats(&y), (0u8..100).map(|at| 2.0 * f32::from(at)).collect::<Vec<_>>());
    for (code, entry, said) in [
        (text.replace("2.0 * x", "2.0 + true * x"), "twice", "twice"),
        ("fn twice( {".to_owned(), "twice", "expected"),
        (text.to_owned(), "thrice", "thrice"),
    ] {
        let error = compile(&code, &signature(entry, 100)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compile);
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// Asks the driver in a process whose Vulkan loader finds no driver.
#[cfg(target_os = "linux")]
#[test]
fn without_a_driver_it_says_how_to_get_one() {
    if std::env::var_os("HETERO_WGPU_NO_DRIVER").is_some() {
        let why = WgpuDriver.probe().unwrap_err();
        assert!(matches!(why.reason, UnavailableReason::NoDevice | UnavailableReason::LibraryMissing));
        assert!(why.remedy.contains("mesa-vulkan-drivers"), "{why}");
        let error = WgpuDriver.open(0, &OpenOptions::default()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        return;
    }
    let own = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(own);
    child.args(["--exact", "without_a_driver_it_says_how_to_get_one"]).env("HETERO_WGPU_NO_DRIVER", "1");
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        child.env(variable, "/nowhere/icd.json");
    }
    assert!(child.status().unwrap().success());
}

/// Measures and prints how long an almost empty run takes; it checks nothing.
#[test]
#[ignore = "a measurement"]
fn latency() {
    let Some(device) = common::device(&[]) else { return };
    let queue = device.queue(&QueueOptions::default()).unwrap();
    let executable = compile(&*device, &program(&["Add"], 64));
    let [a, b, c] = [1.0, 2.0, 0.0].map(|value| filled(&*device, std::iter::repeat_n(value, 64)));
    let work = Work::execute(execution(&executable, &*device, &[a, b, c.clone()]));
    let line = Timeline::new(0);
    for (name, threaded) in [("run", false), ("submit, then wait", true)] {
        let mut times: Vec<Duration> = (0..2000u64)
            .map(|_| {
                let signal = [line.at(line.value() + 1)];
                let began = Instant::now();
                if threaded {
                    queue.submit(&[], work.clone(), &signal).unwrap();
                    signal[0].wait(soon()).unwrap();
                } else {
                    queue.run(&[], work.clone(), &signal, soon()).unwrap();
                }
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{name}: p50 {:?}, p99 {:?}", times[1000], times[1980]);
    }
}
