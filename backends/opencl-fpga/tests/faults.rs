//! Tests that faults on real drivers end in errors that say what happened: nothing hangs, nothing
//! crashes, and a waiter hears of the fault.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hetero_conformance::run_program;
use hetero_hal::{
    BindingTable, Buffer, BufferLayout, CompileOptions, Device, DeviceId, Driver, Error, ErrorKind, Executable,
    Execution, ExternalMemory, HostMemory, HostSemantics, OpenOptions, Operator, QueueOptions, Result, Source,
    Timeline, Work,
};
use hetero_opencl::OpenClDriver;

use common::opened;

/// The number of elements of the kernels' one buffer.
const COUNT: usize = 256;
/// A kernel that adds one to each element.
const ADD: &str = "__kernel void add(__global float *y) { y[get_global_id(0)] += 1.0f; }";
/// A kernel that takes a while.
const LONG: &str = "__kernel void add(__global float *y) { float v = y[get_global_id(0)]; \
     for (int i = 0; i < 20000; i++) v = v * 0.5f + 1.0f; y[get_global_id(0)] = v; }";

/// Memory that nobody may write, for imports that every driver takes.
#[repr(align(4096))]
struct Page([u8; 4096]);
static CONSTANT: Page = Page([0; 4096]);

/// Makes a bad file of a good file, and of another device's file.
type Change = fn(&[u8], &[u8]) -> Vec<u8>;

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// Returns these options with each way to wait for a device.
fn both_ways(options: &OpenOptions) -> [OpenOptions; 2] {
    ["finish", "events"].map(|way| {
        let mut options = options.clone();
        options.extra.push(("wait".into(), way.into()));
        options
    })
}

/// Opens every device anew with these options, with each way to wait for it.
fn devices(options: &OpenOptions) -> Vec<Arc<dyn Device>> {
    both_ways(options).iter().flat_map(opened).collect()
}

/// Opens devices without a cache on disk.
fn plain() -> Vec<Arc<dyn Device>> {
    devices(&with("cache", "off"))
}

fn with(key: &str, value: &str) -> OpenOptions {
    OpenOptions { extra: vec![(key.into(), value.into())], ..OpenOptions::default() }
}

fn compile(device: &dyn Device, code: &str) -> Result<Arc<dyn Executable>> {
    compile_with(device, code, None)
}

fn compile_with(device: &dyn Device, code: &str, cached: Option<Bytes>) -> Result<Arc<dyn Executable>> {
    common::compile(device, code, COUNT, cached)
}

fn zeros(device: &dyn Device) -> Buffer {
    common::zeros(device, COUNT)
}

fn execute(executable: &Arc<dyn Executable>, bindings: Vec<Buffer>) -> Work {
    Work::execute(Execution::new(executable.clone(), BindingTable::new(bindings)))
}

/// Runs [`ADD`] and checks its result.
fn adds(device: &dyn Device) {
    let (executable, buffer) = (compile(device, ADD).unwrap(), zeros(device));
    let done = device.timeline(0).unwrap().at(1);
    let queue = device.queue(&QueueOptions::default()).unwrap();
    queue.submit(&[], execute(&executable, vec![buffer.clone()]), std::slice::from_ref(&done)).unwrap();
    done.wait(deadline()).unwrap();
    let mut seen = [0; COUNT * 4];
    buffer.read(0, &mut seen).unwrap();
    assert!(seen.chunks(4).all(|bytes| bytes == 1.0f32.to_le_bytes()), "{}", device.info().name);
}

fn kind<T>(outcome: Result<T>) -> Error {
    outcome.err().unwrap()
}

