//! The validating layer finds each of these mistakes, whatever the device's speed, and raises no
//! alarm over the conformance suite.
//!
//! Work is kept under way by a host function that waits for the test, so that no outcome depends on
//! who is quicker.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hetero_conformance::{Outcome, network, program, suite};
use hetero_cpu::CpuDriver;
use hetero_hal::{
    BindingTable, Buffer, BufferLayout, CompileOptions, Device, Driver, Error, Executable, Execution, Extents,
    ExternalMemory, HostMemory, HostSemantics, OpenOptions, Point, Program, Queue, QueueOptions, Result, Source,
    Timeline, Work,
};
use hetero_layers::{Breach, Rule, Validated};
use hetero_null::NullDriver;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A watched CPU device with two queues, and a host function under way that ends with `held`.
struct Bench {
    driver: Validated,
    device: Arc<dyn Device>,
    queue: Arc<dyn Queue>,
    held: Point,
    release: Sender<()>,
    _holding: Arc<dyn Queue>,
}

impl Bench {
    fn new() -> Bench {
        let driver = Validated::over(Arc::new(CpuDriver));
        let device = driver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap();
        let (release, released) = channel();
        let released = Mutex::new(released);
        let wait = move || -> Result<()> {
            let outcome = released.lock().unwrap().recv_timeout(Duration::from_secs(20));
            outcome.map_err(|_| Error::internal("the test did not go on"))
        };
        let held = device.timeline(0).unwrap().at(1);
        let holding = device.queue(&QueueOptions::default()).unwrap();
        holding.submit(&[], Work::host(Arc::new(wait)), std::slice::from_ref(&held)).unwrap();
        let queue = device.queue(&QueueOptions::default()).unwrap();
        Bench { driver, device, queue, held, release, _holding: holding }
    }

    fn buffer(&self, bytes: usize) -> Buffer {
        self.device.allocate(BufferLayout::new(bytes)).unwrap()
    }

    fn point(&self) -> Point {
        self.device.timeline(0).unwrap().at(1)
    }

    fn submit(&self, wait: &Point, work: Work, signal: &Point) -> Result<()> {
        self.queue.submit(std::slice::from_ref(wait), work, std::slice::from_ref(signal))
    }

    fn fill(&self, wait: &Point, target: &Buffer, signal: &Point) -> Result<()> {
        self.submit(wait, Work::fill(target.clone(), [7u8]), signal)
    }

    /// Submits work that waits for nothing and signals nothing.
    fn alone(&self, work: Work) -> Result<()> {
        self.queue.submit(&[], work, &[])
    }

    /// Lets the host function end, and waits for a point.
    fn end(&self, last: &Point) {
        self.release.send(()).unwrap();
        last.wait(soon()).unwrap();
    }

    fn noted(&self) -> Vec<Rule> {
        self.driver.take_breaches().iter().map(|breach| breach.rule).collect()
    }

    /// Compiles the first case of the suite whose name begins so.
    fn case(&self, name: &str) -> (Program, Arc<dyn Executable>) {
        let case = suite(1).unwrap().into_iter().find(|case| case.name.starts_with(name)).unwrap();
        let program = program(&case).unwrap().0;
        let executable = self.compile(&program);
        (program, executable)
    }

    fn compile(&self, program: &Program) -> Arc<dyn Executable> {
        self.device.compile(Source::Program(program), &CompileOptions::default()).unwrap()
    }

    /// Allocates a buffer for each binding.
    fn buffers(&self, executable: &Arc<dyn Executable>) -> Vec<Buffer> {
        executable.bindings().iter().map(|info| self.buffer(info.bytes)).collect()
    }

    /// Compiles a network that needs scratch memory.
    fn with_scratch(&self) -> (Program, Arc<dyn Executable>) {
        let made = (0..100).map(|seed| network(seed).unwrap().0).find_map(|program| {
            let executable = self.compile(&program);
            (executable.scratch().bytes > 0).then_some((program, executable))
        });
        made.unwrap()
    }
}

fn run(executable: &Arc<dyn Executable>, buffers: Vec<Buffer>) -> Work {
    Work::execute(Execution::new(executable.clone(), BindingTable::new(buffers)))
}

#[track_caller]
fn broken<T>(outcome: Result<T>, rule: Rule) {
    let error = outcome.err().unwrap();
    assert_eq!(Breach::of(&error).map(|breach| breach.rule), Some(rule), "{error}");
    assert!(error.to_string().contains(rule.name()), "{error}");
}

