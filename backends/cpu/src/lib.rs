//! The CPU backend of hetero, which is embedded as its default.
//!
//! [`CpuDriver`] offers one device, `cpu:0`, with all cores that the process may use.
//! The device takes every operator of `hetero-reference`.
//! The usual operators have kernels of their own; the others, which are declared slow, run on the
//! oracle.
//!
//! A program is lowered to steps: chains of nodes that one kernel does, on values in a layout that
//! suits them.
//! Convolutions work on blocks of channels, with weights packed at compile time; those with 3×3
//! windows use minimal filtering where it pays.
//! All convolutions and matrix products end in one microkernel, which is compiled for every
//! instruction set and chosen at run time.
//! Inside a program, values lie in one arena that `hetero-arena` plans.
//! The device has threads of its own.
//!
//! # Options
//! - `isa` is one of the instruction sets that the processor has: `portable`, `neon`, `avx2`,
//!   `avx512`.
//!   The default is the widest of them.
//! - `convolution` is `fastest`, or `direct` for convolutions without minimal filtering.
//!   Minimal filtering has other rounding errors, which were no larger on the networks tried.
//!
//! ```
//! use hetero_hal::{Driver, OpenOptions, BufferLayout};
//!
//! let device = hetero_cpu::CpuDriver.open(0, &OpenOptions::default())?;
//! let buffer = device.allocate(BufferLayout::new(16))?;
//! buffer.write(0, &[1, 2, 3, 4])?;
//! let mut seen = [0; 4];
//! buffer.read(0, &mut seen)?;
//! assert_eq!(seen, [1, 2, 3, 4]);
//! # Ok::<(), hetero_hal::Error>(())
//! ```

mod arena;
mod ceiling;
mod device;
mod executable;
mod floats;
mod host;
mod image;
mod kernels;
mod lower;
mod memory;
mod operand;
mod pool;
mod queue;
mod region;
mod saved;
mod simd;

pub use ceiling::Ceiling;
pub use device::CpuDriver;
