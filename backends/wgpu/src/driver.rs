//! The driver of the wgpu backend, which lists the adapters.

use std::sync::Arc;

use hetero_hal::{
    Device, DeviceId, DeviceInfo, DeviceKind, Driver, Error, ErrorKind, OpenOptions, Result, Unavailable,
    UnavailableReason,
};
use hetero_kit::Budget;

use crate::device::{Settings, WgpuDevice};
use crate::gpu::{Gpu, now};
use crate::vulkan;

/// The driver of all devices that Vulkan, Metal or Direct3D 12 reach.
#[derive(Clone, Copy, Debug, Default)]
pub struct WgpuDriver;

/// OpenGL is left out: its compute shaders lack too much, and its adapters would be listed twice.
const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// The beginnings of the names of variables that Vulkan's loader and the drivers of Mesa read.
const VARIABLES: &[&str] = &["VK_", "MESA_", "LP_", "LVP_", "GALLIUM_", "GALLIVM_", "RADV_", "ANV_", "INTEL_"];

/// The features that are used where a device has them.
const FEATURES: wgpu::Features = wgpu::Features::SHADER_F16
    .union(wgpu::Features::SHADER_INT64)
    .union(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS)
    .union(wgpu::Features::TIMESTAMP_QUERY);

impl Driver for WgpuDriver {
    fn name(&self) -> &str {
        "wgpu"
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        let adapters = adapters();
        if adapters.is_empty() {
            return Err(unavailable());
        }
        Ok(adapters.iter().enumerate().map(|(ordinal, adapter)| info(ordinal, adapter)).collect())
    }

    fn may_have_chips(&self) -> bool {
        hetero_kit::chips_may_be_there()
    }

    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let id = DeviceId::new("wgpu", ordinal);
        let adapters = adapters();
        if adapters.is_empty() {
            return Err(unavailable().into_error(id));
        }
        let adapter = adapters.get(ordinal).ok_or_else(|| {
            Error::invalid_argument(format!("there are {} adapters", adapters.len()))
                .on(id.clone())
                .with_remedy("`hetero devices` lists them")
        })?;
        let info = info(ordinal, adapter);
        let features = adapter.features() & FEATURES;
        let shares = matches!(adapter.get_info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
        let mut settings = Settings { mapped: shares, binding_bytes: u64::MAX };
        for (key, value) in &options.extra {
            settings.set(key, value).map_err(|error| error.on(id.clone()))?;
        }
        settings.mapped &= features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("hetero"),
            required_features: features,
            required_limits: adapter.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let refused = |error: wgpu::RequestDeviceError| {
            Error::new(ErrorKind::Unavailable, "the adapter cannot be opened").on(id.clone()).caused_by(error)
        };
        let opened = match vulkan::open(adapter, &descriptor, &id)? {
            Some(opened) => opened,
            None => {
                let (device, queue) = now(adapter.request_device(&descriptor))
                    .ok_or_else(|| Error::internal("the adapter does not answer at once").on(id.clone()))?
                    .map_err(refused)?;
                vulkan::Opened { device, queue, importer: None }
            }
        };
        let limit = options.memory_limit.or(info.memory_bytes).unwrap_or(u64::MAX);
        let budget = Budget::new(limit);
        let gpu = Gpu::new(id, opened.device, opened.queue);
        Ok(Arc::new(WgpuDevice::new(info, gpu, opened.importer, budget, &settings)))
    }
}

/// Returns the adapters: discrete graphics cards first, processors last.
fn adapters() -> Vec<wgpu::Adapter> {
    let descriptor =
        wgpu::InstanceDescriptor { backends: BACKENDS, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = now(instance.enumerate_adapters(BACKENDS)).unwrap_or_default();
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

fn unavailable() -> Unavailable {
    let remedy = "install the graphics card's driver, or a software one: Debian and Ubuntu have it in `mesa-vulkan-drivers libvulkan1`";
    let (reason, detail) = if vulkan::loader_is_missing() {
        (UnavailableReason::LibraryMissing, "the Vulkan loader cannot be loaded")
    } else {
        (UnavailableReason::NoDevice, "no Vulkan, Metal or Direct3D 12 adapter was found")
    };
    Unavailable { reason, detail: detail.to_owned(), remedy: remedy.to_owned() }
}

fn info(ordinal: usize, adapter: &wgpu::Adapter) -> DeviceInfo {
    let told = adapter.get_info();
    let software = told.device_type == wgpu::DeviceType::Cpu;
    let version = format!("{} {} ({})", told.driver, told.driver_info, told.backend);
    let kind = match told.device_type {
        wgpu::DeviceType::Cpu => DeviceKind::Cpu,
        wgpu::DeviceType::Other => DeviceKind::Other,
        _ => DeviceKind::Gpu,
    };
    let info = DeviceInfo::new(DeviceId::new("wgpu", ordinal), kind, told.name);
    let mut info = if software { info.hosted() } else { info };
    info.vendor = vendor(told.vendor);
    info.driver_version = version.trim().to_owned();
    info.identity = hetero_kit::variables(VARIABLES);
    info.memory_bytes = vulkan::memory_bytes(adapter);
    info.emulated = software;
    // Before a device is measured, nothing is known but that a processor is no graphics card.
    info.peak_flops = software.then_some(10e9);
    info.peak_bandwidth = software.then_some(5e9);
    info
}

/// Returns a vendor's name by its PCI or Khronos number.
fn vendor(number: u32) -> String {
    let name = match number {
        0x1002 => "AMD",
        0x1010 => "Imagination",
        0x106b => "Apple",
        0x10de => "NVIDIA",
        0x13b5 => "Arm",
        0x1414 => "Microsoft",
        0x5143 => "Qualcomm",
        0x8086 => "Intel",
        0x1_0005 => "Mesa",
        _ => return format!("vendor {number:#06x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        let mut settings = Settings { mapped: true, binding_bytes: u64::MAX };
        settings.set("memory", "staged").unwrap();
        settings.set("binding_bytes", "4096").unwrap();
        assert_eq!((settings.mapped, settings.binding_bytes), (false, 4096));
        for (key, value) in [("memory", "pinned"), ("binding_bytes", "100"), ("binding_bytes", "0"), ("colour", "red")]
        {
            assert!(settings.set(key, value).is_err(), "{key}={value}");
        }
    }
}