#[test]
fn two_writes_that_no_point_orders() {
    let bench = Bench::new();
    let (buffer, first) = (bench.buffer(64), bench.point());
    bench.fill(&bench.held, &buffer, &first).unwrap();
    let part = buffer.slice(32..40).unwrap();
    broken(bench.fill(&bench.held, &part, &bench.point()), Rule::Unordered);
    broken(bench.alone(Work::copy(part.clone(), bench.buffer(8))), Rule::Unordered);
    // Behind the first one, or on other bytes, it is right.
    let (second, other) = (bench.point(), bench.buffer(64));
    bench.fill(&bench.held, &other, &bench.point()).unwrap();
    bench.fill(&first, &part, &second).unwrap();
    bench.end(&second);
    assert_eq!(bench.noted(), []);
}

#[test]
fn a_write_that_only_a_gate_of_the_hosts_has_kept_from_another() {
    let bench = Bench::new();
    let (buffer, gate, first, second) = (bench.buffer(64), Timeline::new(0), bench.point(), bench.point());
    bench.fill(&bench.held, &buffer, &first).unwrap();
    // The host could still open the gate after the first write.
    bench.fill(&gate.at(1), &buffer, &second).unwrap();
    assert_eq!(bench.noted(), []);
    gate.advance(1);
    assert_eq!(bench.noted(), [Rule::Unordered]);
    bench.end(&first);
    second.wait(soon()).unwrap();
}

#[test]
fn the_host_reads_and_writes_what_work_under_way_writes() {
    let bench = Bench::new();
    let (buffer, filled) = (bench.buffer(64), bench.point());
    bench.fill(&bench.held, &buffer, &filled).unwrap();
    broken(buffer.read(0, &mut [0]), Rule::Unordered);
    broken(buffer.write(63, &[1]), Rule::Unordered);
    bench.end(&filled);
    let mut seen = [0];
    buffer.read(0, &mut seen).unwrap();
    assert_eq!(seen, [7]);
}

#[test]
fn a_binding_that_is_too_small_or_missing() {
    let bench = Bench::new();
    let executable = bench.case("Relu [7, 13]").1;
    let mut buffers = bench.buffers(&executable);
    buffers[1] = bench.buffer(4);
    broken(bench.alone(run(&executable, buffers.clone())), Rule::BindingTooSmall);
    buffers.pop();
    broken(bench.alone(run(&executable, buffers)), Rule::BindingTooSmall);
}

#[test]
fn a_binding_at_an_address_that_the_device_does_not_take() {
    let bench = Bench::new();
    let alignment = bench.device.capabilities().alignment;
    assert!(alignment > 1);
    let executable = bench.case("Relu [7, 13]").1;
    let bytes = executable.bindings()[0].bytes;
    let odd = bench.buffer(bytes + alignment).slice(alignment / 2..bytes + alignment / 2).unwrap();
    broken(bench.alone(run(&executable, vec![odd, bench.buffer(bytes)])), Rule::Misaligned);
}

#[test]
fn memory_and_an_executable_of_another_device() {
    let driver = Validated::over(Arc::new(NullDriver));
    let devices = [0, 1].map(|ordinal| driver.open(ordinal, &OpenOptions::default()).unwrap());
    let queue = devices[1].queue(&QueueOptions::default()).unwrap();
    let allocate = |index: usize| devices[index].allocate(BufferLayout::new(364)).unwrap();
    let (foreign, input, output) = (allocate(0), allocate(1), allocate(1));
    let submit = |work| queue.submit(&[], work, &[]);
    broken(submit(Work::fill(foreign.clone(), [1u8])), Rule::WrongDevice);
    let case = suite(1).unwrap().into_iter().find(|case| case.name == "Relu [7, 13]").unwrap();
    let program = program(&case).unwrap().0;
    let compile = |index: usize| devices[index].compile(Source::Program(&program), &CompileOptions::default()).unwrap();
    let (theirs, own) = (compile(0), compile(1));
    broken(submit(run(&own, vec![input.clone(), foreign.clone()])), Rule::WrongDevice);
    broken(submit(run(&theirs, vec![input.clone(), output.clone()])), Rule::WrongDevice);
    submit(run(&own, vec![input.clone(), output])).unwrap();
    // A copy has one side on the device.
    submit(Work::copy(foreign, input)).unwrap();
}

