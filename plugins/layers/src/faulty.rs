//! A driver whose devices fail on demand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, Device, DeviceId, DeviceInfo, Direction, Driver, Edge,
    Error, ErrorKind, Executable, Execution, ExternalMemory, HostSemantics, NodeId, OpenOptions, Operation, Point,
    Program, Queue, QueueOptions, Result, Source, Telemetry, Timeline, Unavailable, Work, submit_and_wait,
};

use crate::Fault;

/// A driver whose devices are another driver's, and fail on demand.
/// It has the other driver's name.
///
/// Once a device is lost, it refuses submissions, allocations, imports, compilations, queues and
/// timelines, and the timelines that its unfinished submissions signal fail: all with
/// [`ErrorKind::DeviceLost`].
/// Work that waits for points when the device is lost does not run any more.
pub struct Faulty {
    inner: Arc<dyn Driver>,
    faults: Vec<(usize, Fault)>,
}

impl Faulty {
    /// Makes a layer over a driver, without faults.
    #[must_use]
    pub fn over(inner: Arc<dyn Driver>) -> Self {
        Faulty { inner, faults: Vec::new() }
    }

    /// Adds a fault of the device with this ordinal.
    #[must_use]
    pub fn with(mut self, ordinal: usize, fault: Fault) -> Self {
        self.faults.push((ordinal, fault));
        self
    }
}

impl Driver for Faulty {
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// Lists the other driver's devices.
    /// A fault that the driver always has is a part of a device's identity, so that nobody takes an
    /// examination with the fault for one without it.
    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        let mut infos = self.inner.probe()?;
        for info in &mut infos {
            let standing = self.faults.iter().filter(|(of, fault)| *of == info.id.ordinal() && fault.is_standing());
            standing.for_each(|(_, fault)| info.identity += &format!("fault {fault}\n"));
        }
        Ok(infos)
    }

    fn may_have_chips(&self) -> bool {
        self.inner.may_have_chips()
    }

    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let inner = self.inner.open(ordinal, options)?;
        let faults = self.faults.iter().filter(|(of, _)| *of == ordinal).map(|(_, fault)| *fault).collect();
        let state = State {
            id: inner.info().id.clone(),
            faults,
            lost: AtomicBool::new(false),
            submissions: AtomicU64::new(0),
            compilations: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            pending: Mutex::new(Pending::default()),
        };
        Ok(Arc::new(FaultyDevice { inner, state: Arc::new(state) }))
    }
}

/// The submissions that have not ended, with the points that they signal.
#[derive(Default)]
struct Pending {
    next: u64,
    signals: Vec<(u64, Vec<Point>)>,
}

/// The state that a device and its queues share.
struct State {
    id: DeviceId,
    faults: Vec<Fault>,
    lost: AtomicBool,
    submissions: AtomicU64,
    compilations: AtomicU64,
    allocations: AtomicU64,
    pending: Mutex<Pending>,
}

impl State {
    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn error(&self) -> Error {
        Error::new(ErrorKind::DeviceLost, "the device does not answer any more (an injected fault)").on(self.id.clone())
    }

    fn check(&self) -> Result<()> {
        if self.lost.load(Ordering::Acquire) { Err(self.error()) } else { Ok(()) }
    }

