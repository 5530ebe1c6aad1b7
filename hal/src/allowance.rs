//! Allowances: the host memory and the time that a piece of work may take.

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
        if self.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Cancelled, "the work was cancelled"));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(ErrorKind::Timeout, "the work passed its deadline")
                .with_remedy("check the model's sizes and the trip counts of its loops, or raise the deadline"));
        }
        Ok(())
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

/// Returns the error of work that needs more memory than it may take.
pub(crate) fn exceeded(requested: u64, left: usize, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::OutOfMemory, what)
        .with_sizes(requested, Some(left as u64))
        .with_remedy("check the model's sizes, or raise the memory limit")
}
