//! A device of the OpenCL backend.

use std::sync::Arc;

use cl3::types::cl_device_info;
use hetero_hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceId, DeviceInfo, Edge, Error,
    Executable, ExternalMemory, HandleKind, HostMemory, HostSemantics, KernelFormat, NodeId, OpenOptions, Program,
    Queue, QueueOptions, Reach, Result, Source, SyncMode, Telemetry, Timeline,
};
use hetero_kernels::{Dialect, Target};
use hetero_kit::{Budget, Busy, Weights, unknown_option};

use crate::executable::OpenClExecutable;
use crate::handle::CommandQueue;
use crate::memory::OpenClMemory;
use crate::platform::Found;
use crate::program::{self, Library};
use crate::queue::{CAPACITY, OpenClBackend, OpenClQueue};
use crate::shared::Shared;
use crate::timeline::OpenClTimeline;

/// The options that the driver takes.
const KNOWN: &str = "the driver takes `memory_limit`; `cache`, a folder for binaries or `off`; `tiles`, `on` or `off`; \
     `wait`, `finish` or `events`";

pub(crate) struct OpenClDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    target: Target,
    shared: Arc<Shared>,
    /// The devices that share its context.
    siblings: Vec<DeviceId>,
}

impl OpenClDevice {
    pub(crate) fn open(found: Found, options: &OpenOptions) -> Result<Self> {
        let Found { handle, info, mut quirks, platform, .. } = found;
        let failed = |error: Error| error.on(info.id.clone());
        let mut folder = program::folder();
        // Where local memory is a part of global memory, work items are lanes of a processor's
        // vectors.
        let local = cl3::device::get_device_info(handle.0, cl3::device::CL_DEVICE_LOCAL_MEM_TYPE).map(u32::from);
        let mut tiles = local == Ok(cl3::device::CL_LOCAL);
        for (key, value) in &options.extra {
            match (&**key, &**value) {
                ("cache", "off") => folder = None,
                ("tiles", "on") => tiles = true,
                ("tiles", "off") => tiles = false,
                ("wait", "finish") => quirks.finishes = true,
                ("wait", "events") => quirks.finishes = false,
                ("cache", path) => folder = Some(path.into()),
                _ => {
                    return Err(unknown_option(&info.id, key, value, KNOWN));
                }
            }
        }
        let number = |what: cl_device_info| cl3::device::get_device_info(handle.0, what).ok().map(u64::from);
        let size = |what: cl_device_info| cl3::device::get_device_info(handle.0, what).ok().map(usize::from);
        let bits = cl3::device::get_device_info(handle.0, cl3::device::CL_DEVICE_MEM_BASE_ADDR_ALIGN).map(u32::from);
        let alignment = (bits.unwrap_or(1024) as usize / 8).next_power_of_two().max(128);
        let largest = number(cl3::device::CL_DEVICE_MAX_MEM_ALLOC_SIZE).unwrap_or(u64::MAX);
        let target = Target {
            half: true,
            long: true,
            tiles,
            items: size(cl3::device::CL_DEVICE_MAX_WORK_GROUP_SIZE).unwrap_or(1).min(1 << 16) as u32,
            local_bytes: number(cl3::device::CL_DEVICE_LOCAL_MEM_SIZE).unwrap_or(0).min(1 << 20) as u32,
            groups: 1 << 24,
            argument_bytes: size(cl3::device::CL_DEVICE_MAX_PARAMETER_SIZE).unwrap_or(1024).min(1 << 16) as u32,
            alignment,
            ..Target::new(Dialect::OpenClC)
        };
        let (context, siblings) = platform.context(handle).map_err(failed)?;
        let transfers = CommandQueue::new(&context, handle, false).map_err(failed)?;
        let maker = format!("{} {} {}", info.vendor, info.name, info.driver_version);
        let limit = options.memory_limit.or(info.memory_bytes).unwrap_or(u64::MAX);
        let shared = Arc::new(Shared {
            id: info.id.clone(),
            library: Library::new(handle, maker, quirks.options, folder),
            budget: Budget::new(limit),
            weights: Weights::new(info.id.clone()),
            busy: Busy::new(),
            transfers,
            context,
            handle,
            quirks,
            largest,
        });
        // The device may share whole pages only, or any whole words.
        let pages = shares_host_memory(&shared, 0..PAGE).map_err(failed)?;
        let words = pages && shares_host_memory(&shared, 4..104).map_err(failed)?;
        let dtypes = DType::all().filter(|&dtype| hetero_kernels::computes(dtype, &target)).collect();
        let mut capabilities = Capabilities::new(dtypes);
        capabilities.imports = if pages { vec![HandleKind::Host] } else { vec![] };
        capabilities.import_alignment = if words { 4 } else { PAGE };
        capabilities.alignment = alignment;
        capabilities.max_allocation = Some(largest);
        capabilities.kernels = vec![KernelFormat::OpenClC];
        Ok(OpenClDevice { info, capabilities, target, shared, siblings })
    }
}

impl OpenClDevice {
    /// Tells whether the driver was seen to use such a range in place.
    /// It may accept other ranges, and then work on a copy.
    fn maps(&self, host: &HostMemory) -> bool {
        let multiple = self.capabilities.import_alignment.max(1);
        (host.as_ptr() as usize).is_multiple_of(multiple) && host.len().is_multiple_of(multiple)
    }
}

