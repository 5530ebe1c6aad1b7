//! Queues: asynchronous work, ordered by points alone.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::device::Executable;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::ExtentId;
use crate::memory::Buffer;
use crate::timeline::{Point, Timeline};

/// How to make a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueOptions {
    /// Shown by profilers and in errors.
    pub name: String,
    /// Submissions that may be under way at once before [`Queue::submit`] answers with a retryable error; `None` leaves it to the device.
    pub capacity: Option<usize>,
}

/// Takes work for a device and returns at once.
///
/// Two submissions run in any order, or at the same time, unless a point that one signals is one that the other waits for. A failed
/// wait fails the signals without running the work.
pub trait Queue: Any + Send + Sync {
    /// Runs `work` once all of `wait` is reached, then reaches all of `signal`; where the work fails, fails their timelines.
    ///
    /// Points of other devices' timelines are welcome: the queue learns of them through
    /// [`Timeline::on_reach`](crate::Timeline::on_reach).
    ///
    /// # Errors
    /// `InvalidArgument` where the work does not fit the device (foreign buffer or executable, wrong number of bindings); such work has
    /// not been taken and its signals stay unreached. `DeviceLost` where the device is gone.
    fn submit(&self, wait: &[Point], work: Work, signal: &[Point]) -> Result<()>;

    /// Submits work and waits for its end. A device that works on the host may do it on the calling thread, which saves two hand-overs
    /// between threads.
    ///
    /// # Errors
    /// As [`Queue::submit`]; the failure of the work; `Timeout` where the deadline passes first, and the work may still be under way.
    fn run(&self, wait: &[Point], work: Work, signal: &[Point], deadline: Instant) -> Result<()> {
        submit_and_wait(self, wait, work, signal, deadline)
    }
}

/// [`Queue::run`] by [`Queue::submit`]. Where nothing is to be signalled, a point of its own tells of the end.
///
/// # Errors
/// As [`Queue::run`].
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

/// A piece of work. It owns what it needs, so that nothing is freed under it.
#[derive(Clone)]
#[non_exhaustive]
pub enum Work {
    /// Copies `source` to `target`, of equal length. One side may belong to another device whose memory this one reaches; see
    /// [`copy_through_host`] for one that it does not.
    Copy {
        /// From.
        source: Buffer,
        /// To.
        target: Buffer,
    },
    /// Repeats `pattern` over `target`, whose length is a multiple of the pattern's.
    Fill {
        /// To.
        target: Buffer,
        /// One to sixteen bytes.
        pattern: Arc<[u8]>,
    },
    /// Runs a host function in its turn.
    Host(Arc<dyn HostTask>),
    /// Runs an executable.
    Execute(Execution),
}

impl Work {
    /// Checks what holds on every device: a copy's lengths are equal, and a pattern fits what it fills.
    ///
    /// # Errors
    /// `InvalidArgument` with the lengths.
    pub fn check(&self) -> Result<()> {
        match self {
            Work::Copy { source, target } if source.len() != target.len() => Err(lengths_differ(source, target)),
            Work::Fill { target, pattern }
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

fn lengths_differ(source: &Buffer, target: &Buffer) -> Error {
    Error::invalid_argument(format!("cannot copy {} bytes into a buffer of {}", source.len(), target.len()))
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Copy { source, target } => write!(f, "Copy({source:?} -> {target:?})"),
            Work::Fill { target, .. } => write!(f, "Fill({target:?})"),
            Work::Host(_) => f.write_str("Host"),
            Work::Execute(execution) => write!(f, "Execute({:?})", execution.bindings),
        }
    }
}

/// Runs a host function for a queue. One that panics fails its submission, rather than taking the queue's thread along and leaving waiters behind.
///
/// # Errors
/// The task's, or `Execution` where it panicked.
pub fn run_on_host(task: &dyn HostTask) -> Result<()> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.run()));
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Execution, "a host task panicked")))
}

