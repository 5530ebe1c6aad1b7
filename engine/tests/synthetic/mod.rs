//! Synthetic devices.
//! Each computes with one thread of the host, and then waits until the time has passed that it is
//! said to take for a matrix product.
//! Their times tell about planning and stealing, and about no real chip.
//!
//! They say that they are chips of their own, as the planner would otherwise let only one of them
//! work at a time.

#![allow(clippy::unwrap_used, dead_code)]

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hetero::hal::{
    BindingInfo, Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceId, DeviceInfo,
    DeviceKind, Driver, Error, Executable, ExternalMemory, Graph, HandleKind, HostSemantics, Node, OpenOptions,
    Operation, Operator, Point, Program, Quality, Queue, QueueOptions, Result, Source, TensorType, Unavailable, Value,
    ValueId, Work,
};
use hetero::{Config, CostModel, DeviceOptions, Examination, HeteroEngine, Model, Tensor};
use hetero_cpu::CpuDriver;
use hetero_kit::{Backlog, Pace, Signal};

/// The time that a synthetic device takes for a tile of a matrix product, and also for a product of
/// no more rows and columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    /// The time that it takes.
    pub(crate) takes: Duration,
    /// The time that the planner is told.
    pub(crate) planned: Duration,
    /// Whether the device imports host memory.
    pub(crate) imports: bool,
}

impl Speed {
    /// Returns the speed of a device that takes the given number of milliseconds, as planned.
    pub(crate) fn ms(takes: u64) -> Speed {
        Speed { takes: Duration::from_millis(takes), planned: Duration::from_millis(takes), imports: true }
    }

    /// Returns the same speed, but planned to take the given number of milliseconds.
    pub(crate) fn planned(self, planned: u64) -> Speed {
        Speed { planned: Duration::from_millis(planned), ..self }
    }
}

/// A driver of the devices `synthetic:0` and on, each with a speed.
pub(crate) struct SyntheticDriver {
    pub(crate) speeds: Vec<Speed>,
    /// The number of rows and of columns of a tile; 0 where every product takes the same time.
    pub(crate) tile: usize,
}

impl Driver for SyntheticDriver {
    fn name(&self) -> &str {
        "synthetic"
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        let mut info = CpuDriver.probe()?.remove(0);
        info.kind = DeviceKind::Other;
        info.name = "synthetic".into();
        // The device is a chip of its own, as far as planning is concerned.
        info.processor = None;
        let with = |ordinal| {
            let mut info = info.clone();
            info.id = DeviceId::new("synthetic", ordinal);
            info
        };
        Ok((0..self.speeds.len()).map(with).collect())
    }

    fn open(&self, ordinal: usize, _: &OpenOptions) -> Result<Arc<dyn Device>> {
        let inner = CpuDriver.open(0, &OpenOptions { threads: Some(1), ..OpenOptions::default() })?;
        let speed = self.speeds[ordinal];
        let imports = if speed.imports { vec![HandleKind::Host] } else { vec![] };
        let mut capabilities = inner.capabilities().clone();
        capabilities.imports = imports;
        Ok(Arc::new(Synthetic {
            info: self.probe().unwrap().remove(ordinal),
            capabilities,
            inner,
            speed,
            tile: self.tile,
        }))
    }
}

struct Synthetic {
    info: DeviceInfo,
    capabilities: Capabilities,
    inner: Arc<dyn Device>,
    speed: Speed,
    tile: usize,
}

impl Device for Synthetic {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        self.inner.claims(program)
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        self.inner.allocate(layout)
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        if !self.speed.imports {
            return Err(Error::unsupported("import").on(self.info.id.clone()));
        }
        self.inner.import(memory, semantics)
    }

    fn reimport(&self, memory: ExternalMemory, former: Buffer) -> Result<Buffer> {
        self.inner.reimport(memory, former)
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        let backlog = Backlog::new(self.info.id.clone(), options);
        Ok(Arc::new(SyntheticQueue { backlog, inner: self.inner.queue(options)?, takes: self.speed.takes }))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        let tiles = match &source {
            Source::Program(program) => program.nodes().iter().map(|node| tiles(program, node, self.tile)).sum(),
            _ => 0,
        };
        let inner = self.inner.compile(source, options).map_err(|error| error.on(self.info.id.clone()))?;
        Ok(Arc::new(SyntheticExecutable { inner, tiles: tiles as u32 }))
    }
}

/// Returns the size of a product as a number of tiles of the given rows and columns, or 0 for
/// another node.
fn tiles(program: &Program, node: &Node, tile: usize) -> usize {
    let Some(result) = node.outputs[0].filter(|_| node.operator.is("MatMul")) else { return 0 };
    let shape = &program.value(result).unwrap().shape;
    shape.iter().rev().take(2).map(|size| size.checked_div(tile).map_or(1, |_| size.div_ceil(tile))).product()
}

struct SyntheticExecutable {
    inner: Arc<dyn Executable>,
    /// The size of its products, as a number of tiles.
    tiles: u32,
}

impl Executable for SyntheticExecutable {
    fn bindings(&self) -> &[BindingInfo] {
        self.inner.bindings()
    }

    fn scratch(&self) -> BufferLayout {
        self.inner.scratch()
    }
}

/// A queue that does one thing at a time.
struct SyntheticQueue {
    backlog: Backlog<(Result<Work>, Signal)>,
    inner: Arc<dyn Queue>,
    takes: Duration,
}

