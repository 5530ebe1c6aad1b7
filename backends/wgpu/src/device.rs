//! The device of the wgpu backend.

use std::sync::Arc;
use std::time::Instant;

use hetero_hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceInfo, DeviceKind, Edge, Error,
    Executable, ExternalMemory, HandleKind, HostMemory, HostSemantics, KernelFormat, Memory, MemoryKind, NodeId,
    Program, Queue, QueueOptions, Result, Source, Telemetry,
};
use hetero_kernels::{Dialect, Target};
use hetero_kit::{Budget, Weights};

use crate::completion::Waiting;
use crate::context::Context;
use crate::executable::{Uploaded, WgpuExecutable};
use crate::gpu::{Gpu, PATIENCE};
use crate::memory::WgpuMemory;
use crate::pipelines::Pipelines;
use crate::queue::{CAPACITY, WgpuBackend, WgpuQueue};
use crate::vulkan::Importer;

/// The options that the caller chose.
pub(crate) struct Settings {
    /// Whether buffers are mapped for reading and writing.
    pub(crate) mapped: bool,
    /// The largest number of bytes that are bound as one buffer.
    pub(crate) binding_bytes: u64,
}

impl Settings {
    /// Sets an option.
    ///
    /// # Errors
    /// `InvalidArgument` where the driver knows no such option or value.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match (key, value, value.parse::<u64>()) {
            ("memory", "mapped", _) => self.mapped = true,
            ("memory", "staged", _) => self.mapped = false,
            ("binding_bytes", _, Ok(bytes)) if bytes >= 256 && bytes.is_multiple_of(256) => self.binding_bytes = bytes,
            _ => {
                return Err(Error::invalid_argument(format!("the option '{key}={value}' is unknown")).with_remedy(
                    "the wgpu driver takes `memory_limit`, `memory` (`mapped` or `staged`) and `binding_bytes` (a multiple of 256)",
                ));
            }
        }
        Ok(())
    }
}

/// A device of an opened adapter.
pub(crate) struct WgpuDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    /// The constants in the device's memory.
    weights: Weights<Uploaded>,
    waiting: Arc<Waiting>,
    context: Arc<Context>,
}

impl WgpuDevice {
    pub(crate) fn new(
        info: DeviceInfo,
        gpu: Gpu,
        importer: Option<Importer>,
        budget: Budget,
        settings: &Settings,
    ) -> Self {
        let (limits, features) = (gpu.device.limits(), gpu.device.features());
        let alignment = limits.min_storage_buffer_offset_alignment as usize;
        let binding = limits.max_storage_buffer_binding_size.min(settings.binding_bytes).min(limits.max_buffer_size);
        let target = Target {
            dialect: Dialect::Wgsl,
            half: features.contains(wgpu::Features::SHADER_F16),
            long: features.contains(wgpu::Features::SHADER_INT64),
            // A software rasteriser's work items are lanes of the processor's vectors.
            tiles: info.kind != DeviceKind::Cpu,
            items: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            local_bytes: limits.max_compute_workgroup_storage_size,
            groups: limits.max_compute_workgroups_per_dimension,
            // The numbers take one binding more.
            buffers: limits.max_storage_buffers_per_shader_stage.min(limits.max_bindings_per_bind_group - 1),
            argument_bytes: limits.max_uniform_buffer_binding_size.min(1 << 20) as u32,
            binding_bytes: binding / 256 * 256,
            alignment,
        };
        let dtypes = DType::all().filter(|&dtype| hetero_kernels::computes(dtype, &target)).collect();
        let mut capabilities = Capabilities::new(dtypes);
        // The import takes the whole pages around a range.
        capabilities.imports = importer.iter().map(|_| HandleKind::Host).collect();
        capabilities.alignment = alignment;
        capabilities.max_allocation = Some(limits.max_buffer_size);
        capabilities.kernels = vec![KernelFormat::Wgsl];
        let context = Context {
            gpu: Arc::new(gpu),
            target,
            alignment,
            mapped: settings.mapped,
            budget,
            importer,
            pipelines: Pipelines::default(),
        };
        let mut device = WgpuDevice {
            weights: Weights::new(info.id.clone()),
            waiting: Waiting::new(&context.gpu),
            info,
            capabilities,
            context: Arc::new(context),
        };
        if !device.imports_are_seen().unwrap_or(false) {
            device.capabilities.imports.clear();
        }
        device
    }

    /// Tells whether the device sees what the host writes into imported pages, and the host what
    /// the device writes.
    /// Vulkan leaves this to barriers that wgpu may not record.
    fn imports_are_seen(&self) -> Result<bool> {
        const BYTES: usize = 4096;
        let context = &self.context;
        let own = WgpuMemory::allocate(context, BYTES)?;
        let shared = WgpuMemory::import(context, HostMemory::allocate(BYTES)?)?;
        let shared = context.memory(&shared)?;
        let mut seen = [0; BYTES];
        own.write(0, &[0xa5; BYTES])?;
        let index = context.start_copy((&own, 0), (shared, 0), BYTES)?;
        context.gpu.wait(&index, Instant::now() + PATIENCE)?;
        shared.read(0, &mut seen)?;
        if seen != [0xa5; BYTES] {
            return Ok(false);
        }
        shared.write(0, &[0x3c; BYTES])?;
        let index = context.start_copy((shared, 0), (&own, 0), BYTES)?;
        context.gpu.wait(&index, Instant::now() + PATIENCE)?;
        own.read(0, &mut seen)?;
        Ok(seen == [0x3c; BYTES])
    }