    /// Marks the device as lost from now on.
    /// Returns the error.
    fn lose(&self) -> Error {
        self.lost.store(true, Ordering::Release);
        let pending = std::mem::take(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner).signals);
        let error = self.error();
        pending.iter().flat_map(|(_, signals)| signals).for_each(|point| point.timeline.fail(error.clone()));
        error
    }

    /// Keeps the points of a submission until they are reached or fail.
    fn watch(state: &Arc<State>, signal: &[Point]) {
        let Some(last) = signal.last() else { return };
        let number = {
            let mut pending = state.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let number = pending.next;
            pending.next += 1;
            pending.signals.push((number, signal.to_vec()));
            number
        };
        let of = Arc::downgrade(state);
        let forget = move |_| {
            if let Some(state) = of.upgrade() {
                let mut pending = state.pending.lock().unwrap_or_else(PoisonError::into_inner);
                let gone = pending.signals.iter().position(|(other, _)| *other == number);
                let gone = gone.map(|index| pending.signals.swap_remove(index));
                // The work that they hold is dropped without the lock.
                drop(pending);
                drop(gone);
            }
        };
        last.timeline.on_reach(last.value, Box::new(forget));
        // The device may have been lost between the check and now.
        if state.lost.load(Ordering::Acquire) {
            signal.iter().for_each(|point| point.timeline.fail(state.error()));
        }
    }

    /// Aborts the process, or does not return, where the device has such a fault.
    fn disturb(&self, crash: Fault, hang: Fault) {
        if self.has(crash) {
            std::process::abort();
        }
        while self.has(hang) {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }

    /// Returns the delay of a submission.
    fn delay(&self, submission: u64) -> Option<Duration> {
        self.faults.iter().find_map(|fault| match fault {
            Fault::Delay { most, seed } => {
                let share = mixed(seed ^ submission.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 11;
                Some(most.mul_f64(share as f64 / (1u64 << 53) as f64))
            }
            _ => None,
        })
    }
}

/// Returns a pseudo-random number (the finalizer of SplitMix64).
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

struct FaultyDevice {
    inner: Arc<dyn Device>,
    state: Arc<State>,
}

impl Device for FaultyDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        self.inner.claims(program)
    }

    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        self.inner.refusal(program, node)
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        self.state.check()?;
        let allocation = self.state.allocations.fetch_add(1, Ordering::Relaxed);
        if self.state.has(Fault::OutOfMemory { allocation }) {
            return Err(Error::new(ErrorKind::OutOfMemory, "cannot allocate memory (an injected fault)")
                .on(self.state.id.clone())
                .with_sizes(layout.bytes as u64, Some(0)));
        }
        self.inner.allocate(layout)
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        self.state.check()?;
        self.inner.import(memory, semantics)
    }

    fn reimport(&self, memory: ExternalMemory, former: Buffer) -> Result<Buffer> {
        self.state.check()?;
        self.inner.reimport(memory, former)
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        self.state.check()?;
        Ok(Arc::new(FaultyQueue { inner: self.inner.queue(options)?, state: self.state.clone() }))
    }

    fn timeline(&self, initial: u64) -> Result<Timeline> {
        self.state.check()?;
        self.inner.timeline(initial)
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        self.state.check()?;
        let compilation = self.state.compilations.fetch_add(1, Ordering::Relaxed);
        self.state.disturb(Fault::CrashCompile, Fault::HangCompile);
        if self.state.has(Fault::Compile { compilation }) {
            let error = Error::new(ErrorKind::Compile, "the kernel does not compile (an injected fault)");
            let node = match source {
                Source::Program(program) => program.nodes().first().map(ToString::to_string),
                _ => None,
            };
            let error = error.on(self.state.id.clone());
            return Err(match node {
                Some(node) => error.at_node(NodeId(0), node),
                None => error,
            });
        }
        self.inner.compile(source, options)
    }

    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        self.inner.edge_to(peer)
    }

    fn telemetry(&self) -> Telemetry {
        self.inner.telemetry()
    }
}

struct FaultyQueue {
    inner: Arc<dyn Queue>,
    state: Arc<State>,
}

/// The fate of a submission.
enum Fate {
    /// The submission is handed on, perhaps late.
    Goes(Option<Duration>),
    /// The submission has been dealt with.
    Settled,
}

impl FaultyQueue {
    fn fate(&self, wait: &[Point], work: &Work, signal: &[Point]) -> Result<Fate> {
        self.state.check()?;
        let submission = self.state.submissions.fetch_add(1, Ordering::Relaxed);
        if self.state.has(Fault::Lose { submission }) {
            return Err(self.state.lose());
        }
        State::watch(&self.state, signal);
        if self.state.has(Fault::LoseRunning { submission }) {
            let state = self.state.clone();
            after(
                wait,
                signal,
                Box::new(move |_| {
                    state.lose();
                }),
            );
            return Ok(Fate::Settled);
        }
        if self.state.has(Fault::Hang { submission }) {
            // The work keeps its memory for as long as someone waits for it.
            let held = (work.clone(), signal.to_vec());
            let Some(last) = signal.last() else { return Ok(Fate::Settled) };
            last.timeline.on_reach(last.value, Box::new(move |_| drop(held)));
            return Ok(Fate::Settled);
        }
        Ok(Fate::Goes(self.state.delay(submission)))
    }

