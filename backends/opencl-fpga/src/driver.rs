//! The OpenCL drivers, and how they find devices.

use std::sync::Arc;

use cl3::types::{cl_device_id, cl_device_info, cl_int, cl_platform_id};
use hetero_hal::{
    Device, DeviceId, DeviceInfo, DeviceKind, Driver, Error, OpenOptions, Result, Unavailable, UnavailableReason,
};

use crate::device::OpenClDevice;
use crate::handle::DeviceHandle;
use crate::identity;
use crate::platform::{self, Found, Platform};
use crate::processor::{self, Processor};
use crate::quirks;

/// The code with which a loader answers that it knows no platform.
const NO_PLATFORM: cl_int = -1001;

/// A driver of the devices that the OpenCL loader knows.
#[derive(Clone, Copy, Debug)]
pub struct OpenClDriver {
    accelerators: bool,
}

impl OpenClDriver {
    /// Returns the driver of processors and graphics processors: `opencl:0`, ….
    #[must_use]
    pub fn processors() -> Self {
        OpenClDriver { accelerators: false }
    }

    /// Returns the driver of accelerators, such as FPGAs: `fpga:0`, ….
    #[must_use]
    pub fn accelerators() -> Self {
        OpenClDriver { accelerators: true }
    }

    fn find(self) -> Result<Vec<Found>, Unavailable> {
        let missing = |detail: String, remedy: &str| Unavailable {
            reason: UnavailableReason::LibraryMissing,
            detail,
            remedy: remedy.to_owned(),
        };
        let nothing = |detail: String, remedy: &str| Unavailable {
            reason: UnavailableReason::NoDevice,
            detail,
            remedy: remedy.to_owned(),
        };
        const LOADER: &str = "install the OpenCL loader (Debian: ocl-icd-libopencl1) and a vendor's driver, or name the loader in \
             OPENCL_DYLIB_PATH; in a checkout of hetero, `cargo xtask setup` does";
        let driver = if self.accelerators {
            "install the vendor's FPGA runtime, or its emulator (PyPI: intel-opencl-fpga-emu-rt with intel-cmplr-lib-rt), and let OCL_ICD_VENDORS or /etc/OpenCL/vendors name it; \
             in a checkout of hetero, `cargo xtask setup` does"
        } else {
            "install the vendor's OpenCL driver (for the processor, Debian: pocl-opencl-icd, or PyPI: intel-opencl-rt with intel-cmplr-lib-rt), and let OCL_ICD_VENDORS or /etc/OpenCL/vendors name it; in \
             a checkout of hetero, `cargo xtask setup` does"
        };
        // It is not known yet which driver will be loaded, so the choice for the oldest one is
        // made.
        if processor::remedies() {
            processor::tell_drivers(|host| quirks::substitute(None, host));
        }
        if let Err(error) = cl3::load_library() {
            return Err(missing(format!("libOpenCL cannot be loaded ({error})"), LOADER));
        }
        let platforms = match cl3::platform::get_platform_ids() {
            Ok(platforms) => platforms,
            Err(NO_PLATFORM) => vec![],
            Err(code) => return Err(nothing(format!("clGetPlatformIDs answers {code}"), driver)),
        };
        if platforms.is_empty() {
            return Err(nothing("the OpenCL loader knows no platform".to_owned(), driver));
        }
        let mut found: Vec<Found> = platforms.iter().flat_map(|&platform| self.devices(platform)).collect();
        // The sort is stable: devices with equal names keep the driver's own order.
        found.sort_by(|a, b| (&a.platform.name, &a.info.name).cmp(&(&b.platform.name, &b.info.name)));
        let identity = identity::text();
        for (ordinal, device) in found.iter_mut().enumerate() {
            device.info.id = DeviceId::new(self.name(), ordinal);
            device.info.identity.clone_from(&identity);
        }
        platform::introduce(&mut found);
        if found.is_empty() {
            let what = if self.accelerators { "accelerator" } else { "processor" };
            return Err(nothing(format!("no OpenCL platform of {} has an {what}", platforms.len()), driver));
        }
        Ok(found)
    }