#[test]
fn an_output_that_overlaps_an_input() {
    let bench = Bench::new();
    let executable = bench.case("Relu [7, 13]").1;
    let (bytes, alignment) = (executable.bindings()[0].bytes, bench.device.capabilities().alignment);
    let whole = bench.buffer(bytes + alignment);
    let parts = [0, alignment].map(|begin| whole.slice(begin..begin + bytes).unwrap());
    broken(bench.alone(run(&executable, parts.to_vec())), Rule::Overlap);
    let copy = Work::copy(whole.slice(0..64).unwrap(), whole.slice(63..127).unwrap());
    broken(bench.alone(copy), Rule::Overlap);
}

#[test]
fn a_copy_between_two_imports_of_the_same_pages() {
    let bench = Bench::new();
    let host = HostMemory::allocate(4096).unwrap();
    let import = || bench.device.import(ExternalMemory::Host(host.clone()), HostSemantics::Shared).unwrap();
    broken(bench.alone(Work::copy(import(), import())), Rule::Overlap);
}

#[test]
fn a_wait_for_a_point_that_nobody_reaches() {
    let bench = Bench::new();
    let lone = Timeline::new(3);
    let fill = || Work::fill(bench.buffer(64), [1u8]);
    let late = || Instant::now() + Duration::from_millis(20);
    broken(bench.queue.run(&[lone.at(4)], fill(), &[], late()), Rule::NeverSignalled);
    // A point that work under way reaches is only late.
    let outcome = bench.queue.run(std::slice::from_ref(&bench.held), fill(), &[], late());
    assert!(Breach::of(&outcome.unwrap_err()).is_none());
    // Where nobody waits until a deadline, the queue's end tells.
    let Bench { driver, queue, .. } = bench;
    drop(queue);
    let noted = driver.take_breaches();
    assert_eq!(noted.iter().map(|breach| breach.rule).collect::<Vec<_>>(), [Rule::NeverSignalled]);
    assert!(noted[0].detail.contains("stands at 3"), "{}", noted[0]);
}

#[test]
fn a_point_that_two_pieces_of_work_signal() {
    let bench = Bench::new();
    let point = bench.point();
    bench.fill(&bench.held, &bench.buffer(64), &point).unwrap();
    broken(bench.fill(&bench.held, &bench.buffer(64), &point), Rule::SignalledTwice);
    bench.end(&point);
    broken(bench.fill(&bench.held, &bench.buffer(64), &point), Rule::SignalledTwice);
}

#[test]
fn points_that_are_signalled_backwards() {
    let bench = Bench::new();
    let line = bench.device.timeline(0).unwrap();
    bench.fill(&bench.held, &bench.buffer(64), &line.at(5)).unwrap();
    // Nothing says which of 5 and 3 is first, or of 5 and 6.
    broken(bench.fill(&bench.held, &bench.buffer(64), &line.at(3)), Rule::SignalledBackwards);
    broken(bench.fill(&bench.held, &bench.buffer(64), &line.at(6)), Rule::SignalledBackwards);
    bench.fill(&line.at(5), &bench.buffer(64), &line.at(6)).unwrap();
    bench.end(&line.at(6));
    broken(bench.fill(&bench.held, &bench.buffer(64), &line.at(2)), Rule::SignalledBackwards);
}

#[test]
fn constant_memory_that_is_bound_for_writing() {
    let bench = Bench::new();
    let executable = bench.case("Relu [7, 13]").1;
    let host = HostMemory::constant(Bytes::from(vec![0; 4096]));
    let imported = bench.device.import(ExternalMemory::Host(host), HostSemantics::Immutable).unwrap();
    broken(bench.alone(run(&executable, vec![bench.buffer(364), imported.clone()])), Rule::ConstantWritten);
    broken(bench.alone(Work::fill(imported.clone(), [1u8])), Rule::ConstantWritten);
    broken(bench.alone(Work::copy(bench.buffer(4096), imported)), Rule::ConstantWritten);
}

#[test]
fn scratch_memory_that_is_missing_or_too_small() {
    let bench = Bench::new();
    let executable = bench.with_scratch().1;
    let small = bench.buffer(executable.scratch().bytes - 1);
    for scratch in [None, Some(small)] {
        let table = BindingTable::new(bench.buffers(&executable));
        let execution = Execution::new(executable.clone(), table).with_scratch(scratch);
        broken(bench.alone(Work::execute(execution)), Rule::ScratchTooSmall);
    }
}

