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

#![forbid(unsafe_code)]

mod fault;
mod faulty;

pub use fault::Fault;
pub use faulty::Faulty;
