//! The stand-in on systems without Vulkan, where nothing is imported.

use hetero_hal::{DeviceId, Error, HostMemory, Result};

use crate::gpu::Gpu;

pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) importer: Option<Importer>,
}

/// A type without values, because there is no importer here.
pub(crate) enum Importer {}

impl Importer {
    pub(crate) fn import(&self, gpu: &Gpu, _: &HostMemory) -> Result<(wgpu::Buffer, usize)> {
        Err(Error::unsupported("import of host memory").on(gpu.id.clone()))
    }
}

pub(crate) fn open(_: &wgpu::Adapter, _: &wgpu::DeviceDescriptor<'_>, _: &DeviceId) -> Result<Option<Opened>> {
    Ok(None)
}

pub(crate) fn loader_is_missing() -> bool {
    false
}

pub(crate) fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}
