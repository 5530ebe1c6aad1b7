//! Allowances: the host memory and the time that a piece of work may take.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::element_count;

/// The host memory and the time that a piece of work may take, such as reading a model, inferring
/// its shapes, or computing an operator plainly.
///
/// Whoever works under an allowance asks *before* it allocates, and between steps that are each
/// short.
///
/// ```
/// use std::time::{Duration, Instant};
/// use hetero_hal::{Allowance, ErrorKind};
///
/// let allowance = Allowance::new(1 << 20).until(Instant::now() + Duration::from_secs(60));
/// assert_eq!(allowance.less(1 << 19)?.bytes, 1 << 19);
/// assert_eq!(allowance.less(1 << 40).unwrap_err().kind(), ErrorKind::OutOfMemory);
/// allowance.check()?;
///
/// let late = Allowance::new(1 << 20).until(Instant::now());
/// assert_eq!(late.check().unwrap_err().kind(), ErrorKind::Timeout);
/// # Ok::<(), hetero_hal::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Allowance {
    /// The bytes that may be allocated at once.
    pub bytes: usize,
    /// The moment at which the work gives up; `None` lets it go on.
    pub deadline: Option<Instant>,
    /// A flag that another thread sets to make the work give up at once.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for Allowance {
    /// Returns an allowance of 4 GiB and of unlimited time.
    fn default() -> Self {
        Allowance::new(1 << 32)
    }
}

impl Allowance {
    /// Returns an allowance of this number of bytes and of unlimited time.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        Allowance { bytes, deadline: None, cancel: None }
    }

    /// Returns the same allowance with a deadline.
    #[must_use]
    pub fn until(mut self, deadline: impl Into<Option<Instant>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Returns what both allowances allow: the smaller memory and the earlier deadline.
    /// The flag is the own one where there is one, and otherwise the other's.
    #[must_use]
    pub fn and(mut self, other: &Allowance) -> Self {
        self.bytes = self.bytes.min(other.bytes);
        self.deadline = self.deadline.into_iter().chain(other.deadline).min();
        self.cancel = self.cancel.or_else(|| other.cancel.clone());
        self
    }

    /// Checks whether the work may go on.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, once the work is to stop.
    pub fn check(&self) -> Result<()> {
        let remedy = "check the model's sizes and the trip counts of its loops, or raise the deadline";
        go_on("the work", remedy, self.cancel.as_deref(), self.deadline)
    }

    /// Returns the allowance that is left once this number of bytes is taken.
    ///
    /// # Errors
    /// `OutOfMemory` with both sizes, where the bytes are more than allowed.
    pub fn less(&self, bytes: usize) -> Result<Allowance> {
        match self.bytes.checked_sub(bytes) {
            Some(left) => Ok(Allowance { bytes: left, ..self.clone() }),
            None => Err(exceeded(bytes as u64, self.bytes, "the work needs more memory than it may take")),
        }
    }

    /// Returns the bytes of a tensor, once it is sure that they may be allocated.
    ///
    /// # Errors
    /// `OutOfMemory` with both sizes, where the tensor is larger than allowed.
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Result<usize> {
        let bytes = element_count(shape).and_then(|count| dtype.bytes_for(count));
        bytes.filter(|&bytes| bytes <= self.bytes).ok_or_else(|| {
            let what = format!("a {dtype} tensor of shape {shape:?} does not fit the memory limit");
            exceeded(bytes.map_or(u64::MAX, |bytes| bytes as u64), self.bytes, what)
        })
    }
}

/// Checks whether work may go on, by its flag and its deadline.
pub(crate) fn go_on(what: &str, remedy: &str, cancel: Option<&AtomicBool>, deadline: Option<Instant>) -> Result<()> {
    if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
        return Err(Error::new(ErrorKind::Cancelled, format!("{what} was cancelled")));
    }
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(Error::new(ErrorKind::Timeout, format!("{what} passed its deadline")).with_remedy(remedy));
    }
    Ok(())
}

/// Returns the error of work that needs more memory than it may take.
pub(crate) fn exceeded(requested: u64, left: usize, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::OutOfMemory, what)
        .with_sizes(requested, Some(left as u64))
        .with_remedy("check the model's sizes, or raise the memory limit")
}

/// The steps between two looks at the clock; a step is some nanoseconds long.
pub(crate) const STEPS: usize = 1 << 18;

/// What the evaluation that runs on this thread has taken of its allowance.
struct Account {
    allowance: Allowance,
    taken: usize,
    /// The steps until the clock is read again.
    steps: usize,
    /// Whether an evaluation runs; without one nothing would ever give back what is taken.
    open: bool,
}

thread_local! {
    /// The account is the thread's and no argument, so that all helpers of an operator can draw on
    /// it, and none can be called without it.
    static ACCOUNT: RefCell<Account> =
        RefCell::new(Account { allowance: Allowance::default(), taken: 0, steps: STEPS, open: false });
}

/// An evaluation's time as the one that runs on this thread; dropping it gives back what was taken,
/// and resumes the account of the evaluation around it.
pub(crate) struct Opened(Option<Account>);

impl Opened {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Opened(Some(ACCOUNT.replace(Account { allowance, taken: 0, steps: STEPS, open: true })))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            ACCOUNT.set(before);
        }
    }
}

/// Takes memory for `count` elements of `size` bytes each, for the
/// [`Evaluation`](crate::Evaluation) that runs on this thread; it is given back when that
/// evaluation ends.
/// A definition calls this before it allocates anything that grows with a size.
/// Where no evaluation runs, as in a rule of inference, each call is weighed by itself against the
/// default allowance.
///
/// # Errors
/// `OutOfMemory` with both sizes, where it is more than what is left of the allowance.
pub fn take(count: usize, size: usize) -> Result<()> {
    ACCOUNT.with_borrow_mut(|account| {
        let left = account.allowance.bytes - account.taken;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= left => {
                account.taken += if account.open { bytes } else { 0 };
                Ok(())
            }
            bytes => {
                let what = format!("computing plainly needs memory for {count} elements of {size} bytes on the way");
                Err(exceeded(bytes.map_or(u64::MAX, |bytes| bytes as u64), left, what))
            }
        }
    })
}

/// Counts steps of the [`Evaluation`](crate::Evaluation) that runs on this thread, each of some
/// nanoseconds, before they are done.
/// Now and then it looks at the clock, so one call should not tell of more than a million.
///
/// # Errors
/// `Timeout` or `Cancelled` where the computation is to stop.
pub fn spend(steps: usize) -> Result<()> {
    ACCOUNT.with_borrow_mut(|account| match account.steps.checked_sub(steps) {
        Some(left) => {
            account.steps = left;
            Ok(())
        }
        None => {
            account.steps = STEPS;
            account.allowance.check()
        }
    })
}

/// Returns what is left of the allowance of the evaluation that runs on this thread.
pub(crate) fn left() -> Allowance {
    ACCOUNT.with_borrow(|account| Allowance {
        bytes: account.allowance.bytes - account.taken,
        ..account.allowance.clone()
    })
}