    /// Hands the work on once its points are reached, unless the device is lost by then.
    fn guarded(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        if wait.iter().all(Point::is_reached) {
            return self.inner.submit(wait, work, signal);
        }
        let (inner, state) = (self.inner.clone(), self.state.clone());
        after(
            wait,
            signal,
            Box::new(move |signal| {
                // A refusal at this point is told to those who wait; a check beforehand would have
                // told it to the caller.
                if let Err(error) = state.check().and_then(|()| inner.submit(&[], work, signal)) {
                    Point::settle(signal, &Err(error));
                }
            }),
        );
        Ok(())
    }
}

/// Makes a half of each output of an execution wrong, in numbers of any type.
fn spoil(execution: &Execution) -> Result<()> {
    let bindings = execution.executable.bindings();
    let buffers: Vec<Buffer> = execution.bindings.lock().iter().cloned().collect();
    for (_, buffer) in bindings.iter().zip(buffers).filter(|(info, _)| info.direction == Direction::Output) {
        let mut bytes = vec![0; buffer.len()];
        buffer.read(0, &mut bytes)?;
        let half = bytes.len() / 2;
        // In these bytes stand the signs of floats and of integers.
        bytes.iter_mut().skip(half).skip(3 - half % 4).step_by(4).for_each(|byte| *byte ^= 0x80);
        buffer.write(0, &bytes)?;
    }
    Ok(())
}

impl Queue for FaultyQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        if let Operation::Execute(execution) = &work.operation {
            self.state.disturb(Fault::CrashRun, Fault::HangRun);
            if self.state.has(Fault::Wrong) {
                let (done, execution) = (Timeline::new(0), execution.clone());
                self.pass(wait, work, &[done.at(1)])?;
                return self.inner.submit(&[done.at(1)], Work::host(Arc::new(move || spoil(&execution))), signal);
            }
        }
        self.pass(wait, work, signal)
    }

    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        if self.state.faults.iter().any(|fault| fault.is_standing()) {
            return submit_and_wait(self, wait, work, signal, deadline);
        }
        match self.fate(wait, &work, signal)? {
            Fate::Goes(None) => self.inner.run(wait, work, signal, deadline),
            Fate::Goes(Some(delay)) => {
                wait.iter().try_for_each(|point| point.wait(deadline)).inspect_err(|error| {
                    Point::settle(signal, &Err(error.clone()));
                })?;
                std::thread::sleep(delay);
                self.inner.run(wait, work, signal, deadline)
            }
            Fate::Settled => signal.iter().try_for_each(|point| point.wait(deadline)),
        }
    }
}

impl FaultyQueue {
    /// Hands work on, with the faults that are events.
    fn pass(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        match self.fate(wait, &work, signal)? {
            Fate::Settled => Ok(()),
            Fate::Goes(None) => self.guarded(wait, work, signal),
            Fate::Goes(Some(delay)) => {
                // The sleep is on the device's own time, because this plays a slow device.
                let rested = Timeline::new(0);
                let sleep = Work::host(Arc::new(move || {
                    std::thread::sleep(delay);
                    Ok(())
                }));
                self.guarded(wait, sleep, &[rested.at(1)])?;
                self.guarded(&[rested.at(1)], work, signal)
            }
        }
    }
}

type Then = Box<dyn FnOnce(&[Point]) + Send>;

/// Calls `then` once all points are reached; where one fails, fails the signals instead.
fn after(wait: &[Point], signal: &[Point], then: Then) {
    let signal = signal.to_vec();
    let heard = move |outcome: Result<()>| match outcome {
        Ok(()) => then(&signal),
        Err(_) => Point::settle(&signal, &outcome),
    };
    Point::when_all(wait, Box::new(heard));
}

#[cfg(test)]
mod tests {
    use hetero_cpu::CpuDriver;

    use super::*;

