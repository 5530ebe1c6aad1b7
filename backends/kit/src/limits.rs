//! Bounds: submissions under way, and bytes allocated.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hetero_hal::{DeviceId, Error, ErrorKind, QueueOptions, Result};

/// How many submissions a queue takes at once.
#[derive(Debug)]
pub struct Capacity {
    taken: AtomicUsize,
    most: usize,
}

impl Capacity {
    /// As many as the options say, or `default`.
    #[must_use]
    pub fn new(options: &QueueOptions, default: usize) -> Self {
        Capacity { taken: AtomicUsize::new(0), most: options.capacity.unwrap_or(default) }
    }

    /// Counts one more, which [`Capacity::give`] ends.
    ///
    /// # Errors
    /// `Execution`, retryable, where there are that many already.
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

    /// Counts the only one; `false` where others are under way, or none may be.
    #[must_use]
    pub fn take_alone(&self) -> bool {
        self.most > 0 && self.taken.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A submission is over.
    pub fn give(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Bytes that a device has allocated, and may.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Nothing allocated yet, of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Budget { used: AtomicU64::new(0), limit }
    }

    /// Bytes allocated now.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Most bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes bytes, which [`Budget::give`] gives back.
    ///
    /// # Errors
    /// `OutOfMemory` with both sizes.
    pub fn take(&self, device: &DeviceId, bytes: u64) -> Result<()> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.limit)
        });
        taken.map(|_| ()).map_err(|used| {
            Error::new(ErrorKind::OutOfMemory, "cannot allocate memory")
                .on(device.clone())
                .with_sizes(bytes, Some(self.limit.saturating_sub(used)))
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
        budget.give(7);
        assert_eq!((budget.used(), budget.limit()), (0, 10));
    }
}
