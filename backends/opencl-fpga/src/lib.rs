//! The OpenCL backend of hetero: every device of every platform that the machine's OpenCL loader
//! knows.
//!
//! [`OpenClDriver::processors`] offers what is no accelerator as `opencl:0`, `opencl:1`, …;
//! [`OpenClDriver::accelerators`] offers what is one, such as an FPGA or an FPGA's emulator, as
//! `fpga:0`, ….
//! Both order devices by the names of platform and device, as loaders list platforms in no certain
//! order.
//! The loader is opened at run time; where it is missing, the drivers say so and how to get it.
//!
//! Programs are lowered by `hetero-kernels`; the texts are compiled by the vendor's compiler, and
//! its binaries kept on disk for the next time.
//! The interface of `cl3` is used, on which `opencl3` is built: the latter's objects panic where a
//! release fails, which a device that went away makes happen.
//!
//! Devices of one platform have a context in common, where the driver makes one of them.
//! They copy from each other's memory, and their queues wait for each other by the driver's events;
//! all other devices are waited for through the host.
//!
//! # Options
//! `cache` is the folder for binaries of programs, `off` for none; without it, `hetero/opencl` in
//! the user's cache folder.
//! `tiles` is `on` for products that pass tiles through the memory of work groups, `off` for ones
//! that keep to registers; without it, as the device has such memory or not.
//! `wait` is `finish` where a thread is to wait in `clFinish` for all work, or `events` where the
//! driver is to call when work ends; without it, as a table of drivers says: on processors the
//! waiting thread works too, and without it one core is idle.
//!
//! # Processors that a driver does not know
//! Intel's drivers that compute on the host's processor compile wrongly for a processor that is
//! newer than they are.
//! Where this is one, the environment variable `CL_CONFIG_CPU_TARGET_ARCH` is set before the first
//! driver is loaded, to the largest set of instructions that driver and processor both know; a
//! value that the user has set stays.
//! [`OpenClDriver::notices`] says so.
//! Binaries on disk are kept apart by processor and by that variable.
//!
//! ```
//! use hetero_hal::Driver;
//!
//! match hetero_opencl::OpenClDriver::processors().probe() {
//!     Ok(devices) => assert!(devices.iter().all(|device| device.id.driver() == "opencl")),
//!     Err(why) => assert!(!why.remedy.is_empty()),
//! }
//! ```

mod device;
mod driver;
mod executable;
mod handle;
mod memory;
mod platform;
mod processor;
mod program;
mod queue;
mod quirks;
mod timeline;

pub use driver::OpenClDriver;