#[test]
fn scratch_memory_that_two_runs_under_way_share() {
    let bench = Bench::new();
    let executable = bench.with_scratch().1;
    let scratch = Some(bench.device.allocate(executable.scratch()).unwrap());
    let run = || {
        let table = BindingTable::new(bench.buffers(&executable));
        Work::execute(Execution::new(executable.clone(), table).with_scratch(scratch.clone()))
    };
    let (first, second) = (bench.point(), bench.point());
    bench.submit(&bench.held, run(), &first).unwrap();
    broken(bench.submit(&bench.held, run(), &bench.point()), Rule::ScratchShared);
    bench.submit(&first, run(), &second).unwrap();
    bench.end(&second);
}

#[test]
fn a_table_that_changes_while_a_run_with_it_is_under_way() {
    let bench = Bench::new();
    let executable = bench.case("Relu [7, 13]").1;
    let table = BindingTable::new(bench.buffers(&executable));
    let run = || Work::execute(Execution::new(executable.clone(), table.clone()));
    let (first, second) = (bench.point(), bench.point());
    bench.submit(&bench.held, run(), &first).unwrap();
    table.set(1, bench.buffer(364)).unwrap();
    // The next run with the table tells, and else the end of the first one.
    broken(bench.submit(&first, run(), &second), Rule::TableChanged);
    bench.end(&first);
    assert_eq!(bench.noted(), [Rule::TableChanged]);
    // Between two runs it may change.
    table.set(1, bench.buffer(364)).unwrap();
    bench.submit(&first, run(), &second).unwrap();
    second.wait(soon()).unwrap();
    assert_eq!(bench.noted(), []);
}

#[test]
fn a_run_without_room_for_sizes_that_depend_on_data() {
    let bench = Bench::new();
    let (program, executable) = bench.case("NonZero");
    let count = program.extents().len();
    assert!(count > 0);
    let run = |extents: Option<usize>| {
        let scratch = executable.scratch();
        let scratch = (scratch.bytes > 0).then(|| bench.device.allocate(scratch).unwrap());
        let extents = extents.map(|count| Arc::new(Extents::new(count)));
        let table = BindingTable::new(bench.buffers(&executable));
        Work::execute(Execution::new(executable.clone(), table).with_scratch(scratch).with_extents(extents))
    };
    broken(bench.alone(run(None)), Rule::ExtentsMissing);
    broken(bench.alone(run(Some(count - 1))), Rule::ExtentsMissing);
    let done = bench.point();
    bench.submit(&bench.held, run(Some(count)), &done).unwrap();
    bench.end(&done);
}

#[test]
fn a_buffer_that_is_given_up_while_work_uses_it() {
    let bench = Bench::new();
    let host = || ExternalMemory::Host(HostMemory::constant(Bytes::from(vec![0; 4096])));
    let imported = bench.device.import(host(), HostSemantics::Immutable).unwrap();
    let read = bench.point();
    bench.submit(&bench.held, Work::copy(imported.clone(), bench.buffer(4096)), &read).unwrap();
    broken(bench.device.reimport(host(), imported.clone()), Rule::FreedInUse);
    bench.end(&read);
    assert_eq!(bench.device.reimport(host(), imported).unwrap().len(), 4096);
}

#[test]
fn the_conformance_suite_raises_no_alarm() {
    let driver = Validated::over(Arc::new(CpuDriver));
    let device = driver.open(0, &OpenOptions { threads: Some(2), ..OpenOptions::default() }).unwrap();
    let tests = hetero_conformance::DeviceTest::all(3, 20).unwrap();
    let (exclusive, plain): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.is_exclusive());
    let mut passed = 0;
    for test in exclusive.into_iter().chain(plain.into_iter().step_by(8)) {
        match test.run(&*device, &[]) {
            Outcome::Passed(_) => passed += 1,
            Outcome::Unclaimed(Some(_)) => {}
            outcome => panic!("{}: {outcome:?}", test.name()),
        }
        let noted = driver.take_breaches();
        assert!(noted.is_empty(), "{}: {noted:?}", test.name());
    }
    assert!(passed > 400, "{passed} passed");
}
