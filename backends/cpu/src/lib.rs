//! The CPU backend of hetero: its embedded default.
//!
//! [`CpuDriver`] offers one device, `cpu:0`: all cores that the process may use. It takes every operator of `hetero-reference`, the usual
//! ones with kernels of its own and the others, declared slow, by the oracle.
//!
//! A program is lowered to steps: chains of nodes that one kernel does, on values whose layout suits them. Convolutions work on blocks of channels,
//! with weights packed at compile time, those with 3×3 windows by minimal filtering where it pays. All of them and the matrix products end in one
//! microkernel, compiled for every instruction set and chosen at run time. Inside a program, values lie in one arena that `hetero-arena` plans. The device's
//! threads are its own.
//!
//! # Options
//! `isa` is one of the instruction sets that the processor has: `portable`, `neon`, `avx2`, `avx512`; without it, the widest. `convolution` is `fastest`,
//! or `direct` for none by minimal filtering, whose rounding errors are others, but no larger on the networks tried.
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
mod image;
mod kernels;
mod lower;
mod memory;
mod operand;
mod pool;
mod queue;
mod saved;
mod simd;

pub use ceiling::Ceiling;
pub use device::CpuDriver;
