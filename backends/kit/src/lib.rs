//! What backends share, so that none of them writes it again.
//!
//! [`Weights`] is a device's cache of constants in the form in which the device keeps them: executables that need the same constant in the
//! same form share it.

#![forbid(unsafe_code)]

mod weights;

pub use weights::{ConstantNames, Held, Resident, Weights};
