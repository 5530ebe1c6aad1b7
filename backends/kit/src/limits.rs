//! Bounds: submissions under way, and bytes allocated.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hetero_hal::{DeviceId, Error, ErrorKind, QueueOptions, Result};

/// The limit of the submissions that a queue takes at once, with a count of those under way.
#[derive(Debug)]
pub struct Capacity {
    taken: AtomicUsize,
    most: usize,
}

impl Capacity {
    /// Makes a capacity of as many submissions as the options say, or else of `default`.
    #[must_use]
    pub fn new(options: &QueueOptions, default: usize) -> Self {
        Capacity { taken: AtomicUsize::new(0), most: options.capacity.unwrap_or(default) }
    }

    /// Counts one more submission, until [`Capacity::give`] is called for it.
    ///
    /// # Errors
    /// `Execution`, retryable, where as many submissions as the limit allows are under way.
    pub fn take(&self, device: &DeviceId) -> Result<()> {
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.most {
            return Ok(());
        }
        self.taken.fetch_sub(1, Ordering::AcqRel);
        Err(Error::new(ErrorKind::Execution, format!("{} submissions are under way already", self.most))
            .on(device.clone())
            .with_remedy("wait for some of them")
            .retryable())
    }

    /// Counts a submission as the only one; `false` where others are under way, or none is allowed.
    #[must_use]
    pub fn take_alone(&self) -> bool {
        self.most > 0 && self.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends the count of a submission.
    pub fn give(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The number of bytes that a device has allocated, with a limit.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Makes a budget of `limit` bytes, none of which are allocated yet.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Budget { used: AtomicU64::new(0), limit }
    }

    /// Returns how many bytes are allocated now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns how many bytes may be allocated at most.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes bytes, until [`Budget::give`] gives them back.
    ///
    /// # Errors
    /// `OutOfMemory`, with the size wanted and the limit, where the bytes would pass the limit.
    pub fn take(&self, device: &DeviceId, bytes: u64) -> Result<()> {
        self.take_beside(device, bytes, 0)
    }

    /// Takes bytes as [`Budget::take`] does, where others hold `beside` bytes of the same memory,
    /// which this budget does not count.
    ///
    /// # Errors
    /// `OutOfMemory`, with the size wanted and what is left, where all together would pass the
    /// limit.
    pub fn take_beside(&self, device: &DeviceId, bytes: u64, beside: u64) -> Result<()> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let sum = used.checked_add(bytes)?;
            sum.checked_add(beside).filter(|&all| all <= self.limit).map(|_| sum)
        });
        taken.map(|_| ()).map_err(|used| {
            Error::new(ErrorKind::OutOfMemory, "cannot allocate memory")
                .on(device.clone())
                .with_sizes(bytes, Some(self.limit.saturating_sub(used).saturating_sub(beside)))
                .with_remedy("bind smaller shapes, or raise the device's memory limit")
        })
    }

    /// Gives bytes back.
    pub fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_and_budget_end_where_they_say() {
        let id = DeviceId::new("null", 0);
        let capacity = Capacity::new(&QueueOptions { capacity: Some(2), ..QueueOptions::default() }, 9);
        assert!(capacity.take_alone() && !capacity.take_alone());
        capacity.take(&id).unwrap();
        assert!(capacity.take(&id).unwrap_err().is_retryable());
        capacity.give();
        capacity.take(&id).unwrap();
        assert!(!Capacity::new(&QueueOptions { capacity: Some(0), ..QueueOptions::default() }, 9).take_alone());
        let budget = Budget::new(10);
        budget.take(&id, 7).unwrap();
        let sizes = budget.take(&id, 4).unwrap_err().sizes().unwrap();
        assert_eq!((sizes.requested, sizes.available), (4, Some(3)));
        assert!(budget.take(&id, u64::MAX).is_err());
        assert!(budget.take_beside(&id, 2, 2).is_err());
        let sizes = budget.take_beside(&id, 3, 1).unwrap_err().sizes().unwrap();
        assert_eq!((sizes.requested, sizes.available), (3, Some(2)));
        budget.take_beside(&id, 2, 1).unwrap();
        assert_eq!(budget.used(), 9);
        budget.give(9);
        assert_eq!((budget.used(), budget.limit()), (0, 10));
    }
}
