//! Devices: what a backend implements.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::driver::DeviceInfo;
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::{ExtentId, NodeId};
use crate::memory::{Buffer, BufferLayout, ExternalMemory, HandleKind, HostSemantics, MemoryKind};
use crate::program::Program;
use crate::queue::{Queue, QueueOptions};
use crate::telemetry::{ClockRequest, ClockState, Telemetry};
use crate::timeline::Timeline;
use crate::topology::Edge;
use crate::weight::Weight;

/// An opened device. All methods may be called from any thread.
///
/// A method with a default body is one that a simple backend may leave alone.
pub trait Device: Any + Send + Sync {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// What it can do, whatever the program.
    fn capabilities(&self) -> &Capabilities;

    /// The nodes of `program` that it takes, in groups: a group must be compiled together, and groups do not overlap. A node in no group
    /// is one that it does not take. Cheap: nothing is compiled.
    fn claims(&self, program: &Program) -> Vec<Claim>;

    /// Why it doesn't take a node, where it can tell; `None` where it takes it or cannot tell. For people: plans are made by [`Device::claims`].
    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        let _ = (program, node);
        None
    }

    /// Allocates memory. Its content is unspecified.
    ///
    /// # Errors
    /// `OutOfMemory` with both sizes, `InvalidArgument` for an alignment that it cannot give.
    fn allocate(&self, layout: BufferLayout) -> Result<Buffer>;

    /// Makes memory of something else its own, without a copy unless `semantics` is [`HostSemantics::Copy`].
    ///
    /// # Errors
    /// `Unsupported` where the kind is not among [`Capabilities::imports`], `InvalidArgument` for an address or length that it cannot map.
    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer>;

    /// [`Device::import`] into a buffer that was imported before: all clones of `former` then are the new memory. Where the device can, that
    /// allocates nothing; `false` where it cannot, and the caller imports afresh. Work under way keeps the memory that it began with.
    ///
    /// # Errors
    /// As [`Device::import`].
    fn import_over(&self, memory: &ExternalMemory, former: &Buffer) -> Result<bool> {
        let _ = (memory, former);
        Ok(false)
    }

    /// Hands out memory of its own for others to import.
    ///
    /// # Errors
    /// `Unsupported` where the kind is not among [`Capabilities::exports`].
    fn export(&self, buffer: &Buffer, kind: HandleKind) -> Result<ExternalMemory> {
        let _ = buffer;
        Err(Error::unsupported(format!("export of {kind:?} memory")).on(self.info().id.clone()))
    }

    /// Makes a queue.
    ///
    /// # Errors
    /// `OutOfMemory` or `DeviceLost`.
    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>>;

    /// Makes a timeline, in a form that this device's queues signal cheaply.
    ///
    /// # Errors
    /// `OutOfMemory` or `DeviceLost`.
    fn timeline(&self, initial: u64) -> Result<Timeline> {
        Ok(Timeline::new(initial))
    }

    /// Compiles a program or kernel; blocks. Weights are packed and uploaded here.
    ///
    /// # Errors
    /// `Unsupported` or `Compile` with the nodes it cannot do (the engine then plans again without them), `Timeout`, `Cancelled`, `OutOfMemory`.
    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>>;

    /// How it reaches `peer`'s memory. The default reaches nothing but its own.
    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        let _ = peer;
        Edge::default()
    }

    /// Its state now.
    fn telemetry(&self) -> Telemetry {
        Telemetry::default()
    }

    /// Asks for another clock.
    ///
    /// # Errors
    /// `Unsupported` where the clock is not for it to set; the system's refusal otherwise.
    fn set_clock(&self, request: ClockRequest) -> Result<ClockState> {
        Err(Error::unsupported(format!("clock control ({request:?})")).on(self.info().id.clone()))
    }
}

/// What a device can do, whatever the program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capabilities {
    /// Element types that it computes on.
    pub dtypes: Vec<DType>,
    /// Kinds of memory that [`Device::allocate`] gives, best first.
    pub memory_kinds: Vec<MemoryKind>,
    /// Kinds of memory that [`Device::import`] takes without a copy.
    pub imports: Vec<HandleKind>,
    /// What the address and the length of imported host memory must be multiples of, in bytes: a page where a driver maps pages, 4 where it takes any whole
    /// words; 0 where its address needs [`Capabilities::alignment`] and its length nothing. Parts of the imported buffer need that alignment.
    pub import_alignment: usize,
    /// Kinds of handle that [`Device::export`] gives.
    pub exports: Vec<HandleKind>,
    /// Queues that work at the same time.
    pub queues: usize,
    /// Alignment that every binding's first byte needs, in bytes; a power of two. Whoever cuts bindings out of one buffer leaves what lies
    /// between the end of each and the next multiple to it, so that a device may write whole words.
    pub alignment: usize,
    /// Largest single allocation in bytes; `None` where only memory limits it.
    pub max_allocation: Option<u64>,
    /// Formats of raw kernel that [`Device::compile`] takes.
    pub kernels: Vec<KernelFormat>,
}

