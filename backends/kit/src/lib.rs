//! What backends share, so that each of them writes only what its driver does differently.
//!
//! - [`Shell`] is a whole [`Queue`](hetero_hal::Queue): it checks work, holds back what waits, counts what is under way, and tells of
//!   waits. A backend implements [`Backend`]: what a piece of work becomes on its driver.
//! - [`Backlog`] is the thread behind a queue, [`Capacity`] and [`Budget`] bound submissions and bytes, [`Busy`] sums up the time in
//!   which a device worked, and [`Shares`] deals pieces of work out among threads or devices.
//! - [`Weights`] is a device's cache of constants in the form in which the device keeps them: executables that need the same constant in
//!   the same form share it.
//! - [`copy_through_host`], [`fill_through_host`] and [`run_on_host`] do what every backend can leave to the host.
//! - [`digest`] tells files of a cache, and what they were made of, apart.
//! - [`unknown_option`] and [`Codes`] put a driver's options and status codes into words.
//!
//! ```
//! use hetero_hal::DeviceId;
//! use hetero_kit::Budget;
//!
//! let (device, budget) = (DeviceId::new("npu", 0), Budget::new(1 << 20));
//! budget.take(&device, 1 << 19)?;
//! let sizes = budget.take(&device, 1 << 20).unwrap_err().sizes();
//! assert_eq!(sizes.and_then(|sizes| sizes.available), Some(1 << 19));
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

mod backlog;
mod busy;
mod digest;
mod host;
mod limits;
mod shares;
mod shell;
mod weights;
mod words;

pub use backlog::Backlog;
pub use busy::Busy;
pub use digest::digest;
pub use host::{copy_through_host, fill_through_host, run_on_host};
pub use limits::{Budget, Capacity};
pub use shares::Shares;
pub use shell::{Backend, Command, Job, Shell, Signal, Tracer};
pub use weights::{ConstantNames, Held, Resident, Weights};
pub use words::{Codes, unknown_option};
