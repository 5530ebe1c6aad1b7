//! The OpenCL backend of hetero, for all devices of all platforms that the machine's OpenCL loader
//! knows.
//!
//! [`OpenClDriver::processors`] offers devices that are no accelerators as `opencl:0`, `opencl:1`
//! and so on.
//! [`OpenClDriver::accelerators`] offers accelerators, such as an FPGA or an FPGA's emulator, as
//! `fpga:0` and so on.
//! Both order devices by the names of platform and device, because loaders list platforms in no
//! certain order.
//! The loader is opened at run time; where it is missing, the drivers say so and how to get it.
//!
//! `hetero-kernels` lowers programs; the vendor's compiler compiles the texts, and its binaries are
//! kept on disk for the next time.
//! The backend uses the interface of `cl3`, on which `opencl3` is built: the objects of `opencl3`
//! panic where a release fails, and a release does fail when a device goes away.
//!
//! Devices of one platform share a context, where the driver can make a context of them.
//! They copy from each other's memory, and their queues wait for each other by the driver's events;
//! all other devices are waited for through the host.
//!
//! # Options
//! - `cache` is the folder for binaries of programs, or `off` for none.
//!   The default is `hetero/opencl` in the user's cache folder.
//! - `tiles` is `on` for products that pass tiles through the memory of work groups, and `off` for
//!   products that keep to registers.
//!   The default depends on whether the device has such memory.
//! - `wait` is `finish` where a thread is to wait in `clFinish` for all work, and `events` where
//!   the driver is to call back when work ends.
//!   The default is taken from a table of drivers: with `finish`, the waiting thread of a processor
//!   works too, and without it one core is idle.
//!
//! # Processors that a driver does not know
//! Intel's drivers that compute on the host's processor compile wrong code for a processor that is
//! newer than they are.
//! On such a processor, the environment variable `CL_CONFIG_CPU_TARGET_ARCH` is set before the
//! first driver is loaded, to the largest set of instructions that driver and processor both know.
//! A value that the user has set stays.
//! [`DeviceInfo::notice`](hetero_hal::DeviceInfo::notice) tells of it.
//! With `HETERO_OPENCL_REMEDIES=off` in the environment, hetero does not set it, which shows what
//! the driver does by itself.
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
mod identity;
mod memory;
mod platform;
mod processor;
mod program;
mod queue;
mod quirks;
mod shared;
mod timeline;

pub use driver::OpenClDriver;
