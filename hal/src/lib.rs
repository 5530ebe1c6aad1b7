//! The contract of hetero: what engines ask of devices, and what backends offer.
//!
//! An engine knows devices by this crate alone, and a backend needs nothing else to be one.
//! The crate holds the traits of both sides, the data that passes between them, and no policy: what
//! runs where is for the engine to say, and how it runs is for the backend.
//!
//! ```
//! use hetero_hal::{Graph, Node, Operator, Program, TensorType, DType, Value, ValueId};
//!
//! // y = Relu(x), over four floats.
//! let value = |name: &str| Value {
//!     name: name.into(),
//!     ty: TensorType::exact(DType::F32, &[4]),
//!     constant: None,
//! };
//! let graph = Graph {
//!     name: "rectifier".into(),
//!     values: vec![value("x"), value("y")],
//!     nodes: vec![Node {
//!         name: "relu".into(),
//!         operator: Operator::new("Relu", 14),
//!         inputs: vec![Some(ValueId(0))],
//!         outputs: vec![Some(ValueId(1))],
//!     }],
//!     inputs: vec![ValueId(0)],
//!     outputs: vec![ValueId(1)],
//!     captures: vec![],
//! };
//! let program = Program::new(graph, vec![])?;
//! assert_eq!(program.value(program.outputs()[0])?.bytes(), 16);
//! # Ok::<(), hetero_hal::Error>(())
//! ```
//!
//! # What passes between the two sides
//! A [`Model`] is the content of a file, before anybody has said which sizes to run with.
//! Bound to sizes, it becomes a [`Program`]: a graph of standard ONNX operators with static shapes.
//! A program never changes, its clones share it, and its [`Fingerprint`] tells it from others.
//! A [`Definition`] gives the meaning of an operator, and an [`OperatorSet`] finds it.
//! A [`Driver`] finds and opens [`Device`]s.
//! A device compiles a program into an [`Executable`], and its [`Queue`]s run executables on
//! [`Buffer`]s.
//! Work is ordered by the [`Point`]s of [`Timeline`]s, and by nothing else.
//! A [`Topology`] says how devices reach each other's memory and wait for each other.
//! An [`Error`] is a value that travels.
//!
//! # In which order a backend is called
//! 1. [`Driver::probe`] lists the devices, or says why there is none.
//!    It is called any number of times and opens nothing.
//! 2. [`Driver::open`] opens a device.
//!    [`Device::info`] and [`Device::capabilities`] say the same from then on.
//! 3. [`Device::edge_to`] is asked about each other device, and about the device itself.
//! 4. [`Device::claims`] is asked about a program before it is planned.
//!    An engine may ask once for each fingerprint, so the answer depends on the program alone.
//! 5. [`Device::compile`] gets the part of the program that a plan gives to the device.
//! 6. [`Device::queue`], [`Device::timeline`], [`Device::allocate`] and [`Device::import`] make the
//!    objects that runs need.
//! 7. [`Queue::submit`] and [`Queue::run`] are called for each run.
//!    No other method is called in a run, unless an input is imported anew with
//!    [`Device::reimport`].
//!
//! All methods may be called from any thread, several at the same time.
//! Objects may be dropped in any order: an executable, a buffer or a queue keeps alive the parts of
//! its device that it needs.
//!
//! # What a device has to do
//! - It claims only nodes whose results agree with the operator's definition.
//!   Compiling may still fail: the error then names the device and, with [`Error::at_node`], the
//!   node, so that the engine can plan again without that node on that device.
//! - It compiles until [`CompileOptions::check`] tells it to stop, and asks between its steps.
//! - It takes work and returns: [`Queue::submit`] checks what a caller can get wrong, and never
//!   waits for the work's points.
//!   Work that was refused has not been taken, and its points stay as they are.
//! - It starts work when all points that the work waits for are reached, and not before.
//!   Points of other devices' timelines, and points that the host reaches, are among them.
//! - It settles all points of work that it has taken, exactly once: they are reached, or their
//!   timelines fail.
//!   A failed wait fails the points behind it with the same error, and the work does not run.
//! - It keeps the bytes that it was given until the work has ended; [`Work`] owns these objects.
//! - It writes no memory that was imported as [`HostSemantics::Immutable`].
//! - It fails with a typed [`Error`], and never by a panic, a print or a wait without an end.
//!
//! # What a caller has to do
//! - It orders accesses.
//!   Two accesses to the same bytes that no point orders, one of them a write, leave unspecified
//!   bytes.
//!   Methods are safe to call all the same: no memory outside a buffer is touched.
//! - It waits for points before it calls [`Buffer::read`] or [`Buffer::write`], which know of no
//!   queue.
//! - It gives each of [`Executable::bindings`] a buffer of the device that is long enough and
//!   begins at a multiple of [`Capabilities::alignment`], and scratch memory as
//!   [`Executable::scratch`] asks.
//! - It signals the points of a timeline in the order of their values: whoever reaches a value
//!   reaches all smaller ones too.
//! - It changes no [`BindingTable`] while a run with it is under way.
//! - It lets no memory that a run writes overlap anything else that the run reads or writes, and
//!   gives no scratch memory to two runs under way.
//! - It gives up a buffer to [`Device::reimport`] only when no work under way uses it.
//! - It takes the retryable error of a full queue as no failure of the work, and submits the work
//!   again later.
//!
//! Devices do not pay for checks of all this.
//! The layer `Validated` of the crate `hetero-layers` wraps any driver and checks it: an error then
//! names the rule that a call breaks.
//!
//! # What a backend may leave out
//! These methods have a default, which a simple device keeps.
//!
//! | method | the default | who writes it |
//! |---|---|---|
//! | [`Device::refusal`] | gives no reason | a device that can tell people why it takes no node |
//! | [`Device::reimport`] | drops the former buffer and imports | a device that can use its bookkeeping again |
//! | [`Device::timeline`] | a timeline of the host's | a device whose driver can wait for its own queues |
//! | [`Device::edge_to`] | reaches no memory in place, and waits through the host | a device that reaches another's memory, or its own faster |
//! | [`Device::telemetry`] | tells nothing | a device that counts its bytes and its time |
//! | [`Queue::run`] | submits and waits | a device that can work on the calling thread |
//! | [`Executable::weights`] | none | a device that keeps constants in a form of its own |
//! | [`Executable::serialize`] | `Unsupported` | a device whose compiler's result can be kept |
//!
//! A device may also decline every import, every raw kernel and every cached form, and may record
//! nothing in a trace.
//! It computes right all the same: the engine copies the bytes that are not imported.
//! The smallest backend that remains is the crate `hetero-null`: a whole backend on a few pages,
//! with a README that says how to clone it.
//! Code that backends share, such as the checks of a queue, is in the crate `hetero-kit`.
//!
//! # How work is ordered
//! A [`Timeline`] is a counter that only grows, and that can fail.
//! A [`Point`] is a value of it.
//! Work waits for points and reaches points, and two pieces of work that no point orders run in any
//! order or at the same time, on one queue too.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use hetero_hal::{Error, ErrorKind, Point, Timeline};
//!
//! let soon = Instant::now() + Duration::from_secs(10);
//! let timeline = Timeline::new(0);
//! let (copied, computed, stored) = (timeline.at(1), timeline.at(2), timeline.at(3));
//!
//! // What a queue does with work that waits for `copied` and signals `computed`.
//! let signal = [computed.clone()];
//! Point::when_all(&[copied.clone()], Box::new(move |outcome| Point::settle(&signal, &outcome)));
//! assert!(!computed.is_reached());
//! copied.signal();
//! computed.wait(soon)?;
//!
//! // A failure reaches everybody who waits for a later point, and nobody else.
//! timeline.fail(Error::new(ErrorKind::DeviceLost, "the chip is gone"));
//! assert_eq!(stored.wait(soon).unwrap_err().kind(), ErrorKind::DeviceLost);
//! assert!(computed.wait(soon).is_ok());
//! # Ok::<(), hetero_hal::Error>(())
//! ```
//!
//! The counter itself is the host's, and everybody can wait for it: [`Timeline::wait`] blocks a
//! thread, [`Timeline::on_reach`] calls back once, and [`Timeline::watch`] tells an object without
//! an allocation.
//! A timeline may have a [`NativeTimeline`] beside that: the backend's own side, such as the events
//! of commands that will reach its points.
//! A queue that waits for a point looks for a native side of its own type.
//! If there is one, its driver waits, and the host does nothing in between; else the queue waits
//! through the host.
//! Whoever reaches a point natively advances the counter too, so that the host's value is true.
//!
//! An [`Edge`] says which of the two happens between two devices: [`Edge::wait`] is how the first
//! device's queues wait for the second's points, [`Edge::signal`] how they reach points for the
//! second.
//! A driver waits only where the waiting device's edge says [`SyncMode::Native`] for its waits and
//! the other device's edge back says so for its signals.
//!
//! # Who owns memory
//! - Buffers: a device allocates, and a [`Buffer`] is a range of an allocation.
//!   Clones and parts share the allocation, and the last of them frees it.
//!   The allocation behind it is the backend's own [`Memory`].
//! - Imported memory: [`HostMemory`] is owned by its clones, and a device that imports it keeps
//!   one; [`HostSemantics`] says who may write it meanwhile.
//! - Binding tables: a [`BindingTable`] belongs to whoever submits runs.
//!   It is kept from run to run, and [`BindingTable::set`] replaces only the buffer that moved.
//! - Scratch: an executable says how much memory a run needs besides its bindings, and the caller
//!   provides it with each run, so that runs and executables can use the same bytes at different
//!   times.
//! - Weights: a [`Weight`] is a constant in the form in which a device keeps it.
//!   It belongs to all executables that list it in [`Executable::weights`], and is freed with the
//!   last of them; [`distinct_weights`] counts each once.
//!   Whoever manages memory may evict and restore it, and a run restores the weights that it needs.
//! - Work: a piece of [`Work`] owns its buffers, executable and table until it has ended.
//!   A run that is given up may therefore be left to itself.
//!
//! # How failure travels
//! An [`Error`] is cheap to clone, and says what kind of thing failed, to which device, operator
//! and node, with which sizes and vendor's code, whether to try again, and what to do.
//! A call that fails at once returns it.
//! Work that fails later fails the timelines of its points, and everyone behind them gets the same
//! error.
//! A lost device fails its timelines with [`ErrorKind::DeviceLost`].
//! A driver that finds nothing answers with [`Unavailable`], which has a reason and a remedy; that
//! is no failure.
//!
//! # How tracing works
//! [`Work::traced`] gives a piece of work a [`TraceSink`], which is told of [`TraceEvent`]s: a
//! kernel, a transfer, a wait or a host function, with its nodes, begin, end and bytes.
//! Times are the host's: a device with a clock of its own compares the two clocks once.
//! All events come before the work's points are reached, and a traced run overlaps as any other.
//! Work without a sink pays nothing for tracing.
//!
//! # What may grow
//! These types are `#[non_exhaustive]`, so that a new field or variant breaks no backend:
//!
//! - A backend or caller begins [`DeviceInfo`], [`Capabilities`] and [`Execution`] with `new` and
//!   sets the rest; [`Work`] begins with the function for its operation, [`TraceEvent`] with
//!   [`TraceEvent::new`], and [`Telemetry`] with its default.
//! - A `match` on [`Operation`], [`Source`], [`ExternalMemory`], [`HostSemantics`] or [`Attribute`]
//!   has an arm for variants that it does not know, which answers `Unsupported`.
//! - [`DType`], [`DeviceKind`], [`ErrorKind`], [`HandleKind`], [`KernelFormat`], [`MemoryKind`],
//!   [`SyncMode`], [`TraceKind`] and [`UnavailableReason`] may get variants.
//!
//! A new method of a trait comes with a default.
//! All other public types are complete: a change to one of them is a breaking change.
//! The whole interface is listed in `docs/api/hal.txt`, so that a change of it is seen as one.
//!
//! # Where the contract departs from its first sketch, and why
//! - An [`Operator`] is a name, a version and attributes, not an enum with a variant for each:
//!   operators of other domains and functions pass through untouched, and adding one changes no
//!   type here.
//! - A part of a buffer is a [`Buffer`] too, so that bindings, copies and arenas need no second
//!   type.
//! - [`Work`] is a struct of an [`Operation`] and a trace, not an enum of operations, so that all
//!   work can be traced in one way.
//! - The code that all queues share is not here but in `hetero-kit`, as its `Shell`.
//!   The contract says what a queue has to do, and a backend is free to write its own.
//! - There is no export of memory, no setting of clocks and no pair of state values.
//!   Nobody used them; each comes back with its first user and a conformance case.

