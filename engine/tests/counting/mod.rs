//! A counting allocator, and the phases of a model counted by it.

#![allow(dead_code, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hetero::hal::Model;
use hetero::passes::{self, PassContext};
use hetero::{Binding, DeviceOptions, HeteroEngine, Session, Tensor};
use hetero_reference::Standard;

/// The system's allocator with counts of its calls and bytes.
pub(crate) struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static ALIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes, Ordering::Relaxed);
    let alive = ALIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(alive, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged, and counts lie beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old and the new bytes may be there at once.
        count(size);
        ALIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Returns the calls of the allocator so far.
pub(crate) fn calls() -> usize {
    CALLS.load(Ordering::SeqCst)
}

/// Begins to look for the most bytes alive at once, and returns those alive now.
pub(crate) fn watch_peak() -> usize {
    let alive = ALIVE.load(Ordering::Relaxed);
    PEAK.store(alive, Ordering::Relaxed);
    alive
}

/// Returns the most bytes alive at once since [`watch_peak`].
pub(crate) fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// The phases, in order.
pub(crate) const PHASES: [&str; 7] = ["encode", "import", "bind", "passes", "plan", "compile", "run"];

/// The effort of a phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) time: Duration,
    /// The calls of the allocator.
    pub(crate) calls: usize,
    /// The bytes of all allocations.
    pub(crate) bytes: usize,
    /// The most bytes alive at once, those of earlier phases included.
    pub(crate) peak: usize,
}

fn phase<T>(efforts: &mut Vec<Effort>, act: impl FnOnce() -> T) -> T {
    let counted = || (calls(), BYTES.load(Ordering::Relaxed));
    watch_peak();
    let ((calls, bytes), began) = (counted(), Instant::now());
    let made = act();
    let (time, after) = (began.elapsed(), counted());
    efforts.push(Effort { time, calls: after.0 - calls, bytes: after.1 - bytes, peak: peak() });
    made
}

/// Takes a model through all phases on the processor, and returns the effort of each.
pub(crate) fn measure(model: Model) -> Vec<Effort> {
    measure_on(model, || {
        let mut engine = HeteroEngine::new().unwrap();
        engine.add_device("cpu:0", DeviceOptions { threads: Some(2), ..DeviceOptions::default() }).unwrap();
        engine
    })
}

/// Takes a model through all phases on an engine's devices, and returns the effort of each.
/// Binding and passes are counted by themselves, and are part of planning once more.
pub(crate) fn measure_on(model: Model, engine: impl FnOnce() -> HeteroEngine) -> Vec<Effort> {
    let mut efforts = Vec::with_capacity(PHASES.len());
    let bytes = phase(&mut efforts, || hetero_onnx::to_bytes(&model).unwrap()).into();
    drop(model);
    let model = phase(&mut efforts, || hetero_onnx::read_bytes(bytes).unwrap());
    let binding = Binding { default_size: Some(8), ..Binding::default() };
    let bound = phase(&mut efforts, || hetero_onnx::bind(&model, &binding, &Standard).unwrap());
    let context = PassContext { operators: &Standard, allowance: &hetero::hal::Allowance::new(1 << 32) };
    let program = phase(&mut efforts, || passes::run(bound.program, &passes::standard(), &context).unwrap());
    drop(program);
    let engine = engine();
    let plan = phase(&mut efforts, || engine.analyze(&model, &binding).unwrap());
    drop(model);
    let session = phase(&mut efforts, || engine.session(&plan).unwrap());
    let inputs = inputs(&session);
    phase(&mut efforts, || session.run(&inputs).unwrap());
    efforts
}

/// Returns an input of ones for each of a session's.
fn inputs(session: &Session) -> Vec<(&str, Tensor)> {
    let ports = session.inputs().iter().map(|port| {
        let bytes = port.dtype.bytes_for(port.shape.iter().product()).unwrap();
        (&*port.name, Tensor::from_bytes(port.dtype, &port.shape, vec![1u8; bytes].into()).unwrap())
    });
    ports.collect()
}

/// Runs a model's file once, and reports on it.
pub(crate) fn run_file(path: &str) -> Effort {
    let mut efforts = Vec::with_capacity(1);
    phase(&mut efforts, || {
        let model = hetero_onnx::read(path).unwrap();
        let mut engine = HeteroEngine::new().unwrap();
        engine.add_device("cpu:0", DeviceOptions { threads: Some(2), ..DeviceOptions::default() }).unwrap();
        let plan = engine.analyze(&model, &Binding { default_size: Some(8), ..Binding::default() }).unwrap();
        drop(model);
        let session = engine.session(&plan).unwrap();
        session.run(&inputs(&session)).unwrap();
        session.report()
    });
    efforts[0]
}