#[test]
fn a_kernel_that_does_not_compile_has_the_build_log() {
    for device in plain() {
        let error = kind(compile(&*device, "__kernel void add(__global float *y) { y[0] = no_such_name; }"));
        assert_eq!(error.kind(), ErrorKind::Compile, "{error}");
        assert!(error.message().contains("no_such_name"), "{error}");
        assert!(error.vendor_code().is_some_and(|code| code < 0), "{error}");
        assert_eq!(error.device(), Some(&device.info().id));
        let error = kind(compile(&*device, "__kernel void other(__global float *y) { y[0] = 1.0f; }"));
        assert!(error.vendor_code() == Some(-46) && error.operator() == Some("add"), "{error}");
        // The failure leaves the device usable.
        adds(&*device);
    }
}

#[test]
fn memory_that_is_not_there_is_refused_with_sizes() {
    let limit = 1 << 20;
    for device in devices(&OpenOptions { memory_limit: Some(limit), ..with("cache", "off") }) {
        let used = device.telemetry().allocated_bytes.unwrap();
        let kept = device.allocate(BufferLayout::new(1 << 19)).unwrap();
        let error = kind(device.allocate(BufferLayout::new((1 << 19) + 4)));
        let sizes = error.sizes().unwrap();
        assert_eq!((error.kind(), error.device()), (ErrorKind::OutOfMemory, Some(&device.info().id)));
        assert_eq!((sizes.requested, sizes.available), ((1 << 19) + 4, Some(limit - used - (1 << 19))));
        drop(kept);
        assert_eq!(device.telemetry().allocated_bytes, Some(used));
        assert!(device.allocate(BufferLayout::new((1 << 19) + 4)).is_ok());
    }
    for device in devices(&OpenOptions { memory_limit: Some(u64::MAX), ..with("cache", "off") }) {
        let largest = device.capabilities().max_allocation.unwrap();
        for bytes in [largest as usize + 4, usize::MAX] {
            let error = kind(device.allocate(BufferLayout::new(bytes)));
            assert_eq!((error.kind(), error.sizes().unwrap().available), (ErrorKind::OutOfMemory, Some(largest)));
        }
    }
}

#[test]
fn work_that_does_not_fit_is_refused_and_signals_nothing() {
    let (devices, others) = (plain(), plain());
    for (device, other) in devices.iter().zip(&others) {
        let executable = compile(&**device, ADD).unwrap();
        let foreign = compile(&**other, ADD).unwrap();
        let (own, elsewhere) = (zeros(&**device), zeros(&**other));
        let small = device.allocate(BufferLayout::new(COUNT * 4 - 4)).unwrap();
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let timeline = device.timeline(0).unwrap();
        let fill = |bytes: &[u8]| Work::fill(own.clone(), bytes);
        let wrong = [
            execute(&executable, vec![]),
            execute(&executable, vec![own.clone(), own.clone()]),
            execute(&executable, vec![small.clone()]),
            execute(&executable, vec![elsewhere.clone()]),
            execute(&foreign, vec![own.clone()]),
            Work::copy(small, own.clone()),
            Work::fill(elsewhere, [1u8]),
            fill(&[]),
            fill(&[0; 3]),
            fill(&[0; 17]),
        ];
        let constant = || {
            let memory = HostMemory::constant(Bytes::from_static(&CONSTANT.0)).slice(0..COUNT * 4).unwrap();
            device.import(ExternalMemory::Host(memory), HostSemantics::Immutable).ok()
        };
        let written = constant().map_or(vec![], |target| {
            vec![
                execute(&executable, vec![target.clone()]),
                Work::fill(target.clone(), [1u8]),
                Work::copy(own.clone(), target),
            ]
        });
        for work in wrong.into_iter().chain(written) {
            let said = format!("{work:?}");
            let error = kind(queue.submit(&[], work, &[timeline.at(1)]));
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{said}: {error}");
            assert_eq!(error.device(), Some(&device.info().id), "{said}");
        }
        assert!(timeline.value() == 0 && timeline.failure().is_none());
        queue.submit(&[], fill(&[7]), &[timeline.at(1)]).unwrap();
        timeline.wait(1, deadline()).unwrap();
    }
}

