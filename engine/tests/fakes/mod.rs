//! Several devices on a machine that has one: the CPU under other ids, with the demands of other
//! devices.
//! `fake:0` is the first of the list.

#![allow(clippy::unwrap_used, dead_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hetero::hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceId, DeviceInfo, Driver, Error,
    Executable, ExternalMemory, Graph, HandleKind, HostSemantics, Node, OpenOptions, Operation, Operator, Point,
    Program, Queue, QueueOptions, Result, Source, Telemetry, TensorType, Timeline, Unavailable, Value, ValueId, Work,
};
use hetero::{DeviceOptions, Examination, HeteroEngine, Model, Placement, Tensor};
use hetero_cpu::CpuDriver;

/// The properties that set a fake device apart from the CPU.
#[derive(Clone, Debug)]
pub(crate) struct Fake {
    /// Whether the device imports host memory.
    pub(crate) imports: bool,
    /// Whether it says that it imports host memory, and then refuses the memory that is to be
    /// shared.
    pub(crate) refuses: bool,
    pub(crate) alignment: usize,
    pub(crate) import_alignment: usize,
    /// The meeting at which each partition waits for a partition of another device before it
    /// begins.
    pub(crate) meeting: Option<Arc<Meeting>>,
    /// The number of transfers that it was given.
    pub(crate) transfers: Arc<AtomicUsize>,
    /// The number of buffers that it was asked for.
    pub(crate) allocations: Arc<AtomicUsize>,
    /// Whether it claims no node.
    pub(crate) idle: bool,
    /// The number of times that it was asked for claims.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            imports: true,
            refuses: false,
            alignment: 64,
            import_alignment: 0,
            meeting: None,
            transfers: Arc::default(),
            allocations: Arc::default(),
            idle: false,
            asked: Arc::default(),
        }
    }
}

impl Fake {
    pub(crate) fn without_import() -> Self {
        Fake { imports: false, ..Fake::default() }
    }
}

/// A meeting that lets nobody pass alone.
#[derive(Debug, Default)]
pub(crate) struct Meeting(Mutex<usize>, Condvar);

impl Meeting {
    /// Waits until two have come, or fails after a time that is far longer than it takes where both
    /// run at the same time.
    fn attend(&self) -> Result<()> {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        self.1.notify_all();
        let wanted = count.next_multiple_of(2);
        let (_count, waited) =
            self.1.wait_timeout_while(count, Duration::from_secs(20), |count| *count < wanted).unwrap();
        if waited.timed_out() {
            Err(Error::internal("nobody else came: the partitions run one by one"))
        } else {
            Ok(())
        }
    }
}

pub(crate) struct FakeDriver(pub(crate) Vec<Fake>);

impl FakeDriver {
    fn info(ordinal: usize) -> DeviceInfo {
        let mut info = CpuDriver.probe().unwrap().remove(0);
        info.id = DeviceId::new("fake", ordinal);
        info
    }
}

impl Driver for FakeDriver {
    fn name(&self) -> &str {
        "fake"
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        Ok((0..self.0.len()).map(FakeDriver::info).collect())
    }

    fn open(&self, ordinal: usize, _: &OpenOptions) -> Result<Arc<dyn Device>> {
        let inner = CpuDriver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() })?;
        let fake = self.0[ordinal].clone();
        let mut capabilities = inner.capabilities().clone();
        capabilities.imports = if fake.imports { vec![HandleKind::Host] } else { vec![] };
        capabilities.alignment = fake.alignment;
        capabilities.import_alignment = fake.import_alignment;
        Ok(Arc::new(FakeDevice { info: FakeDriver::info(ordinal), capabilities, inner, fake }))
    }
}

struct FakeDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    inner: Arc<dyn Device>,
    fake: Fake,
}

impl FakeDevice {
    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::invalid_argument(what).on(self.info.id.clone())
    }
}

impl Device for FakeDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        self.fake.asked.fetch_add(1, Ordering::Relaxed);
        if self.fake.idle { Vec::new() } else { self.inner.claims(program) }
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        self.fake.allocations.fetch_add(1, Ordering::Relaxed);
        self.inner.allocate(layout)
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        if !self.fake.imports {
            return Err(Error::unsupported("import").on(self.info.id.clone()));
        }
        if self.fake.refuses && semantics == HostSemantics::Shared {
            return Err(self.wrong("no pages left to pin"));
        }
        if let ExternalMemory::Host(host) = &memory {
            let page = self.fake.import_alignment.max(1);
            if !(host.as_ptr() as usize).is_multiple_of(page) || !host.len().is_multiple_of(page) {
                return Err(self.wrong(format!("{host:?} is not whole pages")));
            }
        }
        self.inner.import(memory, semantics)
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(FakeQueue { inner: self.inner.queue(options)?, fake: self.fake.clone(), id: self.info.id.clone() }))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        self.inner.compile(source, options).map_err(|error| error.on(self.info.id.clone()))
    }

    fn telemetry(&self) -> Telemetry {
        self.inner.telemetry()
    }
}

