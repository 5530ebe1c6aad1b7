//! The state that a device's memory, executables and queues share.

use std::sync::Arc;

use hetero_hal::{Buffer, DeviceId};
use hetero_kit::{Budget, Busy, Weights};

use crate::handle::{CommandQueue, Context, DeviceHandle};
use crate::program::Library;
use crate::quirks::Quirks;

/// The state that the device's objects share.
pub(crate) struct Shared {
    pub(crate) id: DeviceId,
    /// The queue for the host's reads and writes.
    pub(crate) transfers: CommandQueue,
    pub(crate) context: Arc<Context>,
    pub(crate) handle: DeviceHandle,
    pub(crate) budget: Budget,
    pub(crate) library: Library,
    /// The constants in the device's memory.
    pub(crate) weights: Weights<Buffer>,
    pub(crate) quirks: Quirks,
    /// The size of the largest allocation in bytes.
    pub(crate) largest: u64,
    pub(crate) busy: Busy,
}