impl Queue for SyntheticQueue {
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()> {
        self.backlog.start(|| {
            let (inner, takes) = (self.inner.clone(), self.takes);
            let mut free = Instant::now();
            move |(work, signal): (Result<Work>, Signal)| {
                let outcome = work.and_then(|work| perform(&*inner, work, takes, &mut free));
                Point::settle(&signal, &outcome);
            }
        });
        let signal = Signal::from(signal);
        let closed = |(_, signal): (Result<Work>, Signal), error| Point::settle(&signal, &Err(error));
        self.backlog.push(wait, Pace::Waits, move |reached| (reached.map(|()| work), signal), closed);
        Ok(())
    }
}

/// Performs a piece of work; `free` is the time at which the device was done with the work before.
fn perform(queue: &dyn Queue, work: Work, takes: Duration, free: &mut Instant) -> Result<()> {
    let began = Instant::now();
    let deadline = began + Duration::from_secs(60);
    let Operation::Execute(mut execution) = work.operation else { return queue.run(&[], work, &[], deadline) };
    let executable: &dyn Any = &*execution.executable;
    let Some(&SyntheticExecutable { ref inner, tiles }) = executable.downcast_ref() else {
        return Err(Error::invalid_argument("another device's executable"));
    };
    let (inner, tiles) = (inner.clone(), tiles);
    execution.executable = inner;
    queue.run(&[], Work::execute(execution).traced(work.trace), &[], deadline)?;
    // Where the host was late to wake its thread, that is no time of the device's, unless the
    // device had nothing to do.
    let start = if began.saturating_duration_since(*free) < takes { *free } else { began };
    *free = start + takes * tiles;
    std::thread::sleep(free.saturating_duration_since(Instant::now()));
    Ok(())
}

/// The cost model of the times that the planner is told of each device; all nodes but products cost
/// next to nothing.
struct Told(Vec<Speed>);

impl CostModel for Told {
    fn seconds(&self, _: &Program, node: &Node, device: &DeviceInfo, _: &Quality) -> f64 {
        if node.operator.is("MatMul") { self.0[device.id.ordinal()].planned.as_secs_f64() } else { 1e-6 }
    }
}

/// The cost model by which every node takes a millisecond on every device, so that dividing pays.
struct Uniform;

impl CostModel for Uniform {
    fn seconds(&self, _: &Program, _: &Node, _: &DeviceInfo, _: &Quality) -> f64 {
        1e-3
    }
}

/// Makes an engine with so many synthetic devices of equal speed, among which it divides whatever
/// can be divided.
pub(crate) fn equals(count: usize) -> HeteroEngine {
    let driver = SyntheticDriver { speeds: vec![Speed::ms(0); count], tile: 0 };
    let builder = HeteroEngine::builder().driver(Arc::new(driver)).examination(Examination::off());
    let mut engine = builder.cost_model(Arc::new(Uniform)).build();
    for ordinal in 0..count {
        engine.add_device(&format!("synthetic:{ordinal}"), DeviceOptions::default()).unwrap();
    }
    engine
}

/// Makes an engine with synthetic devices that cuts products into tiles of `size`, with its driver
/// wrapped by `wrap`.
pub(crate) fn engine_with(
    speeds: &[Speed],
    size: usize,
    deadline: Duration,
    wrap: impl FnOnce(Arc<dyn Driver>) -> Arc<dyn Driver>,
) -> HeteroEngine {
    let mut config = Config::default();
    config.scheduling.tile_size = Some(size);
    engine_config(speeds, config, deadline, wrap)
}

/// Makes an engine with synthetic devices and a configuration, with its driver wrapped by `wrap`.
pub(crate) fn engine_config(
    speeds: &[Speed],
    config: Config,
    deadline: Duration,
    wrap: impl FnOnce(Arc<dyn Driver>) -> Arc<dyn Driver>,
) -> HeteroEngine {
    let driver = SyntheticDriver { speeds: speeds.to_vec(), tile: config.scheduling.tile_size.unwrap_or(0) };
    // Some of these devices have faults, and all take as long as a test wants.
    let builder = HeteroEngine::builder().driver(wrap(Arc::new(driver))).examination(Examination::off());
    let mut engine = builder.config(config).cost_model(Arc::new(Told(speeds.to_vec()))).deadline(deadline).build();
    for ordinal in 0..speeds.len() {
        engine.add_device(&format!("synthetic:{ordinal}"), DeviceOptions::default()).unwrap();
    }
    engine
}

pub(crate) fn engine(speeds: &[Speed], size: usize) -> HeteroEngine {
    engine_with(speeds, size, Duration::from_secs(60), |driver| driver)
}

pub(crate) fn tensor(shape: &[usize], phase: f32) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..count).map(|i| ((i as f32 + phase) * 0.7).sin()).collect()).unwrap()
}

/// Makes y = relu(a·b) for matrices of m rows, n columns and k in between; b is a constant where it
/// is given.
pub(crate) fn product([m, k, n]: [usize; 3], b: Option<Tensor>) -> Model {
    let value = |name: &str, shape: &[usize], constant| Value {
        name: name.into(),
        ty: TensorType::exact(DType::F32, shape),
        constant,
    };
    let node = |name: &str, operator: &str, inputs: &[u32], output| Node {
        name: name.into(),
        operator: Operator::new(operator, 14),
        inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
        outputs: vec![Some(ValueId(output))],
    };
    let inputs = if b.is_some() { vec![ValueId(0)] } else { vec![ValueId(0), ValueId(1)] };
    Model {
        graph: Graph {
            name: "product".into(),
            values: vec![
                value("a", &[m, k], None),
                value("b", &[k, n], b),
                value("c", &[m, n], None),
                value("y", &[m, n], None),
            ],
            nodes: vec![node("product", "MatMul", &[0, 1], 2), node("relu", "Relu", &[2], 3)],
            inputs,
            outputs: vec![ValueId(3)],
            captures: vec![],
        },
        opsets: [("".into(), 14)].into(),
        ..Model::default()
    }
}
