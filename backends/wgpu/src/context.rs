//! The state that memory, executables and queues of a device share.

use std::sync::Arc;

use hetero_kernels::Target;
use hetero_kit::Budget;

use crate::gpu::Gpu;
use crate::pipelines::Pipelines;
use crate::vulkan::Importer;

/// The state that memory, executables and queues of a device share.
pub(crate) struct Context {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) target: Target,
    /// The alignment of bindings' first bytes.
    pub(crate) alignment: usize,
    /// Whether the host maps buffers.
    pub(crate) mapped: bool,
    pub(crate) budget: Budget,
    pub(crate) importer: Option<Importer>,
    pub(crate) pipelines: Pipelines,
}
