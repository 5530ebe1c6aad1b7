//! The measured limits of the processor: the denominators of every share of a peak.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{Error, ErrorKind, Result};

use crate::operand::Shared;
use crate::pool::Pool;
use crate::simd::{Isa, Job, Simd};

/// Rates that no program exceeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// The rate of f32 multiply-adds on registers alone, where each counts as two operations:
    /// operations per second.
    pub flops: f64,
    /// The rate of reading memory that no cache holds, in bytes per second.
    pub bandwidth: f64,
    /// The median time from the call of a parallel region until every thread is at work in it, and
    /// back.
    /// The region follows right after another one, when threads still watch for the next.
    /// With one thread it is next to nothing.
    pub hot_region: Duration,
    /// The same time after a pause, when the threads sleep.
    pub cold_region: Duration,
}

/// Returns the median time of an empty region in which every thread takes part, after the given
/// pause.
fn region(pool: &Pool, pause: Duration, rounds: usize) -> Duration {
    let threads = pool.threads();
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let arrived = AtomicUsize::new(0);
            let began = Instant::now();
            pool.for_each(threads, |_, _| {
                arrived.fetch_add(1, Ordering::AcqRel);
                // The region lasts until all have come; a thread that another process keeps away is
                // not waited for.
                while arrived.load(Ordering::Acquire) < threads && began.elapsed() < Duration::from_millis(2) {
                    std::hint::spin_loop();
                }
            });
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// The multiply-adds of one call for each sum.
const STEPS: usize = 1 << 16;

/// The number of sums side by side, which is more than latency times units.
const SUMS: usize = 12;

struct Multiply;

impl Job for Multiply {
    type Output = (f64, f32);

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (f64, f32) {
        // SAFETY: the instruction set is there by the caller's promise.
        unsafe {
            let (a, b) = (S::splat(std::hint::black_box(0.999)), S::splat(std::hint::black_box(1e-3)));
            let mut sums = [S::splat(1.0); SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = S::fma(*sum, a, b);
                }
            }
            let total = sums.into_iter().fold(S::splat(0.0), |a, b| S::add(a, b));
            ((STEPS * SUMS * S::LANES * 2) as f64, S::sum(total))
        }
    }
}

struct Read<'a>(&'a [f32]);

impl Job for Read<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: each vector lies in the slice.
        unsafe {
            let mut sums = [S::splat(0.0); 4];
            for chunk in self.0.chunks_exact(S::LANES * 4) {
                for (index, sum) in sums.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(chunk.as_ptr().add(index * S::LANES)));
                }
            }
            let total = sums.into_iter().fold(S::splat(0.0), |a, b| S::add(a, b));
            S::sum(total)
        }
    }
}

impl Ceiling {
    /// Measures with the given number of threads, which takes about two seconds and 128 MiB.
    ///
    /// # Errors
    /// `OutOfMemory` where the system cannot start a thread.
    pub fn measure(threads: usize) -> Result<Ceiling> {
        const ROUNDS: usize = 8;
        const BYTES: usize = 128 << 20;
        let count = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        let pool = Pool::new(count)
            .map_err(|error| Error::new(ErrorKind::OutOfMemory, "cannot start threads").caused_by(error))?;
        let isa = Isa::widest();
        let best = |work: &dyn Fn() -> f64| {
            // The best of some rounds counts, because every disturbance makes a round slower.
            (0..ROUNDS).map(|_| work()).fold(0.0, f64::max)
        };
        // A round takes near a tenth of a second, which is long enough to reach the clock that
        // lasts: for some milliseconds processors go faster.
        let flops = best(&|| {
            let done = Mutex::new(0.0);
            let began = Instant::now();
            pool.for_each(threads * 256, |_, _| {
                // SAFETY: the job has no further conditions.
                let (operations, result) = unsafe { isa.run(Multiply) };
                std::hint::black_box(result);
                *done.lock().unwrap_or_else(PoisonError::into_inner) += operations;
            });
            let time = began.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
            done.into_inner().unwrap_or_else(PoisonError::into_inner) / time
        });
        let memory = vec![1.0f32; BYTES / size_of::<f32>()];
        let shared = Shared::constant(memory.as_ptr());
        let bandwidth = best(&|| {
            let part = memory.len() / 64;
            let began = Instant::now();
            pool.for_each(64, |task, _| {
                // SAFETY: the parts lie in the memory, which is only read.
                std::hint::black_box(unsafe { isa.run(Read(shared.slice(task * part, part))) });
            });
            BYTES as f64 / began.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
        });
        let hot_region = region(&pool, Duration::ZERO, 2000);
        let cold_region = region(&pool, Duration::from_millis(1), 100);
        Ok(Ceiling { flops, bandwidth, hot_region, cold_region })
    }
}