struct FakeQueue {
    inner: Arc<dyn Queue>,
    fake: Fake,
    id: DeviceId,
}

impl Queue for FakeQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        let Operation::Execute(execution) = &work.operation else {
            self.fake.transfers.fetch_add(1, Ordering::Relaxed);
            return self.inner.submit(wait, work, signal);
        };
        let table = execution.bindings.lock();
        let mut bound = table.iter().chain(&execution.scratch);
        if let Some(buffer) = bound.find(|buffer| !buffer.offset().is_multiple_of(self.fake.alignment)) {
            let why = format!("{buffer:?} is not aligned to {} bytes", self.fake.alignment);
            return Err(Error::invalid_argument(why).on(self.id.clone()));
        }
        drop(table);
        let Some(meeting) = self.fake.meeting.clone() else { return self.inner.submit(wait, work, signal) };
        let met = Timeline::new(0);
        self.inner.submit(wait, Work::host(Arc::new(move || meeting.attend())), &[met.at(1)])?;
        self.inner.submit(&[met.at(1)], work, signal)
    }
}

/// Makes an engine with these devices, wrapped by `wrap`, and with nodes pinned by `placement`.
pub(crate) fn engine_with(
    fakes: Vec<Fake>,
    placement: Placement,
    wrap: impl FnOnce(Arc<dyn Driver>) -> Arc<dyn Driver>,
) -> HeteroEngine {
    let count = fakes.len();
    let driver = wrap(Arc::new(FakeDriver(fakes)));
    let deadline = Duration::from_secs(60);
    // Some fakes count what they are asked, and some have faults.
    let builder = HeteroEngine::builder().driver(driver).examination(Examination::off());
    let mut engine = builder.place(placement).deadline(deadline).build();
    for ordinal in 0..count {
        engine.add_device(&format!("fake:{ordinal}"), DeviceOptions::default()).unwrap();
    }
    engine
}

pub(crate) fn engine(fakes: Vec<Fake>, placement: &str) -> HeteroEngine {
    engine_with(fakes, placement.parse().unwrap(), |driver| driver)
}

/// Makes a model of nodes as (name, operator, inputs, output), over float values.
/// Names that begin with `x` are inputs of this length, and values that nobody reads are outputs.
pub(crate) fn model(length: usize, nodes: &[(&str, &str, &[&str], &str)]) -> Model {
    let mut graph = Graph { name: "model".into(), ..Graph::default() };
    let mut id = |name: &str| match graph.values.iter().position(|value| *value.name == *name) {
        Some(index) => ValueId(index as u32),
        None => {
            let ty =
                if name.starts_with('x') { TensorType::exact(DType::F32, &[length]) } else { TensorType::default() };
            graph.values.push(Value { name: name.into(), ty, constant: None });
            ValueId(graph.values.len() as u32 - 1)
        }
    };
    let mut list = Vec::new();
    for (name, operator, inputs, output) in nodes {
        let operator = Operator::new(operator, 18);
        let operator =
            if operator.is("Concat") { operator.with("axis", hetero::hal::Attribute::Int(0)) } else { operator };
        list.push(Node {
            name: (*name).into(),
            operator,
            inputs: inputs.iter().map(|name| Some(id(name))).collect(),
            outputs: vec![Some(id(output))],
        });
    }
    graph.nodes = list;
    for index in 0..graph.values.len() {
        let value = ValueId(index as u32);
        if graph.values[index].name.starts_with('x') {
            graph.inputs.push(value);
        } else if !graph.nodes.iter().any(|node| node.inputs.contains(&Some(value))) {
            graph.outputs.push(value);
        }
    }
    Model { graph, opsets: [("".into(), 18)].into(), ..Model::default() }
}

pub(crate) fn tensor(length: usize, phase: f32) -> Tensor {
    Tensor::from_vec(&[length], (0..length).map(|i| ((i as f32 + phase) * 0.7).sin()).collect()).unwrap()
}

/// The chain x -> Neg -> a -> Abs -> b -> Exp -> c -> Neg -> y, over three devices in turn.
pub(crate) const CHAIN: [(&str, &str, &[&str], &str); 4] = [
    ("one", "Neg", &["x"], "a"),
    ("two", "Abs", &["a"], "b"),
    ("three", "Exp", &["b"], "c"),
    ("four", "Neg", &["c"], "y"),
];
pub(crate) const CHAIN_PLACES: &str = "one=fake:0,two=fake:1,three=fake:2,four=fake:0";

/// Returns the output of the chain.
pub(crate) fn chain(x: &Tensor) -> Vec<f32> {
    x.view::<f32>().unwrap().iter().map(|x| -(-x).abs().exp()).collect()
}

pub(crate) fn close(tensor: &Tensor, expected: &[f32]) {
    let values = tensor.view::<f32>().unwrap();
    assert_eq!(values.len(), expected.len());
    values.iter().zip(expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
}
