//! wgpu's device and queue, with errors that are values.
//!
//! wgpu tells of failures in three ways: error scopes, a callback for errors that no scope caught,
//! and a callback for a lost device.
//! It panics where it sees no way to go on.
//! All of these end here, as [`Error`]s.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hetero_hal::{DeviceId, Error, ErrorKind, Result};
use hetero_kit::Busy;

use crate::clock::Clock;

/// The longest wait in one piece; a device that is lost meanwhile is noticed after it.
const SLICE: Duration = Duration::from_millis(100);
/// The longest time that work may take where no deadline is given.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// Whether the device has failed, and the first failure.
#[derive(Default)]
struct Health {
    failed: AtomicBool,
    error: OnceLock<Error>,
}

impl Health {
    fn fail(&self, error: Error) {
        let _ = self.error.set(error);
        self.failed.store(true, Ordering::Release);
    }
}

/// A wgpu device and its queue.
pub(crate) struct Gpu {
    pub(crate) id: DeviceId,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    health: Arc<Health>,
    busy: Busy,
    /// The comparison of the device's clock with the host's, made when the first traced run is
    /// over.
    clock: OnceLock<Result<Clock>>,
}

impl Gpu {
    pub(crate) fn new(id: DeviceId, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let health = Arc::new(Health::default());
        let (lost, uncaught) = (health.clone(), health.clone());
        let (lost_id, uncaught_id) = (id.clone(), id.clone());
        device.set_device_lost_callback(move |reason, message| {
            lost.fail(device_lost(&format!("{reason:?}: {message}")).on(lost_id.clone()));
        });
        device.on_uncaptured_error(Arc::new(move |error| {
            uncaught.fail(typed(&error, "an error came unasked").on(uncaught_id.clone()));
        }));
        Gpu { id, device, queue, health, busy: Busy::new(), clock: OnceLock::new() }
    }

    /// Fails with the failure that ended the device, if there was one.
    pub(crate) fn alive(&self) -> Result<()> {
        if !self.health.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.health.error.get().cloned().unwrap_or_else(|| device_lost("it has failed").on(self.id.clone())))
    }

    /// Calls wgpu, and returns the errors that it reports.
    pub(crate) fn checked<T>(&self, doing: &str, call: impl FnOnce() -> T) -> Result<T> {
        self.alive()?;
        let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let value = self.guarded(call);
        let mut found = None;
        // The innermost scope ends first.
        for scope in scopes.into_iter().rev() {
            if let Some(Some(error)) = now(scope.pop()) {
                found = Some(error);
            }
        }
        let value = value?;
        match found {
            Some(error) => Err(typed(&error, doing).on(self.id.clone())),
            None => self.alive().map(|()| value),
        }
    }

    /// Calls wgpu where it may panic, which it does where a device is lost in an unusual way.
    fn guarded<T>(&self, call: impl FnOnce() -> T) -> Result<T> {
        catch_unwind(AssertUnwindSafe(call)).or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            self.health.fail(device_lost(&text.unwrap_or_else(|| "wgpu gave up".to_owned())).on(self.id.clone()));
            self.alive()?;
            Err(Error::internal("a failed device is alive"))
        })
    }

    /// Waits until a submission is done.
    pub(crate) fn wait(&self, index: &wgpu::SubmissionIndex, deadline: Instant) -> Result<()> {
        loop {
            self.alive()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let poll = wgpu::PollType::Wait { submission_index: Some(index.clone()), timeout: Some(left.min(SLICE)) };
            match self.guarded(|| self.device.poll(poll))? {
                Ok(_) => return self.alive(),
                Err(wgpu::PollError::Timeout) if left.is_zero() => {
                    return Err(Error::new(ErrorKind::Timeout, "the device has not done its work in time")
                        .on(self.id.clone())
                        .with_remedy("allow the engine more time"));
                }
                Err(wgpu::PollError::Timeout) => {}
                Err(error) => {
                    return Err(Error::internal("a submission is unknown to wgpu")
                        .on(self.id.clone())
                        .caused_by(error));
                }
            }
        }
    }

    /// Maps a range of a buffer that nobody else maps, and calls `with` while it is mapped.
    pub(crate) fn map<T>(
        &self,
        slice: wgpu::BufferSlice<'_>,
        mode: wgpu::MapMode,
        with: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let outcome = Arc::new(OnceLock::new());
        let told = outcome.clone();
        let call = move || {
            slice.map_async(mode, move |result| {
                let _ = told.set(result);
            });
        };
        self.checked("mapping memory", call)?;
        let deadline = Instant::now() + PATIENCE;
        // Where the caller has ordered its accesses, no work is under way; a buffer that also holds
        // other values may still be in use.
        let mut poll = wgpu::PollType::Poll;
        let mapped = loop {
            self.guarded(|| self.device.poll(poll))?.map_or(Ok(()), |_| self.alive())?;
            if let Some(result) = outcome.get() {
                break result.clone();
            }
            if Instant::now() >= deadline {
                slice.buffer().unmap();
                return Err(Error::new(ErrorKind::Timeout, "memory stayed in use").on(self.id.clone()));
            }
            poll = wgpu::PollType::Wait { submission_index: None, timeout: Some(SLICE) };
        };
        mapped.map_err(|error| {
            Error::new(ErrorKind::Execution, "memory cannot be mapped").on(self.id.clone()).caused_by(error)
        })?;
        let result = with();
        slice.buffer().unmap();
        result
    }

    /// Returns how the device's clock relates to the host's; `compare` is asked once.
    pub(crate) fn clock(&self, compare: impl FnOnce(&Gpu) -> Result<Clock>) -> Result<Clock> {
        self.clock.get_or_init(|| compare(self)).clone()
    }

    /// Counts work that began at `began` and has ended now.
    pub(crate) fn worked(&self, began: Instant) {
        self.busy.add(began, Instant::now());
    }

    pub(crate) fn busy(&self) -> Duration {
        self.busy.spent()
    }
}

fn device_lost(message: &str) -> Error {
    Error::new(ErrorKind::DeviceLost, format!("the device was lost: {message}"))
        .with_remedy("open the device again, and look into the system's log")
}

fn typed(error: &wgpu::Error, doing: &str) -> Error {
    let kind = match error {
        wgpu::Error::OutOfMemory { .. } => ErrorKind::OutOfMemory,
        wgpu::Error::Validation { .. } => ErrorKind::Internal,
        wgpu::Error::Internal { .. } => ErrorKind::Execution,
    };
    Error::new(kind, format!("{doing}: {error}"))
}

/// Returns the value of a future that is ready at once, as all of wgpu's are outside of browsers.
pub(crate) fn now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
