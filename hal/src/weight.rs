//! Weights: constants in the form in which a device keeps them.

use std::any::Any;
use std::sync::Arc;

use crate::error::Result;

/// A constant in the form in which a device keeps it: packed for a kernel, or uploaded into the
/// device's memory.
///
/// A weight belongs to all executables that list it in
/// [`Executable::weights`](crate::Executable::weights), and lives as long as the last of them.
/// Whoever manages memory may evict it between runs and restore it later.
/// A run that needs an evicted weight restores it first, so eviction costs time and never
/// correctness.
///
/// All methods may be called from any thread.
pub trait Weight: Any + Send + Sync {
    /// Returns the name of the constant, for people.
    /// A weight that stands for several constants names the first.
    fn name(&self) -> &str;

    /// Returns the form in which the device keeps the constant, for people.
    fn layout(&self) -> &str;

    /// Returns the bytes that the weight takes while it is resident.
    fn bytes(&self) -> usize;

    /// Tells whether the bytes are there now.
    fn is_resident(&self) -> bool;

    /// Drops the bytes.
    /// Runs under way keep what they use until they end, and the memory is free after that.
    fn evict(&self);

    /// Makes the bytes again from the constant; does nothing where they are there.
    ///
    /// # Errors
    /// `OutOfMemory` with the sizes, or the device's error.
    fn restore(&self) -> Result<()>;
}

/// Returns the weights of a list, each once.
/// A weight that several executables share is one object, and counts once.
///
/// ```
/// use std::sync::Arc;
/// use hetero_hal::{Result, Weight, distinct_weights};
///
/// struct Fixed(usize);
/// impl Weight for Fixed {
///     fn name(&self) -> &str {
///         "w"
///     }
///     fn layout(&self) -> &str {
///         "as it is"
///     }
///     fn bytes(&self) -> usize {
///         self.0
///     }
///     fn is_resident(&self) -> bool {
///         true
///     }
///     fn evict(&self) {}
///     fn restore(&self) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let (one, other): (Arc<dyn Weight>, Arc<dyn Weight>) = (Arc::new(Fixed(8)), Arc::new(Fixed(8)));
/// let distinct = distinct_weights([one.clone(), other, one]);
/// assert_eq!(distinct.iter().map(|weight| weight.bytes()).sum::<usize>(), 16);
/// ```
#[must_use]
pub fn distinct_weights(weights: impl IntoIterator<Item = Arc<dyn Weight>>) -> Vec<Arc<dyn Weight>> {
    let mut seen = std::collections::HashSet::new();
    let first = |weight: &Arc<dyn Weight>| seen.insert(Arc::as_ptr(weight).cast::<()>());
    weights.into_iter().filter(first).collect()
}
