//! Lower bounds: times that no schedule of a problem falls below, and what follows where a schedule
//! meets one.

mod alone;
mod destructive;
mod lower_bound;

pub(crate) use alone::{alone, alone_in_stream};
pub(crate) use destructive::{Bounds, PROOF};
pub(crate) use lower_bound::lower_bound;
