//! Pages that results are written to, and that serve again once nobody holds the result.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use hetero_hal::{HostMemory, Result};

use crate::host::host_buffer;

/// The length of a page of memory, of which results take whole ones.
const PAGE: usize = 4096;

/// Pages for results.
///
/// A device writes a result into pages that [`take`](ResultPages::take) gave, and
/// [`freeze`](ResultPages::freeze) makes bytes of them without a copy.
/// When the last holder of these lets go of them, the pages serve another result: fresh ones would
/// have to be filled with zeros by the operating system first.
///
/// ```
/// use hetero_comm::{ResultPages, host_buffer};
///
/// let pages = ResultPages::new(2);
/// let memory = pages.take(8)?;
/// host_buffer(memory.clone()).write(0, &[7; 8])?;
/// let address = memory.as_ptr();
/// let result = pages.freeze(memory, 8)?;
/// assert_eq!(&result[..], [7; 8]);
/// drop(result);
/// assert_eq!(pages.take(4096)?.as_ptr(), address);
/// # Ok::<(), hetero_hal::Error>(())
/// ```
#[derive(Debug)]
pub struct ResultPages {
    /// Those that nobody uses, the latest last.
    free: Mutex<Vec<HostMemory>>,
    /// The most that are kept.
    most: usize,
}

/// Pages that are constant from now on.
struct Frozen {
    memory: HostMemory,
    bytes: usize,
    home: Weak<ResultPages>,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range was checked to lie inside pages that `self` keeps alive, and that
        // nobody else had when they were frozen, so that nobody writes them.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.bytes) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.keep(self.memory.clone());
        }
    }
}

impl ResultPages {
    /// Makes a store that keeps at most so many results' pages that nobody uses.
    #[must_use]
    pub fn new(most: usize) -> Arc<ResultPages> {
        Arc::new(ResultPages { free: Mutex::new(Vec::new()), most })
    }

    /// Returns pages of at least so many bytes, of any content.
    ///
    /// # Errors
    /// `OutOfMemory` where the operating system refuses.
    pub fn take(&self, bytes: usize) -> Result<HostMemory> {
        let needed = bytes.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Much longer ones would hold memory that nobody uses.
        let fits = |memory: &HostMemory| (needed..=needed.saturating_mul(2)).contains(&memory.len());
        match free.iter().rposition(fits) {
            Some(position) => Ok(free.remove(position)),
            None => HostMemory::allocate(needed),
        }
    }

    /// Makes bytes of the first `bytes` bytes of pages.
    /// They are copied where somebody else has the pages too, and could still write them.
    ///
    /// # Errors
    /// `InvalidArgument` where the pages have fewer bytes.
    /// `OutOfMemory` where there is no room for a copy.
    pub fn freeze(self: &Arc<Self>, memory: HostMemory, bytes: usize) -> Result<Bytes> {
        let memory = memory.slice(0..bytes).map(|_| memory)?;
        if memory.is_shared() {
            let mut copy = Vec::new();
            host_buffer(memory).append(0..bytes, &mut copy)?;
            return Ok(copy.into());
        }
        Ok(Bytes::from_owner(Frozen { memory, bytes, home: Arc::downgrade(self) }))
    }

    fn keep(&self, memory: HostMemory) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= self.most.max(1) {
            // Its size has not been asked for since the others came.
            free.remove(0);
        }
        free.push(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_serve_again_when_their_result_is_gone_and_not_before() {
        let pages = ResultPages::new(1);
        let (one, two) = (pages.take(10).unwrap(), pages.take(10).unwrap());
        let addresses = [one.as_ptr(), two.as_ptr()];
        let (one, two) = (pages.freeze(one, 10).unwrap(), pages.freeze(two, 10).unwrap());
        let part = one.slice(2..4);
        drop(one);
        assert!(!addresses.contains(&pages.take(10).unwrap().as_ptr()), "a part of a result lives");
        drop(part);
        let again = pages.take(10).unwrap();
        assert_eq!(again.as_ptr(), addresses[0]);
        drop((again, two));
        assert!(pages.take(5 * PAGE).unwrap().as_ptr() != addresses[1], "it is too short");
        assert!(pages.take(1).unwrap().as_ptr() == addresses[1]);
    }

    #[test]
    fn a_store_keeps_no_more_than_it_may_and_results_outlive_it() {
        let pages = ResultPages::new(2);
        let results: Vec<Bytes> = (0..5).map(|_| pages.freeze(pages.take(1).unwrap(), 1).unwrap()).collect();
        drop(results);
        assert_eq!(pages.free.lock().unwrap().len(), 2);
        let result = pages.freeze(pages.take(3).unwrap(), 3).unwrap();
        drop(pages);
        assert_eq!(result.len(), 3);
    }

    #[test]
    fn pages_that_somebody_else_has_are_copied() {
        let pages = ResultPages::new(2);
        let memory = pages.take(4).unwrap();
        let mut other = host_buffer(memory.clone());
        other.write(0, &[1, 2, 3, 4]).unwrap();
        let result = pages.freeze(memory, 4).unwrap();
        other.write(0, &[9; 4]).unwrap();
        assert_eq!(&result[..], [1, 2, 3, 4]);
        other = host_buffer(pages.take(4).unwrap());
        assert!(pages.freeze(pages.take(4).unwrap(), PAGE + 1).is_err());
        drop(other);
    }
}