#[test]
fn a_failure_travels_with_its_origin() {
    for device in plain() {
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let executable = compile(&*device, ADD).unwrap();
        for already in [true, false] {
            let elsewhere = Timeline::new(0);
            let lost = Error::new(ErrorKind::DeviceLost, "it fell off").on(DeviceId::new("elsewhere", 3));
            if already {
                elsewhere.fail(lost.clone());
            }
            let buffer = zeros(&*device);
            let (first, second) = (device.timeline(0).unwrap().at(1), device.timeline(0).unwrap().at(1));
            let work = || execute(&executable, vec![buffer.clone()]);
            queue.submit(&[elsewhere.at(1)], work(), std::slice::from_ref(&first)).unwrap();
            queue.submit(std::slice::from_ref(&first), work(), std::slice::from_ref(&second)).unwrap();
            if !already {
                elsewhere.fail(lost);
            }
            for point in [&first, &second] {
                let error = kind(point.wait(deadline()));
                assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
                assert_eq!(error.device(), Some(&DeviceId::new("elsewhere", 3)));
            }
            let mut seen = [1; COUNT * 4];
            buffer.read(0, &mut seen).unwrap();
            assert!(seen.iter().all(|&byte| byte == 0), "the work must not have run");
        }
        adds(&*device);
    }
}

