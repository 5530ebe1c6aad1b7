//! Queues: asynchronous work, ordered by points alone.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::binding::BindingTable;
use crate::device::Executable;
use crate::error::{Error, Result};
use crate::graph::{ExtentId, LateId};
use crate::memory::Buffer;
use crate::program::Program;
use crate::tensor::Tensor;
use crate::timeline::{Point, Timeline};
use crate::trace::TraceSink;

/// The options with which a queue is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueOptions {
    /// The name of the queue in traces.
    pub name: String,
    /// The number of submissions that may be under way at once before [`Queue::submit`] answers
    /// with a retryable error; `None` leaves it to the device.
    pub capacity: Option<usize>,
}

/// The place where work is submitted to a device.
///
/// A queue takes work and returns at once.
/// Two submissions run in any order, or at the same time, unless one of them signals a point that
/// the other waits for.
/// A failed wait fails the signals without running the work.
pub trait Queue: Any + Send + Sync {
    /// Takes `work`, which runs once all of `wait` is reached.
    /// After that the queue reaches all of `signal`, or fails their timelines where the work fails.
    ///
    /// The points of `wait` may be of other devices' timelines.
    /// Where such a timeline has a native side of this backend, the driver may wait for it; else
    /// the queue learns of the point through [`Timeline::on_reach`](crate::Timeline::on_reach).
    ///
    /// # Errors
    /// `InvalidArgument` where the work does not fit the device: a buffer or executable is another
    /// device's, or the number of bindings is wrong.
    /// Such work has not been taken, and its signals stay unreached.
    /// `DeviceLost` where the device is gone.
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()>;

    /// Submits work and waits for its end.
    /// A device that works on the host may do the work on the calling thread, which saves two
    /// hand-overs between threads.
    ///
    /// # Errors
    /// The errors of [`Queue::submit`], and the failure of the work.
    /// `Timeout` where the deadline passes first; the work may still be under way then.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        submit_and_wait(self, wait, work, signal, deadline)
    }
}

/// Does what [`Queue::run`] says by [`Queue::submit`].
/// Where nothing is to be signalled, a point of a new timeline tells of the end.
///
/// # Errors
/// The errors of [`Queue::run`].
pub fn submit_and_wait<Q: Queue + ?Sized>(
    queue: &Q,
    wait: &[Point],
    work: Work,
    signal: &[Point],
    deadline: Instant,
) -> Result<()> {
    if signal.is_empty() {
        let end = [Timeline::new(0).at(1)];
        return submit_and_wait(queue, wait, work, &end, deadline);
    }
    queue.submit(wait, work, signal)?;
    signal.iter().try_for_each(|point| point.wait(deadline))
}

/// A piece of work for a queue.
/// It owns the objects that it needs, so that none is freed under it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Work {
    /// The operation that is to be done.
    pub operation: Operation,
    /// The sink that is told of what was done; `None` where nobody asks.
    pub trace: Option<Arc<dyn TraceSink>>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.operation, f)
    }
}

impl Work {
    fn of(operation: Operation) -> Self {
        Work { operation, trace: None }
    }

    /// Returns work that copies `source` to `target`, of equal length.
    /// One side may belong to another device whose memory this device reaches; any other memory is
    /// reached through the host.
    #[must_use]
    pub fn copy(source: Buffer, target: Buffer) -> Self {
        Work::of(Operation::Copy { source, target })
    }

    /// Returns work that repeats a pattern of one to sixteen bytes over `target`, whose length is a
    /// multiple of the pattern's.
    #[must_use]
    pub fn fill(target: Buffer, pattern: impl Into<Arc<[u8]>>) -> Self {
        Work::of(Operation::Fill { target, pattern: pattern.into() })
    }

    /// Returns work that runs a host function in its turn.
    #[must_use]
    pub fn host(task: Arc<dyn HostTask>) -> Self {
        Work::of(Operation::Host(task))
    }

    /// Returns work that runs an executable.
    #[must_use]
    pub fn execute(execution: Execution) -> Self {
        Work::of(Operation::Execute(execution))
    }

    /// Returns the same work, of which `sink` is told, where there is one.
    #[must_use]
    pub fn traced(self, sink: Option<Arc<dyn TraceSink>>) -> Self {
        Work { trace: sink, ..self }
    }

