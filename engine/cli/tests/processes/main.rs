//! Faults of processes: commands that are killed at any moment of each phase, that get signals, and
//! that get no room, no home, few descriptors or little stack from the system.
//!
//! `HETERO_KILLS=100` kills a hundred times in each phase instead of a few times, and
//! `HETERO_KILLS_SEED` repeats the moments of an earlier test.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod folder;
mod kills;
mod started;
mod system;
