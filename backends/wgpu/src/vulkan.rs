//! Parts of Vulkan that wgpu does not offer: host memory as a buffer, by
//! `VK_EXT_external_memory_host`, and the size of the device's memory.

use ash::{ext, vk};
use hetero_hal::{DeviceId, Error, ErrorKind, HostMemory, Result};
use wgpu::hal::vulkan::Api;

use crate::gpu::Gpu;

/// The handle type of memory that `malloc` or `mmap` returned.
const HOST: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// A device of an opened adapter, with its queue.
pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// The importer, where host memory can be imported.
    pub(crate) importer: Option<Importer>,
}

/// The importer of host memory.
pub(crate) struct Importer {
    device: ash::Device,
    functions: ext::external_memory_host::Device,
    memories: vk::PhysicalDeviceMemoryProperties,
    /// The number of which addresses and lengths must be multiples.
    granularity: usize,
}

/// Opens an adapter with the extension that imports host memory; `None` where the adapter is not
/// Vulkan's or lacks the extension.
///
/// # Errors
/// `Unavailable` where Vulkan refuses.
pub(crate) fn open(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
    id: &DeviceId,
) -> Result<Option<Opened>> {
    // SAFETY: nothing that the guard gives access to is destroyed here.
    let Some(hal) = (unsafe { adapter.as_hal::<Api>() }) else { return Ok(None) };
    if !hal.physical_device_capabilities().supports_extension(ext::external_memory_host::NAME) {
        return Ok(None);
    }
    let refused = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Unavailable, format!("the adapter cannot be opened: {error}")).on(id.clone())
    };
    // SAFETY: the features and limits are the adapter's own, as `open` of the driver asks, and the
    // callback adds an extension that the adapter has.
    let opened = unsafe {
        hal.open_with_callback(
            descriptor.required_features,
            &descriptor.required_limits,
            &descriptor.memory_hints,
            Some(Box::new(|arguments| {
                if !arguments.extensions.contains(&ext::external_memory_host::NAME) {
                    arguments.extensions.push(ext::external_memory_host::NAME);
                }
            })),
        )
    };
    let opened = opened.map_err(|error| refused(&error))?;
    let instance = hal.shared_instance().raw_instance();
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
    // SAFETY: the physical device is the instance's, Vulkan 1.1 or its extension is there wherever
    // external memory is, and both structures live through the calls.
    let memories = unsafe {
        instance.get_physical_device_properties2(hal.raw_physical_device(), &mut properties);
        instance.get_physical_device_memory_properties(hal.raw_physical_device())
    };
    let importer = Importer {
        device: opened.device.raw_device().clone(),
        functions: ext::external_memory_host::Device::new(instance, opened.device.raw_device()),
        memories,
        granularity: usize::try_from(host.min_imported_host_pointer_alignment).unwrap_or(0),
    };
    drop(hal);
    // SAFETY: the device was opened from this adapter, with the features that the descriptor names.
    let made = unsafe { adapter.create_device_from_hal::<Api>(opened, descriptor) };
    let (device, queue) = made.map_err(|error| refused(&error))?;
    let usable = importer.granularity.is_power_of_two() && importer.granularity <= PAGE;
    Ok(Some(Opened { device, queue, importer: usable.then_some(importer) }))
}

/// The smallest page of any supported system: memory in one page of this size is mapped as a whole.
const PAGE: usize = 4096;

