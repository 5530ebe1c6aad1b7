//! Transports: ways to bring bytes from one device's buffer to another's.

use std::fmt;
use std::sync::Arc;

use hetero_hal::{Buffer, Device, DeviceId, Point, Result};

use crate::host::host_id;

/// The place where bytes come from or go to.
#[derive(Clone)]
#[non_exhaustive]
pub enum Endpoint {
    /// The program itself: memory that no device owns.
    Host,
    /// A device of this process.
    Device(Arc<dyn Device>),
}

impl Endpoint {
    /// Returns the endpoint's name: the device's, or `host:0`.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        match self {
            Endpoint::Host => host_id(),
            Endpoint::Device(device) => device.info().id.clone(),
        }
    }

    /// Returns the device, where the endpoint is one.
    #[must_use]
    pub fn device(&self) -> Option<&Arc<dyn Device>> {
        match self {
            Endpoint::Host => None,
            Endpoint::Device(device) => Some(device),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.id())
    }
}

/// The reason why a transport does not serve a pair of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inapplicable {
    /// Nothing has to be moved.
    #[error("both ends are {0}")]
    SameEnd(DeviceId),
    /// A device cannot use host memory in place.
    #[error("{0} does not import host memory")]
    NoImport(DeviceId),
    /// Neither device copies from or to the other's memory.
    #[error("neither {from} nor {to} reaches the other's memory")]
    NoPeerAccess {
        /// The sender.
        from: DeviceId,
        /// The receiver.
        to: DeviceId,
    },
    /// The host has no queue that could copy.
    #[error("the transport works between devices, and one end is the host")]
    Host,
    /// The endpoint is of a kind that the transport does not know.
    #[error("the transport does not serve {0}")]
    Endpoint(DeviceId),
}

/// A way to bring bytes from one endpoint to another.
/// Transports are registered like drivers, and all methods may be called from any thread.
///
/// A transport across processes or machines serves endpoints that only it understands: a rank's
/// device is a [`Device`] of a driver of its own, or a further variant of [`Endpoint`].
/// Its channel is half of one: [`Channel::source`] or [`Channel::target`] is then the window
/// through which the other side's memory is written.
/// Three such transports are known to come, and fit as follows:
///
/// - **Shared memory between processes**: `connect` makes a memfd of sealed size, hands its
///   descriptor over a socket, and imports the mapping on either side, as
///   [`ZeroCopy`](crate::ZeroCopy) does inside one process.
///   `transfer` passes on a point, by a counter in the same pages.
/// - **UCX**: `connect` registers the source's memory and exchanges remote keys.
///   `transfer` waits for `after` with [`Timeline::on_reach`](hetero_hal::Timeline::on_reach), puts
///   the bytes without blocking, and signals `done` where UCX calls back.
/// - **MPI**: as with UCX, but with persistent requests that `connect` makes, and a thread that
///   makes progress.
pub trait Transport: Send + Sync {
    /// Returns a short name, as it stands in profiles and reports: `zero-copy`, `staged`.
    fn name(&self) -> &str;

    /// Tells whether the transport serves this pair.
    /// The call is cheap: nothing is allocated.
    ///
    /// # Errors
    /// The reason why it does not.
    fn applies(&self, from: &Endpoint, to: &Endpoint) -> Result<(), Inapplicable>;

    /// Prepares to move `bytes` bytes, again and again: allocates, imports, registers.
    ///
    /// # Errors
    /// `InvalidArgument` where the transport does not serve the pair.
    /// Otherwise the errors of the devices.
    fn connect(&self, from: &Endpoint, to: &Endpoint, bytes: usize) -> Result<Box<dyn Channel>>;
}

/// A prepared way for a fixed number of bytes.
pub trait Channel: Send + Sync {
    /// Returns the buffer that the sender writes: its own memory, or memory that it has imported.
    fn source(&self) -> &Buffer;

    /// Returns the buffer that the receiver reads.
    fn target(&self) -> &Buffer;

    /// Returns the bytes that each [`Channel::transfer`] copies; 0 where both ends are the same
    /// memory.
    fn copied_bytes(&self) -> usize;

    /// Once `after` is reached, brings the bytes over, then reaches `done`; does not block.
    /// Where the transfer fails, or `after` does, fails the timeline of `done`.
    /// The caller orders transfers of one channel by their points.
    ///
    /// # Errors
    /// An error where the transfer could not be begun; `done` then stays as it is.
    fn transfer(&self, after: &Point, done: &Point) -> Result<()>;
}

/// Returns the transports that there are now, as a rule the cheapest first:
/// [`ZeroCopy`](crate::ZeroCopy), [`PeerCopy`](crate::PeerCopy), [`Staged`](crate::Staged).
#[must_use]
pub fn standard_transports() -> Vec<Arc<dyn Transport>> {
    vec![Arc::new(crate::ZeroCopy), Arc::new(crate::PeerCopy), Arc::new(crate::Staged)]
}