/// A group of nodes that a device takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// How well.
    pub quality: Quality,
    /// How long they take, where the device can tell.
    pub cost_hint: Option<Duration>,
}

/// How well a device does what it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quality {
    /// With kernels of its own.
    Native,
    /// Correctly, but slowly; why.
    Slow(String),
}

/// What is to be compiled.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// A graph of standard operators.
    Program(&'a Program),
    /// A kernel in the device's own format, for a custom operator.
    Kernel {
        /// Format of `code`.
        format: KernelFormat,
        /// Source text or binary.
        code: &'a [u8],
        /// What it is called and takes.
        signature: &'a KernelSignature,
    },
}

/// Formats of raw kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelFormat {
    /// OpenCL C source.
    OpenClC,
    /// OpenCL program binary of the vendor.
    OpenClBinary,
    /// CUDA C++ source.
    CudaC,
    /// NVIDIA PTX.
    Ptx,
    /// WebGPU shading language.
    Wgsl,
    /// SPIR-V.
    SpirV,
}

/// What a raw kernel is called and takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSignature {
    /// Entry point.
    pub entry: String,
    /// Its bindings, in order.
    pub bindings: Vec<BindingInfo>,
    /// Work items in x, y and z.
    pub global: [u32; 3],
    /// Work items of a group in x, y and z; `None` leaves it to the device.
    pub local: Option<[u32; 3]>,
}

/// How to compile. `Default` suits most.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Set from another thread to give up at once.
    pub cancel: Option<Arc<AtomicBool>>,
    /// A former answer of [`Executable::serialize`] for the same source, to save work; one that does not fit is ignored.
    pub cached: Option<Vec<u8>>,
}

impl CompileOptions {
    /// Called by a compiler between steps.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, once it is to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "compilation was cancelled"));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(ErrorKind::Timeout, "compilation passed its deadline")
                .with_remedy("raise the deadline, or keep compiled programs in a cache"));
        }
        Ok(())
    }
}

/// A compiled program or kernel.
pub trait Executable: Any + Send + Sync {
    /// What a run binds: a program's inputs in order, then its outputs in order.
    fn bindings(&self) -> &[BindingInfo];

    /// Memory that a run needs besides: intermediate values and kernel workspace.
    fn scratch(&self) -> BufferLayout;

    /// The constants that this executable keeps in a form of the device's own, each once. Executables that share a weight list the same
    /// object, so that a caller counts it once. A run restores those of its weights that are evicted before it uses them, which takes
    /// time; where that fails, its error is the run's.
    fn weights(&self) -> Vec<Arc<dyn Weight>> {
        Vec::new()
    }

    /// A form that the same driver version compiles faster; see [`CompileOptions::cached`].
    ///
    /// # Errors
    /// `Unsupported` where there is none.
    fn serialize(&self) -> Result<Vec<u8>> {
        Err(Error::unsupported("this executable has no serial form"))
    }
}

/// Direction of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The run reads it.
    Input,
    /// The run writes it.
    Output,
}

/// One buffer that a run binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingInfo {
    /// Name of the value.
    pub name: Arc<str>,
    /// Read or written.
    pub direction: Direction,
    /// Element type.
    pub dtype: DType,
    /// Sizes of the dimensions; bounds where a size depends on data.
    pub shape: Vec<usize>,
    /// For each dimension, the extent that holds its true size; empty where all are exact.
    pub extents: Vec<Option<ExtentId>>,
    /// Bytes that the buffer must have.
    pub bytes: usize,
}

impl BindingInfo {
    /// The bindings of a program: inputs, then outputs.
    #[must_use]
    pub fn of(program: &Program) -> Vec<BindingInfo> {
        let ports = |ids: &[crate::ValueId], direction| {
            ids.iter()
                .filter_map(|id| program.values().get(id.index()))
                .map(|value| BindingInfo {
                    name: value.name.clone(),
                    direction,
                    dtype: value.dtype,
                    shape: value.shape.clone(),
                    extents: value.extents.clone(),
                    bytes: value.bytes(),
                })
                .collect::<Vec<_>>()
        };
        let mut bindings = ports(program.inputs(), Direction::Input);
        bindings.extend(ports(program.outputs(), Direction::Output));
        bindings
    }

    /// Checks buffers against bindings: one each, long enough, none of constant memory among the outputs is for the device to check.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the binding.
    pub fn check(bindings: &[BindingInfo], buffers: &[Buffer]) -> Result<()> {
        if bindings.len() != buffers.len() {
            return Err(Error::invalid_argument(format!(
                "{} buffers were bound to an executable that has {} bindings",
                buffers.len(),
                bindings.len()
            )));
        }
        for (info, buffer) in bindings.iter().zip(buffers) {
            if buffer.len() < info.bytes {
                return Err(Error::invalid_argument(format!("the buffer bound to '{}' is too small", info.name))
                    .with_sizes(info.bytes as u64, Some(buffer.len() as u64)));
            }
        }
        Ok(())
    }
}