#![forbid(unsafe_code)]

mod allowance;
mod binding;
mod device;
mod driver;
mod dtype;
mod error;
mod fingerprint;
mod graph;
mod memory;
mod merge;
mod model;
mod operators;
mod program;
mod queue;
mod telemetry;
mod tensor;
mod timeline;
mod topology;
mod trace;
mod weight;

pub use allowance::{Allowance, spend, take};
pub use binding::{BindingInfo, BindingTable, BoundBuffers, Direction};
pub use device::{
    Capabilities, Claim, CompileOptions, Device, Executable, KernelFormat, KernelSignature, Quality, Source,
};
pub use driver::{DeviceId, DeviceInfo, DeviceKind, Driver, OpenOptions, Unavailable, UnavailableReason};
pub use dtype::{Bool, DType, Element};
pub use error::{Error, ErrorKind, Result, Sizes};
pub use fingerprint::Fingerprint;
pub use graph::{Attribute, Capture, Dim, ExtentId, Graph, LateId, Node, NodeId, Operator, TensorType, Value, ValueId};
pub use memory::{
    Buffer, BufferLayout, ExternalMemory, HandleKind, HostMemory, HostSemantics, Memory, MemoryKind, check_range,
    reserve_bytes,
};
pub use model::Model;
pub use operators::{
    Definition, EvaluateFn, Evaluation, ExpandFn, FlopsFn, InferFn, Inference, InputFact, MOST_ELEMENTS, OperatorSet,
    SubgraphFn, empties, shape_content,
};
pub use program::{Extent, Program, ProgramValue};
pub use queue::{Execution, Extents, HostTask, Operation, Queue, QueueOptions, Work, submit_and_wait};
pub use telemetry::Telemetry;
pub use tensor::{Tensor, element_count};
pub use timeline::{Callback, NativeTimeline, Point, Timeline, Watcher};
pub use topology::{Edge, Reach, SyncMode, Topology};
pub use trace::{TraceEvent, TraceKind, TraceSink};
pub use weight::{Weight, distinct_weights};