impl Importer {
    /// Returns the pages around a range of host memory as a buffer, and where in the buffer the
    /// range begins.
    ///
    /// # Errors
    /// `InvalidArgument` for memory that the driver does not take, and `OutOfMemory` where the
    /// driver has no room for its bookkeeping.
    pub(crate) fn import(&self, gpu: &Gpu, host: &HostMemory) -> Result<(wgpu::Buffer, usize)> {
        let address = host.as_ptr() as usize;
        let first = address & !(PAGE - 1);
        let bytes = (address + host.len()).next_multiple_of(PAGE) - first;
        if bytes as u64 > gpu.device.limits().max_buffer_size {
            return Err(Error::invalid_argument("the memory is larger than a buffer of the device")
                .on(gpu.id.clone())
                .with_sizes(bytes as u64, Some(gpu.device.limits().max_buffer_size)));
        }
        let pointer = host.as_ptr().wrapping_sub(address - first).cast_mut();
        gpu.alive()?;
        let refused = |what: &str| {
            let (what, id) = (format!("host memory cannot be imported: {what}"), gpu.id.clone());
            move |result: vk::Result| {
                let kind = match result {
                    vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
                        ErrorKind::OutOfMemory
                    }
                    vk::Result::ERROR_DEVICE_LOST => ErrorKind::DeviceLost,
                    _ => ErrorKind::InvalidArgument,
                };
                Error::new(kind, what).on(id).with_code(i64::from(result.as_raw())).with_remedy("copy it")
            }
        };
        let mut pointed = vk::MemoryHostPointerPropertiesEXT::default();
        let usage = vk::BufferUsageFlags::STORAGE_BUFFER
            | vk::BufferUsageFlags::TRANSFER_SRC
            | vk::BufferUsageFlags::TRANSFER_DST;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HOST);
        let info = vk::BufferCreateInfo::default().size(bytes as u64).usage(usage).push_next(&mut external);
        // SAFETY: the pages around the range are mapped, since the range is, and stay so while
        // `host` lives; the device has the extension.
        let buffer = unsafe {
            let ask = self.functions.fp().get_memory_host_pointer_properties_ext;
            ask(self.device.handle(), HOST, pointer.cast(), &mut pointed)
                .result()
                .map_err(refused("the driver does not take it"))?;
            self.device.create_buffer(&info, None).map_err(refused("no buffer"))?
        };
        // SAFETY: the buffer is this device's.
        let needs = unsafe { self.device.get_buffer_memory_requirements(buffer) };
        let fitting = needs.memory_type_bits & pointed.memory_type_bits;
        let backed = self.memory_type(fitting).ok_or(vk::Result::ERROR_FEATURE_NOT_PRESENT).and_then(|memory_type| {
            let mut source =
                vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HOST).host_pointer(pointer.cast());
            let allocation = vk::MemoryAllocateInfo::default()
                .allocation_size(bytes as u64)
                .memory_type_index(memory_type)
                .push_next(&mut source);
            // SAFETY: address and size are multiples of the granularity, the memory is mapped, and
            // its type is one that the driver named for it.
            // Where binding fails, nothing uses the memory.
            unsafe {
                let memory = self.device.allocate_memory(&allocation, None)?;
                match self.device.bind_buffer_memory(buffer, memory, 0) {
                    Ok(()) => Ok(memory),
                    Err(error) => {
                        self.device.free_memory(memory, None);
                        Err(error)
                    }
                }
            }
        });
        let memory = backed.map_err(|error| {
            // SAFETY: nothing uses the buffer yet.
            unsafe { self.device.destroy_buffer(buffer, None) };
            refused("its pages cannot be mapped")(error)
        })?;
        let (device, owner) = (self.device.clone(), host.clone());
        let release = move || {
            // SAFETY: wgpu calls this once, when no work under way uses the buffer, and before it
            // destroys the device.
            // The pages outlive the buffer, because they are released only afterwards.
            unsafe {
                device.destroy_buffer(buffer, None);
                device.free_memory(memory, None);
            }
            drop(owner);
        };
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            // The buffer is not mappable: wgpu does not map memory that it has not allocated, and
            // the host has the pages anyhow.
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let made = gpu.checked("importing host memory", || {
            // SAFETY: the buffer is this device's, of the descriptor's size and usages, its content
            // is the host's, and it is not empty.
            unsafe {
                let raw = wgpu::hal::vulkan::Buffer::from_raw_externally_owned(buffer, Box::new(release));
                gpu.device.create_buffer_from_hal::<Api>(raw, &descriptor)
            }
        });
        Ok((made?, address - first))
    }

    /// Returns the best of some memory types: one in which host and device see each other's writes,
    /// if possible through the host's caches.
    fn memory_type(&self, allowed: u32) -> Option<u32> {
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let types = (0u32..).zip(self.memories.memory_types_as_slice());
        let fits = types.filter(|(index, ty)| allowed & (1 << index) != 0 && ty.property_flags.contains(wanted));
        let cached =
            |(_, ty): &(u32, &vk::MemoryType)| ty.property_flags.contains(vk::MemoryPropertyFlags::HOST_CACHED);
        fits.max_by_key(cached).map(|(index, _)| index)
    }
}

/// Tells whether there is no loader that could find Vulkan drivers.
pub(crate) fn loader_is_missing() -> bool {
    // SAFETY: loading the system's Vulkan loader runs its initialisation, which is what every user
    // of Vulkan relies on.
    cfg!(not(windows)) && unsafe { ash::Entry::load() }.is_err()
}

/// Returns the size of the device's own memory in bytes, where Vulkan tells it.
pub(crate) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: nothing that the guard gives access to is destroyed here.
    let hal = unsafe { adapter.as_hal::<Api>() }?;
    // SAFETY: the physical device is the instance's.
    let memories = unsafe {
        hal.shared_instance().raw_instance().get_physical_device_memory_properties(hal.raw_physical_device())
    };
    let own = |heap: &&vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    Some(memories.memory_heaps_as_slice().iter().filter(own).map(|heap| heap.size).sum())
}