/// The bytes of a page of host memory.
const PAGE: usize = 4096;

/// Tells whether the device works on a range of a page in place, without a map or unmap around it.
/// The standard lets a driver copy, so this observes what the driver does.
fn shares_host_memory(shared: &Arc<Shared>, range: std::ops::Range<usize>) -> Result<bool> {
    let bytes = range.len();
    let host = HostMemory::allocate(PAGE)?.slice(range)?;
    let Ok(buffer) = OpenClMemory::import(shared, host, false) else { return Ok(false) };
    let own = OpenClMemory::allocate(shared, bytes)?;
    let (Some(imported), Some(target)) = (buffer.memory::<OpenClMemory>(), own.memory::<OpenClMemory>()) else {
        return Ok(false);
    };
    // The host must see what the device writes, and the device what the host writes then.
    drop(shared.transfers.fill(imported.whole(), &[0xa5], 0, bytes, &[])?);
    shared.transfers.finish()?;
    let mut seen = vec![0; bytes];
    buffer.read(0, &mut seen)?;
    if seen.iter().any(|&byte| byte != 0xa5) {
        return Ok(false);
    }
    buffer.write(0, &vec![0x3c; bytes])?;
    drop(shared.transfers.copy((imported.whole(), 0), (target.whole(), 0), bytes, &[])?);
    shared.transfers.finish()?;
    own.read(0, &mut seen)?;
    Ok(seen.iter().all(|&byte| byte == 0x3c))
}

impl Device for OpenClDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        hetero_kernels::claims(program, &self.target)
    }

    fn refusal(&self, program: &Program, node: NodeId) -> Option<String> {
        hetero_kernels::refusal(program, node, &self.target)
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        if layout.alignment > 0 && !layout.alignment.is_power_of_two() {
            return Err(Error::invalid_argument(format!("cannot align to {} bytes", layout.alignment))
                .on(self.info.id.clone())
                .with_remedy("ask for a power of two"));
        }
        OpenClMemory::allocate(&self.shared, layout.bytes)
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        let host = match memory {
            ExternalMemory::Host(host) => host,
            other => return Err(Error::unsupported(format!("import of {other:?}")).on(self.info.id.clone())),
        };
        let here = self.capabilities.imports.contains(&HandleKind::Host);
        match semantics {
            HostSemantics::Immutable | HostSemantics::Shared if !here => {
                Err(Error::unsupported("host memory in place: this driver copies it").on(self.info.id.clone()))
            }
            HostSemantics::Immutable | HostSemantics::Shared if !self.maps(&host) => {
                let multiple = self.capabilities.import_alignment;
                let what = format!(
                    "{host:?} cannot be used in place: its address and length have to be multiples of {multiple}"
                );
                Err(Error::invalid_argument(what)
                    .on(self.info.id.clone())
                    .with_remedy("import whole pages and bind parts of them, or copy"))
            }
            HostSemantics::Immutable => OpenClMemory::import(&self.shared, host, true),
            HostSemantics::Shared if host.as_mut_ptr().is_some() => OpenClMemory::import(&self.shared, host, false),
            HostSemantics::Shared => {
                Err(Error::invalid_argument("constant memory cannot be shared for writing").on(self.info.id.clone()))
            }
            _ => {
                let target = OpenClMemory::allocate(&self.shared, host.len())?;
                if let Some(own) = target.memory::<OpenClMemory>()
                    && !host.is_empty()
                {
                    // SAFETY: `host` keeps the bytes alive during the call, and whoever gave it
                    // lets nobody write them.
                    let bytes = unsafe { std::slice::from_raw_parts(host.as_ptr(), host.len()) };
                    let written = self.shared.transfers.write(own.whole(), 0, bytes);
                    written.map_err(|error| error.on(self.info.id.clone()))?;
                }
                Ok(target)
            }
        }
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(OpenClQueue::new(OpenClBackend::new(self.shared.clone(), options)?, options, CAPACITY)))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        let made = match source {
            Source::Program(program) => OpenClExecutable::program(&self.shared, program, &self.target, options),
            Source::Kernel { format: KernelFormat::OpenClC, code, signature } => {
                OpenClExecutable::kernel(&self.shared, code, signature, options)
            }
            Source::Kernel { format, .. } => Err(Error::unsupported(format!("kernels as {format:?}"))),
            _ => Err(Error::unsupported("this kind of source")),
        };
        Ok(Arc::new(made.map_err(|error| error.on(self.info.id.clone()))?))
    }

    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        if peer.id == self.info.id {
            return Edge::own(self.info.peak_bandwidth);
        }
        if self.siblings.contains(&peer.id) {
            let (reach, sync) = (Reach::Copy, SyncMode::Native);
            return Edge { read: reach, write: reach, wait: sync, signal: sync, ..Edge::default() };
        }
        Edge::default()
    }

    fn timeline(&self, initial: u64) -> Result<Timeline> {
        Ok(OpenClTimeline::make(initial, &self.shared.context))
    }

    fn telemetry(&self) -> Telemetry {
        let mut telemetry = Telemetry::default();
        telemetry.allocated_bytes = Some(self.shared.budget.used());
        telemetry.busy = Some(self.shared.busy.spent());
        telemetry
    }
}