    fn kind(&self) -> MemoryKind {
        if self.context.mapped { MemoryKind::Shared } else { MemoryKind::Device }
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        hetero_kernels::claims(program, &self.context.target)
    }

    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        hetero_kernels::refusal(program, node, &self.context.target)
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        const PAGE: usize = 4096;
        if layout.alignment > PAGE || (layout.alignment > 0 && !layout.alignment.is_power_of_two()) {
            return Err(Error::invalid_argument(format!("cannot align to {} bytes", layout.alignment))
                .on(self.info.id.clone())
                .with_remedy("ask for a power of two up to 4096"));
        }
        Ok(WgpuMemory::allocate(&self.context, layout.bytes)?.into_buffer(self.kind()))
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        let host = match memory {
            ExternalMemory::Host(host) => host,
            other => return Err(Error::unsupported(format!("import of {other:?}")).on(self.info.id.clone())),
        };
        match semantics {
            HostSemantics::Shared if host.as_mut_ptr().is_none() => {
                Err(Error::invalid_argument("constant memory cannot be shared for writing").on(self.info.id.clone()))
            }
            HostSemantics::Immutable | HostSemantics::Shared => WgpuMemory::import(&self.context, host),
            _ => Ok(WgpuMemory::copy_of(&self.context, &host)?.into_buffer(self.kind())),
        }
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        self.context.gpu.alive()?;
        Ok(Arc::new(WgpuQueue::new(WgpuBackend::new(&self.context, &self.waiting), options, CAPACITY)))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        let executable = match source {
            Source::Program(program) => WgpuExecutable::compile(&self.context, &self.weights, program, options),
            Source::Kernel { format: KernelFormat::Wgsl, code, signature } => {
                WgpuExecutable::kernel(&self.context, code, signature)
            }
            Source::Kernel { format, .. } => Err(Error::unsupported(format!("kernels as {format:?}"))),
            _ => Err(Error::unsupported("such a source")),
        };
        Ok(Arc::new(executable.map_err(|error| error.on(self.info.id.clone()))?))
    }

    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        if peer.id == self.info.id {
            return Edge::own(self.info.peak_bandwidth);
        }
        Edge::default()
    }

    fn telemetry(&self) -> Telemetry {
        let mut telemetry = Telemetry::default();
        telemetry.allocated_bytes = Some(self.context.budget.used());
        telemetry.busy = Some(self.context.gpu.busy());
        telemetry
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hetero_hal::{DeviceKind, ErrorKind, HostTask, Timeline, Work};

    use super::*;
    use crate::gpu::now;

    #[test]
    fn a_lost_device_fails_what_is_submitted_and_what_waits() {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::PRIMARY,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = now(instance.enumerate_adapters(wgpu::Backends::PRIMARY)).unwrap_or_default();
        let Some(adapter) = adapters.first() else {
            assert!(std::env::var_os("HETERO_REQUIRE_DRIVERS").is_none_or(|value| value != "1"), "no adapter");
            println!("skipped: there is no adapter");
            return;
        };
        let descriptor = wgpu::DeviceDescriptor::default();
        let (device, queue) = now(adapter.request_device(&descriptor)).unwrap().unwrap();
        let id = hetero_hal::DeviceId::new("wgpu", 0);
        let info = DeviceInfo::new(id.clone(), DeviceKind::Gpu, "");
        let budget = Budget::new(u64::MAX);
        let settings = Settings { mapped: false, binding_bytes: u64::MAX };
        let device = WgpuDevice::new(info, Gpu::new(id, device, queue), None, budget, &settings);
        let buffer = device.allocate(BufferLayout::new(64)).unwrap();
        let queue = device.queue(&QueueOptions::default()).unwrap();
        let gate = Timeline::new(0);
        let line = Timeline::new(0);
        let fill = Work::fill(buffer.clone(), [1u8]);
        queue.submit(&[gate.at(1)], fill.clone(), &[line.at(1)]).unwrap();
        device.context.gpu.device.destroy();
        let _ = device.context.gpu.device.poll(wgpu::PollType::Poll);
        gate.advance(1);
        let deadline = Instant::now() + Duration::from_secs(60);
        let lost = |error: Error| (error.kind(), error.device().map(ToString::to_string));
        let expected = (ErrorKind::DeviceLost, Some("wgpu:0".to_owned()));
        assert_eq!(lost(line.wait(1, deadline).unwrap_err()), expected);
        assert_eq!(lost(queue.submit(&[], fill, &[]).unwrap_err()), expected);
        assert_eq!(lost(buffer.read(0, &mut [0]).unwrap_err()), expected);
        assert_eq!(lost(device.allocate(BufferLayout::new(4)).unwrap_err()), expected);
        let task: Arc<dyn HostTask> = Arc::new(|| Ok(()));
        assert_eq!(lost(queue.run(&[], Work::host(task), &[], deadline).unwrap_err()), expected);
    }
}
