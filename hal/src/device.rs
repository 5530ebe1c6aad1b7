//! Devices: what a backend implements.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;

use crate::binding::BindingInfo;
use crate::driver::DeviceInfo;
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::NodeId;
use crate::memory::{Buffer, BufferLayout, ExternalMemory, HandleKind, HostSemantics};
use crate::program::Program;
use crate::queue::{Queue, QueueOptions};
use crate::telemetry::Telemetry;
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

    /// The nodes of `program` that it takes, in groups: a group must be compiled together, and
    /// groups do not overlap.
    /// A node in no group is one that it does not take.
    /// The call is cheap, as nothing is compiled.
    /// The answer depends on the program alone, so that a caller may ask once for each fingerprint.
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

    /// Imports constant memory, as [`Device::import`] does with [`HostSemantics::Immutable`], in
    /// the place of `former`, a buffer of this device that nobody uses any more.
    /// A device may use the former's bookkeeping again, so that nothing is allocated.
    ///
    /// # Errors
    /// As [`Device::import`].
    fn reimport(&self, memory: ExternalMemory, former: Buffer) -> Result<Buffer> {
        drop(former);
        self.import(memory, HostSemantics::Immutable)
    }

    /// Makes a queue.
    ///
    /// # Errors
    /// `OutOfMemory` or `DeviceLost`.
    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>>;

    /// Makes a timeline for points that this device's queues signal.
    /// A device whose queues can wait for each other without the host gives it a native side; see
    /// [`Timeline::with_native`].
    ///
    /// # Errors
    /// `OutOfMemory` or `DeviceLost`.
    fn timeline(&self, initial: u64) -> Result<Timeline> {
        Ok(Timeline::new(initial))
    }

    /// Compiles a program or kernel; blocks. Weights are packed and uploaded here.
    ///
    /// # Errors
    /// `Unsupported` or `Compile` with the node that it cannot do, by [`Error::at_node`]: an engine
    /// then plans again without that node.
    /// `Timeout`, `Cancelled` and `OutOfMemory` too.
    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>>;

    /// How the device reaches `peer`'s memory, and how its queues wait for `peer`'s points.
    /// The default reaches nothing, so that bytes and waits go through the host.
    /// Callers ask for the device itself too: [`Edge::own`] is the answer where it is the peer.
    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        let _ = peer;
        Edge::default()
    }

    /// Its state now.
    fn telemetry(&self) -> Telemetry {
        Telemetry::default()
    }
}

/// What a device can do, whatever the program.
///
/// A device begins with [`Capabilities::new`] and sets what it has beyond that; more may come in
/// later versions.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Element types that it computes on.
    pub dtypes: Vec<DType>,
    /// Kinds of memory that [`Device::import`] takes without a copy.
    pub imports: Vec<HandleKind>,
    /// What the address and the length of imported host memory must be multiples of, in bytes: a page where a driver maps pages, 4 where it takes any whole
    /// words; 0 where its address needs [`Capabilities::alignment`] and its length nothing. Parts of the imported buffer need that alignment.
    pub import_alignment: usize,
    /// Alignment that every binding's first byte needs, in bytes; a power of two. Whoever cuts bindings out of one buffer leaves what lies
    /// between the end of each and the next multiple to it, so that a device may write whole words.
    pub alignment: usize,
    /// Largest single allocation in bytes; `None` where only memory limits it.
    pub max_allocation: Option<u64>,
    /// Formats of raw kernel that [`Device::compile`] takes.
    pub kernels: Vec<KernelFormat>,
}

impl Capabilities {
    /// The capabilities of the simplest device: it computes on these element types, takes buffers
    /// at any address, and imports nothing.
    #[must_use]
    pub fn new(dtypes: Vec<DType>) -> Self {
        Capabilities { dtypes, alignment: 1, ..Capabilities::default() }
    }
}

/// A group of nodes that a device takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// How well the device executes them.
    pub quality: Quality,
}

impl Claim {
    /// A claim of one node that the device executes with kernels of its own.
    #[must_use]
    pub fn native(node: NodeId) -> Self {
        Claim { nodes: vec![node], quality: Quality::Native }
    }
}

/// How well a device executes the nodes that it claims.
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
    /// WebGPU shading language.
    Wgsl,
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
    /// A former answer of [`Executable::serialize`], to save work; one that does not fit is
    /// ignored.
    /// It is of a program of the same fingerprint, which samples constants: a device that keeps
    /// constants in it finds out by itself whether they are the same.
    /// A mapped file can be used in place.
    pub cached: Option<Bytes>,
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

    /// The constants that this executable keeps in a form of the device's own, each once.
    /// Executables that share a weight list the same object, so that a caller counts it once.
    /// A run restores those of its weights that are evicted before it uses them, which takes time;
    /// where that fails, its error is the run's.
    fn weights(&self) -> Vec<Arc<dyn Weight>> {
        Vec::new()
    }

    /// A form that the same driver version compiles faster; see [`CompileOptions::cached`].
    /// It is no place for secrets, and a reader trusts whoever wrote it as far as the numbers go:
    /// checksums find damage, not forgery.
    ///
    /// # Errors
    /// `Unsupported` where there is none.
    fn serialize(&self) -> Result<Vec<u8>> {
        Err(Error::unsupported("this executable has no serial form"))
    }
}
