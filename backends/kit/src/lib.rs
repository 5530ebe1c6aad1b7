//! Parts that backends of hetero share, so that each backend writes only what is different on its
//! driver.
//!
//! A backend implements the traits of `hetero-hal`, and need not use this crate for that.
//! The crate has the parts that every backend would otherwise write again, with the same mistakes:
//!
//! - [`Shell`] is a whole [`Queue`](hetero_hal::Queue): it checks work, holds back work that waits,
//!   counts the work under way, and tells traces of waits.
//!   A backend implements [`Backend`], which says what a piece of work becomes on its driver.
//! - [`Backlog`] is the jobs of a queue that wait, [`Pace`] says whether a job may wait for others,
//!   and [`Signal`] is the points that work reaches.
//!   The backlogs of a device share a crew of threads.
//! - [`Capacity`] and [`Budget`] bound submissions and bytes, [`Busy`] sums up the time in which a
//!   device worked, and [`Shares`] deals pieces of work out among threads or devices.
//! - [`Weights`] is a device's cache of constants in the form in which the device keeps them.
//!   Executables that need the same constant in the same form share one [`Held`], which can be
//!   evicted and restored.
//! - [`copy_through_host`], [`fill_through_host`] and [`run_on_host`] do what every backend can
//!   leave to the host.
//! - [`chips_may_be_there`] tells a driver whether its library is worth loading for such chips as
//!   are no processor of the host.
//! - [`digest`] tells a cache's files, and the data that they were made of, apart.
//! - [`cache_folder`] is the user's folder for such files; [`variables`] and [`file_identity`] tell
//!   whether the surroundings that a result depends on have changed.
//! - [`unknown_option`] and [`Codes`] put a driver's options and status codes into words.
//!
//! The crate has no `unsafe`, opens no library and knows no driver.
//!
//! # How to write a queue
//! 1. Name the backend's types in [`Backend::Executable`] and [`Backend::Memory`].
//! 2. Tell the shell about the device: [`Backend::device`], [`Backend::owns`],
//!    [`Backend::writable`] and [`Backend::compiled`].
//! 3. In [`Backend::is_quick`], say which commands the submitting thread may begin, because the
//!    driver takes them without blocking; all others go to a thread of the device's
//!    crew.
//! 4. In [`Backend::begin`], give the command to the driver, and call [`Job::end`] when it is over.
//!    [`Job::on_host`] does everything but an execution on the calling thread.
//! 5. Answer [`Device::queue`](hetero_hal::Device::queue) with [`Shell::new`].
//!
//! For each submission the shell calls [`Backend::alive`], checks the work, calls
//! [`Backend::check`] for an execution, counts the work, and asks [`Backend::is_quick`] and
//! [`Backend::is_ordered`].
//! It calls [`Backend::begin`] at once where both say yes, and else from a thread of the device's
//! crew when the points are reached.
//! A job that is dropped without an end fails its points, so that nobody waits for ever.
//!
//! The other methods have defaults.
//! [`Backend::pace`] is for devices that compute on the host: it says which commands never wait for
//! others, so that these share a fixed number of threads.
//! [`Backend::is_ordered`] is for drivers that order commands themselves, beside a native timeline.
//! [`Backend::run`] is for devices that work on the thread that waits, and [`Backend::RUNS_ALONE`]
//! says that they do so only while nothing else is under way.
//! [`Backend::closing`] and [`Backend::FAREWELL`] are for drivers whose callbacks outlive a queue.
//!
//! ```
//! # fn main() -> hetero_hal::Result<()> {
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! use hetero_hal::{
//!     BindingInfo, Buffer, BufferLayout, DeviceId, Error, Executable, Memory, MemoryKind, Point,
//!     Queue, QueueOptions, Result, Work, check_range,
//! };
//! use hetero_kit::{Backend, Command, Job, Shell};
//!
//! struct ChipMemory(std::sync::Mutex<[u8; 8]>);
//! impl Memory for ChipMemory {
//!     // …
//! #     fn read(&self, offset: usize, into: &mut [u8]) -> Result<()> {
//! #         check_range(offset, into.len(), 8)?;
//! #         let bytes = self.0.lock().map_err(|_| Error::internal("poisoned"))?;
//! #         into.copy_from_slice(&bytes[offset..offset + into.len()]);
//! #         Ok(())
//! #     }
//! #     fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
//! #         check_range(offset, from.len(), 8)?;
//! #         let mut bytes = self.0.lock().map_err(|_| Error::internal("poisoned"))?;
//! #         bytes[offset..offset + from.len()].copy_from_slice(from);
//! #         Ok(())
//! #     }
//! }
//! struct ChipExecutable;
//! impl Executable for ChipExecutable {
//!     // …
//! #     fn bindings(&self) -> &[BindingInfo] {
//! #         &[]
//! #     }
//! #     fn scratch(&self) -> BufferLayout {
//! #         BufferLayout::default()
//! #     }
//! }
//!
//! struct ChipQueue(DeviceId);
//! impl Backend for ChipQueue {
//!     type Executable = ChipExecutable;
//!     type Memory = ChipMemory;
//!
//!     fn device(&self) -> &DeviceId {
//!         &self.0
//!     }
//!     fn owns(&self, _: &ChipMemory) -> bool {
//!         true
//!     }
//!     fn writable(&self, _: &ChipMemory) -> bool {
//!         true
//!     }
//!     fn compiled(&self, _: &ChipExecutable) -> bool {
//!         true
//!     }
//!     fn is_quick(&self, command: &Command<ChipExecutable>) -> bool {
//!         matches!(command, Command::Fill { .. })
//!     }
//!     fn begin(&self, job: Job<ChipExecutable>, _: &[Point]) {
//!         let outcome = job.on_host().unwrap_or(Ok(())); // This chip's executions do nothing.
//!         drop(job.end(outcome)); // The points tell of the outcome.
//!     }
//! }
//!
//! let device = DeviceId::new("chip", 0);
//! let queue = Shell::new(ChipQueue(device.clone()), &QueueOptions::default(), 64);
//! let memory = Arc::new(ChipMemory(Default::default()));
//! let buffer = Buffer::new(device, MemoryKind::Device, 8, memory);
//! let deadline = Instant::now() + Duration::from_secs(10);
//! queue.run(&[], Work::fill(buffer.clone(), [7]), &[], deadline)?;
//! let mut seen = [0; 2];
//! buffer.read(6, &mut seen)?;
//! assert_eq!(seen, [7, 7]);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod backlog;
mod busy;
mod chips;
mod crew;
mod digest;
mod host;
mod limits;
mod shares;
mod shell;
mod surroundings;
mod weights;
mod words;

pub use backlog::Backlog;
pub use busy::Busy;
pub use chips::chips_may_be_there;
pub use crew::Pace;
pub use digest::digest;
pub use host::{copy_through_host, fill_through_host, run_on_host};
pub use limits::{Budget, Capacity};
pub use shares::Shares;
pub use shell::{Backend, Command, Job, Shell, Signal, Tracer, check_bound};
pub use surroundings::{cache_folder, file_identity, variables};
pub use weights::{ConstantNames, Held, Resident, Weights};
pub use words::{Codes, unknown_option};