/// A host function that a queue runs.
pub trait HostTask: Send + Sync {
    /// Runs it.
    ///
    /// # Errors
    /// Any; it fails the submission's signals.
    fn run(&self) -> Result<()>;
}

impl<F: Fn() -> Result<()> + Send + Sync> HostTask for F {
    fn run(&self) -> Result<()> {
        self()
    }
}

/// One run of an executable.
#[derive(Clone)]
pub struct Execution {
    /// What runs.
    pub executable: Arc<dyn Executable>,
    /// A buffer for each of [`Executable::bindings`], in that order.
    pub bindings: Arc<[Buffer]>,
    /// Memory for the run as [`Executable::scratch`] asks; `None` where that is empty.
    pub scratch: Option<Buffer>,
    /// The true sizes of what depends on data; `None` where nothing does.
    pub extents: Option<Arc<Extents>>,
    /// Told of each part of the run as it ends; `None` where nobody asks. A device that cannot tell its parts apart tells nothing.
    pub probe: Option<Arc<dyn Probe>>,
    /// When the device may give up with a `Timeout`, where it can do so between the parts of the run; `None` lets it go on.
    pub deadline: Option<Instant>,
}

/// Hears how long the parts of a run took. Called on the device's threads, so it should be quick.
pub trait Probe: Send + Sync {
    /// A part has ended.
    fn span(&self, span: &Span<'_>);
}

/// A part of a run: one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Names of the nodes that it does; none where it only changes a layout.
    pub nodes: &'a [Arc<str>],
    /// The kernel, in the device's own words.
    pub kernel: &'a str,
    /// How long it took.
    pub took: Duration,
}

/// The true sizes, in one run, of dimensions that depend on data. Each is written by the node that produces it, before that work's signal.
#[derive(Debug)]
pub struct Extents(Box<[AtomicU64]>);

impl Extents {
    /// Room for `count` sizes, all 0.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Extents((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    /// The true size.
    ///
    /// # Errors
    /// `Internal` for an id of another program.
    pub fn get(&self, id: ExtentId) -> Result<usize> {
        let slot = self.0.get(id.index()).ok_or_else(|| Error::internal(format!("no extent {}", id.0)))?;
        usize::try_from(slot.load(Ordering::Acquire)).map_err(|_| Error::internal("extent overflows usize"))
    }

    /// Sets the true size.
    ///
    /// # Errors
    /// `Internal` for an id of another program.
    pub fn set(&self, id: ExtentId, size: usize) -> Result<()> {
        let slot = self.0.get(id.index()).ok_or_else(|| Error::internal(format!("no extent {}", id.0)))?;
        slot.store(size as u64, Ordering::Release);
        Ok(())
    }
}

/// Copies between any two buffers through a bounded piece of host memory: slow, and always possible.
///
/// # Errors
/// `InvalidArgument` where the lengths differ, and what either side answers.
pub fn copy_through_host(source: &Buffer, target: &Buffer) -> Result<()> {
    const PIECE: usize = 1 << 20;
    if source.len() != target.len() {
        return Err(lengths_differ(source, target));
    }
    let mut piece = vec![0; source.len().min(PIECE)];
    let mut offset = 0;
    while offset < source.len() {
        let bytes = PIECE.min(source.len() - offset);
        source.read(offset, &mut piece[..bytes])?;
        target.write(offset, &piece[..bytes])?;
        offset += bytes;
    }
    Ok(())
}

/// Repeats a pattern over a buffer through a bounded piece of host memory.
///
/// # Errors
/// What the buffer's device answers. That the pattern fits is for [`Work::check`].
pub fn fill_through_host(target: &Buffer, pattern: &[u8]) -> Result<()> {
    const REPEATS: usize = 4096;
    let bytes = target.len().min(pattern.len() * REPEATS);
    let piece: Vec<u8> = pattern.iter().copied().cycle().take(bytes).collect();
    let mut offset = 0;
    while offset < target.len() && !piece.is_empty() {
        let bytes = piece.len().min(target.len() - offset);
        target.write(offset, &piece[..bytes])?;
        offset += bytes;
    }
    Ok(())
}
