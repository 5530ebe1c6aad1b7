//! Which tasks of a region are whose.
//!
//! Each thread has a share of consecutive tasks. It takes its own from the front, in order; once it has none it takes others' from the back. So
//! every thread comes upon the same part of each region of one size: what it wrote in one it reads in the next, out of its own
//! cache, and no counter travels from core to core with every task.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// The tasks that are left of a thread's share: the first in the upper half, the end in the lower. Alone in its line of the cache, and in the pair
/// of lines that some processors fetch together.
#[repr(align(128))]
struct Share(AtomicU64);

pub(super) struct Shares(Vec<Share>);

/// Most tasks of a region.
pub(super) const MOST: usize = u32::MAX as usize;

impl Shares {
    /// Empty shares of so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Shares((0..threads.max(1)).map(|_| Share(AtomicU64::new(0))).collect())
    }

    /// Divides the tasks below `tasks`, [`MOST`] at most. By the region's owner, while nobody takes any.
    pub(super) fn deal(&self, tasks: usize) {
        let threads = self.0.len();
        let bound = |thread: usize| tasks.min(MOST) as u64 * thread as u64 / threads as u64;
        for (thread, share) in self.0.iter().enumerate() {
            // The owner opens the gate afterwards, and that orders this store.
            share.0.store((bound(thread) << 32) | bound(thread + 1), Ordering::Relaxed);
        }
    }

    /// The next task for this thread; `None` once all have been taken.
    pub(super) fn take(&self, thread: usize) -> Option<usize> {
        let threads = self.0.len();
        let own = self.0.get(thread)?;
        own.take(true).or_else(|| (1..threads).find_map(|step| self.0[(thread + step) % threads].take(false)))
    }
}

impl Share {
    /// A task from the front or the back.
    fn take(&self, front: bool) -> Option<usize> {
        let mut share = self.0.load(Ordering::Relaxed);
        loop {
            let (first, end) = (share >> 32, share & u64::from(u32::MAX));
            if first >= end {
                return None;
            }
            let (task, left) =
                if front { (first, ((first + 1) << 32) | end) } else { (end - 1, (first << 32) | (end - 1)) };
            match self.0.compare_exchange_weak(share, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(task as usize),
                Err(now) => share = now,
            }
        }
    }
}

#[cfg(all(loom, test))]
mod tests {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two threads take each task once, in every order of their steps.
    #[test]
    fn no_task_is_taken_twice_or_left() {
        loom::model(|| {
            let shares = Arc::new(Shares::new(2));
            shares.deal(3);
            let all = |thread: usize| {
                let shares = shares.clone();
                move || {
                    let mut taken = 0u32;
                    while let Some(task) = shares.take(thread) {
                        assert_eq!(taken & (1 << task), 0);
                        taken |= 1 << task;
                    }
                    taken
                }
            };
            let other = thread::spawn(all(1));
            let mine = all(0)();
            let theirs = other.join().unwrap();
            assert_eq!((mine & theirs, mine | theirs), (0, 0b111));
        });
    }
}
