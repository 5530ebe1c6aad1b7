//! Whether a device computes what the oracle says.
//!
//! [`run_program`] runs a program on a device without an engine, and [`difference`] compares its
//! outputs with the oracle's, by the normalised mean squared error that [`threshold`] allows.
//! The conformance suite does the same with thousands of cases.
//!
//! An [`Examination`] does it with a few programs before a device is used for the first time with
//! its driver.
//! A driver that is damaged, or older than the processor that it compiles for, may compute wrongly
//! without a word, crash or hang, and nobody would look for that in a model's results.
//! The examination runs in a process of its own where there is a program for it, and its
//! [`Verdict`] is kept for as long as all that it depends on is the same.
//!
//! ```
//! use hetero_examine::Examination;
//! use hetero_hal::{Driver, OpenOptions};
//!
//! let driver: std::sync::Arc<dyn Driver> = std::sync::Arc::new(hetero_cpu::CpuDriver);
//! let info = driver.probe()?.remove(0);
//! let examination = Examination::here().kept_in(None);
//! let verdict = examination.examine(&driver, &info, &OpenOptions::default());
//! assert!(verdict.failure.is_none() && verdict.passed.contains(&"Conv 3×3".to_owned()));
//! # Ok::<(), hetero_hal::Unavailable>(())
//! ```

#![forbid(unsafe_code)]

mod child;
mod compare;
mod exam;
mod examination;
mod questions;
mod records;
mod run;
mod serve;
mod surroundings;
mod verdict;
mod wire;

pub use compare::{difference, floats, threshold};
pub use examination::Examination;
pub use run::{Prepared, run_executable, run_program};
pub use serve::{answer_examination, is_examination};
pub use verdict::{Failure, FailureKind, Verdict};
