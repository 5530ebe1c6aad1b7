//! Devices: the interface that a backend implements.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bytes::Bytes;

use crate::allowance::go_on;
use crate::binding::BindingInfo;
use crate::driver::DeviceInfo;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::memory::{Buffer, BufferLayout, ExternalMemory, HandleKind, HostSemantics};
use crate::program::Program;
use crate::queue::{Queue, QueueOptions};
use crate::telemetry::Telemetry;
use crate::timeline::Timeline;
use crate::topology::Edge;
use crate::weight::Weight;

/// An opened chip, or an emulator of one: it claims, compiles, allocates and runs.
///
/// All methods may be called from any thread.
/// A method with a default body is one that a simple backend may leave alone.
pub trait Device: Any + Send + Sync {
    /// Returns the description of the device, as [`Driver::probe`](crate::Driver::probe) lists it.
    fn info(&self) -> &DeviceInfo;

    /// Returns what the device can do, whatever the program.
    fn capabilities(&self) -> &Capabilities;

    /// Returns the nodes of `program` that the device takes, in groups.
    /// The nodes of a group must be compiled together, and groups do not overlap.
    /// A node in no group is one that the device does not take.
    /// The call is cheap, as nothing is compiled.
    /// The answer depends on the program alone, so that a caller may ask once for each fingerprint.
    fn claims(&self, program: &Program) -> Vec<Claim>;

    /// Returns the reason why the device does not take a node, in words for people.
    /// The answer is `None` where the device takes the node or cannot tell.
    /// Plans are made by [`Device::claims`], not by this.
    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        let _ = (program, node);
        None
    }

    /// Allocates memory with unspecified content.
    ///
    /// # Errors
    /// `OutOfMemory` with both sizes, `InvalidArgument` for an alignment that the device cannot
    /// give.
    fn allocate(&self, layout: BufferLayout) -> Result<Buffer>;

    /// Makes a buffer of this device out of memory that something else owns, without a copy unless
    /// `semantics` is [`HostSemantics::Copy`].
    ///
    /// # Errors
    /// `Unsupported` where the kind is not among [`Capabilities::imports`], `InvalidArgument` for
    /// an address or length that the device cannot map.
    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer>;

    /// Imports constant memory, as [`Device::import`] does with [`HostSemantics::Immutable`], in
    /// the place of `former`, a buffer of this device that nobody uses any more.
    /// A device may use the bookkeeping of `former` again, so that nothing is allocated.
    ///
    /// # Errors
    /// The errors of [`Device::import`].
    fn reimport(&self, memory: ExternalMemory, former: Buffer) -> Result<Buffer> {
        drop(former);
        self.import(memory, HostSemantics::Immutable)
    }

    /// Makes a queue for work of this device.
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

    /// Compiles a program or kernel, and blocks until that is done.
    /// Weights are packed and uploaded here.
    ///
    /// # Errors
    /// `Unsupported` or `Compile` with the node that the device cannot compile, by
    /// [`Error::at_node`]: an engine then plans again without that node.
    /// `Timeout`, `Cancelled` and `OutOfMemory` too.
    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>>;

    /// Returns how the device reaches `peer`'s memory, and how its queues wait for `peer`'s points.
    /// The default reaches nothing, so that bytes and waits go through the host.
    /// Callers ask for the device itself too: [`Edge::own`] is the answer where `peer` is this
    /// device.
    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        let _ = peer;
        Edge::default()
    }

    /// Returns the device's state now.
    fn telemetry(&self) -> Telemetry {
        Telemetry::default()
    }
}

/// The abilities and limits of a device, whatever the program.
///
/// A device begins with [`Capabilities::new`] and sets what it has beyond that.
/// More fields may come in later versions.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The element types that the device computes on.
    pub dtypes: Vec<DType>,
    /// The kinds of memory that [`Device::import`] takes without a copy.
    pub imports: Vec<HandleKind>,
    /// The number of bytes of which the address and the length of imported host memory must be
    /// multiples.
    /// It is a page where a driver maps pages, and 4 where a driver takes any whole words.
    /// It is 0 where the address needs [`Capabilities::alignment`] and the length may be any.
    /// A part of an imported buffer needs [`Capabilities::alignment`] where it is bound.
    pub import_alignment: usize,
    /// The alignment that every binding's first byte needs, in bytes; a power of two.
    /// Whoever cuts bindings out of one buffer leaves the bytes between the end of each binding and
    /// the next multiple to that binding, so that a device may write whole words.
    pub alignment: usize,
    /// The largest single allocation in bytes; `None` where only memory limits it.
    pub max_allocation: Option<u64>,
    /// The formats of raw kernels that [`Device::compile`] takes.
    pub kernels: Vec<KernelFormat>,
    /// Whether executables take inputs whose sizes only a run tells, up to a bound; see
    /// [`BindingInfo::extents`](crate::BindingInfo).
    pub extents: bool,
}

