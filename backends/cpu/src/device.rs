//! The driver and its device.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hetero_hal::{
    Buffer, BufferLayout, Capabilities, Claim, CompileOptions, DType, Device, DeviceId, DeviceInfo, DeviceKind, Driver,
    Edge, Error, ErrorKind, Executable, ExternalMemory, HandleKind, HostMemory, HostSemantics, NodeId, OpenOptions,
    Program, Quality, Queue, QueueOptions, Result, Source, Telemetry, Unavailable,
};
use hetero_kit::{Budget, unknown_option};

use crate::executable::{CpuExecutable, DeviceWeights};
use crate::host;
use crate::kernels;
use crate::memory::CpuMemory;
use crate::pool::Pool;
use crate::queue::{CAPACITY, CpuBackend, CpuQueue};
use crate::simd::Isa;

/// The driver of the host's processor, which is always available.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuDriver;

impl Driver for CpuDriver {
    fn name(&self) -> &str {
        "cpu"
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        Ok(vec![info()])
    }

    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let mut info = info();
        if ordinal != 0 {
            return Err(Error::invalid_argument(format!("there is no cpu:{ordinal}"))
                .with_remedy("all cores together are cpu:0"));
        }
        let (mut isa, mut filters) = (Isa::widest(), true);
        for (key, value) in &options.extra {
            match (&**key, &**value, Isa::named(value)) {
                ("isa", _, Some(named)) => isa = named,
                ("convolution", "direct", _) => filters = false,
                ("convolution", "fastest", _) => filters = true,
                _ => {
                    let present: Vec<String> = Isa::available().map(|isa| isa.to_string()).collect();
                    let known = "the cpu driver takes `threads`, `memory_limit`, `convolution` (`fastest` or `direct`), and `isa`";
                    return Err(unknown_option(
                        &info.id,
                        key,
                        value,
                        format!("{known}, one of: {}", present.join(", ")),
                    ));
                }
            }
        }
        // Other kernels take other times and keep weights in other forms: profiles and caches of
        // programs tell them apart by the version.
        if isa != Isa::widest() {
            info.driver_version.push_str(&format!(" isa={isa}"));
        }
        if !filters {
            info.driver_version.push_str(" convolution=direct");
        }
        let threads = options.threads.unwrap_or_else(cores);
        if threads == 0 || threads > 4096 {
            return Err(Error::invalid_argument(format!("{threads} threads")).on(info.id));
        }
        let count = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        let pool = Pool::new(count).map_err(|error| {
            Error::new(ErrorKind::OutOfMemory, "cannot start threads").on(info.id.clone()).caused_by(error)
        })?;
        let limit = options.memory_limit.or(info.memory_bytes).unwrap_or(u64::MAX);
        let shared = Shared::new(info.id.clone(), Arc::new(pool), limit, (isa, filters));
        let (capabilities, busy) = (capabilities(), Arc::new(AtomicU64::new(0)));
        Ok(Arc::new(CpuDevice { capabilities, busy, shared: Arc::new(shared), info }))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn capabilities() -> Capabilities {
    let dtypes = DType::all().filter(|&dtype| kernels::computes(dtype)).collect();
    let mut capabilities = Capabilities::new(dtypes);
    capabilities.imports = vec![HandleKind::Host];
    // The alignment is that of the widest element type; imported tensors seldom have more.
    capabilities.alignment = 16;
    capabilities.extents = true;
    capabilities
}

fn info() -> DeviceInfo {
    let name = host::described("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let mut info = DeviceInfo::new(DeviceId::new("cpu", 0), DeviceKind::Cpu, name).hosted();
    info.vendor = host::described("/proc/cpuinfo", "vendor_id").unwrap_or_else(|| "unknown".to_owned());
    info.driver_version = env!("CARGO_PKG_VERSION").to_owned();
    info.memory_bytes = host::memory();
    // The first guess, until the device is measured, is 3 GHz times two FMA units of eight lanes.
    info.peak_flops = Some(cores() as f64 * 3e9 * 32.0);
    info.peak_bandwidth = Some(20e9);
    info
}

/// What the device and its executables share.
pub(crate) struct Shared {
    pub(crate) id: DeviceId,
    pub(crate) budget: Arc<Budget>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) weights: DeviceWeights,
    /// The instruction set that kernels are made for.
    pub(crate) isa: Isa,
    /// Whether convolutions may be done by minimal filtering, which is faster and rounds
    /// differently.
    pub(crate) filters: bool,
}

impl Shared {
    pub(crate) fn new(id: DeviceId, pool: Arc<Pool>, limit: u64, (isa, filters): (Isa, bool)) -> Shared {
        let (budget, weights) = (Arc::new(Budget::new(limit)), DeviceWeights::new(&id));
        Shared { id, budget, pool, weights, isa, filters }
    }
}

struct CpuDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    /// The time of work done, in nanoseconds.
    busy: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl CpuDevice {
    fn host(&self, memory: ExternalMemory) -> Result<HostMemory> {
        match memory {
            ExternalMemory::Host(host) => Ok(host),
            other => Err(Error::unsupported(format!("import of {other:?}")).on(self.info.id.clone())),
        }
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn claims(&self, program: &Program) -> Vec<Claim> {
        let (mut native, mut slow) = (Vec::new(), BTreeMap::<&str, Vec<NodeId>>::new());
        for (id, node) in program.node_ids() {
            match kernels::support(program, node, self.shared.isa) {
                Some(kernels::Support::Native) => native.push(id),
                Some(kernels::Support::Oracle(reason)) => slow.entry(reason).or_default().push(id),
                None => {}
            }
        }
        let native = (!native.is_empty()).then_some(Claim { nodes: native, quality: Quality::Native });
        let slow = slow.into_iter().map(|(reason, nodes)| Claim { nodes, quality: Quality::Slow(reason.to_owned()) });
        native.into_iter().chain(slow).collect()
    }

    fn allocate(&self, layout: BufferLayout) -> Result<Buffer> {
        const PAGE: usize = 4096;
        if layout.alignment > PAGE || (layout.alignment > 0 && !layout.alignment.is_power_of_two()) {
            return Err(Error::invalid_argument(format!("cannot align to {} bytes", layout.alignment))
                .on(self.info.id.clone())
                .with_remedy("ask for a power of two up to 4096"));
        }
        CpuMemory::allocate(&self.info.id, layout.bytes, &self.shared.budget)
    }

    fn import(&self, memory: ExternalMemory, semantics: HostSemantics) -> Result<Buffer> {
        let host = self.host(memory)?;
        match semantics {
            HostSemantics::Immutable => Ok(CpuMemory::import(&self.info.id, host)),
            HostSemantics::Shared if host.as_mut_ptr().is_some() => Ok(CpuMemory::import(&self.info.id, host)),
            HostSemantics::Shared => {
                Err(Error::invalid_argument("constant memory cannot be shared for writing").on(self.info.id.clone()))
            }
            _ => {
                let source = CpuMemory::import(&self.info.id, host);
                let target = CpuMemory::allocate(&self.info.id, source.len(), &self.shared.budget)?;
                hetero_kit::copy_through_host(&source, &target)?;
                Ok(target)
            }
        }
    }

    fn reimport(&self, memory: ExternalMemory, former: Buffer) -> Result<Buffer> {
        Ok(CpuMemory::reimport(&self.info.id, self.host(memory)?, former))
    }

    fn queue(&self, options: &QueueOptions) -> Result<Arc<dyn Queue>> {
        let backend = CpuBackend { device: self.info.id.clone(), busy: self.busy.clone() };
        Ok(Arc::new(CpuQueue::new(backend, options, CAPACITY)))
    }

    fn compile(&self, source: Source<'_>, options: &CompileOptions) -> Result<Arc<dyn Executable>> {
        match source {
            Source::Program(program) => {
                let executable = CpuExecutable::compile(program, options, &self.shared);
                Ok(Arc::new(executable.map_err(|error| error.on(self.info.id.clone()))?))
            }
            _ => Err(Error::unsupported("raw kernels").on(self.info.id.clone())),
        }
    }

    fn edge_to(&self, peer: &DeviceInfo) -> Edge {
        if peer.id == self.info.id {
            return Edge::own(self.info.peak_bandwidth);
        }
        Edge::default()
    }

    fn telemetry(&self) -> Telemetry {
        let mut telemetry = Telemetry::default();
        telemetry.allocated_bytes = Some(self.shared.budget.used());
        telemetry.busy = Some(Duration::from_nanos(self.busy.load(Ordering::Relaxed)));
        telemetry
    }
}
