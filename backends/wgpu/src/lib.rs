//! The wgpu backend of hetero: any device with a Vulkan, Metal or Direct3D 12 driver.
//!
//! [`WgpuDriver`] lists adapters, graphics cards before processors; they are `wgpu:0`, `wgpu:1`, ….
//! A software rasteriser, such as Mesa's llvmpipe or Microsoft's WARP, is a
//! [`DeviceKind::Cpu`](hetero_hal::DeviceKind::Cpu) and marked `emulated`: it runs the code that a
//! graphics card would run, but its times say nothing of a graphics card.
//!
//! `hetero-kernels` turns a program into compute shaders.
//! A run is one command buffer with one compute pass, in which wgpu puts a barrier between
//! dispatches.
//! A queue's `run` records, submits and waits on the calling thread.
//! Values larger than the device can bind at once are bound in pieces.
//!
//! # Memory
//! Where host and device share memory (integrated graphics, processors), buffers are mapped for
//! reading and writing; elsewhere bytes go through staging buffers.
//! Vulkan drivers with `VK_EXT_external_memory_host` import host memory in place, in whole pages.
//! The memory's owner must accept that the device can also see the other bytes of these pages.
//! The size of a buffer is rounded up to a multiple of 4 bytes.
//!
//! # Options
//! The option `memory` is `mapped` or `staged`, and replaces the choice above.
//! The option `binding_bytes`, a multiple of 256, binds values in smaller pieces than the device's
//! limit asks for.
//! Both are there for tests.
//!
//! # Raw kernels
//! A WGSL kernel has its bindings in group 0, numbered in the order of its signature.
//! All of them are `var<storage, read_write>`, because values may lie in the same buffer and WebGPU
//! does not let a dispatch use a buffer in two ways.
//! Its `@workgroup_size` must be the signature's `local`.
//!
//! ```
//! use hetero_hal::{BufferLayout, Driver, OpenOptions};
//!
//! // Machines without a Vulkan, Metal or Direct3D 12 driver are told how to get one.
//! if hetero_wgpu::WgpuDriver.probe().is_ok() {
//!     let device = hetero_wgpu::WgpuDriver.open(0, &OpenOptions::default())?;
//!     let buffer = device.allocate(BufferLayout::new(16))?;
//!     buffer.write(1, &[1, 2, 3])?;
//!     let mut seen = [0; 3];
//!     buffer.read(1, &mut seen)?;
//!     assert_eq!(seen, [1, 2, 3]);
//! }
//! # Ok::<(), hetero_hal::Error>(())
//! ```

mod clock;
mod completion;
mod context;
mod device;
mod driver;
mod executable;
mod gpu;
mod memory;
mod pipelines;
mod queue;
mod stamps;
#[cfg(not(target_vendor = "apple"))]
mod vulkan;
#[cfg(target_vendor = "apple")]
#[path = "no_vulkan.rs"]
mod vulkan;

pub use driver::WgpuDriver;