#[test]
fn binaries_that_are_not_what_was_written_are_made_again() {
    let folder = std::env::temp_dir().join(format!("hetero-opencl-faults-{}", std::process::id()));
    let files = || -> Vec<PathBuf> {
        std::fs::read_dir(&folder).map_or(vec![], |list| list.map(|entry| entry.unwrap().path()).collect())
    };
    let open = || opened(&with("cache", &folder.to_string_lossy()));
    open().iter().for_each(|device| adds(&**device));
    let written: Vec<(PathBuf, Vec<u8>)> =
        files().into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    assert_eq!(written.len(), open().len());
    let changes: [Change; 6] = [
        |_, _| vec![],
        |bytes, _| bytes[..bytes.len() / 2].to_vec(),
        |bytes, _| bytes[..20].to_vec(),
        |bytes, _| {
            bytes.iter().enumerate().map(|(at, &byte)| if at > 60 && at % 97 == 0 { !byte } else { byte }).collect()
        },
        |bytes, _| [bytes, b"more"].concat(),
        |_, other| other.to_vec(),
    ];
    for change in changes {
        for (number, (path, bytes)) in written.iter().enumerate() {
            let other = &written[(number + 1) % written.len()].1;
            std::fs::write(path, change(bytes, other)).unwrap();
        }
        open().iter().for_each(|device| adds(&**device));
        // The bad file was replaced; with one device, the other device's file is its own file.
        for (path, bytes) in &written {
            let now = std::fs::read(path).unwrap();
            assert_eq!(now[..24], bytes[..24], "{}", path.display());
        }
    }
    // A cache that cannot be written is left unused.
    let file = folder.join("file");
    std::fs::write(&file, "in the way").unwrap();
    devices(&with("cache", &file.to_string_lossy())).iter().for_each(|device| adds(&**device));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_serial_form_that_fits_is_used_in_place_of_the_compiler() {
    let twice = ADD.replace("1.0f", "2.0f");
    let result = |device: &dyn Device, form: Vec<u8>| {
        let executable = compile_with(device, ADD, Some(form.into())).unwrap();
        let (buffer, queue) = (zeros(device), device.queue(&QueueOptions::default()).unwrap());
        let done = device.timeline(0).unwrap().at(1);
        let work = Work::execute(Execution::new(executable, BindingTable::new([buffer.clone()])));
        queue.submit(&[], work, std::slice::from_ref(&done)).unwrap();
        done.wait(deadline()).unwrap();
        let mut first = [0; 4];
        buffer.read(0, &mut first).unwrap();
        f32::from_le_bytes(first)
    };
    for device in opened(&with("cache", "off")) {
        let [one, two] = [ADD, &twice].map(|code| compile(&*device, code).unwrap().serialize().unwrap());
        assert_eq!((result(&*device, one.clone()), result(&*device, two.clone())), (1.0, 1.0));
        // The other program's binary under this program's key shows that the serial form is what
        // runs.
        let forged = [&two[..8], &one[8..24], &two[24..]].concat();
        assert_eq!(result(&*device, forged.clone()), 2.0, "{}", device.info().id);
        // With one byte of it changed, the serial form is not used.
        let mut damaged = forged;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(result(&*device, damaged), 1.0, "{}", device.info().id);
    }
}

#[test]
fn unknown_options_are_named() {
    for driver in [OpenClDriver::processors(), OpenClDriver::accelerators()] {
        let Ok(infos) = driver.probe() else { continue };
        let error = kind(driver.open(0, &with("cahce", "off")));
        assert!(error.kind() == ErrorKind::InvalidArgument && error.message().contains("cahce=off"), "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("`cache`")), "{error}");
        let error = kind(driver.open(infos.len(), &OpenOptions::default()));
        assert!(error.kind() == ErrorKind::InvalidArgument && error.message().contains("there is no"), "{error}");
    }
}

#[test]
fn a_full_queue_says_so_and_takes_work_again() {
    for device in plain() {
        let queue = device.queue(&QueueOptions { name: "two".into(), capacity: Some(2) }).unwrap();
        let (gate, done) = (Timeline::new(0), device.timeline(0).unwrap());
        let buffer = zeros(&*device);
        let fill = || Work::fill(buffer.clone(), [1u8]);
        queue.submit(&[gate.at(1)], fill(), &[done.at(1)]).unwrap();
        queue.submit(&[gate.at(1), done.at(1)], fill(), &[done.at(2)]).unwrap();
        let error = kind(queue.submit(&[], fill(), &[done.at(3)]));
        assert!(error.is_retryable() && error.message().contains("2 submissions"), "{error}");
        gate.advance(1);
        done.wait(2, deadline()).unwrap();
        queue.submit(&[], fill(), &[done.at(3)]).unwrap();
        done.wait(3, deadline()).unwrap();
    }
}

#[test]
fn owners_may_go_in_any_order_while_work_is_under_way() {
    let folder = std::env::temp_dir().join(format!("hetero-opencl-owners-{}", std::process::id()));
    // The programs are compiled once for each device.
    let options = both_ways(&with("cache", &folder.to_string_lossy()));
    let drivers = [OpenClDriver::processors(), OpenClDriver::accelerators()];
    let found = opened(&with("cache", "off")).into_iter().map(|device| device.info().id.clone());
    let found: Vec<DeviceId> = found.collect();
    for (id, options) in found.iter().flat_map(|id| options.iter().map(move |options| (id, options))) {
        let driver = drivers.iter().find(|driver| driver.name() == id.driver()).unwrap();
        for order in 0..24 {
            // This is the only owner, so that dropping it closes the device.
            let device = driver.open(id.ordinal(), options).unwrap();
            let executable = compile(&*device, LONG).unwrap();
            let (buffer, queue) = (zeros(&*device), device.queue(&QueueOptions::default()).unwrap());
            let (gate, done) = (Timeline::new(0), device.timeline(0).unwrap());
            let work = || execute(&executable, vec![buffer.clone()]);
            queue.submit(&[], work(), &[done.at(1)]).unwrap();
            queue.submit(&[done.at(1)], work(), &[done.at(2)]).unwrap();
            // This work waits for a point that the driver cannot tell of.
            queue.submit(&[gate.at(1), done.at(2)], work(), &[done.at(3)]).unwrap();
            let mut owners: Vec<Box<dyn std::any::Any>> =
                vec![Box::new(device), Box::new(queue), Box::new(executable), Box::new(buffer)];
            let mut left = order;
            for choices in (1..=4).rev() {
                drop(owners.swap_remove(left % choices));
                left /= choices;
            }
            gate.advance(1);
            done.wait(3, deadline()).unwrap();
        }
    }
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_host_task_that_panics_fails_its_points_and_no_others() {
    for device in plain() {
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let (first, second) = (Timeline::new(0), Timeline::new(0));
        let task = |run: fn() -> Result<()>| Work::host(Arc::new(run));
        queue.submit(&[], task(|| panic!("on purpose")), &[first.at(1)]).unwrap();
        queue.submit(&[], task(|| Ok(())), &[second.at(1)]).unwrap();
        let error = kind(first.wait(1, deadline()));
        assert_eq!((error.kind(), error.device()), (ErrorKind::Execution, Some(&device.info().id)), "{error}");
        second.wait(1, deadline()).unwrap();
        assert_eq!(kind(queue.run(&[], task(|| panic!("on purpose")), &[], deadline())).kind(), ErrorKind::Execution);
        queue.run(&[], execute(&compile(&*device, ADD).unwrap(), vec![zeros(&*device)]), &[], deadline()).unwrap();
    }
}

#[test]
fn scratch_memory_that_is_too_small_is_refused_with_sizes() {
    for device in plain() {
        let programs = (0..).map(|seed| hetero_conformance::network(seed).unwrap().0);
        let compiled =
            programs.map(|program| device.compile(Source::Program(&program), &CompileOptions::default()).unwrap());
        let executable = compiled.into_iter().find(|executable| executable.scratch().bytes > 0).unwrap();
        let needed = executable.scratch().bytes;
        let buffers = executable.bindings().iter().map(|info| device.allocate(BufferLayout::new(info.bytes)).unwrap());
        let bindings = BindingTable::new(buffers.collect::<Vec<_>>());
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let run = |scratch: Option<usize>| {
            let scratch = scratch.map(|bytes| device.allocate(BufferLayout::new(bytes)).unwrap());
            let (executable, bindings) = (executable.clone(), bindings.clone());
            let execution = Execution::new(executable, bindings).with_scratch(scratch);
            queue.run(&[], Work::execute(execution), &[], deadline())
        };
        for given in [None, Some(4), Some(needed - 1)] {
            let error = kind(run(given));
            assert_eq!(
                (error.kind(), error.device()),
                (ErrorKind::InvalidArgument, Some(&device.info().id)),
                "{error}"
            );
            let sizes = error.sizes().unwrap();
            assert_eq!((sizes.requested, sizes.available), (needed as u64, Some(given.unwrap_or(0) as u64)));
        }
        run(Some(needed)).unwrap();
    }
}

#[test]
fn a_run_whose_weight_finds_no_memory_fails_with_sizes_and_the_next_one_runs() {
    let (limit, weight) = (1 << 20, 256 * 256 * 4);
    for device in opened(&OpenOptions { memory_limit: Some(limit), ..OpenOptions::default() }) {
        let mut network = hetero_conformance::Network::new("product", 1);
        let constant = network.constant(&[256, 256], 0.1).unwrap();
        let x = network.input(&[1, 256]);
        network.node(Operator::new("MatMul", 13), &[x, constant]).unwrap();
        let (program, inputs) = network.finish().unwrap();
        let executable = device.compile(Source::Program(&program), &CompileOptions::default()).unwrap();
        let before = run_program(&*device, &program, &inputs).unwrap();
        executable.weights().iter().for_each(|weight| weight.evict());
        // The memory that is left is enough for the run's buffers only.
        let used = device.telemetry().allocated_bytes.unwrap();
        let filler = device.allocate(BufferLayout::new((limit - used) as usize - weight + 4)).unwrap();
        let error = kind(run_program(&*device, &program, &inputs));
        assert_eq!((error.kind(), error.device()), (ErrorKind::OutOfMemory, Some(&device.info().id)), "{error}");
        assert_eq!(error.sizes().unwrap().requested, weight as u64);
        let said = kind(executable.weights()[0].restore());
        assert_eq!(said.kind(), ErrorKind::OutOfMemory);
        drop(filler);
        assert_eq!(run_program(&*device, &program, &inputs).unwrap(), before);
    }
}