    /// Returns the devices of a platform.
    /// A device that does not answer is left out, because the others are of use without it.
    fn devices(self, platform: cl_platform_id) -> Vec<Found> {
        let name = cl3::platform::get_platform_info(platform, cl3::platform::CL_PLATFORM_NAME).map(String::from);
        let name = name.unwrap_or_default();
        let ids = cl3::device::get_device_ids(platform, cl3::device::CL_DEVICE_TYPE_ALL).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.device(id, platform, &name)).collect()
    }

    fn device(self, id: cl_device_id, platform: cl_platform_id, platform_name: &str) -> Option<Found> {
        let number = |what: cl_device_info| cl3::device::get_device_info(id, what).ok().map(u64::from);
        let small = |what: cl_device_info| cl3::device::get_device_info(id, what).ok().map(u32::from);
        let text = |what: cl_device_info| cl3::device::get_device_info(id, what).ok().map(String::from);
        let bits = number(cl3::device::CL_DEVICE_TYPE)?;
        let accelerator = bits & cl3::device::CL_DEVICE_TYPE_ACCELERATOR != 0;
        let usable = [cl3::device::CL_DEVICE_AVAILABLE, cl3::device::CL_DEVICE_COMPILER_AVAILABLE];
        if accelerator != self.accelerators || usable.into_iter().any(|what| small(what) != Some(1)) {
            return None;
        }
        let name = text(cl3::device::CL_DEVICE_NAME)?.trim().to_owned();
        let quirks = quirks::of(platform_name, &name);
        let units = f64::from(small(cl3::device::CL_DEVICE_MAX_COMPUTE_UNITS).unwrap_or(1));
        let clock = f64::from(small(cl3::device::CL_DEVICE_MAX_CLOCK_FREQUENCY).unwrap_or(1000)).max(100.0) * 1e6;
        let kind = quirks::kind(bits);
        let info = DeviceInfo::new(DeviceId::new(self.name(), 0), kind, name);
        // A driver of processors computes on the host's processor, and so does an emulator.
        let hosted = quirks.emulated || kind == DeviceKind::Cpu;
        let mut info = if hosted { info.hosted() } else { info };
        info.vendor = text(cl3::device::CL_DEVICE_VENDOR).unwrap_or_default().trim().to_owned();
        info.driver_version = text(cl3::device::CL_DRIVER_VERSION).unwrap_or_default().trim().to_owned();
        info.memory_bytes = number(cl3::device::CL_DEVICE_GLOBAL_MEM_SIZE);
        info.emulated = quirks.emulated;
        if quirks.compiles_for_host {
            info.notice = quirks::notice(&info.driver_version, Processor::host(), &processor::told());
        }
        // This is a first guess: a unit has about eight lanes, of which kernels that are not
        // written for the chip reach half.
        info.peak_flops = Some(units * clock * 8.0);
        info.peak_bandwidth = Some(10e9);
        let platform = Platform::new(platform, platform_name);
        Some(Found { handle: DeviceHandle(id), info, quirks, platform })
    }
}

impl Driver for OpenClDriver {
    fn name(&self) -> &str {
        if self.accelerators { "fpga" } else { "opencl" }
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        Ok(self.find()?.into_iter().map(|found| found.info).collect())
    }

    fn may_have_chips(&self) -> bool {
        hetero_kit::chips_may_be_there()
    }

    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let id = DeviceId::new(self.name(), ordinal);
        let found = self.find().map_err(|why| why.into_error(id.clone()))?;
        let count = found.len();
        let found = found.into_iter().nth(ordinal).ok_or_else(|| {
            Error::invalid_argument(format!("there is no {id}"))
                .with_remedy(format!("there are {count}, counted from 0; `hetero devices` lists them"))
        })?;
        Ok(Arc::new(OpenClDevice::open(found, options)?))
    }
}
