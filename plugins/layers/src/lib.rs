//! Layers: each of them wraps any [`Driver`](hetero_hal::Driver), and is a driver itself.
//!
//! [`Faulty`] makes devices fail on demand: one device is lost at its third submission, another
//! hangs, a third is slow at random.
//! It shows how the code above the driver copes with such failures, on devices that work.
//!
//! ```
//! use std::sync::Arc;
//! use hetero_hal::{BufferLayout, Driver, ErrorKind, OpenOptions};
//! use hetero_layers::{Fault, Faulty};
//!
//! let driver = Faulty::over(Arc::new(hetero_cpu::CpuDriver)).with(0, Fault::OutOfMemory { allocation: 1 });
//! let device = driver.open(0, &OpenOptions::default())?;
//! assert!(device.allocate(BufferLayout::new(64)).is_ok());
//! assert_eq!(device.allocate(BufferLayout::new(64)).err().map(|error| error.kind()), Some(ErrorKind::OutOfMemory));
//! # Ok::<(), hetero_hal::Error>(())
//! ```
//!
//! [`Validated`] checks what the contract asks of callers, which devices do not check.
//! A call that breaks a [`Rule`] fails, and its error names the rule.
//!
//! ```
//! use std::sync::Arc;
//! use hetero_hal::{BufferLayout, Driver, OpenOptions, QueueOptions, Work};
//! use hetero_layers::{Breach, Rule, Validated};
//!
//! let driver = Validated::over(Arc::new(hetero_cpu::CpuDriver));
//! let device = driver.open(0, &OpenOptions::default())?;
//! let queue = device.queue(&QueueOptions::default())?;
//! let buffer = device.allocate(BufferLayout::new(64))?;
//! let overlapping = Work::copy(buffer.slice(0..32)?, buffer.slice(16..48)?);
//! let error = queue.submit(&[], overlapping, &[]).err();
//! assert_eq!(error.as_ref().and_then(Breach::of).map(|breach| breach.rule), Some(Rule::Overlap));
//! # Ok::<(), hetero_hal::Error>(())
//! ```

#![forbid(unsafe_code)]

mod fault;
mod faulty;
mod validate;

pub use fault::Fault;
pub use faulty::Faulty;
pub use validate::{Breach, Rule, Validated};
