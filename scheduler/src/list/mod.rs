//! List scheduling: tasks are taken one after the other, and each gets a slot that it keeps.
//!
//! A `Draft` is a schedule in the making, with what limits the choice of a device: memory and
//! energy, links, and idle spans.
//! The strategies differ in the order in which they take tasks, and in the slot that they choose.

mod cpop;
mod domains;
mod draft;
mod heft;
mod load;
mod lookahead;
mod peft;
mod timetable;

pub use cpop::Cpop;
use domains::Domains;
use draft::downward_ranks;
pub(crate) use draft::{Draft, at_homes, by_priority, by_rank, upward_ranks};
pub use heft::Heft;
pub(crate) use load::Load;
pub use lookahead::Lookahead;
pub use peft::Peft;
pub(crate) use peft::optimistic;
use timetable::Timetable;