    /// Checks the rules that hold on every device: a copy's lengths are equal, and a pattern fits
    /// the buffer that it fills.
    ///
    /// # Errors
    /// `InvalidArgument` with the lengths.
    pub fn check(&self) -> Result<()> {
        match &self.operation {
            Operation::Copy { source, target } if source.len() != target.len() => Err(Error::invalid_argument(
                format!("cannot copy {} bytes into a buffer of {}", source.len(), target.len()),
            )),
            Operation::Fill { target, pattern }
                if pattern.is_empty() || pattern.len() > 16 || !target.len().is_multiple_of(pattern.len()) =>
            {
                Err(Error::invalid_argument(format!(
                    "a pattern of {} bytes does not fill {} bytes",
                    pattern.len(),
                    target.len()
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The operations of a queue.
#[derive(Clone)]
#[non_exhaustive]
pub enum Operation {
    /// A copy of bytes; see [`Work::copy`].
    Copy {
        /// The buffer that is read.
        source: Buffer,
        /// The buffer that is written.
        target: Buffer,
    },
    /// A pattern that is repeated over a buffer; see [`Work::fill`].
    Fill {
        /// The buffer that is written.
        target: Buffer,
        /// The pattern of one to sixteen bytes.
        pattern: Arc<[u8]>,
    },
    /// A host function; see [`Work::host`].
    Host(Arc<dyn HostTask>),
    /// The run of an executable; see [`Work::execute`].
    Execute(Execution),
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Copy { source, target } => write!(f, "Copy({source:?} -> {target:?})"),
            Operation::Fill { target, .. } => write!(f, "Fill({target:?})"),
            Operation::Host(_) => f.write_str("Host"),
            Operation::Execute(execution) => write!(f, "Execute({:?})", execution.bindings),
        }
    }
}

/// A host function that a queue runs.
pub trait HostTask: Send + Sync {
    /// Runs the function.
    ///
    /// # Errors
    /// Any error, which fails the submission's signals.
    fn run(&self) -> Result<()>;

    /// Tells whether the function may wait for work of another queue, as the default says.
    /// A function that never does, such as a copy, lets a device do it on threads of a bounded
    /// number.
    fn may_wait(&self) -> bool {
        true
    }
}

impl<F: Fn() -> Result<()> + Send + Sync> HostTask for F {
    fn run(&self) -> Result<()> {
        self()
    }
}

/// One run of an executable.
///
/// It begins with [`Execution::new`], and more fields may come in later versions.
#[derive(Clone)]
#[non_exhaustive]
pub struct Execution {
    /// The executable that runs.
    pub executable: Arc<dyn Executable>,
    /// The buffers of the run, one for each of [`Executable::bindings`], in that order.
    pub bindings: Arc<BindingTable>,
    /// The memory for the run, as [`Executable::scratch`] asks; `None` where the executable needs
    /// none.
    pub scratch: Option<Buffer>,
    /// The true sizes of dimensions that depend on data; `None` where no size does.
    pub extents: Option<Arc<Extents>>,
    /// The moment at which the device may give up with a `Timeout`, where it can do so between the
    /// parts of the run; `None` lets it go on.
    pub deadline: Option<Instant>,
}

impl Execution {
    /// Returns a run without scratch memory, extents and deadline.
    #[must_use]
    pub fn new(executable: Arc<dyn Executable>, bindings: Arc<BindingTable>) -> Self {
        Execution { executable, bindings, scratch: None, extents: None, deadline: None }
    }

    /// Returns the same run with scratch memory, where there is any.
    #[must_use]
    pub fn with_scratch(self, scratch: Option<Buffer>) -> Self {
        Execution { scratch, ..self }
    }

    /// Returns the same run with room for the sizes that depend on data, where there are any.
    #[must_use]
    pub fn with_extents(self, extents: Option<Arc<Extents>>) -> Self {
        Execution { extents, ..self }
    }

    /// Returns the same run with a deadline.
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Execution { deadline: Some(deadline), ..self }
    }
}

/// The true sizes, in one run, of dimensions that only the run tells.
/// Those of inputs are written by whoever submits the run, before it does.
/// Each other one is written by the node that produces it, before that work's signal.
///
/// The contents of late values are here too, from the node that makes them to the last that reads
/// them.
#[derive(Debug)]
pub struct Extents {
    sizes: Box<[AtomicU64]>,
    late: Box<[Mutex<Option<Tensor>>]>,
}

impl Extents {
    /// Makes room for the sizes of a program, all 0, and for its late values.
    #[must_use]
    pub fn of(program: &Program) -> Self {
        let sizes = program.extents().iter().map(|_| AtomicU64::new(0)).collect();
        Extents { sizes, late: (0..program.lates()).map(|_| Mutex::default()).collect() }
    }

    /// Makes room for this number of sizes, all 0, and for no late value.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Extents { sizes: (0..count).map(|_| AtomicU64::new(0)).collect(), late: Box::default() }
    }

    /// Returns the content of a late value.
    ///
    /// # Errors
    /// `Internal` where nothing has made it, and for an id of another program.
    pub fn late(&self, id: LateId) -> Result<Tensor> {
        let slot = self.late.get(id.index()).map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).clone());
        slot.flatten().ok_or_else(|| Error::internal(format!("the late value {} is not made", id.0)))
    }

    /// Sets the content of a late value.
    ///
    /// # Errors
    /// `Internal` for an id of another program.
    pub fn put(&self, id: LateId, content: Tensor) -> Result<()> {
        let slot = self.late.get(id.index()).ok_or_else(|| Error::internal(format!("no late value {}", id.0)))?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
        Ok(())
    }

    /// Returns the true size of an extent.
    ///
    /// # Errors
    /// `Internal` for an id of another program.
    pub fn get(&self, id: ExtentId) -> Result<usize> {
        let slot = self.sizes.get(id.index()).ok_or_else(|| Error::internal(format!("no extent {}", id.0)))?;
        usize::try_from(slot.load(Ordering::Acquire)).map_err(|_| Error::internal("extent overflows usize"))
    }

    /// Sets the true size of an extent.
    ///
    /// # Errors
    /// `Internal` for an id of another program.
    pub fn set(&self, id: ExtentId, size: usize) -> Result<()> {
        let slot = self.sizes.get(id.index()).ok_or_else(|| Error::internal(format!("no extent {}", id.0)))?;
        slot.store(size as u64, Ordering::Release);
        Ok(())
    }
}