impl Capabilities {
    /// Returns the capabilities of the simplest device: it computes on these element types, takes
    /// buffers at any address, and imports nothing.
    #[must_use]
    pub fn new(dtypes: Vec<DType>) -> Self {
        Capabilities { dtypes, alignment: 1, ..Capabilities::default() }
    }
}

/// A group of nodes that a device takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The nodes of the group.
    pub nodes: Vec<NodeId>,
    /// The quality with which the device executes the nodes.
    pub quality: Quality,
}

impl Claim {
    /// Returns a claim of one node that the device executes with kernels of its own.
    #[must_use]
    pub fn native(node: NodeId) -> Self {
        Claim { nodes: vec![node], quality: Quality::Native }
    }
}

/// The quality with which a device executes the nodes that it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quality {
    /// The device executes the nodes with kernels of its own.
    Native,
    /// The device executes the nodes correctly, but slowly; the text says why.
    Slow(String),
}

/// A program or kernel that is to be compiled.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// A graph of standard operators.
    Program(&'a Program),
    /// A kernel in the device's own format, for a custom operator.
    Kernel {
        /// The format of `code`.
        format: KernelFormat,
        /// The kernel as source text or as a binary.
        code: &'a [u8],
        /// The name and the bindings of the kernel.
        signature: &'a KernelSignature,
    },
}

/// The formats of raw kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelFormat {
    /// A kernel as source text in OpenCL C.
    OpenClC,
    /// A kernel as source text in the WebGPU shading language.
    Wgsl,
}

/// The interface of a raw kernel: its name, its bindings and its work items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSignature {
    /// The name of the entry point.
    pub entry: String,
    /// The bindings of the kernel, in order.
    pub bindings: Vec<BindingInfo>,
    /// The number of work items in x, y and z.
    pub global: [u32; 3],
    /// The number of work items of a group in x, y and z; `None` leaves it to the device.
    pub local: Option<[u32; 3]>,
}

/// The options of a compilation.
/// `Default` suits most callers.
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// The moment at which the compiler gives up; `None` lets it go on.
    pub deadline: Option<Instant>,
    /// A flag that another thread sets to make the compiler give up at once.
    pub cancel: Option<Arc<AtomicBool>>,
    /// A former answer of [`Executable::serialize`], to save work.
    /// An answer that does not fit is ignored.
    /// It comes from a program of the same fingerprint, which only samples constants: a device that
    /// keeps constants in the answer finds out by itself whether they are the same.
    /// The bytes of a mapped file can be used in place.
    pub cached: Option<Bytes>,
    /// The bytes of host memory that the caller holds beside the device's, such as the program's
    /// constants.
    /// A device that keeps what it makes in host memory counts them against its limit.
    pub reserved: u64,
}

impl CompileOptions {
    /// Checks whether the compiler is to stop; a compiler calls this between its steps.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, once the compiler is to stop.
    pub fn check(&self) -> Result<()> {
        let remedy = "raise the deadline, or keep compiled programs in a cache";
        go_on("compilation", remedy, self.cancel.as_deref(), self.deadline)
    }
}

/// A compiled program or kernel.
pub trait Executable: Any + Send + Sync {
    /// Returns the bindings of a run: a program's inputs in order, then its outputs in order.
    fn bindings(&self) -> &[BindingInfo];

    /// Returns the layout of the memory that a run needs besides its bindings, for intermediate
    /// values and kernel workspace.
    fn scratch(&self) -> BufferLayout;

    /// Returns the constants that this executable keeps in a form of the device's own, each once.
    /// Executables that share a weight list the same object, so that a caller counts it once.
    /// A run restores its evicted weights before it uses them, which takes time.
    /// Where that fails, its error is the run's.
    fn weights(&self) -> Vec<Arc<dyn Weight>> {
        Vec::new()
    }

    /// Returns a form of the executable that the same driver version compiles faster; see
    /// [`CompileOptions::cached`].
    /// The form is no place for secrets.
    /// A reader trusts whoever wrote it as far as the numbers go: checksums find damage, not
    /// forgery.
    ///
    /// # Errors
    /// `Unsupported` where the executable has no such form.
    fn serialize(&self) -> Result<Vec<u8>> {
        Err(Error::unsupported("this executable has no serial form"))
    }
}