    fn device(fault: Option<Fault>) -> Arc<dyn Device> {
        let mut layer = Faulty::over(Arc::new(CpuDriver));
        if let Some(fault) = fault {
            layer = layer.with(0, fault);
        }
        layer.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn fill(device: &dyn Device, byte: u8) -> (Buffer, Work) {
        let target = device.allocate(BufferLayout::new(64)).unwrap();
        (target.clone(), Work::fill(target, [byte]))
    }

    #[test]
    fn without_faults_it_is_the_device() {
        let device = device(None);
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let timeline = device.timeline(0).unwrap();
        let (target, work) = fill(&*device, 7);
        queue.submit(&[], work, &[timeline.at(1)]).unwrap();
        timeline.wait(1, soon()).unwrap();
        let mut byte = [0];
        target.read(63, &mut byte).unwrap();
        assert_eq!(byte, [7]);
    }

    #[test]
    fn a_lost_device_refuses_everything_and_fails_what_is_under_way() {
        for fault in [Fault::Lose { submission: 1 }, Fault::LoseRunning { submission: 1 }] {
            let device = device(Some(fault));
            let queue = device.queue(&QueueOptions::default()).unwrap();
            let (gate, timeline) = (Timeline::new(0), device.timeline(0).unwrap());
            // The first submission waits for the gate, and the second loses the device.
            let (target, work) = fill(&*device, 7);
            queue.submit(&[gate.at(1)], work, &[timeline.at(1)]).unwrap();
            let other = device.timeline(0).unwrap();
            let outcome = queue.submit(&[], fill(&*device, 1).1, &[other.at(1)]);
            assert_eq!(outcome.is_err(), matches!(fault, Fault::Lose { .. }), "{fault}");
            for error in [
                timeline.wait(1, soon()).unwrap_err(),
                queue.submit(&[], Work::fill(target.clone(), [1u8]), &[]).unwrap_err(),
                device.allocate(BufferLayout::new(1)).err().unwrap(),
                device.timeline(0).err().unwrap(),
                device.queue(&QueueOptions::default()).err().unwrap(),
            ] {
                assert_eq!(error.kind(), ErrorKind::DeviceLost, "{fault}");
                assert_eq!(error.device().map(ToString::to_string).as_deref(), Some("cpu:0"));
            }
            gate.advance(1);
            let mut byte = [9];
            target.read(0, &mut byte).unwrap();
            assert_eq!(byte, [0], "what waited when the device was lost was run: {fault}");
        }
    }

    #[test]
    fn what_hangs_never_ends_and_what_is_delayed_does() {
        let device = device(Some(Fault::Hang { submission: 0 }));
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let timeline = device.timeline(0).unwrap();
        queue.submit(&[], fill(&*device, 1).1, &[timeline.at(1)]).unwrap();
        let late = timeline.wait(1, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Timeout);

        let device = self::device(Some(Fault::Delay { most: Duration::from_millis(3), seed: 1 }));
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let timeline = device.timeline(0).unwrap();
        let (target, work) = fill(&*device, 5);
        queue.submit(&[], work, &[timeline.at(1)]).unwrap();
        queue.run(&[timeline.at(1)], fill(&*device, 6).1, &[timeline.at(2)], soon()).unwrap();
        let mut byte = [0];
        target.read(0, &mut byte).unwrap();
        assert_eq!((timeline.value(), byte), (2, [5]));
    }

    #[test]
    fn a_driver_that_computes_wrongly_says_nothing_and_its_devices_have_another_identity() {
        let add = hetero_conformance::suite(1).unwrap().into_iter().find(|case| case.name.starts_with("Add")).unwrap();
        let wrong = |fault| match hetero_conformance::check(&*device(fault), &add) {
            hetero_conformance::Outcome::Passed(_) => false,
            hetero_conformance::Outcome::Failed(why) => why.contains("error of") || why.contains("elements differ"),
            other => panic!("{other:?}"),
        };
        assert!(!wrong(None) && wrong(Some(Fault::Wrong)));
        let identity = |layer: Faulty| layer.probe().unwrap().remove(0).identity;
        let plain = identity(Faulty::over(Arc::new(CpuDriver)).with(0, Fault::Lose { submission: 0 }));
        assert_eq!(plain, CpuDriver.probe().unwrap()[0].identity);
        assert_ne!(plain, identity(Faulty::over(Arc::new(CpuDriver)).with(0, Fault::Wrong)));
    }

    /// A list that only grows would be a leak.
    #[test]
    fn submissions_that_have_ended_are_forgotten() {
        let state = Arc::new(State {
            id: DeviceId::new("x", 0),
            faults: vec![],
            lost: AtomicBool::new(false),
            submissions: AtomicU64::new(0),
            compilations: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
            pending: Mutex::new(Pending::default()),
        });
        let timeline = Timeline::new(0);
        for value in 1..=100 {
            State::watch(&state, &[timeline.at(value)]);
        }
        let count = || state.pending.lock().unwrap().signals.len();
        assert_eq!(count(), 100);
        timeline.advance(99);
        assert_eq!(count(), 1);
        timeline.fail(Error::internal("over"));
        assert_eq!(count(), 0);
    }
}
